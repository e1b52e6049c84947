"""The confusion matrix and the results of each class, against counts and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from sklearn.metrics import precision_recall_fscore_support

from alexnet.results.confusion import class_results, confusion_matrix, frequent_confusions

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(PAIRS)
def test_confusions_are_counted(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = np.array(pairs).T
    confusion = confusion_matrix(predicted, labels, 4)
    assert all(confusion[i, j] == pairs.count((i, j)) for i in range(4) for j in range(4))
    results = class_results("abcd", confusion)
    assert [result.name for result in results] == list("abcd")
    for label, result in enumerate(results):
        guesses = [guess for correct, guess in pairs if correct == label]
        assert result.support == len(guesses)
        assert result.wrong == sum(guess != label for guess in guesses)
        assert (result.taken_for == "") == (result.wrong == 0)
        if result.wrong:
            most = max(guesses.count(guess) for guess in range(4) if guess != label)
            assert result.taken_for_images == guesses.count("abcd".index(result.taken_for)) == most
            assert result.taken_for != result.name
    assert sum(times for *_, times, _ in frequent_confusions("abcd", confusion)) == sum(
        result.wrong for result in results
    )


@given(PAIRS)
def test_precision_recall_and_f1_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = np.array(pairs).T
    confusion = confusion_matrix(predicted, labels, 4)
    assert (confusion == sklearn_confusion_matrix(labels, predicted, labels=range(4))).all()
    expected = precision_recall_fscore_support(labels, predicted, labels=range(4), zero_division=np.nan)
    results = class_results("abcd", confusion)
    for ours, theirs in zip(
        ([r.precision for r in results], [r.recall for r in results], [r.f1 for r in results]), expected, strict=False
    ):
        assert [np.nan if value is None else value for value in ours] == pytest.approx(theirs, nan_ok=True)
    assert [result.support for result in results] == expected[3].tolist()


def test_the_most_frequent_confusions_come_first() -> None:
    confusion = np.array([[5, 2, 0], [0, 0, 7], [1, 0, 0]])
    assert frequent_confusions(("a", "b", "c"), confusion) == [("b", "c", 7, 7), ("a", "b", 2, 7), ("c", "a", 1, 1)]
