"""The contract of feature extractors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

import torch

from ser_plugins import registry
from ser_plugins.contracts import SAMPLE_RATE, FeatureExtractor
from ser_plugins.errors import DataError
from ser_plugins.testing.rules import (
    UNSTEADY,
    Rule,
    require,
    require_close,
    require_constructor,
    require_durations,
    require_frames,
    require_frames_invariant,
    speech,
)


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
    require_constructor(case.plugin)


def features_frames(case: FeaturesCase) -> None:
    """Frames have the size `dim`, the rate `rate`, a length for each utterance, and zeros beyond it."""
    extractor = case.build()
    waveforms, lengths = speech()
    frames = extractor(waveforms, lengths)
    require_frames(frames, extractor.dim, len(lengths), "the output")
    require(frames.rate == extractor.rate > 0, f"the rate is {frames.rate}, but `rate` says {extractor.rate}")
    require_durations(frames, lengths, "the output")


def features_deterministic(case: FeaturesCase) -> None:
    """The same waveforms give the same frames, and are not modified."""
    extractor = case.build()
    waveforms, lengths = speech()
    first, second = extractor(waveforms, lengths), extractor(waveforms, lengths)
    require_close(first.data, second.data, "frames of two calls", UNSTEADY)
    require(torch.equal(waveforms, speech()[0]), "the waveforms have changed after forward")


def features_batch_invariant(case: FeaturesCase) -> None:
    """An utterance has the same frames alone, in a batch, and under longer padding."""
    extractor = case.build()
    require_frames_invariant(lambda *speech: {"frames": extractor(*speech)})


def features_silence(case: FeaturesCase) -> None:
    """Digital silence gives finite frames."""
    extractor = case.build()
    frames = extractor(torch.zeros(1, SAMPLE_RATE // 2), torch.tensor([SAMPLE_RATE // 2]))
    require_frames(frames, extractor.dim, 1, "the output")


def features_short(case: FeaturesCase) -> None:
    """30 ms of audio give finite frames or a DataError."""
    extractor = case.build()
    waveforms, samples = speech([0])[0][:, :480], torch.tensor([480])
    try:
        frames = extractor(waveforms, samples)
    except DataError:
        return
    require_frames(frames, extractor.dim, 1, "the output")


def features_settings(case: FeaturesCase) -> None:
    """`settings()` is plain JSON and names every argument of the constructor."""
    settings = case.build().settings()
    require(json.loads(json.dumps(settings)) == settings, f"{settings} does not survive JSON")
    missing = [name for name in registry.arguments(case.plugin) if name not in settings]
    require(not missing, f"{', '.join(missing)} missing from {sorted(settings)}")


def features_fingerprint(case: FeaturesCase) -> None:
    """The fingerprint is the same for two equal extractors, and another where the frames are others."""
    extractor, twin = case.build(), case.build()
    require(extractor.fingerprint == twin.fingerprint, f"{extractor.fingerprint} against {twin.fingerprint}")
    frames = extractor(*speech()).data
    for option, value in case.variants():
        try:
            variant = case.build(**{option: value})
            other = variant(*speech()).data
        except Exception:  # the value was our guess, and the plugin is free to refuse it
            continue
        same = other.shape == frames.shape and torch.equal(other, frames)
        require(same or variant.fingerprint != extractor.fingerprint,
                 f"{option}={value!r} changes the frames and not the fingerprint {extractor.fingerprint}")


FEATURE_RULES: tuple[Rule[FeaturesCase], ...] = (
    features_constructor, features_frames, features_deterministic, features_batch_invariant, features_silence,
    features_short, features_settings, features_fingerprint,
)
