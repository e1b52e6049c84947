"""Class folders packed in the other forms that `prepare` reads, for benchmarks/prepare_sources.py."""

import csv
import gzip
import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_ROW_GROUP = 100  # rows, as Hugging Face's `datasets` writes pictures
_SHARD_PICTURES = 1000


def _iter_files(folders: Path) -> Iterator[tuple[Path, str]]:
    """Yield the picture files of class folders, in order, and their paths within them."""
    for path in sorted(path for path in folders.rglob("*") if path.is_file()):
        yield path, path.relative_to(folders).as_posix()


def _write_tar(folders: Path, target: Path) -> Path:
    """Write an uncompressed .tar."""
    path = target / "pictures.tar"
    with tarfile.open(path, "w") as archive:
        for file, name in _iter_files(folders):
            archive.add(file, name)
    return path


def _write_gzip(folders: Path, target: Path) -> Path:
    """Write a .tar that is compressed with gzip."""
    path = target / "pictures.tar.gz"
    with _write_tar(folders, target).open("rb") as source, gzip.open(path, "wb", compresslevel=1) as file:
        shutil.copyfileobj(source, file)
    return path


def _write_zstd(folders: Path, target: Path) -> Path:
    """Write a .tar that is compressed with Zstandard."""
    path = target / "pictures.tar.zst"
    with _write_tar(folders, target).open("rb") as source, pa.CompressedOutputStream(path, "zstd") as file:
        shutil.copyfileobj(source, file)
    return path


def _write_zip(folders: Path, target: Path) -> Path:
    """Write a .zip that is not compressed."""
    path = target / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file, name in _iter_files(folders):
            archive.write(file, name)
    return path


def _write_list(folders: Path, target: Path) -> Path:
    """Write a table with a row for each picture, beside links to the folders."""
    path = target / "pictures.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for picture, name in _iter_files(folders):
            (target / name).parent.mkdir(exist_ok=True)
            (target / name).symlink_to(picture.resolve())
            writer.writerow([name, picture.parent.name])
    return path


def _write_parquet(folders: Path, target: Path) -> Path:
    """Write a Parquet file with row groups of 100 pictures."""
    path = target / "train.parquet"
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("label", pa.string())])
    files = list(_iter_files(folders))
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(files), _ROW_GROUP):
            group = files[start : start + _ROW_GROUP]
            images = [{"bytes": file.read_bytes(), "path": name} for file, name in group]
            labels = [file.parent.name for file, _ in group]
            writer.write_table(pa.table({"image": pa.array(images, image), "label": labels}, schema=schema))
    return path


def _write_shards(folders: Path, target: Path) -> Path:
    """Write WebDataset shards of 1,000 pictures."""
    files = list(_iter_files(folders))
    for number, start in enumerate(range(0, len(files), _SHARD_PICTURES)):
        with tarfile.open(target / f"{number:06d}.tar", "w") as archive:
            for file, name in files[start : start + _SHARD_PICTURES]:
                archive.add(file, name)
                label = file.parent.name.encode()
                member = tarfile.TarInfo(f"{name.rpartition('.')[0]}.cls")
                member.size = len(label)
                archive.addfile(member, io.BytesIO(label))
    return target


PACKERS: dict[str, Callable[[Path, Path], Path]] = {
    "tar": _write_tar,
    "tar.gz": _write_gzip,
    "tar.zst": _write_zstd,
    "zip": _write_zip,
    "list": _write_list,
    "parquet": _write_parquet,
    "webdataset": _write_shards,
}
