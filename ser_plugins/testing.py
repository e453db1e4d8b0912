"""The contracts as checks, for this package's tests and a stranger's; modelled on scikit-learn's ``check_estimator``.

A plugin's own tests hold one line, and the command ``ser check NAME`` does the same::

    from ser_plugins.testing import check_head

    def test_contract():
        check_head(Attention)

Every rule is a function below whose docstring's first line states it. A plugin that breaks one is refused with a
`PluginError` that quotes the rule and says what was found. Inputs are random but the same on every call, and the
state of torch's random generator is left as it was.
"""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import torch
from torch import Tensor, nn

from ser_plugins import registry
from ser_plugins.contracts import (
    SAMPLE_RATE,
    Corpus,
    Encoder,
    Encoding,
    FeatureExtractor,
    Frames,
    Head,
    HeadInputs,
    Needs,
)
from ser_plugins.errors import DataError, PluginError

TOLERANCE = 1e-5  # of batch invariance, relative to the largest value where that exceeds 1 (float32)
BASES: dict[str, type] = {"corpora": Corpus, "features": FeatureExtractor, "encoders": Encoder, "heads": Head}

Case = TypeVar("Case")
Rule = Callable[[Case], None]


def check_head(plugin: type[Head] | str, options: Mapping[str, Any] | None = None) -> None:
    """Checks a head against its contract.

    Arguments
    ---------
    plugin : type | str
        The class, or the name under which it is registered.
    options : Mapping[str, Any]
        Arguments of the constructor that differ from the defaults.

    Raises
    ------
    PluginError
        The rule that is broken, and what was found.

    Example
    -------
    >>> check_head("mp", {"layer": 1})
    """
    _run("heads", plugin, HEAD_RULES, lambda found: HeadCase(found, options))


def check_features(plugin: type[FeatureExtractor] | str, options: Mapping[str, Any] | None = None) -> None:
    """Checks a feature extractor against its contract; arguments and errors as `check_head`."""
    _run("features", plugin, FEATURE_RULES, lambda found: FeaturesCase(found, options))


def check_encoder(plugin: Encoder | type[Encoder] | str) -> None:
    """Checks an encoder against its contract; errors as `check_head`.

    Arguments
    ---------
    plugin : Encoder | type | str
        An encoder, which is left as it is; or a class or registered name, whose ``from_pretrained()`` is checked.
    """
    _run("encoders", plugin, ENCODER_RULES, EncoderCase)


def check_corpus(plugin: type[Corpus] | str, options: Mapping[str, Any] | None = None) -> None:
    """Checks a corpus reader against its contract; arguments and errors as `check_head`."""
    _run("corpora", plugin, CORPUS_RULES, lambda found: CorpusCase(found, options))


def check(group: str, name: str) -> None:
    """Checks a registered plugin with the group's check.

    Example
    -------
    >>> check("heads", "progressive")
    """
    registry.find(group, name)  # refuses an unknown group or name before anything is imported
    checks: dict[str, Callable[[Any], None]] = {
        "corpora": check_corpus, "features": check_features, "encoders": check_encoder, "heads": check_head,
    }
    checks[group](name)


class _Broken(Exception):
    """What was found where a rule is broken."""


def _run(group: str, plugin: Any, rules: Sequence[Rule], case: Callable[[Any], Any]) -> None:
    """Applies the rules in order; whatever a plugin raises is reported under the rule that was being checked."""
    kind, name = registry.SINGULAR[group], plugin
    if isinstance(plugin, str):
        plugin = registry.load(group, plugin)
    else:
        name = plugin.__name__ if isinstance(plugin, type) else type(plugin).__name__
    base = BASES[group]
    if not (isinstance(plugin, base) or (isinstance(plugin, type) and issubclass(plugin, base))):
        raise PluginError(f"{kind} '{name}' is no subclass of ser_plugins.contracts.{base.__name__}")
    subject = case(plugin)
    with torch.random.fork_rng(devices=[]):
        for rule in rules:
            broken = f"{kind} '{name}' breaks the rule '{sentence(rule)}'"
            try:
                rule(subject)
            except _Broken as finding:
                raise PluginError(f"{broken}: {finding}") from None
            except Exception as error:  # a stranger's code may raise anything
                raise PluginError(f"{broken}: it raises {type(error).__name__}: {error}") from error


