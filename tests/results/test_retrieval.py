"""The nearest pictures: exact search against NumPy, binary codes, the index, and the two commands."""

import json
import os
import re
import runpy
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_net
from PIL import Image

from alexnet.cli import main
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe
from alexnet.results import binary_codes, nearest_neighbours, retrieval
from alexnet.results.binary_codes import Autoencoder, train_autoencoder
from alexnet.results.classifier import Classifier
from alexnet.results.explanation import Explainer, draw_explanation
from alexnet.results.figures import to_png
from alexnet.results.retrieval import Features, Index, build_index, find_similar
from alexnet.training.checkpoint import load_best
from alexnet.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True, scope="module")
def _short_autoencoder_training() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(binary_codes, "STEPS", 40)
        yield


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training with an index."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(store, folder, Recipe(net=small_net(), store_size=32, batch_size=10, epochs=1), progress=False)
    build_index(folder, store, bits=64, progress=False)
    return folder


def draw_clusters(count: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw points around eight centres, as activities of eight classes would be, and return them with their labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 8
    centres = random.normal(0, 3, (8, width))
    return (centres[labels] + random.normal(0, 1, (count, width))).astype(np.float32), labels


def test_exact_search_finds_what_numpy_finds_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_neighbours, "BLOCK", 7)
    vectors, queries = (np.random.default_rng(n).normal(size=(m, 12)).astype(np.float32) for n, m in ((0, 40), (1, 5)))
    distances, indices = nearest_neighbours.nearest_neighbours(queries, nearest_neighbours.iter_blocks(vectors), 9)
    squared = ((queries[:, None].astype(float) - vectors[None]) ** 2).sum(2)
    assert (indices == squared.argsort(1)[:, :9]).all()
    assert np.allclose(distances, np.sqrt(np.sort(squared, 1)[:, :9]), rtol=1e-5)


def test_codes_of_the_same_class_are_nearer_than_others() -> None:
    activities, labels = draw_clusters(200, 24)
    net, fit = train_autoencoder(activities, 32, steps=150)
    bits = np.unpackbits(net.codes(activities), axis=1).astype(int)
    assert bits.shape == (200, 32)
    distance = (bits[:, None] != bits[None]).sum(2)
    same = labels[:, None] == labels[None]
    assert distance[same].mean() < 0.5 * distance[~same].mean()
    assert 0.5 < fit.explained < 1
    first, again, other = (train_autoencoder(activities, 32, steps=5, seed=seed)[0] for seed in (0, 0, 1))
    assert (first.codes(activities) == again.codes(activities)).all()
    assert (first.codes(activities) != other.codes(activities)).any()


def test_the_gradient_goes_through_the_sign_as_through_the_tanh() -> None:
    net = Autoencoder(6, 8)
    x = torch.randn(4, 6)
    soft = net.encoder(x).tanh()
    hard = soft.sign()
    decoded = net(x)
    assert torch.allclose(decoded, net.decoder(hard))
    decoded.square().sum().backward()
    through = torch.autograd.grad(net.decoder(hard.detach().requires_grad_()).square().sum(), net.decoder[0].weight)
    assert torch.allclose(net.decoder[0].weight.grad, through[0], atol=1e-5)
    assert net.encoder[0].weight.grad.abs().sum() > 0


def test_an_index_has_the_activities_in_the_store_s_order(run: Path, store: Path) -> None:
    index, split = Index(run / "index"), Store(store).split("train")
    features = Features(load_best(run))
    assert len(index) == len(split)
    activities = np.concatenate([features([split.image(i)]) for i in range(5)])
    assert np.allclose(index.activities[:5], activities, atol=1e-5)
    assert index.names[:5] == [split.picture_name(i) for i in range(5)]
    assert (index.labels == split.labels).all()
    assert index.codes.shape == (len(split), 8)
    # Each picture's nearest is itself, exactly and by codes.
    for by_codes in (False, True):
        distances, indices = index.search(index.activities[:5], 3, codes=by_codes)
        assert np.allclose(distances[:, 0], 0, atol=1e-2)
        assert (np.diff(distances, axis=1) >= 0).all()
        near = np.linalg.norm(index.activities[indices[:, 0]] - index.activities[:5], axis=1)
        assert np.allclose(near, 0, atol=1e-5)


def test_candidates_by_codes_are_ranked_by_exact_distance(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(run / "index")
    monkeypatch.setattr(nearest_neighbours, "CANDIDATES", len(index))  # all are candidates, so that none may be missed
    exact, ranked = (index.search(index.activities[:4] + 0.1, 6, codes=by_codes) for by_codes in (False, True))
    assert np.allclose(exact[0], ranked[0], rtol=1e-4, atol=1e-3)


def test_the_nearest_codes_have_the_fewest_different_bits() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (50, 2), dtype=np.uint8)
    indices = nearest_neighbours.nearest_codes(codes[:4], codes, 9)
    bits = np.unpackbits(codes, axis=1).astype(int)
    distances = (bits[:4, None] != bits).sum(2)
    assert np.array_equal(np.take_along_axis(distances, indices, 1), np.sort(distances, axis=1)[:, :9])


