"""The whole protocol in one command: what runs, what is reused, what fails, and whose numbers are in the table."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shlex
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import collect
import cross_validate
import numpy as np
import processes
import pytest
import report
import torch
import train_sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from ser_plugins import audio, experiment, folds, runs
from ser_plugins.corpora import manifest
from ser_plugins.errors import DataError, OptionError, PluginError
from ser_plugins.models import load_encoder
from ser_plugins.results import Results

ROOT = Path(__file__).parents[1]
HPARAMS = ROOT / "hparams"
PLAN = ("[{recipe: train_sklearn.py, hparams: most_frequent.yaml}, {recipe: train_sklearn.py, hparams: random.yaml}, "
        "{hparams: mp.yaml, layer: [1, 3]}, {hparams: rnn.yaml, units: 16}]")
QUICK = "{pitch: yin, tempi: [0.9], number_of_epochs: 2, num_workers: 0}"


@pytest.fixture(scope="session")
def plan(synthetic_corpus, synthetic_folder, tiny_encoder):
    """Options of a plan of five systems over the small synthetic corpus."""
    assert synthetic_corpus.is_file()
    return ("--data_folder", str(synthetic_folder), "--corpus_options", "{speakers: 4, sentences: 3}", "--encoder",
            str(tiny_encoder), "--plan", PLAN, "--options", QUICK, "--runs", "2", "--folds", "S01,S03", "--jobs", "1",
            "--backend", "sequential", "--num_workers", "0", "--noprogressbar")


@pytest.fixture(scope="session")
def results(recipe, plan, tmp_path_factory):
    """The folder of a whole plan."""
    root = tmp_path_factory.mktemp("table1")
    recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", root)
    return root


def table(root):
    with gzip.open(root / "predictions.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def content(root):
    return json.loads((root / "results.json").read_text())


def folders(root):
    return sorted(path.parent.relative_to(root) for path in root.glob("runs/*/*/*/metrics.json"))


def test_every_system_fold_and_seed_runs_once(results):
    found = content(results)
    assert list(found["systems"]) == ["most-frequent", "random", "mp-1", "mp-3", "rnn-2"]
    with open(next(results.glob("manifests/**/manifest.csv")), encoding="utf-8", newline="") as file:
        texts = {row["text"].casefold() for row in csv.DictReader(file) if row["speaker"] in ("S01", "S03")}
    assert found["sentences"]["tested"] == len(texts)
    wanted = {(system, test, seed) for system in found["systems"] for test in ("S01", "S03") for seed in (1, 2)
              if (system, seed) != ("most-frequent", 2)}
    units = [(unit["system"], unit["test"], unit["seed"]) for unit in found["units"]]
    assert len(units) == len(wanted)
    assert set(units) == wanted
    assert {unit["state"] for unit in found["units"]} == {"finished"}
    assert [unit["seed"] for unit in found["units"]] == sorted(unit["seed"] for unit in found["units"])
    assert len(folders(results)) == len(wanted)
    assert found["folds"] == [{"test": "S01", "valid": "S02", "train": ["S03", "S04"]},
                              {"test": "S03", "valid": "S04", "train": ["S01", "S02"]}]
    assert found["speakers"]["S03"]["counts"] == dict.fromkeys(found["labels"], 3)
    assert all(len(unit["curve"]) == unit["epochs"] == 2 for unit in found["units"] if unit["system"].startswith("mp"))
    assert found["systems"]["mp-1"]["trainable_parameters"] == 4 * (2 * 16 + 1)
    assert found["systems"]["rnn-2"]["trained_with"].items() >= {"units": 16, "tempi": [0.9], "lr": 0.004}.items()
    reads = {name: system["reads"] for name, system in found["systems"].items()}
    assert (reads["random"], reads["rnn-2"]) == ([], ["frames of layer 2"])


def test_predictions_are_those_of_the_runs(results, train, tmp_path):
    folder = train("mp", tmp_path, "--layer", "1", "--seed", "2", "--test_speaker", "S03")
    for part, name in (("test", "predictions.csv"), ("valid", "predictions_valid.csv")):
        with open(folder / name, encoding="utf-8", newline="") as file:
            alone = list(csv.DictReader(file))
        together = [{key: row[key] for key in alone[0]} for row in table(results)
                    if (row["system"], row["seed"], row["fold"], row["part"]) == ("mp-1", "2", "S03", part)]
        assert together == alone


def test_the_most_frequent_class_and_random_ones(results):
    rows = [row for row in table(results) if row["part"] == "test"]
    assert len({row["prediction"] for row in rows if row["system"] == "most-frequent"}) == 1
    drawn = {(seed, fold): tuple(row["prediction"] for row in rows
                                 if (row["system"], row["seed"], row["fold"]) == ("random", seed, fold))
             for seed in ("1", "2") for fold in ("S01", "S03")}
    assert {len(labels) for labels in drawn.values()} == {12}
    assert len(set(drawn.values())) == 4  # neither another seed nor another speaker gets the same


def test_what_is_finished_is_not_run_again(recipe, plan, results, monkeypatch, capsys):
    before = {name: (results / name).read_bytes() for name in ("results.json", "predictions.csv.gz")}
    monkeypatch.setattr(runs, "run_all", lambda *_: pytest.fail("something is run"))
    recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", results)
    assert "18 trainings, of which 18 are finished" in capsys.readouterr().out
    assert {name: (results / name).read_bytes() for name in before} == before


def test_finished_runs_of_other_settings_are_told(recipe, plan, results, tmp_path, monkeypatch, capsys):
    computed = []
    monkeypatch.setattr(cross_validate, "precompute", lambda systems, *_, **__: computed.extend(systems))
    monkeypatch.setattr(runs, "run_all", lambda *_: ())
    for system in ("mp-1", "mp-3", "random"):
        shutil.copytree(results / "runs" / system, tmp_path / "runs" / system)
    stamp = next(tmp_path.glob("runs/mp-3/*S01/seed-2-*/settings.json"))
    recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path, "--systems", "mp-1,mp-3,random",
           "--options", QUICK.replace("epochs: 2", "epochs: 3"))
    out = capsys.readouterr().out
    assert ("finished trainings of other settings, which stay as they are: 4 of mp-1, 4 of mp-3 "
            "(number_of_epochs 2 → 3)\n") in out
    assert computed == ["mp-1", "mp-3"]  # nothing for what is finished
    about = json.loads(stamp.read_text())
    about["versions"]["torch"] = "1.13"
    stamp.write_text(json.dumps(about))
    stamp.parent.rename(stamp.parent.with_name("seed-2-0a0a0a0a"))
    recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path, "--systems", "mp-3")
    assert re.search(r"stay as they are: 1 of mp-3 \(versions torch '1.13' → '2.*'\)\n", capsys.readouterr().out)
    stamp.parent.with_name("seed-2-0a0a0a0a").joinpath("settings.json").write_text("[")
    recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path, "--systems", "mp-3")
    assert "stay as they are: 1 of mp-3 (they cannot be told)\n" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "spoil", "message"), [
    ("metrics.json", lambda text: text[:40], "metrics.json cannot be read: "),
    ("metrics.json", lambda text: "[]", r"metrics.json holds \[\]"),
    ("metrics.json", lambda text: text.replace('"files"', '"file"'), "predictions.csv is not the one that the run has"),
    ("seconds.json", lambda text: "", "seconds.json cannot be read: "),
    ("predictions.csv", lambda text: "", "predictions.csv is not the one that the run has left"),
    ("predictions.csv", lambda text: text[:-9], "predictions.csv is not the one that the run has left"),
    ("predictions_valid.csv", lambda text: text.replace("1", "2"), "predictions_valid.csv is not the one that the run"),
])
def test_a_broken_file_of_a_finished_run_is_named(recipe, plan, results, tmp_path, name, spoil, message):
    words = ("table1.yaml", *plan, "--output_folder", tmp_path, "--systems", "most-frequent")
    shutil.copytree(results / "runs/most-frequent", tmp_path / "runs/most-frequent")
    file = next(tmp_path.glob(f"runs/most-frequent/test-S03/*/{name}"))
    file.write_text(spoil(file.read_text()))
    with pytest.raises(DataError, match=f"{message}.*; remove the run's folder {file.parent} and call again"):
        recipe(cross_validate.main, *words)
    shutil.rmtree(file.parent)
    recipe(cross_validate.main, *words)
    assert len(Results.load(tmp_path).runs("most-frequent")) == 1


def test_an_interruption_leaves_the_results_of_what_has_ended(recipe, plan, tmp_path, monkeypatch):
    real = runs.run_all

    def interrupted(units, *how):
        yield from real(units[:3], *how)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path, "--systems",
               "most-frequent,random", "--runs", "1")
    found = Results.load(tmp_path)
    assert [unit.state for unit in found.units] == ["finished"] * 3 + ["missing"]
    assert [len(found.runs(system)) for system in found.systems] == [1, 0]


def test_another_setting_is_another_run_and_a_narrower_plan_reuses(recipe, plan, results, capsys):
    recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", results, "--systems", "mp-1", "--runs", "1",
           "--folds", "S01,S01")
    assert "1 trainings, of which 1 are finished" in capsys.readouterr().out
    before = folders(results)
    other = QUICK.replace("epochs: 2", "epochs: 1")
    recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", results, "--systems", "mp-1,most-frequent",
           "--options", other)
    out = capsys.readouterr().out
    assert "6 trainings, of which 2 are finished" in out
    assert "4 trainings, 1 at a time; how long 4 will take is not known before a run of mp-1 has ended" in out
    assert len(folders(results)) == len(before) + 4
    recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", results)  # for the other tests


def test_a_setting_may_refer_to_the_seed_or_the_folder_of_a_run(recipe, plan, tmp_path):
    """A unit finds its settings to be those of the plan, whatever is made of its own seed and folder."""
    hparams = shutil.copytree(HPARAMS, tmp_path / "hparams")
    for name, old, new in (
            ("ser.yaml", "seed: 1\n", "seed: 1\nsave_folder: !ref <output_folder>/save\nshuffled: !ref <seed> * 7\n"),
            ("ser.yaml", "opt_class: !name:torch.optim.Adam\n",
             "drawing: !new:random.Random\n    x: !ref <seed>\nopt_class: !name:torch.optim.Adam\n"),
            ("sklearn.yaml", "random_state: !ref <seed>", "random_state: 42")):
        text = (hparams / name).read_text()
        assert text.count(old) == 1
        (hparams / name).write_text(text.replace(old, new))
    recipe(cross_validate.main, hparams / "table1.yaml", *plan, "--output_folder", tmp_path / "out", "--folds", "S01",
           "--systems", "random,mp-1", "--runs", "4")  # of 42, seed 4 is the beginning
    found = content(tmp_path / "out")
    assert [unit["state"] for unit in found["units"]] == ["finished"] * 8
    settings = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("runs/mp-1/*/*/settings.json")]
    assert sorted((one["seed"], one["shuffled"], one["drawing"]) for one in settings) == [
        (seed, 7 * seed, f"!new:random.Random {{x: {seed}}}") for seed in (1, 2, 3, 4)]


def test_kinds_of_system_have_their_numbers_of_runs(recipe, plan, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "run_all", lambda *_: iter(()))
    recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path, "--runs", "1",
           "--runs_of", "{mp: 2, mp-3: 3}")
    found = Results.load(tmp_path)
    assert {name: len(one.runs) for name, one in found.systems.items()} == {
        "most-frequent": 1, "random": 1, "mp-1": 2, "mp-3": 3, "rnn-2": 1}
    assert len(found.units) == 2 * 8


@pytest.mark.parametrize(("words", "error", "message"), [
    (("--systems", "mp-1,mp-2"), OptionError, "no system 'mp-2'; .* systems of the plan: .*mp-1, mp-3, random"),
    (("--folds", "S01,S9"), OptionError, "no test speaker 'S9'"),
    (("--plan", "[{hparams: mp.yaml, layer: 9}]"), OptionError, "layer"),
    (("--plan", "[{hparams: mp.yaml}, {hparams: mp.yaml, layer: 3}]"), OptionError, "two systems .* are 'mp-3'"),
    (("--plan", "[]"), OptionError, "the plan has no system"),
    (("--plan", "[{hparams: mp.yaml, layer: []}]"), OptionError, "the plan has no system"),
    (("--plan", "[{hparams: mp.yaml, encoder: 3}]"), OptionError, "the encoder 3 of .*mp.yaml.* is neither a name nor"),
    (("--num_workers", "-1"), OptionError, "--num_workers -1: it must be 0 or more"),
    (("--output_folder", ""), OptionError, "--output_folder None: it must be a folder's name"),
    (("--plan", "[mp.yaml]"), OptionError, r"a system of the plan is \{hparams: FILE"),
    *((("--plan", f"[{{hparams: mp.yaml, suffix: '{suffix}'}}]"), OptionError, f"suffix '{suffix}' is part of a folder")
      for suffix in ("", "a/b", "a,b", "a b")),
    (("--claims", "[mp-3, baseline-96]"), OptionError, "a claim is a pair of systems, .*not 'mp-3'"),
    (("--claims", "[[mp-3, mp-1], [mp-3, mp-4]]"), OptionError, r"claim \[mp-3, mp-4\]: no system 'mp-4'"),
    (("--options", "{seed: 4}"), OptionError, "seed is what the plan gives each run: choose by --runs"),
    (("--claims", "[[mp-3, rnm-2]]"), OptionError, r"claim \[mp-3, rnm-2\]: no system 'rnm-2'; .*did you mean 'rnn-2'"),
    (("--plan", "[{hparams: nothing.yaml}]"), OptionError,
     "the plan names .*nothing.yaml, which is not there; a name is relative to the plan's folder"),
    (("--plan", "[{hparams: mp.yaml, recipe: nothing.py}]"), OptionError, "no recipe .*nothing.py"),
    (("--options", "{encoder: deepspeech2}"), OptionError, "encoder is one for all systems: give --encoder"),
    (("--plan", "[{hparams: ser.yaml, head: mq}]"), PluginError, "no head 'mq'; installed: .*baseline, .*mp"),
    (("--plan", "[{hparams: mp.yaml, depth: 2}]"), OptionError, "no option '--depth'"),
    (("--plan", "[{hparams: mp.yaml, labels: [anger, neutral]}]"), OptionError, "labels is one for all systems"),
    (("--options", "{corpus: emodb}"), OptionError, "corpus is one for all systems"),
    (("--test_corpus", "synthetic", "--test_data_folder", "x"), OptionError, "--folds goes without --test_corpus"),
    (("--test_data_folder", "x"), OptionError, "--test_data_folder goes with --test_corpus only"),
    (("--runs", "0"), OptionError, "--runs.*1 or more"),
    (("--runs_of", "{mp: 2, rnn: two}"), OptionError, "--runs_of.* a number of 1 or more for each kind of system"),
    (("--runs_of", "{mp: 2, rnm-2: 1}"), OptionError, "--runs_of: no kind of system 'rnm-2'; did you mean 'rnn-2'"),
    (("--runs_of", "{rnm: 1}"), OptionError, "no kind of system 'rnm'; did you mean 'rnn'. those of the plan: most"),
    (("--systems", ""), OptionError, "--systems and --folds want names between commas, or all; found nothing"),
    (("--backend", "slurm"), OptionError, "--backend.*one of loky, ray, dask, sequential"),
])
def test_a_wrong_plan_is_refused_before_anything_runs(recipe, plan, tmp_path, monkeypatch, words, error, message):
    monkeypatch.setattr(runs, "run_all", lambda *_: pytest.fail("something is run"))
    with pytest.raises(error, match=message):
        recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path, *words)
    assert not list(tmp_path.glob("runs/*/*/*"))


def test_a_backend_that_is_not_installed_is_told_before_results_are_touched(recipe, plan, results, monkeypatch):
    before = (results / "results.json").read_bytes()
    find = runs.importlib.util.find_spec
    monkeypatch.setattr(runs.importlib.util, "find_spec", lambda name: None if name == "distributed" else find(name))
    with pytest.raises(OptionError, match=r"--backend dask: distributed is missing; pip install 'ser_plugins\[dask\]'"):
        recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", results, "--backend", "dask",
               "--runs", "3")
    assert (results / "results.json").read_bytes() == before


def test_a_run_that_fails_is_told_and_the_others_are_kept(recipe, plan, results, tmp_path, monkeypatch, capsys):
    run = runs.run
    monkeypatch.setattr(runs, "run", lambda unit: "no luck" if (unit.test, unit.seed) == ("S03", 1) else run(unit))
    words = ("table1.yaml", *plan, "--output_folder", tmp_path, "--systems", "mp-1,random")
    with pytest.raises(SystemExit, match="1"):
        recipe(cross_validate.main, *words)
    error = capsys.readouterr().err
    assert "FAILED mp-1, test S03, seed 1: no luck" in error
    states = {(unit["system"], unit["test"], unit["seed"]): (unit["state"], unit["error"])
              for unit in content(tmp_path)["units"]}
    assert states["mp-1", "S03", 1] == ("failed", "no luck")
    assert states["mp-1", "S03", 2] == ("finished", None)
    assert len(table(tmp_path)) == 6 * 24
    monkeypatch.undo()
    recipe(cross_validate.main, *words)
    chosen = [row for row in table(results) if row["system"] in ("mp-1", "random")]
    assert sorted(map(str, table(tmp_path))) == sorted(map(str, chosen))


@pytest.fixture
def unit(recipe, plan, tmp_path, monkeypatch):
    """A unit that has not run."""
    planned = []
    with monkeypatch.context() as patch:
        patch.setattr(runs, "run_all", lambda units, *_: planned.extend(units) or ())
        recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path, "--systems", "most-frequent",
               "--folds", "S01")
    return planned[0]


HOLDER = """
import sys, time
from pathlib import Path
from ser_plugins import experiment

