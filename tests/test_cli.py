"""The commands as a user meets them: what they print, where, and with which exit status."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import small_net
from PIL import Image

import alexnet
from alexnet import cli
from alexnet.cli.main import build_parser
from alexnet.recipe import Recipe
from alexnet.recipes import RECIPES
from alexnet.utils.files import local_path

COMMANDS = [
    "demo",
    "recipes",
    "prepare",
    "train",
    "evaluate",
    "predict",
    "submit",
    "index",
    "similar",
    "reproduce",
    "report",
    "figures",
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, picture_folder: Path) -> Path:
    """A folder with a store and a trained run, both made by the commands."""
    folder = tmp_path_factory.mktemp("work")
    RECIPES["small"] = lambda: Recipe(net=small_net(), store_size=32, batch_size=10, schedule="cosine", epochs=2)
    try:
        assert cli.main(["prepare", str(picture_folder), str(folder / "store"), "--size", "32"]) == 0
        assert cli.main(["train", str(folder / "store"), str(folder / "run"), "--recipe", "small"]) == 0
    finally:
        del RECIPES["small"]
    return folder


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must end with status 2 and print one line, on standard error only; return this line."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("alexnet: ")
    return err


def test_help_and_version_need_no_torch() -> None:
    code = "import sys, alexnet.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("False\n")
    version = subprocess.run([sys.executable, "-m", "alexnet", "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("alexnet 0.")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_shows_only_defaults_that_are_set(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"usage: alexnet {command} ")
    assert not re.search(r"default: (None|False|\[\])", text)


def test_the_options_for_several_processes_are_a_group_after_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    _, *groups = capsys.readouterr().out.split("\n\n")
    titles = [group.splitlines()[0] for group in groups if not group.startswith(" ")]
    assert titles[-2:] == ["speed and memory:", "several processes:"]
    assert "--recipe" in next(group for group in groups if group.startswith("options:"))
    assert re.findall(r"^  (--\S+)", groups[-1], re.MULTILINE) == ["--parallel", "--hang-seconds"]


def test_recipes_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(RECIPES)
    assert cli.main(["recipes", "photos"]) == 0
    assert Recipe.from_json(capsys.readouterr().out) == RECIPES["photos"]()


def test_a_run_has_a_recipe_metrics_checkpoints_and_a_report(work: Path) -> None:
    names = {path.name for path in (work / "run").iterdir()}
    assert names >= {"recipe.json", "metrics.jsonl", "checkpoints", "report.html"}
    assert (work / "run" / "checkpoints" / "best.safetensors").exists()


def test_a_folder_below_a_file_is_refused(
    picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    line = error_of(capsys, "prepare", picture_folder, tmp_path / "file" / "new")
    assert line.endswith("Not a directory: a part of this path is a file: choose another path\n")


@pytest.mark.parametrize("views", [1, 10])
def test_evaluate_prints_one_json_object(work: Path, views: int, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", work / "run", work / "run", work / "store", "--views", views, "--json"]
    assert cli.main([str(argument) for argument in command]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["views"] == views
    assert 0 <= results["top5_error"] <= results["top1_error"] <= 1
    assert results["log_prob"] > 0
    for guesses in (1, 5):
        low, high = results[f"top{guesses}_interval"]
        assert 0 <= low <= results[f"top{guesses}_error"] <= high <= 1
    assert cli.main(["evaluate", str(work / "run"), str(work / "store"), "--views", str(views)]) == 0
    low, high = results["top1_interval"]
    error = f"top-1 error {100 * results['top1_error']:.1f} % ({100 * low:.1f} to {100 * high:.1f}), top-5 error "
    assert error in capsys.readouterr().out


def test_predict_names_classes_and_reports_missing_files(
    work: Path, picture_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [*sorted(str(path) for path in picture_folder.glob("*/0-0.png")), str(picture_folder / "no.png")]
    assert cli.main(["predict", str(work / "run"), *pictures, "--json", "--top", "2"]) == 0  # the last is missing
    out, err = capsys.readouterr()
    entries = json.loads(out)
    assert [entry["image"] for entry in entries] == pictures
    assert all(len(entry["predictions"]) == 2 for entry in entries[:-1])
    assert "No such file" in entries[-1]["error"]
    assert err.count("\n") == 1
    assert all(entry["views"] == 10 for entry in entries[:-1])
    assert cli.main(["predict", str(work / "run"), pictures[0]]) == 0
    out, err = capsys.readouterr()
    assert "%" in out
    assert err == "note: 10 views of each picture, the default; --views for another number\n"
    assert cli.main(["predict", str(work / "run"), pictures[0], "--views", "1"]) == 0
    assert capsys.readouterr().err == ""


def test_predict_imports_nothing_that_it_does_not_need(work: Path, picture_folder: Path) -> None:
    """For one picture most of the time is imports: torch._dynamo alone would take as long as torch."""
    picture = next(picture_folder.glob("*/*.jpg"))
    command = ["predict", str(work / "run"), str(picture), "--device", "cpu"]
    code = f"import sys, alexnet.cli as cli\nassert cli.main({command}) == 0\nprint(*sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unneeded = {"torch._dynamo", "torch._inductor", "sympy", "triton", "matplotlib", "jinja2", "sklearn"}
    assert set(result.stderr.split()) & unneeded == set()


def test_prepare_does_not_import_torch(picture_folder: Path, tmp_path: Path) -> None:
    """It would take longer than a few thousand pictures, and 300 MB."""
    command = ["prepare", str(picture_folder), str(tmp_path / "store"), "--size", "32"]
    code = f"import sys, alexnet.cli as cli\nassert cli.main({command}) == 0\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_figures_and_report_are_written_again(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["figures", str(work / "run"), "--folder", str(work / "figures")]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert paths
    for path in paths:
        Image.open(path).verify()
    (work / "run" / "report.html").unlink()
    assert cli.main(["report", str(work / "run")]) == 0
    assert (work / "run" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("command", ["figures", "look"])
def test_a_picture_of_the_user_s_is_never_replaced_and_a_figure_only_with_force(
    command: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--recipe", "tiny", "--set", "store_size=32", "--set", "net.image_size=24"] if command == "look" else []
    what = [command, work / ("store" if command == "look" else "run"), *settings, "--folder", tmp_path]
    path = tmp_path / ("augmentation.png" if command == "look" else "guesses.png")
    Image.new("RGB", (8, 8)).save(path)
    before = path.read_bytes()
    for force in ([], ["--force"]):
        assert "exists and is not a figure drawn by alexnet: it is not replaced" in error_of(capsys, *what, *force)
    assert path.read_bytes() == before
    assert [path] == list(tmp_path.iterdir())
    path.unlink()
    assert cli.main([str(argument) for argument in what]) == 0
    assert "exists: replace it with --force, or name another file" in error_of(capsys, *what)
    assert cli.main([str(argument) for argument in (*what, "--force")]) == 0
    with Image.open(path) as image:
        assert (image.info["Software"], len(image.info["Digest"])) == ("alexnet", 64)


def test_the_figures_in_a_run_s_own_folder_are_written_anew(work: Path) -> None:
    for _ in range(2):
        assert cli.main(["figures", str(work / "run")]) == 0


def test_training_a_finished_run_changes_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (work / "run" / "metrics.jsonl").read_bytes()
    assert cli.main(["train", str(work / "store"), str(work / "run")]) == 0
    assert (work / "run" / "metrics.jsonl").read_bytes() == before
    out = capsys.readouterr().out
    images = json.loads(before.splitlines()[-2])["images"]
    error = r"\d+\.\d % \(\d+\.\d to \d+\.\d\)"
    assert re.match(rf"2 epochs, top-1 error of the best checkpoint {error} on {images} validation pictures, ", out)


def test_an_error_of_the_user_is_reported_in_one_line(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    empty = tmp_path / "empty"
    empty.mkdir()
    store, run = work / "store", work / "run"
    assert "no-such-folder" in error_of(capsys, "prepare", tmp_path / "no-such-folder", tmp_path / "s")
    assert "empty" in error_of(capsys, "prepare", empty, tmp_path / "s")
    assert "text.jpg" in error_of(capsys, "prepare", text, tmp_path / "s")
    assert "no-such-recipe" in error_of(capsys, "train", store, tmp_path / "r", "--recipe", "no-such-recipe")
    assert "batch_size" in error_of(capsys, "train", store, tmp_path / "r", "--set", "batch_size=0")
    assert "store_size 256" in error_of(capsys, "train", store, tmp_path / "r", "--recipe", "photos")
    assert "another recipe" in error_of(capsys, "train", store, run, "--recipe", "tiny")
    assert "no checkpoint" in error_of(capsys, "evaluate", empty, store)
    assert "no such store" in error_of(capsys, "evaluate", run, tmp_path / "no-store")
    assert "views must be 1" in error_of(capsys, "evaluate", run, store, "--views", 3)
    assert "text.jpg" in error_of(capsys, "predict", run, text)
    assert "no checkpoint" in error_of(capsys, "predict", empty, text)
    assert not (tmp_path / "r").exists(), "a training that is refused writes nothing"


def test_a_run_that_is_not_there_and_a_damaged_recipe_are_named(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = error_of(capsys, "predict", tmp_path / "typo", "x.jpg")
    assert message == f"alexnet: run {tmp_path}/typo must be the folder of a trained net; there is no such folder\n"
    run = tmp_path / "run"
    run.mkdir()
    for damage in ("{", "[1]", '{"net": 3}', "\udcff"):
        (run / "recipe.json").write_bytes(damage.encode(errors="surrogateescape"))
        for command in (["train", work / "store", run], ["report", run, "--data", work / "store"]):
            (run / "metrics.jsonl").write_text('{"event": "start", "train_pictures": 1}\n')
            assert f"{run}/recipe.json" in error_of(capsys, *command)


def test_a_huge_seed_is_refused(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(capsys, "train", work / "store", tmp_path / "r", "--recipe", "tiny", "--set", f"seed={2**63}")
    assert "seed must be a whole number from 0 to " in error


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m alexnet recipes alexnet-2012-run | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert result.stdout == "{\n"
    assert result.stderr == ""


ADDRESS = "s3://bucket/x"


@pytest.mark.parametrize(
    "command",
    [
        f"check SOURCE --html {ADDRESS}",
        f"check SOURCE --run {ADDRESS}",
        f"demo {ADDRESS}",
        f"evaluate {ADDRESS} STORE",
        *(f"evaluate RUN STORE {option} {ADDRESS}" for option in ("--save", "--per-class", "--confusion")),
        f"export {ADDRESS}",
        f"export RUN {ADDRESS}",
        *(f"export RUN {option} {ADDRESS}" for option in ("--pt2", "--state", "--hub")),
        f"figures RUN --folder {ADDRESS}",
        f"import FILE {ADDRESS}",
        f"index {ADDRESS} STORE",
        f"look STORE --folder {ADDRESS}",
        f"predict {ADDRESS} IMAGE",
        f"prepare SOURCE {ADDRESS}",
        f"report {ADDRESS}",
        f"reproduce figure2 --folder {ADDRESS}",
        f"submit RUN PICTURES {ADDRESS}",
        f"train STORE {ADDRESS}",
        f"train STORE RUN --from {ADDRESS}",
    ],
)
def test_an_address_is_refused_wherever_a_local_path_is_needed(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_info:
        cli.main(command.split())
    assert exit_info.value.code == 2
    assert re.search(rf"{ADDRESS} must be a (path|folder) on this machine, not an address: ", capsys.readouterr().err)
    assert not any(tmp_path.iterdir()), 'no folder "s3:" is made'


# What these arguments name is only read; those of type `Path` that are not here would write to a folder "s3:".
READ_ONLY = {"source", "synsets", "file", "classes", "cost_matrix", "pictures", "ids", "images"}


def test_every_argument_that_names_a_place_to_write_to_refuses_an_address() -> None:
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    unchecked = {
        f"{name} {action.dest}"
        for name, command in commands.choices.items()
        for action in command._actions
        if action.type is Path and action.dest not in READ_ONLY
    }
    assert unchecked == set()


@pytest.mark.parametrize("address", ["s3://bucket/x", Path("s3://bucket/x"), "gs://bucket/x"])
def test_python_refuses_an_address_to_write_to(address: str | Path, picture_folder: Path) -> None:
    for call in (
        lambda: alexnet.prepare(picture_folder, address),
        lambda: alexnet.train("store", address),
        lambda: alexnet.export("run", onnx=address),
        lambda: alexnet.export("run", hub=address),
    ):
        with pytest.raises(ValueError, match="must be a path on this machine, not an address"):
            call()
    assert local_path("C:/pictures") == Path("C:/pictures")
