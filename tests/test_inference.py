"""Trained systems on new speech: equal to the recipe's test stage, file by file, and one pass through the encoder."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from safetensors.torch import load_file, save_file
from speechbrain.inference.interfaces import Pretrained

from ser_plugins import audio, cli, inference, models, predictions
from ser_plugins.contracts import Encoder, Encoding, Frames
from ser_plugins.decoding import BeamSearch
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.errors import DataError, OptionError, PluginError
from ser_plugins.inference import EmotionRecognizer, Recognition, SpeechRecognizer
from ser_plugins.metrics import fit_temperature, tempered
from ser_plugins.models import load_encoder

SYSTEMS = ("baseline", "mp", "rnn", "progressive")
LABELS = ["anger", "happiness", "neutral", "sadness"]
TOLERANCE = {"baseline": 1e-4, "mp": 1e-4, "progressive": 1e-4, "rnn": 2e-3}  # rnn trains on frames stored as fp16
each_system = pytest.mark.parametrize("system", SYSTEMS)


@pytest.fixture(scope="module")
def recognizers(runs):
    return {system: EmotionRecognizer.from_hparams(source=folder) for system, folder in runs.items()}


@pytest.fixture(scope="module")
def files(synthetic_rows):
    """Id → file of the speaker that the runs tested; utterances of several durations."""
    return {row.id: row.path for row in synthetic_rows if row.speaker == "S01"}


@pytest.fixture
def passes(monkeypatch):
    """Batch sizes of the encoder's calls."""
    calls = []
    forward = DeepSpeech2.forward
    monkeypatch.setattr(DeepSpeech2, "forward", lambda self, wavs, *rest: calls.append(len(wavs)) or forward(
        self, wavs, *rest))
    return calls


def said(folder):
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@each_system
def test_a_file_gets_what_the_recipes_test_stage_gave_it(runs, recognizers, files, system):
    rows = said(runs[system])
    assert len(rows) == len(files) == 12
    for row in rows:
        log_probs, score, index, label = recognizers[system].classify_file(files[row["id"]])
        wanted = [float(row[f"p_{name}"]) for name in LABELS]
        assert log_probs.exp()[0].tolist() == pytest.approx(wanted, abs=TOLERANCE[system])
        first, second = sorted(wanted)[:1:-1]
        if first - second > 2 * TOLERANCE[system]:
            assert label == [row["prediction"]]
        assert LABELS[index.item()] == label[0]
        assert score.item() == log_probs.max().item()


@each_system
def test_shapes_are_those_of_speechbrains_encoder_classifier(recognizers, system):
    assert isinstance(recognizers[system], Pretrained)
    waveforms = 0.1 * torch.randn(3, 9600, generator=torch.Generator().manual_seed(0))
    log_probs, score, index, labels = recognizers[system].classify_batch(waveforms)
    assert (log_probs.shape, score.shape, index.shape) == ((3, 4), (3,), (3,))
    assert log_probs.exp().sum(dim=1).tolist() == pytest.approx([1, 1, 1])
    assert index.dtype == torch.int64
    assert score.tolist() == log_probs.gather(1, index.unsqueeze(1)).squeeze(1).tolist()
    assert labels == [LABELS[number] for number in index.tolist()]
    assert torch.equal(recognizers[system](waveforms)[0], log_probs)  # forward is the same
    assert not log_probs.requires_grad


@each_system
def test_a_batch_with_relative_lengths_equals_its_files(recognizers, files, system):
    chosen = sorted(files.values())[::4]
    singles = [torch.from_numpy(audio.read(path)) for path in chosen]
    assert len({len(single) for single in singles}) == 3
    batch = torch.nn.utils.rnn.pad_sequence(singles, batch_first=True)
    batch[batch == 0] = 7.0  # what lies beyond a length is not heard, whatever it is
    for row, single in zip(batch, singles, strict=True):
        row[:len(single)] = single
    relative = torch.tensor([len(single) / batch.shape[1] for single in singles])
    log_probs, *_, labels = recognizers[system].classify_batch(batch, relative)
    for number, path in enumerate(chosen):
        alone, *_, label = recognizers[system].classify_file(path)
        torch.testing.assert_close(log_probs[number:number + 1], alone, rtol=0, atol=1e-4)
        assert labels[number] == label[0]
    texts = recognizers[system].transcribe_batch(batch, relative)
    assert texts == [recognizers[system].transcribe_file(path) for path in chosen]


