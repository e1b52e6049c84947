"""A run's net as files that other programs read: ONNX, torch.export, safetensors, a folder for a model hub."""

import itertools
import json
import mmap
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from alexnet.convert.description import EXPORT_FORMAT, describe
from alexnet.convert.to_hub import to_hub
from alexnet.convert.to_onnx import OLDEST_OPSET, check_opset, to_onnx
from alexnet.convert.to_pt2 import to_pt2
from alexnet.convert.to_state import to_state
from alexnet.data.loading.augment import centre_mean
from alexnet.training.checkpoint import load_best
from alexnet.utils.checksums import BLANK_CHECKSUM, seal
from alexnet.utils.files import FileKind, check_output, explain_full_disk, local_path, write_atomic, write_output


def _was_exported(file: Path) -> bool:
    """Return whether a file has the mark of an export, which lies uncompressed in files of all formats."""
    if not file.is_file() or not file.stat().st_size:
        return False
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as contents:
        return contents.find(EXPORT_FORMAT.encode()) >= 0


_ONNX = FileKind("an exported ONNX file", (".onnx",), _was_exported)
_PT2 = FileKind("an exported program of torch", (".pt2",), _was_exported)
_STATE = FileKind("an exported file of weights", (".safetensors",), _was_exported)


def export(
    run: str | Path,
    *,
    onnx: str | Path | None = None,
    pt2: str | Path | None = None,
    state: str | Path | None = None,
    hub: str | Path | None = None,
    opset: int = OLDEST_OPSET,
    force: bool = False,
) -> list[Path]:
    """Write the net that a run has trained in the formats of other programs.

    Args:
        run: The folder that `train` wrote. The net of the lowest validation error is written, or else the last one.
        onnx: A file of ONNX to write.
        pt2: A file to write that `torch.export.load` reads, without this package.
        state: A file of safetensors to write: the weights by plain names.
        hub: A folder to write: model.safetensors, config.json and README.md, a model card.
        opset: Version of ONNX's operators.
        force: Whether to replace what an earlier export wrote.

    Returns:
        The paths written.

    Raises:
        FileNotFoundError: `run` has no trained net, or a folder to write in does not exist.
        FileExistsError: A file exists already.
        ValueError: Nothing is to be written; a file's suffix is not that of its format; onnx is not installed or does
            not have the opset; the net is too large for ONNX.
        OSError: A file cannot be written; nothing of it is left.
    """
    asked = ((_ONNX, onnx), (_PT2, pt2), (_STATE, state))
    files = {kind: Path(path) for kind, path in asked if path is not None}
    folder = None if hub is None else Path(hub)
    if not files and folder is None:
        raise ValueError(
            "export must name something to write: `onnx=FILE.onnx`, `pt2=FILE`, `state=FILE` or `hub=FOLDER`"
        )
    for kind, path in files.items():
        check_output(path, kind, force=force)
    if folder is not None:
        _check_folder(folder, force)
    if _ONNX in files:
        check_opset(opset)

    run = Path(run)
    checkpoint = load_best(run)
    net, description = checkpoint.net(), describe(checkpoint)
    text = json.dumps(description, ensure_ascii=False)
    crop = centre_mean(checkpoint.statistics.mean, net.net.image_size)
    mean = torch.from_numpy(crop).permute(2, 0, 1).contiguous()  # (3, side, side)
    write: dict[FileKind, Callable[[], bytes]] = {
        _ONNX: lambda: seal(to_onnx(net, mean, _with_room(description), opset)),
        _PT2: lambda: seal(to_pt2(net, mean, text)),
        _STATE: lambda: to_state(net, mean, text),
    }
    for kind, path in files.items():
        write_output(path, write[kind](), kind, force=force)
    if folder is not None:
        name = folder.resolve().name
        _write_folder(folder, to_hub(run, checkpoint, write[_STATE](), description, name))
    return [*files.values(), *([folder] if folder else [])]


def _with_room(description: Mapping[str, Any]) -> str:
    """Return a description as JSON, with room for the checksum of the file that it is written to."""
    return json.dumps({**description, "checksum": BLANK_CHECKSUM}, ensure_ascii=False)


def _check_folder(folder: Path, force: bool) -> None:
    """Raise an error unless a folder may be written: a new or empty one, or one that an earlier export wrote."""
    parent = local_path(folder).absolute().parent
    if not parent.is_dir():
        raise FileNotFoundError(f"{folder} cannot be written: no such folder {parent}: create it first")
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() and not (folder.is_dir() and _was_exported(folder / "config.json")):
        raise FileExistsError(f"{folder} exists and is not an exported folder: it is not changed; name another folder")
    if folder.exists() and not force:
        raise FileExistsError(f"{folder} exists: replace it with `force=True`, or name another folder")


def _keep_card(folder: Path, new: bytes) -> None:
    """Rename the model card in a folder unless it is the new one: the user may have written in it."""
    card = folder / "README.md"
    if card.exists() and card.read_bytes() != new:
        names = (folder / f"README.old-{n}.md" for n in itertools.count(1))
        card.replace(next(name for name in names if not name.exists()))


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder beside it, and then put them in their place; a model card that is there is kept."""
    part = folder.absolute().with_name(f".{folder.absolute().name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a process that was killed
    try:
        with explain_full_disk(folder):
            part.mkdir()
            for name, contents in files.items():
                write_atomic(part / name, contents)
            if not folder.is_symlink() and not (folder.exists() and any(folder.iterdir())):
                if folder.exists():
                    folder.rmdir()
                part.replace(folder)  # at once: a process that is killed leaves all files or none
                return
            _keep_card(folder, files["README.md"])
            # config.json first: it makes the folder one that the same command may go on with after a kill.
            for name in sorted(files, key=lambda name: name != "config.json"):
                (part / name).replace(folder / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
