"""The emotion recipe: what a run leaves, what its numbers are, and that no kill and no second run changes them."""

import csv
import json
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import soundfile
import torch
import train_ser
from ruamel.yaml import YAML
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, recall_score

from ser_plugins import batches, experiment, protocol
from ser_plugins.contracts import SAMPLE_RATE
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.errors import OptionError, PluginError
from ser_plugins.heads.mp import MeanPooling

ROOT = Path(__file__).parents[1]
SYSTEMS = ("baseline", "mp", "rnn", "progressive")
LABELS = ["anger", "happiness", "neutral", "sadness"]
BATCH_LOSSES = re.compile(r"epoch (\d+), lr \S+, train loss \S+, valid loss (\S+)$", re.MULTILINE)
each_system = pytest.mark.parametrize("system", SYSTEMS)


def table(folder):
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def predictions(folder):
    return (folder / "predictions.csv").read_bytes()


@pytest.fixture
def encoded(monkeypatch):
    """The number of utterances in each call of the encoder."""
    calls = []
    forward = DeepSpeech2.forward

    def counting(self, waveforms, lengths, augment=None):
        calls.append(len(waveforms))
        return forward(self, waveforms, lengths, augment)

    monkeypatch.setattr(DeepSpeech2, "forward", counting)
    return calls


@each_system
def test_a_run_leaves_every_promised_file(runs, system):
    folder = runs[system]
    assert {path.name for path in folder.iterdir()} == {
        "hyperparams.yaml", "env.log", "log.txt", "save", "settings.json", "train_ser.py", "predictions.csv",
        "predictions_valid.csv", "metrics.json", "confusion.png", "model", experiment.LOCK}
    (checkpoint,) = {path for path in folder.glob("save/CKPT*") if "epoch: 2" in (path / "CKPT.yaml").read_text()}
    assert {path.stem for path in checkpoint.glob("*.ckpt")} == {
        "head", "counter", "annealing", "curve", "optimizer", "brain"}
    assert platform.python_version() in (folder / "env.log").read_text()
    assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (folder / "model").iterdir()} == {"model.json", "head.safetensors"}


@pytest.mark.parametrize(("system", "name"), [
    ("baseline", "baseline-16"), ("mp", "mp-3"), ("rnn", "rnn-2"), ("progressive", "progressive-2")])
def test_the_folder_is_named_by_corpus_system_fold_and_seed(runs, system, name):
    assert runs[system].parts[-4:] == ("synthetic", name, "test-S01", "seed-1")
    assert metrics(runs[system])["protocol"]["system"] == name


@each_system
def test_hyperparameters_are_resolved(runs, system):
    text = (runs[system] / "hyperparams.yaml").read_text()
    tree = YAML().load(text)["experiment"]
    assert "!include" not in text
    assert (tree["head"], tree["number_of_epochs"], tree["output_folder"]) == (system, 2, str(runs[system]))
    assert tree["lr"] == tree["regimes"]["small"]["lr"]  # the regime's value, where the command line gives none


@each_system
def test_predictions_are_those_of_the_test_speaker(runs, synthetic_rows, system):
    rows = table(runs[system])
    wanted = {row.id: (row.speaker, row.emotion) for row in synthetic_rows if row.speaker == "S01"}
    assert [row["id"] for row in rows] == sorted(wanted)
    assert {row["id"]: (row["speaker"], row["label"]) for row in rows} == wanted
    assert list(rows[0]) == ["id", "speaker", "label", "prediction", *(f"p_{label}" for label in LABELS)]
    for row in rows:
        probabilities = {label: float(row[f"p_{label}"]) for label in LABELS}
        assert sum(probabilities.values()) == pytest.approx(1, abs=4e-6)  # six decimals are written
        assert probabilities[row["prediction"]] == max(probabilities.values())


