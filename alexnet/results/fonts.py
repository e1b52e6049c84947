"""Fonts for class names of any script, from those that this machine has."""

import functools
import sys

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

# First matplotlib's own font; then fonts of many scripts, if the machine has them; then all its other fonts.
_PREFERRED = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Noto Sans")
_NORMAL_WEIGHT = 400
_NO_LETTERS = "Last Resort"  # such a font has a box with the script's name for each letter


def set_name(text: Text, name: str) -> None:
    """Set a text to a class name, as `fit_name` returns it, in fonts that have its letters."""
    name, families = fit_name(name)
    text.set_text(name)
    text.set_fontfamily(families)
    text.set_parse_math(False)


def fit_name(name: str) -> tuple[str, list[str]]:
    """Return a class name as it can be drawn, and the names of fonts that have its letters.

    A letter that no font of this machine has becomes its code, such as U+732B, and a note on standard error says so
    once.
    """
    families, missing = find_fonts(frozenset(name))
    for letter in missing:
        name = name.replace(letter, f"U+{ord(letter):04X} ")
    if missing:
        print_note()
    return name.rstrip(), list(families)


@functools.cache
def find_fonts(letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the names of fonts that together have these letters, and the letters that no font has."""
    missing = {ord(letter) for letter in letters if not letter.isspace()}
    families = [_PREFERRED[0]]
    missing -= letters_of(_PREFERRED[0])
    for family in (*_PREFERRED[1:], *sorted(font_files())) if missing else ():
        if missing & letters_of(family):
            families.append(family)
            missing -= letters_of(family)
        if not missing:
            break
    return tuple(families), frozenset(map(chr, missing))


@functools.cache
def font_files() -> dict[str, str]:
    """Return the file of each font of this machine by its name: of a normal style, the one nearest to normal weight."""
    fonts = [f for f in font_manager.fontManager.ttflist if f.style == "normal" and _NO_LETTERS not in f.name]
    fonts.sort(key=lambda font: -abs(_weight(font.weight) - _NORMAL_WEIGHT))
    return {font.name: font.fname for font in fonts}


def _weight(weight: str | int) -> int:
    return weight if isinstance(weight, int) else font_manager.weight_dict.get(weight, _NORMAL_WEIGHT)


@functools.cache
def letters_of(family: str) -> frozenset[int]:
    """Return the codes of the letters that a font has; none if the machine does not have the font, or not any more."""
    try:
        return frozenset(FT2Font(font_files()[family]).get_charmap())
    except (KeyError, OSError, RuntimeError):
        return frozenset()


@functools.cache
def print_note() -> None:
    """Print once what to do about letters that no font has."""
    print(
        "note: figures show U+... for letters of class names that no font of this machine has: install a font with "
        "them, such as the package fonts-noto-cjk, and remove matplotlib's list of fonts, ~/.cache/matplotlib",
        file=sys.stderr,
    )
