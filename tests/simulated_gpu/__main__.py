"""Run a program with simulated GPUs: `python -m simulated_gpu SCRIPT ...` or `-m simulated_gpu -m MODULE ...`."""

import ctypes
import os
import runpy
import sys

if os.environ.get("SIMULATED_TRITON") == "0":
    sys.modules["triton"] = None  # type: ignore[assignment] # so that it seems not to be installed
os.environ["TRITON_INTERPRET"] = "1"  # before Triton, which the import of torch's compiler brings in
library = ctypes.CDLL(os.environ["SIMULATED_GPU_LIBRARY"])  # before torch, which looks once whether there is CUDA

from simulated_gpu import collectives, graphs, machine  # noqa: E402

machine.install(library)
graphs.install()
collectives.install()
program, *arguments = sys.argv[1:]
if program == "-m":
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
else:
    sys.argv = [program, *arguments]
    runpy.run_path(program, run_name="__main__")
