"""A split as a map-style data set of torch: items, transforms, pickling, and worker processes of a plain DataLoader."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, draw_pictures, write_store
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, random_split

from alexnet.data.store.offsets import write_offsets
from alexnet.data.store.store import Store

PICTURES, LABELS = draw_pictures(48, 32)


def as_url(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Copy a store and return the URL of the copy, without a cache."""
    monkeypatch.setenv("ALEXNET_CACHE_GB", "0")
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in store.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    write_offsets(copy)
    return f"file://{copy}"


def assert_is_all(loader: DataLoader[tuple[torch.Tensor, torch.Tensor]], repetitions: int = 1) -> None:
    """Check that a loader yields all training pictures, in order."""
    pictures, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert (pictures.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert torch.equal(pictures, torch.from_numpy(np.tile(PICTURES.transpose(0, 3, 1, 2), (repetitions, 1, 1, 1))))
    assert labels.tolist() == LABELS.tolist() * repetitions


def test_an_item_is_a_picture_and_its_label(store: Path) -> None:
    split = Store(store).split("train")
    assert isinstance(split, Dataset)
    assert (len(split), split.classes) == (48, CLASSES)
    for index in (0, 47, -1, -48, np.int64(5), torch.tensor(5)):
        picture, label = split[index]
        assert torch.equal(picture, torch.from_numpy(PICTURES[index].transpose(2, 0, 1).copy()))
        assert (type(label), label) == (int, LABELS[index])
    picture.zero_()  # a copy: the store does not change
    assert len([label for _, label in split]) == 48


def test_what_is_no_index_is_refused(store: Path) -> None:
    split = Store(store).split("train")
    for index in (slice(3), slice(None), 1.0, "1", [0, 1], None):
        with pytest.raises(
            TypeError, match=r"must be a whole number; got .*: torch\.utils\.data\.Subset takes several"
        ):
            split[index]  # type: ignore[index]
    for index in (48, -49):
        with pytest.raises(IndexError, match=f"picture {index} is out of range: split 'train' has 48"):
            split[index]
    with pytest.raises(ValueError, match="no split 'test'; it has train, val"):
        Store(store).split("test", transform=np.asarray)


def test_transforms_take_a_pil_picture_and_a_label(store: Path) -> None:
    opened = Store(store)
    split = opened.split("train", transform=lambda picture: picture, target_transform=CLASSES.__getitem__)
    picture, name = split[7]
    assert isinstance(picture, Image.Image)
    assert (picture.mode, picture.size, name) == ("RGB", (32, 32), CLASSES[LABELS[7]])
    assert (np.asarray(picture) == PICTURES[7]).all()
    picture.putpixel((0, 0), (0, 0, 0))  # its own pixels, not the file's
    other = opened.split("train")
    other.transform = np.asarray
    assert (other[7][0] == PICTURES[7]).all()
    opened.train_and_val().transform = np.asarray
    for same in (opened.split("train"), opened.train_and_val()):  # the transforms of a split are its own
        assert isinstance(same[7][0], torch.Tensor)


def test_torch_takes_parts_of_it(store: Path) -> None:
    split = Store(store).split("train")
    first, second = random_split(split, [40, 8], torch.Generator().manual_seed(0))
    assert sorted([*first.indices, *second.indices]) == [*range(48)]
    assert [label for _, label in Subset(split, [3, 4, 5])] == LABELS[3:6].tolist()


@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
def test_a_pickle_opens_the_store_again(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    opened = Store(as_url(store, tmp_path, monkeypatch) if remote else store)
    for split in (opened.split("train", transform=np.asarray), opened.train_and_val()):
        pickled = pickle.dumps(split)
        assert len(pickled) < 2000
        loaded = pickle.loads(pickled)
        assert (repr(loaded), len(loaded), loaded.transform) == (repr(split), len(split), split.transform)
        assert all(
            (np.asarray(a[0]) == np.asarray(b[0])).all() and a[1] == b[1] for a, b in zip(split, loaded, strict=True)
        )
    assert repr(pickle.loads(pickle.dumps(opened))) == repr(opened)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12
@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
def test_worker_processes_that_are_forked_read_it(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    split = Store(as_url(store, tmp_path, monkeypatch) if remote else store).split("train")
    assert_is_all(DataLoader(split, 10))
    assert_is_all(DataLoader(split, 10, num_workers=2, multiprocessing_context="fork"))


def test_a_worker_process_that_is_spawned_reads_it(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = ConcatDataset([Store(place).split("train") for place in (store, as_url(store, tmp_path, monkeypatch))])
    assert_is_all(DataLoader(both, 12, num_workers=1, multiprocessing_context="spawn"), repetitions=2)


def test_the_reprs_say_what_they_are(tmp_path: Path) -> None:
    store = Store(write_store(tmp_path / "s", train=3, val=2))
    assert repr(store) == f"Store('{tmp_path}/s', size=32, encoding='raw', classes=3, train=3, val=2)"
    assert repr(store.split("val")) == f"Split('val', store='{tmp_path}/s', pictures=2, size=32, classes=3)"
    assert repr(store.train_and_val()).startswith("Split('train+val', ")
