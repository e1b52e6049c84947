"""Messages name Python's parameters in the package, and options on the command line."""

import pytest

from alexnet.cli.main import build_parser
from alexnet.cli.option_names import with_option_names


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
