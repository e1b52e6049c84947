"""Checkpoint files: all is read back, a failing write leaves the old file, a damaged file is refused in one line."""

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
from runs import refuse_constant
from safetensors.torch import load_file, save_file

from alexnet.data.store.statistics import Statistics
from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.models.weight_files import list_checkpoints
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named
from alexnet.training.checkpoint import TrainState, gather_tensors, load_best, load_checkpoint, save_checkpoint
from alexnet.training.sgd import SGD

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def contents(store: Path) -> dict[str, Any]:
    """The arguments of `save` for a small net after a step, none at its default."""
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


def save(path: Path, *, net: AlexNet, optimiser: SGD | None, **options: Any) -> None:
    """Write a checkpoint to resume from, or without an optimiser one to predict with."""
    tensors = gather_tensors(net, optimiser or SGD(net.parameters(), rate=0.0, momentum=0.0, decay=0.0))
    selected = {name: value for name, value in tensors.items() if optimiser or name.startswith("net.")}
    save_checkpoint(path, selected, **options)


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the JSON in a checkpoint's header as safetensors defines it: a length, then a JSON object."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length], parse_constant=refuse_constant)
    metadata: dict[str, Any] = json.loads(header["__metadata__"]["alexnet"], parse_constant=refuse_constant)
    return metadata