def sentence(rule: Rule) -> str:
    """The rule in words: the first line of its docstring."""
    return (rule.__doc__ or "").partition("\n")[0].rstrip(".")


def _require(condition: bool, finding: str) -> None:
    if not condition:
        raise _Broken(finding)


def _require_close(one: Tensor, other: Tensor, what: str) -> None:
    one, other = one.detach(), other.detach()
    _require(one.shape == other.shape, f"{what}: shape {list(one.shape)} against {list(other.shape)}")
    allowed = TOLERANCE * max(1.0, float(other.abs().max()))
    difference = float((one - other).abs().max())
    _require(difference <= allowed, f"{what} differ by {difference:.2g} (allowed {allowed:.2g})")  # NaN is not <=


def _require_constructor(plugin: type, offered: Sequence[str] = ()) -> None:
    for name, argument in registry.arguments(plugin).items():
        _require(argument.kind is not inspect.Parameter.VAR_KEYWORD, f"'**{name}' swallows misspelt options")
        _require(argument.kind is not inspect.Parameter.VAR_POSITIONAL, f"'*{name}' leaves arguments without names")
        _require(argument.kind is not inspect.Parameter.POSITIONAL_ONLY, f"'{name}' cannot be given by name")
        if name not in offered:
            _require(argument.default is not inspect.Parameter.empty, f"option '{name}' has no default")


def _require_frames(frames: Frames, dim: int, batch: int, what: str) -> None:
    """`Frames` of the right shape and types, with zeros beyond each length."""
    _require(isinstance(frames, Frames), f"{what} is a {type(frames).__name__}, not Frames")
    data, lengths = frames.data, frames.lengths
    _require(data.ndim == 3, f"{what}: data has shape {list(data.shape)}, not [batch, time, dim]")
    _require((data.shape[0], data.shape[2]) == (batch, dim),
             f"{what}: data has shape {list(data.shape)}, not [{batch}, time, {dim}]")
    _require(data.dtype == torch.float32, f"{what}: data is {data.dtype}, not torch.float32")
    _require(lengths.dtype == torch.int64 and lengths.shape == (batch,),
             f"{what}: lengths are {lengths.dtype} of shape {list(lengths.shape)}, not torch.int64 of shape [{batch}]")
    _require(bool(((lengths >= 1) & (lengths <= data.shape[1])).all()),
             f"{what}: lengths {lengths.tolist()} are not within 1 to {data.shape[1]}, the frames in the batch")
    _require(bool(torch.isfinite(data).all()), f"{what}: {int((~torch.isfinite(data)).sum())} values are not finite")
    beyond = data[~frames.mask()]
    _require(not bool(beyond.any()), f"{what}: {int(beyond.count_nonzero())} values beyond the lengths are not zero")


def _require_durations(frames: Frames, samples: Tensor, what: str) -> None:
    """Lengths over rate agree with the waveforms' seconds; windows at the edges may cost 0.15 s."""
    for found, expected in zip((frames.lengths / frames.rate).tolist(), (samples / SAMPLE_RATE).tolist(), strict=True):
        _require(abs(found - expected) <= 0.15,
                 f"{what}: length / rate is {found:.2f} s for an utterance of {expected:.2f} s")


def _take(frames: Frames, items: Sequence[int], padding: int = 0) -> Frames:
    """Some items of a batch, padded to the longest of them and `padding` frames more."""
    sequences = frames.unpad()
    taken = Frames.from_list([sequences[item] for item in items], frames.rate)
    return Frames(nn.functional.pad(taken.data, (0, 0, 0, padding)), taken.lengths, taken.rate)


# Heads


