"""What `alexnet check` prints, as text and as an object for JSON, and its page."""

from collections.abc import Sequence
from importlib import metadata, resources
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from alexnet.data.prepare.parts import summarise_duplicates
from alexnet.results.checked_pictures import locate
from alexnet.results.picture_check import PictureCheck
from alexnet.results.report_html import picture_uri
from alexnet.utils.console import count_of, format_bytes, format_duration
from alexnet.utils.files import FileKind

_MARK = b'<meta name="generator" content="alexnet check">'
CHECK_PAGE = FileKind("a page of alexnet check", (".html", ".htm"), lambda path: _MARK in path.read_bytes()[:4096])
_LISTED = 5  # files, photographs and labels that the text names
_SHOWN_GROUPS, _SHOWN_LABELS = 60, 120  # pictures on the page
_CLASSES_IN_TEXT = 12  # listed one by one up to this number


def check_to_json(check: PictureCheck) -> dict[str, Any]:
    """Return the object of `alexnet check --json`, as docs/json.md describes it."""
    duplicates = check.duplicates()
    totals = check.class_totals()
    values: dict[str, Any] = {
        "pictures": check.pictures.name,
        "images": int(totals.sum()),
        "splits": {name: int(counts.sum()) for name, counts in check.counts.items()},
        "splits_are_drawn": check.pictures.is_drawn,
        "classes": [
            {"class": name} | {split: int(counts[label]) for split, counts in check.counts.items()}
            for label, name in enumerate(check.pictures.classes)
        ],
        "imbalance": _imbalance(totals),
        "unreadable": [{"image": name, "reason": reason} for name, reason in check.unreadable],
        "ignored": check.pictures.ignored,
        "sizes": check.size_summary(),
        "duplicates": duplicates,
        "duplicate_images": sum(len(group) - 1 for group in duplicates),
        "shared": _shared(check, duplicates),
        "duplicates_across_classes": sum(len({entry["class"] for entry in group}) > 1 for group in duplicates),
        "mislabelled": None if check.guesses is None else check.mislabelled(),
        "prepare": None if check.preparing is None else vars(check.preparing) | {"free_bytes": check.free_bytes},
        "train": None if check.training is None else vars(check.training) | {"recipe": check.recipe_name},
    }
    return values


def _imbalance(totals: np.ndarray) -> float | None:
    """Return the size of the largest class by that of the smallest; None if that is empty."""
    return float(totals.max() / totals.min()) if totals.min() else None


def _shared(check: PictureCheck, duplicates: Sequence[Sequence[dict[str, str]]]) -> dict[str, int]:
    """Return for "val" and "test" how many pictures show a photograph of an earlier split; {} if splits are drawn."""
    if check.pictures.is_drawn:
        return {}
    lines = [[{"split": entry["split"], "name": entry["image"]} for entry in group] for group in duplicates]
    shared: dict[str, int] = summarise_duplicates(lines, 0)["shared"]
    return shared


# ---- Text -----------------------------------------------------------------------------------------------------------


def check_to_text(check: PictureCheck) -> str:
    """Return what `alexnet check` prints."""
    values = check_to_json(check)
    return "\n".join(
        [
            *_describe_counts(check, values),
            *_describe_files(values),
            *_describe_duplicates(values),
            *_describe_labels(values),
            *_describe_cost(values),
        ]
    )


def _describe_counts(check: PictureCheck, values: dict[str, Any]) -> list[str]:
    classes, totals = check.pictures.classes, check.class_totals()
    splits = ", ".join(f"{name} {count:,}" for name, count in values["splits"].items())
    drawn = " (as `alexnet prepare` draws them)" if values["splits_are_drawn"] else ""
    lines = [f"{values['pictures']}: {values['images']:,} pictures in {len(classes):,} classes; {splits}{drawn}"]
    if len(classes) <= _CLASSES_IN_TEXT:
        lines.append("classes: " + ", ".join(f"{name} {count:,}" for name, count in zip(classes, totals, strict=True)))
    else:
        low, high = int(totals.argmin()), int(totals.argmax())
        sizes = f"{totals[low]:,} ({classes[low]}) to {totals[high]:,} ({classes[high]})"
        lines.append(f"classes: {sizes} pictures each, median {int(np.median(totals)):,}")
    if values["imbalance"] is None:
        lines.append(f"no pictures: {', '.join(classes[label] for label in np.flatnonzero(totals == 0)[:_LISTED])}")
    elif values["imbalance"] >= 2:
        lines.append(
            f"the largest class has {values['imbalance']:.1f} times the pictures of the smallest: look at the error "
            "averaged over the classes, and see --set balance=sampling"
        )
    return lines


