"""`alexnet predict RUN IMAGE...` (Figure 4, left)."""

import argparse
import json
import sys
from typing import Any

from alexnet.cli.messages import one_line, print_error
from alexnet.cli.options import add_device, add_images, add_json, add_run, add_views

SUMMARY = "name the most probable classes of picture files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    add_run(parser)
    add_images(parser)
    parser.add_argument("--top", type=int, default=5, metavar="N", help="number of classes to name")
    add_views(parser)
    add_device(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.utils.memory import paused_garbage_collector

    with paused_garbage_collector():
        return _predict(options)


def _predict(options: argparse.Namespace) -> int:
    from alexnet.data.loading.views import check_view_count, select_views
    from alexnet.results.classifier import Classifier
    from alexnet.training.inference import format_views

    if options.views is not None:
        check_view_count(options.views)
    classifier = Classifier.load(options.run, device=options.device)
    views = classifier.default_views if options.views is None else options.views
    crops = len(select_views(views, classifier.recipe.store_size, classifier.recipe.net.image_size))  # that differ
    entries: list[dict[str, Any]] = []
    status = 0
    for image in options.images:
        try:
            predictions = classifier.predict(image, top=options.top, views=views)
        except (ValueError, OSError) as error:  # reported; the other pictures are still classified
            print_error(one_line(error))
            status = 2
            entries.append({"image": str(image), "error": one_line(error)})
            continue
        named = [{"class": name, "probability": probability} for name, probability in predictions]
        entries.append({"image": str(image), "views": crops, "predictions": named})
        if not options.json:
            print(image)
            print("\n".join(f"  {probability:7.2%}  {name}" for name, probability in predictions))
    if options.json:
        print(json.dumps(entries, ensure_ascii=False))
    elif options.views is None and any("views" in entry for entry in entries):
        print(f"note: {format_views(crops)} of each picture, the default; --views for another number", file=sys.stderr)
    return status
