"""Checkpoints of deepspeech.pytorch: against that project's equations, in both layouts; and what is refused."""

from __future__ import annotations

import enum
import json
import os
import re
import sys
import types
import zipfile
from collections import OrderedDict
from itertools import groupby

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import conv2d
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from ser_plugins import cli, testing
from ser_plugins.contracts import Frames
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.encoders.import_deepspeech import import_checkpoint
from ser_plugins.errors import DataError, OptionError
from ser_plugins.features.spectrogram import Spectrogram
from ser_plugins.models import load_encoder
from ser_plugins.testing.rules import speech

ENGLISH = "_'ABCDEFGHIJKLMNOPQRSTUVWXYZ "
UNITS, LAYERS = 7, 3
RNNS = {"gru": nn.GRU, "lstm": nn.LSTM}
AUDIO = {"sample_rate": 16000, "window_size": 0.02, "window_stride": 0.01, "window": "hamming", "noise_dir": None,
         "noise_prob": 0.4, "noise_levels": (0.0, 0.5)}
SAMPLES = (9600, 4801, 7999, 800)
FROZEN_GRU = ((-2.10391, -2.66680, -4.41338, -3.47083), (-2.28196, -3.57608, -6.07165, -4.34285),
              (-2.36524, -3.73768, -6.23460, -4.22081))
FROZEN_LSTM = ((-2.11878, -3.57652, -5.38650, -4.26657), (-2.16470, -3.78821, -7.17473, -4.60284),
               (-2.10165, -3.82188, -7.10580, -4.50511))


def wave(number, *shape, size=1.0):
    """Numbers in -size..size, the same on every machine."""
    steps = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    return (size * torch.sin(steps * (0.37 + 0.011 * number) + number + (steps / 7).square())).float().view(shape)


def network(cell, labels=29, units=UNITS, layers=LAYERS, bias=True):
    """Weights under the names of that project."""
    gates = {"gru": 3, "lstm": 4}[cell]
    shapes = {"conv.seq_module.0.weight": (32, 1, 41, 11), "conv.seq_module.0.bias": (32,),
              "conv.seq_module.1": (32,), "conv.seq_module.3.weight": (32, 32, 21, 11),
              "conv.seq_module.3.bias": (32,), "conv.seq_module.4": (32,)}
    for layer in range(layers):
        inputs = 32 * 41 if layer == 0 else units
        if layer:
            shapes[f"rnns.{layer}.batch_norm.module"] = (units,)
        for end in ("", "_reverse"):
            shapes |= {f"rnns.{layer}.rnn.weight_ih_l0{end}": (gates * units, inputs),
                       f"rnns.{layer}.rnn.weight_hh_l0{end}": (gates * units, units)}
            if bias:
                shapes |= {f"rnns.{layer}.rnn.bias_{part}_l0{end}": (gates * units,) for part in ("ih", "hh")}
    shapes |= {"fc.0.module.0": (units,), "fc.0.module.1.weight": (labels, units)}
    weights = OrderedDict()
    for number, (name, shape) in enumerate(shapes.items()):
        if name.endswith(("weight", "bias")) or ".rnn." in name:
            weights[name] = wave(number, *shape, size=2 * np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.5)
        else:
            weights |= {f"{name}.weight": 1 + wave(number, *shape, size=0.4), f"{name}.bias": wave(number + 1, *shape),
                        f"{name}.running_mean": wave(number + 2, *shape),
                        f"{name}.running_var": 1.3 + wave(number + 3, *shape),
                        f"{name}.num_batches_tracked": torch.tensor(99)}
    return weights


def naive_spectrogram(samples, symmetric, padding="reflect", full_scale=1.0):
    """One utterance [samples] → [161, time]: that project's parser, the Fourier sum written out."""
    padded = np.pad(samples.astype(np.float64) * full_scale, 160, mode=padding)
    n = np.arange(320)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * n / (319 if symmetric else 320))
    transform = np.exp(-2j * np.pi * np.outer(n, np.arange(161)) / 320)
    frames = np.stack([padded[start:start + 320] * window for start in range(0, len(padded) - 319, 160)])
    level = np.log1p(np.abs(frames @ transform)).T
    return torch.from_numpy((level - level.mean()) / level.std(ddof=1)).float()