@each_system
def test_transcript_and_emotion_come_from_one_pass(recognizers, files, passes, system):
    path = next(iter(files.values()))
    both = recognizers[system].transcribe_and_classify_file(path)
    assert passes == [1]
    assert isinstance(both, Recognition)
    log_probs, _, _, label = recognizers[system].classify_file(path)
    assert len(passes) == (1 if system == "baseline" else 2)
    assert both.text == recognizers[system].transcribe_file(path)
    assert both.label == label[0]
    assert list(both.probabilities) == LABELS
    temperature = recognizers[system].hparams.temperature
    wanted = tempered(log_probs.exp().double().numpy(), temperature)[0]
    assert list(both.probabilities.values()) == pytest.approx(wanted.tolist(), abs=1e-6)
    assert both.calibrated
    assert [word.text for word in both.words] == both.text.split()
    assert both.duration == pytest.approx(audio.info(path).duration)
    assert both.track == ()


def test_a_stereo_file_of_another_rate(recognizers, files, tmp_path):
    path = next(iter(files.values()))
    samples = soxr.resample(audio.read(path), 16000, 44100)
    balance = np.stack([1.5 * samples, 0.5 * samples], axis=1)  # its mean is the original
    soundfile.write(tmp_path / "stereo.flac", balance, 44100)
    log_probs, *_ = recognizers["progressive"].classify_file(tmp_path / "stereo.flac")
    wanted, *_ = recognizers["progressive"].classify_file(path)
    assert log_probs.exp()[0].tolist() == pytest.approx(wanted.exp()[0].tolist(), abs=0.02)


def test_the_model_folder_is_enough(runs, recognizers, files, tmp_path):
    shutil.copytree(runs["progressive"] / "model", tmp_path / "moved")
    path = next(iter(files.values()))
    moved = EmotionRecognizer.from_hparams(source=tmp_path / "moved", run_opts={"device": "cpu"})
    assert torch.equal(moved.classify_file(path)[0], recognizers["progressive"].classify_file(path)[0])


def test_the_shipped_encoder_transcribes(files):
    recognizer = SpeechRecognizer.from_hparams()
    path = next(iter(files.values()))
    assert isinstance(recognizer.transcribe_file(path), str)
    samples = torch.from_numpy(audio.read(path)).unsqueeze(0)
    encoding = recognizer.encode_batch(samples)
    direct = DeepSpeech2.from_pretrained()(samples, torch.tensor([samples.shape[1]]))
    torch.testing.assert_close(encoding.log_probs.data, direct.log_probs.data, rtol=0, atol=0)
    assert math.isclose(encoding.log_probs.data[0, 0].exp().sum(), 1, abs_tol=1e-5)


def test_words_of_synthetic_speech_lie_where_it_is_spoken(files):
    """The shipped encoder on an utterance of espeak's between two seconds of silence."""
    recognizer = SpeechRecognizer.from_hparams()
    spoken = audio.read(next(iter(files.values())))
    silence = np.zeros(32000, np.float32)
    padded = np.concatenate([silence, spoken, silence])
    log_probs = recognizer.encode_file(padded, rate=16000)
    text, words = recognizer._spoken(log_probs, len(padded) / 16000)
    assert len(words) >= 3
    assert [word.text for word in words] == text.split()
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    within = [word.start >= 1.8 and word.end <= 2.2 + len(spoken) / 16000 for word in words]
    assert np.mean(within) >= 0.8


