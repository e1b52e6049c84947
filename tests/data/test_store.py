"""A local store: Arrow files that any Arrow library reads, exact statistics, clear messages if it is not a store."""

import ctypes
import json
import threading
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from alexnet.data.prepare.encode import encode_jpeg
from alexnet.data.store.base import StoreInfo
from alexnet.data.store.format import METADATA_KEY, PROGRESS_FILE, STATISTICS_FILE, shard_name, shard_schema
from alexnet.data.store.local import LocalSplit
from alexnet.data.store.statistics import Statistics
from alexnet.data.store.store import Store


def write_two_class_store(
    path: Path, encoding: str = "raw", size: int = 8, counts: tuple[int, ...] = (5, 0, 4)
) -> np.ndarray:
    """Write a store of cats and dogs without `prepare`; return its pictures, of which the last three are for testing.

    Args:
        path: The folder; created.
        encoding: "raw" or "jpeg".
        size: The side of the pictures, in pixels.
        counts: The number of pictures of each training shard.
    """
    path.mkdir()
    total = sum(counts) + 3
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (total, 1, 1, 3), np.uint8).repeat(size, axis=1).repeat(size, axis=2)
    first = 0
    for split, number, count in [*(("train", i, count) for i, count in enumerate(counts)), ("test", 0, 3)]:
        schema = shard_schema(size, encoding, ("cat", "dog"), split, "made up", "none")
        with pa.OSFile(str(path / shard_name(split, number)), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for start in range(first, first + count, 2):  # record batches of two
                rows = range(start, min(start + 2, first + count))
                files = [encode_jpeg(pictures[i]) if encoding == "jpeg" else pictures[i].tobytes() for i in rows]
                columns = [pa.array(files, schema.field("image").type), pa.array([i % 2 for i in rows], pa.int32())]
                columns.append(pa.array([f"picture {i}" for i in rows]))
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        first += count
    values = pictures[: total - 3].reshape(-1, 3).astype(np.int64)
    statistics = Statistics.from_sums(pictures[: total - 3].sum(0, np.int64), values.T @ values, total - 3)
    statistics.save(path / STATISTICS_FILE, {"counts": {"train": total - 3, "test": 3}})
    return pictures


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_a_store_has_the_pictures_labels_and_names_that_were_written(tmp_path: Path, encoding: str) -> None:
    pictures = write_two_class_store(tmp_path / "s", encoding)
    store = Store(tmp_path / "s")
    assert (store.size, store.encoding, store.classes) == (8, encoding, ("cat", "dog"))
    assert store.splits == ("train", "test")
    train = store.split("train")
    assert store.split("train").labels is train.labels  # the files are opened once
    assert store.validation().name == "test"
    assert (len(train), len(store.validation())) == (9, 3)
    assert train.labels.dtype == np.int64
    assert train.labels.tolist() == [i % 2 for i in range(9)]
    assert [train.picture_name(i) for i in (0, 4, 5, 8)] == ["picture 0", "picture 4", "picture 5", "picture 8"]
    for i in range(9):
        image = train.image(i)
        assert image.shape == (8, 8, 3)
        assert image.dtype == np.uint8
        assert np.abs(image.astype(int) - pictures[i]).max() <= (0 if encoding == "raw" else 3)
    for index in (-1, 9):
        with pytest.raises(IndexError):
            train.image(index)


def test_memory_addresses_point_to_raw_pictures(tmp_path: Path) -> None:
    pictures = write_two_class_store(tmp_path / "s")
    train = Store(tmp_path / "s").split("train")
    addresses = train.memory_addresses(np.array([8, 0, 5]))
    assert addresses is not None
    assert [ctypes.string_at(int(address), 8 * 8 * 3) for address in addresses] == [
        pictures[i].tobytes() for i in (8, 0, 5)
    ]
    for index in (-1, 9):
        with pytest.raises(IndexError, match="split 'train' has 9"):
            train.memory_addresses(np.array([3, index]))
    write_two_class_store(tmp_path / "j", "jpeg")
    assert Store(tmp_path / "j").split("train").memory_addresses(np.array([0])) is None


def test_pictures_of_another_size_than_stated_are_refused(tmp_path: Path) -> None:
    write_two_class_store(tmp_path / "s")
    info = StoreInfo(tmp_path / "s", 16, "raw", ("a", "b"), {"train": 9})
    with pytest.raises(ValueError, match="damaged; prepare the store again"):
        LocalSplit("train", [tmp_path / "s" / "train-00000.arrow"], info, Mock())


def test_raw_pictures_are_read_only_views_of_the_file(tmp_path: Path) -> None:
    write_two_class_store(tmp_path / "s")
    image = Store(tmp_path / "s").split("train").image(3)
    assert not image.flags.writeable
    assert not image.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        image[0] = 0


def test_arrow_reads_a_shard_without_this_package(tmp_path: Path) -> None:
    pictures = write_two_class_store(tmp_path / "s")
    table = pa.ipc.open_file(pa.memory_map(str(tmp_path / "s" / "train-00000.arrow"))).read_all()
    assert table.column_names == ["image", "label", "name"]
    assert table["image"][1].as_py() == pictures[1].tobytes()
    metadata = json.loads(table.schema.metadata[METADATA_KEY.encode()])
    assert metadata == {
        "format": 1, "size": 8, "encoding": "raw", "classes": ["cat", "dog"], "split": "train",
        "source": "made up", "filter": "none",
    }  # fmt: skip
    assert load_file(tmp_path / "s" / STATISTICS_FILE)["mean"].shape == (3, 8, 8)


def test_several_threads_can_read_at_once(tmp_path: Path) -> None:
    write_two_class_store(tmp_path / "s", "jpeg")
    split = Store(tmp_path / "s").split("train")
    expected = [split.image(i) for i in range(9)]
    wrong: list[int] = []

    def read() -> None:
        wrong.extend(i for _ in range(50) for i in range(9) if (split.image(i) != expected[i]).any())

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_folders_that_are_not_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such store.*alexnet prepare"):
        Store(tmp_path / "none")
    with pytest.raises(ValueError, match="not a store"):
        Store(tmp_path)
    (tmp_path / PROGRESS_FILE).touch()
    with pytest.raises(ValueError, match="only partly prepared"):
        Store(tmp_path)
    write_two_class_store(tmp_path / "s")
    with pytest.raises(ValueError, match="no split 'val'; it has train, test"):
        Store(tmp_path / "s").split("val")


def test_damaged_stores_are_refused(tmp_path: Path) -> None:
    write_two_class_store(tmp_path / "s")
    shard = tmp_path / "s" / "train-00002.arrow"
    contents = shard.read_bytes()
    shard.write_bytes(contents[:-100])
    with pytest.raises(ValueError, match=r"train-00002\.arrow: damaged"):
        Store(tmp_path / "s").split("train")
    shard.unlink()
    with pytest.raises(ValueError, match="has 5 of 9 pictures"):
        Store(tmp_path / "s").split("train")
    shard.write_bytes(contents)
    (tmp_path / "s" / "train-00001.arrow").unlink()
    with pytest.raises(ValueError, match=r"train-00001\.arrow is missing"):
        Store(tmp_path / "s")
    (tmp_path / "s" / STATISTICS_FILE).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"statistics\.safetensors: damaged"):
        Store(tmp_path / "s")


