"""The pictures in docs/ are those that the commands draw now, judged by the recipe that is in their metadata."""

import re
from pathlib import Path

import pytest
from PIL import Image

from alexnet.experiments.overfitting import EPOCHS
from alexnet.recipes import recipe_named
from alexnet.results.figure_files import recipe_digest

_DOCS = Path(__file__).parents[1] / "docs"
# Of nets that took hours, before figures had metadata; docs/results.md has their commits and commands.
_NETS_GONE = {"figure1.png", "cifar10-18pct.png", "imagenette-kernels.png"}
_WITHOUT_RECIPE = _NETS_GONE | {
    "scaling.png",  # of benchmarks/scaling.py
    *("explanation.png", "serve-dark.png", "serve-light.png", "serve-phone.png"),  # of a page, or of one picture
}
# Of recipes that have no name.
_CHANGED = {
    "figure3-tiny-imagenet.png": recipe_named("tiny-imagenet").with_settings(["net.conv1.maps=96"]),
    "overfitting.png": recipe_named("tiny-imagenet").with_epochs(EPOCHS),
}


@pytest.mark.parametrize("path", sorted(_DOCS.glob("*.png")), ids=lambda path: path.name)
def test_a_figure_is_of_the_recipe_as_it_is_now(path: Path) -> None:
    with Image.open(path) as image:
        name, digest = image.info.get("Recipe"), image.info.get("Digest")
    assert (path.name in _WITHOUT_RECIPE) == (name is None)
    if name is not None:
        assert digest == recipe_digest(_CHANGED.get(path.name) or recipe_named(name))


def test_a_picture_of_a_net_that_is_gone_has_its_commit_and_command_in_the_docs() -> None:
    rows = re.findall(r"^\| `([\w-]+\.png)` \| [0-9a-f]{7} \| .*`alexnet ", (_DOCS / "results.md").read_text(), re.M)
    assert set(rows) == _NETS_GONE


def test_a_digest_tells_recipes_apart_and_ignores_the_seed() -> None:
    recipe = recipe_named("tiny")
    assert recipe_digest(recipe.with_settings(["seed=7"])) == recipe_digest(recipe)
    assert recipe_digest(recipe.with_settings(["net.fc6.dropout=0.4"])) != recipe_digest(recipe)
    assert recipe_digest(recipe_named("photos")) != recipe_digest(recipe)
