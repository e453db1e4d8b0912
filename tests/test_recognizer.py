"""The recognisers on audio of every kind and length, with small networks of random weights."""

import io
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import soxr
import torch

from ser_plugins import inference, registry
from ser_plugins.decoding import decoder
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.errors import DataError, EmptyAudioError, OptionError
from ser_plugins.inference import EmotionRecognizer
from ser_plugins.text import character_tokenizer

LABELS = ["anger", "calm"]
HEADS = ("baseline", "mp", "rnn", "progressive")
each_head = pytest.mark.parametrize("head", HEADS)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(3)
    network = DeepSpeech2(units=8, num_layers=3, channels=2, time_strides=(2, 2), tokenizer=character_tokenizer())
    with torch.no_grad():
        network.output.weight.mul_(8)  # else no step is sure of its letter
    return network.freeze()


def recognizer_of(encoder, name="mp", temperature=None, beam_size=0):
    extractor = registry.create("features", "mfcc_pitch", {"pitch": "yin"})
    torch.manual_seed(1)
    head = registry.create("heads", name, {"units": 4} if name != "mp" else {}, {
        "feature_dim": extractor.dim, "layer_dims": encoder.layer_dims, "num_classes": 2}).eval()
    needs = head.needs.resolve({"layer": getattr(head, "layer", 1)}, 3)
    return EmotionRecognizer({"encoder": encoder, "extractor": extractor, "head": head}, {
        "labels": LABELS, "needs": needs, "decode": decoder(encoder, beam_size), "temperature": temperature})


@pytest.fixture(scope="module")
def recognizers(encoder):
    return {name: recognizer_of(encoder, name) for name in HEADS}


def speechlike(seconds, seed=0):
    """Noise with a swell of its own each 200 ms, float32 at 16 kHz."""
    generator = np.random.default_rng(seed)
    level = np.repeat(generator.uniform(0.01, 0.5, round(seconds * 5) + 1), 3200)[:round(seconds * 16000)]
    return (level * generator.uniform(-1, 1, len(level))).astype(np.float32)


@pytest.fixture(scope="module")
def samples():
    return speechlike(2.0)


