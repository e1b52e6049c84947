"""Pooling on the CPU against torch's own, forward and back: to the bit in float32 and float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from alexnet.kernels import pool as kernel
from alexnet.kernels.pool import average_pool, max_pool

OURS = {"max": max_pool, "average": average_pool}
TORCHS = {"max": F.max_pool2d, "average": F.avg_pool2d}
# A window, its stride, a type, numbers of maps. Each window and type, with maps that vectors fit and that they do
# not, is compiled on its own: seconds for each.
POOLINGS = (
    (3, 2, torch.float32, (8, 16)),
    (3, 2, torch.float32, (1, 3, 13)),
    (3, 2, torch.bfloat16, (8, 16)),
    (2, 3, torch.float16, (1, 13)),
)
SHORT = (torch.bfloat16, torch.float16)
LAYOUTS = ("channels_last", "contiguous", "strided")


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers in another memory."""
    if layout == "strided":
        return x.new_zeros(*x.shape[:3], 2 * x.shape[3])[..., ::2].copy_(x)
    return x.contiguous(memory_format=getattr(torch, layout + "_format" * (layout == "contiguous")))


def both(kind: str, x: Tensor, size: int, stride: int, g: Tensor | None = None) -> tuple[tuple[Tensor, Tensor], ...]:
    """Results and gradients: ours, and torch's, of 16 bits computed in float32."""
    wide = x.float() if x.dtype in SHORT else x
    given = [a.detach().clone(memory_format=torch.preserve_format).requires_grad_() for a in (x, wide)]
    results = OURS[kind](given[0], size=size, stride=stride), TORCHS[kind](given[1], size, stride, ceil_mode=True)
    g = drawn(*results[0].shape, seed=1, dtype=x.dtype) if g is None else g
    gradients = (torch.autograd.grad(y, a, g.to(y.dtype))[0] for y, a in zip(results, given, strict=True))
    (y, dx), (expected, slope) = zip(results, gradients, strict=True)
    return (y.detach(), dx), (expected.detach(), slope)


def same(got: Tensor, expected: Tensor) -> None:
    """To the bit; of 16 bits, rounded once."""
    torch.testing.assert_close(got, expected.to(got.dtype), rtol=0, atol=0, equal_nan=True)


@given(
    pictures=st.integers(1, 3),
    sides=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    kind=st.sampled_from(list(OURS)),
    pooling=st.sampled_from(POOLINGS).flatmap(lambda p: st.tuples(*map(st.just, p[:3]), st.sampled_from(p[3]))),
    relu=st.booleans(),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    seed=st.integers(0, 2**32),
)
def test_it_is_torchs(pictures, sides, kind, pooling, relu, layouts, seed):
    size, stride, dtype, maps = pooling
    x = drawn(pictures, maps, *sides, seed=seed, dtype=dtype)
    x = laid_out(x.relu() if relu else x, layouts[0])  # with a ReLU many are equal: 0
    y = OURS[kind](x, size=size, stride=stride)
    g = laid_out(drawn(*y.shape, seed=seed + 1, dtype=dtype), layouts[1])
    for got, expected in zip(*both(kind, x, size, stride, g), strict=True):
        assert got.dtype == dtype
        assert got.is_contiguous(memory_format=torch.channels_last)
        same(got, expected)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("side", [2, 3, 4, 5])
