"""README.md and the other pages: their commands and Python examples run, and their links point to files."""

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from source_code import ROOT

from alexnet import cli
from alexnet.finetuning_recipes import FINETUNING_RECIPES, photos_finetune
from alexnet.recipe import Recipe
from alexnet.recipes import RECIPES

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS_PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
OWN_PICTURES_SECTION = README.split("## Your own pictures")[1].split("\n## ")[0]


def command_lines(text: str) -> list[list[str]]:
    """Return the arguments of each `alexnet` command in a text's indented blocks."""
    lines = re.findall(r"^    alexnet (.*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def torchvision_convolutions() -> dict[str, torch.Tensor]:
    """Return random weights of a narrow net with torchvision's names."""
    sizes = {0: (8, 3, 11), 3: (8, 8, 5), 6: (8, 8, 3), 8: (8, 8, 3), 10: (8, 8, 3)}
    weights = {f"features.{n}.weight": torch.randn(maps, channels, k, k) for n, (maps, channels, k) in sizes.items()}
    return weights | {f"features.{n}.bias": torch.zeros(maps) for n, (maps, _, _) in sizes.items()}


def test_the_commands_for_ones_own_pictures_run_in_order(
    picture_folder: Path,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A small net in place of the recipe's: the test is of the commands, not of the net.
    monkeypatch.setitem(RECIPES, "photos", lambda: replace(recipe, store_size=256, epochs=1))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(picture_folder, "pictures")
    shutil.copy(min(picture_folder.glob("*/*.jpg")), "robin.jpg")
    lines = command_lines(OWN_PICTURES_SECTION)
    commands = ["prepare", "train", "evaluate", "predict", "export", "import", "train"]
    assert [line[0] for line in lines] == commands
    torch.save(torchvision_convolutions(), next(line[1] for line in lines if line[0] == "import"))
    monkeypatch.setitem(
        FINETUNING_RECIPES,
        "photos-finetune",
        lambda origin: replace(photos_finetune(origin), epochs=1, augmentations=1),
    )
    for line in lines:
        assert cli.main(line) == 0, line
    assert Path("runs/mine/report.html").exists()
    (python,) = re.findall(r"```python\n(.*?)```", OWN_PICTURES_SECTION, re.DOTALL)
    capsys.readouterr()
    exec(python.replace("Classifier.load", "print(Classifier.load").replace('robin.jpg")', 'robin.jpg"))'), {})
    assert capsys.readouterr().out.startswith("[('")


def test_the_table_of_commands_has_every_command() -> None:
    cells = re.findall(r"^\| (`alexnet .*?) \|", COMMANDS_PAGE, re.MULTILINE)
    in_table = set()
    for command in re.findall(r"`alexnet (.*?)`", " ".join(cells)):
        arguments = shlex.split(command.replace("[", "").replace("]", "").replace("...", ""))
        in_table.add(cli.build_parser().parse_args(arguments).run_command)
    in_help = re.findall(r"^ {4}(\w+) {2,}", cli.build_parser().format_help(), re.MULTILINE)
    assert len(in_table) == len(in_help), "the table and `alexnet --help` must name the same commands"


def test_the_table_of_recipes_has_every_recipe() -> None:
    table = COMMANDS_PAGE.split("## Recipes")[1].split("\n## ")[0]
    assert set(re.findall(r"`([a-z0-9-]+)`", table)) == set(RECIPES)


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda page: page.name)
def test_links_point_to_files_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page} links to {target}"


def test_the_readme_fits_on_two_screens() -> None:
    assert len(README.splitlines()) <= 90


def test_the_files_that_answer_the_twenty_questions_exist() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files = re.findall(r"^\| .*\? \| `(.*)` \|$", contributing, re.MULTILINE)
    assert len(files) == 20
    assert [file for file in files if not (ROOT / "alexnet" / file).exists()] == []
