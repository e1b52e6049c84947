"""Numbers in messages."""

import pytest

from alexnet.utils.console import format_bytes


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (12_288, "12.3 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (4.1e6, "4.1 MB"),
        (1.1e9, "1.1 GB"),
        (158e9, "158.0 GB"),
        (25.5e12, "25.5 TB"),
        (3e16, "30,000.0 TB"),
    ],
)
def test_bytes_have_the_largest_unit_of_which_there_is_one(count: float, text: str) -> None:
    assert format_bytes(count) == text