@each_system
def test_metrics_are_what_scikit_learn_makes_of_the_predictions(runs, system):
    rows, found = table(runs[system]), metrics(runs[system])
    truth, predicted = [row["label"] for row in rows], [row["prediction"] for row in rows]
    assert found["UA"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert found["WA"] == pytest.approx(accuracy_score(truth, predicted))
    assert 0 < found["ECE"] < 1
    assert found["F1"] == pytest.approx(f1_score(truth, predicted, labels=LABELS, average="macro", zero_division=0))
    assert found["confusion"] == confusion_matrix(truth, predicted, labels=LABELS).tolist()
    recalls = recall_score(truth, predicted, labels=LABELS, average=None, zero_division=0)
    assert [found["recall"][label] for label in LABELS] == pytest.approx(recalls.tolist())
    truth_at = [LABELS.index(label) for label in truth]
    chosen = np.array([[float(row[f"p_{label}"]) for label in LABELS] for row in rows])[range(len(rows)), truth_at]
    assert found["loss"] == pytest.approx(-np.log(chosen).mean(), abs=1e-5)


def test_metrics_carry_the_protocol(runs, synthetic_rows):
    stamp = metrics(runs["mp"])["protocol"]
    assert stamp["fold"] == {"test": "S01", "valid": "S02", "train": ["S03", "S04"]}
    for part, speakers in (("train", ("S03", "S04")), ("valid", ("S02",)), ("test", ("S01",))):
        rows = [row for row in synthetic_rows if row.speaker in speakers]
        assert stamp["counts"][part] == {label: sum(row.emotion == label for row in rows) for label in LABELS}
    assert stamp["settings"]["corpus_options"] == {"speakers": 4, "sentences": 3}
    assert "leave one speaker out" in stamp["definitions"]["split"]
    assert stamp["trainable_parameters"] == 32 * 4 + 4  # both directions of 16 units, four classes
    assert stamp["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_the_epoch_with_the_lowest_validation_loss_is_tested(train, tmp_path):
    options = ("--lr", "0.4", "--annealing_patience", "20")
    folder = train("mp", tmp_path, *options, "--number_of_epochs", "9", "--output_folder", tmp_path / "nine")
    log = (folder / "log.txt").read_text()
    losses = {int(epoch): float(loss) for epoch, loss in BATCH_LOSSES.findall(log)}
    best = metrics(folder)["tested_epoch"]
    assert sorted(losses) == list(range(1, 10))
    assert losses[best] == min(losses.values())
    assert best != 9, "choose another learning rate: the last epoch tells nothing"
    # The run that stops at this epoch tests it as its last: the same numbers by another way.
    shorter = train("mp", tmp_path, *options, "--number_of_epochs", best, "--output_folder", tmp_path / "shorter")
    assert metrics(shorter)["tested_epoch"] == best
    assert predictions(shorter) == predictions(folder)


def test_the_learning_rate_is_annealed_to_the_end(train, tmp_path):
    folder = train("mp", tmp_path, "--lr", "3", "--lr_end", "0.5", "--annealing_patience", "1",
                   "--number_of_epochs", "200")
    lines = re.findall(r"epoch (\d+), lr (\S+), train loss \S+, valid loss (\S+)$", (folder / "log.txt").read_text(),
                       re.MULTILINE)
    rate, anchor, worse = 3.0, float("inf"), 0
    for epoch, logged, loss in lines:  # the rule, written again: two in a row without a better loss halve the rate
        assert float(logged) == pytest.approx(max(rate, 0.5), rel=0.05), f"epoch {epoch}"
        worse = 0 if float(loss) <= anchor else worse + 1
        anchor = min(anchor, float(loss))
        if worse == 2:
            rate, worse = rate / 2, 0
    assert rate <= 0.5
    assert metrics(folder)["epochs"] == len(lines) < 200


@pytest.mark.parametrize("system", ["mp", "rnn"])
def test_the_encoder_stays_frozen(train, tmp_path, tiny_encoder, system):
    encoder = protocol.encoder_of(str(tiny_encoder))
    train(system, tmp_path)
    assert protocol.encoder_of(str(tiny_encoder)) is encoder
    stored = load_file(tiny_encoder / "weights.safetensors")
    for name, tensor in encoder.state_dict().items():
        torch.testing.assert_close(tensor, stored[name].to(tensor.dtype), rtol=0, atol=0)
    assert not encoder.training
    assert all(not weight.requires_grad and weight.grad is None for weight in encoder.parameters())


def test_an_encoder_is_loaded_again_when_its_files_change_and_no_others(tmp_path, monkeypatch, tiny_encoder):
    monkeypatch.chdir(tmp_path)
    shipped, copied = protocol.encoder_of("deepspeech2"), shutil.copytree(tiny_encoder, tmp_path / "copied")
    (tmp_path / "log.txt").write_text("a file of the current folder")
    assert protocol.encoder_of("deepspeech2") is shipped
    for source in (str(copied), f"deepspeech2:{copied}"):
        first = protocol.encoder_of(source)
        assert protocol.encoder_of(source) is first
        (copied / "note.txt").write_text(f"beside the weights, {source}")
        assert protocol.encoder_of(source) is not first


def test_the_encoder_hears_each_utterance_and_tempo_once(train, tmp_path, encoded):
    first = train("mp", tmp_path)
    assert sum(encoded) == 24 * 2 + 12 + 12  # training at two tempi, validation and test at one
    assert len(encoded) < sum(encoded), "utterances are encoded in batches"
    encoded.clear()
    train("mp", tmp_path, "--layer", "1")
    train("progressive", tmp_path)  # it needs features, which are made without the encoder
    train("mp", tmp_path, "--output_folder", tmp_path / "again")
    assert encoded == []
    assert predictions(tmp_path / "again") == predictions(first)
    train("mp", tmp_path, "--test_speaker", "S02")  # of the speakers that train, S01 was not heard at 0.9 before
    assert sum(encoded) == 12


def test_the_baseline_needs_no_encoder(train, tmp_path, encoded):
    train("baseline", tmp_path)
    assert encoded == []


def test_what_ran_before_changes_nothing(train, runs, tmp_path):
    """The store already holds most of the fold that tests S02; a fresh one gives the same numbers to the last bit."""
    root = runs["progressive"].parents[3]
    used = train("progressive", root, "--test_speaker", "S02")
    fresh = train("progressive", tmp_path, "--test_speaker", "S02")
    assert (root / "store").is_dir()
    assert (tmp_path / "store").is_dir()
    assert predictions(used) == predictions(fresh)


@pytest.mark.parametrize("system", ["rnn", "progressive"])
def test_the_same_seed_gives_the_same_predictions(train, runs, tmp_path, system):
    assert predictions(train(system, tmp_path)) == predictions(runs[system])


def test_another_seed_gives_others(train, runs, tmp_path):
    folder = train("progressive", tmp_path, "--seed", "2")
    assert folder.name == "seed-2"
    assert predictions(folder) != predictions(runs["progressive"])


def test_a_finished_run_is_only_tested_again(train, runs):
    results = ("predictions.csv", "predictions_valid.csv", "model/head.safetensors")
    before = {name: (runs["rnn"] / name).read_bytes() for name in results}
    trained = (runs["rnn"] / "log.txt").read_text().count("Going into epoch")
    folder = train("rnn", runs["rnn"].parents[3])
    assert (folder / "log.txt").read_text().count("Going into epoch") == trained
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_a_run_is_not_resumed_on_other_data(recipe, tones, tmp_path):
    """The same command over a corpus that was relabelled: the old head may not be tested on it."""
    folder = tones()
    words = ("mp.yaml", "--corpus", "csv", "--data_folder", folder, "--labels", "[calm, tense]", "--tempi", "[]",
             "--number_of_epochs", "1", "--num_workers", "0", "--output_root", tmp_path / "results")
    before = predictions(recipe(train_ser.main, *words))
    lines = (folder / "manifest.csv").read_text().splitlines()
    swapped = [re.sub("calm$", "tense", line) if line.endswith("calm") else re.sub("tense$", "calm", line)
               for line in lines]
    (folder / "manifest.csv").write_text("\n".join(swapped))
    with pytest.raises(OptionError, match=r"holds a run with other settings \(data '\w+' → '\w+'\)"):
        recipe(train_ser.main, *words)
    assert predictions(tmp_path / "results/csv/mp-3/test-ann/seed-1") == before


def test_run_options_are_settings(train, runs):
    with pytest.raises(OptionError, match=r"other settings \(run_options debug None → True\)"):
        train("mp", runs["mp"].parents[3], "--debug")


def test_more_epochs_are_other_settings(train, tmp_path):
    folder = train("mp", tmp_path)
    old = predictions(folder)
    (folder / "save" / "left.txt").write_text("of the old run")
    with pytest.raises(OptionError, match=r"holds a run with other settings \(layer 3 → 2; number_of_epochs 2 → 1\); "
                                          r"give another --output_folder, or throw that run away with --overwrite"):
        train("mp", tmp_path, "--number_of_epochs", "1", "--layer", "2", "--output_folder", folder)
    assert predictions(folder) == old
    train("mp", tmp_path, "--number_of_epochs", "1", "--output_folder", folder, "--overwrite", "true")
    assert metrics(folder)["epochs"] == 1
    assert json.loads((folder / "settings.json").read_text())["number_of_epochs"] == 1
    assert not (folder / "save" / "left.txt").exists()


def test_where_the_store_and_the_corpus_lie_is_no_setting(train, runs, tmp_path):
    folder = train("rnn", tmp_path, "--store_folder", runs["rnn"].parents[3] / "store", "--output_folder", runs["rnn"])
    assert folder == runs["rnn"]


def test_an_overwriting_that_is_killed_leaves_no_stranger(tmp_path, monkeypatch):
    """Killed while the old run is removed, what is left of it is still refused by another run."""
    folder = tmp_path / "run"
    for name in ("model", "save/CKPT+1"):
        (folder / name).mkdir(parents=True)
    (folder / "settings.json").write_text('{"layer": 1, "recipe": "train_ser"}')

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiment.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            experiment.claim_folder(folder, {"layer": 2, "recipe": "train_ser"}, overwrite=True)
    with pytest.raises(OptionError, match="layer 1 → 2"):
        experiment.claim_folder(folder, {"layer": 2, "recipe": "train_ser"}, overwrite=False)


def test_a_folder_of_other_things_is_no_runs(tmp_path):
    settings = {"layer": 1, "recipe": "train_ser"}
    (tmp_path / "thesis.tex").write_text("years")
    for overwrite in (False, True):
        with pytest.raises(OptionError, match=r"holds thesis\.tex and no settings\.json: it is no run's folder"):
            experiment.claim_folder(tmp_path, settings, overwrite)
    (tmp_path / "settings.json").write_text("[1]")
    with pytest.raises(OptionError, match="was not written by this recipe"):
        experiment.claim_folder(tmp_path, settings, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years"


def test_a_run_has_one_process_at_a_time(tmp_path):
    """The lock goes with the process that holds it, however that ends."""
    folder, settings = tmp_path / "run", {"layer": 1, "recipe": "train_ser"}
    experiment.claim_folder(folder, settings, overwrite=False)
    experiment.claim_folder(tmp_path / "next", settings, overwrite=False)  # lets go of the first
    code = ("import fcntl, sys, time\nfile = open(sys.argv[1], 'a')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
            "print('locked', flush=True)\ntime.sleep(60)")
    other = subprocess.Popen([sys.executable, "-c", code, str(folder / experiment.LOCK)], stdout=subprocess.PIPE)
    other.stdout.readline()
    for overwrite in (False, True):
        with pytest.raises(OptionError, match=r"another process trains the run in .*run: let it end"):
            experiment.claim_folder(folder, settings, overwrite)
    other.kill()
    other.communicate()
    experiment.claim_folder(folder, settings, overwrite=True)
    assert json.loads((folder / "settings.json").read_text()) == settings


def test_a_run_that_has_trained_nothing_takes_other_settings(tmp_path):
    folder = tmp_path / "run"
    for layer in (1, 2):
        experiment.claim_folder(folder, {"layer": layer, "recipe": "train_ser"}, overwrite=False)
    assert json.loads((folder / "settings.json").read_text())["layer"] == 2
    (folder / "save" / "CKPT+1").mkdir(parents=True)
    with pytest.raises(OptionError, match="other settings \\(layer 2 → 1\\)"):
        experiment.claim_folder(folder, {"layer": 1, "recipe": "train_ser"}, overwrite=False)


def test_a_folder_that_another_process_claims_at_this_moment_is_a_runs_folder(tmp_path, monkeypatch):
    settings, listed = {"layer": 2, "recipe": "train_ser"}, Path.iterdir

    def claimed_meanwhile(folder):
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / "save").mkdir(exist_ok=True)
        return listed(folder)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", claimed_meanwhile)
        experiment.claim_folder(tmp_path, settings, overwrite=False)
    assert json.loads((tmp_path / "settings.json").read_text()) == settings


def test_a_trained_run_can_be_tested_only(train, runs, tmp_path):
    before = predictions(runs["mp"])
    train("mp", runs["mp"].parents[3], "--test_only")
    assert predictions(runs["mp"]) == before
    with pytest.raises(OptionError, match="holds no trained epoch"):
        train("mp", tmp_path, "--store_folder", runs["mp"].parents[3] / "store", "--test_only")


def test_the_papers_regime(train, runs, tmp_path):
    folder = train("mp", tmp_path, "--regime", "paper", "--store_folder", runs["mp"].parents[3] / "store")
    used = metrics(folder)["protocol"]["settings"]
    paper = {"lr": 1e-4, "batch_size": 64, "lr_end": 1e-6, "max_grad_norm": 15, "dropout": 0.25,  # §3.3.1
             "annealing_patience": 1}
    assert {key: used[key] for key in paper} == paper
    assert used["number_of_epochs"] == 2  # the command line comes last
    assert ", lr 0.0001, " in (folder / "log.txt").read_text()
    built = experiment.load([str(ROOT / "hparams/mp.yaml"), "--regime", "paper"]).build()
    optimizer = built["opt_class"]([torch.nn.Parameter(torch.zeros(1))])
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["lr"] == 1e-4
    assert (built["tempi"][0], built["tempi"][-1], built["gain"]) == (0.85, 1.15, [-3, 6])


def test_the_first_epoch_goes_by_duration():
    generator = np.random.default_rng(0)
    durations = generator.uniform(0.5, 9, 50).tolist()
    sampler = batches.SortaGradSampler(durations, batch_size=8, seed=3)
    assert [item for batch in sampler for item in batch] == np.argsort(durations).tolist()
    orders = []
    for epoch in (2, 3):
        sampler.set_epoch(epoch)
        orders.append([item for batch in sampler for item in batch])
        assert sorted(orders[-1]) == list(range(50))
        assert [len(batch) for batch in sampler] == [8] * 6 + [2]
    assert orders[0] != orders[1]
    sampler.set_epoch(2)
    assert [item for batch in sampler for item in batch] == orders[0]


def write_glides(folder, speakers=5, each=6):
    """Tones that rise or fall by an octave, at another pitch for each speaker."""
    draw, rows = np.random.default_rng(0), []
    folder.mkdir()
    for speaker in range(speakers):
        for number in range(2 * each):
            label = ("rising", "falling")[number % 2]
            time = np.arange(round(draw.uniform(0.3, 0.5) * SAMPLE_RATE)) / SAMPLE_RATE
            start = 150 * 1.2**speaker * draw.uniform(0.95, 1.05) * (1 if label == "rising" else 2)
            octaves = (1 if label == "rising" else -1) * time / time[-1]
            phase = 2 * np.pi * np.cumsum(start * 2**octaves) / SAMPLE_RATE
            wave = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 9))
            name = f"s{speaker}_{number}"
            soundfile.write(folder / f"{name}.wav", 0.2 * wave + 0.002 * draw.standard_normal(len(time)), SAMPLE_RATE)
            rows.append(f"{name},{name}.wav,s{speaker},{label}")
    (folder / "manifest.csv").write_text("\n".join(["id,path,speaker,emotion", *rows]))
    return folder


