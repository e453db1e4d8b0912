"""Metrics of emotion recognition as pure functions of labels.

Conventions. ``truth`` and ``prediction`` are label names, one an utterance; ``labels`` is the ordered label list.
UA, unweighted accuracy: the mean of the recalls of the classes. WA, weighted accuracy: the share of right
utterances. F1: the mean of the classes' F1 (macro). All three are in [0, 1]. The recall of a class without utterances
is undefined (NaN) and left out of UA and F1; a class that exists but is never predicted has F1 0.

References: Schuller et al. 2009, "Acoustic emotion recognition: A benchmark comparison of performances" (UA, WA);
Lin 1989, "A concordance correlation coefficient" (CCC); Naeini et al. 2015 (ECE); Guo et al. 2017, "On calibration of
modern neural networks" (temperature); Geifman and El-Yaniv 2017, "Selective classification" (coverage).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from ser_plugins.errors import OptionError, unknown_name

TEMPERATURES = (0.05, 20.0)
TEMPERATURE_DEVIATION = 0.25  # of the prior of log T; benchmarks/temperature.py compares others


def confusion_matrix(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Counts, ``[true class, predicted class]``, in the order of ``labels``.

    Raises
    ------
    OptionError
        A label outside the list, or lists of different or zero length.

    Example
    -------
    >>> confusion_matrix(["a", "a", "b"], ["a", "b", "b"], ["a", "b"]).tolist()
    [[1, 1], [0, 1]]
    """
    if len(truth) != len(prediction) or not len(truth):
        raise OptionError(f"{len(truth)} true and {len(prediction)} predicted labels: need as many, and at least one")
    index = {label: position for position, label in enumerate(labels)}
    for label in {*truth, *prediction}:
        if label not in index:
            raise OptionError(unknown_name("label", label, labels, "label list"))
    matrix = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(matrix, ([index[label] for label in truth], [index[label] for label in prediction]), 1)
    return matrix


