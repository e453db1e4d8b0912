"""What train_asr.py trains on: corpora joined, utterances that CTC can align, their tokens, and batches of them."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from speechbrain.utils.distributed import run_on_main
from torch.utils.data import Dataset

from ser_plugins import audio, augment, registry
from ser_plugins.contracts import SAMPLE_RATE, fingerprint
from ser_plugins.corpora import manifest
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.errors import DataError, OptionError
from ser_plugins.files import write_atomically
from ser_plugins.text import BLANK, character_tokenizer, foreign_characters, normalize_text, subword_tokenizer

logger = logging.getLogger(__name__)

Utterance = tuple[str, torch.Tensor, torch.Tensor, str, float]


class ASRDataset(Dataset):
    """Waveform, token numbers, transcript and weight of each utterance; training disturbs tempo, speed and gain.

    The weight is 1; that of ``~index``, a copy (`batches.Shares`), is 0.
    """

    def __init__(self, rows: Sequence[manifest.Row], tokenizer: sentencepiece.SentencePieceProcessor,
                 tempo: Sequence[float] | None = None, speeds: Sequence[float] | None = None,
                 gain: Sequence[float] | None = None, seed: int = 0) -> None:
        self.rows, self.tokenizer, self.seed = rows, tokenizer, seed
        self.tempo, self.speeds, self.gain = tempo, speeds, gain
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Utterance:
        row = self.rows[max(index, ~index)]
        samples = audio.read(row.path, row.start, row.end)
        draw = random.Random(f"{self.seed} {self.epoch} {row.id}")
        if self.tempo:
            samples = augment.change_tempo(samples, draw.uniform(*self.tempo))
        if self.speeds:
            samples = augment.change_speed(samples, draw.choice(self.speeds))
        if self.gain:
            samples = augment.change_gain(samples, draw.uniform(*self.gain))
        text = normalize_text(row.text)
        tokens = torch.tensor(targets(self.tokenizer, text), dtype=torch.int64)
        return row.id, torch.from_numpy(samples), tokens, text, float(index >= 0)

    @staticmethod
    def collate(items: list[Utterance]) -> dict[str, Any]:
        """Pads a batch: ids, waveforms ``[batch, samples]``, tokens ``[batch, tokens]``, lengths, texts, weights."""
        ids, waveforms, tokens, texts, weights = zip(*items, strict=True)
        return {
            "ids": ids, "texts": texts, "weights": torch.tensor(weights),
            "waveforms": torch.nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True),
            "lengths": torch.tensor([len(waveform) for waveform in waveforms]),
            "tokens": torch.nn.utils.rnn.pad_sequence(list(tokens), batch_first=True),
            "token_lengths": torch.tensor([len(item) for item in tokens]),
        }


def targets(tokenizer: sentencepiece.SentencePieceProcessor, text: str) -> list[int]:
    """Numbers of a text's tokens without the unknown one, whose number is the blank's: CTC has no such target."""
    return [token for token in tokenizer.encode(text) if token != BLANK]


def check_corpora(corpora: Sequence[Any], default: str | None) -> None:
    """Refuses a list of corpora whose readers or keys do not exist, or that lacks a folder."""
    if not corpora:
        raise OptionError("--train_data and --test_data must name one corpus or more")
    for one in corpora:
        if not isinstance(one, Mapping) or not {"corpus"} <= one.keys() <= {"corpus", "folder", "options"}:
            raise OptionError(f"a corpus is {{corpus: NAME, folder: FOLDER, options: {{…}}}}, not {one}")
        registry.find("corpora", str(one["corpus"]))
        if one.get("folder", default) is None:
            raise OptionError(f"where is corpus '{one['corpus']}'? give --data_folder FOLDER")


def joined(corpora: Sequence[Mapping[str, Any]], default: str | None, folder: Path) -> list[list[manifest.Row]]:
    """Rows of each corpus, each with a manifest of its own; of several, ids and speakers are named by their corpus."""
    parts = []
    for number, one in enumerate(corpora, start=1):
        out = folder / f"{number}-{one['corpus']}"
        run_on_main(manifest.prepare, args=(one["corpus"], one.get("folder", default), out, one.get("options")))
        found = manifest.load(out / "manifest.csv")
        if len(corpora) > 1:
            found = [replace(row, id=f"{out.name}/{row.id}", speaker=f"{out.name}/{row.speaker}") for row in found]
        parts.append(found)
    return parts


def data_fingerprint(rows: Sequence[manifest.Row]) -> str:
    """Hash of all that decides a training's numbers in its rows; their order does not."""
    return fingerprint({"rows": sorted([row.id, row.start, row.end, row.speaker, row.text] for row in rows)}, {})


