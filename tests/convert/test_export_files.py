"""`alexnet export`: the files it writes, what is in them, what it does not replace, and bad input."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from conftest import CLASSES, small_net, small_recipe
from exported_nets import NAMES, crop_mean, write_run
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from alexnet import export
from alexnet.cli import main
from alexnet.models.alexnet import AlexNet
from alexnet.results.classifier import Classifier
from alexnet.results.report import report
from alexnet.training.checkpoint import load_best

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a net that was not trained, in seven classes; tests must not write to it."""
    path = tmp_path_factory.mktemp("runs") / "birds"
    write_run(path, small_recipe())
    return path


def test_each_file_says_what_is_needed_to_use_it(run: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "a.onnx", tmp_path / "a.safetensors", tmp_path / "hub"]
    assert export(run, onnx=paths[0], state=paths[1], hub=paths[2]) == paths
    (in_onnx,) = onnx.load(paths[0]).metadata_props
    with safe_open(paths[1], "pt") as file:
        in_state = file.metadata()
    config = json.loads((paths[2] / "config.json").read_text(encoding="utf-8"))
    assert in_onnx.key == "alexnet"
    description = json.loads(in_onnx.value)
    state_description = json.loads(in_state["alexnet"])
    assert {*state_description.pop("checksums")} == {"mean", *AlexNet(len(NAMES), small_net()).weights()}
    checksums = {made.pop("checksum") for made in (description, state_description, config)}
    assert len(checksums) == 3
    assert state_description == description
    assert description["classes"] == list(NAMES)
    assert description["net"] == json.loads(json.dumps(asdict(small_net())))
    assert description["preprocessing"] == {
        "resize": 32, "crop": 24, "colours": "RGB", "range": [0, 255], "mean": "subtracted by the net",
    }  # fmt: skip
    assert config == {"library_name": "alexnet", **description, "recipe": json.loads(small_recipe().to_json())}


def test_the_weights_have_plain_names_and_load_again(run: Path, tmp_path: Path) -> None:
    checkpoint = load_best(run)
    export(run, state=tmp_path / "a.safetensors", hub=tmp_path / "hub")
    tensors = load_file(tmp_path / "a.safetensors")
    expected = checkpoint.net()
    assert {*tensors} == {"mean", *expected.weights()}
    assert torch.equal(tensors["mean"], crop_mean(checkpoint))
    net = AlexNet(len(NAMES), small_net())
    net.load_weights(tmp_path / "a.safetensors")
    for loaded in (net.eval(), AlexNet.from_run(tmp_path / "hub")):
        x = torch.randn(2, 3, 24, 24)
        assert torch.equal(loaded(x), expected(x))


def test_a_net_without_an_output_layer_is_exported_as_its_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = write_run(Path("run"), small_recipe(), ())
    export("run", state="a.safetensors", hub="hub")
    expected = checkpoint.net()
    assert "fc8.weight" not in load_file("a.safetensors")
    x = torch.randn(2, 3, 24, 24)
    assert torch.equal(AlexNet.from_run("hub")(x), expected(x))
    _, text = read_card(Path("hub"))
    assert "16 features" in text
    assert "classes" not in text.partition("## Use")[0]
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    Image.new("RGB", (40, 32), (90, 120, 200)).save("picture.jpg")
    names: dict[str, torch.Tensor] = {}
    exec(code, names)
    assert names["features"].shape == (16,)


def read_card(folder: Path) -> tuple[dict[str, object], str]:
    """Return the front matter and the text of a model card."""
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_card_has_the_errors_of_the_training(uninterrupted: Path, tmp_path: Path) -> None:
    export(uninterrupted, hub=tmp_path / "hub")
    front, text = read_card(tmp_path / "hub")
    error = load_best(uninterrupted).state.error
    assert error is not None
    (result,) = front["model-index"][0]["results"]  # type: ignore[index]
    assert result["metrics"][0]["value"] == pytest.approx(1 - error)
    assert (front["library_name"], front["pipeline_tag"]) == ("alexnet", "image-classification")
    assert "license" not in front
    rows = [line for line in text.splitlines() if line.startswith("| 20 ")]
    assert rows == [f"| 20 validation pictures of drawn | one view | {rows[0].split(' | ')[2]} | - |"]
    assert re.search(rf"\| {100 * error:.1f} % \(\d+\.\d to \d+\.\d\) \|", rows[0])
    assert "errors are slightly too low" in text
    assert "; ".join(CLASSES) in text


