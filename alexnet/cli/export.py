"""`alexnet export RUN FILE.onnx`."""

import argparse

from alexnet.cli.messages import typed_options
from alexnet.cli.options import add_run, parse_output
from alexnet.utils.console import format_bytes

SUMMARY = "write a trained net as ONNX, torch.export, safetensors or a folder for a model hub"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    add_run(parser)
    # With nargs="?", argparse takes it next to RUN only, and not after an option.
    parser.add_argument("onnx", metavar="[FILE.onnx]", type=parse_output, help="ONNX file to write").required = False
    parser.add_argument("--pt2", metavar="FILE", type=parse_output, help="write a program of torch.export, FILE.pt2")
    parser.add_argument(
        "--state", metavar="FILE", type=parse_output, help="write the weights by plain names, FILE.safetensors"
    )
    parser.add_argument(
        "--hub", metavar="FOLDER", type=parse_output, help="write a folder with weights, settings and a model card"
    )
    parser.add_argument("--opset", type=int, default=17, metavar="N", help="version of ONNX's operators")
    parser.add_argument("--force", action="store_true", help="replace what an earlier export wrote")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.convert.export import export

    if "opset" in typed_options(options) and not options.onnx:
        raise ValueError("--opset must be given with an ONNX file to write; name FILE.onnx")
    paths = export(
        options.run,
        onnx=options.onnx,
        pt2=options.pt2,
        state=options.state,
        hub=options.hub,
        opset=options.opset,
        force=options.force,
    )
    for path in paths:
        files = path.iterdir() if path.is_dir() else [path]
        print(f"{path}: {format_bytes(sum(file.stat().st_size for file in files))}")
    return 0
