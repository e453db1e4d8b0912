"""Audio in: any libsndfile format, rate, channel count and sample type, to mono float32 at 16 kHz.

Audio comes as a path, as a file's bytes, as a file object open for reading, or as samples with their rate (`Source`).
"""

from __future__ import annotations

import glob
import io
import numbers
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
import soundfile
import soxr

from ser_plugins.errors import DataError, EmptyAudioError, OptionError

if TYPE_CHECKING:
    from torch import Tensor

Encoded: TypeAlias = Union[str, os.PathLike[str], bytes, IO[bytes]]  # noqa: UP007 - a path, or the file itself
Source: TypeAlias = Union[Encoded, np.ndarray, "Tensor"]  # samples are [samples] or [samples, channels]

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


def name_of(source: Source) -> str:
    """What messages call it."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "audio file in memory" if _encoded(source) else "samples"


def _encoded(source: Source) -> bool:
    return isinstance(source, str | os.PathLike | bytes | bytearray) or hasattr(source, "read")


def _open(source: Encoded) -> soundfile.SoundFile:
    name = name_of(source)
    opened: Any = name
    if isinstance(source, str | os.PathLike):
        if Path(name).is_dir():
            raise DataError(f"{name}: a folder; need an audio file, or for `ser` a folder that holds some")
        if not Path(name).is_file():
            pattern = "; no file matches this pattern" if glob.has_magic(name) else ""
            raise DataError(f"{name}: no such audio file{pattern}")
        empty = Path(name).stat().st_size == 0
    else:
        opened = _seekable(source)
        empty = not opened.seek(0, io.SEEK_END)
        opened.seek(0)
    if empty:
        raise EmptyAudioError(f"{name}: the file is empty (0 bytes)")
    try:
        file = soundfile.SoundFile(opened)
    except soundfile.LibsndfileError as error:
        raise DataError(f"{name}: not audio that libsndfile can read ({error.error_string})") from error
    except TypeError as error:  # soundfile takes .raw for headerless samples, whose rate it cannot know
        raise DataError(f"{name}: headerless audio; convert it to WAV or FLAC") from error
    try:
        _check(name, file)
    except DataError:
        file.close()
        raise
    return file


def _seekable(source: bytes | IO[bytes]) -> IO[bytes]:
    """The file object, from its beginning; what cannot go back, as a pipe, is read into memory."""
    if isinstance(source, bytes | bytearray):
        return io.BytesIO(source)
    if isinstance(source, io.TextIOBase):
        raise OptionError(f"{name_of(source)} is open as text; audio is bytes: open(…, 'rb')")
    return source if source.seekable() else io.BytesIO(source.read())


def _check(path: str, file: soundfile.SoundFile) -> None:
    """Refuses a file without samples, or one that is shorter than its header says."""
    if file.frames <= 0:
        raise EmptyAudioError(f"{path}: the audio holds no samples")
    for promised, found in (map(int, sizes) for sizes in _SIZE.findall(file.extra_info)):
        missing = (promised / max(found, 1) - 1) * file.frames / file.samplerate  # s
        if promised < _STREAMED and missing > TOLERANCE:
            raise DataError(f"{path}: truncated, {found} of {promised} bytes are there")


def info(path: Encoded) -> AudioInfo:
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


def read(path: Encoded, start: float | None = None, end: float | None = None) -> np.ndarray:
    """Reads a file or a segment of it; the rest is not decoded (of MP3, what lies before it is).

    Arguments
    ---------
    path : str | Path | bytes | file object
        Any file that libsndfile reads, whatever its suffix; its bytes, or it, open for reading them.
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
            raise DataError(f"{name_of(path)}: segment {first / rate:.3f}–{last / rate:.3f} s lies outside the audio, "
                            f"which is {file.frames / rate:.3f} s long")
        samples = _decoded(name_of(path), file, first, last)
    return mono(samples, rate, name_of(path))


