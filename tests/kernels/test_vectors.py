"""Vectors in Numba's loops against torch's conversions and NumPy's arithmetic."""

import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from alexnet.kernels.compile import jit
from alexnet.kernels.vectors import (
    LANES,
    broadcast,
    fma,
    guess_fourth_root,
    keep_first,
    load,
    maximum,
    store,
    where_above,
    where_equal,
    where_greater,
    window_sums,
)

ALL_BITS = torch.arange(65536, dtype=torch.int32).to(torch.int16)  # every pattern of 16 bits
BITS = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}


@jit
def copy(source, target, count):
    for i in range(0, count, LANES):
        store(target, i, load(source, i, count - i), count - i)


@jit
def compute(a, b, out, indices, unit):
    x, y = load(a, 0, LANES), load(b, 0, LANES)
    results = (x + y, x - y, 2.0 * x, x / y, y**3.0, x * 0.5, maximum(x, 0.5), where_above(x, 0.5, y))
    for n in range(8):
        store(out, n * LANES, results[n], LANES)
    store(out, 8 * LANES, where_equal(load(indices, 0, LANES), 200, y), LANES)
    store(out, 9 * LANES, where_greater(x, y, broadcast(unit), 0), LANES)
    store(indices, 0, where_greater(x, y, 255, broadcast(np.uint8(7))), LANES)


@pytest.mark.parametrize("dtype", list(BITS))
def test_16_bits_are_widened_as_torch_does(dtype):
    wide = torch.empty(len(ALL_BITS))
    copy(ALL_BITS.view(BITS[dtype]).numpy(), wide.numpy(), len(ALL_BITS))
    expected = ALL_BITS.view(dtype).float()
    torch.testing.assert_close(wide, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(wide.signbit(), expected.signbit())


@pytest.mark.parametrize("dtype", list(BITS))
def test_16_bits_are_rounded_as_torch_does(dtype):
    exact = ALL_BITS.view(dtype).float()
    halfway = (exact[:-1] + exact[1:]) / 2
    neighbours = [torch.nextafter(halfway, torch.tensor(end)) for end in (-torch.inf, torch.inf)]
    random = torch.randint(-(2**31), 2**31, (1 << 16,), generator=torch.Generator().manual_seed(0))
    wide = torch.cat([exact, halfway, *neighbours, random.to(torch.int32).view(torch.float32)])
    result = torch.empty(len(wide), dtype=dtype)
    copy(wide.numpy(), result.view(BITS[dtype]).numpy(), len(wide))
    expected = wide.to(dtype)
    if dtype == torch.bfloat16:  # a processor that rounds to it itself makes subnormal numbers zeros
        zeros = (result == 0) & (wide.abs() < torch.finfo(torch.float32).tiny)
        expected = torch.where(zeros, torch.zeros_like(result).copysign(expected), expected)
    torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(result.signbit()[~wide.isnan()], expected.signbit()[~wide.isnan()])


def test_a_processor_without_wide_vectors_computes_the_same():
    """In another process the same code is compiled for the simplest processor of this architecture."""
    program = """if True:
        import torch
        from alexnet.kernels.response_norm import response_norm
        x = torch.randn(2, 60, 3, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
        y = response_norm(x, size=5, k=2.0, alpha=0.1, beta=0.75, towers=3, relu=True)
        print(y.view(torch.int16).flatten().tolist())
    """
    environments = ({}, {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""})
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | changes, check=True, capture_output=True, text=True
        ).stdout
        for changes in environments
    ]
    assert len(outputs[0]) > 1000
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_no_more_is_read_or_written_than_asked_for(dtype):
    for count in range(20):
        source, target = np.arange(100, 124).astype(dtype), np.zeros(24, dtype)
        copy(source, target, count)
        assert (target == np.where(np.arange(24) < count, source, 0)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arithmetic_is_numpys(dtype):
    a = np.resize(np.array([1, -1, 0.5, 0.4, np.nan, 3, np.inf, -0.0], dtype), LANES)
    b = np.resize(np.array([2, 3, 0.5, 5, 1, np.inf, 7, 8], dtype), LANES)
    out, indices = (
        np.empty((10, LANES), dtype),
        np.resize(np.array([200, 0, 200, 7, 255, 199, 201, 200], np.uint8), LANES),
    )
    with np.errstate(invalid="ignore"):
        expected = [a + b, a - b, 2 * a, a / b, b**3, a * 0.5, np.where(a < 0.5, 0.5, a), np.where(a <= 0.5, 0, b)]
        expected += [np.where(indices == 200, b, 0), (a > b) | np.isnan(a)]
    compute(a, b, out.reshape(-1), indices, dtype(1))
    assert (indices == np.where((a > b) | np.isnan(a), 255, 7)).all()
    np.testing.assert_allclose(out, expected, rtol=1e-6 if dtype == np.float32 else 1e-14)


@jit
def add_windows(source, out, before, size, count):
    left, current, right = load(source, 0, LANES), load(source, LANES, LANES), load(source, 2 * LANES, LANES)
    store(out, 0, window_sums(left, current, right, before, size), LANES)
    store(out, LANES, keep_first(current, count), LANES)


@pytest.mark.parametrize(("before", "size"), [(0, 1), (2, 5), (3, 2), (LANES, 2 * LANES + 1), (0, LANES + 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_windows_over_three_vectors_are_added_up(before, size, dtype):
    source, out = np.random.default_rng(0).integers(-99, 99, 3 * LANES).astype(dtype), np.empty(2 * LANES, dtype)
    for count in (0, 1, LANES - 1, LANES):
        add_windows(source, out, (0,) * before, (0,) * size, count)
        first = LANES - before
        assert (out[:LANES] == np.lib.stride_tricks.sliding_window_view(source, size)[first:][:LANES].sum(1)).all()
        expected = np.where(np.arange(LANES) < count, source[LANES : 2 * LANES], 0)
        assert (out[LANES:] == expected).all()


@jit
def rounding_error(a, b, out, minus_one):
    x, y = load(a, 0, LANES), load(b, 0, LANES)
    store(out, 0, fma(x, y, minus_one * (x * y)), LANES)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fused_rounds_once(dtype):
    a, b = np.random.default_rng(0).normal(size=(2, LANES)).astype(dtype)
    out = np.empty(LANES, dtype)
    rounding_error(a, b, out, dtype(-1))
    exact = [Fraction(float(x)) * Fraction(float(y)) - Fraction(float(x * y)) for x, y in zip(a, b, strict=True)]
    assert out.any()
    assert [Fraction(float(value)) for value in out] == exact


@jit
def guess_all(source, target):
    for i in range(0, len(source), LANES):
        store(target, i, guess_fourth_root(load(source, i, LANES)), LANES)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_guess_is_near_over_the_whole_range(dtype):
    least, most = np.log2(np.finfo(dtype).tiny), np.log2(np.finfo(dtype).max)
    a = np.exp2(np.linspace(least, most * 0.9999, 1 << 16)).astype(dtype)
    guessed = np.empty_like(a)
    guess_all(a, guessed)
    assert 0.03 < abs(guessed / a**-0.25 - 1).max() < 0.04
