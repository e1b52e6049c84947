"""The commands. Each imports what it needs when it runs, so that `alexnet --help` is instant.

Exit status: 0; 2 for what the user can mend, with one line that says how; 1 for a fault of ours, with a traceback; 128
and the signal's number where a signal ended the work.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from alexnet.recipe import Recipe
from alexnet.recipes import RECIPES, recipe_named
from alexnet.utils.console import format_error
from alexnet.utils.processes import (
    ReportedElsewhere,
    is_local_main_process,
    is_main_process,
    report_once_per_machine,
    wait_for_report,
    world_size,
)

STORE = "folder that `alexnet prepare` made, or the address of a copy, such as s3://bucket/folder"
VIEWS = "1: the centre; 10: corners, centre, and their reflections; 9: corners, edges, centre"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: What follows `alexnet` on the command line; that of the process by default.

    Returns:
        The exit status.
    """
    try:
        options = parser().parse_args(arguments)
        status: int = options.run_command(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as stop:
        return say("stopped", 128 + getattr(stop, "signal", 2))
    except ReportedElsewhere:
        wait_for_report()
        return 2
    except BrokenPipeError:
        # Whoever read our output has left; Python would complain once more when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        if os.environ.get("ALEXNET_DEBUG"):
            raise
        return say(one_line(error), 2)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError" or os.environ.get("ALEXNET_DEBUG"):
            raise
        return say(f"the device has too little memory; train with a smaller --set batch_size ({one_line(error)})", 2)


def say(text: str, status: int) -> int:
    """Print a line on standard error and return the status."""
    print(f"alexnet: {text}", file=sys.stderr)
    return status


def one_line(error: Exception) -> str:
    """Return an exception's full message on one line."""
    return format_error(error, with_type=False, limit=None)


def store_place(text: str) -> str | Path:
    """A store on the command line: a folder's path, or an address, which a Path would shorten to s3:/bucket."""
    return text if "://" in text else Path(text)


def folder(text: str) -> Path:
    """A folder on the command line that is written to, which no address can be."""
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text} must be a folder; copy it to an address once it is complete")
    return Path(text)


class Parser(argparse.ArgumentParser):
    """Of several processes with one command line, one tells what is wrong with it."""

    def error(self, message: str) -> NoReturn:
        if not is_local_main_process():
            raise ReportedElsewhere
        super().error(message)


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = Parser(
        prog="alexnet", description='The paper "ImageNet Classification with Deep CNNs" (2012) as one program.'
    )
    top.add_argument("-V", "--version", action=VersionAction, nargs=0, help="print the version")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        one.set_defaults(run_command=run)
        return one

    demo_arguments(command("demo", run_demo, "draw a small set of pictures, train on it, show the results"))
    recipes_arguments(command("recipes", run_recipes, "list the recipes, or print one"))
    prepare_arguments(command("prepare", run_prepare, "turn a folder of pictures into a store of squares"))
    train_arguments(command("train", run_train, "train a net on a store, or go on where the run stopped"))
    evaluate_arguments(command("evaluate", run_evaluate, "measure the errors of one run, or of the mean of several"))
    predict_arguments(command("predict", run_predict, "name the most probable classes of picture files"))
    submit_arguments(command("submit", run_submit, "write the file that the ILSVRC-2012 contest takes"))
    index_arguments(command("index", run_index, "write a store's activities, to search among them"))
    similar_arguments(command("similar", run_similar, "find the pictures that look most like others to the net"))
    reproduce_arguments(command("reproduce", run_reproduce, "make a figure or a table of the paper"))
    report_arguments(command("report", run_report, "write RUN/report.html anew"))
    figures_arguments(command("figures", run_figures, "write a run's figures as PNG files"))
    return top


