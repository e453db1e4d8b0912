"""What a protocol leaves: ``results.json`` and ``predictions.csv.gz`` of one folder, written, read and checked.

A *unit* is one training: a system, the fold that tests one speaker, and a seed. A *run* is a system's units of one
seed, which test every speaker once; it is complete when all of them have finished. Only complete runs have numbers: an
average over the speakers that happen to be there would be of another, easier or harder, corpus.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ser_plugins import metrics, predictions
from ser_plugins.claims import read_claims
from ser_plugins.errors import DataError, OptionError, unknown_name
from ser_plugins.files import write_atomically
from ser_plugins.predictions import Predictions
from ser_plugins.values import numeric

UNIT_COLUMNS = ("system", "seed", "fold", "part")
STATES = ("finished", "failed", "missing")
KINDS = {"corpus": str, "labels": list, "command": list, "date": str, "machine": str, "definitions": dict,
         "protocol": dict, "speakers": dict, "folds": list, "systems": dict, "units": list, "predictions": str}
Record = TypeVar("Record")
Rule = tuple[Callable[[Any], bool], str]  # what a value must fulfil, and that in words


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_count, value.values()))


def _losses(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(epoch, list) and len(epoch) == 2 and all(isinstance(loss, int | float) for loss in epoch)
        for epoch in value)


NULLABLE: dict[str, Rule] = {  # keys that may be absent or null
    **dict.fromkeys(("head", "encoder", "control_of", "error", "gender", "test_corpus", "language", "test_language",
                     "data_folder", "test_data_folder"), (_text, "a text")),
    **dict.fromkeys(("layer", "trainable_parameters", "epochs", "tested_epoch", "corpus_speakers"),
                    (_count, "a whole number")),
    "seconds": (numeric, "a number"),
    "curve": (_losses, "a list of pairs of numbers"),
    "train": (_texts, "a list of names"),
    "counts": (_counts, "a whole number for each label"),
    "sentences": (lambda value: _counts(value) and {"trained", "tested", "both"} <= value.keys(),
                  "the numbers trained, tested and both"),
}
FIELDS: dict[str, Rule] = {  # of a system, a unit, a fold or a speaker
    **dict.fromkeys(("system", "test", "state"), (_text, "a name")),
    "seed": (_count, "a whole number"),
    **dict.fromkeys(("settings", "trained_with"), (lambda value: isinstance(value, dict), "a mapping")),
    "runs": (lambda value: isinstance(value, list) and all(map(_count, value)), "a list of whole numbers"),
}


@dataclass(frozen=True)
class System:
    """One system of the plan, as ``results.json`` describes it.

    ``settings`` are those that tell it from other systems of the plan, ``trained_with`` all that decide its numbers.
    ``runs`` are the seeds that the plan has for it. ``reads`` is what it needs of an utterance; None is not known.
    ``encoder`` is the fingerprint of its encoder; where that has random weights, ``control_of`` is that of its twin.
    """

    head: str | None
    layer: int | None
    settings: Mapping[str, Any]
    encoder: str | None
    trainable_parameters: int | None
    runs: Sequence[int]
    command: str
    reads: Sequence[str] | None = None
    trained_with: Mapping[str, Any] = field(default_factory=dict)
    control_of: str | None = None

    @property
    def is_control(self) -> bool:
        """Whether its encoder has random weights."""
        return self.control_of is not None

    @property
    def is_chance(self) -> bool:
        """Whether it is known to read nothing of an utterance."""
        return self.reads is not None and not self.reads


@dataclass(frozen=True)
class Unit:
    """One training; ``curve`` has training and validation loss of each epoch."""

    system: str
    test: str
    seed: int
    state: str
    error: str | None = None
    seconds: float | None = None
    epochs: int | None = None
    tested_epoch: int | None = None
    curve: Sequence[Sequence[float]] | None = None


@dataclass(frozen=True)
class _Fold:
    test: str


@dataclass(frozen=True)
class Results:
    """A protocol's results.

    Arguments
    ---------
    folder : Path
        Where they lie.
    about : Mapping[str, Any]
        ``results.json``.
    systems : Mapping[str, System]
        In the order of the plan.
    units : Sequence[Unit]
        Every one that the plan has; one that ``results.json`` does not list is missing.
    outcome : Mapping[tuple[str, int, str, str], Predictions]
        System, seed, fold (its test speaker) and part → what was predicted.
    claims : Sequence[tuple[str, str]]
        Of the plan: which system is said to be better than which.
    """

    folder: Path
    about: Mapping[str, Any]
    systems: Mapping[str, System]
    units: Sequence[Unit]
    outcome: Mapping[tuple[str, int, str, str], Predictions]
    claims: Sequence[tuple[str, str]]

    @classmethod
    def load(cls, folder: str | Path) -> Results:
        """Reads a folder.

        Raises
        ------
        DataError
            A file is missing or broken, lacks a key, or the two contradict each other: what, and where.
        """
        folder = Path(folder)
        about = read_about(folder / "results.json")
        where = str(folder / "results.json")
        systems = {name: _record(System, entry, f"{where}, system {name}") for name, entry in about["systems"].items()}
        units = _units(about, systems, where)
        outcome = _read_predictions(folder / "predictions.csv.gz", about)
        try:
            claims = read_claims(about.get("claims", []))
        except OptionError as error:
            raise DataError(f"{where}: {error}") from error
        result = cls(folder, about, systems, units, outcome, claims)
        result._check_finished()
        return result

    @property
    def labels(self) -> list[str]:
        return self.about["labels"]

    @property
    def corpora(self) -> tuple[str, str]:
        """The corpus of training and that of the test; one that a reader of any corpus reads with its folder's name."""
        train, test = ((self.about[f"{side}corpus"], self.about.get(f"{side}data_folder"))
                       for side in ("", "test_" if self.crossed else ""))
        return ":".join(filter(None, train)), ":".join(filter(None, test))

    @property
    def crossed(self) -> bool:
        """Whether another corpus is tested than is trained on; both may be read by one plugin, as ``csv``."""
        return self.about.get("test_corpus") is not None

    @property
    def title(self) -> str:
        """The corpus, or both: ``emodb → ravdess``."""
        return " → ".join(self.corpora if self.crossed else self.corpora[:1])

    @property
    def tested(self) -> dict[str, Mapping[str, Any]]:
        """Test speakers by the names that their own corpus has for them; a crossed protocol writes that before."""
        prefix = f"{self.about['test_corpus']}/" if self.crossed else ""
        return {name.removeprefix(prefix): one for name, one in self.about["speakers"].items()}

    def kind(self, system: str) -> str:
        """A system's head, with those of its own settings that tell it from others of that head, but for the layer.

        A suffix that the plan gives stands for the options that it was given for.
        """
        one = self.systems[system]
        suffix = one.settings.get("suffix")
        alike = [other.settings for other in self.systems.values()
                 if (other.head, other.settings.get("suffix")) == (one.head, suffix)]
        own = [f"{key} {told(value)}" for key, value in one.settings.items()
               if key != "layer" and any(other.get(key) != value for other in alike)]
        return ", ".join([str(one.head or system), *([] if suffix is None else [str(suffix)]), *own])

    def units_of(self, system: str) -> list[Unit]:
        """The units of a system, run by run."""
        return [unit for unit in self.units if unit.system == system]

    def complete(self, system: str) -> list[int]:
        """The seeds of a system's complete runs."""
        units = self.units_of(system)
        lacking = {unit.seed for unit in units if unit.state != "finished"}
        return [seed for seed in dict.fromkeys(unit.seed for unit in units) if seed not in lacking]

    def runs(self, system: str) -> list[Predictions]:
        """What a system's complete runs predicted of the test speakers, one `Predictions` each run; may be empty."""
        return [predictions.join([self.outcome[system, seed, unit.test, "test"] for unit in self.units_of(system)
                                  if unit.seed == seed]) for seed in self.complete(system)]

    def tempered(self, system: str, deviation: float = metrics.TEMPERATURE_DEVIATION
                 ) -> list[tuple[np.ndarray, list[float]]]:
        """Probabilities of each of `runs`, tempered fold by fold, and the temperatures.

        A temperature is fitted on the validation speaker of its fold, with a prior of this deviation. Empty where a
        fold has no such predictions.
        """
        result = []
        for seed in self.complete(system):
            tests = [unit.test for unit in self.units_of(system) if unit.seed == seed]
            if any((system, seed, test, "valid") not in self.outcome for test in tests):
                return []
            valid = [self.outcome[system, seed, test, "valid"] for test in tests]
            fitted = [metrics.fit_temperature(one.truth, one.probabilities, self.labels, deviation) for one in valid]
            result.append((np.concatenate([
                metrics.tempered(self.outcome[system, seed, test, "test"].probabilities, temperature)
                for test, temperature in zip(tests, fitted, strict=True)]), fitted))
        return result

    def _check_finished(self) -> None:
        """A finished unit has predictions, of all its test speaker's utterances."""
        speakers = self.about["speakers"]
        for unit in self.units:
            if unit.state != "finished":
                continue
            where = f"{self.folder}: system {unit.system}, seed {unit.seed}, test speaker {unit.test}"
            found = self.outcome.get((unit.system, unit.seed, unit.test, "test"))
            if found is None:
                raise DataError(f"{where} is finished and has no test predictions in predictions.csv.gz; run it again")
            for speaker in sorted({*found.speakers} - speakers.keys()):
                raise DataError(f"{where}: {unknown_name('speaker', speaker, speakers, 'those of results.json')}")
            if self.crossed:
                continue  # there, a fold may test any speakers of the other corpus
            if {*found.speakers} != {unit.test}:
                raise DataError(f"{where}: the predictions are of speaker {', '.join(sorted({*found.speakers}))}")
            expected, counts = Counter(speakers[unit.test].get("counts")), Counter(found.truth)
            different = [f"{counts[label]} of {label}, expected {expected[label]}" for label in self.labels
                         if counts[label] != expected[label]]
            if expected and different:
                raise DataError(f"{where}: predictions of {'; '.join(different)}; systems are compared on the same "
                                "utterances, so run it again on the corpus of the others")


