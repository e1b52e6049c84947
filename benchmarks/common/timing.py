"""Times of functions on a CPU or a GPU: of one call, and of several functions called in turn."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done all its queued work; do nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_call(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that one call takes, including the work that it queues on a GPU."""
    synchronise(device)
    start = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - start


def time_interleaved(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    device: torch.device | str = "cpu",
    calls: int = 1,
    *,
    warm_up_each: bool = False,
) -> dict[str, list[float]]:
    """Time several functions in turn, so that a slow spell of the machine slows all of them.

    Each function is first called once to warm up.

    Args:
        functions: The functions to time, by name.
        repeats: The number of timings of each function.
        device: The device on which the functions run.
        calls: The number of calls per timing: more than one for functions that take less than a millisecond.
        warm_up_each: Whether to make an untimed call before each timing, so that a function reuses the memory that it
            freed itself and not what another function left.

    Returns:
        The seconds of a call, `repeats` values for each name: the mean over the calls of one timing.
    """
    device = torch.device(device)
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        time_call(function, device)
    for _ in range(repeats):
        for name, function in functions.items():
            if warm_up_each:
                function()
            times[name].append(time_call(partial(_call_repeatedly, function, calls), device) / calls)
    return times


def _call_repeatedly(function: Callable[[], object], calls: int) -> None:
    for _ in range(calls):
        function()


def capture_graph(function: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Capture a function in a CUDA graph, so that the GPU is timed and not Python.

    Returns:
        The graph's replay; the function itself on a CPU, or if it cannot be captured.
    """
    if device.type != "cuda":
        return function
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        _call_repeatedly(function, 3)
    torch.cuda.current_stream(device).wait_stream(stream)
    synchronise(device)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            function()
    except RuntimeError as error:
        print(f"timed without a CUDA graph: {str(error).splitlines()[0]}")
        return function
    return graph.replay


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of the times of each name."""
    return {name: statistics.median(values) for name, values in times.items()}
