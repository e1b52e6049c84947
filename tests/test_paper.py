"""docs/PAPER.md: what it cites exists, its entries are complete, and it gives the two recipes the values they have."""

import ast
import dataclasses
import json
import re
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from source_code import PACKAGE, ROOT, parse

from alexnet.recipes import RECIPES, recipe_named

TEXT = (ROOT / "docs" / "PAPER.md").read_text(encoding="utf-8")
UNWRAPPED = re.sub(r"\n +(?! |- )", " ", TEXT)  # a citation may be broken between the lines of an entry
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
FIELDS = ["where", "test", "paper", "here"]
DIFFERENCES = "Where the text and the 2012 program differ"

TEST_CITATION = re.compile(r"`(tests/(?:\w+/)*\w+\.py)::(\w+)`")
NAMES_CITATION = re.compile(r"`((?:\w+/)*\w+\.py)`((?:,? `[A-Za-z_][\w.]*`)*)")  # a file, and then names in it
RECIPE_CITATION = re.compile(r"`((?:alexnet|cifar10)-[\w-]+)`")
LOG_CITATION = re.compile(r'`LOG\.md` "([^"]+)"')


def section_entries(title: str) -> list[dict[str, str]]:
    """Return the entries of a section, each a bullet with named bullets below it.

    Args:
        title: The heading of the section, or the number that it starts with.

    Returns:
        For each entry its named values; the text of its own bullet is named "".
    """
    match = re.search(rf"^## {re.escape(title)}(?: [^\n]*)?\n(.*?)(?=^## |\Z)", UNWRAPPED, re.MULTILINE | re.DOTALL)
    assert match, f"PAPER.md has no section {title}"
    entries: list[dict[str, str]] = []
    for line in match[1].splitlines():
        if line.startswith("- "):
            entries.append({"": line[2:]})
        elif line.startswith("  - "):
            name, _, value = line[4:].partition(": ")
            entries[-1][name] = value
    return entries


def cited_path(path: str) -> Path:
    """Return the path of a file that PAPER.md cites: from alexnet/ on, except for those of tests/ and benchmarks/."""
    return ROOT / path if path.startswith(("tests/", "benchmarks/")) else PACKAGE / path


def members(scope: ast.Module | ast.ClassDef) -> dict[str, ast.stmt]:
    """Return what a module or class defines: functions, classes, variables, fields, and what `__init__` assigns."""
    definitions: dict[str, ast.stmt] = {}
    for node in scope.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            definitions[node.name] = node
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            definitions |= {target.id: node for target in targets(node) if isinstance(target, ast.Name)}
        elif isinstance(node, ast.FunctionDef) and node.name == "__init__":
            for inner in ast.walk(node):
                if isinstance(inner, (ast.Assign, ast.AnnAssign)):
                    attributes = [target for target in targets(inner) if isinstance(target, ast.Attribute)]
                    definitions |= {attribute.attr: inner for attribute in attributes}
    return definitions


def targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    """Return what an assignment assigns to; the targets of "a, b = ..." are two."""
    expressions = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [
        target
        for expression in expressions
        for target in (expression.elts if isinstance(expression, ast.Tuple) else [expression])
    ]


def defines(module: ast.Module, name: str) -> bool:
    """Return whether a module defines a name; "Net.conv1.stride" is a field of the class that annotates Net.conv1."""
    scopes: list[ast.Module | ast.ClassDef] = [module]
    for part in name.split("."):
        definition = next((members(scope)[part] for scope in scopes if part in members(scope)), None)
        if definition is None:
            return False
        if isinstance(definition, ast.AnnAssign):
            types = [node.id for node in ast.walk(definition.annotation) if isinstance(node, ast.Name)]
            classes = [members(module).get(name) for name in types]
            scopes = [node for node in classes if isinstance(node, ast.ClassDef)]
        else:
            scopes = [definition] if isinstance(definition, ast.ClassDef) else []
    return True


