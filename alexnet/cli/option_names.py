"""Messages of the package in the words of the command line: `size=256` is the option --size 256.

A message of the package names parameters and fields of the recipe as Python does: in backquotes, with a value or
without one; or as the first word, before "must".
"""

import argparse
import dataclasses
import re
from collections.abc import Collection, Mapping

_PARAMETER = re.compile(r"`([a-z_][\w.]*)(?:=([^`]*))?`")
_FIRST_WORD = re.compile(r"[a-z_]+(?= must )")
# Parameters whose options have other names.
_OTHER_NAMES = {"store": "--data", "settings": "--set", "pretraining_data": "--more", "graph": "--no-graph"}


def with_option_names(message: str, parser: argparse.ArgumentParser, command: str, typed: Collection[str] = ()) -> str:
    """Return a message with the options of the command line in place of the parameters that it names.

    Args:
        message: The message of an exception.
        parser: The parser of all commands.
        command: The command that raised it; its advice may name options of other commands, too.
        typed: The names of the options on the command line. A field of the recipe that is the first word keeps its name
            unless it is among them: it was given with --set, or not at all.
    """
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    own_parser = commands.choices[command]
    own = {action.dest: action for action in own_parser._actions}
    actions = [action for other in commands.choices.values() for action in other._actions]
    # Of options with the same parameter, such as --size and --occlusion-size, the one with its name is the last.
    actions.sort(key=lambda action: f"--{action.dest}" in action.option_strings)
    others = {action.dest: action for action in actions}
    options = {name: action.option_strings[-1] for name, action in (others | own).items() if action.option_strings}
    options = _OTHER_NAMES | options

    def replace(match: re.Match[str]) -> str:
        name, value = match[1], match[2] and match[2].strip("'\"")
        if name in own and not own[name].option_strings:  # an argument without a name
            return value or str(own[name].metavar)
        if name in options:
            return options[name] if value in (None, "True", "False") else f"{options[name]} {value}"
        return f"--set {name}={value}" if value and _is_recipe_field(name) else match[0]

    first = _FIRST_WORD.match(message)
    is_field = first is not None and "set" in own and first[0] not in typed and _is_recipe_field(first[0])
    if first and not is_field and (first[0] in _OTHER_NAMES or (first[0] in own and own[first[0]].option_strings)):
        message = options[first[0]] + message[first.end() :]
    return _numbers_as_typed(_PARAMETER.sub(replace, message), own_parser.number_texts)


def _numbers_as_typed(message: str, texts: Mapping[str, tuple[str, str]]) -> str:
    """Return a message with the numbers of options as they were typed: --test 0 for --test 0.0.

    Args:
        message: The message, with the names of options.
        texts: By option, its number as Python prints it, and as it was typed.
    """
    for option, (printed, text) in texts.items():
        contexts = [re.escape(f"{option} ")] + ["; got "] * message.startswith(f"{option} must ")
        for context in contexts:
            message = re.sub(rf"(?<={context}){re.escape(printed)}(?!\d)", text, message)
    return message


def _is_recipe_field(name: str) -> bool:
    from alexnet.recipe import Recipe

    return name.partition(".")[0] in {field.name for field in dataclasses.fields(Recipe)}
