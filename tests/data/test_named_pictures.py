"""What the names that a user types stand for: files, folders, patterns, archives, pipes, and lists of names."""

import os
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from alexnet.data.sources.named_pictures import iter_named_pictures, read_lines

FILES = ("a/1.png", "a/b/2.jpg", "a/b/notes.txt", "a/.hidden.png", "c/3.PNG", "c/without ending", "[d].jpg")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a file for each of FILES, whose contents are its name."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(names: Iterable[str], lines: Iterable[str] = ()) -> dict[str, str]:
    """Return the contents of the pictures, or the reasons why they cannot be read."""
    read = {}
    for picture in iter_named_pictures(names, lines):
        try:
            read[picture.name] = picture.read().decode()
        except (ValueError, OSError) as error:
            read[picture.name] = f"error: {error}"
    return read


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a/1.png", ["a/1.png"]),
        ("a/b/notes.txt", ["a/b/notes.txt"]),  # read, since it is named itself; the decoder will refuse it
        ("a", ["a/1.png", "a/b/2.jpg"]),
        (".", ["[d].jpg", "a/1.png", "a/b/2.jpg", "c/3.PNG", "c/without ending"]),
        ("[d].jpg", ["[d].jpg"]),  # a name, not a pattern, where there is such a file
        ("*/?.png", ["a/1.png"]),
        ("**/*.jpg", ["[d].jpg", "a/b/2.jpg"]),
        ("a/**", ["a/1.png", "a/b/2.jpg", "a/b/notes.txt"]),  # each file once
        ("[ac]", ["a/1.png", "a/b/2.jpg", "c/3.PNG", "c/without ending"]),
    ],
)
def test_files_folders_and_patterns(folder: Path, name: str, found: list[str]) -> None:
    assert contents([name]) == {path: path for path in found}
    expected = {str(folder / path): path for path in found}
    if name != "[d].jpg":
        assert contents([str(folder / name)]) == expected


def test_lines_stand_where_the_dash_is() -> None:
    assert list(contents(["c/3.PNG", "-", "a/1.png"], ["a/b", "", "[d].jpg"])) == [
        "c/3.PNG",
        "a/b/2.jpg",
        "[d].jpg",
        "a/1.png",
    ]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archives(kind: str) -> None:
    path = f"pictures.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in FILES:
                archive.write(name)
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as tar:
            for name in FILES:
                tar.add(name)
    expected = ["a/1.png", "a/b/2.jpg", "c/3.PNG", "c/without ending", "[d].jpg"]
    assert contents([path]) == {f"{path}/{name}": name for name in expected}
    Path(path).rename("archive without ending")
    assert len(contents(["archive without ending"])) == len(expected)
    data = Path("archive without ending").read_bytes()
    Path(path).write_bytes(data[: len(data) // 2 - 100])
    read = contents([path])
    assert read[path].startswith("error: " + path)
    assert "again" in read[path]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.png", "No such file"),
        ("none*.png", "none*.png: no file has a name of this pattern"),
        ("empty", "empty: no file in it has the name of a picture"),
        ("text.tar", "text.tar: not a readable .tar or .zip; copy or download it again"),
        ("-", "standard input must have the names of pictures"),
        ("a\0b.png", "null"),
    ],
)
def test_names_that_stand_for_no_picture(folder: Path, name: str, reason: str) -> None:
    (folder / "empty").mkdir()
    (folder / "text.tar").write_text("text")
    read = contents([name, "a/1.png"])
    assert read["a/1.png"] == "a/1.png"
    assert reason in read[name]


def test_pipes_and_devices_have_the_limit_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet.data.sources.file_tree.MAX_FILE_BYTES", 3_000_000)
    assert "must have at most 3,000,000 bytes" in contents(["/dev/zero"])["/dev/zero"]
    reader, writer = os.pipe()
    os.write(writer, b"contents")
    os.close(writer)
    assert contents([f"/dev/fd/{reader}"]) == {f"/dev/fd/{reader}": "contents"}
    os.close(reader)


def test_lines_are_read_as_soon_as_they_are_written() -> None:
    reader, writer = os.pipe()
    lines = read_lines(reader)
    os.write(writer, b"one\ntwo\r\n\nthr")
    assert [next(lines) for _ in range(3)] == ["one", "two", ""]
    os.write(writer, b"ee\n\xff")
    os.close(writer)
    assert list(lines) == ["three", os.fsdecode(b"\xff")]
    os.close(reader)
