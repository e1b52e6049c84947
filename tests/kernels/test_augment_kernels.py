"""The kernels of data augmentation against their references: random sizes, all positions, both reflections."""

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import INTERPRETED

from alexnet.data.loading.augment import Augmentation, augment_picture, crop_picture, draw_augmentation
from alexnet.data.store.statistics import Statistics
from alexnet.kernels import register
from alexnet.kernels.augment import crop_batch, transform_batch, transform_batch_reference, transform_picture
from alexnet.kernels.philox import philox, philox_reference
from alexnet.utils.console import note_once

pytestmark = pytest.mark.gpu
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SEEDS = st.integers(0, 2**32 - 1)
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@given(
    key=st.tuples(*[st.integers(0, 2**64 - 1)] * 2),
    indices=st.lists(st.integers(0, 2**64 - 1), max_size=5),
    count=st.sampled_from([4, 8, 12]),
)
def test_random_numbers_are_those_of_numpys_generator(key, indices, count):
    arguments = np.array(key, np.uint64), np.array(indices, np.uint64), count
    assert np.array_equal(philox(*arguments), philox_reference(*arguments))


@given(size=st.integers(1, 40), data=st.data(), count=st.integers(0, 7), seed=SEEDS)
def test_crops_are_copied_out_of_the_pictures(size, data, count, seed):
    crop = data.draw(st.integers(1, size))
    random = np.random.default_rng(seed)
    pictures = [random.integers(0, 256, (size, size, 3), np.uint8) for _ in range(count)]
    top, left = random.integers(0, size - crop + 1, (2, count))
    addresses = np.array([picture.ctypes.data for picture in pictures], np.uint64)
    out = np.empty((count, crop, crop, 3), np.uint8)
    crop_batch(addresses, size, top, left, out)
    for picture, y, x, copied in zip(pictures, top, left, out, strict=True):
        assert np.array_equal(copied, picture[y : y + crop, x : x + crop])


@pytest.mark.parametrize(("top", "left"), [(-1, 0), (0, -1), (3, 0), (0, 3)])
def test_a_crop_outside_the_picture_is_not_read(top, left):
    picture, out = np.zeros((6, 6, 3), np.uint8), np.empty((1, 4, 4, 3), np.uint8)
    with pytest.raises(AssertionError, match="within"):
        crop_batch(np.array([picture.ctypes.data], np.uint64), 6, np.array([top]), np.array([left]), out)


def random_batch(crop: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return random crops, reflections, mean and colours on the device, as `transform_batch` takes them."""
    random = np.random.default_rng(seed)
    crops = random.integers(0, 256, (count, crop, crop, 3), np.uint8)
    reflect = random.random(count) < 0.5
    mean = (random.random((crop, crop, 3)) * 255).astype(np.float32)
    colour = random.normal(0, 20, (count, 3)).astype(np.float32)
    return tuple(torch.from_numpy(array).to(DEVICE) for array in (crops, reflect, mean, colour))


def one_by_one(crops, reflect, mean, colour, divisor):
    """Return a batch transformed a picture at a time, as for a CPU."""
    out = np.empty(crops.shape, np.float32)
    for n, crop in enumerate(crops.cpu().numpy()):
        arguments = mean.cpu().numpy(), colour[n].cpu().numpy(), divisor, out[n]
        transform_picture(crop, 0, 0, bool(reflect[n]), *arguments)
    return torch.from_numpy(out).permute(0, 3, 1, 2)


@given(crop=st.integers(1, 24), count=st.integers(1, 6), divisor=st.sampled_from([1.0, 1.1, 3.0]), seed=SEEDS)
def test_plain_torch_gives_the_bits_of_transform_picture(crop, count, divisor, seed):
    crops, reflect, mean, colour = random_batch(crop, count, seed)
    result = transform_batch_reference(crops, reflect, mean, colour, divisor).cpu()
    assert torch.equal(result, one_by_one(crops, reflect, mean, colour, divisor))
    assert result.is_contiguous(memory_format=torch.channels_last)


@needs_triton
@settings(max_examples=20)
@given(
    crop=st.one_of(st.integers(1, 24), st.just(19)),  # 3 * 19 * 19 is just above the 1,024 values of a program
    count=st.integers(0, 17),  # a program has 8 pictures
    divisor=st.sampled_from([1.0, 1.1, 3.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=SEEDS,
)
def test_triton_gives_the_bits_of_plain_torch(crop, count, divisor, dtype, seed):
    from alexnet.kernels.augment_triton import transform_batch_triton

    arguments = *random_batch(crop, count, seed), divisor, dtype
    result = transform_batch_triton(*arguments)
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=torch.channels_last)
    expected = transform_batch_reference(*arguments)
    if dtype == torch.bfloat16 and INTERPRETED:  # the interpreter cuts the lower half off, a GPU rounds
        expected = (
            (transform_batch_reference(*arguments[:-1]).view(torch.int32) >> 16 << 16).view(torch.float32).to(dtype)
        )
    assert torch.equal(result, expected)


@needs_triton
def test_triton_at_the_papers_size():
    from alexnet.kernels.augment_triton import transform_batch_triton

    crops, reflect, mean, colour = random_batch(224, 2, 0)
    reflect[:] = torch.tensor([True, False])
    result = transform_batch_triton(crops, reflect, mean, colour, 1.1, torch.float32).cpu()
    assert torch.equal(result, one_by_one(crops, reflect, mean, colour, 1.1))


@needs_cuda
def test_a_gpu_without_triton_prints_a_note_and_gives_the_same(monkeypatch, capsys):
    arguments = *random_batch(20, 5, 0), 1.1
    expected = transform_batch(*arguments)
    monkeypatch.setattr(register, "HAS_TRITON", False)
    monkeypatch.setattr(register, "note_once", note_once.__wrapped__)  # the note may have been printed before
    assert torch.equal(transform_batch(*arguments), expected)
    assert "Triton is not installed" in capsys.readouterr().err


@given(size=st.integers(4, 40), data=st.data(), seed=SEEDS)
def test_a_crop_transformed_on_the_device_is_the_training_picture(size, data, seed):
    crop = data.draw(st.integers(1, size))
    area = data.draw(st.sampled_from([None, (0.2, 1.0), (1.0, 1.0)]))
    random = np.random.default_rng(seed)
    pictures = random.integers(0, 256, (4, size, size, 3), np.uint8)
    mean = (random.random((crop, crop, 3)) * 255).astype(np.float32)
    statistics = Statistics.from_covariance(np.zeros((3, size, size), np.float32), np.diag([900.0, 90.0, 9.0]), 4)
    draws: Augmentation = draw_augmentation(
        np.arange(4), seed=seed, epoch=1, size=size, crop=crop, reflect=True, crop_area=area, colour_deviation=0.1,
        statistics=statistics,
    )  # fmt: skip
    crops, expected = np.empty((4, crop, crop, 3), np.uint8), np.empty((4, crop, crop, 3), np.float32)
    for n, picture in enumerate(pictures):
        crop_picture(picture, draws, n, crops[n])
        augment_picture(picture, draws, n, mean, 1.1, expected[n])
    arrays = crops, draws.reflect, mean, draws.colour_shift
    result = transform_batch(*(torch.from_numpy(array).to(DEVICE) for array in arrays), 1.1)
    assert torch.equal(result.cpu(), torch.from_numpy(expected).permute(0, 3, 1, 2))
