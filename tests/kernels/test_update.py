"""The update rule in one pass: every version against the formula in NumPy, bit for bit."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from conftest import small_net
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alexnet.kernels.compile import has_triton
from alexnet.kernels.update import ParameterUpdate, update, update_coefficients, update_foreach, update_reference
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Change, Recipe
from alexnet.training.schedule import make_schedule
from alexnet.training.sgd import SGD, parameter_groups, set_learning_rates

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
MOMENTUM = 0.9


def by_triton(parts: Sequence[ParameterUpdate]) -> None:
    """`update_triton` on flat memory, which it wants."""
    from alexnet.kernels.update_triton import update_triton

    update_triton([ParameterUpdate(*(tensor.view(-1) for tensor in part[:3]), part.coefficients) for part in parts])


def one_by_one(parts: Sequence[ParameterUpdate]) -> None:
    """`update_reference` of each."""
    for weight, velocity, gradient, row in parts:
        rate, decayed, momentum = row.tolist()
        update_reference(weight, velocity, gradient, rate, momentum, decayed / rate if rate else 0.0)


needs_triton = pytest.mark.skipif(not has_triton(), reason="triton is not installed")
WAYS = [
    pytest.param(update, id="update"),
    pytest.param(update_foreach, id="foreach"),
    pytest.param(by_triton, id="triton", marks=needs_triton),
]


def formula(w: np.ndarray, v: np.ndarray, g: np.ndarray, rate: float, decay: float) -> tuple[np.ndarray, np.ndarray]:
    """The new weights and velocity; NumPy rounds each product and each sum by itself."""
    if rate == 0:
        return w, v
    number = w.dtype.type
    v = (number(MOMENTUM) * v - number(decay * rate) * w) - number(rate) * g
    return w + v, v


def normal(shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers whose products need rounding, some of them large and some subnormal."""
    random = np.random.default_rng(seed)
    scale = random.choice([1e-42, 1e-3, 1.0, 1e4], size=shape)
    return torch.from_numpy(random.normal(size=shape) * scale).to(dtype).to(DEVICE)


def rows(rates: Sequence[float], decays: Sequence[float]) -> Tensor:
    """(groups, 3): what the parts' rates are views of."""
    found = [update_coefficients(rate, MOMENTUM, decay) for rate, decay in zip(rates, decays, strict=True)]
    return torch.tensor(found, dtype=torch.float64, device=DEVICE)


def bits(tensor: Tensor) -> np.ndarray:
    """A tensor's values as an array, for exact comparison."""
    found: np.ndarray = tensor.detach().cpu().numpy()
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_steps_at_changing_rates_give_the_formula_s_bits(
    way: Callable[[Sequence[ParameterUpdate]], None], dtype: torch.dtype
) -> None:
    # One of more than a block, one of exactly a block, one element, none; decay and none; frozen now and then.
    shapes, decays = [(2500,), (32, 32), (1,), (0, 3), (7, 5, 3, 2)], [5e-4, 0.0, 0.03, 5e-4, 1.0]
    weights = [normal(shape, n, dtype) for n, shape in enumerate(shapes)]
    velocities = [torch.zeros_like(w) for w in weights]
    expected = [(bits(w).copy(), np.zeros(w.shape, bits(w).dtype)) for w in weights]
    for step, rate in enumerate([0.01] * 3 + [0.0] + [0.001] * 3 + [1 / 3] * 2):
        given_rates = [rate if n != 4 or step % 2 else 0.0 for n in range(5)]  # the last is frozen every other step
        table = rows(given_rates, decays)
        gradients = [normal(shape, 100 * step + n, dtype) for n, shape in enumerate(shapes)]
        way([ParameterUpdate(*tensors) for tensors in zip(weights, velocities, gradients, table, strict=True)])
        for n, (w, v) in enumerate(expected):
            expected[n] = formula(w, v, bits(gradients[n]), given_rates[n], decays[n])
            np.testing.assert_array_equal(bits(weights[n]), expected[n][0], strict=True)
            np.testing.assert_array_equal(bits(velocities[n]), expected[n][1], strict=True)


def laid_out(values: Tensor, order: Sequence[int], gap: bool) -> Tensor:
    """The same values in memory whose dimensions lie in another order, with gaps or without."""
    shape = [values.shape[d] for d in order]
    memory = values.new_full([*shape[:-1], 2 * shape[-1]], float("nan"))[..., ::2] if gap else values.new_empty(shape)
    result = memory.permute([list(order).index(d) for d in range(values.ndim)])
    return result.copy_(values)


