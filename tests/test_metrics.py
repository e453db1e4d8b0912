"""Metrics against scikit-learn, naive loops and their own invariants; the file of predictions."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import norm
from sklearn import metrics as sklearn_metrics

from ser_plugins import metrics, predictions
from ser_plugins.corpora.manifest import Row
from ser_plugins.errors import DataError, OptionError

LABELS = ["anger", "happiness", "neutral", "sadness"]
MANY = pytest.mark.parametrize("seed", range(20))
ACCURACIES = (metrics.unweighted_accuracy, metrics.weighted_accuracy, metrics.macro_f1)


def random_labels(seed, labels=LABELS):
    """True and predicted labels, unevenly frequent, right more often than by chance; each label occurs in both."""
    draw = random.Random(seed)
    weights = [draw.uniform(0.2, 1) for _ in labels]
    truth = [*labels, *draw.choices(labels, weights, k=draw.randint(5, 200))]
    predicted = [*labels, *(label if draw.random() < 0.5 else draw.choice(labels) for label in truth[len(labels):])]
    return truth, predicted


@MANY
def test_scikit_learn_says_the_same(seed):
    truth, predicted = random_labels(seed)
    ours = metrics.summary(truth, predicted, LABELS)
    assert ours["UA"] == pytest.approx(sklearn_metrics.balanced_accuracy_score(truth, predicted))
    assert ours["WA"] == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted))
    assert ours["F1"] == pytest.approx(sklearn_metrics.f1_score(truth, predicted, average="macro"))
    assert ours["confusion"] == sklearn_metrics.confusion_matrix(truth, predicted, labels=LABELS).tolist()
    recalls = sklearn_metrics.recall_score(truth, predicted, labels=LABELS, average=None)
    assert list(ours["recall"].values()) == pytest.approx(recalls.tolist())
    assert list(ours["recall"]) == LABELS


@MANY
def test_naive_loops_say_the_same(seed):
    truth, predicted = random_labels(seed)
    recalls, scores = [], []
    for label in LABELS:
        hits = sum(t == p == label for t, p in zip(truth, predicted, strict=True))
        false_alarms = sum(t != label == p for t, p in zip(truth, predicted, strict=True))
        recalls.append(hits / truth.count(label))
        scores.append(2 * hits / (hits + false_alarms + truth.count(label)))
    assert metrics.unweighted_accuracy(truth, predicted, LABELS) == pytest.approx(sum(recalls) / 4)
    assert metrics.macro_f1(truth, predicted, LABELS) == pytest.approx(sum(scores) / 4)
    assert metrics.recall_per_class(truth, predicted, LABELS).tolist() == pytest.approx(recalls)


@pytest.mark.parametrize("metric", ACCURACIES)
def test_perfect_is_one_and_all_wrong_is_zero(metric):
    truth, _ = random_labels(0)
    assert metric(truth, truth, LABELS) == 1
    assert metric(truth, [LABELS[LABELS.index(label) - 1] for label in truth], LABELS) == 0


@MANY
@pytest.mark.parametrize("metric", ACCURACIES)
def test_neither_the_order_nor_the_names_of_labels_matter(metric, seed):
    truth, predicted = random_labels(seed)
    value = metric(truth, predicted, LABELS)
    assert 0 <= value <= 1
    assert metric(truth, predicted, LABELS[::-1]) == pytest.approx(value)
    renamed = dict(zip(LABELS, random.Random(seed).sample(LABELS, 4), strict=True))
    assert metric([renamed[t] for t in truth], [renamed[p] for p in predicted], LABELS) == pytest.approx(value)
    order = random.Random(seed).sample(range(len(truth)), len(truth))
    assert metric([truth[i] for i in order], [predicted[i] for i in order], LABELS) == pytest.approx(value)


@MANY
def test_a_class_without_utterances_is_left_out_even_where_it_is_predicted(seed):
    truth, predicted = random_labels(seed)
    pairs = [(t, p) for t, p in zip(truth, predicted, strict=True) if t != "neutral"]
    truth, predicted = map(list, zip(*pairs, strict=True))
    predicted[0] = "neutral"
    present = ["anger", "happiness", "sadness"]
    options = {"labels": present, "average": "macro", "zero_division": 0.0}
    assert metrics.unweighted_accuracy(truth, predicted, LABELS) == pytest.approx(
        sklearn_metrics.recall_score(truth, predicted, **options))
    assert metrics.macro_f1(truth, predicted, LABELS) == pytest.approx(
        sklearn_metrics.f1_score(truth, predicted, **options))
    assert np.isnan(metrics.recall_per_class(truth, predicted, LABELS)).tolist() == [False, False, True, False]
    assert metrics.summary(truth, predicted, LABELS)["recall"]["neutral"] is None


def test_a_class_that_is_never_predicted_counts_as_zero():
    assert metrics.macro_f1(["a", "b"], ["a", "a"], ["a", "b"]) == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize(("truth", "predicted", "message"), [
    (["anger"], ["joy"], "no label 'joy'; label list: anger, happiness, neutral, sadness"),
    (["angr"], ["anger"], "no label 'angr'; did you mean 'anger'"),
    (["anger"], ["anger", "anger"], "1 true and 2 predicted labels: need as many"),
    ([], [], "0 true and 0 predicted labels: need as many, and at least one"),
])
def test_labels_that_cannot_be_compared(truth, predicted, message):
    with pytest.raises(OptionError, match=message):
        metrics.summary(truth, predicted, LABELS)


# Numbers


@MANY
def test_concordance_is_lins_formula(seed):
    draw = random.Random(seed)
    x = [draw.gauss(0, 1) for _ in range(30)]
    y = [0.7 * value + draw.gauss(0.3, 0.5) for value in x]
    mean_x, mean_y = sum(x) / 30, sum(y) / 30
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / 30
    spread = sum((a - mean_x) ** 2 for a in x) / 30 + sum((b - mean_y) ** 2 for b in y) / 30
    assert metrics.concordance(x, y) == pytest.approx(2 * covariance / (spread + (mean_x - mean_y) ** 2))
    assert metrics.concordance(x, y) == pytest.approx(metrics.concordance(y, x))
    assert metrics.concordance(x, y) <= np.corrcoef(x, y)[0, 1]  # 1 needs the right scale and mean as well


def test_concordance_at_its_ends():
    assert metrics.concordance([1, 2, 3], [1, 2, 3]) == 1
    assert metrics.concordance([1, 2, 3], [3, 2, 1]) == -1
    assert metrics.concordance([1, 1], [2, 2]) == 0
    assert np.isnan(metrics.concordance([1, 1], [1, 1]))
    with pytest.raises(OptionError, match="2 true and 1 predicted values"):
        metrics.concordance([1, 2], [1])


def random_probabilities(seed, count=200):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(4, 0.5), size=count)
    return [LABELS[index] for index in rng.integers(0, 4, size=count)], probabilities


@MANY
@pytest.mark.parametrize("bins", [1, 5, 15])
def test_calibration_error_is_the_mean_gap_of_the_bins(seed, bins):
    truth, probabilities = random_probabilities(seed)
    expected = 0.0
    for number in range(bins):
        inside = [(max(row), LABELS[int(np.argmax(row))] == label)
                  for label, row in zip(truth, probabilities, strict=True)
                  if number / bins < max(row) <= (number + 1) / bins]
        if inside:
            confidence = sum(value for value, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            expected += len(inside) / len(truth) * abs(accuracy - confidence)
    assert metrics.calibration_error(truth, probabilities, LABELS, bins) == pytest.approx(expected)


def test_calibration_error_at_its_ends():
    certain = np.eye(4)
    assert metrics.calibration_error(LABELS, certain, LABELS) == 0
    assert metrics.calibration_error(LABELS[1:] + LABELS[:1], certain, LABELS) == 1
    uniform = np.full((4, 4), 0.25)  # always says the first label, and is right in a quarter
    assert metrics.calibration_error(LABELS, uniform, LABELS) == pytest.approx(0)


# The table


def test_the_table_holds_every_number_in_its_column():
    labels = ["anger", "joy", "calm"]
    truth = ["anger"] * 120 + ["joy"] * 8
    predicted = ["anger"] * 100 + ["calm"] * 20 + ["joy"] * 6 + ["anger"] * 2
    first, head, *lines = metrics.table(metrics.summary(truth, predicted, labels), labels).split("\n")
    assert re.findall(r"(\w+) ([\d.]+)", first) == [("UA", "0.792"), ("WA", "0.828"), ("F1", "0.879")]
    assert head.split("  ")[0] == "true \\ predicted"
    assert [line.split() for line in lines] == [
        ["anger", "100", "0", "20", "0.83"], ["joy", "2", "6", "0", "0.75"], ["calm", "0", "0", "0", "none"]]
    assert len({len(line) for line in (head, *lines)}) == 1
    ends = [head.index(word) + len(word) for word in (*labels, "recall")]
    assert all(line[end - 1] != " " and line[end:end + 1] in ("", " ") for line in lines for end in ends)


# The file of predictions


def outcome(ids, speaker="S01"):
    rng = np.random.default_rng(len(ids))
    return [(Row(name, f"{name}.wav", 0.0, 1.0, 1.0, 16000, speaker, emotion=LABELS[number % 4]), row)
            for number, (name, row) in enumerate(zip(ids, rng.dirichlet(np.ones(4), len(ids)), strict=True))]


def test_predictions_are_read_as_written(tmp_path):
    said = outcome(["c", "a", "b, with a comma", "ü"])
    predictions.write(tmp_path / "new" / "predictions.csv", said, LABELS)
    found = predictions.read(tmp_path / "new" / "predictions.csv")
    by_id = {row.id: (row, values) for row, values in said}
    assert found.ids == sorted(by_id)
    assert found.names == LABELS
    for position, name in enumerate(found.ids):
        row, values = by_id[name]
        assert (found.speakers[position], found.truth[position]) == ("S01", row.emotion)
        assert found.predicted[position] == LABELS[int(np.argmax(values))]
        assert found.probabilities[position] == pytest.approx(values, abs=1e-6)
    header = (tmp_path / "new" / "predictions.csv").read_text(encoding="utf-8").split("\n")[0]
    assert header == "id,speaker,label,prediction,p_anger,p_happiness,p_neutral,p_sadness"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["predictions.csv"]


@pytest.mark.parametrize("spoilt", [[float("nan")] * 4, [7, -6, 0, 0], [0.5, 0.4, 0, 0], [0.5, 0.5]])
def test_what_are_no_probabilities_is_not_written(tmp_path, spoilt):
    (row, _), *_ = outcome(["a"])
    with pytest.raises(DataError, match=r"new\.csv: a has the probabilities .*: need 4 numbers of 0 or more"):
        predictions.write(tmp_path / "new.csv", [(row, spoilt)], LABELS)
    with pytest.raises(DataError, match=r"new\.csv: utterance a is predicted 2 times: predict each once"):
        predictions.write(tmp_path / "new.csv", outcome(["a", "a"]), LABELS)
    assert not list(tmp_path.iterdir())


def test_the_order_in_which_they_were_computed_does_not_matter(tmp_path):
    said = outcome(["c", "a", "b"])
    predictions.write(tmp_path / "1.csv", said, LABELS)
    predictions.write(tmp_path / "2.csv", said[::-1], LABELS)
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()


def test_folds_are_joined(tmp_path):
    predictions.write(tmp_path / "1.csv", outcome(["a", "b"], "S01"), LABELS)
    predictions.write(tmp_path / "2.csv", outcome(["c", "d", "e"], "S02"), LABELS)
    joined = predictions.read(tmp_path / "1.csv", tmp_path / "2.csv")
    assert joined.ids == list("abcde")
    assert joined.speakers == ["S01"] * 2 + ["S02"] * 3
    assert joined.probabilities.shape == (5, 4)


def test_other_labels_cannot_be_joined(tmp_path):
    predictions.write(tmp_path / "1.csv", outcome(["a", "b"]), LABELS)
    predictions.write(tmp_path / "2.csv", outcome(["c"]), [*LABELS[:3], "joy"])
    with pytest.raises(DataError, match=r"2\.csv has columns .*, p_joy, expected .*, p_sadness$"):
        predictions.read(tmp_path / "1.csv", tmp_path / "2.csv")


HEADER = "id,speaker,label,prediction,p_a,p_b"


@pytest.mark.parametrize(("content", "message"), [
    ("", "is no file of predictions"),
    ("id,name\n1,2\n", "has columns id, name, expected id, speaker, label, prediction"),
    (HEADER + "\n", "no predictions in"),
    (HEADER + "\nu1,S,a,a,0.5,0.5\nu2,S,a,a,0.5\n", "line 3: 5 values, expected 6"),
    (HEADER + "\nu1,S,a,a,0.5,half\n", "line 2: could not convert string to float: 'half'"),
    (HEADER.encode() + b"\n\xff\xfe", "is no file of predictions: .*utf-8"),
])
def test_a_malformed_file_is_refused(tmp_path, content, message):
    path = tmp_path / "predictions.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        predictions.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv is no file of predictions: .*No such file"):
        predictions.read(tmp_path / "gone.csv")
    with pytest.raises(DataError, match="no predictions in no file"):
        predictions.read()


# Calibration and coverage


def drawn(seed, utterances=4000, sharpness=1.0):
    """Labels drawn from the softmax of logits, and the softmax of ``sharpness`` times the logits."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 1.5, (utterances, len(LABELS)))
    truth = [draw.choice(LABELS, p=probabilities) for probabilities in softmax(logits, axis=1)]
    return truth, softmax(sharpness * logits, axis=1), softmax(logits, axis=1)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_that_spoilt_calibration_is_found(sharpness):
    truth, spoilt, right = drawn(1, sharpness=sharpness)
    temperature = metrics.fit_temperature(truth, spoilt, LABELS)
    assert temperature == pytest.approx(sharpness, rel=0.08)
    assert metrics.tempered(spoilt, sharpness) == pytest.approx(right, abs=1e-6)
    assert metrics.calibration_error(truth, metrics.tempered(spoilt, temperature), LABELS) < 0.03


