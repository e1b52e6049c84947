"""Stores in an object store: the same pictures as from a disk, no byte too many, and clear words where it fails.

The object store is moto's S3, served from a thread of the test; what it serves is counted.
"""

import importlib
import json
import logging
import shutil
import sqlite3
import subprocess
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
from test_store import write

from alexnet import cli
from alexnet.data.loading.loader import Loader
from alexnet.data.store.cache import JOURNAL_BYTES, PictureCache
from alexnet.data.store.format import OFFSETS_FILE, STATISTICS_FILE, read_safetensors
from alexnet.data.store.location import StoreURL
from alexnet.data.store.offsets import write_offsets
from alexnet.data.store.remote_folder import ByteRange
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe
from alexnet.training.train import train


class Server:
    """An S3 server on this machine, and what it was asked for."""

    def __init__(self) -> None:
        self.served: list[tuple[str, str, int]] = []  # method, path, bytes of the answer
        self.before: Callable[[], object] = lambda: None  # called for each request
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._moto.start()
        server = self._moto._server
        assert server is not None
        server.app, self._app = self._answer, server.app
        self.address = "http://{}:{}".format(*self._moto.get_host_and_port())

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        path = environ["PATH_INFO"]
        self.before()
        body = b"".join(self._app(environ, start))
        self.served.append((environ["REQUEST_METHOD"], path, len(body)))
        return [body]

    def pictures(self) -> list[int]:
        """The bytes of each answer about a shard since this was last asked."""
        found = [size for method, path, size in self.served if method == "GET" and path.endswith(".arrow")]
        self.served.clear()
        return found

    def stop(self) -> None:
        self._moto.stop()
        assert self._moto._server is not None
        self._moto._server.server_close()


