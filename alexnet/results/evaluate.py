"""How good trained nets are on a store: one view or several, one net or the mean of several (sections 3, 5.1 and 7)."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from alexnet.data.loading.views import check_view_count, mean_over_views, select_views
from alexnet.data.store.base import Split
from alexnet.data.store.store import Store
from alexnet.distributed.launch import init_team
from alexnet.distributed.team import Team
from alexnet.recipe import Recipe
from alexnet.results.predictions import Predictions, average, digest, mixture_weights
from alexnet.training.checkpoint import Checkpoint, load_best
from alexnet.training.consistency import describe_pictures, versions
from alexnet.training.error_rates import error_rates
from alexnet.training.inference import format_views, predict_batches
from alexnet.utils.console import note_once

HANG_SECONDS = 300  # of several processes, one that stands still for so long is given up


def evaluate(
    runs: str | Path | Sequence[str | Path],
    store: str | Path,
    *,
    views: int = 1,
    split: str | None = None,
    weights_on: str | None = None,
    save: str | Path | None = None,
    device: str | torch.device | None = None,
    parallel: str = "none",
) -> dict[str, Any]:
    """The errors of a run, or of the mean of several runs' predictions (section 7, Table 2).

    Args:
        runs: Folders that `train` made; of each, the net with the lowest validation error is taken,
            or the last one where the store had no "val". Or files of predictions that `save` named before.
        store: Folder that `prepare` made, with the same classes.
        views: 1 for the centre of each picture; 10 for corners, centre and their reflections (5.1), of which only two
            differ where crops are as large as the pictures; 9 for corners, edges and centre (the recipes cifar10-13pct
            and cifar10-11pct).
        split: "val", "test" or "train"; by default "val" where the store has it and the nets do not learn from it (the
            schedule "fold"), else "test".
        weights_on: The part of the store on which the weights of the average are chosen; equal weights by default.
        save: A file to keep the averaged predictions in.
        device: Where; the first GPU or else the CPU by default.
        parallel: How the processes that torchrun has started share the work, as for `train`; each picture counts once.

    Returns:
        images, views (those that differ), top1_error and top5_error (fractions), log_prob (mean of -ln p), split, runs;
        and weights where they were chosen.

    Raises:
        ValueError: Views other than 1, 9 or 10; a run of other classes or another picture size than the store's;
            predictions of other pictures or views; weights chosen on the pictures that are measured on.
        FileNotFoundError: A run without a trained net, or no store.
    """
    names = [runs] if isinstance(runs, (str, Path)) else list(runs)
    with init_team(parallel, device, HANG_SECONDS) as team:
        with team.raise_together():
            if save is not None and team.is_main and not Path(save).absolute().parent.is_dir():
                raise FileNotFoundError(f"{save} must be in a folder that there is")
            of_store, of = open_store_and_split(names, store, views, split, weights_on)
        asked = {
            "the part measured on": of.name,
            "views": views,
            "weights_on": weights_on,
            "parallel": team.scheme,
            "the runs": [Path(name).name for name in names],  # which machines may have in different places
        }
        team.check_same(lambda: {**versions(), "the store's pictures": describe_pictures(of_store), **asked})
        splits = [of.name, *([weights_on] if weights_on else [])]
        nets = [load_or_predict(Path(name), of_store, splits, views, team) for name in names]
    if weights_on:
        labels = torch.from_numpy(of_store.split(weights_on).labels)
        weights = mixture_weights([net.probabilities[weights_on] for net in nets], labels)
    else:  # equal for all nets, of which a file may average several
        count = torch.tensor([len(net.nets) for net in nets], dtype=torch.float64)
        weights = count / count.sum()
    both = {part: average([net.probabilities[part] for net in nets], weights) for part in splits}
    if save is not None and team.is_main:
        of_nets = tuple(run for net in nets for run in net.nets)
        Predictions(of_nets, of_store.classes, views, nets[0].differing, nets[0].pictures, both).save(Path(save))
    result = error_rates(both[of.name], torch.from_numpy(of.labels))
    if len(of_store.classes) <= 5 and team.is_main:
        note_once(f"five guesses name all {len(of_store.classes)} classes: go by the top-1 error, not the top-5 error")
    return {
        "images": result.images,
        "views": nets[0].differing,
        "top1_error": result.top1_error,
        "top5_error": result.top5_error,
        "log_prob": result.log_prob,
        "split": of.name,
        "runs": [str(name) for name in names],
    } | ({"weights": weights.tolist()} if weights_on else {})


def open_store_and_split(
    names: Sequence[str | Path], store: str | Path, views: int, split: str | None, weights_on: str | None
) -> tuple[Store, Split]:
    """The store, and the part of it to measure on, where the arguments of `evaluate` are sound."""
    check_view_count(views)
    of_store = Store(store)
    if not names:
        raise ValueError("runs must name at least one run; got none")
    recipes = [
        Recipe.from_json(path.read_text(encoding="utf-8")) for n in names if (path := Path(n, "recipe.json")).exists()
    ]
    of = of_store.split(split) if split else evaluation_split(of_store, recipes)
    if weights_on:
        of_store.split(weights_on)
    if weights_on == of.name:
        raise ValueError(f"weights_on must be another part than the one measured on; got {weights_on!r} for both")
    return of_store, of


def evaluation_split(store: Store, recipes: Sequence[Recipe]) -> Split:
    """The pictures to measure nets on: those to validate on, but the test pictures where some net learns from these."""
    folded = any(recipe.folds_in_validation for recipe in recipes)
    return store.split("test") if folded and "test" in store.splits else store.validation()


def load_or_predict(name: Path, store: Store, splits: Sequence[str], views: int, team: Team) -> Predictions:
    """A run's predictions for parts of a store; where `name` is a file, those that were kept in it."""
    with team.raise_together():
        if name.is_file():
            kept = Predictions.load(name)
            kept.check(name, store, splits, views)
            return kept
        found = load_best(name)
        check_run_fits_store(found, store)
    team.check_same(lambda: {f"the step of run {name.name}": found.state.step})
    with team.raise_together():
        team.form_groups(found.recipe.net, len(found.classes))
    counted = len(select_views(views, store.size, found.recipe.net.image_size))
    parts = {part: predict_split(found, store.split(part), views, team)[views] for part in splits}
    # Of all names, which the process that keeps the predictions alone needs to read.
    digests = {part: digest(store.split(part)) for part in splits} if team.is_main else {}
    return Predictions((str(name),), found.classes, views, counted, digests, parts)