@each_system
def test_the_temperature_of_a_run_is_fitted_on_its_validation_speaker(runs, recognizers, system):
    valid = predictions.read(runs[system] / "predictions_valid.csv")
    fitted = fit_temperature(valid.truth, valid.probabilities, LABELS)
    assert recognizers[system].hparams.temperature == pytest.approx(fitted, rel=1e-2)  # the file has six digits


# Files of any length


class Local(Encoder):
    """An encoder whose steps of 40 ms hear 200 ms around them, over 3 tokens."""

    rate, layer_dims = 25.0, (3,)

    def __init__(self):
        super().__init__()
        self.output = torch.nn.Conv1d(1, 3, 3200, stride=640, padding=1600)
        self.heard = []

    @classmethod
    def from_pretrained(cls, source=None):
        return cls()

    def forward(self, waveforms, lengths):
        self.heard.append(waveforms.shape[1])
        frames = Frames(self.output(waveforms.unsqueeze(1)).transpose(1, 2).log_softmax(2), lengths // 640 + 1, 25.0)
        return Encoding((frames,), frames)

    def decode(self, log_probs):
        return ["".join(map(str, item.argmax(dim=1).tolist())) for item in log_probs.unpad()]

    fingerprint = "local"


@pytest.fixture
def local():
    torch.manual_seed(0)
    encoder = Local().freeze()
    return SpeechRecognizer({"encoder": encoder}, {"decode": encoder.decode}, {"device": "cpu"})


@pytest.mark.parametrize(("seconds", "pieces"), [(0.5, 1), (8.0, 1), (8.01, 2), (10.0, 2), (10.04, 3), (23.456, 9)])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_the_pieces_of_a_long_file_give_its_steps(local, tmp_path, rate, seconds, pieces):
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, round(seconds * rate))
    soundfile.write(tmp_path / "long.wav", noise, rate, subtype="FLOAT")
    whole = local.encode_batch(local.load_audio(tmp_path / "long.wav").unsqueeze(0)).log_probs
    local.mods.encoder.heard.clear()
    found = local.encode_file(tmp_path / "long.wav", chunk=8.0)
    assert len(local.mods.encoder.heard) == pieces
    assert max(local.mods.encoder.heard) <= 8 * 16000
    assert found.lengths.tolist() == whole.lengths.tolist()
    torch.testing.assert_close(found.data, whole.data, rtol=0, atol=0 if pieces == 1 else 1e-5)
    assert local.transcribe_file(tmp_path / "long.wav", chunk=8.0) == local.transcribe_file(tmp_path / "long.wav")


def test_a_chunk_is_longer_than_its_contexts(local, files):
    with pytest.raises(OptionError, match=r"chunk 6\.0 s: it must be above 6 s, of which 3 s at either end"):
        local.transcribe_file(next(iter(files.values())), chunk=6.0)


@pytest.mark.parametrize("strides", [(2, 1), (2, 2)])
def test_a_long_file_has_as_many_steps_of_the_recogniser_as_in_one_piece(tmp_path, strides):
    encoder = DeepSpeech2(units=4, num_layers=1, channels=1, time_strides=strides).freeze()
    recognizer = SpeechRecognizer({"encoder": encoder}, {}, {"device": "cpu"})
    for samples in (160000, 160001, 160639, 160640, 199999):
        soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).uniform(-0.1, 0.1, samples), 16000)
        found = recognizer.encode_file(tmp_path / "long.wav", chunk=7.0)
        assert found.lengths.tolist() == encoder.steps(torch.tensor([samples])).tolist()


def test_a_short_file_is_one_piece(tiny_encoder, files, passes):
    recognizer, path = SpeechRecognizer.from_hparams(tiny_encoder), next(iter(files.values()))
    found = recognizer.encode_file(path)
    wanted = recognizer.encode_batch(recognizer.load_audio(path).unsqueeze(0)).log_probs
    assert torch.equal(found.data, wanted.data)
    assert recognizer.transcribe_file(path) == recognizer.mods.encoder.decode(wanted)[0]
    assert passes == [1, 1, 1]


