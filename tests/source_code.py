"""The project's Python files as syntax trees: what a module imports, defines, and uses of other modules."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "alexnet"
_DOTTED = re.compile(r"\balexnet(?:\.\w+)+(?::\w+)?")  # in strings: "alexnet.recipes.RECIPES", "alexnet.cli:main"
_FROM_IMPORT = re.compile(r"\bfrom (alexnet[\w.]*) import (\w+(?:, *\w+)*)")  # in strings: programs that tests run


def module_name(path: Path) -> str:
    """Return the dotted name of a file of the project: "alexnet.training.sgd", or "alexnet.data" for a package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def modules(folder: str = "alexnet") -> dict[str, Path]:
    """Return the files of a folder by their modules' names."""
    return {module_name(path): path for path in sorted((ROOT / folder).rglob("*.py"))}


@cache
def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the imports of a module, also those in functions: (name that it binds, full name of what it imports)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname, alias.name) if alias.asname else (alias.name.partition(".")[0], alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute in this project"
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def imported_modules(tree: ast.Module) -> set[str]:
    """Return the modules of alexnet/ that a module imports, or imports names of."""
    imported = set()
    for _, name in imports(tree):
        while name and name not in modules():
            name = name.rpartition(".")[0]
        imported.add(name)
    return imported - {""}


def definitions(tree: ast.Module) -> list[str]:
    """Return the names of a module's own functions, classes and constants."""
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return names


def public_types(tree: ast.Module, public: set[str]) -> set[str]:
    """Return the names of a module that annotate what is public: arguments, results, fields, base classes."""
    nodes = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    types: set[str] = set()
    waiting = set(public)
    while waiting:
        node = nodes.get(waiting.pop())
        new = _annotations(node) & set(definitions(tree)) - types if node else set()
        types |= new
        waiting |= new
    return types


def _annotations(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """Return the names in the annotations and base classes of a function or class, and of what is in it."""
    expressions: list[ast.expr | None] = []
    for inner in ast.walk(node):
        if isinstance(inner, (ast.arg, ast.AnnAssign)):
            expressions.append(inner.annotation)
        elif isinstance(inner, ast.FunctionDef):
            expressions.append(inner.returns)
        elif isinstance(inner, ast.ClassDef):
            expressions += inner.bases
    return {word for expression in expressions if expression for word in re.findall(r"\w+", ast.unparse(expression))}


def uses(tree: ast.Module) -> set[str]:
    """Return the full names of what a module uses of alexnet/: "alexnet.training.sgd.SGD"."""
    ours = [(name, full) for name, full in imports(tree) if full.partition(".")[0] == "alexnet"]
    bound = {name: "alexnet" if name == "alexnet" else full for name, full in ours}
    used = {full for _, full in ours}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            used.add(_full_name(node, bound) or "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used |= {name.replace(":", ".") for name in _DOTTED.findall(node.value)}
            for module, names in _FROM_IMPORT.findall(node.value):
                used |= {f"{module}.{name.strip()}" for name in names.split(",")}
        elif isinstance(node, ast.Call) and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            owner = _full_name(node.args[0], bound)  # monkeypatch.setattr(module, "name", value)
            if owner:
                used.add(f"{owner}.{node.args[1].value}")
    return used - {""}


def _full_name(node: ast.expr, bound: dict[str, str]) -> str | None:
    """Return the full name of an expression such as `sgd.SGD`, or None if it does not begin with an import."""
    if isinstance(node, ast.Name):
        return bound.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _full_name(node.value, bound)
        return owner and f"{owner}.{node.attr}"
    return None
