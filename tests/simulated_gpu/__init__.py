"""Simulated GPUs: the device "cuda" in a torch for CPUs, with the memory of the computer and the kernels of the CPU.

`python -m simulated_gpu SCRIPT ...` (or `-m MODULE ...`) runs a program on a machine with simulated GPUs. Environment
variables: SIMULATED_GPUS is their number; SIMULATED_GPU_LIBRARY is the library that `build` has compiled; with
SIMULATED_TRITON=0 Triton is not installed. The simulation finds errors that happen before a GPU computes anything: a
tensor on the wrong device, memory of the computer where a GPU would read it, a kernel launched on another GPU than that
of its tensors, a captured graph that needs the computer, a collective that NCCL would refuse. It cannot find errors of
timing: streams and events do nothing, since every operation is complete when its call returns.
"""

import importlib.util
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("device.cpp")


def build(compiler: str, library: Path) -> None:
    """Compile SOURCE for the installed torch.

    Raises:
        subprocess.CalledProcessError: The compiler reports an error.
    """
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torch = Path(spec.origin).parent
    includes = [f"-I{torch / folder}" for folder in ("include", "include/torch/csrc/api/include")]
    libraries = [f"-L{torch / 'lib'}", f"-Wl,-rpath,{torch / 'lib'}", "-lc10", "-ltorch_cpu"]
    command = [
        compiler,
        "-O0",
        "-DAT_PER_OPERATOR_HEADERS",
        "-std=c++20",
        "-shared",
        "-fPIC",
        str(SOURCE),
        *includes,
        *libraries,
    ]
    subprocess.run([*command, "-o", str(library)], check=True, capture_output=True, text=True)
