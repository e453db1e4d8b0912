"""The recipe that probes the recogniser: what it leaves of a small synthetic corpus, and whether the numbers are so."""

import csv
import json
import re
from itertools import product

import numpy as np
import opensmile
import probe
import pytest
import torch
from PIL import Image
from scipy import stats

from ser_plugins import audio, probing
from ser_plugins.descriptors import NAMES
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.errors import DataError, OptionError, PluginError
from ser_plugins.probe_figures import scatter_figure


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("probe")


@pytest.fixture(scope="module")
def run(recipe, synthetic_corpus, synthetic_folder, tiny_encoder, root):
    """Probes the tiny encoder on the small corpus."""
    assert synthetic_corpus.is_file()

    def start(*words):
        return recipe(probe.main, "probe.yaml", "--data_folder", synthetic_folder, "--encoder", tiny_encoder,
                      "--corpus_options", "{speakers: 4, sentences: 3}", "--output_root", root, "--num_workers", 0,
                      *words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "INVERSE_PENALTIES", (0.01, 1.0))  # fewer to choose from are sooner tried
        yield start


@pytest.fixture(scope="module")
def rnn_run(train, root):
    return train("rnn", root, "--store_folder", root / "store")


@pytest.fixture(scope="module")
def folder(run, rnn_run):
    return run("--rnn_run", rnn_run)


def test_every_promised_file_is_there(folder):
    made = {f"{name}.{suffix}" for name, suffix in product(("tsne", "neuron", "probes"), ("png", "pdf"))}
    made |= {"tsne.csv", "correlations.csv", "probes.csv", "metrics.json", "settings.json", "hyperparams.yaml"}
    assert made <= {path.name for path in folder.iterdir()}
    assert folder.parts[-2:] == (folder.parent.name, "seed-1")
    for name in ("tsne", "neuron", "probes"):
        with Image.open(folder / f"{name}.png") as image:
            image.verify()
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_every_utterance_has_a_place_in_every_representation(folder, synthetic_rows):
    lines = table(folder / "tsne.csv")
    known = {row.id: (row.speaker, row.emotion) for row in synthetic_rows}
    rnn = "rnn-2, trained on synthetic S03 S04"  # S01 tests, S02 validates
    assert {line["representation"] for line in lines} == {"mp-1", "mp-2", "mp-3", rnn}
    for representation in ("mp-2", rnn):
        own = [line for line in lines if line["representation"] == representation]
        every = [line for line in own if line["classes"] == "anger+happiness+neutral+sadness"]
        assert {line["id"]: (line["speaker"], line["emotion"]) for line in every} == known
        pair = [line for line in own if line["classes"] == "sadness+anger"]
        both = {name for name, (_, emotion) in known.items() if emotion in {"anger", "sadness"}}
        assert {line["id"] for line in pair} == both
        assert np.isfinite([[float(line["x"]), float(line["y"])] for line in own]).all()


def test_correlations_are_those_of_a_naive_loop(folder, synthetic_rows, tiny_encoder):
    encoder = DeepSpeech2.from_pretrained(tiny_encoder)
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
    z, layer, neuron = [], 2, 5
    for row in synthetic_rows:
        samples = audio.read(row.path)
        frames = encoder(torch.from_numpy(samples)[None], torch.tensor([len(samples)])).layers[layer - 1].data[0]
        found = smile.process_signal(np.pad(samples, 1600), 16000)  # silence, as the recogniser has it around
        centres = found.index.get_level_values("start").total_seconds().to_numpy() + 0.010 - 0.1
        loudness = np.interp(np.arange(len(frames)) / encoder.rate, centres, found["Loudness_sma3"])
        z.append(np.arctanh(stats.pearsonr(frames[:, neuron].half().double().numpy(), loudness).statistic))
    lines = table(folder / "correlations.csv")
    assert len(lines) == 2 * 3 * 32 * len(NAMES)  # encoders × layers × neurons × descriptors
    line, = (line for line in lines if (line["encoder"], line["layer"], line["neuron"], line["descriptor"])
             == ("trained", str(layer), str(neuron), "Loudness_sma3"))
    assert float(line["r"]) == pytest.approx(np.tanh(np.mean(z)), abs=2e-3)
    assert (line["utterances"], line["speakers"]) == ("48", "4")
    assert 0 <= float(line["p"]) <= float(line["p_holm"]) <= 1