@pytest.mark.parametrize(("truth", "spoilt"), [
    drawn(2, utterances=60, sharpness=2.5)[:2], drawn(3, utterances=30, sharpness=0.4)[:2],
    (["anger"] * 80, np.array([[0.265, 0.245, 0.245, 0.245]] * 80)),  # two minima
])
@pytest.mark.parametrize("deviation", [0.1, 0.25, 1.0, np.inf])
def test_the_temperature_is_the_most_probable_of_all(truth, spoilt, deviation):
    prior = norm(0, deviation).logpdf if deviation < np.inf else np.zeros_like
    found = metrics.fit_temperature(truth, spoilt, LABELS, deviation)
    temperatures = np.array([found, *np.geomspace(*metrics.TEMPERATURES, 500)])
    losses = [len(truth) * sklearn_metrics.log_loss(truth, metrics.tempered(spoilt, temperature), labels=LABELS)
              for temperature in temperatures] - prior(np.log(temperatures))
    assert losses[0] == pytest.approx(min(losses), abs=5e-3)


def test_without_a_prior_a_speaker_without_errors_asks_for_the_lowest_temperature_and_one_of_errors_for_the_highest():
    probabilities = np.array([[0.6, 0.2, 0.1, 0.1]] * 5)
    low, high = metrics.TEMPERATURES
    assert metrics.fit_temperature(["anger"] * 5, probabilities, LABELS, np.inf) == pytest.approx(low, rel=0.01)
    assert metrics.fit_temperature(["sadness"] * 5, probabilities, LABELS, np.inf) == pytest.approx(high, rel=0.01)


