"""`AlexNetClassifier`: scikit-learn's own checks where they apply to pictures, and its use as any other estimator."""

import importlib
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_pictures, small_recipe
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.validation import check_is_fitted, validate_data

from alexnet import AlexNetClassifier
from alexnet.finetuning_recipes import FINETUNING_RECIPES
from alexnet.recipes import RECIPES

RECIPE = replace(small_recipe(), epochs=1, views=1, warmup=0)
PICTURES, LABELS = draw_pictures(30, 32)
# scikit-learn's checks that need no table of numbers; docs/python.md says why the others do not apply.
CHECKS = (
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_estimators_unfitted",
)
# The quick ones of the others; docs/LOG.md has all.
CHECKS_WITH_TABLES = (
    "check_fit_score_takes_y",
    "check_dont_overwrite_parameters",
    "check_readonly_memmap_input",
    "check_estimators_pickle",
    "check_dict_unchanged",
    "check_fit_idempotent",
    "check_classifiers_one_label",
    "check_fit2d_1sample",
    "check_methods_subset_invariance",
)


@pytest.fixture(scope="module")
def fitted() -> AlexNetClassifier:
    names = np.array(["stripes", "square", "disc"])[LABELS]
    return AlexNetClassifier(RECIPE, random_state=0).fit(PICTURES, names)


@pytest.mark.parametrize("check", CHECKS)
def test_scikit_learns_checks_that_need_no_table_pass(check: str) -> None:
    getattr(estimator_checks, check)("AlexNetClassifier", AlexNetClassifier(RECIPE, random_state=0))


