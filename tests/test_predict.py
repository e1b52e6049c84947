"""`alexnet predict` and `Classifier.predict_stream`: many pictures from many places, in four formats."""

import csv
import io
import itertools
import json
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from alexnet.cli import main
from alexnet.results.classifier import Classifier


@pytest.fixture(scope="module")
def classifier(uninterrupted: Path) -> Classifier:
    """The classifier of a small run."""
    return Classifier.load(uninterrupted)


@pytest.fixture(scope="module")
def address(picture_folder: Path) -> Iterator[str]:
    """The address at which a server has the pictures."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(picture_folder)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def printed(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> tuple[str, str]:
    """Run the command and return its standard output and standard error."""
    capsys.readouterr()
    assert main(["predict", *map(str, arguments)]) == status
    return capsys.readouterr()


@pytest.mark.parametrize("batch_size", [None, 1, 5])
def test_the_stream_has_the_predictions_of_single_pictures(
    classifier: Classifier, picture_folder: Path, batch_size: int | None
) -> None:
    paths = sorted(picture_folder.glob("*/*"))
    pictures = [paths[0], paths[1].read_bytes(), "none.png", b"text", *paths[2:]]
    stream = list(classifier.predict_stream(pictures, top=2, batch_size=batch_size))
    assert [prediction.name for prediction in stream] == [str(paths[0]), "", "none.png", "", *map(str, paths[2:])]
    errors = [prediction.error for prediction in stream if prediction.error is not None]
    assert [error.partition(":")[0] for error in errors] == ["none.png", "not a readable picture"]
    predicted = [prediction.classes for prediction in stream if prediction.error is None]
    for classes, path in zip(predicted, paths, strict=True):
        expected = classifier.predict(path, top=2)
        assert [name for name, _ in classes] == [name for name, _ in expected]
        assert [p for _, p in classes] == pytest.approx([p for _, p in expected], abs=1e-6)


def test_an_address_is_predicted_as_its_file(classifier: Classifier, picture_folder: Path, address: str) -> None:
    path = min(picture_folder.glob("*/*"))
    url = f"{address}/{path.relative_to(picture_folder)}"
    assert classifier.predict(url) == classifier.predict(path)
    assert classifier.predict([url, path]) == classifier.predict([path, path])
    with pytest.raises(OSError, match=f"^{address}/none cannot be downloaded; the server says 404"):
        classifier.predict(f"{address}/none")
    with pytest.raises(ValueError, match=f"^{address}/: not a readable picture: "):  # a listing of the folder
        classifier.predict(f"{address}/")


def test_the_stream_takes_few_pictures_ahead(classifier: Classifier, picture_folder: Path) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        for path in itertools.cycle(picture_folder.glob("*/*.png")):
            taken += 1
            yield path

    stream = classifier.predict_stream(endless(), batch_size=4)
    for _ in range(40):
        assert next(stream).error is None
    assert taken < 40 + 60  # a batch, as many in the queue, and two for each core
    stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("options", [{"top": 0}, {"views": 3}, {"batch_size": 0}])
def test_options_are_checked_before_a_picture_is_taken(classifier: Classifier, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        classifier.predict_stream(iter(()), **options)


def test_all_places_and_formats_agree(
    uninterrupted: Path, picture_folder: Path, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(picture_folder.glob("red disc/*"))
    with zipfile.ZipFile(tmp_path / "red.zip", "w") as archive:
        for path in files:
            archive.write(path, path.name)
    (tmp_path / "names").write_text("\n".join(map(str, files)))
    (tmp_path / "text.jpg").write_text("text")
    command = [uninterrupted, "--views", "1", "--top", "2"]
    expected = [entry["predictions"] for entry in json.loads(printed(capsys, *command, "--json", *files)[0])]
    addresses = [f"{address}/red%20disc/{path.name}" for path in files]
    with (tmp_path / "names").open() as names, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", names)
        what = [picture_folder / "red disc", tmp_path / "red.zip", picture_folder / "red*" / "*", *addresses, "-"]
        out, err = printed(capsys, *command, "--jsonl", *what, tmp_path / "text.jpg")
    *entries, last = map(json.loads, out.splitlines())
    in_zip = [f"{tmp_path / 'red.zip'}/{path.name}" for path in files]
    paths = [str(path) for path in files]
    assert [entry["image"] for entry in entries] == [*paths, *in_zip, *paths, *addresses, *paths]
    for entry, predictions in zip(entries, itertools.cycle(expected)):
        assert [p["class"] for p in entry["predictions"]] == [p["class"] for p in predictions]
        assert [p["probability"] for p in entry["predictions"]] == pytest.approx(
            [p["probability"] for p in predictions], abs=1e-6
        )
    assert last == {"image": str(tmp_path / "text.jpg"), "error": err.removeprefix("alexnet: ").strip()}
    assert "text.jpg: not a readable picture: in an unknown format" in err


@pytest.mark.parametrize("kind", ["text", "bytes", "nothing", "closed"])
def test_a_caller_s_standard_input_need_not_be_a_file(
    kind: str,
    uninterrupted: Path,
    picture_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [str(path) for path in sorted(picture_folder.glob("*/*"))[:2]]
    lines = "".join(f"{path}\r\n" for path in paths)
    inputs = {"text": io.StringIO(lines), "bytes": io.BytesIO(lines.encode()), "nothing": io.StringIO(), "closed": None}
    monkeypatch.setattr("sys.stdin", inputs[kind])
    is_empty = kind in ("nothing", "closed")
    out, err = printed(capsys, uninterrupted, "-", "--jsonl", "--views", "1", status=2 if is_empty else 0)
    if is_empty:
        assert err.startswith("alexnet: -: standard input must ")
    else:
        assert [json.loads(line)["image"] for line in out.splitlines()] == paths


def test_a_table(uninterrupted: Path, picture_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = picture_folder / "red disc" / "0-2.png"
    out, _ = printed(capsys, uninterrupted, "none, or.png", path, "--csv", "--top", "2", "--views", "1")
    (entry,) = json.loads(printed(capsys, uninterrupted, path, "--json", "--top", "2", "--views", "1")[0])
    missing, row = csv.DictReader(io.StringIO(out))
    assert list(row) == ["image", "views", "guess1", "probability1", "guess2", "probability2", "error"]
    assert (row["image"], row["views"], row["error"]) == (str(path), "1", "")
    for number, guess in enumerate(entry["predictions"], start=1):
        assert row[f"guess{number}"] == guess["class"]
        assert float(row[f"probability{number}"]) == pytest.approx(guess["probability"], rel=1e-4)
    assert missing["error"] == "none, or.png: No such file or directory"
    assert set(missing.values()) == {"none, or.png", "", missing["error"]}


@pytest.mark.parametrize("format", ["--json", "--jsonl", "--csv", "--views=1"])
def test_the_status_is_2_if_no_picture_could_be_read(
    uninterrupted: Path, tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = printed(capsys, uninterrupted, tmp_path, tmp_path / "no.png", format, status=2)
    assert err.count("\n") == 2
    assert f"{tmp_path}: no file in it has the name of a picture" in err
    assert out.count("no.png: No such file") == (0 if format == "--views=1" else 1)
    if format == "--json":
        assert len(json.loads(out)) == 2


def test_an_error_is_one_line(uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("1", (9600, 14000)).save(tmp_path / "large.png")  # Pillow warns about it
    (tmp_path / "two  words\n.png").write_text("text")
    out, err = printed(capsys, uninterrupted, tmp_path, status=2)
    assert out == ""
    large, text = err.splitlines()
    assert large.startswith(
        f"alexnet: {tmp_path}/large.png: not a readable picture: a picture must have from 1 to 134,"
    )
    assert text.startswith(f"alexnet: {tmp_path}/two words .png: not a readable picture: in an unknown format")


def test_a_name_that_is_no_text_is_printed(
    uninterrupted: Path, picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "\udcff.png"  # the byte 255
    path.write_bytes((picture_folder / "red disc" / "0-2.png").read_bytes())
    for format in ("--json", "--jsonl"):
        assert r"\udcff.png" in printed(capsys, uninterrupted, path, format)[0]
    assert r"\udcff.png" in printed(capsys, uninterrupted, path, "--csv")[0]
    assert r"\udcff.png" in printed(capsys, uninterrupted, path)[0]


# ---- Explanations ---------------------------------------------------------------------------------------------------


def text_of(path: Path) -> tuple[str, str]:
    """Return the title and the source in the metadata of a PNG."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) > 200
        return image.info["Title"], image.info["Source"]


