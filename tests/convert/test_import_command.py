"""`alexnet import`: the run works with every other command; bad input is one line, and leaves nothing half-made."""

import errno
import gzip
import hashlib
import json
import os
import pickle
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagenet_files
import numpy as np
import onnx
import pytest
import torch
from conftest import CLASSES, write_store
from external_files import CaffeAlexNet, TorchvisionAlexNet, ZooAlexNet, caffe_onnx, caffemodel
from imagenet_files import write_devkit
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from alexnet.cli import main
from alexnet.convert import import_net as importing
from alexnet.convert.caffe_schema import message_classes
from alexnet.convert.export import export
from alexnet.convert.import_net import import_net
from alexnet.data.store.class_ids import ClassIds
from alexnet.recipe import Recipe
from alexnet.recipes import RECIPES
from alexnet.results import binary_codes
from alexnet.results.evaluate import evaluate
from alexnet.training.checkpoint import load_best

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 256 x 256 pictures in three classes; tests must not write to it."""
    return write_store(tmp_path_factory.mktemp("stores") / "drawn", size=256, train=12, val=6)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The file of a small net of torchvision with three classes."""
    torch.save(TorchvisionAlexNet(classes=3).state_dict(), tmp_path / "alexnet.pth")
    return tmp_path / "alexnet.pth"


