"""Print constraints for pip: the lowest version of each dependency that pyproject.toml admits.

    python tests/lowest_versions.py > lowest.txt

torch stays at the version of constraints.txt, the only one with a build for the CPU here; the linters at theirs.
"""

import itertools
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PINNED = ("torch", "triton", "ruff", "mypy")  # as in constraints.txt


def main() -> None:
    """Print the constraints."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest: dict[str, str] = {}
    for requirement in [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]:
        if match := re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*>=\s*([\d.]+)", requirement):
            lowest.setdefault(match[1], match[2])
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        if name in _PINNED:
            lowest[name] = version
    for name, version in sorted(lowest.items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