def test_each_picture_gets_a_file_that_explains_it(
    uninterrupted: Path, picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (picture_folder / name for name in ("red disc/0-2.png", "green square/0-1.png"))
    (tmp_path / "0-1.png").write_bytes(second.read_bytes())  # another picture with the same name
    folder = tmp_path / "new" / "why"
    folder.mkdir(parents=True)
    (folder / "0-2.png").write_bytes(first.read_bytes())  # not a file of this command
    names = [first, tmp_path / "none.png", second, tmp_path / "0-1.png"]
    command = [uninterrupted, *names, "--top", "2", "--views", "1"]
    out, err = printed(capsys, *command, "--explain", folder, "--jsonl")
    entries = [json.loads(line) for line in out.splitlines()]
    files = [folder / "0-2-2.png", None, folder / "0-1.png", folder / "0-1-2.png"]
    assert [entry.get("explanation") for entry in entries] == [path and str(path) for path in files]
    assert [len(entry.get("predictions", [])) for entry in entries] == [2, 0, 2, 2]
    assert err.splitlines()[0].endswith(f"no index; build it with alexnet index {uninterrupted} STORE")
    assert (folder / "0-2.png").read_bytes() == first.read_bytes()
    for path, name in zip(files, names, strict=True):
        if path:
            assert text_of(path) == ("explanation of a prediction", str(name))

    before = {path: path.read_bytes() for path in folder.iterdir()}
    out, _ = printed(capsys, *command, "--explain", folder, "--csv")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0])[-2:] == ["explanation", "error"]
    assert [row["explanation"] for row in rows] == [str(path) if path else "" for path in files]
    assert rows[1]["error"]


