"""What passes between the parts: `Frames`, `Encoding`, `HeadInputs`, and the four kinds of plugin.

Lengths are whole numbers of valid steps everywhere inside the package; SpeechBrain's relative lengths are converted
once, by `Frames.from_relative`, at the recipe's door. What lies beyond a length is zero and never reaches a result:
an utterance gives the same numbers alone, in a batch, and beside a longer one (1e-5 in float32). Caching and fair
evaluation rest on that; `ser_plugins.testing` checks it.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ser_plugins.audio import SAMPLE_RATE as SAMPLE_RATE  # plugins take it from here
from ser_plugins.errors import DataError, OptionError, PluginError


def length_mask(lengths: Tensor, time: int) -> Tensor:
    """Which steps are valid.

    Arguments
    ---------
    lengths : Tensor
        Valid steps of each item, int64, ``[batch]``.
    time : int
        Steps in the padded batch.

    Returns
    -------
    Tensor
        Bool, ``[batch, time]``.

    Example
    -------
    >>> length_mask(torch.tensor([1, 3]), 3).int().tolist()
    [[1, 0, 0], [1, 1, 1]]
    """
    return torch.arange(time, device=lengths.device) < lengths.unsqueeze(1)


@dataclass(frozen=True)
class Frames:
    """A padded batch of vector sequences.

    Arguments
    ---------
    data : Tensor
        Float, ``[batch, time, dim]``; zero beyond each length.
    lengths : Tensor
        Valid frames of each item, int64, ``[batch]``.
    rate : float
        Frames per second.
    """

    data: Tensor
    lengths: Tensor
    rate: float

    @classmethod
    def from_list(cls, sequences: Sequence[Tensor], rate: float) -> Frames:
        """Pads sequences ``[time, dim]`` of different lengths into one batch."""
        lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
        return cls(nn.utils.rnn.pad_sequence(list(sequences), batch_first=True), lengths, rate)

    @classmethod
    def from_relative(cls, data: Tensor, relative: Tensor, rate: float) -> Frames:
        """From SpeechBrain's relative lengths (fractions of the longest, ``[batch]``)."""
        return cls(data, torch.round(relative * data.shape[1]).long(), rate).masked()

    def mask(self) -> Tensor:
        """Valid frames, bool, ``[batch, time]``."""
        return length_mask(self.lengths, self.data.shape[1])

    def masked(self) -> Frames:
        """The same with zeros beyond each length."""
        return Frames(self.data * self.mask().unsqueeze(2), self.lengths, self.rate)

    def mean(self) -> Tensor:
        """Mean over the valid frames, ``[batch, dim]`` (mean pooling, Lakomkin et al. 2017, §3.1.3).

        Example
        -------
        >>> Frames(torch.tensor([[[2.0], [4.0], [0.0]]]), torch.tensor([2]), 100.0).mean()
        tensor([[3.]])
        """
        total = self.masked().data.sum(dim=1)  # [batch, dim]
        return total / self.lengths.clamp(min=1).unsqueeze(1)

    def relative(self) -> Tensor:
        """SpeechBrain's relative lengths, float, ``[batch]``."""
        return self.lengths / max(self.data.shape[1], 1)

    def unpad(self) -> list[Tensor]:
        """The sequences ``[time, dim]`` without padding."""
        return [item[:length] for item, length in zip(self.data, self.lengths.tolist(), strict=True)]

    def to(self, device: torch.device | str) -> Frames:
        """The same on another device."""
        return Frames(self.data.to(device), self.lengths.to(device), self.rate)


