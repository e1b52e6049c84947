"""Pictures cut into squares by the Triton kernel, against plain torch; without a GPU, in Triton's interpreter."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from alexnet.architecture import Conv
from alexnet.kernels import space_to_depth as kernel
from alexnet.kernels.space_to_depth import space_to_depth, space_to_depth_reference
from alexnet.models.layers import Convolution

pytest.importorskip("triton")

from alexnet.kernels import space_to_depth_triton as fold_triton

pytestmark = pytest.mark.gpu
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="the operator takes this kernel on a GPU only")
TYPES = (torch.float32, torch.bfloat16, torch.float16)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def compare(x: Tensor, side: int, rows: int, columns: int, dtype: torch.dtype) -> None:
    got = kernel._room(x, side, rows, columns, dtype).fill_(float("nan"))
    fold_triton.space_to_depth(x, got, side)
    expected = space_to_depth_reference(x, side=side, rows=rows, columns=columns, dtype=dtype)
    # The interpreter cuts bfloat16 off instead of rounding it.
    tolerance = 1 / 64 if dtype == torch.bfloat16 and x.dtype != dtype and DEVICE == "cpu" else 0
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=0)


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 20), st.integers(1, 20)),
    side=st.integers(1, 9),
    squares=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    types=st.tuples(st.sampled_from(TYPES), st.sampled_from(TYPES)),
    last=st.booleans(),
)
def test_against_plain_torch(shape, side, squares, types, last):
    x = drawn(*shape).to(types[0], memory_format=torch.channels_last if last else torch.contiguous_format)
    compare(x, side, *squares, types[1])


@pytest.mark.parametrize("width", [32, 33])  # rows that vectors fit, and that they do not
def test_several_programs(width):
    x = drawn(3, 3, 32, width)
    x[0, 0, 5, 5], x[1, 1, 6, 6] = float("nan"), float("inf")
    got = kernel._room(x, 4, 9, 9, torch.float32)
    fold_triton.space_to_depth(x, got, 4)
    expected = space_to_depth_reference(x, side=4, rows=9, columns=9)
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@needs_cuda
def test_the_operator_takes_it_on_a_gpu():
    x = drawn(2, 3, 20, 20).requires_grad_()
    got, expected = (
        f(x, side=4, rows=6, columns=5, dtype=torch.float16) for f in (space_to_depth, space_to_depth_reference)
    )
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got, expected)
    g = torch.randn_like(expected)
    assert torch.equal(*(torch.autograd.grad(y, x, g)[0] for y in (got, expected)))
    torch.library.opcheck(kernel._folded, (x, 4, 6, 5, torch.float32))


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_strided_convolution_of_few_maps_is_torchs(dtype):
    layer = Convolution(3, Conv(maps=8, kernel=11, stride=4, padding=0), towers=1, side=32).to(DEVICE)
    assert layer.cut
    x = drawn(3, 3, 32, 32).to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = layer(x)
    assert y.dtype == dtype
    parameters = [a.detach().double().requires_grad_() for a in (x, layer.weight, layer.bias)]
    padded = F.pad(parameters[0], (0, layer.extra, 0, layer.extra))
    expected = F.conv2d(padded, *parameters[1:], stride=4)
    g = torch.randn_like(y)
    results = (y, *torch.autograd.grad(y, (x, layer.weight, layer.bias), g))
    oracles = (expected, *torch.autograd.grad(expected, parameters, g.double()))
    tolerance = 1e-3 if dtype == torch.float32 else 0.02  # convolutions on a GPU may be in TF32
    for got, oracle in zip(results, oracles, strict=True):
        torch.testing.assert_close(
            got.double(), oracle, rtol=tolerance, atol=tolerance * float(oracle.detach().abs().max())
        )


COMPILED = """
import os
os.environ.pop("TRITON_INTERPRET", None)
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from alexnet.kernels.space_to_depth_triton import _space_to_depth
sizes = dict(height=224, width=224, channels=3, rows=57, columns=57, side=4, vectors=256, length=4)
signature = {"x": "*bf16", "y": "*bf16"} | dict.fromkeys(sizes, "constexpr")
aligned = {(i,): [["tt.divisibility", 16]] for i in range(2)}
made = triton.compile(ASTSource(_space_to_depth, signature, sizes, aligned), target=GPUTarget("cuda", 90, 32))
print("ld.global.v2.b32" in made.asm["ptx"], "st.global.v2.b32" in made.asm["ptx"])
"""


def test_it_compiles_for_an_h100_or_h200_to_vector_loads_and_stores(tmp_path):
    environment = {"TRITON_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], check=True, timeout=600, capture_output=True, text=True, env=environment
    )
    assert done.stdout.split() == ["True", "True"]
