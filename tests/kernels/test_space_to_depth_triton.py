"""Space to depth by the Triton kernel against plain torch; without a GPU, in Triton's interpreter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, INTERPRETED, random_tensor
from torch import Tensor
from torch.nn import functional as F

from alexnet.architecture import Conv
from alexnet.kernels.space_to_depth import space_to_depth, space_to_depth_reference
from alexnet.models.layers import Convolution

pytest.importorskip("triton")

from alexnet.kernels import space_to_depth_triton

pytestmark = pytest.mark.gpu
needs_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="the operation runs this kernel on a GPU only")
TYPES = (torch.float32, torch.bfloat16, torch.float16)


def by_kernel(x: Tensor, side: int, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    y = torch.full((len(x), side * side * x.shape[1], rows, columns), float("nan"), dtype=dtype, device=DEVICE)
    y = y.to(memory_format=torch.channels_last)
    space_to_depth_triton.space_to_depth(x, side, rows, columns, dtype, y)
    return y


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 20), st.integers(1, 20)),
    side=st.integers(1, 9),
    squares=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    types=st.tuples(st.sampled_from(TYPES), st.sampled_from(TYPES)),
    channels_last=st.booleans(),
)
def test_against_plain_torch(shape, side, squares, types, channels_last):
    x = random_tensor(*shape, device=DEVICE).to(
        types[0], memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    y = by_kernel(x, side, *squares, types[1])
    expected = space_to_depth_reference(x, side=side, rows=squares[0], columns=squares[1], dtype=types[1])
    # The interpreter cuts bfloat16 off instead of rounding it.
    tolerance = 1 / 64 if types[1] == torch.bfloat16 and types[0] != types[1] and INTERPRETED else 0
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("width", [32, 33])  # rows that vectors divide, and that they do not
def test_several_programs(width):
    x = random_tensor(3, 3, 32, width, device=DEVICE)
    x[0, 0, 5, 5], x[1, 1, 6, 6] = float("nan"), float("inf")
    expected = space_to_depth_reference(x, side=4, rows=9, columns=9)
    torch.testing.assert_close(by_kernel(x, 4, 9, 9, torch.float32), expected, rtol=0, atol=0, equal_nan=True)


@needs_cuda
def test_the_operation_runs_it_on_a_gpu():
    x = random_tensor(2, 3, 20, 20, device=DEVICE).requires_grad_()
    sizes = {"side": 4, "rows": 6, "columns": 5, "dtype": torch.float16}
    result, expected = (f(x, **sizes) for f in (space_to_depth, space_to_depth_reference))
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, expected)
    g = torch.randn_like(expected)
    assert torch.equal(*(torch.autograd.grad(y, x, g)[0] for y in (result, expected)))
    torch.library.opcheck(torch.ops.alexnet.space_to_depth.default, (x, 4, 6, 5, torch.float32))


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_strided_convolution_of_few_channels_is_torchs(dtype):
    layer = Convolution(3, Conv(maps=8, kernel=11, stride=4, padding=0), towers=1, side=32).to(DEVICE)
    assert layer.uses_squares
    x = random_tensor(3, 3, 32, 32, device=DEVICE).to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = layer(x)
    assert y.dtype == dtype
    parameters = [a.detach().double().requires_grad_() for a in (x, layer.weight, layer.bias)]
    padded = F.pad(parameters[0], (0, layer.right_bottom_padding, 0, layer.right_bottom_padding))
    expected = F.conv2d(padded, *parameters[1:], stride=4)
    g = torch.randn_like(y)
    results = (y, *torch.autograd.grad(y, (x, layer.weight, layer.bias), g))
    oracles = (expected, *torch.autograd.grad(expected, parameters, g.double()))
    tolerance = 1e-3 if dtype == torch.float32 else 0.02  # convolutions on a GPU may be in TF32
    for result, oracle in zip(results, oracles, strict=True):
        torch.testing.assert_close(
            result.double(), oracle, rtol=tolerance, atol=tolerance * float(oracle.detach().abs().max())
        )
