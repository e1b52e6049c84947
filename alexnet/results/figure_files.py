"""Figures as PNG files, which say what they were drawn by."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from alexnet.recipe import Recipe, recipe_differences
from alexnet.results.figures import to_png
from alexnet.results.report_html import recipe_name
from alexnet.utils.files import SOFTWARE, FileKind, check_output, write_atomic, write_output


def recipe_digest(recipe: Recipe) -> str:
    """Return a digest of the fields of a recipe that differ from the paper's, without the seed.

    It stays the same if later versions have further fields.
    """
    differences = recipe_differences(Recipe(), replace(recipe, seed=0))
    return hashlib.sha256(json.dumps([(path, value) for path, _, value in differences]).encode()).hexdigest()


def save_figure(path: Path, figure: Figure, recipe: Recipe, dpi: int = 144) -> None:
    """Write a figure to a folder of our own, that of a run or an experiment, and replace the file that is there.

    Args:
        path: The file to write.
        figure: The figure.
        recipe: The recipe of the net that the figure is about; its name and digest are written into the file.
        dpi: Pixels for each inch.
    """
    write_atomic(path, _to_marked_png(figure, recipe, dpi))


def write_figure(path: Path, figure: Figure, recipe: Recipe, *, force: bool) -> None:
    """Write a figure, as `save_figure`, to a folder of the user's.

    Args:
        path, figure, recipe: As for `save_figure`.
        force: Whether to replace a figure that alexnet has drawn. Another file is never replaced.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: As `check_output`.
    """
    write_output(path, _to_marked_png(figure, recipe), _FIGURE, force=force)


def _to_marked_png(figure: Figure, recipe: Recipe, dpi: int = 144) -> bytes:
    """Return a figure as PNG, with the name and the digest of the recipe that it was made by."""
    return to_png(figure, dpi, {"Recipe": recipe_name(recipe), "Digest": recipe_digest(recipe)})


def check_figures(folder: Path, names: Iterable[str], *, force: bool) -> None:
    """Check, before anything is drawn, that figures may be written to a folder, which need not exist yet.

    Raises:
        FileExistsError: A file of another kind exists, or a figure and `force` is not set.
        NotADirectoryError: The folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} must be a folder to write figures to; it is a file: name another folder")
    for name in names if folder.exists() else ():
        check_output(folder / f"{name}.png", _FIGURE, force=force)


def _is_figure(path: Path) -> bool:
    """Return whether a file is a PNG that alexnet has drawn."""
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == SOFTWARE
    except (OSError, ValueError, Image.DecompressionBombError):
        return False


_FIGURE = FileKind("a figure drawn by alexnet", (".png",), _is_figure)
