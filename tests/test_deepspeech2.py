"""The recogniser: shapes, batch invariance, an independent forward pass, decoding, and its folder."""

from __future__ import annotations

import json
from itertools import groupby

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import conv2d, hardtanh

from ser_plugins.contracts import SAMPLE_RATE, Frames
from ser_plugins.encoders import deepspeech2
from ser_plugins.encoders.deepspeech2 import DeepSpeech2, UtteranceDropout
from ser_plugins.errors import DataError
from ser_plugins.features import spectrogram
from ser_plugins.text import character_tokenizer

TOKENIZER = character_tokenizer()
UNITS, LAYERS, CHANNELS = 6, 3, 2


def tiny(seed=0, rounded=False, **options):
    """A frozen little encoder whose normalisations are not those of a fresh network."""
    torch.manual_seed(seed)
    options = {"units": UNITS, "num_layers": LAYERS, "channels": CHANNELS, "tokenizer": TOKENIZER, **options}
    encoder = DeepSpeech2(**options)
    for name, tensor in encoder.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.3)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif ".norm" in name and tensor.is_floating_point():
            tensor.add_(torch.randn_like(tensor) * 0.2)
        if rounded and tensor.is_floating_point():
            tensor.copy_(tensor.half())
    return encoder.freeze()


def speech(*samples):
    """Noise of changing loudness, ``[batch, samples]``, and lengths."""
    generator = torch.Generator().manual_seed(0)
    items = [0.1 * torch.randn(n, generator=generator) * (1.1 + torch.sin(torch.arange(n) / 900)) for n in samples]
    return nn.utils.rnn.pad_sequence(items, batch_first=True), torch.tensor(samples)


def outputs(encoding):
    return [*encoding.layers, encoding.log_probs]


