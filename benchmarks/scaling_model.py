"""A model of training with several GPUs: the time of a step from its arithmetic, memory traffic and collectives.

docs/scaling.md lists the assumptions.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from alexnet.architecture import Net
from alexnet.distributed.cost_model import SCHEMES, LayerSize, Layout, Traffic, layer_sizes, traffic

GPU_COUNTS = [2**n for n in range(11)]
BUCKET_BYTES = 25 * 2**20  # of the gradients that DDP averages together
# Bytes read and written for one weight in a step, by the bytes of an activation: casts, three products, gradient, and
# the update, which takes 20 of them.
WEIGHT_BYTES = {4: 32, 2: 38}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A set of pictures to train on, and the number of epochs."""

    name: str
    count: int
    classes: int
    epochs: int

    @property
    def title(self) -> str:
        """The name and the sizes, for a heading."""
        epochs = "one epoch" if self.epochs == 1 else f"{self.epochs} epochs"
        return f"{self.name}: {self.count / 1e6:,.4g} million pictures, {self.classes:,} classes, {epochs}"


DATASETS = (
    Dataset(name="ImageNet-1K", count=1_281_167, classes=1_000, epochs=90),  # section 6: roughly 90
    Dataset(name="22K", count=14_197_122, classes=21_841, epochs=8),  # as the 2012 program's pre-training
    Dataset(name="A billion", count=10**9, classes=21_841, epochs=1),
)