def speaker_split(rows: Sequence[manifest.Row], held_out: int) -> tuple[list[manifest.Row], list[manifest.Row]]:
    """Training rows, and the rows of the ``held_out`` last speakers in the order of their names."""
    speakers = sorted({row.speaker for row in rows})
    if not 0 < held_out < len(speakers):
        raise DataError(f"{held_out} of {len(speakers)} speakers cannot be held out for validation")
    valid = set(speakers[-held_out:])
    return [row for row in rows if row.speaker not in valid], [row for row in rows if row.speaker in valid]


def usable(rows: Sequence[manifest.Row], encoder: DeepSpeech2, max_duration: float,
           fastest: float = 1.0) -> list[manifest.Row]:
    """The rows of at most ``max_duration`` seconds with a transcript that CTC can align at ``fastest`` times the speed.

    What is left out is counted in the log, and so are the characters that are no letters.
    """
    assert encoder.tokenizer is not None
    kept, left_out, foreign = [], Counter[str](), Counter[str]()
    all_steps = encoder.steps(torch.tensor([int(row.duration * SAMPLE_RATE / fastest) for row in rows])).tolist()
    for row, steps in zip(rows, all_steps, strict=True):
        tokens = encoder.tokenizer.encode(normalize_text(row.text))
        repeats = sum(first == second for first, second in pairwise(tokens))
        foreign.update(foreign_characters(row.text))
        if row.duration > max_duration:
            left_out[f"over {max_duration:g} s"] += 1
        elif not tokens:
            left_out["without letters"] += 1
        elif BLANK in tokens:
            left_out["with letters that the tokenizer lacks"] += 1
        elif steps < len(tokens) + repeats:
            left_out["with more text than CTC can align"] += 1
        else:
            kept.append(row)
    reasons = "".join(f", {number} {reason}" for reason, number in left_out.most_common())
    taken = " ".join(f"{character} ({number})" for character, number in foreign.most_common(20))
    logger.info("%d of %d utterances are used%s%s", len(kept), len(rows), f"; left out{reasons[1:]}" if reasons else "",
                f"; taken for spaces: {taken}" if taken else "")
    if not kept:
        raise DataError(f"none of {len(rows)} utterances has a transcript that fits {max_duration} s{reasons}")
    return kept


def report_unknown(rows: Sequence[manifest.Row], tokenizer: sentencepiece.SentencePieceProcessor) -> None:
    """Warns of test utterances with letters that the tokenizer lacks; they are tested all the same."""
    texts = [normalize_text(row.text) for row in rows]
    unknown = sum(BLANK in tokenizer.encode(text) for text in texts)
    if unknown:
        letters = sorted({letter for letter in "".join(texts) if BLANK in tokenizer.encode(letter)})
        logger.warning("%d of %d test utterances have letters that the tokenizer lacks (%s): each counts as an error, "
                       "and the loss leaves it out", unknown, len(rows), " ".join(letters))


def write_tokenizer(folder: Path, values: Mapping[str, Any], rows: Sequence[manifest.Row]) -> None:
    """Writes the tokenizer that the encoder is built with, and the texts that a language model may be built of.

    A pretrained encoder keeps its own: the rows of its last layer stand for its tokens.
    """
    texts = [normalize_text(row.text) for row in rows]
    if values["pretrained_encoder"] is not None:
        model = (Path(values["pretrained_encoder"]) / "tokenizer.model").read_bytes()
    elif values["tokens"] == "characters":
        model = character_tokenizer()
    else:
        model = subword_tokenizer(texts, values["tokens"], values["vocabulary"])
    write_atomically(folder / "text.txt", lambda file: file.writelines(f"{text}\n" for text in texts))
    write_atomically(folder / "tokenizer.model", lambda file: file.write(model), binary=True)