folder, release = map(Path, sys.argv[1:])
experiment.claim_folder(folder, {"recipe": "another's"}, overwrite=False)
(folder / "settings.json").unlink()
release.with_name("held").touch()
while not release.exists():
    time.sleep(0.01)
"""


def test_a_unit_that_another_process_trains_is_waited_for(unit, tmp_path, monkeypatch):
    """As where a command is given twice."""
    script, release = tmp_path / "holder.py", tmp_path / "release"
    script.write_text(HOLDER)
    process = processes.start(script, [unit.folder, release], tmp_path / "log", environment={"PYTHONPATH": str(ROOT)})
    while not (tmp_path / "held").exists():
        assert process.is_alive(), (tmp_path / "log").read_text()
        time.sleep(0.01)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        release.touch()
        process.join()

    monkeypatch.setattr(runs, "time", SimpleNamespace(perf_counter=time.perf_counter, sleep=sleep))
    assert runs.run(unit) is None
    assert slept == [runs.POLL]
    assert unit.finished


def test_a_folder_that_could_not_be_stamped_is_no_hindrance_later(unit, monkeypatch):
    """The disk was full for the stamp, and has room for what was printed."""
    def full(path, *_):
        raise DataError(f"{path} cannot be written: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "write_atomically", full)
        assert "No space left on device" in runs.run(unit)
    assert Path(unit.folder).is_dir()
    assert runs.run(unit) is None


def test_a_control_has_the_network_of_its_twin(recipe, plan, tmp_path, tiny_encoder, monkeypatch, capsys):
    monkeypatch.setattr(runs, "run_all", lambda *_: ())
    monkeypatch.setattr(cross_validate, "precompute", lambda *_, **__: None)
    other = "{hparams: mp.yaml, layer: 1, suffix: large, encoder: %sdeepspeech2}"
    entries = ["{hparams: mp.yaml, layer: 1}", "{hparams: mp.yaml, layer: 1, encoder: untrained}", other % "",
               other.replace(": %sdeep", ': "untrained:deep').replace("2}", '2"}'),
               f'{{hparams: mp.yaml, layer: 2, encoder: "untrained:{tiny_encoder}"}}', "{hparams: mp.yaml, layer: 2}"]
    recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path, "--plan", f"[{', '.join(entries)}]")
    scores = {name: SimpleNamespace(system=one) for name, one in Results.load(tmp_path).systems.items()}
    assert report.twins(scores) == [("mp-1", "mp-1-untrained"), ("mp-1-large", "mp-1-untrained-large"),
                                    ("mp-2", "mp-2-untrained")]
    assert len({one.system.encoder for one in scores.values()}) == 4
    capsys.readouterr()
    recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path, "--plan",
           f"[{', '.join(entries[:2])}]", "--encoder", f"untrained:{tiny_encoder}")
    assert "'layer': 1, 'encoder': 'untrained'}; encoder untrained:" in capsys.readouterr().out
    assert list(Results.load(tmp_path).systems) == ["mp-1-untrained"]


def test_another_recipe_has_what_all_share_and_is_named_by_its_code(recipe, plan, tmp_path, monkeypatch):
    planned = []
    monkeypatch.setattr(runs, "run_all", lambda units, *_: planned.extend(units) or ())
    own = tmp_path / "own_recipe.py"
    for comment in ("", "# another version"):
        own.write_text(f"from train_ser import build, load, train  {comment}")
        recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path / "out", "--plan",
               f"[{{hparams: mp.yaml, layer: 1}}, {{recipe: {own}, hparams: mp.yaml, layer: 1, suffix: own}}]")
    ours, first, second = ([unit for unit in units if unit.system == system] for units, system in (
        (planned, "mp-1"), (planned[:len(planned) // 2], "mp-1-own"), (planned[len(planned) // 2:], "mp-1-own")))
    assert len({unit.key for unit in ours}) == len(ours) // 2
    assert not {unit.key for unit in first} & {unit.key for unit in (*ours, *second)}
    assert {unit.words[1:] for unit in ours} == {unit.words[1:] for unit in (*first, *second)}
    command = content(tmp_path / "out")["systems"]["mp-1-own"]["command"]
    assert command.startswith(f"python {own} hparams/mp.yaml --")


def test_the_order_of_a_manifest_has_no_part_in_a_run(recipe, plan, tmp_path, tones):
    def predicted(name, order):
        folder = tones()
        head, *lines = (folder / "manifest.csv").read_text().splitlines()
        (folder / "manifest.csv").write_text("\n".join([head, *order(lines)]) + "\n")
        recipe(cross_validate.main, "table1.yaml", *plan, "--corpus", "csv", "--data_folder", folder,
               "--corpus_options", "{}", "--labels", "[calm, tense]", "--output_folder", tmp_path / name, "--systems",
               "rnn-2", "--folds", "bob", "--runs", "1")
        return table(tmp_path / name)

    assert predicted("as it is", list) == predicted("reversed #2", lambda lines: lines[::-1])


FAILING = """
import sys
from ser_plugins.errors import DataError
from train_sklearn import build, load, main
from train_sklearn import train as _train

