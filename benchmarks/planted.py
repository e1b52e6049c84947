"""Copies and wrong labels that were planted among real photographs: how many `alexnet check` finds.

    python benchmarks/planted.py PICTURES ORIGIN WORK [--copies 250] [--swaps 200] [--seed 0] [--json FILE]

PICTURES is a folder with a folder for each class; nothing in it is changed. ORIGIN is a run to fine-tune, or a file
that `alexnet import` reads. WORK gets the planted pictures, the store, the run and the lists that `check` writes.

A fifth of the copies are of each kind: the same bytes, half the size, JPEG quality 20, brightened by a fifth, grey.
Every second one is put into another class. `alexnet prepare` must keep each with its original: the first table counts
those that are named as the same photograph, those whose two pictures are in different splits, and the groups without a
planted copy, which are the pictures' own duplicates or false alarms.

The swapped pictures get another class's label, drawn at random. `alexnet train --recipe photos-finetune` learns from
them, and `check --run` names what that net finds mislabelled. The second table counts the swapped ones among as many of
the first named as were swapped, and among all named: in the validation pictures, which chose the epoch only, and in the
training pictures, whose wrong labels the net has learned.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common.environment import environment_info
from common.output import markdown_table, write_json
from PIL import Image, ImageEnhance

KINDS = ("same bytes", "half the size", "JPEG quality 20", "brightened by a fifth", "grey")


def _link_pictures(pictures: Path, target: Path) -> list[Path]:
    """Make a folder of links to the pictures of each class; return the links."""
    links = []
    for file in sorted(pictures.glob("*/*.*")):
        link = target / file.parent.name / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.hardlink_to(file)
        links.append(link)
    return links


def _other_class(path: Path, folders: Sequence[Path], generator: np.random.Generator) -> Path:
    """Draw a class folder that is not the picture's."""
    return folders[(folders.index(path.parent) + int(generator.integers(1, len(folders)))) % len(folders)]


def _save_copy(original: Path, copy: Path, kind: str) -> None:
    """Write a copy of a photograph."""
    if kind == "same bytes":
        copy.hardlink_to(original)
        return
    with Image.open(original) as image:
        picture = image.convert("L") if kind == "grey" else image.convert("RGB")
    if kind == "half the size":
        picture = picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)), Image.Resampling.LANCZOS)
    if kind == "brightened by a fifth":
        picture = ImageEnhance.Brightness(picture).enhance(1.2)
    picture.save(copy, quality=20 if kind == "JPEG quality 20" else 90)


def _plant(links: Sequence[Path], copies: int, swaps: int, seed: int) -> dict[str, Any]:
    """Plant copies and wrong labels; return the copies by kind, each with its original, and the swapped pictures."""
    generator = np.random.default_rng(seed)
    folders = sorted({link.parent for link in links})
    drawn = [links[i] for i in generator.permutation(len(links))[: copies + swaps]]
    planted: dict[str, list[tuple[str, str]]] = {kind: [] for kind in KINDS}
    for number, original in enumerate(drawn[:copies]):
        kind = KINDS[number % len(KINDS)]
        across = number // len(KINDS) % 2
        folder = _other_class(original, folders, generator) if across else original.parent
        copy = folder / f"planted-copy-{number:04d}.jpg"
        _save_copy(original, copy, kind)
        planted[kind].append((_name(original), _name(copy)))
    swapped = []
    for number, picture in enumerate(drawn[copies:]):
        target = _other_class(picture, folders, generator) / f"planted-swap-{number:04d}{picture.suffix}"
        picture.rename(target)
        swapped.append(_name(target))
    return {"copies": planted, "swapped": swapped}


def _name(path: Path) -> str:
    """Return a picture's name as `check` prints it."""
    return f"{path.parent.name}/{path.name}"