@dataclass(frozen=True)
class Encoding:
    """What one pass of an encoder gives.

    Arguments
    ---------
    layers : tuple[Frames, ...]
        The representation of layer 1, 2, …, L; ``layers[k - 1]`` is the paper's layer k.
    ctc : Frames, optional
        CTC log-probabilities over the alphabet, blank first; None of an encoder without a CTC output.
    """

    layers: tuple[Frames, ...]
    ctc: Frames | None = None

    @property
    def log_probs(self) -> Frames:
        """The CTC log-probabilities.

        Raises
        ------
        DataError
            The encoder has none.
        """
        if self.ctc is None:
            raise DataError("this encoder has no CTC output: it gives neither a transcript nor probabilities of "
                            "letters; take one that was trained with CTC")
        return self.ctc


class _AskedFor(dict[int, Any]):
    """Layers by number; one that a head reads and does not ask for is its author's error."""

    def __missing__(self, layer: int) -> Any:
        raise PluginError(f"the head reads layer {layer}, and its `needs` ask for {', '.join(map(str, self)) or 'none'}"
                          " of this kind (sequences or means): name it there")


@dataclass(frozen=True)
class HeadInputs:
    """What a head asked for, and nothing else; to read another layer is a `PluginError`.

    Arguments
    ---------
    features : Frames, optional
        Acoustic features of the utterances.
    sequences : Mapping[int, Frames]
        Layer number → the frames of that encoder layer.
    means : Mapping[int, Tensor]
        Layer number → the mean over time of that encoder layer, ``[batch, dim]``.
    log_probs : Frames, optional
        CTC log-probabilities, blank first; zero beyond each length, as all `Frames` are.
    """

    features: Frames | None = None
    sequences: Mapping[int, Frames] = field(default_factory=dict)
    means: Mapping[int, Tensor] = field(default_factory=dict)
    log_probs: Frames | None = None

    def __post_init__(self) -> None:
        for name in ("sequences", "means"):
            object.__setattr__(self, name, _AskedFor(getattr(self, name)))

    def to(self, device: torch.device | str) -> HeadInputs:
        """The same on another device."""
        return HeadInputs(
            None if self.features is None else self.features.to(device),
            {layer: frames.to(device) for layer, frames in self.sequences.items()},
            {layer: mean.to(device) for layer, mean in self.means.items()},
            None if self.log_probs is None else self.log_probs.to(device),
        )

    @property
    def device(self) -> torch.device:
        """Where the first tensor lies."""
        for frames in (self.features, self.log_probs):
            if frames is not None:
                return frames.data.device
        tensors = [frames.data for frames in self.sequences.values()] + list(self.means.values())
        return tensors[0].device


LayerChoice = int | str | tuple[int, ...]


def numbers(choice: LayerChoice) -> tuple[int, ...]:
    """The layer numbers of a choice that `Needs.resolve` has resolved."""
    assert isinstance(choice, tuple), "needs are resolved to numbers before anything is computed"
    return choice


