"""Bidirectional layers against torch's own, packed; weights map one to one."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ser_plugins.contracts import Frames
from ser_plugins.recurrent import CELLS, BiRNN, BiRNNLayer, reverse_within_length

INPUTS, UNITS = 5, 4
MANY = pytest.mark.parametrize("seed", range(15))


def some_lengths(seed):
    """Up to five lengths, and some padding beyond the longest."""
    draw = random.Random(seed)
    return [draw.randint(1, 25) for _ in range(draw.randint(1, 5))], draw.randint(0, 6)


def batch(lengths, dim=INPUTS, padding=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(len(lengths), max(lengths) + padding, dim, generator=generator)
    return Frames(data, torch.tensor(lengths), 100.0).masked()


def names(layer, direction):
    """Torch's names of a bidirectional layer's weights, by those of a one-directional one."""
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return {f"{kind}_l0": f"{kind}_l{layer}{direction}" for kind in kinds}


def directions(ours):
    for number, layer in enumerate(ours.layers):
        yield layer.forwards, names(number, "")
        yield layer.backwards, names(number, "_reverse")


def packed_twin(ours, cell):
    """Torch's bidirectional network with the weights of ours."""
    twin = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](INPUTS, UNITS, len(ours.layers), batch_first=True, bidirectional=True)
    with torch.no_grad():
        for direction, theirs in directions(ours):
            for own, their in theirs.items():
                getattr(twin, their).copy_(getattr(direction, own))
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in ours.parameters())
    return twin


def packed(twin, data, lengths):
    outputs, _ = twin(pack_padded_sequence(data, lengths, batch_first=True, enforce_sorted=False))
    return pad_packed_sequence(outputs, batch_first=True, total_length=data.shape[1])[0]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("lengths", [[7], [7, 3, 1], [2, 9, 9, 5]])
def test_outputs_and_gradients_are_those_of_a_packed_bidirectional_network(cell, layers, lengths):
    torch.manual_seed(0)
    ours = BiRNN(INPUTS, UNITS, layers, cell)
    twin = packed_twin(ours, cell)
    frames = batch(lengths)
    mine, theirs = frames.data.clone().requires_grad_(), frames.data.clone().requires_grad_()
    outputs = ours(Frames(mine, frames.lengths, 100.0)).data
    expected = packed(twin, theirs, frames.lengths)
    torch.testing.assert_close(outputs, expected, atol=1e-6, rtol=0)

    upstream = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))  # of the padding too
    (outputs * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-5)
    for direction, pairs in directions(ours):
        for own, their in pairs.items():
            torch.testing.assert_close(getattr(direction, own).grad, getattr(twin, their).grad, atol=1e-5, rtol=1e-5)


def test_a_layer_gives_its_two_directions():
    layer = BiRNNLayer(INPUTS, UNITS)
    frames = batch([6, 4])
    stack = BiRNN(INPUTS, UNITS)
    stack.layers[0] = layer
    torch.testing.assert_close(torch.cat(layer(frames), dim=2), stack(frames).data)
    ahead, behind = layer(frames)
    assert ahead.shape == behind.shape == (2, 6, UNITS)


@MANY
@pytest.mark.parametrize("cell", CELLS)
def test_batch_invariance(seed, cell):
    torch.manual_seed(seed)
    lengths, padding = some_lengths(seed)
    network = BiRNN(INPUTS, UNITS, 2, cell)
    frames = batch(lengths, padding=padding)
    together = network(frames)
    assert not together.data[~together.mask()].any()
    assert torch.equal(together.lengths, frames.lengths)
    for item, found in zip(frames.unpad(), together.unpad(), strict=True):
        alone = network(Frames.from_list([item], 100.0)).data[0]
        torch.testing.assert_close(found, alone, atol=1e-6, rtol=0)


@MANY
def test_reversal_is_that_of_each_item_and_its_own_inverse(seed):
    lengths, padding = some_lengths(seed)
    frames = batch(lengths, padding=padding)
    reversed_data = reverse_within_length(frames.data, frames.lengths)
    for item, found, length in zip(frames.data, reversed_data, lengths, strict=True):
        assert torch.equal(found[:length], item[:length].flip(0))
        assert torch.equal(found[length:], item[length:])
    assert torch.equal(reverse_within_length(reversed_data, frames.lengths), frames.data)


def test_an_unknown_cell_is_refused():
    with pytest.raises(ValueError, match="cell 'rnn' is not one of gru, lstm"):
        BiRNN(INPUTS, UNITS, cell="rnn")
