"""`alexnet serve RUN`."""

import argparse

from alexnet.cli.options import add_device, add_run

SUMMARY = "show a run as a web page: drop a picture, see its classes and why"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    add_run(parser, help="folder of a run, written by `alexnet train`; it may still be trained")
    help = (
        "address to listen at, such as 0.0.0.0 for all of this machine; requests then need a token, which is printed "
        "(default: this machine only, without a token)"
    )
    parser.add_argument("--host", help=help)
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="port to listen at; 0 for a free one")
    help = "further name under which browsers reach this machine, such as that of a proxy; repeatable"
    parser.add_argument("--allow-host", metavar="NAME", action="append", default=[], help=help)
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status: 128 and the number of the signal that ended it."""
    from alexnet.utils.extras import missing_extra

    try:
        from alexnet.web.server import serve
    except ImportError as error:
        raise missing_extra("serving", "serve", error) from error
    return 128 + serve(
        options.run,
        host=options.host,
        port=options.port,
        allowed_hosts=options.allow_host,
        device=options.device,
    )
