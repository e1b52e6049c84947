"""The sections of `benchmarks/gpu.py`: each measures some rows of the table and stores their values."""

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from common.roofline import matrix_product, memory_copy
from common.timing import capture_graph, medians, synchronise, time_interleaved
from common.training import endless_batches, random_batch, training_flop
from peers.nets import TowerResponseNorm, torchvision_alexnet
from synthetic.stores import write_store
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.data.loading.loader import Loader
from alexnet.data.store.store import Store
from alexnet.kernels.response_norm import response_norm
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named
from alexnet.training.estimate import make_train_step
from alexnet.training.sgd import SGD
from alexnet.training.train import train
from alexnet.utils.cores import available_cores

_ILSVRC_PICTURES = 1_281_167  # training pictures of the paper's dataset
_WARM_UP_CALLS = 8


@dataclass
class Session:
    """The settings that all sections share, and the values that they measure.

    Attributes:
        device: The GPU; the CPU in a rehearsal.
        min_seconds: The shortest time of a throughput measurement.
        folder: The folder for the temporary stores.
        pictures: The number of training pictures of the raw store.
        batch_sizes: The two batch sizes; the paper's is the first.
        rehearsal: Whether only to see that everything runs.
        values: The measured value of each row, by the row's key.
    """

    device: torch.device
    min_seconds: float
    folder: Path
    pictures: int
    batch_sizes: tuple[int, int]
    rehearsal: bool
    values: dict[str, float] = field(default_factory=dict)

    def recipe(self, batch_size: int) -> Recipe:
        """Return the paper's recipe in bfloat16, with a learning rate so small that random pictures do no harm."""
        precision = "float32" if self.rehearsal else "bfloat16"
        return Recipe(batch_size=batch_size, precision=precision, learning_rate=1e-6)

    def store(self, encoding: str) -> Store:
        """Open the store of 256 x 256 pictures in an encoding; the first call writes it."""
        path = self.folder / encoding
        if not path.exists():
            count = self.pictures if encoding == "raw" else max(self.pictures // 2, self.batch_sizes[1])
            write_store(path, 256, 1000, encoding, train=count, val=min(self.pictures, 1000))
        return Store(path)

    def loader(self, store: Store, recipe: Recipe) -> Loader:
        """Return a loader of a store's training split, with as many workers as `train` uses for a GPU."""
        return Loader(store.split("train"), store.statistics, recipe, workers=available_cores(), device=self.device)

    def throughput(self, step: Callable[[], int]) -> float:
        """Return the pictures/s of a step, which returns the number of pictures that it used."""
        for _ in range(1 if self.rehearsal else _WARM_UP_CALLS):
            step()
        synchronise(self.device)
        start, pictures, calls = time.perf_counter(), 0, 0
        # Between synchronisations Python runs ahead of the GPU; training does so too, and reads each loss a step late.
        while time.perf_counter() - start < self.min_seconds:
            pictures += step()
            calls += 1
            if calls % 10 == 0:
                synchronise(self.device)
        synchronise(self.device)
        return pictures / (time.perf_counter() - start)

    def interleaved_seconds(self, functions: dict[str, Callable[[], object]]) -> dict[str, float]:
        """Return the median seconds of functions, timed in turn as CUDA graphs where they can be captured."""
        graphs = {name: capture_graph(function, self.device) for name, function in functions.items()}
        return medians(time_interleaved(graphs, 5, self.device, calls=1 if self.rehearsal else 20))


def measure_roofline(session: Session) -> None:
    """Measure the rates that bound everything else: of a matrix product and of a copy."""
    dtype = torch.float32 if session.rehearsal else torch.bfloat16
    session.values["product"] = matrix_product(session.device, dtype).rate(session.device, 10) / 1e12
    session.values["copy"] = memory_copy(session.device).rate(session.device, 10) / 1e9


def measure_normalisation(session: Session, dtype: torch.dtype) -> None:
    """Measure ReLU and response normalisation of conv1, forward and backward, beside torch's.

    torch has no bfloat16 version for the CPU: a rehearsal in bfloat16 shows what happens when a section fails.
    """
    shape = (2, 96, 9, 9) if session.rehearsal else (128, 96, 55, 55)
    x = torch.randn(shape, device=session.device, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    gradient, target = torch.randn_like(x), torch.empty_like(x)
    contiguous_x, contiguous_gradient = x.detach().contiguous().requires_grad_(), gradient.contiguous()
    torch_norm = TowerResponseNorm()

    def run_kernel() -> None:
        y = response_norm(x, size=5, k=2.0, alpha=1e-4, beta=0.75, towers=2, relu=True)
        torch.autograd.grad(y, x, gradient)

    def run_torch() -> None:
        torch.autograd.grad(torch_norm(contiguous_x.relu()), contiguous_x, contiguous_gradient)

    seconds = session.interleaved_seconds(
        {"kernel": run_kernel, "torch": run_torch, "copy": lambda: target.copy_(x.detach())}
    )
    key = f"norm {str(dtype).removeprefix('torch.')}"
    session.values[key] = 1000 * seconds["kernel"]
    session.values[f"{key} against torch"] = seconds["torch"] / seconds["kernel"]
    # The forward pass moves as many bytes as a copy (input, output), the backward pass one and a half times as many.
    session.values[f"{key} of copy"] = 2.5 * seconds["copy"] / seconds["kernel"]


def measure_update(session: Session) -> None:
    """Measure the update rule over all parameters, beside torch's fused one."""
    weights = [nn.Parameter(w.detach()) for w in AlexNet(1000).to_channels_last(session.device).parameters()]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimiser = SGD(weights, rate=1e-6, momentum=0.9, decay=5e-4)
    torch_optimiser = torch.optim.SGD(weights, lr=1e-6, momentum=0.9, weight_decay=5e-4, fused=True)
    seconds = session.interleaved_seconds({"kernel": optimiser.step, "torch": torch_optimiser.step})
    moved_bytes = 5 * sum(weight.nbytes for weight in weights)
    session.values["update"] = 1000 * seconds["kernel"]
    session.values["update against torch"] = seconds["torch"] / seconds["kernel"]
    session.values["update of copy"] = moved_bytes / seconds["kernel"] / 1e9 / session.values["copy"]


def measure_training(session: Session) -> None:
    """Measure steps of the paper's net: on batches from the raw store, and on one batch in the GPU's memory."""
    store, values = session.store("raw"), session.values
    for batch_size in session.batch_sizes:
        recipe = session.recipe(batch_size)
        net = AlexNet(1000).to_channels_last(session.device).train()
        train_step = make_train_step(net, recipe)
        images, labels = random_batch(batch_size, 1000, session.device)
        step = partial(_step_on_batch, train_step, images, labels)
        values[f"step alone, batch {batch_size}"] = session.throughput(step)
        rate = _throughput_from_store(session, store, recipe, train_step)
        values[f"raw, batch {batch_size}"] = rate
        values[f"share of product, batch {batch_size}"] = rate * training_flop(net) / 1e12 / values["product"]
    values["90 epochs"] = 90 * _ILSVRC_PICTURES / values[f"raw, batch {session.batch_sizes[0]}"] / 60


def _step_on_batch(train_step: Callable[[Tensor, Tensor], object], images: Tensor, labels: Tensor) -> int:
    """Train for one step; return the number of pictures."""
    train_step(images, labels)
    return len(labels)


def _throughput_from_store(
    session: Session, store: Store, recipe: Recipe, train_step: Callable[[Tensor, Tensor], object] | None
) -> float:
    """Return the pictures/s of a training step on a store's batches, or of loading alone if there is no step."""

    def step() -> int:
        batch = next(batches)
        if train_step is not None:
            train_step(batch.images, batch.labels)
        return len(batch.labels)

    with closing(endless_batches(session.loader(store, recipe))) as batches:  # type: ignore[type-var]
        return session.throughput(step)


def measure_jpeg(session: Session) -> None:
    """Measure training from a JPEG store, and loading alone from both kinds of store."""
    store, recipe = session.store("jpeg"), session.recipe(session.batch_sizes[0])
    train_step = make_train_step(AlexNet(1000).to_channels_last(session.device).train(), recipe)
    session.values["JPEG"] = _throughput_from_store(session, store, recipe, train_step)
    session.values["batches alone, JPEG"] = _throughput_from_store(session, store, recipe, None)
    session.values["batches alone, raw"] = _throughput_from_store(session, session.store("raw"), recipe, None)


def measure_torchvision(session: Session) -> None:
    """Measure torchvision's AlexNet, compiled in two modes, with its batch in the GPU's memory; keep the faster."""
    for batch_size in session.batch_sizes:
        images, labels = random_batch(batch_size, 1000, session.device)
        modes = (None,) if session.rehearsal else ("default", "reduce-overhead")
        speeds, errors = [], []
        for mode in modes:
            try:
                speeds.append(session.throughput(_make_torchvision_step(session, images, labels, mode)))
            except Exception as error:
                errors.append(error)
        if not speeds:
            raise errors[0]
        session.values[f"torchvision, batch {batch_size}"] = max(speeds)
        session.values[f"against torchvision, batch {batch_size}"] = session.values[f"raw, batch {batch_size}"] / max(
            speeds
        )


def _make_torchvision_step(session: Session, images: Tensor, labels: Tensor, mode: str | None) -> Callable[[], int]:
    """Return a training step of torchvision's net, compiled in a mode; not compiled if the mode is None."""
    torch.compiler.reset()
    net = torchvision_alexnet(1000).to(device=session.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4, fused=True)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(session.device.type, torch.bfloat16, enabled=not session.rehearsal):
            return F.cross_entropy(net(images), labels)

    compiled_loss = loss if mode is None else torch.compile(loss, mode=mode)

    def step() -> int:
        compiled_loss(images, labels).backward()
        optimiser.step()
        optimiser.zero_grad()
        return len(labels)

    return step


def measure_cifar10(session: Session) -> None:
    """Measure an epoch of the 2012 program's CIFAR-10 net "11%", after two epochs of warm-up."""
    recipe = recipe_named("cifar10-11pct")
    if session.rehearsal:
        recipe = replace(recipe, batch_size=8)
    count = 24 if session.rehearsal else 50_000
    store = Store(write_store(session.folder / "cifar", recipe.store_size, 10, train=count))
    loader = session.loader(store, recipe)
    train_step = make_train_step(AlexNet(10, recipe.net).to_channels_last(session.device).train(), recipe)
    seconds = []
    for epoch in range(5):
        synchronise(session.device)
        start = time.perf_counter()
        with closing(loader.batches(epoch)) as batches:
            for batch in batches:
                train_step(batch.images, batch.labels)
        synchronise(session.device)
        seconds.append(time.perf_counter() - start)
    session.values["CIFAR"] = sorted(seconds[2:])[1]


def measure_train(session: Session) -> None:
    """Measure `train` itself, with metrics, checkpoints and validation: the pictures/s of its last epoch."""
    recipe = replace(session.recipe(session.batch_sizes[0]), epochs=1 if session.rehearsal else 3)
    train(session.store("raw"), session.folder / "run", recipe, device=session.device, progress=False)
    metrics = (session.folder / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    events = [json.loads(line) for line in metrics.splitlines()]
    session.values["train"] = [event for event in events if event["event"] == "epoch"][-1]["pictures_per_second"]
