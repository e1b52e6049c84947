"""Train a toy net for many steps, and check that memory, open files and the time of a step do not grow.

    python benchmarks/soak.py [--steps 1000000] [--json FILE]

The net has one layer of four maps and the pictures are of 12 x 12 pixels, so a step takes a millisecond or two: a
million steps take about half an hour on a quiet machine. An epoch has 500 steps; after each the net is validated and a
checkpoint is written, as in any training.

The second tenth of the samples is compared with the last one. Memory is what the process has allocated (RssAnon), and
the time of a step that of the processor, which other programs hardly change.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from common.environment import environment_info
from common.output import markdown_table, write_json
from synthetic.stores import write_store

from alexnet.architecture import Conv, Net
from alexnet.recipe import Recipe
from alexnet.training.sgd import SGD
from alexnet.training.train import train

BATCH, EPOCH_STEPS = 4, 500
_WITHOUT_OTHER_LAYERS = dict.fromkeys(("conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "normalise"))
NET = Net(image_size=12, towers=1, conv1=Conv(maps=4), start="he", pixel_scale=1 / 64, **_WITHOUT_OTHER_LAYERS)
MAX_GROWTH = {"memory, MB": 1.03, "open files": 1.0, "time of a step, ms": 1.10}  # last tenth / second tenth


class Sample(NamedTuple):
    """The state of the process after some steps."""

    step: int
    memory: float
    files: int
    milliseconds: float


class Sampler:
    """Wraps the optimiser's step, and takes a sample every few steps.

    Args:
        every: Steps between two samples; whole epochs, so that each has the same share of validation.
    """

    def __init__(self, every: int) -> None:
        self.samples: list[Sample] = []
        self._every, self._step, self._time = every, 0, time.process_time()
        self._original = SGD.step

    def install(self) -> None:
        """Replace the optimiser's step."""
        original, sampler = self._original, self

        def step(optimiser: SGD) -> None:
            original(optimiser)
            sampler.count()

        SGD.step = step  # type: ignore[assignment, method-assign]

    def count(self) -> None:
        """Count a step, and take a sample if it is time."""
        self._step += 1
        if self._step % self._every:
            return
        now = time.process_time()
        milliseconds = 1000 * (now - self._time) / self._every
        self._time = now
        files = sum(1 for _ in Path("/proc/self/fd").iterdir())
        self.samples.append(Sample(self._step, _anonymous_memory(), files, milliseconds))


def _anonymous_memory() -> float:
    """Return the memory that the process has allocated, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def compare(samples: list[Sample]) -> list[tuple[str, float, float, float, bool]]:
    """Return for each quantity its median in the second tenth, in the last, the ratio, and whether it is small enough.

    Args:
        samples: At least ten.
    """
    tenth = len(samples) // 10
    rows = []
    for position, name in enumerate(MAX_GROWTH, start=1):
        early, late = (
            statistics.median(float(sample[position]) for sample in part)
            for part in (samples[tenth : 2 * tenth], samples[-tenth:])
        )
        rows.append((name, early, late, late / early, late / early <= MAX_GROWTH[name]))
    return rows


def main() -> int:
    """Train, print the comparison, and return 1 if something has grown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    epochs = -(-options.steps // EPOCH_STEPS)
    if epochs < 20:
        parser.error(f"--steps must be at least {20 * EPOCH_STEPS}; got {options.steps}")
    torch.set_num_threads(1)
    sampler = Sampler(EPOCH_STEPS * max(1, epochs // 1000))
    sampler.install()
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(Path(folder) / "store", 14, 3, train=BATCH * EPOCH_STEPS, val=30)
        recipe = Recipe(net=NET, store_size=14, batch_size=BATCH, schedule="changes", epochs=epochs, learning_rate=1e-4)
        outcome = train(store, Path(folder) / "run", recipe, progress=False)
        metrics_bytes = (Path(folder) / "run" / "metrics.jsonl").stat().st_size
    rows = compare(sampler.samples)
    print(f"{outcome.step:,} steps in {outcome.seconds:,.0f} s; metrics.jsonl has {metrics_bytes / 1e6:.1f} MB\n")
    table = [
        (name, f"{early:.2f}", f"{late:.2f}", f"{ratio:.3f}", MAX_GROWTH[name]) for name, early, late, ratio, _ in rows
    ]
    print(markdown_table(table, ("what", "second tenth", "last tenth", "ratio", "at most")))
    results = {"environment": environment_info(), "steps": outcome.step, "rows": rows, "samples": sampler.samples}
    write_json(options.json, results)
    return 0 if all(is_flat for *_, is_flat in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