def reach(server: Server, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let S3 mean that server."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "HTTP_PROXY", "http_proxy"):
        patch.delenv(name, raising=False)
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        patch.setenv(f"AWS_{name}", str(folder / "none"))
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}.items():
        patch.setenv(f"AWS_{name}", value)
    patch.setenv("AWS_ENDPOINT_URL", server.address)
    S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server()
    with pytest.MonkeyPatch.context() as patch:
        reach(server, tmp_path_factory.mktemp("s3"), patch)
        yield server
    server.stop()
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server with an empty bucket; what is kept is kept in a folder of the test."""
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ALEXNET_CACHE_GB", raising=False)
    files = fsspec.filesystem("s3")
    files.mkdir("bucket")
    running.served.clear()
    yield running
    running.before = lambda: None
    files.rm("bucket", recursive=True)


def upload(folder: Path, to: str = "bucket/set") -> str:
    """Copy a store, with what says where its pictures lie; returns its address."""
    write_offsets(folder)
    files = fsspec.filesystem("s3")
    for path in folder.iterdir():
        files.pipe_file(f"{to}/{path.name}", path.read_bytes())
    return f"s3://{to}"


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.usefixtures("server")
def test_what_is_in_it_is_what_the_disk_has(tmp_path: Path, encoding: str) -> None:
    write(tmp_path / "s", encoding)
    near, far = Store(tmp_path / "s"), Store(upload(tmp_path / "s") + "/")
    assert isinstance(far.path, StoreURL)
    assert (str(far.path), far.path.name, far.path.resolve()) == ("s3://bucket/set", "set", far.path)
    assert (far.size, far.encoding, far.classes, far.splits) == (near.size, encoding, near.classes, near.splits)
    assert far.statistics.to_bytes() == near.statistics.to_bytes()
    for split in near.splits:
        here, there = near.split(split), far.split(split)
        assert len(here) == len(there)
        assert here.labels.tolist() == there.labels.tolist()
        assert there.labels.dtype == np.int64
        assert there.memory_addresses(np.array([0])) is None
        every = range(len(here))
        assert [here.picture_name(i) for i in every] == [there.picture_name(i) for i in every]
        for one, other, third in zip(here.images(every), there.images(every), map(there.image, every), strict=True):
            assert one.shape == other.shape
            assert one.tobytes() == other.tobytes() == third.tobytes()
    assert far.validation().name == "test"
    for index in (-1, 9):
        with pytest.raises(IndexError, match="split 'train' has 9"):
            far.split("train").image(index)
    with pytest.raises(ValueError, match=r"s3://bucket/set: no split 'val'; it has train, test"):
        far.split("val")


def test_any_address_of_fsspec_s_will_do(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_CACHE_GB", "0")
    shutil.copytree(store, tmp_path / "s")
    write_offsets(tmp_path / "s")
    near, far = Store(store).train_and_val(), Store(f"file://{tmp_path}/s").train_and_val()
    assert near.labels.tolist() == far.labels.tolist()
    assert all((one == other).all() for one, other in zip(near.images(range(68)), far.images(range(68)), strict=True))


@pytest.mark.parametrize("workers", [0, 3])
def test_the_same_batches_and_no_byte_too_many(
    server: Server, tmp_path: Path, store: Path, recipe: Recipe, workers: int
) -> None:
    shutil.copytree(store, tmp_path / "s")
    near, far = Store(store), Store(upload(tmp_path / "s"))
    here = Loader(near.split("train"), near.statistics, recipe)
    there = Loader(far.split("train"), far.statistics, recipe, workers=workers)
    assert server.pictures() == []  # all is known from two small files
    for epoch in range(2):
        for one, other in zip(here.batches(epoch), there.batches(epoch), strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
            assert np.array_equal(one.indices, other.indices)
        assert server.pictures() == ([32 * 32 * 3] * 48 if epoch == 0 else [])  # then they are kept
    another = Loader(Store("s3://bucket/set").split("train"), far.statistics, recipe)  # as another process would
    assert len(list(another.batches(2))) == len(there)
    assert server.pictures() == []


def test_pictures_are_asked_for_at_once(server: Server, tmp_path: Path) -> None:
    write(tmp_path / "s")
    split = Store(upload(tmp_path / "s")).split("train")
    together = threading.Barrier(4, timeout=30)  # no request is answered before four are there
    server.before = together.wait
    server.served.clear()
    assert len(list(split.images([0, 2, 4, 6]))) == 4
    with ThreadPoolExecutor(4) as threads:  # the workers of a loader
        assert len(list(threads.map(split.image, [1, 3, 5, 7]))) == 4
    assert server.pictures() == [8 * 8 * 3] * 8


def test_the_cache_keeps_to_its_bound(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = JOURNAL_BYTES + 3_000_000
    monkeypatch.setenv("ALEXNET_CACHE_GB", str(most / 1e9))
    stores = []
    for count in (16, 17):  # pictures of 197 kB to train on, and three to test on: nine are kept
        write(tmp_path / str(count), size=256, counts=(count,))
        stores.append(Store(upload(tmp_path / str(count), f"bucket/{count}")))
    server.served.clear()

    def fetched(opened: Store, seed: int) -> int:
        """How many pictures are fetched in an epoch, in an order drawn from a seed; nothing grows beyond the bound."""
        for name in ("train", "test"):
            split = opened.split(name)
            list(split.images(np.random.default_rng(seed).permutation(len(split))))
        assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*")) <= most
        return len(server.pictures())

    older, newer = stores
    assert [fetched(older, epoch) for epoch in range(3)] == [19, 10, 10]
    assert fetched(newer, 0) == 20
    assert 11 <= fetched(newer, 1) <= 13  # where there was no room for ten, ten were removed
    assert fetched(newer, 2) == 11
    assert fetched(older, 3) == 19  # the newer store has driven out what was stored before


def test_many_small_pictures_make_room_for_a_large_one(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path, 3_000_000, "set")
    for n in range(600):
        cache.put(ByteRange("a", n, n + 4000), bytes(4000))
    for n in range(20):
        cache.put(ByteRange("b", n, n + 200_000), bytes(200_000))
        assert cache._database.volume() <= 3_000_000
    assert cache.get(ByteRange("b", 19, 200_019)) == bytes(200_000)
    assert PictureCache(tmp_path, 500_000, "set")._database.volume() <= 500_000  # a smaller bound is kept at once


def test_without_a_cache_nothing_is_database(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_CACHE_GB", "0")
    write(tmp_path / "s")
    split = Store(upload(tmp_path / "s")).split("test")
    server.served.clear()
    for _ in range(2):
        list(split.images(range(3)))
    assert len(server.pictures()) == 6
    assert not (tmp_path / "cache").exists()
    for size in ("many", "-1", "inf", "nan"):
        monkeypatch.setenv("ALEXNET_CACHE_GB", size)
        with pytest.raises(ValueError, match=f"ALEXNET_CACHE_GB must be a number of gigabytes.*got '{size}'"):
            Store("s3://bucket/set")


FILLING = """
import sys
from itertools import count
from pathlib import Path
from alexnet.data.store.cache import PictureCache
from alexnet.data.store.remote_folder import ByteRange
cache = PictureCache(Path(sys.argv[1]), 1 << 30, "set")
for i in count():
    cache.put(ByteRange("a", i * 5000, (i + 1) * 5000), bytes([i % 251]) * 5000)
    if i == 100:
        print("some", flush=True)
