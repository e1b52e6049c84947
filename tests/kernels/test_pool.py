"""Pooling on the CPU against torch's own, forward and backward: to the bit in float32."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from tensors import LAYOUTS, random_tensor, to_layout
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from alexnet.kernels.pool import average_pool, max_pool

POOL = {"max": max_pool, "average": average_pool}
TORCH_POOL = {"max": F.max_pool2d, "average": F.avg_pool2d}
# Size, stride, type, numbers of channels. Each size and type, with channels that vectors divide or not, is compiled
# separately: seconds for each. With stride 1 up to nine windows hold a position, with stride 3 some are in none.
POOLINGS = (
    (3, 2, torch.float32, (8, 16)),
    (3, 2, torch.float32, (1, 3, 13)),
    (3, 1, torch.float32, (3, 8)),
    (3, 2, torch.bfloat16, (8, 16)),
    (2, 3, torch.float16, (1, 13)),
)
HALF = (torch.bfloat16, torch.float16)


def run_both(
    kind: str, x: Tensor, size: int, stride: int, g: Tensor | None = None, ceil_mode: bool = True
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return (result, gradient) of the loops, and those of torch: of 16 bits, computed in float32."""
    wide = x.float() if x.dtype in HALF else x
    leaves = [a.detach().clone(memory_format=torch.preserve_format).requires_grad_() for a in (x, wide)]
    y = POOL[kind](leaves[0], size=size, stride=stride, ceil_mode=ceil_mode)
    results = y, TORCH_POOL[kind](leaves[1], size, stride, ceil_mode=ceil_mode)
    g = random_tensor(*results[0].shape, seed=1, dtype=x.dtype) if g is None else g
    gradients = (torch.autograd.grad(y, a, g.to(y.dtype))[0] for y, a in zip(results, leaves, strict=True))
    (y, dx), (expected_y, expected_dx) = zip(results, gradients, strict=True)
    return (y.detach(), dx), (expected_y.detach(), expected_dx)


def assert_same(result: Tensor, expected: Tensor) -> None:
    """Equal to the bit; of 16 bits, rounded once."""
    torch.testing.assert_close(result, expected.to(result.dtype), rtol=0, atol=0, equal_nan=True)


@given(
    pictures=st.integers(1, 3),
    sides=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    ceil_mode=st.booleans(),
    kind=st.sampled_from(list(POOL)),
    pooling=st.sampled_from(POOLINGS).flatmap(lambda p: st.tuples(*map(st.just, p[:3]), st.sampled_from(p[3]))),
    relu=st.booleans(),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    seed=st.integers(0, 2**32),
)
def test_it_is_torchs_pooling(pictures, sides, ceil_mode, kind, pooling, relu, layouts, seed):
    size, stride, dtype, channels = pooling
    assume(stride > 1 or min(sides) >= size)
    ceil_mode |= min(sides) < size  # else there is no window
    x = random_tensor(pictures, channels, *sides, seed=seed, dtype=dtype)
    x = to_layout(x.relu() if relu else x, layouts[0])  # with a ReLU many are equal: 0
    y = POOL[kind](x, size=size, stride=stride, ceil_mode=ceil_mode)
    g = to_layout(random_tensor(*y.shape, seed=seed + 1, dtype=dtype), layouts[1])
    for result, expected in zip(*run_both(kind, x, size, stride, g, ceil_mode), strict=True):
        assert result.dtype == dtype
        assert result.is_contiguous(memory_format=torch.channels_last)
        assert_same(result, expected)


