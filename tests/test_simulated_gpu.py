"""The tests for GPUs on simulated ones: where tensors are, what a graph captures, what NCCL would get."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from build_once import build_once
from simulated_gpu import SOURCE, build

TESTS = Path(__file__).parent
COMPILER = shutil.which("g++") or shutil.which("clang++")
GPU_TEST_FOLDERS = ("kernels", "models", "data", "training")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="torch's libraries are linked as on Linux"),
    pytest.mark.skipif(COMPILER is None, reason="no compiler for C++"),
]


@pytest.fixture(scope="module")
def library(request: pytest.FixtureRequest) -> Path:
    """The library with the simulated device, built anew where it or torch has changed."""
    assert COMPILER is not None
    compiler = COMPILER
    sources = (path.read_bytes() for path in (SOURCE, SOURCE.with_name("__init__.py")))
    parts = (*sources, torch.__version__.encode(), os.fsencode(torch.__file__), os.fsencode(compiler))
    name = f"simulated-gpu-{hashlib.sha256(b' '.join(parts)).hexdigest()[:16]}"
    return build_once(request, name, lambda folder: build(compiler, folder / "device.so"), in_cache=True) / "device.so"


def run(library: Path, *program: str, gpus: int, **variables: str) -> str:
    """Run a program on a machine with simulated GPUs; return its output.

    Args:
        library: The library with the simulated device.
        program: A script or "-m" and a module, and its arguments.
        gpus: The number of GPUs.
        variables: More environment variables.
    """
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"} | variables
    path = os.pathsep.join(map(str, (TESTS, TESTS.parent)))  # the environment can have the package of another clone
    environment |= {"SIMULATED_GPUS": str(gpus), "SIMULATED_GPU_LIBRARY": str(library), "PYTHONPATH": path}
    command = [sys.executable, "-m", "simulated_gpu", *program]
    done = subprocess.run(command, env=environment, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


MISTAKES = """
import torch, torch.distributed as dist
from torch.nn import functional as F
from alexnet.kernels.dropout import dropout
from alexnet.kernels.dropout_triton import dropout_kernel

def error_of(call):
    try:
        call()
    except Exception as error:
        return str(error).splitlines()[0]
    return "no error"

def capture(operation):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = operation()
    return graph, result

x, y = torch.ones(4, 4, device="cuda:0"), torch.ones(4, 4, device="cuda:1")
print(x.device, y.device, torch.cuda.device_count(), float((x @ x).sum()), F.relu(-x).device)
print(error_of(lambda: x @ y))
print(error_of(lambda: torch.mm(x, torch.ones(4, 4))))
print(error_of(lambda: torch.ones(2, device="cuda:2")))
print(error_of(lambda: capture(lambda: float(x.sum()))))
print(error_of(lambda: capture(lambda: x.cpu())))
print(error_of(lambda: capture(lambda: x + torch.ones(4).to("cuda"))))
graph, doubled = capture(lambda: (x.add_(1), 2 * x)[1])
print(float(x[0, 0]), end=" ")
graph.replay()
print(float(x[0, 0]), float(doubled[0, 0]))
key = torch.tensor([1], device="cuda:1")
print(error_of(lambda: dropout_kernel[(4, 1)](y, y, key, 0, 0, 0, 0, 4, 4, 1, SHIFT=0, QUADS=1)))
print(error_of(lambda: dropout(y, key, p=0.5)))
dist.init_process_group("cpu:gloo,cuda:nccl", store=dist.HashStore(), rank=0, world_size=1)
print(error_of(lambda: dist.all_reduce(y)))
print(error_of(lambda: dist.all_reduce(torch.ones(4, 4, device="cuda:0")[:, :2])))
print(error_of(lambda: dist.all_gather([x], torch.ones(4, 4))))
print(error_of(lambda: dist.all_reduce(x)), error_of(lambda: dist.all_reduce(torch.ones(3))))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def lines(request: pytest.FixtureRequest, library: Path) -> list[str]:
    """What the two scripts print, one after the other in one process with two GPUs."""
    folder = build_once(request, "scripts", lambda folder: run_scripts(library, folder))
    return (folder / "output.txt").read_text().splitlines()


def run_scripts(library: Path, folder: Path) -> None:
    """Write what the two scripts print."""
    (folder / "scripts.py").write_text(SECOND_GPU + MISTAKES)
    (folder / "output.txt").write_text(run(library, str(folder / "scripts.py"), gpus=2, LOCAL_RANK="0"))


