"""`alexnet serve` under load: the latency for one user, and many users at once with bad uploads mixed in.

    python benchmarks/serve.py RUN PICTURES [--seconds 600] [--users 50] [--requests 200] [--json FILE]

RUN is the folder of a trained net, PICTURES a folder of pictures. The server is started as a process of its own, as a
user starts it. First one user sends pictures one after another: the median and the 95th percentile of the time until
an answer is there. Then many users, each from an address of its own (127.0.0.x), send pictures for a while, one in five
of them bad: text, a photograph that is cut off, a PNG that claims 65,535 x 65,535 pixels, an empty body, 40 MiB. Every
good answer is compared with `Classifier.predict`, every bad one must have a status from 400 on and one line; the memory
of the server is read each second. At the end the server gets SIGTERM while all users wait for an answer: all of these
must come, and the server must end with status 143.
"""

import argparse
import io
import itertools
import random
import re
import signal
import statistics
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import torch
from common.environment import environment_info
from common.output import markdown_table, write_json
from PIL import Image

from alexnet.data.sources.named_pictures import iter_named_pictures
from alexnet.results.classifier import Classifier

_BAD_SHARE = 0.2
_TOLERANCE = 0.02  # of a probability: other pictures in the batch change the last digits in bfloat16


@dataclass
class Load:
    """What many users saw.

    Args:
        seconds: The times of the good answers.
        statuses: How often each status was answered to good and to bad uploads: ("good", 200).
        wrong: Descriptions of answers that were not right.
        memory: The server's memory in MB, each second.
        paused: The seconds in which the server was stopped by another program, or the benchmark did not run.
        answer_times: When each good picture was answered.
        is_ending: Whether the server is about to be stopped.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    paused: float = 0.0
    answer_times: list[float] = field(default_factory=list)
    is_ending: bool = False


class Server:
    """A server as a process."""

    def __init__(self, run: Path) -> None:
        command = [sys.executable, "-m", "alexnet", "serve", str(run), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = re.search(r"http://\S+/", line)
        if match is None:
            sys.exit(f"the server did not start: {line}")
        self.url = match[0]

    def memory(self) -> tuple[float, bool]:
        """Return the anonymous memory in MB, as that of mapped files is the system's, and whether it is stopped."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(re.findall(r"RssAnon:\s+(\d+)", status)[0]) / 1024, "(stopped)" in status

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