def write(folder: Path, about: Mapping[str, Any], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a folder that `Results.load` reads: the same bytes for the same results.

    Arguments
    ---------
    folder : Path
        Where they will lie.
    about : Mapping[str, Any]
        ``results.json``, but for the hash of the predictions.
    rows : Iterable[Sequence[Any]]
        System, seed, fold and part, and then a line of the unit's predictions.
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([_header(about["labels"]), *rows])
    packed = gzip.compress(buffer.getvalue().encode(), mtime=0)
    text = _json_by_lines({**about, "predictions": hashlib.sha256(packed).hexdigest()})
    write_atomically(folder / "predictions.csv.gz", lambda file: file.write(packed), binary=True)
    write_atomically(folder / "results.json", lambda file: file.write(text))


def _header(labels: Sequence[str]) -> list[str]:
    return [*UNIT_COLUMNS, *predictions.FIXED, *(f"p_{label}" for label in labels)]


def _json_by_lines(content: Mapping[str, Any]) -> str:
    """JSON with a line for each key, and for each element of its value: thousands of units can be read and compared."""
    written = []
    for key, value in content.items():
        if isinstance(value, dict):
            text = "{" + ",\n  ".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in value.items()) + "}"
        elif isinstance(value, list):
            text = "[" + ",\n  ".join(json.dumps(one) for one in value) + "]"
        else:
            text = json.dumps(value)
        written.append(f"{json.dumps(key)}: {text}")
    return "{" + ",\n ".join(written) + "}\n"


