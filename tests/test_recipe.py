"""Recipes: the paper's numbers as defaults, the checks, JSON, and settings from text."""

import dataclasses
import json
import math
import re
from operator import attrgetter
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from alexnet.architecture import Conv, Full, MapNorm, Net, ResponseNorm
from alexnet.recipe import Change, Recipe
from alexnet.recipes import RECIPES, recipe_named
from alexnet.training.schedule import Schedule, make_schedule

# Every number of the paper that a recipe holds: field, value, section.
PAPER = [
    ("store_size", 256, "3"),
    ("net.pixel_scale", 1.0, "3: raw RGB values"),
    ("net.activation", "relu", "4.1"),
    ("net.towers", 2, "4.2"),
    ("net.conv1.all_towers", False, "4.2"),
    ("net.conv2.all_towers", False, "4.2, 4.5"),
    ("net.conv3.all_towers", True, "4.2, 4.5"),
    ("net.conv4.all_towers", False, "4.2, 4.5"),
    ("net.conv5.all_towers", False, "4.2, 4.5"),
    ("net.normalise.k", 2.0, "4.3"),
    ("net.normalise.size", 5, "4.3"),
    ("net.normalise.alpha", 1e-4, "4.3"),
    ("net.normalise.beta", 0.75, "4.3"),
    ("net.normalise.alpha_over_size", False, "4.3: the formula does not divide"),
    ("net.normalise_map", None, "not in the paper"),
    ("net.pool_stride", 2, "4.4"),
    ("net.pool_size", 3, "4.4"),
    ("net.image_size", 224, "4.5"),
    ("net.conv1.maps", 96, "4.5"),
    ("net.conv1.kernel", 11, "4.5"),
    ("net.conv1.stride", 4, "4.5"),
    ("net.conv1.padding", 0, "Figure 2: 290,400 neurons"),
    ("net.conv1.then", ("activate", "normalise", "pool"), "4.5"),
    ("net.conv2.maps", 256, "4.5"),
    ("net.conv2.kernel", 5, "4.5"),
    ("net.conv2.stride", 1, "4.5"),
    ("net.conv2.padding", 2, "Figure 2: 186,624 neurons"),
    ("net.conv2.then", ("activate", "normalise", "pool"), "4.5"),
    ("net.conv3.maps", 384, "4.5"),
    ("net.conv3.kernel", 3, "4.5"),
    *((f"net.conv{i}.shared", True, "2: convolutional") for i in range(1, 6)),
    ("net.conv3.then", ("activate",), "4.5"),
    ("net.conv4.maps", 384, "4.5"),
    ("net.conv4.kernel", 3, "4.5"),
    ("net.conv4.then", ("activate",), "4.5"),
    ("net.conv5.maps", 256, "4.5"),
    ("net.conv5.kernel", 3, "4.5"),
    ("net.conv5.then", ("activate", "pool"), "4.5"),
    ("net.conv6", None, "7: only of the pre-trained nets"),
    ("net.fc6.units", 4096, "4.5"),
    ("net.fc7.units", 4096, "4.5"),
    ("net.fc8.units", None, "4.5: one per class"),
    ("reflect", True, "5.1"),
    ("crop_area", None, "5.1: crops are not resized"),
    ("colour_deviation", 0.1, "5.1"),
    ("colour_divisor", 1.0, "not in the paper"),
    ("views", 10, "5.1"),
    ("net.fc6.dropout", 0.5, "5.2"),
    ("net.fc7.dropout", 0.5, "5.2"),
    ("net.fc8.dropout", 0.0, "5.2: the first two only"),
    ("batch_size", 128, "6"),
    ("momentum", 0.9, "6"),
    ("decay", 0.0005, "6"),
    ("decays", {}, "6: the same for all layers"),
    ("net.start", "gaussian", "6"),
    *((f"net.{layer}.deviation", 0.01, "6") for layer in Net().layers()),
    *((f"net.{layer}.bias", 1.0, "6") for layer in ("conv2", "conv4", "conv5", "fc6", "fc7")),
    *((f"net.{layer}.bias", 0.0, "6") for layer in ("conv1", "conv3", "fc8")),
    ("learning_rate", 0.01, "6"),
    ("bias_rate", None, "6: an equal rate for all layers"),
    ("schedule", "plateau", "6"),
    ("changes", (), "6"),
    ("falls", 3, "6"),
    ("warmup", 0.0, "not in the paper"),
    ("epochs", 90, "6"),
    ("label_smoothing", 0.0, "4.5: the multinomial logistic regression objective"),
]