def naive(weights, cell, spectrograms, layers=LAYERS):
    """Log-probabilities [batch, time, labels] and lengths of a batch, longest first: that project's forward pass."""

    def norm(x, name, axis):
        shape = [1] * x.dim()
        shape[axis] = -1
        mean, var, gain, bias = (weights[f"{name}.{kind}"].view(shape)
                                 for kind in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * gain + bias

    lengths = torch.tensor([(item.shape[1] + 2 * 5 - 10 - 1) // 2 + 1 for item in spectrograms])
    x = pad_sequence([item.T for item in spectrograms], batch_first=True).transpose(1, 2).unsqueeze(1)

    def masked(x):
        for item, length in zip(x, lengths, strict=True):
            item[:, :, length:] = 0
        return x

    for first, stride, pad in ((0, (2, 2), (20, 5)), (3, (2, 1), (10, 5))):
        name = f"conv.seq_module.{first}"
        x = masked(conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride, pad))
        x = masked(norm(x, f"conv.seq_module.{first + 1}", 1))
        x = masked(x.clamp(0, 20))
    x = x.reshape(len(x), -1, x.shape[3]).permute(2, 0, 1)  # [time, batch, channels × bins]
    for layer in range(layers):
        if layer:
            x = norm(x, f"rnns.{layer}.batch_norm.module", 2)
        prefix = f"rnns.{layer}.rnn."
        parts = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        units = parts["weight_hh_l0"].shape[1]
        rnn = RNNS[cell](x.shape[2], units, bidirectional=True, bias="bias_ih_l0" in parts)
        rnn.load_state_dict(parts)
        both = pad_packed_sequence(rnn(pack_padded_sequence(x, lengths))[0])[0]
        x = both[..., :units] + both[..., units:]
    x = norm(x, "fc.0.module.0", 2) @ weights["fc.0.module.1.weight"].T
    return x.softmax(2).log().transpose(0, 1).detach(), lengths


def package(cell="gru", labels=ENGLISH, **changes):
    """A package as train.py of 2018 and 2019 saves it."""
    content = {"version": "0.0.1", "hidden_size": UNITS, "hidden_layers": LAYERS, "rnn_type": cell, "audio_conf": AUDIO,
               "labels": labels, "state_dict": network(cell, len(labels)), "bidirectional": True,
               "optim_dict": {"state": {140: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 3e-4}]},
               "epoch": 12, "loss_results": torch.ones(70), "cer_results": torch.ones(70),
               "wer_results": torch.ones(70), "avg_loss": 1.25}
    return {name: value for name, value in {**content, **changes}.items() if value is not None}


@pytest.fixture
def configurations(monkeypatch):
    """Modules with the names of OmegaConf's and that project's, so that a file can refer to their classes."""

    def module(name, **content):
        made = types.ModuleType(name)
        for key, value in content.items():
            value.__module__ = name
            value.__qualname__ = key
            setattr(made, key, value)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    class Node:
        def __init__(self, **state):
            self.__dict__.update(state)

    for name in ("omegaconf", "deepspeech_pytorch"):
        module(name)
    module("omegaconf.base", ContainerMetadata=type("ContainerMetadata", (Node,), {}))
    nodes = module("omegaconf.nodes", AnyNode=type("AnyNode", (Node,), {}), EnumNode=type("EnumNode", (Node,), {}))
    enums = module("deepspeech_pytorch.enums", RNNType=enum.Enum("RNNType", {"lstm": nn.LSTM, "gru": nn.GRU}),
                   SpectrogramWindow=enum.Enum("SpectrogramWindow", {"hamming": "hamming", "hann": "hann"}))
    config = module("omegaconf.dictconfig", DictConfig=type("DictConfig", (Node,), {}))
    metadata = sys.modules["omegaconf.base"].ContainerMetadata(ref_type=dict, object_type=list, flags={})

    def configuration(parent=None, **values):
        content = {key: (nodes.EnumNode if isinstance(value, enum.Enum) else nodes.AnyNode)(_val=value)
                   for key, value in values.items()}
        return config.DictConfig(_metadata=metadata, _parent=parent, _content=content)

    configuration.enums = enums
    return configuration


def lightning(configuration, cell="gru", labels=ENGLISH, window="hamming", **model):
    """A checkpoint as Lightning saves it."""
    enums = configuration.enums
    root = configuration(seed=1)
    model = {"rnn_type": enums.RNNType[cell], "hidden_size": UNITS, "hidden_layers": LAYERS, **model}
    sound = {**{name: AUDIO[name] for name in list(AUDIO)[:3]}, "window": enums.SpectrogramWindow[window]}
    return {"epoch": 4, "global_step": 900, "pytorch-lightning_version": "1.1.6", "optimizer_states": [{"state": {}}],
            "state_dict": network(cell, len(labels)), "hparams_name": "kwargs",
            "hyper_parameters": {"labels": list(labels), "model_cfg": configuration(root, **model), "precision": 32,
                                 "optim_cfg": configuration(root, betas=(0.9, 0.999)),
                                 "spect_cfg": configuration(root, **sound)}}


def imported(tmp_path, content, legacy=False, **options):
    """The encoder of a checkpoint that is saved and imported."""
    torch.save(content, tmp_path / "model.pth", _use_new_zipfile_serialization=not legacy)
    return load_encoder(import_checkpoint(tmp_path / "model.pth", tmp_path / "encoder", **options))


def batch(samples=SAMPLES):
    """Noise of changing loudness in steps of 16 bit, ``[batch, samples]`` in -1..1, and lengths; longest first."""
    samples = sorted(samples, reverse=True)
    items = [(wave(40 + number, count, size=9000) * (1.1 + torch.sin(torch.arange(count) / 900))).round() / 32768
             for number, count in enumerate(samples)]
    return pad_sequence(items, batch_first=True), torch.tensor(samples)


def spectrograms(waveforms, lengths, **options):
    return [naive_spectrogram(item[:count].numpy(), **options)
            for item, count in zip(waveforms, lengths.tolist(), strict=True)]


def in_order_of(labels, encoder):
    """The place among the labels of each of the encoder's pieces."""
    letters = [encoder.tokenizer.id_to_piece(piece).replace("▁", " ") for piece in range(1, len(labels))]
    return [labels.index(letter) for letter in ("_", *letters)]


def require_same(encoder, expected, lengths, labels=ENGLISH, tolerance=1e-4):
    waveforms, samples = batch()
    found = encoder(waveforms, samples).log_probs
    assert found.lengths.tolist() == lengths.tolist()
    for ours, theirs, length in zip(found.unpad(), expected, lengths.tolist(), strict=True):
        torch.testing.assert_close(ours, theirs[:length][:, in_order_of(labels, encoder)], atol=tolerance, rtol=0)


# The numbers


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_package_has_the_log_probabilities_of_its_equations(tmp_path, cell, legacy):
    encoder = imported(tmp_path, package(cell), legacy)
    sound = spectrograms(*batch(), symmetric=True, full_scale=32768 / 32767)
    require_same(encoder, *naive(network(cell), cell, sound))
    assert encoder.layer_dims == (2 * UNITS,) * LAYERS


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_lightning_checkpoint_has_the_log_probabilities_of_its_equations(tmp_path, cell, configurations):
    encoder = imported(tmp_path, lightning(configurations, cell))
    require_same(encoder, *naive(network(cell), cell, spectrograms(*batch(), symmetric=False)))


@pytest.mark.parametrize(("cell", "expected"), [("gru", FROZEN_GRU), ("lstm", FROZEN_LSTM)])
def test_frozen_values(tmp_path, cell, expected):
    """Of `naive`, of the package: the first labels at steps 0, 10 and 20 of the longest utterance."""
    encoder = imported(tmp_path, package(cell))
    found = encoder(*batch()).log_probs.data[0, (0, 10, 20)]
    places = torch.tensor(in_order_of(ENGLISH, encoder)).argsort()
    torch.testing.assert_close(found[:, places[:4]], torch.tensor(expected), atol=1e-4, rtol=0)


def test_recurrent_layers_without_bias(tmp_path):
    weights = network("gru", bias=False)
    encoder = imported(tmp_path, package(state_dict=weights))
    sound = spectrograms(*batch(), symmetric=True, full_scale=32768 / 32767)
    require_same(encoder, *naive(weights, "gru", sound))


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (16, 2)])
def test_other_sizes(tmp_path, size):
    units, layers = size
    weights = network("lstm", units=units, layers=layers)
    encoder = imported(tmp_path, package("lstm", hidden_size=units, hidden_layers=layers, state_dict=weights))
    sound = spectrograms(*batch(), symmetric=True, full_scale=32768 / 32767)
    require_same(encoder, *naive(weights, "lstm", sound, layers))


