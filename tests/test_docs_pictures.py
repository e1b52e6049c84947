"""The pictures in docs/ are those that the commands draw now, judged by the recipe that is in their metadata."""

from pathlib import Path

import pytest
from PIL import Image

from alexnet.recipes import recipe_named
from alexnet.results.figure_files import recipe_digest

_DOCS = Path(__file__).parents[1] / "docs"
_WITHOUT_RECIPE = {
    # Of nets that took hours, before figures had metadata; docs/results.md and docs/LOG.md have their commands.
    *("figure1.png", "figure3-tiny.png", "pretraining.png", "cifar10-18pct.png"),
    "imagenette-kernels.png",  # from an H200
    "scaling.png",  # of benchmarks/scaling.py
    *("explanation.png", "serve-dark.png", "serve-light.png", "serve-phone.png"),  # of a page, or of one picture
}


@pytest.mark.parametrize("path", sorted(_DOCS.glob("*.png")), ids=lambda path: path.name)
def test_a_figure_is_of_the_recipe_as_it_is_now(path: Path) -> None:
    with Image.open(path) as image:
        name, digest = image.info.get("Recipe"), image.info.get("Digest")
    assert (path.name in _WITHOUT_RECIPE) == (name is None)
    assert name is None or digest == recipe_digest(recipe_named(name))


def test_a_digest_tells_recipes_apart_and_ignores_the_seed() -> None:
    recipe = recipe_named("tiny")
    assert recipe_digest(recipe.with_settings(["seed=7"])) == recipe_digest(recipe)
    assert recipe_digest(recipe.with_settings(["net.fc6.dropout=0.4"])) != recipe_digest(recipe)
    assert recipe_digest(recipe_named("photos")) != recipe_digest(recipe)