@pytest.mark.parametrize("strides", [(2, 1), (2, 2), (1, 1), (3, 2)])
@pytest.mark.parametrize("samples", [320, 3199, 3200, 3201, 4800, 8123])
def test_steps_are_those_that_come_out(strides, samples):
    encoder = tiny(time_strides=strides)
    encoding = encoder(*speech(samples))
    steps = encoder.steps(torch.tensor([samples]))
    assert steps.tolist() == encoding.log_probs.lengths.tolist() == [encoding.log_probs.data.shape[1]]
    kept = list(range(samples // 160 + 1))[::strides[0]][::strides[1]]  # a stride of s keeps every s-th frame
    assert steps.item() == len(kept)
    assert all(layer.data.shape == (1, steps, 2 * UNITS) for layer in encoding.layers)
    assert encoder.rate == encoding.log_probs.rate == 100 / (strides[0] * strides[1])
    assert encoder.layer_dims == (2 * UNITS,) * LAYERS


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("strides", [(2, 1), (2, 2)])
def test_batch_invariance_of_every_layer_and_the_output(cell, strides):
    encoder = tiny(cell=cell, time_strides=strides)
    samples = [6000, 3333, 9600, 480]
    waveforms, lengths = speech(*samples)
    together = outputs(encoder(waveforms, lengths))
    beside = outputs(encoder(waveforms[[1, 2]], lengths[[1, 2]]))
    padded = outputs(encoder(nn.functional.pad(waveforms, (0, 1777)), lengths))
    for number, length in enumerate(samples):
        for layer, found in enumerate(outputs(encoder(waveforms[[number], :length], lengths[[number]]))):
            alone = found.data[0]
            torch.testing.assert_close(together[layer].unpad()[number], alone, atol=1e-5, rtol=0)
            torch.testing.assert_close(padded[layer].unpad()[number], alone, atol=1e-5, rtol=0)
            if number == 1:
                torch.testing.assert_close(beside[layer].unpad()[0], alone, atol=1e-5, rtol=0)
    assert not any(frames.data[~frames.mask()].any() for frames in together)


def naive(encoder, samples):
    """One utterance through torch's functions: representations of the layers, then log-probabilities, [time, dim]."""
    weights = encoder.state_dict()

    def norm(x, name, shape):
        mean, var, gain, bias = (weights[f"{name}.{kind}"].view(shape)
                                 for kind in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * gain + bias

    x = encoder.frontend(samples.unsqueeze(0), torch.tensor([len(samples)])).data.transpose(1, 2).unsqueeze(1)
    for number, (padding, stride) in enumerate([((20, 5), (2, 2)), ((10, 5), (2, 1))]):
        x = conv2d(x, weights[f"convolutions.convolutions.{number}.weight"], stride=stride, padding=padding)
        x = hardtanh(norm(x, f"convolutions.norms.{number}", (1, -1, 1, 1)), 0, 20)
    x = x.flatten(1, 2).transpose(1, 2)  # [1, time, channels × bins]
    found = []
    for number in range(LAYERS):
        gru = nn.GRU(x.shape[2], UNITS, batch_first=True, bidirectional=True)
        prefix = f"recurrent.{number}."
        gru.load_state_dict({
            key.removeprefix(prefix).split(".")[1] + ("_reverse" if "backwards" in key else ""): value
            for key, value in weights.items() if key.startswith(prefix)})
        both = gru(x)[0]
        found.append(both[0])
        x = norm(both[..., :UNITS] + both[..., UNITS:], f"norms.{number}.norm", (1, 1, -1))
    return [*found, (x @ weights["output.weight"].T).log_softmax(dim=2)[0]]


def test_the_forward_pass_is_that_of_the_figure():
    encoder = tiny()
    samples = speech(5000)[0][0]
    with torch.no_grad():
        expected = naive(encoder, samples)
    for frames, truth in zip(outputs(encoder(samples.unsqueeze(0), torch.tensor([5000]))), expected, strict=True):
        torch.testing.assert_close(frames.data[0], truth, atol=1e-5, rtol=0)


def test_the_summed_representation_is_the_sum_of_the_concatenated_ones_halves():
    wide, narrow = tiny(), tiny(representation="summed")
    assert narrow.layer_dims == (UNITS,) * LAYERS
    first, second = wide(*speech(4000, 3000)), narrow(*speech(4000, 3000))
    for both, summed in zip(first.layers, second.layers, strict=True):
        torch.testing.assert_close(both.data[..., :UNITS] + both.data[..., UNITS:], summed.data)
    torch.testing.assert_close(first.log_probs.data, second.log_probs.data)
    with pytest.raises(ValueError, match="representation 'mean' is neither 'concatenated' nor 'summed'"):
        tiny(representation="mean")


def test_parameters_of_the_papers_size_in_closed_form():
    encoder = DeepSpeech2()
    convolutions = 32 * 41 * 11 + 32 * 32 * 21 * 11 + 2 * 2 * 32
    inputs = [32 * 41] + [800] * 4  # 161 bins become 81, then 41
    recurrent = sum(2 * 3 * (800 * size + 800 * 800 + 2 * 800) for size in inputs)
    normalisations = 5 * 2 * 800
    assert sum(p.numel() for p in encoder.parameters()) == convolutions + recurrent + normalisations + 800 * 29
    assert encoder.layer_dims == (1600,) * 5
    assert encoder.rate == 50


def test_augmentation_is_applied_to_the_front_ends_frames_and_not_to_padding():
    encoder = tiny()
    waveforms, lengths = speech(4000, 2000)

    def raised(frames):
        return Frames(frames.data + 1, frames.lengths, frames.rate)

    changed = encoder(waveforms, lengths, raised)
    assert not torch.allclose(changed.log_probs.data, encoder(waveforms, lengths).log_probs.data)
    alone = encoder(waveforms[1:, :2000], lengths[1:], raised)
    torch.testing.assert_close(changed.log_probs.unpad()[1], alone.log_probs.data[0], atol=1e-5, rtol=0)


# Decoding


def constructed(*paths):
    """Log-probabilities whose best piece in each frame is the path's; beyond its length another piece wins."""
    time = max(map(len, paths)) + 2
    data = torch.full((len(paths), time, 29), -5.0)
    for item, path in enumerate(paths):
        data[item, range(time), [*path, *[7] * (time - len(path))]] = -0.1
    return Frames(data, torch.tensor([len(path) for path in paths]), 50.0)


def collapsed(encoder, path):
    """Graves et al. 2006: repetitions become one, blanks go."""
    pieces = [encoder.tokenizer.id_to_piece(piece) for piece, _ in groupby(path) if piece != 0]
    return "".join(pieces).replace("▁", " ").strip()


def test_greedy_decoding_of_random_paths():
    encoder = tiny()
    generator = torch.Generator().manual_seed(0)
    paths = [[piece for piece in torch.randint(0, 29, (length,), generator=generator).tolist()
              for _ in range(1 + piece % 3)] for length in (1, 5, 20, 40)]
    paths.append([0] * 9)
    assert encoder.decode(constructed(*paths)) == [collapsed(encoder, path) for path in paths]


@pytest.mark.parametrize("text", ["HELLO", "IT'S A BOOK", "A", ""])
def test_a_text_spelt_with_blanks_between_its_letters_is_recovered(text):
    encoder = tiny()
    path = [0] + [piece for letter in encoder.tokenizer.encode(text) for piece in (letter, letter, 0)]
    assert encoder.decode(constructed(path)) == [text]


def test_repeated_letters_need_a_blank():
    encoder = tiny()
    letter = encoder.tokenizer.encode("L")[-1]
    assert encoder.decode(constructed([letter] * 4, [letter, 0, letter])) == ["L", "LL"]


def test_without_a_tokenizer_nothing_is_decoded_or_saved(tmp_path):
    encoder = tiny(tokenizer=None, vocabulary=12)
    assert encoder(*speech(2000)).log_probs.data.shape[2] == 12
    with pytest.raises(DataError, match="no tokenizer, so it cannot transcribe"):
        encoder.decode(constructed([1]))
    with pytest.raises(DataError, match="without a tokenizer cannot be saved"):
        encoder.save(tmp_path)


# Fingerprint


def test_the_fingerprint_is_that_of_weights_architecture_and_preprocessing(monkeypatch):
    first = tiny().fingerprint
    assert tiny().fingerprint == first
    assert tiny(seed=1).fingerprint != first
    assert tiny(representation="summed").fingerprint != first
    assert tiny(frontend={"features": "spectrogram", "power": True}).fingerprint != first
    assert tiny(frontend={"features": "spectrogram", "power": False}).fingerprint == first  # the default, spelt out
    monkeypatch.setattr(spectrogram, "VERSION", spectrogram.VERSION + 1)
    assert tiny().fingerprint != first


@pytest.mark.parametrize("name", ["recurrent.1.backwards.weight_hh_l0", "norms.0.norm.running_var", "output.weight"])
def test_the_fingerprint_changes_with_one_weight(name):
    encoder = tiny()
    first = encoder.fingerprint
    encoder.state_dict()[name].view(-1)[0] += 1e-3
    assert encoder.fingerprint != first


# The folder


def test_dropout_is_for_training_and_no_part_of_the_encoder():
    plain, dropping = tiny(), tiny(dropout=0.5)
    waveforms, lengths = torch.rand(2, 8000), torch.tensor([8000, 6000])
    assert dropping.architecture == plain.architecture
    dropping.load_state_dict(plain.state_dict())
    plain.eval(), dropping.eval()
    torch.testing.assert_close(dropping(waveforms, lengths).log_probs.data, plain(waveforms, lengths).log_probs.data)
    dropping.train()
    torch.manual_seed(1)
    first, second = (dropping(waveforms, lengths) for _ in range(2))
    torch.testing.assert_close(first.layers[0].data, second.layers[0].data)  # nothing is left out below
    assert not torch.equal(first.layers[1].data, second.layers[1].data)
    assert not torch.equal(first.log_probs.data, second.log_probs.data)


@pytest.fixture
def folder(tmp_path):
    tiny(rounded=True).save(tmp_path / "encoder", {"CER": 50.0})
    return tmp_path / "encoder"


def rewrite(folder, change):
    """Changes the weights of a folder by a function of their dictionary."""
    weights = load_file(folder / "weights.safetensors")
    change(weights)
    save_file(weights, folder / "weights.safetensors")


def describe(folder, **changes):
    """Changes the architecture of a folder."""
    config = json.loads((folder / "encoder.json").read_text())
    config["architecture"].update(changes)
    (folder / "encoder.json").write_text(json.dumps(config))


@pytest.mark.parametrize("options", [
    {}, {"cell": "lstm", "time_strides": (2, 2)}, {"representation": "summed"},
    {"frontend": {"features": "spectrogram", "power": True, "normalize": "global"}},
])
def test_what_is_saved_is_what_is_loaded(tmp_path, options):
    encoder = tiny(rounded=True, **options)
    encoder.save(tmp_path / "made" / "here", {"CER": 50.0})
    loaded = DeepSpeech2.from_pretrained(tmp_path / "made" / "here")
    assert loaded.fingerprint == encoder.fingerprint
    assert loaded.rate == encoder.rate
    for found, expected in zip(outputs(loaded(*speech(4000, 2500))), outputs(encoder(*speech(4000, 2500))),
                               strict=True):
        assert torch.equal(found.data, expected.data)
    assert json.loads((tmp_path / "made/here/encoder.json").read_text())["notes"] == {"CER": 50.0}


def test_weights_are_stored_in_half_precision(folder):
    kinds = {tensor.dtype for tensor in load_file(folder / "weights.safetensors").values()}
    assert kinds == {torch.float16, torch.int64}  # batch norm counts its batches
    assert {tensor.dtype for tensor in DeepSpeech2.from_pretrained(folder).parameters()} == {torch.float32}


@pytest.mark.parametrize("source", ["saved", None])
def test_a_loaded_encoder_is_frozen_and_a_pass_leaves_it_as_it_is(folder, source):
    encoder = DeepSpeech2.from_pretrained(folder if source else source)
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoding = encoder(*speech(SAMPLE_RATE // 2, 3000))
    assert not any(frames.data.requires_grad for frames in outputs(encoding))
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert all(isinstance(text, str) for text in encoder.decode(encoding.log_probs))


def test_an_untrained_twin_has_the_encoders_form_and_weights_of_its_seed(tmp_path):
    tiny(rounded=True, time_strides=(2, 2), frontend={"features": "spectrogram", "power": True}).save(tmp_path)
    trained = DeepSpeech2.from_pretrained(tmp_path)
    before = torch.random.get_rng_state()
    twin = DeepSpeech2.untrained(tmp_path, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (twin.architecture, twin.tokenizer_model) == (trained.architecture, trained.tokenizer_model)
    assert twin.frontend.fingerprint == trained.frontend.fingerprint
    assert not any(module.training for module in twin.modules())
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    shapes = [{name: tensor.shape for name, tensor in one.state_dict().items()} for one in (twin, trained)]
    assert shapes[0] == shapes[1]
    prints = [trained.fingerprint, *(DeepSpeech2.untrained(tmp_path, seed).fingerprint for seed in (1, 2))]
    assert twin.fingerprint == prints[1]
    assert len({*prints}) == 3
    assert DeepSpeech2.untrained().architecture == DeepSpeech2.from_pretrained().architecture
    with pytest.raises(DataError, match="is no encoder folder"):
        DeepSpeech2.untrained(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["encoder.json", "weights.safetensors", "tokenizer.model"])
def test_a_missing_or_empty_file_is_named(folder, name):
    (folder / name).write_bytes(b"")
    with pytest.raises(DataError, match=f"no encoder folder: {name} is missing or empty .expected encoder.json, weig"):
        DeepSpeech2.from_pretrained(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"no encoder folder: {name} is missing"):
        DeepSpeech2.from_pretrained(str(folder))


@pytest.mark.parametrize("keep", [0.9, 0.01])
def test_truncated_weights_are_refused(folder, keep):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match=r"weights\.safetensors is corrupt: "):
        DeepSpeech2.from_pretrained(folder)


@pytest.mark.parametrize(("change", "message"), [
    (lambda weights: weights.update({"output.weight": torch.zeros(29, UNITS - 1)}),
     r"output\.weight has shape \(29, 5\), expected \(29, 6\)$"),
    (lambda weights: weights.pop("output.weight"), r"output\.weight is missing$"),
    (lambda weights: weights.update(extra=torch.zeros(1)), "extra is not part of the network$"),
    (lambda weights: weights["output.weight"].__setitem__((3, 2), float("nan")), r"output\.weight is not finite$"),
    (lambda weights: weights["output.weight"].__setitem__((3, 2), float("inf")), r"output\.weight is not finite$"),
    (lambda weights: [weights.pop(name) for name in list(weights)[:8]],
     r"(is missing; \S+ ){4}is missing \(and 3 more"),
], ids=["shape", "missing", "foreign", "nan", "infinite", "many"])
def test_weights_that_do_not_fit_are_refused(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(DataError, match=rf"weights\.safetensors does not fit encoder\.json: .*{message}"):
        DeepSpeech2.from_pretrained(folder)


@pytest.mark.parametrize(("changes", "message"), [
    ({"units": 8}, r"has shape \(18, 82\), expected \(24, 82\)"),
    ({"num_layers": 4}, r"recurrent\.3\.\S+ is missing"),
    ({"cell": "rnn"}, "corrupt: cell 'rnn' is not one of gru, lstm"),
    ({"unit": 8}, "corrupt: .*unexpected keyword argument 'unit'"),
    ({"time_strides": [0, 1]}, "corrupt: "),
    ({"frontend": {"features": "spectrogam"}}, "did you mean 'spectrogram'"),
    ({"frontend": {"features": "spectrogram", "powr": True}}, "did you mean 'power'"),
])
def test_another_architecture_is_refused(folder, changes, message):
    describe(folder, **changes)
    with pytest.raises(DataError, match=message):
        DeepSpeech2.from_pretrained(folder)


@pytest.mark.parametrize(("part", "error"), [
    ("MaskedConvolutions", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
    ("MaskedConvolutions", RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")),
    ("load_file", OSError(12, "Cannot allocate memory")),
])
def test_an_encoder_is_not_called_corrupt_where_memory_ran_out(folder, monkeypatch, part, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(deepspeech2, part, fail)
    with pytest.raises(type(error), match="memory"):
        DeepSpeech2.from_pretrained(folder)


@pytest.mark.parametrize("content", [b'{"archite', b"[1]", b"{}", b'{"architecture": null}', b"\xff\xfe\x00"])
def test_a_corrupt_description_is_refused(folder, content):
    (folder / "encoder.json").write_bytes(content)
    with pytest.raises(DataError, match=r"encoder: encoder\.json or tokenizer\.model is corrupt"):
        DeepSpeech2.from_pretrained(folder)


@pytest.mark.parametrize("content", [b"no tokenizer", TOKENIZER[:100]])
def test_a_corrupt_tokenizer_is_refused(folder, content):
    (folder / "tokenizer.model").write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.model is corrupt"):
        DeepSpeech2.from_pretrained(folder)


def test_dropout_is_an_utterances_own():
    """It is masked alike in any batch, anew by each call, and as strongly as `torch.nn.Dropout` does it."""
    dropout, device = UtteranceDropout(0.3), torch.device("cpu")
    frames = Frames.from_list([torch.ones(length, 50) for length in (300, 40, 0)], 25.0)
    dropout.seed([7, 8, 9], device)
    first, second = dropout(frames), dropout(frames)
    dropout.seed([8], device)
    alone = Frames.from_list([torch.ones(40, 50)], 25.0)
    assert torch.equal(dropout(alone).data[0], first.data[1, :40])
    assert torch.equal(dropout(alone).data[0], second.data[1, :40])
    assert not torch.equal(first.data, second.data)
    assert first.data[0].unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert (first.data[0] == 0).float().mean().item() == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 15000) ** 0.5)
    assert not first.data[1:, 40:].any()
    assert torch.equal(dropout.eval()(frames).data, frames.data)
    assert UtteranceDropout(0.3)(frames).data.unique().tolist() == pytest.approx([0, 1 / 0.7])
