"""The paper's four systems: sizes by formula, and outputs against PyTorch's own packed bidirectional GRU."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ser_plugins import registry
from ser_plugins.contracts import Frames, HeadInputs

FEATURES = 27  # 13 MFCC, their deltas, pitch
LAYER = 512  # one layer of the shipped encoder: two directions of 256 units
CLASSES = 4
CONTEXT = {"feature_dim": FEATURES, "layer_dims": (LAYER,) * 5, "num_classes": CLASSES}


def build(name, **options):
    torch.manual_seed(0)
    return registry.create("heads", name, options, CONTEXT).eval()


def parameters(head):
    return sum(parameter.numel() for parameter in head.parameters() if parameter.requires_grad)


def bidirectional_gru(inputs, units):
    """Three gates; each has input weights, recurrent weights and two biases (PyTorch's form of Cho et al. 2014)."""
    return 2 * 3 * units * (inputs + units + 2)


def softmax_layer(inputs):
    return CLASSES * (inputs + 1)


@pytest.mark.parametrize("units", [64, 96, 128])
def test_parameters_are_those_of_the_formula(units):
    branch = bidirectional_gru(FEATURES, units) + bidirectional_gru(2 * units, units)
    assert parameters(build("baseline", units=units)) == branch + softmax_layer(2 * units)
    assert parameters(build("progressive", units=units)) == branch + softmax_layer(2 * units + LAYER)
    assert parameters(build("rnn", units=units)) == bidirectional_gru(LAYER, units) + softmax_layer(2 * units)
    assert parameters(build("mp")) == softmax_layer(LAYER)


def test_parameters_of_the_defaults():
    assert {name: parameters(build(name)) for name in ("baseline", "mp", "progressive", "rnn")} == {
        "baseline": 239_812, "mp": 2_052, "progressive": 241_860, "rnn": 352_132,
    }


def test_mp_trains_at_least_twenty_times_fewer_parameters_than_the_baseline():
    assert parameters(build("baseline")) >= 20 * parameters(build("mp"))


@pytest.mark.parametrize(("name", "layer"), [("mp", 3), ("rnn", 2), ("progressive", 2)])
def test_the_default_layer_is_the_papers_best(name, layer):
    assert registry.arguments(registry.load("heads", name))["layer"].default == layer


@pytest.mark.parametrize(("name", "features", "sequences", "means"), [
    ("baseline", True, (), ()), ("mp", False, (), (4,)), ("rnn", False, (4,), ()), ("progressive", True, (), (4,)),
])
def test_needs_name_only_what_is_used(name, features, sequences, means):
    needs = registry.load("heads", name).needs.resolve({"layer": 4}, num_layers=5)
    assert (needs.features, needs.sequences, needs.means) == (features, sequences, means)


# Against PyTorch


def random_frames(lengths, dim):
    generator = torch.Generator().manual_seed(1)
    return Frames.from_list([torch.randn(length, dim, generator=generator) for length in lengths], rate=100.0)


def torch_gru(birnn):
    """PyTorch's bidirectional GRU with the weights of a `BiRNN`."""
    first = birnn.layers[0].forwards
    gru = nn.GRU(first.input_size, first.hidden_size, len(birnn.layers), batch_first=True, bidirectional=True)
    with torch.no_grad():
        for number, layer in enumerate(birnn.layers):
            for suffix, direction in (("", layer.forwards), ("_reverse", layer.backwards)):
                for name, weight in direction.named_parameters():
                    getattr(gru, name.replace("l0", f"l{number}{suffix}")).copy_(weight)
    return gru


def mean_over_time(sequences):
    return torch.stack([sequence.mean(dim=0) for sequence in sequences])


def packed_mean(gru, frames):
    """Mean over each utterance's own frames of a GRU that never sees the padding."""
    packed = pack_padded_sequence(frames.data, frames.lengths, batch_first=True, enforce_sorted=False)
    output, _ = pad_packed_sequence(gru(packed)[0], batch_first=True)
    return mean_over_time([item[:length] for item, length in zip(output, frames.lengths.tolist(), strict=True)])


LENGTHS = (31, 50, 1, 17)


def test_baseline_is_a_packed_gru_averaged_over_time():
    head, features = build("baseline"), random_frames(LENGTHS, FEATURES)
    expected = head.output(packed_mean(torch_gru(head.rnn), features))
    torch.testing.assert_close(head(HeadInputs(features)), expected, atol=1e-5, rtol=1e-5)


def test_mp_is_one_linear_layer_on_the_mean_of_layer_k():
    head, frames = build("mp", layer=4), random_frames(LENGTHS, LAYER)
    mean = mean_over_time(frames.unpad())
    expected = mean @ head.output.weight.T + head.output.bias
    torch.testing.assert_close(head(HeadInputs(means={4: frames.mean()})), expected, atol=1e-5, rtol=1e-5)


def test_rnn_is_a_packed_gru_on_the_frames_of_layer_k():
    head, frames = build("rnn", layer=4), random_frames(LENGTHS, LAYER)
    expected = head.output(packed_mean(torch_gru(head.rnn), frames))
    torch.testing.assert_close(head(HeadInputs(sequences={4: frames})), expected, atol=1e-5, rtol=1e-5)


def test_progressive_is_the_baselines_branch_beside_the_mean_of_layer_k():
    head = build("progressive", layer=4)
    features, frames = random_frames(LENGTHS, FEATURES), random_frames((16, 25, 1, 9), LAYER)
    vector = torch.cat([packed_mean(torch_gru(head.rnn), features), mean_over_time(frames.unpad())], dim=1)
    inputs = HeadInputs(features, means={4: frames.mean()})
    torch.testing.assert_close(head.represent(inputs), vector, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head(inputs), head.output(vector), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["baseline", "mp", "rnn", "progressive"])
def test_dropout_falls_on_the_utterance_vector_while_training(name):
    head = build(name, dropout=1.0).train()  # all is dropped, so that the output layer's bias is left
    frames = random_frames(LENGTHS, LAYER)
    layers = range(1, 6)
    inputs = HeadInputs(random_frames(LENGTHS, FEATURES), dict.fromkeys(layers, frames),
                        dict.fromkeys(layers, frames.mean()))
    torch.testing.assert_close(head(inputs), head.output.bias.expand(len(LENGTHS), CLASSES))
    assert registry.arguments(type(head))["dropout"].default == 0.25
    head.eval()
    assert not torch.allclose(head(inputs), head.output.bias.expand(len(LENGTHS), CLASSES))
