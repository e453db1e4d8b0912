"""Audio in: any libsndfile format, rate, channel count and sample type, to mono float32 at 16 kHz."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ser_plugins.errors import DataError, EmptyAudioError

SAMPLE_RATE = 16000  # Hz; the rate of every waveform inside the package (Lakomkin et al. 2017, §3.2.2)
TOLERANCE = 0.01  # s that an `end` may lie beyond the audio: manifests round durations

# What libsndfile logs of a header whose sizes exceed the file: WAV, AIFF, AU, W64, RF64. It reads on without an error.
_SIZE = re.compile(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_STREAMED = 0x7FFF0000  # bytes: sizes from here on are placeholders of programs that write to a pipe


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
        raise EmptyAudioError(f"{path}: the file is empty (0 bytes)")
    try:
        file = soundfile.SoundFile(str(path))
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path}: not audio that libsndfile can read ({error.error_string})") from error
    except TypeError as error:  # soundfile takes .raw for headerless samples, whose rate it cannot know
        raise DataError(f"{path}: headerless audio; convert it to WAV or FLAC") from error
    try:
        _check(path, file)
    except DataError:
        file.close()
        raise
    return file


def _check(path: Path, file: soundfile.SoundFile) -> None:
    """Refuses a file without samples, or one that is shorter than its header says."""
    if file.frames <= 0:
        raise EmptyAudioError(f"{path}: the audio holds no samples")
    for promised, found in (map(int, sizes) for sizes in _SIZE.findall(file.extra_info)):
        missing = (promised / max(found, 1) - 1) * file.frames / file.samplerate  # s
        if promised < _STREAMED and missing > TOLERANCE:
            raise DataError(f"{path}: truncated, {found} of {promised} bytes are there")


def info(path: str | Path) -> AudioInfo:
    """Reads a file's header.

    Raises
    ------
    DataError
        The file is missing, empty, no audio, truncated, or holds no samples.
    """
    with _open(path) as file:
        return AudioInfo(file.frames / file.samplerate, file.samplerate, file.channels)


def _decode(file: soundfile.SoundFile, first: int, last: int) -> np.ndarray:
    """Samples ``first`` to ``last`` of each channel, float32, ``[samples, channels]``."""
    at = file.tell()
    if file.format == "MP3" and first > at:
        # A frame of MP3 leans on the frames before it: after a jump libsndfile may give silence for some 100 ms.
        return file.read(last - at, dtype="float32", always_2d=True)[first - at:]
    if first != at:
        file.seek(first)
    return file.read(last - first, dtype="float32", always_2d=True)


def read(path: str | Path, start: float | None = None, end: float | None = None) -> np.ndarray:
    """Reads a file or a segment of it; the rest is not decoded (of MP3, what lies before it is).

    Arguments
    ---------
    path : str | Path
        Any file that libsndfile reads, whatever its suffix.
    start, end : float, optional
        Segment in seconds; None is the file's beginning or end. An ``end`` up to 10 ms beyond the audio is its end.

    Returns
    -------
    np.ndarray
        Float32, ``[samples]``, mono (mean of the channels), 16 kHz.

    Raises
    ------
    DataError
        The file is missing, empty, no audio or truncated, the segment lies outside it, or samples are not finite.
    """
    with _open(path) as file:
        rate = file.samplerate
        first = round((start or 0.0) * rate)
        last = file.frames if end is None else round(end * rate)
        if file.frames < last <= file.frames + TOLERANCE * rate:
            last = file.frames
        if not 0 <= first < last <= file.frames:
            raise DataError(f"{path}: segment {first / rate:.3f}–{last / rate:.3f} s lies outside the audio, "
                            f"which is {file.frames / rate:.3f} s long")
        samples = _decoded(path, file, first, last)
    return _mono(path, samples, rate)


def read_blocks(path: str | Path, size: float, overlap: float) -> Iterator[np.ndarray]:
    """Reads a file of any length in blocks, one after another and each decoded once.

    Arguments
    ---------
    path : str | Path
        Any file that libsndfile reads, whatever its suffix.
    size : float
        Seconds of a block; the last may be shorter. A file of at most this length is one block, that of `read`.
    overlap : float
        Seconds that a block and the next one have in common, less than ``size``.

    Returns
    -------
    Iterator[np.ndarray]
        Float32, ``[samples]``, mono (mean of the channels), 16 kHz.

    Raises
    ------
    DataError
        As `read`; what lies before the fault has been given.
    """
    with _open(path) as file:
        length, shared = round(size * file.samplerate), round(overlap * file.samplerate)
        first = last = 0
        samples = np.empty((0, file.channels), dtype=np.float32)
        while last < file.frames:
            reached, last = last, min(first + length, file.frames)
            samples = np.concatenate([samples, _decoded(path, file, reached, last)])
            yield _mono(path, samples, file.samplerate)
            first, samples = last - shared, samples[-shared:] if shared else samples[:0]


def _decoded(path: str | Path, file: soundfile.SoundFile, first: int, last: int) -> np.ndarray:
    """As `_decode`; refuses what cannot be decoded to its end."""
    try:
        samples = _decode(file, first, last)  # [samples, channels]
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path}: cannot be decoded ({error.error_string}); is it truncated?") from error
    if len(samples) < last - first:
        raise DataError(f"{path}: truncated, {len(samples)} of {last - first} samples could be decoded")
    return samples


def _mono(path: str | Path, samples: np.ndarray, rate: int) -> np.ndarray:
    """The mean of finite channels at 16 kHz."""
    mono = samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise DataError(f"{path}: {np.count_nonzero(~np.isfinite(mono))} of {len(mono)} samples are not finite")
    return mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
