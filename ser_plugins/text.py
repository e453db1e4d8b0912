"""The recogniser's alphabet, and transcripts brought to it."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from ser_plugins.errors import OptionError

ALPHABET = "'ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # and the space: with the blank 29 outputs (Lakomkin et al. 2017, §3.1.1)
BLANK = 0  # the tokenizers' first piece
SPACE = "▁"  # SentencePiece's

FOREIGN = re.compile(f"[^{ALPHABET}]")


def character_tokenizer() -> bytes:
    """A SentencePiece model of single characters; piece 0, its unknown piece, is the CTC blank."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"{ALPHABET} {ALPHABET}"]), model_writer=model, model_type="char",
        vocab_size=len(ALPHABET) + 2, character_coverage=1.0, unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1,
        normalization_rule_name="identity", add_dummy_prefix=False, minloglevel=2)
    return model.getvalue()


def subword_tokenizer(texts: Iterable[str], kind: str, vocabulary: int) -> bytes:
    """A SentencePiece model of subwords, trained on normalised texts; piece 0 is the CTC blank.

    Arguments
    ---------
    texts : Iterable[str]
        Of `normalize_text`.
    kind : str
        ``"unigram"`` or ``"bpe"``.
    vocabulary : int
        Pieces, the blank among them.

    Raises
    ------
    OptionError
        The texts allow no such vocabulary; SentencePiece's reason is given.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, model_type=kind, vocab_size=vocabulary,
            character_coverage=1.0, unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1, normalization_rule_name="identity",
            add_dummy_prefix=True, minloglevel=2)
    except RuntimeError as error:
        raise OptionError(f"no {kind} model of {vocabulary} pieces: {error}") from error
    return model.getvalue()


def read_tokenizer(path: str | Path) -> bytes:
    """The SentencePiece model in a file."""
    return Path(path).read_bytes()


def normalize_text(text: str) -> str:
    """Upper case, nothing but the letters of English, apostrophes and single spaces; accents are taken off.

    Example
    -------
    >>> normalize_text("It’s a  well-known café.")
    "IT'S A WELL KNOWN CAFE"
    """
    return " ".join(FOREIGN.sub(" ", _plain(text)).split())


def foreign_characters(text: str) -> list[str]:
    """What `normalize_text` takes for a space, though it is none.

    Example
    -------
    >>> foreign_characters("It’s a  well-known café.")
    ['-', '.']
    """
    return [character for character in FOREIGN.findall(_plain(text)) if not character.isspace()]


def _plain(text: str) -> str:
    """Upper case without accents."""
    text = text.replace("’", "'").upper()
    if text.isascii():
        return text
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
