"""Models of transformers as encoders, against transformers itself; tiny ones with random weights, made here."""

import csv
import json
from pathlib import Path

import pytest
import torch

from ser_plugins import testing
from ser_plugins.encoders import huggingface
from ser_plugins.encoders.huggingface import HuggingFace, save_tiny
from ser_plugins.errors import DataError, OptionError, PluginError
from ser_plugins.inference import EmotionRecognizer
from ser_plugins.models import load_encoder
from ser_plugins.testing.rules import speech

transformers = pytest.importorskip(
    "transformers", reason="transformers is missing: pip install 'ser_plugins[huggingface]'")
from transformers import dynamic_module_utils  # noqa: E402 it may be missing


def made(folder, kind, ctc=False, **options):
    torch.manual_seed(1)
    save_tiny(folder, kind, ctc, **options)
    return str(folder)


@pytest.mark.parametrize(("kind", "ctc", "options"), [
    ("wav2vec2", False, {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}),
    ("hubert", True, {"pad_token_id": 3}), ("wavlm", False, {}), ("whisper", False, {}),
])
def test_each_kind_keeps_the_contract(tmp_path, kind, ctc, options):
    encoder = HuggingFace.from_pretrained(made(tmp_path, kind, ctc, **options))
    assert encoder.layer_dims == (16, 16)
    assert encoder.rate == 50.0
    assert (encoder.vocabulary > 0) is ctc
    testing.check_encoder(encoder)


@pytest.mark.parametrize("blank", [0, 3])
def test_layers_log_probs_and_transcript_are_those_of_transformers(tmp_path, blank):
    source = made(tmp_path, "wav2vec2", ctc=True, pad_token_id=blank)
    encoder = load_encoder(f"huggingface:{source}")
    waveforms, lengths = speech()
    encoding = encoder(waveforms, lengths)
    reference = transformers.Wav2Vec2ForCTC.from_pretrained(source).eval()
    prepare = transformers.Wav2Vec2FeatureExtractor.from_pretrained(source)
    order = [blank, *(token for token in range(encoder.vocabulary) if token != blank)]
    for item, length in enumerate(lengths.tolist()):
        values = prepare(waveforms[item, :length].numpy(), sampling_rate=16000, return_tensors="pt").input_values
        with torch.no_grad():
            found = reference(values, output_hidden_states=True)
        for layer in (1, 2):
            torch.testing.assert_close(encoding.layers[layer - 1].unpad()[item], found.hidden_states[layer][0],
                                       atol=1e-4, rtol=1e-4)
        expected = found.logits[0].log_softmax(dim=1)[:, order]
        torch.testing.assert_close(encoding.log_probs.unpad()[item], expected, atol=1e-4, rtol=1e-4)


def test_the_transcript_drops_repetitions_and_blanks(tmp_path):
    encoder = HuggingFace.from_pretrained(made(tmp_path, "hubert", ctc=True))
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"etaonihsrdlu"]
    said = ["<pad>", "h", "h", "e", "l", "<pad>", "l", "o", "|", "|", "a", "<pad>", "n"]
    best = torch.nn.functional.one_hot(torch.tensor([letters.index(one) for one in said]), 17).float()
    assert encoder.decode(huggingface.Frames.from_list([best], 50.0)) == ["hello an"]


