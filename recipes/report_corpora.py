"""The report of several protocols: the matrix of corpora trained on × tested on, and what tells its cells apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from report_parts import INTERVAL, partly_tested, protocol, scores_of, told_sentences

from ser_plugins import figures
from ser_plugins.errors import DataError
from ser_plugins.page import Picture, Section, Table
from ser_plugins.results import Results, told


def sections(folders: Sequence[Results]) -> list[Section]:
    """The matrix, and the protocol of each of its cells; errors as of `by_corpora` and `scores_of`."""
    cells = by_corpora(folders)
    names = ["_".join(corpora).replace(":", "-") for corpora in cells]  # also of files
    return [across_corpora(cells), *map(protocol, cells.values(), names)]


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
    """What is said of the cells, of their test sets, and of what else they should share."""
    every = list(cells.values())
    return [sentence for results in every for sentence in of_cell(results)] + test_sets(every) + unlike(every)


def of_cell(results: Results) -> list[str]:
    """What is said of languages, sentences and labels that differ, and of speakers that are left out."""
    about, text = results.about, []
    ours, theirs = about.get("language"), about.get("test_language")
    if ours and theirs and ours != theirs:
        text.append(f"{results.title}: the languages differ, {ours} and {theirs}.")
    if results.crossed and about.get("sentences"):
        text.append(f"{results.title}: of {told_sentences(about['sentences'])}.")
    elif results.crossed:
        text.append(f"{results.title}: transcripts lacking: sentences not compared.")
    heard = {label for one in about["speakers"].values() for label, count in one.get("counts", {}).items() if count}
    lacking = [label for label in results.labels if label not in heard]
    if heard and lacking:
        text.append(f"{results.title}: no utterance of {', '.join(lacking)}; UA is over the other labels.")
    return text + [f"{results.title}: {sentence}" for sentence in partly_tested(results)]


def test_sets(every: Sequence[Results]) -> list[str]:
    """What is said of cells that test one corpus, and not the same utterances of it."""
    text = []
    first: dict[str, Results] = {}
    for results in every:
        other = first.setdefault(results.corpora[1], results)
        ours, theirs = results.tested, other.tested
        odd = sorted({*ours} ^ {*theirs})
        changed = sorted(name for name in {*ours} & {*theirs} if ours[name].get("counts") != theirs[name].get("counts"))
        parts = [f"{what} {', '.join(names)}" for what, names in
                 (("only one tests", odd), ("other utterances of", changed)) if names]
        if parts:
            text.append(f"{results.title} and {other.title}: {'; '.join(parts)}; "
                        "the two cells are not of one test set.")
    return text


def unlike(every: Sequence[Results]) -> list[str]:
    """What cells should share and do not: a sentence for each thing, with its values and the cells that have them."""
    found: dict[tuple[str, str], list[str]] = {}  # thing and values → the systems
    for system, thing, values in shared(every):
        groups: dict[str, list[str]] = {}  # value → the cells
        for title, value in values.items():
            groups.setdefault(repr(value), []).append(title)
        if len(groups) > 1:
            text = "; ".join(f"{told(values[titles[0]])} in {', '.join(titles)}" for titles in groups.values())
            found.setdefault((thing, text), []).extend(system)
    return [f"Not alike: {thing}{' of ' * bool(systems)}{', '.join(systems)}, {text}."
            for (thing, text), systems in found.items()]


def shared(every: Sequence[Results]) -> Iterator[tuple[list[str], str, dict[str, Any]]]:
    """What cells should share, ``(the system that it is of, what, title of the cell → value)``.

    Options and folds of a corpus are those of the cells that train on it.
    """
    versions = {one.title: str(one.about["protocol"].get("versions", "")).split(", ") for one in every}
    common = set.intersection(*map(set, versions.values()))
    yield [], "versions", {title: ", ".join(name for name in names if name not in common)
                           for title, names in versions.items()}
    for key in dict.fromkeys(key for one in every for key in one.about["protocol"]):
        if key not in ("versions", "corpus_options", "test_corpus_options", "encoder"):  # a system has a fingerprint
            yield [], key, {one.title: one.about["protocol"].get(key) for one in every}
    for corpus in dict.fromkeys(one.corpora[0] for one in every):
        own = [one for one in every if one.corpora[0] == corpus]
        yield [], f"options of {corpus}", {one.title: one.about["protocol"].get("corpus_options") for one in own}
        yield [], f"training speakers of {corpus}", {
            one.title: [fold.get("train") for fold in one.about["folds"]] for one in own if one.crossed}
    for corpus in dict.fromkeys(one.corpora[1] for one in every):
        yield [], f"options of the tested {corpus}", {
            one.title: one.about["protocol"].get("test_corpus_options" if one.crossed else "corpus_options")
            for one in every if one.corpora[1] == corpus}
    for name in dict.fromkeys(name for one in every for name in one.systems):
        systems = {one.title: one.systems[name] for one in every if name in one.systems}
        yield [name], "seeds", {title: list(system.runs) for title, system in systems.items()}
        yield [name], "encoder", {title: system.encoder for title, system in systems.items()}
        trained = {title: {**system.trained_with, **system.settings} for title, system in systems.items()
                   if system.trained_with}  # nothing is known of a system without a finished run
        for key in dict.fromkeys(key for settings in trained.values() for key in settings):
            if key not in ("encoder", "encoder_fingerprint"):  # told above
                yield [name], key, {title: settings.get(key) for title, settings in trained.items()}
