"""Frames, needs and fingerprints: what passes between the parts."""

from __future__ import annotations

import random
import struct
from hashlib import sha256

import pytest
import torch

from ser_plugins.contracts import Encoder, Encoding, Frames, HeadInputs, Needs, fingerprint, length_mask
from ser_plugins.errors import PluginError

MANY = pytest.mark.parametrize("seed", range(20))


def some_lengths(seed, longest=60):
    draw = random.Random(seed)
    return [draw.randint(1, longest) for _ in range(draw.randint(1, 6))]


def sequences(lengths, dim=3):
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randn(length, dim, generator=generator) for length in lengths]


def encoding(lengths=(5, 3), dims=(4, 2, 6)):
    layers = tuple(Frames.from_list(sequences(list(lengths), dim), 50.0) for dim in dims)
    return Encoding(layers, Frames.from_list(sequences(list(lengths), 29), 50.0))


@MANY
def test_frames_are_sequences_and_zeros(seed):
    lengths = some_lengths(seed)
    items = sequences(lengths)
    frames = Frames.from_list(items, 100.0)
    assert frames.data.shape == (len(lengths), max(lengths), 3)
    assert frames.lengths.tolist() == lengths
    assert all(torch.equal(found, item) for found, item in zip(frames.unpad(), items, strict=True))
    assert frames.mask().sum(dim=1).tolist() == lengths
    assert not frames.data[~frames.mask()].any()


@MANY
def test_mean_is_that_of_each_sequence_whatever_the_padding_holds(seed):
    items = sequences(some_lengths(seed))
    frames = Frames.from_list(items, 100.0)
    dirty = Frames(frames.data.masked_fill(~frames.mask().unsqueeze(2), 7.0), frames.lengths, 100.0)
    expected = torch.stack([sum(item) / len(item) for item in items])
    torch.testing.assert_close(dirty.mean(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(dirty.masked().data, frames.data)


@MANY
def test_relative_lengths_come_back_whole(seed):
    lengths = some_lengths(seed, longest=3000)
    frames = Frames(torch.zeros(len(lengths), max(lengths), 1), torch.tensor(lengths), 100.0)
    assert frames.relative().max() == 1
    assert Frames.from_relative(frames.data, frames.relative(), 100.0).lengths.tolist() == lengths


def test_from_relative_masks_what_lies_beyond():
    frames = Frames.from_relative(torch.ones(2, 4, 1), torch.tensor([1.0, 0.5]), 100.0)
    assert frames.data.squeeze(2).tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_mask_of_no_frames():
    assert not length_mask(torch.tensor([0, 0]), 3).any()
    assert Frames(torch.zeros(1, 3, 2), torch.tensor([0]), 100.0).mean().tolist() == [[0, 0]]


@pytest.mark.parametrize(("choice", "layers"), [
    ((), ()), (2, (2,)), ((3, 1, 3), (1, 3)), ([2, 1], (1, 2)), ("all", (1, 2, 3)), ("layer", (2,)),
    ("several", (1, 3)), ("every", (1, 2, 3)),
])
def test_needs_resolve(choice, layers):
    arguments = {"layer": 2, "several": [3, 1], "every": "all"}
    assert Needs(True, sequences=choice).resolve(arguments, 3) == Needs(True, sequences=layers)
    assert Needs(means=choice).resolve(arguments, 3) == Needs(means=layers)


@pytest.mark.parametrize("layer", [0, 4, -1, True, None, 2.0, "two", "layer", [1, "all"], [[1]]])
def test_needs_refuse_a_layer_that_does_not_exist(layer):
    with pytest.raises(ValueError, match="does not exist: the encoder has layers 1 to 3"):
        Needs(means="layer").resolve({"layer": layer}, 3)


def test_needs_take_only_what_they_name():
    features, encoded = Frames.from_list(sequences([9, 4]), 100.0), encoding()
    nothing = Needs(features=True).take(features, encoded)
    assert (nothing.features, nothing.sequences, nothing.means) == (features, {}, {})
    taken = Needs(sequences=(3,), means=(1, 2)).take(features, encoded)
    assert taken.features is None
    assert list(taken.sequences) == [3]
    assert taken.sequences[3] is encoded.layers[2]
    for layer in (1, 2):
        torch.testing.assert_close(taken.means[layer], encoded.layers[layer - 1].mean())


@pytest.mark.parametrize(("needs", "encoder"), [
    (Needs(features=True), False), (Needs(sequences=(1,)), True), (Needs(True, means=(2,)), True)])
def test_needs_say_whether_the_encoder_is_run(needs, encoder):
    assert needs.encoder is encoder


@pytest.mark.parametrize("needs", [Needs(True), Needs(sequences=(1,)), Needs(means=(1,))])
def test_inputs_move_to_a_device_as_a_whole(needs):
    inputs = needs.take(Frames.from_list(sequences([9, 4]), 100.0), encoding()).to("meta")
    assert inputs.device == torch.device("meta")
    assert isinstance(inputs, HeadInputs)


WEIGHTS = {"w": torch.tensor([[1.0, 2.0]]), "n": torch.tensor(3)}


@pytest.mark.parametrize("other", [
    {"w": torch.tensor([[1.0, 2.5]]), "n": torch.tensor(3)}, {"w": torch.tensor([[1.0], [2.0]]), "n": torch.tensor(3)},
    {"w": torch.tensor([[1.0, 2.0]]), "m": torch.tensor(3)}, {"w": torch.tensor([[1.0, 2.0]])},
    {"w": torch.tensor([[1.0, 2.0]], dtype=torch.float64), "n": torch.tensor(3)},
], ids=["value", "shape", "name", "number", "type"])
def test_fingerprint_changes_with_weights(other):
    assert fingerprint({}, other) != fingerprint({}, WEIGHTS)


def test_fingerprint_is_one_for_any_order_and_memory_layout():
    first = fingerprint({"a": 1, "b": [2, 3]}, WEIGHTS)
    strided = {"n": torch.tensor(3), "w": torch.tensor([[1.0], [2.0]]).T}
    assert fingerprint({"b": [2, 3], "a": 1}, strided) == first
    settings, n, w = b'{"a": 1, "b": [2, 3]}', b"n torch.int64 ()", b"w torch.float32 (1, 2)"
    assert first == sha256(settings + n + struct.pack("<q", 3) + w + struct.pack("<2f", 1, 2)).hexdigest()[:16]


def test_freeze_is_for_good():
    class Small(Encoder):
        layer_dims, rate, fingerprint = (2,), 50.0, ""

        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)

        from_pretrained = forward = decode = None

    encoder = Small().train().freeze()
    assert not encoder.training
    assert not encoder.linear.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_a_layer_that_a_head_did_not_ask_for_is_named():
    inputs = Needs(sequences=(1, 3)).take(None, encoding()).to("cpu")
    assert list(inputs.sequences) == [1, 3]
    with pytest.raises(PluginError, match=r"reads layer 2, and its `needs` ask for 1, 3 of this kind"):
        inputs.sequences[2]
    with pytest.raises(PluginError, match="reads layer 1, and its `needs` ask for none"):
        inputs.means[1]
