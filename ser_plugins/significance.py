"""Is one system better than another on the same utterances? Intervals and tests that know the speakers.

Conventions. A system is one `Predictions`, or a list with one for each run (seed), each run whole (its folds joined);
runs are averaged: a value is the mean of the runs' metrics. Differences are first minus second, p-values two-sided,
counts are confusion matrices ``[runs, speakers, true class, predicted class]``.

The claim to test is about other speakers, so speakers are the unit. `paired_bootstrap` resamples them, each with all
utterances, and studentises: |difference − observed| is counted in standard errors of the draw itself, from the
jackknife over its speakers. A percentile interval is too short for few speakers. Per cent of false alarms at p ≤ 0.05,
999 resamples, in 2000 simulated data sets each, whose two systems are equal (4 classes, 2 to 15 utterances of each a
speaker; normal effects on the logit of being right, standard deviations: speaker 0.7, speaker × class 0.35 and
utterance 1, which the systems share; speaker × system 0.5, and with class 0.25):

    speakers                   4     6    10    24
    paired bootstrap, UA     1.4   3.0   4.8   4.8
    paired bootstrap, F1     1.6   2.9   4.5   4.7
    percentile, UA          19.4  14.7  11.3   8.1
    Wilcoxon, UA             0.0   3.4   4.7   5.2
    Nadeau–Bengio, UA        1.1   0.9   0.8   0.6
    McNemar                 18.0  19.9  19.8  22.3
    interval of one UA       2.1   3.6   4.4   5.0   (misses the true value)

`benchmarks/false_alarms.py` simulates such sets, with other numbers too.

With 10 speakers, the bootstrap's rate is 4.5 where one system varies six times as much over speakers as the other, and
2.7 where speakers lack three classes in ten. Two or three speakers allow no interval at 95 %.

Runs are averaged, not resampled. Where each fold of each run is a training of its own, as in leave-one-speaker-out, the
noise of the seed is in the spread between speakers already: 3.7 with five runs and noise of 0.3 a fold (of 1000 data
sets); resampling the runs too would count it twice, and gives 2.4. What a seed does to all speakers alike is out of
sight: 0.3 of that gives 17.7 with one run, 9.8 with five, 5.3 with ten. So train more than one.

A speaker without utterances of a class is no trouble: the metrics average over the classes that are there, the same
ones for both systems. One speaker alone says nothing about others: only McNemar is left, about this speaker.

References: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", §11 (jackknife), §12.5 (studentised);
Cameron, Gelbach and Miller 2008, "Bootstrap-based improvements for inference with clustered errors"; Nadeau and Bengio
2003, "Inference for the generalization error"; Bouckaert and Frank 2004, "Evaluating the replicability of significance
tests" (repeated folds); Pratt 1959 (zero differences); McNemar 1947; Holm 1979.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from ser_plugins import metrics
from ser_plugins.errors import DataError, OptionError, unknown_name
from ser_plugins.predictions import Predictions

Runs = Predictions | Sequence[Predictions]
LabelMetric = Callable[[Sequence[str], Sequence[str], Sequence[str]], float]

METRICS: dict[str, LabelMetric] = {
    "UA": metrics.unweighted_accuracy, "WA": metrics.weighted_accuracy, "F1": metrics.macro_f1}
NOISE = 1e-12  # what rounding leaves of a difference that is zero
BLOCK = 2_000_000  # counts of one system held at once


@dataclass(frozen=True)
class Result:
    """What one test says."""

    value: float  # the difference
    count: int  # units it rests on: speakers, results of folds, or utterances that differ
    p: float | None = None  # two-sided; None for the interval of one system
    low: float | None = None  # ends of the confidence interval, where the test gives one
    high: float | None = None
    holm: float | None = None  # p adjusted for all pairs, from `compare_all`


@dataclass(frozen=True)
class Comparison:
    """All tests of one pair of systems; one that has no meaning for the data is None.

    Report the first or the second, chosen before either is seen.
    """

    names: tuple[str, str]
    values: tuple[float, float]  # the metric of each, mean over runs
    bootstrap: Result | None  # over speakers; None for one speaker
    wilcoxon: Result | None  # over speakers; None for one speaker
    nadeau_bengio: Result | None  # over speakers as folds; None for one result, or an unknown ratio
    mcnemar: Result  # over utterances: about these speakers only


def confidence_interval(system: Runs, metric: str | LabelMetric = "UA", *, level: float = 0.95,
                        resamples: int = 4999, seed: int = 0) -> Result:
    """Value and confidence interval of one system's metric; arguments and errors as in `paired_bootstrap`."""
    counts, labels = _counts(_aligned(("system", system)))
    return _bootstrap(counts, [(0,)], labels, metric, level, resamples, seed)[0]


