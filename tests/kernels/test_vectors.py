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
    around,
    at_least,
    every,
    first_of,
    fused,
    guess,
    if_greater,
    load,
    store,
    where_above,
    where_named,
)

EVERY = torch.arange(65536, dtype=torch.int32).to(torch.int16)  # every pattern of 16 bits
BITS = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}


@jit
def copy(source, target, count):
    for i in range(0, count, LANES):
        store(target, i, load(source, i, count - i), count - i)


@jit
def compute(a, b, out, names, one):
    x, y = load(a, 0, LANES), load(b, 0, LANES)
    results = (x + y, x - y, 2.0 * x, x / y, y**3.0, x * 0.5, at_least(x, 0.5), where_above(x, 0.5, y))
    for n in range(8):
        store(out, n * LANES, results[n], LANES)
    store(out, 8 * LANES, where_named(load(names, 0, LANES), 200, y), LANES)
    store(out, 9 * LANES, if_greater(x, y, every(one), 0), LANES)
    store(names, 0, if_greater(x, y, 255, every(np.uint8(7))), LANES)


@pytest.mark.parametrize("dtype", list(BITS))
def test_16_bits_are_widened_as_by_torch(dtype):
    wide = torch.empty(len(EVERY))
    copy(EVERY.view(BITS[dtype]).numpy(), wide.numpy(), len(EVERY))
    expected = EVERY.view(dtype).float()
    torch.testing.assert_close(wide, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(wide.signbit(), expected.signbit())


@pytest.mark.parametrize("dtype", list(BITS))
def test_16_bits_are_rounded_as_by_torch(dtype):
    exact = EVERY.view(dtype).float()
    halfway = (exact[:-1] + exact[1:]) / 2
    beside = [torch.nextafter(halfway, torch.tensor(end)) for end in (-torch.inf, torch.inf)]
    random = torch.randint(-(2**31), 2**31, (1 << 16,), generator=torch.Generator().manual_seed(0))
    wide = torch.cat([exact, halfway, *beside, random.to(torch.int32).view(torch.float32)])
    got = torch.empty(len(wide), dtype=dtype)
    copy(wide.numpy(), got.view(BITS[dtype]).numpy(), len(wide))
    expected = wide.to(dtype)
    if dtype == torch.bfloat16:  # a processor that rounds to it itself makes subnormal numbers zeros
        zeros = (got == 0) & (wide.abs() < torch.finfo(torch.float32).tiny)
        expected = torch.where(zeros, torch.zeros_like(got).copysign(expected), expected)
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(got.signbit()[~wide.isnan()], expected.signbit()[~wide.isnan()])


def test_a_processor_without_wide_vectors_computes_the_same():
    """In another process, for which the same code is compiled as for the least processor of this kind."""
    program = """if True:
        import torch
        from alexnet.kernels.response_norm import response_norm
        x = torch.randn(2, 60, 3, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
        y = response_norm(x, size=5, k=2.0, alpha=0.1, beta=0.75, towers=3, relu=True)
        print(y.view(torch.int16).flatten().tolist())
    """
    environments = ({}, {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""})
    said = [
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | changes, check=True, capture_output=True, text=True
        ).stdout
        for changes in environments
    ]
    assert len(said[0]) > 1000
    assert said[0] == said[1]


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint8])
def test_no_more_is_read_or_written_than_asked_for(kind):
    for count in range(20):
        source, target = np.arange(100, 124).astype(kind), np.zeros(24, kind)
        copy(source, target, count)
        assert (target == np.where(np.arange(24) < count, source, 0)).all()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_arithmetic_is_numpys(kind):
    a = np.resize(np.array([1, -1, 0.5, 0.4, np.nan, 3, np.inf, -0.0], kind), LANES)
    b = np.resize(np.array([2, 3, 0.5, 5, 1, np.inf, 7, 8], kind), LANES)
    out, names = np.empty((10, LANES), kind), np.resize(np.array([200, 0, 200, 7, 255, 199, 201, 200], np.uint8), LANES)
    with np.errstate(invalid="ignore"):
        expected = [a + b, a - b, 2 * a, a / b, b**3, a * 0.5, np.where(a < 0.5, 0.5, a), np.where(a <= 0.5, 0, b)]
        expected += [np.where(names == 200, b, 0), (a > b) | np.isnan(a)]
    compute(a, b, out.reshape(-1), names, kind(1))
    assert (names == np.where((a > b) | np.isnan(a), 255, 7)).all()
    np.testing.assert_allclose(out, expected, rtol=1e-6 if kind == np.float32 else 1e-14)


@jit
def add_windows(source, out, before, size, count):
    left, here, right = load(source, 0, LANES), load(source, LANES, LANES), load(source, 2 * LANES, LANES)
    store(out, 0, around(left, here, right, before, size), LANES)
    store(out, LANES, first_of(here, count), LANES)


@pytest.mark.parametrize(("before", "size"), [(0, 1), (2, 5), (3, 2), (LANES, 2 * LANES + 1), (0, LANES + 1)])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_windows_over_three_vectors_are_added_up(before, size, kind):
    source, out = np.random.default_rng(0).integers(-99, 99, 3 * LANES).astype(kind), np.empty(2 * LANES, kind)
    for count in (0, 1, LANES - 1, LANES):
        add_windows(source, out, (0,) * before, (0,) * size, count)
        first = LANES - before
        assert (out[:LANES] == np.lib.stride_tricks.sliding_window_view(source, size)[first:][:LANES].sum(1)).all()
        kept = np.where(np.arange(LANES) < count, source[LANES : 2 * LANES], 0)
        assert (out[LANES:] == kept).all()


@jit
def rounding_error(a, b, out, minus_one):
    x, y = load(a, 0, LANES), load(b, 0, LANES)
    store(out, 0, fused(x, y, minus_one * (x * y)), LANES)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_fused_rounds_once(kind):
    a, b = np.random.default_rng(0).normal(size=(2, LANES)).astype(kind)
    out = np.empty(LANES, kind)
    rounding_error(a, b, out, kind(-1))
    exact = [Fraction(float(x)) * Fraction(float(y)) - Fraction(float(x * y)) for x, y in zip(a, b, strict=True)]
    assert out.any()
    assert [Fraction(float(value)) for value in out] == exact


@jit
def guess_all(source, target):
    for i in range(0, len(source), LANES):
        store(target, i, guess(load(source, i, LANES)), LANES)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_guess_is_near_in_all_of_the_range(kind):
    least, most = np.log2(np.finfo(kind).tiny), np.log2(np.finfo(kind).max)
    a = np.exp2(np.linspace(least, most * 0.9999, 1 << 16)).astype(kind)
    guessed = np.empty_like(a)
    guess_all(a, guessed)
    assert 0.03 < abs(guessed / a**-0.25 - 1).max() < 0.04