def test_the_best_neuron_is_the_best_of_the_table(folder):
    best = json.loads((folder / "metrics.json").read_text())["best"]
    lines = [line for line in table(folder / "correlations.csv") if line["r"] != "nan"]
    for encoder, descriptor in product(("trained", "random"), ("Loudness_sma3", "F0semitoneFrom27.5Hz_sma3nz")):
        top = max((line for line in lines if (line["encoder"], line["descriptor"]) == (encoder, descriptor)),
                  key=lambda line: abs(float(line["r"])))
        found = best[encoder][descriptor]
        assert (str(found["layer"]), str(found["neuron"])) == (top["layer"], top["neuron"])
        assert found["r"] == pytest.approx(float(top["r"]), abs=1e-5)


def test_probes_have_a_line_for_each_layer_and_encoder_and_chance(folder):
    lines = table(folder / "probes.csv")
    assert {(line["encoder"], line["layer"], line["target"]) for line in lines} == set(
        product(("trained", "random"), "123", ("emotion", "speaker")))  # two speakers of a gender are too few
    assert {line["target"]: float(line["chance"]) for line in lines} == {"emotion": 0.25, "speaker": 0.25}
    ends = [(line["low"], line["UA"], line["high"]) for line in lines if line["low"]]  # speakers may be too alike
    assert len(ends) >= len(lines) / 2
    for low, value, high in ends:
        assert float(low) <= float(value) <= float(high)
    assert "no probe of gender: 'female' has 2 speakers" in (folder / "log.txt").read_text()


def test_a_second_run_encodes_nothing_and_gives_the_same(folder, run, rnn_run, monkeypatch):
    names = ("correlations.csv", "tsne.csv", "probes.csv", "tsne.pdf", "neuron.png", "probes.pdf")
    before = {name: (folder / name).read_bytes() for name in names}

    def refuse(*_):
        raise AssertionError("the encoder runs again")

    monkeypatch.setattr(DeepSpeech2, "forward", refuse)
    again = run("--rnn_run", rnn_run)
    assert again == folder
    assert {name: (folder / name).read_bytes() for name in before} == before


@pytest.mark.usefixtures("folder")
def test_without_a_control_and_with_markers(run, monkeypatch, root, capsys):
    titles = []
    monkeypatch.setattr(probe, "scatter_figure", lambda panels, columns: (
        titles.extend(panel.title for panel in panels), scatter_figure(panels, columns))[1])
    monkeypatch.setattr(probing, "PROBES", {})
    alone = run("--control", "false", "--speaker_markers", "true", "--output_folder", root / "alone",
                "--descriptor", "F0semitoneFrom27.5Hz_sma3nz", "--noprogressbar")
    assert not re.search("t-SNE|correlations", capsys.readouterr().err)  # no bar
    assert [title.splitlines()[1] for title in titles] == ["all classes"] * 3 + ["sadness, anger"] * 3
    assert {line["encoder"] for line in table(alone / "correlations.csv")} == {"trained"}
    assert {line["representation"] for line in table(alone / "tsne.csv")} == {"mp-1", "mp-2", "mp-3"}
    assert not (alone / "probes.png").exists()


@pytest.mark.parametrize(("words", "error", "message"), [
    (["--descriptor", "Loudness"], OptionError, "--descriptor: no descriptor 'Loudness'; did you mean 'Loudness_sma3'"),
    (["--pair", "[sadness, angr]"], OptionError, "--pair: no label 'angr'; did you mean 'anger'?"),
    (["--pair", "[sadness]"], OptionError, "--pair .*: it must be two labels or more"),
    (["--perplexity", "0"], OptionError, "--perplexity 0: it must be above 0"),
    (["--corpus", "emodb"], OptionError, "where is corpus 'emodb'"),
    (["--encoder", "deepspech2"], PluginError, "encoder 'deepspech2' is neither a folder nor installed"),
    (["--rnn_run", "nowhere"], DataError, "nowhere: no such folder"),
])
def test_wrong_options_are_told_before_anything_is_computed(recipe, tmp_path, words, error, message):
    with pytest.raises(error, match=message):
        recipe(probe.main, "probe.yaml", "--output_root", tmp_path, *words)
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_head_or_encoder_is_refused(run, train, root, rnn_run):
    other = train("mp", root, "--store_folder", root / "store")
    with pytest.raises(OptionError, match=r"mp-3.* holds the head MeanPooling: give a run of hparams/rnn\.yaml"):
        run("--rnn_run", other)
    with pytest.raises(OptionError, match="was trained on another encoder: give that one as --encoder"):
        run("--rnn_run", rnn_run, "--encoder", "deepspeech2")


@pytest.mark.usefixtures("folder")
def test_a_folder_of_other_settings_is_refused(run):
    with pytest.raises(OptionError, match=r"holds a run with other settings \(perplexity 30.0 → 5.0"):
        run("--perplexity", "5.0")
