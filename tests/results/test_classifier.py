"""`Classifier`: pictures of every kind, one or many; each result is compared with the net applied by hand."""

import io
import itertools
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, draw_pictures, small_recipe
from PIL import Image

from alexnet.data.store.statistics import Statistics
from alexnet.models.alexnet import AlexNet
from alexnet.results.classifier import Classifier
from alexnet.training.checkpoint import Checkpoint, TrainState

SIZE, CROP = 32, 24
RECIPE = replace(small_recipe(), precision="float32")
PICTURES, _ = draw_pictures(7, SIZE)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """A net with random weights whose probabilities differ from picture to picture."""
    torch.manual_seed(0)
    net = AlexNet(3, RECIPE.net)
    with torch.no_grad():
        net.fc8.weight.mul_(1000)  # type: ignore[union-attr, operator]
    mean = np.random.default_rng(0).uniform(80, 120, (3, SIZE, SIZE)).astype(np.float32)
    statistics = Statistics.from_covariance(mean, np.eye(3), 48)
    tensors = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    path = Path("runs/random/checkpoints/best.safetensors")
    return Classifier(Checkpoint(path, RECIPE, CLASSES, statistics, TrainState(), tensors), device="cpu")


def centre_views(classifier: Classifier, pictures: np.ndarray) -> torch.Tensor:
    """Return the centred centre crops (N, 3, 24, 24)."""
    start = (SIZE - CROP) // 2
    pixels = torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32)) - torch.from_numpy(classifier.mean)
    return pixels[..., start : start + CROP, start : start + CROP]


def expected_probabilities(classifier: Classifier, pictures: np.ndarray) -> np.ndarray:
    """Return the probabilities (N, 3) from the centre of each picture."""
    with torch.no_grad():
        return classifier.net(centre_views(classifier, pictures)).softmax(1).numpy()  # type: ignore[no-any-return]


def png_bytes(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def test_every_kind_of_picture_has_the_same_probabilities(classifier: Classifier, tmp_path: Path) -> None:
    picture = PICTURES[0]
    (tmp_path / "a.png").write_bytes(png_bytes(picture))
    channels_first = torch.from_numpy(picture.transpose(2, 0, 1).copy())
    kinds = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        np.str_(tmp_path / "a.png"),
        png_bytes(picture),
        bytearray(png_bytes(picture)),
        Image.open(tmp_path / "a.png"),
        Image.fromarray(picture).convert("RGBA"),
        picture,
        picture[:, ::-1][:, ::-1],  # with negative strides
        picture / 255,
        (picture / 255).astype(np.float32),
        channels_first,
        channels_first / 255,
        (channels_first / 255).requires_grad_(),
    ]
    expected = expected_probabilities(classifier, PICTURES[:1])[0]
    assert np.ptp(expected) > 0.1
    for kind in kinds:
        probabilities = classifier.probabilities(kind, views=1)
        assert probabilities.shape == (3,)
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, expected, atol=1e-5, err_msg=str(type(kind)))
    np.testing.assert_allclose(classifier.probabilities(kinds, views=1), [expected] * len(kinds), atol=1e-5)


def test_several_pictures_are_a_list_an_array_a_tensor_or_any_iterable(classifier: Classifier) -> None:
    expected = expected_probabilities(classifier, PICTURES)
    batch = torch.from_numpy(PICTURES.transpose(0, 3, 1, 2).copy())
    for pictures in (PICTURES, [*PICTURES], tuple(PICTURES), batch, iter(PICTURES), (p for p in batch)):
        np.testing.assert_allclose(classifier.probabilities(pictures, views=1, batch_size=3), expected, atol=1e-5)
    names = [CLASSES[label] for label in expected.argmax(1)]
    assert [classes[0][0] for classes in classifier.predict(PICTURES, views=1)] == names
    assert [classes[0][0] for classes in classifier.predict(iter(PICTURES), views=1)] == names
    one, many = classifier.predict(PICTURES[3], top=2, views=1), classifier.predict([PICTURES[3]], top=2, views=1)
    assert many == [one]
    assert [name for name, _ in one] == [CLASSES[label] for label in np.argsort(-expected[3])[:2]]
    assert [probability for _, probability in one] == pytest.approx(sorted(expected[3])[:0:-1], abs=1e-5)


def test_the_default_number_of_views_is_the_recipes(classifier: Classifier) -> None:
    picture = torch.from_numpy(PICTURES[0].transpose(2, 0, 1).astype(np.float32))
    mean = torch.from_numpy(classifier.mean[:, 4:28, 4:28])
    corners = [(4, 4), (0, 0), (0, 8), (8, 0), (8, 8)]
    crops = [picture[:, top : top + CROP, left : left + CROP] for top, left in corners]
    views = torch.stack([*crops, *(crop.flip(2) for crop in crops)]) - mean
    with torch.no_grad():
        expected = classifier.net(views).softmax(1).mean(0)
    np.testing.assert_allclose(classifier.probabilities(PICTURES[0]), expected, atol=1e-5)


def test_features_are_the_outputs_of_any_layer(classifier: Classifier) -> None:
    net, views = classifier.net, centre_views(classifier, PICTURES[:2])
    with torch.no_grad():
        conv2 = net.convs["conv2"](net.convs["conv1"](net.scale_pixels(views)))
        fc7, fc8 = net.features(views), net(views)
    for layer, expected in (("conv2", conv2), ("fc7", fc7), (None, fc7), ("fc8", fc8)):
        features = classifier.features(PICTURES[:2], layer=layer)
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, expected, atol=1e-4)
    assert classifier.features(PICTURES[0]).shape == (16,)
    with pytest.raises(ValueError, match=r"layer must be one of conv1, .*, fc8; got 'fc9'"):
        classifier.features(PICTURES, layer="fc9")


