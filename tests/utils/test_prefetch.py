"""Batches of results that threads compute ahead: order, sizes, slow items, errors, and an early end."""

import itertools
import queue
import threading
import time
from collections.abc import Iterator

import pytest

from alexnet.utils.prefetch import prefetch, prefetch_batches


def double(number: int) -> int:
    time.sleep(0.002 * (number % 3))  # so that they are not ready in their order
    return 2 * number


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (3, [3]), (4, [4]), (10, [4, 4, 2])])
def test_batches_have_the_order_of_the_items(count: int, sizes: list[int]) -> None:
    batches = list(prefetch_batches(double, range(count), workers=3, batch_size=4, patience=30))
    assert [len(batch) for batch in batches] == sizes
    assert list(itertools.chain(*batches)) == [2 * number for number in range(count)]


def test_results_do_not_wait_for_a_slow_item() -> None:
    items: queue.Queue[int | None] = queue.Queue()
    batches = prefetch_batches(double, iter(items.get, None), workers=2, batch_size=4, patience=0.05)
    items.put(1)
    assert next(batches) == [2]  # although the second item has not come
    items.put(2)
    assert next(batches) == [4]
    items.put(None)
    assert list(batches) == []


def test_results_do_not_wait_for_slow_work() -> None:
    released = threading.Event()

    def work(number: int) -> int:
        assert number < 2 or released.wait(30)
        return number

    batches = prefetch_batches(work, range(3), workers=1, batch_size=3, patience=0.05)
    assert next(batches) == [0, 1]
    released.set()
    assert list(batches) == [[2]]


def test_only_some_items_are_taken_ahead() -> None:
    taken = []

    def numbers() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    batches = prefetch_batches(double, numbers(), workers=2, batch_size=4)
    assert next(batches) == [0, 2, 4, 6]
    time.sleep(0.2)
    assert len(taken) <= 4 + 4 + 2 + 2  # yielded, in the queue, and one that waits for a place in it or is asked for
    batches.close()
    time.sleep(0.3)
    count = len(taken)
    time.sleep(0.2)
    assert len(taken) == count


def test_errors_are_raised() -> None:
    def fail(number: int) -> int:
        raise ValueError(f"no {number}")

    def items() -> Iterator[int]:
        yield 1
        raise OSError("no items")

    with pytest.raises(ValueError, match="no 1"):
        list(prefetch_batches(fail, [1], workers=2, batch_size=4))
    with pytest.raises(OSError, match="no items"):
        list(prefetch_batches(double, items(), workers=2, batch_size=4))


def test_generators_may_be_left_when_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = False
    monkeypatch.setattr("sys.is_finalizing", lambda: ends)
    generators = [
        prefetch_batches(abs, itertools.count(), workers=2, batch_size=4),
        prefetch(abs, itertools.count(), workers=2, buffer_size=4),
    ]
    for generator in generators:
        next(generator)
    ends = True
    monkeypatch.setattr("concurrent.futures.thread.queue", None)  # as Python clears modules
    for generator in generators:
        generator.close()