def test_every_cited_test_exists() -> None:
    cited = TEST_CITATION.findall(UNWRAPPED)
    assert len(cited) > 50
    missing = {
        f"{path}::{name}"
        for path, name in cited
        if not cited_path(path).exists() or name not in members(parse(cited_path(path)))
    }
    assert sorted(missing) == []


def test_every_cited_file_and_name_exists() -> None:
    cited = [(path, re.findall(r"`([^`]+)`", names)) for path, names in NAMES_CITATION.findall(UNWRAPPED)]
    assert len(cited) > 50
    missing = {path for path, _ in cited if not cited_path(path).exists()}
    for path, names in cited:
        missing |= {f"{path} {n}" for n in names if path not in missing and not defines(parse(cited_path(path)), n)}
    assert sorted(missing) == []


def test_every_cited_recipe_and_log_entry_exists() -> None:
    assert set(RECIPE_CITATION.findall(UNWRAPPED)) <= set(RECIPES)
    entries = LOG_CITATION.findall(UNWRAPPED)
    log = (ROOT / "docs" / "LOG.md").read_text(encoding="utf-8") if entries else ""
    headings = [line.lstrip("# ").strip() for line in log.splitlines() if line.startswith("#")]
    assert [entry for entry in entries if entry not in headings] == []


@pytest.mark.parametrize("title", SECTIONS)
def test_each_section_of_the_paper_has_complete_entries(title: str) -> None:
    entries = section_entries(title)
    assert entries
    assert [entry for entry in entries if list(entry) != ["", *FIELDS] or not all(entry.values())] == []


def flatten(data: Any, path: str) -> dict[str, Any]:
    """Return the plain values of nested dicts, by their path: "Net.conv1.stride"."""
    if isinstance(data, dict) and data:
        return {key: v for name, value in data.items() for key, v in flatten(value, f"{path}.{name}").items()}
    return {path: data}


def field_values(recipe: str) -> dict[str, Any]:
    """Return the fields of a recipe by the names that PAPER.md uses: "Net.towers", "Recipe.momentum"."""
    values = flatten(dataclasses.asdict(recipe_named(recipe)), "Recipe")
    return {path.replace("Recipe.net.", "Net."): value for path, value in values.items()}


def differences() -> list[dict[str, str]]:
    """Return the entries for the fields in which the two recipes of 2012 differ."""
    return [entry for entry in section_entries(DIFFERENCES) if "field" in entry]


@pytest.mark.parametrize("name", ["alexnet-2012-paper", "alexnet-2012-run"])
def test_a_recipe_has_the_values_of_the_entries_on_differences(name: str) -> None:
    recipe = recipe_named(name)
    for entry in differences():
        field = re.fullmatch(r"`(Net|Recipe)\.([\w.]+)`", entry["field"])
        cited = re.fullmatch(r"`(.*)`", entry[f"`{name}`"])
        if field and cited:
            value = attrgetter(field[2])(recipe.net if field[1] == "Net" else recipe)
            plain = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
            assert json.loads(json.dumps(plain)) == json.loads(cited[1]), entry


def test_the_entries_on_differences_have_every_field_that_differs() -> None:
    listed = {entry["field"].strip("`") for entry in differences()}
    paper, run = field_values("alexnet-2012-paper"), field_values("alexnet-2012-run")
    differing = {field for field in paper.keys() | run.keys() if paper.get(field) != run.get(field)}
    missing = {field for field in differing if not any((field + ".").startswith(f"{name}.") for name in listed)}
    assert missing == set()


def test_lines_are_short() -> None:
    assert [line for line in TEXT.splitlines() if len(line) > 120] == []


@pytest.mark.parametrize(
    ("name", "defined"),
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
def test_names_that_a_module_defines_are_recognised(name: str, defined: bool) -> None:
    assert defines(parse(cited_path("architecture.py" if name.startswith("Net") else "geometry.py")), name) is defined
