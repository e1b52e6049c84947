"""`alexnet recipes NAME --explain`."""

import re

import pytest

from alexnet.cli.field_docs import explain_recipe
from alexnet.cli.main import main
from alexnet.recipe import Recipe
from alexnet.recipes import RECIPES, recipe_named


@pytest.mark.parametrize("name", RECIPES)
def test_every_field_is_explained(name: str) -> None:
    explained = set()
    for field in explain_recipe(recipe_named(name)):
        last = field.path.rpartition(".")[2]
        kind = re.sub(r"conv\d|fc\d|linear", "layer", field.path)
        assert field.meaning or kind in explained or last == "fc8", field.path
        assert "None" not in field.meaning
        if field.meaning:
            explained.add(kind)


def test_the_fields_of_the_changes_are_explained() -> None:
    paths = [field.path for field in explain_recipe(Recipe()) if "[]" in field.path]
    assert paths == [f"changes[].{name}" for name in ("epoch", "learning_rate", "layers", "colour_shift")]


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "alexnet-2012-run", "--explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Each field with its value")
    assert "net.normalise_map   (default null)" in lines
    assert "net.normalise_map.k=1.0" in lines
    assert "changes[].epoch" in lines
    assert "bias_rate=0.02   (default null)" in lines