def train(exp, system, rows, test_rows, fold, folder):
    path = _train(exp, system, rows, test_rows, fold, folder)
    if exp.values["seed"] == 1:
        raise DataError("the data are not what they were")
    if exp.values["seed"] == 2:
        sys.exit("the recipe gives up")
    return path
"""


def test_whatever_a_run_raises_is_told_at_the_end(recipe, plan, tmp_path, capsys):
    own = tmp_path / "failing.py"
    own.write_text(FAILING)
    with pytest.raises(SystemExit, match="1"):
        recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path / "out", "--plan",
               f"[{{recipe: {own}, hparams: random.yaml}}]", "--runs", "3", "--folds", "S01", "--jobs", "2",
               "--backend", "loky")
    units = {unit["seed"]: unit for unit in content(tmp_path / "out")["units"]}
    assert [units[seed]["state"] for seed in (1, 2, 3)] == ["failed", "failed", "finished"]
    error = capsys.readouterr().err
    assert "FAILED random, test S01, seed 1: the data are not what they were\n" in error
    assert "SystemExit: the recipe gives up" in error


def test_results_of_other_labels_are_not_replaced(recipe, plan, results):
    before = (results / "results.json").read_bytes()
    with pytest.raises(OptionError, match=r"results.json is of another protocol \(labels \['anger', 'happiness', "
                                          r"'neutral', 'sadness'\] → \['anger', 'sadness'\]\)"):
        recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", results, "--labels", "[anger, sadness]")
    assert (results / "results.json").read_bytes() == before


def test_results_that_could_not_be_made_again_are_not_replaced(recipe, plan, results, tmp_path):
    """As those of a repository, which holds no runs."""
    names = ("results.json", "predictions.csv.gz")
    before = {name: (results / name).read_bytes() for name in names}
    for name in names:
        (tmp_path / name).write_bytes(before[name])
    with pytest.raises(OptionError, match=r"results.json holds 18 finished trainings, and .*runs, .* is not there"):
        recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path, "--systems", "most-frequent")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("broken", ["[]", '"x"', '{"protocol": []}', '{"corpus": '])
def test_broken_results_are_told_and_left(recipe, plan, tmp_path, broken):
    (tmp_path / "results.json").write_text(broken)
    with pytest.raises(DataError, match=r"results.json.*give another --output_folder, or remove that file"):
        recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_results_of_another_corpus_of_the_same_reader_are_not_replaced(recipe, plan, tmp_path, tones):
    def call(*words, **corpus):
        recipe(cross_validate.main, "table1.yaml", *plan, "--corpus", "csv", "--data_folder", tones(**corpus),
               "--corpus_options", "{}", "--labels", "[calm, tense]", "--output_folder", tmp_path / "out", "--systems",
               "most-frequent", "--folds", "all", *words)
        return {path: path.read_bytes() for path in (tmp_path / "out").glob("**/*") if path.suffix in (".json", ".csv")}

    before = call()
    with pytest.raises(OptionError, match=r"another protocol \(speaker cem \{'calm': 1, 'tense': 1\} → None; training "
                                          r"speaker cem → None; speaker dan None → \{.*\}\); give another"):
        call(speakers=("ann", "bob", "dan"))
    with pytest.raises(OptionError, match=r"speaker ann \{'calm': 1, 'tense': 1\} → \{'calm': 2, 'tense': 2\}; "):
        call(repeats=2)
    assert {path: path.read_bytes() for path in before} == before
    call("--folds", "bob")
    assert list(content(tmp_path / "out")["speakers"]) == ["bob"]
    with pytest.raises(OptionError, match=r"another protocol \(training speaker cem → None; speaker dan None → "):
        call("--folds", "bob", speakers=("ann", "bob", "dan"))
    with pytest.raises(OptionError, match=r"another protocol \(speaker dan None → \{'calm': 1, 'tense': 1\}\); give"):
        call("--folds", "bob", speakers=("ann", "bob", "cem", "dan"))


def test_the_layers_are_those_of_the_encoder_that_all_share(recipe, plan, tmp_path, tiny_encoder, monkeypatch):
    monkeypatch.setattr(runs, "run_all", lambda *_: ())
    recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path, "--plan",
           "[{hparams: mp.yaml, layer: all}]")
    layers = len(load_encoder(str(tiny_encoder)).layer_dims)
    assert list(content(tmp_path)["systems"]) == [f"mp-{layer}" for layer in range(1, layers + 1)]
    assert layers != len(load_encoder("deepspeech2").layer_dims)


KILLED = """
import os, signal
from pathlib import Path
from types import SimpleNamespace
from train_sklearn import build, load, main
from train_sklearn import train as _train

