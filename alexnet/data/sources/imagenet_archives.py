"""Which files of an ImageNet challenge lie in a folder: as they are downloaded, or unpacked."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

from alexnet.data.sources.archive import first_names_in_tar
from alexnet.data.sources.devkit import PUBLISHED_MD5
from alexnet.data.sources.download import verify_md5
from alexnet.data.sources.synset_files import synset_of_tar
from alexnet.utils.console import note_once
from alexnet.utils.wordnet import WNID

# ILSVRC2012_img_train.tar, ILSVRC2010_images_val.tar, ILSVRC2012_img_test_v10102019.tar; not ..._train_t3.tar, the dogs
# of another task.
_SPLIT_ARCHIVE = re.compile(r"ILSVRC(\d{4})_(?:img|images)_(train|val|test)(?:_v\d+)?\.tar", re.IGNORECASE)
_SPLIT_FOLDER = re.compile(r"(?:ILSVRC(\d{4})_(?:img|images)_)?(train|val|test)", re.IGNORECASE)
# ILSVRC2012_devkit_t12.tar.gz, devkit-1.0.tar.gz; not ..._devkit_t3.tar.gz.
_DEVKIT = re.compile(r"(?:ILSVRC(\d{4})_)?devkit(?:_t12|-\d[\d.]*?)?(?:\.tar\.gz|\.tgz)?", re.IGNORECASE)
_TEST_LABELS = re.compile(r"(?:ILSVRC(\d{4})_test.*|test_?(?:ground_?truth|labels?))\.txt", re.IGNORECASE)
_CORRECTIONS = re.compile(r"patch_images()\.tar", re.IGNORECASE)


@dataclass(frozen=True)
class ImageNetArchives:
    """The files of an ImageNet challenge (ILSVRC) in a folder.

    Args:
        folder: The folder.
        year: The year of the challenge; None if no name says it.
        devkit: The development kit, packed or unpacked.
        train: The training pictures: a .tar of a .tar for each synset, or a folder of a folder for each.
        val: The validation pictures: a .tar or folder of numbered files, or a folder of a folder for each synset.
        test: The test pictures, as `val`.
        test_labels: The labels of the test pictures, which were published for 2010 only.
        corrections: Pictures that replace others of the same name: patch_images.tar of 2010.
    """

    folder: Path
    year: int | None = None
    devkit: Path | None = None
    train: Path | None = None
    val: Path | None = None
    test: Path | None = None
    test_labels: Path | None = None
    corrections: Path | None = None

    @property
    def present(self) -> dict[str, Path]:
        """The path of each file that is there, by its role: devkit, train, val ..."""
        roles = (field.name for field in fields(self) if field.name not in ("folder", "year"))
        return {role: path for role in roles if (path := getattr(self, role)) is not None}

    @property
    def missing(self) -> dict[str, str]:
        """The usual name of each file of the challenge that is not there, by its role."""
        names = _usual_names(self.year or 2012)
        return {role: name for role, name in names.items() if getattr(self, role) is None}

    def only(self, path: Path) -> "ImageNetArchives":
        """Return these files without the pictures of other splits than the one at `path`."""
        train, val, test = (split if split == path else None for split in (self.train, self.val, self.test))
        return replace(self, train=train, val=val, test=test, test_labels=self.test_labels if test else None)

    def verify(self) -> None:
        """Compare the MD5 checksums of the archives with the published ones; this reads them whole.

        Raises:
            ValueError: A checksum is another.
        """
        for path in self.present.values():
            if path.name in PUBLISHED_MD5:
                verify_md5(path, PUBLISHED_MD5[path.name], "download it again", progress=True)
            elif path.is_file():
                note_once(f"{path} has no published checksum; it is not verified")


def find_imagenet_archives(path: Path) -> ImageNetArchives | None:
    """Find the files of an ImageNet challenge.

    Args:
        path: A folder that has them, or one of the archives. Then the other splits are left out.

    Returns:
        The files; None if there is no archive of a challenge, nor a folder of train/ with a development kit.

    Raises:
        ValueError: There are files of several challenges; or an archive is damaged.
    """
    if path.is_file():
        if match := _SPLIT_ARCHIVE.fullmatch(path.name):
            return _find_in_folder(path.parent, match[1]).only(path)
        if not is_tar_of_synset_tars(path):
            return None
        archives = _find_in_folder(path.parent)
        return replace(archives.only(path), train=path) if archives.devkit is not None else None
    archives = _find_in_folder(path)
    packed = [path for path in archives.present.values() if _SPLIT_ARCHIVE.fullmatch(path.name)]
    if not packed and (archives.devkit is None or archives.train is None):
        return None
    return archives


def is_tar_of_synset_tars(path: Path) -> bool:
    """Return whether a file is a .tar that begins with the .tar of a synset.

    Raises:
        ValueError: The archive is damaged.
    """
    return any(map(synset_of_tar, first_names_in_tar(path)))


def has_synset_folders(path: Path) -> bool:
    """Return whether a folder has folders that are named by synsets."""
    return any(WNID.fullmatch(child.name) and child.is_dir() for child in path.iterdir())


def _find_in_folder(folder: Path, only_year: str | None = None) -> ImageNetArchives:
    """Find the files in a folder, by their names. An archive is preferred to the folder that it was unpacked to.

    Args:
        folder: The folder.
        only_year: The year of the challenge, whose files may lie beside those of others; None if there must be one.

    Raises:
        ValueError: There are files of several challenges.
    """
    by_role: dict[str, Path] = {}
    years: dict[str, Path] = {}
    for role, year, path in sorted(_assign_roles(folder), key=lambda item: (item[2].is_file(), item[2].name)):
        if only_year is not None and year not in (None, only_year):
            continue
        by_role[role] = path
        if year is not None:
            years.setdefault(year, path)
    if len(years) > 1:
        (first, first_path), (second, second_path) = sorted(years.items())[:2]
        raise ValueError(
            f"{folder}: the files must be of one challenge; {first_path.name} is of ILSVRC{first} and "
            f"{second_path.name} of ILSVRC{second}: move the files of one of them to another folder"
        )
    return ImageNetArchives(folder, year=int(next(iter(years))) if years else None, **by_role)


def _assign_roles(folder: Path) -> Iterator[tuple[str, str | None, Path]]:
    """Yield the role of each file or folder that has one, the year that its name says, and its path."""
    for path in folder.iterdir():
        name = path.name
        if path.is_dir():
            if match := _SPLIT_FOLDER.fullmatch(name):
                split = match[2].lower()
                if split != "train" or has_synset_folders(path):
                    yield split, match[1], path
            elif (match := _DEVKIT.fullmatch(name)) and not name.endswith("gz"):
                yield "devkit", match[1], path
        elif match := _SPLIT_ARCHIVE.fullmatch(name):
            yield match[2].lower(), match[1], path
        elif (match := _DEVKIT.fullmatch(name)) and name.endswith("gz"):
            yield "devkit", match[1], path
        elif match := _TEST_LABELS.fullmatch(name):
            yield "test_labels", match[1], path
        elif match := _CORRECTIONS.fullmatch(name):
            yield "corrections", None, path


def _usual_names(year: int) -> dict[str, str]:
    """Return the name that each file of a challenge has where it is downloaded, by its role."""
    if year == 2010:
        names = {split: f"ILSVRC2010_images_{split}.tar" for split in ("train", "val", "test")}
        return names | {
            "devkit": "ILSVRC2010_devkit-1.0.tar.gz",
            "test_labels": "ILSVRC2010_test_ground_truth.txt",
            "corrections": "patch_images.tar",
        }
    names = {split: f"ILSVRC{year}_img_{split}.tar" for split in ("train", "val", "test")}
    return names | {"devkit": f"ILSVRC{year}_devkit_t12.tar.gz"}
