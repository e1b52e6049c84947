"""The project's Python files as syntax trees: what a module imports, defines, and uses of other modules."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "alexnet"
_DOTTED = re.compile(r"\balexnet(?:\.\w+)+(?::\w+)?")  # in strings: "alexnet.recipes.RECIPES", "alexnet.cli:main"
_EXCEPTION = re.compile(r"^    (\w+):", re.MULTILINE)  # in docstrings, after "Raises:"
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
    return [name for node in tree.body for name in _defined_by(node)]


def _defined_by(node: ast.stmt) -> list[str]:
    """Return the names that a statement defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return []


def reachable(tree: ast.Module, public: set[str]) -> set[str]:
    """Return the names of a module that are part of what is public.

    They are types of arguments, results and fields, base classes, exceptions that docstrings name, and elements of
    constants: `photos` is in `RECIPES`.
    """
    nodes = {name: node for node in tree.body for name in _defined_by(node)}
    names: set[str] = set()
    waiting = set(public)
    while waiting:
        new = _parts(nodes[waiting.pop()]) & set(nodes) - names
        names |= new
        waiting |= new
    return names


def _parts(node: ast.stmt) -> set[str]:
    """Return the names in the annotations, base classes, documented exceptions and constant value of a definition."""
    parts: list[ast.expr | None] = []
    exceptions: set[str] = set()
    for inner in ast.walk(node):
        if isinstance(inner, (ast.FunctionDef, ast.ClassDef)):
            exceptions |= set(_EXCEPTION.findall((ast.get_docstring(inner) or "").partition("Raises:")[2]))
        if isinstance(inner, (ast.arg, ast.AnnAssign)):
            parts.append(inner.annotation)
        elif isinstance(inner, ast.FunctionDef):
            parts.append(inner.returns)
        elif isinstance(inner, ast.ClassDef):
            parts += inner.bases
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        parts.append(node.value)
    return exceptions | {word for part in parts if part for word in re.findall(r"\w+", ast.unparse(part))}


def uses(tree: ast.Module) -> set[str]:
    """Return the full names of what a module uses of alexnet/: "alexnet.training.sgd.SGD"."""
    own_imports = [(name, full) for name, full in imports(tree) if full.partition(".")[0] == "alexnet"]
    bound = {name: "alexnet" if name == "alexnet" else full for name, full in own_imports}
    used = {full for _, full in own_imports}
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
