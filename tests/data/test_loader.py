"""Batches: the same for the same seed whatever the workers, resumable, and no thread left behind."""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import small_net

from alexnet.data.loading.augment import augment_picture, centre_mean, draw_augmentation
from alexnet.data.loading.loader import Batch, Loader
from alexnet.data.loading.sampler import epoch_order
from alexnet.data.loading.transfer import prefetch_to_device
from alexnet.data.store.statistics import Statistics
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe

COUNT, SIZE, CROP = 23, 32, 24
pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Pictures:
    """What a Loader needs of a Split, in memory."""

    size = SIZE
    encoded = False  # whether pictures can only be had one by one

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.pixels = random.integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8)
        self.labels = random.integers(0, 5, COUNT)
        self.unreadable: int | None = None

    def __len__(self) -> int:
        return COUNT

    def image(self, index: int) -> np.ndarray:
        if index == self.unreadable:
            raise OSError(f"picture {index} cannot be read")
        return self.pixels[index]

    def images(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        return map(self.image, indices)

    def memory_addresses(self, indices: np.ndarray) -> np.ndarray | None:
        if self.unreadable is not None or self.encoded:
            return None
        return np.array([self.pixels[index].ctypes.data for index in indices], np.uint64)


MEAN = np.random.default_rng(1).random((3, SIZE, SIZE)).astype(np.float32) * 255
STATISTICS = Statistics.from_covariance(MEAN, np.diag([9000.0, 400.0, 100.0]), COUNT)
RECIPE = Recipe(net=small_net(), store_size=SIZE, batch_size=5, colour_divisor=1.1, seed=3)


def loader(workers: int = 1, recipe: Recipe = RECIPE, pictures: Pictures | None = None, buffer_size: int = 3) -> Loader:
    return Loader(pictures or Pictures(), STATISTICS, recipe, workers=workers, buffer_size=buffer_size)


def sending(workers: int = 1, recipe: Recipe = RECIPE, pictures: Pictures | None = None) -> Loader:
    """A Loader that works as for a GPU; the device is one where there is one."""
    made = Loader(pictures or Pictures(), STATISTICS, recipe, workers=workers, device=DEVICE)
    made.augments_on_device = True
    return made


def equal(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.images.cpu(), y.images.cpu())
        and torch.equal(x.labels.cpu(), y.labels.cpu())
        and np.array_equal(x.indices, y.indices)
        for x, y in zip(a, b, strict=True)
    )


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("alexnet-prefetch")]


@pytest.mark.parametrize("crop_area", [None, (0.2, 1.0)])
def test_the_same_bits_for_0_1_and_3_workers(crop_area):
    recipe = replace(RECIPE, crop_area=crop_area)
    epochs = [[*loader(workers, recipe).batches(0), *loader(workers, recipe).batches(1)] for workers in (0, 1, 3)]
    assert equal(epochs[0], epochs[1])
    assert equal(epochs[0], epochs[2])


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("crop_area", [None, (0.2, 1.0)])
@pytest.mark.parametrize("workers", [0, 3])
def test_bytes_sent_make_the_same_bits(workers, crop_area, encoded):
    recipe, pictures = replace(RECIPE, crop_area=crop_area), Pictures()
    pictures.encoded = encoded
    for options in ({"epoch": 0}, {"epoch": 1, "first_batch": 2}, {"epoch": 2, "shift_colours": False}):
        sent = list(sending(workers, recipe, pictures).batches(**options))
        assert equal(sent, list(loader(recipe=recipe).batches(**options)))
        assert {batch.images.device.type for batch in sent} == {DEVICE.type}
        assert {batch.labels.device.type for batch in sent} == {DEVICE.type}
        assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in sent)


def test_bytes_are_sent_where_the_device_is_a_gpu():
    assert not loader().augments_on_device
    assert Loader(Pictures(), STATISTICS, RECIPE, device=torch.device("cuda")).augments_on_device


def test_an_exception_while_bytes_are_cut_reaches_the_caller_and_closing_ends_the_threads():
    pictures = Pictures()
    pictures.unreadable = int(epoch_order(COUNT, seed=3, epoch=0)[12])  # in the third batch
    batches = sending(2, pictures=pictures).batches(0)
    next(batches)
    with pytest.raises(OSError, match="cannot be read"):
        list(batches)
    batches = sending(3).batches(0)
    next(batches)
    batches.close()  # the fixture looks for threads


@pytest.mark.skipif(DEVICE.type == "cpu", reason="no GPU")
def test_memory_of_a_batch_is_not_given_away_while_the_gpu_reads_it():
    want = list(loader().batches(0))
    for batch, right in zip(sending(2).batches(0), want, strict=True):
        torch.cuda._sleep(20_000_000)  # the copies below wait, while the next batches are sent
        kept = batch.images.clone()
        del batch
        assert torch.equal(kept.cpu(), right.images)


