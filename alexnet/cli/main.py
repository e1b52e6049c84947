"""The command `alexnet`: its commands and its exit status.

Exit status: 0 for success; 2 for an error that the user can correct, reported in one line that says how; 1 for an error
in this program, with a traceback; 128 and the signal's number if a signal stopped the command.
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from alexnet.cli import (
    check,
    demo,
    evaluate,
    export,
    figures,
    import_,
    index,
    look,
    predict,
    prepare,
    recipes,
    report,
    reproduce,
    serve,
    similar,
    submit,
    train,
    verify,
)
from alexnet.cli.chosen_recipe import join_all_but
from alexnet.cli.messages import advise, one_line, print_error, typed_options
from alexnet.cli.option_names import with_option_names
from alexnet.cli.parser import CommandParser
from alexnet.utils.processes import ReportedElsewhere, report_once, wait_for_report, world_size
from alexnet.utils.signals import SignalInterrupt

# In the order of `alexnet --help`. A command's module imports what it needs when it runs, so that --help is instant.
_COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "recipes": recipes,
    "check": check,
    "prepare": prepare,
    "look": look,
    "import": import_,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "submit": submit,
    "index": index,
    "similar": similar,
    "serve": serve,
    "reproduce": reproduce,
    "report": report,
    "export": export,
    "figures": figures,
    "verify": verify,
}
_PARALLEL_COMMANDS = ("prepare", "train", "evaluate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command and its arguments; by default those of this process.

    Returns:
        The exit status.
    """
    parser, options = build_parser(), argparse.Namespace()
    try:
        parser.parse_args(join_all_but(sys.argv[1:] if arguments is None else arguments), options)
        _check_processes(options.command)
        with _handle_sigterm():
            status: int = options.run_command(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as interrupt:
        print_error("stopped")
        return 128 + getattr(interrupt, "signal", 2)
    except ReportedElsewhere:
        wait_for_report()
        return 2
    except BrokenPipeError:
        # The reader of our output has ended. Python would report that again when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        if os.environ.get("ALEXNET_DEBUG"):
            raise
        message = with_option_names(one_line(error), parser, options.command, typed_options(options)) + advise(error)
        output_error = _close_output()
        if output_error:
            reason = output_error.strerror
            message = f"standard output cannot be written: {reason}: free some space, or choose another disk"
        print_error(message)
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError" or os.environ.get("ALEXNET_DEBUG"):
            raise
        print_error(f"the device has too little memory: train with a smaller --batch-size ({one_line(error)})")
        return 2


@contextlib.contextmanager
def _handle_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that temporary files are removed; a second one ends the process.

    Processes of torchrun keep their handlers: it sends SIGTERM when one of them is lost, which the watchdog reports.
    """
    is_main_thread = threading.current_thread() is threading.main_thread()
    if not is_main_thread or world_size() > 1 or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def handle(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SignalInterrupt(number)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _close_output() -> OSError | None:
    """Return the error of writing what is left of standard output, if there is one; then no more is written to it.

    Python would report that error again, when it ends.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; `run_command` of what it parses is the function to call."""
    parser = CommandParser(
        prog="alexnet", description='The paper "ImageNet Classification with Deep CNNs" (2012) as one program.'
    )
    parser.add_argument("-V", "--version", action=_VersionAction, nargs=0, help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, module in _COMMANDS.items():
        summary: str = module.SUMMARY
        command = commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", formatter_class=_HelpFormatter
        )
        module.add_arguments(command)
        command.set_defaults(run_command=module.run)
    return parser


def _check_processes(command: str) -> None:
    """Raise a ValueError if torchrun has started several processes for a command that would do its work in each."""
    if world_size() > 1 and command not in _PARALLEL_COMMANDS:
        raise report_once(
            ValueError(
                f"`alexnet {command}` must be started as one process; torchrun has started {world_size()}: start it "
                f"without torchrun ({', '.join(_PARALLEL_COMMANDS)} share their work)"
            )
        )


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show the defaults of options, except of those that are not set unless they are given."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


class _VersionAction(argparse.Action):
    """The option --version, which reads the package's metadata only if it is given."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"alexnet {version('alexnet')}")
        parser.exit()
