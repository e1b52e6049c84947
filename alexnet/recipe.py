"""How a net is trained: a frozen dataclass with the numbers of sections 5 and 6 as defaults, each with its section."""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from alexnet.architecture import Net
from alexnet.checked import Checked, build, require, require_finite

_WARMUP = 5.0  # epochs at least, where a larger batch's rate is scaled linearly (Goyal et al., 2017, section 2.2)


@dataclass(frozen=True, kw_only=True)
class Change(Checked):
    """A change made by hand while training (section 6: "which we adjusted manually").

    Args:
        epoch: When: this many epochs after the start.
        learning_rate: The weights' new rate; 0 freezes the layers, biases too. None leaves it.
        layers: Names of the layers the rate is for; empty for all.
        colour_shift: Whether the colour shift is on from now (5.1); None leaves it.
    """

    epoch: float
    learning_rate: float | None = None
    layers: tuple[str, ...] = ()
    colour_shift: bool | None = None

    def _check(self) -> None:
        require_finite("epoch", self.epoch)
        require_finite("learning_rate", self.learning_rate or 0.0)


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """A net and how it learns; the defaults are sections 5 and 6 to the letter.

    Args:
        net: The net (4).
        store_size: Side of the stored pictures, in pixels; crops of net.image_size are cut from them (3, 5.1).
        batch_size: Pictures per step (6).
        momentum: Factor on the velocity (6).
        decay: Weight decay on weights; biases have none (6).
        decays: Decay of single layers, by name, in place of `decay`.
        learning_rate: The weights' rate at the start (6).
        bias_rate: The biases' rate after the warm-up; None for the weights' own rate (6: equal for all layers).
        schedule: "plateau": divide by ten when the validation error stops improving (6); "changes": as `changes`
            says; "cosine": from learning_rate to 0 along half a cosine; "fold": when the validation error stops
            improving the validation pictures are folded into the training set, and `epochs` and `changes` count from
            there (the 2012 program's nets for CIFAR-10 with translations).
        changes: Changes at given epochs. A rate given here stands from then on, whatever the schedule.
        patience: Epochs without a better validation error that count as "stopped improving"; the paper gives none.
        falls: How often the rate is divided by ten before the next plateau ends the training (6: three times).
        warmup: Epochs over which all rates, those of `changes` and the biases' too, rise from 0.
        epochs: Passes through the training set at most (6: roughly 90); of schedule "fold", after the folding.
        until_train_error: Training also ends after the first epoch whose training error, as it went, is at most this;
            None for never (Figure 1 compares how long nets take to 25 %).
        reflect: Whether pictures are reflected with probability one half (5.1).
        crops: Whether crops are taken at random places or always at the centre (5.1).
        crop_area: Random square crops of this share of the picture, resized; None for the paper's plain crops.
        colour_deviation: Deviation of the colour shift's Gaussian; 0 for none (5.1).
        colour_divisor: What a shifted picture is divided by; the paper has 1, the 2012 program 1.1.
        views: Views whose predictions are averaged at test time: 10 for the corners, the centre and their reflections
            (5.1); 9 for the corners, the edges and the centre, not reflected; 1 for the centre.
        label_smoothing: Share of the target spread evenly over all classes; the paper has none.
        precision: "float32", "bfloat16" (autocast), or "auto": bfloat16 where the device computes in it.
        seed: Of the start values, the order, the crops and the dropout.
    """

    net: Net = field(default_factory=Net)
    store_size: int = 256
    batch_size: int = 128
    momentum: float = 0.9
    decay: float = 0.0005
    decays: dict[str, float] = field(default_factory=dict)
    learning_rate: float = 0.01
    bias_rate: float | None = None
    schedule: Literal["plateau", "changes", "cosine", "fold"] = "plateau"
    changes: tuple[Change, ...] = ()
    patience: int = 6
    falls: int = 3
    warmup: float = 0.0
    epochs: int = 90
    until_train_error: float | None = None
    reflect: bool = True
    crops: Literal["random", "centre"] = "random"
    crop_area: tuple[float, float] | None = None
    colour_deviation: float = 0.1
    colour_divisor: float = 1.0
    views: Literal[1, 9, 10] = 10
    label_smoothing: float = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0

    def _check(self) -> None:
        for name in ("store_size", "batch_size", "patience", "epochs"):
            require(getattr(self, name) >= 1, name, "a whole number of at least 1", getattr(self, name))
        require(
            self.net.image_size <= self.store_size,
            "net.image_size",
            f"at most store_size {self.store_size}, since crops are cut from the stored pictures",
            self.net.image_size,
        )
        require(0 <= self.momentum < 1, "momentum", "from 0 to below 1", self.momentum)
        require(0 <= self.label_smoothing < 1, "label_smoothing", "from 0 to below 1", self.label_smoothing)
        require(self.falls >= 0, "falls", "a whole number of at least 0", self.falls)
        require(self.seed >= 0, "seed", "a whole number of at least 0", self.seed)
        require_finite("learning_rate", self.learning_rate, above=True)
        require_finite("colour_divisor", self.colour_divisor, above=True)
        require(self.warmup < self.epochs, "warmup", f"less than epochs {self.epochs}", self.warmup)
        require(self.warmup == 0 or self.schedule != "fold", "warmup", 'zero with schedule "fold"', self.warmup)
        for name in ("decay", "warmup", "colour_deviation"):
            require_finite(name, getattr(self, name))
        require_finite("bias_rate", self.bias_rate or 0.0)
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
            require(0 < low <= high <= 1, "crop_area", "null or two shares, 0 < low <= high <= 1", self.crop_area)
        self._check_layers()

    def _check_layers(self) -> None:
        known = self.net.layers()
        for name, decay in self.decays.items():
            require(name in known, "decays", f"by names of layers ({', '.join(known)})", name)
            require_finite(f"decays.{name}", decay)
        for change in self.changes:
            for name in change.layers:
                require(name in known, "changes.layers", f"names of layers ({', '.join(known)})", name)
        epochs = [change.epoch for change in self.changes]
        require(epochs == sorted(epochs), "changes", "in the order of their epochs", epochs)

    def to_json(self) -> str:
        """This recipe as a JSON object, every field written out."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """The recipe that `to_json` wrote.

        Raises:
            ValueError: Not JSON, an unknown field, or a value against a field's type or rule.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"recipe must be a JSON object, as `alexnet recipes NAME` prints; {error}") from error
        return build(cls, data, "recipe")

    def with_settings(self, settings: Sequence[str]) -> "Recipe":
        """This recipe with fields set from text.

        Args:
            settings: "field=value" each, the value in JSON or a bare word; dots reach into parts, as in
                "net.fc6.dropout=0.3".

        Raises:
            ValueError: Not of that form, no such field, or a value against its type or rule.
        """
        data = dataclasses.asdict(self)
        for setting in settings:
            path, equals, text = setting.partition("=")
            require(bool(equals) and bool(path), "--set", "of the form field=value", setting)
            *parents, last = path.split(".")
            part: Any = data
            for name in parents:
                part = part.get(name) if isinstance(part, dict) else None
            free = parents == ["decays"]  # the one part whose names are not fixed
            if not isinstance(part, dict) or (last not in part and not free):
                known = ", ".join(part) if isinstance(part, dict) else ", ".join(data)
                raise ValueError(f"--set must name a field of the recipe ({known}); got {path!r}")
            part[last] = _value_of(text)
        return build(type(self), data, "recipe")

    def with_batch(self, batch_size: int, rule: Literal["linear", "sqrt"] | None = None) -> "Recipe":
        """This recipe with batches of another size, its rates scaled by a rule if one is asked for.

        With k times as many pictures per step, k also below 1, every rate (learning_rate, bias_rate, those of
        `changes`) is multiplied by one factor; a rate of 0 stays, so that what is frozen stays frozen.

        - "linear": by k, as one step takes the place of k (Goyal et al., "Accurate, large minibatch SGD", 2017). Where
          k is above 1, `warmup` becomes their five epochs unless it is longer. It rises from 0, theirs from the rate
          before scaling. Schedule "fold" has no warm-up and gets none.
        - "sqrt": by the square root of k, which keeps the variance of a step (Krizhevsky, "One weird trick for
          parallelizing convolutional neural networks", 2014, who found "linear" the better in practice). `warmup`
          stays.

        Momentum, decay and epochs stay.

        Args:
            batch_size: Pictures per step, over all processes.
            rule: "linear" or "sqrt"; None leaves the rates as they are.

        Raises:
            ValueError: A batch size below 1, another rule, or an end before the warm-up's.
        """
        resized = dataclasses.replace(self, batch_size=batch_size)
        require(rule in (None, "linear", "sqrt"), "rule", '"linear", "sqrt" or None', rule)
        k = batch_size / self.batch_size
        if rule is None or k == 1:
            return resized
        factor = k if rule == "linear" else math.sqrt(k)
        warmup = self.warmup
        if rule == "linear" and k > 1 and self.schedule != "fold":
            warmup = max(warmup, _WARMUP)
            text = f'above {warmup:g}, the warm-up of scaling linearly ("sqrt" has none)'
            require(self.epochs > warmup, "epochs", text, self.epochs)
        return dataclasses.replace(
            resized,
            learning_rate=factor * self.learning_rate,
            bias_rate=None if self.bias_rate is None else factor * self.bias_rate,
            changes=tuple(_scaled(change, factor) for change in self.changes),
            warmup=warmup,
        )


def recipe_differences(old: Recipe, new: Recipe) -> list[tuple[str, Any, Any]]:
    """Return the fields in which two recipes differ.

    Returns:
        The path of each field, as `--set` takes it, such as "net.fc6.dropout"; its old value; its new value. The values
        are plain: numbers, strings, and tuples and dicts of them.
    """
    return list(_differences("", dataclasses.asdict(old), dataclasses.asdict(new)))


def _differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        for name in old:
            yield from _differences(f"{path}.{name}" if path else name, old[name], new[name])
    elif old != new:
        yield path, old, new


def _scaled(change: Change, factor: float) -> Change:
    """A change with its rate, if it has one, multiplied."""
    rate = change.learning_rate
    return change if rate is None else dataclasses.replace(change, learning_rate=factor * rate)


def _value_of(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"none": None, "None": None, "True": True, "False": False}.get(text, text)
