"""Data sets of Hugging Face, saved on the disk or loaded by name, written and loaded by the library itself."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_parquet import read_all, read_shards
from test_prepare import prepare_small, stop_after, write_pictures
from test_sources import picture_names

from alexnet.data.prepare import plan
from alexnet.data.sources.base import SourceOptions
from alexnet.data.sources.kinds import open_source

os.environ["HF_HUB_OFFLINE"] = "1"  # before the import: no test asks the hub
datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _small_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of eight raw 16x16 pictures, chunks of three, and a cache of the test's own."""
    monkeypatch.setattr(plan, "SHARD_BYTES", 8 * 16 * 16 * 3)
    monkeypatch.setattr(plan, "CHUNK_BYTES", 3 * 16 * 16 * 3)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def as_data_set(folder: Path) -> Any:
    """Return the pictures of class folders, in order, as a data set with their paths."""
    files = sorted(file for file in folder.rglob("*.*") if file.is_file())
    images = [{"bytes": file.read_bytes(), "path": str(file.relative_to(folder))} for file in files]
    names = sorted({file.parent.name for file in files})
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    columns = {"image": images, "label": [file.parent.name for file in files]}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def without_names(store: Path) -> dict[str, list[tuple[bytes, int]]]:
    """Return the pictures and labels of each shard. Saving a data set leaves the folders of the paths out."""
    return {name: [(row["image"], row["label"]) for row in rows] for name, rows in read_shards(store).items()}


@pytest.mark.parametrize("shards", [1, 3])
def test_the_store_of_a_saved_data_set_is_that_of_class_folders(
    tmp_path: Path, shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pictures(tmp_path / "set", each=8, broken=1)
    as_data_set(folder).save_to_disk(tmp_path / "saved", num_shards=shards)
    prepare_small(folder, tmp_path / "expected")
    stop_after(2, tmp_path / "saved", tmp_path / "store", monkeypatch)
    prepare_small(tmp_path / "saved", tmp_path / "store", workers=3)
    assert without_names(tmp_path / "store") == without_names(tmp_path / "expected")


def test_a_saved_data_set_with_splits(tmp_path: Path) -> None:
    data_set = as_data_set(write_pictures(tmp_path / "set", each=2))
    datasets.DatasetDict({"train": data_set, "validation": data_set}).save_to_disk(tmp_path / "saved")
    source = open_source(tmp_path / "saved")
    assert source.classes == ("class0", "class1", "class2")
    assert picture_names(source, "val")[4:] == [f"validation/data-00000-of-00001.arrow#{row}" for row in (4, 5)]
    assert read_all(source, "train") == read_all(source, "val")
    state = tmp_path / "saved" / "train" / "state.json"
    state.write_text(json.dumps({"_data_files": [{"filename": "../../set/class0/000.png"}]}))
    with pytest.raises(ValueError, match=r"state\.json: names 000\.png, which is not there"):
        open_source(tmp_path / "saved")
    state.write_text("{")
    with pytest.raises(ValueError, match=r"state\.json: not a readable JSON file"):
        open_source(tmp_path / "saved")


def test_a_saved_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    as_data_set(write_pictures(tmp_path / "set", each=2)).save_to_disk(tmp_path / "saved")
    (path,) = (tmp_path / "saved").glob("*.arrow")
    contents = path.read_bytes()
    for length in (0, 100, len(contents) // 2):
        path.write_bytes(contents[:length])
        with pytest.raises(ValueError, match=r"not a readable Arrow file|must have a column") as caught:
            open_source(tmp_path / "saved")
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_splits_of_other_names_are_refused(tmp_path: Path) -> None:
    data_set = as_data_set(write_pictures(tmp_path / "set", each=2))
    datasets.DatasetDict({"train": data_set, "extra": data_set}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="each split must have train, val or test in its name; got 'extra'"):
        open_source(tmp_path / "saved")


def test_a_data_set_is_loaded_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The library takes the path of a folder for a name, too."""
    folder = write_pictures(tmp_path / "set", each=8)
    (tmp_path / "hub").mkdir()
    as_data_set(folder).to_parquet(tmp_path / "hub" / "train-00000.parquet")
    prepare_small(folder, tmp_path / "expected")
    prepare_small(f"hf:{tmp_path / 'hub'}", tmp_path / "store")
    assert "Hugging Face's datasets has loaded it into" in capsys.readouterr().err
    assert read_shards(tmp_path / "store") == read_shards(tmp_path / "expected")


def test_files_of_a_data_set_that_is_loaded_by_name_are_read(tmp_path: Path) -> None:
    for name in ("train/cat/1", "train/cat/2", "train/dog/1", "train/dog/2", "test/cat/1", "test/dog/1"):
        path = tmp_path / "hub" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (len(name), 0, 0)).save(path)
    source = open_source(f"hf:{tmp_path / 'hub'}")
    assert source.classes == ("cat", "dog")
    assert {split: len(pictures) for split, pictures in source.splits.items()} == {"train": 4, "test": 2}
    assert read_all(source, "test")[0] == (tmp_path / "hub" / "test" / "cat" / "1.png").read_bytes()


def test_what_cannot_be_loaded_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        ValueError, match=r"^hf:owner/name: .*cannot load it.* check the name and the network"
    ) as caught:
        open_source("hf:owner/name", SourceOptions())
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().err == ""  # no note before the error
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ValueError, match=r"^hf:owner/name: .* needs packages: pip install 'alexnet\[datasets\]'"):
        open_source("hf:owner/name")