def train(exp, system, rows, test_rows, fold, folder):
    mark = Path(exp.values["output_root"]) / "killed"
    if fold.test == "S03" and (exp.values["seed"] == 2 or not mark.exists()):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return _train(exp, system, rows, test_rows, fold, folder)
"""


@pytest.mark.parametrize(("backend", "jobs"), [("loky", "1"), ("loky", "2"), ("ray", "2"), ("dask", "2")])
def test_a_killed_worker_loses_only_its_run(recipe, plan, results, tmp_path, capsys, backend, jobs):
    """As a full memory does it: once with a run that succeeds the next time, and always with another.

    Ray and Dask start a cluster here; beside what is killed, it gives the numbers of one process.
    """
    if backend != "loky":
        pytest.importorskip("ray" if backend == "ray" else "distributed", reason=f"extra [{backend}] is not installed")
    own = tmp_path / f"killed_{backend}_{jobs}.py"
    own.write_text(KILLED)
    entries = (f"[{{recipe: {own}, hparams: random.yaml, output_root: {tmp_path / 'mark'}}}, "
               "{hparams: mp.yaml, layer: 1}]")
    with pytest.raises(SystemExit, match="1"):
        recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path / "out", "--plan", entries,
               "--jobs", jobs, "--backend", backend)
    units = {(unit["system"], unit["test"], unit["seed"]): unit for unit in content(tmp_path / "out")["units"]}
    failed = units.pop(("random", "S03", 2))
    assert failed["state"] == "failed"
    assert "its process was killed more than once" in failed["error"]
    assert "FAILED random, test S03, seed 2" in capsys.readouterr().err
    assert len(units) == 7
    assert {unit["state"] for unit in units.values()} == {"finished"}
    chosen = [row for row in table(results) if (row["system"], row["fold"], int(row["seed"])) in units]
    assert sorted(map(str, table(tmp_path / "out"))) == sorted(map(str, chosen))


def test_killed_and_started_again_the_table_is_the_same(plan, results, tmp_path):
    script, log = ROOT / "recipes/cross_validate.py", tmp_path / "log"
    words = [HPARAMS / "table1.yaml", *plan, "--output_folder", tmp_path / "out", "--jobs", "2", "--backend",
             "loky", "--systems", "mp-1,rnn-2"]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = processes.start(script, words, log, environment=environment)
    deadline = time.monotonic() + 600
    try:
        while not list(tmp_path.glob("out/runs/*/*/*/save/CKPT*")):
            assert process.is_alive(), log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        process.kill()
        process.join()
        while processes.living(process):  # its workers end by themselves
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        processes.kill(process)
    states = {unit["state"] for unit in content(tmp_path / "out")["units"]}
    assert states == {"missing"}, "it had ended: there was nothing to kill"
    done = processes.run(script, words, environment=environment)
    assert done.codes == (0,), done.stderr
    chosen = [row for row in table(results) if row["system"] in ("mp-1", "rnn-2")]
    assert sorted(map(str, table(tmp_path / "out"))) == sorted(map(str, chosen))


ENDLESS = """
import time
from pathlib import Path
from train_sklearn import build, load, main
from train_sklearn import train as _train