def test_a_class_can_be_named(
    uninterrupted: Path, picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [uninterrupted, picture_folder / "red disc" / "0-2.png", "--explain", tmp_path / "why"]
    contents = set()
    for name in ("red disc", "blue stripes"):
        out, _ = printed(capsys, *command, "--label", name, "--occlusion-size", "8", "--occlusion-stride", "8")
        assert out.splitlines()[-1] == f"  why: {tmp_path / 'why' / '0-2.png'}"
        contents.add((tmp_path / "why" / "0-2.png").read_bytes())
    assert len(contents) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label", "red disk"], "--label must be one of the 3 classes of the run; got 'red disk': try 'red disc'"),
        (["--occlusion-size", "25"], "--occlusion-size must be from 1 to 24 pixels"),
        (["--occlusion-stride", "0"], "--occlusion-stride must be from 1 to 3 pixels"),
        (["--explain", "{file}"], "file must be a folder for the explanations; it is a file: name another"),
        (["--explain", "{file}/why"], "file/why must be a folder that you may write to; Not a directory: name another"),
        (["--explain", "/proc/why"], "/proc/why must be a folder that you may write to; "),
    ],
)
def test_wrong_explanations_are_one_line(
    uninterrupted: Path,
    picture_folder: Path,
    tmp_path: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("text")
    options = [option.format(file=tmp_path / "file") for option in options]
    folder = [] if "--explain" in options else ["--explain", tmp_path / "why"]
    command = [uninterrupted, picture_folder / "red disc" / "0-2.png", *folder, *options]
    out, err = printed(capsys, *command, status=2)
    errors = [line for line in err.splitlines() if not line.startswith("note:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert out == ""


def test_options_of_explanations_need_a_folder(
    uninterrupted: Path, picture_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, err = printed(capsys, uninterrupted, picture_folder, "--label", "red disc", status=2)
    assert err == "alexnet: --label must be given with a folder for the explanations: add --explain FOLDER\n"
