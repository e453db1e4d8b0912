"""Heads of several runs as one network: what each gives is what it would give by itself."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ser_plugins import stacked
from ser_plugins.contracts import Frames, HeadInputs
from ser_plugins.heads.attention_pool import AttentionPool
from ser_plugins.heads.baseline import Baseline
from ser_plugins.heads.linguistic import Linguistic
from ser_plugins.heads.mp import MeanPooling
from ser_plugins.heads.progressive import Progressive
from ser_plugins.heads.rnn import RNN
from ser_plugins.heads.weighted_layers import WeightedLayers

DIMS = [6] * 3
HEADS = {
    "attention": lambda: AttentionPool(layer_dims=DIMS, num_classes=4, units=3),
    "baseline": lambda: Baseline(feature_dim=5, num_classes=4, units=3),
    "linguistic": lambda: Linguistic(vocabulary=7, num_classes=4),
    "mp": lambda: MeanPooling(layer_dims=DIMS, num_classes=4, layer=3),
    "progressive": lambda: Progressive(feature_dim=5, layer_dims=DIMS, num_classes=4, units=3),
    "rnn": lambda: RNN(layer_dims=DIMS, num_classes=4, units=3),
    "weighted": lambda: WeightedLayers(layer_dims=DIMS, num_classes=4),
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


class Made:
    """A store of random arrays of nine utterances, some of one frame only."""

    def __init__(self, needs):
        self.needs, draw = needs, torch.Generator().manual_seed(0)
        self.kinds = [*(["features"] if needs.features else []), *(f"layer{layer}" for layer in needs.sequences),
                      *(["means"] if needs.means else []), *(["log_probs"] if needs.log_probs else [])]
        self.items = [SimpleNamespace(key=f"{number}") for number in range(9)]
        dims = {"features": 5, "log_probs": 7}
        lengths = [1, 4, 9, 1, 12, 7, 3, 8, 5]
        self.arrays = {(kind, one.key): torch.randn(length, dims.get(kind, 6), generator=draw).half().float()
                       for kind in self.kinds for one, length in zip(self.items, lengths, strict=True)}
        self.vectors = {one.key: {layer: torch.randn(6, generator=draw) for layer in needs.means}
                        for one in self.items}

    def rate(self, kind):
        return 50.0

    def read(self, kind, one):
        return self.arrays[kind, one.key]

    def means(self, one):
        return self.vectors[one.key]

    def inputs(self, batch):
        def frames(kind):
            return Frames.from_list([self.read(kind, one) for one in batch], 50.0)

        return HeadInputs(
            frames("features") if self.needs.features else None,
            {layer: frames(f"layer{layer}") for layer in self.needs.sequences},
            {layer: torch.stack([self.vectors[one.key][layer] for one in batch]) for layer in self.needs.means},
            frames("log_probs") if self.needs.log_probs else None)


def heads_and_store(name, runs):
    heads = []
    for seed in range(runs):
        torch.manual_seed(seed)
        heads.append(HEADS[name]())
    made = Made(type(heads[0]).needs.resolve({"layer": getattr(heads[0], "layer", None)}, 3))
    return heads, made


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", sorted(HEADS))
def test_logits_and_gradients_are_those_of_each_head_by_itself(name, device):
    heads, made = heads_and_store(name, 3)
    batches = [made.items[:4], made.items[2:9], made.items[5:6]]
    truths = [torch.arange(len(batch)) % 4 for batch in batches]
    expected, gradients = [], []
    for head, batch, truth in zip(heads, batches, truths, strict=True):
        head.eval()
        expected.append(head(made.inputs(batch)))
        cross_entropy(expected[-1], truth).backward()
        gradients.append([parameter.grad.clone() for parameter in head.parameters()])
        head.zero_grad()
        head.to(device)
    table = stacked.Table(made, made.items, device)
    logits = stacked.Stack(heads)(range(3), table, batches)
    sum(cross_entropy(one[:len(truth)], truth.to(device))
        for one, truth in zip(logits, truths, strict=True)).backward()
    for head, one, true, wanted in zip(heads, logits, expected, gradients, strict=True):
        torch.testing.assert_close(one[:len(true)].cpu(), true, atol=1e-5, rtol=1e-4)
        for parameter, gradient in zip(head.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad.cpu(), gradient, atol=1e-5, rtol=1e-4)


def test_a_subset_of_the_heads_is_theirs_in_any_order():
    heads, made = heads_and_store("progressive", 3)
    stack, table = stacked.Stack(heads), stacked.Table(made, made.items, "cpu")
    batch = made.items[:3]
    every = stack([0, 1, 2], table, [batch] * 3)
    torch.testing.assert_close(stack([2, 0], table, [batch] * 2), every[[2, 0]])


@pytest.mark.parametrize("device", DEVICES)
def test_the_recurrence_is_that_of_pytorchs_gru(device):
    torch.manual_seed(0)
    gru = nn.GRU(4, 3, batch_first=True).to(device)
    data = torch.randn(2, 6, 4, device=device, requires_grad=True)
    expected, _ = gru(data)
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), [data, *gru.parameters()])
    gates = (data @ gru.weight_ih_l0.T + gru.bias_ih_l0).transpose(0, 1).unsqueeze(1)  # [time, groups, batch, …]
    states, _ = stacked._Recurrence.apply(gates, gru.weight_hh_l0[None], gru.bias_hh_l0[None])
    found = states[:, 0].transpose(0, 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    for one, true in zip(torch.autograd.grad((found * weight).sum(), [data, *gru.parameters()]), wanted, strict=True):
        torch.testing.assert_close(one, true, atol=1e-5, rtol=1e-4)


def test_gradients_of_the_recurrence_are_those_of_finite_differences():
    torch.manual_seed(0)
    shapes = ((5, 2, 3, 6), (2, 6, 2), (2, 6))
    arguments = [torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *given: stacked._Recurrence.apply(*given)[0], arguments)


def dropped(shape, seed, share=0.25):
    dropout = stacked._SeededDropout(share)
    dropout.seed = torch.tensor(seed)
    return dropout(torch.ones(shape))


def test_dropout_leaves_out_its_share_independently_and_keeps_the_mean():
    masks = torch.stack([dropped((4, 8), seed) for seed in range(4000)])
    assert set(masks.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.75))}
    left_out = (masks == 0).flatten(1).double()
    assert (left_out.mean(0) - 0.25).abs().max() < 5 * (0.25 * 0.75 / 4000) ** 0.5  # of each element, five deviations
    off_diagonal = torch.corrcoef(left_out.T) - torch.eye(32)
    assert off_diagonal.abs().max() < 5 / 4000**0.5  # no element knows of another


def test_dropout_of_an_element_does_not_depend_on_what_is_beside_it():
    large = dropped((5, 7, 3), 11)
    torch.testing.assert_close(large[:2, :4], dropped((2, 4, 3), 11))
    assert not torch.equal(large, dropped((5, 7, 3), 12))


@pytest.mark.parametrize("name", ["mp", "progressive", "attention"])
def test_a_runs_dropout_does_not_depend_on_the_runs_beside_it(name):
    heads, made = heads_and_store(name, 3)
    stack, table = stacked.Stack(heads), stacked.Table(made, made.items, "cpu")
    batches = [made.items[:4], made.items[2:9], made.items[5:7]]
    together = stack([0, 1, 2], table, batches, [5, 6, 7])
    for number, seed in enumerate((5, 6, 7)):
        alone = stack([number], table, [batches[number]], [seed])
        size = len(batches[number])
        torch.testing.assert_close(together[number, :size], alone[0, :size], atol=1e-6, rtol=1e-5)
        other = stack([number], table, [batches[number]], [seed + 10])
        assert (other[0, :size] - alone[0, :size]).abs().max() > 1e-3
