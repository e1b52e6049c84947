"""`alexnet check` and `alexnet look`: what is wrong with pictures, and how they look."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSES, draw_pictures, small_recipe
from PIL import Image
from test_report import Page

from alexnet.cli.main import main
from alexnet.data.prepare.prepare import prepare
from alexnet.data.store.store import Store
from alexnet.results.check_report import check_to_json, check_to_text, render_check
from alexnet.results.contact_sheets import draw_augmentation, draw_classes
from alexnet.results.mislabelled import Guesses, find_mislabelled
from alexnet.results.picture_check import PictureCheck, check_pictures
from alexnet.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = small_recipe()


def check(location: Path, run: Path | None = None) -> PictureCheck:
    """Check pictures for the small recipe."""
    return check_pictures(location, run, recipe=RECIPE, recipe_name="small", progress=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 pictures in three classes, one of them twice and one in two classes, and two files that are no pictures."""
    root = tmp_path_factory.mktemp("check") / "shapes"
    for number, (picture, label) in enumerate(zip(*draw_pictures(48, 40), strict=True)):
        path = root / CLASSES[label] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture if number else picture[:20]).save(path)
    shutil.copy(root / CLASSES[0] / "03.png", root / CLASSES[0] / "again.png")
    shutil.copy(root / CLASSES[1] / "04.png", root / CLASSES[2] / "other.png")
    (root / CLASSES[0] / "text.jpg").write_text("no picture")
    (root / CLASSES[0] / "notes.txt").touch()
    return root


