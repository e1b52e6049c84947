"""What is settled before the first step: the recipe, the same in all processes, and the net with its start values."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet.checked import require
from alexnet.data.store.statistics import Statistics
from alexnet.data.store.store import Store
from alexnet.distributed.team import Team
from alexnet.finetuning_recipes import FINETUNING_RECIPES
from alexnet.ilsvrc_recipes import ILSVRC_RECIPES
from alexnet.models.alexnet import AlexNet
from alexnet.models.weight_files import list_checkpoints
from alexnet.recipe import Recipe, format_differences, recipe_differences
from alexnet.recipes import RECIPES, recipe_named
from alexnet.training.checkpoint import load_mean
from alexnet.training.consistency import shared_settings
from alexnet.training.finetune import Taken, origin_mean, take_weights
from alexnet.training.metrics import check_planned_hours
from alexnet.training.precision import uses_bfloat16
from alexnet.utils.files import unfinished_file
from alexnet.utils.memory import keep_freed_memory


def sync_recipe(
    team: Team, run: Path, recipe: Recipe | None, store: Store, micro_batch: int | None, hours: float | None = None
) -> Recipe:
    """Resolve the recipe in the main process, check that all processes train the same, and form their groups.

    Args:
        team: The processes, all of which must call this.
        run: The run's folder.
        recipe: The recipe that the caller asks for; None for the run's own.
        store: The store to train on.
        micro_batch: The micro-batch that the caller asks for.
        hours: The time that the caller asks for; a run that has begun keeps the epochs that were planned for it.

    Returns:
        The recipe to train by.

    Raises:
        OtherRecipeError: The run was begun with another recipe.
        ValueError: As `_resolve_recipe`; or the processes differ in what they are to train, or do not suit the scheme.
    """
    with team.raise_together():
        resolved = _resolve_recipe(run, recipe, store, hours) if team.is_main else None
    agreed: Recipe = team.broadcast(resolved)
    is_new = not team.broadcast(has_begun(run))
    with team.raise_together():
        store.validation()
    settings = {
        "parallel": team.scheme,
        "micro_batch": micro_batch,
        "hours": hours,
        "the precision (to fix it, use `precision=float32`)": (
            "bfloat16" if uses_bfloat16(team.device, agreed) else "float32"
        ),
    }
    team.check_same(lambda: shared_settings(recipe or agreed, store) | settings)
    with team.raise_together():
        team.form_groups(agreed.net, len(store.classes))
        if is_new and agreed.batch_size % team.data_group.size:  # a run may be resumed with fewer processes
            raise ValueError(
                f"batch_size must be divisible by the {team.data_group.size} processes that share a batch; got "
                f"{agreed.batch_size}: change --nproc-per-node, or use another `batch_size`"
            )
    return agreed


class OtherRecipeError(ValueError):
    """A run was begun with another recipe.

    Args:
        run: The run's folder.
        differences: The fields, with the run's values and those that are asked for, as of `recipe_differences`.
    """

    def __init__(self, run: Path, differences: Sequence[tuple[str, Any, Any]]) -> None:
        super().__init__(
            f"run {run} was begun with another recipe, {format_differences(differences)}: leave these out to go on, or "
            "use another RUN folder"
        )
        self.run = run


def has_begun(run: Path) -> bool:
    """Return whether a run has a checkpoint; a start that failed before the first one binds nobody."""
    return bool(list_checkpoints(run)) or (run / "checkpoints" / "best.safetensors").exists()


def _resolve_recipe(run: Path, recipe: Recipe | None, store: Store, hours: float | None) -> Recipe:
    """Return the recipe to train by: that of the run if it has begun, else the one that the caller asks for.

    Args:
        run: The run's folder.
        recipe: The recipe that the caller asks for; None for the run's own.
        store: The store to train on.
        hours: The time that the caller asks for.

    Raises:
        ValueError: There is no recipe, or two that differ; the store does not suit it; the folder is no run.
    """
    path = run / "recipe.json"
    saved = Recipe.load(path) if path.exists() else None
    if saved and has_begun(run):
        if hours is not None:
            check_planned_hours(run, hours)
        asked = recipe if recipe is None or hours is None else recipe.with_epochs(saved.epochs)
        if asked not in (None, saved):
            raise OtherRecipeError(run, recipe_differences(saved, asked))
        recipe = saved
    resolved = recipe or saved
    if resolved is None:
        raise ValueError(f"run {run} must have a recipe.json, or be given a recipe; it has none: name a recipe")
    _check_store(resolved, store)
    if run.exists() and not run.is_dir():
        raise ValueError(f"run {run} must be a folder; it is a file: use another RUN")
    others = set(run.iterdir()) - {unfinished_file(run / "recipe.json")} if run.exists() else ()
    if saved is None and others:
        raise ValueError(f"run {run} must be a new or empty folder, or a run; it holds other files: use another RUN")
    return resolved


def _check_store(recipe: Recipe, store: Store) -> None:
    """Check that a recipe can be trained on a store.

    Raises:
        ValueError: The size of its pictures is another, or a split is missing.
    """
    size = recipe.store_size
    if store.size != size:
        advice = f"prepare another with `size={size}`, or name the pictures instead of the store"
        if recipe.net.image_size <= store.size <= 2 * recipe.net.image_size:
            advice += f", or train a new run with `store_size={store.size}`"
        special = {**ILSVRC_RECIPES, **FINETUNING_RECIPES}
        names = [name for name in RECIPES if name not in special and recipe_named(name).store_size == store.size]
        if names:
            advice += f", or name a recipe for {store.size} pixels ({', '.join(names)})"
        raise ValueError(
            f"store {store.path} must hold pictures of the recipe's store_size {size}; got {store.size}: {advice}"
        )
    if "train" not in store.splits:
        raise ValueError(
            f"store {store.path} must have train pictures; it has {', '.join(store.splits)}: prepare another"
        )
    if recipe.folds_in_validation and "val" not in store.splits:
        raise ValueError(
            f'store {store.path} must have val pictures for schedule "fold"; it has {", ".join(store.splits)}: prepare '
            "another (CIFAR-10 with `val_batch=5`), or use `schedule=changes`"
        )
    if recipe.early_stopping and "val" not in store.splits:
        raise ValueError(
            f"store {store.path} must have val pictures for early_stopping, since test pictures stop no training; it "
            f"has {', '.join(store.splits)}: prepare another with `held_out=0.1`, or leave `patience` out"
        )


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
                    'a recipe with mean "start" must be given a run to start from; got none: name one that '
                    "was trained or imported, with `start_from=RUN`"
                )
            mean = load_mean(checkpoints[-1]) if checkpoints else origin_mean(start_from or "", store.size)
    return dataclasses.replace(store.statistics, mean=team.broadcast(mean))


def default_workers(team: Team) -> int:
    """Return how many threads make batches: a GPU needs all cores for it, for a CPU one thread suffices."""
    return team.num_threads() if team.device.type == "cuda" else 1


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
            f"run {run} was begun from {origin or 'start values that were drawn'}, not from {start_from}: leave "
            "`start_from` out to go on, or use another RUN folder"
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