def test_another_format_is_refused(tmp_path: Path) -> None:
    write_two_class_store(tmp_path / "s", counts=(2,))
    shard = tmp_path / "s" / "train-00000.arrow"
    shard.write_bytes(shard.read_bytes().replace(b'"format": 1', b'"format": 9'))
    with pytest.raises(ValueError, match="store format 9, this version reads 1"):
        Store(tmp_path / "s")


def test_components_are_the_axes_of_a_known_covariance() -> None:
    rotation = np.linalg.qr(np.array([[1.0, 2, 3], [0, 1, 4], [5, 6, 0]]))[0]
    covariance = rotation @ np.diag([9.0, 100, 25]) @ rotation.T
    statistics = Statistics.from_covariance(np.zeros((3, 2, 2), np.float32), covariance, 1)
    assert np.allclose(statistics.eigenvalues, [100, 25, 9])
    assert np.allclose(statistics.colour_deviations(), [10, 5, 3])
    for component, axis in zip(statistics.components, (1, 2, 0), strict=True):
        assert np.isclose(abs(component @ rotation[:, axis]), 1)
        assert component[np.abs(component).argmax()] > 0


@given(st.integers(0, 100), st.integers(1, 6), st.integers(1, 5))
def test_statistics_agree_with_numpy(seed: int, count: int, size: int) -> None:
    pictures = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)
    values = pictures.reshape(-1, 3).astype(np.int64)
    statistics = Statistics.from_sums(pictures.sum(axis=0, dtype=np.int64), values.T @ values, count)
    assert np.allclose(statistics.mean, pictures.mean(axis=0).transpose(2, 0, 1), atol=1e-4)
    assert np.allclose(statistics.covariance, np.cov(values.T, bias=True), atol=1e-8)
    assert np.allclose(statistics.components @ statistics.components.T, np.eye(3))
    rebuilt = statistics.components.T @ np.diag(statistics.eigenvalues) @ statistics.components
    assert np.allclose(rebuilt, statistics.covariance, atol=1e-6)


