"""The Triton kernels of response normalisation against the reference in float64; without a GPU, interpreted."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, gradient, random_tensor
from torch import Tensor

from alexnet.kernels.response_norm import response_norm, response_norm_reference

pytest.importorskip("triton")

from alexnet.kernels import response_norm_triton

pytestmark = pytest.mark.gpu
STRONG = {"k": 1.5, "alpha": 0.3}  # where the sum matters more than k
# The interpreter cuts bfloat16 off instead of rounding it.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1 / 64, torch.float16: 1 / 1024}


@pytest.fixture(autouse=True)
def _overflow_gives_no_warning() -> Iterator[None]:
    """The interpreter computes with NumPy, also where a mask hides the result."""
    with np.errstate(all="ignore"):
        yield


def forward(x: Tensor, **constants) -> Tensor:
    """`response_norm` by the kernel, on any device."""
    y = torch.full_like(x, float("nan"), memory_format=torch.channels_last)
    response_norm_triton.response_norm(x, **constants, y=y)
    return y


def backward(g: Tensor, x: Tensor, **constants) -> Tensor:
    """The gradient of x by the kernel, on any device."""
    dx = torch.full_like(x, float("nan"), memory_format=torch.channels_last)
    response_norm_triton.response_norm_backward(g, x, **constants, dx=dx)
    return dx


def assert_near(result: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[result.dtype]
    torch.testing.assert_close(result.double(), expected.double(), rtol=tolerance, atol=tolerance)


@settings(max_examples=15)
@given(
    shape=st.tuples(st.integers(0, 2), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4)),
    size=st.sampled_from([1, 2, 5, 8]),
    towers=st.integers(1, 3),
    relu=st.booleans(),
    beta=st.sampled_from([0.75, 0.5]),
    dtype=st.sampled_from(list(TOLERANCE)),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_forward_and_backward(shape, size, towers, relu, beta, dtype, channels_last, seed):
    n, maps, h, w = shape
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x, g = (random_tensor(n, maps * towers, h, w, seed=seed + i, dtype=dtype, device=DEVICE) for i in (0, 1))
    x, g = x.to(memory_format=memory_format), g.to(memory_format=memory_format)
    constants = {"size": size, "beta": beta, "towers": towers, "relu": relu, **STRONG}
    assert_near(forward(x, **constants), response_norm_reference(x.double(), **constants))
    assert_near(backward(g, x, **constants), gradient(response_norm_reference, x.double(), g.double(), **constants))


def test_several_programs_and_towers_that_fill_no_power_of_two():
    x, g = (random_tensor(2, 96, 7, 5, seed=i, device=DEVICE) for i in (0, 1))
    constants = {"size": 5, "beta": 0.75, "towers": 2, "relu": True, **STRONG}
    assert_near(forward(x, **constants), response_norm_reference(x.double(), **constants))
    assert_near(backward(g, x, **constants), gradient(response_norm_reference, x.double(), g.double(), **constants))


def test_huge_activations_and_nan_give_the_results_of_the_reference():
    x = torch.tensor([1e25, -1e25, 1e19, 3.0, 0.0, 1e-30, float("nan"), 1.0, 1.0, 1.0, 1.0, 1.0], device=DEVICE)
    x = x[None, :, None, None]
    for relu in (False, True):
        constants = {"size": 5, "k": 2.0, "alpha": 1e-4, "beta": 0.75, "towers": 1, "relu": relu}
        torch.testing.assert_close(forward(x, **constants), response_norm_reference(x, **constants), equal_nan=True)
        # torch's own derivative is NaN where squares overflow, so float64's; far from the NaN.
        dx = backward(torch.ones_like(x), x, **constants)[:, :2]
        expected = gradient(response_norm_reference, x.double(), torch.ones_like(x).double(), **constants)[:, :2]
        torch.testing.assert_close(dx.double(), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.skipif(DEVICE == "cpu", reason="the operation runs this kernel on a GPU only")
def test_the_operation_runs_it_on_a_gpu():
    x = random_tensor(2, 96, 13, 13, dtype=torch.bfloat16, device=DEVICE)
    y, expected = (response_norm(a, size=5, beta=0.75, towers=2, relu=True, **STRONG) for a in (x, x.cpu()))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y.cpu(), expected, rtol=1 / 128, atol=1e-6)
    constants = (5, 2.0, 0.1, 0.75, 2, True)
    small = random_tensor(1, 16, 5, 5, dtype=torch.bfloat16, device=DEVICE).requires_grad_()
    torch.library.opcheck(torch.ops.alexnet.response_norm.default, (small, *constants))
