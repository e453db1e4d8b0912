"""What do the layers of a recogniser know? Correlations of neurons with descriptors of speech, and linear probes.

Conventions. A neuron is a dimension of a layer's output; ``neurons`` is ``[time, neurons]``, those of all layers side
by side. ``descriptors`` is ``[time, descriptors]`` on the same moments (`align`), NaN where a descriptor has no value,
as pitch in unvoiced frames.

*Correlation.* Pearson's r over the frames of an utterance, for every pair of neuron and descriptor. Frames of an
utterance depend on each other, utterances of a speaker too, so a test needs the speaker as its unit: r becomes
z = artanh r (Fisher 1915), z is averaged over a speaker's utterances, and the speakers' means are tested against 0 by
Student's t. The r of a neuron is the mean of these, each speaker weighing the same, turned back. Holm's correction is
over the neurons of all layers, within a descriptor. The best of thousands of neurons follows a descriptor closely in a
network with random weights too: compare with that.

*Probes* (Alain and Bengio 2016): how well does a linear classifier read a property from a layer's mean over time? Score
is UA, chance 1 / classes. A random encoder's score says what the input gives anyway, so the trained one's is read
against that. Emotion and gender are told of speakers who were not heard in training; the speaker, from other sentences.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ser_plugins import metrics, significance
from ser_plugins.corpora.manifest import Row
from ser_plugins.errors import DataError
from ser_plugins.predictions import Predictions
from ser_plugins.significance import Result

MIN_FRAMES = 10  # of an utterance, for a correlation: r of fewer is mostly noise
VARIATION = 1e-10  # of the mean square: what varies less is constant, up to rounding
R_LIMIT = 1 - 1e-9  # of |r|: artanh of 1 is infinite
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # `C` of the logistic regression; inner folds choose
INNER_FOLDS, SPEAKER_FOLDS = 3, 5


def align(frames: np.ndarray, rate: float, starts: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Values at other moments, by straight lines between the two neighbours.

    Arguments
    ---------
    frames : np.ndarray
        ``[time, dim]``; NaN where there is no value.
    rate : float
        Frames per second.
    starts : np.ndarray
        Moment in seconds of the first frame of each column, ``[dim]``.
    times : np.ndarray
        Moments in seconds that are wanted, ``[moments]``.

    Returns
    -------
    np.ndarray
        ``[moments, dim]``; NaN beyond the first and last frame, and beside a frame without a value.

    Example
    -------
    >>> frames = np.array([[1.0, 1.0], [2.0, 2.0], [4.0, np.nan]])
    >>> align(frames, 100.0, np.array([0.0, 0.01]), np.array([0.005, 0.02, 0.025])).tolist()
    [[1.5, nan], [4.0, 2.0], [nan, nan]]
    """
    position = np.round((times[:, None] - starts) * rate, 6)  # so that a moment on a frame needs that frame alone
    below = np.floor(position).astype(int)
    share, last, column = position - below, len(frames) - 1, np.arange(frames.shape[1])
    lower = frames[below.clip(0, last), column]
    upper = frames[(below + (share > 0)).clip(0, last), column]
    return np.where((position >= 0) & (position <= last), lower + share * (upper - lower), np.nan)


@dataclass(frozen=True)
class Correlations:
    """Correlations of descriptors with neurons; every array is ``[descriptors, neurons]``, NaN where undefined.

    Arguments
    ---------
    r : np.ndarray
        Mean over speakers, of each one's mean over utterances (of z, turned back into r).
    pooled : np.ndarray
        Over the frames of all utterances together.
    utterances, speakers : np.ndarray
        Numbers that ``r`` and ``p`` rest on.
    p : np.ndarray
        Two-sided, speakers as units.
    holm : np.ndarray
        ``p`` corrected for all neurons.
    """

    r: np.ndarray
    pooled: np.ndarray
    utterances: np.ndarray
    speakers: np.ndarray
    p: np.ndarray
    holm: np.ndarray


