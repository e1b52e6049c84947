"""The launch of several processes: what is wrong is reported once, and each process gets its GPU."""

import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import write_store

from alexnet.architecture import Net
from alexnet.distributed.coordinator import restart_id
from alexnet.distributed.launch import choose_local_gpu, init_team
from alexnet.distributed.team import Team

TORCHRUN = ["-m", "torch.distributed.run"]
TWO_PROCESSES = [*TORCHRUN, "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store."""
    return write_store(tmp_path_factory.mktemp("launch") / "store", train=47, val=21)


def reported_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines that processes have reported."""
    return [line for line in done.stderr.splitlines() if line.startswith("alexnet: ")]


def test_the_command_reports_one_line_and_no_traceback(warm_python: str, store: Path, tmp_path: Path) -> None:
    train = ["-m", "alexnet", "train", str(store), str(tmp_path / "run"), "--recipe", "tiny"]
    command = [warm_python, *TWO_PROCESSES, *train, "--parallel", "towers", "--set", "net.towers=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert len(reported_lines(done)) == 1
    assert "/alexnet/" not in done.stderr  # in the traceback that torchrun adds of itself


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--parallel", "data", "--bogus"], "`alexnet train` has no option --bogus"),
        (["--parallel", "data", "--set", "epochz=2"], "alexnet: "),
        (["--parallel", "both"], "parallel must be one of"),
    ],
)
def test_a_late_process_still_reports_an_error_that_all_find(
    options: list[str], message: str, warm_python: str, store: Path, tmp_path: Path
) -> None:
    script = tmp_path / "late.py"
    script.write_text(
        "import os, sys, time\nfrom alexnet.cli import main\n"
        "time.sleep(1 * (os.environ['RANK'] == '0'))\nsys.exit(main(sys.argv[1:]))\n"
    )
    train = ["train", str(store), str(tmp_path / "run"), "--recipe", "tiny"]
    command = [warm_python, *TWO_PROCESSES, str(script), *train, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert len([line for line in reported_lines(done) if message in line]) == 1
    assert "exitcode  : 2" in done.stderr


def run_two_machines(
    python: str, store: Path, run: Path, first: list[str], second: list[str]
) -> list[subprocess.CompletedProcess[str]]:
    """Run two torchruns of one process each on this machine, with different options; the first one is the host."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [python, *TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1"]
    train = ["-m", "alexnet", "train", str(store), str(run), "--parallel", "data"]
    train += ["--recipe", "tiny", "--set", "store_size=32", "--set", "net.image_size=32"]

    def start(is_host: bool, options: list[str]) -> subprocess.CompletedProcess[str]:
        command = [*torchrun, "--rdzv-conf", f"is_host={str(is_host).lower()}", *train, *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(start, (True, False), (first, second)))


def test_different_recipes_on_two_machines_are_reported_once(warm_python: str, store: Path, tmp_path: Path) -> None:
    options = (["--set", f"learning_rate={rate}"] for rate in (0.1, 0.2))
    machines = run_two_machines(warm_python, store, tmp_path / "run", *options)
    assert all(done.returncode for done in machines)
    (line,) = (line for done in machines for line in reported_lines(done))
    assert "recipe.learning_rate must be the same in all processes; in process 1 on machine" in line
    assert not any("/alexnet/" in done.stderr for done in machines)


def test_a_wrong_command_on_one_machine_is_reported_there_and_ends_the_other(
    warm_python: str, store: Path, tmp_path: Path
) -> None:
    machines = run_two_machines(warm_python, store, tmp_path / "run", ["--hang-seconds", "1"], ["--set", "epochz=2"])
    assert all(done.returncode for done in machines)
    (first_line,), (second_line,) = map(reported_lines, machines)
    assert "epochz" in second_line
    assert "has started, but not all 2 processes have" in first_line
    assert not any("/alexnet/" in done.stderr for done in machines)


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert choose_local_gpu(None) == "cuda:1"
    assert choose_local_gpu("cpu") == "cpu"
    assert choose_local_gpu("cuda") == "cuda:1"
    with pytest.raises(ValueError, match="for several processes, as each of them takes another GPU; got cuda:0"):
        choose_local_gpu("cuda:0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="processes on a machine must be at most its 2 GPUs; got 3"):
        choose_local_gpu(None)


def test_towers_need_a_multiple_of_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="each of at least two towers, or a multiple; got 3 for a net of 2"):
        Team("towers").form_groups(Net(), 10)


def test_a_store_that_outlives_a_restart_of_several_machines_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "GROUP_WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(ValueError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"), init_team("data", "cpu", 1):
        pass
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")  # the restarts of one machine are counted once
    assert restart_id() == "0"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "3")
    assert restart_id() == "3"
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")  # the counts differ if a machine has come back
    assert restart_id() == "only"
