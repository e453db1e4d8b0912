"""The contract of encoders."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from ser_plugins.contracts import Encoder, Encoding, Frames
from ser_plugins.testing.rules import (
    UNSTEADY,
    Rule,
    require,
    require_close,
    require_durations,
    require_frames,
    require_frames_invariant,
    speech,
)


class EncoderCase:
    """A frozen encoder: a copy of the one given, or the plugin's example."""

    def __init__(self, plugin: Encoder | type[Encoder]) -> None:
        self.plugin = plugin if isinstance(plugin, type) else type(plugin)
        self._given = None if isinstance(plugin, type) else copy.deepcopy(plugin)

    @property
    def encoder(self) -> Encoder:
        """The encoder, frozen; loaded on first use."""
        if self._given is None:
            self._given = self.plugin.example()
        return self._given.freeze()

    def encode(self, items: Sequence[int] = (0, 1, 2)) -> Encoding:
        """One pass over some of the utterances."""
        return self.encoder(*speech(items))


def encoder_loads(case: EncoderCase) -> None:
    """`example()`, by default `from_pretrained()`, gives an encoder."""
    require(isinstance(case.encoder, Encoder), f"it gives a {type(case.encoder).__name__}")


def encoder_frozen(case: EncoderCase) -> None:
    """`freeze` returns the encoder in evaluation mode, without gradients."""
    encoder = case.encoder
    trainable = [name for name, tensor in encoder.named_parameters() if tensor.requires_grad]
    require(not trainable, f"{len(trainable)} parameters still want gradients, e.g. {trainable[:1]}")
    training = [name for name, module in encoder.named_modules() if module.training]
    require(not training, f"{len(training)} modules are in training mode, e.g. {training[:1]}")
    for what, frames in _outputs(case.encode()).items():
        require(not frames.data.requires_grad, f"{what} still carries a gradient")


def _outputs(encoding: Encoding) -> dict[str, Frames]:
    """Every layer, and the CTC log-probabilities where there are any, by name."""
    layers = {f"layer {number}": frames for number, frames in enumerate(encoding.layers, start=1)}
    return layers if encoding.ctc is None else {**layers, "log_probs": encoding.ctc}


def encoder_layers(case: EncoderCase) -> None:
    """One pass gives the Frames of every layer in `layer_dims`, and log-probabilities of `vocabulary` tokens if any."""
    encoding, dims = case.encode(), case.encoder.layer_dims
    _, samples = speech()
    require(isinstance(encoding, Encoding), f"forward returns a {type(encoding).__name__}")
    require(len(encoding.layers) == len(dims) > 0, f"{len(encoding.layers)} layers, but layer_dims is {dims}")
    for number, (frames, dim) in enumerate(zip(encoding.layers, dims, strict=True), start=1):
        require_frames(frames, dim, len(samples), f"layer {number}")
        require_durations(frames, samples, f"layer {number}")
    vocabulary = case.encoder.vocabulary
    require((encoding.ctc is None) == (vocabulary == 0),
            f"`vocabulary` is {vocabulary}, and there are {'no ' if encoding.ctc is None else ''}log_probs")
    if encoding.ctc is not None:
        require_frames(encoding.ctc, vocabulary, len(samples), "log_probs")
        require_durations(encoding.ctc, samples, "log_probs")


def encoder_lengths(case: EncoderCase) -> None:
    """Every layer has the rate `rate` and the same lengths, and so has log_probs where its rate is the same."""
    encoding, rate = case.encode(), case.encoder.rate
    expected = encoding.layers[0].lengths.tolist()
    for number, frames in enumerate(encoding.layers, start=1):
        require(frames.rate == rate, f"layer {number} has {frames.rate:g} frames per second, but `rate` is {rate:g}")
        lengths = frames.lengths.tolist()
        require(lengths == expected, f"layer {number} has the lengths {lengths}, layer 1 {expected}")
    if encoding.ctc is not None:
        lengths = encoding.ctc.lengths.tolist()
        require(encoding.ctc.rate != rate or lengths == expected,
                f"log_probs has the lengths {lengths}, layer 1 {expected}")


