"""The figures of a run, and the reading of what they show."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from alexnet.recipe import Recipe
from alexnet.results import figures
from alexnet.results.examples import Example
from alexnet.results.figures import DARK, LIGHT
from alexnet.results.run_history import RunHistory

START = {"event": "start", "train_pictures": 100, "classes": 10, "store": "somewhere"}


def epoch(number: int, **values: Any) -> dict[str, Any]:
    line = {"event": "epoch", "epoch": number, "step": 10 * number, "rate": 0.01, "train_loss": 2.0 / number}
    line |= {"train_error": 0.9 / number, "val_top1_error": 0.8 / number, "val_top5_error": 0.2, "val_log_prob": 1.9}
    return line | values


def step(number: int, **values: Any) -> dict[str, Any]:
    return {"event": "step", "step": number, "rate": 0.01, "loss": 3.0 / number} | values


def write_run(path: Path, *lines: dict[str, Any], end: str = "") -> Path:
    path.mkdir(exist_ok=True)
    (path / "recipe.json").write_text(Recipe(batch_size=9, epochs=5).to_json())
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + end)
    return path


def data(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    """The lines of a figure's first axes, by what the legend calls them."""
    lines = figure.axes[0].get_lines()
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in lines}


def test_a_history_is_read_in_order(tmp_path: Path) -> None:
    history = RunHistory.read(write_run(tmp_path, START, step(5), epoch(1), step(15), epoch(2)))
    assert history.start == START
    assert [line["step"] for line in history.steps] == [5, 15]
    assert [line["epoch"] for line in history.epochs] == [1, 2]
    assert history.epoch_of({"step": 18}) == 1.5  # 100 pictures in batches of 9: 12 steps
    assert history.epoch_of({"step": 18, "epoch": 1.25}) == 1.25


def test_of_what_was_done_twice_after_a_kill_the_last_counts(tmp_path: Path) -> None:
    lines = [START, step(5), epoch(1), step(15, loss=7.0), epoch(2, train_loss=9.0), step(15, loss=6.0), epoch(2)]
    history = RunHistory.read(write_run(tmp_path, *lines))
    assert [line["loss"] for line in history.steps] == [0.6, 6.0]
    assert [line["train_loss"] for line in history.epochs] == [2.0, 1.0]


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    history = RunHistory.read(write_run(tmp_path, START, epoch(1), end='{"event": "ep'))
    assert [line["epoch"] for line in history.epochs] == [1]


