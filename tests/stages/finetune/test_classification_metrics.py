"""Scores of a classifier, against scikit-learn."""

import pytest

from teenytinyllama.stages.finetune.classification_metrics import confusion, scores_of


def test_macro_f1_is_what_scikit_learn_says() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    for labels, predicted in (
        ([0, 0, 1, 1], [0, 1, 1, 1]),  # of four labels two occur
        ([0, 0, 1, 1], [0, 3, 1, 1]),  # one that does not occur is predicted
        ([2, 2], [2, 2]),
        ([0, 1, 2, 3], [3, 2, 1, 0]),
    ):
        found = scores_of(confusion(labels, predicted, 4))
        assert found["macro_f1"] == pytest.approx(
            metrics.f1_score(labels, predicted, average="macro")
        )
        assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted))
