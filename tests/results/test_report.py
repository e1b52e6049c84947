"""The report: one self-contained page with the errors that `evaluate` measures; and the confusion matrix."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_pictures, small_net
from PIL import Image

from alexnet.data.prepare.prepare import prepare
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe
from alexnet.recipes import RECIPES, recipe_named
from alexnet.results import report, report_html
from alexnet.results.calibration import calibration_bins
from alexnet.results.evaluate import evaluate
from alexnet.results.examples import balanced_sample, confident_mistakes
from alexnet.results.report_html import ReportData, render_report
from alexnet.results.run_history import RunHistory
from alexnet.training.checkpoint import load_best
from alexnet.training.error_rates import ErrorRates
from alexnet.training.train import train
from alexnet.utils.console import format_duration

ODD_NAMES = ("<script>alert(1)<b>", 'a "quoted" & class', "猫")
RECIPE = Recipe(net=small_net(), store_size=32, batch_size=10, schedule="cosine", epochs=2)


class Page(HTMLParser):
    """The parts of a page: its text, the addresses in it, its tags, and those that are still open."""

    VOID = ("meta", "img", "source", "br", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags = "", []  # type: tuple[str, list[str]]
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "srcset", "href", "data")]
        self.text += " "
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data


@pytest.fixture(scope="module")
def odd_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of two epochs, and its store of three classes with odd names."""
    folder = tmp_path_factory.mktemp("odd")
    for number, (pixels, label) in enumerate(zip(*draw_pictures(60, 40), strict=True)):
        (folder / "pictures" / ODD_NAMES[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "pictures" / ODD_NAMES[label] / f"{number}.png")
    prepare(folder / "pictures", folder / "store", size=32, held_out=0.3, progress=False)
    train(folder / "store", folder / "run", RECIPE, progress=False)
    return folder / "run", folder / "store"


@pytest.fixture
def run(odd_run: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the run whose metrics a test may change; the checkpoints are the same files."""
    (tmp_path / "run").mkdir()
    for name in ("recipe.json", "metrics.jsonl"):
        (tmp_path / "run" / name).write_bytes((odd_run[0] / name).read_bytes())
    (tmp_path / "run" / "checkpoints").symlink_to(odd_run[0] / "checkpoints")
    return tmp_path / "run"


def test_the_page_is_self_contained_and_has_the_errors_that_evaluate_measures(odd_run: tuple[Path, Path]) -> None:
    path = report.report(*odd_run, progress=False)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert path == odd_run[0] / "report.html"
    assert len(html) < 3e6
    assert page.open == []
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert not {"link", "iframe", "object"} & set(page.tags)
    assert page.tags.count("script") == 1
    assert all(name in page.text for name in ODD_NAMES)
    one, ten = (evaluate(*odd_run, views=views) for views in (1, 10))
    low, high = ten["top1_interval"]
    assert (
        f"{100 * ten['top1_error']:.1f} % top-1 error ten views; 95 % interval {100 * low:.1f} to {100 * high:.1f} %"
    ) in page.text
    low, high = one["top1_interval"]
    assert f"{100 * one['top1_error']:.1f} % ({100 * low:.1f} to {100 * high:.1f}) with one view" in page.text
    low, high = ten["macro_interval"]
    macro_error = f"{100 * ten['macro_error']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    assert f"{macro_error} averaged over the classes" in page.text
    assert f"{ten['log_prob']:.3f} mean \N{MINUS SIGN}log p" in page.text
    assert "GPU 1" in page.text
    assert "GPU 2" in page.text
    assert "meaningless for 3 classes" in page.text
    assert "The epoch was chosen by the error on these same pictures" in page.text
    wrong = round(ten["top1_error"] * ten["images"])
    explained = html.split('<section class="explained">')[1].split("</section>")[0]
    captions = re.findall("<figcaption>.*, (right|wrong: it is .*)</figcaption>", explained)
    assert [caption == "right" for caption in captions] == [True] * min(3, ten["images"] - wrong) + [False] * min(
        3, wrong
    )
    assert explained.count("<img ") == 3 * len(captions)
    assert list(odd_run[0].glob(".*")) == []


def test_a_report_in_the_middle_of_a_training(run: Path, odd_run: tuple[Path, Path]) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:-2]) + "\n" + lines[-2][:30])  # the last one is "end"
    text = Page(report.report(run, odd_run[1], progress=False).read_text(encoding="utf-8")).text
    assert "Training has finished 1 of at most 2 epochs" in text


def test_a_report_before_the_end_of_the_first_epoch_and_on_the_training_pictures(
    run: Path, odd_run: tuple[Path, Path]
) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text(lines[0] + "\n")
    text = Page(report.report(run, odd_run[1], split="train", progress=False).read_text(encoding="utf-8")).text
    assert "all pictures of the split “train”" in text
    assert "The epoch was chosen" not in text
    assert "Training has finished 0 of at most 2 epochs" in text


def test_there_is_one_view_if_crops_are_as_large_as_the_pictures(store: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, net=replace(small_net(), image_size=32, towers=1), epochs=1)
    train(store, tmp_path / "run", recipe, progress=False)
    text = Page(report.report(tmp_path / "run", store, progress=False).read_text(encoding="utf-8")).text
    assert "ten views" not in text
    assert "GPU 1" not in text


def test_a_report_for_many_classes_and_without_a_convolution(odd_run: tuple[Path, Path]) -> None:
    classes = tuple(f"class {number}" for number in range(20))
    confusion = np.diag(np.arange(20))
    confusion[7, 3] = 5
    data = ReportData(
        run="r",
        history=RunHistory.read(odd_run[0]),
        checkpoint=replace(load_best(odd_run[0]), classes=classes),
        split="test",
        chosen_on_split=False,
        results={1: ErrorRates(195, 5 / 195, 0.0123, 0.5)},
        kernels=None,
        guesses=[],
        mistakes=[],
        explained=[],
        confusion=confusion,
        calibration=calibration_bins(np.eye(20)[:5], np.arange(5)),
    )
    text = Page(render_report(data)).text
    assert "2.6 % top-1 error one view; 95 % interval 1.1 to 5.9 %" in text
    assert "1.2 % top-5 error" in text
    assert "195 test pictures" in text
    assert "class 7 12 41.7 % 100.0 % 73.7 % class 3 (5 of 5)" in text
    assert "class 0 0 \N{EN DASH} \N{EN DASH} \N{EN DASH}" in text  # it has no pictures
    assert all(f" class {number} " in text for number in range(20))
    assert "class 7 class 3 5 of 12" in text
    assert "first layer" not in text


def test_figures_are_written_as_files(odd_run: tuple[Path, Path], tmp_path: Path) -> None:
    paths = report.write_figures(*odd_run, tmp_path / "new" / "figures")
    assert {path.name for path in paths} == {"curves.png", "kernels.png", "guesses.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_the_store_of_a_run_is_known_until_it_is_removed(run: Path, odd_run: tuple[Path, Path]) -> None:
    assert report.training_store(run).samefile(odd_run[1])
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    (run / "metrics.jsonl").write_text(json.dumps(first | {"store": "/nowhere"}) + "\n")
    with pytest.raises(FileNotFoundError, match=r"store /nowhere, .* name it with `store=STORE`"):
        report.training_store(run)


def test_a_store_of_other_classes_is_refused(odd_run: tuple[Path, Path], store: Path) -> None:
    with pytest.raises(ValueError, match="must have the same classes"):
        report.report(odd_run[0], store)


def test_a_balanced_sample_is_from_as_many_classes_as_possible() -> None:
    labels = np.array([0] * 50 + [1] * 3 + [2] * 2)
    chosen = balanced_sample(labels, 8, seed=0)
    assert sorted(labels[chosen[:3]]) == [0, 1, 2]
    assert np.bincount(labels[chosen]).tolist() == [3, 3, 2]
    assert len(set(chosen.tolist())) == 8
    assert (balanced_sample(labels, 8, seed=0) == chosen).all()
    assert len(balanced_sample(labels[:4], 8, seed=0)) == 4


def test_the_most_confident_mistakes_come_first() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55]])
    assert confident_mistakes(probabilities, np.array([0, 1, 0, 0]), 2).tolist() == [2, 1]
    assert confident_mistakes(probabilities, np.array([0, 0, 1, 1]), 2).tolist() == []


def test_a_page_runs_its_own_script_only(odd_run: tuple[Path, Path]) -> None:
    html = report.report(*odd_run, progress=False).read_text(encoding="utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_the_differences_from_the_paper_s_recipe_are_listed() -> None:
    assert report_html.differences_from_paper(recipe_named("alexnet-2012-paper")) == []
    assert report_html.differences_from_paper(Recipe(learning_rate=0.02)) == [("learning_rate", "0.01", "0.02")]
    differences = {
        field: (paper, value)
        for field, paper, value in report_html.differences_from_paper(recipe_named("cifar10-18pct"))
    }
    assert differences["net.conv1.maps"] == ("96", "32")
    assert differences["net.conv4"][1] == "none"
    assert differences["reflect"] == ("yes", "no")
    assert differences["decays"] == ("none", "conv1 0.004, conv2 0.004, conv3 0.004, fc8 1")
    assert "epoch 120" in differences["changes"][1]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_its_name_whatever_its_seed(name: str) -> None:
    recipe = recipe_named(name)
    assert report_html.recipe_name(replace(recipe, seed=7)) == name
    assert report_html.recipe_name(replace(recipe, momentum=0.5)) == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (125, "2 min 5 s"), (7290, "2 h 1 min"), (500_000, "5 d 18 h")]
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_small_pictures_are_exact_and_large_ones_are_compressed(odd_run: tuple[Path, Path]) -> None:
    exact = report_html.picture_uri(Store(odd_run[1]).validation().image(0))
    assert exact.startswith("data:image/png;base64,")
    large = report_html.picture_uri(np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8))
    assert large.startswith("data:image/jpeg;base64,")
