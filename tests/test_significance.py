"""Significance tests against enumeration, naive loops, other libraries, and simulated systems of known truth."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from dataclasses import astuple, replace
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from ser_plugins import metrics, significance
from ser_plugins.corpora.manifest import Row
from ser_plugins.errors import DataError, OptionError
from ser_plugins.predictions import Predictions, read, write

LABELS = ["anger", "happiness", "neutral", "sadness"]
MANY = pytest.mark.parametrize("seed", range(20))
FEW = {"resamples": 99}


def predictions(truth, predicted, speakers, ids=None, names=LABELS):
    ids = ids or [f"u{number:04}" for number in range(len(truth))]
    return Predictions(ids, list(speakers), list(truth), list(predicted), np.zeros((len(ids), len(names))), list(names))


def one_run(seed, speakers=6, utterances=80, right=0.6, corpus=0):
    """Predictions of one corpus, right as often as said; speakers differ in number of utterances, and lack classes."""
    corpus_draw, draw = random.Random(corpus), random.Random(seed)
    names = [f"S{number}" for number in range(speakers)]
    of = [*names, *corpus_draw.choices(names, range(1, speakers + 1), k=utterances - speakers)]
    truth = [*LABELS, *corpus_draw.choices(LABELS, [4, 3, 2, 1], k=utterances - 4)]
    return predictions(truth, [t if draw.random() < right else draw.choice(LABELS) for t in truth], of)


def pick(run, positions):
    columns = run.truth, run.predicted, run.speakers, run.ids
    return predictions(*([column[i] for i in positions] for column in columns))


A = one_run(1)


# The metrics of counts


@MANY
def test_values_are_scikit_learns(seed):
    a, b = one_run(seed, corpus=seed), one_run(seed + 100, right=0.4, corpus=seed)
    for metric, theirs in (("UA", sklearn_metrics.balanced_accuracy_score), ("WA", sklearn_metrics.accuracy_score),
                           ("F1", lambda t, p: sklearn_metrics.f1_score(t, p, average="macro"))):
        found = significance.compare(a, [b, a], metric, **FEW)
        expected = theirs(a.truth, a.predicted), theirs(b.truth, b.predicted)
        assert found.values == pytest.approx((expected[0], (expected[0] + expected[1]) / 2))
        assert found.bootstrap.value == pytest.approx((expected[0] - expected[1]) / 2)


@pytest.mark.parametrize("name", significance.METRICS)
def test_a_function_of_labels_says_what_the_name_says(name):
    function = significance.METRICS[name]
    a, b = [one_run(1), one_run(2)], one_run(3, right=0.4)
    expected = significance.paired_bootstrap(a, b, name, **FEW)
    assert significance.paired_bootstrap(a, b, function, **FEW) == expected
    slow = significance.paired_bootstrap(a, b, lambda *labels: function(*labels), **FEW)
    assert astuple(slow)[:5] == pytest.approx(astuple(expected)[:5])


# The bootstrap


def naive_bootstrap(a, b, metric, resamples, seed):
    """Difference, standard error, and sorted |t| of the draws, by lists of utterances."""
    names = sorted(set(a[0].speakers))

    def difference(drawn):
        positions = [i for name in drawn for i, speaker in enumerate(a[0].speakers) if speaker == name]
        means = [np.mean([metric([run.truth[i] for i in positions], [run.predicted[i] for i in positions], LABELS)
                          for run in runs]) for runs in (a, b)]
        return means[0] - means[1]

    def error(drawn):
        without = [difference(drawn[:i] + drawn[i + 1:]) for i in range(len(drawn))]
        return math.sqrt((len(drawn) - 1) / len(drawn) * sum((x - sum(without) / len(without)) ** 2 for x in without))

    value, scores = difference(names), []
    for counts in np.random.default_rng(seed).multinomial(len(names), [1 / len(names)] * len(names), size=resamples):
        drawn = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
        off, spread = abs(difference(drawn) - value), error(drawn)
        scores.append(off / spread if spread > 1e-9 else math.inf if off > 1e-9 else 0)
    return value, error(names), sorted(scores)


@pytest.mark.parametrize("name", significance.METRICS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_bootstrap_is_that_of_a_naive_loop(name, seed):
    a, b = [one_run(seed), one_run(seed + 10)], [one_run(seed + 20, right=0.5)]
    value, error, scores = naive_bootstrap(a, b, significance.METRICS[name], 59, seed)
    found = significance.paired_bootstrap(a, b, name, level=0.9, resamples=59, seed=seed)
    assert (found.value, found.count) == (pytest.approx(value), 6)
    assert found.p == pytest.approx((1 + sum(score >= abs(value) / error for score in scores)) / 60)
    assert found.high - found.value == pytest.approx(error * scores[53])  # 54 of 60 = 0.9
    assert found.value - found.low == pytest.approx(error * scores[53])


def test_how_many_draws_are_held_at_once_changes_nothing(monkeypatch):
    at_once = significance.paired_bootstrap(A, [A, one_run(2)], **FEW)
    monkeypatch.setattr(significance, "BLOCK", 3000)
    assert significance.paired_bootstrap(A, [A, one_run(2)], **FEW) == at_once


@MANY
def test_the_interval_leaves_out_zero_just_where_p_says_so(seed):
    a, b = one_run(seed, corpus=seed, right=0.7), one_run(seed + 50, corpus=seed, right=0.45)
    for level in (0.8, 0.95, 0.99):
        found = significance.paired_bootstrap(a, b, level=level, resamples=199, seed=seed)
        if found.low is None:  # all but one or two speakers are alike
            assert found.p > 1 - level
        else:
            assert (found.low > 0 or found.high < 0) == (found.p <= 1 - level + 1e-12)
            assert -1 <= found.low <= found.value <= found.high <= 1


@MANY
def test_swapped_systems_have_the_opposite_difference_and_the_same_p(seed):
    a, b = [one_run(seed, corpus=seed), one_run(seed + 7, corpus=seed)], one_run(seed + 50, corpus=seed, right=0.4)
    there, back = (significance.compare(*pair, resamples=199) for pair in ((a, b), (b, a)))
    assert there.values == back.values[::-1]
    for test in ("bootstrap", "wilcoxon", "nadeau_bengio", "mcnemar"):
        first, second = getattr(there, test), getattr(back, test)
        assert (first.value, first.p, first.count) == (pytest.approx(-second.value), second.p, second.count)
        if first.low is not None:
            assert (first.low, first.high) == pytest.approx((-second.high, -second.low))


@MANY
def test_neither_the_order_of_utterances_nor_that_of_labels_matters(seed):
    a, b = one_run(seed, corpus=seed), one_run(seed + 50, corpus=seed, right=0.4)
    order = random.Random(seed).sample(range(80), 80)
    other = replace(pick(b, order), names=LABELS[::-1])
    assert significance.compare(a, other, "F1", **FEW) == significance.compare(a, b, "F1", **FEW)
    first_label = significance.compare(a, other, lambda t, p, names: p.count(names[0]) / len(p), **FEW)
    assert first_label.values[1] == pytest.approx(b.predicted.count("anger") / 80)


def test_a_seed_fixes_the_result_and_another_hardly_changes_it():
    a, b = one_run(1), one_run(2, right=0.4)
    first, again, other = (significance.paired_bootstrap(a, b, seed=seed) for seed in (3, 3, 4))
    assert first == again != other
    assert first.p == pytest.approx(other.p, abs=0.02)
    assert first.low == pytest.approx(other.low, abs=0.02)


def test_one_system_against_a_perfect_one_has_the_interval_of_its_value():
    a = one_run(1)
    one, two = significance.confidence_interval(a), significance.paired_bootstrap(a, replace(a, predicted=a.truth))
    assert one.p is None
    assert (one.value - 1, one.low - 1) == pytest.approx((two.value, two.low))
    assert one.high == pytest.approx(min(1, 1 + two.high))


# Simulated systems


def simulated(seed, sets, speakers=10, runs=1, advantage=0.0, fold_noise=0.0):
    """Pairs of systems on 4 classes, 2 to 15 utterances of each a speaker; logits: 0.8, + ``advantage`` for the first.

    Normal effects: speaker 0.7, speaker and class 0.35, utterance 1, which both systems share; speaker 0.5, speaker and
    class 0.25, and ``fold_noise`` of each run's speaker, which they do not. A wrong label is any other.
    """
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 16, size=(sets, speakers, 4))
    cells = [np.repeat(np.indices((speakers, 4)).reshape(2, -1), one.ravel(), axis=1) for one in counts]
    for of, truth in cells:
        shared = 0.8 + 0.7 * rng.normal(size=speakers)[of] + 0.35 * rng.normal(size=(speakers, 4))[of, truth]
        shared = shared + rng.normal(size=of.size)
        systems = []
        for extra in (advantage, 0.0):
            own = extra + 0.5 * rng.normal(size=speakers)[of] + 0.25 * rng.normal(size=(speakers, 4))[of, truth]
            said = []
            for _ in range(runs):
                noise = fold_noise * rng.normal(size=speakers)[of] + rng.logistic(size=of.size)
                wrong = (truth + rng.integers(1, 4, size=of.size)) % 4
                predicted = np.where(shared + own + noise > 0, truth, wrong)
                said.append(predictions([LABELS[i] for i in truth], [LABELS[i] for i in predicted],
                                        [f"S{i:02}" for i in of]))
            systems.append(said)
        yield systems


def true_value(advantage):
    """UA and WA of a system over all speakers there could be."""
    quantiles = stats.norm.ppf((np.arange(1000) + 0.5) / 1000)
    spread = math.sqrt(0.7**2 + 0.35**2 + 1 + 0.5**2 + 0.25**2)
    return np.mean(1 / (1 + np.exp(-(0.8 + advantage + spread * quantiles))))


def test_false_alarms_are_five_per_cent_where_systems_are_equal():
    sets = 400
    found = [significance.compare(a, b, resamples=399) for a, b in simulated(1, sets)]
    alarms = {test: sum(getattr(one, test).p <= 0.05 for one in found)
              for test in ("bootstrap", "wilcoxon", "nadeau_bengio", "mcnemar")}
    highest, lowest = stats.binom.isf(1e-3, sets, 0.05), stats.binom.ppf(1e-3, sets, 0.03)
    assert lowest <= alarms["bootstrap"] <= highest
    assert lowest <= alarms["wilcoxon"] <= highest
    assert alarms["nadeau_bengio"] <= highest
    assert alarms["mcnemar"] > stats.binom.isf(1e-3, sets, 0.1)  # utterances are not independent: why speakers count
    assert abs(np.mean([one.bootstrap.value for one in found])) < 0.01


@pytest.mark.parametrize("speakers", [4, 6])
def test_few_speakers_give_no_more_false_alarms(speakers):
    sets = 300
    alarms = sum(significance.paired_bootstrap(a, b, "F1", resamples=199).p <= 0.05
                 for a, b in simulated(speakers, sets, speakers))
    assert alarms <= stats.binom.isf(1e-3, sets, 0.05)


def test_the_noise_of_each_training_is_in_the_spread_between_speakers():
    sets = 300
    alarms = sum(significance.paired_bootstrap(a, b, resamples=199).p <= 0.05
                 for a, b in simulated(2, sets, runs=3, fold_noise=0.5))
    assert stats.binom.ppf(1e-3, sets, 0.03) <= alarms <= stats.binom.isf(1e-3, sets, 0.05)


def test_intervals_of_one_system_cover_what_all_speakers_would_give():
    sets = 400
    found = [significance.confidence_interval(a, resamples=199) for a, _ in simulated(3, sets)]
    covered = sum(one.low <= true_value(0) <= one.high for one in found)
    assert stats.binom.ppf(1e-3, sets, 0.95) <= covered <= stats.binom.isf(1e-3, sets, 0.97)


def test_a_true_difference_is_found():
    found = [significance.compare(a, b, resamples=199) for a, b in simulated(4, 100, advantage=1.5)]
    assert np.mean([one.bootstrap.value for one in found]) == pytest.approx(true_value(1.5) - true_value(0), abs=0.02)
    for test in ("bootstrap", "wilcoxon", "mcnemar"):
        assert np.mean([getattr(one, test).p <= 0.05 for one in found]) > 0.8
    assert all(one.bootstrap.value > 0 for one in found if one.bootstrap.p <= 0.05)


# Few and strange speakers


def alike(speakers, right_a, right_b):
    """Every speaker says the same; the systems are right on so many of four utterances."""
    truth, of = LABELS * speakers, [f"S{i}" for i in range(speakers) for _ in LABELS]
    said = [[label if i % 4 < right else LABELS[i % 4 - 1] for i, label in enumerate(truth)]
            for right in (right_a, right_b)]
    return predictions(truth, said[0], of), predictions(truth, said[1], of)


def test_equal_systems_differ_by_nothing():
    a = one_run(1)
    found = significance.compare(a, [a, a], **FEW)
    assert found.values[0] == pytest.approx(found.values[1])
    assert [result.p for result in (found.bootstrap, found.wilcoxon, found.nadeau_bengio, found.mcnemar)] == [1] * 4
    assert astuple(found.bootstrap)[:5] == pytest.approx((0, 6, 1, 0, 0))


def test_speakers_who_are_all_alike_have_the_p_of_their_signs():
    many = significance.paired_bootstrap(*alike(8, 4, 3))
    assert many == significance.Result(0.25, 8, 2**-7, 0.25, 0.25)
    few = significance.paired_bootstrap(*alike(3, 4, 3))
    assert few == significance.Result(0.25, 3, 0.25)
    assert significance.confidence_interval(alike(3, 4, 3)[0]) == significance.Result(1, 3, None, 1, 1)


@pytest.mark.parametrize("speakers", [2, 3])
def test_two_or_three_speakers_allow_no_interval(speakers):
    a, b = one_run(1, speakers, right=0.9), one_run(2, speakers, right=0.2)
    found = significance.compare(a, b)
    assert found.bootstrap.low is found.bootstrap.high is None
    assert found.bootstrap.p > 0.05
    assert found.wilcoxon.p >= 2 ** (1 - speakers)
    assert significance.confidence_interval(a).low is significance.confidence_interval(a).high is None


def test_of_one_speaker_only_mcnemar_is_left():
    a, b = one_run(1, 1), one_run(2, 1, right=0.1)
    found = significance.compare(a, b)
    assert (found.bootstrap, found.wilcoxon, found.nadeau_bengio) == (None, None, None)
    assert found.mcnemar.p < 0.01
    assert significance.compare([a, b], [b, a], ratio=0.25).nadeau_bengio.count == 2  # two runs, said to be folds
    for refused in (lambda: significance.paired_bootstrap(a, b), lambda: significance.confidence_interval(a)):
        with pytest.raises(DataError, match=r"^1 speaker: nothing is known of the spread .*predict two or more"):
            refused()


def test_speakers_who_lack_classes_count_for_those_they_have():
    truth = ["anger"] * 6 + ["neutral"] * 4 + ["anger", "sadness"]
    of = ["S0"] * 6 + ["S1"] * 4 + ["S2"] * 2
    a = predictions(truth, ["anger"] * 3 + ["sadness"] * 3 + ["neutral"] * 4 + ["anger", "anger"], of)
    b = predictions(truth, ["anger"] * 6 + ["sadness"] * 4 + ["anger", "sadness"], of)
    found = significance.compare(a, b)
    assert found.values == pytest.approx(((4 / 7 + 1 + 0) / 3, (1 + 0 + 1) / 3))
    assert found.wilcoxon.value == pytest.approx(-0.5)  # of 0.5 − 1, 1 − 0, 0.5 − 1
    assert found.nadeau_bengio.value == pytest.approx(0)


# The tests of numbers


@MANY
def test_nadeau_bengio_is_the_formula(seed):
    draw = random.Random(seed)
    values, ratio = [draw.gauss(0.1, 0.3) for _ in range(draw.randint(2, 30))], draw.random()
    n, mean = len(values), math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    error = math.sqrt((1 / n + ratio) * variance)
    found = significance.nadeau_bengio(values, ratio, level=0.9)
    assert (found.value, found.count) == (pytest.approx(mean), n)
    assert found.p == pytest.approx(2 * stats.t.cdf(-abs(mean / error), n - 1))
    assert stats.t.cdf((found.high - mean) / error, n - 1) == pytest.approx(0.95)
    assert mean - found.low == pytest.approx(found.high - mean)
    assert found.p > significance.nadeau_bengio(values, 0).p


@MANY
def test_without_a_ratio_nadeau_bengio_is_the_paired_t_test(seed):
    a, b = np.random.default_rng(seed).normal(size=(2, 10))
    theirs = stats.ttest_rel(a, b)
    ours = significance.nadeau_bengio(a - b, ratio=0)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval()))


def test_nadeau_bengio_pairs_runs_and_takes_speakers_for_folds():
    a, b = [one_run(1), one_run(2)], [one_run(3), one_run(4)]
    of_speaker = [[[metrics.unweighted_accuracy(*zip(*[(t, p) for t, p, s in zip(
        run.truth, run.predicted, run.speakers, strict=True) if s == name], strict=True), LABELS)
        for name in sorted(set(run.speakers))] for run in runs] for runs in (a, b)]
    differences = np.subtract(*of_speaker)
    found = significance.compare(a, b, **FEW)
    assert found.nadeau_bengio.p == pytest.approx(significance.nadeau_bengio(differences.ravel(), 1 / 4).p)
    assert found.nadeau_bengio.count == 12
    assert found.wilcoxon.p == pytest.approx(significance.wilcoxon(differences.mean(axis=0)).p)
    uneven = significance.compare(a, [b[0]], ratio=0.5, **FEW).nadeau_bengio
    expected = np.mean(of_speaker[0], axis=0) - of_speaker[1][0]
    assert uneven.p == pytest.approx(significance.nadeau_bengio(expected, 0.5).p)


@pytest.mark.parametrize(("value", "p"), [(0.0, 1.0), (0.25, 0.0)])
def test_folds_that_all_say_the_same(value, p):
    assert significance.nadeau_bengio([value] * 5, 0.1) == significance.Result(value, 5, p, value, value)


@MANY
@pytest.mark.parametrize("step", [0.001, 0.25], ids=["continuous", "ties and zeros"])
def test_wilcoxon_is_the_enumeration_of_signs(seed, step):
    values = np.round(np.random.default_rng(seed).normal(0.2, 0.5, size=3 + seed % 7) / step) * step
    sizes = sorted(abs(values))
    rank = {size: np.mean([i + 1 for i, other in enumerate(sizes) if other == size]) for size in sizes}
    ranks = [rank[abs(value)] if value else 0 for value in values]  # Pratt: ranked with the zeros, then left out
    sums = [sum(r for r, sign in zip(ranks, signs, strict=True) if sign) for signs
            in itertools.product([False, True], repeat=len(values))]
    found = sum(r for r, value in zip(ranks, values, strict=True) if value > 0)
    as_far = [abs(total - sum(ranks) / 2) >= abs(found - sum(ranks) / 2) for total in sums]
    result = significance.wilcoxon(values + 1e-15)  # as rounding leaves them
    assert result.p == pytest.approx(np.mean(as_far))
    assert (result.count, result.value) == (len(values), pytest.approx(np.median(values)))


@MANY
def test_wilcoxon_is_scipys_where_that_is_exact(seed):
    values = np.random.default_rng(seed).normal(0.2, 0.5, size=10 + 2 * seed)  # no ties, no zeros
    assert significance.wilcoxon(values).p == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)


@pytest.mark.parametrize("first", range(8))
@pytest.mark.parametrize("second", [0, 1, 5, 9])
def test_mcnemar_is_the_binomial_of_the_utterances_that_differ(first, second):
    n = first + second
    tail = sum(Fraction(math.comb(n, k), 2**n) for k in range(min(first, second) + 1))
    a_right = [1] * first + [0] * second + [1, 1, 0]
    b_right = [0] * first + [1] * second + [1, 1, 0]
    found = significance.mcnemar(a_right, b_right)
    assert found.p == pytest.approx(float(min(1, 2 * tail)))
    assert (found.count, found.value) == (n, pytest.approx((first - second) / (n + 3)))


def test_mcnemar_counts_an_utterance_once_however_many_the_runs():
    a, b = one_run(1), one_run(2, right=0.3)
    assert significance.compare([a] * 5, [b] * 3, **FEW).mcnemar == significance.compare(a, b, **FEW).mcnemar
    assert significance.mcnemar([1 / 3, 1], [2 / 3, 1]).count == 1


def naive_holm(values):
    """The smallest level at which the step-down procedure rejects each."""
    adjusted = []
    for value in values:
        smaller = sorted(values)[:sum(other <= value for other in values)]
        adjusted.append(min(1, max((len(values) - step) * other for step, other in enumerate(smaller))))
    return adjusted


@MANY
def test_holm_is_its_definition(seed):
    draw = random.Random(seed)
    values = [draw.choice([draw.random() ** 3, 0.02, 0.0]) for _ in range(draw.randint(1, 12))]
    adjusted = significance.holm(values)
    assert adjusted == pytest.approx(naive_holm(values))
    level, rejected = draw.random() * 0.2, set()
    for step, position in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        if values[position] > level / (len(values) - step):
            break
        rejected.add(position)
    assert {position for position, value in enumerate(adjusted) if value <= level} == rejected


def test_holm_is_that_of_statsmodels():
    # statsmodels.stats.multitest.multipletests(values, method="holm")[1], statsmodels 0.15.0
    values = [0.011, 0.02, 0.001, 0.74, 0.02, 0.3, 0.009, 0.04]
    assert significance.holm(values) == pytest.approx([0.066, 0.1, 0.008, 0.74, 0.1, 0.6, 0.063, 0.12])


# All pairs


def test_every_pair_is_compared_and_adjusted():
    systems = {"mp": one_run(1, right=0.3), "rnn": [one_run(2, right=0.8), one_run(3, right=0.8)], "net": one_run(4)}
    pairs = significance.compare_all(systems, "WA", **FEW)
    assert [pair.names for pair in pairs] == [("mp", "rnn"), ("mp", "net"), ("rnn", "net")]
    for test in ("bootstrap", "wilcoxon", "nadeau_bengio", "mcnemar"):
        results = [getattr(pair, test) for pair in pairs]
        assert [result.holm for result in results] == pytest.approx(naive_holm([result.p for result in results]))
    alone = significance.compare(systems["mp"], systems["net"], "WA", names=("mp", "net"), **FEW)
    assert replace(pairs[1].bootstrap, holm=None) == alone.bootstrap


def test_of_one_speaker_only_mcnemar_is_adjusted():
    pairs = significance.compare_all({"a": one_run(1, 1), "b": one_run(2, 1), "c": one_run(3, 1)})
    assert all(pair.bootstrap is None for pair in pairs)
    assert all(pair.mcnemar.holm >= pair.mcnemar.p for pair in pairs)


def test_files_of_predictions_are_compared(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        run = one_run(seed, 3, 12)
        rows = [(Row(i, f"{i}.wav", 0.0, 1.0, 1.0, 16000, speaker, emotion=truth), np.eye(4)[LABELS.index(said)])
                for i, speaker, truth, said in zip(run.ids, run.speakers, run.truth, run.predicted, strict=True)]
        write(tmp_path / f"{name}.csv", rows, LABELS)
    found = significance.compare(read(tmp_path / "a.csv"), read(tmp_path / "b.csv"))
    assert found == significance.compare(one_run(1, 3, 12), one_run(2, 3, 12))


# What is refused


def changed(column, position, value):
    values = list(getattr(A, column))
    values[position] = value
    return replace(A, **{column: values})


@pytest.mark.parametrize(("other", "message"), [
    (pick(A, range(78)), r"^b lacks 2 utterances: u0078, u0079, compared with a: predict the same utterances"),
    (pick(A, range(40)), r"lacks 40 utterances: u0040, u0041, u0042, …, compared"),
    (changed("ids", 3, "new"), "^b lacks 1 utterance: u0003 and has besides 1 utterance: new, compared with a"),
    (changed("truth", 0, "sadness"), r"a and b give another true label to 1 utterance: u0000 \(anger, sadness\): use"),
    (changed("speakers", 1, "S9"), r"a and b give another speaker to 1 utterance: u0001 \(S1, S9\): use one manifest"),
    (changed("ids", 3, "u0002"), "^b has 1 utterance: u0002 more than once; give runs as a list, not joined"),
    (replace(A, names=[*LABELS, "joy"]), r"b has labels anger, .*, joy, a has anger, .*, sadness: train both on"),
    (pick(A, []), "^b has no utterances"),
    ([], "^b has no runs: need the predictions of one or more"),
    ([A, pick(A, range(79))], r"^b, run 2 lacks 1 utterance: u0079, compared with a"),
])
def test_systems_that_cannot_be_compared(other, message):
    for function in (significance.compare, significance.paired_bootstrap):
        with pytest.raises(DataError, match=message):
            function(A, other)


def test_systems_are_named_in_errors():
    with pytest.raises(DataError, match=r"^rnn lacks 1 utterance: u0079, compared with mp, run 1: predict"):
        significance.compare_all({"mp": [A, A], "rnn": pick(A, range(79))})
    with pytest.raises(DataError, match=r"^system, run 2 lacks 1 utterance: u0079, compared with system, run 1"):
        significance.confidence_interval([A, pick(A, range(79))])


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: significance.compare(A, A, "UAR"), OptionError, "no metric 'UAR'; did you mean 'UA'"),
    (lambda: significance.compare(A, changed("predicted", 0, "joy")), OptionError, "no label 'joy'; label list: anger"),
    (lambda: significance.paired_bootstrap(A, A, level=95), OptionError, "level is 95: need a share between 0 and 1"),
    (lambda: significance.nadeau_bengio([1, 2], 0.1, level=0), OptionError, "level is 0: need a share"),
    (lambda: significance.paired_bootstrap(A, A, resamples=18), OptionError, r"18 resamples are too few.* least 19$"),
    (lambda: significance.paired_bootstrap(A, A, lambda *_: math.nan), OptionError, "metric is not a number for some"),
    (lambda: significance.nadeau_bengio([0.1], 0.1), DataError, "1 differences, 0 of them not finite: need 2 or more"),
    (lambda: significance.nadeau_bengio([0.1, math.nan], 0.1), DataError, "2 differences, 1 of them not finite"),
    (lambda: significance.nadeau_bengio([1, 2], -0.1), OptionError, "ratio is -0.1: need test size over training size"),
    (lambda: significance.wilcoxon([]), DataError, r"0 differences, .*need 1 or more"),
    (lambda: significance.mcnemar([1, 0], [1]), OptionError, "2 and 1 utterances: need as many, in the same order"),
    (lambda: significance.holm([0.1, math.nan]), OptionError, "p-value 2 of 2 is nan: need all, each from 0 to 1"),
    (lambda: significance.holm([None, 0.1]), OptionError, "p-value 1 of 2 is None"),
    (lambda: significance.holm([0.1, 0.2, 1.2]), OptionError, "p-value 3 of 3 is 1.2"),
    (lambda: significance.compare_all({"a": A}), OptionError, r"1 systems \(a\): need two or more to compare"),
])
def test_arguments_without_meaning(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_nothing_heavy_is_imported():
    code = ("import sys, ser_plugins.significance; "
            "sys.exit(' '.join({'torch', 'speechbrain', 'librosa', 'matplotlib'} & set(sys.modules)) or 0)")
    subprocess.run([sys.executable, "-c", code], check=True)
