"""Tempo and gain, the disturbances that the paper trains with (Lakomkin et al. 2017, §3.3.1), and speed.

"Randomly changing tempo and gain of the utterance within the range of 0.85 to 1.15 and −3 to +6 dB": the paper draws
from continuous ranges. Here an utterance has a small stored set of *variants*, so that a frozen encoder and the feature
extractor run once per variant and not once per epoch; a variant is a pure function of the utterance's id, the seed and
its number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ser_plugins.errors import DataError

FFT = 640  # samples: 40 ms at 16 kHz, see `change_tempo`
HOP = 160  # samples: 10 ms at 16 kHz


@dataclass(frozen=True)
class Variant:
    """One way to disturb an utterance: ``tempo`` (above 1 is faster) and ``gain_db`` (decibels)."""

    tempo: float = 1.0
    gain_db: float = 0.0


def change_tempo(samples: np.ndarray, tempo: float) -> np.ndarray:
    """Speaks faster or slower at the same pitch, by a phase vocoder (librosa).

    Its window of 40 ms was measured on EmoDB at tempo 0.85 and 1.15: pitch stays within 0.8 % (median) and the spectral
    envelope is blurred less than by the customary 128 ms (voicing kept in 92 against 81 % of the frames, cepstral
    distance 3.6 against 6.0). A window of 32 ms blurs a little less still, but a voice of 70 Hz, of which it holds two
    periods, loses up to 5 dB. Whatever the window, the vocoder takes some 3 dB from speech; they are given back.

    Arguments
    ---------
    samples : np.ndarray
        Float32, ``[samples]``, mono, 16 kHz; at least one window of 40 ms.
    tempo : float
        Above 1 is faster.

    Returns
    -------
    np.ndarray
        Float32, ``[round(samples / tempo)]``, with the RMS that it had; the same array if ``tempo`` is 1.

    Raises
    ------
    ValueError
        ``tempo`` is not positive.
    DataError
        Fewer samples than a window.
    """
    if not 0 < tempo < np.inf:
        raise ValueError(f"tempo {tempo} is not a positive number")
    if tempo == 1.0:
        return samples
    if len(samples) < FFT:
        raise DataError(f"an utterance of {len(samples)} samples is too short for another tempo: {FFT} are needed")
    import librosa

    changed = librosa.effects.time_stretch(samples, rate=tempo, n_fft=FFT, hop_length=HOP)
    return changed * np.float32(_rms(samples) / max(_rms(changed), 1e-12))


def change_speed(samples: np.ndarray, speed: float) -> np.ndarray:
    """Plays faster or slower, pitch and formants with it, by resampling (Ko et al. 2015): another voice.

    Arguments
    ---------
    samples : np.ndarray
        Float32, ``[samples]``, mono.
    speed : float
        Above 1 is faster; taken to the nearest fraction whose denominator is at most 100.

    Returns
    -------
    np.ndarray
        Float32, ``[ceil(samples / speed)]``; the same array if ``speed`` is 1.

    Raises
    ------
    ValueError
        ``speed`` is not within 0.1 to 10.
    """
    if not 0.1 <= speed <= 10:
        raise ValueError(f"speed {speed} is not within 0.1 to 10")
    ratio = Fraction(speed).limit_denominator(100)
    if ratio == 1:
        return samples
    import torch
    from torchaudio.functional import resample

    return resample(torch.from_numpy(samples), ratio.numerator, ratio.denominator).numpy()


def change_gain(samples: np.ndarray, gain_db: float) -> np.ndarray:
    """Makes samples louder or quieter by ``gain_db`` decibels (+6 is about twice the amplitude).

    Nothing is clipped: float samples may exceed 1, and every consumer in this package takes them so.

    Example
    -------
    >>> change_gain(np.array([0.5], dtype=np.float32), 20.0)
    array([5.], dtype=float32)
    """
    return samples * np.float32(10 ** (gain_db / 20))


def variants(utterance_id: str, tempi: Sequence[float], gain_range: tuple[float, float], seed: int) -> list[Variant]:
    """The variants of one utterance: itself, then one for each tempo.

    Arguments
    ---------
    utterance_id : str
        Each utterance has gains of its own.
    tempi : Sequence[float]
        A small stored set in place of the paper's continuous range of 0.85 to 1.15.
    gain_range : tuple[float, float]
        Lowest and highest gain in dB; each gain is drawn uniformly between them.
    seed : int
        Another seed draws other gains.

    Returns
    -------
    list[Variant]
        ``1 + len(tempi)`` variants; the first is undisturbed.

    Example
    -------
    >>> [variant.tempo for variant in variants("03a01Fa", [0.85, 1.15], (-3.0, 6.0), seed=0)]
    [1.0, 0.85, 1.15]
    """
    low, high = gain_range
    if not low <= high:
        raise ValueError(f"gain_range {gain_range} is not (lowest, highest)")
    return [Variant(), *(Variant(float(tempo), low + (high - low) * _uniform(utterance_id, seed, index))
                         for index, tempo in enumerate(tempi, start=1))]


def apply(samples: np.ndarray, variant: Variant) -> np.ndarray:
    """Samples ``[samples]`` at the variant's tempo and gain; the undisturbed variant gives the same numbers."""
    return change_gain(change_tempo(samples, variant.tempo), variant.gain_db)


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def _uniform(*key: object) -> float:
    """A number in [0, 1) that depends on ``key`` alone: the same on every machine, in any order of calls."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
