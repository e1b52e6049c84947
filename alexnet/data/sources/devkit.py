"""The development kit of an ImageNet challenge (ILSVRC): its synsets, in the order of their IDs, and labels.

A kit is a .tar.gz or its unpacked folder. data/meta.mat is a file of Matlab with a structure for each synset (a set of
synonymous nouns of WordNet); data/ILSVRC2012_validation_ground_truth.txt has a line with the ID of the synset for each
validation picture. See the kit's readme.txt.
"""

import io
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.checked import require
from alexnet.data.sources.archive import open_tar_stream
from alexnet.data.sources.download import verify_md5
from alexnet.utils.console import format_error
from alexnet.utils.extras import missing_extra
from alexnet.utils.wordnet import WNID

PUBLISHED_MD5 = {
    "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
    "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
    "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
    "ILSVRC2012_img_test.tar": "fe64ceb247e473635708aed23ab6d839",
    "ILSVRC2012_img_test_v10102019.tar": "e1b8681fff3d63731c599df9b4b6fc02",
}
_META_FILE = "meta.mat"
_KIT_SUFFIXES = (".mat", ".gz", ".tgz", ".tar")
_COSTS = "cost_matrix"  # in meta.mat
_VAL_LABELS_FILE = re.compile(r"ILSVRC\d{4}_validation_ground_truth\.txt")
_ID_FIELD = re.compile(r"ILSVRC(\d{4})_ID")
_COMPRESSED = 15  # the type of an element of a .mat
MAX_FILE_BYTES = 1 << 26  # the largest file of a kit that is read has 200 kB


@dataclass(frozen=True)
class Synset:
    """A class of a challenge.

    Args:
        id: Its number in the challenge, from 1: ILSVRC2012_ID.
        wnid: Its WordNet ID: "n02123045".
        words: Its synonyms: "tabby, tabby cat".
        train_count: The number of its training pictures.
    """

    id: int
    wnid: str
    words: str
    train_count: int

    @property
    def class_name(self) -> str:
        """The WordNet ID and a synonym: "n02123045 tabby cat"."""
        return name_class(self.wnid, self.words)


@dataclass(frozen=True, eq=False)
class Devkit:
    """What the development kit of a challenge says.

    Args:
        path: The kit.
        year: The year of the challenge.
        synsets: The synsets that are classes, in the order of their IDs: 1, 2, 3 ...
        val_ids: (N,) the ID of each validation picture; number N of the pictures' names is at index N - 1.
    """

    path: Path
    year: int
    synsets: tuple[Synset, ...]
    val_ids: np.ndarray

    @property
    def train_count(self) -> int:
        """The number of training pictures of the challenge."""
        return sum(synset.train_count for synset in self.synsets)


def name_class(wnid: str, words: str) -> str:
    """Return the name of a class: its WordNet ID and its first synonym, "n02119789 kit fox".

    All synonyms would be longer than figures and tables have room for. A first synonym that another one completes is
    replaced by it: "tabby cat" says more than "tabby", and "Cardigan Welsh corgi" than "Cardigan". Two synsets with the
    same synonym, such as the bird and the machine "crane", differ by their IDs.

    Args:
        wnid: The WordNet ID of the synset.
        words: Its synonyms, with commas between them.
    """
    first, *others = (word.strip() for word in words.split(","))
    synonym = next((other for other in others if other.startswith(f"{first} ")), first)
    return f"{wnid} {synonym}".rstrip()


def is_devkit(path: Path) -> bool:
    """Return whether a path names a development kit: an archive or .mat by its ending, or a folder with a meta.mat."""
    if path.is_dir():
        return any((folder / _META_FILE).is_file() for folder in (path, path / "data"))
    return path.suffix in _KIT_SUFFIXES


def read_devkit(path: Path) -> Devkit:
    """Read a development kit.

    Args:
        path: The .tar.gz, or the folder that it is unpacked to.

    Raises:
        ValueError: The file has another MD5 checksum than the published one; it is damaged; a file is missing; or a
            library is missing.
    """
    files = _read_files(path)
    labels_file = next(filter(_VAL_LABELS_FILE.fullmatch, files), None)
    if labels_file is None:
        raise _missing_file(path, "ILSVRC...._validation_ground_truth.txt")
    year, synsets = _parse_synsets(path, _load_meta(path, files))
    val_ids = parse_labels(f"{path}: {labels_file}", files[labels_file], len(synsets))
    return Devkit(path, year, synsets, val_ids)


def read_synsets(path: Path) -> tuple[int, tuple[Synset, ...]]:
    """Return the year of a challenge, and its synsets in the order of their IDs.

    Args:
        path: The development kit, packed or unpacked, or its meta.mat.

    Raises:
        ValueError: As for `read_devkit`.
    """
    return _parse_synsets(path, _load_meta(path, _read_files(path)))


def read_cost_matrix(path: Path) -> tuple[tuple[Synset, ...], np.ndarray]:
    """Return the synsets of ILSVRC-2010 in the order of their IDs, and the cost of taking one for another.

    Args:
        path: The development kit, packed or unpacked, or its meta.mat.

    Returns:
        The synsets; and (synsets, synsets) float64, the cost of each predicted synset (row) for a correct one (column),
        the height of their lowest common ancestor in WordNet.

    Raises:
        ValueError: As for `read_devkit`; or the kit has no costs, as those of later years.
    """
    contents = _load_meta(path, _read_files(path))
    _, synsets = _parse_synsets(path, contents)
    if _COSTS not in contents:
        raise ValueError(f"{path}: {_META_FILE} must have a {_COSTS}; it has none: take the development kit of 2010")
    costs = np.asarray(contents[_COSTS])
    shape = (len(synsets), len(synsets))
    is_matrix = costs.shape == shape and costs.dtype.kind in "uif" and bool(np.isfinite(costs).all())
    require(is_matrix, f"{path}: {_META_FILE}: the {_COSTS}", f"of {shape[0]} x {shape[0]} finite numbers", costs.shape)
    return synsets, costs.astype(np.float64)


