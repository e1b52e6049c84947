"""What the command line says of commands, options and values that there are not, and of options given twice."""

import subprocess
import sys

import pytest

from alexnet import cli


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command whose arguments must be refused in one line with status 2; return the line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    assert (exit_info.value.code, out) == (2, "")
    assert err.startswith("alexnet: "), err
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(
    ("guess", "option"),
    [
        ("--lr", "use --learning-rate"),
        ("--bs", "use --batch-size"),
        ("--batch_size", "use --batch-size"),
        ("--num-epochs", "use --epochs"),
        ("--gpu", "use --device"),
        ("--pretrained", "use --from RUN"),
        ("--model", "use --recipe NAME"),
        ("--data", "use STORE"),
        ("--name", "use RUN"),
        ("--momentum", "use --set momentum=VALUE"),
        ("--label-smoothing", "use --set label_smoothing=VALUE"),
        ("--image-size", "use --set net.image_size=VALUE"),
        ("--frezee", "did you mean --freeze?"),
        ("--bogus", "see `alexnet train --help`"),  # as close to --hours as 0.6
        ("--zzz", "see `alexnet train --help`"),
        ("-b", "use --batch-size"),
    ],
)
def test_a_guess_of_an_option_names_the_right_one(guess: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Even if arguments are missing, and with a value behind an equals sign."""
    for arguments in ([guess, "3"], ["store", "run", f"{guess}=3"]):
        line = refusal(capsys, "train", *arguments)
        assert line.startswith(f"alexnet: `alexnet train` has no option {guess}: {option}")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["trian"], "there is no command 'trian': did you mean train?"),
        (["help"], "`alexnet --help`"),
        (["fit"], "use train"),
        ([], "`alexnet` must be given COMMAND: see `alexnet --help`"),
        (["train"], "`alexnet train` must be given STORE and RUN: see"),
        (["train", "s", "r", "--workers", "x"], "--workers must be a whole number; got 'x'"),
        (["train", "s", "r", "--workers"], "--workers must be given a value"),
        (["prepare", "s", "r", "--encoding", "jpg"], "one of raw, jpeg; got 'jpg': did you mean jpeg?"),
        (["predict", "r", "-k", "3"], "has no option -k: use --top N"),
        (["predict", "r", "x", "--csv", "--json"], "not allowed with argument"),
        (["prepare", "s", "r", "--val-split", "0.2"], "use --held-out"),
        (["train", "s", "r", "--take", "conv1", "--take", "conv2"], "--take must be given once; got conv1 and conv2"),
        (["evaluate", "r", "s", "--views", "1", "--views=10"], "--views must be given once; got 1 and 10"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert part in refusal(capsys, *arguments)


@pytest.mark.parametrize("command", [["index", "r", "s"], ["predict", "r", "x"], ["reproduce", "figure2"], ["recipes"]])
@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_torchruns_processes_refuses_what_is_not_shared(
    command: list[str], rank: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("alexnet.utils.processes.REPORT_SECONDS", 0.0)
    assert cli.main(command) == 2
    out, err = capsys.readouterr()
    line = f"alexnet: `alexnet {command[0]}` must be started as one process; torchrun has started 2: start it without"
    assert (out, err.count("\n")) == ("", 1 - rank)
    assert err.startswith(line) or rank


def test_guesses_are_answered_without_torch() -> None:
    command = "['train', '--momentum', '1']"
    code = f"import sys, alexnet.cli as c\ntry: c.main({command})\nexcept SystemExit: print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
