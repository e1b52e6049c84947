"""Locally connected layers against a loop over places and convolutions; the views of the nets that have them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alexnet.architecture import Conv, Net, ResponseNorm
from alexnet.data.store.store import Store
from alexnet.geometry import conv_side
from alexnet.kernels import locally_connected as local
from alexnet.kernels.locally_connected import locally_connected, locally_connected_reference
from alexnet.models.alexnet import AlexNet
from alexnet.models.layers import Convolution, LocallyConnected
from alexnet.recipe import Recipe
from alexnet.results import report
from alexnet.results.classifier import Classifier
from alexnet.results.evaluate import evaluate
from alexnet.training.checkpoint import list_checkpoints, load_best, load_checkpoint
from alexnet.training.inference import default_views, predict_pictures
from alexnet.training.sgd import parameter_groups
from alexnet.training.train import train

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.gpu]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Case = tuple[Tensor, Tensor, Tensor, dict[str, int]]


def case(
    pictures: int = 2,
    channels: int = 4,
    side: int = 7,
    maps: int = 6,
    kernel: int = 3,
    stride: int = 1,
    padding: int = 1,
    towers: int = 1,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Case:
    """Made-up maps, kernels, biases, and the rest of the arguments."""
    generator = torch.Generator().manual_seed(seed)
    out = conv_side(side, kernel, stride, padding)
    shapes = ((pictures, channels, side, side), (out, out, maps, kernel, kernel, channels // towers), (out, out, maps))
    x, weight, bias = (torch.randn(s, generator=generator, dtype=torch.float64).to(DEVICE, dtype) for s in shapes)
    return x, weight, bias, {"stride": stride, "padding": padding, "towers": towers}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    towers, kernel = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    padding = draw(st.integers(0, kernel - 1))
    made = case(
        draw(st.integers(1, 3)),
        towers * draw(st.integers(1, 3)),
        draw(st.integers(max(1, kernel - 2 * padding), 9)),
        towers * draw(st.integers(1, 3)),
        kernel,
        draw(st.integers(1, 6)),
        padding,
        towers,
        seed=draw(st.integers(0, 2**31)),
    )
    form = draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    return made[0].to(memory_format=form), *made[1:]


def with_gradients(function, made: Case, form: torch.memory_format = torch.contiguous_format) -> list[Tensor]:  # type: ignore[no-untyped-def]
    """A layer's result, and the gradients of its maps, kernels and biases."""
    inputs = [tensor.clone().requires_grad_() for tensor in made[:3]]
    y = function(*inputs, **made[3])
    g = torch.linspace(-1, 2, y.numel(), dtype=y.dtype, device=y.device).view(y.shape).to(memory_format=form)
    return [y.detach(), *torch.autograd.grad(y, inputs, g)]


