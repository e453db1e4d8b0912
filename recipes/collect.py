"""What a protocol's runs have left, as one result; and whose results it may replace."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from systems import HERE, Planned, Protocol

from ser_plugins import experiment, folds, protocol, registry, results, runs
from ser_plugins.contracts import numbers
from ser_plugins.corpora import manifest
from ser_plugins.errors import DataError, OptionError
from ser_plugins.models import UNTRAINED

OF_ALL = ("recipe", "seed", "test_speaker", "corpus", "corpus_options", "test_corpus", "test_corpus_options", "labels",
          "allow_missing_class", "data", "versions", "code", "head_code", "recipe_code")  # tell no systems apart
ANY_CORPUS = ("csv", "kaldi")  # readers that say nothing of which corpus it is: its folder's name does


def read_json(unit: runs.Unit, name: str, kind: type) -> Any:
    """What a file of a finished run holds."""
    try:
        content = json.loads((Path(unit.folder) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(unit, name, f"cannot be read: {error}") from error
    if not isinstance(content, kind):
        raise _broken(unit, name, f"holds {content!r:.60}")
    return content


def _broken(unit: runs.Unit, name: str, what: str) -> DataError:
    return DataError(f"{Path(unit.folder) / name} {what}; remove the run's folder {unit.folder} and call again")


def collect(one: Protocol, errors: Mapping[runs.Unit, str]) -> None:
    """Writes ``results.json`` and ``predictions.csv.gz``; ``errors`` are those of units that failed.

    Raises
    ------
    DataError
        A file of a finished run is not what the run has left.
    """
    exp, units, rows = one.exp, one.units, one.test_rows or one.rows
    table, about, ended = [], [], list[date]()
    stamps: dict[str, list[dict[str, Any]]] = {name: [] for name in one.systems}
    for unit in units:
        entry: dict[str, Any] = {"system": unit.system, "test": unit.test, "seed": unit.seed, "error": errors.get(unit),
                                 "state": "failed" if unit in errors else "missing", "seconds": None}
        keys = ("epochs", "tested_epoch", "curve")
        if unit.finished:
            metrics = read_json(unit, "metrics.json", dict)
            stamps[unit.system].append(metrics["protocol"])
            ended.append(date.fromtimestamp((Path(unit.folder) / "metrics.json").stat().st_mtime))
            entry |= {key: metrics.get(key) for key in keys}
            entry |= {"state": "finished", "seconds": read_json(unit, "seconds.json", float)}
            if entry.get("curve"):
                entry["curve"] = [[float(f"{loss:.5g}") for loss in epoch] for epoch in entry["curve"]]
            for part, name in (("test", "predictions.csv"), ("valid", "predictions_valid.csv")):
                table += [[unit.system, unit.seed, unit.test, part, *line] for line in _lines(unit, name, metrics)]
        about.append({**dict.fromkeys(keys), **entry})
    labels = exp.values["labels"]
    tested = {fold.test for fold in one.chosen}
    speakers = {row.speaker: {"gender": row.gender} for row in sorted(rows, key=lambda row: row.speaker)
                if exp.values["test_corpus"] is not None or row.speaker in tested}
    for speaker, known in speakers.items():
        counted = Counter(row.emotion for row in rows if row.speaker == speaker)
        known["counts"] = {label: counted[label] for label in labels}  # type: ignore[assignment]
    every = [stamp for of_system in stamps.values() for stamp in of_system]
    results.write(one.root, {
        "corpus": exp.values["corpus"], "test_corpus": exp.values["test_corpus"], "labels": labels,
        **{key: registry.load("corpora", exp.values[corpus]).language for key, corpus in
           (("language", "corpus"), ("test_language", "test_corpus")) if exp.values[corpus] is not None},
        **{key: Path(exp.values[key]).resolve().name for key, corpus in
           (("data_folder", "corpus"), ("test_data_folder", "test_corpus")) if exp.values[corpus] in ANY_CORPUS},
        "command": ["python", "recipes/cross_validate.py", *sys.argv[1:]],
        "date": str(max(ended, default=date.today())),
        "machine": _together(f"{stamp['machine']['system']}, Python {stamp['machine']['python']}, "
                             f"{stamp.get('device', 'cpu')}" for stamp in every),
        "definitions": protocol.definitions(exp.values),
        "protocol": {key: exp.values[key] for key in ("corpus_options", "test_corpus_options", "allow_missing_class",
                                                      "encoder", "options")}
        | {"versions": _together(f"{package} {number}" for stamp in every for part in (stamp, stamp["settings"])
                                 for package, number in part["versions"].items())},
        "speakers": speakers, "sentences": sentences(one.rows, one.test_rows, one.chosen), "claims": one.claims,
        "folds": [{"test": fold.test, "valid": fold.valid, "train": list(fold.train)} for fold in one.chosen],
        "corpus_speakers": None if one.test_rows else len({row.speaker for row in one.rows}),
        "systems": {name: _described(system, stamps[name],
                                     sorted({unit.seed for unit in units if unit.system == name}))
                    for name, system in one.systems.items()}, "units": about}, table)


def sentences(rows: Sequence[manifest.Row], test_rows: Sequence[manifest.Row], chosen: Sequence[folds.Fold]
              ) -> dict[str, int] | None:
    """How many sentences are trained on, tested, and both in one fold; None where an utterance has no transcript."""
    if not all(row.text for row in (*rows, *test_rows)):
        return None
    said: dict[str, set[str]] = {}  # by each speaker
    for row in (*rows, *test_rows):
        said.setdefault(row.speaker, set()).add(" ".join(re.findall(r"\w+", row.text.casefold())))
    foreign = {row.speaker for row in test_rows}
    parts = [(set().union(*(said[speaker] for speaker in fold.train)),
              set().union(*(said[speaker] for speaker in foreign or {fold.test}))) for fold in chosen]
    return {"trained": len(set().union(*(trained for trained, _ in parts))),
            "tested": len(set().union(*(tested for _, tested in parts))),
            "both": len(set().union(*(trained & tested for trained, tested in parts)))}


def _together(texts: Iterable[str]) -> str:
    return ", ".join(sorted(set(texts)))


def _lines(unit: runs.Unit, name: str, metrics: Mapping[str, Any]) -> list[list[str]]:
    """The lines of a run's predictions, which must have the hash that its metrics were written with."""
    content = (Path(unit.folder) / name).read_bytes()
    if metrics.get("files", {}).get(name) != hashlib.sha256(content).hexdigest():
        raise _broken(unit, name, "is not the one that the run has left")
    return list(csv.reader(io.StringIO(content.decode(), newline="")))[1:]


