"""Spectrogram, as the recogniser sees speech (Lakomkin et al. 2017, §3.1.1 and §3.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

from ser_plugins.contracts import SAMPLE_RATE, FeatureExtractor, Frames, class_name, fingerprint
from ser_plugins.errors import DataError

WINDOW = 320  # samples: 20 ms at 16 kHz
HOP = 160  # samples: 10 ms at 16 kHz
BINS = WINDOW // 2 + 1  # 161
NORMALIZATIONS = ("bin", "global", "none")
WINDOWS = ("hamming", "hamming_symmetric")
PADDINGS = ("zero", "reflect")
EPSILON = 1e-5  # of the standard deviation, for bins without variation
VERSION = 1  # of this file's arithmetic: raise it when the output changes
# What was so before it could be chosen, and has no part in the fingerprint, so that earlier ones stay.
ORIGINAL = {"window": "hamming", "padding": "zero", "epsilon": EPSILON}


class Spectrogram(FeatureExtractor):
    """Log magnitude spectrogram: 161 bins, Hamming window of 20 ms, step of 10 ms, normalised per utterance.

    A frame is centred on every tenth millisecond, beginning at 0; the edges are padded, so that an utterance of n
    samples has ``n // 160 + 1`` frames whatever stands beside it in the batch.

    Arguments
    ---------
    power : bool
        Squared magnitude, as the paper says, in place of magnitude, as deepspeech.pytorch computes it.
    normalize : str
        ``"bin"``: each bin has mean 0 and deviation 1 over the utterance (the paper's §3.3); ``"global"``: one mean
        and deviation for the whole utterance (deepspeech.pytorch); ``"none"``.
    scale : float
        Value of a full-scale sample. At 32768 the unit is one step of a 16-bit file, so that log1p is a logarithm for
        whatever is audible and normalisation takes a gain away; at 1 it leaves quiet sounds almost linear.
    window : str
        ``"hamming"``, of period 20 ms; ``"hamming_symmetric"``, whose last value equals its first (deepspeech.pytorch
        until 2020).
    padding : str
        What stands before and after an utterance: ``"zero"``, or ``"reflect"``, its mirror image (librosa until 0.9).
    epsilon : float
        Is added to the standard deviation.
    """

    dim = BINS
    window: Tensor
    rate = SAMPLE_RATE / HOP

    def __init__(self, power: bool = False, normalize: str = "bin", scale: float = 32768.0, window: str = "hamming",
                 padding: str = "zero", epsilon: float = EPSILON) -> None:
        super().__init__()
        for name, value, known in (("normalize", normalize, NORMALIZATIONS), ("window", window, WINDOWS),
                                   ("padding", padding, PADDINGS)):
            if value not in known:
                raise ValueError(f"{name} '{value}' is not one of {', '.join(known)}")
        self.power = power
        self.normalize = normalize
        self.scale = float(scale)
        self.padding = padding
        self.epsilon = float(epsilon)
        self.window_name = window
        self.register_buffer("window", torch.hamming_window(WINDOW, periodic=window == "hamming"), persistent=False)

    def settings(self) -> dict[str, Any]:
        """What changes the output."""
        return {"power": self.power, "normalize": self.normalize, "scale": self.scale, "window": self.window_name,
                "padding": self.padding, "epsilon": self.epsilon, "version": VERSION}

    @property
    def fingerprint(self) -> str:
        """Hash of the class and of those `settings` that are not `ORIGINAL`."""
        chosen = {name: value for name, value in self.settings().items() if value != ORIGINAL.get(name)}
        return fingerprint({"class": class_name(self), **chosen}, self.state_dict())

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        """Maps waveforms ``[batch, samples]`` to frames ``[batch, time, 161]``."""
        traced = torch.jit.is_tracing()  # into a graph, where a length is no number
        if not traced and int(lengths.min()) < WINDOW:
            raise DataError(f"an utterance of {int(lengths.min()) / SAMPLE_RATE * 1000:.0f} ms is too short: "
                            f"a spectrogram needs at least {WINDOW / SAMPLE_RATE * 1000:.0f} ms")
        centered = self.padding == "zero"  # else the padding is here already
        padded = (waveforms if centered else reflected(waveforms, lengths)) * self.scale
        if traced:
            spectrum = self._magnitude(pad(padded, (WINDOW // 2, WINDOW // 2)) if centered else padded)
        else:
            spectrum = torch.stft(padded, n_fft=WINDOW, hop_length=HOP, window=self.window, center=centered,
                                  pad_mode="constant", return_complex=True).abs()  # [batch, bins, time]
        level = torch.log1p(spectrum.square() if self.power else spectrum).transpose(1, 2)
        return self._normalized(Frames(level, self.lengths(lengths), self.rate).masked())

    def _magnitude(self, padded: Tensor) -> Tensor:
        """As torch.stft's, ``[batch, bins, time]``, by a convolution: exported graphs have no complex numbers."""
        angle = torch.outer(torch.arange(BINS), torch.arange(WINDOW)).double() * (2 * torch.pi / WINDOW)
        waves = (torch.cat([angle.cos(), angle.sin()]) * self.window).float()  # [2 × bins, samples]
        parts = conv1d(padded.unsqueeze(1), waves.unsqueeze(1), stride=HOP)
        return (parts[:, :BINS].square() + parts[:, BINS:].square()).sqrt()

    def lengths(self, samples: Tensor) -> Tensor:
        """Frames of utterances of ``samples`` samples, int64 ``[batch]``."""
        return samples // HOP + 1

    def _normalized(self, frames: Frames) -> Frames:
        if self.normalize == "none":
            return frames
        mask = frames.mask().unsqueeze(2)
        axes = 1 if self.normalize == "bin" else (1, 2)
        count = frames.lengths.view(-1, 1, 1) * (1 if self.normalize == "bin" else BINS)
        mean = frames.data.sum(dim=axes, keepdim=True) / count
        centred = (frames.data - mean) * mask
        deviation = (centred.square().sum(dim=axes, keepdim=True) / (count - 1)).sqrt()
        return Frames(centred / (deviation + self.epsilon), frames.lengths, frames.rate)


def reflected(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Each item between the mirror images of its own two ends, half a window long.

    Arguments
    ---------
    waveforms : Tensor
        ``[batch, samples]``.
    lengths : Tensor
        Valid samples of each item, more than half a window, int64 ``[batch]``.

    Returns
    -------
    Tensor
        ``[batch, samples + 320]``; what lies beyond an item's second image is of no meaning.

    Example
    -------
    >>> image = reflected(torch.arange(400.0).unsqueeze(0), torch.tensor([400]))[0]
    >>> image[158:163].tolist(), image[557:562].tolist()
    ([2.0, 1.0, 0.0, 1.0, 2.0], [397.0, 398.0, 399.0, 398.0, 397.0])
    """
    half = WINDOW // 2
    steps = torch.arange(-half, waveforms.shape[1] + half, device=waveforms.device)
    last = lengths.unsqueeze(1) - 1
    return waveforms.gather(1, (last - (last - steps.abs()).abs()).clamp(min=0))
