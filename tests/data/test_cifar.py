"""CIFAR-10 and CIFAR-100, binary and pickled; and pickles, of which nothing runs."""

import contextlib
import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_prepare import prepare_small
from test_sources import pack, picture_names

from alexnet.data.prepare import plan
from alexnet.data.sources.base import SourceOptions
from alexnet.data.sources.cifar10 import TRAIN_FILES
from alexnet.data.sources.kinds import open_source
from alexnet.data.sources.pickles import read_pickle
from alexnet.data.store.store import Store


def write_cifar10(root: Path, pictures: int = 3) -> dict[str, np.ndarray]:
    """Write a small set in CIFAR-10's layout and return the records of each file."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in (*TRAIN_FILES, "test_batch.bin"):
        rows = rng.integers(0, 256, (pictures, 3073), np.uint8)
        rows[:, 0] = rng.integers(0, 10, pictures)
        (root / name).write_bytes(rows.tobytes())
        files[name] = rows
    (root / "batches.meta.txt").write_text("\n".join(f"class{number}" for number in range(10)) + "\n\n")
    return files


@pytest.mark.parametrize("kind", ["folder", "folder above", "tar", "gz", "xz"])
def test_cifar10_is_read_from_a_folder_or_an_archive(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "cifar-10-batches-bin"
    files = write_cifar10(root)
    path = {"folder": root, "folder above": tmp_path}.get(kind) or pack(root, tmp_path / f"cifar.{kind}")
    source = open_source(path)
    assert source.size == 32
    assert source.classes == tuple(f"class{number}" for number in range(10))
    rows = np.concatenate([files[name] for name in TRAIN_FILES])
    assert source.splits["train"].labels.tolist() == rows[:, 0].tolist()
    assert source.splits["test"].labels.tolist() == files["test_batch.bin"][:, 0].tolist()
    assert picture_names(source, "train")[3:5] == ["data_batch_2.bin#0", "data_batch_2.bin#1"]
    picture = source.read("train", 7)
    assert (picture[:, :, 2].ravel() == rows[7, 1 + 2048 :]).all()
    assert picture.shape == (32, 32, 3)
    with pytest.raises(ValueError, match=r"for .* folders, but this is CIFAR-10; leave `train_per_class=3` out"):
        open_source(path, SourceOptions(train_per_class=3))


def test_another_size_for_cifar10_is_refused(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "a", pictures=40)
    with pytest.raises(ValueError, match=r"^size must be 32 or left out for .*, whose pictures keep it; got 64$"):
        prepare_small(tmp_path / "a", tmp_path / "store", size=64)
    assert not (tmp_path / "store").exists()
    prepare_small(tmp_path / "a", tmp_path / "store", size=32)
    assert Store(tmp_path / "store").size == 32


def test_damaged_cifar10_is_refused(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "a")
    (tmp_path / "a" / "data_batch_3.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"data_batch_3\.bin has 5 bytes"):
        open_source(tmp_path / "a")
    (tmp_path / "a" / "data_batch_3.bin").unlink()
    with pytest.raises(ValueError, match=r"data_batch_3\.bin is missing"):
        open_source(tmp_path / "a")
    write_cifar10(tmp_path / "b")
    (tmp_path / "b" / "data_batch_3.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(ValueError, match=r"b: data_batch_3\.bin has label 10, but there are names of 10 classes"):
        open_source(tmp_path / "b")
    write_cifar10(tmp_path / "cut")
    contents = pack(tmp_path / "cut", tmp_path / "cut.xz").read_bytes()
    (tmp_path / "cut.xz").write_bytes(contents[: len(contents) // 2])
    with pytest.raises(ValueError, match="damaged archive"):
        open_source(tmp_path / "cut.xz")


@pytest.mark.parametrize("batch", [1, 5])
def test_a_training_batch_of_cifar10_can_validate(tmp_path: Path, batch: int) -> None:
    files = write_cifar10(tmp_path)
    source = open_source(tmp_path, SourceOptions(val_batch=batch))
    assert list(source.splits) == ["train", "val", "test"]
    train_files = [name for name in TRAIN_FILES if name != f"data_batch_{batch}.bin"]
    for split, names in (("train", train_files), ("val", [f"data_batch_{batch}.bin"]), ("test", ["test_batch.bin"])):
        rows = np.concatenate([files[name] for name in names])
        assert source.splits[split].labels.tolist() == rows[:, 0].tolist()
        for n, row in enumerate(rows):
            assert (source.read(split, n) == row[1:].reshape(3, 32, 32).transpose(1, 2, 0)).all()
        assert source.splits[split].names[0].as_py() == f"{names[0]}#0".encode()


def test_val_batch_must_be_a_batch_of_cifar10(tmp_path: Path, picture_folder: Path) -> None:
    write_cifar10(tmp_path)
    for batch in (0, 6):
        with pytest.raises(
            ValueError, match=f"val_batch must be from 1 to 5, CIFAR-10's training batches; got {batch}"
        ):
            open_source(tmp_path, SourceOptions(val_batch=batch))
    with pytest.raises(ValueError, match=r"`val_batch` is an option for CIFAR-10, but .*; leave `val_batch=5` out"):
        open_source(picture_folder, SourceOptions(val_batch=5))


class Python2Pickler(pickle._Pickler):
    """Writes as Python 2 did, with which both sets were pickled: bytes are its strings."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytes(self, value: bytes) -> None:
        if len(value) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(value)]) + value)
        else:
            self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def pickle_as(value: Any, protocol: int) -> bytes:
    """Return a pickle; protocol 2 is that of the two sets, with the names that NumPy had then."""
    if protocol != 2:
        return pickle.dumps(value, protocol)
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(value)
    return file.getvalue().replace(b"numpy._core.", b"numpy.core.")


