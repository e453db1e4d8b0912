"""MFCC, their deltas, and smoothed pitch: the acoustic features of the paper's baseline.

"13 MFCC coefficients and their deltas extracted over windows of 20ms width and 10ms stride", and "pitch values
smoothed with moving average with a window size of 15" (Lakomkin et al. 2017, §3.3). Conventions:

- **Frames** are centred on 0, 10, 20, … ms, so that an utterance of n samples has ``n // 160 + 1`` of them, as
  `spectrogram` has. A pitch tracker has windows of its own; its stream is put on these centres by time.
- **Unvoiced frames** have no pitch. The moving average runs over the voiced frames in its window (counting zeros in
  would make it a measure of voicing, which the MFCC carry already), and the gaps are then bridged by a straight line
  between the voiced frames beside them, held at both ends. An utterance without a voiced frame has constant pitch.
- **Normalisation** is per utterance and feature, to mean 0 and deviation 1; a constant feature becomes zeros. The
  waveform is brought to one peak level before anything else, so that a gain changes nothing.

Two trackers, by option. openSMILE is the paper's; its licence allows **non-commercial use only**. YIN (librosa, ISC
licence) is free for any use.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ser_plugins.contracts import SAMPLE_RATE, FeatureExtractor, Frames
from ser_plugins.descriptors import LICENCE
from ser_plugins.errors import DataError

WINDOW = 320  # samples: 20 ms at 16 kHz
HOP = 160  # samples: 10 ms at 16 kHz
FFT = 512  # points: the window zero-padded, else the lowest mel bands would be narrower than a bin
COEFFICIENTS = 13  # MFCC, the zeroth included
MEL_BANDS = 26  # as HTK and openSMILE have them
DELTA_WINDOW = 5  # frames in the regression
SMOOTHING = 15  # frames of the moving average (pitch.conf says the same to openSMILE)
PEAK = 0.9  # of full scale
SHORTEST = 480  # samples: 30 ms, four frames
DEVIATION_FLOOR = 1e-3  # units of the MFCC, Hz of the pitch: smaller variation is rounding, not speech
VERSION = 2  # of this file's arithmetic: raise it when the output changes

OPENSMILE_CONFIG = Path(__file__).with_name("pitch.conf")
OPENSMILE_WINDOW = 960  # samples: 60 ms, `frameSize` of pitch.conf

YIN_WINDOW = 1024  # samples: 64 ms, two periods of 32 Hz
YIN_RANGE = (55.0, 600.0)  # Hz, as in pitch.conf
YIN_PERIODICITY = 0.5  # correlation of a voiced frame with itself one period later, at least
YIN_LEVEL = 10 ** (-30 / 20)  # RMS of a voiced frame over that of the loudest, at least: −30 dB

logger = logging.getLogger(__name__)


class MFCCPitch(FeatureExtractor):
    """13 MFCC, 13 deltas and pitch smoothed over 15 frames, normalised per utterance and feature: 27 values a frame.

    It runs on the CPU, one utterance at a time, and carries no gradient: compute it once and store it.

    Arguments
    ---------
    pitch : str
        ``"opensmile"``: sub-harmonic summation by openSMILE, as the paper. **openSMILE's licence allows
        non-commercial use only.** ``"yin"``: de Cheveigné and Kawahara (2002) by librosa, free for any use.
    """

    dim = 2 * COEFFICIENTS + 1
    rate = SAMPLE_RATE / HOP

    def __init__(self, pitch: str = "opensmile") -> None:
        super().__init__()
        if pitch not in TRACKERS:
            raise ValueError(f"pitch '{pitch}' is not one of {', '.join(TRACKERS)}")
        self.pitch = pitch
        self.licence = LICENCE if pitch == "opensmile" else ""

    def settings(self) -> dict[str, Any]:
        """What changes the output; the library that tracks pitch and openSMILE's configuration are part of it."""
        settings: dict[str, Any] = {"pitch": self.pitch, "version": VERSION}
        if self.pitch == "opensmile":
            return {**settings, "opensmile": version("opensmile"),
                    "config": hashlib.sha256(OPENSMILE_CONFIG.read_bytes()).hexdigest()[:16]}
        return {**settings, "librosa": version("librosa")}

    @torch.no_grad()
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        """Maps waveforms ``[batch, samples]`` to frames ``[batch, time, 27]``."""
        if int(lengths.min()) < SHORTEST:
            raise DataError(f"an utterance of {int(lengths.min()) / SAMPLE_RATE * 1000:.0f} ms is too short: "
                            f"mfcc_pitch needs at least {SHORTEST / SAMPLE_RATE * 1000:.0f} ms")
        cpu = waveforms.detach().float().cpu()
        features = [self._extract(item[:length]) for item, length in zip(cpu, lengths.tolist(), strict=True)]
        return Frames.from_list(features, self.rate).to(waveforms.device)

    def _extract(self, samples: Tensor) -> Tensor:
        samples = samples * (PEAK / samples.abs().max().clamp(min=1e-9))
        cepstrum = mfcc(samples)  # [time, 13]
        times = np.arange(len(cepstrum)) * HOP / SAMPLE_RATE  # s, the frames' centres
        pitch = bridge(*TRACKERS[self.pitch](samples.numpy(), smoothed=True), times)
        return normalize(torch.cat([cepstrum, deltas(cepstrum), torch.from_numpy(pitch).float().unsqueeze(1)], dim=1))


