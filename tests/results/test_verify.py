"""A flipped bit anywhere in a store, a run, an index or an export is found, and what it damages is named."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import CLASSES
from safetensors.numpy import load_file, save_file

from alexnet import AlexNet, Classifier
from alexnet.cli import main
from alexnet.convert.export import export
from alexnet.data.prepare.prepare import prepare
from alexnet.data.store.format import CHECKSUMS_FILE, safetensors_bytes
from alexnet.data.store.store import Store
from alexnet.models.weight_files import best_checkpoint
from alexnet.results.retrieval import Index, build_index
from alexnet.results.verify import verify
from alexnet.utils.checksums import BLANK_CHECKSUM, damaged_parts, is_whole, seal

pytestmark = pytest.mark.usefixtures("one_thread")


def flip(path: Path, position: int, bit: int) -> None:
    """Flip a bit of a file."""
    contents = bytearray(path.read_bytes())
    contents[position] ^= 1 << bit
    path.write_bytes(contents)


def positions(path: Path) -> Iterator[tuple[int, int]]:
    """Yield bytes and bits of a file: of its first bytes, its header, its middle and its end."""
    size = path.stat().st_size
    spread = {0, 1, 7, 8, 9, 40, size // 4, size // 3, size // 2, size - 40, size - 2, size - 1}
    for number, position in enumerate(sorted(spread)):
        if 0 <= position < size:
            yield position, (3 * number + position) % 8


def assert_each_flip_is_found(folder: Path) -> None:
    """Check that each flipped bit of each file is found, and nothing without one."""
    assert verify(folder).damaged == ()
    assert verify(folder).unchecked == ()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for position, bit in positions(path):
            flip(path, position, bit)
            name = path.relative_to(folder).as_posix()
            assert name in [file.name for file in verify(folder).damaged], f"{path}: byte {position}, bit {bit}"
            flip(path, position, bit)


@pytest.fixture(scope="module")
def prepared(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores that `prepare` wrote, by their encoding."""
    folder = tmp_path_factory.mktemp("prepared")
    for encoding in ("raw", "jpeg"):
        prepare(picture_folder, folder / encoding, size=16, encoding=encoding, progress=False)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def run(uninterrupted: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that commands write to it."""
    run = shutil.copytree(uninterrupted, tmp_path_factory.mktemp("runs") / "run")
    assert main(["report", str(run), "--data", str(store)]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alexnet.results.binary_codes.STEPS", 20)
        build_index(run, store, bits=16, progress=False)
        Index(run / "index").with_code_length(8)
    return run


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_each_flipped_bit_of_a_store_is_found(encoding: str, prepared: dict[str, Path], tmp_path: Path) -> None:
    assert_each_flip_is_found(shutil.copytree(prepared[encoding], tmp_path / "store"))


def test_each_flipped_bit_of_a_run_is_found(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    assert {path.name for path in folder.iterdir()} == {
        "recipe.json", "metrics.jsonl", "results.json", "report.html", "checkpoints", "index",
    }  # fmt: skip
    assert_each_flip_is_found(folder)


def test_each_flipped_bit_of_an_export_is_found(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    hub, files = tmp_path / "hub", [tmp_path / f"net.{suffix}" for suffix in ("onnx", "pt2", "safetensors")]
    export(run, onnx=files[0], pt2=files[1], state=files[2], hub=hub)
    (hub / "README.md").write_text("completed by its author", encoding="utf-8")
    names = {file.name: file.parts for file in verify(hub).files}
    assert names == {"config.json": (), "model.safetensors": ()}
    for path in [*files, hub / "config.json", hub / "model.safetensors"]:
        assert verify(path).files[0].parts == ()
        for position, bit in positions(path):
            flip(path, position, bit)
            assert verify(path).damaged, f"{path}: byte {position}, bit {bit}"
            flip(path, position, bit)


def test_every_bit_of_a_small_file_counts() -> None:
    whole = safetensors_bytes({"a": np.arange(3.0), "empty": np.zeros(0)}, {"name": "é"})
    assert damaged_parts(whole) == []
    page = seal(f"<p>{BLANK_CHECKSUM}</p>".encode())
    for contents in (whole, page):
        for number in range(8 * len(contents)):
            damaged = bytearray(contents)
            damaged[number // 8] ^= 1 << number % 8
            assert damaged_parts(damaged) if contents is whole else is_whole(damaged) is False, number
    assert "length" in (damaged_parts(whole[:-1]) or ())
    assert damaged_parts(whole + b"\0") == ["length"]
    assert damaged_parts(b"") == ["header"]


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_the_damaged_picture_is_named(encoding: str, prepared: dict[str, Path], tmp_path: Path) -> None:
    store = shutil.copytree(prepared[encoding], tmp_path / "store")
    shard = store / "train-00000.arrow"
    with pa.memory_map(str(shard)) as file, pa.ipc.open_file(file) as reader:
        batch = reader.get_batch(0)
        picture, name = batch.column("image")[3].as_py(), batch.column("name")[3].as_py()
    flip(shard, shard.read_bytes().index(picture) + 100, 5)
    damaged = verify(store).damaged
    assert [(file.name, file.parts) for file in damaged] == [(shard.name, (f"picture {name}",))]
    (store / "val-00000.arrow").unlink()
    assert ("val-00000.arrow", ("missing",)) in [(file.name, file.parts) for file in verify(store).damaged]


def test_the_damaged_tensor_is_named_and_no_command_predicts_with_it(run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(run, tmp_path / "run")
    best = best_checkpoint(run)
    header_length = 8 + int.from_bytes(best.read_bytes()[:8], "little")
    entry = json.loads(best.read_bytes()[8:header_length])["net.fc8.weight"]
    flip(best, header_length + entry["data_offsets"][0] + 5, 6)
    assert verify(run).damaged[0].parts == ("tensor net.fc8.weight",)
    for load in (Classifier.load, AlexNet.from_run):
        with pytest.raises(ValueError, match=r"best\.safetensors.*damaged.*: tensor net\.fc8\.weight"):
            load(run)


def test_a_store_at_an_address_is_verified(prepared: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.store", {})
    files = fsspec.filesystem("memory")
    for path in prepared["raw"].iterdir():
        files.pipe_file(f"/bucket/store/{path.name}", path.read_bytes())
    assert not verify("memory://bucket/store").damaged
    shard = bytearray(files.cat_file("/bucket/store/val-00000.arrow"))
    shard[len(shard) // 2] ^= 1
    files.pipe_file("/bucket/store/val-00000.arrow", bytes(shard))
    assert [file.name for file in verify("memory://bucket/store").damaged] == ["val-00000.arrow"]


def test_files_of_earlier_versions_are_readable_and_counted(run: Path, store: Path, tmp_path: Path) -> None:
    assert [file.name for file in verify(store).unchecked] == ["train-00000.arrow", "val-00000.arrow"]
    run = shutil.copytree(run, tmp_path / "run")
    best = best_checkpoint(run)
    metadata = json.loads(json.loads(best.read_bytes()[8 : 8 + int.from_bytes(best.read_bytes()[:8], "little")])["__metadata__"]["alexnet"])  # fmt: skip  # noqa: E501
    for name in ("checksums", "checksum", "files"):
        del metadata[name]
    save_file(load_file(best), best, {"alexnet": json.dumps(metadata)})
    assert "checkpoints/best.safetensors" in [file.name for file in verify(run).unchecked]
    assert Classifier.load(run).classes == CLASSES


def test_the_command(prepared: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = shutil.copytree(prepared["raw"], tmp_path / "store")
    assert main(["verify", str(store)]) == 0
    assert capsys.readouterr().out == f"{store}: store: 7 of 7 files whole, 0 damaged, 0 without checksums\n"
    flip(store / CHECKSUMS_FILE, 100, 0)
    assert main(["verify", str(store), "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)[0]["damaged"] == [{"file": CHECKSUMS_FILE, "parts": ["header"]}]
    assert captured.err == "alexnet: 1 file is damaged: copy it from elsewhere, or make it again\n"
    assert main(["verify", str(tmp_path)]) == 2
    assert "must be a store, a run, an index or an exported folder" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "none")]) == 2


def test_a_damaged_statistics_file_stops_every_command(prepared: dict[str, Path], tmp_path: Path) -> None:
    store = shutil.copytree(prepared["raw"], tmp_path / "store")
    flip(store / "statistics.safetensors", (store / "statistics.safetensors").stat().st_size - 9, 4)
    with pytest.raises(ValueError, match=r"statistics\.safetensors: damaged \(tensor "):
        Store(store)