def test_a_long_iterator_is_taken_picture_by_picture(classifier: Classifier) -> None:
    class Picture(np.ndarray):  # an array to which a weak reference can point
        pass

    alive: list[weakref.ref[Picture]] = []
    most = 0

    def stream() -> Iterator[np.ndarray]:
        nonlocal most
        for number in itertools.count():
            picture = PICTURES[number % 7].copy().view(Picture)
            alive.append(weakref.ref(picture))
            most = max(most, sum(reference() is not None for reference in alive[-200:]))
            yield picture

    predictions = classifier.predict(stream(), views=1, batch_size=4)
    assert isinstance(predictions, Iterator)
    first = [*itertools.islice(predictions, 120)]
    assert [classes[0] for classes in first[:7]] == [classes[0] for classes in first[7:14]]
    predictions.close()  # type: ignore[attr-defined]
    assert len(alive) < 140
    assert most < 24


def test_a_bad_picture_is_named_after_the_good_ones_before_it(classifier: Classifier) -> None:
    predictions = classifier.predict(iter([PICTURES[0], PICTURES[1], b"text", PICTURES[2]]), views=1)
    assert next(predictions)
    assert next(predictions)
    with pytest.raises(ValueError, match=r"^picture 2: not a readable picture: in an unknown format"):
        next(predictions)


def closed_picture(folder: Path) -> Image.Image:
    (folder / "a.png").write_bytes(png_bytes(PICTURES[0]))
    picture = Image.open(folder / "a.png")
    picture.close()
    return picture


@pytest.mark.parametrize(
    ("pictures", "exception", "message"),
    [
        ([], ValueError, "pictures must be one or more; got none"),
        (np.empty((0, 8, 8, 3), np.uint8), ValueError, "pictures must be one or more; got none"),
        (7, TypeError, "a picture must be a path, .*; got int"),
        (None, TypeError, "a picture must be .*; got NoneType"),
        ([PICTURES[0], 7], TypeError, "^picture 1: a picture must be .*; got int"),
        ([[PICTURES[0]]], TypeError, "^picture 0: .*; got list"),
        (PICTURES[0][..., 0], ValueError, r"shape \(H, W, 3\), RGB; got \(32, 32\): np.stack"),
        (PICTURES[0][..., :2], ValueError, r"shape \(H, W, 3\), RGB; got \(32, 32, 2\)$"),
        (PICTURES[0].transpose(2, 0, 1), ValueError, r"got \(3, 32, 32\): use transpose\(1, 2, 0\)"),
        (
            torch.from_numpy(PICTURES[0]),
            ValueError,
            r"shape \(3, H, W\), RGB; got \(32, 32, 3\): use permute\(2, 0, 1\)",
        ),
        (PICTURES[0].astype(np.int64), ValueError, "must be uint8, or floats from 0 to 1; got int64"),
        (PICTURES[0] > 80, ValueError, "must be uint8, or floats from 0 to 1; got bool"),
        (PICTURES[0].astype(float), ValueError, "floating-point pixels must be from 0 to 1; got 60 to .*uint8"),
        (PICTURES[0] / 255 - 0.5, ValueError, "must be from 0 to 1; got -0.2.*undo a normalisation"),
        (np.full((8, 8, 3), np.nan), ValueError, "must be from 0 to 1; got nan"),
        (np.empty((0, 8, 3), np.uint8), ValueError, "must have from 1 to .* pixels; got 8x0"),
        (b"", ValueError, "not a readable picture: the file is empty"),
        (b"\x89PNG\r\n\x1a\n", ValueError, "not a readable picture"),
        ("nowhere.jpg", FileNotFoundError, "nowhere.jpg"),
        (["nowhere.jpg"], FileNotFoundError, "nowhere.jpg"),
        (Path(), IsADirectoryError, "directory"),
        (Path(__file__), ValueError, "test_classifier.py: not a readable picture: in an unknown format"),
        ("closed", ValueError, "not a readable picture"),
    ],
)
def test_what_is_no_picture_is_refused(
    classifier: Classifier, tmp_path: Path, pictures: object, exception: type[Exception], message: str
) -> None:
    if isinstance(pictures, str) and pictures == "closed":
        pictures = closed_picture(tmp_path)
    for method in (classifier.predict, classifier.probabilities, classifier.features):
        with pytest.raises(exception, match=message):
            method(pictures)  # type: ignore[operator]


def test_numbers_out_of_range_are_refused(classifier: Classifier) -> None:
    with pytest.raises(ValueError, match="top must be at least 1; got 0"):
        classifier.predict(PICTURES, top=0)
    with pytest.raises(ValueError, match=r"views must be 1 .*; got 3"):
        classifier.probabilities(PICTURES, views=3)
    with pytest.raises(ValueError, match="batch must be at least 1; got 0"):
        classifier.features(PICTURES, batch_size=0)
    with pytest.raises(ValueError, match="pictures must be one or more; got none"):
        classifier.probabilities(iter(()))


def test_its_repr_says_what_it_is(classifier: Classifier) -> None:
    assert repr(classifier) == "Classifier('runs/random', classes=3, views=10, device='cpu')"
    first = repr(classifier.net).splitlines()[1]
    assert (
        first.strip()
        == f"classes=3, image_size=24, weights and biases={sum(p.numel() for p in classifier.net.parameters()):,}"
    )
