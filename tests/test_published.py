"""The tables of results in README and docs are what the committed predictions say."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean, stdev

import pytest
from sklearn.metrics import balanced_accuracy_score

from ser_plugins import significance
from ser_plugins.claims import judge
from ser_plugins.results import Results

ROOT = Path(__file__).parents[1]
CORPORA = ("emodb", "ravdess")
NAMES = {"emodb": "EmoDB", "ravdess": "RAVDESS"}
README, DOCS = ROOT / "README.md", ROOT / "docs/results.md"


@pytest.fixture(scope="module")
def results():
    return [Results.load(ROOT / "docs/results" / corpus) for corpus in CORPORA]


def table(header, file=README):
    """The cells of the rows under a header."""
    below = file.read_text(encoding="utf-8").split(f"\n{header}\n", 1)[1]
    rows = re.match(r"(\|.*\|\n)+", below)[0].splitlines()[1:]
    return [[cell.strip().replace("**", "") for cell in row.strip("|").split("|")] for row in rows]


def compared(one):
    """All pairs of the systems that claims name, as finely as the report compares them."""
    contestants = sum(bool(one.complete(name)) and not (system.is_chance or system.is_control)
                      for name, system in one.systems.items())
    named = {system for claim in one.claims for system in claim}
    return significance.compare_all({name: one.runs(name) for name in one.systems if name in named},
                                    resamples=max(4999, 100 * contestants * (contestants - 1) - 1))


def unweighted_accuracy(one, system):
    """UA of the complete runs and its interval over speakers, in README's words."""
    runs = [balanced_accuracy_score(run.truth, run.predicted) for run in one.runs(system)]
    if not runs:
        return "–"
    found = significance.confidence_interval(one.runs(system))
    assert found.value == pytest.approx(mean(runs))
    spread = f" ± {stdev(runs):.3f}" if len(runs) > 1 else ""
    around = "" if found.low in (None, found.high) else f", {found.low:.3f}–{found.high:.3f}"  # none: too like speakers
    return f"{mean(runs):.3f}{spread}{around} ({len(runs)})"


def by_layer(one):
    """README's rows of one corpus: a kind of system and what its recogniser has, UA of each layer, number of runs."""
    rows = []
    for ending, words in (("", ""), ("-untrained", ", random weights")):
        for kind in ("linear", "mp", "rnn", "progressive"):
            names = [f"{kind}-{layer}{ending}" for layer in range(1, 6)]
            if not any(name in one.systems for name in names):
                continue
            runs = [[balanced_accuracy_score(run.truth, run.predicted) for run in one.runs(name)] for name in names]
            numbers = sorted({len(own) for own in runs})
            rows.append(((kind, words), [
                *(f"{mean(own):.3f}" + (f" ± {stdev(own):.3f}" if len(own) > 1 else "") for own in runs),
                " or ".join(map(str, numbers))]))
    return rows


def without_layers(one):
    """The systems that read no layer of the recogniser."""
    return [name for name, system in one.systems.items() if system.layer is None]


@pytest.mark.parametrize("number", [0, 1])
def test_every_layer_has_its_cell(results, number):
    one, name = results[number], NAMES[CORPORA[number]]
    layers = " | ".join(f"layer {layer}" for layer in range(1, 6))
    assert table(f"| {name} | {layers} | runs |") == [
        [f"`{kind}`{words}", *cells] for (kind, words), cells in by_layer(one)]


def test_systems_without_layers(results):
    assert table("| system | EmoDB | RAVDESS |") == [
        [f"`{name}`", *(unweighted_accuracy(one, name) for one in results)] for name in without_layers(results[0])]


def test_controls_are_those_of_random_weights(results):
    for one in results:
        assert [name for name, system in one.systems.items() if system.is_control] == [
            name for name in one.systems if name.endswith("-untrained")]


def test_every_system_has_its_row(results):
    rows = table("| system | EmoDB | RAVDESS |", DOCS)
    systems = list(dict.fromkeys(name for one in results for name in one.systems))
    assert [row[0].strip("`") for row in rows] == systems
    for name, *cells in rows:
        assert cells == [unweighted_accuracy(one, name.strip("`")) if name.strip("`") in one.systems else "–"
                         for one in results]


def test_what_carries_over_to_the_other_corpus():
    crossed = [Results.load(ROOT / "docs/results" / name) for name in ("emodb-to-ravdess", "ravdess-to-emodb")]
    rows = table("| system | EmoDB → RAVDESS | RAVDESS → EmoDB |", DOCS)
    assert [row[0].strip("`") for row in rows] == list(crossed[0].systems) == list(crossed[1].systems)
    for name, *cells in rows:
        assert cells == [unweighted_accuracy(one, name.strip("`")) for one in crossed]


def test_what_carries_over_is_arousal_in_one_direction():
    high, found = ("anger", "happiness"), []
    for name in ("ravdess-to-emodb", "emodb-to-ravdess"):
        (run,) = Results.load(ROOT / "docs/results" / name).runs("linear-3")
        truth, said = ([label in high for label in labels] for labels in (run.truth, run.predicted))
        within = [pair for pair, *sides in zip(zip(run.truth, run.predicted, strict=True), truth, said, strict=True)
                  if sides[0] == sides[1]]
        found += [balanced_accuracy_score(truth, said), balanced_accuracy_score(*zip(*within, strict=True))]
    text = " ".join(README.read_text(encoding="utf-8").split())
    assert "a UA of {:.2f} on these two; within the right one its mean recall is {:.2f}".format(*found[:2]) in text
    assert "the two are hardly told apart ({:.2f}), and within the right one the mean recall is {:.2f}".format(
        *found[2:]) in text


def test_the_trainings_are_counted(results):
    """The sum of seconds is without those of the GPU, whose share README names and the results do not tell apart."""
    first, second = results
    text = " ".join(README.read_text(encoding="utf-8").split())
    assert {unit.state for one in results for unit in one.units} == {"finished"}
    assert f"{len(first.units):,} and {len(second.units):,} trainings on two cores" in text
    assert f"their seconds add up to {sum(unit.seconds for unit in first.units) / 3600:.1f} and, but for 343" in text
    runs = {name: {len(one.runs(name)) for one in results} for name in first.systems}
    recurrent = {name for name in runs if name.startswith(("baseline", "rnn", "progressive"))}
    assert len(recurrent) == 18
    assert {name for name in runs if runs[name] == {3}} == recurrent


def test_every_claim_has_its_verdict(results):
    rows = table("| claim | EmoDB | p, Holm | | RAVDESS | p, Holm | |")
    expected = [[] for _ in results[0].claims]
    for one in results:
        for row, claim in zip(expected, judge(one.claims, compared(one)), strict=True):
            row += ["–"] * 2 if claim.result is None else [
                f"{claim.result.value:+.3f} ({claim.result.low:+.3f} to {claim.result.high:+.3f})".replace("-", "−"),
                f"{claim.result.holm:.2g}"]
            row.append(claim.verdict)
    assert [one.claims for one in results] == [results[0].claims] * len(results)
    assert rows == [[f"`{better}` beats `{worse}`", *row] for (better, worse), row
                    in zip(results[0].claims, expected, strict=True)]
