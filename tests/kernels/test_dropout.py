"""Dropout by place: the CPU's loops, plain torch and Triton against Philox in NumPy, bit for bit."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alexnet.kernels import dropout as kernel
from alexnet.kernels.compile import has_triton
from alexnet.kernels.dropout import dropout, dropout_reference

pytestmark = pytest.mark.gpu
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
KEY = 0x0123_4567_89AB_CDEF


def by_triton(x: Tensor, key: Tensor, *, p: float, layer: int = 0, row: int = 0, column: int = 0) -> Tensor:
    """The GPU's kernel; interpreted without one."""
    from alexnet.kernels.dropout_triton import dropout_triton

    y = dropout_triton(x.to(DEVICE), key.to(DEVICE), round(p * 2**32), layer, row, column)
    assert y.is_contiguous()
    return y.cpu()


WAYS = [
    pytest.param(dropout, id="loops"),
    pytest.param(dropout_reference, id="torch"),
    pytest.param(by_triton, id="triton", marks=pytest.mark.skipif(not has_triton(), reason="triton is not installed")),
]


@pytest.fixture(autouse=True)
def _overflow_is_no_warning() -> Iterator[None]:
    """Words wrap around, which Triton's interpreter does with NumPy's numbers."""
    with np.errstate(over="ignore"):
        yield


def philox(counter: Sequence[Any], key: Sequence[int]) -> list[np.ndarray]:
    """Philox4x32-10 by its definition: Python's whole numbers, which never wrap, cut to 32 bits."""
    words = [np.asarray(word, dtype=object) for word in counter]
    k = list(key)
    for _ in range(10):
        first, second = words[0] * 0xD2511F53, words[2] * 0xCD9E8D57
        words = [
            second // 2**32 ^ words[1] ^ k[0],
            second % 2**32,
            first // 2**32 ^ words[3] ^ k[1],
            first % 2**32,
        ]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return words


