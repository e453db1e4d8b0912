"""Results of a protocol: what is read is what was written, missing units are known, and broken folders are refused."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import brute
from scipy.special import softmax
from scipy.stats import norm
from sklearn.metrics import log_loss
from synthetic_results import LABELS, lines_of, rewrite, write_results

from ser_plugins.errors import DataError
from ser_plugins.results import Results, write

PLAN = {"mp-1": ("mp", 1), "majority": ("majority", None)}


@pytest.fixture
def folder(tmp_path):
    return write_results(tmp_path / "results", systems=PLAN, speakers=4, runs=(1, 2), per_class=3)


def describe(folder, change):
    """Changes results.json."""
    content = json.loads((folder / "results.json").read_text())
    change(content)
    (folder / "results.json").write_text(json.dumps(content))


def test_runs_hold_what_the_file_says_of_the_test_speakers(folder):
    first, second = Results.load(folder).runs("mp-1")
    for seed, run in (("1", first), ("2", second)):
        lines = [line for line in lines_of(folder) if line[:2] == ["mp-1", seed] and line[3] == "test"]
        found = {name: (speaker, label, prediction, *probabilities) for name, speaker, label, prediction, probabilities
                 in zip(run.ids, run.speakers, run.truth, run.predicted, run.probabilities.tolist(), strict=True)}
        assert found == {line[4]: (*line[5:8], *map(float, line[8:])) for line in lines}
        assert len(run.ids) == len(lines)


def test_a_folder_that_is_written_anew_is_the_same(folder, tmp_path):
    about, (_, *lines) = json.loads((folder / "results.json").read_text()), lines_of(folder)
    about["note"] = None  # neither list nor mapping
    write(tmp_path, about, lines)
    assert (lines_of(tmp_path), Results.load(tmp_path).outcome.keys()) == (lines_of(folder),
                                                                           Results.load(folder).outcome.keys())
    text = (tmp_path / "results.json").read_text()
    assert json.loads(text) == about | {"predictions": hashlib.sha256(
        (tmp_path / "predictions.csv.gz").read_bytes()).hexdigest()}
    (of_one,) = [line for line in text.splitlines() if all(word in line for word in ('"mp-1"', '"03"', '"seed": 2'))]
    assert json.loads(of_one.strip().strip("[],")) in about["units"]  # one line says all of it


def test_a_deterministic_system_has_one_run(folder):
    results = Results.load(folder)
    assert (len(results.runs("majority")), len(results.units_of("majority"))) == (1, 4)
    assert (len(results.runs("mp-1")), len(results.units_of("mp-1"))) == (2, 8)


@pytest.mark.parametrize("listed", [True, False])
def test_a_missing_unit_makes_its_run_incomplete(tmp_path, listed):
    folder = write_results(tmp_path, systems=PLAN, speakers=4, runs=(1, 2, 3), missing=[("mp-1", "04", 2)])
    if not listed:
        describe(folder, lambda content: content.update(
            units=[unit for unit in content["units"] if unit["state"] == "finished"]))
    results = Results.load(folder)
    assert results.complete("mp-1") == [1, 3]
    assert len(results.runs("mp-1")) == 2
    lost = [unit for unit in results.units if unit.state != "finished"]
    assert [(unit.system, unit.test, unit.seed, unit.state) for unit in lost] == [
        ("mp-1", "04", 2, "failed" if listed else "missing")]


def test_tempered_probabilities_have_the_temperature_of_their_fold(folder):
    results = Results.load(folder)
    (probabilities, temperatures), _ = results.tempered("mp-1")
    lines = [line for line in lines_of(folder) if line[:2] == ["mp-1", "1"]]
    start = 0
    for fold, temperature in zip(results.about["folds"], temperatures, strict=True):
        valid, test = ([line for line in lines if line[2:4] == [fold["test"], part]] for part in ("valid", "test"))
        logits = [np.log(np.maximum([[float(cell) for cell in line[8:]] for line in part], 5e-7))
                  for part in (valid, test)]
        truth = [line[6] for line in valid]
        best = brute(lambda beta, logits, truth: len(truth) * log_loss(
            truth, softmax(beta.item() * logits, axis=1), labels=LABELS) - norm(0, 0.25).logpdf(np.log(beta.item())),
                     [(0.05, 20)], (logits[0], truth), Ns=200)  # grid, then simplex, over the inverse temperature
        assert 1 / temperature == pytest.approx(best.item(), rel=0.01)
        expected = softmax(logits[1] / temperature, axis=1)
        assert probabilities[start:start + len(test)] == pytest.approx(expected)
        start += len(test)
    assert start == len(probabilities)


def test_without_validation_predictions_there_is_no_temperature(folder):
    rewrite(folder, lambda lines: [line for line in lines if line[3] != "valid" or line[0] != "mp-1"])
    results = Results.load(folder)
    assert results.tempered("mp-1") == []
    assert len(results.tempered("majority")) == 1


def kinds(folder, settings):
    """Of systems of the head mp with such settings each."""
    def vary(content):
        content["systems"] = {name: {**content["systems"]["mp-1"], "settings": {"layer": 1, "lr": 1, **own}}
                              for name, own in settings.items()}
        content["units"] = [unit for unit in content["units"] if unit["system"] == "mp-1"]

    describe(folder, vary)
    rewrite(folder, lambda lines: [line for line in lines if line[0] != "majority"])
    results = Results.load(folder)
    return [results.kind(name) for name in results.systems]


def test_a_head_with_two_settings_is_two_kinds(folder):
    assert kinds(folder, {"mp-1": {"units": 64}, "mp-1-wide": {"units": 96}}) == ["mp, units 64", "mp, units 96"]


TEMPI = [round(0.85 + 0.0075 * number, 4) for number in range(41)]


def test_a_setting_may_be_a_list_and_a_long_one_is_told_shortly(folder):
    assert kinds(folder, {"mp-1": {}, "mp-1-a": {"tempi": []}, "mp-1-b": {"tempi": TEMPI}, "mp-1-c": {"gain": [0, 0]},
                          "mp-1-d": {"encoder": "/a/very/long/path/to/some/folder/with/an/encoder"}}) == [
        "mp", "mp, tempi []", "mp, tempi [0.85, …, 1.15] (41)", "mp, gain [0, 0]",
        "mp, encoder /a/very/long/path/t…lder/with/an/encoder"]


def test_a_suffix_stands_for_its_options(folder):
    assert kinds(folder, {"mp-1": {}, "mp-1-alone": {"tempi": [], "suffix": "alone"},
                          "mp-1-dense": {"tempi": TEMPI, "suffix": "dense"},
                          "mp-1-wide-64": {"units": 64, "tempi": [], "suffix": "wide"},
                          "mp-1-wide-96": {"units": 96, "tempi": [], "suffix": "wide"}}) == [
        "mp", "mp, alone", "mp, dense", "mp, wide, units 64", "mp, wide, units 96"]


@pytest.mark.parametrize(("about", "crossed", "title"), [
    ({}, False, "emodb"),
    ({"test_corpus": None}, False, "emodb"),
    ({"test_corpus": "ravdess"}, True, "emodb → ravdess"),
    ({"test_corpus": "emodb"}, True, "emodb → emodb"),
    ({"corpus": "csv", "data_folder": "calls"}, False, "csv:calls"),
    ({"corpus": "csv", "data_folder": "calls", "test_corpus": "csv", "test_data_folder": "tv"}, True,
     "csv:calls → csv:tv"),
])
def test_another_corpus_is_tested_where_one_is_named(tmp_path, about, crossed, title):
    results = Results.load(write_results(tmp_path, systems=PLAN, speakers=3, per_class=3, **about))
    assert (results.crossed, results.title) == (crossed, title)
    assert len({*results.runs("mp-1")[0].speakers}) == 3


def test_a_speaker_of_one_class_is_read(tmp_path):
    folder = write_results(tmp_path, systems=PLAN, speakers=4, per_class=3)
    rewrite(folder, lambda lines: [line for line in lines if line[5] != "03" or line[6] == "anger"])
    describe(folder, lambda content: content["speakers"]["03"].update(
        counts={"anger": content["speakers"]["03"]["counts"]["anger"]}))
    run = Results.load(folder).runs("mp-1")[0]
    assert {label for label, speaker in zip(run.truth, run.speakers, strict=True) if speaker == "03"} == {"anger"}


@pytest.mark.parametrize(("change", "message"), [
    (lambda lines: [line for line in lines if line[2:4] != ["04", "test"]],
     "system mp-1, seed 1, test speaker 04 is finished and has no test predictions"),
    (lambda lines: [*lines[:-1]], r"majority, seed 1, test speaker 06: predictions of \d of sadness, expected \d"),
    (lambda lines: [[*line[:5], "05" if line[2:4] == ["04", "test"] else line[5], *line[6:]] for line in lines],
     "system mp-1, seed 1, test speaker 04: the predictions are of speaker 05"),
    (lambda lines: [[*line[:5], "99" if line[2:4] == ["04", "test"] else line[5], *line[6:]] for line in lines],
     "system mp-1, seed 1, test speaker 04: no speaker '99'; those of results.json: 03, 04"),
])
def test_predictions_that_do_not_fit(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(DataError, match=message):
        Results.load(folder)


@pytest.mark.parametrize("spoil", [
    lambda content: b"", lambda content: b"plain", lambda content: content[:900], lambda content: content + b"\n",
    lambda content: gzip.compress(gzip.decompress(content).replace(b"mp-1,", b"mp-2,"), mtime=0)])
def test_predictions_that_the_protocol_did_not_write(folder, spoil):
    path = folder / "predictions.csv.gz"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=r"predictions\.csv\.gz is not the one that results.json was written with"):
        Results.load(folder)


@pytest.mark.parametrize(("change", "message"), [
    (lambda content: content.pop("labels"), "results.json: 'labels' must be a list, found no such key"),
    (lambda content: content.update(units={}), r"'units' must be a list, found \{\}"),
    (lambda content: content["systems"]["mp-1"].pop("head"), "system mp-1: .*missing 1 required .*'head'"),
    (lambda content: content["units"][0].update(system="mp-9"), "unit 1: no system 'mp-9'; did you mean 'mp-1'"),
    (lambda content: content["units"][0].update(test="77"), "unit 1: no test speaker '77'; known: 03, 04, 05, 06"),
    (lambda content: content["units"][0].update(state="done"), "unit 1: no state 'done'; known: failed, finished"),
    (lambda content: content["units"].append(content["units"][0]), "unit 13: .*speaker 03, seed 1 is listed twice"),
    (lambda content: content["units"].__setitem__(0, []), r"unit 1 must be a mapping, found \[\]"),
    (lambda content: content["units"][0].update(seed=9), r"unit 1: system mp-1 has the runs \[1, 2\], not 9"),
    (lambda content: content.update(claims="abc"), "results.json: claims are a list of pairs, .*not 'abc'"),
    (lambda content: content.update(claims=["ab"]), "results.json: a claim is a pair of systems, .*not 'ab'"),
    (lambda content: content.update(claims=[["a", "b"], ["b", "a"]]), r"the claim \['b', 'a'\]: .*each pair once"),
    (lambda content: content.update(predictions="0" * 64), r"csv.gz is not the one that results.json was written with"),
    (lambda content: content.pop("predictions"), "'predictions' must be a str, found no such key"),
    (lambda content: content.update(labels=["anger"]), "has columns system, .* p_sadness; expected .* p_anger, by"),
    (lambda content: content["speakers"].pop("04"), "test speaker 04: no speaker '04'; .*: 03, 05"),
    (lambda content: content["folds"].__setitem__(0, {"valid": "03"}), "fold 1: .*missing 1 required .*'test'"),
    (lambda content: content["folds"][0].update(train="04"), "fold 1: 'train' must be a list of names, found '04'"),
    (lambda content: content.update(labels=["anger", 2]), r"'labels' must be a list of names, found \['anger', 2\]"),
    (lambda content: content["systems"]["mp-1"].update(settings=None), "system mp-1: 'settings' must be a mapping"),
    (lambda content: content["systems"]["mp-1"].update(runs=None), "'runs' must be a list of whole numbers"),
    (lambda content: content["systems"]["mp-1"].update(layer="1"), "'layer' must be a whole number, found '1'"),
    (lambda content: content["speakers"].update({"03": None}), "speaker 03 must be a mapping, found None"),
    (lambda content: content["speakers"]["03"].update(counts={"anger": "2"}), "'counts' must be a whole number for"),
    (lambda content: content["units"][0].update(system=[]), r"unit 1: 'system' must be a name, found \[\]"),
    (lambda content: content["units"][0].update(curve=[[1.0]]), "unit 1: 'curve' must be a list of pairs of numbers"),
    (lambda content: content["units"][0].update(curve=[[1, "x"]]), "unit 1: 'curve' must be a list of pairs of numb"),
    (lambda content: content["units"][0].update(tested_epoch="3"), "'tested_epoch' must be a whole number, found '3'"),
    (lambda content: content.update(sentences={"tested": 1}), "'sentences' must be the numbers trained, tested and"),
    (lambda content: content.update(corpus_speakers="4"), "json: 'corpus_speakers' must be a whole number, found '4'"),
])
def test_a_description_that_does_not_fit(folder, change, message):
    describe(folder, change)
    with pytest.raises(DataError, match=message):
        Results.load(folder)


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda folder: (folder / "results.json").unlink(), "results.json: No such file.*name the folder that .*cross_val"),
    (lambda folder: (folder / "results.json").write_text('{"corpus": '), "results.json is no JSON: Expecting value"),
    (lambda folder: (folder / "results.json").write_text("[]"), "'corpus' must be a str"),
    (lambda folder: (folder / "predictions.csv.gz").unlink(), "predictions.csv.gz: No such file.*copy both"),
])
def test_a_broken_folder(folder, spoil, message):
    spoil(folder)
    with pytest.raises(DataError, match=message):
        Results.load(folder)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"nowhere/results\.json: No such file"):
        Results.load(tmp_path / "nowhere")


def test_nothing_heavy_is_imported():
    code = "import sys, ser_plugins.results; sys.exit(' '.join({'torch', 'speechbrain'} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