@pytest.fixture
def names(tmp_path: Path) -> Path:
    """A list of the store's classes."""
    (tmp_path / "names.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    return tmp_path / "names.txt"


def run_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that succeeds, and return what it prints."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_every_command_works_with_an_imported_run(
    weights: Path,
    names: Path,
    squares: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(binary_codes, "STEPS", 3)
    run, picture = tmp_path / "runs" / "imported", tmp_path / "picture.png"
    Image.new("RGB", (300, 280), (200, 30, 30)).save(picture)
    printed = run_command(capsys, "import", weights, run, "--classes", names)
    assert "a net of torchvision with 15,943 weights and biases, 3 classes, for pictures of 224 x 224" in printed
    (entry,) = json.loads(run_command(capsys, "predict", run, picture, "--views", "1", "--json"))
    assert {prediction["class"] for prediction in entry["predictions"]} == set(CLASSES)
    result = json.loads(run_command(capsys, "evaluate", run, squares, "--json"))
    assert (result["images"], result["split"]) == (6, "val")
    assert "12 pictures" in run_command(capsys, "index", run, squares, "--bits", "16")
    assert len(run_command(capsys, "similar", run, picture, "--count", "2").splitlines()) == 3
    assert run_command(capsys, "figures", run).split() == [str(run / "figures" / "kernels.png")]
    figures = run_command(capsys, "figures", run, "--data", squares).split()
    assert [Path(figure).name for figure in figures] == ["guesses.png", "kernels.png"]
    page = Path(run_command(capsys, "report", run, "--data", squares).strip()).read_text(encoding="utf-8")
    assert f"Imported from {weights} (torchvision); 3 classes;" in " ".join(page.split())
    assert "Curves" not in page
    net = Recipe.from_json((run / "recipe.json").read_text()).net
    recipe = Recipe(net=net, batch_size=6, learning_rate=1e-4, schedule="cosine", epochs=1, views=1)
    monkeypatch.setitem(RECIPES, "photos", lambda: recipe)
    run_command(capsys, "train", squares, tmp_path / "runs" / "tuned", "--from", run, "--recipe", "photos")
    tuned, imported = (load_best(tmp_path / "runs" / name).net().layers() for name in ("tuned", "imported"))
    for name, layer in imported.items():  # one step of a small rate from the imported weights
        assert 0 < float((tuned[name].weight - layer.weight).detach().abs().max()) < 0.1, name


def test_a_net_without_classes_gives_features_and_says_how_to_get_a_classifier(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(binary_codes, "STEPS", 3)
    run, picture = tmp_path / "features", tmp_path / "picture.png"
    Image.new("L", (300, 280), 90).save(picture)
    save_file(TorchvisionAlexNet().features.state_dict(prefix="features."), tmp_path / "features.safetensors")
    assert "no output layer" in run_command(capsys, "import", tmp_path / "features.safetensors", run)
    run_command(capsys, "index", run, squares, "--bits", "16")
    assert len(run_command(capsys, "similar", run, picture, "--count", "2").splitlines()) == 3
    assert run_command(capsys, "figures", run).split() == [str(run / "figures" / "kernels.png")]
    commands = (
        ["predict", run, picture],
        ["evaluate", run, squares],
        ["report", run, "--data", squares],
        ["figures", run, "--data", squares],
        ["check", squares, "--run", run],
        ["submit", run, tmp_path, tmp_path / "file.txt", "--ids", picture],
    )
    for command in commands:
        capsys.readouterr()
        assert main([str(argument) for argument in command]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"run {run} must have classes to predict; its net has no output layer" in line
        assert f"--from {run}" in line
    recipe = load_best(run).recipe
    monkeypatch.setitem(RECIPES, "photos", lambda: Recipe(net=recipe.net, batch_size=6, schedule="cosine", epochs=1))
    run_command(capsys, "train", squares, tmp_path / "classifier", "--from", run, "--recipe", "photos")
    run_command(capsys, "predict", tmp_path / "classifier", picture)


def test_an_imported_run_is_not_trained_further_in_its_own_folder(
    weights: Path, names: Path, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    import_net(weights, run, classes=names)
    assert main(["train", str(squares), str(run)]) == 2
    assert f"its net was imported: train a new run with --from {run}" in capsys.readouterr().err
    assert main(["report", str(run)]) == 2
    assert "--data must name a store" in capsys.readouterr().err


def test_the_run_says_where_it_comes_from_and_is_the_same_each_time(weights: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        import_net(weights, tmp_path / name)
    line = json.loads((tmp_path / "a" / "metrics.jsonl").read_text())
    assert line["imported"]["file"] == str(weights)
    assert line["imported"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    files = [sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*")) for name in "ab"]
    assert files[0] == files[1]
    for path in files[0]:
        if (tmp_path / "a" / path).is_file():
            assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


# ---- Classes --------------------------------------------------------------------------------------------------------


def test_classes_without_names_are_numbered_and_it_is_said(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(weights), str(tmp_path / "run")]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "they are called 'class 1' to 'class 3'; name them with --classes" in line
    assert load_best(tmp_path / "run").classes == ("class 1", "class 2", "class 3")


def test_the_size_of_the_model_zoo_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(caffe_onnx(ZooAlexNet(), 224), tmp_path / "net.onnx")
    assert main(["import", str(tmp_path / "net.onnx"), str(tmp_path / "run")]) == 0
    assert "the file says 224 pixels; Caffe has trained its nets on 227: use --image-size" in capsys.readouterr().err


def test_names_that_are_equal_are_numbered(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("\ufeffcrane\r\nKranführer \r\ncrane\r\n\r\n".encode())
    imported = import_net(weights, tmp_path / "run", classes=tmp_path / "names.txt")
    assert imported.classes == ("crane", "Kranführer", "crane (2)")


def test_the_classes_of_a_store_are_taken_in_its_order(weights: Path, squares: Path, tmp_path: Path) -> None:
    assert import_net(weights, tmp_path / "run", classes=squares).classes == CLASSES


def test_outputs_sorted_by_wordnet_id_are_put_into_the_order_of_a_store(
    weights: Path, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contest's own order is another one than that of the nets trained on ImageNet."""
    classes = ("n02119789 kit fox", "n02100735 English setter", "n02110185 Siberian husky")
    monkeypatch.setattr("alexnet.convert.class_names.Store.classes", classes, raising=False)
    store = type("Opened", (), {"classes": classes, "class_ids": None})
    monkeypatch.setattr("alexnet.convert.class_names.Store", lambda _: store)
    assert import_net(weights, tmp_path / "run", classes=squares).classes == classes
    bias = load_best(tmp_path / "run").net().fc8.bias
    assert bias.tolist() == torch.load(weights)["classifier.6.bias"][[2, 0, 1]].tolist()


@pytest.mark.parametrize("packed", [True, False])
def test_the_classes_of_a_development_kit_are_named_as_in_a_store(packed: bool, tmp_path: Path) -> None:
    state = TorchvisionAlexNet(classes=4).state_dict()
    torch.save(state, tmp_path / "alexnet.pth")
    kit = write_devkit(tmp_path, [1, 2], packed=packed)
    if packed:  # one of the published name must have the published checksum
        kit = kit.rename(tmp_path / "devkit.tar.gz")
    imported = import_net(tmp_path / "alexnet.pth", tmp_path / "run", classes=kit)
    assert imported.classes == imagenet_files.CLASSES  # in the order of the IDs; the outputs in that of the WordNet IDs
    checkpoint = load_best(tmp_path / "run")
    assert checkpoint.class_ids == ClassIds("ILSVRC2012", (1, 2, 3, 4))
    assert checkpoint.net().fc8.bias.tolist() == state["classifier.6.bias"][[2, 1, 3, 0]].tolist()
    torch.save(TorchvisionAlexNet(classes=3).state_dict(), tmp_path / "alexnet.pth")
    with pytest.raises(ValueError, match="must have 3 names, one for each output of the net; got 4"):
        import_net(tmp_path / "alexnet.pth", tmp_path / "other", classes=kit)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"one\ntwo\n", "must have 3 names, one for each output of the net; got 2"),
        (b"one\n\nthree\n", "must have a name in each line; line 2 is empty"),
        (b"\xff\xfe\x00", "must be a text file in UTF-8; it is not"),
        (None, "must be a text file, a store or a development kit; there is no"),
    ],
)
def test_a_list_of_classes_that_does_not_fit_is_named(
    contents: bytes | None, message: str, weights: Path, tmp_path: Path
) -> None:
    if contents is not None:
        (tmp_path / "names.txt").write_bytes(contents)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        import_net(weights, tmp_path / "run", classes=tmp_path / "names.txt")
    assert not (tmp_path / "run").exists()


def test_classes_for_a_net_without_an_output_layer_are_refused(names: Path, tmp_path: Path) -> None:
    save_file(TorchvisionAlexNet().features.state_dict(prefix="features."), tmp_path / "features.safetensors")
    with pytest.raises(ValueError, match="`classes` must be left out for a net without an output layer"):
        import_net(tmp_path / "features.safetensors", tmp_path / "run", classes=names)


# ---- Bad input ------------------------------------------------------------------------------------------------------


class Code:
    """An object whose pickle runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def _state(**changes: Any) -> dict[str, Any]:
    state = TorchvisionAlexNet(classes=3).state_dict()
    return {
        name: t for name, t in (state | {k.replace("__", "."): v for k, v in changes.items()}).items() if t is not None
    }


def _cut(save: Callable[[Any, Path], None]) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        save(_state(), file)
        file.write_bytes(file.read_bytes()[:-4000])

    return write


def _legacy(state: Any, file: Path) -> None:
    torch.save(state, file, _use_new_zipfile_serialization=False)


def _archive(file: Path) -> None:
    (file.parent / "readme").write_text("a")
    with tarfile.open(file, "w") as archive:
        archive.add(file.parent / "readme", "readme")
    (file.parent / "readme").unlink()


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "code": (
        lambda file: torch.save({"state_dict": {"a": Code(file.parent / "marker")}}, file),
        "must hold tensors only; reading it would run posix.system, which was not run: save the net's `state_dict()`",
    ),
    "code, legacy": (
        lambda file: _legacy({"a": Code(file.parent / "marker")}, file),
        "reading it would run posix.system, which was not run",
    ),
    "code, plain pickle": (
        lambda file: file.write_bytes(pickle.dumps(Code(file.parent / "marker"))),
        "reading it would run posix.system, which was not run",
    ),
    "whole module": (lambda file: torch.save(nn.Sequential(nn.Linear(2, 2)), file), "would run torch.nn.modules."),
    "a list": (lambda file: torch.save([1, 2], file), "must hold a dictionary of weights (a `state_dict`); got list"),
    "an epoch": (
        lambda file: torch.save({"epoch": 3}, file),
        "must hold a dictionary of weights (a `state_dict`); got epoch",
    ),
    "cut off": (_cut(torch.save), "it must be a file that torch.save wrote of a `state_dict`; it cannot be read"),
    "cut off, legacy": (_cut(_legacy), "it must be a file that torch.save wrote of a `state_dict`; it cannot be read"),
    "cut off, safetensors": (_cut(save_file), "must be a whole safetensors file; it cannot be read"),
    "ResNet": (
        lambda file: save_file(
            {name: torch.ones(2) for name in ("bn1.weight", "conv1.weight", "fc.bias", "layer1.0.bn1.bias")}, file
        ),
        "it has bn1.weight, conv1.weight, fc.bias and 1 more, which is no AlexNet of torchvision",
    ),
    "VGG": (
        lambda file: torch.save(_state(features__2__weight=torch.ones(8, 8, 3, 3)), file),
        "torchvision's AlexNet must have no other weights; got features.2.weight",
    ),
    "bias missing": (
        lambda file: torch.save(_state(features__8__bias=None), file),
        "must have features.8.bias; it is missing",
    ),
    "shape": (
        lambda file: torch.save(_state(features__3__weight=torch.ones(12, 7, 5, 5)), file),
        "layer conv2 (features.3) must read 8 maps or channels; got 7",
    ),
    "bias' shape": (
        lambda file: torch.save(_state(classifier__4__bias=torch.ones(7)), file),
        "layer fc7 (classifier.4) must have a bias of shape (20,); got (7,)",
    ),
    "inputs": (
        lambda file: torch.save(_state(classifier__1__weight=torch.ones(20, 200)), file),
        "layer fc6 (classifier.1) must read 288 inputs (8 maps of 6 x 6); got 200",
    ),
    "dimensions": (
        lambda file: torch.save(_state(classifier__6__weight=torch.ones(3)), file),
        "layer fc8 (classifier.6) must have a weight of shape (units, inputs); got (3,)",
    ),
    "one class": (
        lambda file: torch.save(
            _state(classifier__6__weight=torch.ones(1, 20), classifier__6__bias=torch.ones(1)), file
        ),
        "the outputs of fc8 (classifier.6) must be at least 2, one for each class; got 1",
    ),
    "integers": (
        lambda file: torch.save(_state(features__0__weight=torch.ones(8, 3, 11, 11, dtype=torch.int8)), file),
        "features.0.weight must be of a floating type; got torch.int8",
    ),
    "NaN": (
        lambda file: torch.save(_state(features__0__bias=torch.full((8,), torch.nan)), file),
        "layer conv1 (features.0) must have finite weights; it has infinity or NaN",
    ),
    "text": (lambda file: file.write_text("weights"), "its first bytes are"),
    "empty": (lambda file: file.write_bytes(b""), "it is empty: get the file again"),
    "pointer": (
        lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "it is a pointer of Git LFS",
    ),
    "gzip": (lambda file: file.write_bytes(gzip.compress(b"a" * 100)), "it is an archive (gzip): unpack it"),
    "tar": (_archive, "it is an archive (tar): unpack it"),
    "HDF5": (lambda file: file.write_bytes(b"\x89HDF\r\n\x1a\n"), "it is HDF5"),
    "a picture": (lambda file: Image.new("RGB", (9, 9)).save(file, "PNG"), "its first bytes are"),
    "missing": (lambda _: None, "must be a file with weights; there is no such file"),
    "folder": (lambda file: file.mkdir(), "must be a file with weights; there is a folder: name the file in it"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = BAD[name]
    make(tmp_path / "net.pth")
    assert main(["import", str(tmp_path / "net.pth"), str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"alexnet: {tmp_path / 'net.pth'}")
    assert message in line
    assert line.count(": ") >= 2  # what is wrong, and what to do
    assert {path.name for path in tmp_path.iterdir()} <= {"net.pth"}


def test_a_folder_that_holds_something_is_not_touched(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    import_net(weights, run)  # an empty folder may be there already
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for target in (run, weights):
        assert main(["import", str(weights), str(target)]) == 2
        assert f"run {target} must be a new or an empty folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_without_room_nothing_is_left(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("alexnet.training.checkpoint.save_file", fail)
    with pytest.raises(OSError, match=r"could not be written .*No space left.*free some space"):
        import_net(weights, tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alexnet.pth"]


def test_what_a_killed_import_has_left_is_replaced(weights: Path, tmp_path: Path) -> None:
    left = tmp_path / ".run.importing"
    (left / "checkpoints").mkdir(parents=True)
    (left / "checkpoints" / ".step-000000000.safetensors.writing").write_bytes(b"half")
    (left / "recipe.json").write_text("{")
    import_net(weights, tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alexnet.pth", "run"]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000000000.safetensors"]


def test_an_import_that_is_stopped_leaves_nothing(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importing, "save_checkpoint", stop)
    assert main(["import", str(weights), str(tmp_path / "run")]) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alexnet.pth"]


def test_a_mean_is_for_caffe_only(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"alexnet.pth: `mean` must be left out but for Caffe's nets"):
        import_net(weights, tmp_path / "run", mean="104,117,123")


@pytest.mark.parametrize("size", [31, 128, 300])
def test_a_size_that_does_not_fit_is_named(size: int, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be from 1 to 256|alexnet\.pth: layer .* must (read|have maps)"):
        import_net(weights, tmp_path / "run", image_size=size)
    assert not (tmp_path / "run").exists()


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message_classes.cache_clear()
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(CaffeAlexNet(), old=True))
    with pytest.raises(ValueError, match=r"pip install 'alexnet\[caffe\]'"):
        import_net(tmp_path / "net.caffemodel", tmp_path / "run")


def test_what_this_program_exports_is_imported_with_everything(
    squares: Path, weights: Path, names: Path, tmp_path: Path
) -> None:
    import_net(weights, tmp_path / "run", classes=names)
    export(tmp_path / "run", hub=tmp_path / "hub")
    imported = import_net(tmp_path / "hub" / "model.safetensors", tmp_path / "again")
    assert (imported.format, imported.classes, imported.has_names) == ("alexnet", CLASSES, True)
    first, second = (evaluate(tmp_path / name, squares, views=10, device="cpu") for name in ("run", "again"))
    assert first | {"runs": second["runs"]} == second
    checkpoints = [load_best(tmp_path / name) for name in ("run", "again")]
    assert checkpoints[0].recipe.net == checkpoints[1].recipe.net
    for name, tensor in checkpoints[0].with_prefix("net").items():
        assert torch.equal(tensor, checkpoints[1].with_prefix("net")[name]), name


def test_a_mean_image_and_an_odd_crop_survive_the_export(squares: Path, tmp_path: Path) -> None:
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(CaffeAlexNet(classes=3), old=False))
    np.save(tmp_path / "mean.npy", np.random.default_rng(0).uniform(90, 130, (3, 256, 256)))
    import_net(tmp_path / "net.caffemodel", tmp_path / "run", classes=squares, mean=tmp_path / "mean.npy")
    export(tmp_path / "run", state=tmp_path / "state.safetensors")
    import_net(tmp_path / "state.safetensors", tmp_path / "again")
    first, second = (evaluate(tmp_path / name, squares, device="cpu") for name in ("run", "again"))
    assert first | {"runs": second["runs"]} == second


def test_other_files_of_this_program_are_named(weights: Path, tmp_path: Path) -> None:
    import_net(weights, tmp_path / "run")
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    with pytest.raises(ValueError, match="it is a checkpoint of this program: use the folder of its run, or export it"):
        import_net(checkpoint, tmp_path / "other")
    export(tmp_path / "run", onnx=tmp_path / "net.onnx", state=tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"it was exported by this program.*import what `alexnet export` writes with"):
        import_net(tmp_path / "net.onnx", tmp_path / "other")
    with pytest.raises(ValueError, match="`image_size` must be left out for an exported net"):
        import_net(tmp_path / "net.safetensors", tmp_path / "other", image_size=128)
    with safe_open(tmp_path / "net.safetensors", framework="pt") as file:
        metadata = file.metadata()
    other = load_file(tmp_path / "net.safetensors") | {"fc7.weight": torch.ones(20, 19)}
    save_file(other, tmp_path / "changed.safetensors", metadata)
    with pytest.raises(ValueError, match=r"^[^:]*changed.safetensors is damaged, or was changed by another program"):
        import_net(tmp_path / "changed.safetensors", tmp_path / "other")
    description = json.loads(metadata["alexnet"])
    unsealed = {name: value for name, value in description.items() if not name.startswith("checksum")}
    save_file(other, tmp_path / "damaged.safetensors", {"alexnet": json.dumps(unsealed)})
    with pytest.raises(ValueError, match="it must have the weights of the net that it describes"):
        import_net(tmp_path / "damaged.safetensors", tmp_path / "other")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"format": "alexnet-export-1"}',
        '{"format": "alexnet-export-1", "preprocessing": {"resize": "wide"}}',
    ],
)
def test_metadata_that_no_export_writes_are_refused(text: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"mean": torch.zeros(3, 8, 8)}, tmp_path / "net.safetensors", {"alexnet": text})
    with pytest.raises(ValueError, match=r"net\.safetensors: its metadata must be what `alexnet export` writes"):
        import_net(tmp_path / "net.safetensors", tmp_path / "run")
    assert not (tmp_path / "run").exists()
