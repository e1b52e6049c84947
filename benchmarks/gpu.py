"""Speed on a GPU: every row of the table that needs one, by one command, unattended, in about five minutes on an H200.

    python benchmarks/gpu.py [--seconds 2] [--pictures 32768] [--folder FOLDER] [--json gpu.json] [--markdown gpu.md]

Training takes pictures from stores made for the time (raw and JPEG, 256 x 256, 1000 classes; 6.4 + 1 GB in --folder),
by the loader, the step and the update that `alexnet train` uses, in bfloat16, at batch 128, the paper's, and at 1024.
Beside it torchvision's AlexNet (written out) with autocast, channels_last, torch.compile and the fused update of
torch.optim.SGD, its pictures already on the GPU; the better of two modes of compilation stands. A section that fails
says so in its rows, and the others go on. Without a GPU every row says "not measured: no GPU".

--rehearse runs all of it on the CPU with next to no work, to see that it runs; its numbers mean nothing.
"""

import argparse
import json
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from environment import environment_info
from evaluate import torchvision_alexnet
from output import markdown_table, write_json
from roofline import matrix_product, memory_copy
from step import for_ever, trainer, training_flop
from synthetic_stores import write_store
from timing import capture_graph, medians, synchronise, time_interleaved
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.data.loading.loader import Loader
from alexnet.data.store.store import Store
from alexnet.kernels.response_norm import response_norm
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named
from alexnet.training.sgd import SGD
from alexnet.training.train import train
from alexnet.utils.cores import available_cores
from alexnet.utils.memory import keep_freed_memory

ILSVRC = 1_281_167  # pictures of the set in the paper