def test_maps_that_a_window_or_two_reach_over(kind, side):
    for got, expected in zip(*both(kind, drawn(2, 3, side, 2), 3, 2), strict=True):
        same(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_largest_is_the_last_nan_or_the_first_of_equals(dtype):
    x = torch.ones(1, 8, 7, 7, dtype=dtype)
    x[0, 1, 1, 1] = x[0, 1, 2, 2] = x[0, 2, 6, 6] = x[0, 3, 0, 0] = float("nan")
    x[0, 4, 3] = float("-inf")
    x[0, 5] = float("-inf")
    x[0, 6, 0, 0], x[0, 6, 0, 1] = -0.0, 0.0
    x[0, 7, 2, 2] = 3e38
    for side in (7, 6):  # all windows whole, some cut
        ours, torchs = both("max", x[..., :side, :side], 3, 2)
        for got, expected in zip(ours, torchs, strict=True):
            same(got, expected)
        assert torch.equal(ours[0].signbit(), torchs[0].signbit())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_means_of_huge_numbers_and_nan_are_torchs(dtype):
    x = drawn(1, 8, 7, 6, dtype=dtype)
    x[0, 0, 1, 1], x[0, 1, 3], x[0, 2, 0, 0], x[0, 2, 6, 5] = 3e38, 3e38, float("nan"), float("inf")
    for got, expected in zip(*both("average", x, 3, 2), strict=True):
        same(got, expected)


@pytest.mark.parametrize("kind", OURS)
def test_the_gradient_is_the_slope(kind):
    x = drawn(2, 3, 5, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: OURS[kind](x, size=4, stride=1), x)


@pytest.mark.parametrize("kind", OURS)
def test_no_pictures(kind):
    x = drawn(0, 8, 7, 7).requires_grad_()
    y = OURS[kind](x, size=3, stride=2)
    assert y.shape == (0, 8, 3, 3)
    assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape


def test_a_window_wider_than_eight_bits_can_name_is_left_to_torch():
    for got, expected in zip(*both("max", drawn(1, 2, 20, 19), 17, 2), strict=True):
        same(got, expected)


@pytest.mark.parametrize("kind", OURS)
def test_the_same_bits_on_any_number_of_threads(kind):
    x, threads, results = drawn(3, 16, 9, 9), torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(both(kind, x, 3, 2)[0])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize(
    ("x", "size", "stride", "message"),
    [
        (torch.ones(4, 3, 2), 2, 2, "x must have four dimensions"),
        (torch.ones(1, 4, 3, 2, dtype=torch.int32), 2, 2, "x must be of a floating type"),
        *(
            (torch.ones(1, 4, 3, 2), *sides, "must be at least 1 and fit the maps")
            for sides in ((0, 1), (2, 0), (4, 1))
        ),
    ],
)
def test_what_cannot_be_pooled_is_named(kind, x, size, stride, message):
    with pytest.raises(ValueError, match=message):
        OURS[kind](x, size=size, stride=stride)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_torch_finds_the_operators_well_made(dtype, layout):
    x, g = (laid_out(drawn(2, 8, *sides, dtype=dtype), layout) for sides in ((4, 7), (2, 3)))
    x.requires_grad_()
    which = laid_out(torch.zeros(2, 8, 2, 3, dtype=torch.uint8), layout)
    torch.library.opcheck(kernel._max_pool, (x, 3, 2))
    torch.library.opcheck(kernel._max_pool_backward, (g, which, 4, 7, 3, 2))
    torch.library.opcheck(kernel._average_pool, (x, 3, 2))
    torch.library.opcheck(kernel._average_pool_backward, (g, 4, 7, 3, 2))


def test_on_a_gpu_shapes_are_the_same():
    with FakeTensorMode():
        x = torch.empty(2, 8, 7, 7, device="cuda")
        assert [f(x, size=3, stride=2).shape for f in OURS.values()] == [(2, 8, 3, 3)] * 2


class Layer(torch.nn.Module):
    """Both operations."""

    def forward(self, x: Tensor) -> Tensor:
        return average_pool(max_pool(x, size=3, stride=2), size=3, stride=2)


def test_export_and_compile_see_through_it():
    x = drawn(2, 8, 9, 8)
    exported = torch.export.export(Layer(), (x,), dynamic_shapes=({0: torch.export.Dim("pictures")},))
    assert torch.equal(exported.module()(x[:1]), Layer()(x[:1]))
    torch.compiler.reset()
    results = []
    for layer in (torch.compile(Layer(), fullgraph=True, backend="aot_eager"), Layer()):
        inner = x.clone().requires_grad_()
        y = layer(inner)
        y.square().sum().backward()
        results.append((y, inner.grad))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
