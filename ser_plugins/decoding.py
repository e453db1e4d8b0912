"""CTC beam search, with an n-gram language model of words where one is given (Hannun et al. 2014).

    search = BeamSearch(encoder.tokenizer, beam_size=100, lm="words.arpa")
    search(encoder(waveforms, lengths).log_probs)      # a transcript per item

The search is SpeechBrain's `CTCBeamSearcher`: paths that give one text are summed, and the score of a text is
log p(text | audio) + lm_weight · log p(text) + word_bonus · words, without the end of the sentence; a word that
the model does not know has a ten-billionth of the probability that it gives to unknown words. Tokens of a
log-probability below -5, and texts that fall 10 behind the best, are given up. The model is KenLM's, read from ARPA's
text format, and its words are spelled with the tokenizer's letters.
"""

from __future__ import annotations

import importlib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from speechbrain.decoders.ctc import CTCBeamSearcher
from torch import Tensor

from ser_plugins.contracts import Encoder, Frames
from ser_plugins.errors import DataError, OptionError
from ser_plugins.text import BLANK, SPACE
from ser_plugins.values import Rules, numeric

LM_WEIGHT, WORD_BONUS = 0.5, 1.5  # SpeechBrain's
LONGEST = 60.0  # s that are searched at once: the memory of a search grows with the square of the text

Decode = Callable[[Frames], list[str]]


RULES: Rules = {
    "beam_size": (lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
                  "a whole number, 0 (greedy) or more"),
    "lm": (lambda value: value is None or isinstance(value, str | Path), "an ARPA file, or null"),
    "lm_weight": (lambda value: numeric(value) and value >= 0, "0 or more"),
    "word_bonus": (numeric, "a number"),
}


def check(beam_size: int, lm: str | Path | None, lm_weight: float, word_bonus: float) -> None:
    """Refuses what `decoder` cannot do; a language model is looked for, and not yet read.

    Raises
    ------
    OptionError
        A value is out of its range, a language model stands without a beam, or a package that it needs is missing.
    DataError
        There is no such file.
    """
    values = {"beam_size": beam_size, "lm": lm, "lm_weight": lm_weight, "word_bonus": word_bonus}
    for name, (holds, expected) in RULES.items():
        if not holds(values[name]):
            raise OptionError(f"{name} {values[name]}: it must be {expected}")
    if lm is None:
        return
    if not beam_size:
        raise OptionError(f"lm {lm}: greedy decoding takes no language model; give a beam_size, as 20")
    if not Path(lm).is_file():
        raise DataError(f"{lm}: no such language model")
    _kenlm()


def decoder(encoder: Encoder, beam_size: int = 0, lm: str | Path | None = None, lm_weight: float = LM_WEIGHT,
            word_bonus: float = WORD_BONUS) -> Decode:
    """An encoder's greedy decoding, or beam search over its log-probabilities.

    Arguments
    ---------
    encoder : Encoder
        Beam search needs its ``tokenizer``, a SentencePiece model whose piece 0 is the blank.
    beam_size : int
        0 is greedy decoding.
    lm, lm_weight, word_bonus
        As of `BeamSearch`.

    Returns
    -------
    Callable[[Frames], list[str]]

    Raises
    ------
    OptionError, DataError
        As `check` or `BeamSearch`; or the encoder has no tokenizer.
    """
    if not beam_size:
        check(beam_size, lm, lm_weight, word_bonus)
        return encoder.decode
    tokenizer = getattr(encoder, "tokenizer", None)
    if not isinstance(tokenizer, sentencepiece.SentencePieceProcessor):
        raise OptionError(f"beam_size {beam_size}: {type(encoder).__name__} has no SentencePiece tokenizer, which beam "
                          "search needs; beam_size 0 is its own decoding")
    return BeamSearch(tokenizer, beam_size, lm, lm_weight, word_bonus)


