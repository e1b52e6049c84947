"""The command line: a module for each command, the options that several commands share, and `main`."""

from alexnet.cli.main import build_parser, main

__all__ = ["build_parser", "main"]
