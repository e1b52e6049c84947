"""Recipes: JSON, the checks of their fields, and settings from text."""

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from alexnet.architecture import ContrastNorm, Conv, Full, MapNorm, Net, ResponseNorm
from alexnet.recipe import Change, Recipe

small = st.floats(0, 10)
positive = st.floats(1e-6, 10)
STEPS = ("activate", "normalise", "normalise_map", "normalise_contrast", "pool")


@st.composite
def convs(draw: st.DrawFn, towers: int) -> Conv:
    kernel = draw(st.integers(1, 5))
    shared = draw(st.booleans())
    return Conv(
        maps=towers * draw(st.integers(1, 8)),
        kernel=kernel,
        stride=draw(st.integers(1, 2)),
        padding=draw(st.integers(0, kernel - 1)),
        all_towers=draw(st.booleans()),
        shared=shared,
        rounding=draw(st.sampled_from(["up", "down"])) if shared else "up",
        pool_rounding=draw(st.sampled_from(["up", "down"])),
        then=draw(st.permutations(STEPS).map(lambda steps: tuple(steps[:2]))),
        pooling=draw(st.sampled_from(["max", "average"])),
        deviation=draw(small),
        bias=draw(st.floats(-2, 2)),
    )


@st.composite
def nets(draw: st.DrawFn) -> Net:
    towers = draw(st.integers(1, 3))
    full = st.builds(Full, units=st.integers(1, 64), dropout=st.floats(0, 0.99), deviation=small)
    norms = st.builds(ResponseNorm, k=positive, size=st.integers(1, 9), alpha=small, alpha_over_size=st.booleans())
    try:
        return Net(
            image_size=draw(st.integers(24, 224)),
            towers=towers,
            conv1=draw(convs(towers)),
            **{f"conv{i}": draw(st.none() | convs(towers)) for i in range(2, 7)},
            fc6=draw(st.none() | full),
            fc7=draw(st.none() | full),
            activation=draw(st.sampled_from(["relu", "tanh", "logistic", "abs_tanh"])),
            normalise=draw(st.none() | norms),
            normalise_map=draw(st.none() | st.builds(MapNorm, k=positive, alpha=small)),
            normalise_contrast=draw(st.none() | st.builds(ContrastNorm, deviation=positive)),
            start=draw(st.sampled_from(["gaussian", "he", "centred"])),
            pixel_scale=draw(positive),
            conv_dropout=draw(st.floats(0, 0.99)),
            dropout_scaling=draw(st.sampled_from(["test", "train"])),
        )
    except ValueError:  # the maps have become too small
        assume(False)
        raise


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    net = draw(nets())
    layer = st.sampled_from(net.layers())
    change = st.builds(
        Change,
        epoch=small,
        learning_rate=st.none() | small,
        layers=st.lists(layer, max_size=3).map(tuple),
        colour_shift=st.none() | st.booleans(),
    )
    return Recipe(
        net=net,
        store_size=net.image_size + draw(st.integers(0, 32)),
        batch_size=draw(st.integers(1, 512)),
        momentum=draw(st.floats(0, 0.999)),
        decays=draw(st.dictionaries(layer, small)),
        rate_factors=draw(st.dictionaries(layer, small)),
        frozen=draw(st.lists(layer, max_size=2).map(tuple).filter(lambda names: {*names} != {*net.layers()})),
        augmentations=draw(st.none() | st.integers(1, 20)),
        mean=draw(st.sampled_from(["store", "start"])),
        learning_rate=draw(positive),
        bias_rate=draw(st.none() | small),
        schedule=draw(st.sampled_from(["plateau", "changes", "cosine", "fold"])),
        changes=tuple(sorted(draw(st.lists(change, max_size=3)), key=lambda c: c.epoch)),
        crop_area=draw(st.none() | st.just((0.25, 1.0))),
        views=draw(st.sampled_from([1, 9, 10])),
        precision=draw(st.sampled_from(["auto", "float32", "bfloat16"])),
        seed=draw(st.integers(0, 2**63 - 1)),
    )


