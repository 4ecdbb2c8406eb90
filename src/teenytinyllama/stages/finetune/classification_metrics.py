"""Scores of a classifier from its predictions, and the baselines that need no language model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from teenytinyllama.errors import missing_extra
from teenytinyllama.stages.finetune.labelled_dataset import Example, LabelledData

REGULARISATIONS = (0.3, 1.0, 3.0, 10.0, 30.0)


def confusion(labels: Sequence[int], predicted: Sequence[int], num_labels: int) -> list[list[int]]:
    """Counts: row = true label, column = predicted one.

    >>> confusion([0, 0, 1], [0, 1, 1], 2)
    [[1, 1], [0, 1]]
    """
    table = [[0] * num_labels for _ in range(num_labels)]
    for label, guess in zip(labels, predicted, strict=True):
        table[label][guess] += 1
    return table


def sum_of_tables(tables: Sequence[Sequence[Sequence[int]]]) -> list[list[int]]:
    """The confusion table of several seeds, each of which saw all examples.

    >>> sum_of_tables([[[1, 1], [0, 2]], [[2, 0], [1, 1]]])
    [[3, 1], [1, 3]]
    """
    return [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)]


def scores_of(table: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Accuracy with its standard error, and macro-F1.

    Macro-F1 is the mean over the labels that occur or are predicted, as in scikit-learn: a label
    that is neither in the examples nor predicted does not count.

    >>> scores_of([[1, 1], [0, 2]])["accuracy"], round(scores_of([[1, 1], [0, 2]])["macro_f1"], 4)
    (0.75, 0.7333)
    >>> round(scores_of([[1, 1, 0], [0, 2, 0], [0, 0, 0]])["macro_f1"], 4)
    0.7333
    """
    total = sum(map(sum, table))
    right = sum(row[number] for number, row in enumerate(table))
    accuracy = right / total
    f1 = []
    for number, row in enumerate(table):
        if met := sum(row) + sum(other[number] for other in table):
            f1.append(2 * row[number] / met)
    return {
        "accuracy": accuracy,
        "standard_error": standard_error(accuracy, total),
        "macro_f1": sum(f1) / len(f1),
    }


def standard_error(accuracy: float, num_items: int) -> float:
    """Standard error of an accuracy on `num_items` independent test items.

    >>> standard_error(0.5, 100)
    0.05
    """
    return math.sqrt(accuracy * (1 - accuracy) / num_items)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds; 0 for the deviation of one seed.

    >>> mean_and_spread([1.0, 3.0])
    (2.0, 1.4142135623730951)
    """
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, 0.0
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def majority_baseline(data: LabelledData) -> dict[str, Any]:
    """Always the most frequent label of the training split."""
    most = Counter(one.label for one in data.splits["train"]).most_common(1)[0][0]
    labels = [one.label for one in data.splits["test"]]
    return scores_of(confusion(labels, [most] * len(labels), len(data.label_names)))


def check_library() -> None:
    """Raise UserError where scikit-learn is missing, before hours of training."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise missing_extra("scikit-learn", "evaluate") from error


def bag_of_words_baseline(data: LabelledData) -> dict[str, Any]:
    """TF-IDF of words and word pairs with logistic regression, regularised by validation score."""
    check_library()
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    train = data.splits["train"]
    num_texts = len(train[0].texts)
    vectorizers = [
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
        for _ in range(num_texts)
    ]
    for number, vectorizer in enumerate(vectorizers):
        vectorizer.fit(one.texts[number] for one in train)

    def features(examples: Sequence[Example]) -> Any:
        parts = [
            vectorizer.transform(one.texts[number] for one in examples)
            for number, vectorizer in enumerate(vectorizers)
        ]
        return hstack(parts).tocsr()

    labels = {name: [one.label for one in rows] for name, rows in data.splits.items()}
    inputs, validation = features(train), features(data.splits["validation"])
    best_accuracy, best = -1.0, None
    for strength in REGULARISATIONS:
        model = LogisticRegression(C=strength, max_iter=1000)
        model.fit(inputs, labels["train"])
        accuracy = float(model.score(validation, labels["validation"]))
        if accuracy > best_accuracy:
            best_accuracy, best = accuracy, model
    assert best is not None
    predicted = [int(label) for label in best.predict(features(data.splits["test"]))]
    return scores_of(confusion(labels["test"], predicted, len(data.label_names)))
