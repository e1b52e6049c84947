"""The update rule in one pass: every version against the formula in NumPy, bit for bit."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from conftest import small_net
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import INTERPRETED
from torch import Tensor

from alexnet.kernels.compile import has_triton
from alexnet.kernels.update import ParameterUpdate, update, update_coefficients, update_foreach, update_reference
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Change, Recipe
from alexnet.training.schedule import make_schedule
from alexnet.training.sgd import SGD, parameter_groups, set_learning_rates

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MOMENTUM = 0.9


Update = Callable[[Sequence[ParameterUpdate]], None]


def by_triton(parameters: Sequence[ParameterUpdate]) -> None:
    """Update by the kernel, which takes vectors."""
    from alexnet.kernels.update_triton import update_triton

    update_triton([(w.view(-1), v.view(-1), g.view(-1), coefficients) for w, v, g, coefficients, _ in parameters])


needs_triton = pytest.mark.skipif(not has_triton(), reason="triton is not installed")
IMPLEMENTATIONS = [
    pytest.param(update, id="update"),
    pytest.param(update_foreach, id="foreach"),
    pytest.param(by_triton, id="triton", marks=needs_triton),
]


def formula(w: np.ndarray, v: np.ndarray, g: np.ndarray, rate: float, decay: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the new weights and velocity; NumPy rounds each product and each sum by itself."""
    if rate == 0:
        return w, v
    number = w.dtype.type
    v = (number(MOMENTUM) * v - number(decay * rate) * w) - number(rate) * g
    return w + v, v


