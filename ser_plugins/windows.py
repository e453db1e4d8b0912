"""Audio of any length: the pieces that an encoder hears at once, and the windows in which an emotion is judged.

A piece shares 2 × ``context`` seconds with the next one, and each gives the steps on its side of the middle, so that
all but the ends of the audio are heard with ``context`` seconds on either side. What an encoder or a feature extractor
computes over a whole utterance, as means for normalisation, it computes over each piece.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ser_plugins.audio import SAMPLE_RATE, Source, blocks
from ser_plugins.contracts import Encoding, Frames
from ser_plugins.errors import OptionError
from ser_plugins.values import numeric

CHUNK = 30.0  # s that an encoder hears at once of a longer file
CONTEXT = 3.0  # s of them at either end that are only heard
STEP = 0.5  # s between two windows, where nobody says another
SHORTEST_STEP = 0.01  # s between two windows

ROUNDING = 1e-6  # of a frame

Span = tuple[float, float]  # start and end, s


@dataclass(frozen=True)
class Piece:
    """What is heard at once.

    Arguments
    ---------
    samples : Tensor
        ``[1, samples]`` at 16 kHz.
    begin : int
        The step of the audio that is the piece's first.
    own : slice
        Which of the piece's steps it gives.
    rate : float
        Steps per second.
    """

    samples: Tensor
    begin: int
    own: slice
    rate: float

    @property
    def last(self) -> bool:
        """Whether the audio ends with it."""
        return self.own.stop is None

    @property
    def offset(self) -> float:
        """Seconds of the audio before it."""
        return self.begin / self.rate

    @property
    def end(self) -> float:
        """Where in the audio it ends, in seconds."""
        return self.offset + self.samples.shape[1] / SAMPLE_RATE

    @property
    def span(self) -> Span:
        """What it gives, in seconds of the audio."""
        return (self.begin + self.own.start) / self.rate, (
            self.end if self.last else (self.begin + self.own.stop) / self.rate)


def pieces(audio: Source, sample_rate: float | None, rate: float, chunk: float, context: float = CONTEXT
           ) -> Iterator[Piece]:
    """Cuts audio into pieces; audio of at most ``chunk`` seconds is one.

    Arguments
    ---------
    audio, sample_rate
        As of `ser_plugins.audio.blocks`.
    rate : float
        Steps of the encoder per second; pieces begin on them.
    chunk, context : float
        Seconds of a piece, and those of them at either end that are only heard where another piece has them, too.

    Raises
    ------
    OptionError
        The chunk leaves nothing between its contexts.
    DataError
        The audio cannot be read.
    """
    edge, whole = math.ceil(context * rate - ROUNDING), int(chunk * rate)  # no less context than was asked for
    if whole <= 2 * edge:
        raise OptionError(f"chunk {chunk} s: it must be above {2 * context:g} s, of which {context:g} s at either end "
                          "are context")
    parts = blocks(audio, sample_rate, whole / rate, 2 * edge / rate)
    part, begin = next(parts, None), 0
    while part is not None:
        following = next(parts, None)
        own = slice(edge if begin else 0, None if following is None else whole - edge)
        yield Piece(torch.from_numpy(part).unsqueeze(0), begin, own, rate)
        part, begin = following, begin + whole - 2 * edge


def check(window: float, step: float) -> None:
    """Refuses windows of no length, and steps that leave some of the audio unheard.

    Raises
    ------
    OptionError
    """
    if not numeric(window) or window <= 0:
        raise OptionError(f"window {window!r}: it must be a number of seconds above 0")
    if not numeric(step) or not SHORTEST_STEP <= step <= window:
        raise OptionError(f"step {step!r}: it must be a number of seconds, from {SHORTEST_STEP:g} to the window's "
                          f"{window:g}")


def context_of(window: float, step: float) -> float:
    """Seconds that pieces need at either end, so that none but the last gives the last segment."""
    return max(CONTEXT, window / 2, step)


def segments(piece: Piece, window: float, step: float, done: int) -> list[tuple[Span, Span]]:
    """The segments of the audio whose middle a piece gives, and the window that each is judged by.

    Arguments
    ---------
    piece : Piece
        Its context is at least half a window, and a step.
    window, step : float
        Seconds.
    done : int
        Segments that earlier pieces gave.

    Returns
    -------
    list[tuple[Span, Span]]
        Segments in seconds of the audio: each is a step long, but the last one, which reaches the end, half a step to
        one and a half. Windows in seconds of the *piece*, about the middle of their segment; at the audio's ends the
        nearest whole window, and all of an audio that is shorter.
    """
    end = piece.span[1]
    total = max(round(end / step), 1) if piece.last else int(end / step + 0.5)
    found = []
    for number in range(done, total):
        middle = (number + 0.5) * step
        first = max(min(middle - window / 2, piece.end - window), 0.0) if piece.last else max(middle - window / 2, 0.0)
        stop = end if piece.last and number == total - 1 else (number + 1) * step
        found.append(((number * step, stop),
                      (first - piece.offset, min(first + window, piece.end) - piece.offset)))
    return found


def cut(frames: Frames, spans: Sequence[Span]) -> Frames:
    """The frames of stretches of one utterance, as a batch.

    Arguments
    ---------
    frames : Frames
        ``[1, time, dim]``; frame k is centred on k / rate seconds.
    spans : Sequence[Span]
        In seconds; each gives the frames whose centre lies in it, both ends included, or the next one after its start.

    Returns
    -------
    Frames
        ``[spans, time, dim]``.

    Example
    -------
    >>> frames = Frames(torch.arange(5.0).view(1, 5, 1), torch.tensor([5]), rate=10.0)
    >>> cut(frames, [(0.0, 0.2), (0.2, 0.5)]).unpad()
    [tensor([[0.],
            [1.],
            [2.]]), tensor([[2.],
            [3.],
            [4.]])]
    """
    length = int(frames.lengths[0])
    starts = [min(max(math.ceil(start * frames.rate - ROUNDING), 0), length - 1) for start, _ in spans]
    ends = [max(int(end * frames.rate + ROUNDING), start) + 1 for start, (_, end) in zip(starts, spans, strict=True)]
    parts = [frames.data[0, start:min(end, length)] for start, end in zip(starts, ends, strict=True)]
    return Frames.from_list(parts, frames.rate).to(frames.data.device)


def cut_encoding(encoding: Encoding, layers: Sequence[int], spans: Sequence[Span]) -> Encoding:
    """`cut` for the layers that are named, and for the log-probabilities; the other layers stay as they are."""
    chosen = (cut(frames, spans) if number in layers else frames for number, frames in enumerate(encoding.layers, 1))
    return Encoding(tuple(chosen), None if encoding.ctc is None else cut(encoding.ctc, spans))
