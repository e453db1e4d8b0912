"""An answer of the demo as HTML: words with their emotions, probabilities, the track over time, spectrogram, downloads.

It needs no other file: recording, picture and downloads are data addresses. Plots stretch with the page and texts do
not, so that both are read on a telephone. An emotion's colour (Okabe and Ito 2008) never stands without its name.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any

import jinja2
import matplotlib
import numpy as np
import soundfile
from numpy.lib.stride_tricks import sliding_window_view

from ser_plugins import figures
from ser_plugins.audio import SAMPLE_RATE
from ser_plugins.recognition import Recognition, most_probable

COLOURS = (figures.BLUE, figures.VERMILION, figures.GREEN, figures.PURPLE, figures.ORANGE, figures.SKY)
WINDOW = 400  # 25 ms
HOP = 160  # 10 ms, at least
COLUMNS = 1200  # of a spectrogram, at most
RANGE = 70.0  # dB below its loudest that a spectrogram shows
TICKS = 8  # of the time axis, at most


def render(name: str, samples: np.ndarray, heard: Recognition) -> str:
    """The answer to one recording.

    Arguments
    ---------
    name : str
        What the user calls the recording.
    samples : np.ndarray
        ``[samples]``, 16 kHz, within ±1.
    heard : Recognition
        With words and track, as far as there are some.

    Returns
    -------
    str
        HTML in which all texts are escaped.
    """
    duration = len(samples) / SAMPLE_RATE
    stem = PurePath(name).stem or "recording"
    values: dict[str, Any] = {
        "name": name, "duration": duration, "audio": _address("audio/wav", _wav(samples)),
        "picture": _address("image/png", spectrogram(samples)), "ticks": ticks(duration),
    }
    colours = {label: COLOURS[number % len(COLOURS)] for number, label in enumerate(heard.probabilities)}
    return _template("demo.html").render(
        values, heard=heard, text=heard.text, colours=colours, runs=list(runs(heard)), files=_files(stem, heard),
        lanes={label: _area(label, heard) for label in colours} if heard.track else {},
        stretches=heard.emotions() if heard.track else [])


def alert(message: str) -> str:
    """What went wrong, in place of an answer."""
    return _template("demo_error.html").render(message=message)


def emotion_at(heard: Recognition, start: float, end: float) -> dict[str, float]:
    """Probabilities during a time: the mean of the track's segments by what they have in common with it.

    Without a track, or beyond its ends, they are the whole recording's.
    """
    shares = [(max(0.0, min(end, one.end) - max(start, one.start)), one.probabilities) for one in heard.track]
    total = sum(share for share, _ in shares)
    if not total > 0:
        return heard.probabilities
    return {label: sum(share * probabilities[label] for share, probabilities in shares) / total
            for label in heard.probabilities}


def runs(heard: Recognition) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Words that follow each other and have the same most probable emotion: its label, and the words.

    Words without times are one run of the whole recording's emotion.
    """
    if not heard.words and heard.text:
        whole = {"start": 0.0, "end": heard.duration, "p": heard.probabilities[heard.label]}
        yield heard.label, [{"text": text, **whole} for text in heard.text.split()]
    judged = []
    for word in heard.words:
        shares = emotion_at(heard, word.start, word.end)
        label = most_probable(shares)
        judged.append((label, {"text": word.text, "start": word.start, "end": word.end, "p": shares[label]}))
    for label, run in groupby(judged, key=lambda pair: pair[0]):
        yield label, [word for _, word in run]


def ticks(duration: float) -> list[tuple[float, str]]:
    """Positions, as shares of the duration, and texts of the time axis.

    Example
    -------
    >>> [text for _, text in ticks(3.1)]
    ['0', '0.5', '1', '1.5', '2', '2.5', '3']
    """
    raw = duration / (TICKS - 1)
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(scale * factor for factor in (1, 2, 5, 10) if scale * factor >= raw)
    count = int(duration / step + 1e-9) + 1
    return [(min(1.0, number * step / duration), f"{number * step:g}") for number in range(count)]


def spectrogram(samples: np.ndarray) -> bytes:
    """Levels up to 8 kHz as a PNG, 25 ms windows in decibels; a pixel is a window and 31 Hz."""
    padded = np.pad(samples, (0, max(0, WINDOW - len(samples))))
    windows = sliding_window_view(padded, WINDOW)[::max(HOP, math.ceil(len(padded) / COLUMNS))]
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW), 512)) ** 2  # [windows, frequencies]
    level = 10 * np.log10(power.T + 1e-10)
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, level, cmap="cividis", vmin=level.max() - RANGE, vmax=level.max(), origin="lower",
                            format="png")
    return buffer.getvalue()


def _area(label: str, heard: Recognition) -> str:
    """The SVG path under a label's probability, 0 at the bottom of a plot of height 1, over seconds."""
    steps = [f"L{one.start:.3f},{1 - one.probabilities[label]:.4f}L{one.end:.3f},{1 - one.probabilities[label]:.4f}"
             for one in heard.track]
    return f"M{heard.track[0].start:.3f},1{''.join(steps)}L{heard.track[-1].end:.3f},1Z"


def _files(stem: str, heard: Recognition) -> dict[str, str]:
    """Name of a download → its address."""
    return {
        f"{stem}.json": _text(heard.to_json(), "application/json"),
        f"{stem}.csv": _text(heard.to_dataframe().to_csv(index=False), "text/csv"),
        f"{stem}.TextGrid": _text(heard.to_textgrid()),
        f"{stem}.srt": _text(heard.to_srt()),
    }


def _text(content: str, kind: str = "text/plain") -> str:
    return _address(f"{kind};charset=utf-8", content.encode())


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _wav(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, subtype="PCM_16", format="WAV")
    return buffer.getvalue()


@cache
def _template(name: str) -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("assets"))
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)
