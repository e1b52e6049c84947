"""The schedules: plateaus on made-up error curves, changes at given epochs, the cosine, the folding (section 6)."""

import json
import math
import typing
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.recipe import Change, Recipe
from alexnet.recipes import recipe_named
from alexnet.training.schedule import SCHEDULES, Plateau, Schedule, make_schedule

NAMES = ("plateau", "changes", "cosine", "fold")
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


def run(errors: list[float], *, patience: int = 3, falls: int = 3) -> tuple[list[int], int | None]:
    """Return the epochs (from 1) after which the rate falls, and the one after which the training ends."""
    plateau, fallen = Plateau(patience, falls), []
    for epoch, error in enumerate(errors, 1):
        before = plateau.fallen
        changed = plateau.observe(error)
        assert changed == (plateau.fallen > before or plateau.ended)
        if plateau.ended:
            return fallen, epoch
        if plateau.fallen > before:
            fallen.append(epoch)
    return fallen, None


def test_three_falls_and_the_fourth_plateau_ends_it() -> None:
    stage = [0.9, 0.7, 0.6, 0.6, 0.61, 0.6]  # the best is an epoch's third, then three without a better one
    errors = [error * 0.8**n for n in range(4) for error in stage]
    assert run(errors + [0.1] * 9) == ([6, 12, 18], 24)


def test_an_error_that_never_improves_falls_at_each_patience() -> None:
    assert run([0.9] * 30) == ([4, 7, 10], 13)  # the first epoch is always a new best


def test_an_error_that_always_improves_never_falls() -> None:
    assert run([1 / n for n in range(1, 100)]) == ([], None)


def test_one_epoch_less_than_patience_does_not_fall_and_patience_does() -> None:
    assert run([0.5, 0.6, 0.6, 0.4, 0.5, 0.5, 0.3]) == ([], None)
    assert run([0.5, 0.6, 0.6, 0.6, 0.4]) == ([4], None)


def test_noise_above_the_best_is_no_improvement_however_it_goes() -> None:
    noisy = [0.5, 0.8, 0.7, 0.6, 0.55, 0.52, 0.51]  # falls steadily, yet never below 0.5
    assert run(noisy) == ([4, 7], None)
    assert run([0.5, 0.5, 0.5, 0.5]) == ([4], None)  # nor is reaching it again


def test_the_best_error_is_that_of_all_rates() -> None:
    # Worse after the fall than before it: that is a plateau, though it improves on itself.
    assert run([0.5, 0.6, 0.6, 0.6, 0.58, 0.56, 0.54]) == ([4, 7], None)


def test_without_falls_the_first_plateau_ends_it() -> None:
    assert run([0.5] * 9, falls=0) == ([], 4)


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), max_size=60), st.integers(1, 5), st.integers(0, 3))
def test_any_curve_against_a_plain_reading_of_the_rule(errors: list[float], patience: int, falls: int) -> None:
    events, since = [], 0
    for epoch, error in enumerate(errors, 1):
        since = 0 if error < min(errors[: epoch - 1], default=math.inf) else since + 1
        if since == patience:
            events.append(epoch)
            since = 0
    events = events[: falls + 1]
    ended = events[falls] if len(events) > falls else None
    assert run(errors, patience=patience, falls=falls) == (events[:falls], ended)


@given(st.lists(st.floats(0, 1), max_size=40), st.integers(0, 40))
def test_a_plateau_continues_from_its_saved_state(errors: list[float], stop: int) -> None:
    uninterrupted, stopped = Plateau(2, 3), Plateau(2, 3)
    for error in errors[:stop]:
        uninterrupted.observe(error)
        stopped.observe(error)
    resumed = Plateau(**json.loads(json.dumps(stopped.state_dict())))
    assert [uninterrupted.observe(e) for e in errors[stop:]] == [resumed.observe(e) for e in errors[stop:]]
    assert resumed == uninterrupted