def test_weights_in_half_precision_and_counters_that_are_absent(tmp_path):
    weights = {name: tensor.half() for name, tensor in network("gru").items() if not name.endswith("tracked")}
    encoder = imported(tmp_path, package(state_dict=weights))
    sound = spectrograms(*batch(), symmetric=True, full_scale=32768 / 32767)
    require_same(encoder, *naive({name: tensor.float() for name, tensor in weights.items()}, "gru", sound))


def test_padding_with_zeros(tmp_path, configurations):
    encoder = imported(tmp_path, lightning(configurations), padding="zero")
    sound = spectrograms(*batch(), symmetric=False, padding="constant")
    require_same(encoder, *naive(network("gru"), "gru", sound))


def test_a_configuration_in_a_package_is_of_2020(tmp_path, configurations):
    """Version 2.1: the package's layout, the spectrogram of the later ones."""
    sound = lightning(configurations)["hyper_parameters"]["spect_cfg"]
    encoder = imported(tmp_path, package(audio_conf=sound, version=None))
    require_same(encoder, *naive(network("gru"), "gru", spectrograms(*batch(), symmetric=False)))


def test_plain_values_in_place_of_configurations(tmp_path):
    hyper = {"labels": list(ENGLISH), "spect_cfg": AUDIO,
             "model_cfg": {"rnn_type": "gru", "hidden_size": UNITS, "hidden_layers": LAYERS}}
    encoder = imported(tmp_path, {"state_dict": network("gru"), "hyper_parameters": hyper})
    require_same(encoder, *naive(network("gru"), "gru", spectrograms(*batch(), symmetric=False)))


