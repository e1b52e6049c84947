"""The files of a folder in an object store or on a server, read through fsspec."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from alexnet.data.store.format import OFFSETS_FILE
from alexnet.data.store.location import StoreURL
from alexnet.utils.console import format_error
from alexnet.utils.extras import missing_extra

_MAX_CONNECTIONS = 64  # to S3, for each process; the library's default of 10 gives 250 pictures/s at 40 ms each


class ByteRange(NamedTuple):
    """A range of bytes of a file: the name of the file in the folder, the first byte, and the one after the last."""

    file: str
    start: int
    stop: int


class RemoteFolder:
    """A folder in an object store or on a server. A process that is forked connects to it anew.

    Args:
        url: Its URL. The library of the file system finds the credentials in its usual places. For S3 these are the
            environment (AWS_PROFILE, AWS_ENDPOINT_URL ...), the folder ~/.aws, and the machine's own role.

    Raises:
        ValueError: A package is missing, or fsspec does not know this kind of URL.
    """

    def __init__(self, url: StoreURL) -> None:
        self.url = url
        self._connect()

    def _connect(self) -> None:
        """Open the file system for this process: its threads and connections do not exist in another one."""
        import fsspec  # takes as long to import as all other packages here together

        url, options, self._process = self.url, {}, os.getpid()
        if url.startswith(("s3://", "s3a://")):
            configured = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
            options = {"config_kwargs": {"max_pool_connections": _MAX_CONNECTIONS} | configured}
        try:
            self._file_system, self._root = fsspec.url_to_fs(str(url), **options)
        except ImportError as error:
            raise missing_extra(f"{url}:", "remote", error) from error
        except ValueError as error:
            raise ValueError(f"{url}: not a known kind of URL ({error}); use one such as s3://bucket/x") from error

    @property
    def _files(self) -> Any:
        """The file system, of this process."""
        if self._process != os.getpid():
            self._connect()
        return self._file_system

    def read_file(self, name: str) -> bytes:
        """Return the contents of a file.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: It cannot be read.
        """
        try:
            return bytes(self._files.cat_file(f"{self._root}/{name}"))
        except Exception as error:  # each library raises its own types: botocore, aiohttp, ...
            raise self._read_error(name, error) from error

    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of several ranges, which are requested concurrently.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: A file cannot be read.
            ValueError: A file is too short.
        """
        if not ranges:
            return []
        files, starts, stops = (list(column) for column in zip(*ranges, strict=True))
        paths = [f"{self._root}/{file}" for file in files]
        try:
            # Exceptions are returned in the list: an exception that is raised does not say which file it is about.
            results = self._files.cat_ranges(paths, starts, stops, on_error="return")
        except Exception as error:  # as above
            raise self._read_error(files[0], error) from error
        return [self._checked(byte_range, result) for byte_range, result in zip(ranges, results, strict=True)]

    def _checked(self, byte_range: ByteRange, result: Any) -> bytes:
        """Return the bytes of a range, or raise the error that came in their place."""
        if isinstance(result, Exception):
            raise self._read_error(byte_range.file, result) from result
        if len(result) != byte_range.stop - byte_range.start:
            raise ValueError(
                f"{self.url}/{byte_range.file}: must have all of bytes {byte_range.start} to {byte_range.stop}, "
                f"as {OFFSETS_FILE} says; it has {len(result)} of them: upload the whole store again"
            )
        return bytes(result)

    def _read_error(self, name: str, error: Exception) -> OSError:
        """Return the exception to raise for one of the file system's library: a line with the URL of the file."""
        url = f"{self.url}/{name}"
        if isinstance(error, FileNotFoundError):
            return FileNotFoundError(
                f"{url}: no such file ({format_error(error)}); correct the URL or upload the store"
            )
        return OSError(
            f"{url}: cannot be read ({format_error(error)}); check the network, the URL and the credentials, "
            "then run the same command again"
        )
