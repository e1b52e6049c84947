"""The Triton kernels of max pooling against torch's own on the CPU; without a GPU, in Triton's interpreter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, LAYOUTS, random_tensor, to_layout
from torch import Tensor
from torch.nn import functional as F

from alexnet.kernels.pool import max_pool

pytest.importorskip("triton")

from alexnet.kernels import pool_triton

pytestmark = pytest.mark.gpu
# Of the sums of gradients. The interpreter cuts bfloat16 off instead of rounding it.
TOLERANCE = {torch.float32: 0, torch.bfloat16: 1 / 64, torch.float16: 0}


def by_kernel(x: Tensor, g: Tensor, size: int, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest values, their indices in the windows, and the gradient, from the kernels."""
    y = torch.full_like(g, -1, memory_format=torch.channels_last)
    winners = torch.full_like(y, 255, dtype=torch.uint8)
    pool_triton.max_pool(x, size, stride, True, y, winners)  # the shape of y decides
    dx = torch.full_like(x, float("nan"), memory_format=torch.channels_last)
    pool_triton.max_pool_backward(g, winners, *x.shape[2:], size, stride, dx)
    return y.cpu(), winners.cpu(), dx.cpu()


def by_torch(x: Tensor, g: Tensor, size: int, stride: int, ceil_mode: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same from torch on the CPU, in float32."""
    x, g = x.cpu().float().requires_grad_(), g.cpu().float()
    y, index = F.max_pool2d(x, size, stride, ceil_mode=ceil_mode, return_indices=True)
    _, _, rows, columns = y.shape
    row = index // x.shape[3] - stride * torch.arange(rows)[:, None]
    column = index % x.shape[3] - stride * torch.arange(columns)
    (dx,) = torch.autograd.grad(y, x, g)
    return y.detach(), (row * size + column).to(torch.uint8), dx


def check(x: Tensor, size: int, stride: int, layouts: tuple[str, str] = LAYOUTS[:2], ceil_mode: bool = True) -> None:
    """Compare the kernels with torch."""
    shape = F.max_pool2d(x.float(), size, stride, ceil_mode=ceil_mode).shape
    g = to_layout(random_tensor(*shape, seed=1, dtype=x.dtype, device=DEVICE), layouts[1])
    x = to_layout(x.to(DEVICE), layouts[0])
    y, winners, dx = by_kernel(x, g, size, stride)
    expected_y, expected_winners, expected_dx = by_torch(x, g, size, stride, ceil_mode)
    torch.testing.assert_close(y, expected_y.to(x.dtype), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(y.signbit(), expected_y.signbit())
    assert torch.equal(winners, expected_winners)
    tolerance = TOLERANCE[x.dtype]
    torch.testing.assert_close(dx, expected_dx.to(x.dtype), rtol=tolerance, atol=tolerance)


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9)),
    pooling=st.sampled_from([(3, 2), (3, 3), (2, 2), (2, 3), (1, 1), (4, 1), (5, 2)]),
    dtype=st.sampled_from(list(TOLERANCE)),
    ties=st.booleans(),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    ceil_mode=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_forward_and_backward(shape, pooling, dtype, ties, layouts, ceil_mode, seed):
    size, stride = pooling
    x = random_tensor(*shape[:2], *(max(side, size) for side in shape[2:]), seed=seed, dtype=dtype)
    check(x.relu().round() if ties else x, size, stride, layouts, ceil_mode)


@pytest.mark.parametrize("channels", [96, 130, 256])
def test_several_programs_of_positions_and_channels(channels):
    check(random_tensor(2, channels, 13, 15, seed=0, dtype=torch.bfloat16), 3, 2)


def test_windows_and_steps_of_the_largest_side():
    check(random_tensor(1, 3, 19, 17, seed=0, dtype=torch.float32), 8, 1)
    check(random_tensor(1, 3, 19, 18, seed=0, dtype=torch.float32), 3, 8)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("side", [7, 6])  # no window cut, some cut
def test_the_largest_is_the_last_nan_or_the_first_of_equals(dtype, side):
    x = torch.ones(1, 8, 7, 7, dtype=dtype)
    x[0, 1, 1, 1] = x[0, 1, 2, 2] = x[0, 2, 6, 6] = x[0, 3, 0, 0] = float("nan")
    x[0, 4, 3] = float("-inf")
    x[0, 5] = float("-inf")
    x[0, 6, 0, 0], x[0, 6, 0, 1] = -0.0, 0.0
    x[0, 7, 2, 2] = 6e4
    check(x[..., :side, :side], 3, 2)


@pytest.mark.skipif(DEVICE == "cpu", reason="the operation runs these kernels on a GPU only")
def test_the_operation_runs_them_on_a_gpu():
    x = random_tensor(2, 96, 13, 13, seed=0, dtype=torch.bfloat16)
    results = []
    for device in (DEVICE, "cpu"):
        leaf = x.to(device, copy=True).requires_grad_()
        y = max_pool(leaf, size=3, stride=2)
        assert "MaxPool2D" not in type(y.grad_fn).__name__
        results.append((y.detach().cpu(), torch.autograd.grad(y.square().sum(), leaf)[0].cpu()))
    for result, expected in zip(*results, strict=True):
        torch.testing.assert_close(result, expected, rtol=1 / 64, atol=1 / 64)
    x = x[:1, :8, :5, :5].to(DEVICE).requires_grad_()
    winners = torch.zeros(1, 8, 2, 2, dtype=torch.uint8, device=DEVICE)
    torch.library.opcheck(torch.ops.alexnet.max_pool.default, (x, 3, 2, True))
    torch.library.opcheck(torch.ops.alexnet.max_pool_backward.default, (x.detach()[..., :2, :2], winners, 5, 5, 3, 2))
    wide = x.detach().double()
    assert torch.equal(max_pool(wide, size=3, stride=2), F.max_pool2d(wide, 3, 2, ceil_mode=True))
