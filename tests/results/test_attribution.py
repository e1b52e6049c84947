"""Maps of what speaks for a class: against plain loops, finite differences, and pictures whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from alexnet.architecture import Conv, Full, Net
from alexnet.data.loading.augment import centre_mean
from alexnet.data.store.statistics import Statistics
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.results.attribution import centre_crop, class_index, gradient_map, occlusion_map, overlay
from alexnet.results.classifier import Classifier
from alexnet.training.checkpoint import Checkpoint, TrainState

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ("nothing", "green patch", "red patch")
SIDE, CROP, PATCH = 32, 24, 6  # pixels
MARGIN = (SIDE - CROP) // 2


def plant_patches(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return noise in which a patch of six pixels alone tells the class: there is none, a green one or a red one.

    Returns:
        Pictures (count, 32, 32, 3) uint8, labels (count,), and the first rows and columns (count, 2) of the patches
        among the pixels that the net sees.
    """
    random = np.random.default_rng(seed)
    pictures = random.integers(90, 170, (count, SIDE, SIDE, 3)).astype(np.uint8)
    labels = np.arange(count) % len(CLASSES)
    corners = random.integers(0, CROP - PATCH + 1, (count, 2))
    for picture, label, (top, left) in zip(pictures, labels, corners + MARGIN, strict=True):
        if label:
            patch = picture[top : top + PATCH, left : left + PATCH]
            patch[:] = 30
            patch[..., 2 - label] = 250
    return pictures, labels, corners


