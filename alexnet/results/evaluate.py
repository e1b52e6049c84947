"""The errors of trained nets on a store: from one view or several, of one net or an average (sections 3, 5.1, 7)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet.data.loading.views import check_view_count, select_views
from alexnet.data.prepare.on_demand import StoreLocation
from alexnet.data.store.base import Split
from alexnet.data.store.store import Store
from alexnet.distributed.launch import init_team
from alexnet.distributed.team import Team
from alexnet.recipe import Recipe
from alexnet.results.evaluation import Evaluation
from alexnet.results.evaluation_files import EvaluationFiles
from alexnet.results.hierarchical_error import find_costs
from alexnet.results.measured_pictures import store_to_measure
from alexnet.results.predictions import Predictions, average, mixture_weights, picture_digest
from alexnet.results.run_history import RunHistory
from alexnet.training.checkpoint import Checkpoint, load_best
from alexnet.training.consistency import describe_pictures, versions
from alexnet.training.inference import default_views, format_views, mean_over_views, predict_batches
from alexnet.utils.console import note_once
from alexnet.utils.processes import world_size
from alexnet.utils.progress import Progress

_HANG_SECONDS = 300  # a process that makes no progress for so long is given up


def evaluate(
    runs: str | Path | Sequence[str | Path],
    store: StoreLocation,
    *,
    views: int | None = None,
    split: str | None = None,
    weights_on: str | None = None,
    save: str | Path | None = None,
    per_class: str | Path | None = None,
    predictions: str | Path | None = None,
    confusion: str | Path | None = None,
    cost_matrix: str | Path | None = None,
    force: bool = False,
    device: str | torch.device | None = None,
    parallel: str = "none",
) -> dict[str, Any]:
    """Measure the errors of a run, or of the mean of several runs' predictions (section 7, Table 2).

    Args:
        runs: Folders that `train` wrote. The net with the lowest validation error of each is used, or the last one if
            the store had no "val". A file of predictions, written by `save`, may take the place of a folder.
        store: The folder that `prepare` wrote, with the same classes; or anything that `prepare` takes, from which a
            store is then prepared beside the run (alexnet.results.measured_pictures).
        views: 1 for the centre of each picture; 10 for corners, centre and their reflections (5.1), of which only two
            differ if the crops are as large as the pictures; 9 for corners, edges and centre (the recipes cifar10-13pct
            and cifar10-11pct). By default the recipe's number, or 1 if the crops are as large as the pictures, as for
            `Classifier.predict`; for a file of predictions, the file's.
        split: "val", "test" or "train". By default "val" if the store has it and no net was trained on it (schedule
            "fold"), else "test"; for files of predictions the split that they have, if they have only one.
        weights_on: The split on which the weights of the average are chosen; by default the weights are equal.
        save: A file to write the averaged predictions to.
        per_class, predictions, confusion: Files to write: a table of the classes (CSV), a table of the pictures (CSV),
            the confusion matrix (CSV or PNG). Their values are returned, too; with "-" they are returned only.
        cost_matrix: ILSVRC-2010's development kit or its meta.mat, for the hierarchical error; by default a meta.mat in
            the store's folder or beside it, if it is one for these classes.
        force: Whether to replace files that an earlier call has written. Other files are never replaced.
        device: The device to compute on; by default the first GPU, or the CPU if there is none.
        parallel: How the processes that torchrun has started share the work, as for `train`; each picture counts once.

    Returns:
        An object as in docs/json.md: images, views (the number that differ), top1_error and top5_error (fractions),
        top1_interval and top5_interval (Wilson's 95 % intervals), macro_error (mean over the classes) and its
        macro_interval, log_prob (mean of -ln p), calibration_error and calibration_bins, split, chosen_on_split, runs,
        nets; and what else is asked for.

    Raises:
        ValueError: `views` is not 1, 9 or 10, or the runs have different defaults; a run has other classes or another
            picture size than the store; a file has predictions for other pictures or views; the weights are chosen on
            the split that is evaluated; a file to write has the wrong ending; the cost matrix lacks a class.
        FileExistsError: A file to write exists and is not of its kind, or it is and `force` is not set.
        FileNotFoundError: A run has no trained net, or there is no store.
    """
    paths = [Path(run) for run in ([runs] if isinstance(runs, (str, Path)) else runs)]
    outputs = {"save": save, "per_class": per_class, "predictions": predictions, "confusion": confusion}
    files = EvaluationFiles({name: Path(file) for name, file in outputs.items() if file is not None}, force)
    if world_size() == 1:  # before pictures are prepared; of several processes the main one checks
        files.check()
    store = store_to_measure(store, paths, (split, weights_on))
    with init_team(parallel, device, _HANG_SECONDS) as team:
        with team.raise_together():
            if team.is_main:
                files.check()
            sources = [Predictions.load(path) if path.is_file() else path for path in paths]
            opened, target, views = _choose_pictures(paths, sources, store, views, split, weights_on)
            costs = find_costs(cost_matrix, opened)
        asked = {"the split to evaluate": target.name, "views": views, "weights_on": weights_on}
        team.check_same(lambda: _shared_settings(opened, paths) | asked | {"parallel": team.scheme})
        splits = [target.name, *([weights_on] if weights_on else [])]
        nets = [
            _check_or_predict(path, source, opened, splits, views, team)
            for path, source in zip(paths, sources, strict=True)
        ]
    weights = _choose_weights(nets, opened, weights_on)
    averages = {name: average([net.probabilities[name] for net in nets], weights) for name in splits}
    names = tuple(run for net in nets for run in net.nets)
    evaluation = Evaluation(opened.classes, target, averages[target.name].numpy())
    result = evaluation.errors() | evaluation.hierarchical_errors(costs)
    result |= {"views": nets[0].distinct_views, "runs": [str(path) for path in paths], "nets": len(names)}
    # A file of predictions names the runs of its nets.
    runs_measured = [RunHistory.read(Path(run)) for run in names if (Path(run) / "metrics.jsonl").exists()]
    result["chosen_on_split"] = any(run.is_chosen_on(opened, target.name) for run in runs_measured)
    if weights_on:
        result["weights"] = weights.tolist()
    if team.is_main:
        if save is not None:
            averaged = Predictions(names, opened.classes, views, nets[0].distinct_views, nets[0].pictures, averages)
            averaged.save(Path(save), force=force)
        result |= files.write(evaluation)
        count = len(opened.classes)
        if count <= 5:
            note_once(f"five guesses name all {count} classes: go by the top-1 error, not the top-5 error")
    return result


def _shared_settings(store: Store, paths: Sequence[Path]) -> dict[str, Any]:
    """Return what all processes must have in common, by name."""
    # Only the names of the runs: the machines may have them in different folders.
    names = [path.name for path in paths]
    return versions() | {"the store's pictures": describe_pictures(store), "the runs": names}


def _choose_pictures(
    paths: Sequence[Path],
    sources: Sequence[Path | Predictions],
    location: StoreLocation,
    views: int | None,
    split: str | None,
    weights_on: str | None,
) -> tuple[Store, Split, int]:
    """Check the arguments of `evaluate`, and return the store, the split to evaluate and the number of views."""
    if views is not None:
        check_view_count(views)
    store = location if isinstance(location, Store) else Store(location)
    if not paths:
        raise ValueError("runs must name at least one run; got none")
    files = [path / "recipe.json" for path in paths]
    recipes = {path: Recipe.load(file) for path, file in zip(paths, files, strict=True) if file.exists()}
    saved = [source for source in sources if isinstance(source, Predictions)]
    target = store.split(split or _only_split(saved) or evaluation_split(store, list(recipes.values())).name)
    if weights_on:
        store.split(weights_on)
    if weights_on == target.name:
        raise ValueError(
            f"weights_on must be another split than the one that is evaluated; got {weights_on!r} for both"
        )
    if views is None:
        views = _common_views(
            {path: default_views(recipe) for path, recipe in recipes.items()}
            | {path: s.views for path, s in zip(paths, sources, strict=True) if isinstance(s, Predictions)}
        )
    return store, target, views


def _only_split(saved: Sequence[Predictions]) -> str | None:
    """Return the split of files of predictions, if all have only this one."""
    splits = {split for predictions in saved for split in predictions.probabilities}
    return splits.pop() if len(splits) == 1 else None


def _common_views(views: Mapping[Path, int]) -> int:
    """Return the number of views of all runs and files.

    Raises:
        ValueError: They have different ones.
    """
    different = {number: path for path, number in views.items()}
    if len(different) > 1:
        (first, path), (second, other) = list(different.items())[:2]
        raise ValueError(f"runs must have the same number of views; {path} has {first}, {other} {second}: use `views`")
    return next(iter(different), 1)  # without any recipe, loading the net says what is missing


def evaluation_split(store: Store, recipes: Sequence[Recipe]) -> Split:
    """Return the split to evaluate nets on: the validation pictures, or the test pictures if a net learns from these.

    A recipe of schedule "fold" adds the validation pictures to the training set.
    """
    folded = any(recipe.folds_in_validation for recipe in recipes)
    return store.split("test") if folded and "test" in store.splits else store.validation()


def _choose_weights(nets: Sequence[Predictions], store: Store, weights_on: str | None) -> Tensor:
    """Return the weights of the average (nets,) float64: chosen on a split, or equal for all trained nets."""
    if weights_on:
        labels = torch.from_numpy(store.split(weights_on).labels)
        return mixture_weights([net.probabilities[weights_on] for net in nets], labels)
    counts = torch.tensor([len(net.nets) for net in nets], dtype=torch.float64)  # a file may average several nets
    return counts / counts.sum()


def _check_or_predict(
    path: Path, source: Path | Predictions, store: Store, splits: Sequence[str], views: int, team: Team
) -> Predictions:
    """Return saved predictions, or those of a run, for some splits of a store."""
    with team.raise_together():
        if isinstance(source, Predictions):
            source.check(path, store, splits, views)
            return source
        checkpoint = load_best(path)
        check_run_fits_store(checkpoint, store)
    team.check_same(lambda: {f"the step of run {path.name}": checkpoint.state.step})
    with team.raise_together():
        team.form_groups(checkpoint.recipe.net, len(checkpoint.classes))
    distinct_views = len(select_views(views, store.size, checkpoint.recipe.net.image_size))
    probabilities = {name: predict_split(checkpoint, store.split(name), views, team)[views] for name in splits}
    # The digest reads the names of all pictures; only the main process, which writes the file, needs it.
    digests = {name: picture_digest(store.split(name)) for name in splits} if team.is_main else {}
    return Predictions((str(path),), checkpoint.classes, views, distinct_views, digests, probabilities)


def predict_split(
    checkpoint: Checkpoint, split: Split, views: int, team: Team, *, progress: bool = True
) -> dict[int, Tensor]:
    """Return a net's probabilities for every picture of a split, in its order, from the centre and from all views.

    Args:
        checkpoint: The net.
        split: The pictures.
        views: 1, 9 or 10.
        team: The processes that share the work; their groups are formed for the net.
        progress: Whether to show progress on standard error.

    Returns:
        By number of views, 1 and `views`: (N, classes) float32 on the CPU, the mean over the views.
    """
    net, centres, means = checkpoint.net(), list[Tensor](), list[Tensor]()
    team.shard_model(net)
    net.to_channels_last(team.device)
    group = team.data_group
    with Progress(format_views(views), len(split), "pictures", shown=progress and team.is_main) as bar:
        mean, recipe = checkpoint.statistics.mean, checkpoint.recipe
        for local, _ in predict_batches(net, split, mean, recipe, views=views, shard=group.rank, num_shards=group.size):
            team.watchdog.report_progress(len(means), "evaluation")
            # Copied: a slice would keep the predictions from all views in memory.
            centres.append(team.all_gather_predictions(local[:, 0].clone()))
            means.append(team.all_gather_predictions(mean_over_views(local)))
            bar.update(len(means[-1]))
    return {1: torch.cat(centres), views: torch.cat(means)}


def check_run_fits_store(checkpoint: Checkpoint, store: Store) -> None:
    """Check that a run's net can be used on a store: that both have the same classes and the same size of pictures.

    Raises:
        ValueError: They have not.
    """
    checkpoint.require_classes()
    run = checkpoint.path.parent.parent
    if checkpoint.classes != store.classes:
        raise ValueError(
            f"run {run} must have the same classes as store {store.path}; it has {len(checkpoint.classes)} "
            f"({checkpoint.classes[0]} ...), the store has {len(store.classes)} ({store.classes[0]} ...): "
            "prepare the store from folders of the same names"
        )
    check_picture_size(checkpoint, store)


def check_picture_size(checkpoint: Checkpoint, store: Store) -> None:
    """Raise a ValueError if a store's pictures are not of the size that a run's net was made for."""
    run = checkpoint.path.parent.parent
    if checkpoint.recipe.store_size != store.size:
        raise ValueError(
            f"run {run} must be used with pictures of side {checkpoint.recipe.store_size}; store {store.path} has "
            f"{store.size}: prepare one with `size={checkpoint.recipe.store_size}`"
        )
