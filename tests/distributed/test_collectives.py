"""The shards of a batch."""

import pytest

from alexnet.distributed.collectives import shard_rows


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7, 9])
@pytest.mark.parametrize("count", [1, 7, 8, 128])
def test_the_shards_of_a_batch_have_equal_sizes_and_count_each_row_once(count: int, num_shards: int) -> None:
    counted_rows: list[int] = []
    sizes = set()
    for shard in range(num_shards):
        rows, counted = shard_rows(count, shard, num_shards)
        sizes.add(len(rows))
        assert all(0 <= row < count for row in rows)
        counted_rows += rows[:counted].tolist()
    assert counted_rows == list(range(count))
    assert len(sizes) == 1
