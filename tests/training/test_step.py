"""The training step: the update rule on the loss's gradient, micro-batches, and on a GPU the captured graph."""

from dataclasses import replace

import pytest
import torch
from conftest import small_net
from torch.nn import functional as F

from alexnet.models.alexnet import AlexNet
from alexnet.models.layers import FullyConnected
from alexnet.recipe import Recipe
from alexnet.training.schedule import LearningRates
from alexnet.training.sgd import SGD, parameter_groups, set_learning_rates
from alexnet.training.step import EAGER_STEPS, Step

BATCH = 4  # small, as Triton's interpreter is slow on simulated GPUs
NET = replace(small_net(), fc6=replace(small_net().fc6, dropout=0.0), fc7=replace(small_net().fc7, dropout=0.0))  # type: ignore[type-var]
RECIPE = Recipe(net=NET, store_size=32, batch_size=BATCH, label_smoothing=0.1, precision="float32")


def make_step(recipe: Recipe, device: str, *, graph: bool = True) -> tuple[AlexNet, SGD, Step]:
    torch.manual_seed(0)
    net = AlexNet(3, recipe.net).to_channels_last(torch.device(device)).train()
    optimiser = SGD(parameter_groups(net, recipe), rate=0.01, momentum=0.9, decay=0.0005)
    return net, optimiser, Step(net, optimiser, recipe, graph=graph)


def batches(device: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return eight batches, of which the fifth is short."""
    generator = torch.Generator().manual_seed(1)
    sizes = [BATCH] * 4 + [3] + [BATCH] * 3
    made = [
        (50 * torch.randn(n, 3, 24, 24, generator=generator), torch.randint(3, (n,), generator=generator))
        for n in sizes
    ]
    return [(x.to(device, memory_format=torch.channels_last), y.to(device)) for x, y in made]


def rates_of(net: AlexNet, number: int) -> LearningRates:
    """Return rates that fall; conv1 is frozen in the sixth and the seventh step."""
    names = net.layers()
    weights = dict.fromkeys(names, 0.01 / (1 + number // 3)) | ({"conv1": 0.0} if number in (5, 6) else {})
    return LearningRates(weights, weights)


def test_a_step_is_the_loss_its_gradient_and_the_rule() -> None:
    net, optimiser, step = make_step(RECIPE, "cpu")
    plain, rule, _ = make_step(RECIPE, "cpu")
    for number, (images, labels) in enumerate(batches("cpu")):
        for model, its_optimiser in ((net, optimiser), (plain, rule)):
            set_learning_rates(its_optimiser, rates_of(model, number))
        loss, wrong = step(images, labels)
        logits = plain(images)
        expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
        rule.zero_grad()
        expected.backward()
        rule.step()
        assert loss.item() == expected.item()
        assert int(wrong) == int((logits.argmax(1) != labels).sum())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_micro_batches_make_the_same_step_to_rounding(micro_batch: int) -> None:
    net, _, step = make_step(RECIPE, "cpu")
    other, its_optimiser, _ = make_step(RECIPE, "cpu")
    micro_step = Step(other, its_optimiser, RECIPE, micro_batch=micro_batch)
    for images, labels in batches("cpu"):
        (loss, errors), (micro_loss, micro_errors) = step(images, labels), micro_step(images, labels)
        torch.testing.assert_close(micro_loss, loss)
        assert int(micro_errors) == int(errors)
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_bfloat16_copies_of_the_weights_change_no_bit() -> None:
    recipe = replace(RECIPE, net=small_net(), precision="bfloat16")
    (net, optimiser, step), (plain, rule, plain_step) = make_step(recipe, "cpu"), make_step(recipe, "cpu")
    copied = [layer for layer in plain.layers().values() if isinstance(layer, FullyConnected)]
    assert len(copied) == 3
    for layer in copied:  # as before there were copies: autocast converts the weights, and gradients to float32
        layer.bfloat16_copy, layer.weight.grad_dtype = None, torch.float32
    rule._reset_rates()
    for number, (images, labels) in enumerate(batches("cpu")):
        if number == 3:  # something else changes the weights
            for model in (net, plain):
                with torch.no_grad():
                    model.hidden["fc6"][0].weight.mul_(0.5)  # type: ignore[index,operator,union-attr]
        torch.manual_seed(number)
        set_learning_rates(optimiser, rates_of(net, number))
        loss, _ = step(images, labels)
        torch.manual_seed(number)
        set_learning_rates(rule, rates_of(plain, number))
        assert loss.item() == plain_step(images, labels)[0].item()
        for a, b in zip(net.parameters(), plain.parameters(), strict=True):
            assert torch.equal(a, b)
            assert a.grad is not None
            assert b.grad is not None
            assert torch.equal(a.grad.float(), b.grad)
    for layer in net.layers().values():
        if isinstance(layer, FullyConnected):
            assert layer.weight.grad is not None
            assert layer.weight.grad.dtype == torch.bfloat16
            assert layer.bfloat16_copy is not None
            assert torch.equal(layer.bfloat16_copy.values, layer.weight.bfloat16())


@pytest.mark.parametrize(("precision", "micro_batch"), [("float32", 4), ("bfloat16", 2)])
def test_without_bfloat16_or_with_micro_batches_there_are_no_copies(precision: str, micro_batch: int) -> None:
    recipe = replace(RECIPE, precision=precision)  # type: ignore[arg-type]
    net, optimiser, _ = make_step(replace(recipe, precision="float32"), "cpu")
    Step(net, optimiser, recipe, micro_batch=micro_batch)(*batches("cpu")[0])
    assert {p.grad.dtype for p in net.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_replayed_step_is_the_same_as_an_eager_one(precision: str) -> None:
    recipe = replace(RECIPE, precision=precision)  # type: ignore[arg-type]
    results = []
    for graph in (True, False):
        net, optimiser, step = make_step(recipe, "cuda", graph=graph)
        step_losses = []
        for number, (images, labels) in enumerate(batches("cuda")):
            set_learning_rates(optimiser, rates_of(net, number))
            step_losses.append(step(images, labels)[0])
        assert (step._graph is not None) == graph
        results.append((torch.stack(step_losses), net))
    (losses, net), (eager_losses, eager_net) = results
    assert torch.allclose(losses, eager_losses, rtol=1e-3)
    for a, b in zip(net.parameters(), eager_net.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-2, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_dropout_differs_from_replay_to_replay() -> None:
    _, optimiser, step = make_step(replace(RECIPE, net=small_net()), "cuda")
    images, labels = batches("cuda")[0]
    for group in optimiser.param_groups:
        group["rate"] = 0.0  # the net stands still: only what is dropped differs
    optimiser.write_rates()
    losses = [float(step(images, labels)[0]) for _ in range(EAGER_STEPS + 2)]
    assert len(set(losses[EAGER_STEPS:])) > 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_pictures_of_another_size_is_captured_anew() -> None:
    results = []
    for graph in (True, False):
        net, optimiser, step = make_step(RECIPE, "cuda", graph=graph)
        set_learning_rates(optimiser, rates_of(net, 0))
        images, labels = batches("cuda")[0]
        for side in (20, 24):
            step_losses = [step(images[:, :, :side, :side], labels)[0] for _ in range(EAGER_STEPS + 2)]
            assert step._graph is None or step._images.shape[-1] == side
        results.append(torch.stack(step_losses))
        assert (step._graph is not None) == graph
    assert torch.allclose(*results, rtol=1e-2)
