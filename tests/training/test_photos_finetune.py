"""The recipe `photos-finetune`: it has the other run's net, learns only what it should, and is chosen by `--from`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_net, write_store
from runs import load_last, read_metrics
from safetensors.torch import save_file

from alexnet.cli.main import main
from alexnet.convert.import_net import import_net
from alexnet.finetuning_recipes import photos_finetune
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named
from alexnet.training.checkpoint import load_best
from alexnet.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = ("a class", "red disc", "another")
CONVOLUTIONS = {0: (8, 3, 11), 3: (8, 8, 5), 6: (8, 8, 3), 8: (8, 8, 3), 10: (8, 8, 3)}  # of a small torchvision net


@pytest.fixture(scope="module")
def first(store: Path, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """A finished run of a small net with fully connected layers."""
    run = tmp_path_factory.mktemp("runs") / "first"
    train(
        store, run, Recipe(net=small_net(), store_size=32, batch_size=10, schedule="cosine", epochs=1), progress=False
    )
    return run


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made of the convolutions of a small net of torchvision's architecture."""
    folder, generator = tmp_path_factory.mktemp("imported"), torch.Generator().manual_seed(0)
    state = {}
    for number, (maps, channels, kernel) in CONVOLUTIONS.items():
        weight = torch.randn(maps, channels, kernel, kernel, generator=generator)
        state[f"features.{number}.weight"] = weight * (2 / weight[0].numel()) ** 0.5
        state[f"features.{number}.bias"] = torch.zeros(maps)
    save_file(state, folder / "features.safetensors")
    import_net(folder / "features.safetensors", folder / "run")
    return folder / "run"


def test_an_imported_run_becomes_a_classifier(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = write_store(tmp_path / "store", size=256, train=12, val=3, classes=CLASSES)
    assert main(["train", str(store), str(tmp_path / "run"), "--from", str(imported), "--set", "epochs=2"]) == 0
    error = capsys.readouterr().err
    assert f"no --recipe is given: photos-finetune is used, for the net of {imported}" in error
    assert f"start values from {imported}: conv1, conv2, conv3, conv4, conv5\n" in error
    last, origin = load_last(tmp_path / "run"), load_best(imported)
    assert last.recipe == replace(photos_finetune(origin.recipe), epochs=2)
    assert np.array_equal(last.statistics.mean, origin.statistics.mean)
    for name, layer in last.net().layers().items():
        if name in last.recipe.frozen:
            assert torch.equal(layer.weight, origin.net().layers()[name].weight)
    assert AlexNet.from_run(tmp_path / "run").classes == 3
    finished = len(read_metrics(tmp_path / "run"))
    assert main(["train", str(store), str(tmp_path / "run"), "--from", str(imported), "--set", "epochs=2"]) == 0
    assert len(read_metrics(tmp_path / "run")) == finished


def test_fully_connected_layers_are_kept_and_stay_as_they_are(first: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", train=24, val=6, classes=CLASSES)
    recipe = recipe_named("photos-finetune", load_best(first).recipe)
    assert (recipe.store_size, recipe.net.hidden()) == (32, small_net().hidden())
    train(store, tmp_path / "run", replace(recipe, epochs=2), start_from=first, progress=False)
    old, new = load_best(first).net(), load_last(tmp_path / "run").net()
    for name, layer in new.layers().items():
        if name in recipe.frozen:
            assert torch.equal(layer.weight, old.layers()[name].weight)
    assert torch.equal(new.fc8.weight, old.fc8.weight) is False
    (start,) = read_metrics(tmp_path / "run", "start")
    assert start["taken_classes"] == 1, "red disc"


def test_the_output_layer_starts_at_zero() -> None:
    net = AlexNet(3, photos_finetune(Recipe(net=small_net(), store_size=32)).net)
    assert not net.fc8.weight.any()
    assert not net.fc8.bias.any()


def test_without_a_run_to_start_from_it_is_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--recipe", "photos-finetune", "--set", "store_size=32", "--set", "net.image_size=32"]
    small = ["--set", "net.conv1.stride=1", "--set", "net.conv1.kernel=5"]
    assert main(["train", str(store), str(tmp_path / "run"), *options, *small]) == 2
    assert 'a recipe with mean "start" must be given a run to start from; got none: name one' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["train", str(store), str(tmp_path / "run"), "--from", str(tmp_path / "nowhere")]) == 2
    assert "nowhere must be the folder of a trained net" in capsys.readouterr().err


def test_by_default_it_has_the_convolutions_of_torchvision(tmp_path: Path) -> None:
    maps = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    state = {f"features.{n}.weight": torch.zeros(m, c, k, k) for n, (m, c, k) in maps.items()}
    save_file(
        state | {f"features.{n}.bias": torch.zeros(m) for n, (m, _, _) in maps.items()}, tmp_path / "zeros.safetensors"
    )
    imported = import_net(tmp_path / "zeros.safetensors", tmp_path / "run").recipe
    assert photos_finetune() == photos_finetune(imported)
