"""Spectrogram, as the recogniser sees speech (Lakomkin et al. 2017, §3.1.1 and §3.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ser_plugins.contracts import SAMPLE_RATE, FeatureExtractor, Frames
from ser_plugins.errors import DataError

WINDOW = 320  # samples: 20 ms at 16 kHz
HOP = 160  # samples: 10 ms at 16 kHz
BINS = WINDOW // 2 + 1  # 161
NORMALIZATIONS = ("bin", "global", "none")
EPSILON = 1e-5  # of the standard deviation, for bins without variation
VERSION = 1  # of this file's arithmetic: raise it when the output changes


class Spectrogram(FeatureExtractor):
    """Log magnitude spectrogram: 161 bins, Hamming window of 20 ms, step of 10 ms, normalised per utterance.

    A frame is centred on every tenth millisecond, beginning at 0; the edges are zero-padded, so that an utterance of
    n samples has ``n // 160 + 1`` frames whatever stands beside it in the batch.

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
    """

    dim = BINS
    window: Tensor
    rate = SAMPLE_RATE / HOP

    def __init__(self, power: bool = False, normalize: str = "bin", scale: float = 32768.0) -> None:
        super().__init__()
        if normalize not in NORMALIZATIONS:
            raise ValueError(f"normalize '{normalize}' is not one of {', '.join(NORMALIZATIONS)}")
        self.power = power
        self.normalize = normalize
        self.scale = float(scale)
        self.register_buffer("window", torch.hamming_window(WINDOW), persistent=False)

    def settings(self) -> dict[str, Any]:
        """What changes the output."""
        return {"power": self.power, "normalize": self.normalize, "scale": self.scale, "version": VERSION}

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        """Maps waveforms ``[batch, samples]`` to frames ``[batch, time, 161]``."""
        if int(lengths.min()) < WINDOW:
            raise DataError(f"an utterance of {int(lengths.min()) / SAMPLE_RATE * 1000:.0f} ms is too short: "
                            f"a spectrogram needs at least {WINDOW / SAMPLE_RATE * 1000:.0f} ms")
        spectrum = torch.stft(waveforms * self.scale, n_fft=WINDOW, hop_length=HOP, window=self.window, center=True,
                              pad_mode="constant", return_complex=True).abs()  # [batch, bins, time]
        level = torch.log1p(spectrum.square() if self.power else spectrum).transpose(1, 2)
        return self._normalized(Frames(level, self.lengths(lengths), self.rate).masked())

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
        return Frames(centred / (deviation + EPSILON), frames.lengths, frames.rate)