def test_everything_is_read_back(contents: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    random_state = torch.get_rng_state()
    save(path, **contents)
    assert torch.equal(torch.get_rng_state(), random_state)  # saving draws nothing
    drawn = torch.rand(5)

    checkpoint = load_checkpoint(path)
    assert (checkpoint.path, checkpoint.recipe, checkpoint.classes, checkpoint.state) == (
        path,
        contents["recipe"],
        contents["classes"],
        contents["state"],
    )
    for name in ("mean", "covariance", "eigenvalues", "components"):
        loaded, saved = getattr(checkpoint.statistics, name), getattr(contents["statistics"], name)
        assert loaded.dtype == saved.dtype
        assert np.array_equal(loaded, saved)
    assert checkpoint.statistics.count == contents["statistics"].count
    for name, value in contents["net"].state_dict().items():
        assert torch.equal(checkpoint.with_prefix("net")[name], value)
    for name, weight in contents["net"].named_parameters():
        assert torch.equal(checkpoint.with_prefix("velocity")[name], contents["optimiser"].velocity(weight))
        assert checkpoint.with_prefix("velocity")[name].any()
    torch.set_rng_state(checkpoint.tensors["random.cpu"])
    assert torch.equal(torch.rand(5), drawn)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_checkpoint_gives_the_net_ready_to_predict(contents: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path / "a", **contents)
    net, x = load_checkpoint(tmp_path / "a").net(), torch.randn(2, 3, 24, 24)
    assert not net.training
    torch.testing.assert_close(net(x), contents["net"].eval()(x))


def test_a_checkpoint_to_predict_with_needs_no_velocity(contents: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path / "small", **{**contents, "optimiser": None})
    checkpoint = load_checkpoint(tmp_path / "small")
    assert {name.partition(".")[0] for name in checkpoint.tensors} == {"net", "statistics"}
    assert torch.equal(checkpoint.net().fc8.weight, contents["net"].fc8.weight)


def test_other_programs_can_read_it(contents: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(path, **contents)
    weights = load_file(path)
    assert torch.equal(weights["net.fc8.bias"], contents["net"].fc8.bias)
    metadata = read_metadata(path)
    assert metadata["classes"] == list(contents["classes"])
    assert Recipe.from_json(json.dumps(metadata["recipe"])) == contents["recipe"]


def test_the_header_is_json_before_the_first_epoch_ends(contents: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path / "a", **{**contents, "state": TrainState()})
    assert read_metadata(tmp_path / "a")["progress"]["step"] == 0
    assert load_checkpoint(tmp_path / "a").state == TrainState()


def failing_save_file(error: Exception) -> Any:
    """Return a `save_file` that fails when half of the file is written."""

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
def test_a_failing_write_leaves_the_old_file_and_no_other(
    contents: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, before: bool
) -> None:
    path = tmp_path / "a.safetensors"
    if before:
        save(path, **contents)
    content = path.read_bytes() if before else b""
    monkeypatch.setattr("alexnet.training.checkpoint.save_file", failing_save_file(error))
    with pytest.raises(
        OSError, match=r"^checkpoint .*a\.safetensors could not be written \(.*space.*\): free some space"
    ):
        save(path, **{**contents, "state": TrainState(step=99)})
    assert [p.name for p in tmp_path.iterdir()] == (["a.safetensors"] if before else [])
    assert not before or path.read_bytes() == content


def test_a_real_limit_on_the_size_of_files_gives_the_same_error(contents: dict[str, Any], tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "a.safetensors"
    save(path, **contents)
    content = path.read_bytes()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) // 2, old[1]))  # Python ignores the signal
        with pytest.raises(OSError, match="could not be written"):
            save(path, **contents)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_bytes() == content


def assert_refused(path: Path) -> None:
    """Check that loading raises an error of one line that names the file."""
    with pytest.raises(ValueError, match="must be a checkpoint of") as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message


@pytest.mark.parametrize("left", [slice(0), slice(4), slice(500), slice(5000), slice(-1)], ids=str)
def test_a_file_cut_short_is_refused(contents: dict[str, Any], tmp_path: Path, left: slice) -> None:
    path = tmp_path / "a.safetensors"
    save(path, **contents)
    path.write_bytes(path.read_bytes()[left])
    assert_refused(path)


@pytest.mark.parametrize(
    "content", [b"hello, this is a text file\n" * 99, b"\x80\x04." * 99, b"\0" * 4096, b"\xff" * 4096]
)
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert_refused(path)


def change_metadata(path: Path, **changes: Any) -> None:
    """Rewrite a checkpoint with other metadata; None removes an entry."""
    tensors, metadata = load_file(path), {**read_metadata(path), **changes}
    metadata = {name: value for name, value in metadata.items() if value is not None}
    save_file(tensors, path, {"alexnet": json.dumps(metadata)})


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
def test_metadata_that_does_not_fit_is_refused(
    contents: dict[str, Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = tmp_path / "a.safetensors"
    save(path, **contents)
    change_metadata(path)
    load_checkpoint(path)
    change_metadata(path, **changes)
    assert_refused(path)


def test_weights_without_metadata_or_statistics_are_refused(contents: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.ones(3)}, path)
    assert_refused(path)
    save(path, **contents)
    metadata, tensors = read_metadata(path), load_file(path)
    del tensors["statistics.mean"]
    save_file(tensors, path, {"alexnet": json.dumps(metadata)})
    assert_refused(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.safetensors")


def test_the_best_checkpoint_predicts_and_else_the_latest(contents: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    with pytest.raises(FileNotFoundError, match=r"run .* must hold a trained net.*alexnet train"):
        load_best(tmp_path)
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=r"run .* must hold a trained net.*alexnet train"):
        load_best(tmp_path)
    for step in (999_999_999, 7, 12):
        save(folder / f"step-{step:09d}.safetensors", **contents)
    (folder / ".step-000000001.safetensors.writing").write_bytes(b"")
    assert [p.name[5:14] for p in list_checkpoints(tmp_path)] == ["000000007", "000000012", "999999999"]
    assert load_best(tmp_path).path.name == "step-999999999.safetensors"
    save(folder / "best.safetensors", **{**contents, "optimiser": None})
    assert load_best(tmp_path).path.name == "best.safetensors"


def test_statistics_of_a_checkpoint_are_those_of_the_store(contents: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path / "a", **contents)
    statistics = load_checkpoint(tmp_path / "a").statistics
    assert isinstance(statistics, Statistics)
    np.testing.assert_array_equal(statistics.colour_deviations(), contents["statistics"].colour_deviations())