def _option(default: float, help_text: str) -> Any:
    """A field of `Cluster` that is an option of the command line."""
    return field(default=default, metadata={"help": help_text})


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The inputs of the model: times in seconds, rates in bytes/s."""

    speed: float = _option(25_000, "pictures/s of one GPU, 1000 classes; the default is issue 3's target for an H200")
    speed_batch: float = _option(128, "batch size at which it has that speed")
    fixed: float = _option(5e-4, "seconds of a step that no smaller batch saves")
    memory: float = _option(4e12, "bytes/s of one GPU's memory")
    weight_bytes: float = _option(
        WEIGHT_BYTES[2], "bytes read and written for one weight in a step: casts, products, update"
    )
    activity_bytes: float = _option(2, "bytes of an activation: 2 in bfloat16, 4 in float32")
    per_machine: float = _option(8, "GPUs of a machine")
    nvlink: float = _option(350e9, "bytes/s that one GPU sends to others of its machine")
    network: float = _option(
        40e9, "bytes/s that one GPU sends to other machines; Ethernet of 100 Gbit/s a machine: 1.5e9"
    )
    launch: float = _option(1e-5, "seconds that any collective takes to begin")
    nvlink_latency: float = _option(2e-6, "seconds from GPU to GPU in a machine")
    network_latency: float = _option(5e-6, "seconds from machine to machine")
    overlap: float = _option(0.8, "share of the convolutions' backward pass that hides the averaging of gradients")
    picture_bytes: float = _option(25_500, "bytes of a stored picture: 25,500 as JPEG (measured), 196,608 raw")
    decoded: float = _option(1_770, "pictures/s that one core decodes from JPEG (measured here); raw: 38,700")
    cores: float = _option(112, "cores of a machine")
    machine_read: float = _option(10e9, "bytes/s that a machine reads, from its own disk or over its network")
    storage: float = _option(100e9, "bytes/s that the shared storage gives to all machines together")
    cache: float = _option(4e12, "bytes of a machine's own disk or memory: a set that fits is read from there")

    def link(self, count: int, stride: int) -> tuple[float, float, float]:
        """Return the properties of the link between `count` processes, of which one in `stride` takes part.

        Returns:
            The bytes/s that one process sends; the latency of a ring; and the latency of a tree, up and down.
        """
        in_machine = min(count, max(1, int(self.per_machine) // stride))
        machines = -(-count // in_machine)
        tree = 2 * ((in_machine - 1) * self.nvlink_latency + math.ceil(math.log2(machines)) * self.network_latency)
        if machines == 1:
            return self.nvlink, (count - 1) * self.nvlink_latency, tree
        ring = (count - machines) * self.nvlink_latency + machines * self.network_latency
        return min(self.nvlink, in_machine * self.network), ring, tree

    def reading_speed(self, dataset: Dataset, processes: int, copies: int) -> float:
        """Return the pictures/s that can be read and decoded, each of them by `copies` processes."""
        machines = math.ceil(processes / self.per_machine)
        speed_of_machine = min(self.machine_read / self.picture_bytes, self.cores * self.decoded)
        speed = machines * speed_of_machine / copies
        if dataset.count * self.picture_bytes > self.cache:
            speed = min(speed, self.storage / self.picture_bytes)
        return speed


@dataclass(frozen=True, kw_only=True)
class Step:
    """The predicted times of a training step, in seconds, and its speed.

    Args:
        work: The time of computing.
        exchanged: The time of waiting for activations, their gradients and the softmax.
        averaged: The time of waiting for the averages of the weights' gradients.
        speed: Pictures/s, over all processes.
        limit: "reading" if pictures cannot be read as fast; else the largest of the three times.
        efficiency: The speed divided by that of as many separate GPUs; filled in afterwards.
    """

    work: float
    exchanged: float
    averaged: float
    speed: float
    limit: str
    efficiency: float = 1.0


@dataclass(frozen=True)
class Work:
    """The work of the busiest process in a step.

    Args:
        flop: The floating-point operations.
        conv_backward_flop: Those of the convolutions' backward pass.
        memory_bytes: The bytes read and written in memory.
    """

    flop: float
    conv_backward_flop: float
    memory_bytes: float


class ScalingModel:
    """Predicts the time of a step; its rate of arithmetic is the one that gives one GPU the speed of the cluster.

    Args:
        cluster: The GPUs, the network and the storage.
        net: The architecture of the net.
        classes: The number of classes at which one GPU has that speed.

    Attributes:
        rate: The rate of the arithmetic, in FLOP/s.
    """

    def __init__(self, cluster: Cluster, net: Net, classes: int = 1000) -> None:
        self.cluster, self.net = cluster, net
        batch = int(cluster.speed_batch)
        work = self.work(layer_sizes(net, classes), self.layout("data", 1), batch)
        seconds = batch / cluster.speed - cluster.fixed - work.memory_bytes / cluster.memory
        if seconds <= 0:
            raise ValueError(f"speed must leave time for the arithmetic; {cluster.speed:g} pictures/s do not: lower it")
        self.rate = work.flop / seconds

    def layout(self, scheme: str, processes: int) -> Layout:
        """Return how a scheme shards the net."""
        return Layout(scheme=scheme, processes=processes, towers=self.net.towers)

    def work(self, layers: Sequence[LayerSize], layout: Layout, batch: int) -> Work:
        """Count the work of the busiest process in a step."""
        flop = conv_backward_flop = memory_bytes = 0.0
        for index, layer in enumerate(layers):
            shards = layout.shards(layer)
            pictures, units = -(-batch // (layout.processes // shards)), -(-layer.units // shards)
            forward = 2 * layer.multiplications * units / layer.units * pictures
            backward = (2 if index else 1) * forward  # the pictures need no gradient
            flop += forward + backward
            conv_backward_flop += 0 if layer.full else backward
            memory_bytes += units * layer.parameters_per_unit * self.cluster.weight_bytes
            if layer.full:  # the inputs of all pictures are read, however few units read them
                memory_bytes += 3 * pictures * layer.inputs * layer.input_area * self.cluster.activity_bytes
        return Work(flop, conv_backward_flop, memory_bytes)

    def predict_step(self, dataset: Dataset, scheme: str, processes: int, batch: int) -> Step | None:
        """Predict a step; None if the scheme does not suit the net, the batch or the number of processes."""
        cluster = self.cluster
        try:
            rows = traffic(
                self.net, dataset.classes, batch, scheme, processes, activity_bytes=int(cluster.activity_bytes)
            )
        except ValueError:
            return None
        layout, layers = self.layout(scheme, processes), layer_sizes(self.net, dataset.classes)
        work = self.work(layers, layout, batch)
        overlap = cluster.overlap * work.conv_backward_flop / self.rate
        times = {
            "computing": cluster.fixed + work.memory_bytes / cluster.memory + work.flop / self.rate,
            "activities": self._time_of_activations(rows, layout),
            "gradients": max(0.0, self._time_of_gradients(layers, rows, layout) - overlap),
        }
        speed = batch / sum(times.values())
        reading_speed = cluster.reading_speed(dataset, processes, layout.conv_shards)
        limit = "reading" if reading_speed < speed else max(times, key=lambda name: times[name])
        computing, activities, gradients = times.values()
        return Step(
            work=computing,
            exchanged=activities,
            averaged=gradients,
            speed=min(speed, reading_speed),
            limit=limit,
        )

    def _time_of_activations(self, rows: Sequence[Traffic], layout: Layout) -> float:
        """Return the seconds for the gathers of activations, their gradients, and the softmax."""
        launch = self.cluster.launch
        bandwidth, ring, tree = self.cluster.link(layout.full_shards, 1)
        seconds = 0.0
        for row in rows:
            if row.layer == "softmax" and row.forward:
                seconds += 2 * launch + ring + tree + row.forward / bandwidth
            else:
                seconds += sum(launch + ring + count / bandwidth for count in (row.forward, row.backward) if count)
        return seconds

    def _time_of_gradients(self, layers: Sequence[LayerSize], rows: Sequence[Traffic], layout: Layout) -> float:
        """Return the seconds for the averages of the weights' gradients, if nothing hides them."""
        bytes_sent: dict[int, int] = {}  # by the number of processes that have the same weights
        for layer, row in zip(layers, rows, strict=False):
            replicas = layout.processes // layout.shards(layer)
            bytes_sent[replicas] = bytes_sent.get(replicas, 0) + row.gradients
        seconds = 0.0
        for replicas, total in bytes_sent.items():
            if total:
                bandwidth, _, tree = self.cluster.link(replicas, layout.processes // replicas)
                seconds += math.ceil(total / 2 / BUCKET_BYTES) * (self.cluster.launch + tree) + total / bandwidth
        return seconds


@dataclass(frozen=True, kw_only=True)
class BatchRule:
    """How the batch size is chosen: `per_gpu` pictures for each GPU, or `fixed` over all GPUs."""

    per_gpu: int | None = None
    fixed: int | None = None

    def batch(self, processes: int) -> int:
        """Return the global batch size."""
        return self.fixed or (self.per_gpu or 0) * processes

    @property
    def name(self) -> str:
        """The rule in words, for tables."""
        return f"batch of {self.fixed:,} over all GPUs" if self.fixed else f"batch of {self.per_gpu:,} a GPU"


Predictions = dict[str, dict[int, Step]]
"""The steps by scheme and number of GPUs."""


def predict(model: ScalingModel, dataset: Dataset, rule: BatchRule) -> Predictions:
    """Predict the steps of each scheme, with their efficiency; one GPU is the same in every scheme."""
    single = model.predict_step(dataset, "data", 1, rule.batch(1))
    assert single is not None
    predictions: Predictions = {scheme: {1: single} for scheme in SCHEMES}
    for scheme in SCHEMES:
        for count in GPU_COUNTS[1:]:
            step = model.predict_step(dataset, scheme, count, rule.batch(count))
            if step is not None:
                efficiency = step.speed / count / single.speed
                predictions[scheme][count] = dataclasses.replace(step, efficiency=efficiency)
    return predictions