def test_the_card_has_the_errors_of_the_report(store: Path, uninterrupted: Path, tmp_path: Path) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    report(run, store, progress=False)
    export(run, hub=tmp_path / "hub")
    front, text = read_card(tmp_path / "hub")
    views = [result["metrics"][0]["name"] for result in front["model-index"][0]["results"]]  # type: ignore[index]
    assert views == ["top-1, one view", "top-1, 10 views"]
    assert text.count("| 20 validation pictures of drawn |") == 2

    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    (run / "results.json").write_text(json.dumps(results | {"step": 1}), encoding="utf-8")  # of an earlier net
    export(run, hub=tmp_path / "again")
    assert read_card(tmp_path / "again")[1].count("| 20 validation pictures of drawn |") == 1
    (run / "results.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"results\.json must be a file of `alexnet report`.*again$"):
        export(run, hub=tmp_path / "third")


def test_the_card_of_a_finetuned_net_names_the_one_it_started_from(uninterrupted: Path, tmp_path: Path) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    first, *others = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    start = json.loads(first) | {"from": "runs/imported", "taken": ["conv1", "conv2"]}
    (run / "metrics.jsonl").write_text(json.dumps(start) + "\n" + "".join(others), encoding="utf-8")
    for source, expected in ((run, True), (uninterrupted, False)):
        export(source, hub=tmp_path / "hub", force=True)
        _, text = read_card(tmp_path / "hub")
        assert ("; conv1, conv2 started from the weights of `imported`.\n" in text) == expected


def test_a_net_whose_errors_nobody_measured(run: Path, tmp_path: Path) -> None:
    export(run, hub=tmp_path / "hub")
    front, text = read_card(tmp_path / "hub")
    assert "model-index" not in front
    assert "have not been measured" in text
    assert "wren; house sparrow; jay, blue; Grünfink; robin; crow; owl" in text


def test_the_code_of_the_card_predicts_what_the_classifier_does(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
    Image.fromarray(picture).save("picture.jpg", quality=95)
    export(run, hub="birds")
    text = read_card(Path("birds"))[1]
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, {})
    name, probability = Classifier.load(run).predict("picture.jpg", top=1, views=1)[0]
    printed, _, percent = capsys.readouterr().out.strip().rpartition(": ")
    assert printed == name
    assert float(percent.rstrip("%")) == pytest.approx(100 * probability, abs=2)
    commands = re.findall(r"^    alexnet (.*)$", text, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["import", "predict"]
    assert [main(command.split()) for command in commands] == [0, 0]
    assert f"  {name}\n" in capsys.readouterr().out


# ---- What it does not replace, and bad input -------------------------------------------------------------------------


def run_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run `alexnet export`, check that it fails with one line, and return the line."""
    assert main(["export", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def targets(folder: Path) -> list[object]:
    return ["--state", folder / "a.safetensors", folder / "a.onnx", "--hub", folder / "hub"]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_command_writes_several_files_and_replaces_its_own_if_forced(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), *map(str, targets(tmp_path))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        str(tmp_path / n) for n in ("a.onnx", "a.safetensors", "hub")
    ]
    before = snapshot(tmp_path)
    for target in (["--state", tmp_path / "a.safetensors"], ["--hub", tmp_path / "hub"], [tmp_path / "a.onnx"]):
        assert re.search(r"exists: replace it with --force", run_command(capsys, run, *target))
    assert snapshot(tmp_path) == before
    assert main(["export", str(run), *map(str, targets(tmp_path)), "--force"]) == 0
    assert snapshot(tmp_path) == before


def test_a_model_card_that_the_user_has_changed_is_kept(run: Path, tmp_path: Path) -> None:
    export(run, hub=tmp_path / "hub")
    card = tmp_path / "hub" / "README.md"
    first = card.read_text(encoding="utf-8")
    for n, text in enumerate(("license: mit", "license: apache-2.0"), 1):
        card.write_text(text, encoding="utf-8")
        export(run, hub=tmp_path / "hub", force=True)
        assert card.read_text(encoding="utf-8") == first
        assert (tmp_path / "hub" / f"README.old-{n}.md").read_text(encoding="utf-8") == text


def test_files_of_others_are_not_replaced(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.onnx").write_bytes(b"another program's")
    shutil.copy(run / "checkpoints" / "best.safetensors", tmp_path / "a.safetensors")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text("{}")
    before = snapshot(tmp_path)
    for target in (["--state", tmp_path / "a.safetensors"], ["--hub", tmp_path / "hub"], [tmp_path / "a.onnx"]):
        assert "exists and is not an exported" in run_command(capsys, run, *target, "--force")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "must name something to write: FILE.onnx, --pt2 FILE, --state FILE or --hub FOLDER"),
        (["a.pt2"], r"a.pt2 must end in .onnx"),
        (["--pt2", "a.onnx"], r"a.onnx must end in .pt2"),
        (["--state", "a"], r"a must end in .safetensors"),
        (["a.onnx", "--opset", "16"], r"--opset must be from 17 to \d+.*; got 16"),
        (["none/a.onnx"], "no such folder .*none: create it first"),
        (["--hub", "none/hub"], "no such folder .*none: create it first"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.search(message, run_command(capsys, run, *arguments))
    assert snapshot(tmp_path) == {}


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "must hold a trained net" in run_command(capsys, tmp_path, tmp_path / "a.onnx")
    assert "there is no such folder" in run_command(capsys, tmp_path / "none", tmp_path / "a.onnx")
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("target", ["a.onnx", "a.safetensors", "hub"])
@pytest.mark.parametrize("exported_before", [False, True])
def test_without_room_nothing_half_made_is_left(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, exported_before: bool
) -> None:
    resource = pytest.importorskip("resource")
    option = {"a.onnx": [], "a.safetensors": ["--state"], "hub": ["--hub"]}[target]
    if exported_before:
        assert main(["export", str(run), *option, str(tmp_path / target)]) == 0
        capsys.readouterr()
    before, old = snapshot(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, old[1]))  # Python ignores the signal
        line = run_command(capsys, run, *option, tmp_path / target, "--force")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert re.search(rf"{target}(\.part/model\.safetensors)?: file too large; free some space", line)
    assert snapshot(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ([target] if exported_before else [])
