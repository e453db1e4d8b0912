"""Audio in: any libsndfile format, rate, channel count and sample type, to mono float32 at 16 kHz."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ser_plugins.errors import DataError

SAMPLE_RATE = 16000  # Hz, as `ser_plugins.contracts.SAMPLE_RATE`; stated here so that reading needs no torch


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says: duration in seconds, sample rate in Hz, number of channels."""

    duration: float
    sample_rate: int
    channels: int


def _open(path: str | Path) -> soundfile.SoundFile:
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such audio file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes)")
    try:
        return soundfile.SoundFile(str(path))
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path}: not audio that libsndfile can read ({error.error_string})") from error


def info(path: str | Path) -> AudioInfo:
    """Reads a file's header.

    Raises
    ------
    DataError
        The file is missing, empty, no audio, or holds no samples.
    """
    with _open(path) as file:
        if file.frames <= 0:
            raise DataError(f"{path}: the audio holds no samples")
        return AudioInfo(file.frames / file.samplerate, file.samplerate, file.channels)


def read(path: str | Path, start: float | None = None, end: float | None = None) -> np.ndarray:
    """Reads a file or a segment of it; the rest is not decoded.

    Arguments
    ---------
    path : str | Path
        Any file that libsndfile reads, whatever its suffix.
    start, end : float, optional
        Segment in seconds; None is the file's beginning or end.

    Returns
    -------
    np.ndarray
        Float32, ``[samples]``, mono (mean of the channels), 16 kHz.

    Raises
    ------
    DataError
        The file is missing, no audio, truncated, outside the segment, or not finite.
    """
    with _open(path) as file:
        rate = file.samplerate
        first = round((start or 0.0) * rate)
        last = file.frames if end is None else round(end * rate)
        if not 0 <= first < last <= file.frames:
            raise DataError(f"{path}: segment {first / rate:.3f}–{last / rate:.3f} s lies outside the audio, "
                            f"which is {file.frames / rate:.3f} s long")
        try:
            file.seek(first)
            samples = file.read(last - first, dtype="float32", always_2d=True)  # [samples, channels]
        except soundfile.LibsndfileError as error:
            raise DataError(f"{path}: cannot be decoded ({error.error_string}); is it truncated?") from error
    if len(samples) < last - first:
        raise DataError(f"{path}: truncated, {len(samples)} of {last - first} samples could be decoded")
    mono = samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise DataError(f"{path}: {np.count_nonzero(~np.isfinite(mono))} of {len(mono)} samples are not finite")
    return mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