def test_similar_finds_a_picture_of_the_store(run: Path, store: Path, tmp_path: Path) -> None:
    split = Store(store).split("train")
    Image.fromarray(split.image(3)).save(tmp_path / "picture.png")
    (neighbours,) = find_similar(run, [tmp_path / "picture.png"], count=4)
    assert len(neighbours) == 4
    assert split.picture_name(3) in [neighbour.name for neighbour in neighbours if neighbour.distance < 1e-2]


def test_the_commands_build_an_index_and_search_it(
    run: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(Store(store).split("train").image(0)).save(tmp_path / "a.png")
    command = ["index", str(run), str(store), "--split", "val", "--bits", "16"]
    assert main(command) == 2  # `similar` would search among other pictures
    error = capsys.readouterr().err
    assert "is an index of split train of " in error
    assert "replace it by one of split val" in error
    assert "with --force, or rename its folder" in error
    assert main([*command, "--force"]) == 0
    assert "codes of 16 bits" in capsys.readouterr().out
    assert main(["similar", str(run), str(tmp_path / "a.png"), "--count", "2", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["image"] == str(tmp_path / "a.png")
    assert [set(neighbour) for neighbour in entry["similar"]] == [{"image", "class", "name", "label", "distance"}] * 2
    assert main(["similar", str(run), str(tmp_path / "a.png"), "--codes"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 6
    (tmp_path / "text.jpg").write_text("not a picture")  # reported; the search goes on with the others
    assert main(["similar", str(run), str(tmp_path / "text.jpg"), str(tmp_path / "a.png"), "--json"]) == 2
    output = capsys.readouterr()
    assert "text.jpg" in output.err
    bad, good = json.loads(output.out)
    assert "error" in bad
    assert len(good["similar"]) == 6
    assert main(["index", str(run), str(store), "--bits", "64", "--force"]) == 0  # as the other tests need it


def test_an_index_without_codes_is_searched_by_activities(
    run: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("index"))
    Image.fromarray(Store(store).split("train").image(0)).save(tmp_path / "a.png")
    with monkeypatch.context() as patch:
        patch.setattr(retrieval, "train_autoencoder", None)  # it is not trained
        assert main(["index", str(copy), str(store), "--no-codes"]) == 0
    output = capsys.readouterr()
    assert output.out.endswith("pictures; no codes\n")
    assert "steps" not in output.err
    assert {path.name for path in (copy / "index").iterdir()} == {
        "about.json",
        "activities.npy",
        "labels.npy",
        "names.json",
    }
    assert (Index(copy / "index").activities == Index(run / "index").activities).all()
    results = [find_similar(folder, [tmp_path / "a.png"]) for folder in (run, copy)]
    assert results[0] == results[1]
    assert main(["verify", str(copy)]) == 0
    capsys.readouterr()
    assert main(["similar", str(copy), str(tmp_path / "a.png"), "--codes"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "must have binary codes to search by --codes; it has none: build it again with alexnet index" in line
    assert Index(copy / "index").with_code_length(16).codes.shape[1] == 2


def test_an_index_says_what_it_computes_and_how_long_it_takes(
    run: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("index"))
    monkeypatch.setattr("alexnet.utils.progress.EARLY_SECONDS", 0.0)
    build_index(copy, store, bits=8)
    first, activities, autoencoder = capsys.readouterr().err.splitlines()  # the next lines come after a minute
    count = len(Store(store).split("train"))
    assert f"activities for each of {count} pictures, then 40 steps" in first
    assert re.fullmatch(rf"activities: \d+ of {count} pictures, \d+ s left", activities)
    assert re.fullmatch(r"autoencoder of 8 bits: 1 of 40 steps, \d+ s left", autoencoder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["similar", "{run}", "{picture}", "--count", "0"], "count must be from 1 to"),
        (["similar", "{run}", "{picture}", "--count", "100000"], "count must be from 1 to"),
        (["similar", "{run}", "nowhere.png"], "nowhere.png"),
        (["similar", "{empty}", "{picture}"], "there is no checkpoint in it"),
        (["index", "{run}", "{store}", "--bits", "100000"], "bits must be a multiple of 8 from 8 to 4096; got 100000"),
        (["index", "{run}", "{store}", "--bits", "12"], "bits must be a multiple of 8 from 8 to 4096; got 12"),
        (["index", "{run}", "{store}", "--split", "dev"], "no split 'dev'"),
        (["index", "{empty}", "{store}"], "must hold a trained net"),
    ],
)
def test_an_error_of_the_user_is_reported_in_one_line(
    arguments: list[str], message: str, run: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    paths = {"run": run, "store": store, "empty": tmp_path, "picture": tmp_path / "a.png"}
    assert main([argument.format(**paths) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert Index(run / "index").codes.shape[1] == 8  # the old index is still there


def test_sigterm_leaves_nothing_half_made(
    run: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminate(*_: object, **__: object) -> None:
        assert (run / "index.part" / "activities.npy").exists()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(retrieval, "train_autoencoder", terminate)
    assert main(["index", str(run), str(store), "--force"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.endswith("alexnet: stopped\n")
    assert not (run / "index.part").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_index_of_an_older_net_is_refused(run: Path, store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    about = json.loads((copy / "index" / "about.json").read_text())
    del about["checksum"]
    (copy / "index" / "about.json").write_text(json.dumps(about | {"step": 3}))
    Image.fromarray(Store(store).split("train").image(0)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"must be of its net after step \d+; it is of step 3: build it again"):
        find_similar(copy, [tmp_path / "a.png"])


def test_an_index_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "about.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="must be of format 1; it is of 99: build it again"):
        Index(tmp_path)


@pytest.mark.parametrize("name", ["about.json", "activities.npy", "labels.npy", "names.json", "codes.npy"])
def test_the_error_for_a_damaged_index_says_what_to_do(run: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(run / "index", tmp_path / "index")
    (folder / name).write_bytes((folder / name).read_bytes()[:7])
    with pytest.raises(ValueError, match=r"index .* is damaged .*: build it again with alexnet index RUN STORE"):
        Index(folder)


def test_the_error_for_a_damaged_encoder_says_what_to_do(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run / "index", tmp_path / "index")
    (folder / "encoder.safetensors").write_text("text")
    with pytest.raises(ValueError, match="is damaged"):
        Index(folder).encoder()


def test_codes_of_another_length_are_trained_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Index(run / "index").with_code_length(16)
    assert first.codes.shape == (len(first), 2)
    monkeypatch.setattr(retrieval, "train_autoencoder", None)  # training again would fail
    assert (Index(run / "index").with_code_length(16).codes == first.codes).all()


def test_the_benchmark_measures_real_and_synthetic_vectors(
    run: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "retrieval.py"
    options = ["--bits", "16", "--many", "300", "--queries", "6", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [str(script), str(run), str(store), *options, "--json", str(tmp_path / "json")])
    runpy.run_path(str(script), run_name="__main__")
    results = json.loads((tmp_path / "json").read_text(encoding="utf-8"))
    real, synthetic = results["rows"][:3], results["rows"][3:]
    assert [row["bytes"] for row in real] == [32 * 32 * 3, 4 * 16, 2]
    for row in real:
        assert sorted(row["by_class"]) == sorted(Store(store).classes)
        assert np.mean(list(row["by_class"].values())) == pytest.approx(row["precision"])  # two queries of each class
    assert [row["bytes"] for row in synthetic] == [4 * 16, 2]
    assert synthetic[1]["code_MB"] == pytest.approx(300 * 2 / 1e6)
    assert 0 <= synthetic[1]["exact"] <= 100
    assert "300 vectors made up to the same distribution" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [tmp_path / "json"]


def test_an_explanation_has_the_nearest_pictures(run: Path, store: Path, tmp_path: Path) -> None:
    classifier, split = Classifier.load(run, device="cpu"), Store(store).split("train")
    explanation = Explainer(classifier, run, size=8).explain(split.image(5), "red disc")
    nearest = explanation.nearest
    assert (nearest[0].name, len(nearest)) == (split.picture_name(5), 6)
    assert (nearest[0].picture == split.image(5)).all()
    Image.fromarray(split.image(5)).save(tmp_path / "picture.png")
    (expected,) = find_similar(run, [tmp_path / "picture.png"], device="cpu")
    assert [(n.name, n.label) for n in nearest] == [(n.name, n.label) for n in expected]
    assert [n.distance for n in nearest] == pytest.approx([n.distance for n in expected], abs=0.01)
    assert to_png(draw_explanation(explanation, [("red disc", 0.9), ("$x$", 0.1)]))[:4] == b"\x89PNG"


def test_without_the_store_the_nearest_pictures_have_names_only(
    run: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    path = copy / "index" / "about.json"
    metadata = json.loads(path.read_text())
    del metadata["checksum"]
    path.write_text(json.dumps(metadata | {"store": str(tmp_path / "gone")}))
    explainer = Explainer(Classifier.load(copy, device="cpu"), copy, size=8)
    nearest = explainer.explain(Store(store).split("val").image(0), "red disc").nearest
    assert [n.picture for n in nearest] == [None] * 6
    assert "the nearest pictures have names only: store" in capsys.readouterr().err
    path.write_text(json.dumps(metadata | {"step": 1}))
    assert (
        Explainer(Classifier.load(copy, device="cpu"), copy)
        .explain(np.zeros((32, 32, 3), np.uint8), "red disc")
        .nearest
        == []
    )
    assert "no nearest pictures: the index of run" in capsys.readouterr().err
