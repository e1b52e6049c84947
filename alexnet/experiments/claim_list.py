"""What the paper claims about the parts of its net, as a list: each claim, and the net without the part."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from alexnet.architecture import Net
from alexnet.net_variants import (
    one_gpu_net,
    separate_towers,
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
AVERAGE = "average"
Measure = Literal["error", "training", "overfitting", "early", "epochs"]
MEASURES: dict[Measure, str] = {
    "error": "top-1 error, ten views (%)",
    "training": "training error, centre view (%)",
    "overfitting": "validation error minus training error (points)",
    "early": "validation error in the first fifth of the epochs (%)",
    "epochs": "epochs to the same validation error",
}


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: what becomes of a measure if the net is changed.

    Args:
        variant: The changed net, a key of VARIANTS; or AVERAGE, the predictions of all nets of THE_NET averaged.
        section: The section of the paper.
        text: The claim, in our words.
        measure: What decides, a key of MEASURES.
        sign: The sign of the change that the paper says: 1 if the measure rises, -1 if it falls.
        paper: The change by the paper or by the program's files, in the measure's unit; None if neither has a number.
    """

    variant: str
    section: str
    text: str
    measure: Measure
    sign: Literal[1, -1]
    paper: float | None = None


def _net(change: Callable[[Net], Net]) -> Callable[[Recipe], Recipe]:
    """Return a function that changes the net of a recipe."""
    return lambda recipe: with_net(recipe, change(recipe.net))


# The nets, the most valuable first: what a comparison needs comes before what it is compared with by other claims.
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
}

CLAIMS: tuple[Claim, ...] = (
    Claim("one-gpu", "4.2", "half the kernels, on one GPU: a higher error", "error", 1, 1.7),
    Claim("no-normalisation", "4.3", "no response normalisation: a higher error", "error", 1, 1.4),
    Claim("no-overlap", "4.4", "pooling without overlap: a higher error", "error", 1, 0.4),
    Claim("no-overlap", "4.4", "pooling without overlap: it overfits slightly more easily", "overfitting", 1),
    Claim("no-dropout", "5.2", "no dropout: substantial overfitting", "overfitting", 1),
    Claim("no-dropout", "5.2", "no dropout: a higher error", "error", 1),
    Claim("no-dropout", "5.2", "no dropout: half the iterations", "epochs", -1),
    Claim("no-crops", "5.1", "neither crops nor reflections: substantial overfitting", "overfitting", 1),
    Claim("no-crops", "5.1", "neither crops nor reflections: a higher error", "error", 1),
    Claim("no-decay", "6", "no weight decay: a higher training error", "training", 1),
    Claim("zero-biases", "6", "all biases 0 at the start: slower early learning", "early", 1),
    Claim("no-colour-shift", "5.1", "no colour shift: an error higher by over 1 %", "error", 1, 1.0),
    Claim("tanh", "4.1", "tanh in place of ReLU: slower learning", "early", 1),
    Claim("tanh", "4.1", "tanh in place of ReLU: a higher training error after as many epochs", "training", 1),
    Claim("without-conv3", "8", "without conv3: an error higher by about 2 %", "error", 1, 2.0),
    Claim("without-conv4", "8", "without conv4: an error higher by about 2 %", "error", 1, 2.0),
    Claim("separate-towers", "4.2", "towers that never meet (150): a higher error", "error", 1, 1.16),
    Claim("without-conv2", "2", "without conv2: a higher error", "error", 1),
    Claim("without-conv5", "2", "without conv5: a higher error", "error", 1),
    Claim("without-conv1", "2", "without conv1: a higher error", "error", 1),
    Claim("meeting-everywhere", "4.2", "towers that meet in all layers: a lower error", "error", -1),
    Claim("meeting-in-conv4", "4.2", "towers that meet in conv4, not conv3: no better, it was chosen", "error", 1),
    Claim("longer", "8", "trained twice as long: a lower error", "error", -1),
    Claim("wider", "8", "a net half as wide again: a lower error", "error", -1),
    Claim(AVERAGE, "7", "the predictions of five nets averaged: a lower error", "error", -1, -2.6),
)
