"""LibriSpeech: read English speech with transcripts, for the recogniser (Panayotov et al. 2015)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ser_plugins.contracts import Corpus, Utterance
from ser_plugins.corpora.faults import EXAMPLES, Faults
from ser_plugins.corpora.layout import audio_files, numbered_lines, require
from ser_plugins.errors import DataError

logger = logging.getLogger(__name__)

GENDERS: dict[str, Literal["female", "male"]] = {"F": "female", "M": "male"}


class LibriSpeech(Corpus):
    """Reads splits of LibriSpeech; files may be of any audio format.

    Arguments
    ---------
    splits : str | Sequence[str]
        Folders such as ``train-clean-100`` or ``test-clean``.

    Example
    -------
    >>> LibriSpeech(["dev-clean"]).splits
    ('dev-clean',)
    """

    language = "en"
    layout = "FOLDER/SPLIT/61/70968/61-70968-0000.flac beside 61-70968.trans.txt (any audio suffix)"
    labels: Mapping[str, str] = {}

    def __init__(self, splits: str | Sequence[str] = ("train-clean-5",)):
        self.splits = (splits,) if isinstance(splits, str) else tuple(splits)

    def read(self, folder: Path) -> list[Utterance]:
        """Lists the utterances of the splits.

        Raises
        ------
        DataError
            A split is missing or of another layout, or its files are faulty (all faults are named by file and line).
        """
        faults = Faults()
        genders = speaker_genders(folder / "SPEAKERS.TXT")
        utterances: list[Utterance] = []
        for split in self.splits:
            root = require(folder / split, folder, self.layout)
            transcripts = sorted(root.glob("*/*/*.trans.txt"))
            if not transcripts:
                raise DataError(f"{root} holds no transcripts: expected {self.layout}")
            for transcript in transcripts:
                utterances += _chapter(transcript, genders, faults)
        faults.raise_any(", ".join(str(folder / split) for split in self.splits))
        return utterances


def _chapter(transcript: Path, genders: Mapping[str, Literal["female", "male"]], faults: Faults) -> Iterator[Utterance]:
    audio = {path.stem: path for path in audio_files(transcript.parent)}
    lines = list(numbered_lines(transcript, faults))
    if not lines:
        faults.add("files without lines", str(transcript))
    for where, line in lines:
        name, *text = line.split(maxsplit=1)
        if not text:
            faults.add("empty transcripts", f"{where}: {name}")
        speaker = name.split("-")[0]
        # a missing file keeps its published name, so that the manifest reports all of them at once
        path = audio.get(name, transcript.parent / f"{name}.flac")
        yield Utterance(name, path, speaker, text="".join(text).strip(), gender=genders.get(speaker, ""))


def speaker_genders(path: Path) -> dict[str, Literal["female", "male"]]:
    """Speaker → gender from ``SPEAKERS.TXT``; without the file, and of lines that are malformed, it is unknown."""
    genders, malformed = {}, []
    for where, line in numbered_lines(path, Faults()) if path.is_file() else ():  # a name's letters matter to no one
        speaker, *fields = map(str.strip, line.split("|"))
        if line.startswith(";"):
            continue
        if not fields or fields[0] not in GENDERS:
            malformed.append(f"{where}, '{line.strip()[:60]}'")
        else:
            genders[speaker] = GENDERS[fields[0]]
    if malformed:
        logger.warning("expected 'speaker | F or M | …'; genders are unknown of %d lines: %s", len(malformed),
                       "; ".join(malformed[:EXAMPLES]))
    return genders
