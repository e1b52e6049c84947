"""Response normalisation against the paper's formula in loops, torch's own layer, and gradients from float64."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from alexnet.kernels import response_norm as kernel
from alexnet.kernels.response_norm import map_norm, map_norm_reference, response_norm, response_norm_reference
from alexnet.utils.console import note_once

PAPER = {"size": 5, "k": 2.0, "alpha": 1e-4, "beta": 0.75}
STRONG = {"k": 1.5, "alpha": 0.3, "beta": 0.75}  # where the sum matters more than k
# Each size and power is compiled on its own: a few, odd and even, narrower and wider than a tower of 2 to 6 maps.
SIZES = (2, 5, 8)


def formula(a: np.ndarray, size: int, k: float, alpha: float, beta: float, towers: int) -> np.ndarray:
    """Section 4.3's formula, summed map by map within each tower."""
    b = np.empty_like(a)
    for tower in np.split(np.arange(a.shape[1]), towers):
        for i in tower:
            window = [j for j in tower if i - size // 2 <= j < i - size // 2 + size]
            b[:, i] = a[:, i] / (k + alpha * sum(a[:, j] ** 2 for j in window)) ** beta
    return b


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gradient(operation, x: Tensor, g: Tensor, **constants) -> Tensor:
    x = x.clone().requires_grad_()
    (dx,) = torch.autograd.grad(operation(x, **constants), x, g)
    return dx


@pytest.mark.parametrize("operation", [response_norm, response_norm_reference])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("towers", [1, 2])
def test_it_is_the_papers_formula(operation, size, towers):
    x = drawn(2, 12, 3, 4)
    got = operation(x, size=size, towers=towers, **STRONG)
    np.testing.assert_allclose(got, formula(x.numpy(), size, towers=towers, **STRONG), rtol=1e-13)


@pytest.mark.parametrize("size", [32, 33, 34])
def test_windows_as_wide_as_vectors_reach_and_wider(size):
    x, g = drawn(1, 100, 1, 2), drawn(1, 100, 1, 2, seed=1)
    got = response_norm(x, size=size, towers=2, **STRONG)
    np.testing.assert_allclose(got, formula(x.numpy(), size, towers=2, **STRONG), rtol=1e-13)
    got, expected = (gradient(f, x, g, size=size, towers=2, **STRONG) for f in (response_norm, response_norm_reference))
    torch.testing.assert_close(got, expected)


def test_with_the_papers_constants_at_its_first_layers_width():
    x = drawn(1, 96, 2, 3) * 100
    got = response_norm(x, towers=2, relu=True, **PAPER)
    np.testing.assert_allclose(got, formula(np.maximum(x.numpy(), 0), towers=2, **PAPER), rtol=1e-13)


def test_no_window_reaches_into_the_other_tower():
    x = drawn(1, 8, 1, 1)
    changed = x.clone()
    changed[:, 4:] *= 100
    before, after = (response_norm(a, size=5, towers=2, **STRONG) for a in (x, changed))
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 3], response_norm(changed, size=5, towers=1, **STRONG)[:, 3])


@pytest.mark.parametrize("size", SIZES)
def test_alpha_divided_by_size_is_torchs_convention(size):
    x, g = drawn(2, 7, 3, 4), drawn(2, 7, 3, 4, seed=1)
    theirs = {"size": size, "alpha": 0.3, "beta": 0.75, "k": 1.5}
    ours = {**theirs, "alpha": 0.3 / size}
    torch.testing.assert_close(response_norm(x, **ours), F.local_response_norm(x, **theirs))
    torch.testing.assert_close(gradient(response_norm, x, g, **ours), gradient(F.local_response_norm, x, g, **theirs))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("relu", [False, True])
def test_the_gradient_is_the_slope(size, relu):
    x = drawn(2, 6, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: response_norm(x, size=size, towers=2, relu=relu, **STRONG), x)


