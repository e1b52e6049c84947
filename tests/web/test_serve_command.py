"""`alexnet serve`: its address, its token, and its end by a signal, on a real socket."""

import json
import os
import re
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from web_runs import write_served_run

from alexnet.cli import main
from alexnet.web.served_run import ServedRun
from alexnet.web.server import serve
from alexnet.web.worker import BatchWorker


def request(url: str, data: bytes | None = None, token: str | None = None) -> tuple[int, Any]:
    """Return the status and the JSON of an answer."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture
def served_run(store: Path, tmp_path: Path) -> Path:
    """A run."""
    return write_served_run(tmp_path / "run", store)


def test_a_signal_ends_the_server_after_the_requests_in_hand(
    served_run: Path, picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, signalled, answers, lines = threading.Semaphore(0), threading.Event(), [], []
    predict, submit = ServedRun.predict, BatchWorker.submit

    def slow_predict(self: ServedRun, requests: Any) -> Any:
        signalled.wait(30)
        return predict(self, requests)

    def counted_submit(self: BatchWorker, *arguments: Any, **options: Any) -> Any:
        result = submit(self, *arguments, **options)
        waiting.release()
        return result

    monkeypatch.setattr(ServedRun, "predict", slow_predict)
    monkeypatch.setattr(BatchWorker, "submit", counted_submit)
    picture = min(picture_folder.glob("*/*.png")).read_bytes()

    def ask() -> None:
        answers.append(request(f"{url(lines[0])}api/predict", picture))

    def end() -> None:
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in threads:
            waiting.acquire(timeout=30)
        os.kill(os.getpid(), signal.SIGTERM)
        signalled.set()
        for thread in threads:
            thread.join()

    def url(line: str) -> str:
        return line.split(" at ")[1].split(" ")[0]

    ender = threading.Thread(target=end)

    def announce(line: str) -> None:
        lines.append(line)
        ender.start()

    assert serve(served_run, port=0, device="cpu", announce=announce) == signal.SIGTERM
    ender.join()
    assert [status for status, _ in answers] == [200, 200, 200]
    with pytest.raises(urllib.error.URLError):
        request(f"{url(lines[0])}api/run")


def test_the_token_is_printed_once_and_needed(served_run: Path) -> None:
    lines: list[str] = []
    answers = []

    def ask() -> None:
        address, token = re.findall(r"(http://\S+)#token=(\S+)", lines[0])[0]
        answers.extend([request(f"{address}api/run"), request(f"{address}api/run", token=token)])
        os.kill(os.getpid(), signal.SIGINT)

    asker = threading.Thread(target=ask)

    def announce(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            asker.start()

    assert serve(served_run, host="127.0.0.1", port=0, device="cpu", announce=announce) == signal.SIGINT
    asker.join()
    assert "not encrypted" in lines[1]
    assert [status for status, _ in answers] == [401, 200]
    assert answers[1][1]["name"] == "run"


def test_a_client_that_never_ends_its_request_is_disconnected(
    served_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.web.connection.HEAD_SECONDS", 0.2)
    heard: list[bytes] = []

    def stall(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(b"GET /api/run HTTP/1.1\r\nHost: localhost\r\n\r\nGET /api/run HTT")
            while part := connection.recv(65_536):
                heard.append(part)
        os.kill(os.getpid(), signal.SIGTERM)

    def announce(line: str) -> None:
        threading.Thread(target=stall, args=[int(re.findall(r":(\d+)/", line)[0])]).start()

    assert serve(served_run, port=0, device="cpu", announce=announce) == signal.SIGTERM
    assert b"".join(heard).startswith(b"HTTP/1.1 200 OK")  # the first request was answered


def test_what_cannot_be_served_is_one_line(
    served_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        commands = {
            "must have a recipe.json; there is none": [tmp_path, "--port", "0"],
            f"cannot listen at 127.0.0.1, port {port} (Address already in use)": [served_run, "--port", port],
            "port must be from 0 to 65535; got 70000": [served_run, "--port", "70000"],
            "cannot listen at 192.0.2.1, port 0 (Cannot assign requested": [served_run, "--port=0", "--host=192.0.2.1"],
            "device must be one of": [served_run, "--port", "0", "--device", "cuda:99"],
        }
        for message, arguments in commands.items():
            assert main(["serve", *map(str, arguments)]) == 2
            error = capsys.readouterr().err
            assert message in error
            assert error.count("\n") == 1
    monkeypatch.setitem(sys.modules, "alexnet.web.server", None)
    assert main(["serve", str(served_run)]) == 2
    assert "serving needs packages: pip install 'alexnet[serve]' (" in capsys.readouterr().err
