"""What the paper claims about the parts of its net, as a list: each claim, and the net without the part."""

from dataclasses import dataclass
from typing import Literal

AVERAGE = "average"
Measure = Literal["error", "training", "overfitting", "early", "epochs"]
MEASURES: dict[Measure, str] = {
    "error": "top-1 error, ten views (%)",
    "training": "training error, centre view (%)",
    "overfitting": "validation error minus training error (points)",
    "early": "validation error in the first fifth of the epochs (%)",
    "epochs": "epochs at the first rate until the validation error hardly improves",
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


CLAIMS: tuple[Claim, ...] = (
    Claim("one-gpu", "4.2", "half the kernels, on one GPU: a higher error", "error", 1, 1.7),
    Claim("no-normalisation", "4.3", "no response normalisation: a higher error", "error", 1, 1.4),
    Claim("no-overlap", "4.4", "pooling without overlap: a higher error", "error", 1, 0.4),
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
    Claim("logistic", "4.1", "the logistic function in place of ReLU: slower learning", "early", 1),
    Claim("logistic", "4.1", "the logistic function: a higher training error after as many epochs", "training", 1),
    Claim("abs-tanh", "4.1", "magnitude of tanh, contrast norm: slower learning than ReLU", "early", 1),
    Claim("abs-tanh", "4.1", "magnitude of tanh, contrast norm: less overfitting, on Caltech-101", "overfitting", -1),
    Claim("abs-tanh", "4.1", "magnitude of tanh, contrast norm: a lower error, on Caltech-101", "error", -1),
    Claim(AVERAGE, "7", "the predictions of five nets averaged: a lower error", "error", -1, -2.6),
)
# Those that can be seen only where the net overfits: the experiment `overfitting` judges them.
OVERFITTING_CLAIMS: tuple[Claim, ...] = (
    Claim("no-dropout", "5.2", "no dropout: substantial overfitting", "overfitting", 1),
    Claim("no-dropout", "5.2", "no dropout: a higher error", "error", 1),
    Claim("no-dropout", "5.2", "no dropout: half the iterations", "epochs", -1),
    Claim("no-crops", "5.1", "neither crops nor reflections: substantial overfitting", "overfitting", 1),
    Claim("no-crops", "5.1", "neither crops nor reflections: a higher error", "error", 1),
    Claim("no-decay", "6", "no weight decay: a higher training error", "training", 1),
    Claim("no-overlap", "4.4", "pooling without overlap: it overfits slightly more easily", "overfitting", 1),
)