@dataclass(frozen=True)
class Needs:
    """What a head consumes: a plain value, read from the class without building the model.

    A layer choice is a layer number, several numbers, ``"all"``, or the name of the constructor argument that holds
    one of these: ``Needs(features=True, means="layer")`` is the progressive network's.

    Arguments
    ---------
    features : bool
        Whether the head reads acoustic features.
    sequences : int | str | tuple[int, ...]
        Encoder layers whose frames it reads.
    means : int | str | tuple[int, ...]
        Encoder layers whose mean over time it reads.
    log_probs : bool
        Whether it reads the CTC log-probabilities.
    """

    features: bool = False
    sequences: LayerChoice = ()
    means: LayerChoice = ()
    log_probs: bool = False

    def resolve(self, arguments: Mapping[str, Any], num_layers: int) -> Needs:
        """The same with layer numbers in place of names.

        Arguments
        ---------
        arguments : Mapping[str, Any]
            Arguments of the head's constructor, defaults included.
        num_layers : int
            Layers of the encoder.

        Returns
        -------
        Needs
            ``sequences`` and ``means`` are sorted tuples of layer numbers.

        Raises
        ------
        ValueError
            A layer is outside 1..num_layers.

        Example
        -------
        >>> Needs(features=True, means="layer").resolve({"layer": 2}, num_layers=5)
        Needs(features=True, sequences=(), means=(2,), log_probs=False)
        """

        def resolved(choice: Any) -> tuple[int, ...]:
            if isinstance(choice, str) and choice != "all":
                choice = arguments[choice]
            if choice == "all":
                return tuple(range(1, num_layers + 1))
            layers = tuple(choice) if isinstance(choice, (tuple, list)) else (choice,)
            wrong = [layer for layer in layers if isinstance(layer, bool) or not isinstance(layer, int)
                     or not 1 <= layer <= num_layers]
            if wrong:
                raise ValueError(f"layer {wrong[0]!r} does not exist: the encoder has layers 1 to {num_layers}")
            return tuple(sorted(set(layers)))

        return Needs(self.features, resolved(self.sequences), resolved(self.means), self.log_probs)

    def take(self, features: Frames | None, encoding: Encoding | None) -> HeadInputs:
        """What a head with these (resolved) needs gets of an extractor's and an encoder's output."""
        return HeadInputs(
            features if self.features else None,
            {layer: encoding.layers[layer - 1] for layer in numbers(self.sequences)} if encoding else {},
            {layer: encoding.layers[layer - 1].mean() for layer in numbers(self.means)} if encoding else {},
            encoding.log_probs if encoding and self.log_probs else None,
        )

    @property
    def encoder(self) -> bool:
        """Whether any output of the encoder is needed."""
        return self.sequences != () or self.means != () or self.log_probs


class Head(nn.Module, ABC):
    """Maps what it `needs` to logits.

    The constructor names every argument. Four of them are filled in by the toolkit where the head names them:
    ``feature_dim`` (int, size of a feature frame), ``layer_dims`` (sequence of int, size of each encoder layer),
    ``vocabulary`` (int, tokens of the CTC output) and ``num_classes`` (int). The others are the user's options, each
    with a default.
    """

    needs: Needs

    @abstractmethod
    def forward(self, inputs: HeadInputs) -> Tensor:
        """Returns logits, ``[batch, classes]``."""


class FeatureExtractor(nn.Module, ABC):
    """Maps waveforms to frames of acoustic features. ``dim`` is the size of a frame, ``rate`` frames per second.

    ``licence`` is a sentence of Markdown on the terms of a library that it computes with, where they reach who uses the
    trained system: the model card prints it. Empty, the default, where there are none.
    """

    dim: int
    rate: float
    licence: str = ""

    @abstractmethod
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        """Extracts features.

        Arguments
        ---------
        waveforms : Tensor
            Float, ``[batch, samples]`` at `SAMPLE_RATE`, zero beyond each length.
        lengths : Tensor
            Valid samples of each item, int64, ``[batch]``.

        Returns
        -------
        Frames
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that changes the output, as plain values: constructor arguments, and a version of the code."""

    @property
    def fingerprint(self) -> str:
        """Hash of the class and its `settings`; stored features are keyed by it."""
        return fingerprint({"class": class_name(self), **self.settings()}, self.state_dict())