class HeadCase:
    """A head's class, its options, and four utterances to try it on: the longest has 23 frames, the shortest 1."""

    LENGTHS = ((23, 9, 17, 1), (12, 5, 9, 1))  # frames of features, at 100 a second, and of encoder layers, at 50
    FEATURE_DIM = 7
    LAYER_DIMS = (16,) * 24  # as many layers as any recogniser's, all of one size, so that layers may be added up
    CLASSES = 3

    def __init__(self, plugin: type[Head], options: Mapping[str, Any] | None = None) -> None:
        self.plugin = plugin
        self.options = dict(options or {})

    @property
    def needs(self) -> Needs:
        """What it needs under these options."""
        defaults = {name: argument.default for name, argument in registry.arguments(self.plugin).items()}
        return self.plugin.needs.resolve({**defaults, **self.options}, len(self.LAYER_DIMS))

    def build(self, seed: int = 0, classes: int = CLASSES) -> Head:
        """A new head in evaluation mode; its constructor gets sizes of only what it needs."""
        offered: dict[str, Any] = {"num_classes": classes}
        if self.needs.features:
            offered["feature_dim"] = self.FEATURE_DIM
        if self.needs.encoder:
            offered["layer_dims"] = self.LAYER_DIMS
        named = registry.arguments(self.plugin)
        torch.manual_seed(seed)
        head = self.plugin(**{key: value for key, value in offered.items() if key in named}, **self.options)
        return head.eval()

    def inputs(self, items: Sequence[int] = (0, 1, 2, 3), padding: int = 0) -> HeadInputs:
        """What the head needs of some of the utterances, padded by so many frames more."""
        generator = torch.Generator().manual_seed(0)

        def frames(lengths: Sequence[int], dim: int, rate: float) -> Frames:
            sequences = [torch.randn(length, dim, generator=generator) for length in lengths]
            return _take(Frames.from_list(sequences, rate), items, padding)

        features = frames(self.LENGTHS[0], self.FEATURE_DIM, 100.0)
        layers = {layer: frames(self.LENGTHS[1], dim, 50.0) for layer, dim in enumerate(self.LAYER_DIMS, start=1)}
        needs = self.needs
        assert isinstance(needs.sequences, tuple)
        assert isinstance(needs.means, tuple)
        return HeadInputs(
            features if needs.features else None,
            {layer: layers[layer] for layer in needs.sequences},
            {layer: layers[layer].mean() for layer in needs.means},
        )


def _tensors(inputs: HeadInputs) -> list[Tensor]:
    frames = [*([] if inputs.features is None else [inputs.features]), *inputs.sequences.values()]
    return [tensor for item in frames for tensor in (item.data, item.lengths)] + list(inputs.means.values())


def head_constructor(case: HeadCase) -> None:
    """The constructor names every argument, and every option has a default."""
    _require_constructor(case.plugin, offered=("feature_dim", "layer_dims", "num_classes"))


def head_needs(case: HeadCase) -> None:
    """`needs` is a class attribute of type Needs that names features or existing layers."""
    needs = getattr(case.plugin, "needs", None)
    _require(isinstance(needs, Needs), f"`needs` is {needs!r}")
    _require(case.needs.features or case.needs.encoder, f"{needs} asks for nothing")


def head_logits(case: HeadCase) -> None:
    """Logits are finite floats of shape [batch, classes]."""
    for classes in (case.CLASSES, case.CLASSES + 2):
        logits = case.build(classes=classes)(case.inputs())
        _require(isinstance(logits, Tensor), f"forward returns a {type(logits).__name__}, not a Tensor")
        _require(logits.shape == (4, classes),
                 f"the shape is {list(logits.shape)} for 4 utterances and {classes} classes")
        _require(logits.is_floating_point(), f"they are {logits.dtype}")
        _require(bool(torch.isfinite(logits).all()),
                 f"{int((~torch.isfinite(logits)).sum())} of {logits.numel()} are not finite")


def head_deterministic(case: HeadCase) -> None:
    """In evaluation mode the same inputs give the same logits."""
    head, inputs = case.build(), case.inputs()
    _require_close(head(inputs), head(inputs), "logits of two calls")


def head_batch_invariant(case: HeadCase) -> None:
    """An utterance has the same logits alone, in a batch, and beside a longer one."""
    head = case.build()
    batch = head(case.inputs())
    for item, length in enumerate(case.LENGTHS[0]):
        alone = head(case.inputs([item]))
        _require_close(alone, batch[item:item + 1], f"logits of an utterance of {length} frames, alone and in a batch,")
    shuffled = [2, 0, 3, 1]
    _require_close(head(case.inputs(shuffled)), batch[shuffled], "logits in another order of the batch")


def head_ignores_padding(case: HeadCase) -> None:
    """Longer padding changes nothing."""
    head = case.build()
    _require_close(head(case.inputs(padding=10)), head(case.inputs()), "logits with and without 10 frames of zeros")


