"""Crops, reflections, colour shifts and views: what is drawn, and what is made of it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alexnet.data.loading.augment import Augmentation, augment_picture, centre_mean, draw_augmentation
from alexnet.data.loading.sampler import epoch_order
from alexnet.data.loading.views import make_view_batch, ten_views
from alexnet.data.store.statistics import Statistics
from alexnet.kernels.augment import transform_picture, transform_picture_reference

COVARIANCE = np.array([[5000.0, 4200.0, 3800.0], [4200.0, 4800.0, 4300.0], [3800.0, 4300.0, 5200.0]])
STATISTICS = Statistics.from_covariance(np.zeros((3, 256, 256), np.float32), COVARIANCE, 10)
USUAL = {"seed": 0, "epoch": 0, "size": 256, "crop": 224, "reflect": True, "crop_area": None}
USUAL |= {"colour_deviation": 0.1, "statistics": STATISTICS}
MANY = np.arange(20_000)


def numbered(size: int) -> np.ndarray:
    """A picture whose pixels say where they come from: (row, column, row + column), modulo 256."""
    rows, columns = np.mgrid[:size, :size]
    return np.stack([rows, columns, rows + columns], axis=2).astype(np.uint8)


def view_batch(pictures, mean, view):
    """One view of each picture, by `make_view_batch`."""
    return make_view_batch(pictures, [view], torch.from_numpy(centre_mean(mean, 224)))


def same(a: Augmentation, b: Augmentation) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


# What is drawn


@pytest.fixture(scope="module")
def many() -> Augmentation:
    return draw_augmentation(MANY, **USUAL)


def test_offsets_are_0_to_32_alike_in_both_directions(many):
    for offsets in (many.top, many.left):
        counts = np.bincount(offsets, minlength=33)
        assert len(counts) == 33  # "offsets 0..32"
        chi_square = ((counts - len(MANY) / 33) ** 2 / (len(MANY) / 33)).sum()
        assert chi_square < 62.5  # 32 degrees of freedom: beyond it once in a thousand
    assert (many.side == 224).all()
    assert abs(np.corrcoef(many.top, many.left)[0, 1]) < 0.03


def test_half_of_the_pictures_are_reflected(many):
    assert abs(many.reflect.mean() - 0.5) < 0.015
    assert not draw_augmentation(MANY, **{**USUAL, "reflect": False}).reflect.any()


def test_the_colour_shift_is_the_components_times_root_eigenvalue_times_a_gaussian(many):
    along = many.colour_shift @ STATISTICS.components.T / np.sqrt(STATISTICS.eigenvalues)  # the Gaussians drawn
    np.testing.assert_allclose(along.mean(0), 0, atol=0.003)
    np.testing.assert_allclose(along.std(0), 0.1, rtol=0.02)
    np.testing.assert_allclose(np.corrcoef(along.T), np.eye(3), atol=0.03)
    np.testing.assert_allclose((np.abs(along) < 0.1).mean(0), 0.6827, atol=0.015)
    np.testing.assert_allclose((np.abs(along) < 0.2).mean(0), 0.9545, atol=0.008)
    np.testing.assert_allclose(np.cov(many.colour_shift.T), 0.01 * COVARIANCE, rtol=0.05)
    assert not draw_augmentation(MANY, **{**USUAL, "colour_deviation": 0.0}).colour_shift.any()


def test_the_same_whatever_the_batch_and_new_in_each_epoch_and_for_each_seed(many):
    part = MANY[[17, 3, 19_999]]
    again = draw_augmentation(part, **USUAL)
    assert same(again, Augmentation(**{name: value[part] for name, value in vars(many).items()}))
    for change in ({"epoch": 1}, {"seed": 1}):
        other = draw_augmentation(MANY, **{**USUAL, **change})
        for name in ("top", "left", "reflect"):
            a, b = getattr(many, name), getattr(other, name)
            chance = 1 / (1 + int(a.max()))
            assert abs((a == b).mean() - chance) < 0.02  # no more alike than by chance
        assert not (many.colour_shift == other.colour_shift).any()


def test_what_is_drawn_for_one_thing_does_not_depend_on_the_others():
    plain = draw_augmentation(MANY[:100], **{**USUAL, "reflect": False, "colour_deviation": 0.0})
    full = draw_augmentation(MANY[:100], **USUAL)
    assert np.array_equal(plain.top, full.top)
    assert np.array_equal(plain.left, full.left)


def test_random_areas_are_uniform_and_lie_within_the_picture():
    draws = draw_augmentation(MANY, **{**USUAL, "crop_area": (0.3, 1.0)})
    share = draws.side**2 / 256**2
    assert draws.side.min() == round(256 * 0.3**0.5)
    assert draws.side.max() == 256
    np.testing.assert_allclose(np.quantile(share, [0.25, 0.5, 0.75]), [0.475, 0.65, 0.825], atol=0.015)
    for offsets in (draws.top, draws.left):
        assert (offsets >= 0).all()
        assert (offsets + draws.side <= 256).all()
        assert {0, 1} <= set((256 - draws.side - offsets)[draws.side < 200])  # up to the far edge
    tiny = draw_augmentation(MANY[:100], **{**USUAL, "crop_area": (1e-6, 1e-6)})
    assert (tiny.side == 56).all()  # enlarged four times at most


@given(st.integers(0, 300), st.integers(0, 5), st.integers(0, 5))
def test_an_epochs_order_is_a_permutation(count, seed, epoch):
    assert np.array_equal(np.sort(epoch_order(count, seed=seed, epoch=epoch)), np.arange(count))


def test_an_epochs_order_is_drawn_anew():
    orders = [epoch_order(1000, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert np.array_equal(orders[0], epoch_order(1000, seed=0, epoch=0))
    for i, a in enumerate(orders):
        for b in (np.arange(1000), *orders[:i]):
            assert (a == b).sum() < 10


# What is made of it


@given(
    size=st.integers(1, 40),
    data=st.data(),
    reflect=st.booleans(),
    divisor=st.sampled_from([1.0, 1.1]),
    seed=st.integers(0, 2**32 - 1),
)
def test_fast_kernel_against_plain_numpy(size, data, reflect, divisor, seed):
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


def test_a_training_picture_is_crop_less_mean_plus_colour_over_divisor():
    image = numbered(256)
    draws = Augmentation(*(np.array([value]) for value in (5, 30, 224, True)), np.array([[1.0, -2.0, 0.5]], np.float32))
    mean = np.random.default_rng(0).random((3, 256, 256)).astype(np.float32) * 100
    out = np.empty((224, 224, 3), np.float32)
    augment_picture(image, draws, 0, centre_mean(mean, 224), 1.1, out)
    for row, column in ((0, 0), (0, 223), (223, 0), (100, 17)):
        pixel = image[5 + row, 30 + 223 - column].astype(float)
        centre = mean[:, 16 + row, 16 + column]  # the mean's centre, whatever the crop's place
        np.testing.assert_allclose(out[row, column], (pixel - centre + [1, -2, 0.5]) / 1.1, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("side", [30, 64])
def test_a_larger_or_smaller_square_is_resized_to_the_crop(side):
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[:, None, None], 64, axis=1) * np.ones(3, np.uint8)
    draws = Augmentation(*(np.array([value]) for value in (64 - side, 0, side, False)), np.zeros((1, 3), np.float32))
    out = np.empty((48, 48, 3), np.float32)
    augment_picture(ramp, draws, 0, np.zeros((48, 48, 3), np.float32), 1.0, out)
    expected = 64 - side + (np.arange(48) + 0.5) * side / 48 - 0.5  # where a row's centre lies in the picture
    inner = slice(2, -2)
    np.testing.assert_allclose(out[inner, 20, 1], expected[inner], atol=0.51 + side / 96)
    assert (np.diff(out[:, 20, 1]) >= 0).all()
    assert out.min() >= 64 - side


def test_centre_mean_is_the_centre_square():
    mean = np.arange(3 * 6 * 6, dtype=np.float32).reshape(3, 6, 6)
    assert np.array_equal(centre_mean(mean, 4), mean[:, 1:5, 1:5].transpose(1, 2, 0))
    assert np.array_equal(centre_mean(mean, 5), mean[:, 0:5, 0:5].transpose(1, 2, 0))


# Views


def test_the_ten_views_are_corners_centre_and_their_reflections():
    views = ten_views(256, 224)
    assert len(views) == len(set(views)) == 10
    assert views[0] == (16, 16, False)
    places = {(16, 16), (0, 0), (0, 32), (32, 0), (32, 32)}
    assert {(top, left) for top, left, reflected in views if not reflected} == places
    assert {(top, left) for top, left, reflected in views if reflected} == places


def test_crops_at_the_centre_draw_everything_else_alike(many):
    centred = draw_augmentation(MANY, **USUAL, random_crops=False)
    assert set(centred.top) == set(centred.left) == {16}
    assert np.array_equal(centred.reflect, many.reflect)
    assert np.array_equal(centred.colour_shift, many.colour_shift)


def test_each_view_of_a_numbered_picture():
    mean = np.zeros((3, 256, 256), np.float32)
    for top, left, reflected in ten_views(256, 224):
        batch = view_batch([numbered(256), numbered(256)], mean, (top, left, reflected)).numpy()
        assert batch.shape == (2, 3, 224, 224)
        for row, column in ((0, 0), (0, 223), (223, 0), (223, 223)):
            source = left + (223 - column if reflected else column)
            assert batch[1, :, row, column].tolist() == [top + row, source, (top + row + source) % 256]


def test_a_views_mean_is_the_means_centre():
    mean = numbered(256).transpose(2, 0, 1).astype(np.float32)
    centre = view_batch([numbered(256)], mean, (16, 16, False))
    assert not centre.any()
    corner = view_batch([numbered(256)], mean, (0, 32, False)).numpy()
    assert (corner[0, 0] == -16).all()
    assert (corner[0, 1] == 16).all()


def test_only_distinct_views_where_the_crop_is_the_picture():
    assert ten_views(32, 32) == [(0, 0, False), (0, 0, True)]
