"""Remote stores: the same pictures as from a disk, no superfluous requests, and clear error messages.

The object store is moto's S3, served by a thread of the test, which records the requests.
"""

import importlib
import json
import logging
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem
from test_store import write_two_class_store
from torch.utils.data import DataLoader

from alexnet import cli
from alexnet.data.loading.loader import Loader
from alexnet.data.store.cache import JOURNAL_BYTES
from alexnet.data.store.format import (
    OFFSETS_FILE,
    STATISTICS_FILE,
    parse_safetensors,
    read_safetensors,
    safetensors_bytes,
)
from alexnet.data.store.location import StoreURL
from alexnet.data.store.offsets import write_offsets
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe
from alexnet.training.train import train


class Server:
    """An S3 server on this machine that records its requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, int]] = []  # method, path, bytes of the answer
        self.on_request: Callable[[], object] = lambda: None  # called before each request is answered
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._moto.start()
        server = self._moto._server
        assert server is not None
        server.app, self._app = self._answer, server.app
        self.url = "http://{}:{}".format(*self._moto.get_host_and_port())

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        path = environ["PATH_INFO"]
        self.on_request()
        body = b"".join(self._app(environ, start))
        self.requests.append((environ["REQUEST_METHOD"], path, len(body)))
        return [body]

    def pop_shard_requests(self) -> list[int]:
        """Return the bytes of each answer from a shard, and forget the requests."""
        sizes = [size for method, path, size in self.requests if method == "GET" and path.endswith(".arrow")]
        self.requests.clear()
        return sizes

    def stop(self) -> None:
        self._moto.stop()
        assert self._moto._server is not None
        self._moto._server.server_close()


def configure_s3(server: Server, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Direct all requests to S3 to that server."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "HTTP_PROXY", "http_proxy"):
        patch.delenv(name, raising=False)
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        patch.setenv(f"AWS_{name}", str(folder / "none"))
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}.items():
        patch.setenv(f"AWS_{name}", value)
    patch.setenv("AWS_ENDPOINT_URL", server.url)
    S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server()
    with pytest.MonkeyPatch.context() as patch:
        configure_s3(server, tmp_path_factory.mktemp("s3"), patch)
        yield server
    server.stop()
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server with an empty bucket; the cache is in a folder of the test."""
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ALEXNET_CACHE_GB", raising=False)
    files = fsspec.filesystem("s3")
    files.mkdir("bucket")
    running.requests.clear()
    yield running
    running.on_request = lambda: None
    files.rm("bucket", recursive=True)


def upload(folder: Path, to: str = "bucket/set") -> str:
    """Upload a store with its byte offsets; return its URL."""
    write_offsets(folder)
    files = fsspec.filesystem("s3")
    for path in folder.iterdir():
        files.pipe_file(f"{to}/{path.name}", path.read_bytes())
    return f"s3://{to}"


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.usefixtures("server")
def test_a_remote_store_has_the_contents_of_the_local_one(tmp_path: Path, encoding: str) -> None:
    write_two_class_store(tmp_path / "s", encoding)
    local, remote = Store(tmp_path / "s"), Store(upload(tmp_path / "s") + "/")
    assert isinstance(remote.path, StoreURL)
    assert (str(remote.path), remote.path.name, remote.path.resolve()) == ("s3://bucket/set", "set", remote.path)
    assert (remote.size, remote.encoding) == (local.size, encoding)
    assert (remote.classes, remote.splits) == (local.classes, local.splits)
    assert remote.statistics.to_bytes() == local.statistics.to_bytes()
    for name in local.splits:
        expected, split = local.split(name), remote.split(name)
        assert len(split) == len(expected)
        assert split.labels.tolist() == expected.labels.tolist()
        assert split.labels.dtype == np.int64
        assert split.memory_addresses(np.array([0])) is None
        indices = range(len(expected))
        assert [split.picture_name(i) for i in indices] == [expected.picture_name(i) for i in indices]
        singles = map(split.image, indices)
        for picture, image, single in zip(expected.images(indices), split.images(indices), singles, strict=True):
            assert picture.shape == image.shape
            assert picture.tobytes() == image.tobytes() == single.tobytes()
    assert remote.validation().name == "test"
    for index in (-1, 9):
        with pytest.raises(IndexError, match="split 'train' has 9"):
            remote.split("train").image(index)
    with pytest.raises(ValueError, match=r"s3://bucket/set: no split 'val'; it has train, test"):
        remote.split("val")


