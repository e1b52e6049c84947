"""Speed and memory of preparing pictures from a .tar of a .tar for each class, as ImageNet comes, beside folders.

    python benchmarks/prepare_sources.py [--pictures FOLDER] [--kind small|web|large] [--count 2000] [--repeats 5]
                                         [--also tar.gz,parquet,...|all] [--cold]

The pictures are packed as ImageNet's training archive is, and once more lie in a folder for each class. Both are
prepared to raw stores, in turn; the stores must be the same byte for byte. The table gives the medians, and the median
of the ratios of two runs that follow each other, of the time and of the processor time (user and system, all threads),
which depends less on the disk and on other programs. The time includes the listing of the pictures. Both are in the
file cache; with --cold they are dropped from it before each run. --also adds other forms of the same class folders, as
synthetic/packed.py writes them; their stores must have the same rows.

A second table gives the peak memory of `alexnet prepare` for a quarter of the pictures, and for all, from the archive:
its own, which grows by the listing only, and that of mapped files, such as the store. Takes about two minutes on two
cores.
"""

import argparse
import filecmp
import os
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pyarrow as pa
from common.memory import peak_memory
from common.output import markdown_table
from synthetic.packed import PACKERS
from synthetic.photographs import SIZES, describe_files, draw_folder

from alexnet.data.prepare.prepare import prepare

_SIDE = 256


def _list_pictures(folder: Path) -> list[list[Path]]:
    """Return the JPEG files of each class folder."""
    by_class: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg"):
            by_class.setdefault(path.parent, []).append(path)
    return list(by_class.values())


def _pack(by_class: list[list[Path]], archives: Path, folders: Path) -> None:
    """Write the pictures into a .tar of a .tar for each class, and into a folder for each class.

    Args:
        by_class: The files of each class.
        archives, folders: The two sources, of the same name, to write.
    """
    archives.mkdir(parents=True)
    with tarfile.open(archives / "train.tar", "w") as outer:
        for number, paths in enumerate(by_class):
            synset = f"n{number:08d}"
            inner_path = archives / f"{synset}.part"
            with tarfile.open(inner_path, "w") as inner:
                for path in paths:
                    inner.add(path.resolve(), f"{synset}_{path.stem}.JPEG")
            outer.add(inner_path, f"{synset}.tar")
            inner_path.unlink()
            (folders / synset).mkdir(parents=True)
            for path in paths:
                shutil.copyfile(path, folders / synset / f"{synset}_{path.stem}.JPEG")


def _drop_cache(folder: Path) -> None:
    """Drop the pages of a folder's files from the file cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _prepare(source: Path, store: Path, workers: int) -> tuple[float, float]:
    """Prepare a store and return the seconds, and those of the processor."""
    shutil.rmtree(store, ignore_errors=True)
    start, processor_start = time.perf_counter(), time.process_time()
    prepare(source, store, size=_SIDE, workers=workers, progress=False)
    return time.perf_counter() - start, time.process_time() - processor_start


def _format_ratios(first: list[float], second: list[float]) -> str:
    """Return the median of the ratios of two lists of seconds, and the least and the greatest."""
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def _read_rows(store: Path) -> list[pa.Table]:
    """Return the rows of a store's shards; the shards also have the name of the source."""
    shards = sorted(store.glob("*.arrow"))
    return [pa.ipc.open_file(pa.memory_map(str(path))).read_all().replace_schema_metadata(None) for path in shards]


def _check_stores(stores: dict[str, Path]) -> None:
    """Check that the stores are the same: of the tar of tars byte for byte, of other sources the rows."""
    first, second, *others = stores.values()
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir()), "the stores must have the same files"
    assert filecmp.cmpfiles(first, second, names, shallow=False)[0] == names, (
        "the stores must be the same byte for byte"
    )
    for store in others:
        assert _read_rows(store) == _read_rows(first), f"{store}: must have the rows of the store from folders"


