"""Download files: resume after a broken connection, verify the checksum, and rename the file when it is complete."""

import contextlib
import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from alexnet.utils.console import format_bytes

_CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"

_CHUNK_BYTES = 1 << 18
_TIMEOUT_SECONDS = 30  # without a byte
MAX_EMPTY_CONNECTIONS = 3  # connections in a row that bring no byte, until the download is given up


class _NetworkError(Exception):
    """The server cannot be reached, or the connection is broken."""


def download_cifar10(folder: str | Path, *, progress: bool = True) -> Path:
    """Download CIFAR-10's official binary archive (170 MB), unless it is in the folder.

    Args:
        folder: Where to put the archive. It is created if there is no such folder.
        progress: Whether to show a progress bar if standard error is a terminal.

    Returns:
        The path of the archive.

    Raises:
        OSError, ValueError: See `download`.
    """
    path = Path(folder) / _CIFAR10_URL.rpartition("/")[2]
    return download(_CIFAR10_URL, path, md5=CIFAR10_MD5, progress=progress)


def download(url: str, path: str | Path, *, md5: str, progress: bool = True) -> Path:
    """Download a file, or continue a download that was interrupted.

    The bytes received so far are in a file beside it whose name ends in ".part". It is renamed once it is complete and
    its checksum is right.

    Args:
        url: The address of the file.
        path: Where to put the file. Its folder is created if there is none.
        md5: The MD5 checksum that the file must have, in hexadecimal.
        progress: Whether to show a progress bar if standard error is a terminal.

    Returns:
        The path.

    Raises:
        OSError: The server cannot be reached or breaks off repeatedly, or the file cannot be written. What was received
            is used by the next call.
        ValueError: The file has another checksum.
    """
    path = Path(path)
    if path.exists():
        verify_md5(path, md5, "remove it and run the same command again to download it")
        return path
    part = path.with_name(path.name + ".part")
    with _explain_write_errors(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(desc=path.name, unit="B", unit_scale=True, disable=None if progress else True) as bar:
        _receive_all(url, part, path, bar)
    try:
        verify_md5(part, md5, f"the download is deleted; try again, or {_manual_remedy(path)}")
    except ValueError:
        part.unlink()
        raise
    with _explain_write_errors(path):
        part.replace(path)
    return path


def _receive_all(url: str, part: Path, path: Path, bar: tqdm) -> None:
    """Receive the rest of a file over as many connections as it takes.

    Args:
        url: The address of the file.
        part: The file with the bytes received so far.
        path: Where the complete file will be, for messages.
        bar: The progress bar, in bytes.
    """
    empty_connections = 0
    while True:
        before = _file_size(part)
        try:
            if _receive(url, part, bar):
                return
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            raise OSError(f"{url} cannot be downloaded; the server says {error}: {_manual_remedy(path)}") from error
        except _NetworkError as error:
            reason = str(error)
        empty_connections = empty_connections + 1 if _file_size(part) <= before else 0
        if empty_connections == MAX_EMPTY_CONNECTIONS:
            raise OSError(
                f"{url} could not be reached ({reason}); {format_bytes(_file_size(part))} were received: check the "
                f"network and run the same command again to continue, or {_manual_remedy(path)}"
            )


def _receive(url: str, part: Path, bar: tqdm) -> bool:
    """Receive the rest of a file over one connection.

    Args:
        url: The address of the file.
        part: The file with the bytes received so far. New bytes are appended. It is overwritten if the server can send
            complete files only.
        bar: The progress bar, in bytes.

    Returns:
        Whether the file is complete.
    """
    start = _file_size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with _as_network_error():
            response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            error.close()
            return True  # the file ends where the part does; the checksum will tell whether the part is right
        raise
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0
        length = response.headers["Content-Length"]
        bar.total = start + int(length) if length else None
        bar.n = start
        with _explain_write_errors(part), part.open("ab" if start else "wb") as file:
            while chunk := _read_chunk(response):
                file.write(chunk)
                bar.update(len(chunk))
    return length is None or _file_size(part) == start + int(length)


def _read_chunk(response: http.client.HTTPResponse) -> bytes:
    """Return the next bytes of a response; none at its end."""
    with _as_network_error():
        return response.read(_CHUNK_BYTES)


@contextlib.contextmanager
def _as_network_error() -> Iterator[None]:
    """Turn errors of the network into `_NetworkError`: errors of the disk are OSErrors too."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise _NetworkError(str(getattr(error, "reason", error)) or type(error).__name__) from error


@contextlib.contextmanager
def _explain_write_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a folder without write permission into an error that says what to do."""
    try:
        yield
    except OSError as error:
        explained = OSError(
            f"{path} could not be written ({error.strerror or error}): free some space or choose another folder, and "
            "run the same command again to continue"
        )
        explained.errno = error.errno
        raise explained from error


def _manual_remedy(path: Path) -> str:
    return f"put the file at {path} yourself"


def _file_size(path: Path) -> int:
    """Return the size of a file in bytes, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def verify_md5(path: Path, md5: str, remedy: str, *, progress: bool = False) -> None:
    """Raise a ValueError if a file has another checksum.

    Args:
        path: The file.
        md5: The MD5 checksum that it must have, in hexadecimal.
        remedy: What to do if it has another.
        progress: Whether to show a progress bar if standard error is a terminal.
    """
    digest = hashlib.md5(usedforsecurity=False)
    bar = tqdm(
        desc=f"verify {path.name}",
        total=path.stat().st_size,
        unit="B",
        unit_scale=True,
        disable=None if progress else True,
    )
    with path.open("rb") as file, bar:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            bar.update(len(chunk))
    actual = digest.hexdigest()
    if actual != md5:
        raise ValueError(f"{path} must have the MD5 checksum {md5}; got {actual}: {remedy}")
