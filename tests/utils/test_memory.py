"""The options of malloc that keep freed memory."""

import ctypes
import sys

import pytest

from alexnet.utils.memory import keep_freed_memory


@pytest.mark.parametrize(
    ("largest", "platform", "calls"),
    [
        (2**40, "linux", [(-3, 2**30), (-1, 2**31 - 1), (-2, 2**26)]),
        (2**25, "linux", [(-3, 2**30), (-3, 2**25), (-1, 2**31 - 1), (-2, 2**26)]),  # an older glibc
        (0, "linux", [(-3, 2**30), (-3, 2**25)]),  # it accepts neither: the other options would do harm
        (2**40, "darwin", []),
    ],
)
def test_malloc_options_are_set_only_if_the_c_library_accepts_them(
    largest: int, platform: str, calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = []

    class Library:
        def mallopt(self, option: int, value: int) -> int:
            options.append((option, value))
            return int(option != -3 or value <= largest)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    monkeypatch.setattr(sys, "platform", platform)
    keep_freed_memory()
    assert options == calls
