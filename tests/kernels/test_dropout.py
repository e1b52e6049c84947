"""Dropout by position: the CPU's loops, plain torch and Triton against Philox in NumPy, bit for bit."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, random_tensor
from torch import Tensor

from alexnet.kernels.compile import has_triton
from alexnet.kernels.dropout import dropout, dropout_reference

pytestmark = pytest.mark.gpu
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
KEY = 0x0123_4567_89AB_CDEF


def by_triton(x: Tensor, key: Tensor, *, p: float, layer: int = 0, row: int = 0, column: int = 0) -> Tensor:
    """`dropout` by the GPU's kernel; interpreted without a GPU."""
    from alexnet.kernels import dropout_triton

    y = torch.empty(x.shape, dtype=x.dtype, device=DEVICE)
    dropout_triton.dropout(x.to(DEVICE), key.to(DEVICE), p, layer, row, column, y)
    return y.cpu()


IMPLEMENTATIONS = [
    pytest.param(dropout, id="loops"),
    pytest.param(dropout_reference, id="torch"),
    pytest.param(by_triton, id="triton", marks=pytest.mark.skipif(not has_triton(), reason="triton is not installed")),
]


@pytest.fixture(autouse=True)
def _overflow_gives_no_warning() -> Iterator[None]:
    """Random numbers wrap around, which Triton's interpreter does with NumPy's numbers."""
    with np.errstate(over="ignore"):
        yield


def philox(counter: Sequence[Any], key: Sequence[int]) -> list[np.ndarray]:
    """Philox4x32-10 by its definition, in Python's integers, which never wrap, cut to 32 bits."""
    numbers = [np.asarray(number, dtype=object) for number in counter]
    k = list(key)
    for _ in range(10):
        first, second = numbers[0] * 0xD2511F53, numbers[2] * 0xCD9E8D57
        numbers = [
            second // 2**32 ^ numbers[1] ^ k[0],
            second % 2**32,
            first // 2**32 ^ numbers[3] ^ k[1],
            first % 2**32,
        ]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return numbers


def expected(x: Tensor, key: int, *, p: float, layer: int = 0, row: int = 0, column: int = 0) -> Tensor:
    """Return the right result of `dropout`."""
    key %= 2**64
    r = np.arange(row, row + x.shape[0]).astype(object)[:, None]
    c = np.arange(column, column + x.shape[1]).astype(object)[None, :]
    r, c = np.broadcast_arrays(r, c)
    numbers = philox((c // 4, r, layer, 0), (key % 2**32, key // 2**32))
    number = np.choose((c % 4).astype(int), numbers) if c.size else c
    mask = torch.from_numpy((number >= round(p * 2**32)).astype(bool))
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype))


def assert_same_bits(result: Tensor, reference: Tensor) -> None:
    """Equal, the signs of zeros and NaN included."""
    assert result.dtype == reference.dtype
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[result.itemsize]
    assert torch.equal(result.contiguous().view(bits), reference.contiguous().view(bits))