def paired_bootstrap(a: Runs, b: Runs, metric: str | LabelMetric = "UA", *, level: float = 0.95,
                     resamples: int = 4999, seed: int = 0) -> Result:
    """Difference of a metric, its confidence interval and p; the interval leaves out 0 just where p ≤ 1 − level.

    Arguments
    ---------
    a, b : Runs
        Two systems on the same utterances.
    metric : str | LabelMetric
        UA, WA, F1, or a function of true labels, predicted labels and label list (slow: a call for each resample and
        speaker). Utterances come to it in no particular order.
    level : float
        Of the interval.
    resamples : int
        Draws of the speakers.
    seed : int
        Of the draws; the result is a function of the arguments.

    Returns
    -------
    Result
        ``count`` is the number of speakers. Intervals of UA, WA and F1 are cut at the ends of their range. Speakers who
        are all alike show no spread to go by: the interval of one system is then a point, and p of a difference is that
        of their signs alone, 2^(1 − speakers). Where all but one or two are alike, many draws show no spread, and there
        is no interval.

    Raises
    ------
    DataError
        There is one speaker only, or the systems differ in utterances, speakers, true labels or label list.
    OptionError
        An unknown metric, a level outside (0, 1), or too few resamples for it.
    """
    counts, labels = _counts(_aligned(("a", a), ("b", b)))
    return _bootstrap(counts, [(0, 1)], labels, metric, level, resamples, seed)[0]


def by_speaker(system: Runs, metric: str | LabelMetric = "UA") -> tuple[list[str], np.ndarray]:
    """Speakers by name, and the metric of each run on each, ``[runs, speakers]``; errors as in `paired_bootstrap`."""
    runs, = _aligned(("system", system))
    (counts, ), labels = _counts([runs])
    return sorted({*runs[0].speakers}), _on_counts(metric, labels, counts)


def nadeau_bengio(differences: Sequence[float] | np.ndarray, ratio: float, level: float = 0.95) -> Result:
    """Corrected resampled t-test: training sets overlap, so the variance is taken times 1/n + ratio, not 1/n.

    Arguments
    ---------
    differences : Sequence[float] | np.ndarray
        Differences of n folds or runs; those of repeated folds together (Bouckaert and Frank 2004).
    ratio : float
        Size of a test set over size of a training set; 0 gives the ordinary paired t-test.
    level : float
        Of the interval.

    Returns
    -------
    Result
        The mean difference. Where all differences are one number other than 0, p is 0.

    Example
    -------
    >>> result = nadeau_bengio([0.1, 0.3, 0.2], ratio=0.5)
    >>> f"{result.value:.1f} {result.p:.3f} ({result.low:.2f} to {result.high:.2f})"
    '0.2 0.160 (-0.19 to 0.59)'
    """
    values = _finite(differences, "differences", 2)
    if not 0 <= ratio < math.inf:
        raise OptionError(f"ratio is {ratio}: need test size over training size, 0 or more")
    _check_level(level)
    mean, free = float(values.mean()), values.size - 1
    error = float(np.sqrt(values.var(ddof=1) * (1 / values.size + ratio)))
    if error < NOISE:
        return Result(mean, values.size, 1.0 if abs(mean) < NOISE else 0.0, mean, mean)
    reach = error * float(stats.t.ppf((1 + level) / 2, free))
    return Result(mean, values.size, float(2 * stats.t.sf(abs(mean) / error, free)), mean - reach, mean + reach)


