"""The experiment `claims`: its nets, its measures, its table, and processes that share it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from small_experiments import RECIPE, record_trainings

from alexnet.cli import main
from alexnet.experiments import claims, reproduce
from alexnet.experiments.claim_list import AVERAGE, CLAIMS, MEASURES, OVERFITTING_CLAIMS, Claim
from alexnet.experiments.claims_figure import draw_differences
from alexnet.experiments.claims_table import ClaimRow, ClaimsResult
from alexnet.experiments.experiment import Experiment
from alexnet.experiments.variants import THE_NET, VARIANTS
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named
from alexnet.results.evaluate import evaluate
from alexnet.training.divergence import DivergenceError
from alexnet.utils.files import exclusive_lock

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_claim_has_a_net_that_differs_and_can_be_built() -> None:
    claims = CLAIMS + OVERFITTING_CLAIMS
    assert {claim.variant for claim in claims} == set(VARIANTS) - {THE_NET, "no-reflections"} | {AVERAGE}
    assert {claim.measure for claim in claims} == set(MEASURES)
    for base in (recipe_named("tiny-imagenet"), recipe_named("alexnet-2012-run")):
        recipes = [variant(base) for name, variant in VARIANTS.items() if name != "no-reflections"]
        assert recipes[0] == base
        assert all(recipes.count(recipe) == 1 for recipe in recipes)
        assert all(recipe.net.sides() for recipe in recipes)
        changed = {recipe.epochs for recipe in recipes}
        assert changed == {base.epochs, 2 * base.epochs}  # the schedules are equal but for "longer"


def test_the_recipe_for_64_pixels_is_section_4_s_but_for_its_sizes() -> None:
    recipe, paper = recipe_named("tiny-imagenet"), Recipe()
    net = recipe.net
    for field in ("towers", "activation", "normalise", "pool_size", "pool_stride", "start", "pixel_scale"):
        assert getattr(net, field) == getattr(paper.net, field)
    for name, conv in paper.net.convs().items():
        own = net.convs()[name]
        assert (own.then, own.all_towers, own.bias) == (conv.then, conv.all_towers, conv.bias)
    assert [full.dropout for full in net.hidden().values()] == [0.5, 0.5]
    for field in ("batch_size", "momentum", "decay", "learning_rate", "bias_rate", "colour_deviation", "reflect"):
        assert getattr(recipe, field) == getattr(paper, field)
    assert recipe.store_size / net.image_size == paper.store_size / paper.net.image_size
    assert [change.learning_rate for change in recipe.changes] == [1e-3, 1e-4, 1e-5]


def test_processes_share_the_nets_and_each_is_trained_once(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = record_trainings(monkeypatch)

    def run() -> ClaimsResult:
        result = reproduce("claims", tmp_path, store, recipe=RECIPE, epochs=2, seeds=2, only=["no-colour-shift"])
        assert isinstance(result, ClaimsResult)
        return result

    with exclusive_lock(tmp_path / "claims/measures/the-net-1"):  # another process
        result = run()
    assert trained == ["the-net-0", "no-colour-shift-0", "no-colour-shift-1"]
    assert result.notes[0].startswith("Other processes train the-net-1; ")
    assert all(row.verdict == "too few seeds" for row in result.claims)
    result = run()
    assert trained[3:] == ["the-net-1"]
    assert [row.claim.variant for row in result.claims] == ["no-colour-shift", AVERAGE]
    errors = [evaluate(tmp_path / f"claims/no-colour-shift-{seed}", store, views=10)["top1_error"] for seed in (0, 1)]
    assert result.claims[0].changed == tuple(100 * error for error in errors)
    average = evaluate([tmp_path / f"claims/the-net-{seed}" for seed in (0, 1)], store, views=10)["top1_error"]
    assert result.claims[1].changed == (100 * average,)
    measures = json.loads((tmp_path / "claims/measures/no-colour-shift-0/measures.json").read_text(encoding="utf-8"))
    on_train = evaluate(tmp_path / "claims/no-colour-shift-0", store, views=1, split="train")
    assert measures["training"] == pytest.approx(on_train["top1_error"])
    text = (tmp_path / "claims/finding.md").read_text(encoding="utf-8")
    assert "| no colour shift: an error higher by over 1 % (5.1) | top-1 error, ten views (%) | " in text
    assert "--only no-colour-shift --epochs 2 --seeds 2" in text
    assert (tmp_path / "claims/claims.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match=r"the-net-0 has another recipe; name another `folder`"):
        reproduce("claims", tmp_path, store, recipe=RECIPE, epochs=1, seeds=1, only=["no-colour-shift"])


def diverge_at_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every training of an experiment diverge; return a list to which their names are added."""
    names: list[str] = []

    def diverge(_self: Experiment, name: str, _recipe: Recipe, **_options: object) -> Path:
        names.append(name)
        raise DivergenceError("loss must stay finite")

    monkeypatch.setattr(Experiment, "train", diverge)
    return names