@pytest.mark.parametrize("kind", POOL)
@pytest.mark.parametrize("side", [2, 3, 4, 5])
def test_maps_of_one_or_two_windows(kind, side):
    for result, expected in zip(*run_both(kind, random_tensor(2, 3, side, 2), 3, 2), strict=True):
        assert_same(result, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_largest_is_the_last_nan_or_the_first_of_equals(dtype):
    x = torch.ones(1, 8, 7, 7, dtype=dtype)
    x[0, 1, 1, 1] = x[0, 1, 2, 2] = x[0, 2, 6, 6] = x[0, 3, 0, 0] = float("nan")
    x[0, 4, 3] = float("-inf")
    x[0, 5] = float("-inf")
    x[0, 6, 0, 0], x[0, 6, 0, 1] = -0.0, 0.0
    x[0, 7, 2, 2] = 3e38
    for side in (7, 6):  # no window cut, some cut
        results, expected_results = run_both("max", x[..., :side, :side], 3, 2)
        for result, expected in zip(results, expected_results, strict=True):
            assert_same(result, expected)
        assert torch.equal(results[0].signbit(), expected_results[0].signbit())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_means_of_huge_numbers_and_nan_are_torchs(dtype):
    x = random_tensor(1, 8, 7, 6, dtype=dtype)
    x[0, 0, 1, 1], x[0, 1, 3], x[0, 2, 0, 0], x[0, 2, 6, 5] = 3e38, 3e38, float("nan"), float("inf")
    for result, expected in zip(*run_both("average", x, 3, 2), strict=True):
        assert_same(result, expected)


@pytest.mark.parametrize("kind", POOL)
def test_float64_is_left_to_torch(kind):
    for result, expected in zip(*run_both(kind, random_tensor(2, 3, 5, 6, dtype=torch.float64), 3, 2), strict=True):
        assert result.dtype == torch.float64
        assert_same(result, expected)


@pytest.mark.parametrize("kind", POOL)
def test_no_pictures(kind):
    x = random_tensor(0, 8, 7, 7).requires_grad_()
    y = POOL[kind](x, size=3, stride=2)
    assert y.shape == (0, 8, 3, 3)
    assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape


def test_a_window_wider_than_eight_bits_can_number_is_left_to_torch():
    for result, expected in zip(*run_both("max", random_tensor(1, 2, 20, 19), 17, 2), strict=True):
        assert_same(result, expected)


@pytest.mark.parametrize("kind", POOL)
def test_the_same_bits_on_any_number_of_threads(kind):
    x, threads, results = random_tensor(3, 16, 9, 9), torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(run_both(kind, x, 3, 2)[0])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("kind", POOL)
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
        POOL[kind](x, size=size, stride=stride)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_torch_accepts_the_operations(dtype, layout):
    x, g = (to_layout(random_tensor(2, 8, *sides, dtype=dtype), layout) for sides in ((4, 7), (2, 3)))
    x.requires_grad_()
    winners = to_layout(torch.zeros(2, 8, 2, 3, dtype=torch.uint8), layout)
    torch.library.opcheck(torch.ops.alexnet.max_pool.default, (x, 3, 2, True))
    torch.library.opcheck(torch.ops.alexnet.max_pool_backward.default, (g, winners, 4, 7, 3, 2))
    torch.library.opcheck(torch.ops.alexnet.average_pool.default, (x, 3, 2, False))
    torch.library.opcheck(torch.ops.alexnet.average_pool_backward.default, (g, 4, 7, 3, 2))


def test_shapes_on_a_gpu_are_the_same():
    with FakeTensorMode():
        x = torch.empty(2, 8, 7, 7, device="cuda")
        assert [f(x, size=3, stride=2).shape for f in POOL.values()] == [(2, 8, 3, 3)] * 2


class Pooled(torch.nn.Module):
    """Both operations."""

    def forward(self, x: Tensor) -> Tensor:
        return average_pool(max_pool(x, size=3, stride=2), size=3, stride=2)


def test_it_can_be_exported_and_compiled():
    x = random_tensor(2, 8, 9, 8)
    exported = torch.export.export(Pooled(), (x,), dynamic_shapes=({0: torch.export.Dim("pictures")},))
    assert torch.equal(exported.module()(x[:1]), Pooled()(x[:1]))
    torch.compiler.reset()
    results = []
    for module in (torch.compile(Pooled(), fullgraph=True, backend="aot_eager"), Pooled()):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        y.square().sum().backward()
        results.append((y, leaf.grad))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