def train(exp, system, rows, test_rows, fold, folder):
    if fold.test == "S03":
        Path(exp.values["output_root"]).touch()
        time.sleep(600)
    return _train(exp, system, rows, test_rows, fold, folder)
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_queues_time_limit_leaves_the_results_of_what_has_ended(plan, tmp_path, jobs):
    """It sends SIGTERM to the program, and to none of its workers."""
    own, mark, log = (tmp_path / name for name in (f"endless_{jobs}.py", "mark", "log"))
    own.write_text(ENDLESS)
    entries = f"[{{recipe: {own}, hparams: random.yaml, output_root: {mark}}}]"
    words = [HPARAMS / "table1.yaml", *plan, "--output_folder", tmp_path / "out", "--jobs", jobs, "--backend", "loky",
             "--plan", entries, "--runs", "1"]
    process = processes.start(ROOT / "recipes/cross_validate.py", words, log, environment={"PYTHONPATH": str(ROOT)})
    try:
        while not (mark.exists() and list(tmp_path.glob("out/runs/*/test-S01/*/seconds.json"))):
            assert process.is_alive(), log.read_text()
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGTERM)
        process.join(60)
        assert process.exitcode == 143, log.read_text()
    finally:
        processes.kill(process)
    assert "interrupted; the same command goes on where it was" in log.read_text()
    assert [unit.state for unit in Results.load(tmp_path / "out").units] == ["finished", "missing"]