@given(recipes())
def test_any_recipe_is_read_back_from_json_and_from_settings(recipe: Recipe) -> None:
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.with_settings([]) == recipe
    settings = [f"{name}={json.dumps(value)}" for name, value in json.loads(recipe.to_json()).items()]
    assert Recipe().with_settings(settings) == recipe


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "recipe must be an object with the fields of Recipe; got []"),
        (
            {"rate": 0.1},
            "recipe must be an object with no other fields than net, .*; got 'rate': did you mean bias_rate?",
        ),
        (
            {"net": {"towres": 2}},
            "net must be an object with no other fields than .*; got 'towres': did you mean towers?",
        ),
        ({"net": 3}, "net must be an object with the fields of Net; got 3"),
        ({"net": {"conv1": {}}}, "net.conv1 must have every field of Conv: .*maps.*"),
        ({"batch_size": 1.5}, "batch_size must be of type int; got 1.5"),
        ({"batch_size": "128"}, "batch_size must be of type int; got '128'"),
        ({"batch_size": True}, "batch_size must be of type int; got True"),
        ({"batch_size": None}, "batch_size must be of type int; got None"),
        ({"momentum": "0.9"}, "momentum must be of type float; got '0.9'"),
        ({"momentum": False}, "momentum must be of type float; got False"),
        ({"reflect": 1}, "reflect must be of type bool; got 1"),
        ({"schedule": "cosin"}, "schedule must be one of 'plateau', 'changes', 'cosine', 'fold'; got 'cosin'"),
        ({"decays": [0.1]}, "decays must be an object; got [0.1]"),
        ({"decays": {"conv1": "a"}}, "decays.conv1 must be of type float; got 'a'"),
        ({"changes": {"epoch": 1}}, "changes must be a list; got .*"),
        ({"crop_area": [0.5]}, "crop_area must be a list of 2; got [0.5]"),
        ({"net": {"pool_size": 99, "pool_stride": 9}}, "net: the side of conv1's maps must be large enough .*; got .*"),
        ({"net": {"conv1": {"maps": 96, "then": ["relu"]}}}, "net.conv1.then must be one of .*; got 'relu'"),
    ],
)
def test_json_of_another_type_is_refused_with_field_rule_and_value(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match="^" + escape(message) + "$"):
        Recipe.from_json(json.dumps(data))


def escape(message: str) -> str:
    """Return a regular expression for a message in which only .* is special."""
    for character in "()[]?":
        message = message.replace(character, "\\" + character)
    return message