def _measure_rates(sources: dict[str, Path], temporary: Path, count: int, options: argparse.Namespace) -> None:
    """Print the table of rates, and check that the stores are the same.

    Args:
        sources: The sources by name; the first are the folders, the second is the tar of tars.
        temporary: A folder for the stores.
        count: The number of pictures.
        options: The options of the command line.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    processor_seconds: dict[str, list[float]] = {name: [] for name in sources}
    for repeat in range(options.repeats + 1):
        for name, source in sorted(sources.items(), reverse=bool(repeat % 2)):  # neither is always the first
            if options.cold:
                _drop_cache(source)
            duration, processor_duration = _prepare(source, temporary / name, options.workers)
            if repeat:  # the first call compiles, and fills the file cache
                seconds[name].append(duration)
                processor_seconds[name].append(processor_duration)
    _check_stores({name: temporary / name for name in sources})
    rows = []
    for name in sources:
        rate = f"{count / statistics.median(seconds[name]):.0f}"
        milliseconds = f"{1000 * statistics.median(processor_seconds[name]) / count:.2f}"
        ratios = [_format_ratios(values["folders"], values[name]) for values in (seconds, processor_seconds)]
        rows.append([name, rate, milliseconds, *(["", ""] if name == "folders" else ratios)])
    columns = ("prepared from", "pictures/s", "CPU ms", "of the rate from folders", "by CPU time")
    print(f"\n{markdown_table(rows, columns)}")
    print(f"\nThe stores are the same; {options.repeats} runs each, in turn.")


def _measure_memory(by_class: list[list[Path]], temporary: Path, workers: int) -> None:
    """Print the table of the peak memory for a quarter of the pictures and for all, from the archive."""
    rows = []
    for name, part in (("a quarter", [paths[: -(-len(paths) // 4)] for paths in by_class]), ("all", by_class)):
        archives, store = temporary / name / "archives", temporary / name / "store"
        _pack(part, archives, temporary / name / "folders")
        command = [sys.executable, "-m", "alexnet", "prepare", archives, store, "--workers", workers]
        own, mapped = peak_memory([str(argument) for argument in command])
        size = (archives / "train.tar").stat().st_size
        rows.append([f"{name}: {sum(map(len, part)):,}", f"{size / 1e6:,.0f}", f"{own:.0f}", f"{mapped:.0f}"])
    print(f"\n{markdown_table(rows, ('pictures', 'archive, MB', 'own memory, MB', 'mapped, MB'))}")


def _parse_kinds(text: str) -> list[str]:
    """Return the kinds of sources in a list separated by commas."""
    kinds = list(PACKERS) if text == "all" else text.split(",")
    if unknown := sorted(set(kinds) - set(PACKERS)):
        raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(PACKERS)}")
    return kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a folder with a folder of JPEG files per class")
    parser.add_argument("--kind", choices=SIZES, default="web", help="size of synthetic pictures; default: %(default)s")
    parser.add_argument("--count", type=int, default=2000, help="number of synthetic pictures; default: %(default)s")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="threads; default: all cores")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each; default: %(default)s")
    parser.add_argument("--also", type=_parse_kinds, default=[], metavar="KIND,...|all", help=", ".join(PACKERS))
    parser.add_argument("--cold", action="store_true", help="drop the files from the cache before each run")
    parser.add_argument("--folder", type=Path, help="where to write the temporary files; default: TMPDIR")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        temporary = Path(name)
        pictures = options.pictures or draw_folder(temporary / "drawn", options.count, options.kind)
        by_class = _list_pictures(pictures)
        paths = [path for class_paths in by_class for path in class_paths]
        print(f"{describe_files(paths)}, {len(by_class)} classes; {options.workers} threads")
        archives, folders = (temporary / part / "imagenet" for part in ("a", "b"))  # of one name, which the store has
        _pack(by_class, archives, folders)
        sources = {"folders": folders, "tar of tars": archives}
        for kind in options.also:
            (temporary / "packed" / kind).mkdir(parents=True)
            sources[kind] = PACKERS[kind](folders, temporary / "packed" / kind)
        _measure_rates(sources, temporary / "stores", len(paths), options)
        _measure_memory(by_class, temporary, options.workers)


if __name__ == "__main__":
    main()
