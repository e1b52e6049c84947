"""Local contrast normalisation against loops over its windows, and gradients from finite differences."""

import numpy as np
import pytest
import torch
from tensors import LAYOUTS, random_tensor, to_layout

from alexnet.kernels.contrast_norm import contrast_norm


def reference_contrast_norm(x: np.ndarray, size: int, deviation: float) -> np.ndarray:
    """Compute the normalisation of one picture's maps (C, H, W) in one tower, position by position."""
    _, height, width = x.shape

    def local_mean(values: np.ndarray) -> np.ndarray:
        means = np.empty((height, width))
        for row in range(height):
            for column in range(width):
                total = weights = 0.0
                for r in range(max(0, row - size // 2), min(height, row + size // 2 + 1)):
                    for c in range(max(0, column - size // 2), min(width, column + size // 2 + 1)):
                        weight = np.exp(-((r - row) ** 2 + (c - column) ** 2) / (2 * deviation**2))
                        total += weight * values[:, r, c].mean()
                        weights += weight
                means[row, column] = total / weights
        return means

    v = x - local_mean(x)
    s = np.sqrt(local_mean(v**2))
    return v / np.maximum(s, s.mean())


@pytest.mark.parametrize(("size", "deviation", "towers"), [(1, 1.0, 1), (3, 0.8, 2), (9, 2.25, 3)])
def test_each_window_is_centred_and_divided_by_its_deviation(size: int, deviation: float, towers: int) -> None:
    x = random_tensor(2, 6, 5, 7, dtype=torch.float64)
    x[0, :, :, 3:] *= 3  # another contrast, above the mean of its picture
    y = contrast_norm(x, size=size, deviation=deviation, towers=towers)
    for picture, maps in zip(x.numpy(), y.numpy(), strict=True):
        for inputs, outputs in zip(np.split(picture, towers), np.split(maps, towers), strict=True):
            np.testing.assert_allclose(outputs, reference_contrast_norm(inputs, size, deviation), rtol=1e-11)


def test_the_gradient_is_the_slope() -> None:
    x = random_tensor(2, 4, 3, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: contrast_norm(x, size=3, deviation=0.8, towers=2), x)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_and_memory_under_autocast(dtype: torch.dtype, layout: str) -> None:
    x = to_layout(random_tensor(1, 4, 6, 5, dtype=dtype), layout)
    with torch.autocast("cpu", torch.bfloat16):  # which must not round the sums
        y = contrast_norm(x, size=5, deviation=1.2)
    assert y.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1 / 128
    expected = reference_contrast_norm(x[0].double().numpy(), 5, 1.2)
    np.testing.assert_allclose(y[0].double(), expected, rtol=tolerance, atol=tolerance)


def test_shapes_are_known_without_data() -> None:
    assert contrast_norm(torch.empty(1, 4, 6, 5, device="meta"), size=3, deviation=0.8, towers=2).shape == (1, 4, 6, 5)


def test_maps_without_contrast_become_zeros_with_finite_gradients() -> None:
    x = torch.full((1, 3, 6, 6), 0.7, requires_grad=True)
    y = contrast_norm(x, size=5, deviation=1.2)
    assert y.detach().abs().max() < 0.01
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("size", "deviation", "message"), [(4, 1.0, "size must be .*; got 4"), (3, 0.0, "deviation must be .*; got 0.0")]
)
def test_an_impossible_window_is_refused(size: int, deviation: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contrast_norm(torch.ones(1, 2, 3, 3), size=size, deviation=deviation)
