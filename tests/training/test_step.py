"""One step as a whole: the rule on the loss's gradient; on a GPU the captured graph against the same steps by hand."""

from dataclasses import replace

import pytest
import torch
from conftest import small_net
from torch.nn import functional as F

from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.schedule import LearningRates
from alexnet.training.sgd import SGD, parameter_groups, set_learning_rates
from alexnet.training.step import Step

BATCH = 8
NET = replace(small_net(), fc6=replace(small_net().fc6, dropout=0.0), fc7=replace(small_net().fc7, dropout=0.0))  # type: ignore[type-var]
RECIPE = Recipe(net=NET, store_size=32, batch_size=BATCH, label_smoothing=0.1, precision="float32")


def ready(recipe: Recipe, device: str, *, graph: bool = True) -> tuple[AlexNet, SGD, Step]:
    torch.manual_seed(0)
    net = AlexNet(3, recipe.net).to_channels_last(torch.device(device)).train()
    optimiser = SGD(parameter_groups(net, recipe), rate=0.01, momentum=0.9, decay=0.0005)
    return net, optimiser, Step(net, optimiser, recipe, graph=graph)


def batches(device: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Nine batches, the fifth and the last of them short."""
    generator = torch.Generator().manual_seed(1)
    sizes = [BATCH] * 4 + [3] + [BATCH] * 3 + [5]
    made = [
        (50 * torch.randn(n, 3, 24, 24, generator=generator), torch.randint(3, (n,), generator=generator))
        for n in sizes
    ]
    return [(x.to(device, memory_format=torch.channels_last), y.to(device)) for x, y in made]


def rates_of(net: AlexNet, number: int) -> LearningRates:
    """Rates that fall, with conv1 frozen from the seventh step on."""
    names = net.layers()
    weights = dict.fromkeys(names, 0.01 / (1 + number // 3)) | ({"conv1": 0.0} if number >= 6 else {})
    return LearningRates(weights, weights)


def test_a_step_is_the_loss_its_gradient_and_the_rule() -> None:
    net, optimiser, step = ready(RECIPE, "cpu")
    plain, rule, _ = ready(RECIPE, "cpu")
    for number, (images, labels) in enumerate(batches("cpu")):
        for of, by in ((net, optimiser), (plain, rule)):
            set_learning_rates(by, rates_of(of, number))
        loss, wrong = step(images, labels)
        logits = plain(images)
        expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
        rule.zero_grad()
        expected.backward()
        rule.step()
        assert loss.item() == expected.item()
        assert int(wrong) == int((logits.argmax(1) != labels).sum())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters(), strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_replayed_step_is_the_step_made_one_by_one(precision: str) -> None:
    recipe = replace(RECIPE, precision=precision)  # type: ignore[arg-type]
    found = []
    for graph in (True, False):
        net, optimiser, step = ready(recipe, "cuda", graph=graph)
        losses = []
        for _ in range(2):
            for number, (images, labels) in enumerate(batches("cuda")):
                set_learning_rates(optimiser, rates_of(net, number))
                losses.append(step(images, labels)[0])
        assert (step._graph is not None) == graph
        found.append((torch.stack(losses), net))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-3)
    for a, b in zip(found[0][1].parameters(), found[1][1].parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-2, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_dropout_differs_from_replay_to_replay() -> None:
    _, optimiser, step = ready(replace(RECIPE, net=small_net()), "cuda")
    images, labels = batches("cuda")[0]
    for group in optimiser.param_groups:
        group["rate"] = 0.0  # the net stands still: only what is dropped differs
    optimiser.write_rates()
    losses = [float(step(images, labels)[0]) for _ in range(8)]
    assert len(set(losses[4:])) > 1
