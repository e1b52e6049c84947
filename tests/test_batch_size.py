"""Recipes with another batch size: the learning rates and the warm-up."""

import dataclasses
import re
from typing import Any

import pytest

from alexnet.recipe import Change, Recipe
from alexnet.recipes import RECIPES, recipe_named
from alexnet.training.schedule import Schedule, make_schedule

SCALED = {"batch_size", "learning_rate", "bias_rate", "changes", "warmup"}


def schedule_of(recipe: Recipe, fallen: int = 0) -> Schedule:
    """Return a recipe's schedule after `fallen` plateaus, with the validation pictures folded in at the start."""
    return make_schedule(recipe, {"patience": 1, "falls": 3, "fallen": fallen}, folded=0)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("rule", ["linear", "sqrt"])
@pytest.mark.parametrize("k", [0.5, 2, 8])
def test_another_batch_size_scales_every_rate_of_every_layer_at_every_time(name: str, rule: Any, k: float) -> None:
    before = recipe_named(name)
    after = before.with_batch(int(k * before.batch_size), rule)
    factor = {"linear": k, "sqrt": k**0.5}[rule]
    assert dataclasses.replace(after, **{field: getattr(before, field) for field in SCALED}) == before
    slow = dataclasses.replace(before, warmup=after.warmup)  # the warm-up apart
    for epoch in [*(change.epoch for change in before.changes), *(before.epochs * n / 50 for n in range(51))]:
        schedules = schedule_of(slow, fallen=1), schedule_of(after, fallen=1)
        old, new = (schedule.rates_at(epoch) for schedule in schedules)
        assert len({schedule.shifts_colours_at(epoch) for schedule in schedules}) == 1
        for scaled, original in ((new.weights, old.weights), (new.biases, old.biases)):
            expected = {layer: factor * rate for layer, rate in original.items()}
            assert scaled == pytest.approx(expected, rel=1e-12, abs=0)


def test_scaled_rates_in_numbers() -> None:
    large = Recipe().with_batch(1024, "linear")
    assert (large.batch_size, large.learning_rate, large.bias_rate, large.warmup) == (1024, 0.08, None, 5)
    assert [schedule_of(large).rates_at(epoch).weights["fc8"] for epoch in (1, 2.5, 5)] == pytest.approx(
        [0.016, 0.04, 0.08]
    )
    large = Recipe().with_batch(512, "sqrt")
    assert (large.batch_size, large.learning_rate, large.bias_rate, large.warmup) == (512, 0.02, None, 0)
    large = recipe_named("alexnet-2012-run").with_batch(256, "linear")
    assert (large.learning_rate, large.bias_rate) == (0.02, 0.04)
    assert [change.learning_rate for change in large.changes] == [0.002, 0.0002, 0.00002, 0, 0.00002]
    without_rates = Recipe(bias_rate=0, changes=(Change(epoch=3, colour_shift=False),))
    large = without_rates.with_batch(256, "linear")
    assert (large.bias_rate, large.changes) == (0, without_rates.changes)


def test_only_linear_scaling_to_a_larger_batch_adds_a_warmup_of_five_epochs() -> None:
    def warmup(batch_size: int, rule: Any, **fields: Any) -> float:
        return Recipe(**fields).with_batch(batch_size, rule).warmup

    assert warmup(129, "linear") == 5
    assert warmup(256, "linear", warmup=1) == 5
    assert warmup(256, "linear", warmup=7) == 7
    assert warmup(256, "linear", epochs=6) == 5
    assert warmup(256, "linear", epochs=5) == pytest.approx(5 * 5 / 90)  # the share of the paper's ninety epochs
    assert warmup(256, "linear", epochs=2, warmup=1) == 1
    assert warmup(64, "linear", warmup=1) == 1
    assert warmup(256, "sqrt", warmup=1) == 1
    assert warmup(256, "linear", schedule="fold") == 0  # which allows none


@pytest.mark.parametrize("rule", [None, "linear", "sqrt"])
def test_without_a_rule_or_another_batch_size_the_rates_do_not_change(rule: Any) -> None:
    assert Recipe().with_batch(1024) == Recipe(batch_size=1024)
    assert Recipe(epochs=3).with_batch(128, rule) == Recipe(epochs=3)


@pytest.mark.parametrize(
    ("batch_size", "rule", "fields", "message"),
    [
        (0, "linear", {}, "batch_size must be a whole number of at least 1; got 0"),
        (256.0, "linear", {}, "batch_size must be of type int; got 256.0"),
        (256, "cubic", {}, """rule must be "linear", "sqrt" or None; got 'cubic'"""),
    ],
)
def test_an_invalid_batch_size_is_refused(batch_size: Any, rule: Any, fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        Recipe(**fields).with_batch(batch_size, rule)
