"""A release of ImageNet, such as those of Fall 2009 and Fall 2011: a .tar for each synset (section 7).

They are in a folder, or in one .tar (fall11_whole.tar). The classes are the synsets, sorted by their WordNet IDs. Their
words are in ImageNet's file words.txt, if it lies beside the archives.
"""

from pathlib import Path

from alexnet.data.sources.base import Source, SourceOptions
from alexnet.data.sources.class_folders import open_class_folders
from alexnet.data.sources.devkit import name_class
from alexnet.data.sources.imagenet_archives import has_synset_folders, is_tar_of_synset_tars
from alexnet.data.sources.synset_files import SynsetFolders, SynsetSplits, SynsetTars, select_synsets, synset_of_tar

NAME = "ImageNet's archives by synset"
OPTIONS: tuple[str, ...] = ("train_per_class", "synsets")

_WORDS_FILE = "words.txt"


def matches(path: Path) -> bool:
    """Return whether a .tar for each synset is at `path`, in a folder or a .tar; or their folders with words.txt.

    Raises:
        ValueError: An archive is damaged.
    """
    return path.exists() and _find_pictures(path) is not None


def open(path: Path, options: SourceOptions) -> Source:
    """List the pictures of a release, in place.

    Args:
        path: The folder or the .tar.
        options: `synsets`, and those for class folders; with `held_out` 0.5 half of each class is held out.

    Raises:
        ValueError: An archive is damaged or empty, a synset is not there, or an option does not suit.
    """
    pictures = _find_pictures(path)
    assert pictures is not None, "`matches` has found them"
    files = SynsetFolders(pictures) if _has_folders(pictures) else SynsetTars(pictures)
    files.keep(select_synsets(pictures, files.synsets, options.synsets))
    words = _read_words((path if path.is_dir() else path.parent) / _WORDS_FILE)
    class_names = {synset: name_class(synset, words.get(synset, "")) for synset in files.synsets}
    return open_class_folders(path, SynsetSplits(path.resolve().name, {"": files}), options, class_names)


def _find_pictures(path: Path) -> Path | None:
    """Return the folder or .tar with the pictures, which is `path` or the only archive in it; None if there is none."""
    if path.is_file():
        return path if is_tar_of_synset_tars(path) else None
    if any(synset_of_tar(child.name) for child in path.iterdir()):
        return path
    if (path / _WORDS_FILE).is_file() and has_synset_folders(path):
        return path
    archives = [child for child in path.glob("*.tar") if is_tar_of_synset_tars(child)]
    return archives[0] if len(archives) == 1 else None


def _has_folders(path: Path) -> bool:
    """Return whether the pictures are in a folder for each synset, and not in archives."""
    return path.is_dir() and not any(synset_of_tar(child.name) for child in path.iterdir())


def _read_words(path: Path) -> dict[str, str]:
    """Return the words of each synset in words.txt, which has a synset, a tab and its words on each line."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {synset: words for synset, tab, words in (line.partition("\t") for line in lines) if tab}