def test_silence_is_no_nan(tmp_path):
    encoder = imported(tmp_path, package())
    assert encoder(torch.zeros(1, 4000), torch.tensor([4000])).log_probs.data.isfinite().all()


@pytest.mark.parametrize("options", [
    {"window": "hamming_symmetric"}, {"padding": "reflect"}, {"epsilon": 1e-12},
    {"window": "hamming_symmetric", "padding": "reflect", "normalize": "global", "scale": 1.0}])
def test_the_spectrogram_keeps_its_contract(options):
    testing.check_features("spectrogram", options)
    assert Spectrogram(**options).fingerprint != Spectrogram().fingerprint


def test_earlier_fingerprints_stay():
    """As they were before windows, paddings and epsilons could be chosen; and that of the encoder that ships."""
    assert Spectrogram().fingerprint == "6a415c14c760313f"
    assert Spectrogram(power=True, normalize="global", scale=1).fingerprint == "815fd74245199101"
    assert DeepSpeech2.from_pretrained().fingerprint == "78a743b319756618"


@pytest.mark.parametrize("options", [{"window": "hann"}, {"padding": "mirror"}])
def test_an_unknown_window_or_padding(options):
    with pytest.raises(ValueError, match=r"is not one of (hamming, hamming_symmetric|zero, reflect)"):
        Spectrogram(**options)


# The folder