def head_keeps_inputs(case: HeadCase) -> None:
    """The inputs are not modified."""
    head, inputs = case.build(), case.inputs()
    head.train()(inputs)
    for found, expected in zip(_tensors(inputs), _tensors(case.inputs()), strict=True):
        _require(torch.equal(found, expected), f"a tensor of shape {list(expected.shape)} has changed after forward")


def head_gradients(case: HeadCase) -> None:
    """Finite gradients reach every trainable parameter."""
    head = case.build().train()
    trainable = {name: tensor for name, tensor in head.named_parameters() if tensor.requires_grad}
    _require(bool(trainable), "no parameter is trainable")
    nn.functional.cross_entropy(head(case.inputs()), torch.tensor([0, 1, 2, 0])).backward()
    gradients = {name: tensor.grad for name, tensor in trainable.items() if tensor.grad is not None}
    unreached = [name for name in trainable if name not in gradients]
    _require(not unreached, f"no gradient reaches {', '.join(unreached)}")
    wrong = [name for name, gradient in gradients.items() if not bool(torch.isfinite(gradient).all())]
    _require(not wrong, f"the gradient of {', '.join(wrong)} is not finite")


def head_checkpoint(case: HeadCase) -> None:
    """A head that loads another's state_dict gives the other's logits."""
    trained, fresh, inputs = case.build(seed=0), case.build(seed=1), case.inputs()
    fresh.load_state_dict(trained.state_dict())
    _require_close(fresh(inputs), trained(inputs), "logits of the two")


def head_copies(case: HeadCase) -> None:
    """A pickled head and a deep copy give the same logits."""
    head, inputs = case.build(), case.inputs()
    _require_close(pickle.loads(pickle.dumps(head))(inputs), head(inputs), "logits before and after pickling")
    _require_close(copy.deepcopy(head)(inputs), head(inputs), "logits of a head and its copy")


HEAD_RULES: tuple[Rule[HeadCase], ...] = (
    head_constructor, head_needs, head_logits, head_deterministic, head_batch_invariant, head_ignores_padding,
    head_keeps_inputs, head_gradients, head_checkpoint, head_copies,
)


# Features and encoders: both take waveforms


def _speech(items: Sequence[int] = (0, 1, 2), padding: int = 0) -> tuple[Tensor, Tensor]:
    """Waveforms, ``[batch, samples]``, and lengths: a gliding pitch of 110 to 200 Hz with harmonics, and noise."""
    generator = torch.Generator().manual_seed(0)
    waveforms = []
    for seconds, pitch in ((1.1, 110.0), (0.43, 200.0), (0.72, 150.0)):
        time = torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        phase = 2 * torch.pi * pitch * (time + 0.05 * time**2)
        voice = sum((torch.sin(n * phase) / n for n in range(1, 20)), start=torch.zeros_like(time))
        loudness = 0.1 * (1.1 - torch.cos(2 * torch.pi * 4 * time))  # four syllables a second
        waveforms.append(loudness * voice + 0.003 * torch.randn(len(time), generator=generator))
    batch = nn.utils.rnn.pad_sequence([waveforms[item] for item in items], batch_first=True)
    lengths = torch.tensor([len(waveforms[item]) for item in items])
    return nn.functional.pad(batch, (0, padding)), lengths


def _require_frames_invariant(extract: Callable[[Tensor, Tensor], Mapping[str, Frames]]) -> None:
    """The same frames alone, in a batch, and under longer padding; the mapping names several outputs of one pass."""
    batch, padded = extract(*_speech()), extract(*_speech(padding=3200))
    alone = [extract(*_speech([item])) for item in range(3)]
    for what, frames in batch.items():
        for item, reference in enumerate(frames.unpad()):
            _require_close(alone[item][what].unpad()[0], reference,
                           f"{what} of utterance {item + 1}, alone and in a batch,")
            _require_close(padded[what].unpad()[item], reference,
                           f"{what} of utterance {item + 1}, with and without 0.2 s of zeros,")