def test_a_net_that_diverges_is_noted_and_not_trained_again(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = diverge_at_once(monkeypatch)
    for _ in range(2):
        result = reproduce("claims", tmp_path, store, recipe=RECIPE, epochs=1, seeds=1, only=["tanh"])
        assert "tanh, seed 0: loss must stay finite" in result.notes
    assert calls == ["the-net-0", "tanh-0"]


def test_names_of_nets_are_checked(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(store), "--folder", str(tmp_path / "new" / "folder"), "--only"]
    assert main(["reproduce", "claims", *arguments, "no-drop"]) == 2
    assert "--only must name some of the-net, one-gpu, " in capsys.readouterr().err
    assert main(["reproduce", "table1", *arguments, "tanh"]) == 2
    assert "--only must be used with claims or overfitting; got ['tanh']" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_most_valuable_nets_come_first_and_those_of_the_average_last() -> None:
    assert list(claims.list_runs(["the-net", "tanh"], 2, averaged=True)) == [
        ("the-net", 0), ("the-net", 1), ("tanh", 0), ("tanh", 1),
    ]  # fmt: skip
    runs = list(claims.list_runs(["the-net", "tanh"], 3, averaged=True))
    assert runs[-3:] == [("tanh", 2), ("the-net", 3), ("the-net", 4)]
    assert list(claims.list_runs(["the-net", "tanh"], 3, averaged=False)) == runs[:-2]


@pytest.mark.parametrize(("only", "seeds_of_the_net"), [(None, 5), (["tanh"], 3), (["the-net", "tanh"], 5)])
def test_nets_for_the_average_are_trained_where_the_net_is_asked_for(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: list[str] | None, seeds_of_the_net: int
) -> None:
    trained = diverge_at_once(monkeypatch)
    reproduce("claims", tmp_path, store, recipe=RECIPE, epochs=1, only=only)
    assert [name for name in trained if name.startswith("the-net")] == [f"the-net-{n}" for n in range(seeds_of_the_net)]


def test_measures_are_those_of_their_runs() -> None:
    curve = [0.9, 0.8, 0.7, 0.609, 0.6, 0.6, 0.6, 0.6, 0.5, 0.5]
    net = {"top1": 0.5, "centre": 0.6, "training": 0.4, "curve": curve, "first_rate": 8}
    fast = {"top1": 0.55, "centre": 0.65, "training": 0.1, "curve": [0.7, 0.65], "first_rate": 2}
    assert claims.measure_values("error", [net, fast]) == pytest.approx((50, 55))
    assert claims.measure_values("training", [net, fast]) == pytest.approx((40, 10))
    assert claims.measure_values("overfitting", [net, fast]) == pytest.approx((20, 55))
    assert claims.measure_values("early", [net, fast]) == pytest.approx((85, 70))
    assert claims.measure_values("epochs", [net, fast]) == (4, 2)  # to 61 % of the first eight epochs
    assert claims.epochs_to_converge([0.5]) == 1
    assert claims.first_rate_epochs(recipe_named("tiny-imagenet").with_epochs(90)) == 54
    assert claims.first_rate_epochs(replace(RECIPE, epochs=9)) == 9  # a cosine


def test_a_verdict_needs_a_difference_larger_than_the_spread() -> None:
    claim = Claim("tanh", "4.1", "slower", "error", 1, 2.0)
    close = ClaimRow(claim, (50.0, 51.0, 52.0), (51.0, 52.0, 53.5))
    apart = ClaimRow(claim, (50.0, 50.2, 50.4), (53.0, 53.1, 53.4))
    for row in (close, apart):
        assert row.p_value == pytest.approx(stats.ttest_ind(row.net, row.changed, equal_var=False).pvalue)
    assert (close.verdict, apart.verdict) == ("undecided", "as the paper says")
    assert replace(apart, net=apart.changed, changed=apart.net).verdict == "the opposite"
    assert replace(apart, changed=(53.0,)).verdict == "too few seeds"
    assert (
        replace(apart, claim=replace(claim, variant=AVERAGE, sign=-1), changed=(48.0,)).verdict == "as the paper says"
    )
    assert replace(apart, net=(50.0, 50.0), changed=(51.0, 51.0)).p_value is None
    assert replace(apart, net=(50.0, 50.0), changed=(51.0, 51.0)).interval is None
    cells = apart.cells()
    assert cells[2:] == [
        "50.20 ± 0.20 (3)",
        "53.17 ± 0.21 (3)",
        "+2.97",
        "+2",
        f"{apart.p_value:.2g}",
        "as the paper says",
    ]


@pytest.mark.filterwarnings("error")
def test_a_net_without_spread_is_judged_without_a_warning() -> None:
    row = ClaimRow(Claim("tanh", "4.1", "slower", "early", 1), (93.2, 93.6, 94.1), (99.5, 99.5, 99.5))
    assert row.verdict == "as the paper says"


def test_the_interval_of_a_difference_is_the_test_s() -> None:
    net, changed = np.array([50.0, 50.4, 51.0]), np.array([53.0, 53.1, 53.6])
    row = ClaimRow(Claim("tanh", "4.1", "slower", "error", 1), tuple(net), tuple(changed))
    variances = net.var(ddof=1) / 3, changed.var(ddof=1) / 3
    freedom = sum(variances) ** 2 / sum(variance**2 / 2 for variance in variances)
    reach = stats.t.ppf(0.975, freedom) * sum(variances) ** 0.5
    assert row.interval == pytest.approx((row.difference - reach, row.difference + reach))
    average = ClaimRow(Claim(AVERAGE, "7", "averaged", "error", -1), tuple(net), (49.0,))
    reach = stats.t.ppf(0.975, 2) * variances[0] ** 0.5
    assert average.interval == pytest.approx((average.difference - reach, average.difference + reach))


def test_the_figure_shows_the_changes_of_the_error_and_the_paper_s() -> None:
    error = ClaimRow(Claim("tanh", "4.1", "tanh: slower", "error", 1, 2.0), (50.0, 50.4), (53.0, 53.1))
    other = ClaimRow(Claim("tanh", "4.1", "tanh: early", "early", 1), (50.0, 50.4), (53.0, 53.1))
    few = ClaimRow(Claim("wider", "8", "wider: better", "error", -1), (50.0,), (49.0,))
    axes = draw_differences([error, other, few]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["tanh", "wider"]
    drawn: dict[str, list[tuple[float, float]]] = {"o": [], "D": []}
    for line in axes.lines:
        if len(line.get_xdata()) == 1:
            drawn[line.get_marker()].append((float(line.get_xdata()[0]), float(line.get_ydata()[0])))
    assert drawn["o"] == [(error.difference, 0), (few.difference, 1)]
    assert drawn["D"] == [(2.0, 0)]
