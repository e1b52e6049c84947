"""Optional libraries: each message about a missing one names an extra that there is."""

import re
import tomllib

from source_code import ROOT, modules

from alexnet.utils.extras import missing_extra


def test_the_message_is_a_command_that_installs_the_library() -> None:
    error = missing_extra("searching", "search", ModuleNotFoundError("No module named 'faiss'"))
    assert str(error) == "searching needs packages: pip install 'alexnet[search]' (No module named 'faiss')"


def test_every_extra_that_a_module_names_is_in_pyproject() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    named = set()
    for path in modules().values():
        text = path.read_text(encoding="utf-8")
        named |= set(re.findall(r"missing_extra\([^)]*?, \"(\w+)\", ", text))
        if path.name != "extras.py":
            assert "pip install" not in text, f"{path}: use missing_extra"
    assert {"remote", "search", "tensorboard"} <= named <= extras
