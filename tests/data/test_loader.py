"""Training batches: the same for any number of workers, resumable, and no thread is left running."""

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


class InMemorySplit:
    """A split of random pictures in memory.

    Attributes:
        has_addresses: Whether `memory_addresses` returns addresses, as for raw pictures.
        unreadable: The index of a picture that raises an error.
    """

    size = SIZE
    has_addresses = True

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
        if self.unreadable is not None or not self.has_addresses:
            return None
        return np.array([self.pixels[index].ctypes.data for index in indices], np.uint64)


MEAN = np.random.default_rng(1).random((3, SIZE, SIZE)).astype(np.float32) * 255
STATISTICS = Statistics.from_covariance(MEAN, np.diag([9000.0, 400.0, 100.0]), COUNT)
RECIPE = Recipe(net=small_net(), store_size=SIZE, batch_size=5, colour_divisor=1.1, seed=3)


def make_loader(
    workers: int = 1, recipe: Recipe = RECIPE, split: InMemorySplit | None = None, buffer_size: int = 3
) -> Loader:
    return Loader(split or InMemorySplit(), STATISTICS, recipe, workers=workers, buffer_size=buffer_size)


def make_device_loader(workers: int = 1, recipe: Recipe = RECIPE, split: InMemorySplit | None = None) -> Loader:
    """Return a Loader that works as for a GPU, on the CPU if there is no GPU."""
    loader = Loader(split or InMemorySplit(), STATISTICS, recipe, workers=workers, device=DEVICE)
    loader.augments_on_device = True
    return loader


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
def test_batches_are_the_same_for_0_1_and_3_workers(crop_area):
    recipe = replace(RECIPE, crop_area=crop_area)
    epochs = [
        [*make_loader(workers, recipe).batches(0), *make_loader(workers, recipe).batches(1)] for workers in (0, 1, 3)
    ]
    assert equal(epochs[0], epochs[1])
    assert equal(epochs[0], epochs[2])


@pytest.mark.parametrize("has_addresses", [False, True])
@pytest.mark.parametrize("crop_area", [None, (0.2, 1.0)])
@pytest.mark.parametrize("workers", [0, 3])
def test_batches_augmented_on_the_device_are_the_same(workers, crop_area, has_addresses):
    recipe, split = replace(RECIPE, crop_area=crop_area), InMemorySplit()
    split.has_addresses = has_addresses
    for options in ({"epoch": 0}, {"epoch": 1, "first_batch": 2}, {"epoch": 2, "shift_colours": False}):
        batches = list(make_device_loader(workers, recipe, split).batches(**options))
        assert equal(batches, list(make_loader(recipe=recipe).batches(**options)))
        assert {batch.images.device.type for batch in batches} == {DEVICE.type}
        assert {batch.labels.device.type for batch in batches} == {DEVICE.type}
        assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in batches)


def test_a_gpu_augments_the_pictures_itself():
    assert not make_loader().augments_on_device
    assert Loader(InMemorySplit(), STATISTICS, RECIPE, device=torch.device("cuda")).augments_on_device


def test_an_exception_while_crops_are_cut_reaches_the_caller_and_closing_ends_the_threads():
    split = InMemorySplit()
    split.unreadable = int(epoch_order(COUNT, seed=3, epoch=0)[12])  # in the third batch
    batches = make_device_loader(2, split=split).batches(0)
    next(batches)
    with pytest.raises(OSError, match="cannot be read"):
        list(batches)
    batches = make_device_loader(3).batches(0)
    next(batches)
    batches.close()  # the fixture looks for threads


@pytest.mark.skipif(DEVICE.type == "cpu", reason="no GPU")
def test_memory_of_a_batch_is_not_reused_while_the_gpu_reads_it():
    expected_batches = list(make_loader().batches(0))
    for batch, expected in zip(make_device_loader(2).batches(0), expected_batches, strict=True):
        torch.cuda._sleep(20_000_000)  # the copies below wait while the next batches are transferred
        images = batch.images.clone()
        del batch
        assert torch.equal(images.cpu(), expected.images)


def test_the_transfer_of_a_batch_begins_before_the_previous_batch_is_yielded():
    started: list[int] = []

    def transfer(number: int) -> tuple[torch.Tensor]:
        started.append(number)
        return (torch.full((2,), number, device=DEVICE),)

    batches = prefetch_to_device(iter(range(4)), transfer, DEVICE)
    for number in range(4):
        host_batch, (tensor,) = next(batches)
        assert (host_batch, tensor.tolist()) == (number, [number] * 2)
        assert started == list(range(min(number + 2, 4)))
    assert list(batches) == []
    assert list(prefetch_to_device(iter(()), transfer, DEVICE)) == []