@pytest.mark.parametrize("text", ["", "{", "batch_size: 128"])
def test_text_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)recipe.*JSON"):
        Recipe.from_json(text)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Recipe, {"batch_size": 0}, "batch_size must be a whole number of at least 1; got 0"),
        (Recipe, {"epochs": 0}, "epochs must be a whole number of at least 1; got 0"),
        (Recipe, {"patience": 0}, "patience must be a whole number of at least 1; got 0"),
        (Recipe, {"falls": -1}, "falls must be a whole number of at least 0; got -1"),
        (Recipe, {"seed": -1}, "seed must be a whole number from 0 to .*; got -1"),
        (Recipe, {"momentum": 1.0}, "momentum must be at least 0 and below 1; got 1.0"),
        (Recipe, {"learning_rate": 0.0}, "learning_rate must be a finite number above 0; got 0.0"),
        (Recipe, {"learning_rate": math.inf}, "learning_rate must be a finite number above 0; got inf"),
        (Recipe, {"bias_rate": math.nan}, "bias_rate must be a finite number of at least 0; got nan"),
        (Recipe, {"decay": -0.1}, "decay must be a finite number of at least 0; got -0.1"),
        (Recipe, {"decays": {"fc9": 0.1}}, "decays must be keyed by names of layers (conv1, .*, fc8); got 'fc9'"),
        (Recipe, {"rate_factors": {"fc9": 0.1}}, "rate_factors must be keyed by names of layers .*; got 'fc9'"),
        (Recipe, {"rate_factors": {"fc8": math.inf}}, "rate_factors.fc8 must be a finite number .*; got inf"),
        (Recipe, {"frozen": ("conv9",)}, "frozen must be names of layers (conv1, .*, fc8); got 'conv9'"),
        (Recipe, {"frozen": Net().layers()}, "frozen must be some layers only, so that another can learn; got .*"),
        (Recipe, {"augmentations": 0}, "augmentations must be null or a whole number of at least 1; got 0"),
        (Recipe, {"decays": {"fc8": -1.0}}, "decays.fc8 must be a finite number of at least 0; got -1.0"),
        (Recipe, {"store_size": 200}, "net.image_size must be at most store_size 200, .*; got 224"),
        (Recipe, {"crop_area": (0.5, 1.5)}, "crop_area must be .* with 0 < low <= high <= 1; got (0.5, 1.5)"),
        (Recipe, {"changes": (Change(epoch=1, layers=("a",)),)}, "changes.layers must be names of layers .*; got 'a'"),
        (Recipe, {"changes": (Change(epoch=2), Change(epoch=1))}, "changes must be in the order of .*; got .*"),
        (Net, {"towers": 0}, "towers must be a whole number of at least 1; got 0"),
        (Net, {"towers": 3}, "conv2.maps must be divisible by towers 3; got 256"),
        (Net, {"pool_stride": 4}, "pool_stride must be at most pool_size 3; got 4"),
        (Net, {"fc8": Full(units=10)}, "fc8.units must be null (as many as classes); got 10"),
        (Net, {"fc6": Full()}, "fc6.units must be a whole number of at least 1; got None"),
        (
            Net,
            {"image_size": 8},
            "conv1.kernel must be at most 8, the side of its padded input; got 11: raise image_size .*",
        ),
        (Net, {"pixel_scale": 0.0}, "pixel_scale must be a finite number above 0; got 0.0"),
        (Conv, {"maps": 0}, "maps must be a whole number of at least 1; got 0"),
        (Conv, {"maps": 8, "padding": 3}, "padding must be from 0 to 2 (kernel - 1); got 3"),
        (Conv, {"maps": 8, "blur": -1.0}, "blur must be a finite number of at least 0; got -1.0"),
        (Conv, {"maps": 8, "blur": 1.0, "shared": False}, "blur must be 0 where shared is false; got 1.0"),
        (Conv, {"maps": 8, "then": ("pool", "pool")}, "then must be without repetition; got .*"),
        (Full, {"units": 8, "dropout": 1.0}, "dropout must be a probability from 0 to below 1; got 1.0"),
        (ResponseNorm, {"k": 0.0}, "k must be a finite number above 0; got 0.0"),
        (MapNorm, {"size": 4}, "size must be an odd whole number; got 4"),
        (Change, {"epoch": -1.0}, "epoch must be a finite number of at least 0; got -1.0"),
        (Change, {"epoch": 1.0, "learning_rate": math.nan}, "learning_rate must be a finite number .*; got nan"),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused_with_name_rule_and_value(kind: Any, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match="^" + escape(message) + "$"):
        kind(**values)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Net, {"activation": "gelu"}),
        (Net, {"start": "xavier"}),
        (Net, {"image_size": 224.0}),
        (Conv, {"maps": 8, "then": ("relu",)}),
        (Conv, {"maps": 8, "pooling": "maximum"}),
        (Conv, {"maps": 8.5}),
        (Recipe, {"schedule": "cosin"}),
        (Recipe, {"precision": "fp16"}),
        (Recipe, {"views": 5}),
        (Conv, {"maps": 8, "shared": 1}),
        (Recipe, {"batch_size": 1.5}),
        (Recipe, {"net": 3}),
    ],
)
def test_a_value_of_another_type_is_refused_in_python_too(kind: Any, values: dict[str, Any]) -> None:
    name, value = list(values.items())[-1]
    refused = str(value[0] if isinstance(value, tuple) else value)
    with pytest.raises(ValueError, match=rf"{name}.*{escape(refused)}"):
        kind(**values)