def _described(one: Planned, stamps: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """What results.json says of a system, of whose units the stamps are."""
    values, system = one.exp.values, one.system
    encoder = system.encoder if system.needs.encoder else None
    command = shlex.join(["python", *map(_from_clone, (one.recipe, one.words[0])), *one.words[1:]])
    source = str(values.get("encoder"))
    twin = protocol.encoder_of(source.removeprefix(UNTRAINED)) if encoder and source.startswith(UNTRAINED) else None
    reads = ["features"] * system.needs.features + ["log-probabilities"] * system.needs.log_probs
    for what, layers in (("frames", system.needs.sequences), ("means", system.needs.means)):
        reads += [f"{what} of layer {layer}" for layer in numbers(layers)]
    return {"head": values.get("head", values.get("estimator")), "layer": system.options.get("layer"),
            "settings": {**system.options, **one.options}, "runs": seeds, "reads": reads,
            "encoder": None if encoder is None else encoder.fingerprint,
            "control_of": None if twin is None else twin.fingerprint,
            "trained_with": {key: value for key, value in stamps[0]["settings"].items() if key not in OF_ALL}
            if stamps else {},
            "trainable_parameters": stamps[0].get("trainable_parameters") if stamps else None, "command": command}


def _from_clone(file: str) -> str:
    """A file of this repository as its README names it, another's by the path that the plan leads to."""
    path, clone = Path(file).resolve(), HERE.resolve().parent
    return str(path.relative_to(clone)) if path.is_relative_to(clone) else file


def refuse_other_results(root: Path, exp: experiment.Experiment) -> None:
    """Refuses to replace results of other corpora or labels, and those that could not be made again.

    Raises
    ------
    OptionError
        The folder has some; what differs.
    DataError
        Its ``results.json`` is broken.
    """
    path = root / "results.json"
    about = results_of(path)
    if about is None:
        return
    options = about["protocol"].get("corpus_options")
    then = {**{key: about.get(key) for key in ("corpus", "test_corpus", "labels")}, "corpus_options": options}
    refuse_different(path, [f"{key} {value} → {exp.values[key]}" for key, value in then.items()
                            if value != exp.values[key]])
    finished = sum(unit["state"] == "finished" for unit in about["units"])
    if finished and not (root / "runs").is_dir():
        raise OptionError(f"{path} holds {finished} finished trainings, and {root / 'runs'}, of which it was made, is "
                          "not there: they would be lost; give another --output_folder")


def refuse_other_speakers(root: Path, rows: Sequence[manifest.Row], test_rows: Sequence[manifest.Row]) -> None:
    """Refuses to replace results of another corpus that the same plugin reads: other speakers, or other utterances.

    Raises
    ------
    OptionError, DataError
        As of `refuse_other_results`.
    """
    path = root / "results.json"
    about = results_of(path)
    if about is None:
        return
    counts = Counter((row.speaker, row.emotion) for row in (*rows, *test_rows))
    now = {speaker: {label: counts[speaker, label] for label in about["labels"]} for speaker, _ in counts}
    trained = {name for fold in about["folds"] for name in (fold.get("valid"), *(fold.get("train") or ()))}
    different = [f"speaker {name} {one.get('counts')} → {now.get(name)}" for name, one in about["speakers"].items()
                 if one.get("counts") != now.get(name)]
    different += [f"training speaker {name} → None" for name in sorted(trained - now.keys())]
    different += [f"speaker {name} None → {now[name]}" for name in sorted(now.keys() - about["speakers"] - trained)]
    refuse_different(path, different)


def results_of(path: Path) -> dict[str, Any] | None:
    """A ``results.json``, checked; None where there is none."""
    try:
        return results.read_about(path) if path.is_file() else None
    except DataError as error:
        raise DataError(f"{error}; give another --output_folder, or remove that file") from error


def refuse_different(path: Path, different: Sequence[str]) -> None:
    """Raises if something differs."""
    if different:
        more = f"; and {len(different) - 3} more" if len(different) > 3 else ""
        raise OptionError(f"{path} is of another protocol ({'; '.join(different[:3])}{more}); give another "
                          "--output_folder, or remove that file")
