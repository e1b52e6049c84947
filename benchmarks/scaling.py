"""How training scales over processes: a model on paper for 1 to 1,024 GPUs, and 1 and 2 processes on this machine.

    python benchmarks/scaling.py [--json FILE] [--figure docs/scaling.png] [--speed 25000] [--network 40e9] ...
    python benchmarks/scaling.py --measure [--nets paper cifar] [--repeats 3] [--before "taskset -c 0,1"] [--json FILE]

The first prints what is exchanged in a step and predicts pictures/s of each scheme (`alexnet train --parallel data`,
`towers`, `hybrid`) for three sets of pictures, with a fixed batch a GPU and with fixed batches over all GPUs, and says
where each scheme stops paying. Every input is an option; `--help` tells the defaults, docs/scaling.md the assumptions.
The default speed of one GPU is the least that the project wants of an H200, NOT a measurement: give a measured one with
--speed (python benchmarks/gpu.py measures it).

The second trains on a made-up store with one process on one and on two threads, and with two processes of one thread
in each scheme, in turn, and compares their pictures/s (medians over the repeats, of the second of two epochs) with what
the model says of this machine: its inputs then are the speed of one process, of copies in memory, and of gloo.
"""

import argparse
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from machine import about, activity_bytes, memory_copy, table, write_json
from stores import write_store

from alexnet.architecture import Net
from alexnet.distributed.cost_model import SCHEMES, LayerSize, Layout, every_layer_talks, layer_sizes, traffic
from alexnet.recipes import recipe_named

