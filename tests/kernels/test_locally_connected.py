"""Locally connected layers against a loop over positions, and against convolutions."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE
from torch import Tensor

from alexnet.architecture import Conv
from alexnet.geometry import conv_side
from alexnet.kernels.locally_connected import locally_connected, locally_connected_reference
from alexnet.models.layers import Convolution, LocallyConnected

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.gpu]

Case = tuple[Tensor, Tensor, Tensor, dict[str, int]]
"""Maps, kernels, biases, and the other arguments."""


def random_case(
    pictures: int = 2,
    channels: int = 4,
    side: int = 7,
    maps: int = 6,
    kernel: int = 3,
    stride: int = 1,
    padding: int = 1,
    towers: int = 1,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Case:
    """Return random maps, kernels and biases, and the other arguments."""
    generator = torch.Generator().manual_seed(seed)
    out = conv_side(side, kernel, stride, padding)
    shapes = ((pictures, channels, side, side), (out, out, maps, kernel, kernel, channels // towers), (out, out, maps))
    x, weight, bias = (torch.randn(s, generator=generator, dtype=torch.float64).to(DEVICE, dtype) for s in shapes)
    return x, weight, bias, {"stride": stride, "padding": padding, "towers": towers}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    towers, kernel = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    padding = draw(st.integers(0, kernel - 1))
    x, *others = random_case(
        draw(st.integers(1, 3)),
        towers * draw(st.integers(1, 3)),
        draw(st.integers(max(1, kernel - 2 * padding), 9)),
        towers * draw(st.integers(1, 3)),
        kernel,
        draw(st.integers(1, 6)),
        padding,
        towers,
        seed=draw(st.integers(0, 2**31)),
    )
    memory_format = draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    return x.to(memory_format=memory_format), *others


def with_gradients(
    function: Callable[..., Tensor], case: Case, memory_format: torch.memory_format = torch.contiguous_format
) -> list[Tensor]:
    """Return a layer's result, and the gradients of its maps, kernels and biases."""
    *inputs, options = case
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    y = function(*leaves, **options)
    g = torch.linspace(-1, 2, y.numel(), dtype=y.dtype, device=y.device).view(y.shape).to(memory_format=memory_format)
    return [y.detach(), *torch.autograd.grad(y, leaves, g)]


@settings(max_examples=40)
@given(cases(), st.sampled_from([torch.contiguous_format, torch.channels_last]))
def test_it_is_the_loop_over_positions_forward_and_backward(case: Case, memory_format: torch.memory_format) -> None:
    expected = with_gradients(locally_connected_reference, case)
    for result, reference in zip(with_gradients(locally_connected, case, memory_format), expected, strict=True):
        torch.testing.assert_close(result, reference, rtol=1e-10, atol=1e-10)


def test_the_reference_is_the_sum_over_each_window_written_as_loops() -> None:
    """Stride 2, zeros around, one more at the right and the bottom, two towers; in NumPy."""
    x, weight, bias, options = random_case(2, 4, 6, 2, kernel=3, stride=2, padding=0, towers=2)
    y = locally_connected_reference(x, weight, bias, **options).cpu().numpy()
    assert y.shape == (2, 2, 3, 3)  # 1 + ceil((6 - 3) / 2)
    pixel, w = np.zeros((2, 4, 7, 7)), weight.cpu().numpy()
    pixel[:, :, :6, :6] = x.cpu().numpy()
    for n, m, row, column in np.ndindex(2, 2, 3, 3):
        total = float(bias[row, column, m])
        for i, j, c in np.ndindex(3, 3, 2):
            total += w[row, column, m, i, j, c] * pixel[n, 2 * m + c, 2 * row + i, 2 * column + j]
        assert y[n, m, row, column] == pytest.approx(total, rel=1e-12)


