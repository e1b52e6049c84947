"""Short binary codes of activities, from an autoencoder trained on them (section 7.1)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from alexnet.checked import require
from alexnet.utils.device import has_bfloat16
from alexnet.utils.progress import Progress

_HIDDEN_UNITS = 512
_MAX_BITS = 4096  # as many as the activities of the paper's net; the paper says "short binary codes"
STEPS, _BATCH_SIZE, _LEARNING_RATE = 3000, 256, 1e-3
_STATISTICS_SAMPLE = 4096  # activities that the mean and the scale are computed from


def check_bits(bits: int) -> None:
    """Check the length of a binary code."""
    require(8 <= bits <= _MAX_BITS and bits % 8 == 0, "bits", f"a multiple of 8 from 8 to {_MAX_BITS}", bits)


class Autoencoder(nn.Module):
    """An autoencoder for activities. The signs of its few middle units are the binary code.

    The decoder reads the signs. In the backward pass the gradient goes through the sign as if it were the tanh before
    it (straight-through).

    Args:
        width: The number of activities; 4096 for the paper's net.
        bits: The length of a code; a multiple of 8.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, bits: int) -> None:
        super().__init__()
        check_bits(bits)
        self.bits = bits
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))
        self.encoder = nn.Sequential(nn.Linear(width, _HIDDEN_UNITS), nn.ReLU(), nn.Linear(_HIDDEN_UNITS, bits))
        self.decoder = nn.Sequential(nn.Linear(bits, _HIDDEN_UNITS), nn.ReLU(), nn.Linear(_HIDDEN_UNITS, width))

    def normalise(self, activities: Tensor) -> Tensor:
        """Return the activities (N, width), centred and with a deviation of about 1."""
        return (activities - self.mean) / self.scale

    def forward(self, activities: Tensor) -> Tensor:
        """Encode and decode normalised activities: (N, width) -> (N, width)."""
        soft = self.encoder(activities).float().tanh()  # (N, bits); in 16 bits `hard` would not be -1 or 1
        hard = soft.sign() + soft - soft.detach()  # (N, bits)
        decoded: Tensor = self.decoder(hard)  # (N, width)
        return decoded.float()

    @torch.no_grad()
    def codes(self, activities: np.ndarray) -> np.ndarray:
        """Return the binary codes of activities.

        Args:
            activities: (N, width) float.

        Returns:
            (N, bits / 8) uint8.
        """
        signs = self.encoder(self.normalise(torch.tensor(activities, dtype=torch.float32))) > 0
        return np.packbits(signs.numpy(), axis=1)


@dataclass(frozen=True)
class Fit:
    """How well an autoencoder fits.

    Args:
        explained: The share of the activities' variance that the decoder reproduces, on the training activities.
    """

    explained: float


def train_autoencoder(
    activities: np.ndarray, bits: int, *, seed: int = 0, steps: int | None = None, progress: bool = False
) -> tuple[Autoencoder, Fit]:
    """Train an autoencoder on activities with Adam, in bfloat16 where the CPU has it.

    Args:
        activities: (N, width) float, in memory or memory-mapped.
        bits: The length of a code.
        seed: The seed of the start values and of the batches.
        steps: The number of batches; STEPS by default.
        progress: Whether to show progress on standard error.

    Raises:
        ValueError: `bits` is not a multiple of 8, or there are fewer than two activities.
    """
    require(len(activities) >= 2, "activities", "of at least two pictures", len(activities))
    steps = STEPS if steps is None else steps
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Autoencoder(activities.shape[1], bits)
    sample = torch.from_numpy(next(_random_batches(activities, generator, _STATISTICS_SAMPLE)))
    net.mean.copy_(sample.mean(0))
    net.scale.copy_((sample - net.mean).square().mean().sqrt().clamp_min(1e-12))
    fast = has_bfloat16(torch.device("cpu"))
    optimiser = torch.optim.Adam(net.parameters(), lr=_LEARNING_RATE, fused=True)  # one pass over the weights
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    with Progress(f"autoencoder of {bits} bits", steps, "steps", shown=progress, early_line=True) as bar:
        for _, batch in zip(range(steps), _random_batches(activities, generator, _BATCH_SIZE), strict=False):
            target = net.normalise(torch.from_numpy(batch))
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                loss = (net(target) - target).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            bar.update()
    with torch.no_grad():
        target = net.normalise(sample)
        unexplained = (net(target) - target).square().mean() / target.square().mean().clamp_min(1e-12)
    return net.eval(), Fit(1 - float(unexplained))


def _random_batches(activities: np.ndarray, generator: torch.Generator, size: int) -> Iterator[np.ndarray]:
    """Yield random batches (size, width) float32 without end."""
    while True:
        rows = torch.randint(len(activities), (min(size, len(activities)),), generator=generator)
        # Sorted, so that a memory-mapped file is read in order.
        yield np.asarray(activities[rows.sort().values.numpy()], np.float32)