@pytest.fixture
def hear_glides(recipe, tiny_encoder, tmp_path):
    """Trains a system on glides: ``hear_glides("rnn", epochs)``."""

    def run(system, epochs):
        return recipe(
            train_ser.main, f"{system}.yaml", "--corpus", "csv", "--data_folder", write_glides(tmp_path / "glides"),
            "--labels", "[rising, falling]", "--encoder", tiny_encoder, "--output_root", tmp_path / "results",
            "--pitch", "yin", "--tempi", "[]", "--num_workers", "0", "--units", "16", "--lr", "0.01",
            "--annealing_patience", "1000", "--batch_size", "8", "--number_of_epochs", epochs,
            "--test_speaker", "s1")  # a pitch between the others'

    return run


@pytest.mark.parametrize("system", ["baseline", "progressive"])
def test_it_learns_what_can_be_heard(hear_glides, system):
    folder = hear_glides(system, epochs=20)
    assert len(table(folder)) == 12
    assert metrics(folder)["UA"] == 1.0


def test_it_learns_what_it_is_trained_on(hear_glides):
    """An untrained recogniser's frames tell little of another speaker; the utterances heard can be learnt."""
    log = (hear_glides("rnn", epochs=40) / "log.txt").read_text()
    losses = [float(value) for value in re.findall(r"train loss (\S+),", log)]
    assert losses[0] > 0.5
    assert min(losses) < 0.4 < np.log(2)