@given(st.sampled_from(NAMES), st.lists(st.floats(0, 1), max_size=20), st.integers(0, 20))
def test_a_schedule_continues_from_its_saved_state(name: str, errors: list[float], stop: int) -> None:
    recipe = Recipe(schedule=name, patience=2, changes=(Change(epoch=3, learning_rate=0.004),))  # type: ignore[arg-type]

    def observe(schedule: Schedule, epochs: range) -> list[tuple[object, ...]]:
        decisions: list[tuple[object, ...]] = []
        for epoch in epochs:
            schedule.observe(epoch + 1, errors[epoch])
            finished, total = schedule.end_reason(epoch + 1, 0.5) is not None, schedule.total_epochs()
            decisions.append((schedule.rates_at(epoch + 1, 0.5), finished, total, schedule.state_dict()))
        return decisions

    stop = min(stop, len(errors))
    decisions = observe(make_schedule(recipe), range(len(errors)))
    stopped = make_schedule(recipe)
    observe(stopped, range(stop))
    resumed = make_schedule(recipe, **json.loads(json.dumps(stopped.state_dict())))
    assert observe(resumed, range(stop, len(errors))) == decisions[stop:]


def test_on_plateaus_the_rate_is_divided_by_ten_for_all_layers_and_biases() -> None:
    schedule = make_schedule(Recipe(patience=1, falls=3))
    schedule.observe(1, 0.5)
    for epoch, expected in enumerate((0.01, 0.001, 0.0001, 0.00001), 2):
        rates = schedule.rates_at(5.5)
        assert rates.weights == rates.biases == dict.fromkeys(LAYERS, pytest.approx(expected, rel=1e-12))
        assert schedule.shifts_colours_at(5.5)
        assert schedule.end_reason(epoch, 0.5) is None
        schedule.observe(epoch, 0.6)
    assert schedule.end_reason(6, 0.5) is not None


# Net 145 on ILSVRC-2012 (2012-source.md, "Learning"): from this epoch on, conv1's rate, that elsewhere, colour noise.
RUN_145 = [
    (0, 0.01, 0.01, True),
    (25, 0.001, 0.001, True),
    (51, 0.0001, 0.0001, True),
    (67, 0.00001, 0.0001, False),
    (72, 0.0, 0.0001, False),
    (79, 0.0, 0.00001, False),
    (91, None, None, None),
]


def test_the_run_of_2012_changes_at_the_epochs_its_files_give() -> None:
    recipe = recipe_named("alexnet-2012-run")
    schedule = make_schedule(recipe)
    for (start, conv1, others, colour), (end, *_) in pairwise(RUN_145):
        for epoch in (start, start + 0.5, end - 1e-6):
            rates = schedule.rates_at(epoch)
            assert rates.weights == {name: conv1 if name == "conv1" else others for name in LAYERS}, epoch
            assert schedule.shifts_colours_at(epoch) is colour
            # The biases' rate stays at 0.02 while the weights' falls; a frozen layer's biases are frozen too.
            assert rates.biases == {name: 0.0 if rates.weights[name] == 0 else 0.02 for name in LAYERS}
    assert recipe.epochs == 91


def test_cifar10_18pct_falls_after_120_and_130_epochs() -> None:
    schedule = make_schedule(recipe_named("cifar10-18pct"))
    expected = {0: 0.001, 119.99: 0.001, 120: 0.0001, 129.99: 0.0001, 130: 0.00001, 139.99: 0.00001}
    for epoch, rate in expected.items():
        rates = schedule.rates_at(epoch)
        assert set(rates.weights.values()) == {rate}
        assert set(rates.biases.values()) == {0.002}


def test_the_cosine_goes_from_the_rate_to_nothing_after_a_rise() -> None:
    schedule = make_schedule(Recipe(schedule="cosine", epochs=20, warmup=4, learning_rate=0.1))

    def rate(epoch: float) -> float:
        (value,) = set(schedule.rates_at(epoch).weights.values())
        return value

    assert [rate(epoch) for epoch in (1, 2, 3, 4)] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert 0 < rate(0) <= 0.1 / 1000  # not 0: that would freeze the layers' first step
    assert rate(12) == pytest.approx(0.05)  # half of the way
    assert rate(8) == pytest.approx(0.1 * (1 + math.cos(math.pi / 4)) / 2)
    assert rate(20) == pytest.approx(0, abs=1e-12)
    falling = [rate(4 + n / 10) for n in range(161)]
    assert falling == sorted(falling, reverse=True)