def random_values(shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers whose products need rounding, some of them large and some subnormal."""
    random = np.random.default_rng(seed)
    scale = random.choice([1e-42, 1e-3, 1.0, 1e4], size=shape)
    return torch.from_numpy(random.normal(size=shape) * scale).to(dtype).to(DEVICE)


def coefficient_rows(rates: Sequence[float], decays: Sequence[float]) -> Tensor:
    """Return the coefficients of parameters, a row each: (parameters, 3)."""
    coefficients = [update_coefficients(rate, MOMENTUM, decay) for rate, decay in zip(rates, decays, strict=True)]
    return torch.tensor(coefficients, dtype=torch.float64, device=DEVICE)


def to_numpy(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_steps_at_changing_rates_give_the_formula_s_bits(implementation: Update, dtype: torch.dtype) -> None:
    # One of more than a block, one of exactly a block, one element, none; decay and none; frozen now and then.
    shapes, decays = [(2500,), (32, 32), (1,), (0, 3), (7, 5, 3, 2)], [5e-4, 0.0, 0.03, 5e-4, 1.0]
    weights = [random_values(shape, n, dtype) for n, shape in enumerate(shapes)]
    velocities = [torch.zeros_like(w) for w in weights]
    expected = [(to_numpy(w).copy(), np.zeros(w.shape, to_numpy(w).dtype)) for w in weights]
    for step, rate in enumerate([0.01] * 3 + [0.0] + [0.001] * 3 + [1 / 3] * 2):
        rates = [rate if n != 4 or step % 2 else 0.0 for n in range(5)]  # the last is frozen every other step
        table = coefficient_rows(rates, decays)
        gradients = [random_values(shape, 100 * step + n, dtype) for n, shape in enumerate(shapes)]
        implementation(
            [ParameterUpdate(*tensors) for tensors in zip(weights, velocities, gradients, table, strict=True)]
        )
        for n, (w, v) in enumerate(expected):
            expected[n] = formula(w, v, to_numpy(gradients[n]), rates[n], decays[n])
            np.testing.assert_array_equal(to_numpy(weights[n]), expected[n][0], strict=True)
            np.testing.assert_array_equal(to_numpy(velocities[n]), expected[n][1], strict=True)


def with_strides(values: Tensor, order: Sequence[int], gap: bool) -> Tensor:
    """Return the same values with the dimensions in another order in memory, with gaps or without."""
    shape = [values.shape[d] for d in order]
    memory = values.new_full([*shape[:-1], 2 * shape[-1]], float("nan"))[..., ::2] if gap else values.new_empty(shape)
    result = memory.permute([list(order).index(d) for d in range(values.ndim)])
    return result.copy_(values)


@settings(max_examples=40)
@given(st.data())
def test_any_strides_give_the_same_bits(data: st.DataObject) -> None:
    parameters, expected = [], []
    count = data.draw(st.integers(1, 3))
    for n in range(count):
        shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
        orders = st.permutations(range(len(shape)))
        values = [random_values(shape, 3 * n + i) for i in range(3)]
        rate = data.draw(st.sampled_from([0.0, 0.01, 0.3]))
        decay = data.draw(st.sampled_from([0.0, 5e-4]))
        w, v, g = (with_strides(value, data.draw(orders), data.draw(st.booleans())) for value in values)
        parameters.append(ParameterUpdate(w, v, g, coefficient_rows([rate], [decay])[0]))
        expected.append(formula(*(to_numpy(value) for value in values), rate, decay))
    update(parameters)
    for parameter, (w, v) in zip(parameters, expected, strict=True):
        np.testing.assert_array_equal(to_numpy(parameter.weight), w, strict=True)
        np.testing.assert_array_equal(to_numpy(parameter.velocity), v, strict=True)


def test_a_scalar_is_a_parameter_too() -> None:
    parameter = ParameterUpdate(
        *(torch.tensor(x, device=DEVICE) for x in (2.0, 1.0, 0.5)), coefficient_rows([0.25], [0.0])[0]
    )
    update([parameter])
    assert (float(parameter.weight), float(parameter.velocity)) == (
        pytest.approx(2.0 + 0.9 - 0.125),
        pytest.approx(0.9 - 0.125),
    )


@pytest.mark.parametrize("threads", [1, 2, 5] if DEVICE.type == "cpu" else [1])
def test_large_parameters_are_divided_among_threads_to_the_same_bits(threads: int) -> None:
    shapes = [(300_001,), (10,), (16, 3, 11, 11), (70_000,), (1,)]
    tensors = [[random_values(shape, 3 * n + i) for i in range(3)] for n, shape in enumerate(shapes)]
    expected = [formula(*(to_numpy(t).copy() for t in three), 0.01, 5e-4) for three in tensors]
    table = coefficient_rows([0.01], [5e-4])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        update([ParameterUpdate(*three, table[0]) for three in tensors])
    finally:
        torch.set_num_threads(before)
    for (weight, velocity, _), (w, v) in zip(tensors, expected, strict=True):
        np.testing.assert_array_equal(to_numpy(weight), w)
        np.testing.assert_array_equal(to_numpy(velocity), v)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_updated_in_float32_and_rounded_once(implementation: Update, dtype: torch.dtype) -> None:
    w, v, g = (torch.from_numpy(np.random.default_rng(n).normal(size=(40, 41))).to(DEVICE, dtype) for n in range(3))
    expected = [torch.from_numpy(x).to(dtype) for x in formula(*(to_numpy(t.float()) for t in (w, v, g)), 0.01, 5e-4)]
    implementation([ParameterUpdate(w, v, g, coefficient_rows([0.01], [5e-4])[0])])
    # Triton's interpreter cuts bfloat16 off instead of rounding it.
    interpreted = INTERPRETED and (implementation is by_triton or (implementation is update and DEVICE.type == "cuda"))
    cuts = interpreted and dtype is torch.bfloat16
    tolerance = torch.finfo(dtype).eps if cuts else 0.0
    for result, reference in zip((w, v), expected, strict=True):
        torch.testing.assert_close(result.cpu(), reference, rtol=tolerance, atol=0)


@pytest.mark.parametrize("gradient_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])  # in the second the copy has other strides than the weight
def test_a_bfloat16_copy_is_written_with_the_weights(gradient_dtype: torch.dtype, order: tuple[int, int]) -> None:
    shapes = [(40, 41), (2500, 1), (1, 3), (0, 2)]
    weights = [torch.from_numpy(np.random.default_rng(n).normal(size=shape)).float() for n, shape in enumerate(shapes)]
    weights = [w.to(DEVICE) for w in weights]
    velocities = [torch.zeros_like(w) for w in weights]
    copies = [with_strides(w.bfloat16(), order, False) for w in weights]
    expected = [(to_numpy(w).copy(), to_numpy(v).copy()) for w, v in zip(weights, velocities, strict=True)]
    for step, rate in enumerate([0.3, 0.0, 0.01]):
        gradients = [random_values(w.shape, 10 * step + n).to(gradient_dtype) for n, w in enumerate(weights)]
        rows = coefficient_rows([rate], [5e-4])[0]
        update(
            [
                ParameterUpdate(w, v, g, rows, copy)
                for w, v, g, copy in zip(weights, velocities, gradients, copies, strict=True)
            ]
        )
        for n, (w, v) in enumerate(expected):
            expected[n] = formula(w, v, to_numpy(gradients[n].float()), rate, 5e-4)
            np.testing.assert_array_equal(to_numpy(weights[n]), expected[n][0], strict=True)
            np.testing.assert_array_equal(to_numpy(velocities[n]), expected[n][1], strict=True)
            assert torch.equal(copies[n], weights[n].bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_reference_is_the_formula(dtype: torch.dtype) -> None:
    for rate, decay in [(0.01, 5e-4), (1 / 3, 0.0), (0.0, 5e-4)]:
        w, v, g = (random_values((50, 7), n, dtype) for n in range(3))
        expected = formula(to_numpy(w).copy(), to_numpy(v).copy(), to_numpy(g), rate, decay)
        update_reference(w, v, g, rate, MOMENTUM, decay)
        np.testing.assert_array_equal(to_numpy(w), expected[0], strict=True)
        np.testing.assert_array_equal(to_numpy(v), expected[1], strict=True)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_frozen_parameter_stays_whatever_its_gradient(implementation: Update) -> None:
    nan = torch.full((5,), torch.nan, device=DEVICE)
    frozen, moving = ([random_values((5,), n), random_values((5,), n + 1), nan] for n in (0, 5))
    before, table = [tensor.clone() for tensor in frozen], coefficient_rows([0.0, 0.1], [5e-4, 5e-4])
    implementation([ParameterUpdate(*frozen, table[0]), ParameterUpdate(*moving, table[1])])
    assert torch.equal(frozen[0], before[0])
    assert torch.equal(frozen[1], before[1])
    assert moving[0].isnan().all()


def test_autograd_knows_that_weights_have_changed() -> None:
    weight = torch.nn.Parameter(torch.ones(3, device=DEVICE))
    optimiser = SGD([weight], rate=0.1, momentum=0.9, decay=0.0)
    loss = (weight * weight).sum()
    weight.grad = torch.ones(3, device=DEVICE)
    optimiser.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ---- The optimiser ---------------------------------------------------------------------------------------------------


def random_step(net: AlexNet, optimiser: SGD, seed: int) -> None:
    """Take a step with random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for weight in net.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator).to(weight)
    optimiser.step()


