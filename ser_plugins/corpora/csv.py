"""Any corpus, as a manifest that its user writes: a CSV file with at least id, path, speaker and emotion."""

from __future__ import annotations

import csv
import difflib
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ser_plugins.contracts import Corpus, Utterance
from ser_plugins.corpora.faults import Faults
from ser_plugins.corpora.labels import overrides
from ser_plugins.corpora.layout import require
from ser_plugins.corpora.manifest import COLUMNS
from ser_plugins.errors import DataError

logger = logging.getLogger(__name__)

REQUIRED = ("id", "path", "speaker", "emotion")
RATINGS = ("valence", "activation", "dominance")
NUMBERS = {"start": " of seconds", "end": " of seconds", **dict.fromkeys(RATINGS, "")}  # column → of what
GENDERS = {"f": "female", "m": "male", "w": "female"}  # short forms; other values are judged by the manifest


class CSV(Corpus):
    """Reads a CSV file, separated by commas, semicolons or tabs.

    ``id, path, speaker, emotion`` must be there; ``start, end`` (seconds), ``session, gender, text`` and the ratings
    ``valence, activation, dominance`` may be. Paths are
    relative to the file. Duration and sample rate are measured, whatever the file says.

    Arguments
    ---------
    label_map : str | Mapping[str, str], optional
        YAML file or mapping of the file's labels to common names; a label that it lacks keeps its name.

    Example
    -------
    >>> CSV(label_map={"happy": "happiness"}).labels
    {'happy': 'happiness'}
    """

    layout = "a CSV file, or FOLDER/manifest.csv, with the columns id, path, speaker, emotion"

    def __init__(self, label_map: str | Mapping[str, str] | None = None):
        self.labels: dict[str, str] = overrides(label_map)

    def source(self, folder: Path) -> Path:
        """The file that is read: ``folder`` itself, or the manifest in it."""
        return folder / "manifest.csv" if folder.is_dir() else folder

    def read(self, folder: Path) -> list[Utterance]:
        """Lists the file's rows.

        Raises
        ------
        DataError
            The file is missing, is no text, lacks columns (all are named), or has malformed rows (all are counted).
        """
        path = require(self.source(folder), folder, self.layout)
        try:
            text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a mark at the beginning
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text: {error}") from error
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        header = text.partition("\n")[0]
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
        _check_columns(reader.fieldnames or [], path)
        utterances, faults = [], Faults()
        try:
            for record in reader:
                try:
                    utterances.append(_utterance(record, path.parent))
                except ValueError as error:
                    faults.add("malformed rows", f"line {reader.line_num}: {error}")
        except csv.Error as error:
            raise DataError(f"{path} is no CSV text: {error}; is a quotation mark left open?") from error
        faults.raise_any(str(path))
        self.labels = {**{utterance.emotion: utterance.emotion for utterance in utterances}, **self.labels}
        return utterances


def _check_columns(names: Sequence[str], path: Path) -> None:
    missing = [column for column in REQUIRED if column not in names]
    unknown = [name for name in names if name not in COLUMNS]
    absent = [column for column in COLUMNS if column not in names]
    meant = {name: close[0] for name in unknown if (close := difflib.get_close_matches(name.lower(), absent, n=1))}
    guesses = "".join(f"; column '{name}': did you mean '{column}'?" for name, column in meant.items())
    double = [name for name in COLUMNS if list(names).count(name) > 1]
    if missing:
        raise DataError(f"{path}: required columns are missing: {', '.join(missing)}{guesses}; "
                        f"found: {', '.join(names) or '(none)'}; known: {', '.join(COLUMNS)}")
    if meant:  # a misspelt optional column would lose the user's segments or texts
        raise DataError(f"{path}: unknown columns{guesses}; known: {', '.join(COLUMNS)}; rename or remove them")
    if double:
        raise DataError(f"{path}: columns that are there twice: {', '.join(double)}")
    if unknown:
        logger.warning("%s: columns that no one reads: %s", path, ", ".join(unknown))


def _utterance(record: Mapping[str | None, Any], folder: Path) -> Utterance:
    if None in record:
        raise ValueError("more fields than columns; put texts that hold the separator in double quotes")
    if None in record.values():
        raise ValueError("fewer fields than columns")
    values = {name: value.strip() for name, value in record.items() if name}
    if not values["path"]:
        raise ValueError("the path is empty")
    gender: Any = values.get("gender", "").lower()
    return Utterance(
        id=values["id"], path=folder / values["path"], speaker=values["speaker"], emotion=values["emotion"],
        text=values.get("text", ""), session=values.get("session", ""), gender=GENDERS.get(gender, gender),
        **{column: _number(values, column) for column in NUMBERS},
    )


def _number(values: Mapping[str, str], column: str) -> float | None:
    text = values.get(column, "")
    try:
        return float(text) if text else None
    except ValueError:
        raise ValueError(f"{column} is no number{NUMBERS[column]}: '{text}'") from None
