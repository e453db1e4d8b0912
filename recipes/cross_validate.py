"""Every system, every fold, several runs: the paper's Table 1 on any corpus, in one command that goes on where it was.

    python recipes/cross_validate.py hparams/table1.yaml --corpus emodb --data_folder EmoDB
    python recipes/report.py results/table1/emodb

The plan is the YAML. A run (system, fold, seed) is one of train_ser.py or train_sklearn.py, in a folder named by a hash
of all that decides its numbers: one that is finished is not run again, one that was ended goes on, and one with another
setting is another run. Representations are computed first, once for all. A run that fails is told at the end (exit code
1), and the others are kept. ``results.json`` and ``predictions.csv.gz`` are all that report.py reads.
"""

from __future__ import annotations

import plan

from ser_plugins import command_line

if __name__ == "__main__":
    command_line.refuse_mistakes(plan.refuse_misspelt_systems)  # before imports that take seconds

import csv
import hashlib
import io
import json
import re
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from operator import methodcaller
from pathlib import Path
from statistics import mean
from typing import Any

import protocol
from speechbrain.utils.distributed import infer_device
from tqdm import tqdm

from ser_plugins import experiment, folds, registry, results, runs, store
from ser_plugins.claims import read_claims
from ser_plugins.contracts import Needs, fingerprint, numbers
from ser_plugins.corpora import manifest
from ser_plugins.errors import DataError, OptionError, unknown_name
from ser_plugins.files import write_atomically
from ser_plugins.models import UNTRAINED

HERE = Path(__file__).parent
_NUMBER = re.compile(r"-\d+")  # of a layer or of units, in a system's name
TOLD = ("corpus", "data_folder", "corpus_options", "test_corpus", "test_data_folder", "test_corpus_options", "labels",
        "allow_missing_class", "store_folder")  # keys of the plan that every recipe has
ANY_CORPUS = ("csv", "kaldi")  # readers that say nothing of which corpus it is: its folder's name does
OURS = {"seed": "runs", "test_speaker": "folds", "output_folder": "output_folder"}  # of each run → key of the plan
RULES: experiment.Rules = {
    "runs": (lambda value: value >= 1, "1 or more"),
    "runs_of": (lambda value: all(type(number) is int and number >= 1 for number in value.values()),
                "a number of 1 or more for each kind of system, as {rnn: 3, progressive: 3}"),
    "jobs": (lambda value: value >= 1, "1 or more"),
    "backend": (lambda value: value in runs.BACKENDS, f"one of {', '.join(runs.BACKENDS)}"),
    "labels": protocol.LABELS_RULE,
    "num_workers": (lambda value: value >= 0, "0 or more"),
    **dict.fromkeys(("output_folder", "store_folder"), (
        lambda value: isinstance(value, str) and bool(value), "a folder's name, as results/mine")),
}


@dataclass(frozen=True)
class Planned:
    """A system of the plan: the file of its recipe, the command line but for fold and seed, and what is built of it.

    ``options`` are those that its entry of the plan gives it alone.
    """

    recipe: str
    words: tuple[str, ...]
    options: Mapping[str, Any]
    exp: experiment.Experiment
    system: protocol.System


def planned(exp: experiment.Experiment) -> dict[str, Planned]:
    """Name → system of the plan, built, so that whatever is wrong with one is known before anything runs.

    Raises
    ------
    OptionError
        An entry of the plan is no system, two have one name, or there is none.
    """
    values = exp.values
    found: dict[str, Planned] = {}
    for entry in values["plan"]:
        if not isinstance(entry, Mapping) or "hparams" not in entry:
            raise OptionError(f"{exp.file}: a system of the plan is {{hparams: FILE, key: value, …}}, not {entry}")
        encoder = entry.get("encoder", values["options"].get("encoder", values["encoder"]))
        if not isinstance(encoder, str):
            raise OptionError(f"{exp.file}: the encoder {encoder} of {entry} is neither a name nor a folder")
        layers = len(protocol.encoder_of(encoder).layer_dims) if "layer" in entry else 0
        for options in plan.sweep(entry, layers):
            one = _planned(exp, options)
            if one.system.name in found:
                raise OptionError(f"{exp.file}: two systems of the plan are '{one.system.name}': give one of the "
                                  "entries a suffix, as {hparams: mp.yaml, suffix: yin}")
            found[one.system.name] = one
    if not found:
        raise OptionError(f"{exp.file}: the plan has no system")
    return found


