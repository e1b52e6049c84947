"""`alexnet evaluate RUN... STORE` (section 7)."""

import argparse
import json
from pathlib import Path
from typing import Any

from alexnet.cli.options import (
    add_device,
    add_force,
    add_json,
    add_process_group,
    add_runs,
    add_store,
    add_views,
    parse_output,
)
from alexnet.utils.processes import is_main_process, report_once

SUMMARY = "measure the errors of a run, or of the averaged predictions of several"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    add_runs(parser, "folder of a trained net, or file written by --save; the predictions of several are averaged")
    add_store(parser)
    add_views(parser)
    parser.add_argument("--split", help="train, val or test (default: val, or test if there is no val)")
    parser.add_argument("--weights-on", metavar="SPLIT", help="choose the weights of several runs on this split")
    parser.add_argument(
        "--cost-matrix",
        metavar="FILE",
        type=Path,
        help="ILSVRC-2010's development kit or its meta.mat, for the hierarchical error (default: a meta.mat beside "
        "the store)",
    )
    add_device(parser)
    add_json(parser, "print one JSON object")
    _add_files_group(parser)
    add_process_group(parser)


def _add_files_group(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "files to write", "With --json, a table may be - instead of a file: it is in the JSON object only."
    )
    for option, help in (
        ("--per-class", "CSV of precision, recall, F1 and support of each class, and what it is most often taken for"),
        ("--predictions", "CSV of the name, the class and the five most probable classes of each picture"),
        ("--confusion", "confusion matrix, CSV or PNG by the file's ending"),
        ("--save", "the averaged predictions, to be named in place of a RUN"),
    ):
        group.add_argument(option, metavar="FILE", type=parse_output, help=help)
    add_force(group)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.results.evaluate import evaluate

    _check_file_options(options)
    results = evaluate(
        options.runs,
        options.store,
        views=options.views,
        split=options.split,
        weights_on=options.weights_on,
        save=options.save,
        per_class=options.per_class,
        predictions=options.predictions,
        confusion=options.confusion,
        cost_matrix=options.cost_matrix,
        force=options.force,
        device=options.device,
        parallel=options.parallel,
    )
    if not is_main_process():
        return 0
    if options.json:
        print(json.dumps(results, ensure_ascii=False))
    else:
        _print_results(results, options)
    return 0


def _check_file_options(options: argparse.Namespace) -> None:
    """Check the options that name files to write.

    Raises:
        ValueError: `-` without --json, or --force without a file.
    """
    files = {"--per-class": options.per_class, "--predictions": options.predictions, "--confusion": options.confusion}
    for option, file in files.items():
        if file == Path("-") and not options.json:
            raise report_once(ValueError(f"{option} - must be given with --json; name a file, or add --json"))
    if options.weights_on and len(options.runs) == 1:
        raise report_once(ValueError("--weights-on must be left out for one run, which needs no weights"))
    if options.force and not (options.save or any(files.values())):
        raise report_once(ValueError("--force must be given with a file to write, such as --save FILE"))


def _print_results(results: dict[str, Any], options: argparse.Namespace) -> None:
    from alexnet.training.error_rates import split_adjective
    from alexnet.training.inference import format_views
    from alexnet.utils.intervals import format_error_rate

    images, nets = results["images"], results["nets"]
    average = f"{nets} nets, their predictions averaged, " if nets > 1 else ""
    is_default = options.views is None and any(run.is_dir() for run in options.runs)  # files have one number only
    default = " (the default; --views for another number)" if is_default else ""
    if "weights" in results:
        print(f"weights chosen on {options.weights_on}: {', '.join(f'{w:.3f}' for w in results['weights'])}")
    pictures = f"{images:,} {split_adjective(results['split'])} pictures"
    print(f"{pictures}, {average}{format_views(results['views'])}{default}:")
    errors = (f"top-{n} error {format_error_rate(results[f'top{n}_error'], images)}" for n in (1, 5))
    print(", ".join([*errors, f"mean -log probability {results['log_prob']:.4f}"]))
    macro_error = format_error_rate(results["macro_error"], images, results["macro_interval"])
    print(f"top-1 error averaged over the classes {macro_error}")
    if results["chosen_on_split"]:
        print("the error on these same pictures chose the epoch: expect a higher one on others")
    if "top5_hierarchical_error" in results:
        print(", ".join(_format_hierarchical_error(results, guesses) for guesses in (1, 5)))
    print(f"expected calibration error {results['calibration_error']:.3f}")
    for file in (options.per_class, options.predictions, options.confusion, options.save):
        if file:
            print(file)


def _format_hierarchical_error(results: dict[str, Any], guesses: int) -> str:
    error, interval = (results[f"top{guesses}_hierarchical_{name}"] for name in ("error", "interval"))
    limits = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    return f"top-{guesses} hierarchical error {error:.3f}{limits}"
