"""A net as a folder for a model hub: weights, config.json and a model card."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from alexnet.data.store.location import parse_location
from alexnet.results.measured import MeasuredErrors, load_measured_errors
from alexnet.results.report_html import recipe_name
from alexnet.results.run_history import RunHistory
from alexnet.training.checkpoint import Checkpoint
from alexnet.training.error_rates import split_adjective
from alexnet.training.inference import format_views
from alexnet.utils.checksums import BLANK_CHECKSUM, seal
from alexnet.utils.intervals import format_error_rate


def to_hub(run: Path, checkpoint: Checkpoint, state: bytes, description: dict[str, Any], name: str) -> dict[str, bytes]:
    """Return the contents of the folder's files by their names.

    Args:
        run: The run's folder.
        checkpoint: The net.
        state: What `to_state` returned.
        description: What `describe` returned.
        name: Name of the folder, and so of the net.
    """
    config = {"library_name": "alexnet", **description, "recipe": json.loads(checkpoint.recipe.to_json())}
    config["checksum"] = BLANK_CHECKSUM
    return {
        "model.safetensors": state,
        "config.json": seal(json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"),
        "README.md": _model_card(run, checkpoint, name).encode(),
    }


def _model_card(run: Path, checkpoint: Checkpoint, name: str) -> str:
    """Return the model card, in Markdown with front matter in YAML."""
    measured = load_measured_errors(run, checkpoint)
    start = RunHistory.read(run).start if (run / "metrics.jsonl").exists() else {}
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["thousands"] = "{:,}".format
    template = resources.files("alexnet.convert").joinpath("model_card.md.j2").read_text(encoding="utf-8")
    card: str = environment.from_string(template).render(
        name=name,
        classes=checkpoint.classes,
        parameters=sum(tensor.numel() for tensor in checkpoint.with_prefix("net").values()),
        features=checkpoint.net().num_features,
        recipe_name=recipe_name(checkpoint.recipe),
        origin=start.get("imported"),
        taken=start.get("taken", []),
        taken_from=Path(start["from"]).name if "from" in start else "",
        store=parse_location(start["store"]).name if "store" in start else "",
        train_pictures=start.get("train_pictures", 0),
        errors=[_error_row(error, len(checkpoint.classes)) for error in measured],
        chosen_on_split=any(error.chosen_on_split for error in measured),
    )
    return card + "\n"


def _error_row(error: MeasuredErrors, classes: int) -> dict[str, Any]:
    rates = error.rates
    return {
        "store": error.store,
        "split": error.split,
        "adjective": split_adjective(error.split),
        "images": rates.images,
        "views": format_views(error.views),
        "top1": format_error_rate(rates.top1_error, rates.images),
        "top5": format_error_rate(rates.top5_error, rates.images) if classes > 5 else "-",
        "top1_accuracy": round(1 - rates.top1_error, 6),
    }
