"""Data folders of Kaldi (Povey et al. 2011): transcribed speech that a Kaldi recipe has prepared, for the recogniser.

The rules are those of Kaldi's ``validate_data_dir.sh``, order aside: ``text`` and ``utt2spk`` have one line for every
utterance and no other; utterances are the lines of ``segments``, or of ``wav.scp`` where there is none. A segment that
ends at -1 ends with its recording. ``utt2dur`` is compared with ``segments``; the durations of a manifest are measured.

A line of ``wav.scp`` that ends with ``|`` is a shell command. It is never run: data must not execute code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ser_plugins.contracts import Corpus, Utterance
from ser_plugins.corpora.faults import Faults
from ser_plugins.corpora.layout import numbered_lines, require

REQUIRED = ("wav.scp", "text", "utt2spk")
GENDERS: dict[str, Literal["female", "male"]] = {"f": "female", "m": "male"}
ARCHIVE = re.compile(r".+:\d+")  # file:offset, a place within an archive
TOLERANCE = 0.05  # s that utt2dur may differ from a segment: it may be counted in frames of 25 ms every 10 ms
NO_COMMANDS = "commands, which are never run: store what they print as audio files and name these"


class Entry(NamedTuple):
    """What a file says of a key, and where."""

    value: str
    where: str


class Segment(NamedTuple):
    """Part of a recording in seconds (None is its beginning or end), and where it is written."""

    recording: str
    start: float | None
    end: float | None
    where: str


class Kaldi(Corpus):
    """Reads Kaldi data folders; paths in ``wav.scp`` are absolute or relative to the corpus folder.

    Arguments
    ---------
    parts : str | Sequence[str]
        Data folders within the corpus folder, such as ``train``; by default the corpus folder itself.

    Example
    -------
    >>> Kaldi(["data/train", "data/dev"]).parts
    ('data/train', 'data/dev')
    """

    layout = ("FOLDER/PART/ with wav.scp, text and utt2spk, as you like segments, spk2gender and utt2dur; "
              "audio paths are absolute or relative to FOLDER (any audio suffix)")
    labels: Mapping[str, str] = {}

    def __init__(self, parts: str | Sequence[str] = (".",)):
        self.parts = (parts,) if isinstance(parts, str) else tuple(parts)

    def read(self, folder: Path) -> list[Utterance]:
        """Lists the utterances of the parts.

        Raises
        ------
        DataError
            A part is missing or of another layout, or its files are faulty (all faults are named by file and line).
        """
        for part in self.parts:
            for name in REQUIRED:
                require(folder / part / name, folder, self.layout)
        faults = Faults()
        utterances = [utterance for part in self.parts for utterance in _read_part(folder / part, folder, faults)]
        faults.raise_any(", ".join(str(folder / part) for part in self.parts))
        return utterances


def _read_part(part: Path, folder: Path, faults: Faults) -> Iterator[Utterance]:
    """The utterances of a data folder; those with a fault are noted and left out."""
    recordings = _recordings(part / "wav.scp", folder, faults)
    segments = _segments(part / "segments", recordings, faults)
    texts, speakers = read_table(part / "text", faults), read_table(part / "utt2spk", faults)
    genders = _genders(part / "spk2gender", faults)
    _check_durations(part / "utt2dur", segments, faults)
    _check_keys(part, segments, {"text": texts, "utt2spk": speakers}, faults)
    for name, segment in segments.items():
        if name not in texts or name not in speakers or segment.recording not in recordings:
            continue  # has been noted
        text, speaker = texts[name], speakers[name]
        if not text.value:
            faults.add("empty transcripts", f"{text.where}: {name}")
        if len(speaker.value.split()) != 1:
            faults.add("malformed lines", f"{speaker.where}: expected 'utterance speaker'")
        yield Utterance(name, folder / recordings[segment.recording].value, speaker.value, text=text.value,
                        gender=genders.get(speaker.value, ""), start=segment.start, end=segment.end)


def _recordings(path: Path, folder: Path, faults: Faults) -> dict[str, Entry]:
    """Recording → its path as written; commands, places within archives and missing files are faults."""
    recordings = read_table(path, faults)
    for name, (value, where) in recordings.items():
        if value.endswith("|"):
            faults.add(NO_COMMANDS, f"{where}: {name} would run '{value[:-1].strip()}'")
        elif not value:
            faults.add("malformed lines", f"{where}: expected 'recording path'")
        elif not (folder / value).is_file():
            kind = "places within archives: extract them and name the files" if ARCHIVE.fullmatch(value) else (
                "missing audio: paths are absolute or relative to the corpus folder")
            faults.add(kind, f"{where}: {folder / value}")
    return recordings


def _segments(path: Path, recordings: Mapping[str, Entry], faults: Faults) -> dict[str, Segment]:
    """Utterance → its segment; without the file every recording is an utterance."""
    if not path.is_file():
        return {name: Segment(name, None, None, entry.where) for name, entry in recordings.items()}
    segments = {}
    for name, (value, where) in read_table(path, faults).items():
        recording, *times = value.split() or [""]
        start, end = map(_seconds, times) if len(times) == 2 else (math.nan, math.nan)
        if not (0 <= start < math.inf and (start < end < math.inf or end == -1)):  # so written, NaN is refused
            faults.add("malformed lines",
                       f"{where}: expected 'utterance recording start end' in seconds, found '{name} {value}'")
        elif recording not in recordings:
            faults.add("segments of no recording", f"{where}: '{recording}' has no line in wav.scp")
        segments[name] = Segment(recording, start, None if end == -1 else end, where)
    return segments


def _genders(path: Path, faults: Faults) -> dict[str, Literal["female", "male"]]:
    """Speaker → gender; empty where the file is missing."""
    table = read_table(path, faults) if path.is_file() else {}
    for name, (value, where) in table.items():
        if value not in GENDERS:
            faults.add("malformed lines", f"{where}: expected 'speaker f' or 'speaker m', found '{name} {value}'")
    return {name: GENDERS[value] for name, (value, _) in table.items() if value in GENDERS}


def _check_durations(path: Path, segments: Mapping[str, Segment], faults: Faults) -> None:
    """Lines of ``utt2dur`` that are no duration, or not that of the segment."""
    for name, (value, where) in (read_table(path, faults) if path.is_file() else {}).items():
        seconds = _seconds(value)
        if not 0 < seconds < math.inf:
            faults.add("malformed lines", f"{where}: expected 'utterance seconds', found '{name} {value}'")
        elif name in segments:
            _, start, end, segment = segments[name]
            if start is not None and end is not None and abs(seconds - (end - start)) > TOLERANCE:
                faults.add("durations that are not those of the segments",
                           f"{where}: {name} takes {seconds:g} s, but {end - start:g} s at {segment}")


def _check_keys(part: Path, segments: Mapping[str, Segment], tables: Mapping[str, Mapping[str, Entry]],
                faults: Faults) -> None:
    """Utterances without a line in ``text`` or ``utt2spk``, and lines there of no utterance."""
    for file, table in tables.items():
        for name, segment in segments.items():
            if name not in table:
                faults.add(f"utterances without a line in {file}", f"{segment.where}: {name} is not in {part / file}")
        for name, entry in table.items():
            if name not in segments:
                faults.add(f"lines of {file} without audio", f"{entry.where}: no recording or segment is named {name}")


def _seconds(text: str) -> float:
    """NaN, which every comparison refuses, where the text is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def read_table(path: Path, faults: Faults) -> dict[str, Entry]:
    """Key → the rest of its line; a second line of the same key is a fault."""
    table: dict[str, Entry] = {}
    for where, line in numbered_lines(path, faults):
        key, *value = line.split(maxsplit=1)
        if key in table:
            faults.add("duplicate keys", f"{where}: '{key}', first at {table[key].where}")
        else:
            table[key] = Entry("".join(value).strip(), where)
    return table