# What the authors' program did instead (2012-source.md), net 145 on ILSVRC-2012.
RUN = [
    ("net.normalise.alpha_over_size", True),
    ("net.conv1.then", ("normalise", "pool", "activate")),
    ("net.conv2.then", ("activate", "normalise", "normalise_map", "pool")),
    ("net.normalise_map", MapNorm(k=1.0, size=5, alpha=0.001, beta=0.75)),
    *((f"net.{layer}.deviation", 0.03) for layer in ("conv3", "conv4", "conv5")),
    ("bias_rate", 0.02),
    ("colour_divisor", 1.1),
    ("schedule", "changes"),
    ("epochs", 91),
]


@pytest.mark.parametrize(("field", "value", "section"), PAPER)
def test_the_defaults_are_the_numbers_of_the_paper(field: str, value: object, section: str) -> None:
    assert attrgetter(field)(Recipe()) == value, f"section {section}"
    assert attrgetter(field)(recipe_named("alexnet-2012-paper")) == value, f"section {section}"


def leaves(data: Any, path: str = "") -> set[str]:
    """Return the paths of all plain values in nested dicts."""
    if isinstance(data, dict) and data:
        return set().union(*(leaves(value, f"{path}.{key}".strip(".")) for key, value in data.items()))
    return {path}


def test_the_table_has_every_number_of_the_paper() -> None:
    not_in_the_paper = {
        "patience",
        "precision",
        "seed",
        "until_train_error",
        "net.linear",
        "crops",
    }
    same_for_all = {f"net.conv{i}.{name}" for i in range(1, 6) for name in ("pooling", "stride", "padding")}
    in_the_table = {field for field, _, _ in PAPER}
    assert leaves(dataclasses.asdict(Recipe())) - in_the_table <= not_in_the_paper | same_for_all


def test_the_2012_run_differs_from_the_paper_only_as_its_files_say() -> None:
    run, paper = recipe_named("alexnet-2012-run"), Recipe()
    for field, value in RUN:
        assert attrgetter(field)(run) == value
        assert attrgetter(field)(run) != attrgetter(field)(paper)
    different = {field.partition("normalise_map")[0] or field for field, _ in RUN} | {"changes"}
    same = [f for f in leaves(dataclasses.asdict(paper)) if not f.startswith(tuple(different))]
    assert {f for f in same if attrgetter(f)(run) != attrgetter(f)(paper)} == set()


def test_cifar10_18pct_has_the_numbers_of_its_files() -> None:
    recipe = recipe_named("cifar10-18pct")
    net = recipe.net
    assert (net.image_size, net.towers, recipe.store_size, net.layers()) == (
        32,
        1,
        32,
        ("conv1", "conv2", "conv3", "fc8"),
    )
    assert [(c.maps, c.kernel, c.stride, c.padding, c.deviation, c.bias) for c in net.convs().values()] == [
        (32, 5, 1, 2, 0.0001, 0),
        (32, 5, 1, 2, 0.01, 0),
        (64, 5, 1, 2, 0.01, 0),
    ]
    assert [(c.pooling, c.then) for c in net.convs().values()] == [
        ("max", ("pool", "activate", "normalise_map")),
        ("average", ("activate", "pool", "normalise_map")),
        ("average", ("activate", "pool")),
    ]
    assert net.normalise_map == MapNorm(k=1, size=3, alpha=0.00005, beta=0.75)
    assert (net.normalise, net.fc8.deviation, net.fc8.bias) == (None, 0.01, 0)
    assert recipe.decays == {"conv1": 0.004, "conv2": 0.004, "conv3": 0.004, "fc8": 1.0}
    assert (recipe.batch_size, recipe.learning_rate, recipe.bias_rate, recipe.epochs) == (128, 0.001, 0.002, 140)
    assert [(c.epoch, c.learning_rate, c.layers) for c in recipe.changes] == [(120, 0.0001, ()), (130, 0.00001, ())]
    assert (recipe.reflect, recipe.colour_deviation, recipe.schedule) == (False, 0, "changes")