def told(value: Any) -> str:
    """A setting's value in a few words: of a long list its ends and its length, of a long text both ends.

    Example
    -------
    >>> told([0.9, 0.95, 1.0, 1.05, 1.1]), told([0, 0]), told(None)
    ('[0.9, …, 1.1] (5)', '[0, 0]', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, list) and len(value) > 4:
        return f"[{told(value[0])}, …, {told(value[-1])}] ({len(value)})"
    text = str(value)
    return text if len(text) <= 40 else f"{text[:19]}…{text[-20:]}"


def read_about(path: Path) -> dict[str, Any]:
    """``results.json``, its keys checked.

    Raises
    ------
    DataError
        It is missing or broken, or lacks a key.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        begun = (path.parent / "runs").is_dir() or (path.parent / "manifests").is_dir()
        what = ("this plan has no results before its command has ended: give it again, and it goes on" if begun else
                "name the folder that recipes/cross_validate.py wrote")
        raise DataError(f"{path}: {error.strerror}; {what}") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    for key, kind in KINDS.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            found = "no such key" if not isinstance(content, dict) or key not in content else repr(content[key])[:60]
            raise DataError(f"{path}: '{key}' must be a {kind.__name__}, found {found}; it is not what "
                            "cross_validate.py writes: call that again")
    _check_fields({key: value for key, value in content.items() if key in NULLABLE}, str(path))
    if not _texts(content["labels"]):
        raise DataError(f"{path}: 'labels' must be a list of names, found {content['labels']!r:.60}")
    for key in ("systems", "speakers", "folds", "units"):
        entries = content[key]
        for name, entry in entries.items() if isinstance(entries, dict) else enumerate(entries, start=1):
            _check_fields(entry, f"{path}, {key[:-1]} {name}")
    return content


