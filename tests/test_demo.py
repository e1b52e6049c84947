"""The demonstration at a small size: the drawing, and the run with it and with pictures in CIFAR-10's layout."""

import errno
import shlex
import signal
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_net

from alexnet.cli import main
from alexnet.demo import run as run_module
from alexnet.demo.drawing import CLASSES, MAX_SIDE, MIN_SIDE, draw_picture, draw_pictures
from alexnet.demo.run import program_name, run_demo
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named
from alexnet.training.train import Outcome
from alexnet.utils.signals import SignalInterrupt

RECIPE = Recipe(net=small_net(), store_size=32, batch_size=10, schedule="cosine", epochs=1)


@pytest.mark.parametrize("class_name", CLASSES)
def test_pictures_vary_and_are_the_same_for_the_same_seed(class_name: str) -> None:
    pictures = [draw_picture(class_name, np.random.default_rng(seed)) for seed in range(6)]
    assert (draw_picture(class_name, np.random.default_rng(3)) == pictures[3]).all()
    assert len({picture.shape for picture in pictures}) > 3
    assert all(MIN_SIDE <= side <= MAX_SIDE for picture in pictures for side in picture.shape[:2])
    assert all(picture.dtype == np.uint8 and picture.std() > 5 for picture in pictures)


def test_an_interrupted_drawing_is_resumed_to_the_same_files(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "first", per_class=3, progress=False)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert [len(list((folder / class_name).iterdir())) for class_name in CLASSES] == [3] * len(CLASSES)
    assert {path.read_bytes()[:4] for path in files} == {b"\xff\xd8\xff\xe0", b"\x89PNG"}
    contents = {path: path.read_bytes() for path in files}
    files[4].unlink()
    files[5].write_bytes(b"not drawn again")
    draw_pictures(folder, per_class=3, progress=False)
    assert files[4].read_bytes() == contents[files[4]]
    assert files[5].read_bytes() == b"not drawn again"
    other = draw_pictures(tmp_path / "other", per_class=1, seed=1, progress=False)
    assert (other / "star" / "star-0000.jpg").read_bytes() != contents[folder / "star" / "star-0000.jpg"]


def test_a_full_disk_stops_the_drawing_and_leaves_no_half_of_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes = Path.write_bytes

    def write_half(path: Path, contents: bytes) -> int:
        if path.name != ".disc-0000.jpg.writing":
            return write_bytes(path, contents)
        write_bytes(path, contents[: len(contents) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match=r"pictures: the disk is full; free some space, then run the same command again"):
        draw_pictures(tmp_path / "pictures", per_class=1, progress=False)
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == ["checks-0000.jpg", "cross-0000.jpg"]


def test_the_demonstration_from_drawing_to_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["bin/alexnet", "demo"])
    monkeypatch.setattr("shutil.which", lambda _: None)
    threads = torch.get_num_threads()
    results = run_demo(tmp_path / "a folder", per_class=5, recipe=RECIPE)
    printed = capsys.readouterr().out
    assert set(results) == {1, 10}
    assert results[10]["images"] == len(CLASSES)
    assert all(f"\n{number}. " in f"\n{printed}" for number in range(1, 6))
    assert f"10 views of 10 pictures: top-1 error {results[10]['top1_error']:.1%} (".replace("%", " %") in printed
    assert (tmp_path / "a folder" / "drawn" / "run" / "report.html").is_file()
    assert torch.get_num_threads() == threads

    again = run_demo(tmp_path / "a folder", per_class=5, recipe=RECIPE)
    assert again == results
    captured = capsys.readouterr()
    assert "complete already" in captured.out
    assert "loss" not in captured.err  # nothing was trained again

    commands = [shlex.split(line, comments=True) for line in printed.splitlines()[-3:]]
    assert [command[:2] for command in commands] == [["bin/alexnet", name] for name in ("predict", "train", "prepare")]
    assert main(commands[0][1:]) == 0
    assert capsys.readouterr().out.count("%") == 10


def test_the_demonstration_on_cifar10(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "download_cifar10", lambda _: write_cifar10_archive(tmp_path))
    recipe = replace(recipe_named("cifar10-80sec"), epochs=1, batch_size=8)
    results = run_demo(tmp_path / "demo", data="cifar10", recipe=recipe)
    assert results[1]["images"] == 10
    assert set(results) == {1}  # the net sees full pictures, so ten views do not differ
    commands = [shlex.split(line, comments=True) for line in capsys.readouterr().out.splitlines()[-3:]]
    assert main(commands[0][commands[0].index("evaluate") :]) == 0


def write_cifar10_archive(folder: Path) -> Path:
    """Write an archive in CIFAR-10's layout, with ten pictures of noise in each batch."""
    random = np.random.RandomState(0)
    inner = folder / "cifar-10-batches-bin"
    inner.mkdir()
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        records = random.randint(0, 256, (10, 3073)).astype(np.uint8)
        records[:, 0] = np.arange(10)
        (inner / name).write_bytes(records.tobytes())
    (inner / "batches.meta.txt").write_text("\n".join(f"class{number}" for number in range(10)) + "\n\n")
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        archive.add(inner, inner.name)
    return folder / "cifar-10-binary.tar.gz"


def test_a_training_stopped_by_a_signal_stops_the_demonstration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "train", lambda *_: Outcome(False, 0, 3, 1.0, 1.0, signal.SIGTERM))
    with pytest.raises(SignalInterrupt) as stop:
        run_demo(tmp_path, per_class=5, recipe=RECIPE)
    assert stop.value.signal == signal.SIGTERM
    assert "Stopped after step 3. The same command resumes from there." in capsys.readouterr().out


def test_unknown_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data must be drawn or cifar10; got 'imagenet'"):
        run_demo(tmp_path, data="imagenet")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_the_program_name_is_how_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("sys.argv", [".venv/bin/alexnet"])
    assert program_name() == ".venv/bin/alexnet"
    monkeypatch.setattr("sys.argv", ["pytest"])
    assert program_name() == f"{shlex.quote(sys.executable)} -m alexnet"
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/alexnet")
    assert program_name() == "alexnet"