KILLED = ("--number_of_epochs", "6", "--units", "48", "--batch_size", "4", "--num_workers", "1", "--noprogressbar")


def start(words, log):
    return processes.start(ROOT / "recipes/train_ser.py", [ROOT / "hparams/progressive.yaml", *words], log)


def kill_when(process, happened, log, patience=600.0):
    """Kills the process and its children at once as soon as ``happened()``."""
    end = time.monotonic() + patience
    try:
        while not happened():
            assert process.is_alive(), f"it ended before it was killed:\n{log.read_text()}"
            assert time.monotonic() < end, f"it took too long:\n{log.read_text()}"
            time.sleep(0.0005)
    finally:
        processes.kill(process)


def test_a_run_that_is_killed_gives_the_predictions_of_an_undisturbed_one(small, tmp_path):
    def words(name):
        return [*small, *KILLED, "--output_root", str(tmp_path / name)]

    def folder(name):
        return tmp_path / name / "synthetic" / "progressive-2" / "test-S01" / "seed-1"

    save, killed_log = folder("killed") / "save", tmp_path / "killed.log"
    moments = (
        lambda: len(list((tmp_path / "killed" / "store").glob("*/*/*.npy"))) >= 10,  # while representations are made
        lambda: any(save.glob("CKPT*/CKPT.yaml")),  # an epoch has ended, and the next has begun
        lambda: len(list(save.glob("CKPT*/CKPT.yaml"))) >= 1 and any(save.glob("CKPT*/CKPT.yaml.partial")),  # writing
    )
    undisturbed = start(words("undisturbed"), tmp_path / "undisturbed.log")
    try:
        for happened in moments:
            kill_when(start(words("killed"), killed_log), happened, killed_log)
            assert not (folder("killed") / "predictions.csv").exists(), "it had ended: there was nothing to kill"
        ended = start(words("killed"), killed_log)
        for process, log in ((ended, killed_log), (undisturbed, tmp_path / "undisturbed.log")):
            process.join(timeout=600)
            assert process.exitcode == 0, log.read_text()
    finally:
        processes.kill(undisturbed)
    assert predictions(folder("killed")) == predictions(folder("undisturbed"))
    epochs = [metrics(folder(name))["tested_epoch"] for name in ("killed", "undisturbed")]
    assert epochs[0] == epochs[1]
    assert (folder("killed") / "log.txt").read_text().count("Beginning experiment!") == 4


def test_logits_of_another_shape_are_told(train, tmp_path, monkeypatch):
    monkeypatch.setattr(MeanPooling, "forward", lambda self, inputs: self.output(inputs.means[3])[:, None])
    with pytest.raises(PluginError, match=r"head 'mp' gives logits of shape \(\d+, 1, 4\); expected \(\d+, 4\)"):
        train("mp", tmp_path, "--layer", "3")