def test_any_url_of_fsspec_works(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_CACHE_GB", "0")
    shutil.copytree(store, tmp_path / "s")
    write_offsets(tmp_path / "s")
    local, remote = Store(store).train_and_val(), Store(f"file://{tmp_path}/s").train_and_val()
    assert local.labels.tolist() == remote.labels.tolist()
    images = zip(local.images(range(68)), remote.images(range(68)), strict=True)
    assert all((expected == image).all() for expected, image in images)


@pytest.mark.parametrize("workers", [0, 3])
def test_batches_are_those_of_the_local_store_and_each_picture_is_requested_once(
    server: Server, tmp_path: Path, store: Path, recipe: Recipe, workers: int
) -> None:
    shutil.copytree(store, tmp_path / "s")
    local, remote = Store(store), Store(upload(tmp_path / "s"))
    local_loader = Loader(local.split("train"), local.statistics, recipe)
    remote_loader = Loader(remote.split("train"), remote.statistics, recipe, workers=workers)
    assert server.pop_shard_requests() == []  # opening a store reads two small files
    for epoch in range(2):
        for expected, batch in zip(local_loader.batches(epoch), remote_loader.batches(epoch), strict=True):
            assert torch.equal(batch.images, expected.images)
            assert torch.equal(batch.labels, expected.labels)
            assert np.array_equal(batch.indices, expected.indices)
        assert server.pop_shard_requests() == ([32 * 32 * 3] * 48 if epoch == 0 else [])  # then they are cached
    new_loader = Loader(Store("s3://bucket/set").split("train"), remote.statistics, recipe)  # as in another process
    assert len(list(new_loader.batches(2))) == len(remote_loader)
    assert server.pop_shard_requests() == []


def test_pictures_are_requested_concurrently(server: Server, tmp_path: Path) -> None:
    write_two_class_store(tmp_path / "s")
    split = Store(upload(tmp_path / "s")).split("train")
    barrier = threading.Barrier(4, timeout=30)  # no request is answered before there are four
    server.on_request = barrier.wait
    server.requests.clear()
    assert len(list(split.images([0, 2, 4, 6]))) == 4
    with ThreadPoolExecutor(4) as threads:  # the workers of a loader
        assert len(list(threads.map(split.image, [1, 3, 5, 7]))) == 4
    assert server.pop_shard_requests() == [8 * 8 * 3] * 8


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12
def test_forked_worker_processes_connect_anew(server: Server, tmp_path: Path) -> None:
    write_two_class_store(tmp_path / "s")
    split = Store(upload(tmp_path / "s")).split("train")
    expected = [(picture.tolist(), label) for picture, label in split]
    server.requests.clear()
    loader = DataLoader(split, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert [(picture.tolist(), label) for picture, label in loader] == expected


def test_the_cache_stays_below_its_limit(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = JOURNAL_BYTES + 3_000_000
    monkeypatch.setenv("ALEXNET_CACHE_GB", str(limit / 1e9))
    stores = []
    for count in (16, 17):  # training pictures of 197 kB, and three test pictures: nine are cached
        write_two_class_store(tmp_path / str(count), size=256, counts=(count,))
        stores.append(Store(upload(tmp_path / str(count), f"bucket/{count}")))
    server.requests.clear()

    def count_requests(store: Store, seed: int) -> int:
        """Return how many pictures an epoch in a random order requests; check that the cache stays below its limit."""
        for name in ("train", "test"):
            split = store.split(name)
            list(split.images(np.random.default_rng(seed).permutation(len(split))))
        assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*")) <= limit
        return len(server.pop_shard_requests())

    older, newer = stores
    assert [count_requests(older, epoch) for epoch in range(3)] == [19, 10, 10]
    assert count_requests(newer, 0) == 20
    assert 11 <= count_requests(newer, 1) <= 13  # when there was no space for one, ten were removed
    assert count_requests(newer, 2) == 11
    assert count_requests(older, 3) == 19  # the newer store has replaced the older one's pictures


def test_without_a_cache_nothing_is_stored(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_CACHE_GB", "0")
    write_two_class_store(tmp_path / "s")
    split = Store(upload(tmp_path / "s")).split("test")
    server.requests.clear()
    for _ in range(2):
        list(split.images(range(3)))
    assert len(server.pop_shard_requests()) == 6
    assert not (tmp_path / "cache").exists()
    for size in ("many", "-1", "inf", "nan"):
        monkeypatch.setenv("ALEXNET_CACHE_GB", size)
        with pytest.raises(ValueError, match=f"ALEXNET_CACHE_GB must be a number of gigabytes.*got '{size}'"):
            Store("s3://bucket/set")


def test_equal_shards_give_equal_offsets_files(tmp_path: Path, store: Path) -> None:
    for name in "ab":
        shutil.copytree(store, tmp_path / name)
        write_offsets(tmp_path / name)
    assert (tmp_path / "a" / OFFSETS_FILE).read_bytes() == (tmp_path / "b" / OFFSETS_FILE).read_bytes()
    tensors, metadata = read_safetensors(tmp_path / "a" / OFFSETS_FILE)
    contents = (tmp_path / "a" / "train-00000.arrow").read_bytes()
    start = int(tensors["train.batches"][0, 2])
    pictures = np.stack(list(Store(store).split("train").images(range(48))))
    assert contents[start : start + 48 * 32 * 32 * 3] == pictures.tobytes()
    assert metadata["size"] == 32
    (tmp_path / "a" / "train-00000.arrow").write_bytes(contents[:-100])
    with pytest.raises(ValueError, match=r"train-00000\.arrow: damaged"):
        write_offsets(tmp_path / "a")
    shard = tmp_path / "b" / "val-00000.arrow"
    table = pa.ipc.open_file(shard).read_all()
    with pa.ipc.new_file(shard, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match=r"val-00000\.arrow: must be an Arrow file without compression; prepare"):
        write_offsets(tmp_path / "b")


@pytest.mark.usefixtures("server")
def test_urls_that_are_not_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^s3://nowhere/set/statistics\.safetensors: no such file .*bucket"):
        Store("s3://nowhere/set")
    with pytest.raises(FileNotFoundError, match=r"^s3://bucket/none/statistics\.safetensors: no such file .*upload"):
        Store("s3://bucket/none")
    with pytest.raises(ValueError, match=r"^nope://x/set: not a known kind of URL \(Protocol not known: nope"):
        Store("nope://x/set")
    write_two_class_store(tmp_path / "s")
    url = upload(tmp_path / "s")
    files = fsspec.filesystem("s3")
    files.rm(f"bucket/set/{OFFSETS_FILE}")
    with pytest.raises(ValueError, match=r"has no places\.safetensors.* run the same `alexnet prepare` again.*upload"):
        Store(url)
    files.pipe_file(f"bucket/set/{STATISTICS_FILE}", b"")
    with pytest.raises(ValueError, match=r"^s3://bucket/set/statistics\.safetensors: damaged"):
        Store(url)


@pytest.mark.usefixtures("server")
def test_a_damaged_upload_is_refused(tmp_path: Path) -> None:
    write_two_class_store(tmp_path / "s", "jpeg")
    url, files = upload(tmp_path / "s"), fsspec.filesystem("s3")
    offsets, shard = ((tmp_path / "s" / name).read_bytes() for name in (OFFSETS_FILE, "train-00002.arrow"))
    split = Store(url).split("train")
    files.pipe_file("bucket/set/train-00002.arrow", shard[: len(shard) // 3])  # an incomplete upload
    with pytest.raises((ValueError, OSError), match=r"^s3://bucket/set/train-00002\.arrow: "):
        list(split.images(range(9)))
    files.pipe_file("bucket/set/train-00002.arrow", bytes(len(shard)))
    with pytest.raises(ValueError, match=r"train-00002\.arrow: no JPEG at byte \d+ .*; upload the whole store again"):
        list(split.images(range(5, 9)))
    files.rm("bucket/set/train-00002.arrow")
    Path(tmp_path / "cache" / "cache.db").unlink()
    with pytest.raises(FileNotFoundError, match=r"^s3://bucket/set/train-00002\.arrow: no such file"):
        Store(url).split("train").image(8)
    files.pipe_file(f"bucket/set/{OFFSETS_FILE}", offsets[:-100])
    with pytest.raises(ValueError, match=r"places\.safetensors: damaged"):
        Store(url)
    write_two_class_store(tmp_path / "other", "jpeg", counts=(4,))
    write_offsets(tmp_path / "other")
    files.put_file(tmp_path / "other" / OFFSETS_FILE, f"bucket/set/{OFFSETS_FILE}")
    with pytest.raises(ValueError, match=r"places\.safetensors: has no valid offsets for the 9 pictures of 'train'"):
        Store(url)
    tensors, metadata = parse_safetensors(offsets, OFFSETS_FILE)
    files.pipe_file(f"bucket/set/{OFFSETS_FILE}", safetensors_bytes(tensors, metadata | {"format": 9}))
    with pytest.raises(ValueError, match=r"places\.safetensors: store format 9, this version reads 1"):
        Store(url)


@pytest.mark.usefixtures("server")
def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    write_two_class_store(tmp_path / "s")
    split = Store(upload(tmp_path / "s")).split("train")
    start = int(read_safetensors(tmp_path / "s" / OFFSETS_FILE)[0]["train.batches"][-1, 2])
    shard = (tmp_path / "s" / "train-00002.arrow").read_bytes()
    fsspec.filesystem("s3").pipe_file("bucket/set/train-00002.arrow", shard[: start + 100])
    with pytest.raises(ValueError, match=rf"train-00002\.arrow: must have all of bytes {start} to .* has 100 of them"):
        split.image(7)


def test_a_server_that_stops_is_reported_on_one_line(
    tmp_path: Path, store: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # no retries by botocore, which take seconds
    monkeypatch.setattr(S3FileSystem, "retries", 2)
    monkeypatch.setenv("ALEXNET_CACHE_GB", "0")
    configure_s3(server, tmp_path, monkeypatch)
    fsspec.filesystem("s3").mkdir("another")  # moto's servers in one process have the same buckets
    shutil.copytree(store, tmp_path / "s")
    remote = Store(upload(tmp_path / "s", "another"))
    batches = Loader(remote.split("train"), remote.statistics, recipe, workers=1, buffer_size=2).batches(0)
    next(batches)
    server.stop()
    with pytest.raises(OSError, match=r"^s3://another/train-00000\.arrow: cannot be read \(.*\); check the network"):
        list(batches)
    with pytest.raises(OSError, match=r"^s3://another/statistics\.safetensors: cannot be read") as caught:
        Store("s3://another")
    assert "\n" not in str(caught.value)
    S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("server")
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_two_class_store(tmp_path / "s")
    url = upload(tmp_path / "s")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "diskcache", None)
        with pytest.raises(ValueError, match=r"needs packages: pip install 'alexnet\[remote\]'"):
            Store(url)
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "s3")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match=r"^s3://bucket/set: needs packages: pip install 'alexnet\[remote\]'"):
        Store(url)


@pytest.mark.usefixtures("server")
def test_the_commands_take_a_url(
    tmp_path: Path, store: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(store, tmp_path / "s")
    url, run = upload(tmp_path / "s"), str(tmp_path / "run")
    for command in (["train", url, run], ["evaluate", run, url], ["index", run, url]):
        assert cli.build_parser().parse_args(command).store == url
    for command in (["report", run, "--data", url], ["reproduce", "table1", "--data", url, "--more", url]):
        assert cli.build_parser().parse_args(command).data == url
    train(cli.build_parser().parse_args(["train", url, run]).store, run, replace(recipe, epochs=1), device="cpu")
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["store"] == url
    results = []
    for location in (url, str(store)):
        capsys.readouterr()
        assert cli.main(["evaluate", run, location, "--json", "--device", "cpu"]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[0]["chosen_on_split"]
    assert results[0] == results[1]  # a copy of the store is recognised by its pictures
    assert cli.main(["evaluate", run, "s3://nowhere/set"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("alexnet: s3://nowhere/set/statistics.safetensors: no such file")
    assert message.count("\n") == 1