@pytest.mark.parametrize(("name", "maps", "norms"), [("cifar10-13pct", 32, False), ("cifar10-11pct", 64, True)])
def test_the_cifar10_nets_with_translations_have_the_numbers_of_their_files(name: str, maps: int, norms: bool) -> None:
    recipe = recipe_named(name)
    net = recipe.net
    assert (net.image_size, recipe.store_size, net.towers) == (24, 32, 1)
    assert net.layers() == ("conv1", "conv2", "conv3", "conv4", "fc8")
    assert [(c.maps, c.kernel, c.stride, c.padding, c.shared, c.deviation, c.bias) for c in net.convs().values()] == [
        (64, 5, 1, 2, True, 0.0001, 0),
        (64, 5, 1, 2, True, 0.01, 0),
        (maps, 3, 1, 1, False, 0.04, 0),
        (32, 3, 1, 1, False, 0.04, 0),
    ]
    first = ("activate", "pool", "normalise") if norms else ("activate", "pool")
    second = ("activate", "normalise", "pool") if norms else ("activate", "pool")
    assert [c.then for c in net.convs().values()] == [first, second, ("activate",), ("activate",)]
    assert {(c.pooling, net.pool_size, net.pool_stride) for c in net.convs().values()} == {("max", 3, 2)}
    norm = ResponseNorm(k=1, size=9, alpha=0.001, beta=0.75, alpha_over_size=True)
    assert (net.normalise, net.normalise_map, net.fc8) == (norm if norms else None, None, Full(deviation=0.01))
    fc8 = 0.01 if norms else 0.004
    assert recipe.decays == {"conv1": 0, "conv2": 0, "conv3": 0.004, "conv4": 0.004, "fc8": fc8}
    assert (recipe.batch_size, recipe.learning_rate, recipe.bias_rate) == (128, 0.001, 0.002)
    assert (recipe.schedule, recipe.epochs) == ("fold", 170)
    assert [(c.epoch, c.learning_rate, c.layers) for c in recipe.changes] == [(150, 0.0001, ()), (160, 0.00001, ())]
    assert (recipe.reflect, recipe.crop_area, recipe.colour_deviation, recipe.views) == (True, None, 0, 9)


def test_cifar10_80sec_has_the_numbers_of_its_files() -> None:
    recipe = recipe_named("cifar10-80sec")
    net = recipe.net
    assert net.layers() == ("conv1", "conv2", "conv3", "fc6", "fc8")
    assert [(c.maps, c.kernel, c.padding, c.deviation, c.pooling, c.then) for c in net.convs().values()] == [
        (32, 5, 2, 0.0001, "max", ("pool", "activate")),
        (32, 5, 2, 0.01, "average", ("activate", "pool")),
        (64, 5, 2, 0.01, "average", ("activate", "pool")),
    ]
    assert (net.fc6, net.fc8) == (Full(units=64, deviation=0.1), Full(deviation=0.1))
    assert recipe.decays == {"conv1": 0.004, "conv2": 0.004, "conv3": 0.004, "fc6": 0.03, "fc8": 0.03}
    assert (recipe.learning_rate, recipe.bias_rate, recipe.reflect, recipe.colour_deviation) == (0.001, 0.002, False, 0)


