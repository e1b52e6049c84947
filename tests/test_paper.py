"""PAPER.md: what it cites exists, its tables are whole, and its account of the two recipes is theirs."""

import ast
import dataclasses
import json
import re
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from alexnet.recipes import RECIPES, recipe_named

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "PAPER.md").read_text(encoding="utf-8")
SECTIONS = (
    "Abstract",
    "1",
    "2",
    "3",
    "4",
    "4.1",
    "4.2",
    "4.3",
    "4.4",
    "4.5",
    "5",
    "5.1",
    "5.2",
    "6",
    "7",
    "7.1",
    "8",
    "9",
)
COLUMNS = ["statement", "where", "test", "paper", "here"]
DIFFERENCES = "Where the text and the 2012 program differ"

TEST = re.compile(r"`(tests/(?:\w+/)*\w+\.py)::(\w+)`")
NAMES = re.compile(r"`((?:\w+/)*\w+\.py)`((?:,? `[A-Za-z_][\w.]*`)*)")  # a file, and then names in it
RECIPE = re.compile(r"`((?:alexnet|cifar10)-[\w-]+)`")
ENTRY = re.compile(r'`LOG\.md` "([^"]+)"')


def section(title: str) -> list[str]:
    """The lines of the section whose heading is the title, or starts with it as a number."""
    found = re.search(rf"^## {re.escape(title)}(?: [^\n]*)?\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"PAPER.md has no section {title}"
    return found[1].splitlines()


def rows(lines: list[str]) -> list[list[str]]:
    """The cells of the tables among these lines, their headings included."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if set(row) != {"---"}]


def file_of(path: str) -> Path:
    """A file as PAPER.md names it: those of tests/ and benchmarks/ in full, those of the package from alexnet/ on."""
    return ROOT / path if path.startswith(("tests/", "benchmarks/")) else ROOT / "alexnet" / path


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def members(scope: ast.Module | ast.ClassDef) -> dict[str, ast.stmt]:
    """What a module or class defines: functions, classes, variables, fields, and what `__init__` sets."""
    found: dict[str, ast.stmt] = {}
    for node in scope.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            found |= {target.id: node for target in targets(node) if isinstance(target, ast.Name)}
        elif isinstance(node, ast.FunctionDef) and node.name == "__init__":
            for inner in ast.walk(node):
                if isinstance(inner, (ast.Assign, ast.AnnAssign)):
                    found |= {target.attr: inner for target in targets(inner) if isinstance(target, ast.Attribute)}
    return found


def targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    """What an assignment assigns to, "a, b = ..." taken apart."""
    given = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [inner for target in given for inner in (target.elts if isinstance(target, ast.Tuple) else [target])]


def defines(module: ast.Module, name: str) -> bool:
    """Whether a module defines a name; "Net.conv1.stride" is a field of the class that Net.conv1 is annotated with."""
    scopes: list[ast.Module | ast.ClassDef] = [module]
    for part in name.split("."):
        found = next((members(scope)[part] for scope in scopes if part in members(scope)), None)
        if found is None:
            return False
        if isinstance(found, ast.AnnAssign):
            kinds = [node.id for node in ast.walk(found.annotation) if isinstance(node, ast.Name)]
            scopes = [kind for name in kinds if isinstance(kind := members(module).get(name), ast.ClassDef)]
        else:
            scopes = [found] if isinstance(found, ast.ClassDef) else []
    return True


def test_every_test_that_is_cited_exists() -> None:
    cited = TEST.findall(TEXT)
    assert len(cited) > 50
    missing = [f"{path}::{name}" for path, name in cited if not file_of(path).exists()]
    missing += [f"{p}::{name}" for p, name in cited if file_of(p).exists() and name not in members(tree(file_of(p)))]
    assert sorted(set(missing)) == []


def test_every_file_and_every_name_that_is_cited_exists() -> None:
    cited = [(path, re.findall(r"`([^`]+)`", names)) for path, names in NAMES.findall(TEXT)]
    assert len(cited) > 50
    missing = {path for path, _ in cited if not file_of(path).exists()}
    for path, names in cited:
        missing |= {f"{path} {n}" for n in names if path not in missing and not defines(tree(file_of(path)), n)}
    assert sorted(missing) == []


def test_every_recipe_and_every_entry_of_the_log_that_is_cited_exists() -> None:
    assert set(RECIPE.findall(TEXT)) <= set(RECIPES)
    headings = [
        line.lstrip("# ").strip()
        for line in ((ROOT / "LOG.md").read_text(encoding="utf-8").splitlines() if ENTRY.search(TEXT) else [])
        if line.startswith("#")
    ]
    assert [entry for entry in ENTRY.findall(TEXT) if entry not in headings] == []


@pytest.mark.parametrize("title", SECTIONS)
def test_each_section_of_the_paper_has_its_table(title: str) -> None:
    heading, *statements = rows(section(title))
    assert heading == COLUMNS
    assert statements


def leaves(data: Any, path: str) -> dict[str, Any]:
    """The plain values in nested dicts, by path."""
    if isinstance(data, dict) and data:
        return {key: v for name, value in data.items() for key, v in leaves(value, f"{path}.{name}").items()}
    return {path: data}


def values(name: str) -> dict[str, Any]:
    """Every field of a recipe by the name PAPER.md gives it: "Net.towers", "Recipe.momentum"."""
    found = leaves(dataclasses.asdict(recipe_named(name)), "Recipe")
    return {path.replace("Recipe.net.", "Net."): value for path, value in found.items()}


def test_the_recipes_have_the_values_that_the_table_of_differences_gives_them() -> None:
    heading, *differences = rows(section(DIFFERENCES))
    assert heading[:2] == ["matter", "field"]
    for column in (2, 3):
        recipe = recipe_named(heading[column].strip("`"))
        for row in differences:
            field = re.fullmatch(r"`(Net|Recipe)\.([\w.]+)`", row[1])
            told = re.fullmatch(r"`(.*)`", row[column])
            if field and told:
                value = attrgetter(field[2])(recipe.net if field[1] == "Net" else recipe)
                plain = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
                assert json.loads(json.dumps(plain)) == json.loads(told[1]), row


def test_the_table_of_differences_misses_none() -> None:
    fields = {row[1].strip("`") for row in rows(section(DIFFERENCES))}
    paper, run = values("alexnet-2012-paper"), values("alexnet-2012-run")
    differ = {field for field in paper.keys() | run.keys() if paper.get(field) != run.get(field)}
    assert {field for field in differ if not any((field + ".").startswith(f"{told}.") for told in fields)} == set()


def test_every_row_has_the_cells_of_its_heading() -> None:
    for table in re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE):
        heading, *others = rows(table.splitlines())
        assert [row for row in others if len(row) != len(heading) or not all(row)] == []


def test_lines_outside_tables_are_short() -> None:
    assert [line for line in TEXT.splitlines() if len(line) > 120 and not line.startswith("|")] == []


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Net", True),
        ("Net.conv1.stride", True),
        ("Net.normalise.alpha_over_size", True),
        ("Net.sides", True),
        ("conv_side", True),
        ("Net.conv1.strides", False),
        ("Net.sides.x", False),
        ("Network", False),
    ],
)
def test_the_check_sees_what_it_should(name: str, known: bool) -> None:
    assert defines(tree(file_of("architecture.py" if name.startswith("Net") else "geometry.py")), name) is known