def recall_per_class(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Recall of each class, ``[classes]``, in [0, 1]; NaN for a class without utterances.

    Example
    -------
    >>> recall_per_class(["a", "a", "b"], ["a", "b", "b"], ["a", "b", "c"]).tolist()
    [0.5, 1.0, nan]
    """
    matrix = confusion_matrix(truth, prediction, labels)
    total = matrix.sum(axis=1)
    return np.divide(matrix.diagonal(), total, out=np.full(len(labels), np.nan), where=total > 0)


def unweighted_accuracy(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> float:
    """UA: mean recall of the classes that have utterances.

    Example
    -------
    >>> unweighted_accuracy(["a", "a", "b"], ["a", "b", "b"], ["a", "b"])
    0.75
    """
    return float(np.nanmean(recall_per_class(truth, prediction, labels)))


def weighted_accuracy(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> float:
    """WA: share of utterances that are right.

    Example
    -------
    >>> weighted_accuracy(["a", "a", "b", "b"], ["a", "b", "b", "b"], ["a", "b"])
    0.75
    """
    matrix = confusion_matrix(truth, prediction, labels)
    return float(matrix.trace() / matrix.sum())


def macro_f1(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> float:
    """F1: mean over classes with utterances of 2 TP / (2 TP + FP + FN).

    Example
    -------
    >>> macro_f1(["a", "b"], ["a", "a"], ["a", "b"])
    0.3333333333333333
    """
    matrix = confusion_matrix(truth, prediction, labels)
    present = matrix.sum(axis=1) > 0
    sizes = (matrix.sum(axis=0) + matrix.sum(axis=1))[present]  # 2 TP + FP + FN
    return float(np.mean(2 * matrix.diagonal()[present] / sizes))


def concordance(truth: Sequence[float], prediction: Sequence[float]) -> float:
    """CCC of two series of numbers, in [-1, 1]: 2 cov / (var + var + (mean − mean)²); NaN for two constants.

    Example
    -------
    >>> concordance([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    1.0
    """
    x, y = np.asarray(truth, dtype=float), np.asarray(prediction, dtype=float)
    if x.shape != y.shape or not x.size:
        raise OptionError(f"{x.size} true and {y.size} predicted values: need as many, and at least one")
    scale = x.var() + y.var() + (x.mean() - y.mean()) ** 2
    return float(2 * np.mean((x - x.mean()) * (y - y.mean())) / scale) if scale > 0 else float("nan")


def calibration_error(truth: Sequence[str], probabilities: np.ndarray, labels: Sequence[str], bins: int = 15) -> float:
    """ECE: gap between confidence and accuracy, averaged over equal-width bins of confidence by their share.

    Arguments
    ---------
    truth : Sequence[str]
        True labels.
    probabilities : np.ndarray
        ``[utterances, classes]`` in the order of ``labels``.
    labels : Sequence[str]
        The label list.
    bins : int
        Bins over (0, 1].

    Returns
    -------
    float
        In [0, 1]; 0 is calibrated.

    Example
    -------
    >>> calibration_error(["a", "b"], np.array([[1.0, 0.0], [1.0, 0.0]]), ["a", "b"])
    0.5
    """
    confidence, accuracy, share = reliability(truth, probabilities, labels, bins)
    return float(np.sum(np.abs(accuracy - confidence) * share))


def reliability(truth: Sequence[str], probabilities: np.ndarray, labels: Sequence[str],
                bins: int = 15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a reliability diagram shows; arguments as in `calibration_error`, which is its summary.

    Returns
    -------
    tuple[np.ndarray, np.ndarray, np.ndarray]
        Mean confidence, accuracy and share of the utterances, of each bin that holds any.
    """
    if len(truth) != len(probabilities):
        raise OptionError(f"{len(truth)} true labels and {len(probabilities)} rows of probabilities: need as many")
    best = np.asarray(probabilities).argmax(axis=1)
    confidence = np.asarray(probabilities).max(axis=1)
    right = np.array([labels[index] for index in best]) == np.asarray(truth)
    bin_of = np.minimum(np.ceil(confidence * bins).astype(int), bins)
    members = [bin_of == number for number in np.unique(bin_of)]
    return (np.array([confidence[member].mean() for member in members]),
            np.array([right[member].mean() for member in members]), np.array([member.mean() for member in members]))


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Natural logarithms of what `predictions.csv` has; what it rounds to 0 counts as half of its last digit."""
    return np.log(np.where(probabilities > 0, probabilities, 5e-7))


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of the logits over a temperature (Guo et al. 2017): above 1 takes confidence away, the order stays.

    Log-probabilities are the logits up to a constant, which a softmax does not see.

    Example
    -------
    >>> tempered(np.array([[0.8, 0.2]]), 2.0).round(3).tolist()
    [[0.667, 0.333]]
    """
    return softmax(log_probabilities(probabilities) / temperature, axis=1)


def cross_entropy(truth: Sequence[str], probabilities: np.ndarray, labels: Sequence[str]) -> float:
    """Mean negative logarithm of what the true labels are given, in nats; arguments as in `calibration_error`."""
    index = [list(labels).index(label) for label in truth]
    return -float(log_probabilities(probabilities)[np.arange(len(index)), index].mean())


def fit_temperature(truth: Sequence[str], probabilities: np.ndarray, labels: Sequence[str],
                    deviation: float = TEMPERATURE_DEVIATION) -> float:
    """The temperature T whose logarithm is the most probable, to be fitted on utterances that are not tested.

    The likelihood is that of the utterances; the prior, log T normal about 0. A validation speaker is one person with
    some dozens of utterances, by whom the system was chosen besides: the likelihood alone makes the probabilities of
    other speakers worse more often than better.

    Arguments
    ---------
    truth : Sequence[str]
        True labels.
    probabilities : np.ndarray
        ``[utterances, classes]`` in the order of ``labels``.
    labels : Sequence[str]
        The label list.
    deviation : float
        Standard deviation of the prior; infinite, the likelihood decides alone.

    Returns
    -------
    float
        Within `TEMPERATURES`, whose ends, without a prior, stand for "without bound": a speaker without errors asks
        for 0.
    """
    index = [list(labels).index(label) for label in truth]
    logits = log_probabilities(probabilities)

    def loss(log_temperature: float) -> float:
        likelihood = log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(index)), index]
        return -float(likelihood.sum()) + (log_temperature / deviation)**2 / 2

    grid = np.log(np.geomspace(*TEMPERATURES, 61))  # with a prior there may be two minima
    best = int(np.argmin([loss(point) for point in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return float(np.exp(minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-4}).x))


def coverage(truth: Sequence[str], probabilities: np.ndarray, labels: Sequence[str],
             shares: Sequence[float] | np.ndarray) -> np.ndarray:
    """UA of the most confident share of the utterances, for each of ``shares`` in (0, 1].

    Utterances as confident as the last one kept are kept too, since nothing tells them apart. A class of which none
    is kept is left out of UA.

    Example
    -------
    >>> probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> coverage(["a", "b", "b"], probabilities, ["a", "b"], [0.5, 1.0]).tolist()
    [1.0, 0.75]
    """
    confidence = np.asarray(probabilities).max(axis=1)
    predicted = np.array(labels)[np.asarray(probabilities).argmax(axis=1)]
    ranked = np.sort(confidence)[::-1]
    least = ranked[np.ceil(np.asarray(shares) * len(ranked) - 1e-9).astype(int) - 1]
    keep = [confidence >= threshold for threshold in least]
    return np.array([unweighted_accuracy(np.asarray(truth)[kept].tolist(), predicted[kept].tolist(), labels)
                     for kept in keep])


def summary(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """UA, WA, F1, recall per class (None where undefined) and the confusion matrix as plain values."""
    recalls = recall_per_class(truth, prediction, labels)
    return {
        "UA": unweighted_accuracy(truth, prediction, labels),
        "WA": weighted_accuracy(truth, prediction, labels),
        "F1": macro_f1(truth, prediction, labels),
        "recall": {label: None if np.isnan(recall) else float(recall)
                   for label, recall in zip(labels, recalls, strict=True)},
        "confusion": confusion_matrix(truth, prediction, labels).tolist(),
    }


def table(result: Mapping[str, Any], labels: Sequence[str]) -> str:
    """`summary` as text: the three numbers, then the confusion matrix with the recall of each row.

    Example
    -------
    >>> print(table(summary(["a", "b"], ["a", "a"], ["a", "b"]), ["a", "b"]))
    UA 0.500   WA 0.500   F1 0.333
    true \\ predicted  a  b  recall
    a                 1  0    1.00
    b                 1  0    0.00
    """
    head = "true \\ predicted"
    first = max(len(name) for name in (head, *labels))
    widths = [max(len(label), len(str(max(column)))) for label, column
              in zip(labels, zip(*result["confusion"], strict=True), strict=True)]
    lines = ["UA {UA:.3f}   WA {WA:.3f}   F1 {F1:.3f}".format(**result)]
    lines.append("  ".join([head.ljust(first), *map(str.rjust, labels, widths), "recall"]))
    for label, counts in zip(labels, result["confusion"], strict=True):
        recall = result["recall"][label]
        cells = map(str.rjust, map(str, counts), widths)
        lines.append("  ".join([label.ljust(first), *cells, ("  none" if recall is None else f"{recall:6.2f}")]))
    return "\n".join(lines)