def test_it_refuses_what_gpus_would(lines: list[str]) -> None:
    captures = [f"operation not permitted when stream is capturing: aten::{name}" for name in
                ("_local_scalar_dense", "_to_copy", "_to_copy")]  # fmt: skip
    assert lines[1:] == [
        "cuda:0 cuda:1 2 64.0 cuda:0",
        "aten::mm: tensors on cuda:0 and cuda:1",
        "aten::mm: a tensor on cpu among those on a GPU",
        "invalid device ordinal: cuda:2 of 2",
        *captures,
        "1.0 2.0 4.0",
        "a kernel is launched on cuda:0, one of its tensors is on cuda:1",
        "no error",
        "all_reduce: tensors on cuda:1, this process has cuda:0",
        "all_reduce: memory with gaps",
        "all_gather: tensors on ['cpu', 'cuda:0']",
        "no error no error",
    ]


SECOND_GPU = """
import torch
from conftest import small_net
from alexnet.kernels.augment import transform_batch
from alexnet.training.sgd import SGD
from alexnet.training.step import EAGER_STEPS, Step
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe

device = torch.device("cuda:1")
net = AlexNet(3, small_net()).to_channels_last(device).train()
step = Step(net, SGD(net.parameters(), rate=0.01, momentum=0.9, decay=5e-4), Recipe(net=small_net(), batch_size=2))
squares = torch.full((2, 24, 24, 3), 100, dtype=torch.uint8, device=device)
zeros = torch.zeros(2, 3, device=device)
images = transform_batch(squares, zeros[:, 0] > 0, torch.zeros(24, 24, 3, device=device), zeros, 1.0)
for _ in range(EAGER_STEPS + 2):
    loss, _ = step(images, torch.tensor([0, 1], device=device))
print(torch.cuda.current_device(), step._graph is not None, loss.device, bool(loss.isfinite()))
"""


def test_a_net_learns_on_another_gpu_than_the_current_one(lines: list[str]) -> None:
    assert lines[0].split() == ["0", "True", "cuda:1", "True"]


# The CPU has no kernel for the convolution by depth of the first one. For the second, torch's compiler asks a GPU for
# its properties.
NOT_ON_SIMULATED_GPUS = (
    "test_with_the_same_kernels_everywhere_it_is_a_convolution",
    "local_layers_can_be_exported_and_compiled",
)


# These call a kernel itself, not the operation that selects it by the device: the ordinary tests of the kernels do the
# same in Triton's interpreter, with the memory of the computer.
WITHOUT_SELECTION = (
    "test_pool_triton.py and (forward_and_backward or several_programs or windows_and_steps or largest_is)",
    "test_dropout.py and triton",
    "test_augment_kernels.py and test_triton",
    "test_space_to_depth_triton.py and (against_plain_torch or several_programs)",
    "test_response_norm_triton.py and (forward_and_backward or several_programs or huge_activations)",
    "test_map_norm_triton.py and forward_and_backward",
    "test_update.py and triton",
)
STEP_WITH_TRITON = "tests/training/test_step.py::test_a_replayed_step_is_the_same_as_an_eager_one[bfloat16]"


@pytest.mark.parametrize("folders", [GPU_TEST_FOLDERS[:1], GPU_TEST_FOLDERS[1:]], ids=["kernels", "others"])
def test_the_tests_for_a_gpu_pass(folders: tuple[str, ...], library: Path) -> None:
    # Triton's interpreter takes seconds for a step: the tests of the kernels use it, and one of a captured step.
    with_triton = folders == ("kernels",)
    left_out = (*NOT_ON_SIMULATED_GPUS, *(f"({expression})" for expression in WITHOUT_SELECTION))
    chosen = ("-k", f"not {' and not '.join(left_out)}", *(f"tests/{folder}" for folder in folders))
    chosen += (STEP_WITH_TRITON,) if with_triton else ()
    output = run(library, "-m", "pytest", "-vv", "-m", "gpu", *chosen, gpus=1, SIMULATED_TRITON=str(int(with_triton)))
    assert " passed" in output
    assert " skipped" not in output
    assert f"{STEP_WITH_TRITON} PASSED" in output


def test_every_test_for_a_gpu_is_in_one_of_these_folders() -> None:
    paths = [path for path in TESTS.rglob("test_*.py") if re.search(r"mark\.gpu\b", path.read_text(encoding="utf-8"))]
    assert {path.parent.name for path in paths} == {*GPU_TEST_FOLDERS, "distributed"}
    assert [path.name for path in paths if path.parent.name == "distributed"] == ["test_parallel.py"]


def test_processes_with_a_gpu_each_train_as_one(library: Path) -> None:
    chosen = ("-k", "not after_a_process_is_killed", "tests/distributed/test_parallel.py")  # the same on any device
    output = run(library, "-m", "pytest", "-m", "gpu", *chosen, gpus=4, SIMULATED_TRITON="0")
    assert " passed" in output
    assert " skipped" not in output
