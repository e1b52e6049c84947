"""The update rule of section 6, against the formula in NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from alexnet.training.sgd import SGD

RATES = [0.01] * 5 + [0.001] * 5 + [0.0001] * 5  # two falls, as in section 6


def gradients(shapes: list[tuple[int, ...]], steps: int = len(RATES)) -> list[list[np.ndarray]]:
    """Return random gradients: a list per step."""
    random = np.random.default_rng(0)
    return [[random.normal(size=shape) for shape in shapes] for _ in range(steps)]


def parameters(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float64) -> list[torch.nn.Parameter]:
    """Return random weights."""
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def formula(w: np.ndarray, v: np.ndarray, g: np.ndarray, rate: float, decay: float) -> tuple[np.ndarray, np.ndarray]:
    """Compute one step of the paper, and return the new weights and velocity."""
    v = 0.9 * v - decay * rate * w - rate * g
    return w + v, v


def test_the_rule_is_the_paper_s_across_changes_of_rate() -> None:
    shapes = [(3, 4), (5,), (2, 3, 2, 2)]
    weights = parameters(shapes)
    expected = [(w.detach().numpy().copy(), np.zeros(w.shape)) for w in weights]
    optimiser = SGD(weights, rate=RATES[0], momentum=0.9, decay=0.0005)
    for rate, step in zip(RATES, gradients(shapes), strict=True):
        optimiser.param_groups[0]["rate"] = rate
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = torch.from_numpy(gradient)
        optimiser.step()
        expected = [formula(w, v, g, rate, 0.0005) for (w, v), g in zip(expected, step, strict=True)]
        for weight, (w, v) in zip(weights, expected, strict=True):
            np.testing.assert_allclose(weight.detach().numpy(), w, rtol=0, atol=1e-12)
            np.testing.assert_allclose(optimiser.velocity(weight).numpy(), v, rtol=0, atol=1e-12)


def test_torch_s_sgd_is_the_same_until_the_rate_changes_and_another_after() -> None:
    shapes = [(4, 4)]
    (weight,), (torch_weight,) = parameters(shapes), parameters(shapes)
    paper = SGD([weight], rate=RATES[0], momentum=0.9, decay=0.0005)
    torch_sgd = torch.optim.SGD([torch_weight], lr=RATES[0], momentum=0.9, weight_decay=0.0005)
    differences = []
    for rate, (gradient,) in zip(RATES, gradients(shapes), strict=True):
        paper.param_groups[0]["rate"] = torch_sgd.param_groups[0]["lr"] = rate
        weight.grad, torch_weight.grad = torch.from_numpy(gradient), torch.from_numpy(gradient.copy())
        paper.step()
        torch_sgd.step()
        differences.append(float((weight - torch_weight).detach().abs().max()))
    assert max(differences[:5]) < 1e-15
    assert min(differences[5:]) > 1e-3


def test_a_group_of_rate_0_is_frozen_and_keeps_its_velocity() -> None:
    (frozen,), (moving,) = parameters([(3,)]), parameters([(3,)])
    optimiser = SGD([{"params": [frozen]}, {"params": [moving]}], rate=0.1, momentum=0.9, decay=0.0005)
    gradient = torch.ones(3, dtype=torch.float64)

    def step() -> Tensor:
        frozen.grad, moving.grad = gradient.clone(), gradient.clone()
        optimiser.step()
        return frozen.detach().clone()

    before = step()
    velocity = optimiser.velocity(frozen).clone()
    optimiser.param_groups[0]["rate"] = 0.0
    for _ in range(3):
        assert torch.equal(step(), before)
        assert torch.equal(optimiser.velocity(frozen), velocity)
    assert not torch.equal(moving, before)
    optimiser.param_groups[0]["rate"] = 0.1
    assert torch.allclose(step(), before + 0.9 * velocity - 0.0005 * 0.1 * before - 0.1 * gradient, atol=1e-15)


def test_groups_have_their_own_rate_and_decay() -> None:
    one, two = parameters([(4,), (4,)])
    start = one.detach().numpy().copy(), two.detach().numpy().copy()
    groups = [{"params": [one], "rate": 0.5, "decay": 0.0}, {"params": [two]}]
    optimiser = SGD(groups, rate=0.1, momentum=0.9, decay=0.2)
    one.grad, two.grad = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    optimiser.step()
    assert np.array_equal(one.detach().numpy(), start[0])  # no gradient, no decay
    np.testing.assert_allclose(two.detach().numpy(), start[1] * (1 - 0.2 * 0.1), atol=1e-15)


def test_a_parameter_without_gradient_stays() -> None:
    one, two = parameters([(4,), (4,)])
    before = two.detach().clone()
    one.grad = torch.ones(4, dtype=torch.float64)
    SGD([one, two], rate=0.1, momentum=0.9, decay=0.1).step()
    assert torch.equal(two, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rule_in_other_types_is_the_formula_rounded(dtype: torch.dtype) -> None:
    (weight,) = parameters([(8, 8)], dtype)
    w, v = weight.detach().double().numpy(), np.zeros((8, 8))
    optimiser = SGD([weight], rate=RATES[0], momentum=0.9, decay=0.0005)
    for rate, (gradient,) in zip(RATES, gradients([(8, 8)]), strict=True):
        optimiser.param_groups[0]["rate"] = rate
        weight.grad = torch.from_numpy(gradient).to(dtype)
        optimiser.step()
        w, v = formula(w, v, weight.grad.double().numpy(), rate, 0.0005)
    tolerance = 20 * torch.finfo(dtype).eps
    np.testing.assert_allclose(weight.detach().double().numpy(), w, rtol=tolerance, atol=tolerance)


def test_velocity_keeps_the_weights_memory_format() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last))
    velocity = SGD([weight], rate=0.1, momentum=0.9, decay=0.0).velocity(weight)
    assert velocity.is_contiguous(memory_format=torch.channels_last)
    assert not velocity.any()