COUNTS = [2**n for n in range(11)]
BUCKET = 25 * 2**20  # bytes of gradients that DDP averages together
# Bytes read and written for a weight in a step, by those of an activity: casts, three products, gradient, and the
# update, which takes 20 of them.
WEIGHT_BYTES = {4: 32, 2: 38}


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A set to train on, and how often its pictures are seen."""

    name: str
    count: int
    classes: int
    epochs: int

    @property
    def title(self) -> str:
        """As people would say it."""
        times = "one epoch" if self.epochs == 1 else f"{self.epochs} epochs"
        return f"{self.name}: {self.count / 1e6:,.4g} million pictures, {self.classes:,} classes, {times}"


SETS = (
    Pictures(name="ImageNet-1K", count=1_281_167, classes=1_000, epochs=90),  # section 6: roughly 90
    Pictures(name="22K", count=14_197_122, classes=21_841, epochs=8),  # as the 2012 program's pre-training
    Pictures(name="A billion", count=10**9, classes=21_841, epochs=1),
)


def given(default: float, text: str) -> Any:
    """A field of `Cluster` that is an option of the command line."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What the model takes for given; times in seconds, rates in bytes/s."""

    speed: float = given(25_000, "pictures/s of one GPU, 1000 classes; the default is issue 3's target for an H200")
    speed_batch: float = given(128, "batch at which it has that speed")
    fixed: float = given(5e-4, "seconds of a step that no smaller batch saves")
    memory: float = given(4e12, "bytes/s of one GPU's memory")
    weight_bytes: float = given(
        WEIGHT_BYTES[2], "bytes read and written for one weight in a step: casts, products, update"
    )
    activity_bytes: float = given(2, "bytes of an activity: 2 in bfloat16, 4 in float32")
    per_machine: float = given(8, "GPUs of a machine")
    nvlink: float = given(350e9, "bytes/s that one GPU sends to others of its machine")
    network: float = given(
        40e9, "bytes/s that one GPU sends to other machines; Ethernet of 100 Gbit/s a machine: 1.5e9"
    )
    launch: float = given(1e-5, "seconds that any exchange takes to begin")
    nvlink_latency: float = given(2e-6, "seconds from GPU to GPU in a machine")
    network_latency: float = given(5e-6, "seconds from machine to machine")
    overlap: float = given(0.8, "share of the convolutions' back pass during which gradients can be averaged unnoticed")
    picture_bytes: float = given(25_500, "of a stored picture: 25,500 as JPEG (measured), 196,608 raw")
    decoded: float = given(1_770, "pictures/s that one core makes from JPEG (measured here); raw: 38,700")
    cores: float = given(112, "cores of a machine")
    machine_read: float = given(10e9, "bytes/s that a machine reads, from its own disk or over its network")
    storage: float = given(100e9, "bytes/s that the shared storage gives to all machines together")
    cache: float = given(4e12, "bytes of a machine's own disk or memory: a set that fits is read from there")

    def link(self, count: int, stride: int) -> tuple[float, float, float]:
        """What joins `count` processes that lie `stride` apart.

        Returns:
            Bytes/s of one process's sending; the latency of a ring once around; and of a tree up and down.
        """
        here = min(count, max(1, int(self.per_machine) // stride))
        machines = -(-count // here)
        tree = 2 * ((here - 1) * self.nvlink_latency + math.ceil(math.log2(machines)) * self.network_latency)
        if machines == 1:
            return self.nvlink, (count - 1) * self.nvlink_latency, tree
        ring = (count - machines) * self.nvlink_latency + machines * self.network_latency
        return min(self.nvlink, here * self.network), ring, tree

    def readable(self, pictures: Pictures, processes: int, copies: int) -> float:
        """Pictures/s that can be read and decoded where each is wanted by `copies` processes."""
        machines = math.ceil(processes / self.per_machine)
        of_machine = min(self.machine_read / self.picture_bytes, self.cores * self.decoded)
        found = machines * of_machine / copies
        if pictures.count * self.picture_bytes > self.cache:
            found = min(found, self.storage / self.picture_bytes)
        return found


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a training step is predicted to take, in seconds; its pictures/s; and what limits these.

    Args:
        work: Computing.
        exchanged: Waiting for activities, their gradients and the softmax.
        averaged: Waiting for the averages of the weights' gradients.
        speed: Pictures/s, over all processes.
        efficiency: Share of what as many times one GPU alone would make; filled in afterwards.
        limit: "reading" where pictures cannot be read as fast; else the largest of the three times.
    """

    work: float
    exchanged: float
    averaged: float
    speed: float
    limit: str
    efficiency: float = 1.0


class Model:
    """Predicts a step; the arithmetic's rate is that which makes one GPU as fast as `Cluster.speed` says."""

    def __init__(self, cluster: Cluster, net: Net, classes: int = 1000) -> None:
        self.cluster, self.net = cluster, net
        one, batch = Layout(scheme="data", processes=1, towers=net.towers), int(cluster.speed_batch)
        flop, _, moved = self.load(layer_sizes(net, classes), one, batch)
        left = batch / cluster.speed - cluster.fixed - moved / cluster.memory
        if left <= 0:
            raise ValueError(f"speed must leave time for the arithmetic; {cluster.speed:g} pictures/s do not: lower it")
        self.rate = flop / left  # FLOP/s

    def load(self, sizes: Sequence[LayerSize], layout: Layout, batch: int) -> tuple[float, float, float]:
        """What the busiest process has to do: FLOP, those of the convolutions' back pass, and bytes of memory."""
        flop = back = moved = 0.0
        for number, layer in enumerate(sizes):
            parts = layout.parts(layer)
            pictures, units = -(-batch // (layout.processes // parts)), -(-layer.units // parts)
            forward = 2 * layer.products * units / layer.units * pictures
            times = 2 if number else 1  # the pictures want no gradient
            flop += (1 + times) * forward
            back += 0 if layer.full else times * forward
            moved += units * layer.unit_parameters * self.cluster.weight_bytes
            if layer.full:  # what all pictures bring is read whole, however few units read it
                moved += 3 * pictures * layer.read * layer.area * self.cluster.activity_bytes
        return flop, back, moved

    def step(self, pictures: Pictures, scheme: str, processes: int, batch: int) -> Step | None:
        """Predict a step; None where the scheme does not fit."""
        given, of = self.cluster, int(self.cluster.activity_bytes)
        try:
            rows = traffic(self.net, pictures.classes, batch, scheme, processes, activity_bytes=of)
        except ValueError:
            return None
        layout = Layout(scheme=scheme, processes=processes, towers=self.net.towers)
        sizes = layer_sizes(self.net, pictures.classes)
        flop, back, moved = self.load(sizes, layout, batch)
        work = given.fixed + moved / given.memory + flop / self.rate
        bandwidth, ring, tree = given.link(layout.full_parts, 1)
        exchanged = averaged = 0.0
        for row in rows:
            if row.layer == "softmax" and row.forward:
                exchanged += 2 * given.launch + ring + tree + row.forward / bandwidth
            else:
                exchanged += sum(given.launch + ring + sent / bandwidth for sent in (row.forward, row.backward) if sent)
        sent: dict[int, int] = {}  # bytes averaged, by how many processes have the same weights
        for layer, row in zip(sizes, rows, strict=False):
            same = processes // layout.parts(layer)
            sent[same] = sent.get(same, 0) + row.weights
        for same, total in sent.items():
            if total:
                bandwidth, _, tree = given.link(same, processes // same)
                averaged += math.ceil(total / 2 / BUCKET) * (given.launch + tree) + total / bandwidth
        averaged = max(0.0, averaged - given.overlap * back / self.rate)
        times = {"computing": work, "activities": exchanged, "gradients": averaged}
        speed, readable = batch / sum(times.values()), given.readable(pictures, processes, layout.conv_parts)
        limit = "reading" if readable < speed else max(times, key=lambda name: times[name])
        return Step(work=work, exchanged=exchanged, averaged=averaged, speed=min(speed, readable), limit=limit)


@dataclass(frozen=True, kw_only=True)
class Mode:
    """How the batch is chosen: `each` pictures a GPU, or `whole` over all."""

    each: int | None = None
    whole: int | None = None

    def batch(self, processes: int) -> int:
        """The global batch."""
        return self.whole or (self.each or 0) * processes

    @property
    def name(self) -> str:
        """For tables."""
        return f"batch of {self.whole:,} over all GPUs" if self.whole else f"batch of {self.each:,} a GPU"


Found = dict[str, dict[int, Step]]


def predict(model: Model, pictures: Pictures, mode: Mode) -> Found:
    """Steps by scheme and number of processes, with their efficiency; one GPU is the same in every scheme."""
    alone = model.step(pictures, "data", 1, mode.batch(1))
    assert alone is not None
    found: Found = {scheme: {1: alone} for scheme in SCHEMES}
    for scheme in SCHEMES:
        for count in COUNTS[1:]:
            step = model.step(pictures, scheme, count, mode.batch(count))
            if step is not None:
                found[scheme][count] = dataclasses.replace(step, efficiency=step.speed / count / alone.speed)
    return found


def duration(pictures: Pictures, speed: float) -> str:
    """How long a training takes, as people say it."""
    seconds = pictures.count * pictures.epochs / speed
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} seconds"


def steps_table(pictures: Pictures, found: Found) -> str:
    """Pictures/s, efficiency and what limits, for each number of GPUs and scheme."""
    rows = []
    for count in COUNTS:
        steps = {scheme: found[scheme].get(count) for scheme in SCHEMES}
        cells = [f"{step.speed:,.0f} ({step.efficiency:.2f})" if step else "" for step in steps.values()]
        fitting = {scheme: step for scheme, step in steps.items() if step}
        if fitting:
            best = max(fitting, key=lambda scheme: fitting[scheme].speed)
            name = best if count > 1 else ""
            rows.append((f"{count:,}", *cells, name, fitting[best].limit, duration(pictures, fitting[best].speed)))
    return table(rows, ("GPUs", *SCHEMES, "best", "that is mostly", "and takes"))


def until(counts: Sequence[int]) -> str:
    """The last of these numbers of GPUs."""
    return f"{counts[-1]:,}" if counts else "never"


def summary(pictures: Pictures, mode: Mode, found: Found) -> Iterator[tuple[str, ...]]:
    """Where each scheme stops paying: efficiency below a half, no faster with more GPUs, another faster."""
    for scheme in SCHEMES:
        steps = found[scheme]
        paying = [count for count in steps if all(step.efficiency >= 0.5 for n, step in steps.items() if n <= count)]
        fastest = max(steps, key=lambda count: steps[count].speed)
        best = [
            count
            for count in steps
            if count > 1 and all(steps[count].speed >= found[s][count].speed for s in SCHEMES if count in found[s])
        ]
        where = f"{best[0]:,} to {best[-1]:,}" if len(best) > 1 else until(best)
        if best and len(best) != COUNTS.index(best[-1]) - COUNTS.index(best[0]) + 1:
            where = ", ".join(f"{count:,}" for count in best)
        speed = steps[fastest].speed
        yield (
            pictures.name,
            mode.name,
            scheme,
            until(paying),
            where,
            f"{speed:,.0f} at {fastest:,}",
            duration(pictures, speed),
        )


SUMMARY = ("set", "mode", "scheme", "efficiency of a half up to", "best at", "pictures/s at most", "which takes")


def traffic_table(batch: int, activity_bytes: int) -> str:
    """What one of two processes sends in a step of the paper's net, in kB."""
    tower, talking = (
        traffic(net, 1000, batch, "towers", 2, activity_bytes=activity_bytes)
        for net in (Net(), every_layer_talks(Net()))
    )
    data, hybrid = (traffic(Net(), 1000, batch, s, 2, activity_bytes=activity_bytes) for s in ("data", "hybrid"))
    rows = [
        (a.layer, *(kilo(n) for n in (a.forward, a.backward, b.forward, b.backward, c.weights, d.forward, d.backward,
                                      d.weights)))
        for a, b, c, d in zip(tower, talking, data, hybrid, strict=True)
    ]  # fmt: skip
    rows.append(("all", kilo(sum(r.forward for r in tower)), kilo(sum(r.backward for r in tower)),
                 kilo(sum(r.forward for r in talking)), kilo(sum(r.backward for r in talking)),
                 kilo(sum(r.weights for r in data)), kilo(sum(r.forward for r in hybrid)),
                 kilo(sum(r.backward for r in hybrid)), kilo(sum(r.weights for r in hybrid))))  # fmt: skip
    return table(rows, ("layer", "towers, forward", "back", "if every layer talked, forward", "back",
                        "data, gradients", "hybrid, forward", "back", "gradients"))  # fmt: skip


def parts_of_a_step(model: Model) -> str:
    """Where the time of one GPU goes, as far as arithmetic tells."""
    cluster, sizes = model.cluster, layer_sizes(model.net, 1000)
    batch = int(cluster.speed_batch)
    one = Layout(scheme="data", processes=1, towers=model.net.towers)
    flop, back, moved = model.load(sizes, one, batch)
    first = 2 * sizes[0].products * batch
    convolutions = back + (back - first) / 2 + first  # forward: half of the back pass, but for conv1
    parameters = [layer.units * layer.unit_parameters for layer in sizes]
    full = sum(count for count, layer in zip(parameters, sizes, strict=True) if layer.full) / sum(parameters)
    ms = [1000 * t for t in (convolutions / model.rate, (flop - convolutions) / model.rate, moved / cluster.memory)]
    return (
        f"One GPU: {cluster.speed:,.0f} pictures/s at batch {batch} is given, not measured here. So a step takes "
        f"{1000 * batch / cluster.speed:.2f} ms:\nconvolutions {ms[0]:.2f}, fully connected layers {ms[1]:.2f} (at "
        f"{model.rate / 1e12:,.0f} TFLOP/s), weights read and written {ms[2]:.2f},\nwhat no smaller batch saves "
        f"{1000 * cluster.fixed:.2f}. Convolutions have {convolutions / flop:.1%} of the arithmetic, fully connected "
        f"layers {full:.1%} of the weights."
    )


def kilo(count: int) -> str:
    """Bytes in kB."""
    return f"{count / 1000:,.1f}" if count else ""


def figure(path: Path, found: dict[str, dict[str, Found]], cluster: Cluster) -> None:
    """Pictures/s over GPUs, a panel for each set."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    colours = dict(zip(SCHEMES, ("tab:blue", "tab:orange", "tab:green"), strict=True))
    styles = ("-", "--", ":")
    picture, panels = plt.subplots(1, len(found), figsize=(15, 5.2), sharey=True, layout="constrained")
    for panel, pictures in zip(panels, SETS, strict=True):
        modes = found[pictures.name]
        for style, by_scheme in zip(styles, modes.values(), strict=False):
            for scheme, steps in by_scheme.items():
                speeds = [step.speed for step in steps.values()]
                panel.plot(list(steps), speeds, style, color=colours[scheme], marker=".", markersize=5, linewidth=1.4)
        one = next(iter(modes.values()))["data"][1].speed
        for share, colour in ((1.0, "0.45"), (0.5, "0.75")):
            panel.plot(COUNTS, [share * one * count for count in COUNTS], color=colour, linewidth=0.8, zorder=0)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(COUNTS, [str(count) for count in COUNTS])
        panel.set_xlabel("GPUs")
        panel.set_title(pictures.title.replace(": ", "\n", 1), fontsize=10)
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("pictures/s (predicted)")
    keys = [Line2D([], [], color=colour, label=scheme) for scheme, colour in colours.items()]
    keys += [Line2D([], [], color="k", linestyle=s, label=m) for s, m in zip(styles, modes, strict=False)]
    keys += [Line2D([], [], color="0.45", linewidth=0.8, label="efficiency 1"),
             Line2D([], [], color="0.75", linewidth=0.8, label="efficiency 1/2")]  # fmt: skip
    panels[0].legend(handles=keys, fontsize=8, loc="upper left")
    note = f"one GPU: {cluster.speed:,.0f} pictures/s at batch {cluster.speed_batch:,.0f} is given, not measured"
    picture.suptitle(f"Training the paper's net, predicted by benchmarks/scaling.py ({note})", fontsize=11)
    picture.savefig(path, dpi=110)


def on_paper(options: argparse.Namespace) -> None:
    """Print the model's tables; write its JSON and figure."""
    cluster = Cluster(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Cluster)})
    model = Model(cluster, Net())
    modes = [Mode(each=options.batch), *(Mode(whole=whole) for whole in options.global_batch)]
    print(f"One of two processes sends in a step of 128 pictures, in kB, float32:\n\n{traffic_table(128, 4)}\n")
    print(f"{parts_of_a_step(model)}\n\nCells below: pictures/s over all GPUs (efficiency).")
    found: dict[str, dict[str, Found]] = {}
    rows: list[tuple[str, ...]] = []
    for pictures in SETS:
        print(f"\n{pictures.title}")
        found[pictures.name] = {mode.name: predict(model, pictures, mode) for mode in modes}
        for mode in modes:
            steps = found[pictures.name][mode.name]
            print(f"\n{mode.name[0].upper()}{mode.name[1:]}:\n\n{steps_table(pictures, steps)}")
            rows += summary(pictures, mode, steps)
    print(f"\nWhere each scheme stops paying\n\n{table(rows, SUMMARY)}")
    if options.figure:
        figure(options.figure, found, cluster)
    plain = {
        name: {mode: {scheme: {count: dataclasses.asdict(step) for count, step in steps.items()}
                      for scheme, steps in by_scheme.items()} for mode, by_scheme in of_set.items()}
        for name, of_set in found.items()
    }  # fmt: skip
    given = dataclasses.asdict(cluster)
    write_json(options.json, {"given": given, "flop_per_s": model.rate, "predicted": plain,
                              "summary": [dict(zip(SUMMARY, row, strict=True)) for row in rows]})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A net to be trained here: its recipe, its batch, and how many steps an epoch has."""

    recipe: str
    batch: int
    steps: int
    classes: int


TRIALS = {
    "paper": Trial(recipe="alexnet-2012-paper", batch=16, steps=3, classes=1000),
    "cifar": Trial(recipe="cifar10-80sec", batch=128, steps=20, classes=10),
}
# Processes, threads of each, scheme.
WAYS = {"1 process, 1 thread": (1, 1, None), "1 process, 2 threads": (1, 2, None)} | {
    f"2 processes, {scheme}": (2, 1, scheme) for scheme in SCHEMES
}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def run(command: list[str], threads: int) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stderr[-3000:]}")


def speed_of(trial: Trial, store: Path, way: str, before: Sequence[str]) -> float:
    """Pictures/s of the second epoch of a training."""
    processes, threads, scheme = WAYS[way]
    start = [*TORCHRUN, str(processes)] if processes > 1 else [sys.executable]
    with tempfile.TemporaryDirectory() as folder:
        run_folder = Path(folder) / "run"
        sets = [f"batch_size={trial.batch}", "epochs=2", "learning_rate=1e-6", "schedule=changes", "changes=[]"]
        command = [*before, *start, "-m", "alexnet", "train", str(store), str(run_folder), "--recipe", trial.recipe]
        command += [word for setting in sets for word in ("--set", setting)]
        run(command + (["--parallel", scheme] if scheme else []), threads)
        lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return float([line for line in lines if line["event"] == "epoch"][-1]["pictures_per_second"])


def expected(trial: Trial, speed: float, wire: dict[str, float]) -> dict[str, float]:
    """What the model says of two processes of one thread here, from the speed of one."""
    recipe = recipe_named(trial.recipe)
    net, activity = recipe.net, activity_bytes(torch.device("cpu"), recipe)
    cluster = Cluster(
        speed=speed,
        speed_batch=trial.batch,
        fixed=0.0,
        memory=wire["copied_bytes_per_s"],
        weight_bytes=WEIGHT_BYTES[activity],
        activity_bytes=activity,
        per_machine=2,
        nvlink=wire["bytes_per_s"],
        nvlink_latency=wire["latency"],
        launch=0.0,
        overlap=0.0,
        machine_read=math.inf,
        decoded=math.inf,
        cache=math.inf,
    )
    model = Model(cluster, net, trial.classes)
    pictures = Pictures(name="made up", count=trial.batch * trial.steps, classes=trial.classes, epochs=2)
    steps = {f"2 processes, {scheme}": model.step(pictures, scheme, 2, trial.batch) for scheme in SCHEMES}
    return {way: step.speed for way, step in steps.items() if step is not None}


def wire_between_two(before: Sequence[str]) -> dict[str, float]:
    """How fast two processes of this machine exchange, by gloo, and copy in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wire.json"
        run([*before, *TORCHRUN, "2", __file__, "--wire", str(path)], 1)
        found: dict[str, float] = json.loads(path.read_text())
    return found


def wire(path: Path) -> None:
    """In each of two processes: time averages of few and of many bytes; the first writes the medians."""
    dist.init_process_group("gloo")
    times = {}
    for count in (1, 2**22):
        numbers, spent = torch.ones(count), []
        for _ in range(12):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(numbers)
            spent.append(time.perf_counter() - began)
        times[count] = statistics.median(spent[2:])
    copied = memory_copy(torch.device("cpu")).rate(torch.device("cpu"), 3)  # by both at once
    if dist.get_rank() == 0:
        sent = 4 * 2**22  # two processes: 2 (2 - 1) / 2 of the bytes
        found = {"latency": times[1] / 2, "bytes_per_s": sent / times[2**22], "copied_bytes_per_s": copied}
        path.write_text(json.dumps(found))
    dist.destroy_process_group()


def here(options: argparse.Namespace) -> None:
    """Train on this machine in every way, in turn; print medians beside the model's."""
    before = shlex.split(options.before)
    link, found = wire_between_two(before), {}
    print(
        f"{about()}\ngloo between two processes: {link['bytes_per_s'] / 1e9:.2f} GB/s, {1e6 * link['latency']:.0f} us; "
    )
    print(f"memory, two processes copying: {link['copied_bytes_per_s'] / 1e9:.1f} GB/s each")
    for name in options.nets:
        trial = TRIALS[name]
        recipe = recipe_named(trial.recipe)
        ways = [way for way in WAYS if recipe.net.towers > 1 or "towers" not in way]
        with tempfile.TemporaryDirectory() as folder:
            counts = {"train": trial.batch * trial.steps, "val": trial.batch}
            store = write_store(Path(folder) / "store", recipe.store_size, trial.classes, **counts)
            speeds: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(options.repeats):
                for way in ways:
                    speeds[way].append(speed_of(trial, store, way, before))
        ratios = {
            way: statistics.median(a / b for a, b in zip(speeds[way], speeds[ways[0]], strict=True)) for way in ways
        }
        says = expected(trial, statistics.median(speeds[ways[0]]), link)
        one = statistics.median(speeds[ways[0]])
        rows = [
            (way, f"{statistics.median(speeds[way]):,.1f}", f"{min(speeds[way]):,.1f} to {max(speeds[way]):,.1f}",
             f"{ratios[way]:.2f}", f"{says[way] / one:.2f}" if way in says else "")
            for way in ways
        ]  # fmt: skip
        heads = ("way", "pictures/s", "from, to", "against 1 process, 1 thread", "the model says")
        print(
            f"\n{trial.recipe}, batch {trial.batch}, {options.repeats} times in turn\n\n{table(rows, heads)}",
            flush=True,
        )
        found[name] = {"trial": dataclasses.asdict(trial), "pictures_per_s": speeds, "ratios": ratios, "model": says}
    write_json(options.json, {"machine": about(), "link": link, "measured": found})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    parser.add_argument("--figure", type=Path, help="PNG file to write the figure to")
    parser.add_argument("--batch", type=int, default=128, help="pictures a GPU, where that is fixed")
    parser.add_argument(
        "--global-batch", type=int, nargs="*", default=[1024, 128], help="where the whole batch is fixed"
    )
    for one in dataclasses.fields(Cluster):
        text = f"{one.metadata['help']} ({one.default:g})"
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=float, default=one.default, metavar="X", help=text)
    parser.add_argument("--measure", action="store_true", help="train on this machine instead")
    parser.add_argument("--nets", nargs="+", choices=TRIALS, default=list(TRIALS), help="what to train")
    parser.add_argument("--repeats", type=int, default=3, help="of each training")
    parser.add_argument("--before", default="", metavar="WORDS", help="put before each training's command")
    parser.add_argument("--wire", type=Path, help=argparse.SUPPRESS)  # what two processes are started with
    options = parser.parse_args()
    if options.wire:
        wire(options.wire)
    elif options.measure:
        here(options)
    else:
        on_paper(options)


if __name__ == "__main__":
    main()