def test_transcripts_by_beam_search(runs, tiny_encoder, files, capsys):
    """By the class and the command; an emotion has one too."""
    path = str(next(iter(files.values())))
    encoder = DeepSpeech2.from_pretrained(tiny_encoder)
    samples = torch.from_numpy(audio.read(path)).unsqueeze(0)
    wanted = BeamSearch(encoder.tokenizer, 4)(encoder(samples, torch.tensor([samples.shape[1]])).log_probs)[0]
    assert SpeechRecognizer.from_hparams(tiny_encoder, beam_size=4).transcribe_file(path) == wanted
    assert EmotionRecognizer.from_hparams(runs["mp"], beam_size=4).transcribe_and_classify_file(path).text == wanted
    words = ["transcribe", path, "--encoder", str(tiny_encoder), "--beam_size"]
    assert cli.main([*words, "4"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == wanted
    assert cli.main([*words, "-4"]) == 2
    assert "ser: error: beam_size -4: it must be a whole number, 0" in capsys.readouterr().err


# Folders that are none


@pytest.fixture
def model(runs, tmp_path):
    """A copy of a model folder, to spoil."""
    return Path(shutil.copytree(runs["progressive"] / "model", tmp_path / "model"))


def change(folder, **values):
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**content, **values}))


def remove_key(folder):
    content = json.loads((folder / "model.json").read_text())
    del content["head"]
    (folder / "model.json").write_text(json.dumps(content))