def test_the_folder_keeps_the_contract_and_says_where_it_is_from(tmp_path):
    encoder = imported(tmp_path, package())
    testing.check_encoder(encoder)
    config = json.loads((tmp_path / "encoder" / "encoder.json").read_text())
    assert config["notes"] == {"imported": "deepspeech.pytorch, model.pth", "epoch": 12}
    assert config["architecture"]["frontend"] == {
        "features": "spectrogram", "power": False, "normalize": "global", "scale": 32768 / 32767,
        "window": "hamming_symmetric", "padding": "reflect", "epsilon": 1e-12}
    assert encoder.fingerprint == load_encoder(tmp_path / "encoder").fingerprint
    stored = load_file(tmp_path / "encoder" / "weights.safetensors")["output.weight"]
    assert stored.dtype == torch.float32
    assert torch.equal(stored, package()["state_dict"]["fc.0.module.1.weight"][in_order_of(ENGLISH, encoder)])


def require_spelling(encoder, labels):
    """Paths through the labels, in their order and at random, are spelt in the checkpoint's letters."""
    generator = torch.Generator().manual_seed(0)
    paths = [range(len(labels)), torch.randint(len(labels), (200,), generator=generator).tolist()]
    order = torch.tensor(in_order_of(labels, encoder))
    items = [nn.functional.one_hot(torch.tensor(path), len(labels)).float()[:, order] for path in paths]
    letters = [[labels[place] for place, _ in groupby(path)] for path in paths]
    texts = ["".join(letter for letter in path if letter != "_").strip() for path in letters]
    assert encoder.decode(Frames.from_list(items, 50.0)) == texts


@pytest.mark.parametrize("labels", [ENGLISH, ENGLISH.lower(), "_абвгдеёжз ", "_äöüß'", "_我们的 一", "_" + "".join(
    chr(0x4E00 + number) for number in range(600))], ids=["English", "lower", "Russian", "spaceless", "few", "many"])
def test_transcripts_are_in_the_checkpoints_alphabet(tmp_path, labels):
    encoder = imported(tmp_path, package(labels=labels))
    sound = spectrograms(*batch(), symmetric=True, full_scale=32768 / 32767)
    require_same(encoder, *naive(network("gru", len(labels)), "gru", sound), labels)
    require_spelling(encoder, labels)


def test_the_blank_of_a_lightning_checkpoint_may_stand_anywhere(tmp_path, configurations):
    labels = "ABC_ D"
    encoder = imported(tmp_path, lightning(configurations, labels=labels))
    require_same(encoder, *naive(network("gru", 6), "gru", spectrograms(*batch(), symmetric=False)), labels)
    require_spelling(encoder, labels)


def test_the_command(tmp_path, capsys):
    torch.save(package(), tmp_path / "model.pth")
    arguments = ["import-deepspeech", str(tmp_path / "model.pth"), str(tmp_path / "made" / "encoder")]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.strip() == arguments[2]
    encoding = load_encoder(arguments[2])(*speech())
    assert encoding.log_probs.data.shape[2] == 29
    assert cli.main(arguments) == 2
    assert "exists and is not an empty folder: give another one" in capsys.readouterr().err
    assert cli.main([*arguments[:2], str(tmp_path / "new"), "--padding", "edge"]) == 2
    assert "padding 'edge' is not one of zero, reflect" in capsys.readouterr().err


# What is refused


def refused(tmp_path, content, message, legacy=False):
    with pytest.raises(DataError, match=message) as caught:
        imported(tmp_path, content, legacy)
    assert str(tmp_path / "model.pth") in str(caught.value)
    assert not (tmp_path / "encoder").exists()


