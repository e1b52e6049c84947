"""The Triton kernels of the normalisation within maps against the reference in float64; without a GPU, interpreted."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, gradient, random_tensor
from torch import Tensor

from alexnet.kernels.map_norm import map_norm, map_norm_reference

pytest.importorskip("triton")

from alexnet.kernels import map_norm_triton

pytestmark = pytest.mark.gpu
STRONG = {"k": 1.5, "alpha": 0.3}  # where the sum matters more than k
# The interpreter cuts bfloat16 off instead of rounding it.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1 / 64, torch.float16: 1 / 1024}


def assert_near(result: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[result.dtype]
    torch.testing.assert_close(result.double(), expected.double(), rtol=tolerance, atol=tolerance)


@settings(max_examples=15)
@given(
    shape=st.tuples(st.integers(0, 2), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4)),
    size=st.sampled_from([1, 2, 3, 6]),
    beta=st.sampled_from([0.75, 0.5]),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 2**32),
)
def test_forward_and_backward(shape, size, beta, dtype, seed):
    x, g = (random_tensor(*shape, seed=seed + i, dtype=dtype, device=DEVICE) for i in (0, 1))
    y, dx = (torch.full_like(x, float("nan"), memory_format=torch.channels_last) for _ in range(2))
    constants = {"size": size, "beta": beta, **STRONG}
    map_norm_triton.map_norm(x, **constants, y=y)
    assert_near(y, map_norm_reference(x.double(), **constants))
    map_norm_triton.map_norm_backward(g, x, **constants, dx=dx)
    assert_near(dx, gradient(map_norm_reference, x.double(), g.double(), **constants))


@pytest.mark.skipif(DEVICE == "cpu", reason="the operation runs this kernel on a GPU only")
def test_the_operation_runs_it_on_a_gpu():
    x = random_tensor(2, 96, 13, 13, dtype=torch.bfloat16, device=DEVICE)
    y, expected = (map_norm(a, size=3, beta=0.75, **STRONG) for a in (x, x.cpu()))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y.cpu(), expected, rtol=1 / 128, atol=1e-6)
    small = random_tensor(1, 16, 5, 5, dtype=torch.bfloat16, device=DEVICE).requires_grad_()
    torch.library.opcheck(torch.ops.alexnet.map_norm.default, (small, 3, 2.0, 0.1, 0.75))
