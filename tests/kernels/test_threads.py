"""Loops on several threads: torch's own, or a pool of Python's where torch's cannot be used."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from alexnet.kernels import threads as threads_module
from alexnet.kernels.threads import parallel_for


@pytest.fixture(params=[2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def from_another_thread(kernel: Callable[[int, int], None], count: int) -> None:
    """Call `parallel_for` from another than the main thread."""
    with ThreadPoolExecutor(1) as other:
        other.submit(parallel_for, kernel, count).result()


def without_openmp(kernel: Callable[[int, int], None], count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads_module, "find_openmp", lambda: None)
        parallel_for(kernel, count)


CALLS = pytest.mark.parametrize("call", [parallel_for, from_another_thread, without_openmp])


@CALLS
@pytest.mark.parametrize("count", [0, 1, 2, 1000])
@pytest.mark.usefixtures("threads")
def test_each_index_is_processed_once(call, count):
    done = np.zeros(count, int)

    def add(start: int, stop: int) -> None:
        done[start:stop] += 1

    call(add, count)
    assert (done == 1).all()


@CALLS
def test_as_many_threads_as_torchs_take_part(call, threads):
    barrier = threading.Barrier(threads)  # which all must reach, or it breaks
    identities = set()

    def meet(_start: int, _stop: int) -> None:
        if threading.get_ident() not in identities:
            identities.add(threading.get_ident())
            barrier.wait(60)

    call(meet, 1000)
    assert len(identities) == threads


@CALLS
@pytest.mark.usefixtures("threads")
def test_errors_are_raised_in_the_caller(call):
    def fail(start: int, stop: int) -> None:
        raise ArithmeticError(f"{start} {stop}")

    with pytest.raises(ArithmeticError):
        call(fail, 1000)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="torch has another OpenMP elsewhere")
def test_torchs_openmp_is_found():
    assert threads_module.find_openmp() is not None


FORKED = """
import os, torch
from alexnet.kernels.response_norm import response_norm
torch.set_num_threads(2)
x = torch.randn(2, 8, 4, 4)
first = response_norm(x, size=5, k=2.0, alpha=0.1, beta=0.75)
if (child := os.fork()) == 0:
    os._exit(0 if torch.equal(first, response_norm(x, size=5, k=2.0, alpha=0.1, beta=0.75)) else 1)
assert os.waitpid(child, 0)[1] == 0
"""


def test_it_works_in_a_forked_process():
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=300)


INTERRUPTED = """
import signal, sys, threading, time
import torch
from alexnet.kernels.response_norm import response_norm
torch.set_num_threads(2)
x = torch.randn(8, 32, 16, 16)
norm = lambda: response_norm(x, size=5, k=2.0, alpha=0.1, beta=0.75)
norm()
class Stopped(Exception): pass
def stop(*_): raise Stopped
signal.signal(signal.SIGALRM, stop)
for number in range(150):
    end = time.monotonic() + 60
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001 + number * 1e-5)
        while time.monotonic() < end: norm()
    except Stopped:
        continue
    sys.exit("a signal was lost")
"""


def test_what_a_signal_handler_raises_is_not_lost():
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], check=False, timeout=300, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")


ENDING = """
import threading, torch
from alexnet.kernels.response_norm import response_norm
torch.set_num_threads(2)
def work():
    threading.main_thread().join()
    response_norm(torch.randn(2, 8, 4, 4), size=5, k=2.0, alpha=0.1, beta=0.75)
    print("done", flush=True)
threading.Thread(target=work).start()
"""


def test_it_works_in_a_thread_that_outlives_the_main_one():
    result = subprocess.run([sys.executable, "-c", ENDING], check=True, timeout=300, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("done\n", "")
