"""The confusion matrix of any number of classes as a picture, and the reliability diagram."""

import io

import numpy as np
import pytest
from PIL import Image

from alexnet.results.calibration import calibration_bins
from alexnet.results.evaluation_figures import draw_confusion, draw_reliability
from alexnet.results.figures import DARK, to_png


def random_confusion(classes: int) -> np.ndarray:
    """Return a confusion matrix with half of the pictures on the diagonal."""
    random = np.random.default_rng(0)
    confusion = random.poisson(0.1, (classes, classes))
    return confusion + np.diag(confusion.sum(1))


@pytest.mark.parametrize(("classes", "names", "numbers"), [(3, 3, True), (40, 40, False), (200, 40, False)])
def test_a_cell_is_the_share_of_its_row(classes: int, names: int, numbers: bool) -> None:
    confusion = random_confusion(classes)
    axes = draw_confusion(confusion, [f"class {number}" for number in range(classes)]).axes[0]
    diagonal, others = (image.get_array() for image in axes.images)
    for row in range(classes):
        total = max(confusion[row].sum(), 1)
        for column in range(classes):
            shown, hidden = (diagonal, others) if row == column else (others, diagonal)
            assert shown[row, column] == confusion[row, column] / total
            assert hidden.mask[row, column]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) == names
    assert labels[1] == f"class {classes // names}"
    texts = sorted(int(text.get_text()) for text in axes.texts)
    assert texts == (sorted(confusion[confusion > 0].tolist()) if numbers else [])


def test_of_very_many_classes_neighbours_are_taken_together() -> None:
    confusion = random_confusion(1002)
    axes = draw_confusion(confusion, [f"class {number}" for number in range(1002)]).axes[0]
    _, others = (image.get_array() for image in axes.images)
    assert others.shape == (201, 201)  # of five classes, the last of two
    rows, columns = slice(35, 40), slice(1000, 1002)
    assert others[7, 200] == confusion[rows, columns].sum() / confusion[rows].sum()
    assert axes.get_xlabel() == "predicted class; a cell is 5 x 5 classes"
    positions = dict(zip((t.get_text() for t in axes.get_yticklabels()), axes.get_yticks(), strict=True))
    assert positions["class 260"] == 52


def test_any_name_can_be_drawn_and_is_not_cut_off() -> None:
    names = ["$x_", "猫" * 10, "<b>&", "a name much too long to be written in full in a figure"]
    image = Image.open(io.BytesIO(to_png(draw_confusion(random_confusion(4), names, DARK)))).convert("RGB")
    pixels = np.asarray(image).astype(int)
    background = pixels[0, 0]
    for border in (pixels[:, 0], pixels[:, -1], pixels[0], pixels[-1]):
        assert (border == background).all()


def test_the_diagram_has_a_point_for_each_range_with_pictures() -> None:
    probabilities = np.array([[0.9, 0.1], [0.88, 0.12], [0.6, 0.4]])
    bins = calibration_bins(probabilities, np.array([0, 1, 0]), bins=10)
    above, below = draw_reliability(bins).axes
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in above.lines if line.get_marker() == "o"]
    assert points == [(0.6, 1.0), (pytest.approx(0.89), 0.5)]
    assert [bar.get_height() for bar in below.patches] == [0, 0, 0, 0, 0, 1, 0, 0, 2, 0]
