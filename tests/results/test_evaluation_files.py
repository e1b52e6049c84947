"""The tables of classes and pictures and the confusion matrix that `evaluate` writes, against plain computations."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSES, small_net, write_store
from PIL import Image

from alexnet.cli import main
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe
from alexnet.results.evaluate import evaluate
from alexnet.results.predictions import Predictions
from alexnet.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, a run of one epoch, and its predictions as a file."""
    folder = tmp_path_factory.mktemp("work")
    write_store(folder / "store", train=30, val=24, test=9)
    recipe = Recipe(net=small_net(), store_size=32, batch_size=10, schedule="cosine", epochs=1)
    train(folder / "store", folder / "run", recipe, progress=False)
    evaluate(folder / "run", folder / "store", save=folder / "saved")
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def refused(capsys: pytest.CaptureFixture[str], work: Path, *options: object) -> str:
    """Run `evaluate`, which must end with status 2 and one line; return this line."""
    capsys.readouterr()
    assert main(["evaluate", str(work / "saved"), str(work / "store"), *map(str, options)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_the_table_of_pictures_has_the_five_guesses(work: Path, tmp_path: Path) -> None:
    result = evaluate(work / "saved", work / "store", predictions=tmp_path / "pictures.csv")
    split = Store(work / "store").split("val")
    probabilities = Predictions.load(work / "saved").probabilities["val"].numpy()
    rows = read_csv(tmp_path / "pictures.csv")
    assert list(rows[0]) == [
        "image", "class", "guess1", "probability1", "guess2", "probability2", "guess3", "probability3",
    ]  # fmt: skip
    assert len(rows) == len(result["predictions"]) == 24
    for index, (row, entry) in enumerate(zip(rows, result["predictions"], strict=True)):
        order = sorted(range(3), key=lambda label: -probabilities[index, label])
        assert row["image"] == entry["image"] == split.picture_name(index)
        assert row["class"] == entry["class"] == CLASSES[split.labels[index]]
        assert [row[f"guess{n}"] for n in (1, 2, 3)] == [CLASSES[label] for label in order]
        assert [p["class"] for p in entry["predictions"]] == [CLASSES[label] for label in order]
        for n, label in enumerate(order, 1):
            assert float(row[f"probability{n}"]) == pytest.approx(probabilities[index, label], rel=1e-5)
    wrong = np.mean([row["guess1"] != row["class"] for row in rows])
    assert wrong == pytest.approx(result["top1_error"])


def test_the_table_of_classes_and_the_matrix_agree_with_the_pictures(work: Path, tmp_path: Path) -> None:
    names: dict[str, Any] = {"per_class": tmp_path / "classes.csv", "confusion": tmp_path / "matrix.csv"}
    result = evaluate(work / "saved", work / "store", predictions="-", **names)
    pairs = [(row["class"], row["predictions"][0]["class"]) for row in result["predictions"]]
    rows = read_csv(tmp_path / "classes.csv")
    assert [row["class"] for row in rows] == list(CLASSES)
    for row, entry in zip(rows, result["per_class"], strict=True):
        name = row["class"]
        support, predicted = sum(label == name for label, _ in pairs), sum(guess == name for _, guess in pairs)
        correct = pairs.count((name, name))
        assert int(row["support"]) == entry["support"] == support
        assert entry["recall"] == pytest.approx(correct / support)
        assert entry["precision"] == (pytest.approx(correct / predicted) if predicted else None)
        assert row["precision"] == ("" if entry["precision"] is None else str(entry["precision"]))
        assert entry["f1"] == pytest.approx(2 * correct / (support + predicted))
        if entry["taken_for"]:
            assert pairs.count((name, entry["taken_for"])) == entry["taken_for_images"] > 0
    matrix = read_csv(tmp_path / "matrix.csv")
    assert list(matrix[0]) == ["class \\ taken for", *CLASSES]
    assert result["classes"] == list(CLASSES)
    for row, counts in zip(matrix, result["confusion"], strict=True):
        label = row.pop("class \\ taken for")
        assert [int(count) for count in row.values()] == counts == [pairs.count((label, guess)) for guess in CLASSES]


def test_the_matrix_as_a_picture(work: Path, tmp_path: Path) -> None:
    evaluate(work / "saved", work / "store", confusion=tmp_path / "matrix.png")
    with Image.open(tmp_path / "matrix.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
    evaluate(work / "saved", work / "store", confusion=tmp_path / "matrix.png", force=True)  # it is known as ours


def test_json_has_the_tables_without_files(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["--per-class", "-", "--predictions", "-", "--confusion", "-"]
    assert main(["evaluate", str(work / "saved"), str(work / "store"), *names, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    lengths = {name: len(result[name]) for name in ("per_class", "predictions", "confusion", "calibration_bins")}
    assert lengths == {"per_class": 3, "predictions": 24, "confusion": 3, "calibration_bins": 15}
    assert list(tmp_path.iterdir()) == []
    assert "--per-class - must be given with --json; name a file, or add --json" in refused(
        capsys, work, "--per-class", "-"
    )


def test_no_other_file_is_replaced(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photograph = tmp_path / "photograph.jpg"
    Image.new("RGB", (8, 8)).save(photograph)
    table, picture = tmp_path / "table.csv", tmp_path / "picture.png"
    table.write_text("class,price\na,1\n")
    Image.new("RGB", (8, 8)).save(picture)
    checkpoint = next((work / "run" / "checkpoints").iterdir())
    files = [photograph, table, picture, checkpoint]
    before = [path.read_bytes() for path in files]
    for option, path, kind in (
        ("--save", photograph, "a file of predictions that `alexnet evaluate` has saved"),
        ("--save", checkpoint, "a file of predictions that `alexnet evaluate` has saved"),
        ("--per-class", table, "a table of classes written by alexnet"),
        ("--predictions", table, "a table of predictions written by alexnet"),
        ("--confusion", table, "a confusion matrix written by alexnet"),
        ("--confusion", picture, "a confusion matrix written by alexnet"),
    ):
        for force in ([], ["--force"]):
            message = refused(capsys, work, option, path, *force)
            assert message == f"alexnet: {path} exists and is not {kind}: it is not replaced; name another file\n"
    assert [path.read_bytes() for path in files] == before


def test_files_of_an_earlier_call_are_replaced_with_force(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"--save": "saved", "--per-class": "c.csv", "--predictions": "p.csv", "--confusion": "m.csv"}
    options = [text for option, name in names.items() for text in (option, str(tmp_path / name))]
    command = ["evaluate", str(work / "saved"), str(work / "store"), *options]
    assert main(command) == 0
    out = capsys.readouterr().out
    contents = {name: (tmp_path / name).read_bytes() for name in names.values()}
    assert all(str(tmp_path / name) in out for name in contents)
    for option, name in names.items():
        assert f"{name} exists: replace it with --force" in refused(capsys, work, option, tmp_path / name)
        (tmp_path / name).write_bytes(contents[name] + b"\n" * (name != "saved"))
    assert main([*command, "--force"]) == 0
    assert {name: (tmp_path / name).read_bytes() for name in names.values()} == contents
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(contents)


def test_names_that_cannot_be_written_are_refused_before_the_net_computes(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.results.evaluate.load_best", lambda _: pytest.fail("the net was loaded"))
    for options, message in (
        (("--per-class", tmp_path / "a.txt"), "must end in .csv, as a table of classes written by alexnet; got '.txt'"),
        (("--confusion", tmp_path / "a.jpg"), "must end in .csv or .png"),
        (("--predictions", tmp_path / "no" / "a.csv"), f"no such folder {tmp_path / 'no'}: create it first"),
        (("--per-class", tmp_path / "a.csv", "--confusion", tmp_path / "a.csv"), "the files to write must differ"),
        (("--save", tmp_path), "must be a file to write; it is a folder: name a file in it"),
        (("--force",), "--force must be given with a file to write"),
    ):
        assert message in refused(capsys, work, *options)
    with pytest.raises(SystemExit) as exit_info:
        main(["evaluate", str(work / "run"), str(work / "store"), "--save", "s3://bucket/saved"])
    assert exit_info.value.code == 2
    assert "s3://bucket/saved must be a path on this machine, not an address" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
