"""Space to depth against plain torch; a strided convolution against the same one of stride 1 over squares."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensors import random_tensor
from torch.nn import functional as F

from alexnet.architecture import Conv
from alexnet.kernels.space_to_depth import space_to_depth, space_to_depth_reference
from alexnet.models.layers import Convolution

TYPES = (torch.float32, torch.bfloat16, torch.float16)


@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 20), st.integers(1, 20)),
    side=st.integers(1, 9),
    squares=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    types=st.tuples(st.sampled_from(TYPES), st.sampled_from(TYPES)),
    channels_last=st.booleans(),
)
def test_fast_path_against_plain_path(shape, side, squares, types, channels_last):
    sizes = {"side": side, "rows": squares[0], "columns": squares[1], "dtype": types[1]}
    x = random_tensor(*shape).to(
        types[0], memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    x.requires_grad_()
    y, expected = space_to_depth(x, **sizes), space_to_depth_reference(x, **sizes)
    assert y.dtype == types[1]
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, expected)
    g = torch.randn_like(y)
    (dx,), (expected_dx,) = torch.autograd.grad(y, x, g), torch.autograd.grad(expected, x, g)
    assert torch.equal(dx, expected_dx)


def test_the_channels_of_a_position_are_its_square_row_by_row():
    x = torch.arange(2 * 4 * 6.0).reshape(1, 2, 4, 6)
    y = space_to_depth(x, side=2, rows=3, columns=3)  # a row of squares too many: zeros
    assert y[0, :, 1, 2].tolist() == [x[0, c, h, w] for h in (2, 3) for w in (4, 5) for c in (0, 1)]
    assert not y[0, :, 2].any()


@pytest.mark.parametrize(("kernel_side", "stride"), [(11, 4), (8, 4), (3, 2), (2, 3)])
def test_a_strided_convolution_is_one_of_stride_1_over_squares(kernel_side, stride):
    x, weight = random_tensor(2, 3, 32, 32).double(), random_tensor(5, 3, kernel_side, kernel_side, seed=1).double()
    expected = F.conv2d(x, weight, stride=stride)
    squares = -(-kernel_side // stride)
    weight = space_to_depth(weight, side=stride, rows=squares, columns=squares)
    sides = expected.shape[2] + squares - 1
    torch.testing.assert_close(F.conv2d(space_to_depth(x, side=stride, rows=sides, columns=sides), weight), expected)


@pytest.mark.parametrize(
    ("towers", "padding", "stride", "dtype"),
    [
        (1, 0, 4, torch.float32),
        (1, 0, 4, torch.bfloat16),
        (2, 0, 2, torch.float32),
        (1, 1, 2, torch.float32),
        (1, 2, 4, torch.bfloat16),
    ],
)
def test_the_layer_computes_what_torch_does_over_squares_or_not(towers, padding, stride, dtype):
    conv = Conv(maps=6, kernel=5, stride=stride, padding=padding)
    layer = Convolution(2, conv, towers=towers, side=19)
    assert layer.uses_squares == (towers == 1)
    x = random_tensor(3, 2, 19, 19).requires_grad_()
    results = []
    for uses_squares in (layer.uses_squares, False):
        layer.uses_squares = uses_squares
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = layer(x)
        assert y.dtype == dtype
        results.append((y, *torch.autograd.grad(y.float().square().sum(), (x, *layer.parameters()))))
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    for result, expected in zip(*results, strict=True):
        torch.testing.assert_close(
            result, expected, rtol=tolerance, atol=tolerance * float(expected.detach().abs().max())
        )


def test_torch_accepts_the_operation():
    x = random_tensor(2, 3, 7, 9).requires_grad_()
    torch.library.opcheck(torch.ops.alexnet.space_to_depth.default, (x, 4, 2, 3, torch.float32))


@pytest.mark.parametrize(
    ("x", "change", "message"),
    [
        (torch.ones(3, 4, 4), {}, "x must have four dimensions"),
        (torch.ones(1, 3, 4, 4, dtype=torch.uint8), {}, "x must be of a floating type"),
        (torch.ones(1, 3, 4, 4), {"side": 0}, "side, rows and columns must be at least 1; got 0, 1, 1"),
    ],
)
def test_what_cannot_be_cut_into_squares_is_named(x, change, message):
    with pytest.raises(ValueError, match=message):
        space_to_depth(x, **{"side": 2, "rows": 1, "columns": 1} | change)
