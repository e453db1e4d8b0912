"""Log-mel filterbank: what most networks on speech read (Davis and Mermelstein 1980; torchaudio's filters)."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ser_plugins.contracts import SAMPLE_RATE, FeatureExtractor, Frames
from ser_plugins.errors import DataError

WINDOW = 400  # samples: 25 ms at 16 kHz
HOP = 160  # samples: 10 ms at 16 kHz
FFT = 512  # points: the window zero-padded
MOST_BANDS = 126  # of which each holds a point of the spectrum
QUIETEST = 1e-10  # power of a band, where a full-scale sample is 1: −100 dB; below it is silence
FLOOR = 1e-3  # nepers of a band's deviation: one that varies less is constant
VERSION = 1  # of this file's arithmetic: raise it when the output changes


class LogMel(FeatureExtractor):
    """Logarithm of the power in mel bands, Hann window of 25 ms, step of 10 ms.

    Frames are centred on 0, 10, 20, … ms, so that an utterance of n samples has ``n // 160 + 1`` of them. Each
    utterance is framed by itself.

    Arguments
    ---------
    bands : int
        Mel bands (O'Shaughnessy's scale) between 20 Hz and 8 kHz.
    normalize : bool
        Each band has mean 0 and deviation 1 over the utterance, so that a gain changes nothing that is louder than
        −100 dB, and a constant band is 0; otherwise nepers of power.

    Raises
    ------
    ValueError
        Fewer bands than 1, or so many that the lowest are narrower than the spectrum resolves.

    Example
    -------
    >>> LogMel(bands=40)(torch.randn(1, 16000), torch.tensor([16000])).data.shape
    torch.Size([1, 101, 40])
    """

    rate = SAMPLE_RATE / HOP

    def __init__(self, bands: int = 80, normalize: bool = True) -> None:
        super().__init__()
        if not 1 <= bands <= MOST_BANDS:
            raise ValueError(f"bands {bands}: from 1 to {MOST_BANDS}; with more, the lowest hold nothing")
        self.dim = bands
        self.normalize = normalize

    def settings(self) -> dict[str, Any]:
        """What changes the output."""
        return {"bands": self.dim, "normalize": self.normalize, "version": VERSION}

    @torch.no_grad()
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        """Maps waveforms ``[batch, samples]`` to frames ``[batch, time, bands]``."""
        if int(lengths.min()) < WINDOW:
            raise DataError(f"an utterance of {int(lengths.min()) / SAMPLE_RATE * 1000:.0f} ms is too short: "
                            f"logmel needs at least {WINDOW / SAMPLE_RATE * 1000:.0f} ms")
        items = [self._extract(item[:length]) for item, length in zip(waveforms, lengths.tolist(), strict=True)]
        frames = Frames.from_list(items, self.rate)
        return Frames(frames.data, frames.lengths.to(waveforms.device), frames.rate)

    def _extract(self, samples: Tensor) -> Tensor:
        levels = _mel(self.dim, samples.device)(samples).T.clamp(min=QUIETEST).log()  # [time, bands]
        if not self.normalize:
            return levels
        deviation, mean = torch.std_mean(levels.double(), dim=0, correction=0)
        return ((levels - mean) / deviation.clamp(min=FLOOR)).float()


@cache
def _mel(bands: int, device: torch.device) -> torch.nn.Module:
    # Not a submodule of LogMel: its filters, in the state dict, would tie the fingerprint to the machine's rounding.
    from torchaudio.transforms import MelSpectrogram

    return MelSpectrogram(SAMPLE_RATE, n_fft=FFT, win_length=WINDOW, hop_length=HOP, f_min=20.0, n_mels=bands,
                          pad_mode="constant").to(device)