def read_blocks(path: Encoded, size: float, overlap: float) -> Iterator[np.ndarray]:
    """Reads a file of any length in blocks, one after another and each decoded once.

    Arguments
    ---------
    path : str | Path | bytes | file object
        As of `read`.
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
            samples = np.concatenate([samples, _decoded(name_of(path), file, reached, last)])
            yield mono(samples, file.samplerate, name_of(path))
            first, samples = last - shared, samples[-shared:] if shared else samples[:0]


def _decoded(path: str, file: soundfile.SoundFile, first: int, last: int) -> np.ndarray:
    """As `_decode`; refuses what cannot be decoded to its end."""
    try:
        samples = _decode(file, first, last)  # [samples, channels]
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path}: cannot be decoded ({error.error_string}); is it truncated?") from error
    if len(samples) < last - first:
        raise DataError(f"{path}: truncated, {len(samples)} of {last - first} samples could be decoded")
    return samples


def mono(samples: np.ndarray, rate: int, name: str = "samples") -> np.ndarray:
    """The mean of channels at 16 kHz.

    Arguments
    ---------
    samples : np.ndarray
        Float, ``[samples, channels]``.
    rate : int
        Of the samples, in Hz.
    name : str
        What a message calls them.

    Returns
    -------
    np.ndarray
        Float32, ``[samples]``.

    Raises
    ------
    DataError
        Samples are not finite.
    """
    mixed = samples.mean(axis=1)
    if not np.isfinite(mixed).all():
        raise DataError(f"{name}: {np.count_nonzero(~np.isfinite(mixed))} of {len(mixed)} samples are not finite")
    return mixed if rate == SAMPLE_RATE else soxr.resample(mixed, rate, SAMPLE_RATE, quality="HQ")


def blocks(source: Source, rate: float | None, size: float, overlap: float) -> Iterator[np.ndarray]:
    """Audio of any kind in blocks, as `read_blocks` gives those of a file; samples are brought to 16 kHz at once.

    Arguments
    ---------
    source : Source
        A file, or samples: an array or a tensor, ``[samples]`` or ``[samples, channels]``, floats in [-1, 1] or
        16- or 32-bit integers.
    rate : float, optional
        Of samples, in Hz; a file says its own.
    size, overlap : float
        As of `read_blocks`, in seconds.

    Raises
    ------
    OptionError
        Samples without a rate or of another shape or type; a rate beside a file.
    DataError
        As `read`.
    """
    if _encoded(source):
        if rate is not None:
            raise OptionError(f"{name_of(source)} says its own rate: 'rate' is for samples")
        yield from read_blocks(source, size, overlap)  # type: ignore[arg-type]
        return
    samples = from_samples(source, rate)
    length, step = round(size * SAMPLE_RATE), round((size - overlap) * SAMPLE_RATE)
    for first in range(0, max(len(samples) - (length - step), 1), step):
        yield samples[first:first + length]


def from_samples(samples: Any, rate: float | None) -> np.ndarray:
    """An array or a tensor as float32 ``[samples]`` at 16 kHz; arguments and errors as of `blocks`.

    Example
    -------
    >>> from_samples(np.array([[16384, 0], [0, 0]], dtype=np.int16), rate=16000)
    array([0.25, 0.  ], dtype=float32)
    """
    if not isinstance(samples, np.ndarray) and not hasattr(samples, "detach"):
        raise OptionError(f"audio of type {type(samples).__name__}: expected a path, bytes, a file object, an array or "
                          "a tensor")
    if rate is None:
        raise OptionError("samples have no rate of their own: give rate=, in Hz")
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or not 0 < rate < float("inf"):
        raise OptionError(f"rate {rate!r}: it must be a number of Hz above 0")
    if hasattr(samples, "detach"):
        tensor = samples.detach().cpu()
        samples = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    array = samples
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] > max(array.shape[0], 1):
        raise OptionError(f"samples of shape {list(array.shape)}: expected [samples] or [samples, channels]; "
                          "several recordings are a list")
    if not array.size:
        raise EmptyAudioError("the audio holds no samples")
    if array.dtype in (np.int16, np.int32):
        array = array / np.float64(-int(np.iinfo(array.dtype).min))
    elif array.dtype.kind != "f":
        raise OptionError(f"samples of type {array.dtype}: expected floats in [-1, 1], or int16 or int32")
    return mono(array.astype(np.float32), rate)
