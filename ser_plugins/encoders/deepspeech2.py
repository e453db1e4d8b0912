"""The recogniser: DeepSpeech 2 with CTC (Amodei et al. 2016; Lakomkin et al. 2017, §3.1.1 and Fig. 2).

Two 2-D convolutions over the spectrogram, L bidirectional recurrent layers with sequence-wise batch normalisation,
and a softmax over tokens for each frame. The directions are summed on the way up. What a head reads of layer k is
the layer's output with both directions side by side (or summed, by option). That the representation is concatenated is
inferred: "neuron 840 of the second GRU layer" (Fig. 6) does not exist among 800 summed units.

A trained encoder is a folder: ``encoder.json`` (architecture and preprocessing), ``weights.safetensors`` (fp16; of
an imported encoder fp32) and ``tokenizer.model`` (SentencePiece characters or subwords; piece 0 is the
blank).
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ser_plugins import registry
from ser_plugins.contracts import Encoder, Encoding, Frames, class_name, fingerprint, length_mask
from ser_plugins.errors import DataError, SerError, out_of_memory
from ser_plugins.frame_norm import FrameNorm
from ser_plugins.recurrent import BiRNNLayer
from ser_plugins.weights import bounded

SHIPPED = Path(__file__).parents[1] / "assets" / "deepspeech2_small"
KERNELS = ((41, 11), (21, 11))  # [frequency, time], as deepspeech.pytorch; half of each is padding on either side
VERSION = 1  # of this file's arithmetic: raise it when the output changes


class MaskedConvolutions(nn.Module):
    """Two 2-D convolutions over [frequency, time], each followed by batch norm, clipping to 0..20, and masking.

    Arguments
    ---------
    bins : int
        Frequency bins of a frame.
    channels : int
        Channels of both convolutions.
    time_strides : Sequence[int]
        Strides in time; those in frequency are 2.
    """

    def __init__(self, bins: int, channels: int, time_strides: Sequence[int]) -> None:
        super().__init__()
        self.time_strides = tuple(time_strides)
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        inputs = 1
        for (height, width), stride in zip(KERNELS, self.time_strides, strict=True):
            padding = (height // 2, width // 2)
            self.convolutions.append(nn.Conv2d(inputs, channels, (height, width), (2, stride), padding, bias=False))
            self.norms.append(FrameNorm(channels))
            bins = (bins - 1) // 2 + 1
            inputs = channels
        self.dim = channels * bins
        # PyTorch's convolutions of few channels are faster so on a CPU
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, frames: Frames) -> Frames:
        """Maps frames ``[batch, time, bins]`` to frames ``[batch, time / strides, channels × bins / 4]``."""
        x = frames.data.transpose(1, 2).unsqueeze(1)  # [batch, 1, bins, time]
        lengths, rate = frames.lengths, frames.rate
        for convolution, norm, stride in zip(self.convolutions, self.norms, self.time_strides, strict=True):
            x = convolution(x)
            lengths, rate = (lengths - 1) // stride + 1, rate / stride
            mask = length_mask(lengths, x.shape[3])[:, None, None, :]
            x = norm(x, mask).clamp(0, 20) * mask
        x = x.flatten(1, 2).transpose(1, 2)  # [batch, time, channels × bins]
        return Frames(x, lengths, rate)


class SequenceNorm(nn.Module):
    """Sequence-wise batch norm: one mean and variance per unit over all frames of the batch (Amodei et al. 2016)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = FrameNorm(dim)

    def forward(self, frames: Frames) -> Frames:
        """Maps frames ``[batch, time, dim]`` to frames of the same shape."""
        flat = self.norm(frames.data.flatten(0, 1), frames.mask().view(-1, 1))  # [batch × time, dim]
        return Frames(flat.view_as(frames.data), frames.lengths, frames.rate).masked()


