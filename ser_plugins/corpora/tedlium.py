"""TED-LIUM 2 (Rousseau et al. 2014): talks in English with transcribed segments, for the recogniser.

A line of an stm file is ``talk channel speaker start end <o,f0,female> words…``, in seconds within the talk's audio.
Comments (``;;``) and lines with ``ignore_time_segment_in_scoring`` are left out.

What the transcript holds beside words is dropped: ``<unk>``, ``<sil>`` and the like, noises such as ``{NOISE}``, the
number of a pronunciation (``read(2)``), and the segment's own name in brackets at the end (release 1). An ending that
stands apart is joined to its word: ``i 'm`` is ``i'm``, ``parents '`` is ``parents'``; ``give 'em`` stays. A segment
of markers alone holds no words and is left out. Note that ``<unk>`` stands for a word that is spoken.

The speaker is as the file names it. The training part names the talk, so whoever gave two talks is two speakers.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ser_plugins.contracts import Corpus, Utterance
from ser_plugins.corpora.faults import Faults
from ser_plugins.corpora.layout import audio_files, numbered_lines, require
from ser_plugins.errors import DataError

logger = logging.getLogger(__name__)

IGNORED = "ignore_time_segment_in_scoring"
LABEL = re.compile(r"<[^<>]*>")  # <o,f0,female>, <o,,unknown>, <F0_M>, <NA>
GENDERS: dict[str, Literal["female", "male"]] = {"female": "female", "f": "female", "male": "male", "m": "male"}
PRONUNCIATION = re.compile(r"\(\d+\)")
MARKER = re.compile(r"<[^<>\s]*>|\{[^{}\s]*\}|\(\S*\)\s*$")
APART = re.compile(r"(?<=\w) (?='(?:s|m|d|ll|re|ve|t)?(?: |$))", re.IGNORECASE)
TOLERANCE = 0.01  # s that a line may begin before the one before it ends: times have two decimals


class Line(NamedTuple):
    """A line of an stm file; start and end in seconds, text as found."""

    talk: str
    channel: str
    speaker: str
    start: float
    end: float
    gender: Literal["female", "male", ""]
    text: str


class TEDLIUM(Corpus):
    """Reads splits of TED-LIUM 2; talks may have been converted to any audio format, beside the sph files or in place.

    Arguments
    ---------
    splits : str | Sequence[str]
        Of ``train``, ``dev`` and ``test``.

    Example
    -------
    >>> TEDLIUM(["dev", "test"]).splits
    ('dev', 'test')
    """

    language = "en"
    layout = "FOLDER/SPLIT/stm/TALK.stm and FOLDER/SPLIT/sph/TALK.sph (any audio suffix); SPLIT: train, dev or test"
    labels: Mapping[str, str] = {}

    def __init__(self, splits: str | Sequence[str] = ("train",)):
        self.splits = (splits,) if isinstance(splits, str) else tuple(splits)

    def read(self, folder: Path) -> list[Utterance]:
        """Lists the transcribed segments of the splits.

        Raises
        ------
        DataError
            A split is missing or of another layout, or its files are faulty (all faults are named by file and line).
        """
        for split in self.splits:
            for part in ("stm", "sph"):
                require(folder / split / part, folder, self.layout)
        faults = Faults()
        utterances = [utterance for split in self.splits for utterance in self._read_split(folder / split, faults)]
        faults.raise_any(", ".join(str(folder / split) for split in self.splits))
        return utterances

    def _read_split(self, split: Path, faults: Faults) -> Iterator[Utterance]:
        transcripts = sorted(path for path in split.glob("stm/*.stm") if not path.name.startswith("."))
        if not transcripts:
            raise DataError(f"{split / 'stm'} holds no transcripts: expected {self.layout}")
        # the sph files first, so that a converted file beside one replaces it
        files = sorted(audio_files(split / "sph"), key=lambda path: path.suffix.lower() != ".sph")
        audio = {path.stem: path for path in files}
        for transcript in transcripts:
            yield from _read_transcript(transcript, audio, faults)


def _read_transcript(path: Path, audio: Mapping[str, Path], faults: Faults) -> Iterator[Utterance]:
    lines = _parsed(path, faults)
    _check_overlaps(lines, faults)
    without_audio: set[str] = set()
    for where, line in lines.items():
        if line.talk not in audio:
            if line.talk not in without_audio:
                faults.add("missing audio", f"{where}: no {path.parent.parent / 'sph' / line.talk}.sph or other format")
            without_audio.add(line.talk)
        elif text := plain_text(line.text):
            name = f"{line.talk}-{round(line.start * 1000):07d}-{round(line.end * 1000):07d}"  # ms
            yield Utterance(name, audio[line.talk], line.speaker, text=text, gender=line.gender,
                            start=line.start, end=line.end)
        else:
            logger.info("%s: no words in '%s'; left out", where, line.text)


def _parsed(path: Path, faults: Faults) -> dict[str, Line]:
    """Place → its line, of those that are no comment and not to be ignored."""
    lines = {}
    written = [(where, line) for where, line in numbered_lines(path, faults) if not line.lstrip().startswith(";;")]
    if not written:
        faults.add("files without lines", str(path))
    for where, line in written:
        if IGNORED in line.lower():
            continue
        try:
            lines[where] = parse_line(line)
        except ValueError as error:
            faults.add("malformed lines", f"{where}: {error}")
            continue
        if not lines[where].text:
            faults.add("empty transcripts", where)
    return lines


def parse_line(line: str) -> Line:
    """A line of an stm file.

    Raises
    ------
    ValueError
        Fields are missing, or the times are no segment.

    Example
    -------
    >>> parse_line("AlGore_2009 1 AlGore 17.82 28.81 <o,f0,male> thank you so much")[2:]
    ('AlGore', 17.82, 28.81, 'male', 'thank you so much')
    """
    fields = line.split(maxsplit=6)
    if len(fields) < 6 or not LABEL.fullmatch(fields[5]):
        raise ValueError(f"expected 'talk channel speaker start end <label> words', found '{line.strip()[:60]}'")
    talk, channel, speaker, *times, label = fields[:6]
    try:
        start, end = map(float, times)
    except ValueError:
        raise ValueError(f"times are no numbers of seconds: {' '.join(times)}") from None
    if not 0 <= start < end < math.inf:  # so written, NaN is refused
        raise ValueError(f"no segment goes from {start:g} to {end:g} s")
    genders = [GENDERS[word] for word in re.split("[<>,_]", label.lower()) if word in GENDERS]
    return Line(talk, channel, speaker, start, end, genders[0] if genders else "", "".join(fields[6:]).strip())


def plain_text(text: str) -> str:
    """The words of a transcript, as described at the top.

    Example
    -------
    >>> plain_text("<sil> i 'm told(2) {NOISE} it 's <unk> (AlGore_2009-17.82-28.81-F0_M-S12)")
    "i'm told it's"
    """
    spaced = MARKER.sub(" ", PRONUNCIATION.sub("", text))
    return APART.sub("", " ".join(spaced.split()))


def _check_overlaps(lines: Mapping[str, Line], faults: Faults) -> None:
    latest: dict[tuple[str, str], tuple[float, str]] = {}  # talk and channel → end, and where it is written
    for where, line in sorted(lines.items(), key=lambda item: item[1].start):
        end, other = latest.get((line.talk, line.channel), (0.0, ""))
        if line.start < end - TOLERANCE:
            faults.add("overlapping lines: correct or remove one",
                       f"{where}: begins at {line.start:g} s, before {end:g} s, the end of {other}")
        latest[line.talk, line.channel] = max((line.end, where), (end, other))