@given(cases())
def test_with_the_same_kernels_everywhere_it_is_a_convolution(case: Case) -> None:
    x, weight, bias, options = case
    out, side, kernel = weight.shape[0], x.shape[2], weight.shape[3]
    padding, towers = options["padding"], options["towers"]
    conv = Conv(maps=weight.shape[2], kernel=kernel, stride=options["stride"], padding=padding, shared=False)
    local = LocallyConnected(x.shape[1], conv, towers=towers, side=side).to(DEVICE).double()
    shared = Convolution(x.shape[1], replace(conv, shared=True), towers=towers, side=side).to(DEVICE).double()
    assert local.weight.shape == weight.shape
    with torch.no_grad():
        local.weight.copy_(weight[0, 0].expand_as(weight))
        local.bias.copy_(bias[0, 0].expand_as(bias))
        shared.weight.copy_(weight[0, 0].permute(0, 3, 1, 2))
        shared.bias.copy_(bias[0, 0])  # type: ignore[union-attr]
    y, shared_y = local(x), shared(x)
    assert y.shape == (len(x), conv.maps, out, out)
    torch.testing.assert_close(y, shared_y, rtol=1e-10, atol=1e-10)
    y.square().sum().backward()
    shared_y.square().sum().backward()
    # The gradient of a kernel that all positions share is the sum of those of the positions' own kernels.
    summed = local.weight.grad.sum((0, 1)).permute(0, 3, 1, 2)  # type: ignore[union-attr]
    torch.testing.assert_close(summed, shared.weight.grad, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(local.bias.grad.sum((0, 1)), shared.bias.grad, rtol=1e-9, atol=1e-9)  # type: ignore


def test_each_position_has_its_own_kernels_and_bias() -> None:
    x, weight, bias, options = random_case(1, 2, 6, 3)
    before = locally_connected(x, weight, bias, **options)
    weight[2, 4] += 1
    bias[5, 0] += 1
    changed = (locally_connected(x, weight, bias, **options) != before).any(1)[0]
    assert {tuple(position) for position in changed.nonzero().tolist()} == {(2, 4), (5, 0)}


def test_gradients_are_those_of_finite_differences() -> None:
    x, weight, bias, options = random_case(2, 4, 5, 2, 3, stride=2, padding=1, towers=2)
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda *inputs: locally_connected(*inputs, **options), inputs)


def test_only_what_needs_a_gradient_gets_one() -> None:
    x, weight, bias, options = random_case()
    y = locally_connected(x, weight, bias.requires_grad_(), **options)
    y.sum().backward()
    assert x.grad is None
    assert weight.grad is None
    torch.testing.assert_close(bias.grad, torch.full_like(bias, len(x)))


@pytest.mark.parametrize("geometry", [{}, {"towers": 2, "stride": 2}, {"channels": 1, "maps": 1, "padding": 0}])
def test_torch_accepts_the_operations(geometry: dict[str, int]) -> None:
    x, weight, bias, options = random_case(**geometry, dtype=torch.float32)
    arguments = tuple(options.values())
    inputs = tuple(tensor.clone().requires_grad_() for tensor in (x, weight, bias))
    torch.library.opcheck(torch.ops.alexnet.locally_connected.default, (*inputs, *arguments))
    g = torch.randn_like(locally_connected(x, weight, bias, **options))
    torch.library.opcheck(torch.ops.alexnet.locally_connected_to_weight.default, (g, x, weight.shape[3], *arguments))
    torch.library.opcheck(torch.ops.alexnet.locally_connected_to_input.default, (g, weight, x.shape[2], *arguments))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(dtype: torch.dtype) -> None:
    x, weight, bias, options = random_case(8, 16, 6, 8, dtype=dtype)
    results = with_gradients(locally_connected, (x, weight, bias, options))
    expected = with_gradients(locally_connected, (x.float(), weight.float(), bias.float(), options))
    for result, reference in zip(results, expected, strict=True):
        assert result.dtype == dtype
        error = float((result.float() - reference).abs().max() / reference.abs().max())
        assert error < 2 * torch.finfo(dtype).eps  # a rounding at the end and one before


def test_autocast_computes_in_its_type_and_gradients_stay_in_float32() -> None:
    x, weight, bias, options = random_case(dtype=torch.float32)
    weight.requires_grad_()
    with torch.autocast(DEVICE, torch.bfloat16):
        y = locally_connected(x, weight, bias, **options)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    with torch.autocast(DEVICE, torch.bfloat16):
        assert locally_connected(x.double(), weight.double(), bias.double(), **options).dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 4, 7, 6)}, r"x must be square maps, .*; got \(2, 4, 7, 6\)"),
        ({"x": torch.zeros(2, 4, 9, 9)}, r"weight must have shape \(9, 9, 6, 3, 3, 4\) for maps of side 9; got .*"),
        ({"weight": torch.zeros(7, 7, 6, 3, 3)}, "weight must have six dimensions .*; got 5"),
        ({"weight": torch.zeros(7, 7, 6, 3, 2, 4)}, r"weight must have shape \(7, 7, 6, 3, 3, 4\) .*"),
        ({"bias": torch.zeros(6)}, r"bias must have shape \(7, 7, 6\); got \(6,\)"),
        ({"towers": 4}, "towers must divide the 4 input maps and the 6 output maps; got 4"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    x, weight, bias, options = random_case(dtype=torch.float32)
    arguments = {"x": x, "weight": weight, "bias": bias} | options | change
    with pytest.raises(ValueError, match=f"^{message}$"):
        locally_connected(**arguments)
