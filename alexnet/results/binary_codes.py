"""Short binary codes of activities, from an autoencoder trained on them (section 7.1)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from alexnet.checked import require
from alexnet.utils.device import has_bfloat16

HIDDEN = 512
STEPS, BATCH, RATE = 3000, 256, 1e-3


class Autoencoder(nn.Module):
    """Squeezes activities through a few units whose signs are a binary code, and makes them again from these signs.

    While training the gradient passes the sign as if it were the tanh before it.

    Args:
        width: Number of activities; 4096 for the paper's net.
        bits: Length of a code; a multiple of 8.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, bits: int) -> None:
        super().__init__()
        require(bits >= 8 and bits % 8 == 0, "bits", "a multiple of 8", bits)
        self.bits = bits
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))
        self.encoder = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, bits))
        self.decoder = nn.Sequential(nn.Linear(bits, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, width))

    def normalised(self, activities: Tensor) -> Tensor:
        """(N, width) activities, centred and of deviation about 1."""
        return (activities - self.mean) / self.scale

    def forward(self, activities: Tensor) -> Tensor:
        """(N, width) normalised activities -> (N, width), made again from the codes."""
        soft = self.encoder(activities).float().tanh()  # (N, bits); in 16 bits `hard` would not be -1 or 1
        hard = soft.sign() + soft - soft.detach()
        made: Tensor = self.decoder(hard)
        return made.float()

    @torch.no_grad()
    def codes(self, activities: np.ndarray) -> np.ndarray:
        """The codes of activities.

        Args:
            activities: (N, width) float.

        Returns:
            (N, bits / 8) uint8.
        """
        signs = self.encoder(self.normalised(torch.tensor(activities, dtype=torch.float32))) > 0
        return np.packbits(signs.numpy(), axis=1)


@dataclass(frozen=True)
class Fit:
    """How well the codes tell the activities: the share of their variance that comes back, on those trained on."""

    explained: float


def train_autoencoder(
    activities: np.ndarray, bits: int, *, seed: int = 0, steps: int | None = None
) -> tuple[Autoencoder, Fit]:
    """An autoencoder for activities, trained by Adam on batches drawn from them, in bfloat16 where the CPU has it.

    Args:
        activities: (N, width) float, in memory or mapped.
        bits: Length of a code.
        seed: Of its start values and of the batches.
        steps: Batches to learn from; STEPS by default.

    Raises:
        ValueError: Bits that are no multiple of 8, or fewer than two activities.
    """
    require(len(activities) >= 2, "activities", "of at least two pictures", len(activities))
    steps = STEPS if steps is None else steps
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Autoencoder(activities.shape[1], bits)
    sample = torch.from_numpy(next(_batches(activities, generator, 4096)))
    net.mean.copy_(sample.mean(0))
    net.scale.copy_((sample - net.mean).square().mean().sqrt().clamp_min(1e-12))
    fast = has_bfloat16(torch.device("cpu"))
    optimiser = torch.optim.Adam(net.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _, batch in zip(range(steps), _batches(activities, generator, BATCH), strict=False):
        wanted = net.normalised(torch.from_numpy(batch))
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            loss = (net(wanted) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        wanted = net.normalised(sample)
        left = (net(wanted) - wanted).square().mean() / wanted.square().mean().clamp_min(1e-12)
    return net.eval(), Fit(1 - float(left))


def _batches(activities: np.ndarray, generator: torch.Generator, size: int) -> Iterator[np.ndarray]:
    """Batches drawn without end, as float32; sorted, so that a mapped file is read in order."""
    while True:
        places = torch.randint(len(activities), (min(size, len(activities)),), generator=generator)
        yield np.asarray(activities[places.sort().values.numpy()], np.float32)
