"""`alexnet reproduce` from ImageNet's archives: what it says about them and about the cost, and its store."""

import shutil
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from imagenet_files import SYNSETS, synset_tars, write_ilsvrc2010
from small_experiments import RECIPE, record_trainings

from alexnet import cli
from alexnet.architecture import Full
from alexnet.data.prepare.estimate import estimate_preparing
from alexnet.data.sources.kinds import open_source
from alexnet.data.store.store import Store
from alexnet.experiments import reproduce
from alexnet.training.estimate import estimate_training
from alexnet.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")


def test_table1_is_reproduced_from_the_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = record_trainings(monkeypatch)
    archives = write_ilsvrc2010(tmp_path / "ILSVRC2010", each=5)
    result = reproduce("table1", tmp_path / "out", archives, recipe=RECIPE, epochs=1)
    error = capsys.readouterr().err
    assert "ILSVRC-2010: 4 classes, pictures: train 20, val 4, test 6" in error
    assert "there: devkit-1.0.tar.gz, ILSVRC2010_images_train.tar, ILSVRC2010_images_val.tar" in error
    assert "missing: patch_images.tar" in error
    assert f"92.2 kB as raw in {tmp_path / 'out' / 'stores' / 'ILSVRC2010-32'}" in error
    assert "train: about cnn-0 " in error
    assert "in all: about " in error
    store = Store(tmp_path / "out" / "stores" / "ILSVRC2010-32")
    assert {split: len(store.split(split)) for split in store.splits} == {"train": 20, "val": 4, "test": 6}
    assert trained == ["cnn-0"]
    assert len(result.rows[2].measured) == 1
    assert "a stand-in for ILSVRC-2010, ILSVRC2010-32: 20 pictures of 4 classes" in result.data
    assert reproduce("table1", tmp_path / "out", archives, recipe=RECIPE, epochs=1) == result
    assert "train: about" not in capsys.readouterr().err  # all is there
    assert trained == ["cnn-0"]


def test_half_of_a_release_is_tested_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archives = tmp_path / "fall2009"
    archives.mkdir()
    for name, tar in synset_tars(dict.fromkeys(SYNSETS, 6)).items():
        (archives / name).write_bytes(tar)
    result = reproduce("fall2009", tmp_path / "out", archives, recipe=RECIPE, epochs=1)
    assert "12 pictures to train on, 12 to test on." in result.notes
    assert "ImageNet's archives by synset: 4 classes, pictures: train 12, test 12" in capsys.readouterr().err


def test_a_challenge_stands_in_for_a_release(tmp_path: Path) -> None:
    archives = write_ilsvrc2010(tmp_path / "ILSVRC2010")
    result = reproduce("fall2009", tmp_path / "out", archives, recipe=RECIPE, epochs=1)
    assert "12 pictures to train on, 4 to test on." in result.notes  # its own val


def test_the_disk_decides_between_raw_and_jpeg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "total used free")
    archives = write_ilsvrc2010(tmp_path / "ILSVRC2010")
    estimate = estimate_preparing(open_source(archives), 32, workers=1)
    assert estimate.raw_bytes == 22 * 32 * 32 * 3
    recipe = replace(RECIPE, epochs=1)
    between = (estimate.jpeg_bytes + estimate.raw_bytes) // 2
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, between))
    reproduce("table1", tmp_path / "out", archives, recipe=recipe)
    assert Store(tmp_path / "out" / "stores" / "ILSVRC2010-32-jpeg").encoding == "jpeg"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 100))
    with pytest.raises(ValueError, match=r"kB as JPEG, 67\.6 kB raw, and 100 bytes are free on that disk; free"):
        reproduce("table1", tmp_path / "other", archives, recipe=recipe)
    capsys.readouterr()
    (archives / "devkit-1.0.tar.gz").unlink()
    arguments = ["reproduce", "table1", "--data", str(archives), "--folder", str(tmp_path / "third")]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert "the development kit is missing" in error
    assert error.count("\n") == 1


def test_the_estimate_of_preparing_follows_the_rate_of_reading(tmp_path: Path) -> None:
    source = open_source(write_ilsvrc2010(tmp_path / "ILSVRC2010", each=30))
    read = source.read

    def read_slowly(split: str, index: int) -> bytes | np.ndarray:
        time.sleep(0.02)
        return read(split, index)

    source.read = read_slowly  # type: ignore[method-assign]
    assert 0.02 * 130 <= estimate_preparing(source, 32, workers=1).seconds < 0.02 * 130 * 5


def test_the_estimate_of_a_training_has_the_size_of_its_checkpoints(store: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=2, net=replace(RECIPE.net, fc6=Full(units=2000)))
    train(store, tmp_path / "run", recipe, progress=False)
    on_disk = sum(path.stat().st_size for path in (tmp_path / "run" / "checkpoints").iterdir())
    estimate = estimate_training(recipe, 3, 48, 20)
    assert estimate.disk_bytes == pytest.approx(on_disk, rel=0.1)
    longer = estimate_training(replace(recipe, epochs=2000), 3, 48, 20)
    assert longer.seconds > 20 * estimate.seconds > 0
