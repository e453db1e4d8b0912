"""openSMILE's low-level descriptors of speech: loudness, pitch, voice quality, spectral balance, formants.

The set is eGeMAPSv02 (Eyben et al. 2016), 25 values every 10 ms. openSMILE puts windows of different lengths that
*begin* together into one row, so the values of a row belong to different moments. `CENTRES` says to which. It was
measured without a model of openSMILE: descriptors of speech played backwards are those of the speech, mirrored about
the right centres. On 20 utterances of EmoDB the two correlate best at 10.0 ms after the row's beginning for what has a
window of 20 ms (r 0.98 to 1.00; formants, which jump, 0.3 to 0.6 and within 1.3 ms), at 29 to 30 ms for what has one of
60 ms (0.96 to 1.00), and at 5 ms for spectral flux, the difference of a frame and the one before. Jitter and shimmer
correlate too little for it; they have windows of 60 ms.

openSMILE's licence allows **non-commercial use only**.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ser_plugins.contracts import SAMPLE_RATE, FeatureExtractor, Frames

HOP = 160  # samples: 10 ms at 16 kHz
LEAD, TAIL = 480, 960  # samples of silence around an utterance, so that every window has a frame at either end of it
PEAK = 0.99  # of full scale: openSMILE takes 16-bit integers, and lets what exceeds them wrap round
VERSION = 1  # of this file's arithmetic: raise it when the output changes

LICENCE = ("**openSMILE**, which measures what this model hears, may be used for **non-commercial purposes only**; so "
           "may this model.")
LOUDNESS, F0 = "Loudness_sma3", "F0semitoneFrom27.5Hz_sma3nz"
NAMES = (
    LOUDNESS, "alphaRatio_sma3", "hammarbergIndex_sma3", "slope0-500_sma3", "slope500-1500_sma3", "spectralFlux_sma3",
    "mfcc1_sma3", "mfcc2_sma3", "mfcc3_sma3", "mfcc4_sma3", F0, "jitterLocal_sma3nz", "shimmerLocaldB_sma3nz",
    "HNRdBACF_sma3nz", "logRelF0-H1-H2_sma3nz", "logRelF0-H1-A3_sma3nz",
    *(f"F{formant}{value}_sma3nz" for formant in "123" for value in ("frequency", "bandwidth", "amplitudeLogRelF0")),
)
VOICED = np.array([name.endswith("nz") for name in NAMES])  # without meaning where there is no pitch


def _centre(name: str) -> float:
    """Seconds from the beginning of a row to the moment that a descriptor describes."""
    if name == "spectralFlux_sma3":
        return 0.005
    return 0.010 if "nz" not in name or name.endswith(("frequency_sma3nz", "bandwidth_sma3nz")) else 0.030


CENTRES = np.array([_centre(name) for name in NAMES])  # s after the beginning of a row
STARTS = CENTRES - LEAD / SAMPLE_RATE  # s of the utterance: what the first row describes


class LowLevelDescriptors(FeatureExtractor):
    """The 25 descriptors of `NAMES`; row i describes the moments ``STARTS + i / rate``.

    Values are openSMILE's own, not normalised, and the level is the recording's. It runs on the CPU, one utterance at a
    time, and carries no gradient: compute it once and store it.
    """

    dim = len(NAMES)
    rate = SAMPLE_RATE / HOP

    def settings(self) -> dict[str, Any]:
        """openSMILE's version and that of this file."""
        return {"opensmile": version("opensmile"), "version": VERSION}

    @torch.no_grad()
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        """Maps waveforms ``[batch, samples]`` to frames ``[batch, time, 25]``, 0 for a pitch that is not there."""
        cpu = waveforms.detach().float().cpu().numpy()
        features = [self._extract(item[:length]) for item, length in zip(cpu, lengths.tolist(), strict=True)]
        return Frames.from_list(features, self.rate).to(waveforms.device)

    def _extract(self, samples: np.ndarray) -> Tensor:
        samples = samples * np.float32(min(1.0, PEAK / max(float(np.abs(samples).max()), 1e-9)))
        table = _smile().process_signal(np.pad(samples, (LEAD, TAIL)), SAMPLE_RATE)
        return torch.tensor(table[list(NAMES)].to_numpy(), dtype=torch.float32)


@cache
def _smile() -> Any:
    import opensmile

    logging.getLogger(__name__).info("descriptors by openSMILE, which is licensed for non-commercial use only")
    return opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)


def without_unvoiced(frames: np.ndarray) -> np.ndarray:
    """Descriptors ``[time, 25]`` with NaN for those of the voice where openSMILE found no pitch."""
    unvoiced = frames[:, [NAMES.index(F0)]] <= 0
    return np.where(unvoiced & VOICED, np.nan, frames)