def test_other_powers_than_three_quarters():
    x, constants = drawn(2, 6, 2, 3).requires_grad_(), {**STRONG, "beta": 0.5}
    got = response_norm(x, size=5, **constants)
    np.testing.assert_allclose(got.detach(), formula(x.detach().numpy(), 5, towers=1, **constants), rtol=1e-13)
    assert torch.autograd.gradcheck(lambda x: response_norm(x, size=5, **constants), x)
    assert torch.autograd.gradcheck(lambda x: map_norm(x, size=3, **constants), x)


# The plain versions run in float64 on the same numbers; a half type's result is then off by its own rounding alone.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1 / 128, torch.float16: 1 / 1024}


# Each of these, with towers that vectors fit and that they do not, is compiled on its own: a second for each.
KINDS = ((5, torch.float32), (5, torch.bfloat16), (8, torch.float16))
LAYOUTS = ("channels_last", "contiguous", "strided")


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers in another memory."""
    if layout == "strided":
        return x.new_zeros(*x.shape[:3], 2 * x.shape[3])[..., ::2].copy_(x)
    return x.contiguous(memory_format=getattr(torch, layout + "_format" * (layout == "contiguous")))


@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 50), st.integers(1, 5), st.integers(1, 5)),
    kind=st.sampled_from(KINDS),
    towers=st.integers(1, 3),
    relu=st.booleans(),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 100.0]),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    seed=st.integers(0, 2**32),
)
def test_fast_path_against_plain_path(shape, kind, towers, relu, scale, layouts, seed):
    (n, maps, h, w), (size, dtype) = shape, kind
    shape = (n, maps * towers, h, w)
    x, g = (laid_out((drawn(*shape, seed=seed + i) * scale).to(dtype), layouts[i]) for i in (0, 1))
    constants = {"size": size, "towers": towers, "relu": relu, **STRONG}
    got, expected = response_norm(x, **constants), response_norm_reference(x.double(), **constants)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got.double(), expected, rtol=TOLERANCE[dtype], atol=1e-7)
    got, expected = (
        gradient(response_norm, x, g, **constants),
        gradient(response_norm_reference, x.double(), g.double(), **constants),
    )
    assert got.dtype == dtype
    # A gradient is a difference: its rounding is relative to the terms, which are of the size of g.
    torch.testing.assert_close(got.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * max(scale, 1e-3))


@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    size=st.integers(1, 6),
    dtype=st.sampled_from(list(TOLERANCE)),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    seed=st.integers(0, 2**32),
)
def test_map_norm_fast_path_against_plain_path(shape, size, dtype, layouts, seed):
    x, g = (laid_out(drawn(*shape, seed=seed + i, dtype=dtype), layouts[i]) for i in (0, 1))
    constants = {"size": size, **STRONG}
    got, expected = map_norm(x, **constants), map_norm_reference(x.double(), **constants)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got.double(), expected, rtol=TOLERANCE[dtype], atol=1e-7)
    got = gradient(map_norm, x, g, **constants)
    expected = gradient(map_norm_reference, x.double(), g.double(), **constants)
    torch.testing.assert_close(got.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_no_maps_are_normalised_to_none():
    for _ in range(20):
        x = torch.zeros(1, 0, 2, 2)
        assert gradient(response_norm, x, x, size=5, **STRONG).shape == x.shape


@pytest.mark.parametrize("operation", [map_norm, map_norm_reference])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_map_norm_sums_over_the_places_around(operation, size):
    x = drawn(2, 3, 4, 6)
    a, expected = x.numpy(), np.empty(x.shape)
    for h in range(4):
        for w in range(6):
            top, left = h - size // 2, w - size // 2
            around = a[:, :, max(0, top) : top + size, max(0, left) : left + size]
            expected[:, :, h, w] = a[:, :, h, w] / (1.5 + 0.3 * (around**2).sum((2, 3))) ** 0.75
    np.testing.assert_allclose(operation(x, size=size, **STRONG), expected, rtol=1e-13)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_map_norms_gradient_is_the_slope(size):
    x = drawn(1, 2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: map_norm(x, size=size, **STRONG), x)


def test_huge_activities_and_nan_come_out_as_from_the_plain_version():
    x = torch.tensor([1e25, -1e25, 1e19, 3.0, 0.0, 1e-30, float("nan"), 1.0, 1.0, 1.0, 1.0, 1.0])[None, :, None, None]
    for relu in (False, True):
        got, expected = (f(x, relu=relu, **PAPER) for f in (response_norm, response_norm_reference))
        torch.testing.assert_close(got, expected, equal_nan=True)


@pytest.mark.parametrize("relu", [False, True])
def test_where_squares_overflow_the_gradient_is_what_more_digits_give(relu):
    # (torch's own derivative of the plain version is NaN there: it multiplies zero by infinity.)
    x = torch.tensor([1e25, -1e20, 1e19, 3.0, 0.0, 1e-30, 1.0, -1.0, 2.0])[None, :, None, None]
    g = drawn(*x.shape, dtype=torch.float32)
    got = gradient(response_norm, x, g, relu=relu, **PAPER)
    expected = gradient(response_norm_reference, x.double(), g.double(), relu=relu, **PAPER)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_map_norm_passes_nan_and_huge_activities_on_as_the_plain_version_does(dtype):
    x = drawn(1, 3, 5, 5, dtype=dtype)  # (15 activities in a row: the last vector is not whole)
    x[0, 2, 1, 4], x[0, 1, 4, 4], x[0, 0, 4, 0] = float("nan"), 1e25, float("inf")
    got, expected = (f(x, size=3, **STRONG) for f in (map_norm, map_norm_reference))
    torch.testing.assert_close(got, expected, equal_nan=True, rtol=TOLERANCE[dtype], atol=1e-7)
    x[0, 1:, 4, 4], x[0, 0, 4, 0] = 1.0, 1.0  # then the gradient is NaN around the one NaN only
    got = gradient(map_norm, x, torch.ones_like(x), size=3, **STRONG)
    around = torch.zeros(x.shape, dtype=torch.bool)
    around[0, 2, :4, 2:] = True
    assert torch.equal(got.isnan(), around)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_infinity_and_nan_in_16_bits(dtype):
    x = torch.tensor([float("inf"), 1.0, 1.0, 1.0, float("nan"), 0.0, 1.0, 1.0, 1.0, 60000.0], dtype=dtype)
    x = x[None, :, None, None]
    got, expected = (f(x, **PAPER) for f in (response_norm, response_norm_reference))
    torch.testing.assert_close(got, expected, equal_nan=True, rtol=TOLERANCE[dtype], atol=0)


def test_a_relus_gradient_is_zero_at_zero():
    x = torch.zeros(1, 2, 1, 1)
    assert gradient(response_norm, x, torch.ones_like(x), relu=True, **PAPER).abs().sum() == 0


@pytest.mark.parametrize(
    ("x", "change", "message"),
    [
        (torch.ones(1, 5, 2, 2), {"towers": 2}, "towers must divide the number of maps, 5; got 2"),
        (torch.ones(1, 4, 2, 2), {"size": 0}, "size must be at least 1; got 0"),
        (torch.ones(4, 2, 2), {}, "x must have four dimensions"),
        (torch.ones(1, 4, 2, 2, dtype=torch.int32), {}, "x must be of a floating type"),
    ],
)
def test_what_cannot_be_normalised_is_named(x, change, message):
    with pytest.raises(ValueError, match=message):
        response_norm(x, **{**PAPER, **change})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_torch_finds_the_operators_well_made(dtype, layout):
    x, g = (laid_out(drawn(2, 6, 4, 5, seed=seed, dtype=dtype), layout) for seed in (0, 1))
    x.requires_grad_()
    norm, around = (5, 2.0, 0.1, 0.75, 2, True), (5, 2.0, 0.1, 0.75)
    torch.library.opcheck(kernel._response_norm, (x, *norm))
    torch.library.opcheck(kernel._response_norm_backward, (g, x.detach(), *norm))
    torch.library.opcheck(kernel._map_norm, (x, *around))
    torch.library.opcheck(kernel._map_norm_backward, (g, x.detach(), *around))


@given(
    shape=st.tuples(*(st.integers(0, 3) for _ in range(4))).filter(lambda shape: shape[1]),
    layout=st.sampled_from(LAYOUTS),
)
def test_shape_functions_tell_the_strides(shape, layout):
    x = laid_out(drawn(*shape, dtype=torch.float32), layout)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(x)
        on_gpu = torch.empty_strided(x.shape, x.stride(), device="cuda")
        told = [f(a, size=5, **STRONG) for f in (response_norm, map_norm) for a in (fake, on_gpu)]
    made = [f(x, size=5, **STRONG) for f in (response_norm, map_norm) for _ in range(2)]
    assert [a.shape for a in told] == [a.shape for a in made]
    assert [a.stride() for a in told] == [a.stride() for a in made]


def test_a_gpu_without_triton_takes_the_plain_path_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(kernel, "_TRITON", False)
    monkeypatch.setattr(kernel, "note_once", note_once.__wrapped__)  # which may have been said before
    with FakeTensorMode():
        assert not kernel._has_kernel(torch.empty(2, 6, 4, 4, device="cuda"))
    assert "Triton is not installed" in capsys.readouterr().err


class Layer(torch.nn.Module):
    """Every operation, behind a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return map_norm(response_norm(F.conv2d(x, torch.ones(4, 3, 1, 1)), relu=True, **PAPER), size=3, **STRONG)


