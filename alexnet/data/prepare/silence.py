"""Keep the warnings of Pillow and libtiff from the terminal: they name no file, and cost no picture."""

import ctypes
import re
import warnings
from contextlib import suppress
from functools import cache

from PIL import _imaging

_PILLOW_MODULES = re.compile(r"PIL\.")


def silence_libraries() -> None:
    """Ignore Pillow's warnings, in all threads, and stop libtiff from writing to standard error.

    Why a picture cannot be read is in an exception in any case. `warnings.catch_warnings` would not do: its filters
    are those of all threads, and the first thread that leaves the block would remove them.
    """
    _silence_libtiff()
    if not any(module == _PILLOW_MODULES for _, _, _, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES.pattern)


@cache
def _silence_libtiff() -> None:
    library = ctypes.CDLL(_imaging.__file__)  # a symbol is looked up in the libraries that it is linked to, too
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        with suppress(AttributeError):  # not on Windows
            set_handler = getattr(library, name)
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)