@pytest.mark.parametrize(
    ("counter", "key", "numbers"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_generator_of_the_tests_gives_the_numbers_that_its_authors_published(
    counter: tuple[int, ...], key: tuple[int, int], numbers: tuple[int, ...]
) -> None:
    assert tuple(map(int, philox(counter, key))) == numbers  # kat_vectors of Random123


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_entry_is_dropped_where_p_is_just_above_its_published_number(implementation: Callable[..., Tensor]) -> None:
    x, key = torch.ones(1, 4), torch.tensor([0])
    for column, number in enumerate((0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)):
        assert implementation(x, key, p=number / 2**32)[0, column] == 1
        assert implementation(x, key, p=(number + 1) / 2**32)[0, column] == 0


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.t().contiguous().t(),
    "columns of a matrix": lambda x: torch.cat([x, x, x], 1)[:, x.shape[1] : 2 * x.shape[1]],
    "every second entry": lambda x: x.repeat_interleave(2, 0).repeat_interleave(2, 1)[::2, ::2],
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=40)
@given(
    rows=st.integers(0, 4),
    columns=st.integers(0, 70) | st.sampled_from([512, 513, 1030]),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    key=st.integers(-(2**63), 2**63 - 1),
    p=st.sampled_from([0.5, 0.2]) | st.floats(0, 1),
    layer=st.sampled_from([0, 1, 2, 2**32 - 1]),
    row=st.integers(0, 20) | st.integers(2**31 - 2, 2**31 + 2) | st.just(2**32 - 4),
    column=st.integers(0, 20) | st.sampled_from([2048, 2**31 - 3, 2**31 + 1, 2**32 - 1031]),
)
def test_all_implementations_give_the_same_bits_at_any_position(
    implementation: Callable[..., Tensor],
    rows: int,
    columns: int,
    dtype: torch.dtype,
    layout: str,
    key: int,
    p: float,
    layer: int,
    row: int,
    column: int,
) -> None:
    x = LAYOUTS[layout](random_tensor(rows, columns, dtype=dtype, seed=columns))
    position = {"p": p, "layer": layer, "row": row, "column": column}
    y = implementation(x, torch.tensor([key]), **position)
    assert_same_bits(y, expected(x, key, **position))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_is_dropped_is_zero_and_the_rest_unchanged_whatever_the_value(
    implementation: Callable[..., Tensor],
) -> None:
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, -1.0, -0.0, 1e-45, 3e38, 2.0])
    x = values.repeat_interleave(32)[None].repeat(3, 1)
    y = implementation(x, torch.tensor([KEY]), p=0.5)
    assert_same_bits(y, expected(x, KEY, p=0.5))
    assert (y.view(3, 8, 32).view(torch.int32) == 0).any(2).all()  # each value is dropped somewhere


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_ends_of_p(implementation: Callable[..., Tensor]) -> None:
    x, key = random_tensor(5, 300), torch.tensor([KEY])
    assert_same_bits(implementation(x, key, p=0.0), x)
    for p in (1.0, 1 - 2**-34):  # the latter rounds to 2**32, all numbers
        assert not implementation(x, key, p=p).any()
    near = 1 - 2**-6
    y = implementation(x, key, p=near)
    assert_same_bits(y, expected(x, KEY, p=near))
    assert 8 < y.count_nonzero() < 48  # 1500 / 64 on average


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=5)
@given(data=st.data())
def test_the_mask_does_not_depend_on_how_rows_and_columns_are_split(
    implementation: Callable[..., Tensor], data: Any
) -> None:
    n, c, key = 5, 90, torch.tensor([KEY])
    x = random_tensor(n, c)
    full = implementation(x, key, p=0.4, layer=3, row=10, column=6)
    rows, columns = ([0, *sorted(data.draw(st.sets(st.integers(1, k - 1), max_size=2))), k] for k in (n, c))
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            part = implementation(x[top:bottom, left:right], key, p=0.4, layer=3, row=10 + top, column=6 + left)
            assert_same_bits(part, full[top:bottom, left:right])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_divide_the_rows_to_the_assert_same_bits(threads: int) -> None:
    x, before = random_tensor(19, 1100), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = dropout(x, torch.tensor([KEY]), p=0.5, row=3, column=2)
    finally:
        torch.set_num_threads(before)
    assert_same_bits(y, expected(x, KEY, p=0.5, row=3, column=2))


# ---- As an operation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", [dropout, dropout_reference])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_is_dropped_where_the_activation_was(operation: Callable[..., Tensor], dtype: torch.dtype) -> None:
    x, g, key = (
        random_tensor(6, 41, dtype=dtype).requires_grad_(),
        random_tensor(6, 41, dtype=dtype, seed=1),
        torch.tensor([KEY]),
    )
    position = {"p": 0.3, "layer": 2, "row": 5, "column": 7}
    y = operation(x, key, **position)
    (dx,) = torch.autograd.grad(y, x, g)
    assert_same_bits(dx, expected(g, KEY, **position))
    (dx,) = torch.autograd.grad(operation(x, key, **position).sum(), x)  # a gradient without memory of its own
    assert_same_bits(dx, expected(torch.ones(6, 41, dtype=dtype), KEY, **position))


def test_first_and_second_derivative_against_differences() -> None:
    x = random_tensor(3, 9, dtype=torch.float64).requires_grad_()

    def drop(x: Tensor) -> Tensor:
        return dropout(x.square(), torch.tensor([KEY]), p=0.5)

    assert torch.autograd.gradcheck(drop, x)
    assert torch.autograd.gradgradcheck(drop, x)


def test_a_key_changed_before_the_backward_pass_is_an_error() -> None:
    x, key = random_tensor(2, 8).requires_grad_(), torch.tensor([1])
    y = dropout(x, key, p=0.5)
    key.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# Each layout with one type and each type with one layout: torch takes half a second for each.
