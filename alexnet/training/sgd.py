"""The update rule, and the learning rate and weight decay of each parameter (section 6)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from alexnet.kernels.update import ParameterUpdate, update, update_coefficients
from alexnet.models.alexnet import AlexNet
from alexnet.models.bfloat16_copy import Bfloat16Copy
from alexnet.recipe import Recipe
from alexnet.training.schedule import LearningRates


class SGD(torch.optim.Optimizer):
    """Stochastic gradient descent with the learning rate inside the velocity (section 6).

    v := momentum * v - decay * rate * w - rate * gradient
    w := w + v

    torch.optim.SGD multiplies the whole velocity by the current rate instead: there a lower rate also shrinks the steps
    that the velocity has accumulated, here it does not. A group of rate 0 is frozen: neither v nor w changes.

    The rates are read from the device's memory. `step` writes them there, but not while a CUDA graph captures it:
    `set_learning_rates` (or `write_rates`) must be called before the capture, and again, on the same stream, before a
    replay at other rates.

    Args:
        params: Parameters, or parameter groups with their own "rate" and "decay".
        rate: Learning rate, the paper's epsilon.
        momentum: Factor on the velocity.
        decay: Weight decay.
    """

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], *, rate: float, momentum: float, decay: float
    ) -> None:
        super().__init__(params, {"rate": rate, "momentum": momentum, "decay": decay})
        self._reset_rates()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._reset_rates()

    def keep_copy(self, weight: Tensor) -> Bfloat16Copy:
        """Return a bfloat16 copy of a weight, which each step writes together with the weight."""
        self._copies[weight] = Bfloat16Copy(weight)
        return self._copies[weight]

    def _reset_rates(self) -> None:
        self._copies: dict[Tensor, Bfloat16Copy] = {}
        self._rates: dict[torch.device, Tensor] = {}  # (groups, 3) float64 on each device
        self._rows: dict[torch.device, tuple[Tensor, ...]] = {}  # views of its rows
        self._written: list[list[float]] = []

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "the rule needs no closure"
        capturing = torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
        if not capturing:
            self.write_rates()
        updates, copies = [], []
        for number, group in enumerate(self.param_groups):
            for weight in group["params"]:
                if weight.grad is not None:
                    ready = "velocity" in self.state[weight] or not capturing
                    assert ready, "call set_learning_rates before capturing a graph"
                    velocity, rates = self.velocity(weight), self._rows[weight.device][number]
                    copy = self._copies.get(weight)
                    copies += [(copy, weight)] if copy else []
                    bfloat16 = copy.values if copy else None
                    updates.append(ParameterUpdate(weight, velocity, weight.grad, rates, bfloat16))
        update(updates)
        for copy, weight in copies:
            copy.mark_written(weight)

    def write_rates(self) -> None:
        """Write the groups' rates to the devices' memory if they have changed, and create missing velocities."""
        coefficients = [
            update_coefficients(group["rate"], group["momentum"], group["decay"]) for group in self.param_groups
        ]
        weights = [weight for group in self.param_groups for weight in group["params"]]
        devices = {weight.device for weight in weights}
        if coefficients == self._written and devices == self._rates.keys():
            return
        for weight in weights:
            self.velocity(weight)
        rows = torch.tensor(coefficients, dtype=torch.float64).reshape(-1, 3)
        for device in devices:
            old = self._rates.get(device)
            if old is None or old.shape != rows.shape:
                self._rates[device] = old = torch.empty_like(rows, device=device)
                self._rows[device] = old.unbind()
            # Pinned anew each time: a copy that is still running keeps its source, and the loop need not wait for it.
            old.copy_(rows.pin_memory() if device.type == "cuda" else rows, non_blocking=True)
        self._written = coefficients

    def velocity(self, weight: Tensor) -> Tensor:
        """Return the velocity of a parameter, of the same shape; zeros at first."""
        state = self.state[weight]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        velocity: Tensor = state["velocity"]
        return velocity


def parameter_groups(net: AlexNet, recipe: Recipe) -> list[dict[str, Any]]:
    """Return parameter groups for `SGD`: weights with the layer's decay, biases with none (6); no frozen layers."""
    layers = [(name, layer) for name, layer in net.layers().items() if name not in recipe.frozen]
    decays = recipe.decays
    weights = [
        {"params": [layer.weight], "layer": name, "kind": "weights", "decay": decays.get(name, recipe.decay)}
        for name, layer in layers
    ]
    biases = [{"params": [layer.bias], "layer": name, "kind": "biases", "decay": 0.0} for name, layer in layers]
    return weights + biases


def set_learning_rates(optimiser: SGD, rates: LearningRates) -> None:
    """Set the rate of every group of `parameter_groups`, also in the device's memory, for a captured step to read."""
    for group in optimiser.param_groups:
        group["rate"] = getattr(rates, group["kind"])[group["layer"]]
    optimiser.write_rates()
