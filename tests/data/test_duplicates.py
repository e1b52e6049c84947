"""Pictures of the same photograph: they are found, kept in one split where it was drawn, and reported elsewhere."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from test_prepare import prepare_small, read_files

from alexnet.data.prepare import moves, plan
from alexnet.data.prepare.decode import read_image
from alexnet.data.prepare.duplicates import MAX_DISTANCE, group_duplicates, picture_hashes
from alexnet.data.store.format import DUPLICATES_FILE
from alexnet.data.store.store import Store


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of eight raw 16x16 pictures, chunks of three."""
    monkeypatch.setattr(plan, "SHARD_BYTES", 8 * 16 * 16 * 3)
    monkeypatch.setattr(plan, "CHUNK_BYTES", 3 * 16 * 16 * 3)
    monkeypatch.setattr(plan, "JPEG_SHARD_FACTOR", 2)


def draw_scene(seed: int, height: int = 120, width: int = 160) -> Image.Image:
    """Draw a picture with structure at all scales, as photographs have: noise of amplitude 1 / frequency."""
    random = np.random.default_rng(seed)
    y, x = np.fft.fftfreq(height)[:, None, None], np.fft.fftfreq(width)[None, :, None]
    spectrum = np.fft.fft2(random.normal(size=(height, width, 3)), axes=(0, 1)) / (np.hypot(y, x) + 1 / width)
    scene = np.fft.ifft2(spectrum, axes=(0, 1)).real
    return Image.fromarray((128 + 45 * (scene - scene.mean()) / scene.std()).clip(0, 255).astype(np.uint8))


def encode(picture: Image.Image, quality: int = 95) -> bytes:
    """Return a picture as JPEG."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def hash_file(contents: bytes) -> np.ndarray:
    """Return the hash (1, 4) of the 64-pixel square of a picture file."""
    return picture_hashes(read_image(contents, 64)[None])


def distance(first: np.ndarray, second: np.ndarray) -> int:
    """Return the number of bits in which two hashes differ."""
    return int(np.bitwise_count(first ^ second).sum())


@pytest.mark.parametrize(
    "alter",
    [
        encode,
        lambda picture: encode(picture.resize((80, 60), Image.Resampling.BICUBIC)),
        lambda picture: encode(picture.resize((320, 240), Image.Resampling.BICUBIC)),
        lambda picture: encode(picture, quality=30),
        lambda picture: encode(ImageEnhance.Brightness(picture).enhance(1.2)),
        lambda picture: encode(ImageEnhance.Contrast(picture).enhance(0.8)),
        lambda picture: encode(picture.convert("L")),
    ],
    ids=["same", "half", "double", "recompressed", "brightened", "paler", "grey"],
)
def test_a_copy_has_nearly_the_same_hash(alter: object) -> None:
    for seed in range(5):
        scene = draw_scene(seed)
        assert distance(hash_file(encode(scene)), hash_file(alter(scene))) <= MAX_DISTANCE  # type: ignore[operator]
        assert distance(hash_file(encode(scene)), hash_file(encode(draw_scene(seed + 100)))) > 2 * MAX_DISTANCE


def test_the_hash_has_the_signs_of_the_cosine_transform() -> None:
    """The oracle is the definition, a sum for each frequency, in a picture of 32 pixels that is not reduced."""
    picture = read_image(encode(draw_scene(3)), 32)
    grey = np.round(picture @ [0.299, 0.587, 0.114])
    position = np.arange(32)
    signs = set()
    for v in range(16):
        for u in range(16):
            wave = np.outer(np.cos(np.pi * v * (position + 0.5) / 32), np.cos(np.pi * u * (position + 0.5) / 32))
            signs.add((v, u, bool((grey * wave).sum() > 0)))
    ones = sum(sign for *_, sign in signs)
    assert abs(distance(picture_hashes(picture[None]), np.zeros((1, 4), np.uint64)) - ones) <= 2  # rounding of grey
    mirrored = picture_hashes(np.ascontiguousarray(picture[None, :, ::-1]))
    assert abs(distance(picture_hashes(picture[None]), mirrored) - 128) <= 4  # the odd horizontal frequencies change


def test_plain_pictures_equal_their_copies_only() -> None:
    plain = np.zeros((4, 20, 20, 3), np.uint8)
    plain[1:3] = (200, 10, 30)
    plain[3] = (200, 10, 31)
    assert [group.tolist() for group in group_duplicates(picture_hashes(plain))] == [[1, 2]]
    assert picture_hashes(plain[:0]).shape == (0, 4)


@pytest.mark.skipif(os.cpu_count() == 1, reason="BLAS has no other threads on one core")
def test_hashes_start_no_threads() -> None:
    """`prepare` hashes in its own threads; those of BLAS and OpenCV would wait in loops beside them."""
    code = """