class VersionAction(argparse.Action):
    """--version, which reads the package's metadata only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"alexnet {version('alexnet')}")
        parser.exit()


def demo_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, default=Path("demo"), help="where to work")
    one.add_argument("--data", choices=("drawn", "cifar10"), default="drawn", help="cifar10 is downloaded (170 MB)")


def run_demo(options: argparse.Namespace) -> int:
    from alexnet.demo import demo

    demo(options.folder, data=options.data)
    return 0


def recipes_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("name", metavar="NAME", nargs="?", help="print this recipe whole, as JSON")


def run_recipes(options: argparse.Namespace) -> int:
    if options.name:
        print(recipe_named(options.name).to_json())
        return 0
    for name, make in RECIPES.items():
        print(f"{name:20} {(make.__doc__ or '').splitlines()[0]}")
    return 0


def prepare_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("source", metavar="SOURCE", type=Path, help="folder with a folder per class, or CIFAR-10")
    one.add_argument("store", metavar="STORE", type=folder, help="folder to write")
    one.add_argument("--size", type=int, default=256, help="side of the stored squares, in pixels")
    one.add_argument("--encoding", choices=("raw", "jpeg"), default="raw", help="how pictures are kept")
    one.add_argument(
        "--held-out", type=float, default=0.1, metavar="SHARE", help="of each class, where no val/ or test/"
    )
    one.add_argument("--train-per-class", type=int, metavar="N", help="N of each class to train on, the rest to test")
    one.add_argument("--val-batch", type=int, metavar="1..5", help="of CIFAR-10, the training batch to validate on")
    one.add_argument("--seed", type=int, default=0, help="of the choice of held-out pictures")
    one.add_argument("--workers", type=int, metavar="N", help="threads of a process; by default one per core")
    one.add_argument(
        "--max-failures", type=float, default=0.05, metavar="SHARE", help="stop above this share unreadable"
    )


def run_prepare(options: argparse.Namespace) -> int:
    from alexnet.data.prepare.prepare import prepare

    parallel = world_size() > 1
    try:
        summary = prepare(
            options.source,
            options.store,
            size=options.size,
            encoding=options.encoding,
            held_out=options.held_out,
            train_per_class=options.train_per_class,
            val_batch=options.val_batch,
            seed=options.seed,
            workers=options.workers,
            max_failures=options.max_failures,
            parallel=parallel,
        )
    except ReportedElsewhere:  # `prepare` has waited for the report
        return 2
    if not parallel or is_main_process():
        print(summary)
    return 0


def train_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("store", metavar="STORE", type=store_place, help=STORE)
    one.add_argument("run", metavar="RUN", type=Path, help="folder for the net, its metrics and its report")
    one.add_argument("--recipe", metavar="NAME", help="see `alexnet recipes`; by default photos, or the run's own")
    one.add_argument("--set", metavar="FIELD=VALUE", action="append", default=[], help="change the recipe; repeatable")
    one.add_argument(
        "--from", dest="start_from", type=Path, metavar="RUN", help="another run to take start values from"
    )
    one.add_argument("--take", metavar="LAYERS", help="such as conv1,conv2; by default all layers that fit")
    one.add_argument("--device", help="such as cpu or cuda:1; by default the first GPU, else the CPU")
    one.add_argument(
        "--parallel", metavar="SCHEME", default="none", help="of torchrun's processes: data, towers, hybrid"
    )
    one.add_argument("--micro-batch", type=int, metavar="N", help="pictures a process takes through the net at a time")
    one.add_argument("--hang-seconds", type=float, default=300, metavar="S", help="give up a process that stands still")
    one.add_argument("--batch-size", type=int, metavar="N", help="train with batches of N pictures ...")
    one.add_argument("--scale-rate", choices=("linear", "sqrt"), help="... and scale the rates with them")
    one.add_argument("--workers", type=int, metavar="N", help="threads that make batches")
    one.add_argument("--checkpoint-minutes", type=float, default=10, metavar="M", help="time between checkpoints")
    one.add_argument("--no-graph", action="store_true", help="on a GPU, make each step kernel by kernel")
    one.add_argument("--tensorboard", action="store_true", help="write TensorBoard event files too")


def run_train(options: argparse.Namespace) -> int:
    from alexnet.training.train import train

    try:
        recipe = asked_recipe(options)
    except ValueError as error:
        raise report_once_per_machine(error) from None
    outcome = train(
        options.store,
        options.run,
        recipe,
        start_from=options.start_from,
        take=options.take.split(",") if options.take else (),
        device=options.device,
        parallel=options.parallel,
        micro_batch=options.micro_batch,
        hang_seconds=options.hang_seconds,
        workers=options.workers,
        checkpoint_minutes=options.checkpoint_minutes,
        tensorboard=options.tensorboard,
        graph=not options.no_graph,
    )
    if not outcome.finished:
        if is_main_process():
            say(f"stopped after step {outcome.step}, all saved: the same command goes on from there", 0)
        return 128 + (outcome.signal or 0)
    if not is_main_process():
        return 0
    from alexnet.results.report import report

    page = report(options.run, options.store, device=options.device)
    print(f"{outcome.epoch} epochs, top-1 error of the net kept {outcome.error:.2%}; report: {page}")
    return 0


def asked_recipe(options: argparse.Namespace) -> Recipe | None:
    """The recipe that `train`'s options ask for; None for that of the run, or of torchrun's first process."""
    begun = options.run / "recipe.json"
    changed = options.set or options.batch_size or options.scale_rate
    if options.recipe is None and not changed and (begun.exists() or not is_main_process()):
        return None
    recipe = recipe_named(options.recipe or "photos")
    if options.recipe is None and begun.exists():
        recipe = Recipe.from_json(begun.read_text(encoding="utf-8"))
    recipe = recipe.with_settings(options.set)
    if options.scale_rate and not options.batch_size:
        raise ValueError("--scale-rate must be given with the --batch-size to scale to")
    return recipe.with_batch(options.batch_size, options.scale_rate) if options.batch_size else recipe


def evaluate_arguments(one: argparse.ArgumentParser) -> None:
    text = "several, or files that --save wrote: their predictions averaged"
    one.add_argument("runs", metavar="RUN", nargs="+", type=Path, help=text)
    one.add_argument("store", metavar="STORE", type=store_place, help=STORE)
    one.add_argument("--views", type=int, default=1, metavar="1|9|10", help=VIEWS)
    one.add_argument("--split", help="val, test or train; by default val, else test")
    one.add_argument("--weights-on", metavar="SPLIT", help="choose the average's weights on these pictures")
    one.add_argument("--save", metavar="FILE", type=Path, help="keep the averaged predictions")
    one.add_argument(
        "--parallel", metavar="SCHEME", default="none", help="of torchrun's processes: data, towers, hybrid"
    )
    one.add_argument("--device", help="such as cpu or cuda:1")
    one.add_argument("--json", action="store_true", help="print one JSON object")


def run_evaluate(options: argparse.Namespace) -> int:
    from alexnet.results.evaluate import evaluate

    found = evaluate(
        options.runs,
        options.store,
        views=options.views,
        split=options.split,
        weights_on=options.weights_on,
        save=options.save,
        device=options.device,
        parallel=options.parallel,
    )
    if not is_main_process():
        return 0
    if options.json:
        print(json.dumps(found))
        return 0
    from alexnet.training.inference import format_views

    nets = f"{len(options.runs)} nets, their predictions averaged, " if len(options.runs) > 1 else ""
    if "weights" in found:
        print(f"weights chosen on {options.weights_on}: {', '.join(f'{weight:.3f}' for weight in found['weights'])}")
    print(f"{found['images']} pictures ({found['split']}), {nets}{format_views(found['views'])}:")
    print(f"top-1 error {found['top1_error']:.2%}, top-5 error {found['top5_error']:.2%}, ", end="")
    print(f"mean -log probability {found['log_prob']:.4f}")
    return 0


def predict_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("run", metavar="RUN", type=Path, help="folder that `alexnet train` made")
    one.add_argument("images", metavar="IMAGE", nargs="+", type=Path)
    one.add_argument("--top", type=int, default=5, metavar="N", help="how many classes to name")
    one.add_argument(
        "--views", type=int, metavar="1|9|10", help=f"{VIEWS}; by default the recipe's, if crops can differ"
    )
    one.add_argument("--device", help="such as cpu or cuda:1")
    one.add_argument("--json", action="store_true", help="print one JSON list, an entry per picture")


def run_predict(options: argparse.Namespace) -> int:
    from alexnet.data.loading.views import check_view_count
    from alexnet.results.classifier import Classifier

    if options.views is not None:
        check_view_count(options.views)
    classifier = Classifier.load(options.run, device=options.device)
    entries: list[dict[str, Any]] = []
    status = 0
    for image in options.images:
        try:
            found = classifier.predict(image, top=options.top, views=options.views)
        except (ValueError, OSError) as error:  # told, and the other pictures done all the same
            status = say(one_line(error), 2)
            entries.append({"image": str(image), "error": one_line(error)})
            continue
        entries.append({"image": str(image), "predictions": [{"class": c, "probability": p} for c, p in found]})
        if not options.json:
            print(image)
            print("\n".join(f"  {probability:7.2%}  {name}" for name, probability in found))
    if options.json:
        print(json.dumps(entries, ensure_ascii=False))
    return status


def submit_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="several runs: their predictions averaged")
    one.add_argument("pictures", metavar="FOLDER", type=Path, help="with ILSVRC2012_test_00000001.JPEG and so on")
    one.add_argument("file", metavar="FILE", type=Path, help="to write: five numbers a line")
    one.add_argument("--ids", metavar="FILE", type=Path, required=True, help="whose line n names the contest's class n")
    one.add_argument("--views", type=int, metavar="1|9|10", help="by default as many as the recipe says")
    one.add_argument("--device", help="such as cpu or cuda:1")


def run_submit(options: argparse.Namespace) -> int:
    from alexnet.results.submission import write_submission

    count = write_submission(
        options.runs, options.pictures, options.file, options.ids, views=options.views, device=options.device
    )
    print(f"{options.file}: {count} pictures, five guesses each")
    return 0


def index_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("run", metavar="RUN", type=Path, help="folder that `alexnet train` made")
    one.add_argument("store", metavar="STORE", type=store_place, help=STORE)
    one.add_argument("--split", default="train", help="val, test or train")
    one.add_argument("--bits", type=int, default=128, metavar="N", help="length of the binary codes")
    one.add_argument("--seed", type=int, default=0, help="of the autoencoder that makes the codes")
    one.add_argument("--device", help="such as cpu or cuda:1")


def run_index(options: argparse.Namespace) -> int:
    from alexnet.results.retrieval import Index, build_index

    folder = build_index(
        options.run, options.store, split=options.split, bits=options.bits, seed=options.seed, device=options.device
    )
    found = Index(folder)
    share = found.about["autoencoder"]["explained"]
    print(f"{folder}: {len(found)} pictures; codes of {options.bits} bits, which tell {share:.0%} of the activities")
    return 0


def similar_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("run", metavar="RUN", type=Path, help="folder that `alexnet index` worked on")
    one.add_argument("images", metavar="IMAGE", nargs="+", type=Path)
    one.add_argument("--count", type=int, default=6, metavar="N", help="how many to find for each")
    one.add_argument("--codes", action="store_true", help="search by the binary codes first: faster, not exact")
    one.add_argument("--device", help="such as cpu or cuda:1")
    one.add_argument("--json", action="store_true", help="print one JSON list, an entry per picture")


def run_similar(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from alexnet.results.retrieval import find_similar

    bad: dict[int, Exception] = {}
    found = find_similar(
        options.run, options.images, count=options.count, codes=options.codes, device=options.device, unreadable=bad
    )
    for error in bad.values():  # told, and the other pictures done all the same
        say(one_line(error), 2)
    status = 2 if bad else 0
    if options.json:
        entries = [
            {"image": str(image)}
            | ({"error": one_line(bad[place])} if place in bad else {"similar": [asdict(one) for one in near]})
            for place, (image, near) in enumerate(zip(options.images, found, strict=True))
        ]
        print(json.dumps(entries, ensure_ascii=False))
        return status
    for place, (image, near) in enumerate(zip(options.images, found, strict=True)):
        if place not in bad:
            print(image)
            print("\n".join(f"  {one.distance:10.3f}  {one.label}  {one.name}" for one in near))
    return status


def reproduce_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("name", metavar="NAME", nargs="?", help="such as figure1; without it they are listed")
    one.add_argument(
        "--data", metavar="STORE", type=store_place, help="a store of the paper's pictures, or of any as a stand-in"
    )
    one.add_argument("--more", metavar="STORE", type=store_place, help="a larger set to pre-train on (table2)")
    one.add_argument("--folder", type=Path, default=Path("reproduced"), help="where nets, tables and figures go")
    one.add_argument("--recipe", metavar="NAME", help="what the nets differ from, in place of the experiment's own")
    one.add_argument("--epochs", type=int, metavar="N", help="shorten each training to N epochs")
    one.add_argument("--seeds", type=int, metavar="N", help="how often each net is trained")
    one.add_argument("--device", help="such as cpu or cuda:1")
    one.add_argument("--workers", type=int, metavar="N", help="threads that make batches")


def run_reproduce(options: argparse.Namespace) -> int:
    from alexnet.experiments import describe_experiments, reproduce

    if options.name is None:
        for name, claim in describe_experiments().items():
            print(f"{name:20} {claim}")
        return 0
    finding = reproduce(
        options.name,
        options.folder,
        options.data,
        more=options.more,
        recipe=recipe_named(options.recipe) if options.recipe else None,
        epochs=options.epochs,
        seeds=options.seeds,
        device=options.device,
        workers=options.workers,
    )
    print(finding.markdown(), end="")
    print(f"\nAll in {options.folder / options.name}.")
    return 0


def report_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("run", metavar="RUN", type=Path, help="folder that `alexnet train` made")
    one.add_argument("--data", metavar="STORE", type=store_place, help="by default the store the run was trained on")
    one.add_argument("--device", help="such as cpu or cuda:1")


def run_report(options: argparse.Namespace) -> int:
    from alexnet.results.report import report, training_store

    print(report(options.run, options.data or training_store(options.run), device=options.device))
    return 0


def figures_arguments(one: argparse.ArgumentParser) -> None:
    report_arguments(one)
    one.add_argument("--folder", type=Path, help="where to write them; by default RUN/figures")


def run_figures(options: argparse.Namespace) -> int:
    from alexnet.results.report import training_store, write_figures

    store, folder = options.data or training_store(options.run), options.folder or options.run / "figures"
    for path in write_figures(options.run, store, folder, device=options.device):
        print(path)
    return 0
