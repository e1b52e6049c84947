"""The report and the figures of a run: what was trained, how, and how good it is (section 7)."""

from pathlib import Path

import numpy as np
import torch

from alexnet.data.prepare.on_demand import StoreLocation
from alexnet.data.store.location import StoreURL, parse_location
from alexnet.distributed.team import Team
from alexnet.results.calibration import calibration_bins
from alexnet.results.classifier import Classifier
from alexnet.results.confusion import confusion_matrix
from alexnet.results.evaluate import check_run_fits_store, evaluation_split, predict_split
from alexnet.results.examples import balanced_sample, confident_mistakes, make_examples, predict_examples
from alexnet.results.explanation import explain_examples
from alexnet.results.figure_files import check_figures, save_figure, write_figure
from alexnet.results.figures import draw_curves, draw_guesses, draw_kernels
from alexnet.results.hierarchical_error import find_costs, hierarchical_errors
from alexnet.results.measured import MeasuredErrors, save_results
from alexnet.results.measured_pictures import open_measured_store
from alexnet.results.report_html import ReportData, render_report
from alexnet.results.run_history import RunHistory
from alexnet.training.checkpoint import Checkpoint, load_best
from alexnet.training.error_rates import error_rates, most_probable
from alexnet.training.inference import default_views
from alexnet.utils.checksums import seal
from alexnet.utils.device import choose_device
from alexnet.utils.files import local_path, write_atomic

_EXAMPLES = 8  # as many as in Figure 4
_MISTAKES = 4
_EXPLAINED = 3  # right ones, and as many wrong ones


