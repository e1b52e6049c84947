"""Response normalisation against the paper's formula in loops, torch's own layer, and gradients from float64."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensors import LAYOUTS, gradient, random_tensor, to_layout
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from alexnet.kernels import register
from alexnet.kernels.map_norm import map_norm
from alexnet.kernels.response_norm import response_norm, response_norm_reference
from alexnet.utils.console import note_once

PAPER = {"size": 5, "k": 2.0, "alpha": 1e-4, "beta": 0.75}
STRONG = {"k": 1.5, "alpha": 0.3, "beta": 0.75}  # where the sum matters more than k
# Each size and power is compiled separately: a few, odd and even, narrower and wider than a tower of 2 to 6 maps.
SIZES = (2, 5, 8)


def formula(a: np.ndarray, size: int, k: float, alpha: float, beta: float, towers: int) -> np.ndarray:
    """Section 4.3's formula, summed map by map within each tower."""
    b = np.empty_like(a)
    for tower in np.split(np.arange(a.shape[1]), towers):
        for i in tower:
            window = [j for j in tower if i - size // 2 <= j < i - size // 2 + size]
            b[:, i] = a[:, i] / (k + alpha * sum(a[:, j] ** 2 for j in window)) ** beta
    return b


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return random_tensor(*shape, seed=seed, dtype=torch.float64)


@pytest.mark.parametrize("operation", [response_norm, response_norm_reference])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("towers", [1, 2])
def test_it_is_the_papers_formula(operation, size, towers):
    x = doubles(2, 12, 3, 4)
    y = operation(x, size=size, towers=towers, **STRONG)
    np.testing.assert_allclose(y, formula(x.numpy(), size, towers=towers, **STRONG), rtol=1e-13)


@pytest.mark.parametrize("size", [32, 33, 34])
def test_windows_as_wide_as_the_loops_take_and_wider(size):
    x, g = doubles(1, 100, 1, 2), doubles(1, 100, 1, 2, seed=1)
    y = response_norm(x, size=size, towers=2, **STRONG)
    np.testing.assert_allclose(y, formula(x.numpy(), size, towers=2, **STRONG), rtol=1e-13)
    dx, expected = (gradient(f, x, g, size=size, towers=2, **STRONG) for f in (response_norm, response_norm_reference))
    torch.testing.assert_close(dx, expected)


def test_with_the_papers_constants_at_the_width_of_its_first_layer():
    x = doubles(1, 96, 2, 3) * 100
    y = response_norm(x, towers=2, relu=True, **PAPER)
    np.testing.assert_allclose(y, formula(np.maximum(x.numpy(), 0), towers=2, **PAPER), rtol=1e-13)


def test_no_window_reaches_into_the_other_tower():
    x = doubles(1, 8, 1, 1)
    changed = x.clone()
    changed[:, 4:] *= 100
    before, after = (response_norm(a, size=5, towers=2, **STRONG) for a in (x, changed))
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 3], response_norm(changed, size=5, towers=1, **STRONG)[:, 3])


@pytest.mark.parametrize("size", SIZES)
def test_alpha_divided_by_size_is_torchs_convention(size):
    x, g = doubles(2, 7, 3, 4), doubles(2, 7, 3, 4, seed=1)
    torch_constants = {"size": size, "alpha": 0.3, "beta": 0.75, "k": 1.5}
    constants = {**torch_constants, "alpha": 0.3 / size}
    torch.testing.assert_close(response_norm(x, **constants), F.local_response_norm(x, **torch_constants))
    torch.testing.assert_close(
        gradient(response_norm, x, g, **constants), gradient(F.local_response_norm, x, g, **torch_constants)
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("relu", [False, True])
def test_the_gradient_is_the_slope(size, relu):
    x = doubles(2, 6, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: response_norm(x, size=size, towers=2, relu=relu, **STRONG), x)


def test_other_powers_than_three_quarters():
    x, constants = doubles(2, 6, 2, 3).requires_grad_(), {**STRONG, "beta": 0.5}
    y = response_norm(x, size=5, **constants)
    np.testing.assert_allclose(y.detach(), formula(x.detach().numpy(), 5, towers=1, **constants), rtol=1e-13)
    assert torch.autograd.gradcheck(lambda x: response_norm(x, size=5, **constants), x)


# The references run in float64 on the same numbers; a half type's result is then off by its own rounding only.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1 / 128, torch.float16: 1 / 1024}
# Each of these, with towers that vectors divide or not, is compiled separately: a second for each.
KINDS = ((5, torch.float32), (5, torch.bfloat16), (8, torch.float16))


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
    x, g = (to_layout((doubles(*shape, seed=seed + i) * scale).to(dtype), layouts[i]) for i in (0, 1))
    constants = {"size": size, "towers": towers, "relu": relu, **STRONG}
    y, expected = response_norm(x, **constants), response_norm_reference(x.double(), **constants)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y.double(), expected, rtol=TOLERANCE[dtype], atol=1e-7)
    dx = gradient(response_norm, x, g, **constants)
    expected = gradient(response_norm_reference, x.double(), g.double(), **constants)
    assert dx.dtype == dtype
    # A gradient is a difference: its rounding is relative to the terms, which are of the size of g.
    torch.testing.assert_close(dx.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * max(scale, 1e-3))