@pytest.mark.parametrize("name", RECIPES)
def test_named_recipes_are_read_back_from_json(name: str) -> None:
    recipe = recipe_named(name)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_json(recipe.to_json()).to_json() == recipe.to_json()
    assert leaves(json.loads(recipe.to_json())) == leaves(dataclasses.asdict(recipe))  # every field written out


def test_an_unknown_recipe_is_refused_with_the_known_names() -> None:
    with pytest.raises(ValueError, match=r"--recipe must be one of alexnet-2012-paper, .*tiny; got 'alexnet'"):
        recipe_named("alexnet")


small = st.floats(0, 10)
positive = st.floats(1e-6, 10)


@st.composite
def convs(draw: st.DrawFn, towers: int) -> Conv:
    kernel = draw(st.integers(1, 5))
    return Conv(
        maps=towers * draw(st.integers(1, 8)),
        kernel=kernel,
        stride=draw(st.integers(1, 2)),
        padding=draw(st.integers(0, kernel - 1)),
        all_towers=draw(st.booleans()),
        shared=draw(st.booleans()),
        then=draw(st.permutations(["activate", "normalise", "normalise_map", "pool"]).map(lambda s: tuple(s[:2]))),
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
            activation=draw(st.sampled_from(["relu", "tanh"])),
            normalise=draw(st.none() | norms),
            normalise_map=draw(st.none() | st.builds(MapNorm, k=positive, alpha=small)),
            start=draw(st.sampled_from(["gaussian", "he"])),
            pixel_scale=draw(positive),
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
        learning_rate=draw(positive),
        bias_rate=draw(st.none() | small),
        schedule=draw(st.sampled_from(["plateau", "changes", "cosine", "fold"])),
        changes=tuple(sorted(draw(st.lists(change, max_size=3)), key=lambda c: c.epoch)),
        crop_area=draw(st.none() | st.just((0.25, 1.0))),
        views=draw(st.sampled_from([1, 9, 10])),
        precision=draw(st.sampled_from(["auto", "float32", "bfloat16"])),
        seed=draw(st.integers(0, 2**63)),
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
        ({"rate": 0.1}, "recipe must be an object with no other fields than net, store_size, .*; got 'rate'"),
        ({"net": {"towres": 2}}, "net must be an object with no other fields than .*; got 'towres'"),
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
        ({"net": {"conv1": {"maps": 96, "then": ["relu"]}}}, "net.conv1.then must be one of .*; got 'relu'"),
    ],
)
def test_json_of_another_type_is_refused_with_field_rule_and_value(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match="^" + escape(message) + "$"):
        Recipe.from_json(json.dumps(data))


def escape(message: str) -> str:
    """Return a regular expression for a message in which only .* is special."""
    for character in "()[]":
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
        (Recipe, {"seed": -1}, "seed must be a whole number of at least 0; got -1"),
        (Recipe, {"momentum": 1.0}, "momentum must be at least 0 and below 1; got 1.0"),
        (Recipe, {"learning_rate": 0.0}, "learning_rate must be a finite number above 0; got 0.0"),
        (Recipe, {"learning_rate": math.inf}, "learning_rate must be a finite number above 0; got inf"),
        (Recipe, {"bias_rate": math.nan}, "bias_rate must be a finite number of at least 0; got nan"),
        (Recipe, {"decay": -0.1}, "decay must be a finite number of at least 0; got -0.1"),
        (Recipe, {"decays": {"fc9": 0.1}}, "decays must be keyed by names of layers (conv1, .*, fc8); got 'fc9'"),
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
        changes=(Change(epoch=3, learning_rate=0, layers=("conv1",)),),
        crop_area=(0.5, 1.0),
    )
    assert before == Recipe()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learning_rate", "--set must be of the form field=value; got 'learning_rate'"),
        ("=3", "--set must be of the form field=value; got '=3'"),
        ("rate=3", "--set must name a field of the recipe (net, store_size, .*); got 'rate'"),
        (
            "net.fc6.drop=0",
            "--set must name a field of the recipe (units, dropout, deviation, bias); got 'net.fc6.drop'",
        ),
        ("net.conv6.maps=4", "--set must name a field of the recipe (.*); got 'net.conv6.maps'"),
        ("seed.x=1", "--set must name a field of the recipe (.*); got 'seed.x'"),
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