def written(samples, rate=16000, kind="WAV", subtype="FLOAT"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


class Pipe(io.BytesIO):
    """Bytes that cannot be read twice."""

    def seekable(self):
        return False


@pytest.mark.parametrize("make", [
    lambda samples, path: str(path), lambda samples, path: path, lambda samples, path: path.read_bytes(),
    lambda samples, path: open(path, "rb"), lambda samples, path: io.BytesIO(path.read_bytes()),  # noqa: SIM115
    lambda samples, path: Pipe(path.read_bytes()), lambda samples, path: [path],
], ids=["text", "path", "bytes", "file", "memory", "pipe", "list"])
def test_a_file_in_any_form_is_one_file(recognizers, samples, tmp_path, make):
    path = tmp_path / "speech.wav"
    path.write_bytes(written(samples))
    wanted = recognizers["mp"].transcribe_and_classify_file(path)
    given = make(samples, path)
    answer = recognizers["mp"].transcribe_and_classify(given)
    assert (answer[0] if isinstance(given, list) else answer) == wanted
    if hasattr(given, "close"):
        given.close()
    assert wanted.text
    assert wanted.duration == 2.0


@pytest.mark.parametrize("make", [
    lambda samples: samples, lambda samples: samples.astype(np.float64), torch.from_numpy,
    lambda samples: np.stack([1.5 * samples, 0.5 * samples], axis=1),
    lambda samples: torch.from_numpy(samples).unsqueeze(1).requires_grad_(),
    lambda samples: np.rint(samples * 2**31).astype(np.int32),
], ids=["float32", "float64", "tensor", "stereo", "column", "int32"])
def test_samples_in_any_form_are_one_recording(recognizers, samples, make):
    wanted = recognizers["mp"].transcribe_and_classify(samples, rate=16000)
    found = recognizers["mp"].transcribe_and_classify(make(samples), rate=np.int64(16000))
    assert found.text == wanted.text
    assert found.probabilities == pytest.approx(wanted.probabilities, abs=1e-4)


def test_samples_of_another_rate(recognizers, samples):
    other = soxr.resample(samples, 16000, 44100, quality="HQ")
    found = recognizers["mp"].embeddings(other, layer=1, rate=44100)
    wanted = recognizers["mp"].embeddings(soxr.resample(other, 44100, 16000, quality="HQ"), layer=1, rate=16000)
    torch.testing.assert_close(found, wanted)
    assert recognizers["mp"].transcribe_and_classify(other, rate=44100).duration == pytest.approx(2.0, abs=1e-4)


@pytest.mark.parametrize(("given", "rate", "error", "message"), [
    (np.zeros(800, np.float32), None, OptionError, "samples have no rate of their own: give rate=, in Hz"),
    (np.zeros(800, np.float32), 0, OptionError, "rate 0: it must be a number of Hz above 0"),
    (np.zeros(800, np.float32), "16k", OptionError, "rate '16k'"),
    (np.zeros((2, 800), np.float32), 16000, OptionError,
     r"shape \[2, 800\]: expected \[samples\] or \[samples, channels\]; several recordings are a list"),
    (np.zeros(800, np.uint8), 16000, OptionError, "samples of type uint8: expected floats"),
    (np.zeros(0, np.float32), 16000, EmptyAudioError, "the audio holds no samples"),
    (np.full(800, np.nan), 16000, DataError, "samples: 800 of 800 samples are not finite"),
    (np.zeros(100, np.float32), 16000, DataError, "an utterance of 6 ms is too short"),
    (np.zeros(8000, np.float32), 16000, DataError, "samples: every sample is zero: nobody speaks in it"),
    (3.5, 16000, OptionError, "audio of type float: expected a path, bytes, a file object, an array or a tensor"),
    (None, None, OptionError, "audio of type NoneType"),
    ([], None, OptionError, "an empty list"),
    (b"", None, EmptyAudioError, r"audio file in memory: the file is empty \(0 bytes\)"),
    (b"Dear diary", None, DataError, "audio file in memory: not audio that libsndfile can read"),
    (io.StringIO("x"), None, OptionError, r"open as text; audio is bytes: open\(…, 'rb'\)"),
    ("nowhere.wav", None, DataError, "nowhere.wav: no such audio file"),
    (written(np.zeros(800, np.float32)), 16000, OptionError, "says its own rate: 'rate' is for samples"),
    (written(np.zeros(8000, np.float32))[:20000], None, DataError, "audio file in memory: truncated"),
])
def test_audio_that_is_none(recognizers, given, rate, error, message):
    with pytest.raises(error, match=message):
        recognizers["mp"].classify_file(given, rate=rate)


def test_an_empty_list_has_no_answers(recognizers):
    assert recognizers["mp"].transcribe_and_classify([]) == []


# Calibration


def test_the_temperature_is_that_of_the_answer_and_not_of_classify_file(encoder, samples):
    plain, calibrated = recognizer_of(encoder), recognizer_of(encoder, temperature=4.0)
    log_probs = plain.classify_file(samples, rate=16000)[0]
    assert torch.equal(calibrated.classify_file(samples, rate=16000)[0], log_probs)
    assert torch.equal(calibrated.classify_batch(torch.from_numpy(samples).unsqueeze(0))[0], log_probs)
    found = {temperature: one.transcribe_and_classify(samples, rate=16000)
             for temperature, one in ((1.0, plain), (4.0, calibrated))}
    for temperature, said in found.items():
        wanted = (log_probs[0] / temperature).softmax(dim=0).tolist()
        assert list(said.probabilities.values()) == pytest.approx(wanted, abs=1e-6)
        assert said.calibrated == (temperature == 4.0)
    tracked = calibrated.track_file(samples, window=9.0, step=9.0, rate=16000)
    assert tracked.track[0].probabilities == pytest.approx(tracked.probabilities, abs=1e-6)


# Audio of any length, and emotion over time


@pytest.fixture
def short_chunks(monkeypatch):
    """Pieces of 7 s in place of 30."""
    monkeypatch.setattr(inference, "CHUNK", 7.0)


@each_head
def test_a_window_over_everything_says_what_the_whole_says(recognizers, samples, head):
    said = recognizers[head].track_file(samples, window=5.0, step=5.0, rate=16000)
    assert [(one.start, one.end, one.label) for one in said.track] == [(0.0, 2.0, said.label)]
    assert said.track[0].probabilities == pytest.approx(said.probabilities, abs=1e-6)
    log_probs, score, index, labels = recognizers[head].classify_file([samples, samples], rate=16000)
    assert (log_probs.shape, score.shape, index.shape, labels) == ((2, 2), (2,), (2,), [said.label] * 2)
    assert log_probs[1].exp().tolist() == pytest.approx(list(said.probabilities.values()), abs=1e-6)


@each_head
def test_a_track_judges_the_frames_of_its_windows(recognizers, samples, head):
    """Against a head that is run on each window's frames, cut by hand from one pass over all."""
    recognizer = recognizers[head]
    track = recognizer.track_file(samples, window=1.0, step=0.5, rate=16000).track
    assert [(one.start, one.end) for one in track] == [(0, 0.5), (0.5, 1), (1, 1.5), (1.5, 2)]
    waveforms, lengths = torch.from_numpy(samples).unsqueeze(0), torch.tensor([32000])
    with torch.no_grad():
        encoding, features = recognizer.mods.encoder(waveforms, lengths), recognizer.mods.extractor(waveforms, lengths)
        for one, start in zip(track, (0.0, 0.25, 0.75, 1.0), strict=True):
            def window(frames, start=start):
                first, last = math.ceil(start * frames.rate), math.floor((start + 1) * frames.rate) + 1
                return type(frames)(frames.data[:, first:last], torch.tensor([last - first]), frames.rate)

            parts = type(encoding)(tuple(map(window, encoding.layers)), window(encoding.log_probs))
            logits = recognizer.mods.head(recognizer.hparams.needs.take(window(features), parts))
            assert list(one.probabilities.values()) == pytest.approx(logits.softmax(dim=1)[0].tolist(), abs=2e-3)


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("form", ["file", "samples"])
def test_a_long_recording_is_heard_in_pieces(recognizers, tmp_path, monkeypatch, form):
    recognizer, long = recognizers["mp"], speechlike(16.6)
    soundfile.write(tmp_path / "long.wav", long, 16000, subtype="FLOAT")
    heard = []
    forward = DeepSpeech2.forward
    monkeypatch.setattr(DeepSpeech2, "forward", lambda self, wavs, *rest: heard.append(wavs.shape) or forward(
        self, wavs, *rest))
    given = (tmp_path / "long.wav", None) if form == "file" else (long, 16000)
    said = recognizer.track_file(given[0], window=2.0, step=0.5, rate=given[1])
    assert len(heard) == 11  # pieces of 7 s, each a second on from the one before: one pass over each
    assert max(heard) == (1, 112000)
    assert said.duration == pytest.approx(16.6)
    assert [one.start for one in said.track] == [0.5 * number for number in range(33)]
    assert said.track[-1].end == said.duration
    starts = [word.start for word in said.words]
    assert starts == sorted(starts)
    assert all(one.end <= other.start for one, other in itertools.pairwise(said.words))
    assert [word.text for word in said.words] == said.text.split()
    assert 10 < said.words[-1].end <= said.duration
    assert said.text == recognizer.transcribe_file(given[0], 7.0, given[1])


@pytest.mark.usefixtures("short_chunks")
def test_the_emotion_of_a_long_recording_is_the_mean_of_its_pieces(recognizers):
    """7.5 s are two pieces; what each gives is 4 s and 3.5 s long."""
    recognizer, long = recognizers["mp"], speechlike(7.5)
    found = recognizer.classify_file(long, rate=16000)[0].exp()[0]
    shares = []
    with torch.no_grad():
        for start, end, first, last in ((0, 7, 0, 4), (1, 7.5, 3, 6.5)):
            piece = torch.from_numpy(long[round(start * 16000):round(end * 16000)]).unsqueeze(0)
            layer = recognizer.mods.encoder(piece, torch.tensor([piece.shape[1]])).layers[2].data[0]
            mean = layer[first * 25:math.floor(last * 25) + 1].mean(dim=0)
            shares.append(recognizer.mods.head.output(mean).softmax(dim=0))
    assert found.tolist() == pytest.approx(((4 * shares[0] + 3.5 * shares[1]) / 7.5).tolist(), abs=1e-3)


@pytest.mark.usefixtures("short_chunks")
def test_embeddings_are_the_means_that_heads_get(recognizers, samples):
    recognizer, others = recognizers["mp"], speechlike(16.6)
    found = recognizer.embeddings([samples, others], layer=2, rate=16000)
    assert found.shape == (2, 16)
    with torch.no_grad():
        encoding = recognizer.mods.encoder(torch.from_numpy(samples).unsqueeze(0), torch.tensor([32000]))
        whole = recognizer.mods.encoder(torch.from_numpy(others).unsqueeze(0), torch.tensor([len(others)]))
    torch.testing.assert_close(found[:1], encoding.layers[1].mean())
    assert torch.nn.functional.cosine_similarity(found[1:], whole.layers[1].mean()).item() > 0.99
    assert recognizer.embeddings(samples, 1, rate=16000).shape == (1, 16)


@pytest.mark.parametrize("layer", [0, 4, True, "2", 1.0])
def test_a_layer_that_does_not_exist(recognizers, samples, layer):
    with pytest.raises(OptionError, match=rf"layer {layer!r} does not exist: the encoder has layers 1 to 3"):
        recognizers["mp"].embeddings(samples, layer, rate=16000)


def test_windows_that_are_none(recognizers, samples):
    with pytest.raises(OptionError, match=r"step 3: it must be a number of seconds, from 0\.01 to the window's 2"):
        recognizers["mp"].track_file(samples, window=2, step=3, rate=16000)


# Words


def spelling(encoder, monkeypatch, steps, total):
    """Makes the encoder hear the letters of ``steps``, step → letter, and blanks elsewhere."""
    tokens = torch.zeros(total, dtype=torch.long)
    for step, letter in steps.items():
        tokens[step] = encoder.tokenizer.piece_to_id(letter)
    sure = (10.0 * torch.nn.functional.one_hot(tokens, encoder.vocabulary)).log_softmax(dim=1).unsqueeze(0)
    forward = DeepSpeech2.forward

    def heard(self, wavs, lengths, *rest):
        encoding = forward(self, wavs, lengths, *rest)
        frames = type(encoding.layers[0])(sure, torch.tensor([total]), 25.0)
        return type(encoding)(encoding.layers, frames)

    monkeypatch.setattr(DeepSpeech2, "forward", heard)


@pytest.mark.parametrize("beam_size", [0, 10])
def test_words_have_the_times_of_their_letters(encoder, monkeypatch, samples, beam_size):
    """Greedy paths and forced alignment of searched texts: HI at steps 5 to 9, and YOU at 20 to 29, of 40 ms."""
    steps = {5: "H", 6: "H", 9: "I", 14: "▁", 20: "Y", 24: "O", 29: "U"}
    spelling(encoder, monkeypatch, steps, total=51)
    said = recognizer_of(encoder, beam_size=beam_size).transcribe_and_classify(samples, rate=16000)
    assert said.text == "HI YOU"
    assert [(word.text, word.start, word.end) for word in said.words] == [
        ("HI", 0.18, 0.38), ("YOU", 0.78, 1.18)]


def test_words_of_a_searched_text_that_has_too_many_tokens_have_no_times(encoder, samples, monkeypatch):
    recognizer = recognizer_of(encoder, beam_size=2)
    monkeypatch.setattr(type(recognizer.hparams.decode), "search", lambda self, item, rate: [(item, "HI " * 50)])
    said = recognizer.transcribe_and_classify(samples, rate=16000)
    assert (said.text, said.words) == ("HI " * 50, ())


def test_words_of_an_encoder_without_tokens_have_no_times(encoder, samples, monkeypatch):
    monkeypatch.setattr(encoder, "tokenizer", None)
    recognizer = recognizer_of(encoder)
    recognizer.hparams.decode = lambda log_probs: ["HI"]
    said = recognizer.transcribe_and_classify(samples, rate=16000)
    assert (said.text, said.words) == ("HI", ())


def test_an_encoder_without_a_ctc_output_tells_the_emotion(encoder, samples, monkeypatch):
    forward = DeepSpeech2.forward
    monkeypatch.setattr(DeepSpeech2, "forward", lambda self, wavs, *rest: replace(forward(self, wavs, *rest), ctc=None))
    said = recognizer_of(encoder).track_file(samples, window=1.0, rate=16000)
    assert (said.text, said.words, len(said.track)) == ("", (), 4)
    assert sum(said.probabilities.values()) == pytest.approx(1)
    with pytest.raises(DataError, match="this encoder has no CTC output"):
        recognizer_of(encoder).transcribe_file(samples, rate=16000)
