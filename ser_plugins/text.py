"""The recogniser's alphabet, and transcripts brought to it."""

from __future__ import annotations

import io
import unicodedata

import sentencepiece

ALPHABET = "'ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # and the space: with the blank 29 outputs (Lakomkin et al. 2017, §3.1.1)


def character_tokenizer() -> bytes:
    """A SentencePiece model of single characters; piece 0, its unknown piece, is the CTC blank."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"{ALPHABET} {ALPHABET}"]), model_writer=model, model_type="char",
        vocab_size=len(ALPHABET) + 2, character_coverage=1.0, unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1,
        normalization_rule_name="identity", add_dummy_prefix=False, minloglevel=2)
    return model.getvalue()


def normalize_text(text: str) -> str:
    """Upper case, nothing but the letters of English, apostrophes and single spaces; accents are taken off.

    Example
    -------
    >>> normalize_text("It’s a  well-known café.")
    "IT'S A WELL KNOWN CAFE"
    """
    plain = unicodedata.normalize("NFKD", text.replace("’", "'").upper())
    letters = (letter if letter in ALPHABET else " " for letter in plain if not unicodedata.combining(letter))
    return " ".join("".join(letters).split())