def wilcoxon(differences: Sequence[float] | np.ndarray) -> Result:
    """Signed-rank test of one difference for each speaker, exact with ties and zeros too; the value is their median.

    Zero differences are ranked, and then left out of the sums (Pratt 1959): that they are zero speaks for no
    difference, which dropping them first would forget. All zero: p is 1. Speakers with as many utterances each make
    ties and zeros the rule, for which `scipy.stats.wilcoxon` is exact up to 13 speakers. p is never below
    2^(1 − speakers): 5 % needs six.

    Example
    -------
    >>> wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).p
    0.03125
    """
    values = np.round(_finite(differences, "differences", 1), 12)  # else rounding makes ties and zeros differ
    ranks = (2 * stats.rankdata(np.abs(values))).astype(int)  # twice, for the halves of ties
    null = np.ones(1)  # probability of each sum of the ranks with a plus, every sign at a half
    for rank in ranks[values != 0]:
        null = (np.pad(null, (0, rank)) + np.pad(null, (rank, 0))) / 2
    lower = min(ranks[values > 0].sum(), ranks[values < 0].sum())
    return Result(float(np.median(differences)), values.size, min(1.0, 2 * float(null[:lower + 1].sum())))


def mcnemar(a_right: Sequence[float] | np.ndarray, b_right: Sequence[float] | np.ndarray) -> Result:
    """Exact binomial test of the utterances on which one system is right and the other is not.

    It takes utterances as independent, and those of one speaker are not: read it for these speakers only.

    Arguments
    ---------
    a_right, b_right : Sequence[float] | np.ndarray
        Whether an utterance is right; of several runs, the share of them. An utterance then counts once, for the
        system that has the larger share.

    Returns
    -------
    Result
        ``count`` is the number of utterances that differ; the value, how many more of all favour the first, as a share.

    Example
    -------
    >>> mcnemar([1, 1, 1, 1, 0], [0, 0, 0, 1, 0])
    Result(value=0.6, count=3, p=0.25, low=None, high=None, holm=None)
    """
    if len(a_right) != len(b_right):
        raise OptionError(f"{len(a_right)} and {len(b_right)} utterances: need as many, in the same order")
    difference = _finite(a_right, "utterances", 1) - _finite(b_right, "utterances", 1)
    first, second = int((difference > 0).sum()), int((difference < 0).sum())
    p = float(stats.binomtest(first, first + second).pvalue) if first + second else 1.0
    return Result((first - second) / difference.size, first + second, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given: reject where it is at most the level.

    Raises
    ------
    OptionError
        A value is absent, NaN or outside [0, 1].

    Example
    -------
    >>> holm([0.01, 0.5, 0.02])
    [0.03, 0.5, 0.04]
    """
    values = np.asarray(p_values, dtype=float)
    bad = [position for position, value in enumerate(values) if not 0 <= value <= 1]
    if bad:
        raise OptionError(f"p-value {bad[0] + 1} of {len(values)} is {p_values[bad[0]]}: need all, each from 0 to 1")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return adjusted.tolist()


def compare(a: Runs, b: Runs, metric: str | LabelMetric = "UA", *, names: tuple[str, str] = ("a", "b"),
            level: float = 0.95, resamples: int = 4999, seed: int = 0, ratio: float | None = None) -> Comparison:
    """All tests of two systems on the same utterances; arguments and errors as in `paired_bootstrap`, and these:

    Arguments
    ---------
    names : tuple[str, str]
        What to call the systems, in errors too.
    ratio : float | None
        Of `nadeau_bengio`. None: that of leave-one-speaker-out with one speaker to validate, 1 / (speakers − 2). Runs
        are paired in their order where there are as many, and averaged elsewhere.
    """
    return _compare_pairs(((names[0], a), (names[1], b)), metric, level, resamples, seed, ratio)[0]


def compare_all(systems: Mapping[str, Runs], metric: str | LabelMetric = "UA", *, level: float = 0.95,
                resamples: int = 4999, seed: int = 0, ratio: float | None = None) -> list[Comparison]:
    """`compare` for every pair, in the order of the systems; ``holm`` of each test is adjusted over the pairs.

    The smallest p of the bootstrap is 1 / (resamples + 1), and Holm's correction multiplies it by the number of pairs:
    many systems need more resamples.
    """
    if len(systems) < 2:
        raise OptionError(f"{len(systems)} systems ({', '.join(systems) or 'none'}): need two or more to compare")
    pairs = _compare_pairs(tuple(systems.items()), metric, level, resamples, seed, ratio)
    for test in ("bootstrap", "wilcoxon", "nadeau_bengio", "mcnemar"):
        results = [getattr(pair, test) for pair in pairs]
        if None not in results:
            adjusted = holm([result.p for result in results])
            pairs = [replace(pair, **{test: replace(result, holm=p)})
                     for pair, result, p in zip(pairs, results, adjusted, strict=True)]
    return pairs


def _compare_pairs(systems: Sequence[tuple[str, Runs]], metric: str | LabelMetric, level: float, resamples: int,
                   seed: int, ratio: float | None) -> list[Comparison]:
    """`compare` of every pair; what belongs to one system is computed once, which makes many systems affordable."""
    runs = _aligned(*systems)
    counts, labels = _counts(runs)
    values = [float(_on_counts(metric, labels, system.sum(axis=1)).mean()) for system in counts]
    each = [_on_counts(metric, labels, system) for system in counts]  # [runs, speakers]
    right = [_right(system) for system in runs]
    speakers = counts[0].shape[1]
    several = speakers > 1
    positions = list(itertools.combinations(range(len(systems)), 2))
    drawn: Sequence[Result | None] = [None] * len(positions)
    if several:
        drawn = _bootstrap(counts, positions, labels, metric, level, resamples, seed)
    if ratio is None and speakers > 2:
        ratio = 1 / (speakers - 2)
    pairs = []
    for (a, b), bootstrap in zip(positions, drawn, strict=True):
        difference = each[a].mean(axis=0) - each[b].mean(axis=0)
        folds = (each[a] - each[b]).ravel() if len(each[a]) == len(each[b]) else difference
        pairs.append(Comparison(
            (systems[a][0], systems[b][0]), (values[a], values[b]), bootstrap,
            wilcoxon(difference) if several else None,
            nadeau_bengio(folds, ratio, level) if ratio is not None and folds.size > 1 else None,
            mcnemar(right[a], right[b])))
    return pairs


# Systems → counts


def _aligned(*systems: tuple[str, Runs]) -> list[list[Predictions]]:
    """The runs of each system, in the order of ids; refuses what cannot be compared utterance by utterance."""
    result: list[list[Predictions]] = []
    first = ""
    for name, system in systems:
        result.append([])
        runs = [system] if isinstance(system, Predictions) else list(system)
        if not runs:
            raise DataError(f"{name} has no runs: need the predictions of one or more")
        for number, run in enumerate(runs, start=1):
            where = f"{name}, run {number}" if len(runs) > 1 else name
            first = first or where
            result[-1].append(_by_id(run, where))
            _check_same(result[0][0], result[-1][-1], first, where)
    return result


def _by_id(run: Predictions, where: str) -> Predictions:
    twice = [name for name, times in Counter(run.ids).items() if times > 1]
    if twice:
        raise DataError(f"{where} has {_few(twice)} more than once; give runs as a list, not joined")
    if not run.ids:
        raise DataError(f"{where} has no utterances: need one or more")
    order = np.argsort(np.array(run.ids))
    ids, speakers, truth, predicted = ([column[position] for position in order]
                                       for column in (run.ids, run.speakers, run.truth, run.predicted))
    return replace(run, ids=ids, speakers=speakers, truth=truth, predicted=predicted,
                   probabilities=run.probabilities[order])


def _check_same(ours: Predictions, theirs: Predictions, first: str, where: str) -> None:
    if set(ours.names) != set(theirs.names):
        raise DataError(f"{where} has labels {', '.join(theirs.names)}, {first} has {', '.join(ours.names)}: "
                        "train both on the same")
    lacking, more = sorted({*ours.ids} - {*theirs.ids}), sorted({*theirs.ids} - {*ours.ids})
    if lacking or more:
        parts = [f"{says} {_few(ids)}" for says, ids in (("lacks", lacking), ("has besides", more)) if ids]
        raise DataError(f"{where} {' and '.join(parts)}, compared with {first}: predict the same utterances")
    for kind, xs, ys in (("true label", ours.truth, theirs.truth), ("speaker", ours.speakers, theirs.speakers)):
        changed = [f"{name} ({x}, {y})" for name, x, y in zip(ours.ids, xs, ys, strict=True) if x != y]
        if changed:
            raise DataError(f"{first} and {where} give another {kind} to {_few(changed)}: use one manifest")


def _few(names: Sequence[str]) -> str:
    return f"{len(names)} utterance{'s' * (len(names) > 1)}: {', '.join(names[:3])}{', …' * (len(names) > 3)}"


def _counts(systems: Sequence[Sequence[Predictions]]) -> tuple[list[np.ndarray], list[str]]:
    """``[runs, speakers, true class, predicted class]`` of each system, speakers by name; and the label list."""
    first = systems[0][0]
    groups = [[position for position, speaker in enumerate(first.speakers) if speaker == name]
              for name in sorted({*first.speakers})]

    def matrix(run: Predictions, group: Sequence[int]) -> np.ndarray:
        return metrics.confusion_matrix([run.truth[i] for i in group], [run.predicted[i] for i in group], first.names)

    return [np.array([[matrix(run, group) for group in groups] for run in runs]) for runs in systems], first.names


def _right(runs: Sequence[Predictions]) -> np.ndarray:
    """Share of the runs that are right, ``[utterances]``."""
    return np.mean([np.array(run.truth) == np.array(run.predicted) for run in runs], axis=0)


def _name(metric: str | LabelMetric) -> str | None:
    """UA, WA or F1; None for a function of the user's."""
    found = [name for name, function in METRICS.items() if metric in (name, function)]
    if isinstance(metric, str) and not found:
        raise OptionError(unknown_name("metric", metric, METRICS))
    return found[0] if found else None


def _on_counts(metric: str | LabelMetric, labels: Sequence[str], counts: np.ndarray) -> np.ndarray:
    """The metric of each matrix of ``[…, true class, predicted class]``, whole numbers."""
    name = _name(metric)
    if name is None:
        cells = [np.array(column, dtype=object) for column in zip(*itertools.product(labels, repeat=2), strict=True)]
        rows = counts.reshape(-1, len(labels) ** 2)
        values = [metric(*(column.repeat(row).tolist() for column in cells), labels) for row in rows]  # type: ignore
        return np.array(values, dtype=float).reshape(counts.shape[:-2])
    right, true = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1)
    if name == "WA":
        return right.sum(axis=-1) / true.sum(axis=-1)
    part, whole = (right, true) if name == "UA" else (2 * right, true + counts.sum(axis=-2))
    present = true > 0
    return np.divide(part, whole, out=np.zeros(part.shape), where=present).sum(axis=-1) / present.sum(axis=-1)