def write_pickles(root: Path, protocol: int, files: dict[str, dict[bytes, Any]]) -> Path:
    """Write pickled dictionaries. Their keys are text in all protocols but that of Python 2."""
    root.mkdir(parents=True)
    for name, contents in files.items():
        as_text = {key.decode(): value for key, value in contents.items()}
        (root / name).write_bytes(pickle_as(contents if protocol == 2 else as_text, protocol))
    return root


def write_cifar10_pickles(root: Path, protocol: int, records: dict[str, np.ndarray]) -> Path:
    """Write the Python version of CIFAR-10 with the same pictures as the binary records."""
    files: dict[str, dict[bytes, Any]] = {"batches.meta": {b"label_names": [b"class%d" % n for n in range(10)]}}
    for name, rows in records.items():
        names = [b"picture_%d.png" % n for n in range(len(rows))]
        contents = {b"batch_label": b"training batch", b"labels": rows[:, 0].tolist(), b"data": rows[:, 1:].copy()}
        files[name.removesuffix(".bin")] = contents | {b"filenames": names}
    return write_pickles(root, protocol, files)


def write_cifar100(root: Path, pictures: int = 5) -> dict[str, np.ndarray]:
    """Write a small set in CIFAR-100's binary layout and return the records: coarse label, fine label, pixels."""
    random = np.random.default_rng(1)
    root.mkdir(parents=True)
    files = {}
    for name in ("train.bin", "test.bin"):
        rows = random.integers(0, 256, (pictures, 3074), np.uint8)
        rows[:, 0], rows[:, 1] = np.arange(pictures) % 2, np.arange(pictures) % 4
        (root / name).write_bytes(rows.tobytes())
        files[name] = rows
    (root / "coarse_label_names.txt").write_text("fish\nflowers\n")
    (root / "fine_label_names.txt").write_text("ray\norchid\nshark\nrose\n")
    return files


def write_cifar100_pickles(root: Path, protocol: int, records: dict[str, np.ndarray]) -> Path:
    """Write the Python version of CIFAR-100 with the same pictures as the binary records."""
    names = {b"fine_label_names": [b"ray", b"orchid", b"shark", b"rose"], b"coarse_label_names": [b"fish", b"flowers"]}
    files: dict[str, dict[bytes, Any]] = {"meta": names}
    for name, rows in records.items():
        labels = {b"coarse_labels": rows[:, 0].tolist(), b"fine_labels": rows[:, 1].tolist()}
        files[name.removesuffix(".bin")] = labels | {b"data": rows[:, 2:].copy(), b"batch_label": b"training batch 1"}
    return write_pickles(root, protocol, files)


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("packed", [False, True])
def test_the_python_version_of_cifar10_has_the_pictures_of_the_binary_one(
    tmp_path: Path, protocol: int, packed: bool
) -> None:
    records = write_cifar10(tmp_path / "binary")
    root = write_cifar10_pickles(tmp_path / "cifar-10-batches-py", protocol, records)
    binary, pickled = open_source(tmp_path / "binary"), open_source(pack(root, tmp_path / "x.gz") if packed else root)
    assert pickled.classes == binary.classes
    assert picture_names(pickled, "test") == ["test_batch#0", "test_batch#1", "test_batch#2"]
    for split, pictures in binary.splits.items():
        assert pickled.splits[split].labels.tolist() == pictures.labels.tolist()
        for index in range(len(pictures)):
            assert (pickled.read(split, index) == binary.read(split, index)).all()
    assert list(open_source(root, SourceOptions(val_batch=3)).splits) == ["train", "val", "test"]


