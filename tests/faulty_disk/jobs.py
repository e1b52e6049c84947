"""A process that runs commands whose file operations fail or kill, each in a child of its own (see faults.c).

It reads requests from standard input, a JSON object in each line, and answers each with one. It has imported and
compiled everything before it forks, so that a command takes a tenth of a second instead of several.
"""

import contextlib
import ctypes
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

import torch  # noqa: E402
from conftest import small_recipe, write_store  # noqa: E402

from alexnet import recipes  # noqa: E402
from alexnet.cli import main  # noqa: E402
from alexnet.demo.run import run_demo  # noqa: E402
from alexnet.results import binary_codes  # noqa: E402
from alexnet.training.train import train  # noqa: E402

FIVE_CLASSES = ("wren", "crow", "jay", "robin", "owl")  # as many as `submit` names for a picture
MODES = {"kill": -1, "tear": -2}  # others are names of errors


def toy_recipe() -> Any:
    """Return a recipe of two epochs of two steps."""
    import dataclasses

    return dataclasses.replace(small_recipe(), epochs=2, batch_size=8)


def commands(inputs: Path, work: Path) -> dict[str, list[str]]:
    """Return the commands that write files, by name; they write to `work` only."""
    run, store = str(inputs / "run"), str(inputs / "store")
    return {
        "prepare": ["prepare", str(inputs / "pictures"), str(work / "store"), "--size", "16", "--workers", "1"],
        "train": ["train", store, str(work / "run"), "--recipe", "toy", "--checkpoint-minutes", "0"],
        "index": ["index", str(work / "run"), store, "--bits", "16"],
        "import": ["import", str(inputs / "net.safetensors"), str(work / "imported")],
        "export": ["export", run, "--state", str(work / "net.safetensors"), "--hub", str(work / "hub"), "--force"],
        "programs": ["export", run, str(work / "net.onnx"), "--pt2", str(work / "net.pt2"), "--force"],
        "evaluate": [
            "evaluate", run, store, "--views", "1", "--force", "--save", str(work / "saved.safetensors"),
            "--per-class", str(work / "classes.csv"), "--predictions", str(work / "pictures.csv"),
        ],
        "predict": ["predict", run, str(inputs / "pictures"), "--csv"],
        "predict-jsonl": ["predict", run, str(inputs / "pictures"), "--jsonl"],
        "explain": ["predict", run, str(inputs / "one"), "--json", "--explain", str(work / "why"), "--views", "1"],
        "report": ["report", str(work / "run"), "--data", store],
        "figures": ["figures", run, "--data", store, "--folder", str(work / "figures"), "--force"],
        "look": ["look", store, "--folder", str(work / "look"), "--recipe", "toy", "--force"],
        "submit": [
            "submit", str(inputs / "run-of-five"), str(inputs / "test"), str(work / "submission.txt"),
            "--ids", str(inputs / "ids.txt"), "--force",
        ],
        "reproduce": [
            "reproduce", "figure3", "--data", store, "--folder", str(work / "reproduced"), "--recipe", "toy",
            "--seeds", "1",
        ],
        "demo": ["demo", str(work / "demo")],
        "check": ["check", str(inputs / "pictures"), "--recipe", "toy", "--html", str(work / "check.html"), "--force"],
    }  # fmt: skip


def make_inputs(inputs: Path, names: Sequence[str]) -> None:
    """Make what the commands read: pictures, a store, a run, an exported net; and compile the kernels.

    Args:
        inputs: The folder to write to.
        names: Commands that are run once, so that they need not import anything later.
    """
    from conftest import CLASSES, draw_pictures
    from PIL import Image

    for number, (picture, label) in enumerate(zip(*draw_pictures(15, 20), strict=True)):
        folder = inputs / "pictures" / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number}.png")
    (inputs / "one").mkdir()
    shutil.copy(inputs / "pictures" / CLASSES[0] / "0.png", inputs / "one")
    write_store(inputs / "store", train=16, val=6)
    store = write_store(inputs / "store-of-five", train=16, val=6, classes=FIVE_CLASSES)
    train(store, inputs / "run-of-five", toy_recipe(), progress=False)
    (inputs / "test").mkdir()
    for n in (1, 2):
        Image.new("RGB", (20, 20), (100 * n, 90, 80)).save(inputs / "test" / f"ILSVRC2012_test_{n:08}.JPEG")
    (inputs / "ids.txt").write_text("\n".join(FIVE_CLASSES))
    work = inputs / "warm"
    work.mkdir()
    for name in ("train", "prepare"):
        assert main(commands(inputs, work)[name]) == 0
    shutil.copytree(work / "run", inputs / "run")
    assert main(["export", str(inputs / "run"), "--state", str(inputs / "net.safetensors")]) == 0
    for name in set(names) - {"prepare", "train"}:
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(commands(inputs, work)[name]) == 0
    shutil.rmtree(work)


def run_command(request: dict[str, Any], faults: ctypes.CDLL) -> None:
    """Run a command in this child process, and end it; its output goes to files beside the working folder."""
    work = Path(request["work"])
    for number, name in ((1, "out"), (2, "err")):
        inside = name == "out" and request["command"].startswith("predict")  # its output is a file on the failing disk
        path = work / "guesses.csv" if inside else work.with_name(f"{work.name}.{name}")
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    how = request["how"]
    code = MODES[how] if how in MODES else getattr(__import__("errno"), how) if how else 0
    faults.faults_arm(f"{work}/".encode(), request["n"], code, int(request["lasts"]))
    status = main(commands(Path(request["inputs"]), work)[request["command"]])
    try:
        sys.stdout.flush()
    except OSError:
        status = status or 1
    work.with_name(f"{work.name}.count").write_text(str(faults.faults_count()))
    os._exit(status)


def serve() -> None:
    """Answer requests until standard input ends."""
    torch.set_num_threads(1)
    recipes.RECIPES["toy"] = toy_recipe
    binary_codes.STEPS = 20
    run_demo.__kwdefaults__.update(per_class=2, recipe=toy_recipe())
    faults = ctypes.CDLL(None)
    faults.faults_count.restype = ctypes.c_long
    faults.faults_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    inputs = Path(sys.argv[1])
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what commands print belongs to no answer
    make_inputs(inputs, sys.argv[2:])
    print("ready", file=output, flush=True)
    for line in sys.stdin:
        request = json.loads(line) | {"inputs": str(inputs)}
        child = os.fork()
        if child == 0:
            try:
                run_command(request, faults)
            except BaseException:
                import traceback

                traceback.print_exc()
            os._exit(99)
        _, status = os.waitpid(child, 0)
        work = Path(request["work"])
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        count = work.with_name(f"{work.name}.count")
        answer = {
            "status": None if killed else os.waitstatus_to_exitcode(status),
            "operations": int(count.read_text()) if count.exists() else None,
            "errors": work.with_name(f"{work.name}.err").read_text(errors="replace"),
        }
        count.unlink(missing_ok=True)
        print(json.dumps(answer), file=output, flush=True)


if __name__ == "__main__":
    serve()
