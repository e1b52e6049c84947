"""GPUs that are not there: "cuda" in a torch that was built for CPUs, with the computer's memory and the CPU's kernels.

`python -m simulated_gpu SCRIPT ...` (or `-m MODULE ...`) runs a program on a machine that seems to have as many GPUs as
the environment's SIMULATED_GPUS says; SIMULATED_GPU_LIBRARY is what `build` has made, and with SIMULATED_TRITON=0
Triton seems not to be installed. It shows what goes wrong before a GPU computes anything: a tensor on the wrong device,
memory of the computer where a GPU would read it, a kernel launched on another GPU than its tensors lie on, a graph that
needs the computer, a collective that NCCL would refuse. It cannot show what depends on time: streams and events do
nothing, since every operation is done when it is called.
"""

import importlib.util
import subprocess
from pathlib import Path


def build(compiler: str, library: Path) -> None:
    """Compile device.cpp for the installed torch.

    Raises:
        subprocess.CalledProcessError: The compiler finds a fault.
    """
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torch = Path(spec.origin).parent
    includes = [f"-I{torch / folder}" for folder in ("include", "include/torch/csrc/api/include")]
    libraries = [f"-L{torch / 'lib'}", f"-Wl,-rpath,{torch / 'lib'}", "-lc10", "-ltorch_cpu"]
    source = Path(__file__).with_name("device.cpp")
    command = [compiler, "-O1", "-std=c++20", "-shared", "-fPIC", str(source), *includes, *libraries]
    subprocess.run([*command, "-o", str(library)], check=True, capture_output=True, text=True)