def test_no_maps_are_normalised_to_none():
    for _ in range(20):
        x = torch.zeros(1, 0, 2, 2)
        assert gradient(response_norm, x, x, size=5, **STRONG).shape == x.shape


def test_huge_activations_and_nan_give_the_results_of_the_reference():
    x = torch.tensor([1e25, -1e25, 1e19, 3.0, 0.0, 1e-30, float("nan"), 1.0, 1.0, 1.0, 1.0, 1.0])[None, :, None, None]
    for relu in (False, True):
        y, expected = (f(x, relu=relu, **PAPER) for f in (response_norm, response_norm_reference))
        torch.testing.assert_close(y, expected, equal_nan=True)


@pytest.mark.parametrize("relu", [False, True])
def test_where_squares_overflow_the_gradient_is_that_of_more_digits(relu):
    # (torch's own derivative of the reference is NaN there: it multiplies zero by infinity.)
    x = torch.tensor([1e25, -1e20, 1e19, 3.0, 0.0, 1e-30, 1.0, -1.0, 2.0])[None, :, None, None]
    g = random_tensor(*x.shape)
    dx = gradient(response_norm, x, g, relu=relu, **PAPER)
    expected = gradient(response_norm_reference, x.double(), g.double(), relu=relu, **PAPER)
    torch.testing.assert_close(dx.double(), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_infinity_and_nan_in_16_bits(dtype):
    x = torch.tensor([float("inf"), 1.0, 1.0, 1.0, float("nan"), 0.0, 1.0, 1.0, 1.0, 60000.0], dtype=dtype)
    x = x[None, :, None, None]
    y, expected = (f(x, **PAPER) for f in (response_norm, response_norm_reference))
    torch.testing.assert_close(y, expected, equal_nan=True, rtol=TOLERANCE[dtype], atol=0)


def test_the_gradient_of_a_relu_is_zero_at_zero():
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
def test_torch_accepts_the_operations(dtype, layout):
    x, g = (to_layout(random_tensor(2, 6, 4, 5, seed=seed, dtype=dtype), layout) for seed in (0, 1))
    constants = (5, 2.0, 0.1, 0.75, 2, True)
    torch.library.opcheck(torch.ops.alexnet.response_norm.default, (x.requires_grad_(), *constants))
    torch.library.opcheck(torch.ops.alexnet.response_norm_backward.default, (g, x.detach(), *constants))


@given(
    shape=st.tuples(*(st.integers(0, 3) for _ in range(4))).filter(lambda shape: shape[1]),
    layout=st.sampled_from(LAYOUTS),
)
def test_shapes_and_strides_are_known_without_computing(shape, layout):
    x = to_layout(random_tensor(*shape), layout)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(x)
        on_gpu = torch.empty_strided(x.shape, x.stride(), device="cuda")
        inferred = [f(a, size=5, **STRONG) for f in (response_norm, map_norm) for a in (fake, on_gpu)]
    computed = [f(x, size=5, **STRONG) for f in (response_norm, map_norm) for _ in range(2)]
    assert [a.shape for a in inferred] == [a.shape for a in computed]
    assert [a.stride() for a in inferred] == [a.stride() for a in computed]


def test_a_gpu_without_triton_takes_the_plain_path_with_a_note(monkeypatch, capsys):
    monkeypatch.setattr(register, "HAS_TRITON", False)
    monkeypatch.setattr(register, "note_once", note_once.__wrapped__)  # the note may have been printed before
    with FakeTensorMode():
        assert not register.runs_triton(torch.empty(2, 6, 4, 4, device="cuda"), "response normalisation")
    assert "response normalisation on the GPU runs in plain torch" in capsys.readouterr().err


class Normalised(torch.nn.Module):
    """Both normalisations after a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return map_norm(response_norm(F.conv2d(x, torch.ones(4, 3, 1, 1)), relu=True, **PAPER), size=3, **STRONG)


def test_it_can_be_exported_and_autocast_leaves_it_as_it_is():
    x = random_tensor(2, 3, 4, 5)
    exported = torch.export.export(Normalised(), (x,))
    torch.testing.assert_close(exported.module()(x), Normalised()(x), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert Normalised()(x).dtype == torch.bfloat16  # the type of the convolution's result
        assert response_norm(x, **PAPER).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_can_be_compiled_to_the_same_bits(dtype):
    torch.compiler.reset()
    compiled = torch.compile(Normalised(), fullgraph=True, backend="aot_eager")
    x = random_tensor(2, 3, 4, 5, dtype=dtype)
    results = []
    for module in (compiled, Normalised()):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = module(leaf)
        y.float().square().sum().backward()
        results.append((y, leaf.grad))
    for result, expected in zip(*results, strict=True):
        assert torch.equal(result, expected)


def test_the_same_bits_on_any_number_of_threads_and_from_several_callers_at_once():
    x, g = (random_tensor(4, 16, 9, 9, seed=i) for i in (0, 1))
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


def test_without_a_writable_cache_folder_it_is_compiled_in_each_process():
    result = subprocess.run([sys.executable, "-c", UNWRITABLE], check=True, timeout=300, capture_output=True, text=True)
    assert result.stdout == "1.0\n"
    assert len(result.stderr.splitlines()) == 1
    assert "kernels are compiled again in each process" in result.stderr