class Malice:
    """Runs code where it is unpickled without care."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("function", "name"), [(os.system, "(posix|nt).system"), (eval, "(builtins.)?eval"),
                                                (os.path.join, "(posixpath|ntpath).join")])
def test_code_is_named_and_not_run(tmp_path, legacy, function, name):
    arguments = (f"touch {tmp_path / 'run'}",) if function is os.system else (f"open({str(tmp_path / 'run')!r}, 'w')",)
    content = package(meta=Malice(function, *arguments))
    refused(tmp_path, content, rf"only by running code: {name}\. None was run.*weights_only=False.*import that", legacy)
    assert not (tmp_path / "run").exists()


def test_code_under_a_configurations_name_is_not_run(tmp_path, configurations):
    """The name is the file's; what it calls is the stand-in."""
    called = []
    module = sys.modules["omegaconf.nodes"]
    module.call = called.append
    trap = Malice(module.AnyNode, "anything")
    encoder = imported(tmp_path, {**lightning(configurations), "callbacks": {"trap": trap}})
    assert not called
    assert encoder.layer_dims == (2 * UNITS,) * LAYERS


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("keep", [0.97, 0.5, 0.01])
def test_a_truncated_file(tmp_path, legacy, keep):
    path = tmp_path / "model.pth"
    torch.save(package(), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match=r"model\.pth is corrupt, or no checkpoint: ."):
        import_checkpoint(path, tmp_path / "encoder")


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"\x80\x02.", b"PK\x03\x04rest"])
def test_other_files(tmp_path, content):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.pth is corrupt, or no checkpoint: ."):
        import_checkpoint(tmp_path / "model.pth", tmp_path / "encoder")


def test_an_archive_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match=r"model\.pth is corrupt, or no checkpoint: ."):
        import_checkpoint(tmp_path / "model.pth", tmp_path / "encoder")


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(DataError, match=rf"{re.escape(str(path))} is no file: give a checkpoint of deepspeech"):
            import_checkpoint(path, tmp_path / "encoder")


def test_a_folder_in_use(tmp_path):
    (tmp_path / "used").write_text("a file")
    with pytest.raises(OptionError, match="used exists and is not an empty folder"):
        import_checkpoint(tmp_path / "model.pth", tmp_path / "used")


@pytest.mark.parametrize(("content", "message"), [
    ([1, 2], r"holds a list; expected a mapping with hidden_size, .* \(.pth\), or with hyper_parameters and state_di"),
    (network("gru"), r"the file has no hidden_size, .*, state_dict, but conv\.seq_module\.0\.weight, .* more; expe"),
    ({name: value for name, value in package().items() if name not in ("labels", "audio_conf")},
     r"the file has no audio_conf, labels, but .*state_dict.*; expected a mapping with hidden_size"),
    ({"hyper_parameters": {}}, "the file has no state_dict, but hyper_parameters; expected"),
    ({}, "the file has no hidden_size, .* but nothing; expected"),
    ({"state_dict": {}, "hyper_parameters": {}}, "hyper_parameters has no labels, model_cfg, spect_cfg, but nothing"),
    ({"state_dict": {}, "hyper_parameters": 3}, "hyper_parameters is a int; expected a mapping with"),
    (package(state_dict=7), "state_dict is a int; expected"),
    (package(state_dict={"conv": "text"}), "state_dict holds no tensors under conv"),
], ids=["list", "weights", "some", "no weights", "empty", "hyper", "number", "state", "text"])
def test_another_layout(tmp_path, content, message):
    refused(tmp_path, content, message)


def changed(change):
    """A package whose weights a function of their dictionary has changed."""
    weights = network("gru")
    change(weights)
    return package(state_dict=weights)


