"""The views of a test picture: their positions, their pixels and the mean of their predictions (section 5.1)."""

import numpy as np
import pytest
import torch
from test_augment import position_picture

from alexnet.data.loading.augment import centre_mean
from alexnet.data.loading.views import (
    make_view_batch,
    make_view_batch_on_device,
    nine_views,
    select_views,
    ten_views,
)
from alexnet.training.inference import mean_over_views

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.gpu


def one_view_batch(pictures, mean, view):
    """One view of each picture, by `make_view_batch`."""
    return make_view_batch(pictures, [view], torch.from_numpy(centre_mean(mean, 224)))


def test_ten_views_are_the_centre_the_corners_and_their_reflections():
    views = ten_views(256, 224)
    assert len(views) == len(set(views)) == 10
    assert views[0] == (16, 16, False)
    positions = {(16, 16), (0, 0), (0, 32), (32, 0), (32, 32)}
    assert {(top, left) for top, left, reflected in views if not reflected} == positions
    assert {(top, left) for top, left, reflected in views if reflected} == positions


def test_nine_views_are_corners_edges_and_the_centre_first():
    views = nine_views(32, 24)
    assert views[0] == (4, 4, False)
    assert len(views) == 9
    assert set(views) == {(top, left, False) for top in (0, 4, 8) for left in (0, 4, 8)}
    assert nine_views(24, 24) == [(0, 0, False)]
    assert select_views(1, 32, 24) == views[:1]
    assert [len(select_views(count, 32, 24)) for count in (1, 9, 10)] == [1, 9, 10]


@pytest.mark.parametrize("count", [1, 9, 10])
def test_a_batch_of_views_agrees_with_plain_indexing_and_is_the_same_on_a_device(count):
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (13, 13, 3), np.uint8) for _ in range(3)]
    mean = random.normal(120, 30, (3, 13, 13)).astype(np.float32)
    views = select_views(count, 13, 8)
    mean_crop = torch.from_numpy(centre_mean(mean, 8))
    batch = make_view_batch(pictures, views, mean_crop)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    expected = []
    for picture in pictures:
        for top, left, reflected in views:
            crop = picture[top : top + 8, left : left + 8].transpose(2, 0, 1).astype(np.float32)
            expected.append((crop[:, :, ::-1] if reflected else crop) - mean[:, 2:10, 2:10])
    np.testing.assert_array_equal(batch.numpy(), np.stack(expected))
    on_device = make_view_batch_on_device(torch.from_numpy(np.stack(pictures)).to(DEVICE), views, mean_crop.to(DEVICE))
    torch.testing.assert_close(on_device.cpu(), batch, rtol=0, atol=0)


def test_each_view_has_the_pixels_of_its_position():
    mean = np.zeros((3, 256, 256), np.float32)
    for top, left, reflected in ten_views(256, 224):
        batch = one_view_batch([position_picture(256), position_picture(256)], mean, (top, left, reflected)).numpy()
        assert batch.shape == (2, 3, 224, 224)
        for row, column in ((0, 0), (0, 223), (223, 0), (223, 223)):
            source = left + (223 - column if reflected else column)
            assert batch[1, :, row, column].tolist() == [top + row, source, (top + row + source) % 256]


def test_the_mean_of_a_view_is_the_centre_of_the_mean():
    mean = position_picture(256).transpose(2, 0, 1).astype(np.float32)
    centre = one_view_batch([position_picture(256)], mean, (16, 16, False))
    assert not centre.any()
    corner = one_view_batch([position_picture(256)], mean, (0, 32, False)).numpy()
    assert (corner[0, 0] == -16).all()
    assert (corner[0, 1] == 16).all()


def test_views_are_distinct_if_the_crop_is_the_full_picture():
    assert ten_views(32, 32) == [(0, 0, False), (0, 0, True)]


def test_mean_over_views_averages_the_views_of_each_picture():
    probabilities = torch.rand(4, 10, 3).softmax(2)
    expected = [sum(picture) / 10 for picture in probabilities]
    torch.testing.assert_close(mean_over_views(probabilities), torch.stack(expected))