def mfcc(samples: Tensor) -> Tensor:
    """Mel-frequency cepstral coefficients 0 to 12 (Davis and Mermelstein 1980) of samples ``[samples]``.

    Returns
    -------
    Tensor
        ``[time, 13]``, frame k centred on sample 160 k; the edges are zero-padded.
    """
    return _mfcc_transform()(samples).T


@cache
def _mfcc_transform() -> torch.nn.Module:
    # Not a submodule of MFCCPitch: its filters, in the state dict, would tie the fingerprint to the machine's rounding.
    from torchaudio.transforms import MFCC

    return MFCC(SAMPLE_RATE, COEFFICIENTS, log_mels=True,
                melkwargs={"n_fft": FFT, "win_length": WINDOW, "hop_length": HOP, "n_mels": MEL_BANDS, "f_min": 20.0,
                           "window_fn": torch.hamming_window, "pad_mode": "constant"})


def deltas(frames: Tensor) -> Tensor:
    """Slope of each feature by regression over 5 frames, ``[time, dim]``; the edge frames are repeated outwards."""
    from torchaudio.functional import compute_deltas

    return compute_deltas(frames.T, win_length=DELTA_WINDOW).T


def normalize(frames: Tensor) -> Tensor:
    """Brings each feature of frames ``[time, dim]`` to mean 0 and deviation 1; a constant one becomes zeros."""
    frames = frames.double()
    deviation, mean = torch.std_mean(frames, dim=0, correction=0)
    return ((frames - mean) / deviation.clamp(min=DEVIATION_FLOOR)).float()