def test_train_on_one_corpus_and_test_on_another(recipe, plan, tmp_path, tones, tiny_encoder):
    labels = ("anger", "sadness")
    words = ("--corpus", "csv", "--data_folder", tones(labels=labels, repeats=2), "--labels", "[anger, sadness]",
             "--test_corpus", "synthetic", "--test_data_folder", plan[1], "--test_corpus_options", plan[3],
             "--corpus_options", "{}", "--folds", "all", "--systems", "mp-1", "--runs", "1")
    recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path, *words)
    found = content(tmp_path)
    assert (found["test_corpus"], found["language"], found["test_language"]) == ("synthetic", "", "en")
    assert "another corpus is tested as a whole" in found["definitions"]["split"]
    assert found["folds"] == [{"test": "synthetic", "valid": "bob", "train": ["ann", "cem"]}]
    assert set(found["speakers"]) == {f"synthetic/S0{number}" for number in range(1, 5)}
    tested = [row for row in table(tmp_path) if row["part"] == "test"]
    assert len(tested) == 4 * 2 * 3
    assert {row["speaker"] for row in table(tmp_path) if row["part"] == "valid"} == {"bob"}
    report.main([str(tmp_path)])
    assert "csv:tones → synthetic" in (tmp_path / "report/index.html").read_text(encoding="utf-8")


@pytest.fixture
def two_corpora(plan, tones):
    """Options of `plan` over the synthetic corpus and one of tones, which has two of its labels and one of its own."""
    folder = tones(labels=("calm", "tense", "odd"))
    options = "{label_map: {calm: neutral, tense: anger, odd: surprise}}"
    corpora = (f"[{{corpus: synthetic, folder: {plan[1]}, options: {plan[3]}}}, "
               f"{{corpus: csv, folder: {folder}, options: {options}}}]")
    alone = plan.index("--folds")
    return (*plan[4:alone], *plan[alone + 2:], "--corpora", corpora, "--systems", "most-frequent,mp-1", "--runs", "1")


def test_every_pair_of_several_corpora_with_the_labels_that_all_have(recipe, two_corpora, tmp_path, capsys):
    root = tmp_path / "two words"
    recipe(cross_validate.main, "table1.yaml", *two_corpora, "--output_folder", root)
    said = capsys.readouterr().out
    assert "label left out: happiness (not in csv-tones)" in said
    assert re.findall(r"^(\w+) in .*\nspeaker", said, flags=re.MULTILINE) == ["synthetic", "csv"]  # each told once
    names = ["synthetic", "synthetic-to-csv-tones", "csv-tones-to-synthetic", "csv-tones"]
    found = {name: content(root / name) for name in names}
    assert {tuple(one["labels"]) for one in found.values()} == {("anger", "neutral")}
    assert [(one["corpus"], one["test_corpus"], len(one["folds"])) for one in found.values()] == [
        ("synthetic", None, 4), ("synthetic", "csv", 1), ("csv", "synthetic", 1), ("csv", None, 3)]
    assert {unit["state"] for one in found.values() for unit in one["units"]} == {"finished"}
    assert {path.parent for path in root.glob("**/store/")} == {root}
    report.main(shlex.split(said.split("the matrix of the corpora: python recipes/report.py ")[1]))
    assert len((root / "report_corpora/corpora.csv").read_text().splitlines()) == 1 + 2 * 4


def test_corpora_of_the_file_lie_where_those_of_single_calls_do(recipe, two_corpora, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "run_all", lambda *_: ())
    monkeypatch.chdir(tmp_path)
    at = two_corpora.index("--corpora")
    file = shutil.copytree(HPARAMS, tmp_path / "hparams") / "table1.yaml"
    file.write_text(file.read_text().replace("corpora: []", f"corpora: {two_corpora[at + 1]}"))
    recipe(cross_validate.main, file, *two_corpora[:at], *two_corpora[at + 2:])
    root = tmp_path / "results/table1"
    made = {path.parent.relative_to(root).as_posix() for path in tmp_path.glob("**/results.json")}
    assert made == {"synthetic", "synthetic-to-csv-tones", "csv-tones-to-synthetic", "csv-tones"}
    assert list(tmp_path.glob("**/store/")) == [root / "store"]