@settings(max_examples=40)
@given(st.data())
def test_any_strides_give_the_same_bits(data: st.DataObject) -> None:
    parts, expected = [], []
    count = data.draw(st.integers(1, 3))
    for n in range(count):
        shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
        orders = st.permutations(range(len(shape)))
        values = [normal(shape, 3 * n + i) for i in range(3)]
        rate = data.draw(st.sampled_from([0.0, 0.01, 0.3]))
        decay = data.draw(st.sampled_from([0.0, 5e-4]))
        w, v, g = (laid_out(value, data.draw(orders), data.draw(st.booleans())) for value in values)
        parts.append(ParameterUpdate(w, v, g, rows([rate], [decay])[0]))
        expected.append(formula(*(bits(value) for value in values), rate, decay))
    update(parts)
    for part, (w, v) in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(bits(part.weight), w, strict=True)
        np.testing.assert_array_equal(bits(part.velocity), v, strict=True)


def test_a_number_is_a_parameter_too() -> None:
    part = ParameterUpdate(*(torch.tensor(x, device=DEVICE) for x in (2.0, 1.0, 0.5)), rows([0.25], [0.0])[0])
    update([part])
    assert (float(part.weight), float(part.velocity)) == (pytest.approx(2.0 + 0.9 - 0.125), pytest.approx(0.9 - 0.125))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_large_parameters_are_divided_among_threads_to_the_same_bits(threads: int) -> None:
    shapes = [(300_001,), (10,), (16, 3, 11, 11), (70_000,), (1,)]
    tensors = [[normal(shape, 3 * n + i) for i in range(3)] for n, shape in enumerate(shapes)]
    expected = [formula(*(bits(t).copy() for t in three), 0.01, 5e-4) for three in tensors]
    table = rows([0.01], [5e-4])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        update([ParameterUpdate(*three, table[0]) for three in tensors])
    finally:
        torch.set_num_threads(before)
    for (weight, velocity, _), (w, v) in zip(tensors, expected, strict=True):
        np.testing.assert_array_equal(bits(weight), w)
        np.testing.assert_array_equal(bits(velocity), v)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_moved_in_float32_and_rounded_once(
    way: Callable[[Sequence[ParameterUpdate]], None], dtype: torch.dtype
) -> None:
    w, v, g = (torch.from_numpy(np.random.default_rng(n).normal(size=(40, 41))).to(DEVICE, dtype) for n in range(3))
    expected = [torch.from_numpy(x).to(dtype) for x in formula(*(bits(t.float()) for t in (w, v, g)), 0.01, 5e-4)]
    way([ParameterUpdate(w, v, g, rows([0.01], [5e-4])[0])])
    # Triton's interpreter cuts bfloat16 off instead of rounding it.
    by_interpreter = INTERPRETED and (way is by_triton or (way is update and DEVICE.type == "cuda"))
    cuts = by_interpreter and dtype is torch.bfloat16
    tolerance = torch.finfo(dtype).eps if cuts else 0.0
    for found, wanted in zip((w, v), expected, strict=True):
        torch.testing.assert_close(found.cpu(), wanted, rtol=tolerance, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_reference_is_the_formula(dtype: torch.dtype) -> None:
    for rate, decay in [(0.01, 5e-4), (1 / 3, 0.0), (0.0, 5e-4)]:
        w, v, g = (normal((50, 7), n, dtype) for n in range(3))
        expected = formula(bits(w).copy(), bits(v).copy(), bits(g), rate, decay)
        update_reference(w, v, g, rate, MOMENTUM, decay)
        np.testing.assert_array_equal(bits(w), expected[0], strict=True)
        np.testing.assert_array_equal(bits(v), expected[1], strict=True)


@pytest.mark.parametrize("way", WAYS)
def test_a_frozen_parameter_stays_whatever_its_gradient(way: Callable[[Sequence[ParameterUpdate]], None]) -> None:
    nan = torch.full((5,), torch.nan, device=DEVICE)
    frozen, moving = ([normal((5,), n), normal((5,), n + 1), nan] for n in (0, 5))
    before, table = [tensor.clone() for tensor in frozen], rows([0.0, 0.1], [5e-4, 5e-4])
    way([ParameterUpdate(*frozen, table[0]), ParameterUpdate(*moving, table[1])])
    assert torch.equal(frozen[0], before[0])
    assert torch.equal(frozen[1], before[1])
    assert moving[0].isnan().all()


def test_autograd_notices_that_weights_have_moved() -> None:
    weight = torch.nn.Parameter(torch.ones(3, device=DEVICE))
    optimiser = SGD([weight], rate=0.1, momentum=0.9, decay=0.0)
    loss = (weight * weight).sum()
    weight.grad = torch.ones(3, device=DEVICE)
    optimiser.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ---- The optimiser ---------------------------------------------------------------------------------------------------


def made_up_step(net: AlexNet, optimiser: SGD, seed: int) -> None:
    """A step with gradients drawn from a seed."""
    generator = torch.Generator().manual_seed(seed)
    for weight in net.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator).to(weight)
    optimiser.step()


def small(recipe: Recipe) -> tuple[AlexNet, SGD]:
    torch.manual_seed(0)
    net = AlexNet(3, recipe.net).to_channels_last(DEVICE)
    return net, SGD(parameter_groups(net, recipe), rate=0.01, momentum=0.9, decay=5e-4)


