"""LibriSpeech: read English speech with transcripts, for the recogniser (Panayotov et al. 2015)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ser_plugins.contracts import Corpus, Utterance
from ser_plugins.corpora.layout import audio_files, require
from ser_plugins.errors import DataError

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

    layout = "FOLDER/SPLIT/61/70968/61-70968-0000.flac beside 61-70968.trans.txt (any audio suffix)"
    labels: Mapping[str, str] = {}

    def __init__(self, splits: str | Sequence[str] = ("train-clean-5",)):
        self.splits = (splits,) if isinstance(splits, str) else tuple(splits)

    def read(self, folder: Path) -> Iterator[Utterance]:
        """Lists the utterances of the splits.

        Raises
        ------
        DataError
            A split is missing or of another layout, or a transcribed utterance has no audio.
        """
        genders = speaker_genders(folder / "SPEAKERS.TXT")
        for split in self.splits:
            root = require(folder / split, folder, self.layout)
            transcripts = sorted(root.glob("*/*/*.trans.txt"))
            if not transcripts:
                raise DataError(f"{root} holds no transcripts: expected {self.layout}")
            for transcript in transcripts:
                yield from _chapter(transcript, genders)


def _chapter(transcript: Path, genders: Mapping[str, Literal["female", "male"]]) -> Iterator[Utterance]:
    audio = {path.stem: path for path in audio_files(transcript.parent)}
    for line in transcript.read_text(encoding="utf-8").splitlines():
        name, _, text = line.partition(" ")
        speaker = name.split("-")[0]
        # a missing file keeps its published name, so that the manifest reports all of them at once
        path = audio.get(name, transcript.parent / f"{name}.flac")
        yield Utterance(name, path, speaker, text=text.strip(), gender=genders.get(speaker, ""))


def speaker_genders(path: Path) -> dict[str, Literal["female", "male"]]:
    """Speaker → gender from ``SPEAKERS.TXT``; empty where the file is missing."""
    if not path.is_file():
        return {}
    fields = [line.split("|") for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(";")]
    return {field[0].strip(): GENDERS[field[1].strip()] for field in fields if field[1].strip() in GENDERS}
