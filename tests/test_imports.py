"""A module imports from lower packages only (the map in README.md: recipe 0 ... command line 10), never in circles."""

import ast
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

import pytest
from source_code import imported_modules, imports, modules, parse

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
    "convert": 9,
    "experiments": 9,
    "web": 9,
    "entry": 10,
}
# Modules that form one package: the recipe and its checks; the named recipes; the entry points for people and programs.
PACKAGES = dict.fromkeys(("checked", "geometry", "architecture"), "recipe")
PACKAGES |= dict.fromkeys(("ilsvrc_recipes", "finetuning_recipes", "net_variants"), "recipes")
PACKAGES |= dict.fromkeys(("", "__main__", "cli", "demo"), "entry")
STANDARD_LIBRARY = {"collections", "dataclasses", "difflib", "functools", "itertools", "json", "math", "pathlib"}
STANDARD_LIBRARY |= {"types", "typing"}


def package_of(parts: Sequence[str]) -> str:
    """Return a module's package, given the parts of its name after "alexnet": "training", "data.store", "recipe"."""
    if parts[:1] == ["data"] and len(parts) > 1:
        return f"data.{parts[1]}"
    first = parts[0] if parts else ""
    return PACKAGES.get(first, first)


def forbidden_imports(tree: ast.Module, module: str) -> list[str]:
    """Return the full names that a module must not import, but does."""
    package = package_of(module.split(".")[1:])
    forbidden = []
    for _, name in imports(tree):
        top, *parts = name.split(".")
        imported = package_of(parts)
        if imported not in LEVELS:  # "from alexnet import AlexNet" is from alexnet/__init__.py
            imported = "entry"
        if top == "benchmarks" or (top == "alexnet" and imported != package and LEVELS[imported] >= LEVELS[package]):
            forbidden.append(name)
    return forbidden


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_from_lower_packages_or_its_own_only(module: str) -> None:
    if module != "alexnet.data":
        assert package_of(module.split(".")[1:]) in LEVELS, f"{module}: give its package a level here and in the map"
    assert forbidden_imports(parse(modules()[module]), module) == []


def test_no_imports_are_circular() -> None:
    """Imports in functions and for type checking count too."""
    graph = {module: imported_modules(parse(path)) - {module} for module, path in modules().items()}
    circle = None
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = " imports ".join(reversed(error.args[1]))
    assert circle is None


@pytest.mark.parametrize("module", ["architecture", "checked", "geometry", "recipe"])
def test_a_recipe_needs_the_standard_library_only(module: str) -> None:
    names = {full.partition(".")[0] for _, full in imports(parse(modules()[f"alexnet.{module}"]))}
    assert names <= STANDARD_LIBRARY | {"alexnet"}


@pytest.mark.parametrize(
    ("module", "source", "forbidden"),
    [
        ("recipe", "from alexnet.checked import Checked", []),
        ("recipe", "import alexnet.recipes", ["alexnet.recipes"]),
        ("models.layers", "import alexnet.training.sgd", ["alexnet.training.sgd"]),
        ("data.loading.loader", "def f():\n    from alexnet.nets import AlexNet", ["alexnet.nets.AlexNet"]),
        ("kernels.augment", "from alexnet import AlexNet", ["alexnet.AlexNet"]),
        ("cli.train", "from benchmarks.speed import peers", ["benchmarks.speed.peers"]),
        ("training.train", "from alexnet.training.sgd import SGD\nfrom alexnet import recipe", []),
    ],
)
def test_forbidden_imports_are_recognised(module: str, source: str, forbidden: list[str]) -> None:
    assert forbidden_imports(ast.parse(source), f"alexnet.{module}") == forbidden
