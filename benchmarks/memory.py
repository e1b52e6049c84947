"""Peak memory of preparing and of training, for two numbers of pictures: neither may grow with it.

    python benchmarks/memory.py [--pictures 1300 2600] [--recipe photos] [--batch 16]

Pictures of 320 x 240 are drawn, prepared (raw) and trained on for one epoch, each in a process of its own. A tenth is
set aside, so with 1300 or more there is a whole batch of 128 to validate on. Read from /proc every 20 ms: "own" is the
largest anonymous memory (RssAnon), "mapped" the largest part of files mapped into the process (RssFile), which the
system takes back when others need it; a raw store is read through such a mapping.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def draw(folder: Path, count: int) -> None:
    """`count` JPEG files in four classes: smooth random fields, which JPEG packs about as well as photographs."""
    random = np.random.default_rng(0)
    for i in range(count):
        kind = folder / f"class{i % 4}"
        kind.mkdir(parents=True, exist_ok=True)
        field = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        field.resize((320, 240), Image.Resampling.BICUBIC).save(kind / f"{i:06d}.jpg", quality=90)


def peaks(command: list[str]) -> tuple[float, float]:
    """Runs a command; its largest own and mapped memory, in MB."""
    largest = {"RssAnon": 0, "RssFile": 0}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            except OSError:  # it ended in between
                break
            for line in status.splitlines():
                name, _, value = line.partition(":")
                if name in largest:
                    largest[name] = max(largest[name], int(value.split()[0]))
            time.sleep(0.02)
        _, err = process.communicate()
        if process.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{err}")
    return largest["RssAnon"] / 1024, largest["RssFile"] / 1024


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--pictures", type=int, nargs=2, default=(1300, 2600))
    options.add_argument("--recipe", default="photos")
    options.add_argument("--batch", type=int, default=16)
    given = options.parse_args()
    alexnet = [sys.executable, "-m", "alexnet"]
    sets = ["--set", "epochs=1", "--set", "warmup=0", "--set", f"batch_size={given.batch}"]
    print(f"{os.cpu_count()} cores; recipe {given.recipe}, batch {given.batch}")
    print(f"{'work':10} {'pictures':>9} {'own MB':>9} {'mapped MB':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for count in given.pictures:
            at = Path(folder) / str(count)
            draw(at / "pictures", count)
            work = {
                "prepare": [*alexnet, "prepare", str(at / "pictures"), str(at / "store")],
                "train": [*alexnet, "train", str(at / "store"), str(at / "run"), "--recipe", given.recipe, *sets],
            }
            for name, command in work.items():
                own, mapped = peaks(command)
                print(f"{name:10} {count:9d} {own:9.0f} {mapped:10.0f}", flush=True)


if __name__ == "__main__":
    main()
