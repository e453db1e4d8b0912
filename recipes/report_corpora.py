"""The report of several protocols: the matrix of corpora trained on × tested on, and what tells its cells apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from report_parts import INTERVAL, protocol, scores_of, told_sentences

from ser_plugins import figures
from ser_plugins.errors import DataError
from ser_plugins.page import Picture, Section, Table
from ser_plugins.results import Results


def sections(folders: Sequence[Results]) -> list[Section]:
    """The matrix, and the protocol of each of its cells; errors as of `by_corpora` and `scores_of`."""
    cells = by_corpora(folders)
    return [across_corpora(cells), *(protocol(one, "_".join(corpora)) for corpora, one in cells.items())]


def by_corpora(folders: Sequence[Results]) -> dict[tuple[str, str], Results]:
    """Corpora of training and test → results.

    Raises
    ------
    DataError
        Two folders are of the same corpora, or their labels differ.
    """
    cells: dict[tuple[str, str], Results] = {}
    for results in folders:
        if results.corpora in cells:
            raise DataError(f"{cells[results.corpora].folder} and {results.folder} are both trained on "
                            f"{results.corpora[0]} and tested on {results.corpora[1]}: give one folder for each pair "
                            "of corpora")
        if {*results.labels} != {*folders[0].labels}:
            raise DataError(f"{results.folder} has labels {', '.join(results.labels)}; {folders[0].folder} has "
                            f"{', '.join(folders[0].labels)}: UA can be compared for the same labels only")
        cells[results.corpora] = results
    return cells


def across_corpora(cells: Mapping[tuple[str, str], Results]) -> Section:
    """UA by corpus of training and of the test."""
    scores = {corpora: scores_of(results) for corpora, results in cells.items()}
    train, test = (list(dict.fromkeys(corpora[side] for corpora in cells)) for side in (0, 1))
    items: list[Table | Picture] = []
    records = []
    for name in dict.fromkeys(name for results in cells.values() for name in results.systems):
        found = {corpora: one[name] for corpora, one in scores.items() if name in one}
        values = np.array([[found[a, b].ua if (a, b) in found else np.nan for b in test] for a in train])
        told = ", ".join(f"{a} → {b} {one.ua:.3f}" for (a, b), one in found.items()) or "no complete run"
        items.append(Picture(f"corpora_{name}", "", f"UA of {name}: {told}.",
                             figures.corpora_figure(train, test, values, name)))
        records += [{"system": name, "train": a, "test": b, "UA": one.ua, "low": one.low, "high": one.high}
                    for (a, b), one in found.items()]
    items.append(Table("corpora", "UA, mean over runs.", records, {
        "system": "{system}", "trained on": "{train}", "tested on": "{test}", "UA": "{UA:.3f}",
        "95 % interval": INTERVAL}))
    return Section("UA across corpora", differences(cells), items, small=True)


def differences(cells: Mapping[tuple[str, str], Results]) -> list[str]:
    """What is said of languages, sentences, labels and speakers that differ."""
    text = []
    first: dict[str, Results] = {}
    for results in cells.values():
        about, other = results.about, first.setdefault(results.corpora[1], results)
        ours, theirs = about.get("language"), about.get("test_language")
        if ours and theirs and ours != theirs:
            text.append(f"{results.title}: the languages differ, {ours} and {theirs}.")
        if results.crossed and about.get("sentences"):
            text.append(f"{results.title}: of {told_sentences(about['sentences'])}.")
        heard = {label for one in about["speakers"].values()
                 for label, count in one.get("counts", {}).items() if count}
        lacking = [label for label in results.labels if label not in heard]
        if heard and lacking:
            text.append(f"{results.title}: no utterance of {', '.join(lacking)}; UA is over the other labels.")
        odd = sorted({*results.tested} ^ {*other.tested})
        if odd:
            text.append(f"{results.title} and {other.title}: only one tests {', '.join(odd)}; the two cells are "
                        "not of one test set.")
    return text
