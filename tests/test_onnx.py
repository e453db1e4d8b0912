"""Exported graphs: equal to PyTorch on batches of mixed lengths, and refused where they cannot be."""

import json

import pytest
import torch

from ser_plugins import cli, folder_check, models, onnx_export, registry
from ser_plugins.contracts import Encoding, Frames
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.errors import DataError, OptionError
from ser_plugins.features.spectrogram import Spectrogram
from ser_plugins.inference import EmotionRecognizer

onnx = pytest.importorskip("onnx", reason="onnx is missing: pip install 'ser_plugins[onnx]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is missing: pip install 'ser_plugins[onnx]'")

LABELS = ["anger", "neutral", "sadness"]


def system(head, features="spectrogram", temperature=None, **architecture):
    """A random recogniser under a random head."""
    torch.manual_seed(0)
    encoder = DeepSpeech2(units=8, num_layers=2, channels=2, vocabulary=11, **architecture).freeze()
    for norm in (part for part in encoder.modules() if hasattr(part, "running_var")):
        norm.running_var.uniform_(0.5, 2)  # a trained one's are not 1
    extractor = registry.create("features", features, {"pitch": "yin"} if features == "mfcc_pitch" else {}).eval()
    options = {} if head == "baseline" else {"layer": 2}
    built = registry.create("heads", head, options, {
        "feature_dim": extractor.dim, "layer_dims": encoder.layer_dims, "num_classes": len(LABELS)}).eval()
    needs = built.needs.resolve(options, 2)
    content = {"head": head, "features": features, "encoder": "tiny"}
    return models.Model(LABELS, extractor, encoder, built, needs, temperature, content, None)


@pytest.mark.parametrize(("head", "temperature", "architecture"), [
    ("mp", 1.7, {"time_strides": (2, 2)}),
    ("rnn", None, {"cell": "lstm", "representation": "summed", "frontend": {
        "features": "spectrogram", "padding": "reflect", "normalize": "global", "power": True, "scale": 1.0}}),
    ("progressive", None, {}),
])
def test_a_graph_gives_pytorchs_numbers_on_mixed_lengths(tmp_path, head, temperature, architecture):
    model = system(head, temperature=temperature, **architecture)
    onnx_export.export_onnx(model, tmp_path / "model.onnx")
    graph = onnx_export.session(str(tmp_path / "model.onnx"))
    recognizer = EmotionRecognizer({"encoder": model.encoder, "extractor": model.extractor, "head": model.head},
                                   {"labels": LABELS, "needs": model.needs}, {"device": "cpu"})
    for lengths in ((40000, 15999, 27001, 400), (33333,)):
        waveforms, counts = onnx_export.speech(lengths, seed=2)
        waveforms[torch.arange(waveforms.shape[1]) >= counts.unsqueeze(1)] = 7.0  # what lies beyond is not heard
        tokens, steps, emotions = onnx_export.run(graph, waveforms, counts)
        relative = counts / waveforms.shape[1]
        encoding = recognizer.encode_batch(waveforms, relative)
        torch.testing.assert_close(tokens, encoding.log_probs.data, rtol=0, atol=1e-4)
        assert steps.tolist() == encoding.log_probs.lengths.tolist()
        wanted = recognizer.classify_batch(waveforms, relative)[0]
        wanted = (wanted / (temperature or 1)).log_softmax(dim=1)
        torch.testing.assert_close(emotions, wanted, rtol=0, atol=1e-4)
    about = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert json.loads(about["labels"]) == LABELS
    assert about["sample_rate"] == "16000"


def test_a_spectrogram_by_convolution_is_that_of_the_transform():
    waveforms, _ = onnx_export.speech((16000, 16000), seed=5)
    extractor = Spectrogram()
    padded = torch.nn.functional.pad(waveforms, (160, 160))
    wanted = torch.stft(waveforms, 320, 160, window=extractor.window, center=True, pad_mode="constant",
                        return_complex=True).abs()
    torch.testing.assert_close(extractor._magnitude(padded), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["baseline", "progressive"])
def test_features_outside_of_pytorch_are_refused(tmp_path, head):
    with pytest.raises(OptionError, match=f"head '{head}' reads the features 'mfcc_pitch', which are computed outside"):
        onnx_export.export_onnx(system(head, "mfcc_pitch"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


class Frozen(DeepSpeech2):
    """Its graph holds the number of samples that tracing saw."""

    def forward(self, waveforms, lengths, augment=None):
        encoding = super().forward(waveforms, lengths)
        data = encoding.log_probs.data * (1 + int(lengths.max()) / 16000)
        return Encoding(encoding.layers, Frames(data, encoding.log_probs.lengths, encoding.log_probs.rate))


class Untraceable(DeepSpeech2):
    def forward(self, waveforms, lengths, augment=None):
        return super().forward(torch.fft.rfft(waveforms).abs(), lengths)


@pytest.mark.parametrize(("kind", "error", "message"), [
    (Frozen, DataError, r"model\.onnx was not written: token_log_probs of the graph differs from PyTorch's by"),
    (Untraceable, OptionError, "encoder 'tiny' cannot be had as ONNX: "),
])
def test_an_encoder_whose_graph_would_be_another_is_refused(tmp_path, kind, error, message):
    model = system("mp")
    model.encoder.__class__ = kind
    with pytest.raises(error, match=message):
        onnx_export.export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(OptionError, match=r"onnxruntime is missing: pip install 'ser_plugins\[onnx\]'"):
        onnx_export.export_onnx(system("mp"), tmp_path / "model.onnx")


def test_the_command_puts_a_graph_into_the_folder(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["export", str(runs["mp"]), str(out), "--onnx"]) == 0
    assert "`model.onnx` takes `waveforms`" in (out / "README.md").read_text()
    assert "model.onnx" in folder_check.read_json(out / "checksums.json")
    waveforms, lengths = onnx_export.speech((20000, 9000))
    emotions = onnx_export.run(onnx_export.session(str(out / "model.onnx")), waveforms, lengths)[2]
    model = models.load_model(out)
    wanted = EmotionRecognizer.from_hparams(source=out).classify_batch(waveforms, lengths / 20000)[0]
    wanted = (wanted / (model.temperature or 1)).log_softmax(dim=1)
    torch.testing.assert_close(emotions, wanted, rtol=0, atol=1e-4)
    assert cli.main(["export", str(runs["baseline"]), str(tmp_path / "no"), "--onnx"]) == 2
    assert "cannot be in an ONNX graph" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