def small_net_and_optimiser(recipe: Recipe) -> tuple[AlexNet, SGD]:
    torch.manual_seed(0)
    net = AlexNet(3, recipe.net).to_channels_last(DEVICE)
    return net, SGD(parameter_groups(net, recipe), rate=0.01, momentum=0.9, decay=5e-4)


def test_a_net_s_steps_with_the_schedule_s_rates_are_the_reference_s_to_the_bit() -> None:
    changes = (Change(epoch=1, learning_rate=0.0, layers=("conv1",)), Change(epoch=2, learning_rate=0.001))
    recipe = Recipe(net=small_net(), store_size=32, schedule="changes", changes=changes, bias_rate=0.02)
    net, optimiser = small_net_and_optimiser(recipe)
    plain = copy.deepcopy(net)
    velocities = {name: torch.zeros_like(w) for name, w in plain.named_parameters()}
    decays = {id(w): group["decay"] for group in optimiser.param_groups for w in group["params"]}
    for step in range(9):
        learning_rates = make_schedule(recipe).rates_at(step / 3)
        set_learning_rates(optimiser, learning_rates)
        random_step(net, optimiser, step)
        for (name, expected), weight in zip(plain.named_parameters(), net.parameters(), strict=True):
            layer = name.split(".")[1] if not name.startswith("fc8") else "fc8"
            rate = (learning_rates.biases if name.endswith("bias") else learning_rates.weights)[layer]
            assert weight.grad is not None
            update_reference(expected.data, velocities[name], weight.grad, rate, 0.9, decays[id(weight)])
            assert torch.equal(weight, expected), name
            assert torch.equal(optimiser.velocity(weight), velocities[name]), name