def test_cross_entropy_is_scikit_learns():
    truth, probabilities, _ = drawn(4, utterances=50)
    assert metrics.cross_entropy(truth, probabilities, LABELS) == pytest.approx(
        sklearn_metrics.log_loss(truth, probabilities, labels=LABELS))


def test_probabilities_rounded_to_0_stay_finite():
    probabilities = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    temperature = metrics.fit_temperature(["anger", "anger"], probabilities, LABELS)
    assert np.isfinite(metrics.tempered(probabilities, temperature)).all()


@MANY
def test_reliability_is_what_a_loop_over_the_bins_finds(seed):
    truth, probabilities, _ = drawn(seed, utterances=50)
    expected = []
    for number in range(10):
        inside = [i for i, row in enumerate(probabilities) if number / 10 < max(row) <= (number + 1) / 10]
        if inside:
            right = [LABELS[int(np.argmax(probabilities[i]))] == truth[i] for i in inside]
            expected.append((np.mean([max(probabilities[i]) for i in inside]), np.mean(right), len(inside) / 50))
    found = np.array(metrics.reliability(truth, probabilities, LABELS, bins=10)).T
    assert found == pytest.approx(np.array(expected))


@MANY
def test_coverage_is_scikit_learns_balanced_accuracy_of_the_most_confident(seed):
    truth, probabilities, _ = drawn(seed, utterances=40)
    order = sorted(range(40), key=lambda i: -max(probabilities[i]))
    predicted = [LABELS[int(np.argmax(row))] for row in probabilities]
    for share, kept in ((0.25, 10), (0.5, 20), (0.76, 31), (1.0, 40)):
        right = {label: [predicted[i] == label for i in order[:kept] if truth[i] == label] for label in LABELS}
        expected = np.mean([np.mean(found) for found in right.values() if found])
        assert metrics.coverage(truth, probabilities, LABELS, [share])[0] == pytest.approx(expected)


def test_utterances_that_confidence_cannot_tell_apart_are_kept_together():
    truth = ["anger", "sadness", "neutral", "happiness"]
    constant = np.array([[0.4, 0.2, 0.2, 0.2]] * 4)
    assert metrics.coverage(truth, constant, LABELS, [0.25, 0.5, 1.0]).tolist() == [0.25, 0.25, 0.25]
