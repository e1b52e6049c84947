"""The options of `alexnet train`: what they stand for, what is refused, and that advice works when it is followed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import small_recipe

from alexnet import cli
from alexnet.cli import build_parser
from alexnet.cli.chosen_recipe import choose_recipe
from alexnet.ilsvrc_recipes import ORIGINS
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named

PHOTOS = recipe_named("photos")


def chosen(tmp_path: Path, *options: str) -> Recipe | None:
    """Return the recipe that options choose for a new run."""
    return choose_recipe(build_parser().parse_args(["train", "store", str(tmp_path / "run"), *options]))


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (["--epochs", "20"], ["epochs=20"]),
        (["--learning-rate", "0.02"], ["learning_rate=0.02"]),
        (["--seed", "3"], ["seed=3"]),
        (["--batch-size", "64"], ["batch_size=64"]),
        (["--epochs=20", "--seed=3", "--set", "momentum=0.8"], ["epochs=20", "seed=3", "momentum=0.8"]),
        (["--patience", "4"], ["patience=4", "early_stopping=true"]),
    ],
)
def test_an_option_stands_for_a_setting(options: list[str], settings: list[str], tmp_path: Path) -> None:
    expected = PHOTOS.with_settings(settings)
    assert chosen(tmp_path, *options) == expected
    assert chosen(tmp_path, *[part for setting in settings for part in ("--set", setting)]) == expected


def test_patience_keeps_the_schedules_that_follow_the_validation_error(tmp_path: Path) -> None:
    recipe = chosen(tmp_path, "--recipe", "alexnet-2012-paper", "--patience", "4")
    assert recipe == replace(recipe_named("alexnet-2012-paper"), patience=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "epochs=2", "--epochs", "3"], "epochs must be set once; got --set epochs=2 and --epochs 3: leave"),
        (["--set", "batch_size=32", "--batch-size", "64"], "batch_size must be set once; .*--batch-size 64"),
        (["--set", "frozen=[]", "--freeze", "conv1"], "frozen must be set once; .*--freeze conv1"),
        (["--set", "seed=1", "--set", "seed=2"], "seed must be set once; got --set seed=1 and --set seed=2"),
        (["--batch-size", "0"], "batch_size must be a whole number of at least 1; got 0"),
        (["--set", "patience=3"], "patience must be left out .* use --patience 3 or --set early_stopping=true"),
        (["--set", "falls=1"], 'falls must be left out with schedule "cosine"'),
        (["--recipe", "alexnet-2012-paper", "--set", "early_stopping=true"], "early_stopping must be false with"),
        (["--scale-rate", "linear"], "--scale-rate must be given with the --batch-size"),
        (
            ["--recipe", "photo"],
            r"recipe must be a name that is known; got 'photo': did you mean photos\? All names: al",
        ),
        (["--recipe", "xyz"], r"recipe must be one of alexnet-2012-paper, .*; got 'xyz'"),
        (["--set", "epoch=3"], "got 'epoch': did you mean epochs?"),
        (["--recipe", "nowhere/recipe.json"], "No such file"),
        (["--recipe", "alexnet-2012-finetune"], "start from, trained with alexnet-2012-fall2011, .*: use --from RUN"),
    ],
)
def test_no_option_is_ignored(options: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        chosen(tmp_path, *options)


@pytest.mark.parametrize("name", ORIGINS)
def test_a_copy_of_a_recipe_for_a_trained_net_needs_one_too(name: str, tmp_path: Path) -> None:
    path = tmp_path / "copy.json"
    path.write_text(replace(recipe_named(name), epochs=60).to_json())
    message = rf"copy\.json \(a copy of {name}\) must be given a run .*, trained with {ORIGINS[name]}, .*: use --from"
    with pytest.raises(ValueError, match=message):
        chosen(tmp_path, "--recipe", str(path))
    recipe = chosen(tmp_path, "--recipe", str(path), "--set", "changes=[]")  # other rates
    assert recipe == replace(recipe_named(name), epochs=60, changes=())


def test_a_short_training_shortens_its_warmup_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--epochs", "1"], ["--set", "epochs=1"]):
        recipe = chosen(tmp_path, *options)
        assert recipe == replace(PHOTOS, epochs=1, warmup=1 / 68)
        assert capsys.readouterr().err == (
            "alexnet: the warm-up is shortened, to end before epochs 1: 0.015 epochs instead of 1\n"
        )
    assert chosen(tmp_path, "--epochs", "2") == replace(PHOTOS, epochs=2)
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="warmup must be less than epochs 1"):  # one that was asked for is not changed
        chosen(tmp_path, "--epochs", "1", "--set", "warmup=2")


def test_the_warmup_of_a_linear_scale_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = chosen(tmp_path, "--batch-size", "128", "--scale-rate", "linear")
    assert recipe is not None
    assert (recipe.learning_rate, recipe.warmup) == (0.03, 5)
    assert capsys.readouterr().err == "alexnet: --scale-rate linear sets a warm-up: 5 epochs instead of 1\n"


def test_a_recipe_may_be_a_file_or_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = replace(small_recipe(), momentum=0.5)
    (tmp_path / "other").mkdir()
    for path in (tmp_path / "mine.json", tmp_path / "other" / "recipe.json"):
        path.write_text(recipe.to_json())
    for name in ("mine.json", "other", "other/recipe.json"):
        assert chosen(tmp_path, "--recipe", str(tmp_path / name)) == recipe
        assert chosen(tmp_path, "--recipe", str(tmp_path / name), "--seed", "2") == replace(recipe, seed=2)
    assert cli.main(["recipes", str(tmp_path / "other")]) == 0
    assert Recipe.from_json(capsys.readouterr().out) == recipe
    (tmp_path / "mine.json").write_text('{"epochs": 0}')
    with pytest.raises(ValueError, match=r"mine\.json: epochs must be a whole number of at least 1; got 0"):
        chosen(tmp_path, "--recipe", str(tmp_path / "mine.json"))
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ValueError, match=r"photo\.jpg: recipe must be a JSON object, as printed by"):
        chosen(tmp_path, "--recipe", str(tmp_path / "photo.jpg"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be a whole number of at least 1; got 0"),
        (["--take", "conv1"], "--take must be given with the run to take layers from; use --from RUN"),
        (["--hang-seconds", "9"], "--hang-seconds must be given with several processes"),
        (["--set", "epochz=2"], "--set must name a field of the recipe"),
        (["--workers", "-1"], "--workers must be a number of threads from 0"),
        (["--hours", "0"], "--hours must be a finite number above 0; got 0\n"),
        (["--recipe", "tiny"], "with --size 64, or name the pictures instead of the store, or name a recipe for"),
    ],
)
def test_what_train_refuses_is_said_in_the_words_of_the_command(
    arguments: list[str], message: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.json").write_text(small_recipe().to_json())
    recipe = [] if "--recipe" in arguments else ["--recipe", str(tmp_path / "small.json")]
    assert cli.main(["train", str(store), str(tmp_path / "run"), *recipe, *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("one_thread")
def test_the_advice_for_another_recipe_works(
    uninterrupted: Path,
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("alexnet.results.report.report", lambda run, *_, **__: run / "report.html")
    assert cli.main(["train", str(store), str(uninterrupted), "--epochs", "9"]) == 2
    err = capsys.readouterr().err
    assert "was begun with another recipe, epochs 3, not 9: leave these out to go on, or use another RUN folder" in err
    advice = f"`alexnet train STORE NEW_RUN --from {uninterrupted} --recipe {uninterrupted} --epochs N`"
    assert advice in err
    words = {"STORE": str(store), "NEW_RUN": str(tmp_path / "longer"), "N": "1"}
    command = [words.get(word, word) for word in advice.strip("`").split()[1:]]
    assert cli.main(command) == 0
    assert Recipe.load(tmp_path / "longer" / "recipe.json") == replace(small_recipe(), epochs=1)
    assert f"start values from {uninterrupted}: conv1, conv2" in capsys.readouterr().err


def test_held_out_beside_another_division_is_refused(
    picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*options: str) -> str:
        assert cli.main(["prepare", str(tmp_path / "split"), str(tmp_path / "store"), "--size", "32", *options]) == 2
        return capsys.readouterr().err

    for split in ("train", "val"):
        (tmp_path / "split").mkdir(exist_ok=True)
        (tmp_path / "split" / split).symlink_to(picture_folder)
    for others in (["--train-per-class", "2"], ["--test", "1"]):
        option = " ".join(others).removesuffix(" 2")
        assert f"--held-out must be left out with {option}, which makes" in refusal("--held-out", "0.1", *others)
    for share in ("0.3", "0.1", "0.0"):  # 0.1 is the default, 0.0 not what there is
        assert f"leave --held-out {share} out" in refusal("--held-out", share)
    for seed in ("3", "0"):
        assert f"leave --seed {seed} out" in refusal("--seed", seed)
    assert "leave --test 0.3 out" in refusal("--test", "0.3")


@pytest.fixture
def explained(capsys: pytest.CaptureFixture[str]) -> Callable[[str], dict[str, str]]:
    """A function that returns what `recipes NAME --explain` says of each field, after the field's path."""

    def explain(name: str) -> dict[str, str]:
        assert cli.main(["recipes", name, "--explain"]) == 0
        texts: dict[str, str] = {}
        _legend, _, fields = capsys.readouterr().out.partition("\n\n")
        for line in fields.splitlines():
            if not line.startswith(" "):
                path, _, value = line.partition("=")
                texts[path] = value
            else:
                texts[path] += f" {line.strip()}"
        return texts

    return explain


def test_every_field_of_a_recipe_is_explained(explained: Callable[[str], dict[str, str]]) -> None:
    for name in ("photos", "alexnet-2012-run", "cifar10-11pct"):
        texts = explained(name)
        fields = {path for path in texts if not path.startswith(("net.", "changes[].")) and path != "net"}
        assert fields == set(vars(Recipe())) - {"net"}
        assert all(len(texts[path]) > 20 for path in fields)
    texts = explained("photos")
    assert texts["epochs"].startswith("68   (default 90) Maximum of passes through the training set")
    assert texts["net.fc6.dropout"].startswith("0.5 Probability that an output is set to zero during training (5.2).")
    assert "in pixels" in texts["net.conv1.kernel"]
