"""Run a program with simulated GPUs: `python -m simulated_gpu SCRIPT ...` or `-m simulated_gpu -m MODULE ...`."""

import runpy
import sys

import simulated_gpu.activate  # noqa: F401

program, *arguments = sys.argv[1:]
if program == "-m":
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
else:
    sys.argv = [program, *arguments]
    runpy.run_path(program, run_name="__main__")
