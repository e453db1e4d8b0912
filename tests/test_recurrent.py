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


@pytest.mark.parametrize("units", [1, 7, 96, 320])
@pytest.mark.parametrize("lengths", [[1], [30, 12, 30, 1, 7], [0, 5, 0], [3] * 40])
def test_the_cpus_own_layer_is_pytorchs(units, lengths):
    """In float64, which PyTorch computes; sizes that fill vectors and that do not, products in parts and whole."""
    torch.manual_seed(0)
    layer, data = BiRNNLayer(27, units), 3 * batch(lengths, dim=27, padding=2).data
    results = []
    for kind in (torch.float32, torch.float64):
        layer.zero_grad()
        layer.to(kind)
        leaf = data.to(kind, copy=True).requires_grad_()
        outputs = layer(Frames(leaf, torch.tensor(lengths), 100.0))
        generator = torch.Generator().manual_seed(1)
        sum((part * torch.randn(part.shape, generator=generator).to(kind)).sum() for part in outputs).backward()
        results.append([*outputs, leaf.grad, *(parameter.grad.clone() for parameter in layer.parameters())])
    assert type(results[0][0].grad_fn).__name__ == "_BiGRUBackward"
    assert type(results[1][0].grad_fn).__name__ != "_BiGRUBackward"
    for found, expected in zip(*results, strict=True):
        largest = max(1.0, float(expected.detach().abs().max()))
        torch.testing.assert_close(found.double(), expected, atol=5e-6 * largest, rtol=0)


def test_the_gates_do_not_saturate_apart():
    """Sums of ±100 end where torch's tanh and sigmoid do."""
    layer = BiRNNLayer(1, 2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1.0)
    frames = Frames(torch.tensor([[[100.0], [-100.0], [8.0], [-8.0], [0.0], [1e30]]]), torch.tensor([6]), 100.0)
    found = layer(frames)
    expected = layer.double()(Frames(frames.data.double(), frames.lengths, 100.0))
    torch.testing.assert_close(torch.stack(found).double(), torch.stack(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_visible(value):
    layer, frames = BiRNNLayer(INPUTS, UNITS), batch([4, 3])
    with torch.no_grad():
        layer.forwards.weight_ih_l0[0, 0] = value
        frames.data[0, 0, 0] = 0.0  # infinity times nothing
    ahead, behind = layer(frames)
    assert ahead[0].isnan().any()
    assert behind.isfinite().all()


def test_weights_alone_or_inputs_alone_may_want_gradients():
    layer, frames = BiRNNLayer(INPUTS, UNITS), batch([4, 3])
    sum(part.sum() for part in layer(frames)).backward()
    assert frames.data.grad is None
    layer.requires_grad_(False)
    leaf = frames.data.clone().requires_grad_()
    sum(part.sum() for part in layer(Frames(leaf, frames.lengths, 100.0))).backward()
    assert leaf.grad[0].any()


def test_frozen_weights_leave_the_gradient_of_the_rest():
    torch.manual_seed(0)
    layer, frames = BiRNNLayer(INPUTS, UNITS), batch([4, 3])
    total = sum(part.sum() for part in layer(frames))
    total.backward()
    expected = layer.backwards.weight_ih_l0.grad.clone()
    layer.zero_grad()
    layer.forwards.requires_grad_(False)
    sum(part.sum() for part in layer(frames)).backward()
    assert layer.forwards.weight_ih_l0.grad is None
    torch.testing.assert_close(layer.backwards.weight_ih_l0.grad, expected)


def test_without_a_gradient_the_outputs_are_the_same():
    layer, frames = BiRNNLayer(27, 96), batch([30, 12, 7], dim=27)
    with torch.inference_mode():
        alone = layer(frames)
    torch.testing.assert_close(alone, layer(frames), atol=0, rtol=0)


def test_a_length_beyond_the_time_is_refused():
    with pytest.raises(ValueError, match="a length of 9 frames in a batch of 6"):
        BiRNNLayer(INPUTS, UNITS)(Frames(torch.zeros(2, 6, INPUTS), torch.tensor([9, 4]), 100.0))


@pytest.mark.parametrize("changed", ["parametrized", "hooked", "transposed"])
def test_what_pytorch_lets_one_do_with_a_layer_works(changed):
    torch.manual_seed(0)
    layer, frames, seen = BiRNNLayer(INPUTS, UNITS), batch([6, 4]), []
    expected = layer(frames)
    if changed == "parametrized":
        torch.nn.utils.parametrizations.weight_norm(layer.forwards, "weight_hh_l0")
    elif changed == "hooked":
        layer.forwards.register_forward_hook(lambda *_: seen.append(1))
    else:
        frames = Frames(frames.data.transpose(0, 1).contiguous().transpose(0, 1), frames.lengths, 100.0)
    found = layer(frames)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert len(seen) == (changed == "hooked")


def test_numba_may_have_nowhere_to_write(monkeypatch):
    from ser_plugins import gru

    compile_with = gru.numba.njit

    def refuses(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function 'double': no locator available")
        return compile_with(**options)

    monkeypatch.setattr(gru.numba, "njit", refuses)
    assert gru.jit()(lambda number: 2 * number)(21) == 42


def test_it_goes_backward_once():
    layer = BiRNNLayer(INPUTS, UNITS)
    total = layer(batch([4, 3]))[0].sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="goes backward once"):
        total.backward()


class Outputs(nn.Module):
    """The layer as a function of tensors."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, data, lengths):
        return self.layer(Frames(data, lengths, 100.0))


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # nn.GRU holds its weights in a list too
def test_an_exported_layer_is_pytorchs():
    module, frames = Outputs(BiRNNLayer(INPUTS, UNITS)).eval(), batch([4, 3])
    exported = torch.export.export(module, (frames.data, frames.lengths))
    assert "aten.gru" in str(exported.graph)
    torch.testing.assert_close(exported.module()(frames.data, frames.lengths), module(frames.data, frames.lengths))


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