def test_none_is_a_word_where_the_field_has_words_and_else_no_value() -> None:
    assert Recipe(balance="sampling").with_settings(["balance=none"]).balance == "none"
    assert Recipe(crop_area=(0.5, 1.0)).with_settings(["crop_area=none"]).crop_area is None


def test_settings_change_only_the_fields_they_name() -> None:
    before = Recipe()
    after = before.with_settings(
        [
            "learning_rate=0.02",
            "schedule=cosine",
            "bias_rate=null",
            "reflect=False",
            "net.fc6.dropout=0.3",
            "net.conv4=none",
            'net.conv1.then=["normalise", "pool", "activate"]',
            "decays.fc8=1",
            "rate_factors.conv5=0.1",
            'frozen=["conv1"]',
            'changes=[{"epoch": 3, "learning_rate": 0, "layers": ["conv1"]}]',
            "crop_area=[0.5, 1]",
            'net.conv6={"maps": 256, "all_towers": true}',
        ]
    )
    net = dataclasses.replace(
        before.net,
        conv1=dataclasses.replace(before.net.conv1, then=("normalise", "pool", "activate")),
        conv4=None,
        conv6=Conv(maps=256, all_towers=True),
        fc6=Full(units=4096, dropout=0.3, bias=1.0),
    )
    assert after == dataclasses.replace(
        before,
        net=net,
        learning_rate=0.02,
        schedule="cosine",
        reflect=False,
        decays={"fc8": 1.0},
        rate_factors={"conv5": 0.1},
        frozen=("conv1",),
        changes=(Change(epoch=3, learning_rate=0, layers=("conv1",)),),
        crop_area=(0.5, 1.0),
    )
    assert before == Recipe()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learning_rate", "settings must be of the form field=value; got 'learning_rate'"),
        ("=3", "settings must be of the form field=value; got '=3'"),
        (
            "rate=3",
            "settings must name a field of the recipe (net, .*); got 'rate': did you mean bias_rate?",
        ),
        (
            "learning-rate=3",
            "settings must name a field of the recipe (.*); got 'learning-rate': did you mean learning_rate?",
        ),
        (
            "net.fc6.dropuot=0",
            "settings must name a field of net.fc6 (units, dropout, deviation, bias); got 'net.fc6.dropuot': did you "
            "mean dropout?",
        ),
        (
            "net.fcc6.dropout=0",
            "settings must name a field of net (image_size, .*); got 'net.fcc6.dropout': did you mean fc6?",
        ),
        ("net.conv6.maps=4", "settings must name a field; net.conv6 is null, without fields; got 'net.conv6.maps'"),
        ("seed.x=1", "settings must name a field; seed is 0, without fields; got 'seed.x'"),
        ("seed=one", "seed must be of type int; got 'one'"),
        ("epochs=1e2", "epochs must be of type int; got 100.0"),
        ("learning_rate=-1", "learning_rate must be a finite number above 0; got -1.0"),
        ("learning_rate=NaN", "learning_rate must be a finite number above 0; got nan"),
        ("decays.fc9=1", "decays must be keyed by names of layers (.*); got 'fc9'"),
        ("net.towers=5", "net.conv1.maps must be divisible by towers 5; got 96"),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + escape(message) + "$"):
        Recipe().with_settings([setting])


def test_recipes_are_immutable() -> None:
    for part in (Recipe(), Net(), Conv(maps=1), Full(), ResponseNorm(), MapNorm(), Change(epoch=0)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            part.seed = 3  # type: ignore[union-attr]
