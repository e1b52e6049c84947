"""The update rule of section 6, and which parameters have which rate and decay."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from alexnet.learning.schedule import Rates
from alexnet.nets.alexnet import AlexNet
from alexnet.recipe import Recipe


class SGD(torch.optim.Optimizer):
    """Stochastic gradient descent with the rate inside the velocity (section 6).

    v := momentum * v - decay * rate * w - rate * gradient
    w := w + v

    torch.optim.SGD multiplies the whole velocity by the current rate instead, so that there a fall of the rate shrinks
    the steps already gathered; here it does not. A group whose rate is 0 is frozen: neither v nor w moves.

    Args:
        params: Parameters, or groups of them that give their own "rate" and "decay".
        rate: Learning rate, the paper's epsilon.
        momentum: Factor on the velocity.
        decay: Weight decay.
    """

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], *, rate: float, momentum: float, decay: float
    ) -> None:
        super().__init__(params, {"rate": rate, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None, "the rule needs no closure"
        for group in self.param_groups:
            if group["rate"] == 0:
                continue
            weights = [w for w in group["params"] if w.grad is not None]
            gradients = [w.grad for w in weights]
            velocities = [self.velocity(w) for w in weights]
            if not weights:
                continue
            torch._foreach_mul_(velocities, group["momentum"])
            if group["decay"]:
                torch._foreach_add_(velocities, weights, alpha=-group["decay"] * group["rate"])
            torch._foreach_add_(velocities, gradients, alpha=-group["rate"])
            torch._foreach_add_(weights, velocities)

    def velocity(self, weight: Tensor) -> Tensor:
        """The velocity of a parameter, zeros at first; same shape."""
        state = self.state[weight]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        velocity: Tensor = state["velocity"]
        return velocity


def groups(net: AlexNet, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups for `SGD`: each layer's weights with its decay, each layer's biases with none (section 6)."""
    named = [(name, layer) for name, layer in net.layers().items()]
    weights = [
        {"params": [layer.weight], "layer": name, "kind": "weights", "decay": recipe.decays.get(name, recipe.decay)}
        for name, layer in named
    ]
    return weights + [{"params": [la.bias], "layer": name, "kind": "biases", "decay": 0.0} for name, la in named]


def set_rates(optimiser: SGD, now: Rates) -> None:
    """Give every group of `groups` its rate."""
    for group in optimiser.param_groups:
        group["rate"] = getattr(now, group["kind"])[group["layer"]]