def test_a_net_s_steps_with_the_schedule_s_rates_are_the_reference_s_to_the_bit() -> None:
    changes = (Change(epoch=1, learning_rate=0.0, layers=("conv1",)), Change(epoch=2, learning_rate=0.001))
    recipe = Recipe(net=small_net(), store_size=32, schedule="changes", changes=changes, bias_rate=0.02)
    net, optimiser = small(recipe)
    plain = copy.deepcopy(net)
    velocities = {name: torch.zeros_like(w) for name, w in plain.named_parameters()}
    decays = {id(w): group["decay"] for group in optimiser.param_groups for w in group["params"]}
    for step in range(9):
        now = make_schedule(recipe).rates_at(step / 3)
        set_learning_rates(optimiser, now)
        made_up_step(net, optimiser, step)
        for (name, theirs), ours in zip(plain.named_parameters(), net.parameters(), strict=True):
            layer = name.split(".")[1] if not name.startswith("fc8") else "fc8"
            rate = (now.biases if name.endswith("bias") else now.weights)[layer]
            assert ours.grad is not None
            update_reference(theirs.data, velocities[name], ours.grad, rate, 0.9, decays[id(ours)])
            assert torch.equal(ours, theirs), name
            assert torch.equal(optimiser.velocity(ours), velocities[name]), name


@pytest.mark.parametrize("resumed", ["state_dict", "copy"])
def test_an_optimiser_saved_and_loaded_goes_on_to_the_same_bits(resumed: str) -> None:
    recipe = Recipe(net=small_net(), store_size=32)
    net, optimiser = small(recipe)
    for step in range(3):
        made_up_step(net, optimiser, step)
    if resumed == "state_dict":
        other, its = small(recipe)
        other.load_state_dict(net.state_dict())
        its.load_state_dict(copy.deepcopy(optimiser.state_dict()))  # else they would share velocities
    else:
        other, its = copy.deepcopy((net, optimiser))
    for step in range(3, 6):
        for group in (*optimiser.param_groups, *its.param_groups):
            group["rate"] = 0.01 / step
        made_up_step(net, optimiser, step)
        made_up_step(other, its, step)
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(optimiser.velocity(one), its.velocity(two))


def test_rates_stay_at_one_place_of_memory() -> None:
    """What a captured step reads must be what is written later."""
    recipe = Recipe(net=small_net(), store_size=32)
    net, optimiser = small(recipe)
    set_learning_rates(optimiser, make_schedule(recipe).rates_at(0))
    places = {device: table.data_ptr() for device, table in optimiser._rates.items()}
    made_up_step(net, optimiser, 0)
    optimiser.param_groups[0]["rate"] = 0.125
    optimiser.write_rates()
    assert {device: table.data_ptr() for device, table in optimiser._rates.items()} == places
    (table,) = optimiser._rates.values()
    assert table[0].tolist() == [0.125, 0.125 * 5e-4, 0.9]
    assert table[1].tolist() == [0.01, 0.01 * 5e-4, 0.9]


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")
def test_a_captured_step_takes_up_new_rates() -> None:
    recipe = Recipe(net=small_net(), store_size=32)
    (net, optimiser), (other, its) = small(recipe), small(recipe)
    gradients = [torch.randn_like(weight) for weight in net.parameters()]
    for one in (net, other):
        for weight, gradient in zip(one.parameters(), gradients, strict=True):
            weight.grad = gradient
    optimiser.step()
    its.step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimiser.step()
    for rate in (0.01, 0.003, 0.0, 0.2):
        for group in (*optimiser.param_groups, *its.param_groups):
            group["rate"] = rate
        optimiser.write_rates()
        graph.replay()
        its.step()
        for one, two in zip(net.parameters(), other.parameters(), strict=True):
            assert torch.equal(one, two), rate


# ---- What is made for a GPU, without one ----------------------------------------------------------------------------

COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from alexnet.kernels.update_triton import BLOCK, _update

three = ("*fp32",) * 3
signature = {"weights": three, "velocities": three, "gradients": three, "rates": ("*fp64",) * 3, "sizes": ("i32",) * 3}
signature |= {"COUNT": "constexpr", "BLOCK": "constexpr"}
aligned = {(i, j): [["tt.divisibility", 16]] for i in (0, 1, 2, 4) for j in range(3)}
for fused in (True, False):
    source = ASTSource(fn=_update, signature=signature, constexprs={(5,): 3, (6,): BLOCK}, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": fused})
    print(made.asm["ptx"].count("fma.rn.f32"), made.asm["ptx"].count("ld.global.v4"))
"""


@needs_triton
@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux")
def test_the_kernel_compiled_for_an_h200_rounds_each_product_and_loads_vectors() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    told = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, check=True, env=environment
    ).stdout.split()
    fused, vectors, unfused, _ = map(int, told)
    assert fused > 0  # without the option it would fuse
    assert unfused == 0
    assert vectors >= 9  # three tensors of three parameters, in vectors of four
