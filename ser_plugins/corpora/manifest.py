"""The manifest: one CSV row per utterance, made from any corpus by a reader and validated as a whole.

Conventions. ``path`` is written absolute; a relative one is relative to the manifest. ``start`` and ``end`` are
seconds and always filled: a whole file is 0 to its duration. ``duration`` is ``end - start``. ``emotion`` is the
common name that the reader's label mapping gives, empty for speech without one. Beside ``manifest.csv`` lies
``manifest.json`` with the corpus, its options and the counts.

Preparation always reads the corpus again: a manifest that exists says nothing about the corpus of today.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ser_plugins import audio, registry
from ser_plugins.corpora.faults import Faults, check_names
from ser_plugins.errors import DataError, EmptyAudioError, OptionError, unknown_name
from ser_plugins.files import write_atomically

if TYPE_CHECKING:  # importing it would import torch, and reading a manifest needs none
    from ser_plugins.contracts import Corpus, Utterance

logger = logging.getLogger(__name__)

MIN_DURATION = 0.050  # s; shorter holds no syllable, and a change of tempo needs 40 ms
DECIMALS = 6  # of seconds: finer than a sample at any usual rate


@dataclass(frozen=True)
class Row:
    """One utterance of a manifest.

    Arguments
    ---------
    id : str
        Unique in the manifest.
    path : str
        Audio file, absolute once loaded; no `Path`, which takes a manifest's load twice as long.
    start, end : float
        Segment in seconds; the whole file is 0 to its duration.
    duration : float
        ``end - start``, seconds.
    sample_rate : int
        Of the file, in Hz.
    speaker, session : str
        Who speaks and in which recording session (empty where there is none).
    gender : str
        ``"female"``, ``"male"`` or empty.
    emotion : str
        Common name, empty for speech without one.
    text : str
        Transcript, empty where there is none.
    valence, activation, dominance : float, optional
        Ratings on the corpus's own scale.
    """

    id: str
    path: str
    start: float
    end: float
    duration: float
    sample_rate: int
    speaker: str
    session: str = ""
    gender: str = ""
    emotion: str = ""
    text: str = ""
    valence: float | None = None
    activation: float | None = None
    dominance: float | None = None


COLUMNS = tuple(field.name for field in fields(Row))


def write(rows: Iterable[Row], path: str | Path) -> None:
    """Writes rows as CSV, atomically, with absolute audio paths.

    Raises
    ------
    DataError
        The file cannot be written.
    """

    def content(file: IO[str]) -> None:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        columns, here = attrgetter(*COLUMNS), os.getcwd()
        for row in rows:
            name, audio_path, *others = columns(row)
            writer.writerow([name, os.path.join(here, audio_path), *others])

    write_atomically(Path(path), content)


def load(path: str | Path) -> list[Row]:
    """Reads a manifest that `write` or `prepare` made.

    Returns
    -------
    list[Row]
        Further columns are left out.

    Raises
    ------
    DataError
        The file is missing, lacks columns, has no rows, or a row is malformed (its line is named).
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(_rows(csv.reader(file), path))
    except OSError as error:
        raise DataError(f"manifest {path} cannot be read: {error.strerror}; `ser prepare` makes one") from error
    except UnicodeDecodeError as error:
        raise DataError(f"manifest {path} is not UTF-8 text: {error}") from error
    except csv.Error as error:
        raise DataError(f"manifest {path} is no CSV text: {error}; is a quotation mark left open?") from error
    if not rows:
        raise DataError(f"manifest {path} has no rows")
    return rows