def _check_fields(entry: Any, where: str) -> None:
    """Raises if an entry is no mapping, or a value in it of another kind than the report computes with."""
    if not isinstance(entry, dict):
        raise DataError(f"{where} must be a mapping, found {entry!r:.60}")
    rules = FIELDS | {key: rule for key, rule in NULLABLE.items() if entry.get(key) is not None}
    for key in entry.keys() & rules:
        holds, expected = rules[key]
        if not holds(entry[key]):
            raise DataError(f"{where}: '{key}' must be {expected}, found {entry[key]!r:.60}")


def _record(kind: type[Record], entry: Any, where: str) -> Record:
    """A dataclass from a JSON object, which may say more."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    try:
        return kind(**{key: value for key, value in entry.items() if key in known})
    except (TypeError, AttributeError) as error:
        raise DataError(f"{where}: {error}") from error


def _units(about: Mapping[str, Any], systems: Mapping[str, System], where: str) -> list[Unit]:
    """The listed units, checked, and those that the plan has besides."""
    tests = [_record(_Fold, fold, f"{where}, fold {number}").test for number, fold in enumerate(about["folds"], 1)]
    listed: dict[tuple[str, str, int], Unit] = {}
    for number, entry in enumerate(about["units"], start=1):
        unit = _record(Unit, entry, f"{where}, unit {number}")
        for kind, value, known in (("system", unit.system, systems), ("test speaker", unit.test, tests),
                                   ("state", unit.state, STATES)):
            if value not in known:
                raise DataError(f"{where}, unit {number}: {unknown_name(kind, str(value), known)}")
        key = unit.system, unit.test, unit.seed
        if unit.seed not in systems[unit.system].runs:
            raise DataError(f"{where}, unit {number}: system {unit.system} has the runs {systems[unit.system].runs}, "
                            f"not {unit.seed}")
        if key in listed:
            raise DataError(f"{where}, unit {number}: system {unit.system}, test speaker {unit.test}, seed {unit.seed} "
                            "is listed twice")
        listed[key] = unit
    return [listed.get((name, test, seed), Unit(name, test, seed, "missing"))
            for name, system in systems.items() for seed in system.runs for test in tests]


def _read_predictions(path: Path, about: Mapping[str, Any]) -> dict[tuple[str, int, str, str], Predictions]:
    """The predictions of each unit and part; with the hash that results.json has, they are those that `write` wrote."""
    skip, header = len(UNIT_COLUMNS), _header(about["labels"])
    try:
        packed = path.read_bytes()
        if about["predictions"] != hashlib.sha256(packed).hexdigest():
            raise DataError(f"{path} is not the one that results.json was written with: copy both, or call "
                            "cross_validate.py again")
        first, *lines = csv.reader(io.StringIO(gzip.decompress(packed).decode(), newline=""))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; results.json and this file belong together: copy both, or call "
                        "cross_validate.py again") from error
    if first != header:
        raise DataError(f"{path} has columns {', '.join(first)}; expected {', '.join(header)}, by results.json")
    rows: dict[tuple[str, int, str, str], list[tuple[list[str], list[float]]]] = {}
    for number, line in enumerate(lines, start=2):
        system, seed, fold, part = line[:skip]
        row = predictions.parse_row(line[skip:], len(header) - skip, f"{path}, line {number}")
        rows.setdefault((system, int(seed), fold, part), []).append(row)
    return {key: predictions.from_rows(group, about["labels"]) for key, group in rows.items()}
