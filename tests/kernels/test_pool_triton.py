"""The Triton kernels of max pooling against torch's own on the CPU; without a GPU, in Triton's interpreter."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from alexnet.kernels import pool as kernel
from alexnet.kernels.pool import max_pool

pytest.importorskip("triton")

from alexnet.kernels import pool_triton

pytestmark = pytest.mark.gpu
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Of the gradients' sums. The interpreter cuts bfloat16 off instead of rounding it.
TOLERANCE = {torch.float32: 0, torch.bfloat16: 1 / 64, torch.float16: 0}
LAYOUTS = ("channels_last", "contiguous", "strided")


def drawn(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers on the device, in another memory."""
    x = x.to(DEVICE)
    if layout == "strided":
        return x.new_zeros(*x.shape[:3], 2 * x.shape[3])[..., ::2].copy_(x)
    return x.contiguous(memory_format=getattr(torch, layout + "_format" * (layout == "contiguous")))


def ours(x: Tensor, g: Tensor, size: int, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Largest values, their places in the windows, and gradients, from the kernels."""
    y, which = kernel._max_pool_shape(x, size, stride)
    pool_triton.max_pool_forward(x, y.fill_(-1), which.fill_(255), size, stride)
    dx = kernel._spread(g, *x.shape[2:]).fill_(float("nan"))
    pool_triton.max_pool_backward(g, which, dx, size, stride)
    return y.cpu(), which.cpu(), dx.cpu()


def torchs(x: Tensor, g: Tensor, size: int, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same from torch on the CPU, in float32."""
    x, g = x.cpu().float().requires_grad_(), g.cpu().float()
    y, index = F.max_pool2d(x, size, stride, ceil_mode=True, return_indices=True)
    _, _, rows, columns = y.shape
    row = index // x.shape[3] - stride * torch.arange(rows)[:, None]
    column = index % x.shape[3] - stride * torch.arange(columns)
    (dx,) = torch.autograd.grad(y, x, g)
    return y.detach(), (row * size + column).to(torch.uint8), dx


def compare(x: Tensor, size: int, stride: int, layouts: tuple[str, str] = LAYOUTS[:2]) -> None:
    shape = kernel._pooled(x, size, stride).shape
    g = laid_out(drawn(*shape, seed=1, dtype=x.dtype), layouts[1])
    got, expected = (f(laid_out(x, layouts[0]), g, size, stride) for f in (ours, torchs))
    exact = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close(got[0], expected[0].to(x.dtype), **exact)
    assert torch.equal(got[0].signbit(), expected[0].signbit())
    assert torch.equal(got[1], expected[1])
    near = {"rtol": TOLERANCE[x.dtype], "atol": TOLERANCE[x.dtype]}
    torch.testing.assert_close(got[2], expected[2].to(x.dtype), **near)


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9)),
    pooling=st.sampled_from([(3, 2), (3, 3), (2, 2), (2, 3), (1, 1), (4, 1), (5, 2)]),
    dtype=st.sampled_from(list(TOLERANCE)),
    ties=st.booleans(),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    seed=st.integers(0, 2**32),
)
def test_forward_and_backward(shape, pooling, dtype, ties, layouts, seed):
    size, stride = pooling
    x = drawn(*shape[:2], *(max(side, size) for side in shape[2:]), seed=seed, dtype=dtype)
    compare(x.relu().round() if ties else x, size, stride, layouts)


@pytest.mark.parametrize("channels", [96, 130, 256])
def test_several_programs_in_places_and_channels(channels):
    compare(drawn(2, channels, 13, 15, seed=0, dtype=torch.bfloat16), 3, 2)


def test_windows_and_steps_of_the_largest_side():
    compare(drawn(1, 3, 19, 17, seed=0, dtype=torch.float32), 8, 1)
    compare(drawn(1, 3, 19, 18, seed=0, dtype=torch.float32), 3, 8)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("side", [7, 6])  # all windows whole, some cut
def test_the_largest_is_the_last_nan_or_the_first_of_equals(dtype, side):
    x = torch.ones(1, 8, 7, 7, dtype=dtype)
    x[0, 1, 1, 1] = x[0, 1, 2, 2] = x[0, 2, 6, 6] = x[0, 3, 0, 0] = float("nan")
    x[0, 4, 3] = float("-inf")
    x[0, 5] = float("-inf")
    x[0, 6, 0, 0], x[0, 6, 0, 1] = -0.0, 0.0
    x[0, 7, 2, 2] = 6e4
    compare(x[..., :side, :side], 3, 2)


@pytest.mark.skipif(DEVICE == "cpu", reason="the operators take these kernels on a GPU only")
def test_the_operators_take_them_on_a_gpu():
    x = drawn(2, 96, 13, 13, seed=0, dtype=torch.bfloat16)
    results = []
    for device in (DEVICE, "cpu"):
        inner = x.to(device, copy=True).requires_grad_()
        y = max_pool(inner, size=3, stride=2)
        assert "MaxPool2D" not in type(y.grad_fn).__name__
        results.append((y.detach().cpu(), torch.autograd.grad(y.square().sum(), inner)[0].cpu()))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1 / 64, atol=1 / 64)
    x = x.to(DEVICE).requires_grad_()
    which = torch.zeros(2, 96, 6, 6, dtype=torch.uint8, device=DEVICE)
    torch.library.opcheck(kernel._max_pool, (x, 3, 2))
    torch.library.opcheck(kernel._max_pool_backward, (x.detach()[..., :6, :6], which, 13, 13, 3, 2))
    wide = x.detach().double()
    assert torch.equal(max_pool(wide, size=3, stride=2), F.max_pool2d(wide, 3, 2, ceil_mode=True))


COMPILED = """
import os
os.environ.pop("TRITON_INTERPRET", None)
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from alexnet.kernels import pool_triton
sizes = dict(height=55, width=55, out_height=27, out_width=27, channels=96, size=3, stride=2, places=32, block=32)
types = dict.fromkeys(("x", "y", "g", "dx"), "*bf16") | {"which": "*u8"} | dict.fromkeys(sizes, "constexpr")
for name in ("forward", "backward"):
    kernel = getattr(pool_triton, "_" + name)
    signature = {argument: types[argument] for argument in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind[0] == "*"}
    made = triton.compile(ASTSource(kernel, signature, sizes, aligned), target=GPUTarget("cuda", 90, 32))
    print(name, "ld.global.v4.b32" in made.asm["ptx"], "st.global.v4.b32" in made.asm["ptx"])
"""


def test_they_compile_for_an_h100_or_h200_to_vector_loads_and_stores(tmp_path):
    environment = {"TRITON_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], check=True, timeout=600, capture_output=True, text=True, env=environment
    )
    assert done.stdout.split() == ["forward", "True", "True", "backward", "True", "True"]