@pytest.fixture(scope="module")
def classifier(one_thread: None) -> Classifier:  # noqa: ARG001
    """The classifier of a small net that was trained on planted patches."""
    conv1 = Conv(maps=8, kernel=5, stride=2, padding=0, then=("activate", "pool"))
    conv2 = Conv(maps=8, kernel=3, padding=1, then=("activate", "pool"))
    layers = {"conv1": conv1, "conv2": conv2, "conv3": None, "conv4": None, "conv5": None, "fc6": Full(units=16)}
    net_settings = Net(image_size=CROP, towers=1, **layers, fc7=None, start="he", pixel_scale=1 / 64)
    recipe = Recipe(net=net_settings, store_size=SIDE, precision="float32")
    pictures, labels, _ = plant_patches(300, seed=0)
    values = pictures.astype(np.int64)
    statistics = Statistics.from_sums(values.sum(0), values.reshape(-1, 3).T @ values.reshape(-1, 3), len(pictures))
    centred = pictures[:, MARGIN:-MARGIN, MARGIN:-MARGIN] - centre_mean(statistics.mean, CROP)
    batches = torch.from_numpy(centred).permute(0, 3, 1, 2).split(30) * 8
    torch.manual_seed(0)
    net = AlexNet(len(CLASSES), net_settings)
    optimiser = torch.optim.Adam(net.parameters(), 0.005)
    for batch in batches:
        optimiser.zero_grad()
        F.cross_entropy(net(batch), torch.from_numpy(labels[:30]), label_smoothing=0.1).backward()
        optimiser.step()
    tensors = {f"net.{name}": tensor.detach() for name, tensor in net.state_dict().items()}
    checkpoint = Checkpoint(Path("run/checkpoints/step"), recipe, CLASSES, statistics, TrainState(), tensors)
    return Classifier(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """A picture with a red patch."""
    return plant_patches(3, seed=1)[0][2]


def log_probability(classifier: Classifier, pixels: torch.Tensor, label: int) -> torch.Tensor:
    """Return the log-probability of a class for pixels (24, 24, 3) from 0 to 255, not centred."""
    centred = pixels - torch.from_numpy(centre_mean(classifier.mean, CROP))
    with torch.inference_mode():
        logits: torch.Tensor = classifier.net(centred.permute(2, 0, 1)[None]).double()
    return logits[0, label] - logits[0].logsumexp(0)


def test_a_planted_patch_is_where_both_maps_peak(classifier: Classifier) -> None:
    pictures, labels, corners = plant_patches(30, seed=2)
    assert (classifier.probabilities(list(pictures), views=1).argmax(1) == labels).all()
    in_patch = []  # of each picture with a patch: whether the maps by occlusion and by the gradient peak in it
    for picture, label, corner in zip(pictures, labels, corners, strict=True):
        if label:
            maps = [make_map(classifier, picture, CLASSES[label]) for make_map in (occlusion_map, gradient_map)]
            peaks = np.array([np.unravel_index(values.argmax(), values.shape) for values in maps])
            in_patch.append(((corner <= peaks) & (peaks < corner + PATCH)).all(1))
    assert (np.mean(in_patch, 0) >= 0.8).all(), np.mean(in_patch, 0)  # a patch has 6 % of the pixels


@pytest.mark.parametrize(("size", "stride"), [(5, 2), (4, 4), (24, 24), (7, 5)])
def test_occlusion_is_what_a_plain_loop_computes(
    classifier: Classifier, picture: np.ndarray, size: int, stride: int
) -> None:
    crop = torch.from_numpy(picture[MARGIN:-MARGIN, MARGIN:-MARGIN].astype(np.float32))
    colour = torch.from_numpy(centre_mean(classifier.mean, CROP)).mean((0, 1))
    before = float(log_probability(classifier, crop, 2).exp())
    values: dict[tuple[int, int], list[tuple[float, float]]] = {}  # of each pixel: weights and falls
    starts = [*range(0, CROP - size, stride), CROP - size]
    for top in starts:
        for left in starts:
            occluded = crop.clone()
            occluded[top : top + size, left : left + size] = colour
            fall = before - float(log_probability(classifier, occluded, 2).exp())
            for y in range(size):
                for x in range(size):
                    weight = min(y + 1, size - y) * min(x + 1, size - x)
                    values.setdefault((top + y, left + x), []).append((weight, fall))
    expected = np.array(
        [
            [sum(w * fall for w, fall in values[y, x]) / sum(w for w, _ in values[y, x]) for x in range(CROP)]
            for y in range(CROP)
        ]
    )
    actual = occlusion_map(classifier, picture, "red patch", size=size, stride=stride, batch_size=7)
    assert actual.dtype == np.float32
    assert actual == pytest.approx(expected, abs=1e-6)
    assert expected.max() > 0.1


def test_the_gradient_is_what_finite_differences_say(classifier: Classifier, picture: np.ndarray) -> None:
    values = gradient_map(classifier, picture, "red patch", samples=1, noise=0, blur=0)
    crop = torch.from_numpy(picture[MARGIN:-MARGIN, MARGIN:-MARGIN].astype(np.float32))
    strongest = np.argsort(-values, axis=None)[:20]
    for y, x in zip(*np.unravel_index(strongest, values.shape), strict=True):
        slopes = []
        for channel in range(3):
            step = torch.zeros_like(crop)
            step[y, x, channel] = 0.05
            above, below = (log_probability(classifier, crop + sign * step, 2) for sign in (1, -1))
            slopes.append(abs(float(above - below)) / 0.1)
        assert values[y, x] == pytest.approx(max(slopes), rel=0.02)


def test_noisy_gradients_are_combined_by_their_squares(classifier: Classifier, picture: np.ndarray) -> None:
    options = {"noise": 0.15, "blur": 0}
    together = gradient_map(classifier, picture, "red patch", samples=11, **options)
    assert (gradient_map(classifier, picture, "red patch", samples=11, **options) == together).all()
    assert (gradient_map(classifier, picture, "red patch", samples=11, **options, seed=1) != together).any()
    plain = gradient_map(classifier, picture, "red patch", samples=1, noise=0, blur=0)
    repeated = gradient_map(classifier, picture, "red patch", samples=11, noise=0, blur=0)
    assert repeated == pytest.approx(plain, rel=1e-4)
    blurred = gradient_map(classifier, picture, "red patch", samples=1, noise=0, blur=2)
    assert blurred.sum() == pytest.approx(plain.sum(), rel=0.05)
    assert blurred.max() < plain.max()


def test_the_colours_show_where_values_are_high_and_low(picture: np.ndarray) -> None:
    values = np.zeros((SIDE, SIDE), np.float32)
    values[3, 4], values[5, 6] = 2, -1
    drawn = overlay(picture, values).astype(int)
    assert drawn[3, 4, 0] > drawn[3, 4, 1:].max() + 100
    assert drawn[5, 6, 2] > drawn[5, 6, 0] + 20
    others = values == 0
    assert (drawn[others] == drawn[others][:, :1]).all()  # grey
    assert (overlay(picture, 0 * values)[others] == drawn[others]).all()


def test_a_class_is_known_by_its_name(classifier: Classifier) -> None:
    assert [class_index(classifier, name) for name in CLASSES] == [0, 1, 2]


def test_the_crop_is_what_the_net_sees(classifier: Classifier, picture: np.ndarray) -> None:
    assert (centre_crop(classifier, picture) == picture[4:28, 4:28]).all()
    assert (centre_crop(classifier, Image.fromarray(picture)) == picture[4:28, 4:28]).all()


@pytest.mark.parametrize(
    ("make_map", "label", "options", "message"),
    [
        (occlusion_map, "red pitch", {}, "one of the 3 classes of the run; got 'red pitch': try 'red patch'"),
        (gradient_map, "?", {}, "got '\\?': try 'nothing', 'green patch'"),
        (occlusion_map, "nothing", {"size": 25}, "size must be from 1 to 24"),
        (occlusion_map, "nothing", {"size": 4, "stride": 5}, "stride must be from 1 to 4"),
        (occlusion_map, "nothing", {"batch_size": 0}, "batch_size must be at least 1"),
        (gradient_map, "nothing", {"samples": 0}, "samples must be at least 1"),
        (gradient_map, "nothing", {"noise": float("nan")}, "noise must be a finite number"),
        (gradient_map, "nothing", {"blur": -1.0}, "blur must be a finite number"),
    ],
)
def test_bad_arguments_are_named(
    classifier: Classifier, picture: np.ndarray, make_map: object, label: str, options: dict[str, float], message: str
) -> None:
    assert callable(make_map)
    with pytest.raises(ValueError, match=message):
        make_map(classifier, picture, label, **options)


def test_a_probability_that_rounds_to_one_still_has_a_map(classifier: Classifier, picture: np.ndarray) -> None:
    plain = gradient_map(classifier, picture, "red patch", samples=1, noise=0, blur=0)
    with pytest.MonkeyPatch.context() as patch:
        bias = classifier.net.fc8.bias
        patch.setattr(bias, "data", bias.detach() + 25 * torch.tensor([0.0, 0.0, 1.0]))
        certain = gradient_map(classifier, picture, "red patch", samples=1, noise=0, blur=0)
        falls = occlusion_map(classifier, picture, "red patch")
    assert 0 < certain.max() < 1e-8 * plain.max()
    assert certain / certain.max() == pytest.approx(plain / plain.max(), abs=0.3)
    assert 0 < falls.max() < 1e-8
