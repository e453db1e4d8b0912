"""The report's numbers against scikit-learn on the file itself, its page, and what it refuses."""

from __future__ import annotations

import csv
import json
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import report
import report_corpora
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from synthetic_results import lines_of, rewrite, write_results

from ser_plugins import experiment, significance
from ser_plugins.errors import DataError
from ser_plugins.results import Results

PLAN = {"majority": ("majority", None), "mp-1": ("mp", 1), "mp-1-random": ("mp", 1), "rnn-2": ("rnn", 2)}
SMALL = {"speakers": 5, "runs": (1, 2), "per_class": 4}
SKLEARN = {"UA": balanced_accuracy_score, "WA": accuracy_score,
           "F1": lambda truth, predicted: f1_score(truth, predicted, average="macro", zero_division=0)}


class Page(HTMLParser):
    """Images, addresses and text of a page."""

    def __init__(self, path):
        super().__init__()
        self.images, self.addresses, self.text, self.headings = [], [], "", 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "img":
            self.images.append(values)
        self.headings += tag == "h2"
        self.addresses += [values[key] for key in ("src", "href") if key in values]

    def handle_data(self, data):
        self.text += data


def lines_of_tests(folder, system):
    """The lines of a system's tests, as mappings."""
    header, *lines = lines_of(folder)
    return [dict(zip(header, line, strict=True)) for line in lines if (line[0], line[3]) == (system, "test")]


