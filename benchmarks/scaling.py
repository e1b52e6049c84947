"""How training scales over processes: a model of 1 to 1,024 GPUs, and a measurement of 1 and 2 processes here.

    python benchmarks/scaling.py [--json FILE] [--figure docs/scaling.png] [--speed 25000] [--network 40e9] ...
    python benchmarks/scaling.py --measure [--nets paper cifar] [--repeats 3] [--before "taskset -c 0,1"] [--json FILE]

The first command prints the bytes that are exchanged in a step, and predicts the pictures/s of each scheme (`alexnet
train --parallel data`, `towers`, `hybrid`) for three datasets, with a fixed batch size for each GPU and with fixed
batch sizes over all GPUs. It says where each scheme stops paying. Every input is an option: `--help` lists the
defaults, docs/scaling.md the assumptions. The default speed of one GPU is the least that the project expects of an
H200, NOT a measurement: give a measured one with --speed (python benchmarks/gpu.py measures it).

The second command trains on a synthetic store with one process of one and of two threads, and with two processes of one
thread in each scheme, in turn. It compares their pictures/s (medians over the repeats, of the second of two epochs)
with what the model predicts for this machine. The inputs are then the speeds of one process, of copies in memory and of
gloo.
"""

import argparse
import dataclasses
import shlex
from pathlib import Path

from common.output import markdown_table, write_json
from scaling_measured import WORKLOADS, measure
from scaling_model import DATASETS, BatchRule, Cluster, Predictions, ScalingModel, predict
from scaling_tables import SUMMARY_HEADS, describe_step, draw_figure, speed_table, summary_rows, traffic_table

from alexnet.architecture import Net


def print_predictions(options: argparse.Namespace) -> None:
    """Print the tables of the model; write its JSON file and its figure."""
    cluster = Cluster(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Cluster)})
    model = ScalingModel(cluster, Net())
    rules = [BatchRule(per_gpu=options.batch), *(BatchRule(fixed=batch) for batch in options.global_batch)]
    print(f"Sent by one of two processes in a step of 128 pictures, in kB, float32:\n\n{traffic_table(128, 4)}\n")
    print(f"{describe_step(model)}\n\nThe cells below are pictures/s over all GPUs (efficiency).")
    predictions: dict[str, dict[str, Predictions]] = {}
    summary: list[tuple[str, ...]] = []
    for dataset in DATASETS:
        print(f"\n{dataset.title}")
        predictions[dataset.name] = {rule.name: predict(model, dataset, rule) for rule in rules}
        for rule in rules:
            steps = predictions[dataset.name][rule.name]
            print(f"\n{rule.name[0].upper()}{rule.name[1:]}:\n\n{speed_table(dataset, steps)}")
            summary += summary_rows(dataset, rule, steps)
    print(f"\nWhere each scheme stops paying\n\n{markdown_table(summary, SUMMARY_HEADS)}")
    if options.figure:
        draw_figure(options.figure, predictions, cluster)
    plain = {
        dataset: {rule: {scheme: {count: dataclasses.asdict(step) for count, step in steps.items()}
                         for scheme, steps in by_scheme.items()} for rule, by_scheme in by_rule.items()}
        for dataset, by_rule in predictions.items()
    }  # fmt: skip
    summaries = [dict(zip(SUMMARY_HEADS, row, strict=True)) for row in summary]
    inputs = dataclasses.asdict(cluster)
    write_json(options.json, {"given": inputs, "flop_per_s": model.rate, "predicted": plain, "summary": summaries})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    parser.add_argument("--figure", type=Path, help="PNG file to write the figure to")
    parser.add_argument("--batch", type=int, default=128, help="pictures of each GPU, where that is fixed")
    parser.add_argument(
        "--global-batch", type=int, nargs="*", default=[1024, 128], help="pictures of all GPUs, where that is fixed"
    )
    for option in dataclasses.fields(Cluster):
        text = f"{option.metadata['help']} ({option.default:g})"
        name = f"--{option.name.replace('_', '-')}"
        parser.add_argument(name, type=float, default=option.default, metavar="X", help=text)
    parser.add_argument("--measure", action="store_true", help="train on this machine instead")
    parser.add_argument("--nets", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="what to train")
    parser.add_argument("--repeats", type=int, default=3, help="how often each training is repeated")
    parser.add_argument("--before", default="", metavar="WORDS", help="put before the command of each training")
    options = parser.parse_args()
    if options.measure:
        measure(options.nets, options.repeats, shlex.split(options.before), options.json)
    else:
        print_predictions(options)


if __name__ == "__main__":
    main()
