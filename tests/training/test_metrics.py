"""What a training writes and prints: metrics.jsonl, TensorBoard's files, a line for each epoch."""

import json
import math
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import small_recipe, write_store
from runs import read_metrics

from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.progress import print_epoch
from alexnet.training.train import train
from alexnet.utils.intervals import wilson_interval

pytestmark = pytest.mark.usefixtures("one_thread", "frequent_metrics")
RECIPE = small_recipe()
EPOCH_LINE: dict[str, Any] = {
    "epoch": 1, "seconds": 5400.0, "split": "val", "images": 10, "train_images": 20, "rate": 0.5, "train_loss": 0.5,
    "train_error": 0.5, "val_top1_error": 0.5, "val_top5_error": 0.5, "pictures_per_second": 0.5,
}  # fmt: skip


def test_metrics_have_a_line_for_each_event(store: Path, uninterrupted: Path) -> None:
    written = read_metrics(uninterrupted)
    events = "start step step epoch step step step epoch step step epoch end"
    assert [line["event"] for line in written] == events.split()
    start = written[0]
    assert (start["classes"], start["train_pictures"], start["validation_pictures"]) == (3, 48, 20)
    assert start["parameters"] == sum(p.numel() for p in AlexNet(3, RECIPE.net).parameters())
    assert Path(start["store"]) == store.resolve()
    epochs = read_metrics(uninterrupted, "epoch")
    assert [(line["epoch"], line["step"]) for line in epochs] == [(1, 5), (2, 10), (3, 15)]
    assert [line["step"] for line in read_metrics(uninterrupted, "step")] == [2, 4, 6, 8, 10, 12, 14]
    text = (uninterrupted / "metrics.jsonl").read_text(encoding="utf-8")
    for line in map(json.loads, text.splitlines()):
        assert all(math.isfinite(value) for value in line.values() if isinstance(value, float))


def test_speed_and_time_do_not_depend_on_what_is_saved_between(
    store: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_step: Any
) -> None:
    now = [100.0]  # seconds; a step takes one second, all else takes no time

    def tick(n: int) -> None:
        now[0] += 1
        if n == 8:
            signal.raise_signal(signal.SIGINT)

    for module in ("train", "checkpointer"):
        monkeypatch.setattr(f"alexnet.training.{module}.time", SimpleNamespace(monotonic=lambda: now[0]))
    after_step(tick)
    assert train(store, tmp_path / "run", recipe, checkpoint_minutes=0, progress=False).seconds == 8
    now[0] += 1000
    assert train(store, tmp_path / "run", recipe, checkpoint_minutes=0, progress=False).seconds == 15
    text = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    epochs = [line for line in map(json.loads, text.splitlines()) if line["event"] == "epoch"]
    speeds = [48 / 5, 18 / 2, 48 / 5]  # of the second epoch, the last two steps
    assert [line["pictures_per_second"] for line in epochs] == speeds
    assert [line["seconds"] for line in epochs] == [5, 10, 15]


def test_a_line_for_each_epoch_is_printed_on_standard_error(
    store: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(store, tmp_path / "run", recipe)
    printed = capsys.readouterr()
    assert printed.out == ""
    epochs = [line for line in printed.err.splitlines() if line.startswith("epoch ")]
    assert [line.split()[:2] for line in epochs] == [["epoch", "1/3"], ["epoch", "2/3"], ["epoch", "3/3"]]
    for line in epochs:
        for word in ("rate", "loss", "error", "pictures/s", "left"):
            assert word in line
    assert "\r" not in printed.err
    train(store, tmp_path / "quiet", replace(recipe, epochs=1), progress=False)
    assert capsys.readouterr().err == ""


def test_the_time_left_is_printed_in_days(capsys: pytest.CaptureFixture[str]) -> None:
    print_epoch(EPOCH_LINE, 10, 90)
    assert "5 days, 13:30:00 left" in capsys.readouterr().err  # 89 epochs of an hour and a half
    print_epoch(EPOCH_LINE, 10, None)
    line = capsys.readouterr().err
    assert line.startswith("epoch   1/?")
    assert "? left" in line


@pytest.mark.parametrize(("split", "name"), [("val", "validation error"), ("test", "test error")])
def test_the_errors_of_an_epoch_are_printed_with_their_intervals_and_their_pictures(
    split: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # The interval of 81 of 263 is published (Newcombe 1998): 0.2553 to 0.3662; that of 15 of 148 is 0.0624 to 0.1605.
    metrics = EPOCH_LINE | {"split": split, "images": 263, "val_top1_error": 81 / 263, "val_top5_error": 0.0}
    metrics |= {"train_images": 148, "train_error": 15 / 148}
    print_epoch(metrics, 6, 90)
    line = capsys.readouterr().err
    assert "training error 10.1 % (6.2 to 16.0)" in line
    assert f"{name} 30.8 % (25.5 to 36.6), top-5 0.0 % (0.0 to 1.4)" in line
    print_epoch(metrics, 5, 90)
    assert f"{name} 30.8 % (25.5 to 36.6)  " in capsys.readouterr().err


def test_an_epoch_s_line_names_the_pictures_that_were_measured(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", train=20, val=10, test=8)
    recipe = replace(small_recipe(), schedule="fold", patience=1, epochs=1)
    train(store, tmp_path / "run", recipe, progress=False)
    lines = read_metrics(tmp_path / "run", "epoch")
    *before, last = [(line["split"], line["images"], line["train_images"]) for line in lines]
    assert last == ("test", 8, 30)  # the validation pictures are trained on by now
    assert set(before) == {("val", 10, 20)}
    for line in lines:
        errors = round(line["val_top1_error"] * line["images"])
        assert line["val_top1_interval"] == list(wilson_interval(errors / line["images"], line["images"]))


def test_tensorboard_without_its_package_is_refused_with_the_command_that_installs_it(
    store: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install 'alexnet\[tensorboard\]'"):
        train(store, tmp_path / "run", recipe, tensorboard=True, progress=False)


def test_tensorboard_gets_the_numbers_of_the_metrics(
    store: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scalars: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert purge_step == 0
            assert folder == str(tmp_path / "run" / "tensorboard")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            scalars.append((name, value, step))

        def close(self) -> None:
            scalars.append(("closed", 0, 0))

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    train(store, tmp_path / "run", replace(recipe, epochs=1), tensorboard=True, progress=False)
    for line in read_metrics(tmp_path / "run", "step"):
        assert ("step/loss", line["loss"], line["step"]) in scalars
    (epoch,) = read_metrics(tmp_path / "run", "epoch")
    assert ("epoch/val_top1_error", epoch["val_top1_error"], 5) in scalars
    assert scalars[-1][0] == "closed"