def test_export_and_autocast_see_through_it():
    x = drawn(2, 3, 4, 5, dtype=torch.float32)
    exported = torch.export.export(Layer(), (x,))
    torch.testing.assert_close(exported.module()(x), Layer()(x), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert Layer()(x).dtype == torch.bfloat16  # as the convolution made it
        assert response_norm(x, **PAPER).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compile_sees_through_it(dtype):
    torch.compiler.reset()
    compiled = torch.compile(Layer(), fullgraph=True, backend="aot_eager")
    x = drawn(2, 3, 4, 5, dtype=dtype)
    results = []
    for layer in (compiled, Layer()):
        inner = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = layer(inner)
        y.float().square().sum().backward()
        results.append((y, inner.grad))
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)


def test_the_same_bits_on_any_number_of_threads_and_from_several_at_once():
    x, g = (drawn(4, 16, 9, 9, seed=i, dtype=torch.float32) for i in (0, 1))
    constants = {"towers": 2, "relu": True, **PAPER}
    results: list[Tensor] = []

    def work() -> None:
        for _ in range(20):
            results.extend([response_norm(x, **constants), gradient(response_norm, x, g, **constants)])
            results.extend([map_norm(x, size=3, **STRONG), gradient(map_norm, x, g, size=3, **STRONG)])

    threads = torch.get_num_threads()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            callers = [threading.Thread(target=work) for _ in range(3)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
    finally:
        torch.set_num_threads(threads)
    assert len(results) == 2 * 3 * 20 * 4
    assert len({a.numpy().tobytes() for a in results}) == 4


UNWRITABLE = """
import numba
real = numba.njit
def njit(*arguments, cache=False, **options):
    if cache:
        def no_folder(function):
            raise RuntimeError("cannot cache function: no locator available")
        return no_folder
    return real(*arguments, **options)
numba.njit = njit
import torch
from alexnet.kernels.response_norm import response_norm
print(response_norm(torch.ones(1, 1, 1, 1), size=1, k=1.0, alpha=0.0, beta=0.75).item())
"""


def test_without_a_folder_to_write_to_it_compiles_anew():
    result = subprocess.run([sys.executable, "-c", UNWRITABLE], check=True, timeout=300, capture_output=True, text=True)
    assert result.stdout == "1.0\n"
    assert len(result.stderr.splitlines()) == 1
    assert "kernels are compiled anew in each process" in result.stderr
