"""The figures of a run."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from metrics_lines import START, epoch, step, write_run
from PIL import Image

from alexnet.recipe import Change, Recipe
from alexnet.results import figures, fonts
from alexnet.results.examples import Example
from alexnet.results.figures import DARK, LIGHT
from alexnet.results.run_history import RunHistory
from alexnet.training.schedule import make_schedule


def plotted_lines(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    """Return the lines of a figure's first axes, by their labels."""
    lines = figure.axes[0].get_lines()
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in lines}


def test_the_curves_show_the_metrics(tmp_path: Path) -> None:
    history = RunHistory.read(write_run(tmp_path, START, step(6), epoch(1), step(18), epoch(2)))
    error = plotted_lines(figures.draw_curve("error", history))
    assert error["training"] == ([0.5, 1.5], [0.9, 0.45])  # means over an epoch, at its middle
    assert error["validation"] == ([1, 2], [0.8, 0.4])
    assert error["validation, top-5"] == ([1, 2], [0.2, 0.2])
    loss = plotted_lines(figures.draw_curve("loss", history))
    assert ([0.5, 1.5], [0.5, 3.0 / 18]) in loss.values()  # by the steps: 12 in an epoch
    assert loss["training"] == ([0.5, 1.5], [2.0, 1.0])
    assert loss["validation"] == ([1, 2], [1.9, 1.9])
    assert loss["training, every 6 steps"][1] == [0.5, 3.0 / 18]
    rate = figures.draw_curve("rate", history).axes[0]
    assert rate.get_yscale() == "log"
    assert set(rate.get_lines()[0].get_ydata()) == {0.01}


@pytest.mark.parametrize("schedule", ["plateau", "changes", "cosine", "fold"])
def test_the_learning_rate_is_drawn_with_its_warm_up_and_without_lines_of_steps(tmp_path: Path, schedule: str) -> None:
    warmup = 0 if schedule == "fold" else 0.5
    changes = (Change(epoch=2, learning_rate=0.001),) if schedule == "changes" else ()
    recipe = Recipe(batch_size=10, epochs=4, warmup=warmup, schedule=schedule, changes=changes, patience=1)
    run = write_run(tmp_path, START, *(epoch(n, val_top1_error=0.5) for n in range(1, 5)))
    (run / "recipe.json").write_text(recipe.to_json())
    points = dict(RunHistory.read(run).learning_rates())
    if warmup:
        assert points[0.1] < 0.3 * points[0.5]
    expected = make_schedule(recipe)
    for number in range(4):
        assert points[number + 0.9] == pytest.approx(expected.rates_at(number, 0.9).highest)
        expected.observe(number + 1, 0.5)
    assert (points[3.9] < points[0.9]) == (schedule != "fold")


def test_the_rates_drawn_are_those_of_the_training(uninterrupted: Path) -> None:
    history = RunHistory.read(uninterrupted)
    drawn = [rate for _, rate in history.learning_rates()]
    assert len(drawn) == 15  # steps
    for line in (*history.steps, *history.epochs):
        assert drawn[line["step"] - 1] == pytest.approx(line["rate"])


def test_errors_on_test_pictures_are_not_called_validation_errors(tmp_path: Path) -> None:
    first, second = epoch(1, split="val", images=9), epoch(2, split="test", images=7)
    folded = plotted_lines(figures.draw_curve("error", RunHistory.read(write_run(tmp_path, START, first, second))))
    assert list(folded) == ["training", "validation", "test", "validation, top-5", "test, top-5"]
    assert (folded["validation"], folded["test"]) == (([1], [0.8]), ([2], [0.4]))
    earlier = START | {"validation_split": "test"}  # earlier versions wrote the split at the start only
    history = RunHistory.read(write_run(tmp_path, earlier, epoch(1)))
    assert list(plotted_lines(figures.draw_curve("error", history))) == ["training", "test", "test, top-5"]


def test_there_is_no_top5_curve_for_few_classes(tmp_path: Path) -> None:
    history = RunHistory.read(write_run(tmp_path, START | {"classes": 5}, epoch(1)))
    assert list(plotted_lines(figures.draw_curve("error", history))) == ["training", "validation"]


@pytest.mark.parametrize("lines", [(), (step(5),), (epoch(1),), (epoch(1, rate=0.0), step(14, rate=0.0))])
def test_curves_of_a_training_that_has_just_begun(tmp_path: Path, lines: tuple[dict[str, Any], ...]) -> None:
    figure = figures.draw_curves(RunHistory.read(write_run(tmp_path, START, *lines)))
    image = Image.open(io.BytesIO(figures.to_png(figure)))
    assert image.format == "PNG"
    assert image.width > 3 * image.height