class FeaturesCase:
    """A feature extractor's class and its options."""

    def __init__(self, plugin: type[FeatureExtractor], options: Mapping[str, Any] | None = None) -> None:
        self.plugin = plugin
        self.options = dict(options or {})

    def build(self, **changed: Any) -> FeatureExtractor:
        """A new extractor in evaluation mode."""
        return self.plugin(**{**self.options, **changed}).eval()

    def variants(self) -> list[tuple[str, Any]]:
        """One other value for each option whose type suggests one: switches, numbers, and literals."""
        try:
            hints = get_type_hints(self.plugin.__init__)
        except (NameError, TypeError):
            hints = {}
        found: list[tuple[str, Any]] = []
        for name, argument in registry.arguments(self.plugin).items():
            value = self.options.get(name, argument.default)
            others: list[Any] = [choice for choice in get_args(hints.get(name)) if isinstance(choice, str)]
            if isinstance(value, bool):
                others = [not value]
            elif isinstance(value, int | float):
                others = [value * 2]
            found += [(name, other) for other in others if other != value][:1]
        return found


def features_constructor(case: FeaturesCase) -> None:
    """The constructor names every argument, and every option has a default."""
    _require_constructor(case.plugin)


def features_frames(case: FeaturesCase) -> None:
    """Frames have the size `dim`, the rate `rate`, a length for each utterance, and zeros beyond it."""
    extractor = case.build()
    waveforms, lengths = _speech()
    frames = extractor(waveforms, lengths)
    _require_frames(frames, extractor.dim, len(lengths), "the output")
    _require(frames.rate == extractor.rate > 0, f"the rate is {frames.rate}, but `rate` says {extractor.rate}")
    _require_durations(frames, lengths, "the output")


def features_deterministic(case: FeaturesCase) -> None:
    """The same waveforms give the same frames, and are not modified."""
    extractor = case.build()
    waveforms, lengths = _speech()
    first, second = extractor(waveforms, lengths), extractor(waveforms, lengths)
    _require_close(first.data, second.data, "frames of two calls")
    _require(torch.equal(waveforms, _speech()[0]), "the waveforms have changed after forward")


def features_batch_invariant(case: FeaturesCase) -> None:
    """An utterance has the same frames alone, in a batch, and under longer padding."""
    extractor = case.build()
    _require_frames_invariant(lambda *speech: {"frames": extractor(*speech)})


