"""A module imports from lower packages only (the map in README.md: recipe 0 ... the command line 10)."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "alexnet"
LEVELS = {
    "recipe": 0,
    "utils": 0,
    "recipes": 1,
    "kernels": 1,
    "models": 2,
    "distributed": 3,
    "data.store": 4,
    "data.sources": 5,
    "data.loading": 5,
    "data.prepare": 6,
    "training": 7,
    "results": 8,
    "experiments": 9,
    "web": 9,
    "entry": 10,
}
# Modules that make one package: the recipe and its checks; the entry points of people and programs.
PACKAGES = dict.fromkeys(("checked", "geometry", "architecture"), "recipe") | dict.fromkeys(
    ("cli", "demo", "__init__", "__main__"), "entry"
)
STANDARD = {"collections", "dataclasses", "json", "math", "types", "typing"}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def package_of(parts: Sequence[str]) -> str:
    """The package of a module, given by the parts of its name: "training", "data.store", "recipe"."""
    if parts[0] == "data" and len(parts) > 1:
        return f"data.{parts[1]}"
    return PACKAGES.get(parts[0], parts[0])


def parts_of(module: Path) -> tuple[str, ...]:
    """The parts of a module's name: ("training", "sgd")."""
    return tuple(part.removesuffix(".py") for part in module.parts if part != "__init__.py" or len(module.parts) == 1)


def imported(source: str) -> Iterator[str]:
    """The full names of what a module imports anywhere, in functions too: "alexnet.recipe.Net"."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def broken(source: str, module: Path) -> list[str]:
    """The imports of a module that break a rule."""
    own = package_of(parts_of(module))
    errors = []
    for name in imported(source):
        top, *rest = name.split(".")
        known = bool(rest) and (package_of(rest) in LEVELS)
        # "from alexnet import AlexNet" reads alexnet/__init__.py; "from alexnet import recipe" a module.
        other = package_of(rest) if known else "entry"
        if top == "benchmarks" or (top == "alexnet" and other != own and LEVELS[other] >= LEVELS[own]):
            errors.append(name)
    return errors


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_imports_from_lower_packages_or_its_own_only(module: Path) -> None:
    if parts_of(module) != ("data",):
        assert package_of(parts_of(module)) in LEVELS, f"{module}: give its package a level in LEVELS and in the map"
    assert broken((PACKAGE / module).read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize("module", ["architecture.py", "checked.py", "geometry.py", "recipe.py"])
def test_a_recipe_needs_the_standard_library_only(module: str) -> None:
    own = imported((PACKAGE / module).read_text(encoding="utf-8"))
    assert not [name for name in own if name.split(".")[0] not in STANDARD | {"alexnet"}]


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("recipe.py", "from alexnet.checked import Checked", []),
        ("recipe.py", "import alexnet.recipes", ["alexnet.recipes"]),
        ("models/layers.py", "import alexnet.training.sgd", ["alexnet.training.sgd"]),
        ("data/loading/loader.py", "def f():\n    from alexnet.nets import AlexNet", ["alexnet.nets.AlexNet"]),
        ("kernels/augment.py", "from alexnet import AlexNet", ["alexnet.AlexNet"]),
        ("cli/train.py", "from benchmarks.speed import peers", ["benchmarks.speed.peers"]),
        ("training/train.py", "from alexnet.training.sgd import SGD\nfrom alexnet import recipe", []),
    ],
)
def test_the_check_sees_what_it_should(module: str, source: str, wrong: list[str]) -> None:
    assert broken(source, Path(module)) == wrong