def rates_at(recipe: Recipe, epoch: float) -> dict[str, float]:
    """Return the learning rate of each layer's weights at a time in epochs."""
    return schedule_of(recipe).rates_at(epoch).weights


def schedule_of(recipe: Recipe, fallen: int = 0) -> Schedule:
    """Return a recipe's schedule after `fallen` plateaus, with the validation pictures folded in at the start."""
    return make_schedule(recipe, {"patience": 1, "falls": 3, "fallen": fallen}, folded=0)


SCALED = {"batch_size", "learning_rate", "bias_rate", "changes", "warmup"}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("rule", ["linear", "sqrt"])
@pytest.mark.parametrize("k", [0.5, 2, 8])
def test_another_batch_size_scales_every_rate_of_every_layer_at_every_time(name: str, rule: Any, k: float) -> None:
    before = recipe_named(name)
    after = before.with_batch(int(k * before.batch_size), rule)
    factor = {"linear": k, "sqrt": k**0.5}[rule]
    assert dataclasses.replace(after, **{field: getattr(before, field) for field in SCALED}) == before
    slow = dataclasses.replace(before, warmup=after.warmup)  # the warm-up apart
    for epoch in [*(change.epoch for change in before.changes), *(before.epochs * n / 50 for n in range(51))]:
        schedules = schedule_of(slow, fallen=1), schedule_of(after, fallen=1)
        old, new = (schedule.rates_at(epoch) for schedule in schedules)
        assert len({schedule.shifts_colours_at(epoch) for schedule in schedules}) == 1
        for scaled, original in ((new.weights, old.weights), (new.biases, old.biases)):
            expected = {layer: factor * rate for layer, rate in original.items()}
            assert scaled == pytest.approx(expected, rel=1e-12, abs=0)


def test_scaled_rates_in_numbers() -> None:
    large = Recipe().with_batch(1024, "linear")
    assert (large.batch_size, large.learning_rate, large.bias_rate, large.warmup) == (1024, 0.08, None, 5)
    assert [rates_at(large, epoch)["fc8"] for epoch in (1, 2.5, 5)] == pytest.approx([0.016, 0.04, 0.08])
    large = Recipe().with_batch(512, "sqrt")
    assert (large.batch_size, large.learning_rate, large.bias_rate, large.warmup) == (512, 0.02, None, 0)
    large = recipe_named("alexnet-2012-run").with_batch(256, "linear")
    assert (large.learning_rate, large.bias_rate) == (0.02, 0.04)
    assert [change.learning_rate for change in large.changes] == [0.002, 0.0002, 0.00002, 0, 0.00002]
    without_rates = Recipe(bias_rate=0, changes=(Change(epoch=3, colour_shift=False),))
    large = without_rates.with_batch(256, "linear")
    assert (large.bias_rate, large.changes) == (0, without_rates.changes)


def test_only_linear_scaling_to_a_larger_batch_adds_a_warmup_of_five_epochs() -> None:
    def warmup(batch_size: int, rule: Any, **fields: Any) -> float:
        return Recipe(**fields).with_batch(batch_size, rule).warmup

    assert warmup(129, "linear") == 5
    assert warmup(256, "linear", warmup=1) == 5
    assert warmup(256, "linear", warmup=7) == 7
    assert warmup(64, "linear", warmup=1) == 1
    assert warmup(256, "sqrt", warmup=1) == 1
    assert warmup(256, "linear", schedule="fold") == 0  # which allows none


@pytest.mark.parametrize("rule", [None, "linear", "sqrt"])
def test_without_a_rule_or_another_batch_size_the_rates_do_not_change(rule: Any) -> None:
    assert Recipe().with_batch(1024) == Recipe(batch_size=1024)
    assert Recipe(epochs=3).with_batch(128, rule) == Recipe(epochs=3)