def chosen_systems(found: Mapping[str, Planned], values: Mapping[str, Any]) -> dict[str, Planned]:
    """The systems that are asked for.

    Raises
    ------
    OptionError
        The plan has no such system.
    """
    wanted = plan.names(values["systems"]) or list(found)
    for name in wanted:
        if name not in found:
            raise OptionError(unknown_name("system", name, found, "systems of the plan"))
    return {name: one for name, one in found.items() if name in wanted}


def claims_of(found: Mapping[str, Planned], exp: experiment.Experiment) -> list[tuple[str, str]]:
    """The plan's claims. Those of the file about a layer or size that the plan does not have are told and left out.

    So are the file's about any other systems where the command line has another ``plan``.

    Raises
    ------
    OptionError
        They are no pairs of systems, or name one that the plan does not have.
    """
    claims = read_claims(exp.values.get("claims") or [])
    kinds = {_NUMBER.sub("", name) for name in found}
    own, other_plan = "claims" in exp.given, "plan" in exp.given
    for better, worse in claims:
        lacking = [name for name in (better, worse) if name not in found]
        for name in lacking:
            if own or (_NUMBER.sub("", name) not in kinds and not other_plan):
                raise OptionError(f"claim [{better}, {worse}]: "
                                  + unknown_name("system", name, found, "systems of the plan"))
        if lacking:
            print(f"claim left out: {better} is better than {worse}; the plan has no {' and no '.join(lacking)}")
    return [claim for claim in claims if set(claim) <= found.keys()]


def _planned(exp: experiment.Experiment, options: dict[str, Any]) -> Planned:
    values = exp.values
    file, recipe = exp.file.parent / options.pop("hparams"), options.pop("recipe", "train_ser.py")
    suffix = options.pop("suffix", None)
    for key in (*options, *values["options"]):
        if key in TOLD:
            raise OptionError(f"{exp.file}: {key} is one for all systems: give --{key}, not as an option of one")
        if key in OURS:
            raise OptionError(f"{exp.file}: {key} is what the plan gives each run: choose by --{OURS[key]}")
    encoder = {"encoder": values["options"].get("encoder", values["encoder"])} if recipe in plan.OURS else {}
    shared = encoder | (values["options"] if recipe == "train_ser.py" else {})
    of_all = {key: values[key] for key in TOLD if values["test_corpus"] is not None or not key.startswith("test_")}
    complete = of_all | shared | options
    given = [f"--{key}" if exp.run_opts[key] is True else f"--{key}={exp.run_opts[key]}"
             for key in sorted(exp.run_opts.overridden_args - {"noprogressbar"})]  # SpeechBrain's
    told = [word for key, value in complete.items() for word in (f"--{key}", json.dumps(value))]
    words = (str(file), *told, *given, "--noprogressbar")
    if suffix is not None and not re.fullmatch(r"[^\s/,]+", str(suffix)):
        raise OptionError(f"{exp.file}: suffix '{suffix}' is part of a folder's name and of one in --systems: it has "
                          "neither /, comma nor white space")
    module = runs.load_recipe(HERE / recipe)
    one = module.load(words)
    system = module.build(one)
    name = system.name if suffix is None else f"{system.name}-{suffix}"
    told_apart = options if suffix is None else {**options, "suffix": suffix}
    return Planned(str(HERE / recipe), words, told_apart, one, replace(system, name=name))


def chosen_folds(rows: Sequence[manifest.Row], values: Mapping[str, Any]) -> list[folds.Fold]:
    """The folds that the plan names."""
    every = protocol.all_folds(rows, {**values, "test_speaker": None})
    wanted = plan.names(values["folds"])
    return [folds.find(every, name) for name in dict.fromkeys(wanted)] or every


