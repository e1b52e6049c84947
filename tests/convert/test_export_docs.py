"""docs/export.md and docs/formats.md: the code runs, and the tables are those of the files."""

import ast
import dataclasses
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_recipe
from exported_nets import NAMES, lively_net, random_mean, random_squares, to_pixels, write_run
from PIL import Image
from safetensors import safe_open
from source_code import ROOT

from alexnet import export
from alexnet.architecture import Net
from alexnet.convert.to_state import to_state
from alexnet.models.alexnet import AlexNet
from alexnet.models.weight_files import list_checkpoints
from alexnet.results.classifier import Classifier
from alexnet.training.checkpoint import TrainState

pytestmark = pytest.mark.usefixtures("one_thread")

EXPORT = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
FORMATS = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")


def code_of(section: str) -> str:
    """Return the Python code of a section of docs/export.md."""
    (code,) = re.findall(r"```python\n(.*?)```", EXPORT.split(f"\n## {section}\n")[1].split("\n## ")[0], re.DOTALL)
    assert "alexnet." not in code
    assert "import alexnet" not in code
    return str(code)


def table_after(text: str) -> list[list[str]]:
    """Return the rows of the table of docs/formats.md that follows a text, without its head and without backticks."""
    match = re.search(r"^\| ---.*\n((?:\|.*\n)+)", FORMATS[FORMATS.index(text) :], re.MULTILINE)
    assert match
    rows = [line.strip("| ").split(" | ") for line in match[1].splitlines()]
    return [[cell.replace("`", "") for cell in row] for row in rows]


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a net in seven classes that was not trained; tests must not write to it."""
    path = tmp_path_factory.mktemp("runs") / "birds"
    write_run(path, replace(small_recipe(), precision="float32"))
    return path


@pytest.mark.parametrize(("width", "height"), [(64, 40), (32, 33), (20, 27)])
def test_the_twenty_lines_answer_from_a_picture_as_predict_does(
    birds: Path,
    width: int,
    height: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = code_of("ONNX")
    assert len([line for line in code.splitlines() if line]) == 20
    monkeypatch.chdir(tmp_path)
    export(birds, onnx="mine.onnx")
    picture = np.random.default_rng(width).integers(0, 256, (5, 4, 3), np.uint8)
    Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC).save("robin.jpg", "PNG")
    exec(code, {})
    answers = ast.literal_eval(capsys.readouterr().out)
    expected = Classifier.load(birds).predict("robin.jpg", views=1)
    assert [name for _, name in answers] == [name for name, _ in expected]
    assert [p for p, _ in answers] == pytest.approx([p for _, p in expected], abs=2e-3)


def test_the_code_for_torch_export_runs(birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export(birds, pt2="mine.pt2")
    names: dict[str, Any] = {}
    exec(code_of("torch.export"), names)
    assert names["logits"].shape == (2, len(NAMES))
    assert names["about"]["classes"] == list(NAMES)


def test_the_paper_net_in_plain_torch_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net, mean, pixels = lively_net(Net(), 1000), torch.from_numpy(random_mean(224)), to_pixels(random_squares(2, 224))
    Path("mine.safetensors").write_bytes(to_state(net, mean, "{}"))
    names: dict[str, Any] = {"__name__": "docs"}
    with torch.inference_mode():
        exec(code_of("Weights by plain names"), names)
        torch.testing.assert_close(names["net"](pixels), net(pixels - mean), rtol=0, atol=1e-4)


def test_the_layers_are_those_of_the_paper_net() -> None:
    with torch.device("meta"):
        net = AlexNet(1000)
    inner = {id(parameter): name for name, parameter in net.named_parameters()}
    rows = [[f"net.{inner[id(weight)]}", name, str(tuple(weight.shape))] for name, weight in net.weights().items()]
    assert table_after("The layers, with the shapes") == rows


def test_the_tensors_of_a_checkpoint_are_those_of_the_table(uninterrupted: Path) -> None:
    patterns = [
        (re.escape(name).replace("LAYER", r"[\w.]+"), dtype)
        for names, dtype, _ in table_after("## Checkpoints")
        for name in names.split(", ")
    ]
    types = {torch.float32: "float32", torch.float64: "float64", torch.uint8: "uint8"}
    used = set()
    with safe_open(list_checkpoints(uninterrupted)[-1], "pt") as file:
        for name in file.keys():  # noqa: SIM118, it is not a dict
            ((pattern, dtype),) = [(p, d) for p, d in patterns if re.fullmatch(p, name)]
            assert types[file.get_tensor(name).dtype] == dtype, name
            used.add(pattern)
        metadata = file.metadata()
    assert {pattern for pattern, _ in patterns} - used == {r"random\.cuda"}  # on a CPU

    fields = [name for name, _ in table_after("The metadata has one entry")]
    content = json.loads(metadata["alexnet"])
    assert {*fields} - {"class_ids"} == {*content} - {"class_ids"}
    assert {*content["progress"]} == {field.name for field in dataclasses.fields(TrainState)}


def test_the_fields_of_exported_files_are_those_of_the_table(birds: Path, tmp_path: Path) -> None:
    export(birds, state=tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        content = json.loads(file.metadata()["alexnet"])
    rows = dict(table_after("## Exported files"))
    assert [*rows] == [*content]
    assert rows["format"] == content["format"]
    assert all(f"{name}" in rows["preprocessing"] for name in content["preprocessing"])
