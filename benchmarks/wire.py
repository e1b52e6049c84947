"""The bytes of a training step on the network: as computed by the cost model, and as a network interface counts them.

    python benchmarks/wire.py [--recipe alexnet-2012-paper] [--batch 16] [--classes 1000] [--steps 4]
                              [--schemes towers data hybrid] [--json FILE]

Needs Linux, root and the programs `ip` and `unshare`. Two processes train in a network namespace of their own. Its only
interface is the loopback one, whose counter of sent bytes is read at the end. Two trainings that differ only by some
steps differ by the bytes of these steps: the start, the evaluation and the end cancel out. The computed bytes are those
of both processes (`alexnet.distributed.cost_model`, docs/scaling.md). The other bytes are headers, acknowledgements,
heartbeats and the few numbers of the losses: their share is large where steps are small or the machine is busy.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common.environment import activity_bytes, environment_info
from common.output import markdown_table, write_json
from synthetic.stores import write_store

from alexnet.distributed.cost_model import SCHEMES, traffic
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named

FEW_STEPS = 2  # of the shorter training
# The counters are read with `ip` inside the namespace: /sys shows those of the namespace in which it was mounted.
SHELL_SCRIPT = 'ip link set lo up && "$@" >&2 && ip -s -j link show lo'


def count_sent_bytes(command: list[str]) -> int:
    """Run a command in a network namespace of its own; return the bytes that its processes sent."""
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", SHELL_SCRIPT, "sh", *command],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stderr[-3000:]}")
    (interface,) = json.loads(done.stdout)
    return int(interface["stats64"]["tx"]["bytes"])


def measure_step_bytes(folder: Path, name: str, recipe: Recipe, scheme: str, classes: int, steps: int) -> float:
    """Return the bytes that two processes send in a step, from two trainings of one epoch.

    Args:
        folder: A folder for stores and runs.
        name, recipe: The recipe's name, and the recipe with the batch size to train with.
        scheme: "data", "towers" or "hybrid".
        classes: The number of classes.
        steps: How many steps the longer training has more.
    """
    batch, sent = recipe.batch_size, []
    for count in (FEW_STEPS, FEW_STEPS + steps):
        store, run = folder / f"store-{count}", folder / f"{scheme}-{count}"
        if not store.exists():
            write_store(store, recipe.store_size, classes, train=batch * count, val=batch)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        train = ["-m", "alexnet", "train", str(store), str(run), "--recipe", name, "--device", "cpu"]
        settings = [
            f"batch_size={batch}", "epochs=1", "learning_rate=1e-6", "schedule=changes", "changes=[]", "warmup=0"
        ]  # fmt: skip
        options = [word for setting in settings for word in ("--set", setting)]
        sent.append(count_sent_bytes([*torchrun, *train, *options, "--parallel", scheme]))
        shutil.rmtree(run)
    return (sent[1] - sent[0]) / steps


def main() -> int:
    """Measure each scheme, and print the bytes beside the computed ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recipe", default="alexnet-2012-paper")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=4, help="how many steps the longer training has more")
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=list(SCHEMES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if sys.platform != "linux" or os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("unshare")):
        print("wire: needs Linux, root, and the programs ip (iproute2) and unshare (util-linux)", file=sys.stderr)
        return 2
    recipe = recipe_named(options.recipe).with_settings([f"batch_size={options.batch}"])
    size = activity_bytes(torch.device("cpu"), recipe)
    rows, results = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for scheme in options.schemes:
            layers = traffic(recipe.net, options.classes, options.batch, scheme, 2, activity_bytes=size)
            computed = 2 * sum(layer.total for layer in layers)
            measured = measure_step_bytes(Path(folder), options.recipe, recipe, scheme, options.classes, options.steps)
            results[scheme] = {"computed": computed, "measured": measured}
            rows.append((scheme, f"{computed:,}", f"{measured:,.0f}", f"{measured / computed:.4f}"))
    print(
        f"{environment_info()}\n"
        f"{options.recipe}, {options.classes} classes, batch {options.batch}, {size} bytes an activation"
    )
    print("\nBytes that two processes send in a step\n")
    print(markdown_table(rows, ("scheme", "computed", "counted", "counted / computed")))
    write_json(options.json, {"machine": environment_info(), "recipe": options.recipe, "batch": options.batch,
                              "activity_bytes": size, "bytes": results})  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