@pytest.mark.parametrize("resumed", ["state_dict", "copy"])
def test_an_optimiser_saved_and_loaded_continues_to_the_same_bits(resumed: str) -> None:
    recipe = Recipe(net=small_net(), store_size=32)
    net, optimiser = small_net_and_optimiser(recipe)
    for step in range(3):
        random_step(net, optimiser, step)
    if resumed == "state_dict":
        other, other_optimiser = small_net_and_optimiser(recipe)
        other.load_state_dict(net.state_dict())
        other_optimiser.load_state_dict(copy.deepcopy(optimiser.state_dict()))  # else they would share velocities
    else:
        other, other_optimiser = copy.deepcopy((net, optimiser))
    for step in range(3, 6):
        for group in (*optimiser.param_groups, *other_optimiser.param_groups):
            group["rate"] = 0.01 / step
        random_step(net, optimiser, step)
        random_step(other, other_optimiser, step)
    for weight, expected in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, expected)
        assert torch.equal(optimiser.velocity(weight), other_optimiser.velocity(expected))


def test_the_address_of_the_rates_does_not_change() -> None:
    """A captured step reads the same memory at each replay."""
    recipe = Recipe(net=small_net(), store_size=32)
    net, optimiser = small_net_and_optimiser(recipe)
    set_learning_rates(optimiser, make_schedule(recipe).rates_at(0))
    addresses = {device: table.data_ptr() for device, table in optimiser._rates.items()}
    random_step(net, optimiser, 0)
    optimiser.param_groups[0]["rate"] = 0.125
    optimiser.write_rates()
    assert {device: table.data_ptr() for device, table in optimiser._rates.items()} == addresses
    (table,) = optimiser._rates.values()
    assert table[0].tolist() == [0.125, 0.125 * 5e-4, 0.9]
    assert table[1].tolist() == [0.01, 0.01 * 5e-4, 0.9]


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")
def test_a_captured_step_reads_new_rates() -> None:
    recipe = Recipe(net=small_net(), store_size=32)
    (net, optimiser), (other, other_optimiser) = small_net_and_optimiser(recipe), small_net_and_optimiser(recipe)
    gradients = [torch.randn_like(weight) for weight in net.parameters()]
    for model in (net, other):
        for weight, gradient in zip(model.parameters(), gradients, strict=True):
            weight.grad = gradient
    optimiser.step()
    other_optimiser.step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimiser.step()
    for rate in (0.01, 0.003, 0.0, 0.2):
        for group in (*optimiser.param_groups, *other_optimiser.param_groups):
            group["rate"] = rate
        optimiser.write_rates()
        graph.replay()
        other_optimiser.step()
        for weight, expected in zip(net.parameters(), other.parameters(), strict=True):
            assert torch.equal(weight, expected), rate


# ---- Compiled for a GPU, without one ----------------------------------------------------------------------------