# The bootstrap


def _bootstrap(systems: Sequence[np.ndarray], pairs: Sequence[tuple[int, ...]], labels: Sequence[str],
               metric: str | LabelMetric, level: float, resamples: int, seed: int) -> list[Result]:
    """Studentised interval of a system's metric, for each of ``pairs`` of one; of two, and p of their difference.

    All are of the same draws of the speakers. In memory are counts of as many draws as `BLOCK` allows, and a score of
    each pair and draw.
    """
    speakers = systems[0].shape[1]
    if speakers < 2:
        raise DataError("1 speaker: nothing is known of the spread between speakers; predict two or more")
    _check_level(level)
    if _rank(level, resamples) > resamples:
        raise OptionError(f"{resamples} resamples are too few for level {level}: "
                          f"need at least {math.ceil(level / (1 - level) - 1e-9)}")
    apply = functools.partial(_on_counts, metric, labels)
    weights = np.random.default_rng(seed).multinomial(speakers, np.full(speakers, 1 / speakers), size=resamples)
    observed = _drawn(systems, pairs, apply, np.ones((1, speakers), dtype=int))  # [pairs, 2, 1]
    scores = np.empty((len(pairs), resamples))
    block = max(1, BLOCK // max(counts.size for counts in systems))
    for start in range(0, resamples, block):
        values, errors = _drawn(systems, pairs, apply, weights[start:start + block]).swapaxes(0, 1)  # [pairs, draws]
        off = np.abs(values - observed[:, 0])
        scores[:, start:start + block] = np.divide(off, errors, out=np.where(off > NOISE, math.inf, 0.0),
                                                   where=errors > NOISE)
    return [_studentised(float(value), float(error), of_pair, speakers, metric, level, paired=len(pair) > 1)
            for (value, error), of_pair, pair in zip(observed[..., 0], scores, pairs, strict=True)]


def _drawn(systems: Sequence[np.ndarray], pairs: Sequence[tuple[int, ...]], apply: Callable[[np.ndarray], np.ndarray],
           weights: np.ndarray) -> np.ndarray:
    """Value and standard error of each draw, ``[pairs, 2, draws]``, by the jackknife over its speakers.

    A speaker counts as often as ``weights``, ``[draws, speakers]``, says.
    """
    speakers = weights.shape[1]
    found = [_jackknife(counts, apply, weights) for counts in systems]
    result = np.empty((len(pairs), 2, len(weights)))
    for row, (first, *second) in zip(result, pairs, strict=True):
        value, without = found[first]
        for other in second:
            value, without = value - found[other][0], without - found[other][1]
        centre = (weights * without).sum(axis=1, keepdims=True) / speakers
        row[0] = value
        row[1] = np.sqrt((speakers - 1) / speakers * (weights * (without - centre) ** 2).sum(axis=1))
    if not np.isfinite(result).all():
        raise OptionError("the metric is not a number for some draw of the speakers: need one defined for any")
    return result


def _jackknife(counts: np.ndarray, apply: Callable[[np.ndarray], np.ndarray],
               weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Metric of each draw, ``[draws]``, and without one draw of each speaker, ``[draws, speakers]``."""
    total = np.tensordot(weights, counts, axes=(1, 1))  # [draws, runs, true, predicted]
    once = np.minimum(weights, 1).T[:, :, None, None, None] * counts.swapaxes(0, 1)[:, None]  # 0 where not drawn
    return apply(total).mean(axis=1), apply(total - once).mean(axis=2).T  # [speakers, draws, runs] → [draws, speakers]


def _studentised(value: float, error: float, scores: np.ndarray, speakers: int, metric: str | LabelMetric,
                 level: float, paired: bool) -> Result:
    """Interval of a system's metric, or interval and p of a difference, by the studentised draws."""
    if error > NOISE:
        p = float(1 + np.sum(scores >= abs(value) / error * (1 - NOISE))) / (len(scores) + 1)
        reach = error * float(np.sort(scores)[_rank(level, len(scores)) - 1])
    else:
        p = 2.0 ** (1 - speakers) if abs(value) > NOISE else 1.0
        reach = math.inf if paired and 1 - level < p < 1 else 0.0
    tested = p if paired else None
    if reach == math.inf:
        return Result(value, speakers, tested)
    low, high = value - reach, value + reach
    if _name(metric):
        low, high = max(low, -1.0 if paired else 0.0), min(high, 1.0)
    return Result(value, speakers, tested, low, high)


def _rank(level: float, resamples: int) -> int:
    """Which of the sorted draws bounds the interval."""
    return math.ceil(level * (resamples + 1) - 1e-9)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise OptionError(f"level is {level}: need a share between 0 and 1, such as 0.95")


def _finite(values: Sequence[float] | np.ndarray, what: str, least: int) -> np.ndarray:
    result = np.asarray(values, dtype=float)
    if result.size < least or not np.isfinite(result).all():
        raise DataError(f"{result.size} {what}, {np.count_nonzero(~np.isfinite(result))} of them not finite: "
                        f"need {least} or more, all numbers")
    return result