def _describe_files(values: dict[str, Any]) -> list[str]:
    lines, sizes = [], values["sizes"]
    if sizes:
        smallest, median, largest = ("x".join(map(str, sizes[name])) for name in ("smallest", "median", "largest"))
        lines.append(f"sizes: {smallest} to {largest} pixels, median {median}")
        if sizes["enlarged"]:
            lines.append(f"{count_of(sizes['enlarged'], 'picture')} smaller than the squares of the store: enlarged")
        if sizes["elongated"]:
            lines.append(
                f"{count_of(sizes['elongated'], 'picture')} more than twice as long as wide: the ends are cut off"
            )
    unreadable = [f"{entry['image']}: {entry['reason']}" for entry in values["unreadable"]]
    lines += _list_first("unreadable file", "", unreadable)
    if values["ignored"]:
        ignored = ", ".join(f"{count:,} {what}" for what, count in sorted(values["ignored"].items()))
        lines.append(f"not used: {ignored}")
    return lines


def _describe_duplicates(values: dict[str, Any]) -> list[str]:
    groups = values["duplicates"]
    entries = [" = ".join(f"{e['image']} ({e['split']}, {e['class']})" for e in group) for group in groups]
    lines = _list_first("photograph", " shown by several pictures", entries)
    if values["duplicates_across_classes"]:
        lines.append(f"{values['duplicates_across_classes']:,} of them in several classes: one label must be wrong")
    for split, count in values["shared"].items():
        lines.append(
            f"{count_of(count, 'picture')} of {split} with a photograph of an earlier split: its error will be too low"
        )
    if groups and values["splits_are_drawn"]:
        lines.append("`alexnet prepare` keeps all pictures of a photograph in one split")
    return lines or ["no two pictures show the same photograph"]


def _describe_labels(values: dict[str, Any]) -> list[str]:
    if values["mislabelled"] is None:
        return []
    entries = [
        f"{e['image']} ({e['split']}): labelled {e['class']} ({e['probability']:.1%}), "
        f"looks like {e['guess']} ({e['guess_probability']:.1%})"
        for e in values["mislabelled"]
    ]
    return _list_first("picture", " that may be mislabelled, the most suspect first", entries) or [
        "no label looks wrong"
    ]


def _describe_cost(values: dict[str, Any]) -> list[str]:
    lines, preparing, training = [], values["prepare"], values["train"]
    if preparing:
        raw, jpeg, free = (format_bytes(preparing[f"{name}_bytes"]) for name in ("raw", "jpeg", "free"))
        seconds = format_duration(preparing["seconds"])
        lines.append(f"prepare: about {seconds} here, {raw} raw or {jpeg} as JPEG ({free} are free)")
    if training:
        seconds, disk = format_duration(training["seconds"]), format_bytes(training["disk_bytes"])
        lines.append(f"train: about {seconds} here with the recipe {training['recipe']}, {disk} of checkpoints")
    return lines


def _list_first(noun: str, what: str, entries: Sequence[str]) -> list[str]:
    """Return a line with the number of entries, named by a noun and what follows it, and the first few of them."""
    if not entries:
        return []
    more = [f"  and {len(entries) - _LISTED:,} more (--json or --html has all)"] if len(entries) > _LISTED else []
    return [f"{count_of(len(entries), noun)}{what}:", *(f"  {entry}" for entry in entries[:_LISTED]), *more]


# ---- The page -------------------------------------------------------------------------------------------------------


def render_check(check: PictureCheck) -> str:
    """Return the page of `alexnet check --html`."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = resources.files("alexnet.results").joinpath("check.html.j2").read_text(encoding="utf-8")
    values, totals = check_to_json(check), check.class_totals()
    suspects = [int(check.numbers[position]) for position in check.suspects[:_SHOWN_LABELS]]
    return environment.from_string(template).render(
        values,
        text=check_to_text(check),
        groups=[
            [entry | {"uri": _show(check, int(number))} for entry, number in zip(entries, group, strict=True)]
            for entries, group in zip(values["duplicates"], check.groups[:_SHOWN_GROUPS], strict=False)
        ],
        suspects=[
            entry | {"uri": _show(check, number)}
            for entry, number in zip(values["mislabelled"] or [], suspects, strict=False)
        ],
        totals=totals.tolist(),
        largest=max(1, int(totals.max())),
        version=metadata.version("alexnet"),
    )


def _show(check: PictureCheck, number: int) -> str:
    """Return a picture as a data URI."""
    square, _ = check.pictures.read(*locate(check.pictures, number))
    return picture_uri(square)
