"""Trainings with 1 and 2 processes on this machine, compared with the model in scaling_model.py.

`python -m torch.distributed.run --nproc-per-node 2 benchmarks/scaling_measured.py FILE` measures the exchange between
two processes; `measure` starts it.
"""

import dataclasses
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from common.environment import activity_bytes, environment_info
from common.output import markdown_table, write_json
from common.roofline import memory_copy
from scaling_model import WEIGHT_BYTES, Cluster, Dataset, ScalingModel
from synthetic.stores import write_store

from alexnet.distributed.cost_model import SCHEMES
from alexnet.recipes import recipe_named


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A net to train here: its recipe, its batch size, the steps of an epoch and the number of classes."""

    recipe: str
    batch: int
    steps: int
    classes: int


WORKLOADS = {
    "paper": Workload(recipe="alexnet-2012-paper", batch=16, steps=3, classes=1000),
    "cifar": Workload(recipe="cifar10-80sec", batch=128, steps=20, classes=10),
}
# Processes, threads of each, scheme.
SETUPS = {"1 process, 1 thread": (1, 1, None), "1 process, 2 threads": (1, 2, None)} | {
    f"2 processes, {scheme}": (2, 1, scheme) for scheme in SCHEMES
}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def measure(names: Sequence[str], repeats: int, prefix: Sequence[str], json_path: Path | None) -> None:
    """Train each workload in each setup, in turn; print the medians beside the predictions of the model.

    Args:
        names: Keys of `WORKLOADS`.
        repeats: The number of trainings of each setup.
        prefix: Words to put before the command of each training.
        json_path: The file to write the numbers to.
    """
    exchange = _measure_exchange(prefix)
    bandwidth, latency = exchange["bytes_per_s"], exchange["latency"]
    print(f"{environment_info()}\ngloo between two processes: {bandwidth / 1e9:.2f} GB/s, {1e6 * latency:.0f} us")
    print(f"memory, two processes copying: {exchange['copied_bytes_per_s'] / 1e9:.1f} GB/s each")
    results: dict[str, Any] = {}
    for name in names:
        workload = WORKLOADS[name]
        speeds = _measure_speeds(workload, repeats, prefix)
        baseline, *_ = speeds.values()
        ratios = {
            setup: statistics.median(a / b for a, b in zip(values, baseline, strict=True))
            for setup, values in speeds.items()
        }
        predicted = _predict_speeds(workload, statistics.median(baseline), exchange)
        print(f"\n{workload.recipe}, batch {workload.batch}, {repeats} times in turn\n")
        print(_format_speeds(speeds, ratios, predicted), flush=True)
        results[name] = {
            "trial": dataclasses.asdict(workload), "pictures_per_s": speeds, "ratios": ratios, "model": predicted,
        }  # fmt: skip
    write_json(json_path, {"machine": environment_info(), "link": exchange, "measured": results})


def _measure_speeds(workload: Workload, repeats: int, prefix: Sequence[str]) -> dict[str, list[float]]:
    """Return the pictures/s of each training, by setup."""
    recipe = recipe_named(workload.recipe)
    setups = [setup for setup in SETUPS if recipe.net.towers > 1 or "towers" not in setup]
    speeds: dict[str, list[float]] = {setup: [] for setup in setups}
    with tempfile.TemporaryDirectory() as folder:
        counts = {"train": workload.batch * workload.steps, "val": workload.batch}
        store = write_store(Path(folder) / "store", recipe.store_size, workload.classes, **counts)
        for _ in range(repeats):
            for setup in setups:
                speeds[setup].append(_measure_training(workload, store, setup, prefix))
    return speeds


def _measure_training(workload: Workload, store: Path, setup: str, prefix: Sequence[str]) -> float:
    """Train for two epochs; return the pictures/s of the second one."""
    processes, threads, scheme = SETUPS[setup]
    launcher = [*TORCHRUN, str(processes)] if processes > 1 else [sys.executable]
    settings = [f"batch_size={workload.batch}", "epochs=2", "learning_rate=1e-6", "schedule=changes", "changes=[]"]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [*prefix, *launcher, "-m", "alexnet", "train", str(store), str(run), "--recipe", workload.recipe]
        command += [word for setting in settings for word in ("--set", setting)]
        _run(command + (["--parallel", scheme] if scheme else []), threads)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return float([line for line in lines if line["event"] == "epoch"][-1]["pictures_per_second"])


def _predict_speeds(workload: Workload, speed: float, exchange: Mapping[str, float]) -> dict[str, float]:
    """Return the pictures/s that the model predicts for two processes of one thread, from the speed of one."""
    recipe = recipe_named(workload.recipe)
    bytes_per_activation = activity_bytes(torch.device("cpu"), recipe)
    cluster = Cluster(
        speed=speed,
        speed_batch=workload.batch,
        fixed=0.0,
        memory=exchange["copied_bytes_per_s"],
        weight_bytes=WEIGHT_BYTES[bytes_per_activation],
        activity_bytes=bytes_per_activation,
        per_machine=2,
        nvlink=exchange["bytes_per_s"],
        nvlink_latency=exchange["latency"],
        launch=0.0,
        overlap=0.0,
        machine_read=math.inf,
        decoded=math.inf,
        cache=math.inf,
    )
    model = ScalingModel(cluster, recipe.net, workload.classes)
    dataset = Dataset(name="made up", count=workload.batch * workload.steps, classes=workload.classes, epochs=2)
    steps = {f"2 processes, {scheme}": model.predict_step(dataset, scheme, 2, workload.batch) for scheme in SCHEMES}
    return {setup: step.speed for setup, step in steps.items() if step is not None}


def _format_speeds(
    speeds: Mapping[str, Sequence[float]], ratios: Mapping[str, float], predicted: Mapping[str, float]
) -> str:
    """Return a table of measured and predicted speeds."""
    single = statistics.median(next(iter(speeds.values())))
    rows = [
        (
            setup,
            f"{statistics.median(values):,.1f}",
            f"{min(values):,.1f} to {max(values):,.1f}",
            f"{ratios[setup]:.2f}",
            f"{predicted[setup] / single:.2f}" if setup in predicted else "",
        )
        for setup, values in speeds.items()
    ]
    return markdown_table(rows, ("setup", "pictures/s", "from, to", "against 1 process, 1 thread", "predicted"))


def _run(command: list[str], threads: int) -> None:
    """Run a command; end the program if it fails."""
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stderr[-3000:]}")


def _measure_exchange(prefix: Sequence[str]) -> dict[str, float]:
    """Measure how fast two processes of this machine exchange bytes with gloo, and copy in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exchange.json"
        _run([*prefix, *TORCHRUN, "2", __file__, str(path)], 1)
        rates: dict[str, float] = json.loads(path.read_text())
    return rates


def write_exchange_rates(path: Path) -> None:
    """Time all-reduces of few and of many bytes, in each of two processes; the first one writes the medians."""
    dist.init_process_group("gloo")
    medians = {}
    for count in (1, 2**22):
        tensor, times = torch.ones(count), []
        for _ in range(12):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(tensor)
            times.append(time.perf_counter() - start)
        medians[count] = statistics.median(times[2:])
    copied = memory_copy(torch.device("cpu")).rate(torch.device("cpu"), 3)  # by both processes at the same time
    if dist.get_rank() == 0:
        bytes_sent = 4 * 2**22  # two processes: 2 (2 - 1) / 2 of the bytes
        bandwidth = bytes_sent / medians[2**22]
        rates = {"latency": medians[1] / 2, "bytes_per_s": bandwidth, "copied_bytes_per_s": copied}
        path.write_text(json.dumps(rates))
    dist.destroy_process_group()


if __name__ == "__main__":
    write_exchange_rates(Path(sys.argv[1]))