def encoder_probabilities(case: EncoderCase) -> None:
    """The probabilities of each frame sum to 1."""
    log_probs = case.encode().ctc
    if log_probs is None:
        return
    sums = log_probs.data[log_probs.mask()].exp().sum(dim=1)
    worst = float(sums[(sums - 1).abs().argmax()])
    require(abs(worst - 1) <= 1e-4, f"a frame's sum is {worst:.4f}")


def encoder_deterministic(case: EncoderCase) -> None:
    """The same waveforms give the same encoding, and are not modified."""
    waveforms, lengths = speech()
    first, second = (_outputs(case.encoder(waveforms, lengths)) for _ in range(2))
    for what in reversed(first):
        require_close(first[what].data, second[what].data, f"{what} of two calls", UNSTEADY)
    require(torch.equal(waveforms, speech()[0]), "the waveforms have changed after forward")


def encoder_batch_invariant(case: EncoderCase) -> None:
    """An utterance has the same layers and log_probs alone, in a batch, and under longer padding."""
    encoder = case.encoder

    def encode(waveforms: Tensor, lengths: Tensor) -> dict[str, Frames]:
        return _outputs(encoder(waveforms, lengths))

    require_frames_invariant(encode)


def encoder_decodes(case: EncoderCase) -> None:
    """`decode` gives one string for each utterance, the same alone and in a batch; without CTC there is none."""
    if case.encoder.vocabulary == 0:
        return
    texts = case.encoder.decode(case.encode().log_probs)
    require(isinstance(texts, list) and all(isinstance(text, str) for text in texts), f"it returns {texts!r}")
    require(len(texts) == 3, f"{len(texts)} strings for 3 utterances")
    for item, text in enumerate(texts):
        alone = case.encoder.decode(case.encode([item]).log_probs)
        require(alone == [text], f"{alone} alone, {text!r} in a batch")


def encoder_fingerprint(case: EncoderCase) -> None:
    """The fingerprint is a string, the same for a copy, and another when a weight changes."""
    encoder, twin = case.encoder, copy.deepcopy(case.encoder)
    first = encoder.fingerprint
    require(isinstance(first, str) and first != "", f"it is {first!r}")
    require(encoder.fingerprint == twin.fingerprint == first, f"{first} against {twin.fingerprint}")
    parameters = list(twin.named_parameters())
    for name, parameter in {0: parameters[0], -1: parameters[-1]}.values():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(0.125)
        require(twin.fingerprint != first, f"it is {first} before and after {name} changes")
        with torch.no_grad():
            parameter.copy_(kept)


def encoder_top(case: EncoderCase) -> None:
    """`top`, where there is one, gives trainable copies of the last layers that compute what the layers do."""
    encoder, dims = case.encoder, case.encoder.layer_dims
    if type(encoder).top is Encoder.top or len(dims) < 2:
        return
    encoding, layers = case.encode(), encoder.top(len(dims) - 1)
    require(len(layers) == len(dims) - 1, f"top({len(dims) - 1}) gives {len(layers)} modules")
    own = {parameter.data_ptr() for parameter in encoder.parameters()}
    shared = [name for name, parameter in layers.named_parameters() if parameter.data_ptr() in own]
    require(not shared, f"{len(shared)} parameters of top are the encoder's own, e.g. {shared[:1]}")
    frozen = [name for name, parameter in layers.named_parameters() if not parameter.requires_grad]
    require(not frozen, f"{len(frozen)} parameters of top want no gradients, e.g. {frozen[:1]}")
    frames = encoding.layers[0]
    for number, layer in enumerate(layers.eval(), start=2):
        frames = layer(frames)
        require_frames(frames, dims[number - 1], len(frames.lengths), f"layer {number} of top")
        require_close(frames.data, encoding.layers[number - 1].data, f"layer {number} and its copy")


ENCODER_RULES: tuple[Rule[EncoderCase], ...] = (
    encoder_loads, encoder_frozen, encoder_layers, encoder_lengths, encoder_probabilities, encoder_deterministic,
    encoder_batch_invariant, encoder_decodes, encoder_fingerprint, encoder_top,
)
