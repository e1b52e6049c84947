"""`alexnet import FILE RUN`."""

import argparse
from pathlib import Path

from alexnet.cli.messages import print_error
from alexnet.cli.options import add_run

SUMMARY = "make a run of a net that torchvision or Caffe has trained, or of an exported one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    help = (
        "torchvision's AlexNet (.pth, .safetensors), Caffe's AlexNet or CaffeNet (.caffemodel, .onnx), or what "
        "`alexnet export` wrote with --state or --hub (.safetensors)"
    )
    parser.add_argument("file", metavar="FILE", type=Path, help=help)
    add_run(parser, "folder of the run to make, a new one")
    help = "text file with a class name in each line, a store, or ImageNet's development kit (default: numbers)"
    parser.add_argument("--classes", metavar="FILE|STORE|KIT", type=Path, help=help)
    help = "mean that Caffe subtracted: a .binaryproto or .npy file, or numbers (default: the file's, or 104,117,123)"
    parser.add_argument("--mean", metavar="FILE|B,G,R", help=help)
    help = "side of the net's input, in pixels (default: the file's, or 224 for torchvision, 227 for Caffe)"
    parser.add_argument("--image-size", type=int, metavar="N", help=help)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.convert.from_caffe import CAFFE_IMAGE_SIZE
    from alexnet.convert.import_net import import_net

    imported = import_net(
        options.file, options.run, classes=options.classes, mean=options.mean, image_size=options.image_size
    )
    classes = f"{len(imported.classes)} classes" if imported.classes else "no output layer"
    size = imported.recipe.net.image_size
    print(
        f"{options.run}: a net of {imported.format} with {imported.parameters:,} weights and biases, {classes}, for "
        f"pictures of {size} x {size}"
    )
    if imported.format == "ONNX" and options.image_size is None and size != CAFFE_IMAGE_SIZE:
        print_error(f"the file says {size} pixels; Caffe has trained its nets on {CAFFE_IMAGE_SIZE}: use --image-size")
    if imported.classes and not imported.has_names:
        first, last = imported.classes[0], imported.classes[-1]
        print_error(f"the file names no classes: they are called {first!r} to {last!r}; name them with --classes")
    return 0