class Correlator:
    """Takes in one utterance after another and gives `Correlations`; memory grows with speakers, not utterances."""

    def __init__(self) -> None:
        self._moments: tuple[np.ndarray, ...] | None = None
        self._speakers: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # sum of z, number of utterances

    def add(self, neurons: np.ndarray, descriptors: np.ndarray, speaker: str) -> None:
        """Takes in an utterance: neurons ``[time, neurons]``, descriptors ``[time, descriptors]``, who speaks."""
        moments = _moments(neurons, descriptors)
        self._moments = moments if self._moments is None else tuple(map(np.add, self._moments, moments))
        r = np.where(moments[0] < MIN_FRAMES, np.nan, _pearson(*moments))
        known = np.isfinite(r)
        z = np.where(known, np.arctanh(r.clip(-R_LIMIT, R_LIMIT)), 0.0)
        total, count = self._speakers.get(speaker, (0.0, 0))
        self._speakers[speaker] = (total + z, count + known)

    def correlations(self) -> Correlations:
        """Correlations over all utterances taken in.

        Raises
        ------
        DataError
            There are fewer than two speakers, so that nothing is known of the spread between them.
        """
        if self._moments is None or len(self._speakers) < 2:
            raise DataError(f"{len(self._speakers)} speaker(s): a test needs two or more, since speakers are its units")
        totals, counts = (np.stack(column) for column in zip(*self._speakers.values(), strict=True))
        utterances, speakers = counts.sum(axis=0), (counts > 0).sum(axis=0)
        means = _ratio(totals, counts)  # NaN where a speaker has none
        r = np.tanh(_ratio(np.nansum(means, axis=0), speakers))
        p = _t_test(means, speakers)
        holm = np.full(p.shape, np.nan)
        for row, values in zip(holm, p, strict=True):
            row[np.isfinite(values)] = significance.holm(values[np.isfinite(values)].tolist())
        return Correlations(r, _pearson(*self._moments), utterances, speakers, p, holm)


def correlation(neuron: np.ndarray, descriptor: np.ndarray) -> float:
    """Pearson's r of one neuron with one descriptor, ``[time]`` each, over the frames with a value."""
    return float(_pearson(*_moments(neuron[:, None], descriptor[:, None]))[0, 0])


def _moments(neurons: np.ndarray, descriptors: np.ndarray) -> tuple[np.ndarray, ...]:
    """Number of frames, sums of x, x², d, d² and x d over those where d has a value; all ``[descriptors, neurons]``."""
    x, present = neurons.astype(float), np.isfinite(descriptors)
    d, mask = np.where(present, descriptors, 0.0), present.astype(float)
    sums = [column.sum(axis=0)[:, None] for column in (mask, d, d**2)]
    return sums[0], mask.T @ x, mask.T @ x**2, sums[1], sums[2], d.T @ x


