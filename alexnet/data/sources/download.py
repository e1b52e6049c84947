"""Files from the network: resumed where they broke off, checked, and put in their place whole."""

import contextlib
import hashlib
import http.client
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"

CHUNK = 1 << 18  # bytes
TIMEOUT = 30  # seconds without a byte
FRUITLESS = 3  # connections in a row without a byte before giving up


class _BrokenError(Exception):
    """The connection was not made, or broke."""


def download_cifar10(folder: str | Path, *, progress: bool = True) -> Path:
    """Download CIFAR-10's official binary archive, 170 MB, unless it is there.

    Args:
        folder: Where to put it; made if it is not there.
        progress: Whether to show a bar on standard error when that is a terminal.

    Returns:
        The archive's path.

    Raises:
        OSError, ValueError: See `download`.
    """
    path = Path(folder) / CIFAR10_URL.rpartition("/")[2]
    return download(CIFAR10_URL, path, md5=CIFAR10_MD5, progress=progress)


def download(url: str, path: str | Path, *, md5: str, progress: bool = True) -> Path:
    """Download a file, going on where an earlier call broke off.

    What has come so far is kept beside the place, with ".part" at its end; only a whole and checked file gets the name.

    Args:
        url: What to download.
        path: Where to put it; its folder is made if it is not there.
        md5: The checksum it must have, in hexadecimal.
        progress: Whether to show a bar on standard error when that is a terminal.

    Returns:
        The path.

    Raises:
        OSError: The server cannot be reached or breaks off time and again, or the file cannot be written; what has
            come is kept for the next call.
        ValueError: What came, or what was there, has another checksum.
    """
    path = Path(path)
    if path.exists():
        _check(path, md5, "remove it, and it is downloaded anew")
        return path
    part = path.with_name(path.name + ".part")
    with _writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    fruitless = 0
    with tqdm(desc=path.name, unit="B", unit_scale=True, disable=not progress or not sys.stderr.isatty()) as bar:
        while True:
            before = _length(part)
            try:
                if _receive(url, part, bar):
                    break
                reason = "the connection ended early"
            except urllib.error.HTTPError as error:
                raise OSError(f"{url} must be there to download; the server says {error}: {_by_hand(path)}") from error
            except _BrokenError as error:
                reason = str(error)
            fruitless = fruitless + 1 if _length(part) <= before else 0
            if fruitless == FRUITLESS:
                raise OSError(
                    f"{url} could not be reached ({reason}); {_length(part) / 1e6:.1f} MB have come so far: run the "
                    f"same command again with a network and it goes on, or {_by_hand(path)}"
                )
    try:
        _check(part, md5, f"it is removed; try again, or {_by_hand(path)}")
    except ValueError:
        part.unlink()
        raise
    with _writing(path):
        part.replace(path)
    return path


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Tell what the network breaks from what the disk does: both are OSErrors."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(str(getattr(error, "reason", error)) or type(error).__name__) from error


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into a line that says what to do."""
    try:
        yield
    except OSError as error:
        told = OSError(
            f"{path} could not be written ({error.strerror or error}): make room or choose another folder, and run the "
            "same command again; what has come is kept"
        )
        told.errno = error.errno
        raise told from error


def _by_hand(path: Path) -> str:
    return f"put the file at {path} yourself"


def _length(part: Path) -> int:
    """Bytes that have come."""
    return part.stat().st_size if part.exists() else 0


def _receive(url: str, part: Path, bar: tqdm) -> bool:
    """Receive what is missing of a file, over one connection.

    Args:
        url: Where from.
        part: What has come so far; added to, or begun anew where the server sends the whole file only.
        bar: Told of the bytes.

    Returns:
        Whether the file is whole.
    """
    start = _length(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with _reading():
            answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            error.close()
            return True  # there is no byte after those that have come; the checksum tells whether they are right
        raise
    with answer:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0
        length = answer.headers["Content-Length"]
        bar.total = start + int(length) if length else None
        bar.n = start
        with _writing(part), part.open("ab" if start else "wb") as file:
            while chunk := _next(answer):
                file.write(chunk)
                bar.update(len(chunk))
    return length is None or _length(part) == start + int(length)


def _next(answer: http.client.HTTPResponse) -> bytes:
    """The next bytes of an answer; none at its end."""
    with _reading():
        return answer.read(CHUNK)


def _check(path: Path, md5: str, remedy: str) -> None:
    """Raise a ValueError unless a file has the checksum."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise ValueError(f"{path} must have the MD5 checksum {md5}; got {found}: {remedy}")
