"""`alexnet predict RUN WHAT...` (Figure 4, left)."""

import argparse
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from alexnet.cli.messages import print_error
from alexnet.cli.options import add_device, add_json, add_run, add_views, parse_output
from alexnet.cli.prediction_output import new_output

if TYPE_CHECKING:
    from alexnet.results.classifier import Classifier
    from alexnet.results.explanation_files import ExplanationFolder

SUMMARY = "name the most probable classes of pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    add_run(parser)
    help = (
        "pictures: a file, a folder with its subfolders, a .tar or .zip, a pattern such as 'birds/**/*.jpg', an http "
        "or https address, or - for such names on standard input, one in each line"
    )
    parser.add_argument("names", metavar="WHAT", nargs="+", help=help)
    parser.add_argument("--top", type=int, default=5, metavar="N", help="number of classes to name")
    add_views(parser)
    help = "pictures that go through the net at a time (default: a number that suits the device)"
    parser.add_argument("--batch", type=int, metavar="N", help=help)
    add_device(parser)
    formats = parser.add_mutually_exclusive_group()
    add_json(formats)
    formats.add_argument("--jsonl", action="store_true", help="print a JSON object for each picture, in a line each")
    formats.add_argument("--csv", action="store_true", help="print a table as CSV, with a row for each picture")
    _add_explanations(parser)


def _add_explanations(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("explanations", "Why the net names a class; docs/explanations.md.")
    help = (
        "folder to write a PNG for each picture to: where hiding the picture makes the class less probable, where its "
        "pixels count, and the nearest training pictures of the run's index"
    )
    group.add_argument("--explain", metavar="FOLDER", type=parse_output, help=help)
    group.add_argument("--label", metavar="CLASS", help="class to explain (default: each picture's most probable one)")
    help = "side of the grey square that hides parts of the picture, in pixels (default: a seventh of the picture's)"
    group.add_argument("--occlusion-size", dest="size", type=int, metavar="N", help=help)
    help = "pixels from one square to the next (default: half of its side)"
    group.add_argument("--occlusion-stride", dest="stride", type=int, metavar="N", help=help)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status: 0 if any picture could be read."""
    import gc

    from alexnet.utils.memory import paused_garbage_collector

    with paused_garbage_collector():
        classifier = _load(options)
    gc.freeze()  # what the imports have created stays: it need not be searched while the pictures come
    return _predict(classifier, options)


def _load(options: argparse.Namespace) -> "Classifier":
    from alexnet.data.loading.views import check_view_count
    from alexnet.results.classifier import Classifier

    if options.views is not None:
        check_view_count(options.views)
    return Classifier.load(options.run, device=options.device)


def _open_explanations(classifier: "Classifier", options: argparse.Namespace) -> "ExplanationFolder | None":
    if options.explain is None:
        for name, value in (("label", options.label), ("size", options.size), ("stride", options.stride)):
            if value is not None:
                raise ValueError(f"{name} must be given with a folder for the explanations: add --explain FOLDER")
        return None
    from alexnet.results.explanation import Explainer
    from alexnet.results.explanation_files import ExplanationFolder

    explainer = Explainer(classifier, options.run, label=options.label, size=options.size, stride=options.stride)
    return ExplanationFolder(options.explain, explainer)


def _read_stdin() -> Iterator[str]:
    """Return the lines of standard input; a program that calls the command may have an object without a file there."""
    from alexnet.data.sources.named_pictures import read_lines

    if sys.stdin is None:
        raise ValueError("-: standard input must be open to read names from; it is closed: name the pictures instead")
    try:
        return read_lines(sys.stdin.fileno())
    except io.UnsupportedOperation:
        return (os.fsdecode(line).removesuffix("\n").removesuffix("\r") for line in sys.stdin)


def _predict(classifier: "Classifier", options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from alexnet.data.sources.named_pictures import STANDARD_INPUT, iter_named_pictures
    from alexnet.training.inference import format_views

    lines = _read_stdin() if STANDARD_INPUT in options.names else ()
    pictures = iter_named_pictures(options.names, lines)
    explanations = _open_explanations(classifier, options)
    predictions = classifier.predict_stream(
        pictures,
        top=options.top if explanations is None else max(options.top, explanations.guesses),
        views=options.views,
        batch_size=options.batch,
        keep_pictures=explanations is not None,
    )
    crops = classifier.count_crops(classifier.default_views if options.views is None else options.views)
    output = new_output(options, crops, min(options.top, len(classifier.classes)))
    any_read = False
    # Where the terminal shows the predictions, they are the progress.
    hidden = not sys.stderr.isatty() or sys.stdout.isatty()
    with tqdm(desc="predict", unit=" pictures", disable=hidden) as bar:
        for prediction in predictions:
            file = None
            if prediction.error is None:
                any_read = True
                file = explanations.write(prediction) if explanations else None
            else:  # reported; the other pictures are still classified
                bar.clear()
                print_error(prediction.error)
            output.write(prediction, file)
            bar.update()
    output.end()
    if output.is_text and options.views is None and any_read:
        print(f"note: {format_views(crops)} of each picture, the default; --views for another number", file=sys.stderr)
    return 0 if any_read else 2
