"""What is settled before the first step: the recipe, the same in all processes, and the net with its start values."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from alexnet.checked import require
from alexnet.data.store.statistics import Statistics
from alexnet.data.store.store import Store
from alexnet.distributed.team import Team
from alexnet.models.alexnet import AlexNet
from alexnet.models.weight_files import list_checkpoints
from alexnet.recipe import Recipe, recipe_differences
from alexnet.training.checkpoint import load_mean
from alexnet.training.consistency import shared_settings
from alexnet.training.finetune import Taken, origin_mean, take_weights
from alexnet.training.precision import uses_bfloat16
from alexnet.utils.memory import keep_freed_memory


def sync_recipe(team: Team, run: Path, recipe: Recipe | None, store: Store, micro_batch: int | None) -> Recipe:
    """Resolve the recipe in the main process, check that all processes train the same, and form their groups.

    Args:
        team: The processes, all of which must call this.
        run: The run's folder.
        recipe: The recipe that the caller asks for; None for the run's own.
        store: The store to train on.
        micro_batch: The micro-batch that the caller asks for.

    Returns:
        The recipe to train by.

    Raises:
        ValueError: As `_resolve_recipe`; or the processes differ in what they are to train, or do not suit the scheme.
    """
    with team.raise_together():
        resolved = _resolve_recipe(run, recipe, store) if team.is_main else None
    agreed: Recipe = team.broadcast(resolved)
    is_new = not team.broadcast((run / "recipe.json").exists())
    with team.raise_together():
        store.validation()
    settings = {
        "parallel": team.scheme,
        "micro_batch": micro_batch,
        "the precision (to fix it, use --set precision=float32)": (
            "bfloat16" if uses_bfloat16(team.device, agreed) else "float32"
        ),
    }
    team.check_same(lambda: shared_settings(recipe or agreed, store) | settings)
    with team.raise_together():
        team.form_groups(agreed.net, len(store.classes))
        if is_new and agreed.batch_size % team.data_group.size:  # a run may be resumed with fewer processes
            raise ValueError(
                f"batch_size must be divisible by the {team.data_group.size} processes that share a batch; got "
                f"{agreed.batch_size}: change --nproc-per-node, or use --batch-size"
            )
    return agreed


def _resolve_recipe(run: Path, recipe: Recipe | None, store: Store) -> Recipe:
    """Return the recipe to train by: that of the run if it has begun, else the one that the caller asks for.

    Args:
        run: The run's folder.
        recipe: The recipe that the caller asks for; None for the run's own.
        store: The store to train on.

    Raises:
        ValueError: There is no recipe, or two that differ; the store does not suit it; the folder is no run.
    """
    path = run / "recipe.json"
    saved = Recipe.from_json(path.read_text(encoding="utf-8")) if path.exists() else None
    if saved and recipe and recipe != saved:
        fields = dict.fromkeys(path.partition(".")[0] for path, _, _ in recipe_differences(saved, recipe))
        raise ValueError(
            f"run {run} was begun with another recipe (differs in {', '.join(fields)}): use another RUN folder"
        )
    resolved = saved or recipe
    if resolved is None:
        raise ValueError(f"run {run} has no recipe.json yet: name a recipe with --recipe NAME")
    size = resolved.store_size
    if store.size != size:
        raise ValueError(
            f"store {store.path} must hold pictures of the recipe's store_size {size}; got {store.size}: "
            f"prepare another with --size {size}, or train a new run with --set store_size={store.size}"
        )
    if "train" not in store.splits:
        raise ValueError(
            f"store {store.path} must have train pictures; it has {', '.join(store.splits)}: prepare another"
        )
    if resolved.folds_in_validation and "val" not in store.splits:
        raise ValueError(
            f'store {store.path} must have val pictures for schedule "fold"; it has {", ".join(store.splits)}: prepare '
            "another (CIFAR-10 with --val-batch 5), or use --set schedule=changes"
        )
    others = {p.name for p in run.iterdir()} - {"recipe.json.part"} if run.is_dir() else run.exists()
    if saved is None and others:
        raise ValueError(f"run {run} must be a new or empty folder, or a run; it holds other files: use another RUN")
    return resolved


def resolve_statistics(
    team: Team, run: Path, recipe: Recipe, store: Store, start_from: str | Path | None
) -> Statistics:
    """Return the statistics that the training uses: the store's, or with another run's mean activity.

    Args:
        team: The processes, all of which must call this.
        run: The run's folder; if its training has begun, it has the mean activity.
        recipe: The recipe; its `mean` says whose mean activity is subtracted.
        store: The store to train on.
        start_from: The run that the start values are taken from, if any.

    Raises:
        ValueError: Another run's mean activity is needed, but no run is given, or one with pictures of another size.
    """
    arrays = {name: array for name, array in vars(store.statistics).items() if name != "count"}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"store {store.path} must have finite statistics; {name} is not: prepare the store again")
    if recipe.mean == "store":
        return store.statistics
    mean = None
    with team.raise_together():
        if team.is_main:
            checkpoints = list_checkpoints(run)
            if not checkpoints and start_from is None:
                raise ValueError(
                    'a recipe with mean "start" must be given a run to start from; got none: use --from RUN, with a '
                    "run that was trained or imported"
                )
            mean = load_mean(checkpoints[-1]) if checkpoints else origin_mean(start_from or "", store.size)
    return dataclasses.replace(store.statistics, mean=team.broadcast(mean))


def build_net(
    team: Team, run: Path, recipe: Recipe, store: Store, start_from: str | Path | None, take: Sequence[str]
) -> tuple[AlexNet, Taken]:
    """Build this process's shard of the net, with its start values and its frozen layers.

    Args:
        team: The processes, all of which must call this.
        run: The run's folder.
        recipe: The recipe.
        store: The store to train on.
        start_from: Another run to take start values from; None to draw them all.
        take: Names of the layers to take from it; empty for all that fit.

    Returns:
        The net on the process's device, and what was taken; nothing if the run has begun.
    """
    keep_freed_memory()
    torch.manual_seed(recipe.seed)  # in all processes: they draw the same start values, and later the same masks
    net = AlexNet(len(store.classes), recipe.net)
    taken = Taken()
    with team.raise_together():
        if team.is_main and start_from and not _has_begun_from(run, start_from):
            taken = take_weights(net, store.classes, start_from, take)
    taken = team.broadcast(taken)
    full = net.state_dict() if taken.layers and team.is_main else None
    team.shard_model(net)
    net.to_channels_last(team.device)
    if taken.layers and team.world_size > 1:
        team.scatter(full, dict(net.named_parameters()))
    net.freeze(recipe.frozen)
    return net, taken


def _has_begun_from(run: Path, start_from: str | Path) -> bool:
    """Return whether a run has begun, with start values of this other run; raise a ValueError if with others."""
    if not list_checkpoints(run):
        return False
    with (run / "metrics.jsonl").open(encoding="utf-8") as file:
        origin = json.loads(file.readline()).get("from")
    if origin != str(start_from):
        raise ValueError(
            f"run {run} was begun from {origin or 'start values that were drawn'}, not from {start_from}: go on "
            "without --from, or use another RUN folder"
        )
    return True


def check_options(
    keep: int,
    workers: int | None,
    cache_gb: float,
    checkpoint_minutes: float,
    micro_batch: int | None,
    start_from: str | Path | None,
    take: Sequence[str],
    on_divergence: str,
) -> None:
    """Check the arguments of `train` that are not part of the recipe."""
    require(keep >= 1, "keep", "at least 1, or no training could be resumed", keep)
    require(workers is None or workers >= 0, "workers", "a number of threads from 0", workers)
    require(cache_gb >= 0, "cache_gb", "a number of gigabytes from 0 (to keep no activities)", cache_gb)
    require(checkpoint_minutes >= 0, "checkpoint_minutes", "a time from 0 (after each step)", checkpoint_minutes)
    require(bool(start_from) or not take, "take", "given with the run to take from (start_from)", take)
    require(micro_batch is None or micro_batch >= 1, "micro_batch", "at least 1 picture", micro_batch)
    require(on_divergence in ("stop", "retry"), "on_divergence", "'stop' or 'retry'", on_divergence)
