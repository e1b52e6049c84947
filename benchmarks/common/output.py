"""Output of the benchmarks: Markdown tables and JSON files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def markdown_table(rows: Sequence[Sequence[object]], headings: Sequence[str]) -> str:
    """Return a Markdown table with padded columns, so that it also reads well as plain text."""
    cells = [list(headings), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
             for row in cells]  # fmt: skip
    return "\n".join([lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]])


def write_json(path: Path | None, results: dict[str, Any]) -> None:
    """Write the results to a JSON file; do nothing if the path is None."""
    if path is not None:
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
