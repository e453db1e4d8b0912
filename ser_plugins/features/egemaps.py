"""eGeMAPS low-level descriptors as frames: loudness, pitch, voice quality, formants, balance (Eyben et al. 2016).

`ser_plugins.descriptors` measures them with openSMILE, whose licence allows **non-commercial use only**, and says to
which moment each belongs. Here they are put side by side by time, on frames centred on 0, 10, 20, … ms as `spectrogram`
and `mfcc_pitch` have them, and normalised per utterance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ser_plugins.contracts import SAMPLE_RATE, FeatureExtractor, Frames
from ser_plugins.descriptors import HOP, LICENCE, NAMES, STARTS, LowLevelDescriptors

VERSION = 1  # of this file's arithmetic: raise it when the output changes
FLOOR = 1e-3  # of a deviation, in the descriptor's own unit: a descriptor that varies less is constant


class EGeMAPS(FeatureExtractor):
    """The 25 descriptors of eGeMAPSv02 every 10 ms, 0 for a pitch that is not there; openSMILE, **non-commercial use**.

    Arguments
    ---------
    normalize : bool
        Each descriptor has mean 0 and deviation 1 over the utterance, and a constant one is 0; otherwise openSMILE's
        own units, from some hundredths (shimmer) to thousands (formants).

    Example
    -------
    >>> EGeMAPS()(torch.randn(1, 16000), torch.tensor([16000])).data.shape
    torch.Size([1, 101, 25])
    """

    dim = len(NAMES)
    rate = SAMPLE_RATE / HOP
    licence = LICENCE

    def __init__(self, normalize: bool = True) -> None:
        super().__init__()
        self.normalize = normalize
        self.descriptors = LowLevelDescriptors()

    def settings(self) -> dict[str, Any]:
        """What changes the output; openSMILE's version is part of it."""
        return {"normalize": self.normalize, "version": VERSION, "descriptors": self.descriptors.settings()}

    @torch.no_grad()
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        """Maps waveforms ``[batch, samples]`` to frames ``[batch, time, 25]``, ``n // 160 + 1`` of n samples."""
        measured = self.descriptors(waveforms.cpu(), lengths.cpu()).unpad()
        items = [self._on_centres(rows, length // HOP + 1)
                 for rows, length in zip(measured, lengths.tolist(), strict=True)]
        return Frames.from_list(items, self.rate).to(waveforms.device)

    def _on_centres(self, rows: Tensor, frames: int) -> Tensor:
        """Rows ``[rows, 25]`` as frames ``[frames, 25]``: of each descriptor the row nearest to the frame's centre."""
        offsets = np.rint(-STARTS * self.rate).astype(int)  # rows before the one at 0 s
        nearest = torch.from_numpy(np.arange(frames)[:, None] + offsets).clamp(max=len(rows) - 1)
        values = rows.gather(0, nearest).double()
        if self.normalize:
            deviation, mean = torch.std_mean(values, dim=0, correction=0)
            values = (values - mean) / deviation.clamp(min=FLOOR)
        return values.float()