def test_a_batch_has_the_augmented_pictures_of_its_indices():
    split, batches = InMemorySplit(), list(make_loader().batches(4))
    assert len(batches) == len(make_loader()) == 5
    indices = epoch_order(COUNT, seed=3, epoch=4)
    assert np.array_equal(np.concatenate([batch.indices for batch in batches]), indices)
    augmentation = draw_augmentation(
        indices, seed=3, epoch=4, size=SIZE, crop=CROP, reflect=True, crop_area=None, colour_deviation=0.1,
        statistics=STATISTICS,
    )  # fmt: skip
    expected = np.empty((COUNT, CROP, CROP, 3), np.float32)
    for n, index in enumerate(indices):
        augment_picture(split.pixels[index], augmentation, n, centre_mean(MEAN, CROP), 1.1, expected[n])
    images = torch.cat([batch.images for batch in batches])
    assert torch.equal(images, torch.from_numpy(expected).permute(0, 3, 1, 2))
    assert np.array_equal(torch.cat([batch.labels for batch in batches]), split.labels[indices])


def test_a_batch_is_float32_in_channels_last_memory_and_the_last_one_is_smaller():
    *_, last = make_loader().batches(0)
    assert last.images.shape == (3, 3, CROP, CROP)  # 23 pictures in batches of five
    assert (last.images.dtype, last.labels.dtype) == (torch.float32, torch.int64)
    assert last.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_continued_in_the_middle_has_the_same_batches(workers):
    batches = list(make_loader(workers).batches(2))
    assert equal(list(make_loader(workers).batches(2, first_batch=3)), batches[3:])
    assert list(make_loader(workers).batches(2, first_batch=5)) == []


def test_without_the_colour_shift_nothing_is_added_or_divided():
    shifted, plain = list(make_loader().batches(0)), list(make_loader().batches(0, shift_colours=False))
    without_deviation = list(make_loader(recipe=replace(RECIPE, colour_deviation=0.0)).batches(0))
    assert equal(plain, without_deviation)
    for a, b in zip(shifted, plain, strict=True):
        shift = a.images * 1.1 - b.images  # the same for all pixels of a channel
        torch.testing.assert_close(shift, shift[:, :, :1, :1].expand_as(shift), rtol=0, atol=1e-3)
        assert shift.abs().amax() > 1


def test_without_augmentation_a_picture_is_its_pixels_minus_the_mean():
    recipe = replace(RECIPE, reflect=False, colour_deviation=0.0, store_size=SIZE, net=small_net())
    recipe = replace(recipe, net=replace(recipe.net, image_size=SIZE))
    split = InMemorySplit()
    for batch in make_loader(recipe=recipe, split=split).batches(0):
        expected = split.pixels[batch.indices].transpose(0, 3, 1, 2).astype(np.float32) - MEAN
        assert np.array_equal(batch.images, expected)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_exception_in_a_worker_reaches_the_caller(workers):
    split = InMemorySplit()
    split.unreadable = int(epoch_order(COUNT, seed=3, epoch=0)[12])  # in the third batch
    batches = make_loader(workers, split=split).batches(0)
    next(batches), next(batches)
    with pytest.raises(OSError, match="cannot be read"):
        next(batches)


def test_closing_ends_the_threads():
    batches = make_loader(workers=3).batches(0)
    next(batches)
    assert any(thread.name.startswith("alexnet-prefetch") for thread in threading.enumerate())
    batches.close()  # the fixture looks for threads


def test_at_most_buffer_size_batches_are_prepared_ahead():
    class CountingSplit(InMemorySplit):
        images_read = 0

        def image(self, index: int) -> np.ndarray:
            self.images_read += 1
            return super().image(index)

    split = CountingSplit()
    batches = make_loader(workers=1, split=split, buffer_size=2).batches(0)
    next(batches)
    batches.close()
    assert 5 <= split.images_read <= 3 * 5  # the batch that was yielded, and two ahead


def test_the_time_that_the_caller_waits_is_measured():
    loader = make_loader(workers=0)
    assert loader.seconds_waited == 0
    list(loader.batches(0))
    assert loader.seconds_waited > 0


def test_a_store_of_too_small_pictures_is_refused():
    with pytest.raises(ValueError, match="at least as large as the net's input of 40 pixels; got 32"):
        make_loader(recipe=replace(RECIPE, store_size=40, net=replace(small_net(), image_size=40)))


def test_batches_of_a_store_on_disk_have_each_picture_once(store, recipe):
    statistics, split = Store(store).statistics, Store(store).split("train")
    batches = list(Loader(split, statistics, recipe).batches(0))
    assert sorted(np.concatenate([batch.indices for batch in batches])) == list(range(len(split)))
    assert equal(batches, list(Loader(split, statistics, recipe, workers=3).batches(0)))
    device_loader = Loader(split, statistics, recipe, workers=2, device=DEVICE)
    device_loader.augments_on_device = True
    assert equal(batches, list(device_loader.batches(0)))