def predict_split(
    found: Checkpoint, split: Split, views: int, team: Team, *, progress: bool = True
) -> dict[int, torch.Tensor]:
    """One net's probabilities for every picture of a split, in its order, from the centre and from all views.

    Args:
        found: The net.
        split: The pictures.
        views: 1, 9 or 10.
        team: Where; formed for the net.
        progress: Whether to show a bar on standard error when that is a terminal.

    Returns:
        By number of views, 1 and `views`: (N, classes) float32 on the CPU, the mean over so many.
    """
    net, centres, means = found.net(), list[torch.Tensor](), list[torch.Tensor]()
    team.shard_model(net)
    net.to_channels_last(team.device)
    group = team.data_group
    shown = progress and team.is_main and sys.stderr.isatty()
    with tqdm(total=len(split), desc=format_views(views), unit="picture", leave=False, disable=not shown) as bar:
        mean, recipe = found.statistics.mean, found.recipe
        for mine, _ in predict_batches(net, split, mean, recipe, views=views, shard=group.rank, num_shards=group.size):
            team.watchdog.report_progress(len(means), "evaluation")
            centres.append(team.all_gather_predictions(mine[:, 0].clone()))  # or all of `mine` would stay in memory
            means.append(team.all_gather_predictions(mean_over_views(mine)))
            bar.update(len(means[-1]))
    return {1: torch.cat(centres), views: torch.cat(means)}


def check_run_fits_store(found: Checkpoint, store: Store) -> None:
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
