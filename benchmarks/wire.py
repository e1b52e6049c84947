"""What goes over the wire in a training step: as computed on paper, and as a network interface counted it.

    python benchmarks/wire.py [--recipe alexnet-2012-paper] [--batch 16] [--classes 1000] [--steps 4]
                              [--schemes towers data hybrid] [--json FILE]

Needs Linux, root and the programs `ip` and `unshare`. Two processes train in a network of their own, in which nobody
else talks; its only interface is the loopback one, and what that has sent is read at the end. Two trainings that differ
by so many steps, and in nothing else, make what they differ by the bytes of these steps: start, evaluation and end fall
out. Computed are the bytes of both processes (`alexnet.distributed.cost_model`, docs/scaling.md); what is sent beyond
them are headers, acknowledgements, and the few numbers in which the processes agree on losses and on being alive:
where steps are small or the machine is busy these are a large share.
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
from environment import activity_bytes, environment_info
from output import markdown_table, write_json
from synthetic_stores import write_store

from alexnet.distributed.cost_model import SCHEMES, traffic
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named

FEW = 2  # steps of the shorter training
# The counters are asked for in the network itself: /sys shows those of the network in which it was mounted.
INSIDE = 'ip link set lo up && "$@" >&2 && ip -s -j link show lo'


def sent(command: list[str]) -> int:
    """Bytes that the processes of a command sent to each other, in a network of their own."""
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", INSIDE, "sh", *command],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stderr[-3000:]}")
    (interface,) = json.loads(done.stdout)
    return int(interface["stats64"]["tx"]["bytes"])


def step_bytes(folder: Path, name: str, recipe: Recipe, scheme: str, classes: int, steps: int) -> float:
    """Bytes that two processes send in a step, all counted, from two trainings of one epoch."""
    batch, counted = recipe.batch_size, []
    for number in (FEW, FEW + steps):
        store, run = folder / f"store-{number}", folder / f"{scheme}-{number}"
        if not store.exists():
            write_store(store, recipe.store_size, classes, train=batch * number, val=batch)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        train = ["-m", "alexnet", "train", str(store), str(run), "--recipe", name, "--device", "cpu"]
        sets = (f"batch_size={batch}", "epochs=1", "learning_rate=1e-6", "schedule=changes", "changes=[]", "warmup=0")
        settings = [word for setting in sets for word in ("--set", setting)]
        counted.append(sent([*torchrun, *train, *settings, "--parallel", scheme]))
        shutil.rmtree(run)
    return (counted[1] - counted[0]) / steps


def main() -> int:
    """Measure each scheme, and print it beside what is computed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recipe", default="alexnet-2012-paper")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=4, help="that the longer training has more")
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=list(SCHEMES))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if sys.platform != "linux" or os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("unshare")):
        print("wire: needs Linux, root, and the programs ip (iproute2) and unshare (util-linux)", file=sys.stderr)
        return 2
    recipe = recipe_named(given.recipe).with_settings([f"batch_size={given.batch}"])
    size = activity_bytes(torch.device("cpu"), recipe)
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for scheme in given.schemes:
            layers = traffic(recipe.net, given.classes, given.batch, scheme, 2, activity_bytes=size)
            computed = 2 * sum(layer.total for layer in layers)
            measured = step_bytes(Path(folder), given.recipe, recipe, scheme, given.classes, given.steps)
            found[scheme] = {"computed": computed, "measured": measured}
            rows.append((scheme, f"{computed:,}", f"{measured:,.0f}", f"{measured / computed:.4f}"))
    print(
        f"{environment_info()}\n"
        f"{given.recipe}, {given.classes} classes, batch {given.batch}, activities of {size} bytes each"
    )
    print("\nBytes that two processes send in a step\n")
    print(markdown_table(rows, ("scheme", "computed", "counted by the interface", "counted / computed")))
    write_json(given.json, {"machine": environment_info(), "recipe": given.recipe, "batch": given.batch,
                            "activity_bytes": size, "bytes": found})  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