def smooth(hertz: np.ndarray, window: int = SMOOTHING) -> np.ndarray:
    """Moving average over the voiced frames in a centred window, as openSMILE's cContourSmoother with noZeroSma.

    Arguments
    ---------
    hertz : np.ndarray
        Pitch in Hz, ``[frames]``, 0 where unvoiced; the edge frames are repeated outwards.
    window : int
        Frames, odd.

    Returns
    -------
    np.ndarray
        ``[frames]``, 0 where unvoiced.

    Example
    -------
    >>> smooth(np.array([100.0, 110.0, 120.0, 0.0]), window=3).tolist()
    [103.33333333333333, 110.0, 115.0, 0.0]
    """
    padded = np.pad(hertz, window // 2, mode="edge")
    total = np.convolve(padded, np.ones(window), "valid")
    count = np.convolve(padded > 0, np.ones(window), "valid")
    return np.where(hertz > 0, total / np.maximum(count, 1), 0.0)


def bridge(times: np.ndarray, hertz: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Pitch at other times, with straight lines across unvoiced frames.

    Arguments
    ---------
    times : np.ndarray
        Where pitch was measured, in seconds, increasing, ``[frames]``.
    hertz : np.ndarray
        Pitch in Hz, 0 where unvoiced, ``[frames]``.
    targets : np.ndarray
        Where pitch is wanted, in seconds, ``[time]``.

    Returns
    -------
    np.ndarray
        Pitch in Hz, ``[time]``; zeros if no frame is voiced.

    Example
    -------
    >>> bridge(np.array([0.0, 0.01, 0.02]), np.array([100.0, 0.0, 120.0]), np.array([0.005, 0.01, 0.03])).tolist()
    [105.0, 110.0, 120.0]
    """
    voiced = hertz > 0
    return np.interp(targets, times[voiced], hertz[voiced]) if voiced.any() else np.zeros(len(targets))


def opensmile_pitch(samples: np.ndarray, smoothed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Pitch by openSMILE with `pitch.conf`: sub-harmonic summation and a Viterbi search (non-commercial licence).

    Arguments
    ---------
    samples : np.ndarray
        Float32, ``[samples]``, 16 kHz; any level.
    smoothed : bool
        With the moving average of 15 frames.

    Returns
    -------
    times : np.ndarray
        Centres of the frames in seconds, ``[frames]``.
    hertz : np.ndarray
        Pitch in Hz, ``[frames]``, 0 where unvoiced.
    """
    # openSMILE takes 16-bit integers and lets what exceeds them wrap round, so the peak is brought below 1. Half a
    # window of zeros on both sides puts its frames on 0, 10, … ms and lets it take utterances shorter than a window.
    level = PEAK / max(float(np.abs(samples).max()), 1e-9)
    padded = np.pad(samples * np.float32(level), OPENSMILE_WINDOW // 2)
    starts, _, values = _smile("pitch_smoothed" if smoothed else "pitch").process(padded, SAMPLE_RATE)
    frames = len(samples) // HOP + 1  # the smoother appends seven more while it empties its window
    times = starts.total_seconds().to_numpy()  # start in the padded signal = centre in the unpadded one
    return times[:frames], values[:frames, 0].astype(np.float64)


@cache
def _smile(level: str) -> Any:
    import opensmile

    logger.info("pitch by openSMILE, which is licensed for non-commercial use only; choose pitch: yin for other uses")
    return opensmile.Smile(str(OPENSMILE_CONFIG), level)


def yin_pitch(samples: np.ndarray, smoothed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Pitch by YIN (de Cheveigné and Kawahara 2002), through librosa; arguments and returns as `opensmile_pitch`.

    YIN gives a period for every frame, voiced or not. A frame counts as voiced if it correlates with itself one
    period later by 0.5 at least and is at most 30 dB below the loudest frame.
    """
    import librosa

    low, high = YIN_RANGE
    hertz = librosa.yin(samples, fmin=low, fmax=high, sr=SAMPLE_RATE, frame_length=YIN_WINDOW, hop_length=HOP)
    correlation, level = _periodicity(samples, SAMPLE_RATE / hertz)
    voiced = (correlation >= YIN_PERIODICITY) & (level > YIN_LEVEL * level.max())
    hertz = np.where(voiced, hertz, 0.0)
    return np.arange(len(hertz)) * HOP / SAMPLE_RATE, smooth(hertz) if smoothed else hertz


def _periodicity(samples: np.ndarray, periods: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of two 32 ms windows, one period apart about each frame's centre, and their RMS; ``[frames]``."""
    half = YIN_WINDOW // 4
    lags = np.rint(periods).astype(int)[:, None]
    margin = half + int(SAMPLE_RATE / YIN_RANGE[0])
    padded = np.pad(samples, margin)
    centres = margin + np.arange(len(periods))[:, None] * HOP + np.arange(-half, half)  # [frames, window]
    before, after = padded[centres - lags // 2], padded[centres - lags // 2 + lags]
    power = np.sqrt((before**2).mean(axis=1) * (after**2).mean(axis=1))
    return (before * after).mean(axis=1) / np.maximum(power, 1e-12), np.sqrt(power)


TRACKERS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {"opensmile": opensmile_pitch, "yin": yin_pitch}
