"""Checkpoints: everything comes back, a failing write leaves the old one, a damaged file is told in one line."""

import ast
import errno
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from conftest import small_net
from safetensors.torch import load_file, save_file

from alexnet.data.store.statistics import Statistics
from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named
from alexnet.training.checkpoint import (
    TrainState,
    gather_tensors,
    list_checkpoints,
    load_best,
    load_checkpoint,
    save_checkpoint,
)
from alexnet.training.sgd import SGD

pytestmark = pytest.mark.usefixtures("one_thread")
PACKAGE = Path(__file__).parents[2] / "alexnet"


@pytest.fixture(scope="module")
def kept(store: Path) -> dict[str, Any]:
    """What `save` keeps of a small net after a step, none of it at its default."""
    recipe = replace(recipe_named("alexnet-2012-run"), net=small_net(), seed=3, decays={"fc8": 0.5})
    classes = ("a", "b", 'ç "quoted"', "d\n")
    torch.manual_seed(1)
    net = AlexNet(len(classes), recipe.net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = SGD(net.parameters(), rate=0.1, momentum=0.9, decay=0.0)
    net(torch.randn(2, 3, 24, 24)).square().sum().backward()
    optimiser.step()
    state = TrainState(
        step=7,
        epoch=2,
        batch=1,
        seconds=0.1 + 0.2,
        totals={"loss": 1 / 3, "errors": 2.0},
        error=0.7,
        plateau={"patience": 6, "falls": 3, "best": 0.7, "since": 1, "fallen": 0, "ended": False},
        metrics_bytes=99,
        finished=True,
    )
    statistics = Store(store).statistics
    return {
        "recipe": recipe,
        "classes": classes,
        "statistics": statistics,
        "state": state,
        "net": net,
        "optimiser": optimiser,
    }


def save(path: Path, *, net: AlexNet, optimiser: SGD | None, **about: Any) -> None:
    """A checkpoint to go on from, or without the optimiser one to predict with."""
    tensors = gather_tensors(net, optimiser or SGD(net.parameters(), rate=0.0, momentum=0.0, decay=0.0))
    wanted = {name: value for name, value in tensors.items() if optimiser or name.startswith("net.")}
    save_checkpoint(path, wanted, **about)


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def about(path: Path) -> dict[str, Any]:
    """The JSON in a checkpoint's header, read by the format's own words: a length, then a JSON object."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length], parse_constant=refuse)
    found: dict[str, Any] = json.loads(header["__metadata__"]["alexnet"], parse_constant=refuse)
    return found


def test_everything_comes_back(kept: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    random_state = torch.get_rng_state()
    save(path, **kept)
    assert torch.equal(torch.get_rng_state(), random_state)  # saving draws nothing
    drawn = torch.rand(5)

    found = load_checkpoint(path)
    assert (found.path, found.recipe, found.classes, found.state) == (
        path,
        kept["recipe"],
        kept["classes"],
        kept["state"],
    )
    for name in ("mean", "covariance", "eigenvalues", "components"):
        ours, theirs = getattr(found.statistics, name), getattr(kept["statistics"], name)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
    assert found.statistics.count == kept["statistics"].count
    for name, value in kept["net"].state_dict().items():
        assert torch.equal(found.with_prefix("net")[name], value)
    for name, weight in kept["net"].named_parameters():
        assert torch.equal(found.with_prefix("velocity")[name], kept["optimiser"].velocity(weight))
        assert found.with_prefix("velocity")[name].any()
    torch.set_rng_state(found.tensors["random.cpu"])
    assert torch.equal(torch.rand(5), drawn)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_checkpoint_gives_the_net_ready_to_predict(kept: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path / "a", **kept)
    net, x = load_checkpoint(tmp_path / "a").net(), torch.randn(2, 3, 24, 24)
    assert not net.training
    torch.testing.assert_close(net(x), kept["net"].eval()(x))


def test_a_checkpoint_to_predict_with_needs_no_velocity(kept: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path / "whole", **kept)
    save(tmp_path / "small", **{**kept, "optimiser": None})
    found = load_checkpoint(tmp_path / "small")
    assert {name.partition(".")[0] for name in found.tensors} == {"net", "statistics"}
    assert torch.equal(found.net().fc8.weight, kept["net"].fc8.weight)


def test_other_readers_open_it(kept: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(path, **kept)
    weights = load_file(path)
    assert torch.equal(weights["net.fc8.bias"], kept["net"].fc8.bias)
    facts = about(path)
    assert facts["classes"] == list(kept["classes"])
    assert Recipe.from_json(json.dumps(facts["recipe"])) == kept["recipe"]


def test_the_header_is_json_from_the_first_step_on(kept: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path / "a", **{**kept, "state": TrainState()})
    assert about(tmp_path / "a")["progress"]["step"] == 0
    assert load_checkpoint(tmp_path / "a").state == TrainState()


def test_nothing_in_the_package_reads_or_writes_pickle() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            assert not {"pickle", "dill", "joblib", "shelve"} & set(names), path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}, path


def half_written(error: Exception) -> Any:
    """A save_file that fails with the file half written."""

    def fail(tensors: Any, path: Path, metadata: Any) -> None:
        save_file(tensors, path, metadata)
        with Path(path).open("r+b") as file:
            file.truncate(1000)
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), safetensors.SafetensorError("I/O error: no space")],
    ids=["OSError", "SafetensorError"],
)
@pytest.mark.parametrize("before", [True, False])
def test_a_failing_write_leaves_the_old_one_and_nothing_else(
    kept: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, before: bool
) -> None:
    path = tmp_path / "a.safetensors"
    if before:
        save(path, **kept)
    content = path.read_bytes() if before else b""
    monkeypatch.setattr("alexnet.training.checkpoint.save_file", half_written(error))
    with pytest.raises(
        OSError, match=r"^checkpoint .*a\.safetensors could not be written \(.*space.*\): free some space"
    ):
        save(path, **{**kept, "state": TrainState(step=99)})
    assert [p.name for p in tmp_path.iterdir()] == (["a.safetensors"] if before else [])
    assert not before or path.read_bytes() == content


def test_a_real_limit_of_the_file_s_size_is_told_likewise(kept: dict[str, Any], tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "a.safetensors"
    save(path, **kept)
    content = path.read_bytes()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) // 2, old[1]))  # Python ignores the signal
        with pytest.raises(OSError, match="could not be written"):
            save(path, **kept)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_bytes() == content


def assert_refused(path: Path) -> None:
    """Loading is refused in one line that names the file."""
    with pytest.raises(ValueError, match="must be a checkpoint of") as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message


@pytest.mark.parametrize("left", [slice(0), slice(4), slice(500), slice(5000), slice(-1)], ids=str)
def test_a_file_cut_short_is_refused(kept: dict[str, Any], tmp_path: Path, left: slice) -> None:
    path = tmp_path / "a.safetensors"
    save(path, **kept)
    path.write_bytes(path.read_bytes()[left])
    assert_refused(path)


@pytest.mark.parametrize(
    "content", [b"hello, this is a text file\n" * 99, b"\x80\x04." * 99, b"\0" * 4096, b"\xff" * 4096]
)
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert_refused(path)


def change(path: Path, **changes: Any) -> None:
    """Rewrite a checkpoint with other facts; None takes one out."""
    tensors, facts = load_file(path), {**about(path), **changes}
    facts = {name: value for name, value in facts.items() if value is not None}
    save_file(tensors, path, {"alexnet": json.dumps(facts)})


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"format": None},
        {"classes": None},
        {"recipe": {"net": {"towers": 0}}},
        {"recipe": 3},
        {"progress": {"unheard_of": 1}},
        {"progress": None},
        {"pictures": None},
    ],
    ids=str,
)
def test_other_facts_are_refused(kept: dict[str, Any], tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "a.safetensors"
    save(path, **kept)
    change(path)
    load_checkpoint(path)
    change(path, **changes)
    assert_refused(path)


def test_weights_without_facts_or_statistics_are_refused(kept: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.ones(3)}, path)
    assert_refused(path)
    save(path, **kept)
    facts, tensors = about(path), load_file(path)
    del tensors["statistics.mean"]
    save_file(tensors, path, {"alexnet": json.dumps(facts)})
    assert_refused(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.safetensors")


def test_the_best_is_taken_to_predict_with_else_the_latest(kept: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    with pytest.raises(FileNotFoundError, match=r"run .* must hold a trained net.*alexnet train"):
        load_best(tmp_path)
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=r"run .* must hold a trained net.*alexnet train"):
        load_best(tmp_path)
    for step in (999_999_999, 7, 12):
        save(folder / f"step-{step:09d}.safetensors", **kept)
    (folder / ".step-000000001.safetensors.writing").write_bytes(b"")
    assert [p.name[5:14] for p in list_checkpoints(tmp_path)] == ["000000007", "000000012", "999999999"]
    assert load_best(tmp_path).path.name == "step-999999999.safetensors"
    save(folder / "best.safetensors", **{**kept, "optimiser": None})
    assert load_best(tmp_path).path.name == "best.safetensors"


def test_statistics_of_a_checkpoint_are_those_of_the_store(kept: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path / "a", **kept)
    found = load_checkpoint(tmp_path / "a").statistics
    assert isinstance(found, Statistics)
    np.testing.assert_array_equal(found.colour_deviations(), kept["statistics"].colour_deviations())