# ---- The operation --------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(cases(), st.sampled_from([torch.contiguous_format, torch.channels_last]))
def test_it_is_the_loop_over_places_forward_and_back(made: Case, form: torch.memory_format) -> None:
    expected = with_gradients(locally_connected_reference, made)
    for ours, theirs in zip(with_gradients(locally_connected, made, form), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_the_reference_is_the_sum_over_each_window_written_as_loops() -> None:
    """Stride 2, zeros around, one more at the right and the bottom, two towers; NumPy alone."""
    x, weight, bias, rest = case(2, 4, 6, 2, kernel=3, stride=2, padding=0, towers=2)
    y = locally_connected_reference(x, weight, bias, **rest).cpu().numpy()
    assert y.shape == (2, 2, 3, 3)  # 1 + ceil((6 - 3) / 2)
    pixel, w = np.zeros((2, 4, 7, 7)), weight.cpu().numpy()
    pixel[:, :, :6, :6] = x.cpu().numpy()
    for n, m, row, column in np.ndindex(2, 2, 3, 3):
        total = float(bias[row, column, m])
        for i, j, c in np.ndindex(3, 3, 2):
            total += w[row, column, m, i, j, c] * pixel[n, 2 * m + c, 2 * row + i, 2 * column + j]
        assert y[n, m, row, column] == pytest.approx(total, rel=1e-12)


@given(cases())
def test_with_the_same_kernels_everywhere_it_is_a_convolution(made: Case) -> None:
    x, weight, bias, rest = made
    out, side, kernel = weight.shape[0], x.shape[2], weight.shape[3]
    padding, towers = rest["padding"], rest["towers"]
    conv = Conv(maps=weight.shape[2], kernel=kernel, stride=rest["stride"], padding=padding, shared=False)
    alone = LocallyConnected(x.shape[1], conv, towers=towers, side=side).to(DEVICE).double()
    shared = Convolution(x.shape[1], replace(conv, shared=True), towers=towers, side=side).to(DEVICE).double()
    assert alone.weight.shape == weight.shape
    with torch.no_grad():
        alone.weight.copy_(weight[0, 0].expand_as(weight))
        alone.bias.copy_(bias[0, 0].expand_as(bias))
        shared.weight.copy_(weight[0, 0].permute(0, 3, 1, 2))
        shared.bias.copy_(bias[0, 0])  # type: ignore[union-attr]
    y, z = alone(x), shared(x)
    assert y.shape == (len(x), conv.maps, out, out)
    torch.testing.assert_close(y, z, rtol=1e-10, atol=1e-10)
    y.square().sum().backward()
    z.square().sum().backward()
    # A kernel that all places share has the sum of what the places would do with their own.
    summed = alone.weight.grad.sum((0, 1)).permute(0, 3, 1, 2)  # type: ignore[union-attr]
    torch.testing.assert_close(summed, shared.weight.grad, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(alone.bias.grad.sum((0, 1)), shared.bias.grad, rtol=1e-9, atol=1e-9)  # type: ignore


def test_each_place_has_its_own_kernels_and_bias() -> None:
    x, weight, bias, rest = case(1, 2, 6, 3)
    before = locally_connected(x, weight, bias, **rest)
    weight[2, 4] += 1
    bias[5, 0] += 1
    changed = (locally_connected(x, weight, bias, **rest) != before).any(1)[0]
    assert {tuple(place) for place in changed.nonzero().tolist()} == {(2, 4), (5, 0)}


def test_gradients_are_those_of_finite_differences() -> None:
    x, weight, bias, rest = case(2, 4, 5, 2, 3, stride=2, padding=1, towers=2)
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda *given: locally_connected(*given, **rest), inputs)


def test_only_what_is_asked_for_is_differentiated() -> None:
    x, weight, bias, rest = case()
    y = locally_connected(x, weight, bias.requires_grad_(), **rest)
    y.sum().backward()
    assert x.grad is None
    assert weight.grad is None
    torch.testing.assert_close(bias.grad, torch.full_like(bias, len(x)))


@pytest.mark.parametrize("geometry", [{}, {"towers": 2, "stride": 2}, {"channels": 1, "maps": 1, "padding": 0}])
def test_the_operators_are_registered_as_torch_wants_them(geometry: dict[str, int]) -> None:
    x, weight, bias, rest = case(**geometry, dtype=torch.float32)
    last = tuple(rest.values())
    inputs = tuple(tensor.clone().requires_grad_() for tensor in (x, weight, bias))
    torch.library.opcheck(local._forward, (*inputs, *last))
    g = torch.randn_like(locally_connected(x, weight, bias, **rest))
    torch.library.opcheck(local._weight_gradient, (g, x, weight.shape[3], *last))
    torch.library.opcheck(local._input_gradient, (g, weight, x.shape[2], *last))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(dtype: torch.dtype) -> None:
    made = case(8, 16, 6, 8, dtype=dtype)
    wide = (*(tensor.float() for tensor in made[:3]), made[3])
    step = torch.finfo(dtype).eps
    for ours, theirs in zip(
        with_gradients(locally_connected, made), with_gradients(locally_connected, wide), strict=True
    ):
        assert ours.dtype == dtype
        error = float((ours.float() - theirs).abs().max() / theirs.abs().max())
        assert error < 2 * step  # a rounding at the end and one before


def test_autocast_computes_in_its_type_and_leaves_gradients_wide() -> None:
    x, weight, bias, rest = case(dtype=torch.float32)
    weight.requires_grad_()
    with torch.autocast(DEVICE, torch.bfloat16):
        y = locally_connected(x, weight, bias, **rest)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    with torch.autocast(DEVICE, torch.bfloat16):
        assert locally_connected(x.double(), weight.double(), bias.double(), **rest).dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 4, 7, 6)}, r"x must be square maps, .*; got \(2, 4, 7, 6\)"),
        ({"x": torch.zeros(2, 4, 9, 9)}, r"weight must have shape \(9, 9, 6, 3, 3, 4\) for maps of side 9; got .*"),
        ({"weight": torch.zeros(7, 7, 6, 3, 3)}, "weight must have six dimensions .*; got 5"),
        ({"weight": torch.zeros(7, 7, 6, 3, 2, 4)}, r"weight must have shape \(7, 7, 6, 3, 3, 4\) .*"),
        ({"bias": torch.zeros(6)}, r"bias must have shape \(7, 7, 6\); got \(6,\)"),
        ({"towers": 4}, "towers must divide the 4 maps read and the 6 made; got 4"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    x, weight, bias, rest = case(dtype=torch.float32)
    given = {"x": x, "weight": weight, "bias": bias} | rest | change
    with pytest.raises(ValueError, match=f"^{message}$"):
        locally_connected(**given)


# ---- In a net -------------------------------------------------------------------------------------------------------


def local_net() -> Net:
    """A net with two locally connected layers, the second of stride 2, for 24 x 24 pictures."""
    return Net(
        image_size=24,
        towers=2,
        conv1=Conv(maps=8, kernel=5, stride=2, padding=0, then=("activate", "pool", "normalise")),
        conv2=None,
        conv3=Conv(maps=8, shared=False, all_towers=True),
        conv4=Conv(maps=4, shared=False, stride=2, kernel=2, padding=0),
        conv5=None,
        fc6=None,
        fc7=None,
        normalise=ResponseNorm(k=1.0, size=9, alpha=0.001, alpha_over_size=True),
        start="he",
        pixel_scale=1 / 64,
    )


def test_a_net_s_local_layers_have_the_sides_and_names_of_its_description() -> None:
    net = AlexNet(3, local_net()).to_channels_last(torch.device(DEVICE))
    assert net.net.sides() == {"conv1": (11, 5), "conv3": (5, 5), "conv4": (3, 3)}  # 1 + ceil((24 - 5) / 2) = 11
    assert tuple(net.layers()) == ("conv1", "conv3", "conv4", "fc8")
    assert tuple(net.layers()["conv3"].weight.shape) == (5, 5, 8, 3, 3, 8)
    assert tuple(net.layers()["conv4"].weight.shape) == (3, 3, 4, 2, 2, 4)  # a tower's four of the eight maps
    assert net.convs["conv4"](torch.zeros(2, 8, 5, 5, device=DEVICE)).shape == (2, 4, 3, 3)
    assert list(net.state_dict())[2:6] == [f"convs.conv{i}.0.{part}" for i in (3, 4) for part in ("weight", "bias")]


def test_a_net_with_local_layers_can_be_exported_and_compiled() -> None:
    torch.manual_seed(0)
    net = AlexNet(3, local_net()).eval()
    x, more = torch.randn(2, 3, 24, 24), torch.randn(5, 3, 24, 24)
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.testing.assert_close(exported.module()(more), net(more))
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    weights = list(net.parameters())
    ours = torch.autograd.grad(compiled(x).square().sum(), weights)
    theirs = torch.autograd.grad(net(x).square().sum(), weights)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


# ---- Nine views -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local_recipe() -> Recipe:
    """Two epochs of a small net with local layers, trained and tested as the nets "13%" and "11%"; in float32."""
    recipe = Recipe(net=local_net(), store_size=32, batch_size=10, learning_rate=0.01, bias_rate=0.02, views=9)
    recipe = replace(recipe, precision="float32")  # on every machine, as the plain computations it is compared with
    return replace(recipe, decays={"conv3": 0.004}, colour_deviation=0.0, schedule="cosine", epochs=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, store: Path, local_recipe: Recipe) -> Path:
    """A run of it."""
    run = tmp_path_factory.mktemp("local") / "run"
    assert train(store, run, local_recipe, device="cpu", progress=False).finished
    return run


def test_evaluation_with_nine_views_is_the_mean_of_nine_softmax_outputs(trained: Path, store: Path) -> None:
    found, split = load_best(trained), Store(store).split("val")
    net, mean, chances = found.net(), found.statistics.mean[:, 4:28, 4:28], []
    for n in range(len(split)):
        outputs = []
        for top in (0, 4, 8):
            for left in (0, 4, 8):
                square = split.image(n)[top : top + 24, left : left + 24].transpose(2, 0, 1).astype(np.float32)
                with torch.no_grad():
                    outputs.append(net(torch.from_numpy(square - mean)[None]).softmax(1)[0].numpy())
        chances.append(np.mean(outputs, axis=0))
    assert default_views(found.recipe) == 9
    pictures = [split.image(n) for n in range(len(split))]
    ours = predict_pictures(found.net(), pictures, found.statistics.mean, found.recipe, 9)  # 14 pictures, then 6
    np.testing.assert_allclose(ours, chances, atol=1e-6)
    result = evaluate(trained, store, views=9)
    assert (result["views"], result["images"]) == (9, 20)
    assert result["top1_error"] == pytest.approx(np.mean(np.argmax(chances, 1) != split.labels))
    right = np.array(chances)[np.arange(20), split.labels]
    assert result["log_prob"] == pytest.approx(-np.log(right).mean(), rel=1e-5)
    page = report.report(trained, store, progress=False).read_text(encoding="utf-8")
    assert "nine views" in page
    assert f"{result['top1_error']:.1%}" in page
    assert f"{evaluate(trained, store)['top1_error']:.1%} with one view" in page


def test_a_classifier_of_such_a_net_takes_nine_views_by_default(trained: Path, store: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(Store(store).split("val").image(0)).save(tmp_path / "picture.png")
    classifier = Classifier.load(trained, device="cpu")
    usual = classifier.predict(tmp_path / "picture.png")
    assert usual == classifier.predict(tmp_path / "picture.png", views=9)
    assert usual != classifier.predict(tmp_path / "picture.png", views=10)
    assert usual != classifier.predict(tmp_path / "picture.png", views=1)


def test_local_layers_learn_and_decay_by_name(trained: Path, local_recipe: Recipe) -> None:
    torch.manual_seed(local_recipe.seed)
    start = AlexNet(3, local_recipe.net).layers()
    ended = load_best(trained).net().layers()
    for name in ("conv3", "conv4"):
        for part in ("weight", "bias"):
            assert not torch.equal(getattr(start[name], part), getattr(ended[name], part)), name
    decays = {(g["layer"], g["kind"]): g["decay"] for g in parameter_groups(AlexNet(3, local_recipe.net), local_recipe)}
    assert decays[("conv3", "weights")] == 0.004
    assert decays[("conv4", "weights")] == 0.0005
    assert decays[("conv3", "biases")] == 0
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train_loss"] for line in lines if line["event"] == "epoch"]
    assert losses[-1] < losses[0]


def test_a_run_with_local_layers_that_was_stopped_ends_with_the_same_bits(
    trained: Path, store: Path, local_recipe: Recipe, tmp_path: Path
) -> None:
    train(store, tmp_path / "run", local_recipe, device="cpu", keep=9, progress=False)
    checkpoints = list_checkpoints(tmp_path / "run")
    assert len(checkpoints) == 2
    checkpoints[-1].unlink()  # as if stopped after the first epoch
    assert train(store, tmp_path / "run", device="cpu", progress=False).finished
    ours, theirs = (load_checkpoint(list_checkpoints(run)[-1]) for run in (tmp_path / "run", trained))
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours.tensors[name], tensor) for name, tensor in theirs.tensors.items())


def test_a_local_first_layer_has_no_kernels_to_show(store: Path, tmp_path: Path) -> None:
    conv1 = Conv(maps=2, kernel=5, stride=4, padding=0, shared=False)
    net = replace(local_net(), conv1=conv1, conv3=None, conv4=None, normalise=None)
    recipe = Recipe(net=net, store_size=32, batch_size=24, epochs=1)
    train(store, tmp_path / "run", recipe, device="cpu", progress=False)
    assert report.first_layer_kernels(load_best(tmp_path / "run")) is None
    assert "GPU 1" not in report.report(tmp_path / "run", store, progress=False).read_text(encoding="utf-8")
