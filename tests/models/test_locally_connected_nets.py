"""Nets with locally connected layers: their shapes, their training and their test with nine views."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.architecture import Conv, Net, ResponseNorm
from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.models.weight_files import list_checkpoints
from alexnet.recipe import Recipe
from alexnet.results import report
from alexnet.results.classifier import Classifier
from alexnet.results.evaluate import evaluate
from alexnet.training.checkpoint import load_best, load_checkpoint
from alexnet.training.inference import default_views, predict_pictures
from alexnet.training.sgd import parameter_groups
from alexnet.training.train import train
from alexnet.utils.intervals import format_error_rate

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.gpu]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


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


def test_local_layers_have_the_sides_and_names_that_net_describes() -> None:
    net = AlexNet(3, local_net()).to_channels_last(DEVICE)
    assert net.net.sides() == {"conv1": (11, 5), "conv3": (5, 5), "conv4": (3, 3)}  # 1 + ceil((24 - 5) / 2) = 11
    assert tuple(net.layers()) == ("conv1", "conv3", "conv4", "fc8")
    assert tuple(net.layers()["conv3"].weight.shape) == (5, 5, 8, 3, 3, 8)
    assert tuple(net.layers()["conv4"].weight.shape) == (3, 3, 4, 2, 2, 4)  # four of the eight maps: those of a tower
    assert net.convs["conv4"](torch.zeros(2, 8, 5, 5, device=DEVICE)).shape == (2, 4, 3, 3)
    assert list(net.state_dict())[2:6] == [f"convs.conv{i}.0.{kind}" for i in (3, 4) for kind in ("weight", "bias")]


def test_a_net_with_local_layers_can_be_exported_and_compiled() -> None:
    torch.manual_seed(0)
    net = AlexNet(3, local_net()).eval()
    x, more = torch.randn(2, 3, 24, 24), torch.randn(5, 3, 24, 24)
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.testing.assert_close(exported.module()(more), net(more))
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    weights = list(net.parameters())
    gradients = torch.autograd.grad(compiled(x).square().sum(), weights)
    expected = torch.autograd.grad(net(x).square().sum(), weights)
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference)


@pytest.fixture(scope="module")
def local_recipe() -> Recipe:
    """Two epochs of a small net with local layers, trained and tested as the nets "13%" and "11%"; in float32."""
    recipe = Recipe(net=local_net(), store_size=32, batch_size=10, learning_rate=0.01, bias_rate=0.02, views=9)
    recipe = replace(recipe, precision="float32")  # on every machine, as the computations that it is compared with
    return replace(recipe, decays={"conv3": 0.004}, colour_deviation=0.0, schedule="cosine", epochs=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, store: Path, local_recipe: Recipe) -> Path:
    """A finished run of `local_recipe`."""
    run = tmp_path_factory.mktemp("local") / "run"
    assert train(store, run, local_recipe, device="cpu", progress=False).finished
    return run


def test_evaluation_with_nine_views_is_the_mean_of_nine_softmax_outputs(trained: Path, store: Path) -> None:
    best, split = load_best(trained), Store(store).split("val")
    net, mean, expected = best.net(), best.statistics.mean[:, 4:28, 4:28], []
    for n in range(len(split)):
        outputs = []
        for top in (0, 4, 8):
            for left in (0, 4, 8):
                crop = split.image(n)[top : top + 24, left : left + 24].transpose(2, 0, 1).astype(np.float32)
                with torch.no_grad():
                    outputs.append(net(torch.from_numpy(crop - mean)[None]).softmax(1)[0].numpy())
        expected.append(np.mean(outputs, axis=0))
    assert default_views(best.recipe) == 9
    pictures = [split.image(n) for n in range(len(split))]
    computed = predict_pictures(best.net(), pictures, best.statistics.mean, best.recipe, 9)  # 14 pictures, then 6
    np.testing.assert_allclose(computed, expected, atol=1e-6)
    result = evaluate(trained, store, views=9)
    assert (result["views"], result["images"]) == (9, 20)
    assert result["top1_error"] == pytest.approx(np.mean(np.argmax(expected, 1) != split.labels))
    of_labels = np.array(expected)[np.arange(20), split.labels]
    assert result["log_prob"] == pytest.approx(-np.log(of_labels).mean(), rel=1e-5)
    page = report.report(trained, store, progress=False).read_text(encoding="utf-8")
    assert "nine views" in page
    assert f"{100 * result['top1_error']:.1f} % (" in page
    one = evaluate(trained, store, views=1)
    assert f"{format_error_rate(one['top1_error'], 20)} with one view" in page


def test_a_classifier_uses_nine_views_by_default(trained: Path, store: Path, tmp_path: Path) -> None:
    Image.fromarray(Store(store).split("val").image(0)).save(tmp_path / "picture.png")
    classifier = Classifier.load(trained, device="cpu")
    default = classifier.predict(tmp_path / "picture.png")
    assert default == classifier.predict(tmp_path / "picture.png", views=9)
    assert default != classifier.predict(tmp_path / "picture.png", views=10)
    assert default != classifier.predict(tmp_path / "picture.png", views=1)


def test_local_layers_learn_and_decay_by_name(trained: Path, local_recipe: Recipe) -> None:
    torch.manual_seed(local_recipe.seed)
    initial = AlexNet(3, local_recipe.net).layers()
    final = load_best(trained).net().layers()
    for name in ("conv3", "conv4"):
        for parameter in ("weight", "bias"):
            assert not torch.equal(getattr(initial[name], parameter), getattr(final[name], parameter)), name
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
    resumed, expected = (load_checkpoint(list_checkpoints(run)[-1]) for run in (tmp_path / "run", trained))
    assert resumed.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in expected.tensors.items())


def test_a_local_first_layer_has_no_kernels_to_show(store: Path, tmp_path: Path) -> None:
    conv1 = Conv(maps=2, kernel=5, stride=4, padding=0, shared=False)
    net = replace(local_net(), conv1=conv1, conv3=None, conv4=None, normalise=None)
    recipe = Recipe(net=net, store_size=32, batch_size=24, epochs=1)
    train(store, tmp_path / "run", recipe, device="cpu", progress=False)
    assert report.first_layer_kernels(load_best(tmp_path / "run")) is None
    assert "GPU 1" not in report.report(tmp_path / "run", store, progress=False).read_text(encoding="utf-8")
