"""A module imports from lower floors only (the map: recipe 0 ... the command line 6)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "alexnet"
FLOORS = {
    "recipe": 0,
    "recipes": 1,
    "kernels": 1,
    "data": 2,
    "nets": 2,
    "learning": 3,
    "results": 4,
    "experiments": 5,
    "web": 5,
    "entrance": 6,
}
# Modules that make one room: the recipe and its checks; how people and programs come in.
ROOMS = {"checked": "recipe"} | dict.fromkeys(("cli", "demo", "__init__", "__main__"), "entrance")
STANDARD = {"collections", "dataclasses", "json", "math", "types", "typing"}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room(module: Path) -> str:
    """The room a module lies in: "learning" for learning/sgd.py, "recipe" for recipe.py."""
    name = module.parts[0].removesuffix(".py")
    return ROOMS.get(name, name)


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
    own = room(module)
    found = []
    for name in imported(source):
        package, *rest = name.split(".")
        # "from alexnet import AlexNet" reads alexnet/__init__.py; "from alexnet import recipe" a module.
        other = room(Path(rest[0])) if rest and (rest[0] in FLOORS or rest[0] in ROOMS) else "entrance"
        if package == "benchmarks" or (package == "alexnet" and other != own and FLOORS[other] >= FLOORS[own]):
            found.append(name)
    return found


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_imports_from_lower_floors_or_its_own_room_only(module: Path) -> None:
    assert room(module) in FLOORS, f"{module}: give its room a floor in FLOORS and in the map"
    assert broken((PACKAGE / module).read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize("module", ["recipe.py", "checked.py"])
def test_a_recipe_needs_the_standard_library_only(module: str) -> None:
    own = imported((PACKAGE / module).read_text(encoding="utf-8"))
    assert not [name for name in own if name.split(".")[0] not in STANDARD | {"alexnet"}]


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("recipe.py", "from alexnet.checked import Checked", []),
        ("recipe.py", "import alexnet.recipes", ["alexnet.recipes"]),
        ("nets/layers.py", "import alexnet.learning.sgd", ["alexnet.learning.sgd"]),
        ("data/loader.py", "def f():\n    from alexnet.nets import AlexNet", ["alexnet.nets.AlexNet"]),
        ("kernels/augment.py", "from alexnet import AlexNet", ["alexnet.AlexNet"]),
        ("cli.py", "from benchmarks.speed import peers", ["benchmarks.speed.peers"]),
        ("learning/train.py", "from alexnet.learning.sgd import SGD\nfrom alexnet import recipe", []),
    ],
)
def test_the_check_sees_what_it_should(module: str, source: str, wrong: list[str]) -> None:
    assert broken(source, Path(module)) == wrong
