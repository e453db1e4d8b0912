"""``predictions.csv``: what a system said of each utterance; every table and figure is a function of it.

Columns: id, speaker, label, prediction, and ``p_<label>``, the probability of each label in the label list's order.
Labels are names, never numbers.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ser_plugins.corpora.manifest import Row
from ser_plugins.errors import DataError
from ser_plugins.files import write_atomically

FIXED = ("id", "speaker", "label", "prediction")


@dataclass(frozen=True)
class Predictions:
    """Predictions of one or several runs.

    Arguments
    ---------
    ids, speakers, truth, predicted : list[str]
        One of each an utterance.
    probabilities : np.ndarray
        ``[utterances, classes]``.
    names : list[str]
        The label list, in the order of the probabilities.
    """

    ids: list[str]
    speakers: list[str]
    truth: list[str]
    predicted: list[str]
    probabilities: np.ndarray
    names: list[str]


def write(path: str | Path, outcome: Sequence[tuple[Row, Sequence[float]]], labels: Sequence[str]) -> None:
    """Writes predictions, sorted by id, whole or not at all.

    Arguments
    ---------
    path : str | Path
        The CSV file.
    outcome : Sequence[tuple[Row, Sequence[float]]]
        Utterances and their probabilities in the order of ``labels``.
    labels : Sequence[str]
        The label list.

    Raises
    ------
    DataError
        An utterance stands there twice, or its probabilities are not numbers from 0 that add up to 1.
    """
    for name, count in Counter(row.id for row, _ in outcome).items():
        if count > 1:
            raise DataError(f"{path}: utterance {name} is predicted {count} times: predict each once")
    for row, probabilities in outcome:
        if not (len(probabilities) == len(labels) and min(probabilities) >= 0 and abs(sum(probabilities) - 1) < 1e-3):
            raise DataError(f"{path}: {row.id} has the probabilities {', '.join(f'{one:g}' for one in probabilities)}: "
                            f"need {len(labels)} numbers of 0 or more that add up to 1")
    lines = [[row.id, row.speaker, row.emotion, labels[int(np.argmax(probabilities))],
              *(f"{probability:.6f}" for probability in probabilities)]
             for row, probabilities in sorted(outcome, key=lambda pair: pair[0].id)]
    header = [*FIXED, *(f"p_{label}" for label in labels)]
    write_atomically(Path(path), lambda file: csv.writer(file, lineterminator="\n").writerows([header, *lines]))


def read(*paths: str | Path) -> Predictions:
    """Reads predictions; those of several runs (the folds of a protocol) are joined.

    Raises
    ------
    DataError
        A file is missing, malformed, or has other labels than the first.
    """
    rows: list[tuple[list[str], list[float]]] = []
    header = None
    for path in paths:
        try:
            with open(path, encoding="utf-8", newline="") as file:
                first, *body = list(csv.reader(file))
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(f"{path} is no file of predictions: {error}") from error
        if tuple(first[:4]) != FIXED or (header is not None and first != header):
            raise DataError(f"{path} has columns {', '.join(first)}, expected {', '.join(header or FIXED)}")
        header = first
        rows += [parse_row(row, len(first), f"{path}, line {line}") for line, row in enumerate(body, start=2)]
    if header is None or not rows:
        raise DataError(f"no predictions in {', '.join(map(str, paths)) or 'no file'}")
    return from_rows(rows, [name.removeprefix("p_") for name in header[4:]])


def from_rows(rows: Sequence[tuple[list[str], list[float]]], names: Sequence[str]) -> Predictions:
    """Predictions from what `parse_row` gives of each utterance, one or more."""
    ids, speakers, truth, predicted = ([texts[column] for texts, _ in rows] for column in range(len(FIXED)))
    return Predictions(ids, speakers, truth, predicted, np.array([values for _, values in rows]), list(names))


def join(parts: Sequence[Predictions]) -> Predictions:
    """Predictions of several folds as one; they share a label list."""
    ids, speakers, truth, predicted = ([value for part in parts for value in getattr(part, name)]
                                       for name in ("ids", "speakers", "truth", "predicted"))
    probabilities = np.concatenate([part.probabilities for part in parts])
    return Predictions(ids, speakers, truth, predicted, probabilities, parts[0].names)


def parse_row(row: Sequence[str], columns: int, where: str) -> tuple[list[str], list[float]]:
    """The four texts and the probabilities of a line.

    Raises
    ------
    DataError
        There are not as many columns as expected, or a probability is no number; ``where`` says which line it is.
    """
    if len(row) != columns:
        raise DataError(f"{where}: {len(row)} values, expected {columns}")
    try:
        return list(row[:4]), [float(value) for value in row[4:]]
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