def parse_labels(name: str, contents: bytes, class_count: int) -> np.ndarray:
    """Return the labels in a text file that has one on each line.

    Args:
        name: The file, for messages.
        contents: Its bytes.
        class_count: The number of classes; labels are from 1 to it.

    Returns:
        (N,) int64.

    Raises:
        ValueError: A line is no such label.
    """
    labels = []
    for number, line in enumerate(contents.decode("utf-8", "replace").rstrip().split("\n"), 1):
        text = line.strip()
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= class_count):
            raise ValueError(
                f"{name}, line {number}: a label must be a number from 1 to {class_count}; got {text!r}: take the file "
                "of this challenge, or download it again"
            )
        labels.append(int(text))
    return np.array(labels, np.int64)


def _missing_file(path: Path, name: str) -> ValueError:
    return ValueError(f"{path}: a development kit must have data/{name}; it has none: download it again")


def _read_files(path: Path) -> dict[str, bytes]:
    """Return the contents of the files of a kit that are needed, by name; the kit may be its meta.mat alone."""
    if path.suffix == Path(_META_FILE).suffix:
        return {_META_FILE: path.read_bytes()}
    return _read_folder(path) if path.is_dir() else _read_archive(path)


def _read_folder(path: Path) -> dict[str, bytes]:
    """Return the contents of the files of an unpacked kit that are needed, by name."""
    folder = path / "data" if (path / "data").is_dir() else path
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if _is_needed(file.name)}


def _read_archive(path: Path) -> dict[str, bytes]:
    """Return the contents of the files of a packed kit that are needed, by name."""
    if path.name in PUBLISHED_MD5:
        verify_md5(path, PUBLISHED_MD5[path.name], "download it again from https://image-net.org")
    files = {}
    with open_tar_stream(path) as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            stream = archive.extractfile(member) if _is_needed(name) and member.isreg() else None
            if stream is not None:
                files[name] = stream.read(MAX_FILE_BYTES)
    return files


def _is_needed(name: str) -> bool:
    """Return whether a file of this name is read."""
    return name == _META_FILE or _VAL_LABELS_FILE.fullmatch(name) is not None


def _load_meta(path: Path, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the arrays of a kit's meta.mat, by name."""
    if _META_FILE not in files:
        raise _missing_file(path, _META_FILE)
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise missing_extra(f"reading {_META_FILE} of {path}", "imagenet", error) from error
    try:
        _check_unpacked_size(files[_META_FILE])
        contents: dict[str, Any] = loadmat(io.BytesIO(files[_META_FILE]), squeeze_me=True)
    except Exception as error:  # loadmat raises exceptions of many types for a damaged file
        raise _unreadable_meta(path, error) from error
    return contents


def _check_unpacked_size(contents: bytes) -> None:
    """Raise a ValueError if a compressed variable of a .mat (version 5) unpacks to more than a kit's file has."""
    position = 128  # after the header; then each element has a type, a size and so many bytes
    while position + 8 <= len(contents):
        kind, size = (int.from_bytes(contents[position + i : position + i + 4], "little") for i in (0, 4))
        if kind == _COMPRESSED:
            element = contents[position + 8 : position + 8 + size]
            if len(zlib.decompressobj().decompress(element, MAX_FILE_BYTES + 1)) > MAX_FILE_BYTES:
                raise ValueError(f"it unpacks to more than {MAX_FILE_BYTES:,} bytes")
        position += 8 + size


def _unreadable_meta(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path}: {_META_FILE} must have the challenge's synsets; it cannot be read ({format_error(error)}): download "
        "the kit again"
    )


def _parse_synsets(path: Path, contents: Mapping[str, Any]) -> tuple[int, tuple[Synset, ...]]:
    """Return the year and the synsets without children in a kit's meta.mat, in the order of their IDs."""
    try:
        table = np.atleast_1d(contents["synsets"])
        ids = next(match for name in table.dtype.names or () if (match := _ID_FIELD.fullmatch(name)))
        # The others are above these in WordNet's hierarchy, and have no pictures of their own.
        leaves = table[table["num_children"] == 0]
        synsets = sorted((_parse_synset(row, ids[0]) for row in leaves), key=lambda synset: synset.id)
    except Exception as error:  # a table of another form
        raise _unreadable_meta(path, error) from error
    _check_synsets(path, synsets)
    return int(ids[1]), tuple(synsets)


def _parse_synset(row: Any, id_field: str) -> Synset:
    """Return a synset from its row of the table."""
    return Synset(int(row[id_field]), str(row["WNID"]), str(row["words"]), int(row["num_train_images"]))


def _check_synsets(path: Path, synsets: Sequence[Synset]) -> None:
    """Check that the IDs are 1, 2, 3 ... and the WordNet IDs such, each once."""
    name = f"{path}: {_META_FILE}:"
    require(len(synsets) >= 2, name, "of 2 synsets or more", len(synsets))
    for number, synset in enumerate(synsets, 1):
        require(synset.id == number, f"{name} the IDs", f"1 to {len(synsets)}, each once", synset.id)
        require(WNID.fullmatch(synset.wnid) is not None, f"{name} a WNID", "of the form n02123045", synset.wnid)
    wnids = [synset.wnid for synset in synsets]
    require(len(set(wnids)) == len(wnids), f"{name} the WNIDs", "different from each other", wnids)
