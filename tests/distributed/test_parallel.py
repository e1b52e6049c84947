"""Several processes that train one net: the run is that of one process, whatever the layout (4.2)."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from build_once import build_once
from conftest import write_store
from parallel_worker import FROZEN_RECIPE, RECIPE, SCHEMES
from torch.nn import functional as F

from alexnet.architecture import Net
from alexnet.distributed.cost_model import traffic
from alexnet.models.alexnet import AlexNet
from alexnet.models.weight_files import list_checkpoints
from alexnet.results.evaluate import evaluate
from alexnet.results.predictions import Predictions
from alexnet.training.checkpoint import Checkpoint, load_checkpoint
from alexnet.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")
WORKER = Path(__file__).with_name("parallel_worker.py")
GPUS = torch.cuda.device_count()  # 0 unless the GPUs are to be tested
SIMULATED = "simulated_gpu.machine" in sys.modules


def on_gpus(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test on the machine's GPUs too, if these are to be tested."""
    return pytest.mark.gpu(pytest.mark.skipif(0 < GPUS < 4, reason="four processes need a GPU each")(test))


def torchrun(
    python: str, folder: Path, *jobs: str, processes: int = 2, restarts: int = 0
) -> subprocess.CompletedProcess[str]:
    """Do jobs of parallel_worker.py in several processes, which are restarted if one fails."""
    command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["--max-restarts", str(restarts), *(["-m", "simulated_gpu"] if SIMULATED else [])]
    return subprocess.run([*command, str(WORKER), *jobs, str(folder)], capture_output=True, text=True, check=False)


