"""How a net is trained: a frozen dataclass with the numbers of sections 5 and 6 as defaults, each with its section."""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from alexnet.architecture import Net
from alexnet.checked import Checked, build, require, require_finite, suggest

_LINEAR_SCALING_WARMUP = 5.0  # epochs (Goyal et al., 2017, section 2.2)
_LINEAR_SCALING_EPOCHS = 90  # epochs of their trainings
_MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Change(Checked):
    """A change made by hand while training (section 6: "which we adjusted manually").

    Args:
        epoch: Time of the change, in epochs after the start.
        learning_rate: New learning rate of the weights; 0 freezes the layers, with their biases; None keeps the rate.
        layers: Names of the layers with the new rate; empty for all.
        colour_shift: Whether the colour shift is on from then (5.1); None keeps it as it is.
    """

    epoch: float
    learning_rate: float | None = None
    layers: tuple[str, ...] = ()
    colour_shift: bool | None = None

    def check(self) -> None:
        require_finite("epoch", self.epoch)
        require_finite("learning_rate", self.learning_rate or 0.0)


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """A net and its training; the defaults follow sections 5 and 6 to the letter.

    Args:
        net: The net (4).
        store_size: Side of the stored pictures, in pixels; crops of net.image_size are cut from them (3, 5.1).
        batch_size: Pictures per step (6).
        momentum: Factor on the velocity (6).
        decay: Weight decay of the weights; biases have none (6).
        decays: Weight decay of single layers, by name, in place of `decay`.
        rate_factors: Factors on the learning rates of single layers, by name: of their weights and of their biases.
        frozen: Layers that do not learn; no gradient is computed for their weights. Where they are the first layers of
            the net, they compute as at test time, without dropout.
        learning_rate: Initial learning rate of the weights (6).
        bias_rate: Learning rate of the biases after the warm-up; None for that of the weights (6: the same).
        schedule: "plateau": divide the rate by ten when the validation error stops improving (6). "changes": follow
            `changes` only. "cosine": from learning_rate to 0 along half a cosine. "fold": when the validation error
            stops improving, add the validation pictures to the training set; `epochs` and `changes` count from there
            (the 2012 program's nets for CIFAR-10 with translations).
        changes: Changes at certain epochs. A learning rate set here stays, whatever the schedule.
        patience: Epochs without a lower validation error after which it no longer improves; not in the paper.
        early_stopping: Whether the training ends when the validation error was not lower than before for `patience`
            epochs; with schedules "changes" and "cosine" only, since the others end in their own way.
        falls: How often the rate is divided by ten before the next plateau ends the training (6: three times).
        warmup: Epochs in which all rates, including those of `changes` and of the biases, rise from 0.
        epochs: Maximum of passes through the training set (6: roughly 90); with "fold", after the validation
            pictures are added.
        until_train_error: The training also ends after the first epoch with at most this training error, a share from
            0 to 1 that is measured during the epoch; None for never (Figure 1 compares the epochs until 25 %).
        reflect: Whether pictures are reflected with probability one half (5.1).
        crops: Whether training crops are at random positions or always at the centre (5.1).
        crop_area: Smallest and largest share of the picture's area that a random crop has; the square crop is resized.
            None for the paper's crops of one size.
        image_sizes: Sides that training crops are resized to, each for an equal part of the epochs: the fewer pixels,
            the faster. The last feature maps are resized to their usual side. Larger sides than net.image_size count as
            net.image_size, and with frozen layers all do. Empty for net.image_size throughout, as in the paper; tests
            use it in any case.
        colour_deviation: Standard deviation of the colour shift's Gaussian; 0 for no colour shift (5.1).
        colour_divisor: Divisor of a picture after the colour shift; 1 in the paper, 1.1 in the 2012 program.
        augmentations: How many different crops, reflections and colour shifts a picture has: those of epoch e are those
            of epoch e modulo this number. None for new ones in each epoch, as in the paper.
        mean: Whose mean activity is subtracted (3): "store": that of the training pictures. "start": that of the run
            whose weights are the start values, since its first layer was trained with it.
        views: Views per picture at test time, whose predictions are averaged: 10 for the corners, the centre and their
            reflections (5.1); 9 for the corners, the edges and the centre, not reflected; 1 for the centre.
        label_smoothing: Share of the target that is spread evenly over all classes; 0 in the paper.
        balance: For classes of different sizes. "none": each picture once in an epoch, as in the paper. "sampling":
            classes are drawn equally often, so that pictures of a small class come several times in an epoch, and of
            a large one not all. "weights": the loss of a picture is divided by the size of its class; the mean over
            the training pictures of these factors is 1.
        precision: "float32", "bfloat16" (autocast), or "auto": bfloat16 if the device has arithmetic for it.
        seed: Seed of the initial weights, the order of the pictures, the crops and the dropout.
    """

    net: Net = field(default_factory=Net)
    store_size: int = 256
    batch_size: int = 128
    momentum: float = 0.9
    decay: float = 0.0005
    decays: dict[str, float] = field(default_factory=dict)
    rate_factors: dict[str, float] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    learning_rate: float = 0.01
    bias_rate: float | None = None
    schedule: Literal["plateau", "changes", "cosine", "fold"] = "plateau"
    changes: tuple[Change, ...] = ()
    patience: int = 6
    early_stopping: bool = False
    falls: int = 3
    warmup: float = 0.0
    epochs: int = 90
    until_train_error: float | None = None
    reflect: bool = True
    crops: Literal["random", "centre"] = "random"
    crop_area: tuple[float, float] | None = None
    image_sizes: tuple[int, ...] = ()
    colour_deviation: float = 0.1
    colour_divisor: float = 1.0
    augmentations: int | None = None
    mean: Literal["store", "start"] = "store"
    views: Literal[1, 9, 10] = 10
    label_smoothing: float = 0.0
    balance: Literal["none", "sampling", "weights"] = "none"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0

    def check(self) -> None:
        for name in ("store_size", "batch_size", "patience", "epochs"):
            require(getattr(self, name) >= 1, name, "a whole number of at least 1", getattr(self, name))
        require(
            self.net.image_size <= self.store_size,
            "net.image_size",
            f"at most store_size {self.store_size}, since crops are cut from the stored pictures",
            self.net.image_size,
        )
        require(0 <= self.momentum < 1, "momentum", "at least 0 and below 1", self.momentum)
        require(0 <= self.label_smoothing < 1, "label_smoothing", "at least 0 and below 1", self.label_smoothing)
        require(self.falls >= 0, "falls", "a whole number of at least 0", self.falls)
        require(0 <= self.seed <= _MAX_SEED, "seed", f"a whole number from 0 to {_MAX_SEED:,}", self.seed)
        require_finite("learning_rate", self.learning_rate, positive=True)
        require_finite("colour_divisor", self.colour_divisor, positive=True)
        require(self.warmup < self.epochs, "warmup", f"less than epochs {self.epochs}", self.warmup)
        require(self.warmup == 0 or not self.folds_in_validation, "warmup", '0 with schedule "fold"', self.warmup)
        require(
            not (self.early_stopping and self.follows_validation_error),
            "early_stopping",
            f'false with schedule "{self.schedule}", which follows the validation error to its end',
            self.early_stopping,
        )
        for name in ("decay", "warmup", "colour_deviation"):
            require_finite(name, getattr(self, name))
        require_finite("bias_rate", self.bias_rate or 0.0)
        require(
            self.augmentations is None or self.augmentations >= 1,
            "augmentations",
            "null or a whole number of at least 1",
            self.augmentations,
        )
        require(
            0 <= (self.until_train_error or 0) <= 1,
            "until_train_error",
            "null or a share from 0 to 1",
            self.until_train_error,
        )
        require(
            self.crop_area is None or self.crops == "random", "crop_area", 'null with crops "centre"', self.crop_area
        )
        if self.crop_area is not None:
            low, high = self.crop_area
            require(0 < low <= high <= 1, "crop_area", "null or two shares with 0 < low <= high <= 1", self.crop_area)
        self._check_layers()
        self._check_image_sizes()

    @property
    def folds_in_validation(self) -> bool:
        """Whether the schedule adds the validation pictures to the training set at some time."""
        return self.schedule == "fold"

    @property
    def follows_validation_error(self) -> bool:
        """Whether the schedule depends on the validation error."""
        return self.schedule in ("plateau", "fold")

    @property
    def trained_layers(self) -> tuple[str, ...]:
        """The names of the layers that learn, in order."""
        return tuple(name for name in self.net.layers() if name not in self.frozen)

    @property
    def frozen_front(self) -> tuple[str, ...]:
        """The names of the frozen layers before the first layer that learns, in order."""
        return tuple(itertools.takewhile(lambda name: name in self.frozen, self.net.layers()))

    def augmentation(self, epoch: int) -> int:
        """Return the number of the crops, reflections and colour shifts that the pictures have in an epoch."""
        return epoch if self.augmentations is None else epoch % self.augmentations

    def _check_image_sizes(self) -> None:
        has_length = self.schedule in ("cosine", "changes")
        require(
            has_length or not self.image_sizes,
            "image_sizes",
            f'empty with schedule "{self.schedule}", which can end before its last epoch',
            self.image_sizes,
        )
        for side in self.image_sizes:
            require(side >= 1, "image_sizes", "whole numbers of at least 1", side)
            self.net.check_training_size(min(side, self.net.image_size))

    def _check_layers(self) -> None:
        layers = self.net.layers()
        for field_name in ("decays", "rate_factors"):
            for name, value in getattr(self, field_name).items():
                require(name in layers, field_name, f"keyed by names of layers ({', '.join(layers)})", name)
                require_finite(f"{field_name}.{name}", value)
        for name in self.frozen:
            require(name in layers, "frozen", f"names of layers ({', '.join(layers)})", name)
        require(bool(self.trained_layers), "frozen", "some layers only, so that another can learn", self.frozen)
        for change in self.changes:
            for name in change.layers:
                require(name in layers, "changes.layers", f"names of layers ({', '.join(layers)})", name)
        epochs = [change.epoch for change in self.changes]
        require(epochs == sorted(epochs), "changes", "in the order of their epochs", epochs)

    def to_json(self) -> str:
        """Return this recipe as a JSON object with all fields."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Return the recipe that `to_json` wrote.

        Raises:
            ValueError: Not JSON, an unknown field, or a value that its field does not allow.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"recipe must be a JSON object, as printed by `alexnet recipes NAME`; {error}") from error
        return build(cls, data, "recipe")

    @classmethod
    def load(cls, path: Path) -> "Recipe":
        """Read a file that has what `to_json` wrote, such as a run's recipe.json.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: As for `from_json`; the message names the file.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8", errors="replace"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def with_settings(self, settings: Sequence[str]) -> "Recipe":
        """Return this recipe with some fields changed.

        Args:
            settings: The changes as "field=value", such as "net.fc6.dropout=0.3"; the value is JSON, or a string
                without quotes.

        Raises:
            ValueError: A change of another form, an unknown field, or a value that its field does not allow.
        """
        data = dataclasses.asdict(self)
        for setting in settings:
            path, equals, text = setting.partition("=")
            require(bool(equals) and bool(path), "settings", "of the form field=value", setting)
            parent, name = _parent_of(path, data), path.rpartition(".")[2]
            parent[name] = _parse_value(text, parent.get(name))
        return build(type(self), data, "recipe")

    def with_epochs(self, epochs: int) -> "Recipe":
        """Return this recipe with another number of epochs, and all its times in proportion."""
        share = epochs / self.epochs
        return dataclasses.replace(
            self,
            epochs=epochs,
            warmup=self.warmup * share,
            patience=max(1, round(self.patience * share)),
            changes=tuple(dataclasses.replace(change, epoch=change.epoch * share) for change in self.changes),
        )

    def with_batch(self, batch_size: int, rule: Literal["linear", "sqrt"] | None = None) -> "Recipe":
        """Return this recipe with another batch size, and with its rates scaled if `rule` is not None.

        If a step has k times as many pictures (k can be below 1), every rate (learning_rate, bias_rate, those of
        `changes`) is multiplied by the same factor. So frozen layers, with rate 0, stay frozen.

        - "linear": by k, since one step replaces k steps (Goyal et al., "Accurate, large minibatch SGD", 2017). If k is
          above 1, `warmup` is at least five epochs as in that paper, or of a training of at most five epochs the same
          share as there, five of ninety. It rises from 0 here, from the rate before scaling there. Schedule "fold" has
          no warm-up.
        - "sqrt": by the square root of k, which keeps the variance of a step (Krizhevsky, "One weird trick for
          parallelizing convolutional neural networks", 2014, where "linear" worked better). `warmup` does not change.

        Momentum, decay and epochs do not change.

        Args:
            batch_size: Pictures per step, over all processes.
            rule: "linear" or "sqrt"; None keeps the rates.

        Raises:
            ValueError: A batch size below 1, or another rule.
        """
        resized = dataclasses.replace(self, batch_size=batch_size)
        require(rule in (None, "linear", "sqrt"), "rule", '"linear", "sqrt" or None', rule)
        k = batch_size / self.batch_size
        if rule is None or k == 1:
            return resized
        factor = k if rule == "linear" else math.sqrt(k)
        warmup = self.warmup
        if rule == "linear" and k > 1 and not self.folds_in_validation:
            share = _LINEAR_SCALING_WARMUP / _LINEAR_SCALING_EPOCHS
            is_short = self.epochs <= _LINEAR_SCALING_WARMUP
            warmup = max(warmup, share * self.epochs if is_short else _LINEAR_SCALING_WARMUP)
        return dataclasses.replace(
            resized,
            learning_rate=factor * self.learning_rate,
            bias_rate=None if self.bias_rate is None else factor * self.bias_rate,
            changes=tuple(_scale_change(change, factor) for change in self.changes),
            warmup=warmup,
        )


