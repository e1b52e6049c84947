"""The kernels of `map_norm` in Triton, for CUDA; sums in float32, feature maps in channels_last memory."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.layout import to_channels_last
from alexnet.kernels.normalisation_triton import powers, window_constants

_BLOCK = 1024  # activations of a program


def map_norm(x: Tensor, size: int, k: float, alpha: float, beta: float, y: Tensor) -> None:
    """Write the normalised activations to y; arguments as for `alexnet.kernels.map_norm_cpu.map_norm`."""
    _, channels, height, width = x.shape
    if x.numel():
        with torch.cuda.device_of(x):
            forward_kernel[(triton.cdiv(x.numel(), _BLOCK),)](
                *(to_channels_last(x), y, x.numel(), height, width, channels, k, alpha, beta),
                **window_constants(size, max(height, width), beta),
                block=_BLOCK,
            )


def map_norm_backward(g: Tensor, x: Tensor, size: int, k: float, alpha: float, beta: float, dx: Tensor) -> None:
    """Write the gradient of x to dx, in two passes with float32 activations between them.

    Args:
        g, x, size, k, alpha, beta, dx: As for `alexnet.kernels.map_norm_cpu.map_norm_backward`.
    """
    g, x = to_channels_last(g), to_channels_last(x)
    direct, terms = (torch.empty_like(x, dtype=torch.float32) for _ in range(2))
    _, channels, height, width = x.shape
    shape, window = (x.numel(), height, width, channels), window_constants(size, max(height, width), beta)
    if x.numel():
        grid = (triton.cdiv(x.numel(), _BLOCK),)
        with torch.cuda.device_of(x):
            backward_terms_kernel[grid](*(g, x, direct, terms, *shape, k, alpha, beta), **window, block=_BLOCK)
            del window["square_roots"]
            backward_sums_kernel[grid](*(x, direct, terms, dx, *shape, 2 * alpha * beta), **window, block=_BLOCK)


@triton.jit
def _divisor(x, index, inside, h, w, height, width, channels, k, alpha, before: tl.constexpr, after: tl.constexpr):
    """Return k + alpha * the sum of squares over the positions around, in the same map."""
    total = tl.zeros(index.shape, tl.float32)
    for i in tl.static_range(-before, after + 1):
        for j in tl.static_range(-before, after + 1):
            mask = inside & (h + i >= 0) & (h + i < height) & (w + j >= 0) & (w + j < width)
            a = tl.load(x + index + (i * width + j) * channels, mask, 0.0).to(tl.float32)
            total += a * a
    return k + alpha * total


@triton.jit
def forward_kernel(
    x, y, count, height, width, channels, k, alpha, beta,
    before: tl.constexpr, after: tl.constexpr, square_roots: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = index < count
    h, w = index // channels // width % height, index // channels % width
    divisor = _divisor(x, index, inside, h, w, height, width, channels, k, alpha, before, after)
    scale, _ = powers(divisor, beta, square_roots)
    tl.store(y + index, (tl.load(x + index, inside, 0.0).to(tl.float32) * scale).to(y.dtype.element_ty), inside)


@triton.jit
def backward_terms_kernel(
    g, x, direct, terms, count, height, width, channels, k, alpha, beta,
    before: tl.constexpr, after: tl.constexpr, square_roots: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Write both parts of the gradient: the direct one, and the terms to sum over the positions around."""
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = index < count
    h, w = index // channels // width % height, index // channels % width
    divisor = _divisor(x, index, inside, h, w, height, width, channels, k, alpha, before, after)
    scale, inverse = powers(divisor, beta, square_roots)
    scaled = tl.load(g + index, inside, 0.0).to(tl.float32) * scale
    tl.store(direct + index, scaled, inside)
    tl.store(terms + index, scaled * tl.load(x + index, inside, 0.0).to(tl.float32) * inverse, inside)


@triton.jit
def backward_sums_kernel(
    x, direct, terms, dx, count, height, width, channels, factor,
    before: tl.constexpr, after: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Write the gradient: the direct part less the sum of the terms around."""
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = index < count
    h, w = index // channels // width % height, index // channels % width
    total = tl.zeros(index.shape, tl.float32)
    for i in tl.static_range(-after, before + 1):
        for j in tl.static_range(-after, before + 1):
            mask = inside & (h + i >= 0) & (h + i < height) & (w + j >= 0) & (w + j < width)
            total += tl.load(terms + index + (i * width + j) * channels, mask, 0.0)
    a = tl.load(x + index, inside, 0.0).to(tl.float32)
    result = tl.load(direct + index, inside, 0.0) - factor * a * total
    tl.store(dx + index, result.to(dx.dtype.element_ty), inside)
