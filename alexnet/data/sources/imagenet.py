"""ImageNet's challenges (ILSVRC-2010, ILSVRC-2012) as they are downloaded, or unpacked (section 3).

The folder has ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz, or some of them; for
2010 also ILSVRC2010_images_test.tar with ILSVRC2010_test_ground_truth.txt. Instead of an archive it may have the folder
train/ of a folder for each synset, and val/. The classes are in the order of their IDs in the development kit.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from alexnet.data.sources.base import Source, SourceOptions
from alexnet.data.sources.class_folders import open_class_folders
from alexnet.data.sources.devkit import Devkit, parse_labels, read_devkit
from alexnet.data.sources.file_tree import PictureFiles
from alexnet.data.sources.imagenet_archives import ImageNetArchives, find_imagenet_archives, has_synset_folders
from alexnet.data.sources.synset_files import (
    CorrectedFiles,
    NumberedFiles,
    SynsetFiles,
    SynsetFolders,
    SynsetSplits,
    SynsetTars,
    select_synsets,
)
from alexnet.data.store.class_ids import ClassIds

NAME = "the archives of an ImageNet challenge"
OPTIONS: tuple[str, ...] = ("train_per_class", "synsets", "verify_archives")


def matches(path: Path) -> bool:
    """Return whether the archives of a challenge are at `path`: a folder that has one of them, or one of them.

    Raises:
        ValueError: The files are of several challenges, or an archive is damaged.
    """
    return path.exists() and find_imagenet_archives(path) is not None


def open(path: Path, options: SourceOptions) -> Source:
    """List the pictures of a challenge, in place.

    Args:
        path: The folder, or one of the archives; then its pictures only.
        options: `synsets`, `verify_archives`, and those for class folders. With `test` 1 there need be no training
            pictures.

    Raises:
        ValueError: The training pictures or the development kit are missing; an archive is damaged or has another
            checksum; a synset is unknown or has no pictures; a label is out of range; an option does not suit.
    """
    archives = find_imagenet_archives(path)
    assert archives is not None, "`matches` has found them"
    if options.verify_archives:
        archives.verify()
    if archives.train is None and not options.only_tests:
        raise ValueError(
            f"{path}: has no training pictures ({archives.missing['train']}); download them into this folder"
            + ("; `alexnet submit` takes pictures without labels" if archives.test else "")
            + (", or test on val alone with `test=1`" if archives.val else "")
        )
    devkit = _open_devkit(path, archives)
    class_names = {synset.wnid: synset.class_name for synset in devkit.synsets}
    splits = _open_other_splits(archives, devkit)
    if archives.train is None:
        kept = select_synsets(devkit.path, class_names, options.synsets)
    else:
        train = _open_train(archives.train, class_names, str(devkit.path))
        kept = select_synsets(archives.train, train.synsets, options.synsets)
        train.keep(kept)
        splits = {"train": train} | splits
    if not splits:
        raise ValueError(
            f"{path}: has no pictures with labels, to test on; add those of val ({archives.missing['val']})"
        )
    if archives.corrections is not None:
        splits = {name: CorrectedFiles(files, archives.corrections) for name, files in splits.items()}
    tree = SynsetSplits(path.resolve().name, splits, left_out=set(class_names) - kept)
    source = open_class_folders(path, tree, options, {wnid: class_names[wnid] for wnid in class_names if wnid in kept})
    ids = {synset.class_name: synset.id for synset in devkit.synsets}
    source.class_ids = ClassIds(f"ILSVRC{devkit.year}", tuple(ids[name] for name in source.classes))
    source.ignored |= _count_missing(archives, devkit, source)
    return source


def _open_devkit(path: Path, archives: ImageNetArchives) -> Devkit:
    """Read the development kit of a challenge, and check that it is of the same year."""
    if archives.devkit is None:
        raise ValueError(
            f"{path}: the development kit is missing, which has the classes and the labels; download "
            f"{archives.missing['devkit']} from https://image-net.org into {archives.folder}"
        )
    devkit = read_devkit(archives.devkit)
    if archives.year not in (None, devkit.year):
        raise ValueError(
            f"{archives.devkit}: is the development kit of ILSVRC{devkit.year}, but the pictures are of "
            f"ILSVRC{archives.year}; put that of ILSVRC{archives.year} in its place"
        )
    return devkit


def _open_train(path: Path, class_names: Collection[str], devkit: str) -> SynsetTars | SynsetFolders:
    """Open the training pictures, and check that the kit has all their synsets."""
    train = SynsetFolders(path) if path.is_dir() else SynsetTars(path)
    unknown = [synset for synset in train.synsets if synset not in class_names]
    if unknown:
        raise ValueError(
            f"{path}: the synset of {train.synsets[unknown[0]]} must be in {devkit}; it is not"
            + (f", nor are {len(unknown) - 1} more" if len(unknown) > 1 else "")
            + ": use the kit that belongs to these pictures"
        )
    return train


def _open_other_splits(archives: ImageNetArchives, devkit: Devkit) -> dict[str, SynsetFiles]:
    """Open the validation and test pictures that have labels: in a list, or as folders of synsets."""
    labels = {"val": devkit.val_ids}
    if archives.test is not None and archives.test_labels is not None:
        contents = archives.test_labels.read_bytes()
        labels["test"] = parse_labels(str(archives.test_labels), contents, len(devkit.synsets))
    splits: dict[str, SynsetFiles] = {}
    for split, path in (("val", archives.val), ("test", archives.test)):
        if path is not None and path.is_dir() and has_synset_folders(path):
            splits[split] = SynsetFolders(path)
        elif path is not None and split in labels:
            splits[split] = NumberedFiles(path, [devkit.synsets[number - 1].wnid for number in labels[split]])
    return splits


def _count_missing(archives: ImageNetArchives, devkit: Devkit, source: PictureFiles) -> dict[str, int]:
    """Return how much of the challenge is not used, by its description."""
    assert source.class_ids is not None
    missing = {"synsets of the development kit without a picture": len(devkit.synsets) - len(source.classes)}
    if archives.val is not None:
        labels = int(np.isin(devkit.val_ids, source.class_ids.ids).sum())
        missing["labels of val without a picture"] = labels - len(source.splits["val"])
    if archives.test is not None and "test" not in source.splits:
        missing[f"archive of test pictures, since it has no labels ({archives.test.name})"] = 1
    return {name: count for name, count in missing.items() if count > 0}