def recipe_differences(old: Recipe, new: Recipe) -> list[tuple[str, Any, Any]]:
    """Return the fields in which two recipes differ.

    Returns:
        The path of each field, as `--set` takes it, such as "net.fc6.dropout"; its old value; its new value. The values
        are plain: numbers, strings, and tuples and dicts of them.
    """
    return list(_differences("", dataclasses.asdict(old), dataclasses.asdict(new)))


def format_differences(differences: Sequence[tuple[str, Any, Any]], limit: int = 6) -> str:
    """Return the fields in which two recipes differ, in a line: "epochs 60, not 100; seed 0, not 1".

    Args:
        differences: What `recipe_differences` returned.
        limit: How many fields are named; of the others the number.
    """
    texts = [f"{path} {_shorten(old)}, not {_shorten(new)}" for path, old, new in differences[:limit]]
    more = len(differences) - limit
    return "; ".join(texts) + (f"; and {more} more field{'s' if more > 1 else ''}" if more > 0 else "")


def _shorten(value: Any) -> str:
    """Return a field's value as JSON, cut off if it is long."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        for name in old:
            yield from _differences(f"{path}.{name}" if path else name, old[name], new[name])
    elif old != new:
        yield path, old, new


def _scale_change(change: Change, factor: float) -> Change:
    """Return a change with its learning rate, if it has one, multiplied by a factor."""
    rate = change.learning_rate
    return change if rate is None else dataclasses.replace(change, learning_rate=factor * rate)


def _parent_of(path: str, data: dict[str, Any]) -> dict[str, Any]:
    """Return the object that has the last field of a path such as "net.fc6.dropout", in a recipe as plain JSON data.

    Raises:
        ValueError: There is no such field; the message lists those of the object where the path goes wrong.
    """
    names = path.split(".")
    parent: Any = data
    fields: Any = data
    for depth, name in enumerate(names):
        parent = fields
        owner = ".".join(names[:depth]) or "the recipe"
        if not isinstance(parent, dict):
            raise ValueError(
                f"settings must name a field; {owner} is {json.dumps(parent)}, without fields; got {path!r}"
            )
        if name not in parent and owner not in ("decays", "rate_factors"):
            close = suggest(name, parent)
            raise ValueError(f"settings must name a field of {owner} ({', '.join(parent)}); got {path!r}{close}")
        fields = parent.get(name)
    assert isinstance(parent, dict)
    return parent


def _parse_value(text: str, old: Any) -> Any:
    """Return the value of JSON or of Python's None, True and False; other text, and "none" for words, as it is."""
    if text == "none" and isinstance(old, str):  # as in `balance`, whose values are words
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"none": None, "None": None, "True": True, "False": False}.get(text, text)
