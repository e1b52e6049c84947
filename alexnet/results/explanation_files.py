"""The files of `alexnet predict --explain`: a PNG for each picture, in a folder that may have other files."""

import re
import tempfile
from collections import Counter
from pathlib import Path

from PIL import Image

from alexnet.results.classifier import Prediction
from alexnet.results.explanation import GUESSES, Explainer, draw_explanation
from alexnet.results.figures import to_png
from alexnet.utils.files import explain_full_disk, write_atomic

_TITLE = "explanation of a prediction"
_STEM_LENGTH = 100  # characters; file systems allow 255 bytes


class ExplanationFolder:
    """A folder that gets a PNG for each predicted picture.

    A file that exists is replaced only if it was written for a picture of the same name; the others get a number.

    Args:
        folder: The folder; it is created if it does not exist.
        explainer: What explains the predictions.

    Raises:
        OSError: The folder is a file, or no file can be written to it.
    """

    def __init__(self, folder: str | Path, explainer: Explainer) -> None:
        self._folder, self._explainer = Path(folder), explainer
        self._written: Counter[str] = Counter()  # files by the first part of their names
        _check_folder(self._folder)

    @property
    def guesses(self) -> int:
        """The number of classes that are shown of each prediction, if it has so many."""
        return GUESSES

    def write(self, prediction: Prediction) -> Path:
        """Write the explanation of a prediction and return its path.

        Args:
            prediction: A prediction with its picture.

        Raises:
            OSError: It cannot be written; nothing of it is left.
        """
        assert prediction.picture is not None
        guesses = prediction.classes[:GUESSES]
        explanation = self._explainer.explain(prediction.picture, guesses[0][0])
        name = _to_text(prediction.name)
        metadata = {"Software": "alexnet", "Title": _TITLE, "Source": name}
        contents = to_png(draw_explanation(explanation, guesses), dpi=110, metadata=metadata)
        path = self._choose_path(prediction.name, name)
        with explain_full_disk(path):
            write_atomic(path, contents)
        return path

    def _choose_path(self, name: str, source: str) -> Path:
        """Return the path for a picture: NAME.png, or NAME-2.png where another file has that name, and so on."""
        stem = _file_stem(name)
        while True:
            self._written[stem] += 1
            number = self._written[stem]
            path = self._folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
            if not (path.exists() or path.is_symlink()) or _source(path) == source:
                return path


def _check_folder(folder: Path) -> None:
    """Create a folder, and check that files can be written to it."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} must be a folder for the explanations; it is a file: name another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{folder} must be a folder that you may write to; {reason}: name another") from error


def _file_stem(name: str) -> str:
    """Return the first part of a file's name for a picture: that of the picture's own, without its folders."""
    last = re.split(r"[?#]", name)[0] if "://" in name else name
    last = re.split(r"[/\\]", last.rstrip("/\\"))[-1]
    stem = re.sub(r"[\x00-\x1f\x7f:*\"<>|]", "_", Path(last).stem).strip(". ")
    return _to_text(stem)[:_STEM_LENGTH] or "picture"


def _to_text(name: str) -> str:
    """Return a name as text that UTF-8 can express: the bytes of a file's name need not be text."""
    return name.encode("utf-8", "backslashreplace").decode()


def _source(path: Path) -> str | None:
    """Return the name of the picture that a file of this folder was written for; None if it is another file."""
    if not path.is_file():
        return None
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()  # what is written after the pixels, too
            return image.info.get("Source") if image.info.get("Title") == _TITLE else None
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
