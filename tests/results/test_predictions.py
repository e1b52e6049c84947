"""Files of predictions, their averages and the choice of weights, and the contest's file."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_net, write_store
from PIL import Image

from alexnet.cli import main
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe
from alexnet.results import submission as contest
from alexnet.results.classifier import Classifier
from alexnet.results.evaluate import evaluate
from alexnet.results.predictions import Predictions, average, mixture_weights
from alexnet.training.checkpoint import load_best
from alexnet.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with validation and test pictures."""
    return write_store(tmp_path_factory.mktemp("stores") / "drawn", train=40, val=30, test=20)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> list[Path]:
    """Two short trainings with different seeds."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = Recipe(net=small_net(), store_size=32, batch_size=10, schedule="cosine", epochs=2)
    for seed in (0, 1):
        train(pictures, folder / str(seed), replace(recipe, seed=seed), progress=False)
    return [folder / "0", folder / "1"]


def test_saved_predictions_are_averaged_like_runs(runs: list[Path], pictures: Path, tmp_path: Path) -> None:
    for views in (1, 10):
        files = [tmp_path / f"{views}-{n}" for n in (0, 1)]
        for run, file in zip(runs, files, strict=True):
            evaluate(run, pictures, views=views, save=file)
        direct = evaluate(runs, pictures, views=views)
        for mixed in (files, [files[0], runs[1]]):
            assert evaluate(mixed, pictures, views=views) == direct | {"runs": [str(name) for name in mixed]}
        evaluate(files, pictures, views=views, save=tmp_path / f"both-{views}")  # an average can be saved, too
        assert evaluate(tmp_path / f"both-{views}", pictures, views=views)["log_prob"] == direct["log_prob"]
        assert Predictions.load(tmp_path / f"both-{views}").nets == tuple(str(run) for run in runs)
    # A file of two nets counts twice as much as a third net.
    three = evaluate([tmp_path / "both-1", runs[0]], pictures, views=1, save=tmp_path / "three")
    averaged = Predictions.load(tmp_path / "three").probabilities["val"]
    single = [Predictions.load(tmp_path / f"1-{n}").probabilities["val"] for n in (0, 1)]
    assert torch.allclose(averaged, (2 * single[0] + single[1]) / 3, atol=1e-6)
    assert three["images"] == 30


def test_views_split_and_number_of_nets_are_those_of_a_file(
    runs: list[Path], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    evaluate(runs, pictures, views=1, split="test", save=first)
    evaluate(runs[0], pictures, split="test", save=second)
    assert evaluate(first, pictures) == evaluate(runs, pictures, views=1, split="test") | {"runs": [str(first)]}
    with pytest.raises(ValueError, match=r"runs must have the same number of views; .*first has 1, .*second 10: use "):
        evaluate([first, second], pictures)
    evaluate(first, pictures, save=tmp_path / "again")
    command = ["evaluate", str(first), str(tmp_path / "again"), str(pictures)]
    assert main(command) == 0
    line = "20 test pictures, 4 nets, their predictions averaged, one view:\n"
    assert line in capsys.readouterr().out
    assert main(["evaluate", str(runs[0]), str(pictures)]) == 0
    assert "30 validation pictures, 10 views (the default; --views for another number):\n" in capsys.readouterr().out
    assert evaluate([second, runs[1]], pictures, split="test")["views"] == 10


def test_the_default_of_views_is_that_of_the_classifier(runs: list[Path], pictures: Path, tmp_path: Path) -> None:
    assert Classifier.load(runs[0]).default_views == 10
    assert evaluate(runs[0], pictures) == evaluate(runs[0], pictures, views=10)
    recipe = replace(load_best(runs[0]).recipe, net=replace(small_net(), image_size=32), epochs=1)
    train(pictures, tmp_path / "full", recipe, progress=False)
    assert Classifier.load(tmp_path / "full").default_views == evaluate(tmp_path / "full", pictures)["views"] == 1


def test_no_other_mixture_weights_are_better() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [(3 * torch.randn(300, 4, generator=generator)).softmax(1) for _ in range(3)]
    labels = torch.multinomial(0.6 * parts[0] + 0.4 * parts[1], 1, generator=generator)[:, 0]
    weights = mixture_weights(parts, labels)
    assert float(weights.sum()) == pytest.approx(1)
    assert weights.tolist() == pytest.approx([0.6, 0.4, 0.0], abs=0.15)

    def mean_log_probability(weights: torch.Tensor) -> float:  # the weights need not sum to 1
        return float(average(parts, weights / weights.sum()).double().gather(1, labels[:, None]).log().mean())

    best = mean_log_probability(weights)
    for _ in range(50):  # no small change of the weights is better
        other = (weights + 0.03 * torch.randn(3, generator=generator, dtype=torch.float64)).clamp_min(0)
        assert mean_log_probability(other) <= best + 1e-6


def test_weights_are_chosen_on_one_split_and_evaluated_on_another(
    runs: list[Path], pictures: Path, tmp_path: Path
) -> None:
    result = evaluate(runs, pictures, split="test", weights_on="val", save=tmp_path / "saved")
    store = Store(pictures)
    for split in ("val", "test"):
        for n, run in enumerate(runs):
            evaluate(run, pictures, split=split, save=tmp_path / f"{split}{n}")
    on_val = [Predictions.load(tmp_path / f"val{n}").probabilities["val"] for n in (0, 1)]
    on_test = [Predictions.load(tmp_path / f"test{n}").probabilities["test"] for n in (0, 1)]
    weights = mixture_weights(on_val, torch.from_numpy(store.split("val").labels))
    assert result["weights"] == weights.tolist()
    correct = average(on_test, weights).gather(1, torch.from_numpy(store.split("test").labels)[:, None])
    assert result["log_prob"] == pytest.approx(float(-correct.log().mean()), rel=1e-5)
    assert sorted(Predictions.load(tmp_path / "saved").probabilities) == ["test", "val"]


def test_predictions_that_do_not_fit_are_refused(runs: list[Path], pictures: Path, store: Path, tmp_path: Path) -> None:
    evaluate(runs[0], pictures, views=1, save=tmp_path / "saved")
    for arguments, message in (
        ({"store": store}, "it is for others: save"),
        ({"split": "test"}, "must contain predictions for 'test'; it has val: save them with `split='test'`$"),
        (
            {"split": "val", "weights_on": "test"},
            "must contain predictions for 'test'; it has val: save them with `split='val'` and `weights_on='test'`$",
        ),
        ({"views": 10}, "must be from 10 views, as asked for; it is from one view: use `views=1`"),
        ({"weights_on": "val"}, "weights_on must be another split than the one that is evaluated; got 'val' for both"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(tmp_path / "saved", **({"store": pictures} | arguments))  # type: ignore[arg-type]
    other = replace(Predictions.load(tmp_path / "saved"), classes=("a", "b", "c"))
    other.save(tmp_path / "other")
    with pytest.raises(ValueError, match="must have the classes of store"):
        evaluate(tmp_path / "other", pictures)
    predictions = Predictions.load(tmp_path / "saved")
    predictions.probabilities["val"][0, 0] = torch.nan
    predictions.save(tmp_path / "nan")
    with pytest.raises(ValueError, match="not all of its probabilities are finite numbers"):
        evaluate(tmp_path / "nan", pictures)
    with pytest.raises(FileNotFoundError, match=r"no such folder .*: create it first"):
        evaluate(tmp_path / "saved", pictures, save=tmp_path / "nowhere" / "saved")
    (tmp_path / "text").write_text("not predictions")
    with pytest.raises(ValueError, match="must contain predictions that `alexnet evaluate` has saved"):
        evaluate(tmp_path / "text", pictures)
    (tmp_path / "cut").write_bytes((tmp_path / "saved").read_bytes()[:-5])
    with pytest.raises(ValueError, match="must contain predictions"):
        evaluate(tmp_path / "cut", pictures)
    for name in ("text", "cut"):  # neither is one of ours any more
        with pytest.raises(FileExistsError, match=r"is not a file of predictions .*: it is not replaced"):
            predictions.save(tmp_path / name, force=True)
    with pytest.raises(ValueError, match="must contain predictions"):  # a checkpoint does not
        evaluate(next((runs[0] / "checkpoints").iterdir()), pictures)


def test_the_command_prints_the_weights(runs: list[Path], pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(run) for run in runs]
    assert main(["evaluate", *names, str(pictures), "--split", "test", "--weights-on", "val"]) == 0
    assert capsys.readouterr().out.startswith("weights chosen on val: 0.")
    assert main(["evaluate", *names, str(pictures), "--split", "test", "--weights-on", "val", "--json"]) == 0
    assert sum(json.loads(capsys.readouterr().out)["weights"]) == pytest.approx(1)


# ---- The contest's file ---------------------------------------------------------------------------------------------


@pytest.fixture
def contest_pictures(pictures: Path, tmp_path: Path) -> Path:
    """A folder of twelve numbered test pictures, and a file that is not a picture."""
    folder, split = tmp_path / "test", Store(pictures).split("test")
    folder.mkdir()
    for n in range(12):
        Image.fromarray(split.image(n)).save(folder / f"ILSVRC2012_test_{n + 1:08d}.JPEG", quality=100)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_a_submission_has_the_contest_s_numbers_of_the_averaged_guesses(
    runs: list[Path], contest_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest, "GUESSES", 3)  # there are three classes
    monkeypatch.setattr(contest, "BATCH", 5)
    classes = load_best(runs[0]).classes
    numbers = {classes[2]: 1, "another": 2, classes[0]: 3, classes[1]: 4}
    # The first word of a line names the class, as in the devkit; the names of these classes have two.
    checkpoints = [replace(load_best(run), classes=tuple(c.split()[0] for c in classes)) for run in runs]
    monkeypatch.setattr(contest, "load_best", lambda run: checkpoints[runs.index(run)])
    (tmp_path / "ids.txt").write_text("".join(f"{name}\n" for name in numbers))
    assert contest.write_submission(runs, contest_pictures, tmp_path / "out.txt", tmp_path / "ids.txt") == 12
    lines = [list(map(int, line.split())) for line in (tmp_path / "out.txt").read_text().splitlines()]
    monkeypatch.undo()
    for n, line in enumerate(lines):
        file = contest_pictures / f"ILSVRC2012_test_{n + 1:08d}.JPEG"
        probabilities = [dict(Classifier.load(run).predict(file)) for run in runs]
        expected = sorted(classes, key=lambda name: -sum(chance[name] for chance in probabilities))
        assert line == [numbers[name] for name in expected]


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("gap", "numbered from 1 without a gap; number 3 is missing"),
        ("empty", "it has none"),
        ("ids", "'discs' is missing"),
        ("text", "not a readable picture"),
        ("few", "at least 5 classes, since so many are guessed; got 3"),
    ],
)
def test_a_submission_that_cannot_be_made_is_refused(
    problem: str,
    message: str,
    runs: list[Path],
    contest_pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if problem != "few":
        monkeypatch.setattr(contest, "GUESSES", 3)
    checkpoint = replace(load_best(runs[0]), classes=("stripes", "squares", "discs"))
    monkeypatch.setattr(contest, "load_best", lambda _: checkpoint)
    (tmp_path / "ids.txt").write_text("stripes\nsquares\n" + ("discs\n" if problem != "ids" else ""))
    third = contest_pictures / "ILSVRC2012_test_00000003.JPEG"
    if problem == "gap":
        third.unlink()
    if problem == "text":
        third.write_text("not a picture")
    if problem == "empty":
        for path in contest_pictures.glob("*.JPEG"):
            path.unlink()
    with pytest.raises(ValueError, match=message):
        contest.write_submission(runs[:1], contest_pictures, tmp_path / "out.txt", tmp_path / "ids.txt")
    assert not (tmp_path / "out.txt").exists()
    assert np.array_equal(sorted(p.name for p in tmp_path.iterdir()), ["ids.txt", "test"])


def test_a_submission_replaces_nothing_but_a_submission(
    runs: list[Path], contest_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest, "GUESSES", 3)
    checkpoint = replace(load_best(runs[0]), classes=("stripes", "squares", "discs"))
    monkeypatch.setattr(contest, "load_best", lambda _: checkpoint)
    (tmp_path / "ids.txt").write_text("stripes\nsquares\ndiscs\n")
    arguments = (runs[:1], contest_pictures, tmp_path / "out.txt", tmp_path / "ids.txt")
    contest.write_submission(*arguments)
    first = (tmp_path / "out.txt").read_bytes()
    with pytest.raises(FileExistsError, match=r"out\.txt exists: replace it with `force=True`, or name another file"):
        contest.write_submission(*arguments)
    assert contest.write_submission(*arguments, force=True) == 12
    assert (tmp_path / "out.txt").read_bytes() == first
    for contents in (b"", b"1 2 3\nsome notes\n", first + b"\n", b"\xff\xd8\xff" + bytes(300)):
        (tmp_path / "out.txt").write_bytes(contents)
        with pytest.raises(FileExistsError, match="exists and is not a file of guesses written by `alexnet submit`"):
            contest.write_submission(*arguments, force=True)
        assert (tmp_path / "out.txt").read_bytes() == contents
