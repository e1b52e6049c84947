"""Reading NumPy files that may be damaged or hostile."""

from pathlib import Path

import numpy as np

from alexnet.utils.console import format_error


def load_array(path: Path) -> np.ndarray:
    """Return the array of a .npy file, memory-mapped: a file that declares a larger array than it has takes no memory.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no .npy file, is damaged, or has Python objects.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(array, np.ndarray):
            return array
        array.close()  # of several arrays
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path.name}: a damaged .npy file ({format_error(error)})") from error
    except Exception as error:  # NumPy reads the header by Python's tokenizer, which has exceptions of its own
        raise ValueError(f"{path.name}: a damaged .npy file ({format_error(error)})") from error
    raise ValueError(f"{path.name}: must be a .npy file with one array; it is an .npz")