class UtteranceDropout(nn.Module):
    """Dropout whose masks are each utterance's own, once `seed` was called: the batch around it changes none.

    Arguments
    ---------
    share : float
        Share of the units that are left out while training; the others grow by 1 / (1 - share).
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.plain = nn.Dropout(share)
        self.generators: list[torch.Generator] = []

    def seed(self, seeds: Sequence[int], device: torch.device) -> None:
        """Starts the masks of the utterances of a batch on ``device``; each call of the module draws further ones."""
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def forward(self, frames: Frames) -> Frames:
        """Maps frames ``[batch, time, dim]`` to frames of the same shape."""
        if not (self.training and self.plain.p and self.generators):
            return replace(frames, data=self.plain(frames.data))
        kept = torch.zeros_like(frames.data)
        for item, length, generator in zip(kept, frames.lengths.tolist(), self.generators, strict=True):
            item[:length].bernoulli_(1 - self.plain.p, generator=generator)
        return replace(frames, data=frames.data * kept / (1 - self.plain.p))


class NextLayer(nn.Module):
    """A recurrent layer and the norm before it, from what a head reads of the layer below.

    Arguments
    ---------
    norm : SequenceNorm
        Of the layer below.
    recurrent : BiRNNLayer
        The layer.
    concatenated : bool
        Whether representations are both directions side by side, or their sum.
    """

    def __init__(self, norm: SequenceNorm, recurrent: BiRNNLayer, concatenated: bool) -> None:
        super().__init__()
        self.norm, self.recurrent, self.concatenated = norm, recurrent, concatenated

    def forward(self, frames: Frames) -> Frames:
        """Maps frames of layer k to frames of layer k + 1, both ``[batch, time, 2 × units]`` where concatenated."""
        summed = frames.data  # [batch, time, units]
        if self.concatenated:
            summed = torch.add(*summed.chunk(2, dim=2))
        ahead, behind = self.recurrent(self.norm(replace(frames, data=summed)))
        return replace(frames, data=represented(ahead, behind, self.concatenated))


def represented(ahead: Tensor, behind: Tensor, concatenated: bool) -> Tensor:
    """What a head reads of a layer's two directions, each ``[batch, time, units]``."""
    return torch.cat((ahead, behind), dim=2) if concatenated else ahead + behind