def test_a_batch_is_sent_before_the_one_in_front_of_it_is_handed_over():
    began: list[int] = []

    def send(number: int) -> tuple[torch.Tensor]:
        began.append(number)
        return (torch.full((2,), number, device=DEVICE),)

    sent = prefetch_to_device(iter(range(4)), send, DEVICE)
    for number in range(4):
        host, (tensor,) = next(sent)
        assert (host, tensor.tolist()) == (number, [number] * 2)
        assert began == list(range(min(number + 2, 4)))
    assert list(sent) == []
    assert list(prefetch_to_device(iter(()), send, DEVICE)) == []


def test_a_batch_holds_what_was_drawn_for_its_pictures():
    pictures, batches = Pictures(), list(loader().batches(4))
    assert len(batches) == len(loader()) == 5
    indices = epoch_order(COUNT, seed=3, epoch=4)
    assert np.array_equal(np.concatenate([batch.indices for batch in batches]), indices)
    draws = draw_augmentation(
        indices, seed=3, epoch=4, size=SIZE, crop=CROP, reflect=True, crop_area=None, colour_deviation=0.1,
        statistics=STATISTICS,
    )  # fmt: skip
    expected = np.empty((COUNT, CROP, CROP, 3), np.float32)
    for n, index in enumerate(indices):
        augment_picture(pictures.pixels[index], draws, n, centre_mean(MEAN, CROP), 1.1, expected[n])
    images = torch.cat([batch.images for batch in batches])
    assert torch.equal(images, torch.from_numpy(expected).permute(0, 3, 1, 2))
    assert np.array_equal(torch.cat([batch.labels for batch in batches]), pictures.labels[indices])


def test_shapes_types_and_memory():
    *_, last = loader().batches(0)
    assert last.images.shape == (3, 3, CROP, CROP)  # 23 pictures, five a batch
    assert (last.images.dtype, last.labels.dtype) == (torch.float32, torch.int64)
    assert last.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_start_in_the_middle_gives_the_rest_of_the_epoch(workers):
    whole = list(loader(workers).batches(2))
    assert equal(list(loader(workers).batches(2, first_batch=3)), whole[3:])
    assert list(loader(workers).batches(2, first_batch=5)) == []


def test_without_the_colour_shift_nothing_is_added_or_divided():
    shifted, plain = list(loader().batches(0)), list(loader().batches(0, shift_colours=False))
    off = list(loader(recipe=replace(RECIPE, colour_deviation=0.0)).batches(0))
    assert equal(plain, off)
    for a, b in zip(shifted, plain, strict=True):
        shift = a.images * 1.1 - b.images  # the same at all pixels of a picture's channel
        torch.testing.assert_close(shift, shift[:, :, :1, :1].expand_as(shift), rtol=0, atol=1e-3)
        assert shift.abs().amax() > 1


def test_pixels_without_any_change_are_the_pictures_less_their_mean():
    recipe = replace(RECIPE, reflect=False, colour_deviation=0.0, store_size=SIZE, net=small_net())
    recipe = replace(recipe, net=replace(recipe.net, image_size=SIZE))
    pictures = Pictures()
    for batch in loader(recipe=recipe, pictures=pictures).batches(0):
        expected = pictures.pixels[batch.indices].transpose(0, 3, 1, 2).astype(np.float32) - MEAN
        assert np.array_equal(batch.images, expected)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_exception_in_a_worker_reaches_the_caller(workers):
    pictures = Pictures()
    pictures.unreadable = int(epoch_order(COUNT, seed=3, epoch=0)[12])  # in the third batch
    batches = loader(workers, pictures=pictures).batches(0)
    next(batches), next(batches)
    with pytest.raises(OSError, match="cannot be read"):
        next(batches)


def test_closing_ends_the_threads():
    batches = loader(workers=3).batches(0)
    next(batches)
    assert any(thread.name.startswith("alexnet-prefetch") for thread in threading.enumerate())
    batches.close()  # the fixture looks for threads


def test_no_more_is_made_ahead_than_asked_for():
    class Counting(Pictures):
        read = 0

        def image(self, index: int) -> np.ndarray:
            self.read += 1
            return super().image(index)

    pictures = Counting()
    batches = loader(workers=1, pictures=pictures, buffer_size=2).batches(0)
    next(batches)
    batches.close()
    assert 5 <= pictures.read <= 3 * 5  # the one delivered, two ahead


def test_the_caller_s_waiting_is_counted():
    made = loader(workers=0)
    assert made.seconds_waited == 0
    list(made.batches(0))
    assert made.seconds_waited > 0


def test_a_store_too_small_is_named():
    with pytest.raises(ValueError, match="at least as large as the net's input of 40 pixels; got 32"):
        loader(recipe=replace(RECIPE, store_size=40, net=replace(small_net(), image_size=40)))


def test_batches_of_a_real_store(store, recipe):
    opened = Store(store)
    split = opened.split("train")
    batches = list(Loader(split, opened.statistics, recipe).batches(0))
    assert sorted(np.concatenate([batch.indices for batch in batches])) == list(range(len(split)))
    assert equal(batches, list(Loader(split, opened.statistics, recipe, workers=3).batches(0)))
    bytes_sent = Loader(split, opened.statistics, recipe, workers=2, device=DEVICE)
    bytes_sent.augments_on_device = True
    assert equal(batches, list(bytes_sent.batches(0)))