def _bad_uploads(photograph: bytes) -> list[bytes]:
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, format="png")
    huge = bytearray(file.getvalue())
    huge[16:24] = struct.pack(">II", 65_535, 65_535)
    huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
    return [b"only text", photograph[: len(photograph) // 2], bytes(huge), b"", bytes(40 << 20)]


def _check_answer(answer: httpx2.Response, expected: dict[str, float]) -> str | None:
    """Return what is wrong with the answer to a good picture, or None."""
    if answer.status_code != 200:
        return f"status {answer.status_code}: {answer.text[:120]}"
    for guess in answer.json()["predictions"]:
        if abs(guess["probability"] - expected[guess["class"]]) > _TOLERANCE:
            return f"{guess['class']}: {guess['probability']:.4f}, not {expected[guess['class']]:.4f}"
    return None


def _measure_one_user(url: str, pictures: list[bytes], requests: int) -> list[float]:
    """Return the seconds that each of some requests took, after ten to warm up."""
    seconds = []
    with httpx2.Client(base_url=url, timeout=60) as client:
        for number, picture in enumerate(itertools.islice(itertools.cycle(pictures), requests + 10)):
            start = time.perf_counter()
            answer = client.post("/api/predict", content=picture)
            answer.raise_for_status()
            if number >= 10:
                seconds.append(time.perf_counter() - start)
            time.sleep(0.05)  # slower than the server's limit for a client
    return seconds


def _use(
    number: int,
    url: str,
    good: list[tuple[bytes, dict[str, float]]],
    bad: list[bytes],
    load: Load,
    end: threading.Event,
    last: threading.Semaphore,
) -> None:
    """Send pictures as one user until the end; then one more, which is in hand when the server is stopped."""
    draw = random.Random(number)
    transport = httpx2.HTTPTransport(local_address=f"127.0.0.{number + 10}")
    with httpx2.Client(base_url=url, timeout=120, transport=transport) as client:
        while not end.is_set():
            if draw.random() < _BAD_SHARE:
                _send_bad(client, draw.choice(bad), load)
            else:
                _send_good(client, *draw.choice(good), load)
        last.release()
        _send_good(client, *draw.choice(good), load)


def _send_good(client: httpx2.Client, picture: bytes, expected: dict[str, float], load: Load) -> None:
    start = time.perf_counter()
    try:
        answer = client.post("/api/predict", content=picture)
    except httpx2.HTTPError as error:
        when = "at SIGTERM" if load.is_ending else "during the load"
        load.wrong.append(f"{type(error).__name__}, {when}: {error}")
        return
    load.seconds.append(time.perf_counter() - start)
    load.answer_times.append(time.monotonic())
    load.statuses["good", answer.status_code] += 1
    if problem := _check_answer(answer, expected):
        load.wrong.append(problem)


def _send_bad(client: httpx2.Client, body: bytes, load: Load) -> None:
    try:
        answer = client.post("/api/predict", content=body)
    except httpx2.HTTPError:  # the server has closed the connection before all of a large body was sent
        load.statuses["bad", 0] += 1
        return
    load.statuses["bad", answer.status_code] += 1
    if answer.status_code < 400 or "\n" in answer.json()["error"]:
        load.wrong.append(f"a bad upload: status {answer.status_code}")


def _measure_load(
    server: Server, good: list[tuple[bytes, dict[str, float]]], users: int, seconds: float
) -> tuple[Load, int]:
    """Let many users send pictures, and stop the server while they wait; return what they saw and its exit status."""
    load, end, last = Load(), threading.Event(), threading.Semaphore(0)
    bad = _bad_uploads(good[0][0])
    threads = [
        threading.Thread(target=_use, args=(number, server.url, good, bad, load, end, last)) for number in range(users)
    ]
    for thread in threads:
        thread.start()
    stop = time.monotonic() + seconds
    while (start := time.monotonic()) < stop:
        time.sleep(1)
        memory, is_stopped = server.memory()
        load.memory.append(memory)
        duration = time.monotonic() - start
        load.paused += duration if is_stopped or duration > 5 else 0
    load.is_ending = True
    end.set()
    for _ in threads:
        last.acquire()
    time.sleep(0.3)  # the last requests have arrived
    status = server.stop()
    for thread in threads:
        thread.join()
    return load, status


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", type=Path, help="a trained net")
    parser.add_argument("pictures", metavar="PICTURES", type=Path, help="a folder of pictures")
    parser.add_argument("--seconds", type=float, default=600, help="of the load; default: %(default)s")
    parser.add_argument("--users", type=int, default=50, help="at once; default: %(default)s")
    parser.add_argument("--requests", type=int, default=200, help="of one user; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the file to write the numbers to")
    options = parser.parse_args()
    pictures = [
        picture.read() for picture in itertools.islice(iter_named_pictures([str(options.pictures)]), 0, 2000, 20)
    ]
    classifier = Classifier.load(options.run)
    expected = [dict(classes) for classes in classifier.predict(pictures, top=len(classifier.classes))]
    del classifier
    server = Server(options.run)
    alone = _measure_one_user(server.url, pictures, options.requests)
    load, status = _measure_load(server, list(zip(pictures, expected, strict=True)), options.users, options.seconds)
    settled = load.memory[len(load.memory) // 5 :] or [0.0]
    quarter = max(1, len(settled) // 4)
    growth = statistics.mean(settled[-quarter:]) - statistics.mean(settled[:quarter])
    longest_gap = max((b - a for a, b in itertools.pairwise(sorted(load.answer_times))), default=0.0)
    rows = [
        ("one user, median", f"{1000 * statistics.median(alone):.0f} ms"),
        ("one user, 95th percentile", f"{1000 * _percentile(alone, 0.95):.0f} ms (goal: 300 ms)"),
        (f"{options.users} users, good pictures", f"{load.statuses['good', 200]} answered, {len(load.wrong)} wrong"),
        ("longest time without an answer", f"{longest_gap:.1f} s"),
        ("server or benchmark stopped by others", f"{load.paused:.0f} s"),
        (f"{options.users} users, pictures/s", f"{len(load.seconds) / options.seconds:.1f}"),
        (f"{options.users} users, median", f"{statistics.median(load.seconds):.2f} s"),
        (f"{options.users} users, 95th percentile", f"{_percentile(load.seconds, 0.95):.2f} s"),
        ("bad uploads by status", ", ".join(f"{s}: {n}" for (k, s), n in sorted(load.statuses.items()) if k == "bad")),
        ("memory, highest", f"{max(load.memory):.0f} MB"),
        ("memory, last quarter against first", f"{growth:+.1f} MB"),
        ("exit status after SIGTERM", f"{status} (143: all in hand was answered)"),
    ]
    print(environment_info(torch.device("cpu")))
    print(markdown_table(rows, ("what", "measured")))
    for problem, times in Counter(load.wrong).most_common(5):
        print(f"wrong, {times} times: {problem}")
    write_json(options.json, dict(rows))
    sys.exit(1 if load.wrong or status != 143 else 0)


if __name__ == "__main__":
    main()
