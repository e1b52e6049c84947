"""A run that is served: its net, which may change while it is trained, its index, and its metrics."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet.data.loading.augment import centre_mean
from alexnet.data.loading.views import View, select_views
from alexnet.models.weight_files import best_checkpoint
from alexnet.results.attribution import centre_crop, gradient_map, occlusion_map, overlay
from alexnet.results.classifier import Classifier
from alexnet.results.nearest_pictures import NearestPicture, NearestPictures
from alexnet.results.report import first_layer_kernels
from alexnet.results.run_history import RunHistory
from alexnet.training.checkpoint import load_checkpoint
from alexnet.training.inference import pictures_per_batch, predict_views
from alexnet.utils.console import format_error
from alexnet.web.errors import RequestError

_MapFunction = Callable[[Classifier, np.ndarray, str], np.ndarray]

MAPS: dict[str, _MapFunction] = {"occlusion": occlusion_map, "gradient": gradient_map}
_NEIGHBOURS = 6
_SECONDS_BETWEEN_LOOKS = 2.0  # for a newer checkpoint


@dataclass(frozen=True, eq=False)
class LoadedNet:
    """A net that computes the answers.

    Args:
        classifier: The net, its classes and its recipe.
        centre: (crop, crop, 3), the centre of the mean activity, on the net's device.
        kernels: (maps, 3, kernel, kernel), the first layer's weights; None if it is not a convolution.
        step, epoch: How far it was trained.
        file: The checkpoint's path and time of change.
    """

    classifier: Classifier
    centre: Tensor
    kernels: np.ndarray | None
    step: int
    epoch: int
    file: tuple[Path, int]

    def views(self, count: int) -> list[View]:
        """Return the different ones of 1, 9 or 10 views."""
        recipe = self.classifier.recipe
        return select_views(count, recipe.store_size, recipe.net.image_size)

    def batch_size(self, views: int) -> int:
        """Return how many pictures go through the net at a time."""
        return pictures_per_batch(self.classifier.net.device, self.classifier.count_crops(views))


@dataclass(frozen=True, eq=False)
class ViewProbabilities:
    """What the net makes of a picture.

    Args:
        net: The net.
        views: The views of the picture.
        probabilities: (views, classes) float32.
    """

    net: LoadedNet
    views: Sequence[View]
    probabilities: np.ndarray


@dataclass(frozen=True, eq=False)
class DrawnMap:
    """A map of what speaks for a class.

    Args:
        values: (H, W) float32, for each pixel that the net sees.
        picture: (H, W, 3) uint8, the map over the picture.
    """

    values: np.ndarray
    picture: np.ndarray


class ServedRun:
    """A run as functions for requests. A net that is still trained is replaced when there is a newer one.

    Args:
        run: The folder of the run; it may have no checkpoint yet.
        device: The device to compute on; by default the first GPU, or the CPU if there is none.

    Raises:
        FileNotFoundError: It is no run.
        ValueError: Its net cannot be read or has no classes, or there is no such device.
    """

    def __init__(self, run: Path, device: str | None = None) -> None:
        self.path = run
        self._device = device
        self._lock = threading.Lock()
        self._looked = -_SECONDS_BETWEEN_LOOKS
        self._net: LoadedNet | None = None
        self._problem = ""
        self._nearest: tuple[tuple[int, int], NearestPictures] | None = None  # the time of the index, the net's step
        self._history: tuple[tuple[int, int], RunHistory] | None = None  # the time and the length of its file
        try:
            self._net = self._load(self._find_net())
        except FileNotFoundError as error:
            self._problem = format_error(error, with_type=False, limit=None)
            self.history()  # a folder without a net and without metrics is no run

    # ---- The net ----

    def net(self) -> LoadedNet:
        """Return the net, the newest one if it is still trained.

        Raises:
            RequestError: There is none yet.
        """
        with self._lock:
            if time.monotonic() - self._looked >= _SECONDS_BETWEEN_LOOKS:
                self._looked = time.monotonic()
                self._look_for_newer()
            if self._net is None:
                raise RequestError(503, self._problem)
            return self._net

    def _look_for_newer(self) -> None:
        try:
            file = self._find_net()
            if self._net is None or self._net.file != file:
                self._net = self._load(file)
        except (ValueError, OSError) as error:  # the training may have removed the file just now
            self._problem = format_error(error, with_type=False, limit=None)

    def _find_net(self) -> tuple[Path, int]:
        path = best_checkpoint(self.path)
        return path, path.stat().st_mtime_ns

    def _load(self, file: tuple[Path, int]) -> LoadedNet:
        checkpoint = load_checkpoint(file[0])
        classifier = Classifier(checkpoint, device=self._device)
        centre = torch.from_numpy(centre_mean(classifier.mean, classifier.recipe.net.image_size))
        return LoadedNet(
            classifier,
            centre.to(classifier.net.device),
            first_layer_kernels(checkpoint),
            checkpoint.state.step,
            checkpoint.state.epoch,
            file,
        )

    # ---- What the worker computes, for several requests at once ----

    def predict(self, requests: Sequence[tuple[np.ndarray, int]]) -> list[ViewProbabilities]:
        """Return the probabilities of each view of each picture.

        Args:
            requests: Squares (size, size, 3) uint8, and how many views: 1, 9 or 10.
        """
        net = self.net()
        classifier = net.classifier
        results: dict[int, ViewProbabilities] = {}
        for count in {views for _, views in requests}:
            numbers = [number for number, (_, views) in enumerate(requests) if views == count]
            views, squares = net.views(count), [requests[number][0] for number in numbers]
            rows = predict_views(classifier.net, squares, net.centre, classifier.recipe, views)
            results |= {n: ViewProbabilities(net, views, row.numpy()) for n, row in zip(numbers, rows, strict=True)}
        return [results[number] for number in range(len(requests))]

    def find_neighbours(self, squares: Sequence[np.ndarray]) -> list[list[NearestPicture]]:
        """Return the six pictures of the run's index that are nearest to each square, the nearest first.

        Raises:
            FileNotFoundError: The run has no index.
            ValueError: The index is damaged or of another net, or the library that searches is missing.
        """
        return self._open_nearest().find_each(squares, _NEIGHBOURS)

    def _open_nearest(self) -> NearestPictures:
        """Return the search in the index, which is opened anew when the index or the net has changed."""
        net, about = self.net(), self.path / "index" / "about.json"
        key = (about.stat().st_mtime_ns if about.exists() else 0, net.step)
        if self._nearest is None or self._nearest[0] != key:
            self._nearest = None
            self._nearest = key, NearestPictures(self.path, net.classifier)
        return self._nearest[1]

    def compute_activities(self, requests: Sequence[tuple[np.ndarray, str]]) -> list[np.ndarray]:
        """Return what a layer makes of the centre of a picture: (maps, rows, columns) or (units,) float32.

        Args:
            requests: Squares (size, size, 3) uint8, and the name of a layer of the net.
        """
        classifier = self.net().classifier
        return [classifier.features(square, layer=layer) for square, layer in requests]

    def draw_maps(self, requests: Sequence[tuple[np.ndarray, str, str]]) -> list[DrawnMap]:
        """Return maps of what speaks for a class.

        Args:
            requests: Squares (size, size, 3) uint8, the name of a class, and "occlusion" or "gradient".

        Raises:
            ValueError: The net has no such class.
        """
        classifier, maps = self.net().classifier, []
        for square, label, method in requests:
            values = MAPS[method](classifier, square, label)
            maps.append(DrawnMap(values, overlay(centre_crop(classifier, square), values)))
        return maps

    # ---- Metrics ----

    def history(self) -> RunHistory:
        """Return the metrics so far; the file is read when it has changed.

        Raises:
            FileNotFoundError, ValueError: As `RunHistory.read`.
        """
        path = self.path / "metrics.jsonl"
        status = path.stat() if path.exists() else None
        key = (status.st_mtime_ns, status.st_size) if status else (0, 0)
        if self._history is None or self._history[0] != key:
            self._history = key, RunHistory.read(self.path)
        return self._history[1]

    def has_index(self) -> bool:
        """Return whether `alexnet index` has made an index."""
        return (self.path / "index" / "about.json").exists()
