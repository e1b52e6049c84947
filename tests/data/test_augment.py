"""Data augmentation: the random choices, and their application to pictures (section 5.1)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.data.loading.augment import Augmentation, augment_picture, centre_mean, draw_augmentation
from alexnet.data.loading.sampler import epoch_order
from alexnet.data.store.statistics import Statistics
from alexnet.kernels.augment import transform_picture, transform_picture_reference

COVARIANCE = np.array([[5000.0, 4200.0, 3800.0], [4200.0, 4800.0, 4300.0], [3800.0, 4300.0, 5200.0]])
STATISTICS = Statistics.from_covariance(np.zeros((3, 256, 256), np.float32), COVARIANCE, 10)
ARGUMENTS = {"seed": 0, "epoch": 0, "size": 256, "crop": 224, "reflect": True, "crop_area": None}
ARGUMENTS |= {"colour_deviation": 0.1, "statistics": STATISTICS}
INDICES = np.arange(20_000)


def position_picture(size: int) -> np.ndarray:
    """A picture whose pixels are their positions: (row, column, row + column), modulo 256."""
    rows, columns = np.mgrid[:size, :size]
    return np.stack([rows, columns, rows + columns], axis=2).astype(np.uint8)


def equal(a: Augmentation, b: Augmentation) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


# The random choices


@pytest.fixture(scope="module")
def augmentation() -> Augmentation:
    return draw_augmentation(INDICES, **ARGUMENTS)


def test_offsets_are_uniform_from_0_to_32_in_both_directions(augmentation):
    for offsets in (augmentation.top, augmentation.left):
        counts = np.bincount(offsets, minlength=33)
        assert len(counts) == 33  # "offsets 0..32"
        chi_square = ((counts - len(INDICES) / 33) ** 2 / (len(INDICES) / 33)).sum()
        assert chi_square < 62.5  # with 32 degrees of freedom, larger once in a thousand times
    assert (augmentation.side == 224).all()
    assert abs(np.corrcoef(augmentation.top, augmentation.left)[0, 1]) < 0.03


def test_half_of_the_pictures_are_reflected(augmentation):
    assert abs(augmentation.reflect.mean() - 0.5) < 0.015
    assert not draw_augmentation(INDICES, **{**ARGUMENTS, "reflect": False}).reflect.any()


def test_the_colour_shift_is_the_components_times_root_eigenvalue_times_a_gaussian(augmentation):
    gaussians = augmentation.colour_shift @ STATISTICS.components.T / np.sqrt(STATISTICS.eigenvalues)
    np.testing.assert_allclose(gaussians.mean(0), 0, atol=0.003)
    np.testing.assert_allclose(gaussians.std(0), 0.1, rtol=0.02)
    np.testing.assert_allclose(np.corrcoef(gaussians.T), np.eye(3), atol=0.03)
    np.testing.assert_allclose((np.abs(gaussians) < 0.1).mean(0), 0.6827, atol=0.015)
    np.testing.assert_allclose((np.abs(gaussians) < 0.2).mean(0), 0.9545, atol=0.008)
    np.testing.assert_allclose(np.cov(augmentation.colour_shift.T), 0.01 * COVARIANCE, rtol=0.05)
    assert not draw_augmentation(INDICES, **{**ARGUMENTS, "colour_deviation": 0.0}).colour_shift.any()


def test_random_choices_do_not_depend_on_the_batch_and_differ_between_epochs_and_seeds(augmentation):
    subset = INDICES[[17, 3, 19_999]]
    again = draw_augmentation(subset, **ARGUMENTS)
    assert equal(again, Augmentation(**{name: value[subset] for name, value in vars(augmentation).items()}))
    for change in ({"epoch": 1}, {"seed": 1}):
        other = draw_augmentation(INDICES, **{**ARGUMENTS, **change})
        for name in ("top", "left", "reflect"):
            a, b = getattr(augmentation, name), getattr(other, name)
            chance = 1 / (1 + int(a.max()))
            assert abs((a == b).mean() - chance) < 0.02  # equal no more often than by chance
        assert not (augmentation.colour_shift == other.colour_shift).any()


def test_crops_do_not_depend_on_reflections_and_colour_shifts():
    plain = draw_augmentation(INDICES[:100], **{**ARGUMENTS, "reflect": False, "colour_deviation": 0.0})
    full = draw_augmentation(INDICES[:100], **ARGUMENTS)
    assert np.array_equal(plain.top, full.top)
    assert np.array_equal(plain.left, full.left)


def test_random_areas_are_uniform_and_inside_the_picture():
    crops = draw_augmentation(INDICES, **{**ARGUMENTS, "crop_area": (0.3, 1.0)})
    area = crops.side**2 / 256**2
    assert crops.side.min() == round(256 * 0.3**0.5)
    assert crops.side.max() == 256
    np.testing.assert_allclose(np.quantile(area, [0.25, 0.5, 0.75]), [0.475, 0.65, 0.825], atol=0.015)
    for offsets in (crops.top, crops.left):
        assert (offsets >= 0).all()
        assert (offsets + crops.side <= 256).all()
        assert {0, 1} <= set((256 - crops.side - offsets)[crops.side < 200])  # up to the right and the bottom edge
    tiny = draw_augmentation(INDICES[:100], **{**ARGUMENTS, "crop_area": (1e-6, 1e-6)})
    assert (tiny.side == 56).all()  # enlarged four times at most


@given(st.integers(0, 300), st.integers(0, 5), st.integers(0, 5))
def test_the_order_of_an_epoch_is_a_permutation(count, seed, epoch):
    assert np.array_equal(np.sort(epoch_order(count, seed=seed, epoch=epoch)), np.arange(count))


def test_the_order_differs_between_epochs_and_seeds():
    orders = [epoch_order(1000, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert np.array_equal(orders[0], epoch_order(1000, seed=0, epoch=0))
    for i, a in enumerate(orders):
        for b in (np.arange(1000), *orders[:i]):
            assert (a == b).sum() < 10


# Their application


@given(
    size=st.integers(1, 40),
    data=st.data(),
    reflect=st.booleans(),
    divisor=st.sampled_from([1.0, 1.1]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_compiled_transform_agrees_with_plain_numpy(size, data, reflect, divisor, seed):
    crop = data.draw(st.integers(1, size))
    top, left = (data.draw(st.integers(0, size - crop)) for _ in range(2))
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (size, size, 3), np.uint8)
    image.flags.writeable = data.draw(st.booleans())  # a raw store's pictures are read-only
    mean = (random.random((crop, crop, 3)) * 255).astype(np.float32)
    colour = random.normal(0, 20, 3).astype(np.float32)
    fast, plain = np.empty((2, crop, crop, 3), np.float32)
    transform_picture(image, top, left, reflect, mean, colour, divisor, fast)
    transform_picture_reference(image, top, left, reflect, mean, colour, divisor, plain)
    assert np.array_equal(fast, plain)


def test_a_training_picture_is_crop_minus_mean_plus_colour_shift_over_divisor():
    image = position_picture(256)
    augmentation = Augmentation(
        *(np.array([value]) for value in (5, 30, 224, True)), np.array([[1.0, -2.0, 0.5]], np.float32)
    )
    mean = np.random.default_rng(0).random((3, 256, 256)).astype(np.float32) * 100
    out = np.empty((224, 224, 3), np.float32)
    augment_picture(image, augmentation, 0, centre_mean(mean, 224), 1.1, out)
    for row, column in ((0, 0), (0, 223), (223, 0), (100, 17)):
        pixel = image[5 + row, 30 + 223 - column].astype(float)
        centre = mean[:, 16 + row, 16 + column]  # the centre of the mean, wherever the crop is
        np.testing.assert_allclose(out[row, column], (pixel - centre + [1, -2, 0.5]) / 1.1, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("side", [30, 64])
def test_a_larger_or_smaller_crop_is_resized(side):
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[:, None, None], 64, axis=1) * np.ones(3, np.uint8)
    augmentation = Augmentation(
        *(np.array([value]) for value in (64 - side, 0, side, False)), np.zeros((1, 3), np.float32)
    )
    out = np.empty((48, 48, 3), np.float32)
    augment_picture(ramp, augmentation, 0, np.zeros((48, 48, 3), np.float32), 1.0, out)
    expected = 64 - side + (np.arange(48) + 0.5) * side / 48 - 0.5  # the position of the row's centre in the picture
    inner = slice(2, -2)
    np.testing.assert_allclose(out[inner, 20, 1], expected[inner], atol=0.51 + side / 96)
    assert (np.diff(out[:, 20, 1]) >= 0).all()
    assert out.min() >= 64 - side


def test_centre_mean_is_the_centre_crop():
    mean = np.arange(3 * 6 * 6, dtype=np.float32).reshape(3, 6, 6)
    assert np.array_equal(centre_mean(mean, 4), mean[:, 1:5, 1:5].transpose(1, 2, 0))
    assert np.array_equal(centre_mean(mean, 5), mean[:, 0:5, 0:5].transpose(1, 2, 0))


def test_crops_at_the_centre_leave_the_other_choices_as_they_are(augmentation):
    centred = draw_augmentation(INDICES, **ARGUMENTS, random_crops=False)
    assert set(centred.top) == set(centred.left) == {16}
    assert np.array_equal(centred.reflect, augmentation.reflect)
    assert np.array_equal(centred.colour_shift, augmentation.colour_shift)
