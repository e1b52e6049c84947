"""How good trained nets are on a store: one view or ten, one net or the mean of several (sections 3, 5.1 and 7)."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from alexnet.data.augment import ten_views
from alexnet.data.store import Split, Store
from alexnet.learning import checkpoint
from alexnet.learning.checkpoint import Checkpoint
from alexnet.learning.measure import choose_device, errors, predictions, views_text


def evaluate(
    runs: str | Path | Sequence[str | Path],
    store: str | Path,
    *,
    views: int = 1,
    split: str | None = None,
    device: str | torch.device | None = None,
) -> dict[str, Any]:
    """The errors of a run, or of the mean of several runs' predictions (section 7, Table 2).

    Args:
        runs: Folders that `train` made; of each, the net with the lowest validation error is taken,
            or the last one where the store had no "val".
        store: Folder that `prepare` made, with the same classes.
        views: 1 for the centre of each picture, 10 for corners, centre and their reflections (5.1); only two of
            the ten differ where crops are as large as the pictures.
        split: "val", "test" or "train"; by default "val" where the store has it, else "test".
        device: Where; the first GPU or else the CPU by default.

    Returns:
        images, views (those that differ), top1_error and top5_error (fractions), log_prob (mean of -ln p), split, runs.

    Raises:
        ValueError: Views other than 1 or 10, or a run of other classes or another picture size than the store's.
        FileNotFoundError: A run without a trained net, or no store.
    """
    check_views(views)
    of_store = Store(store)
    of = of_store.split(split) if split else of_store.validation()
    names = [runs] if isinstance(runs, (str, Path)) else list(runs)
    if not names:
        raise ValueError("runs must name at least one run; got none")
    chosen = choose_device(device)
    total: torch.Tensor | None = None
    for name in names:
        found = checkpoint.best(Path(name))
        check_same_pictures(found, of_store)
        predicted = predict_all(found, of, views, chosen)
        total = predicted if total is None else total + predicted
    assert total is not None
    counted = len(ten_views(of.size, found.recipe.net.image_size)) if views == 10 else 1
    result = errors(total / len(names), torch.from_numpy(of.labels))
    return {
        "images": result.images,
        "views": counted,
        "top1_error": result.top1_error,
        "top5_error": result.top5_error,
        "log_prob": result.log_prob,
        "split": of.name,
        "runs": [str(name) for name in names],
    }


def predict_all(
    found: Checkpoint, split: Split, views: int, device: torch.device, *, progress: bool = True
) -> torch.Tensor:
    """One net's probabilities for every picture of a split, in its order: (N, classes) float32 on the CPU.

    Args:
        found: The net.
        split: The pictures.
        views: 1 or 10.
        device: Where.
        progress: Whether to show a bar on standard error when that is a terminal.
    """
    net, parts = found.net().on(device), []
    shown = progress and sys.stderr.isatty()
    with tqdm(total=len(split), desc=views_text(views), unit="picture", leave=False, disable=not shown) as bar:
        for part, labels in predictions(net, split, found.statistics.mean, found.recipe, views=views):
            parts.append(part)
            bar.update(len(labels))
    return torch.cat(parts)


def check_views(views: int) -> None:
    """Raise a ValueError unless `views` is 1 or 10."""
    if views not in (1, 10):
        raise ValueError(f"views must be 1 (the centre) or 10 (corners, centre, and their reflections); got {views}")


def check_same_pictures(found: Checkpoint, store: Store) -> None:
    """Raise a ValueError unless a run's net can be tried on a store: same classes, same size of pictures."""
    run = found.path.parent.parent
    if found.classes != store.classes:
        raise ValueError(
            f"run {run} must know the same classes as store {store.path}; it knows {len(found.classes)} "
            f"({found.classes[0]} ...), the store has {len(store.classes)} ({store.classes[0]} ...): "
            "prepare the store from folders of the same names"
        )
    if found.recipe.store_size != store.size:
        raise ValueError(
            f"run {run} must be tried on pictures of side {found.recipe.store_size}; store {store.path} has "
            f"{store.size}: prepare one with --size {found.recipe.store_size}"
        )
