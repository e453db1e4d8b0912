"""Times of words: paths that are written down, and forced alignment against all paths that there are."""

import itertools

import pytest
import torch

from ser_plugins import alignment
from ser_plugins.errors import DataError
from ser_plugins.recognition import Word

CHARACTERS = ["<blank>", "▁", "A", "B", "C"]
SUBWORDS = ["<blank>", "▁A", "B", "▁", "C▁B", "▁A▁B▁"]


def spelled(path):
    """CTC's map from paths to tokens (Graves et al. 2006): repetitions, then blanks, are removed."""
    return [token for token, _ in itertools.groupby(path) if token != 0]


@pytest.mark.parametrize(("path", "pieces", "wanted"), [
    ([], CHARACTERS, []),
    ([0, 0, 1, 1, 0], CHARACTERS, []),  # a space alone
    ([2, 2, 0, 3, 0, 1, 0, 4], CHARACTERS, [("AB", 0.0, 3.5), ("C", 6.5, 7.5)]),
    ([0, 2, 0, 2, 1, 1, 0, 1, 2, 0], CHARACTERS, [("AA", 0.5, 3.5), ("A", 7.5, 8.5)]),  # two spaces are one
    ([0, 1, 2, 0, 1], SUBWORDS, [("AB", 0.5, 2.5), ("A", 3.5, 4.5)]),
    ([1, 0, 3, 2, 0], SUBWORDS, [("A", 0.0, 0.5), ("B", 2.5, 3.5)]),
    ([1, 4, 2], SUBWORDS, [("AC", 0.0, 1.0), ("BB", 1.0, 2.5)]),  # a piece over two words
    ([0, 5, 5], SUBWORDS, [("A", 0.5, 1.5), ("B", 1.5, 2.5)]),
    ([5, 2], SUBWORDS, [("A", 0.0, 0.25), ("B", 0.25, 0.5), ("B", 0.5, 1.5)]),  # a piece that ends a word
])
def test_words_of_a_path(path, pieces, wanted):
    assert alignment.words(path, pieces, rate=1.0) == tuple(Word(*word) for word in wanted)


def test_times_are_those_of_the_steps_and_within_the_audio():
    found = alignment.words([0, 2, 0, 1, 3], CHARACTERS, rate=25.0, start=10.0, duration=10.165)
    assert found == (Word("A", 10.02, 10.06), Word("B", 10.14, 10.165))


def test_a_piece_of_two_words_is_divided_within_the_audio():
    assert alignment.words([0, 4], SUBWORDS, 1.0, duration=1.0) == (Word("C", 0.5, 0.75), Word("B", 0.75, 1.0))


@pytest.mark.parametrize("tokens", [[1], [2, 1], [1, 1], [1, 2, 2], [2, 1, 2]])
def test_a_forced_path_is_the_best_of_all_that_spell_the_tokens(tokens):
    log_probs = torch.randn(6, 3, generator=torch.Generator().manual_seed(len(tokens))).log_softmax(dim=1)
    every = [path for path in itertools.product(range(3), repeat=6) if spelled(path) == tokens]
    best = max(every, key=lambda path: sum(log_probs[step, token].item() for step, token in enumerate(path)))
    assert alignment.forced_path(log_probs, tokens) == list(best)


def test_a_text_without_tokens_is_silence():
    assert alignment.forced_path(torch.zeros(3, 2), []) == [0, 0, 0]


def test_tokens_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="2 tokens need 3 steps of the recogniser, and there are 2"):
        alignment.forced_path(torch.zeros(2, 3), [1, 1])