def test_a_warm_up_rises_to_the_rate_of_any_schedule() -> None:
    for name in ("plateau", "changes"):
        recipe = Recipe(schedule=name, warmup=2, learning_rate=0.1)  # type: ignore[arg-type]
        rates = [make_schedule(recipe).rates_at(epoch).weights["fc8"] for epoch in (0.5, 1, 2, 50)]
        assert rates == pytest.approx([0.025, 0.05, 0.1, 0.1])


def test_a_warm_up_holds_the_biases_rate_and_given_rates_back_too() -> None:
    changes = (Change(epoch=0, learning_rate=0.004, layers=("conv1",)), Change(epoch=1, learning_rate=0.0))
    recipe = Recipe(schedule="changes", warmup=4, learning_rate=0.1, bias_rate=0.02, changes=changes[:1])
    half, full = make_schedule(recipe).rates_at(2), make_schedule(recipe).rates_at(4)
    assert (half.weights["conv1"], half.weights["fc8"]) == pytest.approx((0.002, 0.05))
    assert (full.weights["conv1"], full.weights["fc8"]) == (0.004, 0.1)
    assert set(half.biases.values()) == {0.01}
    assert set(full.biases.values()) == {0.02}
    frozen = make_schedule(replace(recipe, changes=changes)).rates_at(2)
    assert set(frozen.weights.values()) == set(frozen.biases.values()) == {0.0}


@pytest.mark.parametrize("name", ["plateau", "changes", "cosine"])
def test_a_layer_can_be_frozen_and_thawed_under_any_schedule(name: str) -> None:
    changes = (
        Change(epoch=1, learning_rate=0, layers=("conv1", "conv2")),
        Change(epoch=2, learning_rate=0.004, layers=("conv2",)),
    )
    recipe = replace(Recipe(bias_rate=0.02, changes=changes), schedule=name)
    schedule = make_schedule(recipe, Plateau(6, 3, fallen=1).state_dict())
    before, frozen, thawed = (schedule.rates_at(epoch) for epoch in (0.99, 1, 2))
    assert before.weights["conv1"] > 0
    assert before.biases["conv1"] == 0.02
    for name in ("conv1", "conv2"):
        assert frozen.weights[name] == frozen.biases[name] == 0
    assert frozen.weights["conv3"] > 0
    assert (thawed.weights["conv1"], thawed.weights["conv2"], thawed.biases["conv2"]) == (0, 0.004, 0.02)


def test_after_the_folding_epochs_and_changes_are_counted_anew() -> None:
    changes = (Change(epoch=1.4, learning_rate=0.002),)
    schedule = make_schedule(Recipe(schedule="fold", patience=1, epochs=2, changes=changes))
    schedule.observe(1, 0.5)
    assert schedule.rates_at(1, 0.9).highest == 0.01
    assert (schedule.total_epochs(), schedule.end_reason(5, 0.5)) == (None, None)
    schedule.observe(2, 0.5)
    assert [schedule.rates_at(3, fraction).highest for fraction in (0.3, 0.4)] == [0.01, 0.002]
    assert (schedule.total_epochs(), schedule.end_reason(3, 0.5), schedule.end_reason(4, 0.5)) == (
        4,
        None,
        "all epochs are done",
    )


def test_the_target_training_error_ends_any_schedule() -> None:
    for name in NAMES:
        schedule = make_schedule(Recipe(schedule=name, until_train_error=0.25))  # type: ignore[arg-type]
        assert [schedule.end_reason(1, error) for error in (0.26, 0.25)] == [None, "the training error is at most 25%"]


def test_every_schedule_that_a_recipe_can_name_has_a_class() -> None:
    assert list(SCHEDULES) == list(typing.get_args(typing.get_type_hints(Recipe)["schedule"]))
