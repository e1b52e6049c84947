"""Importing this module, before torch, gives the process simulated GPUs."""

import ctypes
import os
import sys

if os.environ.get("SIMULATED_TRITON") == "0":
    sys.modules["triton"] = None  # type: ignore[assignment] # as if it was not installed
os.environ["TRITON_INTERPRET"] = "1"  # before Triton, which torch's compiler imports
_library = ctypes.CDLL(os.environ["SIMULATED_GPU_LIBRARY"])  # before torch, which looks for CUDA once

from simulated_gpu import collectives, graphs, machine  # noqa: E402

machine.install(_library)
graphs.install()
collectives.install()
