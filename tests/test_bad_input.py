"""Bad input gets a clear error, and nothing is lost: mistakes through the recipe's door, matched by their messages."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
import soundfile
import torch
import train_asr
import train_ser
from safetensors.torch import load_file, save_file

from ser_plugins import experiment
from ser_plugins.errors import DataError, OptionError, PluginError, SerError
from ser_plugins.files import write_atomically
from ser_plugins.text import subword_tokenizer

ROOT = Path(__file__).parents[1]


@pytest.fixture
def options(tiny_encoder, tmp_path):
    """Options of a small run on tones with the reader `csv`."""
    return ("--corpus", "csv", "--data_folder", tmp_path / "tones", "--labels", "[calm, tense]", "--pitch", "yin",
            "--tempi", "[]", "--number_of_epochs", "3", "--num_workers", "0", "--encoder", tiny_encoder,
            "--output_root", tmp_path / "results")


@pytest.fixture
def train(recipe, options, tmp_path):
    """Trains on tones; a word may hold ``{tmp}``."""

    def run(*words, hparams="mp.yaml"):
        return recipe(train_ser.main, hparams, *options, *(str(word).replace("{tmp}", str(tmp_path)) for word in words))

    return run


# Names


@pytest.mark.parametrize(("words", "error", "message"), [
    (["--head", "progresive"], PluginError,
     "no head 'progresive'; did you mean 'progressive'? installed: attention_pool, baseline, "),
    (["--corpus", "emodbb"], PluginError, "no corpus 'emodbb'; did you mean 'emodb'? installed: csv, emodb, iemocap"),
    (["--features", "mfcc_pich"], PluginError, "no feature extractor 'mfcc_pich'; did you mean 'mfcc_pitch'?"),
    (["--encoder", "deepspech2"], PluginError,
     "encoder 'deepspech2' is neither a folder nor installed; installed: deepspeech2"),
    (["--head_options", "{dropot: 0.1}"], OptionError, "head 'mp' has no argument 'dropot'; did you mean 'dropout'?"),
    (["--corpus_options", "{label_mapp: x}"], OptionError,
     "corpus 'csv' has no argument 'label_mapp'; did you mean 'label_map'? its arguments: label_map"),
    (["--corpus_options", "{speakers:4}"], OptionError,
     "'speakers:4' has no value: YAML wants a space after the colon, {speakers: 4}"),
    (["--feature_options", "{windw: 3}"], OptionError,
     "feature extractor 'mfcc_pitch' has no argument 'windw'; its arguments: pitch"),
    (["--units", "64"], OptionError, "head 'mp' takes no 'units'; its arguments are layer, dropout"),
    (["--layer", "9"], OptionError, "head 'mp': layer 9 does not exist: the encoder has layers 1 to 3"),
    (["--dropout", "much"], OptionError, "head 'mp': dropout must be float, not str 'much'"),
    (["--head_options", "{dropout: much}"], OptionError, "head 'mp': dropout must be float, not str 'much'"),
    (["--pitch", "praat"], OptionError, "pitch 'praat' is not one of opensmile, yin"),
    (["--labels", "[calm, tens]"], OptionError,
     "no emotion 'tens'; did you mean 'tense'? in the manifest: calm, tense (utterances: calm 3, tense 3)"),
    (["--labels", "[calm, calm]"], OptionError, "the label list must name each label once"),
    (["--test_speaker", "an"], OptionError, "no test speaker 'an'; did you mean 'ann'? speakers: ann, bob, cem"),
    (["--leyer", "2"], OptionError, "no option '--leyer'; did you mean '--layer'? keys of this YAML file: "),
    (["--devise", "cpu"], OptionError, "no option '--devise'; did you mean '--device'?"),
    (["--noprogresbar"], OptionError, "no option '--noprogresbar'; did you mean '--noprogressbar'?"),
    (["--regime", "smal"], OptionError, "no regime 'smal'; did you mean 'small'? known: paper, small"),
    (["--data_folder", "=", "x"], OptionError,
     "--data_folder needs a value: --data_folder VALUE or --data_folder=VALUE, without spaces around '='"),
    (["--data_folder=", "x"], OptionError, "unexpected 'x'; options are written --key value or --key=value"),
    (["--data_folder", "x", "y"], OptionError, "unexpected 'y'"),
    (["data_folder=x"], OptionError, "unexpected 'data_folder=x'"),
    (["--layer"], OptionError, "--layer needs a value"),
    (["--layer", "--seed", "3"], OptionError, "--layer needs a value"),
    (["--labels", "[calm"], OptionError, "--labels: '[calm' is not a YAML value"),
    (["--lr", "abc"], OptionError, "--lr: 'abc' is not a number, such as 0.0001"),
    (["--lr", "null"], OptionError, "--lr: None is not a number"),
    (["--batch_size", "2.5"], OptionError, "--batch_size: 2.5 is not a whole number, such as 64"),
    (["--seed", "true"], OptionError, "--seed: True is not a whole number"),
    (["--overwrite", "1"], OptionError, "--overwrite: 1 is not true or false"),
    (["--labels", "calm"], OptionError, "--labels: 'calm' is not a list"),
    (["--head_options", "[3]"], OptionError, "--head_options: [3] is not a mapping"),
    (["--tempi", "[fast]"], OptionError, "--tempi ['fast']: it must be positive numbers"),
    (["--gain", "[6, -3]"], OptionError, "--gain [6, -3]: it must be lowest and highest in dB"),
    (["--gain", "[1]"], OptionError, "--gain [1]: it must be"),
    (["--labels", "[1, 2]"], OptionError, "--labels [1, 2]: it must be two names or more"),
    (["--batch_size", "0"], OptionError, "--batch_size 0: it must be 1 or more"),
    (["--annealing_factor", "2"], OptionError, "--annealing_factor 2: it must be between 0 and 1"),
    (["--lr", "0.0001"], OptionError, "--lr 0.0001: it must lie above lr_end 0.006, where training ends"),
    (["--number_of_epochs", "0"], OptionError, "--number_of_epochs 0: it must be 1 or more"),
    (["--labels", "null"], OptionError, "--labels None: it must be two names or more"),
    (["--labels", "[calm]"], OptionError, "--labels ['calm']: it must be two names or more"),
    (["--device", "gpu"], OptionError, "no device 'gpu' on this machine; there are: cpu"),
    (["--device", "cuda:99"], OptionError, "no device 'cuda:99' on this machine; there are: cpu"),
    (["--lr", ".inf"], OptionError, "--lr inf: it must be above 0"),
])
def test_a_wrong_name_or_value(train, tones, words, error, message):
    tones()
    with pytest.raises(error) as caught:
        train(*words)
    assert message in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [
    ("experiment: !include:{hparams}/ser.yaml\n    head: mp\n    leyer: 2\n",
     "no key 'leyer'; did you mean 'layer'? keys of"),
    ("experiment: !include:{hparams}/sre.yaml\n    head: mp\n", "sre.yaml"),
    ("experiment: !include:{hparams}/ser.yaml\n    layer: 2\n", "'head' has no default; give it one: --head VALUE"),
    ("experiment: [", "is not valid YAML"),
    ("just text\n", "holds no keys"),
    ("seed: 1\ncorpus: csv\n", "; keys of this file: corpus, seed"),
    ("a: !ref <b>\n", "mine.yaml: "),
    ("a: !new:torch.nn.Linear2\n", "no option '--corpus'"),
])
def test_a_wrong_yaml_file(recipe, options, tones, tmp_path, text, message):
    tones()
    (tmp_path / "mine.yaml").write_text(text.replace("{hparams}", str(ROOT / "hparams")))
    words = () if text.startswith(("seed", "a: !ref")) else options
    with pytest.raises(OptionError) as caught:
        recipe(train_ser.main, tmp_path / "mine.yaml", *words)
    assert message in str(caught.value)


def test_a_full_yaml_file_with_a_misspelt_key(recipe, options, tones, tmp_path):
    tones()
    text = (ROOT / "hparams/ser.yaml").read_text().replace("!PLACEHOLDER", "mp").replace("gain: [", "gian: [")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(OptionError, match=r"mine\.yaml: no key 'gain'; did you mean 'gian'\? keys of this file: "):
        recipe(train_ser.main, tmp_path / "mine.yaml", *options, "--layer", "2")


@pytest.mark.parametrize(("argv", "message"), [
    ([], "usage: python recipes/RECIPE.py HPARAMS.yaml"),
    (["--head", "mp"], "usage: python recipes/RECIPE.py HPARAMS.yaml"),
    (["hparams/progresive.yaml"], "no such YAML file; the first argument is one of hparams/*.yaml"),
])
def test_a_command_line_without_a_yaml_file(argv, message):
    with pytest.raises(OptionError) as caught:
        train_ser.main(argv)
    assert message in str(caught.value)


# Corpora


@pytest.mark.parametrize(("corpus", "layout", "missing"), [
    ("emodb", "FOLDER/wav/03a01Fa.wav", "nowhere"),
    ("iemocap", "FOLDER/Session1/", "nowhere"),
    ("csv", "a CSV file, or FOLDER/manifest.csv, with the columns id, path, speaker, emotion", "nowhere"),
])
def test_a_folder_that_is_missing(train, corpus, layout, missing):
    with pytest.raises(DataError) as caught:
        train("--corpus", corpus, "--data_folder", "{tmp}/nowhere")
    assert f"is not this corpus: expected {layout}" in str(caught.value)
    assert str(caught.value).endswith(missing)


@pytest.mark.parametrize(("corpus", "missing"), [("emodb", "wav"), ("iemocap", "Session"), ("csv", "manifest.csv")])
def test_a_folder_of_another_layout(train, tmp_path, corpus, missing):
    (tmp_path / "other" / "documents").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        train("--corpus", corpus, "--data_folder", "{tmp}/other")
    assert "expected" in str(caught.value)
    assert f"first missing path: {tmp_path}/other/{missing}" in str(caught.value)


def test_the_recognisers_corpus_of_another_layout(recipe, tmp_path):
    (tmp_path / "train-clean-5").mkdir()
    with pytest.raises(DataError, match=r"train-clean-5 holds no transcripts: expected FOLDER/SPLIT/61/70968/"):
        recipe(train_asr.main, "asr_small.yaml", "--data_folder", tmp_path, "--output_folder", tmp_path / "run")


def write_nan(path, samples=4800):
    soundfile.write(path, np.full(samples, np.nan, dtype=np.float32), 16000, subtype="FLOAT")


def write_30_ms(path):
    soundfile.write(path, np.full(480, 0.1), 16000)


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda path: path.unlink(), "missing files (1):\n  {path}"),
    (lambda path: path.write_bytes(b""), "empty audio (1):\n  {path}: the file is empty (0 bytes)"),
    (lambda path: path.write_bytes(path.read_bytes()[:2000]), "{path}: truncated, "),
    (lambda path: path.write_text("Dear diary,\n"), "unreadable files (1):\n  {path}: not audio that libsndfile"),
    (write_nan, "1 of 6 recordings cannot be used:\n  cem_calm_0: {path}: 4800 of 4800 samples are not finite"),
    (write_30_ms, "shorter than 50 ms (1):\n  cem_calm_0: 30.0 ms, {path}"),
])
def test_bad_audio(train, tones, tmp_path, spoil, message):
    path = tones() / "cem_calm_0.wav"
    spoil(path)
    with pytest.raises(DataError) as caught:
        train()
    assert message.format(path=path) in str(caught.value)


def test_all_bad_recordings_are_named_at_once(train, tones):
    folder = tones()
    write_nan(folder / "ann_calm_0.wav")
    write_nan(folder / "bob_tense_0.wav", 5000)
    with pytest.raises(DataError, match="2 of 6 recordings cannot be used") as caught:
        train()
    assert "ann_calm_0: " in str(caught.value)
    assert "bob_tense_0: " in str(caught.value)


def without(folder, *names):
    lines = (folder / "manifest.csv").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(names)]
    assert len(kept) == len(lines) - len(names)
    (folder / "manifest.csv").write_text("\n".join(kept))


def test_a_speaker_without_a_class(train, tones):
    without(tones(), "ann_calm")
    with pytest.raises(DataError, match=r"test speaker 'ann' has no utterance of calm: choose another --test_speaker "
                                        r"or other --labels, or average .* with --allow_missing_class true"):
        train()
    folder = train("--allow_missing_class", "true")
    found = json.loads((folder / "metrics.json").read_text())
    assert found["recall"]["calm"] is None
    assert found["UA"] == found["recall"]["tense"]


def test_a_class_that_is_absent_from_training(train, tones):
    without(tones(), "cem_tense")  # ann is tested, bob validates, cem trains
    with pytest.raises(DataError, match="the training speakers have no utterance of tense: choose other labels"):
        train()


@pytest.mark.parametrize(("speakers", "found"), [(["ann"], "1: ann"), (["ann", "bob"], "2: ann, bob")])
def test_too_few_speakers(train, tones, speakers, found):
    tones(speakers=speakers)
    with pytest.raises(DataError, match=f"at least 3 speakers to test, validate and train on, found {found}$"):
        train()


def test_a_recording_of_two_speakers_is_a_leak(train, tones):
    folder = tones()
    shutil.copy(folder / "ann_calm_0.wav", folder / "cem_calm_0.wav")
    with pytest.raises(DataError, match="leak: 1 of the test set also in the training set: cem_calm_0"):
        train()


# Encoders


def cut(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def other_shape(folder):
    config = json.loads((folder / "encoder.json").read_text())
    config["architecture"]["units"] = 12
    (folder / "encoder.json").write_text(json.dumps(config))


def not_finite(folder):
    weights = load_file(folder / "weights.safetensors")
    weights["output.weight"][0, 0] = torch.nan
    save_file(weights, folder / "weights.safetensors")


def other_tokenizer(folder):
    model = subword_tokenizer(["A TONE", "A TALL BALL"], "bpe", 12)
    (folder / "tokenizer.model").write_bytes(model)


@pytest.mark.parametrize(("spoil", "error", "message"), [
    (cut, DataError, r"weights\.safetensors is corrupt: "),
    (other_shape, DataError, r"weights\.safetensors does not fit encoder\.json: .* has shape \(.*\), expected \("),
    (other_tokenizer, DataError, r"weights\.safetensors has 29 outputs, but tokenizer\.model beside it 12 pieces"),
    (not_finite, DataError, r"does not fit encoder\.json: output\.weight is not finite"),
    (lambda folder: (folder / "weights.safetensors").unlink(), DataError, r"weights\.safetensors is missing"),
    (lambda folder: (folder / "encoder.json").write_text("{"), DataError, r"encoder\.json is corrupt"),
    (lambda folder: (folder / "encoder.json").write_text("{}"), PluginError, "no encoder ''; installed: "),
    (lambda folder: (folder / "encoder.json").unlink(), DataError, r"holds no encoder\.json"),
    (lambda folder: (folder / "tokenizer.model").write_bytes(b"x" * 99), DataError, r"tokenizer\.model is corrupt"),
])
def test_a_bad_encoder(train, tones, tiny_encoder, tmp_path, spoil, error, message):
    tones()
    spoil(shutil.copytree(tiny_encoder, tmp_path / "encoder"))
    with pytest.raises(error, match=message):
        train("--encoder", "{tmp}/encoder")


# Disks


@pytest.mark.parametrize(("option", "message"), [
    ("--output_root", "manifest.csv cannot be written: Not a directory"),
    ("--store_folder", "store folder .* cannot be made: Not a directory"),
    ("--output_folder", "file/folder cannot be made: Not a directory"),
])
def test_a_folder_that_cannot_be_made(train, tones, tmp_path, option, message):
    tones()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=message):
        train(option, "{tmp}/file/folder")


@pytest.fixture(scope="module")
def known():
    """Holds the predictions of a run whose disk was never full."""
    return []


@pytest.fixture
def undisturbed(known, train, tones):
    tones()
    if not known:
        known.append((train("--output_root", "{tmp}/undisturbed") / "predictions.csv").read_bytes())
    return known[0]


class FullDisk:
    """Refuses what is written to names that contain a text, from the n-th time on, as a full disk does."""

    def __init__(self, monkeypatch, part, after=0):
        self.part, self.left = part, after
        opened, save = open, torch.save
        monkeypatch.setattr("builtins.open", lambda file, *rest, **named: self.wrapped(opened, file, *rest, **named))
        monkeypatch.setattr(torch, "save", lambda thing, path, *rest: self.saved(save, thing, path, *rest))

    def full(self, name):
        if self.part not in str(name):
            return False
        self.left -= 1
        return self.left < 0

    def wrapped(self, opened, file, mode="r", *rest, **named):
        if "w" in mode and self.full(file):
            opened(file, mode, *rest, **named).close()

            def refuse(*_):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            handle = io.BytesIO() if "b" in mode else io.StringIO()
            handle.write = refuse
            return handle
        return opened(file, mode, *rest, **named)

    def saved(self, save, thing, path, *rest):
        if self.full(path):
            Path(path).write_bytes(b"half")
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
        return save(thing, path, *rest)


@pytest.mark.parametrize(("part", "after", "message"), [
    (".manifest.csv", 0, "manifest.csv cannot be written: No space left on device"),
    (".settings.json", 0, "settings.json cannot be written: No space left on device"),
    ("means/", 3, r"means/\w+\.npy cannot be written: No space left on device"),
    ("head.ckpt", 1, "no checkpoint can be written to .*save: .*is the folder writable and the disk not full"),
    ("CKPT.yaml", 1, "no checkpoint can be written to .*save: .*No space left on device"),
    (".predictions.csv", 0, "predictions.csv cannot be written: No space left on device"),
    (".metrics.json", 0, "metrics.json cannot be written: No space left on device"),
])
def test_a_full_disk_is_told_and_nothing_is_lost(train, tones, undisturbed, monkeypatch, part, after, message):
    tones()
    with monkeypatch.context() as patch:
        FullDisk(patch, part, after)
        with pytest.raises(DataError, match=message):
            train()
    folder = train()  # there is space again
    assert (folder / "predictions.csv").read_bytes() == undisturbed
    assert [path for path in folder.rglob("*") if path.suffix == ".tmp"] == []


def test_a_full_disk_leaves_the_old_manifest(tmp_path, monkeypatch):
    path = tmp_path / "manifest.csv"
    path.write_text("old")
    with monkeypatch.context() as patch:
        FullDisk(patch, ".manifest.csv")
        with pytest.raises(DataError, match=r"manifest\.csv cannot be written: No space left on device"):
            write_atomically(path, lambda file: file.write("new"))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# What the user sees


@pytest.mark.parametrize("error", [
    DataError("the sentence"), OptionError("the sentence"), PluginError("the sentence"),
    OSError(errno.EACCES, "the sentence", "folder"), OSError(errno.ENOSPC, "the sentence"),
])
def test_an_error_is_one_sentence(monkeypatch, capsys, error):
    def main(argv):
        assert argv == ["a.yaml"]
        raise error

    monkeypatch.setattr(sys, "argv", ["recipe.py", "a.yaml"])
    with pytest.raises(SystemExit) as caught:
        experiment.run(main)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "the sentence" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("ours"), OSError("without a number"), BrokenPipeError(32, "x")])
def test_a_fault_of_ours_keeps_its_traceback(monkeypatch, error):
    def main(argv):
        raise error

    with pytest.raises(type(error)):
        experiment.run(main)


def test_the_program_tells_a_mistake_without_a_traceback():
    command = [sys.executable, str(ROOT / "recipes/train_ser.py"), str(ROOT / "hparams/mp.yaml"), "--leyer", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: no option '--leyer'; did you mean '--layer'?")


def test_the_program_tells_that_its_files_cannot_grow(train, options, tones):
    """The system refuses files over 60 kB, as a full disk would: the head's checkpoint is larger."""
    tones()
    train(hparams="baseline.yaml")  # numba keeps what it compiles here, which is larger too

    words = (ROOT / "hparams/baseline.yaml", *options, "--seed", "2")
    done = processes.run(ROOT / "recipes/train_ser.py", words, file_size=60_000)
    lines = [line for line in done.stderr.splitlines() if line and "%|" not in line]
    assert done.codes == (2,)
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: no checkpoint can be written to ")
    assert lines[0].endswith("is the folder writable and the disk not full?")


def test_all_errors_of_the_user_are_of_one_family():
    assert all(issubclass(error, SerError) for error in (PluginError, DataError, OptionError))
