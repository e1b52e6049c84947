"""The named recipes: the paper's numbers, those of the 2012 program's files, and JSON."""

import dataclasses
import itertools
import json
from operator import attrgetter
from typing import Any

import pytest

from alexnet.architecture import Full, MapNorm, Net, ResponseNorm
from alexnet.recipe import Recipe, recipe_differences
from alexnet.recipes import RECIPES, recipe_named
from alexnet.training.schedule import make_schedule

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
    ("net.normalise.all_towers", False, "4.2: in certain layers only do the GPUs communicate"),
    ("net.normalise_map", None, "not in the paper"),
    ("net.normalise_contrast", None, "4.1: of Jarrett et al."),
    ("net.pool_stride", 2, "4.4"),
    ("net.pool_size", 3, "4.4"),
    ("net.image_size", 224, "4.5"),
    ("net.conv1.maps", 96, "4.5"),
    ("net.conv1.kernel", 11, "4.5"),
    ("net.conv1.stride", 4, "4.5"),
    ("net.conv1.padding", 0, "Figure 2: 290,400 neurons"),
    ("net.conv1.rounding", "up", "Figure 2: 290,400 neurons"),
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
    ("net.conv_dropout", 0.0, "5.2: the first two fully connected layers"),
    ("net.dropout_scaling", "test", "5.2: at test time outputs are multiplied by 0.5"),
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
        "rate_factors",
        "frozen",
        "augmentations",
        "early_stopping",
        "mean",
        "balance",
        "image_sizes",
    }
    names = ("pooling", "stride", "padding", "rounding", "pool_rounding", "blur")
    same_for_all = {f"net.conv{i}.{name}" for i in range(1, 6) for name in names}
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
    names = r"did you mean alexnet-2012-run\? All names: alexnet-2012-paper, .*tiny$"
    with pytest.raises(ValueError, match=f"recipe must be a name that is known; got 'alexnet': {names}"):
        recipe_named("alexnet")


def rates_at(recipe: Recipe, epoch: float) -> dict[str, float]:
    """Return the learning rate of each layer's weights at a time in epochs."""
    return make_schedule(recipe).rates_at(epoch).weights


def test_the_2012_runs_change_their_rates_at_the_epochs_of_their_files() -> None:
    for name, (a, b, conv1_low, conv1_frozen, others_low, end) in {
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
            (conv1_low, 0.00001, 0.0001, False),
            (conv1_frozen, 0, 0.0001, False),
            (end - 1, 0, 0.0001 if others_low is None else 0.00001, False),
        ):
            rates, shifts_colours = rates_at(recipe, epoch), make_schedule(recipe).shifts_colours_at(epoch)
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
    schedule = make_schedule(last)
    assert (schedule.shifts_colours_at(37), schedule.shifts_colours_at(38), last.epochs) == (True, False, 54)


# The rates of the weights of conv1 and of the other layers, and whether colours are shifted, from an epoch on; the last
# table of 2012-source.md.
VARIANTS_OF_145 = {
    "alexnet-2012-no-overlap": [  # 147
        (0, 0.01, 0.01, True),
        (23, 0.001, 0.001, True),
        (51, 0.0001, 0.0001, True),
        (79, 0, 0.00001, True),
        (90, None, None, None),
    ],
    "alexnet-2012-no-normalisation": [  # 148
        (0, 0.01, 0.01, True),
        (22, 0.001, 0.001, True),
        (44, 0.0001, 0.0001, True),
        (69, 0.00001, 0.0001, False),
        (73, 0, 0.0001, False),
        (86, 0, 0.00001, False),
        (97, None, None, None),
    ],
    "alexnet-2012-separate-towers": [  # 150
        (0, 0.01, 0.01, True),
        (25, 0.001, 0.001, True),
        (49, 0.0001, 0.0001, True),
        (66, 0.00001, 0.0001, False),
        (72, 0, 0.0001, False),
        (79, 0, 0.00001, False),
        (92, None, None, None),
    ],
    "alexnet-2012-run-longer": [  # 145
        (0, 0.01, 0.01, True),
        (25, 0.001, 0.001, True),
        (51, 0.0001, 0.0001, True),
        (67, 0.00001, 0.0001, False),
        (72, 0, 0.0001, False),
        (79, 0, 0.00001, False),
        (91, 0, 0.001, True),
        (107, 0, 0.0001, True),
        (124, 0, 0.00001, False),
        (135, None, None, None),
    ],
    "alexnet-2012-finetune-fall2009": [  # 146 by Fall 2009 alone
        (0, 0.0001, 0.001, True),
        (3, 0.00001, 0.001, True),
        (4, 0, 0.001, True),
        (22, 0, 0.0001, True),
        (38, 0, 0.0001, False),
        (42, 0, 0.00001, False),
        (52, None, None, None),
    ],
}


@pytest.mark.parametrize("name", VARIANTS_OF_145)
def test_the_variants_of_net_145_have_the_rates_of_their_files(name: str) -> None:
    recipe, steps = recipe_named(name), VARIANTS_OF_145[name]
    assert recipe.epochs == steps[-1][0]
    for (start, conv1, others, colour), (end, *_) in itertools.pairwise(steps):
        for epoch in range(start, end):
            rates = rates_at(recipe, epoch)
            assert rates.pop("conv1") == conv1, epoch
            assert set(rates.values()) == {others}, epoch
            assert make_schedule(recipe).shifts_colours_at(epoch) == colour, epoch


def test_the_variants_of_net_145_differ_from_it_in_their_nets_as_their_files_do() -> None:
    def differences(name: str) -> dict[str, Any]:
        old, new = recipe_named("alexnet-2012-run"), recipe_named(name)
        return {path: value for path, _, value in recipe_differences(old, new) if path.startswith("net")}

    assert differences("alexnet-2012-no-overlap") == {
        "net.pool_size": 2, "net.conv2.padding": 1,
    }  # fmt: skip
    assert differences("alexnet-2012-no-normalisation") == {"net.normalise": None, "net.normalise_map": None}
    assert differences("alexnet-2012-separate-towers") == {"net.conv3.all_towers": False}
    assert differences("alexnet-2012-run-longer") == {}
    assert differences("alexnet-2012-finetune-fall2009") == differences("alexnet-2012-finetune")
