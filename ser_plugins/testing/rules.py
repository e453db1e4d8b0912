"""What the rules of all groups are made of: requirements, and how a broken rule is told."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ser_plugins import registry
from ser_plugins.contracts import SAMPLE_RATE, Corpus, Encoder, FeatureExtractor, Frames, Head
from ser_plugins.errors import PluginError

TOLERANCE = 1e-5  # of batch invariance, relative to the largest value where that exceeds 1 (float32)
BASES: dict[str, type] = {"corpora": Corpus, "features": FeatureExtractor, "encoders": Encoder, "heads": Head}

LEAK = ("padding or another utterance reaches the result: frames.mask() and frames.mean() leave the padding out, and "
        "what is computed over a batch belongs to each utterance")
UNSTEADY = "eval() has to end dropout and noise, and nothing may be carried from call to call"

Case = TypeVar("Case")
Rule = Callable[[Case], None]


class Broken(Exception):
    """What was found where a rule is broken."""


def apply_rules(group: str, plugin: Any, rules: Sequence[Rule], case: Callable[[Any], Any]) -> None:
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
            except Broken as finding:
                raise PluginError(f"{broken}: {finding}") from None
            except Exception as error:  # a stranger's code may raise anything
                raise PluginError(f"{broken}: {registry.failure(error)}") from error


def sentence(rule: Rule) -> str:
    """The rule in words: the first line of its docstring."""
    return (rule.__doc__ or "").partition("\n")[0].rstrip(".")


def require(condition: bool, finding: str) -> None:
    if not condition:
        raise Broken(finding)


def require_close(one: Tensor, other: Tensor, what: str, hint: str = "") -> None:
    one, other = one.detach(), other.detach()
    require(one.shape == other.shape, f"{what}: shape {list(one.shape)} against {list(other.shape)}")
    allowed = TOLERANCE * max(1.0, float(other.abs().max()))
    difference = float((one - other).abs().max())
    require(difference <= allowed,  # NaN is not <=
            f"{what} differ by {difference:.2g} (allowed {allowed:.2g}){f'; {hint}' if hint else ''}")


def require_constructor(plugin: type, offered: Sequence[str] = ()) -> None:
    for name, argument in registry.arguments(plugin).items():
        require(argument.kind is not inspect.Parameter.VAR_KEYWORD, f"'**{name}' swallows misspelt options")
        require(argument.kind is not inspect.Parameter.VAR_POSITIONAL, f"'*{name}' leaves arguments without names")
        require(argument.kind is not inspect.Parameter.POSITIONAL_ONLY, f"'{name}' cannot be given by name")
        if name not in offered:
            require(argument.default is not inspect.Parameter.empty, f"option '{name}' has no default")


def require_frames(frames: Frames, dim: int, batch: int, what: str) -> None:
    """`Frames` of the right shape and types, with zeros beyond each length."""
    require(isinstance(frames, Frames), f"{what} is a {type(frames).__name__}, not Frames")
    data, lengths = frames.data, frames.lengths
    require(data.ndim == 3, f"{what}: data has shape {list(data.shape)}, not [batch, time, dim]")
    require((data.shape[0], data.shape[2]) == (batch, dim),
             f"{what}: data has shape {list(data.shape)}, not [{batch}, time, {dim}]")
    require(data.dtype == torch.float32, f"{what}: data is {data.dtype}, not torch.float32")
    require(lengths.dtype == torch.int64 and lengths.shape == (batch,),
             f"{what}: lengths are {lengths.dtype} of shape {list(lengths.shape)}, not torch.int64 of shape [{batch}]")
    require(bool(((lengths >= 1) & (lengths <= data.shape[1])).all()),
             f"{what}: lengths {lengths.tolist()} are not within 1 to {data.shape[1]}, the frames in the batch")
    require(bool(torch.isfinite(data).all()), f"{what}: {int((~torch.isfinite(data)).sum())} values are not finite")
    beyond = data[~frames.mask()]
    require(not bool(beyond.any()), f"{what}: {int(beyond.count_nonzero())} values beyond the lengths are not zero")


def require_durations(frames: Frames, samples: Tensor, what: str) -> None:
    """Lengths over rate agree with the waveforms' seconds; windows at the edges may cost 0.15 s."""
    for found, expected in zip((frames.lengths / frames.rate).tolist(), (samples / SAMPLE_RATE).tolist(), strict=True):
        require(abs(found - expected) <= 0.15,
                 f"{what}: length / rate is {found:.2f} s for an utterance of {expected:.2f} s")


def take(frames: Frames, items: Sequence[int], padding: int = 0) -> Frames:
    """Some items of a batch, padded to the longest of them and `padding` frames more."""
    sequences = frames.unpad()
    taken = Frames.from_list([sequences[item] for item in items], frames.rate)
    return Frames(nn.functional.pad(taken.data, (0, 0, 0, padding)), taken.lengths, taken.rate)


def speech(items: Sequence[int] = (0, 1, 2), padding: int = 0) -> tuple[Tensor, Tensor]:
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


def require_frames_invariant(extract: Callable[[Tensor, Tensor], Mapping[str, Frames]]) -> None:
    """The same frames alone, in a batch, and under longer padding; the mapping names several outputs of one pass."""
    batch, padded = extract(*speech()), extract(*speech(padding=3200))
    alone = [extract(*speech([item])) for item in range(3)]
    for what, frames in batch.items():
        for item, reference in enumerate(frames.unpad()):
            require_close(alone[item][what].unpad()[0], reference,
                           f"{what} of utterance {item + 1}, alone and in a batch,", LEAK)
            require_close(padded[what].unpad()[item], reference,
                           f"{what} of utterance {item + 1}, with and without 0.2 s of zeros,", LEAK)