def _alexnet(*arguments: str | Path) -> str:
    """Run a command; return what it prints to standard output."""
    command = [sys.executable, "-m", "alexnet", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _check(work: Path, name: str, *options: str | Path) -> dict[str, Any]:
    """Return what `alexnet check STORE --json` finds; it is kept in a file."""
    file = work / f"{name}.json"
    if not file.exists():
        file.write_text(_alexnet("check", work / "store", "--json", *options), encoding="utf-8")
    findings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return findings


def count_copies(
    planted: dict[str, list[tuple[str, str]]], duplicates: list[Any]
) -> tuple[list[tuple[str, str, str, str]], int]:
    """Count the planted copies that were found.

    Args:
        planted: The names of original and copy of each kind.
        duplicates: The groups that `check` names.

    Returns:
        A row for each kind: planted, found, in another split than the original; and the number of groups without a
        planted copy.
    """
    groups = {picture["image"]: number for number, group in enumerate(duplicates) for picture in group}
    splits = {picture["image"]: picture["split"] for group in duplicates for picture in group}
    rows = []
    for kind, pairs in planted.items():
        found = [pair for pair in pairs if groups.get(pair[0], -1) == groups.get(pair[1], -2)]
        apart = [pair for pair in found if splits[pair[0]] != splits[pair[1]]]
        rows.append((kind, str(len(pairs)), str(len(found)), str(len(apart))))
    names = {name for pairs in planted.values() for pair in pairs for name in pair}
    return rows, sum(all(picture["image"] not in names for picture in group) for group in duplicates)


def count_swapped(swapped: set[str], mislabelled: list[Any], splits: dict[str, str]) -> list[tuple[str, ...]]:
    """Count the swapped pictures among those that the net finds mislabelled.

    Args:
        swapped: Their names.
        mislabelled: The pictures that `check` names, the most suspect first.
        splits: The split of each swapped picture.

    Returns:
        A row for each split: swapped, of as many of the first named, named in all, swapped ones among these.
    """
    rows: list[tuple[str, ...]] = []
    for split in sorted(set(splits.values()), reverse=True):
        there = {name for name in swapped if splits[name] == split}
        named = [picture["image"] for picture in mislabelled if picture["split"] == split]
        first = sum(name in there for name in named[: len(there)])
        rows.append((split, str(len(there)), str(first), str(len(named)), str(sum(name in there for name in named))))
    return rows


def _splits_of(store: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the split of each of these pictures of a store."""
    from alexnet import Store

    opened = Store(store)
    splits = [(name, opened.split(name)) for name in opened.splits]
    by_name = {pictures.picture_name(index): name for name, pictures in splits for index in range(len(pictures))}
    return {name: by_name[name] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="folder with a folder for each class")
    parser.add_argument("origin", type=Path, help="run to start from, or file that `alexnet import` reads")
    parser.add_argument("work", type=Path, help="folder for the planted pictures, the store and the run")
    parser.add_argument("--copies", type=int, default=250, help="default: %(default)s")
    parser.add_argument("--swaps", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    options = parser.parse_args()
    work, list_file = options.work, options.work / "planted.json"
    if not list_file.exists():
        links = _link_pictures(options.pictures, work / "pictures")
        list_file.write_text(json.dumps(_plant(links, options.copies, options.swaps, options.seed)), encoding="utf-8")
    planted = json.loads(list_file.read_text(encoding="utf-8"))
    _alexnet("prepare", work / "pictures", work / "store", "--held-out", "0.2")
    findings = _check(work, "duplicates")
    rows, others = count_copies(planted["copies"], findings["duplicates"])
    info = environment_info()
    print(info, f"{findings['images']} pictures, {len(findings['classes'])} classes", sep="\n")
    print(markdown_table(rows, ("copies", "planted", "named", "in another split")))
    print(f"groups without a planted copy: {others}", flush=True)
    origin = options.origin
    if origin.is_file():
        origin = work / "imported"
        if not origin.exists():
            _alexnet("import", options.origin, origin)
    _alexnet("train", work / "store", work / "run", "--from", origin, "--recipe", "photos-finetune")
    mislabelled = _check(work, "mislabelled", "--run", work / "run")["mislabelled"]
    splits = _splits_of(work / "store", planted["swapped"])
    swapped_rows = count_swapped(set(planted["swapped"]), mislabelled, splits)
    headings = ("split", "swapped", "among as many of the first named", "named", "swapped ones among these")
    print(markdown_table(swapped_rows, headings))
    write_json(options.json, {"machine": info, "copies": rows, "other_groups": others, "swapped": swapped_rows})


if __name__ == "__main__":
    main()