def expected(x: Tensor, key: int, *, p: float, layer: int = 0, row: int = 0, column: int = 0) -> Tensor:
    """What dropout is to give."""
    key %= 2**64
    r = np.arange(row, row + x.shape[0]).astype(object)[:, None]
    c = np.arange(column, column + x.shape[1]).astype(object)[None, :]
    r, c = np.broadcast_arrays(r, c)
    words = philox((c // 4, r, layer, 0), (key % 2**32, key // 2**32))
    word = np.choose((c % 4).astype(int), words) if c.size else c
    kept = torch.from_numpy((word >= round(p * 2**32)).astype(bool))
    return torch.where(kept, x, torch.zeros((), dtype=x.dtype))


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def same_bits(got: Tensor, wanted: Tensor) -> None:
    """Equal, the signs of zeros and NaN included."""
    assert got.dtype == wanted.dtype
    number = {2: torch.int16, 4: torch.int32, 8: torch.int64}[got.itemsize]
    assert torch.equal(got.contiguous().view(number), wanted.contiguous().view(number))


@pytest.mark.parametrize(
    ("counter", "key", "words"),
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
def test_what_we_compare_with_gives_the_words_that_its_authors_published(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    assert tuple(map(int, philox(counter, key))) == words  # kat_vectors of Random123


@pytest.mark.parametrize("way", WAYS)
def test_an_entry_is_dropped_just_above_its_published_word(way: Callable[..., Tensor]) -> None:
    x, key = torch.ones(1, 4), torch.tensor([0])
    for column, word in enumerate((0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)):
        assert way(x, key, p=word / 2**32)[0, column] == 1
        assert way(x, key, p=(word + 1) / 2**32)[0, column] == 0


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "whole": lambda x: x,
    "transposed": lambda x: x.t().contiguous().t(),
    "part": lambda x: torch.cat([x, x, x], 1)[:, x.shape[1] : 2 * x.shape[1]],
    "every second": lambda x: x.repeat_interleave(2, 0).repeat_interleave(2, 1)[::2, ::2],
}


@pytest.mark.parametrize("way", WAYS)
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
def test_every_way_gives_the_same_bits_at_any_place(
    way: Callable[..., Tensor],
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
    x = LAYOUTS[layout](drawn(rows, columns, dtype=dtype, seed=columns))
    where = {"p": p, "layer": layer, "row": row, "column": column}
    got = way(x, torch.tensor([key]), **where)
    same_bits(got, expected(x, key, **where))


@pytest.mark.parametrize("way", WAYS)
def test_dropped_is_plain_zero_and_kept_is_untouched_whatever_it_was(way: Callable[..., Tensor]) -> None:
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, -1.0, -0.0, 1e-45, 3e38, 2.0])
    x = values.repeat_interleave(32)[None].repeat(3, 1)
    got = way(x, torch.tensor([KEY]), p=0.5)
    same_bits(got, expected(x, KEY, p=0.5))
    assert (got.view(3, 8, 32).view(torch.int32) == 0).any(2).all()  # each value is dropped somewhere


@pytest.mark.parametrize("way", WAYS)
def test_the_ends_of_p(way: Callable[..., Tensor]) -> None:
    x, key = drawn(5, 300), torch.tensor([KEY])
    same_bits(way(x, key, p=0.0), x)
    for p in (1.0, 1 - 2**-34):  # the latter rounds to all words
        assert not way(x, key, p=p).any()
    near = 1 - 2**-6
    got = way(x, key, p=near)
    same_bits(got, expected(x, KEY, p=near))
    assert 8 < got.count_nonzero() < 48  # 1500 / 64 on average


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=5)
@given(data=st.data())
def test_the_mask_does_not_depend_on_how_rows_and_columns_are_split(way: Callable[..., Tensor], data: Any) -> None:
    n, c, key = 5, 90, torch.tensor([KEY])
    x = drawn(n, c)
    whole = way(x, key, p=0.4, layer=3, row=10, column=6)
    rows, columns = ([0, *sorted(data.draw(st.sets(st.integers(1, k - 1), max_size=2))), k] for k in (n, c))
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            part = way(x[top:bottom, left:right], key, p=0.4, layer=3, row=10 + top, column=6 + left)
            same_bits(part, whole[top:bottom, left:right])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_divide_the_rows_to_the_same_bits(threads: int) -> None:
    x, before = drawn(19, 1100), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = dropout(x, torch.tensor([KEY]), p=0.5, row=3, column=2)
    finally:
        torch.set_num_threads(before)
    same_bits(got, expected(x, KEY, p=0.5, row=3, column=2))


# ---- As an operator -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", [dropout, dropout_reference])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_is_dropped_where_the_activity_was(operation: Callable[..., Tensor], dtype: torch.dtype) -> None:
    x, g, key = drawn(6, 41, dtype=dtype).requires_grad_(), drawn(6, 41, dtype=dtype, seed=1), torch.tensor([KEY])
    where = {"p": 0.3, "layer": 2, "row": 5, "column": 7}
    y = operation(x, key, **where)
    (dx,) = torch.autograd.grad(y, x, g)
    same_bits(dx, expected(g, KEY, **where))
    (dx,) = torch.autograd.grad(operation(x, key, **where).sum(), x)  # a gradient without memory of its own
    same_bits(dx, expected(torch.ones(6, 41, dtype=dtype), KEY, **where))


def test_the_derivative_against_differences_twice() -> None:
    x = drawn(3, 9, dtype=torch.float64).requires_grad_()

    def drop(x: Tensor) -> Tensor:
        return dropout(x.square(), torch.tensor([KEY]), p=0.5)

    assert torch.autograd.gradcheck(drop, x)
    assert torch.autograd.gradgradcheck(drop, x)


def test_a_key_changed_before_the_way_back_is_noticed() -> None:
    x, key = drawn(2, 8).requires_grad_(), torch.tensor([1])
    y = dropout(x, key, p=0.5)
    key.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_finds_the_operator_well_made(layout: str, dtype: torch.dtype) -> None:
    x = LAYOUTS[layout](drawn(4, 10, dtype=dtype)).to(DEVICE).requires_grad_()
    torch.library.opcheck(kernel._dropout, (x, torch.tensor([KEY], device=DEVICE), 0.5, 1, 2, 3))


def test_autocast_changes_nothing() -> None:
    x, key = drawn(4, 30), torch.tensor([KEY])
    with torch.autocast("cpu", torch.bfloat16):
        got = dropout(x, key, p=0.5)
    same_bits(got, expected(x, KEY, p=0.5))


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


def test_masks_of_neighbours_layers_and_keys_have_nothing_in_common() -> None:
    x, n = torch.ones(512, 512), 512 * 512

    def mask(key: int = KEY, **where: int) -> Tensor:
        return (dropout(x, torch.tensor([key]), p=0.5, **where) == 0).double() - 0.5

    one = mask()
    others = {
        "next row": mask(row=1),
        "next column": mask(column=1),
        "four columns on": mask(column=4),
        "next layer": mask(layer=1),
        "next key": mask(KEY + 1),
        "upper half of the key": mask(KEY + 2**32),
        "transposed": one.t().clone().fill_diagonal_(0),
    }
    for name, other in others.items():
        assert abs((one * other).sum() * 4 / n**0.5) < 4.5, name  # a correlation in units of its deviation


# ---- Refusals, and what a GPU does ----------------------------------------------------------------------------------


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
def test_what_does_not_fit_is_refused_in_one_line(changed: dict[str, Any], message: str) -> None:
    given_ = {"x": torch.ones(2, 3), "key": torch.tensor([1]), "p": 0.5} | changed
    with pytest.raises(ValueError, match=f"^{message}$"):
        dropout(given_.pop("x"), given_.pop("key"), **given_)


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
def test_a_captured_dropout_drops_by_the_key_it_finds_at_each_replay() -> None:
    x, key = drawn(16, 4096, dtype=torch.bfloat16), torch.tensor([KEY], device="cuda")
    on_device = x.cuda()
    dropout(on_device, key, p=0.5)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = dropout(on_device, key, p=0.5)
    for number in (1, 2**40, -7):
        key.fill_(number)
        graph.replay()
        same_bits(y.cpu(), dropout(x, torch.tensor([number]), p=0.5))


COMPILED = """
import os, sys
os.environ.pop("TRITON_INTERPRET", None)
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from alexnet.kernels.dropout_triton import QUADS, _drop
for number in ("bf16", "fp32"):
    types = {"x": "*" + number, "y": "*" + number, "key": "*i64", "threshold": "i64"}
    types |= dict.fromkeys(("column_stride", "SHIFT", "QUADS"), "constexpr")
    signature = {name: types.get(name, "i32") for name in _drop.arg_names}
    place = {name: (i,) for i, name in enumerate(_drop.arg_names)}
    aligned = {place[name]: [["tt.divisibility", 16]] for name in ("x", "y", "columns", "row_stride")}
    source = ASTSource(_drop, signature, {place["QUADS"]: QUADS, place["SHIFT"]: 0, place["column_stride"]: 1}, aligned)
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    print(number, "ld.global.v4" in ptx, "st.global.v4" in ptx, "shared" in ptx)
"""


@pytest.mark.skipif(not has_triton(), reason="triton is not installed")
@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux")
def test_the_kernel_compiled_for_an_h200_moves_vectors_and_no_shared_memory(tmp_path) -> None:
    environment = {"TRITON_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILED], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["bf16", "True", "True", "False", "fp32", "True", "True", "False"]