"""


def test_processes_share_it_and_a_killed_one_does_no_harm(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", FILLING, str(tmp_path)], stdout=subprocess.PIPE, text=True) as filling:
        assert filling.stdout is not None
        assert filling.stdout.readline() == "some\n"
        cache = PictureCache(tmp_path, 1 << 30, "set")
        for i in range(200):  # while the other one writes
            cache.put(ByteRange("b", i, i + 7), bytes([i]) * 7)
        filling.kill()
    found = [cache.get(ByteRange("a", i * 5000, (i + 1) * 5000)) for i in range(10_000)]
    kept = [data for data in found if data is not None]
    assert len(kept) > 100
    assert found[: len(kept)] == [bytes([i % 251]) * 5000 for i in range(len(kept))]
    assert [cache.get(ByteRange("b", i, i + 7)) for i in range(200)] == [bytes([i]) * 7 for i in range(200)]
    with sqlite3.connect(tmp_path / "cache.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
    assert PictureCache(tmp_path, 1 << 30, "another").get(ByteRange("b", 0, 7)) is None
    assert cache.get(ByteRange("b", 0, 8)) is None  # a span of another length is another one


def test_a_damaged_cache_and_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cache.db").write_bytes(b"nonsense " * 1000)
    with pytest.raises(
        OSError, match=r"cannot cache pictures there \(DatabaseError: .*; remove it, or set ALEXNET_CACHE"
    ):
        PictureCache(tmp_path, 1 << 30, "set")
    with pytest.raises(OSError, match="cannot cache pictures there"):
        PictureCache(tmp_path / "cache.db", 1 << 30, "set")
    cache, span = PictureCache(tmp_path / "c", 1 << 30, "set"), ByteRange("a", 0, 100_000)
    cache.put(span, bytes(100_000))
    cache._database._sql("PRAGMA max_page_count = 1")  # no more than there are: what SQLite says is as of a full disk
    for n in range(3):
        cache.put(ByteRange("b", n, n + 100_000), bytes(100_000))
    assert cache.get(ByteRange("b", 0, 100_000)) is None
    assert cache.get(span) == bytes(100_000)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "no more pictures are cached in" in told
    assert "disk is full" in told


def test_where_pictures_lie_is_written_alike(tmp_path: Path, store: Path) -> None:
    for name in "ab":
        shutil.copytree(store, tmp_path / name)
        write_offsets(tmp_path / name)
    assert (tmp_path / "a" / OFFSETS_FILE).read_bytes() == (tmp_path / "b" / OFFSETS_FILE).read_bytes()
    tensors, about = read_safetensors(tmp_path / "a" / OFFSETS_FILE)
    whole = (tmp_path / "a" / "train-00000.arrow").read_bytes()
    start = int(tensors["train.batches"][0, 2])
    assert (
        whole[start : start + 48 * 32 * 32 * 3]
        == np.stack(list(Store(store).split("train").images(range(48)))).tobytes()
    )
    assert about["size"] == 32
    (tmp_path / "a" / "train-00000.arrow").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"train-00000\.arrow: damaged"):
        write_offsets(tmp_path / "a")
    shard = tmp_path / "b" / "val-00000.arrow"
    table = pa.ipc.open_file(shard).read_all()
    with pa.ipc.new_file(shard, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match=r"val-00000\.arrow: must be an Arrow file without compression; prepare"):
        write_offsets(tmp_path / "b")


@pytest.mark.usefixtures("server")
def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^s3://nowhere/set/statistics\.safetensors: no such file .*bucket"):
        Store("s3://nowhere/set")
    with pytest.raises(FileNotFoundError, match=r"^s3://bucket/none/statistics\.safetensors: no such file .*upload"):
        Store("s3://bucket/none")
    with pytest.raises(ValueError, match=r"^nope://x/set: not a known kind of URL \(Protocol not known: nope"):
        Store("nope://x/set")
    write(tmp_path / "s")
    address = upload(tmp_path / "s")
    files = fsspec.filesystem("s3")
    files.rm(f"bucket/set/{OFFSETS_FILE}")
    with pytest.raises(ValueError, match=r"has no places\.safetensors.* run the same `alexnet prepare` again.*upload"):
        Store(address)
    files.pipe_file(f"bucket/set/{STATISTICS_FILE}", b"")
    with pytest.raises(ValueError, match=r"^s3://bucket/set/statistics\.safetensors: damaged"):
        Store(address)


@pytest.mark.usefixtures("server")
def test_a_damaged_copy(tmp_path: Path) -> None:
    write(tmp_path / "s", "jpeg")
    address, files = upload(tmp_path / "s"), fsspec.filesystem("s3")
    places, shard = ((tmp_path / "s" / name).read_bytes() for name in (OFFSETS_FILE, "train-00002.arrow"))
    split = Store(address).split("train")
    files.pipe_file("bucket/set/train-00002.arrow", shard[: len(shard) // 3])  # an upload cut short
    with pytest.raises((ValueError, OSError), match=r"^s3://bucket/set/train-00002\.arrow: "):
        list(split.images(range(9)))
    files.pipe_file("bucket/set/train-00002.arrow", bytes(len(shard)))
    with pytest.raises(ValueError, match=r"train-00002\.arrow: no JPEG at byte \d+ .*; upload the whole store again"):
        list(split.images(range(5, 9)))
    files.rm("bucket/set/train-00002.arrow")
    Path(tmp_path / "cache" / "cache.db").unlink()
    with pytest.raises(FileNotFoundError, match=r"^s3://bucket/set/train-00002\.arrow: no such file"):
        Store(address).split("train").image(8)
    files.pipe_file(f"bucket/set/{OFFSETS_FILE}", places[:-100])
    with pytest.raises(ValueError, match=r"places\.safetensors: damaged"):
        Store(address)
    write(tmp_path / "other", "jpeg", counts=(4,))
    write_offsets(tmp_path / "other")
    files.put_file(tmp_path / "other" / OFFSETS_FILE, f"bucket/set/{OFFSETS_FILE}")
    with pytest.raises(ValueError, match=r"places\.safetensors: has no valid offsets for the 9 pictures of 'train'"):
        Store(address)
    files.pipe_file(f"bucket/set/{OFFSETS_FILE}", places.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    with pytest.raises(ValueError, match=r"places\.safetensors: store format 9, this version reads 1"):
        Store(address)


@pytest.mark.usefixtures("server")
def test_a_picture_cut_short(tmp_path: Path) -> None:
    write(tmp_path / "s")
    split = Store(upload(tmp_path / "s")).split("train")
    start = int(read_safetensors(tmp_path / "s" / OFFSETS_FILE)[0]["train.batches"][-1, 2])
    shard = (tmp_path / "s" / "train-00002.arrow").read_bytes()
    fsspec.filesystem("s3").pipe_file("bucket/set/train-00002.arrow", shard[: start + 100])
    with pytest.raises(ValueError, match=rf"train-00002\.arrow: must have all of bytes {start} to .* has 100 of them"):
        split.image(7)


def test_a_server_that_goes(tmp_path: Path, store: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # botocore's own retries, else seconds
    monkeypatch.setattr(S3FileSystem, "retries", 2)
    monkeypatch.setenv("ALEXNET_CACHE_GB", "0")
    reach(server, tmp_path, monkeypatch)
    fsspec.filesystem("s3").mkdir("another")  # moto's servers in one process have the same buckets
    shutil.copytree(store, tmp_path / "s")
    opened = Store(upload(tmp_path / "s", "another"))
    batches = Loader(opened.split("train"), opened.statistics, recipe, workers=1, buffer_size=2).batches(0)
    next(batches)
    server.stop()
    with pytest.raises(OSError, match=r"^s3://another/train-00000\.arrow: cannot be read \(.*\); check the network"):
        list(batches)
    with pytest.raises(OSError, match=r"^s3://another/statistics\.safetensors: cannot be read") as told:
        Store("s3://another")
    assert "\n" not in str(told.value)
    S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("server")
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "s")
    address = upload(tmp_path / "s")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "diskcache", None)
        with pytest.raises(ValueError, match=r"needs packages: pip install 'alexnet\[remote\]'"):
            Store(address)
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "s3")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match=r"^s3://bucket/set: needs packages: pip install 'alexnet\[remote\]'"):
        Store(address)


@pytest.mark.usefixtures("server")
def test_the_commands_take_an_address(
    tmp_path: Path, store: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(store, tmp_path / "s")
    address, run = upload(tmp_path / "s"), str(tmp_path / "run")
    for command in (["train", address, run], ["evaluate", run, address], ["index", run, address]):
        assert cli.build_parser().parse_args(command).store == address
    for command in (["report", run, "--data", address], ["reproduce", "table1", "--data", address, "--more", address]):
        assert cli.build_parser().parse_args(command).data == address
    train(cli.build_parser().parse_args(["train", address, run]).store, run, replace(recipe, epochs=1), device="cpu")
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["store"] == address
    found = []
    for place in (address, str(store)):
        capsys.readouterr()
        assert cli.main(["evaluate", run, place, "--json", "--device", "cpu"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert cli.main(["evaluate", run, "s3://nowhere/set"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("alexnet: s3://nowhere/set/statistics.safetensors: no such file")
    assert told.count("\n") == 1