@pytest.mark.parametrize(("words", "error", "message"), [
    (("--corpus", "synthetic"), OptionError, "--corpus and --corpora exclude"),
    (("--test_corpus", "csv"), OptionError, "--test_corpus and --corpora exclude"),
    (("--folds", "S01"), OptionError, "--folds and --corpora exclude"),
    (("--corpora", "[{corpus: synthetic, folder: x}]"), OptionError, "names synthetic only: name two or more"),
    (("--corpora", "[{corpus: csv, folder: x}, {corpus: csv, folder: y/x}]"), OptionError, "csv-x stands twice"),
    (("--corpora", "[synthetic, csv]"), OptionError, r"--corpora: synthetic is no corpus; each is \{corpus: NAME"),
    (("--corpora", "[{corpus: csv, folder: x, options: calm}]"), OptionError, "'calm'} is no corpus; each is "),
    (("--corpora", "[{corpus: cvs, folder: x}, {corpus: csv, folder: x}]"), PluginError, "did you mean 'csv'"),
    (("--labels", "[anger, happiness]"), OptionError, "corpus 'csv': no emotion 'happiness'"),
    (("--systems", "mp-9"), OptionError, "mp-9"),
])
def test_wrong_corpora_are_refused_before_anything_runs(recipe, two_corpora, tmp_path, monkeypatch, words, error,
                                                        message):
    monkeypatch.setattr(cross_validate, "precompute", lambda *_, **__: pytest.fail("something is run"))
    with pytest.raises(error, match=message):
        recipe(cross_validate.main, "table1.yaml", *two_corpora, "--output_folder", tmp_path, *words)


def test_a_recording_of_both_corpora_is_refused_before_anything_runs(recipe, plan, tones, tmp_path, monkeypatch):
    monkeypatch.setattr(cross_validate, "precompute", lambda *_, **__: pytest.fail("something is run"))
    folder = tones(labels=("anger", "sadness"))
    other = shutil.copytree(folder, tmp_path / "copy")
    text = (other / "manifest.csv").read_text()
    for name in ("ann", "bob", "cem"):
        text = text.replace(f",{name},", f",the_other_{name},")
    (other / "manifest.csv").write_text(text)
    alone = plan.index("--folds")
    with pytest.raises(DataError, match="leak: 4 of the test set also in the training set"):
        recipe(cross_validate.main, "table1.yaml", *plan[4:alone], *plan[alone + 2:], "--output_folder",
               tmp_path / "out", "--systems", "most-frequent",
               "--corpora", f"[{{corpus: csv, folder: {folder}}}, {{corpus: csv, folder: {other}}}]")


def test_failed_runs_of_one_pair_leave_the_others(recipe, two_corpora, tmp_path, capsys):
    own = tmp_path / "fails.py"
    own.write_text("from train_sklearn import build, load, main\n"
                   "from ser_plugins.errors import DataError\n\n"
                   "def train(exp, *_):\n    raise DataError('no luck')\n")
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match="1"):
        recipe(cross_validate.main, "table1.yaml", *two_corpora, "--output_folder", out, "--plan",
               f"[{{recipe: {own}, hparams: random.yaml}}]", "--systems", "all")
    names = ("synthetic", "synthetic-to-csv-tones", "csv-tones-to-synthetic", "csv-tones")
    assert f"FAILED trainings in {', '.join(str(out / name) for name in names)}; see above" in capsys.readouterr().err
    assert {one["error"] for name in names for one in content(out / name)["units"]} == {"no luck"}


