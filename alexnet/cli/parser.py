"""The parser of the commands: errors in one line that name the option to use, and no option given twice."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from alexnet.checked import suggest
from alexnet.cli.guesses import suggest_command, suggest_option
from alexnet.utils.processes import ReportedElsewhere, is_local_main_process

_TYPES = {"int": "a whole number", "float": "a number"}


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line, reported once although several processes have the same command line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.number_texts: dict[str, tuple[str, str]] = {}  # by option: a number as messages print it, and as typed
        for name, action in _ACTIONS.items():
            self.register("action", name, action)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments; an unknown option is an error at once, before arguments that are missing."""
        if self._subparsers is None:
            self._check_option_names(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Report an error in one line, and end with status 2."""
        if not is_local_main_process():
            raise ReportedElsewhere
        self.exit(2, f"alexnet: {self._explain(message)}\n")

    def _check_option_names(self, arguments: Sequence[str]) -> None:
        """End with an error at the first option that the command does not have; argparse takes abbreviations."""
        options = list(self._option_string_actions)
        for argument in arguments:
            name = argument.partition("=")[0]
            if name == "--":
                return
            is_option = re.match(r"--?[a-zA-Z]", name) is not None
            if is_option and name[:2] not in options and not any(option.startswith(name) for option in options):
                self.error(f"`{self.prog}` has no option {name}: {suggest_option(self.prog, name, options)}")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Convert a value, and record the text of a number that Python prints otherwise, such as 0 for 0.0."""
        value = super()._get_value(action, arg_string)
        if action.option_strings and isinstance(value, float) and repr(value) != arg_string:
            self.number_texts[action.option_strings[-1]] = (repr(value), arg_string)
        return value

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """End with an error that names what is close, if a value is none of the choices."""
        choices = list(action.choices or ())
        if not choices or value in choices:
            return
        if isinstance(action, argparse._SubParsersAction):
            self.error(f"there is no command {value!r}: {suggest_command(value, choices)}")
        name = "/".join(action.option_strings) or str(action.metavar)
        self.error(f"{name} must be one of {', '.join(map(str, choices))}; got {value!r}{suggest(value, choices)}")

    def _explain(self, message: str) -> str:
        """Return one of argparse's messages in the form of ours: thing, rule, value received, remedy."""
        name, _, problem = message.removeprefix("argument ").partition(": ")
        if message.startswith("the following arguments are required: "):
            return f"`{self.prog}` must be given {problem.replace(', ', ' and ')}: see `{self.prog} --help`"
        if not message.startswith("argument "):
            return message
        if wrong_type := re.fullmatch(r"invalid (int|float) value: (.*)", problem):
            return f"{name} must be {_TYPES[wrong_type[1]]}; got {wrong_type[2]}"
        if problem.startswith("expected "):
            return f"{name} must be given a value: see `{self.prog} --help`"
        return problem if " must be " in problem else f"{name}: {problem}"


class _Record:
    """Record which options are on the command line, as `namespace.typed`: the option by the name of its value."""

    repeatable = True

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        dest: str = self.dest  # type: ignore[attr-defined]
        typed = vars(namespace).setdefault("typed", {})
        if option_string and dest in typed and not self.repeatable:
            parser.error(f"{option_string} must be given once; got {getattr(namespace, dest)} and {values}")
        if option_string:
            typed[dest] = self.option_strings[-1]  # type: ignore[attr-defined]
        super().__call__(parser, namespace, values, option_string)  # type: ignore[misc]


class _Store(_Record, argparse._StoreAction):
    repeatable = False


class _StoreTrue(_Record, argparse._StoreTrueAction):
    pass


class _Append(_Record, argparse._AppendAction):
    pass


_ACTIONS: dict[str | None, type[argparse.Action]] = {
    None: _Store,
    "store": _Store,
    "store_true": _StoreTrue,
    "append": _Append,
}
