"""Messages name Python's parameters in the package, and options on the command line."""

import ast
import re
from pathlib import Path

import pytest
from source_code import modules, parse

from alexnet.cli.main import build_parser, main
from alexnet.cli.option_names import with_option_names

OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
OTHER_PROGRAMS = {"--nproc-per-node", "--max-restarts", "--dereference", "--data-binary"}  # torchrun, tar, curl
# Texts for people at a command line, not for callers: the text of `alexnet check`, the line in a result that says how
# it was made, and the answer of `alexnet serve` to a browser.
COMMAND_TEXTS = {"alexnet.results.check_report", "alexnet.experiments", "alexnet.results.guessing", "alexnet.web.guard"}


@pytest.mark.parametrize(
    ("command", "message", "expected"),
    [
        ("train", "keep it: prepare another with `size=32`", "keep it: prepare another with --size 32"),
        ("train", "such as `learning_rate=0.002`", "such as --learning-rate 0.002"),
        ("train", "such as `momentum=0.8`", "such as --set momentum=0.8"),
        ("train", "seed must be smaller", "seed must be smaller"),  # unless --seed was typed
        ("train", "use `net.activation='tanh'`", "use --set net.activation=tanh"),
        ("train", "with `start_from=runs/a`", "with --from runs/a"),
        ("train", "go on without `start_from`", "go on without --from"),
        ("train", "try `graph=False`", "try --no-graph"),
        ("train", "workers must be 1", "--workers must be 1"),
        ("train", "classes must be at least 2", "classes must be at least 2"),  # of a net; `import` has the option
        ("train", "settings must be of the form field=value", "--set must be of the form field=value"),
        ("import", "net.pth: `classes` must be left out", "net.pth: --classes must be left out"),
        ("export", "x exists: replace it with `force=True`", "x exists: replace it with --force"),
        ("export", "give `onnx=FILE.onnx` or `pt2=FILE`", "give FILE.onnx or --pt2 FILE"),
        ("evaluate", "name it with `store=STORE`", "name it with STORE"),
        ("report", "name it with `store=STORE`", "name it with --data STORE"),
        (
            "evaluate",
            "save it with `split='val'` and `weights_on='test'`",
            "save it with --split val and --weights-on test",
        ),
        (
            "predict",
            "run seed=3: written by `alexnet evaluate` and `x`",
            "run seed=3: written by `alexnet evaluate` and `x`",
        ),
    ],
)
def test_parameters_become_options(command: str, message: str, expected: str) -> None:
    assert with_option_names(message, build_parser(), command) == expected


def test_a_field_of_the_recipe_that_was_typed_as_an_option_is_named_so() -> None:
    message = with_option_names("seed must be smaller", build_parser(), "train", ["seed"])
    assert message == "--seed must be smaller"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["prepare", "SOURCE", "--test", "0"], "leave --test 0 out"),
        (["prepare", "SOURCE", "--test=1"], "leave --test 1 out"),
        (["prepare", "SOURCE", "--held-out", ".10"], "leave --held-out .10 out"),
        (["prepare", "SOURCE", "--test", "-1"], "--test must be a share from 0 to 1, such as 0.1; got -1"),
        (["prepare", "SOURCE", "--test", "10"], "--test must be a share from 0 to 1, such as 0.1; got 10"),
        (["train", "STORE", "--learning-rate", "0"], "--learning-rate must be a finite number above 0; got 0"),
    ],
)
def test_a_number_is_repeated_as_it_was_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    for split in ("train", "test"):
        for name in ("robins", "wrens"):
            folder = tmp_path / "source" / split / name
            folder.mkdir(parents=True)
            (folder / "1.png").write_bytes(b"")
    command, _, *options = arguments
    assert main([command, str(tmp_path / "source"), str(tmp_path / "out"), *options]) == 2
    assert capsys.readouterr().err.endswith(f"{expected}\n")


def message_texts(tree: ast.Module) -> list[str]:
    """Return all strings of a module but its docstrings."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    docstrings = {id(node.body[0].value) for node in nodes if node.body and isinstance(node.body[0], ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return [node.value for node in constants if isinstance(node.value, str)]


def options_in(tree: ast.Module) -> set[str]:
    """Return the options of the command line that the strings of a module name."""
    return {option for text in message_texts(tree) for option in OPTION.findall(text)} - OTHER_PROGRAMS


def test_no_message_of_the_package_names_an_option() -> None:
    named = {}
    for module, path in modules().items():
        if not module.startswith(("alexnet.cli", "alexnet.demo")) and module not in COMMAND_TEXTS:
            named[module] = options_in(parse(path))
    assert {module: options for module, options in named.items() if options} == {}


def test_options_in_messages_are_recognised() -> None:
    function = (
        'def f(x):\n    """Use --b."""\n    raise ValueError(f"{x}: with --data-set {x}; torchrun --max-restarts")'
    )
    assert options_in(ast.parse(f'"Use --a."\n{function}')) == {"--data-set"}
