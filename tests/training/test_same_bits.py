"""The same seed on the same machine gives the same bits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import write_store
from runs import assert_same_run, load_last

from alexnet.architecture import Net
from alexnet.recipe import Recipe
from alexnet.recipes import RECIPES, recipe_named
from alexnet.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")
MAPS, UNITS, SIDE = 4, 8, 64


def shrink(recipe: Recipe) -> Recipe:
    """Return a recipe with few maps and units, small pictures and two steps; all else is as it was."""
    net = recipe.net
    layers = {name: replace(conv, maps=MAPS) for name, conv in net.convs().items()}
    layers |= {name: replace(full, units=UNITS) for name, full in net.hidden().items()}
    layers |= {"linear": replace(net.linear, units=UNITS)} if net.linear else {}
    side = min(net.image_size, SIDE)
    margin = min(recipe.store_size - net.image_size, 8)
    net = replace(net, image_size=side, **layers)
    schedule = "changes" if recipe.schedule == "fold" else recipe.schedule
    recipe = replace(recipe, net=net, store_size=side + margin, schedule=schedule, mean="store", changes=())
    return replace(recipe, batch_size=4, epochs=1, warmup=min(recipe.warmup, 0.5), image_sizes=())


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Stores of eight pictures, by the side of the pictures."""
    sides = {shrink(recipe_named(name)).store_size for name in RECIPES}
    folder = tmp_path_factory.mktemp("stores")
    return {side: write_store(folder / str(side), size=side, train=8, val=3) for side in sides}


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_seed_gives_the_same_bits(name: str, stores: dict[int, Path], tmp_path: Path) -> None:
    recipe = shrink(recipe_named(name))
    for run in ("first", "second"):
        torch.rand(3)  # whatever was drawn before
        outcome = train(stores[recipe.store_size], tmp_path / run, recipe, progress=False)
        assert (outcome.finished, outcome.step) == (True, 2)
    assert_same_run(tmp_path / "second", tmp_path / "first")


def test_another_seed_gives_others(stores: dict[int, Path], tmp_path: Path) -> None:
    recipe = shrink(recipe_named("alexnet-2012-paper"))
    nets = []
    for seed in (0, 1):
        train(stores[recipe.store_size], tmp_path / str(seed), replace(recipe, seed=seed), progress=False)
        nets.append(load_last(tmp_path / str(seed)).with_prefix("net"))
    assert not torch.equal(nets[0]["fc8.weight"], nets[1]["fc8.weight"])
    assert recipe.net != Net()
