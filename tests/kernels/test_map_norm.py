"""Normalisation within a map against loops over its windows, and gradients from float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensors import LAYOUTS, gradient, random_tensor, to_layout

from alexnet.kernels.map_norm import map_norm, map_norm_reference

CONSTANTS = {"k": 1.5, "alpha": 0.3, "beta": 0.75}  # where the sum matters more than k
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1 / 128, torch.float16: 1 / 1024}


@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    size=st.integers(1, 6),
    dtype=st.sampled_from(list(TOLERANCE)),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    seed=st.integers(0, 2**32),
)
def test_fast_path_against_plain_path(shape, size, dtype, layouts, seed):
    x, g = (to_layout(random_tensor(*shape, seed=seed + i, dtype=dtype), layouts[i]) for i in (0, 1))
    constants = {"size": size, **CONSTANTS}
    y, expected = map_norm(x, **constants), map_norm_reference(x.double(), **constants)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y.double(), expected, rtol=TOLERANCE[dtype], atol=1e-7)
    dx = gradient(map_norm, x, g, **constants)
    expected = gradient(map_norm_reference, x.double(), g.double(), **constants)
    torch.testing.assert_close(dx.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("operation", [map_norm, map_norm_reference])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_it_sums_over_the_positions_around(operation, size):
    x = random_tensor(2, 3, 4, 6, dtype=torch.float64)
    a, expected = x.numpy(), np.empty(x.shape)
    for h in range(4):
        for w in range(6):
            top, left = h - size // 2, w - size // 2
            window = a[:, :, max(0, top) : top + size, max(0, left) : left + size]
            expected[:, :, h, w] = a[:, :, h, w] / (1.5 + 0.3 * (window**2).sum((2, 3))) ** 0.75
    np.testing.assert_allclose(operation(x, size=size, **CONSTANTS), expected, rtol=1e-13)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_the_gradient_is_the_slope(size):
    x = random_tensor(1, 2, 3, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: map_norm(x, size=size, **CONSTANTS), x)


def test_other_powers_than_three_quarters():
    x = random_tensor(2, 6, 2, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: map_norm(x, size=3, **{**CONSTANTS, "beta": 0.5}), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_and_huge_activations_give_the_results_of_the_reference(dtype):
    x = random_tensor(1, 3, 5, 5, dtype=dtype)  # (15 activations in a row: the last vector is not full)
    x[0, 2, 1, 4], x[0, 1, 4, 4], x[0, 0, 4, 0] = float("nan"), 1e25, float("inf")
    y, expected = (f(x, size=3, **CONSTANTS) for f in (map_norm, map_norm_reference))
    torch.testing.assert_close(y, expected, equal_nan=True, rtol=TOLERANCE[dtype], atol=1e-7)
    x[0, 1:, 4, 4], x[0, 0, 4, 0] = 1.0, 1.0  # then the gradient is NaN around the one NaN only
    dx = gradient(map_norm, x, torch.ones_like(x), size=3, **CONSTANTS)
    around = torch.zeros(x.shape, dtype=torch.bool)
    around[0, 2, :4, 2:] = True
    assert torch.equal(dx.isnan(), around)


def test_a_size_below_1_is_refused():
    with pytest.raises(ValueError, match="size must be at least 1; got 0"):
        map_norm(torch.ones(1, 4, 2, 2), size=0, **CONSTANTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_torch_accepts_the_operations(dtype, layout):
    x, g = (to_layout(random_tensor(2, 6, 4, 5, seed=seed, dtype=dtype), layout) for seed in (0, 1))
    constants = (5, 2.0, 0.1, 0.75)
    torch.library.opcheck(torch.ops.alexnet.map_norm.default, (x.requires_grad_(), *constants))
    torch.library.opcheck(torch.ops.alexnet.map_norm_backward.default, (g, x.detach(), *constants))