def seeds_of(found: Mapping[str, Planned], number: int, number_of: Mapping[str, int]) -> dict[str, range]:
    """The seeds of each system of the plan.

    The number of a kind is that of the systems whose names begin with it; the longest such beginning counts.

    Raises
    ------
    OptionError
        The plan has no system of some kind.
    """
    seeds, unused = {}, set(number_of)
    for name, one in found.items():
        kinds = sorted((kind for kind in number_of if f"{name}-".startswith(f"{kind}-")), key=len)
        unused -= set(kinds)
        last = 1 if one.system.deterministic else number_of[kinds[-1]] if kinds else number
        seeds[name] = range(1, last + 1)
    for kind in sorted(unused):
        raise OptionError("--runs_of: " + unknown_name("kind of system", kind, found, "systems of the plan"))
    return seeds


def units_of(systems: Mapping[str, Planned], rows: Sequence[manifest.Row], chosen: Sequence[folds.Fold],
             seeds: Mapping[str, range], root: Path, manifests: Sequence[Path]) -> list[runs.Unit]:
    """Every run of the plan, the first of all systems and folds before the second of any."""
    units = []
    for name, one in systems.items():
        settings = protocol.run_settings(one.exp, one.system, rows, chosen[0])
        for seed in seeds[name]:
            for fold in chosen:
                key = fingerprint(settings | {"test_speaker": fold.test, "seed": seed}, {})[:8]  # as protocol.run_key
                folder = root / "runs" / name / f"test-{fold.test}" / f"seed-{seed}-{key}"
                words = (*one.words, "--seed", str(seed), "--output_folder", str(folder))
                units.append(runs.Unit(name, fold.test, seed, one.recipe, words, str(folder),
                                       tuple(map(str, manifests)), key, str(Path.cwd()),
                                       str(HERE)))
    return sorted(units, key=lambda unit: unit.seed)  # stable


def precompute(systems: Mapping[str, Planned], rows: Sequence[manifest.Row], test_rows: Sequence[manifest.Row],
               workers: int, *, progress: bool) -> None:
    """Stores what the systems need of every utterance and variant, in one pass over the audio for each encoder."""
    merged: dict[tuple[str, ...], tuple[Needs, Planned]] = {}
    for one in systems.values():
        needs, extractor, encoder = one.system.needs, one.system.extractor, one.system.encoder
        parts = ("" if extractor is None else extractor.fingerprint, "" if encoder is None else encoder.fingerprint,
                 *(str(one.exp.values.get(key)) for key in ("tempi", "gain")))
        old = merged[parts][0] if parts in merged else Needs()
        merged[parts] = (Needs(features=old.features or needs.features,
                               sequences=tuple(sorted({*numbers(old.sequences), *numbers(needs.sequences)})),
                               means=tuple(sorted({*numbers(old.means), *numbers(needs.means)})),
                               log_probs=old.log_probs or needs.log_probs), one)
    for needs, one in merged.values():
        values = {"tempi": [], "gain": [0, 0]} | one.exp.values | {"num_workers": workers}
        stored = store.Store(values["store_folder"], needs, one.system.extractor, one.system.encoder)
        device = one.exp.run_opts.device or infer_device()
        protocol.represented({"train": rows, "valid": [], "test": test_rows}, stored, values, device,
                             progress=progress)


def expected(units: Sequence[runs.Unit], jobs: int) -> str:
    """How long the unfinished runs will take, from the finished ones of each system."""
    seconds: dict[str, list[float]] = {}
    for unit in units:
        if unit.finished:
            seconds.setdefault(unit.system, []).append(_json(unit, "seconds.json", float))
    todo = [unit for unit in units if not unit.finished]
    unknown = [unit.system for unit in todo if unit.system not in seconds]
    known = sum(mean(seconds[unit.system]) for unit in todo if unit.system in seconds) / jobs
    told = [f"about {known / 60:.1f} minutes, by the runs that are finished"] if len(unknown) < len(todo) else []
    if unknown:
        told.append(f"how long {len(unknown)} will take is not known before a run of "
                    f"{', '.join(sorted(set(unknown)))} has ended")
    return "; ".join(told)


def _json(unit: runs.Unit, name: str, kind: type) -> Any:
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