class DrawnTable(AlexNetClassifier):
    """The estimator with pictures that are drawn from tables, for scikit-learn's checks: a bar for each number."""

    def __init__(self, *, random_state: int | None = 0) -> None:
        super().__init__(RECIPE, random_state=random_state)

    def get_params(self, deep: bool = True) -> dict[str, object]:  # noqa: ARG002
        return {"random_state": self.random_state}

    def fit(self, X: np.ndarray, y: np.ndarray) -> "DrawnTable":  # noqa: N803
        X, y = validate_data(self, X, y)  # noqa: N806
        self.low_, self.range_ = X.min(0), np.ptp(X, axis=0) + 1e-9
        return super().fit(self._draw(X), y)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:  # noqa: N803
        check_is_fitted(self, "classifier_")
        return super().predict_proba(self._draw(validate_data(self, X, reset=False)))

    def _draw(self, table: np.ndarray) -> np.ndarray:
        widths = 32 * ((table - self.low_) / self.range_)[:, np.arange(32) * table.shape[1] // 32]
        bars = np.arange(32) < widths[:, :, None]  # (N, 32, 32)
        return np.repeat(bars[..., None], 3, axis=3).astype(np.uint8) * 255


@pytest.mark.parametrize("check", CHECKS_WITH_TABLES)
def test_scikit_learns_checks_with_tables_pass_on_drawings_of_them(check: str) -> None:
    getattr(estimator_checks, check)("DrawnTable", DrawnTable())


def test_its_tags_say_that_it_takes_no_tables() -> None:
    tags = get_tags(AlexNetClassifier())
    assert (tags.estimator_type, tags.input_tags.two_d_array, tags.target_tags.required) == ("classifier", False, True)


def test_it_predicts_the_labels_that_it_was_given(fitted: AlexNetClassifier) -> None:
    assert fitted.classes_.tolist() == ["disc", "square", "stripes"]
    probabilities = fitted.predict_proba(PICTURES[:5])
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(probabilities, fitted.classifier_.probabilities(PICTURES[:5], views=1), atol=1e-6)
    assert fitted.predict(PICTURES[:5]).tolist() == fitted.classes_[probabilities.argmax(1)].tolist()
    names = np.array(["stripes", "square", "disc"])[LABELS]
    assert fitted.score(PICTURES, names) == np.mean(fitted.predict(PICTURES) == names)


def test_the_same_fit_gives_the_same_net_and_a_pickle_is_the_same(fitted: AlexNetClassifier) -> None:
    names = np.array(["stripes", "square", "disc"])[LABELS]
    pictures = PICTURES.copy()
    pictures.flags.writeable = False  # as joblib's shared memory is
    again = clone(fitted).fit(pictures, names)
    for other in (again, pickle.loads(pickle.dumps(fitted))):
        np.testing.assert_array_equal(other.predict_proba(PICTURES), fitted.predict_proba(PICTURES))
    assert clone(fitted).get_params()["recipe"] == RECIPE
    assert not hasattr(clone(fitted), "classes_")


def test_it_works_with_scikit_learns_tools_on_paths(tmp_path: Path) -> None:
    paths = np.array([str(tmp_path / f"{number}.png") for number in range(12)])
    for path, picture in zip(paths, PICTURES, strict=False):
        Image.fromarray(picture).save(path)
    estimator = make_pipeline(FunctionTransformer(), AlexNetClassifier(RECIPE, random_state=0))
    predicted = cross_val_predict(estimator, paths, LABELS[:12], cv=2)
    assert (predicted.shape, set(predicted) <= {0, 1, 2}) == ((12,), True)


def test_its_parameters_change_the_recipe(tmp_path: Path) -> None:
    estimator = AlexNetClassifier(
        replace(RECIPE, epochs=4, warmup=2),
        settings=["momentum=0.5"],
        epochs=2,
        batch_size=5,
        run=tmp_path,
        random_state=3,
    )
    estimator.fit([*PICTURES[:9]], LABELS[:9].astype(float))
    recipe = estimator.recipe_
    assert (recipe.momentum, recipe.epochs, recipe.warmup, recipe.batch_size) == (0.5, 2, 1, 5)
    assert estimator.classes_.tolist() == [0.0, 1.0, 2.0]
    assert (tmp_path / "checkpoints").is_dir()
    assert repr(estimator.classifier_).startswith(f"Classifier('{tmp_path}', ")


def test_it_starts_from_the_net_of_another_run(
    fitted: AlexNetClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "photos-finetune", lambda: None)  # listed, but made of the other run's recipe
    monkeypatch.setitem(FINETUNING_RECIPES, "photos-finetune", lambda origin: replace(origin, learning_rate=1e-9))
    clone(fitted).set_params(run=tmp_path / "first").fit(PICTURES, LABELS)
    second = AlexNetClassifier(start_from=tmp_path / "first", views=1).fit(PICTURES, LABELS)
    np.testing.assert_allclose(second.predict_proba(PICTURES), fitted.predict_proba(PICTURES)[:, [2, 1, 0]], atol=0.01)
    with pytest.raises(FileNotFoundError, match="nowhere must be the folder of a trained net"):
        AlexNetClassifier(start_from="nowhere").fit(PICTURES, LABELS)


@pytest.mark.parametrize(
    ("pictures", "labels", "exception", "message"),
    [
        ([], [], ValueError, "X must be at least one picture; got 0"),
        (PICTURES, LABELS[:-1], ValueError, "inconsistent numbers of samples: .*30, 29"),
        (PICTURES, LABELS * 0, ValueError, "y must have at least two classes; got 1 class"),
        (PICTURES, LABELS + 0.5, ValueError, "Unknown label type: continuous"),
        (PICTURES, None, ValueError, "y should be a 1d array"),
        (PICTURES[..., 0], LABELS, ValueError, r"X must be several pictures.*; got an array of shape \(30, 32, 32\)"),
        (np.ones((30, 4)), LABELS, ValueError, r"X must be several pictures.*; got an array of shape \(30, 4\)"),
        ("a.jpg", ["a"], ValueError, "X must be several pictures.*; got str"),
        (PICTURES.astype(float), LABELS, ValueError, "floating-point pixels must be from 0 to 1"),
        ([*PICTURES[:-1], b"text"], LABELS, ValueError, "29.*in an unknown format"),
        ([*PICTURES[:-1], "nowhere.jpg"], LABELS, ValueError, "nowhere.jpg|29.*No such file"),
        ([*PICTURES[:-1], 7], LABELS, TypeError, "a picture must be .*; got int"),
    ],
)
def test_what_it_cannot_learn_from_is_refused(
    pictures: object, labels: object, exception: type[Exception], message: str
) -> None:
    with pytest.raises(exception, match=message):
        AlexNetClassifier(RECIPE).fit(pictures, labels)


def test_parameters_out_of_range_are_refused(fitted: AlexNetClassifier) -> None:
    for parameters, message in (
        ({"validation_fraction": 0}, "validation_fraction must be above 0 and below 1; got 0"),
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"recipe": "alexnet"}, "recipe must be a name that is known; got 'alexnet': did you mean alexnet-2012-run.*"),
        ({"settings": ["speed=1"]}, "must name a field of the recipe"),
    ):
        with pytest.raises(ValueError, match=message):
            AlexNetClassifier(RECIPE).set_params(**parameters).fit(PICTURES, LABELS)
    with pytest.raises(NotFittedError):
        AlexNetClassifier().predict(PICTURES)
    with pytest.raises(ValueError, match="X must be several pictures"):
        fitted.predict(PICTURES[0])


def test_without_scikit_learn_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "alexnet.results.estimator")
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(
        ImportError, match=r"^AlexNetClassifier needs packages: pip install 'alexnet\[sklearn\]' \(.*\)$"
    ):
        importlib.import_module("alexnet.results.estimator")
