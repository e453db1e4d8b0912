"""When words are spoken, from CTC log-probabilities (Graves et al. 2006).

A step stands for the time around its centre: step k of ``rate`` steps per second from (k − ½) / rate to (k + ½) / rate
seconds, as `spectrogram` centres its frames. A word lasts from the first step of its first token to the last step of
its last one. CTC learns where tokens are, and not how long they sound: it may give a token a single step, so that
a word's end tends to come early.

Tokens are pieces in SentencePiece's notation, the blank first; ``▁`` stands for a space.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor
from torchaudio.functional import forced_align

from ser_plugins.errors import DataError
from ser_plugins.recognition import Word
from ser_plugins.text import BLANK, SPACE


def best_path(log_probs: Tensor) -> list[int]:
    """The most probable token of each step of ``[time, tokens]``, which greedy decoding reads."""
    return log_probs.argmax(dim=1).tolist()


def needed(tokens: Sequence[int]) -> int:
    """Steps that tokens need: one each, and a blank between two that are alike.

    Example
    -------
    >>> needed([2, 1, 1])
    4
    """
    return len(tokens) + sum(first == second for first, second in pairwise(tokens))


def forced_path(log_probs: Tensor, tokens: Sequence[int]) -> list[int]:
    """The most probable path that spells tokens (Viterbi), by torchaudio's `forced_align`.

    Arguments
    ---------
    log_probs : Tensor
        ``[time, tokens]``, the blank first.
    tokens : Sequence[int]
        What is spelled, without blanks.

    Returns
    -------
    list[int]
        The token of each step.

    Raises
    ------
    DataError
        There are fewer steps than `needed`.

    Example
    -------
    >>> forced_path(torch.tensor([[0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.3, 0.2, 0.5]]).log(), [1, 2])
    [1, 0, 2]
    """
    steps = needed(tokens)
    if steps > len(log_probs):
        raise DataError(f"{len(tokens)} tokens need {steps} steps of the recogniser, and there are {len(log_probs)}")
    if not tokens:
        return [BLANK] * len(log_probs)
    path, _ = forced_align(log_probs.float().cpu().unsqueeze(0).contiguous(),
                           torch.tensor([list(tokens)], dtype=torch.int32), blank=BLANK)
    return path[0].tolist()


def words(path: Sequence[int], pieces: Sequence[str], rate: float, start: float = 0.0,
          duration: float = float("inf")) -> tuple[Word, ...]:
    """Words of a path, with their times.

    Arguments
    ---------
    path : Sequence[int]
        The token of each step.
    pieces : Sequence[str]
        What each token spells.
    rate : float
        Steps per second.
    start : float
        Time of the centre of the path's first step, in seconds.
    duration : float
        Seconds that no time exceeds.

    Returns
    -------
    tuple[Word, ...]
        In order; no two overlap. Words that one piece has parts of divide its time evenly. A word that the recogniser
        puts beyond the end has no length.

    Example
    -------
    >>> words([0, 1, 1, 0, 3, 2, 2, 0], ["", "A", "N", "▁"], rate=10.0)
    (Word(text='A', start=0.05, end=0.25), Word(text='N', start=0.45, end=0.65))
    """
    def at(step: float) -> float:
        return min(max(start + step / rate, 0.0), duration)

    spoken: list[list[Any]] = []  # text, start, end
    within = False
    for piece, first, last in _runs(path, pieces):
        parts = piece.split(SPACE)  # of one word each
        begin = at(first - 0.5)
        share = (at(last + 0.5) - begin) / max(sum(map(bool, parts)), 1)
        for number, part in enumerate(parts):
            within = within and not number
            if not part:
                continue
            end = begin + share
            if within:
                spoken[-1][0], spoken[-1][2] = spoken[-1][0] + part, end
            else:
                spoken.append([part, begin, end])
            within, begin = True, end
    return tuple(Word(text, round(begin, 6), round(end, 6)) for text, begin, end in spoken)


def _runs(path: Sequence[int], pieces: Sequence[str]) -> Iterable[tuple[str, int, int]]:
    """What each token on a path spells, its first and its last step; blanks are left out."""
    step = 0
    for token, run in groupby(path):
        length = len(list(run))
        if token != BLANK:
            yield pieces[token], step, step + length - 1
        step += length
