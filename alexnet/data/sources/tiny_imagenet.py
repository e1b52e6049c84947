"""The files of Tiny ImageNet's layout beside its pictures: words for the classes, and a list of classes for val/.

wnids.txt                 the classes
words.txt                 words for each class of ImageNet
train/<wnid>/images/      the training pictures, in class folders
val/images/               the validation pictures of all classes
val/val_annotations.txt   the class of each
test/images/              pictures without classes
"""

import os
from collections.abc import Collection, Iterable

from alexnet.data.sources.base import printable_name
from alexnet.data.sources.file_tree import FileTree
from alexnet.data.sources.listing import FileList, FolderPath, Listing
from alexnet.utils.wordnet import WNID

WORDS_FILE = "words.txt"  # a line for each class: its name, a tab, its words
WNIDS_FILE = "wnids.txt"  # a line for each class: its name
ANNOTATIONS_FILE = "val_annotations.txt"  # a line for each picture: its file, a tab, its class, and numbers of a box
TEXT_FILES = frozenset((WORDS_FILE, WNIDS_FILE, ANNOTATIONS_FILE))


def group_by_annotations(
    name: str, tree: FileTree, listing: Listing, folder: FolderPath, classes: Collection[str] | None
) -> dict[str, FileList]:
    """Return the pictures below a folder by class, sorted, as val_annotations.txt in it says.

    Args:
        name: The source, for messages.
        tree: The files.
        listing: Their listing.
        folder: The folder of the split, such as val/. It has a val_annotations.txt.
        classes: The class folders of train/; None if there is no train/.

    Raises:
        ValueError: A line is not a file and one of the classes, or a picture has no line.
    """
    path = "/".join((*folder, ANNOTATIONS_FILE))
    files = listing.files_below(folder)
    numbers = {os.path.basename(file): number for number, file in enumerate(files.names())}  # noqa: PTH119 (bytes)
    by_class: dict[str, FileList] = {}
    for line_number, line in _read_lines(tree, listing, (*folder, ANNOTATIONS_FILE)):
        file, *fields = line.split("\t")
        if not fields or not fields[0].strip():
            raise ValueError(f"{name}: {path}: line {line_number} must be a file, a tab and a class; got {line[:80]!r}")
        number = numbers.pop(os.fsencode(file), None)
        if number is None:
            raise ValueError(
                f"{name}: {path}: line {line_number} must name a picture in {'/'.join(folder)}/, each once; "
                f"got {printable_name(file)!r}"
            )
        class_name = fields[0].strip()
        if classes is not None and class_name not in classes:
            raise ValueError(
                f"{name}: {path}: line {line_number} must name one of the {len(classes)} classes of train; got "
                f"{class_name[:80]!r}: correct it, or unpack the archive again"
            )
        by_class.setdefault(class_name, FileList()).append(files.take(number))
    if numbers:
        file = printable_name(os.fsdecode(min(numbers)))
        raise ValueError(
            f"{name}: {path} has no line for {len(numbers)} pictures; the first is {file!r}: add its class"
        )
    return dict(sorted(by_class.items()))


def name_classes(name: str, tree: FileTree, listing: Listing, top: FolderPath, classes: Iterable[str]) -> list[str]:
    """Return the names of classes with their words: "n02123045 tabby, tabby cat" for the folder "n02123045".

    The names remain as they are if there is no words.txt, or if they are not all numbers of WordNet.

    Args:
        name: The source, for messages.
        tree: The files.
        listing: Their listing.
        top: The folder with words.txt and wnids.txt.
        classes: The names of the class folders.

    Raises:
        ValueError: The classes are not those of wnids.txt.
    """
    classes = list(classes)
    if (*top, WORDS_FILE) not in listing.texts or not all(map(WNID.fullmatch, classes)):
        return classes
    if (*top, WNIDS_FILE) in listing.texts:
        listed = {line.strip() for _, line in _read_lines(tree, listing, (*top, WNIDS_FILE))}
        if difference := sorted(listed ^ set(classes)):
            place = WNIDS_FILE if difference[0] in listed else "the folders"
            raise ValueError(
                f"{name}: the class folders must be those of {WNIDS_FILE}; {difference[0]} is only in {place}: "
                "unpack the archive again"
            )
    wanted = set(classes)
    fields = (line.partition("\t") for _, line in _read_lines(tree, listing, (*top, WORDS_FILE)))
    words = {wnid: text.strip() for wnid, _, text in fields if wnid in wanted}
    return [f"{wnid} {words.get(wnid, '')}".strip() for wnid in classes]


def _read_lines(tree: FileTree, listing: Listing, path: FolderPath) -> list[tuple[int, str]]:
    """Return the lines of a text file that are not empty, with their numbers from 1 on."""
    text = tree.read(listing.texts[path]).decode("utf-8", "surrogateescape")
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