def test_kernels_are_grouped_by_tower_and_scaled_to_their_own_range() -> None:
    weights = np.random.default_rng(0).normal(size=(40, 3, 5, 5)).astype(np.float32)
    tiles = figures.kernel_tiles(weights * np.arange(1, 41)[:, None, None, None], 2)
    assert [block.shape for block in tiles] == [(11, 95, 4)] * 2  # twenty kernels: a row of sixteen, a row of four
    kernel = weights[20 + 17].transpose(1, 2, 0)  # the eighteenth of the second tower: second row, second column
    expected = np.round(255 * (kernel - kernel.min()) / (kernel.max() - kernel.min()))
    assert np.abs(tiles[1][6:11, 6:11, :3] - expected).max() <= 1
    assert (tiles[1][6:11, 6:11, 3] == 255).all()
    assert (tiles[0][5] == 0).all()  # transparent between the rows,
    assert (tiles[0][:, 5] == 0).all()  # the columns,
    assert (tiles[0][6:, 24:] == 0).all()  # and where there is no kernel


def test_a_kernel_with_equal_weights_can_be_drawn() -> None:
    (block,) = figures.kernel_tiles(np.full((1, 3, 2, 2), 7.0), 1)
    assert (block == [0, 0, 0, 255]).all()


def test_towers_are_labelled_as_the_papers_gpus() -> None:
    weights = np.random.default_rng(0).normal(size=(8, 3, 7, 7))
    assert [axes.get_ylabel() for axes in figures.draw_kernels(weights, 2).axes] == ["GPU 1", "GPU 2"]
    assert [axes.get_ylabel() for axes in figures.draw_kernels(weights, 1).axes] == [""]


def make_example(correct: str, *guesses: tuple[str, float]) -> Example:
    return Example(np.zeros((32, 32, 3), np.uint8), "a.png", correct, guesses)


def test_the_correct_class_has_the_red_bar() -> None:
    shown = [
        make_example("cat", ("dog", 0.6), ("cat", 0.3), ("cow", 0.1)),
        make_example("owl", ("dog", 0.9), ("cat", 0.1)),
    ]
    figure = figures.draw_guesses(shown, DARK)
    first, second = figure.axes[1], figure.axes[3]
    assert [bar.get_width() for bar in first.patches] == [0.6, 0.3, 0.1]
    assert [to_hex(bar.get_facecolor()) for bar in first.patches] == [DARK.bar, DARK.correct_bar, DARK.bar]
    assert DARK.correct_bar not in [to_hex(bar.get_facecolor()) for bar in second.patches]
    assert [text.get_text() for text in first.texts] == ["dog", "cat", "cow"]
    assert figure.axes[0].get_xlabel() == "cat"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("n02814860 beacon", "beacon"),
        ("n02814860", "n02814860"),
        ("n0281 x", "n0281 x"),
        ("n02814860 beacon, lighthouse, beacon light, pharos", "beacon, lighthouse, beacon …"),
        ("a" * 28, "a" * 28),
    ],
)
def test_a_class_is_shown_by_its_words(name: str, shown: str) -> None:
    assert figures.shorten_name(name) == shown


def test_any_name_can_be_drawn() -> None:
    names = ["$x_", "猫", "<b>&", "кошка", "a name much too long to be written in full in a figure"]
    figure = figures.draw_guesses([make_example(name, (name, 1.0)) for name in names], LIGHT)
    assert figures.to_png(figure).startswith(b"\x89PNG")  # a missing letter would be a warning, which is an error here
    labels = [axes.get_xlabel() for axes in figure.axes[::2]]
    assert labels[1] in ("猫", "U+732B")  # whether this machine has a Chinese font
    assert [labels[0], *labels[2:]] == ["$x_", "<b>&", "кошка", "a name much too long to be …"]


def test_letters_that_no_font_has_are_named_by_their_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    letters = {"DejaVu Sans": {ord("a")}, "Many Scripts": {ord("猫")}}
    monkeypatch.setattr(fonts, "letters_of", lambda family: frozenset(letters.get(family, ())))
    monkeypatch.setattr(fonts, "font_files", lambda: {"Many Scripts": "a file"})
    for function in (fonts.find_fonts, fonts.print_note):
        function.cache_clear()
    text = Text()
    try:
        for name, shown in (("a", "a"), ("猫 a", "猫 a"), ("犬a", "U+72AC a"), ("犬", "U+72AC")):
            fonts.set_name(text, name)
            assert text.get_text() == shown
            assert text.get_fontfamily() == ["DejaVu Sans", *(["Many Scripts"] if "猫" in name else [])]
    finally:
        fonts.find_fonts.cache_clear()
    assert capsys.readouterr().err.count("note: figures show U+... for letters of class names") == 1