def collect(root: Path, exp: experiment.Experiment, systems: Mapping[str, Planned], units: Sequence[runs.Unit],
            errors: Mapping[runs.Unit, str], corpus_rows: Sequence[manifest.Row], test_rows: Sequence[manifest.Row],
            chosen: Sequence[folds.Fold], claims: Sequence[tuple[str, str]]) -> None:
    """Writes ``results.json`` and ``predictions.csv.gz``.

    Raises
    ------
    DataError
        A file of a finished run is not what the run has left.
    """
    rows = test_rows or corpus_rows
    table, about = [], []
    stamps: dict[str, list[dict[str, Any]]] = {name: [] for name in systems}
    for unit in units:
        entry: dict[str, Any] = {"system": unit.system, "test": unit.test, "seed": unit.seed, "error": errors.get(unit),
                                 "state": "failed" if unit in errors else "missing", "seconds": None}
        keys = ("epochs", "tested_epoch", "curve")
        if unit.finished:
            metrics = _json(unit, "metrics.json", dict)
            stamps[unit.system].append(metrics["protocol"])
            entry |= {key: metrics.get(key) for key in keys}
            entry |= {"state": "finished", "seconds": _json(unit, "seconds.json", float)}
            if entry.get("curve"):
                entry["curve"] = [[float(f"{loss:.5g}") for loss in epoch] for epoch in entry["curve"]]
            for part, name in (("test", "predictions.csv"), ("valid", "predictions_valid.csv")):
                table += [[unit.system, unit.seed, unit.test, part, *line] for line in _lines(unit, name, metrics)]
        about.append({**dict.fromkeys(keys), **entry})
    labels = exp.values["labels"]
    tested = {fold.test for fold in chosen}
    speakers = {row.speaker: {"gender": row.gender} for row in sorted(rows, key=lambda row: row.speaker)
                if exp.values["test_corpus"] is not None or row.speaker in tested}
    for speaker, known in speakers.items():
        counted = Counter(row.emotion for row in rows if row.speaker == speaker)
        known["counts"] = {label: counted[label] for label in labels}  # type: ignore[assignment]
    every = [stamp for of_system in stamps.values() for stamp in of_system]
    results.write(root, {
        "corpus": exp.values["corpus"], "test_corpus": exp.values["test_corpus"], "labels": labels,
        **{key: registry.load("corpora", exp.values[corpus]).language for key, corpus in
           (("language", "corpus"), ("test_language", "test_corpus")) if exp.values[corpus] is not None},
        **{key: Path(exp.values[key]).resolve().name for key, corpus in
           (("data_folder", "corpus"), ("test_data_folder", "test_corpus")) if exp.values[corpus] in ANY_CORPUS},
        "command": ["python", f"recipes/{Path(__file__).name}", *sys.argv[1:]], "date": str(date.today()),
        "machine": _together(f"{stamp['machine']['system']}, Python {stamp['machine']['python']}" for stamp in every),
        "definitions": protocol.definitions(exp.values),
        "protocol": {key: exp.values[key] for key in ("corpus_options", "test_corpus_options", "allow_missing_class",
                                                      "encoder", "options")}
        | {"versions": _together(f"{package} {number}" for stamp in every
                                 for package, number in stamp["versions"].items())},
        "speakers": speakers, "sentences": sentences(corpus_rows, test_rows, chosen), "claims": claims,
        "folds": [{"test": fold.test, "valid": fold.valid, "train": list(fold.train)} for fold in chosen],
        "corpus_speakers": None if test_rows else len({row.speaker for row in corpus_rows}),
        "systems": {name: _described(one, stamps[name], sorted({unit.seed for unit in units if unit.system == name}))
                    for name, one in systems.items()}, "units": about}, table)


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
    command = shlex.join(["python", f"recipes/{Path(one.recipe).name}", f"hparams/{Path(one.words[0]).name}",
                          *one.words[1:]])
    untrained = encoder is not None and str(values["encoder"]).startswith(UNTRAINED)
    own = {key: value for key, value in one.options.items() if not (untrained and key == "encoder")}
    settings = {**system.options, **own, **({"untrained_encoder": True} if untrained else {})}
    reads = ["features"] * system.needs.features + ["log-probabilities"] * system.needs.log_probs
    for what, layers in (("frames", system.needs.sequences), ("means", system.needs.means)):
        reads += [f"{what} of layer {layer}" for layer in numbers(layers)]
    return {"head": values.get("head"), "layer": system.options.get("layer"),
            "settings": settings, "runs": seeds, "reads": reads,
            "encoder": None if encoder is None else encoder.fingerprint,
            "trainable_parameters": stamps[0].get("trainable_parameters") if stamps else None, "command": command}


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
    counts = Counter((row.speaker, row.emotion) for row in test_rows or rows)
    now = {speaker: {label: counts[speaker, label] for label in about["labels"]} for speaker, _ in counts}
    different = [f"speaker {name} {one.get('counts')} → {now.get(name)}" for name, one in about["speakers"].items()
                 if one.get("counts") != now.get(name)]
    trained = {name for fold in about["folds"] for name in (fold.get("valid"), *(fold.get("train") or ()))}
    different += [f"training speaker {name} → None" for name in sorted(trained - {row.speaker for row in rows})]
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