@pytest.fixture(scope="module")
def run(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """A run that has learned to tell the three classes, on other pictures."""
    folder = tmp_path_factory.mktemp("run")
    for number, (picture, label) in enumerate(zip(*draw_pictures(240, 40, seed=3), strict=True)):
        path = folder / "pictures" / CLASSES[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    plain = {name: replace(getattr(RECIPE.net, name), dropout=0.0) for name in ("fc6", "fc7")}
    recipe = replace(RECIPE, net=replace(RECIPE.net, **plain), epochs=8, learning_rate=0.03, batch_size=8)
    assert train(folder / "pictures", folder / "run", recipe, progress=False).finished
    return folder / "run"


def test_counts_odd_files_and_duplicates_of_a_source(pictures: Path) -> None:
    result = check(pictures)
    values = check_to_json(result)
    assert values["images"] == 50
    assert values["splits_are_drawn"]
    assert {entry["class"]: entry["train"] + entry["val"] for entry in values["classes"]} == dict(
        zip(CLASSES, (17, 16, 17), strict=True)
    )
    assert values["imbalance"] == pytest.approx(17 / 16)
    assert [entry["image"] for entry in values["unreadable"]] == [f"{CLASSES[0]}/text.jpg"]
    assert values["ignored"] == {".txt": 1}
    assert values["sizes"] == {
        "smallest": [40, 20], "median": [40, 40], "largest": [40, 40], "enlarged": 1, "elongated": 0,
    }  # fmt: skip
    groups = {tuple(sorted(entry["image"] for entry in group)) for group in values["duplicates"]}
    assert groups == {
        (f"{CLASSES[0]}/03.png", f"{CLASSES[0]}/again.png"),
        (f"{CLASSES[1]}/04.png", f"{CLASSES[2]}/other.png"),
    }
    assert values["duplicate_images"] == 2
    assert values["duplicates_across_classes"] == 1
    assert values["shared"] == {}
    assert values["mislabelled"] is None
    assert values["prepare"]["raw_bytes"] == 51 * 32 * 32 * 3
    assert values["train"]["recipe"] == "small"
    text = check_to_text(result)
    assert "1 unreadable file:\n  blue stripes/text.jpg: " in text
    assert "1 of them in several classes: one label must be wrong" in text
    assert "`alexnet prepare` keeps all pictures of a photograph in one split" in text


def test_a_store_says_what_its_splits_share(pictures: Path, tmp_path: Path) -> None:
    for split, numbers in (("train", range(30)), ("val", range(27, 40))):
        for path in pictures.rglob("[0-9]*.png"):
            if int(path.stem) in numbers:
                target = tmp_path / "own" / split / path.parent.name
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    prepare(tmp_path / "own", tmp_path / "store", size=32, progress=False)
    values = check_to_json(result := check(tmp_path / "store"))
    assert values["shared"] == check_to_json(check(tmp_path / "own"))["shared"] == {"val": 3}
    assert values["sizes"] is None
    assert values["prepare"] is None
    assert "3 pictures of val with a photograph of an earlier split: its error will be too low" in check_to_text(result)


def test_swapped_labels_are_found(pictures: Path, run: Path) -> None:
    values = check_to_json(check(pictures, run))
    assert [entry["image"] for entry in values["mislabelled"]] == [f"{CLASSES[2]}/other.png"]
    (entry,) = values["mislabelled"]
    assert (entry["class"], entry["guess"]) == (CLASSES[2], CLASSES[1])
    assert entry["guess_probability"] > 0.5 > entry["probability"]


def test_the_rule_for_mislabelled_pictures() -> None:
    probabilities = np.array([[0.9, 0.1], [0.02, 0.98], [0.019, 0.981], [0.0, 1.0], [0.995, 0.005]], np.float32)
    labels = np.array([0, 0, 0, 0, 1])
    # The guess is 49, 51.6, infinitely and 199 times as probable as the label.
    assert find_mislabelled(Guesses.from_probabilities(probabilities, labels)).tolist() == [3, 4, 2]


def test_a_run_of_other_classes_is_refused(run: Path, tmp_path: Path) -> None:
    for name in ("zebra", "red disc"):
        (tmp_path / "other" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "other" / name / "1.png")
        Image.new("RGB", (8, 8), "red").save(tmp_path / "other" / name / "2.png")
    with pytest.raises(ValueError, match=r"other: its classes must be among the run's 3; got 'zebra': leave `run` out"):
        check(tmp_path / "other", run)


def test_the_page_shows_the_pictures(pictures: Path, run: Path) -> None:
    html = render_check(check(pictures, run))
    page = Page(html)
    assert page.open == []
    assert all(address.startswith("data:") for address in page.addresses)  # nothing is loaded from elsewhere
    assert html.count('src="data:image/png;base64,') == 4 + 1  # two photographs twice, and the suspect label
    assert "labelled <b>red disc</b>" in html
    assert "text.jpg" in html


def test_the_commands(pictures: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "check.html"
    assert main(["check", str(pictures), "--run", str(run), "--json", "--html", str(page)]) == 0
    assert json.loads(capsys.readouterr().out)["duplicate_images"] == 2
    assert main(["check", str(pictures), "--run", str(run), "--html", str(page)]) == 2
    assert "replace it with --force" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "nothing")]) == 2
    settings = ["--recipe", "tiny", "--set", "store_size=32", "--set", "net.image_size=28"]
    assert main(["look", str(pictures), "--folder", str(tmp_path / "look"), *settings]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "look" / f"{n}.png") for n in ("classes", "augmentation")]
    for name in ("classes", "augmentation"):
        with Image.open(tmp_path / "look" / f"{name}.png") as image:
            assert min(image.size) > 300


def shown(figure: Any) -> list[list[np.ndarray]]:
    """Return the pictures of each row of a contact sheet."""
    rows: dict[int, list[np.ndarray]] = {}
    for axes in figure.axes:
        if axes.images:
            rows.setdefault(axes.get_subplotspec().rowspan.start, []).append(np.asarray(axes.images[0].get_array()))
    return [rows[row] for row in sorted(rows)]


def test_the_contact_sheets_show_what_the_net_gets(store: Path) -> None:
    opened = Store(store)
    train_split = opened.split("train")
    stored = {train_split.image(index).tobytes() for index in range(len(train_split))}
    assert [len(row) for row in shown(draw_classes(opened))] == [10, 10, 10]
    assert all(picture.tobytes() in stored for row in shown(draw_classes(opened)) for picture in row)
    plain = replace(RECIPE, colour_deviation=0.0, crops="centre", reflect=False)
    for row in shown(draw_augmentation(opened, plain)):
        assert row[0].tobytes() in stored
        assert len(row) == 8
        for crop in row[1:]:  # with the mean activity of the centre added again
            assert np.abs(crop.astype(int) - row[0][4:28, 4:28]).max() <= 1
    rows = shown(draw_augmentation(opened, replace(RECIPE, colour_divisor=1.1)))
    assert len(rows) == 8
    assert all(len({crop.tobytes() for crop in row[1:]}) > 1 for row in rows)
