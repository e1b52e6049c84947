"""docs/environment.md has every environment variable that the package reads, and no others."""

import re

from source_code import PACKAGE, ROOT


def test_every_variable_is_documented() -> None:
    lines = [line for path in PACKAGE.rglob("*.py") for line in path.read_text(encoding="utf-8").splitlines()]
    read = {name for line in lines if "os.environ" in line for name in re.findall(r"""['"]([A-Z_]{4,})['"]""", line)}
    rows = re.findall(r"^\| (`.*?) \| ", (ROOT / "docs" / "environment.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert read == {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}