def features_silence(case: FeaturesCase) -> None:
    """Digital silence gives finite frames."""
    extractor = case.build()
    frames = extractor(torch.zeros(1, SAMPLE_RATE // 2), torch.tensor([SAMPLE_RATE // 2]))
    _require_frames(frames, extractor.dim, 1, "the output")


def features_short(case: FeaturesCase) -> None:
    """30 ms of audio give finite frames or a DataError."""
    extractor = case.build()
    waveforms, samples = _speech([0])[0][:, :480], torch.tensor([480])
    try:
        frames = extractor(waveforms, samples)
    except DataError:
        return
    _require_frames(frames, extractor.dim, 1, "the output")


def features_settings(case: FeaturesCase) -> None:
    """`settings()` is plain JSON and names every argument of the constructor."""
    settings = case.build().settings()
    _require(json.loads(json.dumps(settings)) == settings, f"{settings} does not survive JSON")
    missing = [name for name in registry.arguments(case.plugin) if name not in settings]
    _require(not missing, f"{', '.join(missing)} missing from {sorted(settings)}")


def features_fingerprint(case: FeaturesCase) -> None:
    """The fingerprint is the same for two equal extractors, and another where the frames are others."""
    extractor, twin = case.build(), case.build()
    _require(extractor.fingerprint == twin.fingerprint, f"{extractor.fingerprint} against {twin.fingerprint}")
    frames = extractor(*_speech()).data
    for option, value in case.variants():
        try:
            variant = case.build(**{option: value})
            other = variant(*_speech()).data
        except Exception:  # the value was our guess, and the plugin is free to refuse it
            continue
        same = other.shape == frames.shape and torch.equal(other, frames)
        _require(same or variant.fingerprint != extractor.fingerprint,
                 f"{option}={value!r} changes the frames and not the fingerprint {extractor.fingerprint}")


FEATURE_RULES: tuple[Rule[FeaturesCase], ...] = (
    features_constructor, features_frames, features_deterministic, features_batch_invariant, features_silence,
    features_short, features_settings, features_fingerprint,
)


class EncoderCase:
    """A frozen encoder: a copy of the one given, or the plugin's default."""

    def __init__(self, plugin: Encoder | type[Encoder]) -> None:
        self.plugin = plugin if isinstance(plugin, type) else type(plugin)
        self._given = None if isinstance(plugin, type) else copy.deepcopy(plugin)

    @property
    def encoder(self) -> Encoder:
        """The encoder, frozen; loaded on first use."""
        if self._given is None:
            self._given = self.plugin.from_pretrained()
        return self._given.freeze()

    def encode(self, items: Sequence[int] = (0, 1, 2)) -> Encoding:
        """One pass over some of the utterances."""
        return self.encoder(*_speech(items))


def encoder_loads(case: EncoderCase) -> None:
    """`from_pretrained()` loads the encoder's own default."""
    _require(isinstance(case.encoder, Encoder), f"it gives a {type(case.encoder).__name__}")


def encoder_frozen(case: EncoderCase) -> None:
    """`freeze` returns the encoder in evaluation mode, without gradients."""
    encoder = case.encoder
    trainable = [name for name, tensor in encoder.named_parameters() if tensor.requires_grad]
    _require(not trainable, f"{len(trainable)} parameters still want gradients, e.g. {trainable[:1]}")
    training = [name for name, module in encoder.named_modules() if module.training]
    _require(not training, f"{len(training)} modules are in training mode, e.g. {training[:1]}")
    _require(not case.encode().log_probs.data.requires_grad, "log_probs still carry a gradient")


def encoder_layers(case: EncoderCase) -> None:
    """One pass gives the Frames of every layer in `layer_dims` and the CTC log-probabilities."""
    encoding, dims = case.encode(), case.encoder.layer_dims
    _, samples = _speech()
    _require(isinstance(encoding, Encoding), f"forward returns a {type(encoding).__name__}")
    _require(len(encoding.layers) == len(dims) > 0, f"{len(encoding.layers)} layers, but layer_dims is {dims}")
    for number, (frames, dim) in enumerate(zip(encoding.layers, dims, strict=True), start=1):
        _require_frames(frames, dim, len(samples), f"layer {number}")
        _require_durations(frames, samples, f"layer {number}")
    _require_frames(encoding.log_probs, encoding.log_probs.data.shape[-1], len(samples), "log_probs")
    _require_durations(encoding.log_probs, samples, "log_probs")


def encoder_lengths(case: EncoderCase) -> None:
    """Every layer has the rate `rate` and the same lengths, and so has log_probs where its rate is the same."""
    encoding, rate = case.encode(), case.encoder.rate
    expected = encoding.layers[0].lengths.tolist()
    for number, frames in enumerate(encoding.layers, start=1):
        _require(frames.rate == rate, f"layer {number} has {frames.rate:g} frames per second, but `rate` is {rate:g}")
        lengths = frames.lengths.tolist()
        _require(lengths == expected, f"layer {number} has the lengths {lengths}, layer 1 {expected}")
    lengths = encoding.log_probs.lengths.tolist()
    _require(encoding.log_probs.rate != rate or lengths == expected,
             f"log_probs has the lengths {lengths}, layer 1 {expected}")


def encoder_probabilities(case: EncoderCase) -> None:
    """The probabilities of each frame sum to 1."""
    log_probs = case.encode().log_probs
    sums = log_probs.data[log_probs.mask()].exp().sum(dim=1)
    worst = float(sums[(sums - 1).abs().argmax()])
    _require(abs(worst - 1) <= 1e-4, f"a frame's sum is {worst:.4f}")


def encoder_deterministic(case: EncoderCase) -> None:
    """The same waveforms give the same encoding, and are not modified."""
    waveforms, lengths = _speech()
    first, second = case.encoder(waveforms, lengths), case.encoder(waveforms, lengths)
    _require_close(first.log_probs.data, second.log_probs.data, "log_probs of two calls")
    _require(torch.equal(waveforms, _speech()[0]), "the waveforms have changed after forward")


def encoder_batch_invariant(case: EncoderCase) -> None:
    """An utterance has the same layers and log_probs alone, in a batch, and under longer padding."""
    encoder = case.encoder

    def encode(waveforms: Tensor, lengths: Tensor) -> dict[str, Frames]:
        encoding = encoder(waveforms, lengths)
        layers = {f"layer {number}": frames for number, frames in enumerate(encoding.layers, start=1)}
        return {**layers, "log_probs": encoding.log_probs}

    _require_frames_invariant(encode)


def encoder_decodes(case: EncoderCase) -> None:
    """`decode` gives one string for each utterance, the same alone and in a batch."""
    texts = case.encoder.decode(case.encode().log_probs)
    _require(isinstance(texts, list) and all(isinstance(text, str) for text in texts), f"it returns {texts!r}")
    _require(len(texts) == 3, f"{len(texts)} strings for 3 utterances")
    for item, text in enumerate(texts):
        alone = case.encoder.decode(case.encode([item]).log_probs)
        _require(alone == [text], f"{alone} alone, {text!r} in a batch")


def encoder_fingerprint(case: EncoderCase) -> None:
    """The fingerprint is a string, the same for a copy, and another when a weight changes."""
    encoder, twin = case.encoder, copy.deepcopy(case.encoder)
    first = encoder.fingerprint
    _require(isinstance(first, str) and first != "", f"it is {first!r}")
    _require(encoder.fingerprint == twin.fingerprint == first, f"{first} against {twin.fingerprint}")
    parameters = list(twin.named_parameters())
    for name, parameter in {0: parameters[0], -1: parameters[-1]}.values():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(0.125)
        _require(twin.fingerprint != first, f"it is {first} before and after {name} changes")
        with torch.no_grad():
            parameter.copy_(kept)


ENCODER_RULES: tuple[Rule[EncoderCase], ...] = (
    encoder_loads, encoder_frozen, encoder_layers, encoder_lengths, encoder_probabilities, encoder_deterministic,
    encoder_batch_invariant, encoder_decodes, encoder_fingerprint,
)


# Corpora


class CorpusCase:
    """A corpus reader's class and its options."""

    def __init__(self, plugin: type[Corpus], options: Mapping[str, Any] | None = None) -> None:
        self.plugin = plugin
        self.options = dict(options or {})
        self.makes_audio = False

    def require_refused(self, folder: Path, expected: str) -> None:
        """A `DataError` whose message holds `expected`; a reader that synthesises may make the audio instead."""
        if self.makes_audio:  # once is enough: it takes its time
            return
        try:
            rows = list(self.plugin(**self.options).read(folder))
        except DataError as error:
            _require(expected in str(error), f"'{expected}' is not in the message: {error}")
            return
        absent = sum(not Path(row.path).is_file() for row in rows)
        _require(bool(rows) and absent == 0, f"it gives {len(rows)} utterances and no error, {absent} without audio")
        self.makes_audio = True


def corpus_constructor(case: CorpusCase) -> None:
    """The constructor names every argument, and every option has a default."""
    _require_constructor(case.plugin)
    case.plugin(**case.options)


def corpus_layout(case: CorpusCase) -> None:
    """`layout` shows the expected folder in one line."""
    layout = getattr(case.plugin, "layout", None)
    _require(isinstance(layout, str) and layout.strip() != "" and "\n" not in layout, f"`layout` is {layout!r}")


def corpus_labels(case: CorpusCase) -> None:
    """`labels` maps the corpus's own labels to the common names, strings to strings."""
    labels = case.plugin(**case.options).labels
    _require(isinstance(labels, Mapping), f"`labels` is a {type(labels).__name__}")
    wrong = [item for item in labels.items() if not all(isinstance(part, str) for part in item)]
    _require(not wrong, f"{wrong[:1]} is no pair of strings")


def corpus_missing(case: CorpusCase) -> None:
    """A missing folder raises a DataError that names it, or the audio is made there."""
    with tempfile.TemporaryDirectory() as folder:
        missing = Path(folder) / "nowhere"
        case.require_refused(missing, str(missing))


def corpus_other_layout(case: CorpusCase) -> None:
    """A folder of another layout raises a DataError that shows `layout`, or the audio is made there."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "notes.txt").write_text("nothing that any corpus holds")
        case.require_refused(Path(folder), case.plugin.layout)


CORPUS_RULES: tuple[Rule[CorpusCase], ...] = (
    corpus_constructor, corpus_layout, corpus_labels, corpus_missing, corpus_other_layout,
)
RULES: dict[str, tuple[Rule, ...]] = {
    "corpora": CORPUS_RULES, "features": FEATURE_RULES, "encoders": ENCODER_RULES, "heads": HEAD_RULES,
}