@pytest.mark.parametrize(("end", "what"), [("3\n", "line 2 must be an event"), ("{]\n", "line 2"), ("[]\n", "line 2")])
def test_a_damaged_line_is_named(tmp_path: Path, end: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        RunHistory.read(write_run(tmp_path, START, end=end))


def test_no_run_and_a_run_without_a_beginning(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must have a recipe\.json"):
        RunHistory.read(tmp_path)
    with pytest.raises(ValueError, match="must begin with a line of event"):
        RunHistory.read(write_run(tmp_path, epoch(1)))


def test_the_curves_show_the_metrics(tmp_path: Path) -> None:
    history = RunHistory.read(write_run(tmp_path, START, step(6), epoch(1), step(18), epoch(2)))
    error = data(figures.draw_curve("error", history))
    assert error["training"] == ([0.5, 1.5], [0.9, 0.45])  # means over an epoch, at its middle
    assert error["validation"] == ([1, 2], [0.8, 0.4])
    assert error["validation, top-5"] == ([1, 2], [0.2, 0.2])
    loss = data(figures.draw_curve("loss", history))
    assert ([0.5, 1.5], [0.5, 3.0 / 18]) in loss.values()  # by the steps: 12 in an epoch
    assert loss["training"] == ([0.5, 1.5], [2.0, 1.0])
    assert loss["validation"] == ([1, 2], [1.9, 1.9])
    rate = figures.draw_curve("rate", history).axes[0]
    assert rate.get_yscale() == "log"
    assert list(rate.get_lines()[0].get_ydata()) == [0.01, 0.01]


def test_of_few_classes_there_is_no_top5_curve(tmp_path: Path) -> None:
    history = RunHistory.read(write_run(tmp_path, START | {"classes": 5}, epoch(1)))
    assert list(data(figures.draw_curve("error", history))) == ["training", "validation"]


@pytest.mark.parametrize("lines", [(), (step(5),), (epoch(1),), (epoch(1, rate=0.0), step(14, rate=0.0))])
def test_curves_of_a_training_that_has_hardly_begun(tmp_path: Path, lines: tuple[dict[str, Any], ...]) -> None:
    figure = figures.draw_curves(RunHistory.read(write_run(tmp_path, START, *lines)))
    image = Image.open(io.BytesIO(figures.to_png(figure)))
    assert image.format == "PNG"
    assert image.width > 3 * image.height


def test_kernels_stand_by_tower_each_scaled_to_its_own_range() -> None:
    weights = np.random.default_rng(0).normal(size=(40, 3, 5, 5)).astype(np.float32)
    tiles = figures.kernel_tiles(weights * np.arange(1, 41)[:, None, None, None], 2)
    assert [block.shape for block in tiles] == [(11, 95, 4)] * 2  # twenty kernels: sixteen, and four below
    kernel = weights[20 + 17].transpose(1, 2, 0)  # the second tower's eighteenth: second row, second column
    expected = np.round(255 * (kernel - kernel.min()) / (kernel.max() - kernel.min()))
    assert np.abs(tiles[1][6:11, 6:11, :3] - expected).max() <= 1
    assert (tiles[1][6:11, 6:11, 3] == 255).all()
    assert (tiles[0][5] == 0).all()  # transparent between the rows,
    assert (tiles[0][:, 5] == 0).all()  # the columns,
    assert (tiles[0][6:, 24:] == 0).all()  # and where there is no kernel


def test_a_kernel_of_one_value_is_drawn_too() -> None:
    (block,) = figures.kernel_tiles(np.full((1, 3, 2, 2), 7.0), 1)
    assert (block == [0, 0, 0, 255]).all()


def test_towers_are_labelled_as_the_papers_gpus() -> None:
    weights = np.random.default_rng(0).normal(size=(8, 3, 7, 7))
    assert [axes.get_ylabel() for axes in figures.draw_kernels(weights, 2).axes] == ["GPU 1", "GPU 2"]
    assert [axes.get_ylabel() for axes in figures.draw_kernels(weights, 1).axes] == [""]


def example(correct: str, *guesses: tuple[str, float]) -> Example:
    return Example(np.zeros((32, 32, 3), np.uint8), "a.png", correct, guesses)


def test_the_correct_class_has_the_red_bar() -> None:
    shown = [example("cat", ("dog", 0.6), ("cat", 0.3), ("cow", 0.1)), example("owl", ("dog", 0.9), ("cat", 0.1))]
    figure = figures.draw_guesses(shown, DARK)
    first, second = figure.axes[1], figure.axes[3]
    assert [bar.get_width() for bar in first.patches] == [0.6, 0.3, 0.1]
    assert [to_hex(bar.get_facecolor()) for bar in first.patches] == [DARK.bar, DARK.correct_bar, DARK.bar]
    assert DARK.correct_bar not in [to_hex(bar.get_facecolor()) for bar in second.patches]
    assert [text.get_text() for text in first.texts] == ["dog", "cat", "cow"]
    assert figure.axes[0].get_xlabel() == "cat"


def test_any_name_can_be_drawn() -> None:
    names = ["$x_", "猫", "<b>&", "кошка", "a name much too long to be written whole in a figure"]
    figure = figures.draw_guesses([example(name, (name, 1.0)) for name in names], LIGHT)
    assert figures.to_png(figure).startswith(b"\x89PNG")
    assert [axes.get_xlabel() for axes in figure.axes[::2]] == [*names[:4], "a name much too long to be …"]