def records(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Results in which a run of mp-1 and all of rnn-2 lack a unit, and their report."""
    folder = tmp_path_factory.mktemp("results")
    write_results(folder, systems=PLAN, missing=[("mp-1", "04", 2), ("rnn-2", "03", 1), ("rnn-2", "05", 2)], **SMALL)
    return folder, report.main([str(folder)])


def test_table_1_is_scikit_learns(made):
    folder, page = made
    table = {row["system"]: row for row in records(page.parent / "systems.csv")}
    complete = {"majority": ["1"], "mp-1": ["1"], "mp-1-random": ["1", "2"]}
    for system, seeds in complete.items():
        lines = lines_of_tests(folder, system)
        for name, metric in SKLEARN.items():
            runs = [metric(*([line[key] for line in lines if line["seed"] == seed] for key in ("label", "prediction")))
                    for seed in seeds]
            assert float(table[system][f"{name}_runs_mean"]) == pytest.approx(np.mean(runs))
            deviation = table[system][f"{name}_runs_sd"]
            assert deviation == "" if len(runs) == 1 else float(deviation) == pytest.approx(np.std(runs, ddof=1))
            speakers = [np.mean([metric(*([line[key] for line in lines if line["seed"] == seed and
                                           line["speaker"] == speaker] for key in ("label", "prediction")))
                                 for seed in seeds]) for speaker in sorted({line["speaker"] for line in lines})]
            assert float(table[system][f"{name}_speakers_mean"]) == pytest.approx(np.mean(speakers))
            assert float(table[system][f"{name}_speakers_sd"]) == pytest.approx(np.std(speakers, ddof=1))


def test_every_metric_has_its_interval_over_speakers(made):
    folder, page = made
    runs = Results.load(folder).runs("mp-1-random")
    row, = (row for row in records(page.parent / "systems.csv") if row["system"] == "mp-1-random")
    for metric in SKLEARN:
        expected = significance.confidence_interval(runs, metric)
        assert (float(row[f"{metric}_low"]), float(row[f"{metric}_high"])) == (expected.low, expected.high)
        assert float(row[f"{metric}_low"]) < float(row[f"{metric}_runs_mean"]) < float(row[f"{metric}_high"])
    assert f"{float(row['UA_low']):.3f} to {float(row['UA_high']):.3f}" in Page(page).text
    assert f"{float(row['F1_low']):.3f} to" not in Page(page).text


def test_claims_are_corrected_over_all_of_them(tmp_path):
    told = [["mp-1", "majority"], ["mp-1-random", "mp-1"], ["rnn-2", "mp-1"]]
    folder = write_results(tmp_path, systems=PLAN, missing=[("rnn-2", "03", 1), ("rnn-2", "03", 2)], claims=told,
                           sharpness=6.0, **{**SMALL, "per_class": 20})
    page = report.main([str(folder)])
    runs = {name: Results.load(folder).runs(name) for name in PLAN}
    found = records(page.parent / "claims.csv")
    assert [[row["better"], row["worse"]] for row in found] == told
    assert [row["verdict"] for row in found] == ["supported", "contradicted", "not tested"]
    p = [significance.paired_bootstrap(runs[better], runs[worse]).p for better, worse in told[:2]] + [1.0]
    for row, corrected in zip(found[:2], naive_holm(p), strict=False):
        difference = float(row["UA_better"]) - float(row["UA_worse"])
        assert float(row["value"]) == pytest.approx(difference)
        assert float(row["low"]) < difference < float(row["high"])
        assert float(row["holm"]) == pytest.approx(corrected)
    assert found[2]["holm"] == found[2]["UA_better"] == ""
    assert "contradicted" in Page(page).text


@pytest.mark.parametrize(("systems", "speakers"), [({"mp-1": ("mp", 1)}, 5), (PLAN, 1)])
def test_claims_that_nothing_can_test_are_told(tmp_path, systems, speakers):
    folder = write_results(tmp_path, systems=systems, claims=[["mp-1", "majority"]], **{**SMALL, "speakers": speakers})
    (row,) = records(report.main([str(folder)]).parent / "claims.csv")
    assert row["verdict"] == "not tested"


def naive_holm(values):
    """The definition: the k-th smallest of n is multiplied by n − k + 1, and no smaller than the one before."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, last = [0.0] * len(values), 0.0
    for position, item in enumerate(order):
        last = adjusted[item] = min(1.0, max(last, values[item] * (len(values) - position)))
    return adjusted


def test_chance_and_controls_are_no_contestants(tmp_path):
    """They are compared where a claim names them, and a control with its twin; the pairs of the rest count alone."""
    plan = {"majority": ("majority", None), "svm": ("svm", None), "mp-1": ("mp", 1), "mp-2": ("mp", 2),
            "mp-1-random": ("mp", 1), "mp-2-random": ("mp", 2), "rnn-2-random": ("rnn", 2)}
    folder = write_results(tmp_path, systems=plan, claims=[["mp-1", "majority"]], **SMALL)
    describe(folder, lambda content: [content["systems"][name].update(reads=[] if name == "majority" else ["x"])
                                      for name in plan if name != "svm"])  # of svm nothing is known
    page = report.main([str(folder)])
    pairs = records(page.parent / "comparisons.csv")
    assert [(row["first"], row["second"]) for row in pairs] == [("svm", "mp-1"), ("svm", "mp-2"), ("mp-1", "mp-2")]
    p = [float(row["bootstrap_p"]) for row in pairs]
    assert [float(row["bootstrap_holm"]) for row in pairs] == pytest.approx(naive_holm(p))
    controls = records(page.parent / "random_weights.csv")
    assert [(row["better"], row["worse"]) for row in controls] == [("mp-1", "mp-1-random"), ("mp-2", "mp-2-random")]
    assert [float(row["holm"]) for row in controls] == pytest.approx(naive_holm([float(row["p"]) for row in controls]))
    (claim,) = records(page.parent / "claims.csv")
    assert claim["p"] == claim["holm"] != ""
    assert "Not among all pairs are majority, mp-1-random, mp-2-random, rnn-2-random" in Page(page).text
    assert "with 5 speakers is 0.062, times 3 pairs 0.19." in Page(page).text  # of Wilcoxon's test
    assert not {"wilcoxon_low", "mcnemar_high"} & pairs[0].keys()
    assert "bootstrap_low" in pairs[0]


def test_the_hardest_speaker_is_that_of_the_contestants(tmp_path):
    plan = {"majority": ("majority", None), "mp-1": ("mp", 1), "mp-1-random": ("mp", 1), "mp-2-random": ("mp", 2)}
    folder = write_results(tmp_path, systems=plan, seed=7, **SMALL)
    describe(folder, lambda content: content["systems"]["majority"].update(reads=[]))
    page = report.main([str(folder)])
    found = {row["system"]: row for row in records(page.parent / "speakers.csv")}
    means = {key: np.mean([float(row[key]) for row in found.values()]) for key in found["mp-1"] if "speaker_" in key}
    assert min(means, key=means.get) != f"speaker_{found['mp-1']['worst']}"  # else this tests nothing
    expected = f"speaker {found['mp-1']['worst']} is the hardest: mean UA {float(found['mp-1']['worst_UA']):.3f}."
    assert expected in Page(page).text


@pytest.mark.parametrize("reads", [[], ["features"]])
def test_a_system_that_tells_nothing_apart_and_random_weights_are_remarked(tmp_path, reads):
    plan = {"majority": ("majority", None), "mp-1": ("mp", 1), "mp-1-random": ("mp", 1)}
    folder = write_results(tmp_path, systems=plan, **SMALL)
    describe(folder, lambda content: content["systems"]["majority"].update(reads=reads))
    text = Page(report.main([str(folder)])).text
    assert text.count("gives all utterances of a speaker one class") == len(reads)
    assert ("majority gives all" in text) == bool(reads)
    assert "random weights is one draw of them, the same for all runs" in text


def test_speakers_of_whom_all_but_one_are_alike_give_no_interval(tmp_path):
    folder = write_results(tmp_path, systems={"majority": ("majority", None), "mp-1": ("mp", 1)}, **SMALL)

    def one_right(lines):
        changed = next(line for line in lines if (line[0], line[3], line[6]) == ("majority", "test", "sadness"))
        changed[7:] = ["sadness", "0.1", "0.1", "0.1", "0.7"]
        return lines

    rewrite(folder, one_right)
    page = report.main([str(folder)])
    row, other = records(page.parent / "systems.csv")
    assert float(row["UA_runs_mean"]) > 0.25
    assert row["UA_low"] == row["UA_high"] == ""
    assert float(other["UA_low"]) > 0
    assert "0.000 to 1.000" not in Page(page).text


def test_an_incomplete_system_is_counted_and_has_no_number(made):
    _, page = made
    table = {row["system"]: row for row in records(page.parent / "systems.csv")}
    assert [(row["units"], row["complete_runs"]) for row in table.values()] == [
        ("5/5", "1/1"), ("9/10", "1/2"), ("10/10", "2/2"), ("8/10", "0/2")]
    assert table["rnn-2"]["UA_runs_mean"] == table["rnn-2"]["UA_low"] == ""
    assert {(row["system"], row["seed"], row["test speakers"]) for row in records(page.parent / "missing.csv")} == {
        ("mp-1", "2", "04"), ("rnn-2", "1", "03"), ("rnn-2", "2", "05")}
    assert "3 of 35 units are missing" in Page(page).text
    assert "rnn-2" not in {row["second"] for row in records(page.parent / "comparisons.csv")}


def test_settings_are_told_once_or_with_their_systems(tmp_path):
    folder = write_results(tmp_path, systems={"mp-1": ("mp", 1), "mp-2": ("mp", 2)}, runs=(1,), speakers=3)
    content = json.loads((folder / "results.json").read_text())
    for layer in (1, 2):
        content["systems"][f"mp-{layer}"]["trained_with"] = {"lr": 0.06, "layer": layer}
    (folder / "results.json").write_text(json.dumps(content))
    report.main([str(folder)])
    assert records(folder / "report/settings.csv") == [
        {"setting": "lr", "value": "0.06", "systems": "all that have it"},
        {"setting": "layer", "value": "1", "systems": "mp-1"}, {"setting": "layer", "value": "2", "systems": "mp-2"}]


def test_a_complete_plan_leaves_no_table_of_what_is_missing(tmp_path):
    plan = {"systems": {"mp-1": ("mp", 1)}, **SMALL}
    page = report.main([str(write_results(tmp_path, missing=[("mp-1", "03", 1)], **plan))])
    assert (page.parent / "missing.csv").is_file()
    report.main([str(write_results(tmp_path, **plan))])
    assert not (page.parent / "missing.csv").exists()
    assert not (page.parent / "missing.tex").exists()


def test_the_page_needs_no_other_file_and_every_figure_is_told_in_words(made):
    _, page = made
    found = Page(page)
    assert found.headings == 8
    assert all(one.startswith(("data:image/svg+xml", "#")) for one in found.addresses)
    assert len(found.images) == 7
    assert all(len(image["alt"]) > 20 for image in found.images)
    assert "python recipes/cross_validate.py 'a plan.yaml'" in found.text
    assert "0.9, 1.1" in found.text
    names = {path.stem for path in page.parent.glob("*.png")}
    assert {name for name in names if name.startswith("confusion_")} == {
        f"confusion_{row['system']}" for row in records(page.parent / "calibration.csv")}
    assert len(names) == len(found.images) + 3  # those of each system with a complete run
    assert names == {path.stem for path in page.parent.glob("*.pdf")}
    assert {path.stem for path in page.parent.glob("*.csv")} == {path.stem for path in page.parent.glob("*.tex")}


def test_speakers_and_genders(made):
    folder, page = made
    speakers = json.loads((folder / "results.json").read_text())["speakers"]
    genders = {name: one["gender"] for name, one in speakers.items()}
    for row in records(page.parent / "speakers.csv"):
        values = {name: float(row[f"speaker_{name}"]) for name in genders}
        for gender in ("female", "male"):
            assert float(row[gender]) == pytest.approx(np.mean([values[n] for n in values if genders[n] == gender]))
        if row["system"] != "majority":
            assert values[row["worst"]] == min(values.values()) == float(row["worst_UA"])
    assert records(page.parent / "speakers.csv")[0]["worst"] == "5 speakers"  # a constant has no worst one


AUGMENTED = {"mp-3": {}, "mp-3-alone": {"tempi": [], "suffix": "alone"},  # as in hparams/augmentation.yaml
             "mp-3-dense": {"tempi": [round(0.85 + 0.0075 * number, 4) for number in range(41)], "suffix": "dense"},
             "mp-3-level": {"gain": [0, 0], "suffix": "level"}, "mp-2": {}}


@pytest.mark.parametrize(("told", "lines"), [(True, ["mp", "mp, alone", "mp, dense", "mp, level", "mp"]),
                                             (False, ["mp-3", "mp-3-alone", "mp-3-dense", "mp-3-level", "mp"])])
def test_a_line_of_layers_has_one_system_at_each(tmp_path, told, lines):
    folder = write_results(tmp_path, systems={name: ("mp", int(name[3])) for name in AUGMENTED}, **SMALL)
    content = json.loads((folder / "results.json").read_text())
    for name, own in AUGMENTED.items():
        content["systems"][name]["settings"] = {"layer": int(name[3]), "dropout": 0.25, **(own if told else {})}
    (folder / "results.json").write_text(json.dumps(content))
    rows = records(report.main([str(folder)]).parent / "layers.csv")
    assert [row["system"] for row in rows] == [*AUGMENTED]
    assert [row["head"] for row in rows] == lines


def test_a_temperature_mends_what_was_spoilt(tmp_path):
    write_results(tmp_path, systems={"mp-1": ("mp", 1), "mp-2": ("mp", 2)}, speakers=5, per_class=20, sharpness=4.0)
    table = records(report.main([str(tmp_path)]).parent / "calibration.csv")
    for row in table:
        assert float(row["ECE_tempered_mean"]) < 0.6 * float(row["ECE_mean"])
        assert float(row["T"]) > 1.5
        assert float(row["UA_100%"]) <= float(row["UA_50%"])


def test_a_speaker_of_one_class_and_an_unknown_gender_are_told(tmp_path):
    folder = write_results(tmp_path, systems={"mp-1": ("mp", 1), "mp-2": ("mp", 2)}, **SMALL)
    rewrite(folder, lambda lines: [line for line in lines if line[5] != "03" or line[6] == "anger"])
    content = json.loads((folder / "results.json").read_text())
    content["speakers"]["03"] = {"gender": "", "counts": {"anger": content["speakers"]["03"]["counts"]["anger"]}}
    (folder / "results.json").write_text(json.dumps(content))
    text = Page(report.main([str(folder)])).text
    assert "Speaker 03 has utterances of anger only" in text
    assert "The gender of 1 of 5 speakers is not known." in text


def test_a_class_that_nobody_speaks_has_no_recall(tmp_path):
    labels = ("anger", "joy", "sadness")
    folder = write_results(tmp_path, systems={"mp-1": ("mp", 1)}, labels=labels, absent="joy", **SMALL)
    page = report.main([str(folder)])
    rows = {row["true"]: [row[f"predicted {label}"] for label in labels]
            for row in records(page.parent / "confusions.csv")}
    assert rows["joy"] == ["", "", ""]
    assert sum(map(float, rows["anger"])) == pytest.approx(1)


def test_labels_may_be_any_text(tmp_path):
    labels = ("calm", "calm:high", "true", "a.b {c}")
    page = report.main([str(write_results(tmp_path, systems={"mp-1": ("mp", 1)}, labels=labels, **SMALL))])
    rows = records(page.parent / "confusions.csv")
    assert [row["true"] for row in rows] == list(labels)
    text = Page(page).text
    for row in rows:
        shares = [float(row[f"predicted {label}"]) for label in labels]
        assert sum(shares) == pytest.approx(1)
        assert all(f"{share:.3f}" in text for share in shares)


def test_systems_on_different_utterances_are_refused(tmp_path):
    folder = write_results(tmp_path, systems={"mp-1": ("mp", 1), "mp-2": ("mp", 2)}, **SMALL)
    rewrite(folder, lambda lines: [[*line[:4], line[4].replace("03-000", "03-999"), *line[5:]] if line[0] == "mp-2"
                                   else line for line in lines])
    with pytest.raises(DataError, match=r"mp-2, run 1 lacks 1 utterance: 03-000 and has besides 1 utterance: 03-999"):
        report.main([str(folder)])


def test_one_system_and_one_speaker_have_a_report(tmp_path):
    one = Page(report.main([str(write_results(tmp_path / "a", systems={"mp-1": ("mp", 1)}, **SMALL))]))
    assert "There is nothing to compare: " in one.text
    single = write_results(tmp_path / "b", systems={"mp-1": ("mp", 1), "mp-2": ("mp", 2)}, speakers=1, runs=(1,))
    assert "One speaker says nothing about others" in Page(report.main([str(single)])).text


def test_no_complete_run_is_no_report(tmp_path):
    missing = [("mp-1", "03", 1), ("mp-1", "04", 2)]
    folder = write_results(tmp_path, systems={"mp-1": ("mp", 1)}, missing=missing, **SMALL)
    with pytest.raises(DataError, match="no system has a complete run"):
        report.main([str(folder)])
    assert not (folder / "report").exists()


# Several corpora


@pytest.fixture
def corpora(tmp_path):
    """emodb → emodb, emodb → ravdess and ravdess → ravdess."""
    plan = {"systems": {"mp-1": ("mp", 1), "mp-2": ("mp", 2)}, "runs": (1,), "per_class": 4}
    return [write_results(tmp_path / "ee", language="de", speakers=4, **plan),
            write_results(tmp_path / "er", language="de", test_corpus="ravdess", test_language="en", speakers=5,
                          **plan),
            write_results(tmp_path / "rr", corpus="ravdess", language="en", speakers=6, **plan)]


def test_the_matrix_of_corpora(corpora, tmp_path):
    page = report.main([*map(str, corpora), "--output_folder", str(tmp_path / "out")])
    assert page == tmp_path / "out" / "index.html"
    rows = records(page.parent / "corpora.csv")
    assert [(row["train"], row["test"]) for row in rows[:3]] == [
        ("emodb", "emodb"), ("emodb", "ravdess"), ("ravdess", "ravdess")]
    lines = lines_of_tests(corpora[1], "mp-2")
    expected = balanced_accuracy_score(*([line[key] for line in lines] for key in ("label", "prediction")))
    assert float(rows[4]["UA"]) == pytest.approx(expected)
    text = Page(page).text
    assert "emodb → ravdess: the languages differ, de and en." in text
    assert ("ravdess and emodb → ravdess: only one tests 08; other utterances of 03, 04, 05, 06, 07; the two cells are "
            "not of one test set.") in text
    assert (page.parent / "protocol_emodb_ravdess.csv").is_file()


def test_one_test_set_is_one_whichever_cell_names_its_speakers(corpora, tmp_path):
    plan = {"systems": {"mp-1": ("mp", 1)}, "runs": (1,), "per_class": 4, "speakers": 6}
    crossed = write_results(tmp_path / "same", test_corpus="ravdess", **plan)
    assert "ravdess/03" in json.loads((crossed / "results.json").read_text())["speakers"]
    assert "one test set" not in Page(report.main([str(crossed), str(corpora[2])])).text


def describe(folder, change):
    """Changes results.json."""
    content = json.loads((folder / "results.json").read_text())
    change(content)
    (folder / "results.json").write_text(json.dumps(content))


def test_cells_that_are_alike_are_not_told_apart(corpora):
    assert "Not alike" not in Page(report.main([*map(str, corpora)])).text


def test_what_tells_cells_apart_is_told(corpora):
    """One sentence for each thing, with the systems that it holds for."""
    def other(content):
        content["protocol"] |= {"allow_missing_class": True, "versions": "numpy 2, torch 3", "encoder": "/a/folder"}
        for name, system in content["systems"].items():
            system |= {"encoder": "77aa77aa", "runs": [*range(1, 7)]}
            system["settings"] = {"tempi": [], "dropout": 0.5 if name == "mp-2" else 0.25}
            system["trained_with"] = {"lr": 0.06, "encoder": "/a/folder"}

    def first(content):
        content["protocol"]["versions"] = "numpy 2, torch 2"
        content["systems"]["mp-1"]["settings"] = content["systems"]["mp-2"]["settings"] = {"dropout": 0.25}

    describe(corpora[0], first)
    describe(corpora[1], first)
    describe(corpora[2], other)
    cells = report_corpora.by_corpora([Results.load(folder) for folder in corpora])
    assert [one for one in report_corpora.differences(cells) if "alike" in one] == [
        "Not alike: versions, torch 2 in emodb, emodb → ravdess; torch 3 in ravdess.",
        "Not alike: allow_missing_class, none in emodb, emodb → ravdess; True in ravdess.",
        "Not alike: seeds of mp-1, mp-2, [1] in emodb, emodb → ravdess; [1, …, 6] (6) in ravdess.",
        "Not alike: encoder of mp-1, mp-2, 5b0c7f9e in emodb, emodb → ravdess; 77aa77aa in ravdess.",
        "Not alike: lr of mp-1, mp-2, 0.004 in emodb, emodb → ravdess; 0.06 in ravdess.",
        "Not alike: tempi of mp-1, mp-2, none in emodb, emodb → ravdess; [] in ravdess.",
        "Not alike: dropout of mp-2, 0.25 in emodb, emodb → ravdess; 0.5 in ravdess."]


def test_options_and_folds_are_compared_where_the_corpora_are_the_same(tmp_path):
    plan = {"systems": {"mp-1": ("mp", 1)}, "runs": (1,), "per_class": 4, "speakers": 3}
    folders = [write_results(tmp_path / name, test_corpus=name, **plan) for name in ("ravdess", "iemocap")]
    folders.append(write_results(tmp_path / "rr", corpus="ravdess", **plan))
    for folder, options, train in zip(folders, ({}, {"a": 1}, {"b": 2}), ("03", "04", "05"), strict=True):
        describe(folder, lambda content, options=options, train=train: (
            content["protocol"].update(corpus_options=options, test_corpus_options={"b": 3}),
            content["folds"][0].update(train=[train])))
    cells = report_corpora.by_corpora([Results.load(folder) for folder in folders])
    assert [one for one in report_corpora.differences(cells) if "alike" in one] == [
        "Not alike: options of emodb, {} in emodb → ravdess; {'a': 1} in emodb → iemocap.",
        "Not alike: training speakers of emodb, [['03']] in emodb → ravdess; [['04']] in emodb → iemocap.",
        "Not alike: options of the tested ravdess, {'b': 3} in emodb → ravdess; {'b': 2} in ravdess."]


def test_other_utterances_of_the_same_speakers_are_told(corpora, tmp_path):
    more = write_results(tmp_path / "more", test_corpus="ravdess", systems={"mp-1": ("mp", 1)}, runs=(1,), speakers=6,
                         per_class=12)
    text = Page(report.main([str(corpora[2]), str(more)])).text
    assert ("emodb → ravdess and ravdess: other utterances of 03, 04, 05, 06, 07, 08; the two cells are not of one "
            "test set.") in text


def test_a_part_of_the_speakers_is_told(tmp_path):
    folder = write_results(tmp_path, systems={"mp-1": ("mp", 1)}, corpus_speakers=10, **{**SMALL, "speakers": 2})
    sections = report.main([str(folder)]).read_text(encoding="utf-8")
    first = sections[sections.index("<p>"):sections.index("</p>")]
    assert first.replace("&#39;", "'") == "<p>2 of the corpus's 10 speakers were tested."
    for known in (2, None):
        describe(folder, lambda content, known=known: content.update(corpus_speakers=known))
        assert "speakers were tested" not in Page(report.main([str(folder)])).text


def test_lacking_transcripts_are_told(corpora):
    describe(corpora[1], lambda content: content.update(sentences=None))
    text = Page(report.main([*map(str, corpora)])).text
    assert "emodb → ravdess: transcripts lacking: sentences not compared." in text
    assert text.count("transcripts lacking") == 1


def test_the_sentences_of_another_corpus_are_told(corpora):
    content = json.loads((corpora[1] / "results.json").read_text())
    content["sentences"] = {"trained": 10, "tested": 2, "both": 0}
    (corpora[1] / "results.json").write_text(json.dumps(content))
    text = Page(report.main([*map(str, corpora)])).text
    assert "emodb → ravdess: of 2 tested sentences, none is among the 10 of the training." in text
    assert "2 tested sentences, none is" in Page(report.main([str(corpora[1])])).text


def test_a_label_without_utterances_is_told(corpora):
    content = json.loads((corpora[1] / "results.json").read_text())
    for one in content["speakers"].values():
        one["counts"]["sadness"] = 0
    (corpora[1] / "results.json").write_text(json.dumps(content))
    text = Page(report.main([*map(str, corpora)])).text
    assert "emodb → ravdess: no utterance of sadness" in text


def test_two_folders_of_the_same_corpora_are_refused(corpora):
    with pytest.raises(DataError, match="are both trained on emodb and tested on ravdess: give one folder for"):
        report.main([str(corpora[1])] * 2)


def test_one_corpus_after_another_of_the_same_plugin_is_crossed(tmp_path):
    folder = write_results(tmp_path, corpus="csv", test_corpus="csv", systems={"mp-1": ("mp", 1), "mp-2": ("mp", 2)},
                           **SMALL)
    page = report.main([str(folder)])
    assert "csv → csv" in Page(page).text
    assert "Each run is one training, which tests all speakers" in Page(page).text
    assert "nadeau_bengio_p" not in records(page.parent / "comparisons.csv")[0]


def test_two_corpora_of_the_same_plugin_are_cells_of_one_matrix(tmp_path):
    plan = {"mp-1": ("mp", 1)}
    one = write_results(tmp_path / "one", corpus="csv", data_folder="calls", systems=plan, **SMALL)
    other = write_results(tmp_path / "other", corpus="csv", data_folder="calls", test_corpus="csv",
                          test_data_folder="tv", systems=plan, **SMALL)
    page = report.main([str(one), str(other)])
    assert [(row["train"], row["test"]) for row in records(page.parent / "corpora.csv")] == [
        ("csv:calls", "csv:calls"), ("csv:calls", "csv:tv")]
    assert (page.parent / "protocol_csv-calls_csv-tv.csv").is_file()


def test_other_labels_are_refused(corpora, tmp_path):
    plan = {"mp-1": ("mp", 1)}
    other = write_results(tmp_path / "x", corpus="iemocap", labels=("joy", "fear"), systems=plan, **SMALL)
    with pytest.raises(DataError, match=r"x has labels joy, fear; .*ee has anger, happiness, neutral, sadness"):
        report.main([str(corpora[0]), str(other)])


def test_a_user_error_is_one_sentence_and_exit_code_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="2"):
        experiment.run(report.main)
    assert "error: " in (message := capsys.readouterr().err)
    assert "nowhere/results.json" in message


def test_an_interrupted_plan_is_told_as_such(tmp_path):
    (tmp_path / "manifests").mkdir()
    with pytest.raises(DataError, match="this plan has no results before its command has ended: give it again"):
        report.main([str(tmp_path)])