@pytest.mark.parametrize(
    ("batch_size", "rule", "fields", "message"),
    [
        (0, "linear", {}, "batch_size must be a whole number of at least 1; got 0"),
        (256.0, "linear", {}, "batch_size must be of type int; got 256.0"),
        (256, "cubic", {}, """rule must be "linear", "sqrt" or None; got 'cubic'"""),
        (
            256,
            "linear",
            {"epochs": 5},
            'epochs must be above 5, the epochs of the warm-up of "linear" ("sqrt" has no warm-up); got 5',
        ),
    ],
)
def test_an_invalid_batch_size_is_refused(batch_size: Any, rule: Any, fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        Recipe(**fields).with_batch(batch_size, rule)


def test_the_2012_runs_change_their_rates_at_the_epochs_of_their_files() -> None:
    for name, (a, b, quiet, frozen, last, end) in {
        "alexnet-2012-run": (25, 51, 67, 72, 79, 91),
        "alexnet-2012-run-2010": (23, 51, 68, 72, 78, 93),
        "alexnet-2012-half": (20, 48, 66, 72, None, 96),
    }.items():
        recipe = recipe_named(name)
        assert recipe.epochs == end
        for epoch, conv1, fc8, colour in (
            (0, 0.01, 0.01, True),
            (a, 0.001, 0.001, True),
            (b, 0.0001, 0.0001, True),
            (quiet, 0.00001, 0.0001, False),
            (frozen, 0, 0.0001, False),
            (end - 1, 0, 0.0001 if last is None else 0.00001, False),
        ):
            rates, shifts_colours = rates_at(recipe, epoch), schedule_of(recipe).shifts_colours_at(epoch)
            assert (rates["conv1"], rates["fc8"], shifts_colours) == (conv1, fc8, colour), name
    half = recipe_named("alexnet-2012-half").net
    assert [c.maps for c in half.convs().values()] == [48, 128, 192, 192, 256]
    assert (half.towers, [f.units for f in half.hidden().values()]) == (1, [4096, 4096])


def test_the_chain_of_net_146_has_the_rates_of_its_files() -> None:
    first, second, last = (recipe_named(f"alexnet-2012-{n}") for n in ("fall2009", "fall2011", "finetune"))
    for recipe in (first, second, last):
        assert recipe.net.conv6 is not None
        assert (recipe.net.conv6.maps, recipe.net.conv6.all_towers, recipe.net.conv6.bias) == (256, True, 1.0)
        assert recipe.net.sides()["conv6"] == (6, 6)
    assert first.net.linear is not None
    assert (first.net.linear.units, last.net.linear) == (2048, None)
    assert {n: rates_at(first, 1)[n] for n in ("conv1", "conv5", "conv6", "fc8")} == {
        "conv1": 0.001, "conv5": 0.001, "conv6": 0.01, "fc8": 0.01,
    }  # fmt: skip
    assert set(rates_at(first, 2.2).values()) == {0.001}
    assert (rates_at(second, 5.9)["conv6"], rates_at(second, 5.9)["fc6"], rates_at(second, 6)["fc6"]) == (
        0.001,
        0.01,
        0.001,
    )
    for epoch, conv1, fc7, fc8 in (
        (0, 0.0001, 0.001, 0.001),
        (1, 0.0001, 0.001, 0.01),
        (5, 0.00001, 0.001, 0.01),
        (9, 0, 0.001, 0.001),
        (22, 0, 0.0001, 0.0001),
        (42, 0, 0.00001, 0.00001),
    ):
        rates = rates_at(last, epoch)
        assert (rates["conv1"], rates["fc7"], rates["fc8"]) == (conv1, fc7, fc8), epoch
    schedule = schedule_of(last)
    assert (schedule.shifts_colours_at(37), schedule.shifts_colours_at(38), last.epochs) == (True, False, 54)