def prepare(root: Path, values: Mapping[str, Any]
            ) -> tuple[list[Path], list[manifest.Row], list[manifest.Row]]:
    """The manifests and their rows; they are written once it is known that the folder has no other corpus's results."""
    with tempfile.TemporaryDirectory() as temporary:
        read = protocol.write_manifests(values, Path(temporary))
        rows, test_rows = protocol.prepared_rows(read, values)
        refuse_other_speakers(root, rows, test_rows)
        for path in Path(temporary).glob("*/*"):
            write_atomically(root / "manifests" / path.relative_to(temporary), methodcaller("write", path.read_bytes()),
                             binary=True)
        return [root / "manifests" / path.relative_to(temporary) for path in read], rows, test_rows


def main(argv: Sequence[str]) -> None:
    """Plan → manifest → what is to be done → representations → runs → results."""
    exp = experiment.load(argv)
    values = exp.values
    experiment.check_values(values, RULES)
    protocol.check_corpora(values, exp.given)
    if plan.names(values["folds"]) and values["test_corpus"] is not None:
        raise OptionError("--folds goes without --test_corpus: the whole of that is one fold")
    runs.check_backend(values["backend"])
    found = planned(exp)
    systems, claims = chosen_systems(found, values), claims_of(found, exp)
    seeds = seeds_of(found, values["runs"], values["runs_of"])
    root = Path(values["output_folder"])
    if values["test_corpus"] is not None and "output_folder" not in exp.given:
        root = root.with_name(f"{root.name}-to-{values['test_corpus']}")
    refuse_other_results(root, exp)
    manifests, rows, test_rows = prepare(root, values)
    chosen = chosen_folds(rows, values)
    for fold in chosen:
        protocol.split(rows, test_rows, fold, values)  # a class may be missing
    units = units_of(systems, [*rows, *test_rows], chosen, seeds, root, manifests)
    todo = [unit for unit in units if not unit.finished]
    most = max(len(seeds[name]) for name in systems)
    print(f"\n{len(systems)} systems ({', '.join(systems)}), {len(chosen)} folds, {most} seeds: {len(units)} "
          f"trainings, of which {len(units) - len(todo)} are finished", flush=True)
    errors: dict[runs.Unit, str] = {}
    write = partial(collect, root, exp, systems, units, errors, rows, test_rows, chosen, claims)
    if todo:
        precompute(systems, rows, test_rows, values["num_workers"], progress=not exp.run_opts.noprogressbar)
        write()  # if this is killed, the results are not those of an earlier plan
        print(f"{len(todo)} trainings, {values['jobs']} at a time; {expected(units, values['jobs'])}", flush=True)
    bar = tqdm(total=len(todo), desc="trainings", unit="training", smoothing=0.05,
               disable=exp.run_opts.noprogressbar or not todo)
    try:
        with bar:
            for unit, error in runs.run_all(todo, values["jobs"], values["backend"]) if todo else ():
                bar.set_postfix_str(f"{unit.system} {unit.test}")
                bar.update()
                if error is not None:
                    errors[unit] = error
    finally:  # what there is, however it ended; the report tells what is missing
        write()
        print(f"results: {root / 'results.json'}, {root / 'predictions.csv.gz'}\n"
              f"tables and figures: python recipes/report.py {root}")
        for unit, error in errors.items():
            print(f"\nFAILED {unit.system}, test {unit.test}, seed {unit.seed}: {error}", file=sys.stderr)
    if errors:
        sys.exit(1)


if __name__ == "__main__":
    experiment.run(main)