def _rows(reader: Any, path: Path) -> Iterator[Row]:
    """The rows that a CSV reader gives of the file ``path``."""
    folder = path.parent.absolute()
    header: list[str] = next(reader, [])
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise DataError(f"{path} is no manifest: columns {', '.join(missing)} are missing; "
                        "`ser prepare csv` completes a hand-written one")
    chosen = itemgetter(*map(header.index, COLUMNS))
    for record in filter(None, reader):
        try:
            name, audio_path, start, end, duration, rate, *texts, valence, activation, dominance = chosen(record)
            located = os.path.join(folder, audio_path)
            ratings = [float(rating) if rating else None for rating in (valence, activation, dominance)]
            yield Row(name, located, float(start), float(end), float(duration), int(rate), *texts, *ratings)
        except (IndexError, ValueError) as error:
            reason = f"{len(record)} of {len(header)} columns" if isinstance(error, IndexError) else error
            raise DataError(f"{path}, line {reader.line_num}: malformed row ({reason})") from error


def prepare(corpus: str, folder: str | Path, out_dir: str | Path, options: Mapping[str, Any] | None = None) -> Path:
    """Reads and validates a corpus, and writes ``manifest.csv`` and ``manifest.json``.

    Arguments
    ---------
    corpus : str
        Name of a corpus plugin.
    folder : str | Path
        Where the corpus lies.
    out_dir : str | Path
        Where the two files go; made if missing.
    options : Mapping[str, Any], optional
        Arguments of the corpus plugin.

    Returns
    -------
    Path
        ``out_dir/manifest.csv``.

    Raises
    ------
    DataError
        Every fault of the corpus at once, grouped by kind; or the folder's layout is not the corpus's.
    PluginError, OptionError
        As `registry.create`.
    """
    reader: Corpus = registry.create("corpora", corpus, options)
    path = Path(out_dir) / "manifest.csv"
    if hasattr(reader, "source") and reader.source(Path(folder)).absolute() == path.absolute():
        raise DataError(f"{path} is the file that is read: it would be overwritten; name another output folder")
    utterances = list(reader.read(Path(folder)))
    if not utterances:
        raise DataError(f"{folder} holds no utterance of corpus '{corpus}': expected {reader.layout}")
    faults = Faults()
    check_names(utterances, reader.labels, faults)
    rows = _measured(utterances, reader.labels, corpus, faults)
    faults.raise_any(f"{len(utterances)} utterances of corpus '{corpus}' in {folder}; nothing was written")
    write(rows, path)
    about = {"corpus": corpus, "folder": str(Path(folder).absolute()), "options": dict(options or {}),
             "utterances": len(rows), "hours": round(sum(row.duration for row in rows) / 3600, 4), **counts(rows)}
    if hasattr(reader, "published"):
        about["published"] = reader.published(rows)
    text = json.dumps(about, indent=2, ensure_ascii=False, default=str)
    write_atomically(path.with_suffix(".json"), lambda file: file.write(text + "\n"))
    logger.info("%s: %d utterances of %d speakers", path, len(rows), len(about["speakers"]))
    return path


def _measured(utterances: Sequence[Utterance], labels: Mapping[str, str], corpus: str, faults: Faults) -> list[Row]:
    """The rows of all utterances whose audio is sound; the others become faults."""
    from tqdm import tqdm

    headers: dict[Path, audio.AudioInfo | None] = {}
    rows = []
    for utterance in tqdm(utterances, desc=f"reading {corpus}", unit="utterance", disable=None):
        path = Path(utterance.path)
        if path not in headers:
            headers[path] = _header(path, faults)
        header = headers[path]
        if header is not None:
            rows.append(_located(utterance, path, header, labels, faults))
    return [row for row in rows if row is not None]


def _header(path: Path, faults: Faults) -> audio.AudioInfo | None:
    try:
        return audio.info(path)
    except EmptyAudioError as error:
        faults.add("empty audio", str(error))
    except DataError as error:
        missing = not path.is_file()
        faults.add("missing files" if missing else "unreadable files", str(path) if missing else str(error))
    except OSError as error:
        faults.add("unreadable files", f"{path}: {error.strerror}")
    return None


