"""The paper's four systems: sizes by formula, and outputs against PyTorch's own packed bidirectional GRU."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ser_plugins import registry
from ser_plugins.contracts import Frames, HeadInputs
from ser_plugins.errors import OptionError

FEATURES = 27  # 13 MFCC, their deltas, pitch
LAYER = 512  # one layer of the shipped encoder: two directions of 256 units
CLASSES = 4
VOCABULARY = 29
CONTEXT = {"feature_dim": FEATURES, "layer_dims": (LAYER,) * 5, "vocabulary": VOCABULARY, "num_classes": CLASSES}


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


@pytest.mark.parametrize("name", ["attention_pool", "baseline", "linguistic", "mp", "rnn", "progressive",
                                  "weighted_layers"])
def test_dropout_falls_on_the_utterance_vector_while_training(name):
    head = build(name, dropout=1.0).train()  # all is dropped, so that the output layer's bias is left
    frames = random_frames(LENGTHS, LAYER)
    layers = range(1, 6)
    inputs = HeadInputs(random_frames(LENGTHS, FEATURES), dict.fromkeys(layers, frames),
                        dict.fromkeys(layers, frames.mean()), random_frames(LENGTHS, VOCABULARY))
    torch.testing.assert_close(head(inputs), head.output.bias.expand(len(LENGTHS), CLASSES))
    assert registry.arguments(type(head))["dropout"].default == 0.25
    head.eval()
    assert not torch.allclose(head(inputs), head.output.bias.expand(len(LENGTHS), CLASSES))


# Heads beyond the paper


def test_weighted_layers_is_the_mean_over_time_of_a_weighted_sum_of_frames():
    head, layers = build("weighted_layers"), {layer: random_frames(LENGTHS, LAYER) for layer in range(1, 6)}
    with torch.no_grad():
        head.scores.copy_(torch.tensor([0.5, -1.0, 2.0, 0.0, 0.1]))
        shares = head.scores.exp() / head.scores.exp().sum()
        for layer, frames in layers.items():
            frames.data.mul_(layer)
    summed = sum(share * layers[layer].data for layer, share in enumerate(shares, start=1))
    vectors = mean_over_time([item[:length] for item, length in zip(summed, LENGTHS, strict=True)])
    inputs = HeadInputs(means={layer: frames.mean() for layer, frames in layers.items()})
    torch.testing.assert_close(head.represent(inputs), vectors, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head.weights(), shares)


def test_weighted_layers_refuses_layers_of_different_sizes():
    with pytest.raises(OptionError, match="head 'weighted_layers': layers of the sizes 4, 6 cannot be added up"):
        registry.create("heads", "weighted_layers", {}, {**CONTEXT, "layer_dims": (4, 6)})


@pytest.mark.parametrize("views", [1, 3])
def test_attention_pool_is_a_weighted_mean_of_each_utterances_own_frames(views):
    head, frames = build("attention_pool", layer=4, views=views), random_frames(LENGTHS, LAYER)
    first, _, second = head.score
    for item, vector in zip(frames.unpad(), head.represent(HeadInputs(sequences={4: frames})), strict=True):
        scores = (item @ first.weight.T + first.bias).tanh() @ second.weight.T  # [time, views]
        weights = scores.exp() / scores.exp().sum(dim=0)
        torch.testing.assert_close(vector, (weights.T @ item).flatten(), atol=1e-5, rtol=1e-5)


def test_linguistic_reads_the_mean_and_the_maximum_of_each_tokens_probability():
    head, raw = build("linguistic"), random_frames(LENGTHS, VOCABULARY)
    log_probs = Frames(raw.data.log_softmax(dim=2), raw.lengths, raw.rate).masked()
    items = [item.exp() for item in log_probs.unpad()]
    expected = torch.stack([torch.cat([item.mean(dim=0), item.amax(dim=0)]) for item in items])
    torch.testing.assert_close(head.represent(HeadInputs(log_probs=log_probs)), expected)
    assert head.output.in_features == 2 * VOCABULARY


def test_linguistic_is_refused_where_the_encoder_has_no_ctc_output():
    with pytest.raises(OptionError, match="head 'linguistic': it reads CTC log-probabilities, and this encoder has no"):
        registry.create("heads", "linguistic", {}, {**CONTEXT, "vocabulary": 0})