def truncate(folder):
    path = folder / "head.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def reshape(folder):
    path = folder / "head.safetensors"
    save_file({name: tensor[:1].clone() for name, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize(("spoil", "error", "message"), [
    (lambda folder: (folder / "model.json").unlink(), DataError,
     r"holds no trained system: expected model/model\.json, as train_ser\.py writes it when training has ended"),
    (lambda folder: (folder / "head.safetensors").unlink(), DataError, r"head\.safetensors is corrupt: .*No such file"),
    (lambda folder: (folder / "model.json").write_text("{"), DataError, r"model\.json is corrupt: "),
    (lambda folder: (folder / "model.json").write_text("[1]"), DataError, "is corrupt: it holds no mapping"),
    (remove_key, DataError, r"model\.json is corrupt: 'head' is missing"),
    (lambda folder: change(folder, temperature="hot"), DataError, "temperature"),
    (lambda folder: change(folder, temperature=0), DataError, "temperature"),
    (truncate, DataError, r"head\.safetensors is corrupt: "),
    (reshape, DataError, r"head\.safetensors does not fit the head that model\.json names"),
    (lambda folder: change(folder, head="progresive"), PluginError, "no head 'progresive'; did you mean 'progressive'"),
    (lambda folder: change(folder, head_options={"unit": 3}), OptionError, "'unit'; did you mean 'units'"),
    (lambda folder: change(folder, head_options={"layer": 9}), OptionError, "the encoder has layers 1 to 3"),
    (lambda folder: change(folder, encoder="deepspeech2"), DataError,
     "the encoder 'deepspeech2' installed here differs from the one that the head was trained on"),
    (lambda folder: change(folder, features_fingerprint="0" * 16), DataError,
     "the features 'mfcc_pitch' installed here differs"),
    (lambda folder: change(folder, encoder="/nowhere/encoder"), PluginError,
     "encoder '/nowhere/encoder' is neither a folder nor installed; installed: .*deepspeech2"),
])
def test_a_model_folder_that_is_spoilt_is_refused(model, spoil, error, message):
    spoil(model)
    with pytest.raises(error, match=message):
        EmotionRecognizer.from_hparams(source=model)


def test_an_encoder_that_was_trained_on_is_refused(model, tiny_encoder, tmp_path):
    changed = Path(shutil.copytree(tiny_encoder, tmp_path / "changed"))
    weights = load_file(changed / "weights.safetensors")
    weights["output.weight"][0, 0] += 0.5
    save_file(weights, changed / "weights.safetensors")
    change(model, encoder=str(changed))
    with pytest.raises(DataError, match=r"the encoder '.*changed' installed here differs"):
        EmotionRecognizer.from_hparams(source=model)


def test_a_run_that_has_not_ended_holds_no_system(tmp_path):
    with pytest.raises(DataError, match="holds no trained system"):
        EmotionRecognizer.from_hparams(source=tmp_path)
    with pytest.raises(DataError, match=r"sed-1: no such folder; a trained system is the folder of a run"):
        EmotionRecognizer.from_hparams(source=tmp_path / "sed-1")


def test_an_encoder_is_loaded_frozen(tiny_encoder):
    encoder = load_encoder(tiny_encoder)
    assert not encoder.training
    assert not any(weight.requires_grad for weight in encoder.parameters())


# The command line


@pytest.fixture
def bad(tmp_path):
    """A text file named .wav, an empty file, NaN, 10 ms, and a name without a file."""
    paths = {name: tmp_path / f"{name}.wav" for name in ("text", "empty", "nan", "short", "none")}
    paths["text"].write_text("Dear diary,\n")
    paths["empty"].write_bytes(b"")
    soundfile.write(paths["nan"], np.full(8000, np.nan, dtype=np.float32), 16000, subtype="FLOAT")
    soundfile.write(paths["short"], np.full(160, 0.1), 16000)
    return paths


@pytest.mark.parametrize("system", ["rnn", "progressive"])
def test_predict_answers_every_file_that_can_be_read(runs, recognizers, files, bad, capsys, system):
    good = [str(path) for path in list(files.values())[:2]]
    words = [good[0], *map(str, bad.values()), good[1], "--model", str(runs[system])]
    assert cli.main(["predict", *words]) == 1
    out, err = capsys.readouterr()
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["file"] for answer in answers] == good
    for answer, path in zip(answers, good, strict=True):
        assert answer == {"file": path, **recognizers[system].transcribe_and_classify_file(path).to_dict()}
    faults = {json.loads(line)["file"]: json.loads(line)["error"] for line in err.splitlines()}
    assert list(faults) == [str(path) for path in bad.values()]
    for name, text in (("text", "not audio that libsndfile can read"), ("empty", "empty (0 bytes)"),
                       ("nan", "8000 of 8000 samples are not finite"), ("short", "an utterance of 10 ms is too short"),
                       ("none", "no such audio file")):
        assert text in faults[str(bad[name])]


def test_transcribe_answers_with_the_encoder_that_is_named(tiny_encoder, files, bad, capsys):
    path = str(next(iter(files.values())))
    assert cli.main(["transcribe", path, "--encoder", str(tiny_encoder)]) == 0
    wanted = SpeechRecognizer.from_hparams(tiny_encoder).transcribe_file(path)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"file": path, "text": wanted}]
    assert cli.main(["transcribe", str(bad["empty"]), path, "--encoder", str(tiny_encoder)]) == 1
    assert json.loads(capsys.readouterr().out)["file"] == path


@pytest.mark.parametrize(("words", "message"), [
    (["predict", "a.wav", "--model", "{tmp}"], "holds no trained system"),
    (["transcribe", "a.wav", "--encoder", "{tmp}"], "holds no encoder.json"),
    (["transcribe", "a.wav", "--encoder", "deepspech2"], "encoder 'deepspech2' is neither a folder nor installed"),
])
def test_a_model_that_is_none_is_one_sentence(tmp_path, capsys, words, message):
    assert cli.main([word.format(tmp=tmp_path) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ser: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["UNTRAINED", "save_model"])
def test_what_reads_and_writes_models_has_one_place(name):
    assert hasattr(models, name)
    assert not hasattr(inference, name)