class BeamSearch:
    """Transcripts by beam search.

    Arguments
    ---------
    tokenizer : sentencepiece.SentencePieceProcessor
        Characters or subwords; piece 0 is the blank.
    beam_size : int
        Texts that are followed at once, 1 or more.
    lm : str | Path, optional
        A word n-gram in ARPA's text format.
    lm_weight : float
        Weight of its log-probability, 0 or more.
    word_bonus : float
        What a word adds to the score, against the language model's liking for few words; without one it is unused.

    Raises
    ------
    OptionError
        A value is out of its range, or ``kenlm`` or ``pygtrie`` is not installed.
    DataError
        The language model is missing, corrupt, or has no word that the tokenizer can spell.

    Example
    -------
    >>> from ser_plugins.text import character_tokenizer
    >>> tokenizer = sentencepiece.SentencePieceProcessor(model_proto=character_tokenizer())
    >>> path = torch.tensor([0] + tokenizer.encode("A TONE") + [0])
    >>> log_probs = torch.nn.functional.one_hot(path, 29).float().log()
    >>> BeamSearch(tokenizer, beam_size=10)(Frames.from_list([log_probs], 25.0))
    ['A TONE']
    """

    def __init__(self, tokenizer: sentencepiece.SentencePieceProcessor, beam_size: int = 100,
                 lm: str | Path | None = None, lm_weight: float = LM_WEIGHT, word_bonus: float = WORD_BONUS) -> None:
        check(beam_size, lm, lm_weight, word_bonus)
        if not beam_size:
            raise OptionError("beam_size 0: a beam search follows 1 text or more")
        pieces = [tokenizer.id_to_piece(number) for number in range(tokenizer.vocab_size())]
        # what differs in its early words alone is not pruned: a text's sum lies in two states, with and without a blank
        self.searcher = CTCBeamSearcher(BLANK, pieces, beam_size=beam_size, prune_history=False)
        if lm is not None:
            self.searcher.lm = _language_model(Path(lm), set("".join(pieces[1:])), lm_weight, word_bonus)
        self.silent = torch.tensor([number == BLANK or piece == SPACE for number, piece in enumerate(pieces)])
        self.begins_word = torch.tensor([piece.startswith(SPACE) for piece in pieces])

    def __call__(self, log_probs: Frames) -> list[str]:
        """The best transcript of each item of CTC log-probabilities ``[batch, time, pieces]``."""
        found = [[text for _, text in self.search(item, log_probs.rate)] for item in log_probs.unpad()]
        return [" ".join(filter(None, texts)) for texts in found]

    def search(self, item: Tensor, rate: float) -> Iterator[tuple[Tensor, str]]:
        """The parts of an item ``[time, pieces]`` that are searched one after another, each with its best text."""
        for part in self._parts(item.cpu().double(), int(LONGEST * rate)):
            yield part, self.searcher.decode_log_probs(part.numpy(), len(part))[0].text

    def _parts(self, item: Tensor, limit: int) -> Iterator[Tensor]:
        """Log-probabilities ``[time, pieces]`` in parts of at most ``limit`` steps, divided between words."""
        while len(item) > limit:
            at = limit // 2 + self._between_words(item[limit // 2:limit])
            yield item[:at]
            item = item[at:]
        yield item

    def _between_words(self, item: Tensor) -> int:
        """The step in the middle of the longest pause between words; without one, that where a word most likely begins.

        Blanks alone are no such pause: they stand within words, too.
        """
        best = item.argmax(dim=1)
        begins = self.begins_word[best]
        begins[0], begins[1:] = False, begins[1:] & (best[1:] != best[:-1])
        if not begins.any():
            return int(item[:, self.begins_word].logsumexp(dim=1).argmax())
        spoken = [-1, *(~self.silent[best]).nonzero().flatten().tolist(), len(item)]
        pauses = []
        for step in begins.nonzero().flatten().tolist():
            end = bisect_left(spoken, step)
            pauses.append((spoken[end] - spoken[end - 1], (spoken[end] + spoken[end - 1] + 1) // 2))
        return max(pauses)[1]


def _language_model(path: Path, letters: set[str], weight: float, bonus: float) -> Any:
    """SpeechBrain's scorer of the words of an ARPA file."""
    kenlm, scorer = _kenlm()
    words = arpa_words(path)
    if not any(set(word) <= letters for word in words):
        raise DataError(f"{path}: none of its {len(words)} words, such as '{min(words)}', is spelled with the letters "
                        f"of the encoder, {''.join(sorted(letters - {SPACE}))}")
    config = kenlm.Config()
    config.show_progress, config.arpa_complain = False, kenlm.ARPALoadComplain.NONE
    try:
        model = kenlm.Model(str(path), config)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path} is corrupt: {error}") from error
    return scorer.KenlmScorer(model, words, weight, bonus)


def _kenlm() -> tuple[Any, Any]:
    """KenLM, and SpeechBrain's scorer over it, which needs pygtrie."""
    try:
        return importlib.import_module("kenlm"), importlib.import_module(
            "speechbrain.integrations.decoders.kenlm_scorer")
    except ImportError as error:
        raise OptionError(f"a language model needs kenlm and pygtrie ({error}): pip install 'ser_plugins[lm]', which "
                          "compiles KenLM with a C++ compiler and cmake") from error


def arpa_words(path: str | Path) -> set[str]:
    """The words of a language model, from the 1-grams of its ARPA file.

    SpeechBrain's reader would leave out those without a back-off weight.

    Raises
    ------
    DataError
        The file is missing, no ARPA text (a KenLM binary does not list its words), or has no words.
    """
    section, words = "", set()
    try:
        with open(path, encoding="utf-8") as file:
            for line in map(str.strip, file):
                if line.startswith("\\"):
                    if section == "\\1-grams:":
                        break
                    section = line
                elif line and section == "\\1-grams:":
                    words.add(line.split()[1])
    except OSError as error:
        raise DataError(f"{path}: no language model that can be read ({error.strerror})") from error
    except (UnicodeDecodeError, IndexError) as error:
        raise DataError(f"{path}: no ARPA text; a binary or packed language model is not read") from error
    words -= {"<s>", "</s>", "<unk>"}
    if not words:
        raise DataError(f"{path}: no ARPA text with words in a section \\1-grams:")
    return words
