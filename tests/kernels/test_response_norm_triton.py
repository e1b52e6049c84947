"""The Triton kernels of response normalisation against the plain versions in float64; without a GPU, interpreted."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alexnet.kernels import response_norm as kernel
from alexnet.kernels.response_norm import map_norm, map_norm_reference, response_norm, response_norm_reference

pytest.importorskip("triton")

from alexnet.kernels import response_norm_triton

pytestmark = pytest.mark.gpu
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STRONG = {"k": 1.5, "alpha": 0.3}  # where the sum matters more than k
# The interpreter cuts bfloat16 off instead of rounding it.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1 / 64, torch.float16: 1 / 1024}
SHAPES = st.tuples(st.integers(0, 2), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
FEW = settings(max_examples=15)


@pytest.fixture(autouse=True)
def _overflow_is_no_warning() -> Iterator[None]:
    """The interpreter computes with NumPy, also where a mask hides the result."""
    with np.errstate(all="ignore"):
        yield


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.to(DEVICE, dtype)


def gradient(operation, x: Tensor, g: Tensor, **constants) -> Tensor:
    x = x.clone().requires_grad_()
    (dx,) = torch.autograd.grad(operation(x, **constants), x, g)
    return dx


def close(got: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got.double(), expected.double(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@FEW
@given(
    shape=SHAPES,
    size=st.sampled_from([1, 2, 5, 8]),
    towers=st.integers(1, 3),
    relu=st.booleans(),
    beta=st.sampled_from([0.75, 0.5]),
    dtype=st.sampled_from(list(TOLERANCE)),
    last=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_forward_and_backward(shape, size, towers, relu, beta, dtype, last, seed):
    n, maps, h, w = shape
    memory = torch.channels_last if last else torch.contiguous_format
    x, g = (drawn(n, maps * towers, h, w, seed=seed + i, dtype=dtype).to(memory_format=memory) for i in (0, 1))
    constants = {"size": size, "beta": beta, "towers": towers, "relu": relu, **STRONG}
    got = response_norm_triton.forward(x, **constants)
    close(got, response_norm_reference(x.double(), **constants), dtype)
    got = response_norm_triton.backward(g, x, **constants)
    close(got, gradient(response_norm_reference, x.double(), g.double(), **constants), dtype)


def test_several_programs_and_towers_that_fill_no_power_of_two():
    x, g = (drawn(2, 96, 7, 5, seed=i) for i in (0, 1))
    constants = {"size": 5, "beta": 0.75, "towers": 2, "relu": True, **STRONG}
    close(response_norm_triton.forward(x, **constants), response_norm_reference(x.double(), **constants), x.dtype)
    expected = gradient(response_norm_reference, x.double(), g.double(), **constants)
    close(response_norm_triton.backward(g, x, **constants), expected, x.dtype)


def test_huge_activities_and_nan_come_out_as_from_the_plain_version():
    x = torch.tensor([1e25, -1e25, 1e19, 3.0, 0.0, 1e-30, float("nan"), 1.0, 1.0, 1.0, 1.0, 1.0], device=DEVICE)
    x = x[None, :, None, None]
    for relu in (False, True):
        constants = {"size": 5, "k": 2.0, "alpha": 1e-4, "beta": 0.75, "towers": 1, "relu": relu}
        got, expected = (f(x, **constants) for f in (response_norm_triton.forward, response_norm_reference))
        torch.testing.assert_close(got, expected, equal_nan=True)
        # torch's own derivative is NaN where squares overflow, so float64's; far from the NaN.
        got = response_norm_triton.backward(torch.ones_like(x), x, **constants)[:, :2]
        expected = gradient(response_norm_reference, x.double(), torch.ones_like(x).double(), **constants)[:, :2]
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-9)


@FEW
@given(
    shape=SHAPES,
    size=st.sampled_from([1, 2, 3, 6]),
    beta=st.sampled_from([0.75, 0.5]),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 2**32),
)
def test_map_norm(shape, size, beta, dtype, seed):
    x, g = (drawn(*shape, seed=seed + i, dtype=dtype) for i in (0, 1))
    constants = {"size": size, "beta": beta, **STRONG}
    close(response_norm_triton.map_forward(x, **constants), map_norm_reference(x.double(), **constants), dtype)
    got = response_norm_triton.map_backward(g, x, **constants)
    close(got, gradient(map_norm_reference, x.double(), g.double(), **constants), dtype)


@pytest.mark.skipif(DEVICE == "cpu", reason="the operators take these kernels on a GPU only")
def test_the_operators_take_them_on_a_gpu():
    x = drawn(2, 96, 13, 13, seed=0, dtype=torch.bfloat16)
    got, expected = (response_norm(a, size=5, beta=0.75, towers=2, relu=True, **STRONG) for a in (x, x.cpu()))
    torch.testing.assert_close(got.cpu(), expected, rtol=1 / 128, atol=1e-6)
    got, expected = (map_norm(a, size=3, beta=0.75, **STRONG) for a in (x, x.cpu()))
    torch.testing.assert_close(got.cpu(), expected, rtol=1 / 128, atol=1e-6)
    torch.library.opcheck(kernel._response_norm, (x.requires_grad_(), 5, 2.0, 0.1, 0.75, 2, True))
    torch.library.opcheck(kernel._map_norm, (x, 3, 2.0, 0.1, 0.75))


COMPILED = """
import os, sys
os.environ.pop("TRITON_INTERPRET", None)
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from alexnet.kernels import response_norm_triton
known = dict(before=2, after=2, relu=True, square_roots=True, rows=16, padded=64, block=1024)
types = dict.fromkeys(("x", "y", "g", "dx"), "*bf16") | {"direct": "*fp32", "through": "*fp32"}
types |= dict.fromkeys(("k", "alpha", "beta", "factor"), "fp32") | dict.fromkeys(known, "constexpr")
for name in ("forward", "backward", "map_forward", "map_through", "map_backward"):
    kernel = getattr(response_norm_triton, "_" + name)
    signature = {argument: types.get(argument, "i32") for argument in kernel.arg_names}
    fixed = {argument: known[argument] for argument in kernel.arg_names if argument in known}
    made = triton.compile(ASTSource(kernel, signature, fixed), target=GPUTarget("cuda", 90, 32))
    print(name, len(made.asm["ptx"]) > 0)
"""


def test_they_compile_for_an_h100_or_h200_without_one(tmp_path):
    environment = {"TRITON_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], check=True, timeout=600, capture_output=True, text=True, env=environment
    )
    assert done.stdout.count("True") == 5
