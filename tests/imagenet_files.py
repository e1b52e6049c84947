"""Small files in the formats of ImageNet's challenges and releases: development kits, and archives of pictures."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

# WNIDs whose order differs from that of the IDs, as in the true kits; words as in them.
SYNSETS = {
    "n02119789": "kit fox, Vulpes macrotis",
    "n02100735": "English setter",
    "n02123045": "tabby, tabby cat",
    "n01440764": "tench, Tinca tinca",
}
CLASSES = ("n02119789 kit fox", "n02100735 English setter", "n02123045 tabby cat", "n01440764 tench")
FIELDS = ("WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images")


def draw_jpeg(seed: int, side: int = 40) -> bytes:
    """Return a small JPEG file."""
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(0, 256, (5, 7, 3), np.uint8), np.ones((side // 5, side // 5, 1), np.uint8))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def write_meta(
    path: Path,
    synsets: Mapping[str, str],
    year: int = 2012,
    counts: Sequence[int] = (),
    costs: np.ndarray | None = None,
) -> None:
    """Write a meta.mat: the synsets in the order of their IDs, two that are above them, and 2010's cost matrix."""
    rows = [
        (number, wnid, words, "a gloss", 0, np.zeros((1, 0), np.uint8), 0, count)
        for number, (wnid, words), count in zip(
            range(1, 9999), synsets.items(), counts or [1300] * len(synsets), strict=False
        )
    ]
    children = np.arange(1, len(synsets) + 1)
    for number, wnid in ((len(rows) + 1, "n00001740"), (len(rows) + 2, "n00001930")):
        rows.append((number, wnid, "entity", "a gloss", len(children), children, 19, 0))
    table = np.empty((len(rows), 1), [(name, object) for name in (f"ILSVRC{year}_ID", *FIELDS)])
    table[:, 0] = rows
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"synsets": table} | ({"cost_matrix": costs} if costs is not None else {}))


def write_devkit(
    folder: Path, val_ids: Sequence[int], year: int = 2012, synsets: Mapping[str, str] = SYNSETS, packed: bool = False
) -> Path:
    """Write the development kit into a folder, unpacked or packed, and return its path."""
    name = {2012: "ILSVRC2012_devkit_t12", 2010: "devkit-1.0"}[year]
    write_meta(folder / name / "data" / "meta.mat", synsets, year)
    labels = folder / name / "data" / f"ILSVRC{year}_validation_ground_truth.txt"
    labels.write_text("".join(f"{number}\n" for number in val_ids))
    if not packed:
        return folder / name
    path = folder / f"{name}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder / name, name)
    for file in (folder / name / "data").iterdir():
        file.unlink()
    (folder / name / "data").rmdir()
    (folder / name).rmdir()
    return path


def tar_bytes(files: Mapping[str, bytes]) -> bytes:
    """Return a .tar of files, in the order of the mapping."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, contents in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            archive.addfile(info, io.BytesIO(contents))
    return target.getvalue()


def synset_tars(counts: Mapping[str, int]) -> dict[str, bytes]:
    """Return a .tar of pictures for each synset, n02123045.tar; their order is not the sorted one."""
    return {
        f"{wnid}.tar": tar_bytes(
            {f"{wnid}_{number}.JPEG": draw_jpeg(int(wnid[1:]) + number) for number in reversed(range(1, count + 1))}
        )
        for wnid, count in counts.items()
    }


def numbered_pictures(prefix: str, count: int, folder: str = "") -> dict[str, bytes]:
    """Return numbered pictures, ILSVRC2012_val_00000001.JPEG; their order is not the sorted one."""
    numbers = [*range(2, count + 1), 1]
    return {f"{folder}{prefix}_{number:08d}.JPEG": draw_jpeg(number) for number in numbers}


def write_ilsvrc2012(folder: Path, val_ids: Sequence[int] = (3, 1, 2, 4, 1, 3, 2, 4), each: int = 5) -> Path:
    """Write a challenge of four classes as it is downloaded, and return the folder."""
    folder.mkdir(parents=True)
    write_devkit(folder, val_ids)
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(synset_tars(dict.fromkeys(SYNSETS, each))))
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(numbered_pictures("ILSVRC2012_val", len(val_ids))))
    (folder / "ILSVRC2012_img_test.tar").write_bytes(tar_bytes(numbered_pictures("ILSVRC2012_test", 6)))
    return folder


def unpack_ilsvrc2012(archives: Path, folder: Path, val_ids: Sequence[int] = (3, 1, 2, 4, 1, 3, 2, 4)) -> Path:
    """Unpack a challenge into train/ and val/ with a folder for each synset, and return the folder."""
    wnids = list(SYNSETS)
    folder.mkdir(parents=True)
    write_devkit(folder, val_ids)
    with tarfile.open(archives / "ILSVRC2012_img_train.tar") as outer:
        for member in outer:
            with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                inner.extractall(folder / "train" / member.name.removesuffix(".tar"), filter="data")
    with tarfile.open(archives / "ILSVRC2012_img_val.tar") as archive:
        for member in archive:
            number = int(member.name.removesuffix(".JPEG").rpartition("_")[2])
            archive.extract(member, folder / "val" / wnids[val_ids[number - 1] - 1], filter="data")
    return folder


def write_ilsvrc2010(folder: Path, each: int = 3, val: int = 4, test: int = 6) -> Path:
    """Write the challenge of 2010 of four classes, with a folder in each archive as in the true ones."""
    folder.mkdir(parents=True)
    write_devkit(folder, [1 + number % 4 for number in range(val)], year=2010, packed=True)
    train = {f"train/{name}": tar for name, tar in synset_tars(dict.fromkeys(SYNSETS, each)).items()}
    (folder / "ILSVRC2010_images_train.tar").write_bytes(tar_bytes(train))
    for split, count in (("val", val), ("test", test)):
        pictures = numbered_pictures(f"ILSVRC2010_{split}", count, f"{split}/")
        (folder / f"ILSVRC2010_images_{split}.tar").write_bytes(tar_bytes(pictures))
    labels = "".join(f"{4 - number % 4}\n" for number in range(test))
    (folder / "ILSVRC2010_test_ground_truth.txt").write_text(labels)
    return folder