def test_statistics_of_ten_billion_values_are_exact() -> None:
    # 10^9 pictures of one pixel each, half (0, 0, 0) and half (255, 255, 255): the products exceed 2^53.
    half = 500_000_000
    sums = np.full((1, 1, 3), 255 * half, np.int64)
    products = np.full((3, 3), 255 * 255 * half, np.int64)
    assert (Statistics.from_sums(sums, products, 2 * half).covariance == 255 * 255 / 4).all()


def test_statistics_are_the_same_after_saving_and_loading(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    covariance = np.cov(rng.normal(0, 50, (3, 100)))
    saved = Statistics.from_covariance(rng.random((3, 4, 4)).astype(np.float32), covariance, 77)
    saved.save(tmp_path / "a")
    loaded = Statistics.load(tmp_path / "a")
    for name in ("mean", "covariance", "eigenvalues", "components"):
        assert (getattr(loaded, name) == getattr(saved, name)).all()
    assert loaded.count == 77
    assert loaded.mean.dtype == np.float32
    assert saved.to_bytes() == loaded.to_bytes()
    transposed = Statistics(saved.mean[:, ::-1], covariance.T, saved.eigenvalues[::-1], saved.components.T, 77)
    transposed.save(tmp_path / "b")
    assert (Statistics.load(tmp_path / "b").components == saved.components.T).all()


@pytest.mark.parametrize("metadata", [{}, {"counts": {"valid": 3}}, {"counts": [1]}, {"counts": {"train": "9"}}])
def test_a_folder_whose_statistics_have_no_counts_is_refused(tmp_path: Path, metadata: dict[str, object]) -> None:
    write_two_class_store(tmp_path / "s")
    Store(tmp_path / "s").statistics.save(tmp_path / "s" / STATISTICS_FILE, metadata)
    with pytest.raises(ValueError, match=r"not a store \(statistics\.safetensors has no count of train, .*prepare"):
        Store(tmp_path / "s")


def test_a_store_without_val_and_test_has_no_validation_split(tmp_path: Path) -> None:
    write_two_class_store(tmp_path / "s")
    Store(tmp_path / "s").statistics.save(tmp_path / "s" / STATISTICS_FILE, {"counts": {"train": 9}})
    with pytest.raises(ValueError, match="must have val or test pictures; it has train only"):
        Store(tmp_path / "s").validation()
