"""A trained net fine-tuned on few pictures a class: the error, and the time from the folder to the report.

    python benchmarks/finetune.py PICTURES ORIGIN WORK [--per-class 5 10 30] [--seeds 3] [--recipe photos-finetune]
                                  [--set FIELD=VALUE ...] [--name NAME] [--json FILE]

PICTURES is a folder, or a .tar file of one, with a folder for each class. The first pictures of each class by name are
trained on, the others tested. ORIGIN is a run to start from, or a file that `alexnet import` reads. WORK gets the
stores and the runs; a run that is there already is not trained again, and its time is read from it.

The time is that of the two commands, each with the start of Python: `alexnet prepare FOLDER STORE`, and `alexnet train
STORE RUN --from ORIGIN`, which ends with the report and its evaluation. Then the last net is evaluated with ten views.
Nothing else should run beside it. The table has the mean and the standard deviation over the seeds (of the training;
the pictures are the same).
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.environment import environment_info
from common.output import markdown_table, write_json

from alexnet.results.evaluate import evaluate

_TIMES = "seconds.json"  # beside a store or a run, once its command has ended


def _split_folder(pictures: Path, target: Path, per_class: int) -> Path:
    """Make a folder with train/ and test/ of links to the pictures, the first ones of each class in train/."""
    if not target.exists():
        for class_folder in sorted(path for path in pictures.iterdir() if path.is_dir()):
            for number, file in enumerate(sorted(class_folder.iterdir())):
                link = target / ("train" if number < per_class else "test") / class_folder.name / file.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.hardlink_to(file)
    return target


def _unpack(pictures: Path, work: Path) -> Path:
    """Return the folder with a folder for each class, unpacked if the pictures are in a .tar file."""
    if pictures.is_dir():
        return pictures
    target = work / "pictures"
    if not target.exists():
        with tarfile.open(pictures) as file:
            file.extractall(target, filter="data")
    folder = target
    while len(inner := [path for path in folder.iterdir() if path.is_dir()]) == 1:
        (folder,) = inner
    return folder


def _run_timed(arguments: Sequence[str | Path], output: Path) -> float:
    """Run `alexnet` in a process of its own unless it has made its output before; return its seconds."""
    times = output.with_name(f"{output.name}.{_TIMES}")
    if not times.exists():
        shutil.rmtree(output, ignore_errors=True)
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "alexnet", *map(str, arguments)], check=True)
        times.write_text(json.dumps(time.perf_counter() - start), encoding="utf-8")
    seconds: float = json.loads(times.read_text(encoding="utf-8"))
    return seconds


def _measure(options: argparse.Namespace, pictures: Path, origin: Path, per_class: int) -> list[dict[str, Any]]:
    """Return the times and errors of each seed."""
    folder = _split_folder(pictures, options.work / f"pictures-{per_class}", per_class)
    store = options.work / f"store-{per_class}"
    prepare_seconds = _run_timed(["prepare", folder, store], store)
    results = []
    for seed in range(options.seeds):
        run = options.work / f"{options.name or options.recipe}-{per_class}-{seed}"
        settings = [argument for setting in [*options.set, f"seed={seed}"] for argument in ("--set", setting)]
        command = ["train", store, run, "--from", origin, "--recipe", options.recipe, *settings]
        train_seconds = _run_timed(command, run)
        ten, one = (evaluate(run, store, views=views, split="test") for views in (10, 1))
        results.append(
            {
                "per_class": per_class,
                "seed": seed,
                "images": ten["images"],
                "top1_error": ten["top1_error"],
                "top5_error": ten["top5_error"],
                "log_prob": ten["log_prob"],
                "one_view": one["top1_error"],
                "prepare_seconds": prepare_seconds,
                "train_seconds": train_seconds,
            }
        )
        print(results[-1], flush=True)
    return results


def _percent(results: Sequence[dict[str, Any]], name: str) -> str:
    """Return the mean of an error over the seeds and, if there are several, its standard deviation."""
    values = [100 * result[name] for result in results]
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation} %"


def _row(results: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    seconds = [statistics.mean(result[name] for result in results) for name in ("prepare_seconds", "train_seconds")]
    errors = [_percent(results, name) for name in ("top1_error", "top5_error", "one_view")]
    times = [f"{value:.0f} s" for value in (*seconds, sum(seconds))]
    return (str(results[0]["per_class"]), str(results[0]["images"]), *errors, *times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="folder, or .tar file, with a folder for each class")
    parser.add_argument("origin", type=Path, help="run to start from, or file that `alexnet import` reads")
    parser.add_argument("work", type=Path, help="folder for the stores and runs")
    parser.add_argument("--per-class", type=int, nargs="+", default=[5, 10, 30], help="default: 5 10 30")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each; default: %(default)s")
    parser.add_argument("--recipe", default="photos-finetune", help="default: %(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the recipe")
    parser.add_argument("--name", help="beginning of the runs' names; default: the recipe's")
    parser.add_argument("--json", type=Path, help="the file to write the numbers to")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    pictures, origin = _unpack(options.pictures, options.work), options.origin
    if origin.is_file():
        origin = options.work / "imported"
        _run_timed(["import", options.origin, origin], origin)
    results = [_measure(options, pictures, origin, per_class) for per_class in options.per_class]
    info = environment_info()
    print(info)
    headings = ("pictures a class", "tested", "error, ten views", "top-5", "one view", "prepare", "train and report",
                "in all")  # fmt: skip
    print(markdown_table([_row(rows) for rows in results], headings))
    write_json(options.json, {"machine": info, "recipe": options.recipe, "set": options.set, "results": results})


if __name__ == "__main__":
    main()