def report(
    run: str | Path,
    store: StoreLocation,
    *,
    split: str | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Path:
    """Write RUN/report.html, one self-contained page, and RUN/results.json, the errors that it shows.

    The run may be in the middle of its training.

    Args:
        run: The folder that `train` wrote.
        store: The folder that `prepare` wrote, with the same classes.
        split: The split to evaluate: "val", "test" or "train"; by default "val" if the store has it, else "test".
        seed: The seed of the choice of the pictures that are shown.
        device: The device to compute on; by default the first GPU, or the CPU if there is none.
        progress: Whether to show a bar on standard error if that is a terminal.

    Returns:
        The path of the page.

    Raises:
        ValueError: The run has other classes or another picture size than the store.
        FileNotFoundError: There is no such store, or the run has no trained net yet.
    """
    run = Path(run)
    opened = open_measured_store(store, run)
    history, checkpoint = RunHistory.read(run), load_best(run)
    check_run_fits_store(checkpoint, opened)
    recipe, classes = checkpoint.recipe, checkpoint.classes
    target = opened.split(split) if split else evaluation_split(opened, [recipe])
    views = default_views(recipe)
    # The centre is one of the views: its predictions come with the others.
    predicted = predict_split(checkpoint, target, views, Team(device=choose_device(device)), progress=progress)
    probabilities, labels = predicted[views].numpy(), target.labels
    right = np.flatnonzero(probabilities.argmax(1) == labels)
    right = right[balanced_sample(labels[right], _EXPLAINED, seed)]
    chosen, mistaken = balanced_sample(labels, _EXAMPLES, seed), confident_mistakes(probabilities, labels, _MISTAKES)
    explained = np.concatenate([right, mistaken[:_EXPLAINED]])
    costs = find_costs(None, opened)
    data = ReportData(
        run="/".join(run.resolve().parts[-2:]),
        history=history,
        checkpoint=checkpoint,
        split=target.name,
        chosen_on_split=history.is_chosen_on(opened, target.name),
        results={count: error_rates(values, torch.from_numpy(labels)) for count, values in predicted.items()},
        kernels=first_layer_kernels(checkpoint),
        guesses=make_examples(target, classes, probabilities[chosen], chosen),
        mistakes=make_examples(target, classes, probabilities[mistaken], mistaken),
        explained=explain_examples(
            Classifier(checkpoint, device=device), make_examples(target, classes, probabilities[explained], explained)
        ),
        confusion=confusion_matrix(probabilities.argmax(1), labels, len(classes)),
        calibration=calibration_bins(probabilities, labels),
        hierarchical={} if costs is None else hierarchical_errors(most_probable(probabilities, 5), labels, costs),
    )
    name = opened.path.resolve().name
    measured = [
        MeasuredErrors(name, data.split, views, rates, data.chosen_on_split) for views, rates in data.results.items()
    ]
    save_results(run, checkpoint, measured)
    path = run / "report.html"
    write_atomic(path, seal(render_report(data).encode()))
    return path


def write_figures(
    run: str | Path,
    store: StoreLocation | None,
    folder: str | Path,
    *,
    seed: int = 0,
    device: str | torch.device | None = None,
    force: bool = False,
) -> list[Path]:
    """Write a run's figures as PNG files: curves.png, kernels.png (Figure 3), guesses.png (Figure 4, left).

    An imported run has no curves; without a store, or without classes, there are no guesses.

    Args:
        run: The folder that `train` or `import` wrote.
        store: The folder that `prepare` wrote, with the same classes; None if the run was imported.
        folder: The folder to write to; it is created if it does not exist.
        seed: The seed of the choice of the pictures that are shown; the same seed gives the pictures of the report.
        device: The device to compute on; by default the first GPU, or the CPU if there is none.
        force: Whether to replace figures that alexnet has drawn; those in RUN/figures, the run's own, are always
            replaced. Other files never are.

    Returns:
        The paths of the files.

    Raises:
        ValueError: The run has other classes or another picture size than the store.
        FileNotFoundError: There is no such store, or the run has no trained net yet.
        FileExistsError: A file exists and is not a figure drawn by alexnet, or it is and `force` is not set.
    """
    run, folder = Path(run), local_path(folder)
    is_own = folder.resolve() == (run / "figures").resolve()
    if not is_own:
        check_figures(folder, ("curves", "guesses", "kernels"), force=force)
    history, checkpoint = RunHistory.read(run), load_best(run)
    figures = {} if history.origin else {"curves": draw_curves(history)}
    if store is not None:
        opened = open_measured_store(store, run)
        check_run_fits_store(checkpoint, opened)
        target = evaluation_split(opened, [checkpoint.recipe])
        chosen = balanced_sample(target.labels, _EXAMPLES, seed)
        figures["guesses"] = draw_guesses(predict_examples(checkpoint, target, chosen, device))
    kernels = first_layer_kernels(checkpoint)
    if kernels is not None:
        figures["kernels"] = draw_kernels(kernels, checkpoint.recipe.net.towers)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        if is_own:
            save_figure(path, figure, checkpoint.recipe)
        else:
            write_figure(path, figure, checkpoint.recipe, force=force)
    return paths


def training_store(run: str | Path) -> Path | StoreURL | None:
    """Return the location of the store that a run was trained on; None if the run was imported.

    Raises:
        FileNotFoundError: `run` is not a run, or the store does not exist any more.
    """
    history = RunHistory.read(Path(run))
    if history.origin:
        return None
    location = parse_location(history.start["store"])
    if isinstance(location, Path) and not location.is_dir():
        raise FileNotFoundError(
            f"store {location}, on which run {run} was trained, does not exist: name it with `store=STORE`"
        )
    return location


def first_layer_kernels(checkpoint: Checkpoint) -> np.ndarray | None:
    """Return the first layer's weights (maps, 3, kernel, kernel) float32; None if it is not a convolution.

    A locally connected layer has too many kernels to show: one for each map and position.
    """
    name = checkpoint.recipe.net.layers()[0]
    weight = checkpoint.with_prefix("net").get(f"convs.{name}.0.weight")
    return None if weight is None or weight.ndim != 4 else weight.float().numpy()
