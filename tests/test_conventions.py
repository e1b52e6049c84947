"""The conventions of CONTRIBUTING.md that a program can check: leading underscores, and the length of files.

A leading underscore says that a function, class or constant is used in its own module only.
"""

import ast
import re
from functools import cache

import pytest
from source_code import PACKAGE, ROOT, definitions, modules, parse, reachable, uses

# Names that modules loaded by name have: commands, experiments, kinds of sources.
LOADED_BY_NAME = re.compile(
    r"alexnet\.(cli\.\w+\.(SUMMARY|add_arguments|run)"
    r"|experiments\.\w+\.(run|base_recipe|list_trainings|DATASET)"
    r"|data\.sources\.\w+\.(NAME|OPTIONS|matches|open))"
)
CITED = re.compile(r"`((?:\w+/)*\w+)\.py`((?:,? `[A-Za-z_][\w.]*`)*)")  # in documents: a file, and names in it
MAX_LINES = 400


def is_private(name: str) -> bool:
    """Return whether a name has a leading underscore; "__all__" has not."""
    return name.startswith("_") and not name.endswith("__")


@cache
def uses_by_module() -> dict[str, set[str]]:
    """Return what each file of the project uses of alexnet/, as full names."""
    files = modules("alexnet") | modules("tests") | modules("benchmarks")
    return {module: uses(parse(path)) for module, path in files.items()}


def names_in_documents() -> set[str]:
    """Return the full names that the documents cite."""
    names = set()
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        text = re.sub(r"\n +", " ", path.read_text(encoding="utf-8"))
        for file, cited in CITED.findall(text):
            module = "alexnet." + file.removeprefix("alexnet/").replace("/", ".")
            names |= {f"{module}.{name.partition('.')[0]}" for name in re.findall(r"`([^`]+)`", cited)}
    return names


def unused_outside(module: str, tree: ast.Module, used: set[str]) -> list[str]:
    """Return the public names of a module that no other module uses, and no public name has as a part."""
    names = {name for name in definitions(tree) if not name.startswith("_")}
    public = {name for name in names if f"{module}.{name}" in used or LOADED_BY_NAME.fullmatch(f"{module}.{name}")}
    return sorted(f"{module}.{name}" for name in names - public - reachable(tree, public))


def test_no_module_uses_a_private_name_of_another() -> None:
    wrong = set()
    for module, names in uses_by_module().items():
        for name in names:
            owner, _, last = name.rpartition(".")
            if is_private(last) and owner in modules() and owner != module:
                wrong.add(f"{module} uses {name}")
    assert sorted(wrong) == []


def test_a_name_without_underscore_is_used_outside_its_module() -> None:
    used = names_in_documents()
    for module, names in uses_by_module().items():
        used |= {name for name in names if name.rpartition(".")[0] != module}
    wrong = [name for module, path in modules().items() for name in unused_outside(module, parse(path), used)]
    assert wrong == []


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules().values()}
    assert {str(path.relative_to(PACKAGE)): n for path, n in lengths.items() if n > MAX_LINES} == {}


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("def f(): ...", ["alexnet.x.f"]),
        ("def _f(): ...", []),
        ("A = B = 3", ["alexnet.x.A", "alexnet.x.B"]),
        ("def used(): ...", []),
        ("class Type: ...\ndef used() -> list[Type]: ...", []),
        ("class Type: ...\nclass Item:\n    a: Type\ndef used(a: 'Item'): ...", []),
        ("def f(): ...\nused = {'f': f}", []),
        ("class Error: ...\ndef used():\n    'Fail.\\n\\n    Raises:\\n        Error: Always.'", []),
        ("class Type: ...\ndef f(a: Type): ...", ["alexnet.x.Type", "alexnet.x.f"]),
    ],
)
def test_names_that_are_unused_outside_are_recognised(source: str, wrong: list[str]) -> None:
    assert unused_outside("alexnet.x", ast.parse(source), {"alexnet.x.used"}) == wrong


@pytest.mark.parametrize(
    ("source", "used"),
    [
        ("from alexnet.x import f as g", {"alexnet.x.f"}),
        ("import alexnet.x\nalexnet.x.f()", {"alexnet.x", "alexnet.x.f"}),
        ("def g():\n    from alexnet import x\n    x.f.h", {"alexnet.x", "alexnet.x.f", "alexnet.x.f.h"}),
        ("run('alexnet.x:f')", {"alexnet.x.f"}),
        ("run('from alexnet.x import f, g')", {"alexnet.x", "alexnet.x.f", "alexnet.x.g"}),
        ("from alexnet import x\nmonkeypatch.setattr(x, 'f', 1)", {"alexnet.x", "alexnet.x.f"}),
        ("from torch import f", set()),
    ],
)
def test_what_a_module_uses_is_recognised(source: str, used: set[str]) -> None:
    assert uses(ast.parse(source)) == used
