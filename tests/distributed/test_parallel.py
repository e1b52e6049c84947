"""Several processes that train one net: the same run as one process's, whatever has which part (4.2)."""

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import write_store
from parallel_worker import RECIPE, SCHEMES
from torch.nn import functional as F

from alexnet.architecture import Net
from alexnet.distributed.collectives import shard_rows
from alexnet.distributed.coordinator import restart_id
from alexnet.distributed.cost_model import traffic
from alexnet.distributed.launch import _choose_local_gpu, init_team
from alexnet.distributed.team import Team
from alexnet.models.alexnet import AlexNet
from alexnet.results.evaluate import evaluate
from alexnet.results.predictions import Predictions
from alexnet.training.checkpoint import Checkpoint, list_checkpoints, load_checkpoint
from alexnet.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")
WORKER = Path(__file__).with_name("parallel_worker.py")
GPUS = torch.cuda.device_count()  # 0 unless they are what is to be tested


def on_gpus(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test on the machine's GPUs too, where these are to be tested."""
    return pytest.mark.gpu(pytest.mark.skipif(0 < GPUS < 4, reason="four processes want a GPU each")(test))


def torchrun(folder: Path, *jobs: str, processes: int = 2, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """Let processes do jobs of parallel_worker.py."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["--max-restarts", str(restarts)]
    command += ["-m", "simulated_gpu"] if "simulated_gpu.machine" in sys.modules else []
    return subprocess.run([*command, str(WORKER), *jobs, str(folder)], capture_output=True, text=True, check=False)


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of ours that processes have said."""
    return [line for line in done.stderr.splitlines() if line.startswith("alexnet: ")]


def results(folder: Path, job: str, processes: int = 2) -> list[dict[str, Any]]:
    """What the processes returned."""
    return [json.loads((folder / f"{job}-{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, a run by one process, and what two processes have made of the same."""
    folder = tmp_path_factory.mktemp("parallel")
    write_store(folder / "store", train=47, val=21)
    train(folder / "store", folder / "alone", RECIPE, progress=False)
    torch.save(50 * torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1)), folder / "images.pt")
    for rank in range(2):
        shutil.copytree(folder / "store", folder / f"damaged-{rank}")
    shard = folder / "damaged-1" / "val-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-2000])
    done = torchrun(folder, "same_runs", "one_step", "changing_layouts", "mistakes")
    assert done.returncode == 0, done.stderr
    return folder


def last(run: Path) -> Checkpoint:
    return load_checkpoint(list_checkpoints(run)[-1])


def losses(run: Path) -> list[tuple[float, float, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(at["train_loss"], at["val_top1_error"], at["val_log_prob"]) for at in lines if at["event"] == "epoch"]


@torch.no_grad()
def assert_same_to_rounding(run: Path, alone: Path) -> None:
    """Two runs have come to the same weights, velocities and errors, as far as their moves allow to tell."""
    ours, theirs = last(run), last(alone)
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert ("random.cuda" in ours.tensors) == (GPUS > 0)  # that is where they were trained
    assert torch.equal(ours.tensors["random.cpu"], theirs.tensors["random.cpu"])
    torch.manual_seed(RECIPE.seed)
    for name, start in AlexNet(3, RECIPE.net).named_parameters():
        moved = float((theirs.with_prefix("net")[name] - start).abs().max())
        assert moved > 0.01, name
        for part in ("net", "velocity"):
            torch.testing.assert_close(
                ours.with_prefix(part)[name],
                theirs.with_prefix(part)[name],
                rtol=0,
                atol=1e-3 * moved,
                msg=f"{part}.{name}",
            )
    assert ours.state.step == theirs.state.step == 20
    torch.testing.assert_close(torch.tensor(losses(run)), torch.tensor(losses(alone)), rtol=1e-4, atol=1e-5)


@on_gpus
@pytest.mark.parametrize("run", [*SCHEMES, *(f"{scheme}-micro" for scheme in SCHEMES)])
def test_twenty_steps_end_as_those_of_one_process(run: str, folder: Path) -> None:
    assert_same_to_rounding(folder / run, folder / "alone")


@on_gpus
def test_a_run_goes_on_under_another_scheme_and_with_fewer_processes(folder: Path) -> None:
    for found in results(folder, "changing_layouts"):
        # Both stop, though one was told. What a GPU counts is read, and so what processes ask, a step late.
        assert found == {"steps": [8, 15] if GPUS else [7, 13], "signals": [15, 15]}
    assert last(folder / "mixed").state.micro_batch == 5  # half of a batch: the one left takes two passes
    train(folder / "store", folder / "mixed", progress=False)
    assert_same_to_rounding(folder / "mixed", folder / "alone")


@on_gpus
@pytest.mark.parametrize("scheme", SCHEMES)
def test_predictions_are_the_same_and_count_each_picture_once(scheme: str, folder: Path) -> None:
    saved = folder / f"{scheme}-again.predictions"
    again = evaluate(folder / scheme, folder / "store", views=10, save=saved)
    for found in results(folder, "same_runs"):
        assert found[scheme].pop("runs") == again["runs"]
        assert found[scheme] == pytest.approx({name: value for name, value in again.items() if name != "runs"})
        assert found[scheme]["images"] == 21
    ours, theirs = (Predictions.load(path) for path in (folder / f"{scheme}.predictions", saved))
    torch.testing.assert_close(ours.probabilities["val"], theirs.probabilities["val"], rtol=1e-5, atol=1e-6)


def test_two_towers_put_out_and_learn_what_the_whole_net_does(folder: Path) -> None:
    logits, lost, predicted, gradients = torch.load(folder / "towers.pt")
    torch.manual_seed(0)
    net, images = AlexNet(5, Net()), torch.load(folder / "images.pt")
    torch.testing.assert_close(net.eval()(images), logits, rtol=1e-4, atol=1e-5)
    net.train()
    for dropout in net.dropouts():
        dropout.key = torch.tensor([7])
    whole = net(images)
    loss = F.cross_entropy(whole, torch.tensor([4, 0]), reduction="none", label_smoothing=0.1)
    loss.mean().backward()
    torch.testing.assert_close(lost, loss.detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(predicted, whole.argmax(1))
    for name, weight in net.named_parameters():
        assert weight.grad is not None
        scale = float(weight.grad.abs().max())
        assert scale > 0
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-3, atol=1e-4 * scale, msg=name)


def test_towers_talk_before_conv3_and_the_full_layers_only(folder: Path) -> None:
    rows = {row.layer: row for row in traffic(Net(), 5, 2, "towers", 2)}
    activities = {"conv3": 128 * 13 * 13, "fc6": 128 * 6 * 6, "fc7": 2048, "fc8": 2048}
    ways = ("forward", "backward")
    for found in results(folder, "one_step"):
        for name, row in rows.items():
            if name == "softmax":
                assert found["sent"][name] == row.forward
            else:
                size = 2 * 4 * activities.get(name, 0)  # of two pictures, in float32
                assert (row.forward, row.backward) == (size, size), name
                assert tuple(found["sent"].get(f"{name} {way}", 0) for way in ways) == (size, size), name
        forth = [("all_gather", 8 * count) for count in activities.values()]
        softmax = [("all_gather", 2 * 2 * 8), ("all_reduce", 3 * 2 * 4)]
        # Both halves are put in, of which the own one stays.
        back = [("all_to_all_single", 2 * 8 * count) for count in reversed(activities.values())]
        assert [tuple(call) for call in found["calls"]] == [*forth, *softmax, *back]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("scheme", "parallel must be one of none, data, towers, hybrid; got 'both'"),
        ("none", "parallel must be data, towers or hybrid with torchrun's 2 processes"),
        ("one tower", "got 2 for a net of 1: change --nproc-per-node, or use --parallel data"),
        ("units", "fc7.units must be divisible by the 2 processes that share the layer; got 15"),
        ("batch", "batch_size must be divisible by the 2 processes that share a batch; got 9"),
        ("recipe", "recipe.learning_rate must be the same in all processes; in process 1 on machine"),
        ("store", "nowhere: no such store"),
        ("run", "nowhere must hold a trained net"),
        ("version", "the version of alexnet must be the same in all processes; in process 1 on machine"),
        ("damaged", "damaged-1/val-00000.arrow: damaged"),
        ("hang", "hang_seconds must be above 0"),
        ("parallel", "parallel must be the same in all processes; in process 1 on machine"),
        ("diverges", "must stay finite"),
    ],
)
def test_mistakes_are_told_by_one_process(case: str, words: str, folder: Path) -> None:
    said = [found[case] for found in results(folder, "mistakes")]
    assert len([text for text in said if words in text]) == 1
    assert [text for text in said if words not in text] == ["ReportedElsewhere: 2"]


@on_gpus
def test_a_killed_process_costs_what_was_done_since_the_last_checkpoint(folder: Path) -> None:
    done = torchrun(folder, "killed", processes=4, restarts=1)
    assert done.returncode == 0, done.stderr
    (line,) = told(done)
    assert re.match(r"alexnet: process 3 \(machine \S+, pid \d+\) was lost, in step (9|10) \(", line)
    assert [found["life"] for found in results(folder, "killed", 4)] == ["1"] * 4
    ours, theirs = last(folder / "killed"), last(folder / "four")
    assert all(torch.equal(ours.tensors[name], value) for name, value in theirs.tensors.items())
    assert_same_to_rounding(folder / "four", folder / "alone")


def test_the_command_tells_one_line_and_no_traceback(folder: Path) -> None:
    arguments = ["-m", "alexnet", "train", str(folder / "store"), str(folder / "new"), "--recipe", "tiny"]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    asked = [*start, *arguments, "--parallel", "towers", "--set", "net.towers=1"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert len(told(done)) == 1
    assert "/alexnet/" not in done.stderr  # in the traceback that torchrun adds of itself


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--parallel", "data", "--bogus"], "error: unrecognized arguments: --bogus"),
        (["--parallel", "data", "--set", "epochz=2"], "alexnet: "),
        (["--parallel", "both"], "parallel must be one of"),
    ],
)
def test_a_late_process_still_tells_what_all_find(asked: list[str], words: str, folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "late.py"
    script.write_text(
        "import os, sys, time\nfrom alexnet.cli import main\n"
        "time.sleep(2 * (os.environ['RANK'] == '0'))\nsys.exit(main(sys.argv[1:]))\n"
    )
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    train = ["train", str(folder / "store"), str(folder / "new"), "--recipe", "tiny"]
    done = subprocess.run([*start, *train, *asked], capture_output=True, text=True, check=False)
    assert len([line for line in told(done) if words in line]) == 1
    assert "exitcode  : 2" in done.stderr


def two_machines(folder: Path, first: list[str], second: list[str]) -> list[subprocess.CompletedProcess[str]]:
    """Two torchruns of one process each that meet on this machine, with a command line each; the first is the host."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1"]
    train = ["-m", "alexnet", "train", str(folder / "store"), str(folder / "two"), "--parallel", "data"]
    train += ["--recipe", "tiny", "--set", "store_size=32", "--set", "net.image_size=32"]

    def start(host: bool, own: list[str]) -> subprocess.CompletedProcess[str]:
        asked = [*command, "--rdzv-conf", f"is_host={str(host).lower()}", *train, *own]
        return subprocess.run(asked, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(start, (True, False), (first, second)))


def test_machines_with_different_recipes_are_told_apart(folder: Path) -> None:
    ends = two_machines(folder, *(["--set", f"learning_rate={rate}"] for rate in (0.1, 0.2)))
    assert all(end.returncode for end in ends)
    (line,) = (line for end in ends for line in told(end))
    assert "recipe.learning_rate must be the same in all processes; in process 1 on machine" in line
    assert not any("/alexnet/" in end.stderr for end in ends)


def test_a_machine_whose_command_is_wrong_says_so_and_the_other_does_not_wait_for_ever(folder: Path) -> None:
    ends = two_machines(folder, ["--hang-seconds", "4"], ["--set", "epochz=2"])
    assert all(end.returncode for end in ends)
    (waited,), (wrong,) = map(told, ends)
    assert "epochz" in wrong
    assert "has started, but not all 2 processes have" in waited
    assert not any("/alexnet/" in end.stderr for end in ends)


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert _choose_local_gpu(None) == "cuda:1"
    assert _choose_local_gpu("cpu") == "cpu"
    assert _choose_local_gpu("cuda") == "cuda:1"
    with pytest.raises(ValueError, match="for several processes, as each of them takes another GPU; got cuda:0"):
        _choose_local_gpu("cuda:0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="processes on a machine must be at most its 2 GPUs; got 3"):
        _choose_local_gpu(None)


def test_towers_want_a_multiple_of_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="each of at least two towers, or a multiple; got 3 for a net of 2"):
        Team("towers").form_groups(Net(), 10)


def test_torchrun_s_kept_store_is_refused_where_machines_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "GROUP_WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(ValueError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"), init_team("data", "cpu", 1):
        pass
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")  # one machine: the count tells one life from another
    assert restart_id() == "0"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "3")
    assert restart_id() == "3"
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")  # counts differ where a machine has come back
    assert restart_id() == "only"


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 9])
@pytest.mark.parametrize("count", [1, 7, 8, 128])
def test_rows_of_all_processes_are_all_rows_once(count: int, parts: int) -> None:
    found: list[int] = []
    sizes = set()
    for part in range(parts):
        rows, counted = shard_rows(count, part, parts)
        sizes.add(len(rows))
        assert all(0 <= row < count for row in rows)
        found += rows[:counted].tolist()
    assert found == list(range(count))
    assert len(sizes) == 1