class DeepSpeech2(Encoder):
    """The CTC recogniser whose layers the emotion heads reuse.

    Arguments
    ---------
    units : int
        Units of each direction of a recurrent layer.
    num_layers : int
        Recurrent layers.
    channels : int
        Channels of the two convolutions.
    time_strides : Sequence[int]
        Strides in time of the two convolutions; (2, 1) makes one step 20 ms, (2, 2) makes it 40 ms.
    cell : str
        ``"gru"`` or ``"lstm"``.
    frontend : Mapping[str, Any]
        Preprocessing, part of the encoder: ``{"features": name of a feature extractor, …its arguments}``.
    tokenizer : bytes
        A SentencePiece model; None builds the network with ``vocabulary`` outputs that cannot be decoded.
    vocabulary : int
        Outputs including the blank, where no tokenizer is given.
    representation : str
        ``"concatenated"`` (2 × units) or ``"summed"`` (units).
    dropout : float
        Share of the units that are left out on the way up from each recurrent layer, while training.

    Example
    -------
    >>> encoder = DeepSpeech2(units=8, num_layers=2, channels=2).freeze()
    >>> encoding = encoder(torch.rand(1, 16000), torch.tensor([16000]))
    >>> encoding.layers[1].data.shape, encoding.log_probs.data.shape
    (torch.Size([1, 51, 16]), torch.Size([1, 51, 29]))
    """

    shipped = SHIPPED  # the folder of the plugin's own weights, which travels with an exported model
    safe_folder = True  # JSON, safetensors, and a tokenizer that SentencePiece parses

    def __init__(
        self,
        units: int = 800,
        num_layers: int = 5,
        channels: int = 32,
        time_strides: Sequence[int] = (2, 1),
        cell: str = "gru",
        frontend: Mapping[str, Any] | None = None,
        tokenizer: bytes | None = None,
        vocabulary: int = 29,
        representation: str = "concatenated",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if representation not in ("concatenated", "summed"):
            raise ValueError(f"representation '{representation}' is neither 'concatenated' nor 'summed'")
        frontend = dict(frontend or {"features": "spectrogram"})
        self.architecture = {"units": units, "num_layers": num_layers, "channels": channels,
                             "time_strides": list(time_strides), "cell": cell, "frontend": frontend,
                             "representation": representation}
        self.tokenizer_model = tokenizer
        self.tokenizer = None if tokenizer is None else sentencepiece.SentencePieceProcessor(model_proto=tokenizer)
        self.vocabulary = vocabulary if self.tokenizer is None else self.tokenizer.vocab_size()
        options = {key: value for key, value in frontend.items() if key != "features"}
        self.frontend = registry.create("features", frontend["features"], options)
        # all of its settings, so that a later default cannot change an encoder that was trained before
        known = registry.arguments(type(self.frontend))
        settings = {key: value for key, value in self.frontend.settings().items() if key in known}
        self.architecture["frontend"] = {"features": frontend["features"], **settings}
        self.convolutions = MaskedConvolutions(self.frontend.dim, channels, time_strides)
        sizes = [self.convolutions.dim] + [units] * (num_layers - 1)
        self.recurrent = nn.ModuleList(BiRNNLayer(size, units, cell) for size in sizes)
        self.norms = nn.ModuleList(SequenceNorm(units) for _ in range(num_layers))  # the last one precedes the softmax
        self.dropout = UtteranceDropout(dropout)
        self.output = nn.Linear(units, self.vocabulary, bias=False)
        self.concatenated = representation == "concatenated"
        self.rate = self.frontend.rate / math.prod(time_strides)
        self.layer_dims = (units * (2 if self.concatenated else 1),) * num_layers

    def forward(self, waveforms: Tensor, lengths: Tensor, augment: Callable[[Frames], Frames] | None = None
                ) -> Encoding:
        """Encodes waveforms ``[batch, samples]``; layer k is ``[batch, time, 2 × units]``.

        While training, ``augment`` changes the front end's frames ``[batch, time, bins]`` on their way.
        """
        features = self.frontend(waveforms, lengths)
        if augment is not None:
            features = augment(features).masked()
        frames = self.convolutions(features)
        layers = []
        for layer, norm in zip(self.recurrent, self.norms, strict=True):
            ahead, behind = layer(frames)
            layers.append(replace(frames, data=represented(ahead, behind, self.concatenated)))
            frames = self.dropout(norm(replace(frames, data=ahead + behind)))
        log_probs = self.output(frames.data).log_softmax(dim=2)  # [batch, time, vocabulary]
        return Encoding(tuple(layers), Frames(log_probs, frames.lengths, frames.rate).masked())

    def top(self, count: int) -> nn.Sequential:
        """Trainable copies of the last ``count`` recurrent layers, each with the norm before it."""
        below = len(self.recurrent) - count - 1
        pairs = zip(self.norms[below:-1], self.recurrent[below + 1:], strict=True)
        layers = nn.Sequential(*(NextLayer(norm, layer, self.concatenated) for norm, layer in pairs))  # type: ignore[arg-type]
        return copy.deepcopy(layers).requires_grad_(True)

    def steps(self, samples: Tensor) -> Tensor:
        """Steps of ``log_probs`` that utterances of ``samples`` samples have, int64 ``[batch]``."""
        steps = self.frontend.lengths(samples)
        for stride in self.convolutions.time_strides:
            steps = (steps - 1) // stride + 1
        return steps

    def decode(self, log_probs: Frames) -> list[str]:
        """Greedy CTC transcript: the best piece of each frame, repetitions and blanks (piece 0) removed."""
        if self.tokenizer is None:
            raise DataError("this encoder has no tokenizer, so it cannot transcribe")
        texts = []
        for item in log_probs.unpad():
            pieces = torch.unique_consecutive(item.argmax(dim=1)).tolist()
            texts.append(self.tokenizer.decode([piece for piece in pieces if piece != 0]).strip())
        return texts

    @property
    def fingerprint(self) -> str:
        """Hash of weights, architecture and preprocessing."""
        settings = {**self.architecture, "class": class_name(self), "version": VERSION,
                    "frontend": self.frontend.fingerprint}
        return fingerprint(settings, self.state_dict())

    def save(self, folder: str | Path, notes: Mapping[str, Any] | None = None, half: bool = True) -> None:
        """Writes the encoder folder; weights in fp16, so that the loaded encoder is the shipped one to the bit.

        Arguments
        ---------
        folder : str | Path
            Made where it does not exist.
        notes : Mapping[str, Any]
            Plain values about the training (data, licence, CER), kept in ``encoder.json``.
        half : bool
            Weights in fp16; otherwise in fp32, where another program's numbers are to be kept.
        """
        if self.tokenizer_model is None:
            raise DataError("an encoder without a tokenizer cannot be saved")
        weights = {name: tensor.half() if half and tensor.is_floating_point() else tensor
                   for name, tensor in self.state_dict().items()}
        large = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
        if large:
            raise DataError(f"{', '.join(large[:5])} cannot be saved in fp16: not finite, or above 65504")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        contiguous = {name: tensor.contiguous().cpu() for name, tensor in weights.items()}
        (folder / "weights.safetensors").write_bytes(save(contiguous))  # its own save_file hides the file from others
        (folder / "tokenizer.model").write_bytes(self.tokenizer_model)
        config = {"encoder": "deepspeech2", "architecture": self.architecture, "notes": dict(notes or {})}
        (folder / "encoder.json").write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None) -> DeepSpeech2:
        """Loads an encoder folder, frozen; None is the small encoder that ships in the package.

        Raises
        ------
        DataError
            A file is missing, corrupt, or of another shape than ``encoder.json`` says.
        """
        folder = SHIPPED if source is None else Path(source)
        encoder = cls._described(folder)
        encoder._load_weights(folder / "weights.safetensors")
        encoder.freeze()
        return encoder

    @classmethod
    def untrained(cls, source: str | Path | None = None, seed: int = 0) -> DeepSpeech2:
        """An encoder's twin that has learned nothing: a control for what training gave it.

        Architecture, preprocessing and tokenizer are the encoder's; the weights are those that PyTorch starts from.

        Arguments
        ---------
        source : str | Path, optional
            An encoder folder; None is the small encoder that ships in the package.
        seed : int
            Of the weights; PyTorch's global generator is left as it was.

        Returns
        -------
        DeepSpeech2
            Frozen.

        Raises
        ------
        DataError
            As `from_pretrained`.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            encoder = cls._described(SHIPPED if source is None else Path(source))
        encoder.freeze()
        return encoder

    @classmethod
    def _described(cls, folder: Path) -> DeepSpeech2:
        """The network that an encoder folder describes, with fresh weights."""
        for name in ("encoder.json", "weights.safetensors", "tokenizer.model"):
            if not (folder / name).is_file() or not (folder / name).stat().st_size:
                raise DataError(f"{folder} is no encoder folder: {name} is missing or empty "
                                "(expected encoder.json, weights.safetensors, tokenizer.model)")
        try:
            architecture = json.loads((folder / "encoder.json").read_text())["architecture"]
            with bounded(folder / "weights.safetensors"):
                return cls(**architecture, tokenizer=(folder / "tokenizer.model").read_bytes())
        except SerError as error:  # a front end that is not installed, or its arguments
            raise DataError(f"{folder / 'encoder.json'}: {error}") from error
        except (ValueError, KeyError, TypeError, RuntimeError, ArithmeticError) as error:
            if out_of_memory(error):
                raise
            raise DataError(f"{folder}: encoder.json or tokenizer.model is corrupt: {error}") from error

    def _load_weights(self, path: Path) -> None:
        try:
            weights = load_file(path)
        except (SafetensorError, OSError) as error:
            if out_of_memory(error):
                raise
            raise DataError(f"{path} is corrupt: {error}") from error
        outputs = len(weights["output.weight"]) if "output.weight" in weights else self.vocabulary
        if outputs != self.vocabulary:
            raise DataError(f"{path} has {outputs} outputs, but tokenizer.model beside it {self.vocabulary} pieces: "
                            "they are not of one encoder")
        own = self.state_dict()
        faults = [f"{name} is missing" for name in own if name not in weights]
        faults += [f"{name} is not part of the network" for name in weights if name not in own]
        faults += [f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
                   for name in own if name in weights and weights[name].shape != own[name].shape]
        faults += [f"{name} is not finite" for name, tensor in weights.items() if not tensor.isfinite().all()]
        if faults:
            more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
            raise DataError(f"{path} does not fit encoder.json: {'; '.join(faults[:5])}{more}")
        self.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor
                              for name, tensor in weights.items()})
