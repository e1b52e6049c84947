"""`alexnet predict RUN WHAT...` (Figure 4, left)."""

import argparse
import sys
from typing import TYPE_CHECKING

from alexnet.cli.messages import print_error
from alexnet.cli.options import add_device, add_json, add_run, add_views
from alexnet.cli.prediction_output import new_output

if TYPE_CHECKING:
    from alexnet.results.classifier import Classifier

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


def _predict(classifier: "Classifier", options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from alexnet.data.sources.named_pictures import STANDARD_INPUT, iter_named_pictures, read_lines
    from alexnet.training.inference import format_views

    lines = read_lines(sys.stdin.fileno()) if STANDARD_INPUT in options.names else ()
    pictures = iter_named_pictures(options.names, lines)
    predictions = classifier.predict_stream(pictures, top=options.top, views=options.views, batch_size=options.batch)
    crops = classifier.count_crops(classifier.default_views if options.views is None else options.views)
    output = new_output(options, crops, min(options.top, len(classifier.classes)))
    any_read = False
    # Where the terminal shows the predictions, they are the progress.
    hidden = not sys.stderr.isatty() or sys.stdout.isatty()
    with tqdm(desc="predict", unit=" pictures", disable=hidden) as bar:
        for prediction in predictions:
            if prediction.error is None:
                any_read = True
            else:  # reported; the other pictures are still classified
                bar.clear()
                print_error(prediction.error)
            output.write(prediction)
            bar.update()
    output.end()
    if output.is_text and options.views is None and any_read:
        print(f"note: {format_views(crops)} of each picture, the default; --views for another number", file=sys.stderr)
    return 0 if any_read else 2