@pytest.mark.parametrize("version", ["binary", "python 2", "python 4", "python 5"])
@pytest.mark.parametrize("packed", [False, True])
def test_cifar100_has_fine_and_coarse_classes(tmp_path: Path, version: str, packed: bool) -> None:
    root = tmp_path / "cifar-100-binary"
    records = write_cifar100(root)
    if version != "binary":
        root = write_cifar100_pickles(tmp_path / "cifar-100-python", int(version[-1]), records)
    path = pack(root, tmp_path / "x.gz") if packed else root
    for coarse, classes in ((None, ("ray", "orchid", "shark", "rose")), (True, ("fish", "flowers"))):
        source = open_source(path, SourceOptions(coarse=coarse))
        assert source.classes == classes
        assert list(source.splits) == ["train", "test"]
        for split, rows in zip(source.splits, records.values(), strict=True):
            assert source.splits[split].labels.tolist() == rows[:, 0 if coarse else 1].tolist()
            for index, row in enumerate(rows):
                assert (source.read(split, index) == row[2:].reshape(3, 32, 32).transpose(1, 2, 0)).all()
    with pytest.raises(ValueError, match=r"`val_batch` is an option for CIFAR-10, but this is CIFAR-100"):
        open_source(path, SourceOptions(val_batch=1))


def test_a_store_of_superclasses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SHARD_BYTES", 2 * 32 * 32 * 3)
    write_cifar100(tmp_path / "c")
    summary = prepare_small(tmp_path / "c", tmp_path / "store", size=None, coarse=True)
    assert summary.classes == Store(tmp_path / "store").classes == ("fish", "flowers")
    with pytest.raises(ValueError, match="prepared with coarse=True, not None"):
        prepare_small(tmp_path / "c", tmp_path / "store", size=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"fine_labels": [0, 4, 1, 2, 3]}, "train has label 4, but there are names of 4 classes"),
        ({b"fine_labels": [0, -1, 1, 2, 3]}, "train has label -1"),
        (
            {b"fine_labels": [0, 1]},
            r"train must have an array 'data' of type uint8 and shape \(2, 3072\); got uint8 \(5",
        ),
        ({b"fine_labels": ["a"]}, "train has no list of integers 'fine_labels'"),
        ({b"data": None}, "'data' of type uint8.* got NoneType"),
        ({b"data": np.zeros((5, 3072), np.int64)}, "got int64"),
    ],
)
def test_unsuitable_pickles_are_refused(tmp_path: Path, change: dict[bytes, Any], message: str) -> None:
    root = write_cifar100_pickles(tmp_path / "python", 2, write_cifar100(tmp_path / "binary"))
    contents = pickle.loads((root / "train").read_bytes(), encoding="bytes")
    (root / "train").write_bytes(pickle_as(contents | change, 2))
    with pytest.raises(ValueError, match=message) as caught:
        open_source(root)
    assert "\n" not in str(caught.value)


class Hostile:
    """A pickle that creates a file when it runs."""

    def __init__(self, path: Path, function: Any = os.system) -> None:
        self.path, self.function = path, function

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [os.system, eval, exec, __import__, open, np.load, pickle.loads])
def test_nothing_in_a_pickle_runs(tmp_path: Path, protocol: int, function: Any) -> None:
    root = write_cifar10_pickles(tmp_path / "python", 2, write_cifar10(tmp_path / "binary"))
    hostile = {b"labels": Hostile(tmp_path / "ran", function)}
    (root / "data_batch_2").write_bytes(pickle.dumps(hostile, protocol))
    with pytest.raises(ValueError, match=rf"data_batch_2: .*asks for \S+\.{function.__name__}, which was not run"):
        open_source(root)
    assert not (tmp_path / "ran").exists()


def test_the_functions_of_arrays_have_no_other_use() -> None:
    """NumPy's names with other arguments are refused, too: nothing of NumPy is called."""
    for opcodes in (
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.",
        b"cnumpy\ndtype\n(X\x01\x00\x00\x00OtR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(K\x00tC\x01btR.",
        b"cnumpy\nndarray\n(K\x01tR.",
        b"cnumpy\nndarray\n)}b.",
    ):
        with pytest.raises(ValueError, match=r"plain data only|integers|damaged pickle"):
            read_pickle(opcodes)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(PLAIN, st.integers(0, 5))
def test_plain_data_is_read_as_pickle_does(value: Any, protocol: int) -> None:
    contents = pickle.dumps(value, protocol)
    if any(name in contents for name in (b"__builtin__", b"builtins")):  # how old protocols write empty bytes
        return
    assert read_pickle(contents) == pickle.loads(contents)
    assert read_pickle(pickletools.optimize(contents)) == value


@given(st.binary(max_size=60))
def test_any_bytes_give_plain_data_or_an_error(contents: bytes) -> None:
    with contextlib.suppress(ValueError):
        read_pickle(contents)


def test_a_pickle_that_is_cut_off_or_endless_is_refused() -> None:
    contents = pickle.dumps({"data": np.arange(100, dtype=np.uint8)}, 4)
    for length in range(len(contents)):
        with pytest.raises(ValueError, match=r"pickle"):
            read_pickle(contents[:length])
    with pytest.raises(ValueError, match="damaged pickle"):
        read_pickle(b"r\xff\xff\xff\x7f.")  # would enlarge the memo of the module pickle to gigabytes
    value: Any = read_pickle(b"]" * 100_000 + b"a" * 99_999 + b".")
    assert len(value) == 1
