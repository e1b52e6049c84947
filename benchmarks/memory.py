"""Peak memory of preparing and of training, for two numbers of pictures: it must not grow with that number.

    python benchmarks/memory.py [--pictures 1300 2600] [--recipe photos] [--batch 16]

Pictures of 320 x 240 are drawn, prepared (raw) and trained on for one epoch, each command in a process of its own. A
tenth is held out, so 1300 pictures or more give a full validation batch of 128. The process's memory is read from /proc
every 20 ms: "own" is its largest anonymous memory (RssAnon), "mapped" its largest memory of mapped files (RssFile),
such as a raw store, which the system can reclaim. Needs Linux. Takes two to four minutes on two cores.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from common.memory import peak_memory
from PIL import Image


def _draw_pictures(folder: Path, count: int) -> None:
    """Write JPEG files in four classes: smooth random pictures, which JPEG compresses about as well as photographs."""
    random = np.random.default_rng(0)
    for number in range(count):
        class_folder = folder / f"class{number % 4}"
        class_folder.mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        noise.resize((320, 240), Image.Resampling.BICUBIC).save(class_folder / f"{number:06d}.jpg", quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs=2, default=(1300, 2600), help="numbers of pictures")
    parser.add_argument("--recipe", default="photos", help="recipe to train by; default: %(default)s")
    parser.add_argument("--batch", type=int, default=16, help="pictures in a batch; default: %(default)s")
    options = parser.parse_args()
    alexnet = [sys.executable, "-m", "alexnet"]
    settings = ["--set", "epochs=1", "--set", "warmup=0", "--set", f"batch_size={options.batch}"]
    print(f"{os.cpu_count()} cores; recipe {options.recipe}, batch {options.batch}")
    print(f"{'work':10} {'pictures':>9} {'own MB':>9} {'mapped MB':>10}")
    with tempfile.TemporaryDirectory() as temporary:
        for count in options.pictures:
            folder = Path(temporary) / str(count)
            pictures, store, run = (str(folder / name) for name in ("pictures", "store", "run"))
            _draw_pictures(Path(pictures), count)
            commands = {
                "prepare": [*alexnet, "prepare", pictures, store],
                "train": [*alexnet, "train", store, run, "--recipe", options.recipe, *settings],
            }
            for name, command in commands.items():
                own, mapped = peak_memory(command)
                print(f"{name:10} {count:9d} {own:9.0f} {mapped:10.0f}", flush=True)


if __name__ == "__main__":
    main()