def test_corpora_without_two_shared_labels_are_told(recipe, plan, tones, tmp_path):
    words = ("--corpus", "csv", "--data_folder", tones(labels=("calm", "sadness")), "--corpus_options", "{}", "--folds",
             "all", "--test_corpus", "synthetic", "--test_data_folder", plan[1], "--test_corpus_options", plan[3])
    with pytest.raises(DataError, match="share fewer than two of the labels anger, happiness, neutral, sadness: "
                                        r"csv in \S*tones has calm, sadness; synthetic in "):
        recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_a_speaker_of_both_corpora_is_a_leak(recipe, plan, tmp_path, tones):
    """In other recordings: those of one corpus are compared by what they hold."""
    folder = tones(labels=("anger", "sadness"), repeats=2)
    with open(folder / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for repeat in "01":
        (tmp_path / repeat).mkdir()
        with open(tmp_path / repeat / "manifest.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows({**row, "path": folder / row["path"]} for row in rows if row["id"].endswith(repeat))
    words = ("--corpus", "csv", "--data_folder", tmp_path / "0", "--test_corpus", "csv", "--test_data_folder",
             tmp_path / "1", "--labels", "[anger, sadness]", "--corpus_options", "{}", "--folds", "all")
    with pytest.raises(DataError, match="leak: speakers ann, bob, cem stand in both corpora"):
        recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path / "out", *words)


def test_the_linear_classifier_is_that_of_the_layers_means(recipe, plan, tiny_encoder, tmp_path):
    """Against means of the encoder in the loop, standardised and fitted here."""
    folder = tmp_path / "run"
    recipe(train_sklearn.main, "linear.yaml", "--data_folder", plan[1], "--corpus_options", plan[3], "--encoder",
           tiny_encoder, "--layer", "2", "--output_root", tmp_path, "--output_folder", folder, "--num_workers", "0")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["protocol"]["system"] == "linear-2"
    encoder, means, truth = load_encoder(tiny_encoder), {}, {}
    for row in manifest.load(next(tmp_path.glob("synthetic/manifest.csv"))):
        samples = torch.from_numpy(audio.read(row.path))[None]
        means[row.id] = encoder(samples, torch.tensor([samples.shape[1]])).layers[1].mean()[0].numpy()
        truth[row.id] = row
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        said = list(csv.DictReader(file))
    fold = metrics["protocol"]["fold"]
    learnt = [name for name, row in truth.items() if row.speaker in fold["train"]]
    inputs = np.array([means[name] for name in learnt])
    center, scale = inputs.mean(axis=0), inputs.std(axis=0)
    model = LogisticRegression(C=metrics["protocol"]["parameters"]["logisticregression__C"], max_iter=2000)
    model.fit((inputs - center) / scale, [truth[name].emotion for name in learnt])
    expected = model.predict_proba((np.array([means[one["id"]] for one in said]) - center) / scale)
    assert {one["speaker"] for one in said} == {fold["test"]}
    assert [[float(one[f"p_{label}"]) for label in model.classes_] for one in said] == [
        pytest.approx(row, abs=0.02) for row in expected.tolist()]  # stored in float16
    with pytest.raises(OptionError, match="estimator 'linear': layer 9 does not exist: the encoder has layers 1 to"):
        recipe(train_sklearn.main, "linear.yaml", "--encoder", tiny_encoder, "--layer", "9")


def said(**texts):
    """One row for each sentence that a speaker says."""
    return [SimpleNamespace(speaker=speaker, text=text) for speaker, own in texts.items() for text in own]


def test_sentences_are_counted_where_a_fold_trains_and_tests_them():
    rows = said(a=["Das Tuch.", "Sieben"], b=["das  tuch"], c=["Der Lappen"])
    fold = folds.Fold("a", "c", ("b",))
    assert collect.sentences(rows, [], [fold]) == {"trained": 1, "tested": 2, "both": 1}
    assert collect.sentences(rows, [], [fold, folds.Fold("b", "c", ("a",))]) == {
        "trained": 2, "tested": 2, "both": 1}
    other = said(x=["Kids are talking"], y=["Dogs are sitting"])
    assert collect.sentences(rows, other, [folds.Fold("x", "c", ("a", "b"))]) == {
        "trained": 2, "tested": 2, "both": 0}
    assert collect.sentences(rows, said(x=[""]), [folds.Fold("x", "c", ("a", "b"))]) is None


def test_the_report_reads_what_is_written(results):
    report.main([str(results), "--output_folder", str(results / "page")])
    with open(results / "page/systems.csv", encoding="utf-8", newline="") as file:
        shown = {row["system"]: row for row in csv.DictReader(file)}
    assert list(shown) == list(content(results)["systems"])
    for system, row in shown.items():
        seeds = sorted({one["seed"] for one in table(results) if one["system"] == system})
        values = []
        for seed in seeds:
            chosen = [one for one in table(results)
                      if (one["system"], one["seed"], one["part"]) == (system, seed, "test")]
            values.append(balanced_accuracy_score([one["label"] for one in chosen],
                                                  [one["prediction"] for one in chosen]))
        assert float(row["UA_runs_mean"]) == pytest.approx(sum(values) / len(values))


def test_the_order_of_labels_changes_no_choice(recipe, plan, tmp_path):
    """Of the grid's parameters, by a cross-entropy in the labels' own order."""
    found = {}
    for labels in ("[anger, neutral, sadness]", "[sadness, neutral, anger]"):
        recipe(train_sklearn.main, "svm.yaml", "--data_folder", plan[1], "--corpus_options", plan[3], "--labels",
               labels, "--output_root", tmp_path, "--output_folder", tmp_path / labels, "--num_workers", "0")
        stamp = json.loads((tmp_path / labels / "metrics.json").read_text())
        with open(tmp_path / labels / "predictions.csv", encoding="utf-8", newline="") as file:
            said = {row["id"]: row["prediction"] for row in csv.DictReader(file)}
        found[labels] = (stamp["protocol"]["parameters"], pytest.approx(stamp["valid_loss"]), said)
    first, second = found.values()
    assert first == second


def test_an_entry_with_a_suffix_is_a_system_of_its_own(recipe, plan, tmp_path):
    entries = "[{hparams: mp.yaml}, {hparams: mp.yaml, suffix: still, tempi: null}]"
    recipe(cross_validate.main, "table1.yaml", *plan, "--output_folder", tmp_path, "--plan", entries, "--runs", "1",
           "--folds", "S01")
    systems = content(tmp_path)["systems"]
    assert [system["reads"] for system in systems.values()] == [["means of layer 3"]] * 2
    settings = {name: system["settings"] for name, system in systems.items()}
    assert list(settings) == ["mp-3", "mp-3-still"]
    assert settings["mp-3-still"] == {**settings["mp-3"], "suffix": "still", "tempi": None}
    (folder,) = (tmp_path / "runs/mp-3-still/test-S01").iterdir()
    assert json.loads((folder / "settings.json").read_text())["tempi"] is None


def test_another_optimiser_is_another_run(recipe, plan, tmp_path):
    """Objects of the YAML decide numbers too."""
    for name in ("ser.yaml", "mp.yaml", "table1.yaml"):
        (tmp_path / name).write_text((HPARAMS / name).read_text())
    words = (*plan, "--output_folder", tmp_path / "out", "--plan", "[{hparams: mp.yaml}]", "--runs", "1", "--folds",
             "S01")
    recipe(cross_validate.main, tmp_path / "table1.yaml", *words)
    assert len(folders(tmp_path / "out")) == 1
    text = (tmp_path / "ser.yaml").read_text()
    (tmp_path / "ser.yaml").write_text(text.replace("!name:torch.optim.Adam\n", "!name:torch.optim.SGD\n"))
    recipe(cross_validate.main, tmp_path / "table1.yaml", *words)
    assert len(folders(tmp_path / "out")) == 2


def test_a_recipe_with_the_name_of_another_is_refused(tmp_path):
    (tmp_path / "train_ser.py").write_text("")
    runs.load_recipe(ROOT / "recipes/train_ser.py")
    with pytest.raises(OptionError, match=r"train_ser.py has the name of .*recipes"):
        runs.load_recipe(tmp_path / "train_ser.py")
