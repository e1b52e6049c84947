"""The update rule of section 6, and which parameters have which rate and decay."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from alexnet.kernels.update import ParameterUpdate, update, update_coefficients
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.schedule import Rates


class SGD(torch.optim.Optimizer):
    """Stochastic gradient descent with the rate inside the velocity (section 6).

    v := momentum * v - decay * rate * w - rate * gradient
    w := w + v

    torch.optim.SGD multiplies the whole velocity by the current rate instead, so that there a fall of the rate shrinks
    the steps already gathered; here it does not. A group whose rate is 0 is frozen: neither v nor w moves.

    The groups' rates are read from the device's memory. `step` writes them there, but not while a CUDA graph captures
    it: `set_rates` (or `write_rates`) must then be called before, and again on the same stream before a replay at
    other rates.

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
        self._forget_rates()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget_rates()

    def _forget_rates(self) -> None:
        self._rates: dict[torch.device, Tensor] = {}  # (groups, 3) float64 on each device
        self._rows: dict[torch.device, tuple[Tensor, ...]] = {}  # views of its rows
        self._written: list[list[float]] = []

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None, "the rule needs no closure"
        capturing = torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
        if not capturing:
            self.write_rates()
        parts = []
        for number, group in enumerate(self.param_groups):
            for weight in group["params"]:
                if weight.grad is not None:
                    assert "velocity" in self.state[weight] or not capturing, "call set_rates before capturing a graph"
                    velocity, rates = self.velocity(weight), self._rows[weight.device][number]
                    parts.append(ParameterUpdate(weight, velocity, weight.grad, rates))
        update(parts)

    def write_rates(self) -> None:
        """Write the groups' rates to the devices' memory, where they have changed; make velocities that are missing."""
        wanted = [update_coefficients(group["rate"], group["momentum"], group["decay"]) for group in self.param_groups]
        weights = [weight for group in self.param_groups for weight in group["params"]]
        devices = {weight.device for weight in weights}
        if wanted == self._written and devices == self._rates.keys():
            return
        for weight in weights:
            self.velocity(weight)
        rows = torch.tensor(wanted, dtype=torch.float64).reshape(-1, 3)
        for device in devices:
            old = self._rates.get(device)
            if old is None or old.shape != rows.shape:
                self._rates[device] = old = torch.empty_like(rows, device=device)
                self._rows[device] = old.unbind()
            # Pinned anew each time: a copy still under way keeps what it reads, and the loop need not wait for it.
            old.copy_(rows.pin_memory() if device.type == "cuda" else rows, non_blocking=True)
        self._written = wanted

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
    """Give every group of `groups` its rate, in the device's memory too, so that a captured step takes it up."""
    for group in optimiser.param_groups:
        group["rate"] = getattr(now, group["kind"])[group["layer"]]
    optimiser.write_rates()