def _located(utterance: Utterance, path: Path, header: audio.AudioInfo, labels: Mapping[str, str],
             faults: Faults) -> Row | None:
    """The utterance with its segment in seconds, or a fault."""
    start = 0.0 if utterance.start is None else utterance.start
    end = header.duration if utterance.end is None else utterance.end
    if not (start >= 0 and end <= header.duration + audio.TOLERANCE and start < header.duration and start < end):
        faults.add("segments outside the audio",
                   f"{utterance.id}: {start:g} to {end:g} s of {path}, which is {header.duration:.3f} s long")
        return None
    end = min(end, header.duration)
    if end - start < MIN_DURATION:
        faults.add(f"shorter than {MIN_DURATION * 1000:.0f} ms",
                   f"{utterance.id}: {(end - start) * 1000:.1f} ms, {path}")
        return None
    start, end = round(start, DECIMALS), round(end, DECIMALS)
    return Row(utterance.id, str(path.absolute()), start, end, round(end - start, DECIMALS), header.sample_rate,
               utterance.speaker, utterance.session, utterance.gender,
               labels.get(utterance.emotion, ""), utterance.text, utterance.valence, utterance.activation,
               utterance.dominance)


def counts(rows: Sequence[Row]) -> dict[str, Any]:
    """Utterances per class, per speaker, and per speaker and class.

    Returns
    -------
    dict
        ``classes``: name → count; ``speakers``: name → count; ``speakers_classes``: speaker → class → count.
    """
    classes = sorted({row.emotion for row in rows})
    cells = Counter((row.speaker, row.emotion) for row in rows)
    speakers = sorted({row.speaker for row in rows})
    return {
        "classes": {name: sum(cells[speaker, name] for speaker in speakers) for name in classes},
        "speakers": {speaker: sum(cells[speaker, name] for name in classes) for speaker in speakers},
        "speakers_classes": {speaker: {name: cells[speaker, name] for name in classes} for speaker in speakers},
    }


def summary(rows: Sequence[Row]) -> str:
    """Table of counts per speaker and class.

    Example
    -------
    >>> row = Row("a", "a.wav", 0.0, 1.5, 1.5, 16000, "S01", emotion="anger")
    >>> print(summary([row]))
    speaker  anger  total
    S01          1      1
    total        1      1
    1 utterances, 1 speakers, 1 classes, 0.00 h
    """
    table = counts(rows)
    names = list(table["classes"])
    lines = [["speaker", *(name or "(no label)" for name in names), "total"]]
    for speaker, cells in table["speakers_classes"].items():
        lines.append([speaker, *(str(cells[name]) for name in names), str(table["speakers"][speaker])])
    lines.append(["total", *(str(number) for number in table["classes"].values()), str(len(rows))])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
    hours = sum(row.duration for row in rows) / 3600
    text.append(f"{len(rows)} utterances, {len(table['speakers'])} speakers, {len(names)} classes, {hours:.2f} h")
    return "\n".join(text)


def report(path: str | Path) -> str:
    """What `prepare` made: the `summary`, and how it compares with published counts where the corpus has some.

    Arguments
    ---------
    path : str | Path
        The manifest.
    """
    text = summary(load(path))
    about = Path(path).with_suffix(".json")
    note = json.loads(about.read_text(encoding="utf-8")).get("published") if about.is_file() else None
    return f"{text}\n{note}" if note else text


def select(rows: Sequence[Row], labels: Sequence[str]) -> list[Row]:
    """The rows of an experiment's label list, in the manifest's order.

    Arguments
    ---------
    rows : Sequence[Row]
        A manifest.
    labels : Sequence[str]
        Common names, in the experiment's order.

    Raises
    ------
    OptionError
        The list is empty or names a label twice, or no row has one of the labels (those that exist are named,
        with their counts).
    """
    existing = Counter(row.emotion for row in rows if row.emotion)
    if not labels or len(set(labels)) < len(labels):
        raise OptionError(f"the label list must name each label once: {list(labels)}")
    for label in labels:
        if label not in existing:
            numbers = ", ".join(f"{name} {number}" for name, number in sorted(existing.items())) or "(none)"
            raise OptionError(unknown_name("emotion", label, existing, "in the manifest")
                              + f" (utterances: {numbers})")
    return [row for row in rows if row.emotion in labels]