def test_whispers_layers_are_those_of_transformers_and_end_with_the_utterance(tmp_path):
    source = made(tmp_path, "whisper")
    encoder = load_encoder(f"huggingface:{source}")
    waveforms, lengths = speech([1])
    encoding = encoder(waveforms, lengths)
    mel = transformers.WhisperFeatureExtractor.from_pretrained(source)(
        waveforms[0].numpy(), sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        states = transformers.WhisperModel.from_pretrained(source).eval().encoder(mel, output_hidden_states=True)
    assert encoding.layers[1].lengths.tolist() == [22]  # 0.43 s at 50 frames a second
    torch.testing.assert_close(encoding.layers[1].data[0], states.hidden_states[2][0, :22], atol=1e-3, rtol=1e-3)
    with pytest.raises(DataError, match="has no CTC output: it gives neither a transcript"):
        encoding.log_probs  # noqa: B018 it is a property
    with pytest.raises(DataError, match=r"an utterance of 30\.1 s is too long: Whisper hears 30 s at once"):
        encoder(torch.zeros(1, 481600), torch.tensor([481600]))


def test_what_cannot_be_encoded_or_loaded_is_told(tmp_path, monkeypatch):
    encoder = HuggingFace.example()
    with pytest.raises(DataError, match="an utterance of 20 ms is too short: this encoder needs at least 25 ms"):
        encoder(torch.zeros(1, 320), torch.tensor([320]))
    with pytest.raises(OptionError, match="has no model of its own: name one of the hub or a folder"):
        load_encoder("huggingface")
    with pytest.raises(DataError, match="cannot be loaded by transformers"):
        load_encoder(f"huggingface:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(DataError, match="of the kind 'bert'; this encoder reads wav2vec2, hubert, wavlm, whisper"):
        load_encoder(f"huggingface:{tmp_path}")
    monkeypatch.setattr(huggingface, "import_module", lambda name: (_ for _ in ()).throw(
        ModuleNotFoundError(f"No module named '{name}'", name=name)))
    with pytest.raises(PluginError, match=r"needs the package 'transformers', which is not installed here; pip install "
                                          r"'ser_plugins\[huggingface\]'"):
        load_encoder("huggingface:anything")


def test_a_ctc_output_without_weights_is_refused(tmp_path):
    source = made(tmp_path, "wav2vec2")
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["Wav2Vec2ForCTC"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"calls itself Wav2Vec2ForCTC and lacks lm_head\.\w+, lm_head\.\w+"):
        HuggingFace.from_pretrained(source)


def test_the_untrained_twin_has_other_weights_the_same_for_a_seed(tmp_path):
    source = made(tmp_path, "hubert", ctc=True)
    prints = [encoder.fingerprint for encoder in (
        load_encoder(f"huggingface:{source}"), load_encoder(f"untrained:huggingface:{source}"),
        HuggingFace.untrained(source), HuggingFace.untrained(source, seed=1))]
    assert prints[1] == prints[2]
    assert len(set(prints)) == 3


def said(folder):
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("head", "ctc"), [("weighted_layers", False), ("linguistic", True)])
def test_a_system_over_it_trains_and_is_loaded_again(train, tmp_path, synthetic_rows, head, ctc):
    source = made(tmp_path / "model", "hubert", ctc=ctc)
    folder = train("mp", tmp_path, "--head", head, "--encoder", f"huggingface:{source}")
    recognizer = EmotionRecognizer.from_hparams(source=folder)
    paths = {row.id: row.path for row in synthetic_rows}
    for row in said(folder)[:3]:
        log_probs, *_ = recognizer.classify_file(paths[row["id"]])
        expected = [float(row[f"p_{label}"]) for label in recognizer.hparams.labels]
        torch.testing.assert_close(log_probs[0].exp(), torch.tensor(expected), atol=1e-4, rtol=0)
    if ctc:
        assert isinstance(recognizer.transcribe_file(paths[row["id"]]), str)
        return
    with pytest.raises(DataError, match="has no CTC output: it gives neither a transcript nor"):
        recognizer.transcribe_file(paths[row["id"]])
    with pytest.raises(OptionError, match="head 'linguistic': it reads CTC log-probabilities, and this encoder has no"):
        train("mp", tmp_path, "--head", "linguistic", "--encoder", f"huggingface:{source}")


@pytest.mark.parametrize(("file", "loader"), [
    ("config.json", "AutoConfig"), ("preprocessor_config.json", "AutoFeatureExtractor")])
def test_code_in_a_models_folder_is_neither_run_nor_asked_about(tmp_path, monkeypatch, file, loader):
    source, marker = Path(made(tmp_path / "model", "wav2vec2", ctc=True)), tmp_path / "marker"
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    (source / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Evil:\n    pass\n")
    content = json.loads((source / file).read_text())
    content |= {key: "evil" for key in ("model_type", "feature_extractor_type") if key in content}
    (source / file).write_text(json.dumps({**content, "auto_map": {loader: "evil.Evil"}}))
    with pytest.raises(DataError, match="custom code"):
        HuggingFace.from_pretrained(source)
    assert not marker.exists()