class Encoder(nn.Module, ABC):
    """A pretrained speech recogniser. It is frozen by `freeze`; preprocessing is part of it.

    ``layer_dims`` holds the size of each layer's representation, so ``len(layer_dims)`` is the number of layers;
    ``rate`` is frames per second of every layer. ``vocabulary`` is the number of tokens of the CTC output, blank
    included; 0, the default, where there is none. ``shipped`` is the
    folder of the weights that come with the plugin, if there are any. ``safe_folder`` declares that `from_pretrained`
    runs nothing of a folder, whoever wrote it, and asks nobody whether it may: no pickles, no code that a settings file
    names, no download. Exported models take the encoder's folder along, and are read with it, only where it is True.
    """

    layer_dims: tuple[int, ...]
    rate: float
    vocabulary: int = 0
    shipped: Path | None = None
    safe_folder: bool = False

    @classmethod
    @abstractmethod
    def from_pretrained(cls, source: str | Path | None = None) -> Encoder:
        """Loads a trained encoder from a folder; None is the plugin's own default."""

    @classmethod
    def example(cls) -> Encoder:
        """What is checked against the contract: the plugin's default; another where a plugin has no default."""
        return cls.from_pretrained()

    @abstractmethod
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Encoding:
        """Encodes waveforms, ``[batch, samples]`` at `SAMPLE_RATE` with int64 ``lengths`` ``[batch]``."""

    @abstractmethod
    def decode(self, log_probs: Frames) -> list[str]:
        """Greedy transcript of each item."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of the weights and of everything that changes the output; stored representations are keyed by it."""

    def freeze(self) -> Encoder:
        """Evaluation mode and no gradients, for good."""
        return self.eval().requires_grad_(False)

    def top(self, count: int) -> nn.Sequential:
        """Trainable copies of the last ``count`` layers, which the layer below them feeds; the encoder stays as it is.

        Optional: an encoder that has no layers of this kind does not offer it.

        Arguments
        ---------
        count : int
            From 1 to the number of layers less 1.

        Returns
        -------
        nn.Sequential
            ``count`` modules. Each maps the `Frames` of a layer, as `forward` gives them, to those of the next one.

        Raises
        ------
        OptionError
            The encoder cannot be split.
        """
        raise OptionError(f"encoder {type(self).__name__} has no split point (a method 'top'), so that none of its "
                          "layers can be fine-tuned; take another encoder, or leave all of it frozen")


FILLED_IN = ("feature_dim", "layer_dims", "vocabulary", "num_classes")  # arguments of a head that the toolkit gives


def head_sizes(extractor: FeatureExtractor, encoder: Encoder, num_classes: int) -> dict[str, Any]:
    """The values of `FILLED_IN`."""
    return dict(zip(FILLED_IN, (extractor.dim, encoder.layer_dims, encoder.vocabulary, num_classes), strict=True))


def class_name(part: object) -> str:
    """Module and name of an object's class, so that two packages' classes of one name differ."""
    return f"{type(part).__module__}.{type(part).__qualname__}"


def fingerprint(settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """Hash of plain settings and tensors, 16 hexadecimal digits, the same on every machine.

    Example
    -------
    >>> fingerprint({"n": 1}, {}) == fingerprint({"n": 1}, {}) != fingerprint({"n": 2}, {})
    True
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Utterance:
    """One row that a corpus reader gives. `ser_plugins.corpora.manifest` adds duration and sample rate.

    Arguments
    ---------
    id : str
        Unique in the corpus.
    path : Path
        Audio file.
    speaker : str
        Who speaks; folds are made by it.
    emotion : str
        The corpus's own label; mapped to the common names by the manifest. Empty for speech without one.
    text : str
        Transcript, empty where there is none.
    session : str
        Recording session, empty where there is none.
    gender : str
        ``"female"``, ``"male"`` or empty.
    start, end : float, optional
        Segment in seconds; None is the file's beginning or end.
    valence, activation, dominance : float, optional
        Ratings on the corpus's own scale.
    """

    id: str
    path: Path
    speaker: str
    emotion: str = ""
    text: str = ""
    session: str = ""
    gender: Literal["female", "male", ""] = ""
    start: float | None = None
    end: float | None = None
    valence: float | None = None
    activation: float | None = None
    dominance: float | None = None


class Corpus(ABC):
    """A reader of one corpus layout; options are constructor arguments.

    ``layout`` is one line that shows the expected layout, printed when a folder is of another one.
    ``labels`` maps the corpus's own labels to the common names. ``language`` is that of its speech (ISO 639-1).
    """

    layout: str
    labels: Mapping[str, str]
    language: str = ""

    @abstractmethod
    def read(self, folder: Path) -> Iterable[Utterance]:
        """Lists the corpus's utterances.

        Raises
        ------
        DataError
            The folder is missing or of another layout; the expected layout and first missing path are named.
        """