@dataclass
class Run:
    """What all sections share.

    Attributes:
        device: Where; a GPU but for a rehearsal.
        seconds: The least time of a measurement.
        folder: Where the stores are.
        pictures: Of the raw store.
        batches: Batch sizes, the paper's first.
        rehearsal: Whether only to see that everything runs.
        values: What was found, by row.
    """

    device: torch.device
    seconds: float
    folder: Path
    pictures: int
    batches: tuple[int, int]
    rehearsal: bool
    values: dict[str, float] = field(default_factory=dict)

    def recipe(self, batch: int) -> Recipe:
        """The paper's, in bfloat16, at a rate at which made-up pictures do no harm."""
        precision = "float32" if self.rehearsal else "bfloat16"
        return Recipe(batch_size=batch, precision=precision, learning_rate=1e-6)

    def store(self, encoding: str) -> Store:
        """The store of 256 x 256 pictures, made at the first call."""
        path = self.folder / encoding
        if not path.exists():
            count = self.pictures if encoding == "raw" else max(self.pictures // 2, self.batches[1])
            write_store(path, 256, 1000, encoding, train=count, val=min(self.pictures, 1000))
        return Store(path)

    def workers(self) -> int:
        """As `train` chooses it for a GPU."""
        return available_cores()

    def rate(self, way: Callable[[], int], warm: int = 8) -> float:
        """Pictures/s of `way`, which returns how many it used; no synchronisation but at the two ends."""
        for _ in range(1 if self.rehearsal else warm):
            way()
        synchronise(self.device)
        began, done, calls = time.perf_counter(), 0, 0
        # Python runs ahead of the GPU by what the loop lets it; training reads each loss one step late.
        while time.perf_counter() - began < self.seconds:
            done += way()
            calls += 1
            if calls % 10 == 0:
                synchronise(self.device)
        synchronise(self.device)
        return done / (time.perf_counter() - began)


def yardsticks(run: Run) -> None:
    """The rates that bound everything else."""
    dtype = torch.float32 if run.rehearsal else torch.bfloat16
    run.values["product"] = matrix_product(run.device, dtype).rate(run.device, 10) / 1e12
    run.values["copy"] = memory_copy(run.device).rate(run.device, 10) / 1e9


def normalisation(run: Run, dtype: torch.dtype) -> None:
    """ReLU and normalisation of the first layer, forward and back, beside torch's."""
    shape = (2, 96, 9, 9) if run.rehearsal else (128, 96, 55, 55)
    x = torch.randn(shape, device=run.device, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    plain, gradient = x.detach().contiguous().requires_grad_(), torch.randn_like(x)
    plain_gradient, target = gradient.contiguous(), torch.empty_like(x)

    def ours() -> None:
        y = response_norm(x, size=5, k=2.0, alpha=1e-4, beta=0.75, towers=2, relu=True)
        torch.autograd.grad(y, x, gradient)

    def theirs() -> None:
        halves = [F.local_response_norm(half, 5, alpha=5e-4, beta=0.75, k=2.0) for half in plain.relu().chunk(2, 1)]
        torch.autograd.grad(torch.cat(halves, 1), plain, plain_gradient)

    ways = {"ours": ours, "theirs": theirs, "copy": lambda: target.copy_(x.detach())}
    calls = 1 if run.rehearsal else 20
    found = medians(time_interleaved({n: capture_graph(w, run.device) for n, w in ways.items()}, 5, run.device, calls))
    name = str(dtype).removeprefix("torch.")
    run.values[f"norm {name}"] = 1000 * found["ours"]
    run.values[f"norm {name} against torch"] = found["theirs"] / found["ours"]
    # One copy moves as much as the way forward (input, output), one and a half as the way back.
    run.values[f"norm {name} of copy"] = 2.5 * found["copy"] / found["ours"]


def normalisation_float32(run: Run) -> None:
    """In float32."""
    normalisation(run, torch.float32)


def normalisation_bfloat16(run: Run) -> None:
    """In bfloat16; torch's has no such version for the CPU, so that a rehearsal sees a section fail."""
    normalisation(run, torch.bfloat16)


def update(run: Run) -> None:
    """The update rule over all parameters, beside torch's fused one."""
    weights = [nn.Parameter(w.detach()) for w in AlexNet(1000).to_channels_last(run.device).parameters()]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    given = {"lr": 1e-6, "momentum": 0.9, "weight_decay": 5e-4}
    ours = SGD(weights, rate=1e-6, momentum=0.9, decay=5e-4)
    theirs = torch.optim.SGD(weights, fused=True, **given)  # type: ignore[arg-type]
    ways = {"ours": capture_graph(ours.step, run.device), "theirs": capture_graph(theirs.step, run.device)}
    found = medians(time_interleaved(ways, 5, run.device, calls=1 if run.rehearsal else 20))
    moved = 5 * sum(weight.nbytes for weight in weights)
    run.values["update"] = 1000 * found["ours"]
    run.values["update against torch"] = found["theirs"] / found["ours"]
    run.values["update of copy"] = moved / found["ours"] / 1e9 / run.values["copy"]


def ours(run: Run) -> None:
    """Steps of the full net: batches from the raw store, and on tensors that are there."""
    store = run.store("raw")
    for batch in run.batches:
        recipe = run.recipe(batch)
        net = AlexNet(1000).to_channels_last(run.device).train()
        step = trainer(net, recipe)
        x, y = ready(run, batch)
        run.values[f"step alone, batch {batch}"] = run.rate(lambda x=x, y=y, step=step: bool(step(x, y)) * len(y))  # type: ignore[misc]
        run.values[f"raw, batch {batch}"] = from_store(run, store, recipe, step)
        flop = training_flop(net)
        run.values[f"share of product, batch {batch}"] = (
            run.values[f"raw, batch {batch}"] * flop / 1e12 / run.values["product"]
        )
    run.values["90 epochs"] = 90 * ILSVRC / run.values[f"raw, batch {run.batches[0]}"] / 60


def ready(run: Run, batch: int) -> tuple[Tensor, Tensor]:
    """A batch that lies on the device."""
    x = torch.randn(batch, 3, 224, 224, device=run.device).mul_(50).to(memory_format=torch.channels_last)
    return x, torch.randint(1000, (batch,), device=run.device)


def from_store(run: Run, store: Store, recipe: Recipe, step: Callable[[Tensor, Tensor], object] | None) -> float:
    """Pictures/s of a step on a store's batches; of the batches alone where there is no step."""
    loader = Loader(store.split("train"), store.statistics, recipe, workers=run.workers(), device=run.device)

    def way() -> int:
        batch = next(batches)
        if step is not None:
            step(batch.images, batch.labels)
        return len(batch.labels)

    with closing(for_ever(loader)) as batches:  # type: ignore[type-var]
        return run.rate(way)


def jpeg(run: Run) -> None:
    """Training from a JPEG store, and batches alone from both kinds."""
    store, recipe = run.store("jpeg"), run.recipe(run.batches[0])
    step = trainer(AlexNet(1000).to_channels_last(run.device).train(), recipe)
    run.values["JPEG"] = from_store(run, store, recipe, step)
    run.values["batches alone, JPEG"] = from_store(run, store, recipe, None)
    run.values["batches alone, raw"] = from_store(run, run.store("raw"), recipe, None)


def peer(run: Run) -> None:
    """torchvision's AlexNet as fast as torch makes it, pictures on the GPU."""
    for batch in run.batches:
        x, y = ready(run, batch)
        modes = (None,) if run.rehearsal else ("default", "reduce-overhead")
        speeds, errors = [], []
        for mode in modes:
            try:
                speeds.append(run.rate(peer_step(run, x, y, mode)))
            except Exception as error:
                errors.append(error)
        if not speeds:
            raise errors[0]
        run.values[f"torchvision, batch {batch}"] = max(speeds)
        run.values[f"against torchvision, batch {batch}"] = run.values[f"raw, batch {batch}"] / max(speeds)


def peer_step(run: Run, x: Tensor, y: Tensor, mode: str | None) -> Callable[[], int]:
    """A step of torchvision's net, compiled in a mode."""
    torch.compiler.reset()
    net = torchvision_alexnet(1000).to(device=run.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4, fused=True)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(run.device.type, torch.bfloat16, enabled=not run.rehearsal):
            return F.cross_entropy(net(x), y)

    compiled = loss if mode is None else torch.compile(loss, mode=mode)

    def step() -> int:
        compiled(x, y).backward()
        optimiser.step()
        optimiser.zero_grad()
        return len(y)

    return step


def cifar(run: Run) -> None:
    """An epoch of the 2012 program's CIFAR-10 net "11%", after two that warm up."""
    recipe = recipe_named("cifar10-11pct")
    if run.rehearsal:
        recipe = replace(recipe, batch_size=8)
    count = 24 if run.rehearsal else 50_000
    store = Store(write_store(run.folder / "cifar", recipe.store_size, 10, train=count))
    loader = Loader(store.split("train"), store.statistics, recipe, workers=run.workers(), device=run.device)
    step = trainer(AlexNet(10, recipe.net).to_channels_last(run.device).train(), recipe)
    spent = []
    for epoch in range(5):
        synchronise(run.device)
        began = time.perf_counter()
        with closing(loader.batches(epoch)) as batches:
            for batch in batches:
                step(batch.images, batch.labels)
        synchronise(run.device)
        spent.append(time.perf_counter() - began)
    run.values["CIFAR"] = sorted(spent[2:])[1]


def whole(run: Run) -> None:
    """`train` itself, with its metrics, checkpoints and validation: what it says of its third epoch."""
    recipe = replace(run.recipe(run.batches[0]), epochs=3)
    store = run.store("raw")
    if run.rehearsal:
        recipe = replace(recipe, epochs=1)
    train(store, run.folder / "run", recipe, device=run.device, progress=False)
    lines = [json.loads(line) for line in (run.folder / "run" / "metrics.jsonl").read_text().splitlines()]
    run.values["train"] = [line for line in lines if line["event"] == "epoch"][-1]["pictures_per_second"]


def rows(batches: tuple[int, int]) -> dict[str, tuple[str, str, str]]:
    """What each value is, its unit, and what is wanted of it."""
    first, second = batches
    wanted = {
        "product": ("matrix product, bfloat16, 8192 x 8192", "TFLOP/s", ""),
        "copy": ("copy of 2 GB, read and written", "GB/s", ""),
        f"raw, batch {first}": (f"training from a raw store, batch {first}", "pictures/s", "25,000 (aim 50,000)"),
        f"raw, batch {second}": (f"training from a raw store, batch {second}", "pictures/s", ""),
        "JPEG": (f"training from a JPEG store, batch {first}", "pictures/s", "25,000 (aim 50,000)"),
        "train": (f"the same by `train` itself from a raw store, batch {first}", "pictures/s", ""),
        "batches alone, raw": ("batches alone, from the raw store", "pictures/s", ""),
        "batches alone, JPEG": ("batches alone, from the JPEG store", "pictures/s", ""),
        "90 epochs": ("90 epochs of 1.28 million pictures at that rate, raw", "minutes", "(aim 38)"),
    }
    for batch in batches:
        wanted[f"step alone, batch {batch}"] = (f"steps on pictures on the GPU, batch {batch}", "pictures/s", "")
        wanted[f"torchvision, batch {batch}"] = (f"torchvision's AlexNet, compiled, batch {batch}", "pictures/s", "")
        wanted[f"against torchvision, batch {batch}"] = (
            f"from a raw store, against that, batch {batch}", "times", "1 (aim 2)")  # fmt: skip
        wanted[f"share of product, batch {batch}"] = (
            f"from a raw store, as a share of the matrix rate, batch {batch}", "", "0.3 (aim 0.5)")  # fmt: skip
    wanted["CIFAR"] = ('CIFAR-10 "11%" net, an epoch', "seconds", "1.0 (aim 0.3)")
    for name in ("bfloat16", "float32"):
        text = f"ReLU + normalisation, (128, 96, 55, 55), forward and back, {name}"
        wanted[f"norm {name}"] = (text, "ms", "")
        wanted[f"norm {name} against torch"] = (f"{text}: against torch", "times", "")
        wanted[f"norm {name} of copy"] = (f"{text}: share of what copying the bytes takes", "", "")
    wanted["update"] = ("update of all parameters", "ms", "")
    wanted["update against torch"] = ("the same: against torch.optim.SGD, fused", "times", "")
    wanted["update of copy"] = ("the same: share of what copying the bytes takes", "", "")
    return wanted


# The sections, each with the beginnings of the names of its rows.
SECTIONS: list[tuple[Callable[[Run], None], tuple[str, ...]]] = [
    (yardsticks, ("product", "copy")),
    (normalisation_float32, ("norm float32",)),
    (normalisation_bfloat16, ("norm bfloat16",)),
    (update, ("update",)),
    (ours, ("step alone", "raw", "share of product", "90 epochs")),
    (cifar, ("CIFAR",)),
    (jpeg, ("JPEG", "batches alone")),
    (peer, ("torchvision", "against torchvision")),
    (whole, ("train",)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2, help="the least time of a measurement")
    parser.add_argument("--pictures", type=int, default=32768, help="of the raw store; 197 kB each")
    parser.add_argument("--folder", type=Path, help="where to make the stores; a temporary folder by default")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="file to write the numbers to")
    parser.add_argument("--markdown", type=Path, default=Path("gpu.md"), help="file to write the table to")
    parser.add_argument("--rehearse", action="store_true", help="run it on the CPU, to see that it runs")
    options = parser.parse_args()
    keep_freed_memory()
    device = torch.device("cpu" if options.rehearse or not torch.cuda.is_available() else "cuda")
    batches = (8, 16) if options.rehearse else (128, 1024)
    reasons: dict[str, str] = {}
    spent: dict[str, float] = {}
    run = Run(device, 0.01, Path(), 24, batches, True)
    if device.type == "cuda" or options.rehearse:
        with tempfile.TemporaryDirectory(dir=options.folder, ignore_cleanup_errors=True) as folder:
            run.folder = Path(folder)
            if not options.rehearse:
                run.seconds, run.pictures, run.rehearsal = options.seconds, options.pictures, False
            reasons, spent = measure(run)
    else:
        reasons = dict.fromkeys(rows(batches), "not measured: no GPU")
    facts = environment_info(device)
    report(run, reasons, facts | {"section_seconds": spent}, options.json, options.markdown)


def measure(run: Run) -> tuple[dict[str, str], dict[str, float]]:
    """Run all sections; why a row has no value, where it has none, and the seconds that each section took."""
    reasons: dict[str, str] = {}
    spent: dict[str, float] = {}
    for section, names in SECTIONS:
        began = time.perf_counter()
        try:
            section(run)
        except Exception as error:
            traceback.print_exc()
            said = next(iter(str(error).splitlines()), "")
            for name in rows(run.batches):
                if name.startswith(names) and name not in run.values:
                    reasons[name] = f"failed: {type(error).__name__}: {said}"
        spent[section.__name__] = round(time.perf_counter() - began, 1)
        print(f"{section.__name__}: {spent[section.__name__]} s", flush=True)
        if run.device.type == "cuda":
            torch.cuda.empty_cache()
    return reasons, spent


def report(run: Run, reasons: dict[str, str], facts: dict, path: Path, markdown: Path) -> None:
    """Write and print the table."""
    kept, cells = [], []
    for name, (text, unit, wanted) in rows(run.batches).items():
        value = run.values.get(name)
        shown = form(value) if value is not None else reasons.get(name, "not measured")
        kept.append({"row": text, "unit": unit, "wanted": wanted, "value": value,
                     "reason": None if value is not None else shown})  # fmt: skip
        cells.append((text, shown, unit, wanted))
    text = markdown_table(cells, ("what", "measured", "unit", "at least"))
    if run.rehearsal and run.values:
        text = f"A rehearsal on the CPU: these numbers mean nothing.\n\n{text}"
    print(f"{facts}\n\n{text}")
    write_json(path, {"machine": facts, "rehearsal": bool(run.rehearsal and run.values), "rows": kept})
    markdown.write_text(f"{', '.join(f'{k} {v}' for k, v in facts.items())}\n\n{text}\n", encoding="utf-8")


def form(value: float) -> str:
    """A number as people read it."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    main()