def results(folder: Path, job: str, processes: int = 2) -> list[dict[str, Any]]:
    """Return the results of a job in each process."""
    return [json.loads((folder / f"{job}-{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def folder(warm_python: str, request: pytest.FixtureRequest) -> Path:
    """A store, a run of a single process, and the runs and results of two processes."""
    return build_once(request, "parallel", lambda folder: train_single_and_parallel(warm_python, folder))


def train_single_and_parallel(python: str, folder: Path) -> None:
    """Fill the folder."""
    write_store(folder / "store", train=47, val=21)
    train(folder / "store", folder / "single", RECIPE, progress=False)
    train(folder / "store", folder / "single-frozen", FROZEN_RECIPE, progress=False)
    torch.save(50 * torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1)), folder / "images.pt")
    for rank in range(2):
        shutil.copytree(folder / "store", folder / f"damaged-{rank}")
    shard = folder / "damaged-1" / "val-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-2000])
    on_cpus_only = () if GPUS else ("run_two_towers", "make_mistakes")
    done = torchrun(python, folder, "train_and_evaluate", "change_layouts", *on_cpus_only)
    assert done.returncode == 0, done.stderr


def load_last(run: Path) -> Checkpoint:
    """Load the last checkpoint of a run."""
    return load_checkpoint(list_checkpoints(run)[-1])


def read_losses(run: Path) -> list[tuple[float, float, float]]:
    """Return the training loss, the validation error and the validation loss of each epoch."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["event"] == "epoch"]
    return [(epoch["train_loss"], epoch["val_top1_error"], epoch["val_log_prob"]) for epoch in epochs]


@torch.no_grad()
def assert_same_to_rounding(run: Path, single: Path) -> None:
    """Check that two runs end with the same weights, velocities and errors, relative to how far the weights moved."""
    actual, expected = load_last(run), load_last(single)
    assert actual.tensors.keys() == expected.tensors.keys()
    assert ("random.cuda" in actual.tensors) == (GPUS > 0)  # the runs were trained there
    assert torch.equal(actual.tensors["random.cpu"], expected.tensors["random.cpu"])
    torch.manual_seed(RECIPE.seed)
    for name, start in AlexNet(3, RECIPE.net).named_parameters():
        if f"velocity.{name}" not in expected.tensors:
            assert torch.equal(actual.with_prefix("net")[name], start), "frozen"
            continue
        moved = float((expected.with_prefix("net")[name] - start).abs().max())
        assert moved > 0.01, name
        for prefix in ("net", "velocity"):
            torch.testing.assert_close(
                actual.with_prefix(prefix)[name],
                expected.with_prefix(prefix)[name],
                rtol=0,
                atol=1e-3 * moved,
                msg=f"{prefix}.{name}",
            )
    assert actual.state.step == expected.state.step == 20
    torch.testing.assert_close(torch.tensor(read_losses(run)), torch.tensor(read_losses(single)), rtol=1e-4, atol=1e-5)


@on_gpus
@pytest.mark.parametrize("run", [*SCHEMES, *(f"{scheme}-micro" for scheme in SCHEMES)])
def test_twenty_steps_end_as_those_of_one_process(run: str, folder: Path) -> None:
    assert_same_to_rounding(folder / run, folder / "single")


@on_gpus
@pytest.mark.parametrize("scheme", SCHEMES)
def test_frozen_layers_have_no_gradients_to_wait_for(scheme: str, folder: Path) -> None:
    assert sum(name.startswith("velocity.") for name in load_last(folder / "single-frozen").tensors) == 4  # fc6, fc8
    assert_same_to_rounding(folder / f"{scheme}-frozen", folder / "single-frozen")


@on_gpus
def test_a_run_resumes_with_another_scheme_and_with_fewer_processes(folder: Path) -> None:
    for result in results(folder, "change_layouts"):
        # Both stop, though one got the signal. What a GPU counts is read one step late, and so is the stop.
        assert result == {"steps": [8, 15] if GPUS else [7, 13], "signals": [15, 15]}
    assert load_last(folder / "mixed").state.micro_batch == 5  # half of a batch: the single process takes two passes
    train(folder / "store", folder / "mixed", progress=False)
    assert_same_to_rounding(folder / "mixed", folder / "single")


@on_gpus
@pytest.mark.parametrize("scheme", SCHEMES)
def test_predictions_are_the_same_and_count_each_picture_once(scheme: str, folder: Path) -> None:
    saved = folder / f"{scheme}-again.predictions"
    expected = evaluate(folder / scheme, folder / "store", views=10, save=saved)
    for result in results(folder, "train_and_evaluate"):
        for name in ("runs", "top1_interval", "top5_interval", "macro_interval"):
            assert result[scheme].pop(name) == expected[name]
        for part, expected_part in zip(
            result[scheme].pop("calibration_bins"), expected["calibration_bins"], strict=True
        ):
            assert part == pytest.approx(expected_part)
        assert result[scheme] == pytest.approx({name: expected[name] for name in result[scheme]})
        assert result[scheme]["images"] == 21
    predictions, other = (Predictions.load(path) for path in (folder / f"{scheme}.predictions", saved))
    torch.testing.assert_close(predictions.probabilities["val"], other.probabilities["val"], rtol=1e-5, atol=1e-6)


def test_two_towers_compute_the_outputs_and_gradients_of_the_full_net(folder: Path) -> None:
    logits, losses, predicted, gradients = torch.load(folder / "towers.pt")
    torch.manual_seed(0)
    net, images = AlexNet(5, Net()), torch.load(folder / "images.pt")
    torch.testing.assert_close(net.eval()(images), logits, rtol=1e-4, atol=1e-5)
    net.train()
    for dropout in net.dropouts():
        dropout.key = torch.tensor([7])
    full_logits = net(images)
    expected = F.cross_entropy(full_logits, torch.tensor([4, 0]), reduction="none", label_smoothing=0.1)
    expected.mean().backward()
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(predicted, full_logits.argmax(1))
    for name, weight in net.named_parameters():
        assert weight.grad is not None
        scale = float(weight.grad.abs().max())
        assert scale > 0
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-3, atol=1e-4 * scale, msg=name)


def test_towers_communicate_before_conv3_and_the_full_layers_only(folder: Path) -> None:
    rows = {row.layer: row for row in traffic(Net(), 5, 2, "towers", 2)}
    activations = {"conv3": 128 * 13 * 13, "fc6": 128 * 6 * 6, "fc7": 2048, "fc8": 2048}
    for result in results(folder, "run_two_towers"):
        for name, row in rows.items():
            if name == "softmax":
                assert result["sent"][name] == row.forward
            else:
                size = 2 * 4 * activations.get(name, 0)  # of two pictures, in float32
                assert (row.forward, row.backward) == (size, size), name
                sent = tuple(result["sent"].get(f"{name} {direction}", 0) for direction in ("forward", "backward"))
                assert sent == (size, size), name
        forward = [("all_gather", 8 * count) for count in activations.values()]
        softmax = [("all_gather", 2 * 2 * 8), ("all_reduce", 3 * 2 * 4)]
        # The input has both halves; the process's own half is not sent.
        backward = [("all_to_all_single", 2 * 8 * count) for count in reversed(activations.values())]
        assert [tuple(call) for call in result["calls"]] == [*forward, *softmax, *backward]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("scheme", "parallel must be one of none, data, towers, hybrid; got 'both'"),
        ("none", "parallel must be data, towers or hybrid with torchrun's 2 processes"),
        ("one tower", "got 2 for a net of 1: change torchrun's --nproc-per-node, or use `parallel='data'`"),
        ("normalise", "net.normalise.all_towers must be false for parallel 'towers'"),
        ("units", "fc7.units must be divisible by the 2 processes that share the layer; got 15"),
        ("batch", "batch_size must be divisible by the 2 processes that share a batch; got 9"),
        ("recipe", "recipe.learning_rate must be the same in all processes; in process 1 on machine"),
        ("store", "nowhere: no such store"),
        ("run", "nowhere must be the folder of a trained net"),
        ("version", "the version of alexnet must be the same in all processes; in process 1 on machine"),
        ("damaged", "damaged-1/val-00000.arrow: damaged"),
        ("hang", "hang_seconds must be above 0"),
        ("parallel", "parallel must be the same in all processes; in process 1 on machine"),
        ("diverges", "must stay finite"),
    ],
)
def test_one_process_reports_a_mistake(mistake: str, message: str, folder: Path) -> None:
    errors = [result[mistake] for result in results(folder, "make_mistakes")]
    assert len([error for error in errors if message in error]) == 1
    assert [error for error in errors if message not in error] == ["ReportedElsewhere: 2"]


@on_gpus
def test_after_a_process_is_killed_the_run_resumes_from_the_last_checkpoint(warm_python: str, folder: Path) -> None:
    done = torchrun(warm_python, folder, "kill_one", processes=4, restarts=1)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("alexnet: "))
    assert re.match(r"alexnet: process 3 \(machine \S+, pid \d+\) was lost, in step (9|10) \(", line)
    assert [result["restarts"] for result in results(folder, "kill_one", 4)] == ["1"] * 4
    actual, expected = load_last(folder / "killed"), load_last(folder / "four")
    assert all(torch.equal(actual.tensors[name], tensor) for name, tensor in expected.tensors.items())
    assert_same_to_rounding(folder / "four", folder / "single")
