"""A convolution in groups as a dense one with a block-diagonal weight, against torch's in groups."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.architecture import Conv
from alexnet.models.layers import Convolution, block_diagonal

pytestmark = pytest.mark.gpu
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random_tensor(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_it_is_the_convolution_in_groups_forward_and_backward(groups):
    x = random_tensor(2, 4 * groups, 7, 6, dtype=torch.float64).requires_grad_()
    weight = random_tensor(5 * groups, 4, 3, 3, seed=1, dtype=torch.float64).requires_grad_()
    dense = block_diagonal(weight, groups, torch.float64)
    assert dense.shape == (5 * groups, 4 * groups, 3, 3)
    assert dense.is_contiguous(memory_format=torch.channels_last)
    results = F.conv2d(x, dense, padding=1), F.conv2d(x, weight, padding=1, groups=groups)
    gradients = [torch.autograd.grad(y.square().sum(), (x, weight)) for y in results]
    torch.testing.assert_close(*results)
    for result, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_has_the_type_asked_for_and_its_gradient_the_type_of_the_weight(dtype):
    weight = random_tensor(8, 3, 5, 5).requires_grad_()
    dense = block_diagonal(weight, 2, dtype)
    assert dense.dtype == dtype
    assert torch.equal(dense[:4, :3], weight[:4].to(dtype))
    assert torch.equal(dense[4:, 3:], weight[4:].to(dtype))
    assert not dense[:4, 3:].any()
    assert not dense[4:, :3].any()
    g = random_tensor(8, 6, 5, 5, seed=1, dtype=dtype)
    (gradient,) = torch.autograd.grad(dense, weight, g)
    assert gradient.dtype == torch.float32
    assert torch.equal(gradient, torch.cat([g[:4, :3], g[4:, 3:]]).float())


@pytest.mark.skipif(DEVICE == "cpu", reason="the layer uses it on a GPU only")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(5, 1, 2), (3, 2, 0)])
def test_the_layer_uses_it_on_a_gpu(kernel, stride, padding, dtype, monkeypatch):
    conv = Conv(maps=16, kernel=kernel, stride=stride, padding=padding)
    layer = Convolution(16, conv, towers=2, side=14).to(DEVICE, memory_format=torch.channels_last)
    x = random_tensor(3, 16, 14, 14, dtype=dtype).requires_grad_()
    assert not layer._is_faster_dense(x)  # without autocast
    results = []
    for dense in (True, False):
        with torch.autocast(DEVICE, dtype):
            assert layer._is_faster_dense(x)
            if not dense:
                monkeypatch.setattr(layer, "_is_faster_dense", lambda _: False)
            y = layer(x)
        assert y.dtype == dtype
        results.append(
            (y, *torch.autograd.grad(y, (x, *layer.parameters()), random_tensor(*y.shape, seed=1, dtype=dtype)))
        )
    for result, expected in zip(*results, strict=True):
        assert result.dtype == expected.dtype
        atol = 0.02 * float(expected.detach().abs().max())
        torch.testing.assert_close(result, expected, rtol=0.02, atol=atol)
