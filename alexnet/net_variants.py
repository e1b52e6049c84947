"""Variants of a net: a part left out or changed (sections 4, 5.2 and 8)."""

import itertools
from dataclasses import replace
from typing import Any

from alexnet.architecture import CONV_NAMES, ContrastNorm, Conv, Net
from alexnet.recipe import Recipe


def with_net(recipe: Recipe, net: Net) -> Recipe:
    """Return a recipe for another net; its settings for layers that the net does not have are removed."""
    names = net.layers()
    changes = []
    for step in recipe.changes:
        layers = tuple(name for name in step.layers if name in names)
        removed = bool(step.layers) and not layers  # no layers would mean all layers
        changes.append(replace(step, layers=layers, learning_rate=None if removed else step.learning_rate))
    decays = {name: decay for name, decay in recipe.decays.items() if name in names}
    return replace(recipe, net=net, changes=tuple(changes), decays=decays)


def renumber_convs(net: Net) -> Net:
    """Return the net with its convolutional layers named conv1, conv2, ... in their order: the same net."""
    convs: dict[str, Any] = dict(itertools.zip_longest(CONV_NAMES, net.convs().values()))
    return replace(net, **convs)


def one_gpu_net(net: Net) -> Net:
    """Return the one-GPU variant of a net: one tower, and half the kernels in each conv layer but conv5 (4.2).

    conv5 and the fully connected layers keep their sizes, so that both nets have about as many parameters (footnote b).
    """
    halves: dict[str, Any] = {
        name: replace(conv, maps=conv.maps // 2) for name, conv in net.convs().items() if name != "conv5"
    }
    return replace(net, towers=1, **halves)


def with_conv6(net: Net) -> Net:
    """Return a net with a sixth convolutional layer over its last pooling, as in net 146 (7).

    conv6 has as many maps as the last convolutional layer before it.
    """
    *_, last = net.convs().values()
    return replace(net, conv6=Conv(maps=last.maps, all_towers=True, bias=1.0, deviation=0.03))


def _conv(net: Net, name: str) -> Conv:
    """Return a convolutional layer of a net.

    Raises:
        ValueError: The net does not have it.
    """
    conv = getattr(net, name)
    if conv is None:
        raise ValueError(f"the recipe's net must have {name}, which this experiment changes; it has none")
    assert isinstance(conv, Conv)
    return conv


def separate_towers(net: Net) -> Net:
    """Return the net with towers that meet only in the fully connected layers (150)."""
    return replace(net, conv3=replace(_conv(net, "conv3"), all_towers=False))


def without_normalisation(net: Net) -> Net:
    """Return the net without response normalisation (148; 4.3)."""
    return replace(net, normalise=None, normalise_map=None, normalise_contrast=None)


def without_overlapping_pooling(net: Net) -> Net:
    """Return the net with pooling windows that do not overlap, and with conv2's padding as in run 147 (4.4)."""
    return replace(net, pool_size=2, pool_stride=2, conv2=replace(_conv(net, "conv2"), padding=1))


def with_tanh(net: Net) -> Net:
    """Return the net with tanh in place of ReLU (4.1)."""
    return replace(net, activation="tanh")


def with_logistic(net: Net) -> Net:
    """Return the net with the logistic function in place of ReLU (4.1)."""
    return replace(net, activation="logistic")


def with_abs_tanh(net: Net) -> Net:
    """Return the net with the magnitude of tanh, contrast normalisation and average pooling (Jarrett et al., 4.1).

    Our reading of their stage, "convolution, tanh, magnitude, contrast normalisation, average pooling": where the net
    pools, contrast normalisation comes before the pooling and replaces response normalisation. The layers that do not
    pool, and the fully connected ones, have the magnitude of tanh only.
    """
    convs: dict[str, Any] = {}
    for name, conv in net.convs().items():
        if "pool" in conv.then:
            convs[name] = replace(conv, then=("activate", "normalise_contrast", "pool"), pooling="average")
        else:
            convs[name] = replace(conv, then=("activate",))
    norms: dict[str, Any] = {"normalise": None, "normalise_map": None, "normalise_contrast": ContrastNorm()}
    return replace(net, activation="abs_tanh", **norms, **convs)


def without_dropout(net: Net) -> Net:
    """Return the net without dropout in its hidden layers (5.2)."""
    hidden: dict[str, Any] = {name: replace(full, dropout=0.0) for name, full in net.hidden().items()}
    return replace(net, **hidden)


def without_conv1(net: Net) -> Net:
    """Return the net whose conv2 reads the picture as conv1 did; conv3 pools, so that all later layers fit."""
    first, second, third = (_conv(net, name) for name in ("conv1", "conv2", "conv3"))
    second = replace(second, kernel=first.kernel, stride=first.stride, padding=first.padding)
    return replace(net, conv1=None, conv2=second, conv3=replace(third, then=("activate", "pool")))


def without_conv2(net: Net) -> Net:
    """Return the net whose conv3 normalises and pools in place of conv2."""
    return replace(net, conv2=None, conv3=replace(_conv(net, "conv3"), then=_conv(net, "conv2").then))


def without_conv3(net: Net) -> Net:
    """Return the net whose towers meet in conv4 in place of conv3."""
    return replace(net, conv3=None, conv4=replace(_conv(net, "conv4"), all_towers=True))


def without_conv4(net: Net) -> Net:
    """Return the net without conv4."""
    return replace(net, conv4=None)


def without_conv5(net: Net) -> Net:
    """Return the net whose conv4 pools in place of conv5."""
    return replace(net, conv5=None, conv4=replace(_conv(net, "conv4"), then=_conv(net, "conv5").then))


def with_towers_meeting_in(net: Net, *names: str) -> Net:
    """Return the net whose towers meet in these convolutional layers and in no other one (4.2)."""
    convs: dict[str, Any] = {name: replace(conv, all_towers=name in names) for name, conv in net.convs().items()}
    return replace(net, **convs)


def with_zero_biases(net: Net) -> Net:
    """Return the net whose biases are all 0 at the start (6)."""
    layers: dict[str, Any] = {name: replace(layer, bias=0.0) for name, layer in (net.convs() | net.hidden()).items()}
    return replace(net, **layers, fc8=replace(net.fc8, bias=0.0))


def with_width(net: Net, factor: float) -> Net:
    """Return the net with `factor` times as many maps and units; the maps stay divisible by the towers (8)."""
    layers: dict[str, Any] = {
        name: replace(conv, maps=net.towers * round(factor * conv.maps / net.towers))
        for name, conv in net.convs().items()
    }
    for name, full in net.hidden().items():
        assert full.units is not None  # of a hidden layer
        layers[name] = replace(full, units=round(factor * full.units))
    return replace(net, **layers)
