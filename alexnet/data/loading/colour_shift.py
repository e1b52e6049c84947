"""The colour shift of training pictures, and the divisor 1.1 of shifted pictures (section 5.1).

Random multiples of the principal components of the colours are added to all pixels of a picture. The 2012 program then
divides the picture by 1.1, so that its spread stays near that of test pictures. The paper has no divisor
(`Recipe.colour_divisor`).
"""

import numpy as np

from alexnet.data.store.statistics import Statistics
from alexnet.recipe import Recipe


def colour_deviation(recipe: Recipe, shift_colours: bool) -> float:
    """Return the deviation of the Gaussian that scales each colour component; 0 if the colours are not shifted."""
    return recipe.colour_deviation if shift_colours else 0.0


def colour_divisor(recipe: Recipe, shift_colours: bool) -> float:
    """Return the number that training pictures are divided by; 1 if the colours are not shifted."""
    return recipe.colour_divisor if colour_deviation(recipe, shift_colours) > 0 else 1.0


def draw_colour_shifts(uniforms: np.ndarray, deviation: float, statistics: Statistics) -> np.ndarray:
    """Draw what is added to the red, green and blue values of all pixels of each picture (5.1).

    As in the 2012 program, a component has the square root of its eigenvalue as its length.

    Args:
        uniforms: (N, 4) uniform random numbers, from which the Box-Muller transform makes three Gaussian ones.
        deviation: The deviation of the Gaussian; 0 for no shift.
        statistics: The statistics of the training pictures.

    Returns:
        (N, 3) float32, in 0..255 units.
    """
    if deviation == 0:
        return np.zeros((len(uniforms), 3), np.float32)
    radius = np.sqrt(-2 * np.log1p(-uniforms[:, :2]))
    angle = 2 * np.pi * uniforms[:, 2:]
    gaussian = np.concatenate([radius * np.cos(angle), radius[:, :1] * np.sin(angle[:, :1])], axis=1)
    lengths = deviation * gaussian * statistics.colour_deviations()
    # Not a matrix product: its rounding may depend on the number of rows.
    shifts: np.ndarray = (lengths[:, :, None] * statistics.components).sum(axis=1)
    return shifts.astype(np.float32)
