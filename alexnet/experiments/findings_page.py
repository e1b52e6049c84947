"""One HTML page of the results of several experiments, rendered from their finding.md and their pictures."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from alexnet.utils.files import write_atomic

_PAGE = "results.html"
_PICTURE = re.compile(r"!\[([^]]*)\]\(([^)]+)\)")


@dataclass(frozen=True)
class _Block:
    """A part of a finding.

    Args:
        kind: "text", "command", "table", "note" or "picture".
        text: The text; of a picture its description.
        rows: The cells of a table, the heading first.
        source: The data URI of a picture.
    """

    kind: str
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    source: str = ""


def parse_finding(text: str, folder: Path) -> tuple[str, list[_Block]]:
    """Return the title and the parts of a finding.md, as `ExperimentResult.to_markdown` writes it.

    Args:
        text: The Markdown.
        folder: The folder of its pictures; a picture that is not there is left out.
    """
    title, blocks, table = "", list[_Block](), list[tuple[str, ...]]()
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            table.append(tuple(cell.strip() for cell in line.strip().strip("|").split(" | ")))
            continue
        if table:
            blocks.append(_Block("table", rows=(table[0], *table[2:])))  # the second row is dashes
            table = []
        picture = _PICTURE.fullmatch(line)
        if line.startswith("# "):
            title = line[2:]
        elif picture is not None:
            path = folder / picture[2]
            if path.is_file():
                data = base64.b64encode(path.read_bytes()).decode()
                blocks.append(_Block("picture", picture[1], source=f"data:image/png;base64,{data}"))
        elif line.startswith("    "):
            blocks.append(_Block("command", line.strip()))
        elif line.startswith("- "):
            blocks.append(_Block("note", line[2:]))
        elif line:
            blocks.append(_Block("text", line))
    return title, blocks


def mark_code(text: str) -> Markup:
    """Return a text as HTML; what it has in backquotes is code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a single backquote is one
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part) for number, part in enumerate(parts)
    )


def write_page(folder: Path, descriptions: Mapping[str, str], states: Mapping[str, str]) -> Path:
    """Write FOLDER/results.html: how far each experiment is, and the results that there are.

    Args:
        folder: The folder of the experiments.
        descriptions: What each experiment shows, by name, in the order of the page.
        states: What became of each, by name.
    """
    findings = []
    for name in descriptions:
        path = folder / name / "finding.md"
        if path.exists():
            findings.append((name, *parse_finding(path.read_text(encoding="utf-8"), path.parent)))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["mark_code"] = mark_code
    template = resources.files("alexnet.experiments").joinpath("results.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        descriptions=descriptions,
        states=states,
        findings=findings,
        linked={name for name, *_ in findings},
        version=metadata.version("alexnet"),
    )
    path = folder / _PAGE
    write_atomic(path, page.encode())
    return path