@pytest.mark.parametrize(
    ("layout", "dtype"),
    [*((layout, DTYPES[0]) for layout in sorted(LAYOUTS)), *(("contiguous", dtype) for dtype in DTYPES[1:])],
)
def test_torch_accepts_the_operation(layout: str, dtype: torch.dtype) -> None:
    x = LAYOUTS[layout](random_tensor(4, 10, dtype=dtype)).to(DEVICE).requires_grad_()
    torch.library.opcheck(torch.ops.alexnet.dropout.default, (x, torch.tensor([KEY], device=DEVICE), 0.5, 1, 2, 3))


def test_autocast_changes_nothing() -> None:
    x, key = random_tensor(4, 30), torch.tensor([KEY])
    with torch.autocast("cpu", torch.bfloat16):
        y = dropout(x, key, p=0.5)
    assert_same_bits(y, expected(x, KEY, p=0.5))


# ---- As random numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.5, 0.2, 0.9, 2**-10])
def test_the_share_of_dropped_entries_is_p_in_all_and_in_every_row_and_column(p: float) -> None:
    n = 1024
    dropped = dropout(torch.ones(n, n), torch.tensor([KEY]), p=p) == 0
    deviation = (p * (1 - p)) ** 0.5
    assert abs(dropped.double().mean() - p) < 4 * deviation / n
    for dim in (0, 1):
        shares = dropped.double().mean(dim)
        assert (shares - p).abs().max() < 7 * deviation / n**0.5  # of 1024 shares; wide, for the tail at 2**-10
        # Neither more even nor less than chance: the chi-squared of n shares is n, give or take sqrt(2 n).
        assert abs((shares - p).square().sum() * n / deviation**2 - n) < 5 * (2 * n) ** 0.5


def test_masks_of_adjacent_positions_layers_and_keys_are_not_correlated() -> None:
    x, n = torch.ones(512, 512), 512 * 512

    def mask(key: int = KEY, **position: int) -> Tensor:
        return (dropout(x, torch.tensor([key]), p=0.5, **position) == 0).double() - 0.5

    reference = mask()
    others = {
        "next row": mask(row=1),
        "next column": mask(column=1),
        "four columns on": mask(column=4),
        "next layer": mask(layer=1),
        "next key": mask(KEY + 1),
        "upper half of the key": mask(KEY + 2**32),
        "transposed": reference.t().clone().fill_diagonal_(0),
    }
    for name, other in others.items():
        assert abs((reference * other).sum() * 4 / n**0.5) < 4.5, (
            name
        )  # a correlation, in units of its standard deviation


# ---- Errors, and on a GPU ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.ones(2, 3, 4)}, r"x must be a matrix of a floating type .*; got \(2, 3, 4\) of torch.float32"),
        ({"x": torch.ones(2, 3, dtype=torch.int32)}, "x must be a matrix of a floating type .*; got .* torch.int32"),
        ({"key": torch.ones(1)}, r"key must be one int64 on cpu, where x is; got \(1,\) of torch.float32 on cpu"),
        ({"key": torch.tensor([1, 2])}, r"key must be one int64 on cpu, where x is; got \(2,\) of torch.int64 on cpu"),
        ({"key": torch.tensor([1], device="meta")}, "key must be one int64 on cpu, where x is; got .* on meta"),
        ({"p": 1.5}, "p must be a probability from 0 to 1; got 1.5"),
        ({"p": float("nan")}, "p must be a probability from 0 to 1; got nan"),
        ({"layer": -1}, r"layer must be from 0 to below 2\*\*32, .*; got -1"),
        ({"row": 2**32 - 1}, r"row must be at least 0 and rows end at 2\*\*32; got 4294967295 and 2 rows"),
        ({"column": -4}, r"column must be at least 0 and columns end at 2\*\*32; got -4 and 3 columns"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(changed: dict[str, Any], message: str) -> None:
    arguments = {"x": torch.ones(2, 3), "key": torch.tensor([1]), "p": 0.5} | changed
    with pytest.raises(ValueError, match=f"^{message}$"):
        dropout(arguments.pop("x"), arguments.pop("key"), **arguments)


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
def test_each_replay_of_a_captured_dropout_reads_the_key_again() -> None:
    x, key = random_tensor(4, 4096, dtype=torch.bfloat16), torch.tensor([KEY], device="cuda")
    on_device = x.cuda()
    dropout(on_device, key, p=0.5)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = dropout(on_device, key, p=0.5)
    for number in (1, 2**40, -7):
        key.fill_(number)
        graph.replay()
        assert_same_bits(y.cpu(), dropout(x, torch.tensor([number]), p=0.5))
