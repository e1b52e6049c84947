"""The nets that the experiments compare with the net: a part left out or changed (sections 4, 5, 6 and 8)."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from alexnet.architecture import Net
from alexnet.net_variants import (
    one_gpu_net,
    renumber_convs,
    separate_towers,
    with_abs_tanh,
    with_logistic,
    with_net,
    with_tanh,
    with_towers_meeting_in,
    with_width,
    with_zero_biases,
    without_conv1,
    without_conv2,
    without_conv3,
    without_conv4,
    without_conv5,
    without_dropout,
    without_normalisation,
    without_overlapping_pooling,
)
from alexnet.recipe import Recipe

THE_NET = "the-net"


def _net(change: Callable[[Net], Net]) -> Callable[[Recipe], Recipe]:
    """Return a function that changes the net of a recipe."""
    return lambda recipe: with_net(recipe, change(recipe.net))


# The most valuable first: what a comparison needs comes before what it is compared with by other claims.
VARIANTS: dict[str, Callable[[Recipe], Recipe]] = {
    THE_NET: lambda recipe: recipe,
    "one-gpu": _net(one_gpu_net),
    "no-normalisation": _net(without_normalisation),
    "no-overlap": _net(without_overlapping_pooling),
    "no-dropout": _net(without_dropout),
    "no-crops": lambda recipe: replace(recipe, crops="centre", crop_area=None, reflect=False),
    "no-decay": lambda recipe: replace(recipe, decay=0.0, decays={}),
    "zero-biases": _net(with_zero_biases),
    "no-colour-shift": lambda recipe: replace(recipe, colour_deviation=0.0, colour_divisor=1.0),
    "tanh": _net(with_tanh),
    "without-conv3": _net(without_conv3),
    "without-conv4": _net(without_conv4),
    "separate-towers": _net(separate_towers),
    "without-conv2": _net(without_conv2),
    "without-conv5": _net(without_conv5),
    "without-conv1": _net(without_conv1),
    "meeting-everywhere": _net(lambda net: with_towers_meeting_in(net, "conv2", "conv3", "conv4", "conv5")),
    "meeting-in-conv4": _net(lambda net: with_towers_meeting_in(net, "conv4")),
    "longer": lambda recipe: recipe.with_epochs(2 * recipe.epochs),
    "wider": _net(lambda net: with_width(net, 1.5)),
    "logistic": _net(with_logistic),
    "abs-tanh": _net(with_abs_tanh),
    "no-reflections": lambda recipe: replace(recipe, reflect=False),
}


def drop_duplicate_nets(recipes: Mapping[str, Recipe]) -> tuple[dict[str, Recipe], list[str]]:
    """Return the recipes, by the names of their nets, without those that would train the net of an earlier one again.

    The names of convolutional layers make no difference: without conv3 or without conv4, the same net can be left.

    Returns:
        The recipes that differ, in their order, and a note on each of the others.
    """
    different: dict[str, Recipe] = {}
    names: dict[str, str] = {}
    notes = []
    for name, recipe in recipes.items():
        first = names.setdefault(_without_layer_names(recipe).to_json(), name)
        if first == name:
            different[name] = recipe
        else:
            notes.append(f"{name}: with this recipe the same net as {first!r}, which is trained once.")
    return different, notes


def _without_layer_names(recipe: Recipe) -> Recipe:
    """Return a recipe that is equal for equal trainings, whatever the convolutional layers are called."""
    has_settings_of_layers = (
        recipe.decays or recipe.rate_factors or recipe.frozen or any(change.layers for change in recipe.changes)
    )
    return recipe if has_settings_of_layers else replace(recipe, net=renumber_convs(recipe.net))