def _pearson(n: np.ndarray, x: np.ndarray, xx: np.ndarray, d: np.ndarray, dd: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """Pearson's r from sums; NaN where one side is constant."""
    varies = (n * xx - x**2 > VARIATION * n * xx) & (n * dd - d**2 > VARIATION * n * dd)
    scale = np.sqrt(np.where(varies, (n * xx - x**2) * (n * dd - d**2), np.nan))
    return (n * dx - x * d) / scale


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _t_test(means: np.ndarray, speakers: np.ndarray) -> np.ndarray:
    """Two-sided p that means ``[speakers, …]``, NaN where a speaker has none, are those of 0.

    Where all means, of two speakers or more, are exactly 0, p is 1.
    """
    value = _ratio(np.nansum(means, axis=0), speakers)
    free = np.where(speakers > 1, speakers - 1, np.nan)
    error = np.sqrt(np.nansum((means - value)**2, axis=0) / free / np.where(speakers > 0, speakers, np.nan))
    error[(value == 0) & (error == 0)] = 1.0  # any: t is 0
    with np.errstate(divide="ignore"):  # speakers who are all alike
        return 2 * stats.t.sf(np.abs(value) / error, free)


def across_speakers(vectors: np.ndarray, labels: Sequence[str], speakers: Sequence[str]) -> Result:
    """Probe of emotion or gender: leave one speaker out.

    Arguments
    ---------
    vectors : np.ndarray
        ``[utterances, dim]``.
    labels : Sequence[str]
        What is to be told, of each utterance.
    speakers : Sequence[str]
        Who speaks; also the groups of the inner folds that choose the penalty.

    Returns
    -------
    Result
        UA and its 95 % interval over speakers.

    Raises
    ------
    DataError
        A label is spoken by fewer than three speakers, there is one label only, or some fold would train on one only.
    """
    _check_groups(labels, speakers, "speaker")
    folds = LeaveOneGroupOut().split(vectors, labels, speakers)
    predicted = _predicted(vectors, labels, speakers, folds)
    ids = [f"{number:09d}" for number in range(len(labels))]
    outcome = Predictions(ids, [*speakers], [*labels], predicted, np.empty((len(ids), 0)),
                          sorted({*labels}))
    return significance.confidence_interval(outcome)


def of_speakers(vectors: np.ndarray, speakers: Sequence[str], texts: Sequence[str]) -> Result:
    """Probe of who speaks: every speaker trains and is tested, and no text is in both parts.

    Arguments
    ---------
    vectors : np.ndarray
        ``[utterances, dim]``.
    speakers : Sequence[str]
        Who speaks.
    texts : Sequence[str]
        What is said, in any spelling; an utterance whose text is unknown (empty) stands for itself.

    Returns
    -------
    Result
        UA, the mean of the speakers' recalls, and its 95 % interval by Student's t.

    Raises
    ------
    DataError
        A speaker says fewer than three texts, there is one speaker only, or some fold would train on one only.
    """
    groups = [text or f"utterance {number}" for number, text in enumerate(texts)]
    count = _check_groups(speakers, groups, "text")
    folds = StratifiedGroupKFold(min(SPEAKER_FOLDS, count)).split(vectors, speakers, groups)
    predicted = _predicted(vectors, speakers, groups, folds)
    recalls = metrics.recall_per_class(speakers, predicted, sorted({*speakers}))
    result = significance.nadeau_bengio(recalls, ratio=0.0)  # nothing is resampled: the ordinary interval
    low, high = np.clip([result.low, result.high], 0.0, 1.0).tolist()
    return replace(result, low=low, high=high, p=None)


def _of_emotion(vectors: np.ndarray, rows: Sequence[Row]) -> Result:
    return across_speakers(vectors, [row.emotion for row in rows], [row.speaker for row in rows])


def _of_speaker(vectors: np.ndarray, rows: Sequence[Row]) -> Result:
    return of_speakers(vectors, [row.speaker for row in rows], [row.text for row in rows])


def _of_gender(vectors: np.ndarray, rows: Sequence[Row]) -> Result:
    genders = [row.gender for row in rows]
    if not all(genders):
        raise DataError(f"the gender of {genders.count('')} utterances is unknown: a probe needs that of all")
    return across_speakers(vectors, genders, [row.speaker for row in rows])


PROBES = {"emotion": _of_emotion, "speaker": _of_speaker, "gender": _of_gender}  # of vectors and the manifest's rows


def _fewest_groups(labels: Sequence[str], groups: Sequence[str]) -> tuple[int, str]:
    """The smallest number of groups that a label has, and that label."""
    pairs = {*zip(labels, groups, strict=True)}
    return min((sum(name == label for name, _ in pairs), label) for label in {*labels})


def _check_groups(labels: Sequence[str], groups: Sequence[str], what: str) -> int:
    """The smallest number of groups that a label has, 3 at least: one is tested, two choose the penalty."""
    if len({*labels}) < 2:
        raise DataError(f"all utterances are '{labels[0]}': a probe needs two labels or more")
    fewest, label = _fewest_groups(labels, groups)
    if fewest < 3:
        raise DataError(f"'{label}' has {fewest} {what}{'s' * (fewest > 1)}: a probe needs three or more of each "
                        "label, one to test and two to choose the penalty on")
    return fewest


def _inner_folds(labels: np.ndarray, groups: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Folds of a training part that choose the penalty; they share no group, and each trains on two labels or more."""
    count = min(INNER_FOLDS, _fewest_groups(labels.tolist(), groups.tolist())[0])
    folds = list(StratifiedGroupKFold(count).split(labels, labels, groups)) if count > 1 else []
    if not folds or any(len({*labels[train]}) < 2 for train, _ in folds):
        raise DataError("the folds that choose the penalty would train on one label only: labels and groups (speakers "
                        "or texts) are too few, or too unevenly spread")
    return folds


def _predicted(vectors: np.ndarray, labels: Sequence[str], groups: Sequence[str],
               folds: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[str]:
    """What a logistic regression says of each utterance when it is tested."""
    truth, owners, names = np.array(labels), np.array(groups), sorted({*labels})
    predicted = np.empty_like(truth)

    def score(model: Pipeline, x: np.ndarray, y: np.ndarray) -> float:
        return metrics.unweighted_accuracy(y.tolist(), model.predict(x).tolist(), names)

    planned = [(train, test, _inner_folds(truth[train], owners[train])) for train, test in folds]
    for train, test, inner in planned:
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000, tol=1e-3))
        search = GridSearchCV(model, {"logisticregression__C": INVERSE_PENALTIES}, scoring=score, cv=inner,
                              error_score="raise")
        predicted[test] = search.fit(vectors[train], truth[train]).predict(vectors[test])
    return predicted.tolist()


def embed(vectors: np.ndarray, seed: int = 0, perplexity: float = 30.0) -> np.ndarray:
    """t-SNE of standardised vectors (van der Maaten and Hinton 2008), ``[utterances, 2]``.

    Distances between far points, and sizes of clusters, mean nothing in it. Of fewer than three times ``perplexity``
    utterances, a third of their number is taken in its place.
    """
    scaled = StandardScaler().fit_transform(vectors)
    few = (len(vectors) - 1) / 3
    return TSNE(2, perplexity=min(perplexity, few), init="pca", random_state=seed).fit_transform(scaled)