@pytest.mark.parametrize(("content", "message"), [
    (changed(lambda weights: weights.pop("rnns.1.rnn.bias_hh_l0_reverse")),
     r"not those of the network; missing: rnns\.1\.rnn\.bias_hh_l0_reverse$"),
    (changed(lambda weights: [weights.pop(name) for name in list(weights) if name.startswith("conv")]),
     r"missing: conv\.seq_module\.0\.weight, .* and 4 more$"),
    (changed(lambda weights: weights.update(extra=torch.ones(1))), "network; unexpected: extra$"),
    (changed(lambda weights: weights.update({"rnns.0.batch_norm.module.weight": torch.ones(1312)})),
     r"unexpected: rnns\.0\.batch_norm\.module\.weight$"),
    (changed(lambda weights: weights.update({"fc.0.module.1.weight": torch.ones(28, UNITS)})),
     r"of another shape: fc\.0\.module\.1\.weight \(28, 7\) in place of \(29, 7\)$"),
    (changed(lambda weights: weights.update({"rnns.0.rnn.weight_ih_l0": torch.ones(3 * UNITS, 672)})),
     r"rnns\.0\.rnn\.weight_ih_l0 \(21, 672\) in place of \(21, 1312\)$"),
    (changed(lambda weights: weights["fc.0.module.0.bias"].fill_(float("nan"))),
     r"weights are not finite: fc\.0\.module\.0\.bias$"),
    (package(hidden_size=8), r"rnns\.0\.rnn\.weight_hh_l0 has shape \(21, 7\); expected \(24, 8\) of a gru with hid"),
    (package(hidden_layers=5), "hidden_layers is 5, but there are weights of 3 recurrent layers"),
    (package(hidden_layers=True), "hidden_layers is True; expected a whole number from 1"),
    (package(hidden_size="7"), "hidden_size is '7'; expected a whole number from 1"),
    (package(rnn_type="lstm"), r"weight_hh_l0 has shape \(21, 7\); expected \(28, 7\) of a lstm"),
    (package(rnn_type="rnn"), "layers of type 'rnn' have no counterpart here: expected gru or lstm"),
    (package(bidirectional=False), "unidirectional network with lookahead convolution has no counterpart here"),
    (changed(lambda weights: weights.update({"lookahead.0.conv.weight": torch.ones(7, 1, 20)})), "unidirectional"),
    (package(state_dict={"conv.0.weight": torch.ones(32, 1, 41, 11)}),
     r"before July 2018 \(conv\.0\.weight; expected conv\.seq_module\.0\.weight\) has no counterpart here"),
], ids=["missing", "many", "extra", "first norm", "labels", "inputs", "nan", "units", "layers", "true", "word", "lstm",
        "plain", "one way", "lookahead", "2017"])
def test_weights_of_another_network(tmp_path, content, message):
    refused(tmp_path, content, message)


@pytest.mark.parametrize(("changes", "message"), [
    ({"sample_rate": 8000}, "sample_rate is 8000; only checkpoints with 16000 Hz can be imported"),
    ({"window_size": 0.025}, r"window_size is 0\.025; only checkpoints with 0\.02 s can be imported"),
    ({"window_stride": 0.02}, r"window_stride is 0\.02; only checkpoints with 0\.01 s"),
    ({"window_stride": "0.01"}, r"window_stride is '0\.01'; only"),
    ({"window": "hann"}, "window is 'hann'; only checkpoints with 'hamming' can be imported"),
    ({"window": None}, "spectrogram's configuration has no window, but sample_rate, window_size, window_stride"),
])
def test_another_spectrogram(tmp_path, changes, message):
    sound = {name: value for name, value in {**AUDIO, **changes}.items() if value is not None or name == "noise_dir"}
    refused(tmp_path, package(audio_conf=sound), message)


def test_a_lightning_checkpoint_with_lookahead_or_another_window(tmp_path, configurations):
    refused(tmp_path, lightning(configurations, lookahead_context=20), "unidirectional network")
    refused(tmp_path, lightning(configurations, window="hann"), "window is 'hann'; only checkpoints with 'hamming'")


@pytest.mark.parametrize(("labels", "message"), [
    (ENGLISH[1:] + "_", r"the blank '_' is not the first of the labels \"'\", 'A', .* more$"),
    (ENGLISH[1:] + "-", "the blank '_' is not the first of the labels"),
    ("_AAB", "labels are not single, different characters: 'A', 'A'$"),
    (["_", "A", "<space>"], "labels are not single, different characters: '<space>'$"),
    (["_", "A", 3], "labels are not single, different characters: 3$"),
    (5, "labels are a int; expected a list of characters"),
    ("_A▁ ", "labels that no tokenizer can hold: "),
])
def test_labels_that_cannot_be_kept(tmp_path, labels, message):
    refused(tmp_path, {**package(), "labels": labels}, message)


def test_a_configuration_that_contains_itself(tmp_path):
    sound = {"window": []}
    sound["window"].append(sound)
    refused(tmp_path, package(audio_conf=sound), "its configuration contains itself")


def test_a_folder_that_cannot_be_written(tmp_path):
    torch.save(package(), tmp_path / "model.pth")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"encoder cannot be written: .*; is the folder writable"):
        import_checkpoint(tmp_path / "model.pth", tmp_path / "file" / "encoder")
