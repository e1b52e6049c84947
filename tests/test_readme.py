"""What the README shows works: its commands and its Python are run, its links lead somewhere."""

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet import cli
from alexnet.recipe import Recipe
from alexnet.recipes import RECIPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
OWN_PICTURES = README.split("## Your own pictures")[1].split("\n## ")[0]


def commands(text: str) -> list[list[str]]:
    """The arguments of the `alexnet` commands in a text's indented blocks."""
    found = re.findall(r"^    alexnet (.*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


def test_the_commands_for_ones_own_pictures_work_in_turn(
    picture_folder: Path,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A small net in place of the recipe's: what is tested is the way, not the net.
    monkeypatch.setitem(RECIPES, "photos", lambda: replace(recipe, store_size=256, epochs=1))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(picture_folder, "pictures")
    shutil.copy(next(iter(sorted(picture_folder.glob("*/*.jpg")))), "robin.jpg")
    lines = commands(OWN_PICTURES)
    assert [line[0] for line in lines] == ["prepare", "train", "evaluate", "predict"]
    for line in lines:
        assert cli.main(line) == 0, line
    assert Path("runs/mine/report.html").exists()
    (python,) = re.findall(r"```python\n(.*?)```", OWN_PICTURES, re.DOTALL)
    capsys.readouterr()
    exec(python.replace("Classifier.load", "print(Classifier.load").replace('robin.jpg")', 'robin.jpg"))'), {})
    assert capsys.readouterr().out.startswith("[('")


def test_every_command_of_the_table_is_understood() -> None:
    cells = re.findall(r"^\| (`alexnet .*?) \|", COMMANDS, re.MULTILINE)
    known = set()
    for command in re.findall(r"`alexnet (.*?)`", " ".join(cells)):
        words = shlex.split(command.replace("[", "").replace("]", "").replace("...", ""))
        known.add(cli.build_parser().parse_args(words).run_command)
    listed = re.findall(r"^ {4}(\w+) {2,}", cli.build_parser().format_help(), re.MULTILINE)
    assert len(known) == len(listed), "the table and `alexnet --help` name the same commands"


def test_every_recipe_of_the_table_exists() -> None:
    table = COMMANDS.split("## Recipes")[1].split("\n## ")[0]
    assert set(re.findall(r"`([a-z0-9-]+)`", table)) == set(RECIPES)


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page} links to {target}"


def test_the_readme_fits_on_two_screens() -> None:
    assert len(README.splitlines()) <= 90