import time
import numpy as np
from alexnet.data.prepare.duplicates import picture_hashes
pixels = np.random.default_rng(0).integers(0, 256, (32, 128, 128, 3), np.uint8)
picture_hashes(pixels)
process_start, thread_start = time.process_time(), time.thread_time()
for _ in range(40):
    picture_hashes(pixels)
print(time.process_time() - process_start, time.thread_time() - thread_start)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    process_seconds, thread_seconds = map(float, result.stdout.split())
    assert process_seconds < 1.2 * thread_seconds


def test_groups_are_those_of_a_search_through_all_pairs() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, (400, 4), np.uint64)
    for n in range(200, 400):  # copies of earlier ones with a few other bits
        hashes[n] = hashes[random.integers(0, n)]
        for bit in random.integers(0, 256, random.integers(0, 40)):
            hashes[n, bit // 64] ^= np.uint64(1 << int(bit % 64))
    firsts = np.full(len(hashes), -1)
    for n in range(len(hashes)):
        if firsts[n] < 0:
            differences = hashes ^ hashes[n]
            near = (np.bitwise_count(differences).sum(1) <= MAX_DISTANCE) & (firsts < 0)
            # They are met in a band that differs in at most one bit: always, if at most 7 of the lowest bits differ.
            is_met = (np.bitwise_count(differences[:, :1].view(np.uint16)) <= 1).any(1)
            assert is_met[np.bitwise_count(differences[:, 0]) <= 7].all()
            firsts[near & is_met] = n
    expected = [np.flatnonzero(firsts == n).tolist() for n in range(400) if (firsts == n).sum() > 1]
    assert [group.tolist() for group in group_duplicates(hashes)] == expected
    assert len(expected) > 50


def write_scenes(root: Path, counts: dict[str, int], copies: int = 0, each: int = 2) -> Path:
    """Write pictures by class; of the first `copies` of each class there are `each`, in different qualities."""
    seed = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            scene, seed = draw_scene(seed, 30, 40), seed + 1
            for copy in range(each if number < copies else 1):
                (root / name / f"{number:02d}-{copy}.jpg").write_bytes(encode(scene, quality=95 - 10 * copy))
    return root


def photographs(store: Store) -> dict[str, set[str]]:
    """Return for each split the photographs that its pictures show."""
    splits = {name: store.split(name) for name in store.splits}
    return {
        name: {split.picture_name(index).partition("-")[0] for index in range(len(split))}
        for name, split in splits.items()
    }


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.parametrize("options", [{"held_out": 0.3}, {"held_out": 0.2, "test": 0.2}, {"train_per_class": 12}])
def test_a_photograph_is_in_one_split_only(tmp_path: Path, encoding: str, options: dict[str, float]) -> None:
    source = write_scenes(tmp_path / "source", {"a": 15, "b": 18}, copies=6)
    drawn = prepare_small(source, tmp_path / "drawn", encoding=encoding, ignore_duplicates=True, **options)
    summary = prepare_small(source, tmp_path / "store", encoding=encoding, **options)
    store, as_drawn = Store(tmp_path / "store"), Store(tmp_path / "drawn")
    parts, before = photographs(store), photographs(as_drawn)
    assert any(before["train"] & before[name] for name in before if name != "train")  # else this shows nothing
    assert not any(parts[one] & parts[other] for one in parts for other in parts if one != other)
    assert summary.counts == drawn.counts
    for name in store.splits:  # in each class, too
        labels = store.split(name).labels, as_drawn.split(name).labels
        assert np.bincount(labels[0]).tolist() == np.bincount(labels[1]).tolist()
    names = [store.split(name).picture_name(n) for name in store.splits for n in range(len(store.split(name)))]
    assert sorted(names) == sorted(str(path.relative_to(source)) for path in source.rglob("*.jpg"))
    assert summary.duplicates["pictures"] == 12
    assert summary.duplicates["shared"] == {}
    assert "12 pictures of the same photograph as an earlier one" in str(summary)
    assert f"moved {summary.duplicates['moved']} pictures to another split" in str(summary)
    lines = [json.loads(line)["pictures"] for line in (tmp_path / "store" / DUPLICATES_FILE).read_text().splitlines()]
    assert len(lines) == 12
    for line in lines:
        assert len({(picture["split"], picture["name"].partition("-")[0]) for picture in line}) == 1
        for picture in line:
            assert picture["name"].partition("-")[0] in parts[picture["split"]]


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_the_pictures_and_statistics_of_moved_pictures_are_right(tmp_path: Path, encoding: str) -> None:
    source = write_scenes(tmp_path / "source", {"a": 15, "b": 18}, copies=6)
    prepare_small(source, tmp_path / "store", held_out=0.3, encoding=encoding)
    store = Store(tmp_path / "store")
    pictures = {name: [] for name in store.splits}
    for name in store.splits:
        split = store.split(name)
        for n in range(len(split)):
            square = read_image(source / split.picture_name(n), 16)
            pictures[name].append(square)
            if encoding == "raw":
                assert np.array_equal(split.image(n), square)
            assert store.classes[split.labels[n]] == split.picture_name(n)[0]
    train = np.stack(pictures["train"])
    assert np.allclose(store.statistics.mean, train.mean(0).transpose(2, 0, 1), atol=1e-4)
    assert np.allclose(store.statistics.covariance, np.cov(train.reshape(-1, 3).T, bias=True))
    assert store.statistics.count == len(train)


def test_pictures_of_many_copies_are_still_held_out(tmp_path: Path) -> None:
    """As in sets that were augmented before they were published: three pictures of each photograph."""
    source = write_scenes(tmp_path / "source", {"a": 10, "b": 10}, copies=10, each=3)
    summary = prepare_small(source, tmp_path / "store", held_out=0.2)
    assert summary.counts == {"train": 48, "val": 12}
    parts = photographs(Store(tmp_path / "store"))
    assert not parts["train"] & parts["val"]


def test_the_bytes_do_not_depend_on_threads_or_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_scenes(tmp_path / "source", {"a": 15, "b": 18}, copies=6)
    (source / "a" / "00-1.jpg").write_bytes(b"no picture")
    (source / "b" / "17-0.jpg").write_bytes(b"")
    prepare_small(source, tmp_path / "expected", held_out=0.3, workers=1, test=0.1)
    for step in range(40):  # killed before each file is written
        written = 0

        def count_or_stop(*arguments: object, original: object, step: int = step) -> object:
            nonlocal written
            written += 1
            if written > step:
                raise KeyboardInterrupt
            return original(*arguments)  # type: ignore[operator]

        with monkeypatch.context() as patch:
            for name in ("write_shard", "_remove_pictures", "write_atomic"):
                original = getattr(moves, name)
                patch.setattr(moves, name, lambda *a, original=original: count_or_stop(*a, original=original))
            try:
                prepare_small(source, tmp_path / "store", held_out=0.3, workers=3, test=0.1)
                break
            except KeyboardInterrupt:
                continue
    assert step > 3
    assert read_files(tmp_path / "store") == read_files(tmp_path / "expected")
    summary = prepare_small(source, tmp_path / "store", held_out=0.3, test=0.1)
    assert summary.already
    assert summary.duplicates["pictures"] == 11


def test_photographs_that_the_users_own_splits_share_are_reported(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for split, seeds in (("train", range(10)), ("val", range(8, 12)), ("test", range(11, 14))):
        for seed in seeds:
            path = source / split / "ab"[seed % 2] / f"{seed}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(draw_scene(seed)))
    summary = prepare_small(source, tmp_path / "store")
    assert summary.counts == {"train": 10, "val": 4, "test": 3}  # nothing is moved
    assert summary.duplicates == {
        "pictures": 3,
        "moved": 0,
        "shared": {"val": 2, "test": 1},
        "examples": [
            ["val/a/8.jpg", "train/a/8.jpg"],
            ["val/b/9.jpg", "train/b/9.jpg"],
            ["test/b/11.jpg", "val/b/11.jpg"],
        ],
    }
    assert "warning: 2 of val and 1 of test show photographs of an earlier split" in str(summary)
    assert "val/a/8.jpg (train/a/8.jpg)" in str(summary)


def test_a_split_that_would_be_left_without_pictures_is_refused(tmp_path: Path) -> None:
    source = write_scenes(tmp_path / "source", {"a": 1, "b": 1}, copies=1, each=3)
    with pytest.raises(
        ValueError, match=r"each picture of 'val' shows the same photograph as one in train.* use `ignore_dup"
    ):
        prepare_small(source, tmp_path / "store")
    assert prepare_small(source, tmp_path / "other", ignore_duplicates=True).counts == {"train": 4, "val": 2}


def test_duplicates_across_classes_are_kept_together(tmp_path: Path) -> None:
    source = write_scenes(tmp_path / "source", {"a": 10, "b": 10})
    for number in range(5):
        (source / "b" / f"{number:02d}-0.jpg").write_bytes((source / "a" / f"{number:02d}-0.jpg").read_bytes())
    summary = prepare_small(source, tmp_path / "store", held_out=0.4)
    assert summary.counts == {"train": 12, "val": 8}
    assert summary.duplicates["pictures"] == 5
    assert summary.duplicates["moved"] > 0
    store = Store(tmp_path / "store")
    numbers = {split: {name.partition("/")[2] for name in names} for split, names in photographs(store).items()}
    assert not {f"{number:02d}" for number in range(5)} & numbers["train"] & numbers["val"]
