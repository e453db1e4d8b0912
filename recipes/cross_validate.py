"""Every system, every fold, several runs: the paper's Table 1 on any corpus, in one command that goes on where it was.

    python recipes/cross_validate.py hparams/table1.yaml --corpus emodb --data_folder EmoDB
    python recipes/report.py results/table1/emodb
    python recipes/cross_validate.py hparams/table1.yaml --corpora "[{corpus: emodb, folder: EmoDB}, …]"

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

import itertools
import json
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from operator import attrgetter, itemgetter, methodcaller
from pathlib import Path
from statistics import mean
from typing import Any

import cross_corpus
from collect import collect, read_json, refuse_other_results, refuse_other_speakers
from speechbrain.utils.distributed import infer_device
from systems import HERE, Planned, Protocol, chosen_systems, claims_of, planned, seeds_of
from tqdm import tqdm

from ser_plugins import experiment, folds, protocol, runs, store
from ser_plugins.contracts import Needs, numbers
from ser_plugins.corpora import manifest
from ser_plugins.files import write_atomically
from ser_plugins.values import told_value

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


def chosen_folds(rows: Sequence[manifest.Row], values: Mapping[str, Any]) -> list[folds.Fold]:
    """The folds that the plan names."""
    every = protocol.all_folds(rows, {**values, "test_speaker": None})
    wanted = plan.names(values["folds"])
    return [folds.find(every, name) for name in dict.fromkeys(wanted)] or every


def units_of(systems: Mapping[str, Planned], rows: Sequence[manifest.Row], chosen: Sequence[folds.Fold],
             seeds: Mapping[str, range], root: Path, manifests: Sequence[Path]) -> list[runs.Unit]:
    """Every run of the plan, the first of all systems and folds before the second of any."""
    units = []
    for name, one in systems.items():
        settings = protocol.run_settings(one.exp, one.system, rows, chosen[0])
        for seed in seeds[name]:
            for fold in chosen:
                key = protocol.run_key(settings, fold, seed)
                folder = root / "runs" / name / f"test-{fold.test}" / f"seed-{seed}-{key}"
                units.append(runs.Unit(name, fold.test, seed, one.recipe, one.words, str(folder),
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
            seconds.setdefault(unit.system, []).append(read_json(unit, "seconds.json", float))
    todo = [unit for unit in units if not unit.finished]
    unknown = [unit.system for unit in todo if unit.system not in seconds]
    known = sum(mean(seconds[unit.system]) for unit in todo if unit.system in seconds) / jobs
    told = [f"about {known / 60:.1f} minutes, by the runs that are finished"] if len(unknown) < len(todo) else []
    if unknown:
        told.append(f"how long {len(unknown)} will take is not known before a run of "
                    f"{', '.join(sorted(set(unknown)))} has ended")
    return "; ".join(told)


def of_other_settings(one: Protocol, todo: Sequence[runs.Unit]) -> list[str]:
    """Which finished runs lie beside those of the same system, fold and seed that are to be done, and what differs.

    Of a system's, the one that ended last is compared.
    """
    found: dict[str, list[str]] = {}  # what differs → how many of which system
    for name, units in itertools.groupby(sorted(todo, key=attrgetter("system")), attrgetter("system")):
        beside = [(path.stat().st_mtime, path.parent, unit) for unit in units
                  for path in Path(unit.folder).parent.glob(f"seed-{unit.seed}-*/metrics.json")
                  if path.parent != Path(unit.folder)]
        if not beside:
            continue
        _, folder, unit = max(beside, key=itemgetter(0))
        try:
            then = dict(json.loads((folder / experiment.STAMP).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            then = {}
        own, fold = one.systems[name], folds.find(one.chosen, unit.test)
        words = [*own.words, "--seed", str(unit.seed), "--output_folder", told_value(str(folder))]
        exp = runs.load_recipe(own.recipe).load(words)
        now = protocol.run_settings(exp, own.system, [*one.rows, *one.test_rows], fold)
        different = "; ".join(experiment.differences(then, {**dict.fromkeys(then), **now})) if then else ""
        found.setdefault(different or "they cannot be told", []).append(f"{len(beside)} of {name}")
    return [f"finished trainings of other settings, which stay as they are: {', '.join(systems)} ({different})"
            for different, systems in found.items()]


def prepare(root: Path, values: Mapping[str, Any], *, told: bool = True
            ) -> tuple[list[Path], list[manifest.Row], list[manifest.Row]]:
    """The manifests and their rows; they are written once it is known that the folder has no other corpus's results."""
    with tempfile.TemporaryDirectory() as temporary:
        read = protocol.write_manifests(values, Path(temporary), told=told)
        rows, test_rows = protocol.prepared_rows(read, values)
        refuse_other_speakers(root, rows, test_rows)
        for path in Path(temporary).glob("*/*"):
            write_atomically(root / "manifests" / path.relative_to(temporary), methodcaller("write", path.read_bytes()),
                             binary=True)
        return [root / "manifests" / path.relative_to(temporary) for path in read], rows, test_rows


def prepared(exp: experiment.Experiment, *, told: bool = True) -> Protocol:
    """Plan and manifest, checked: whatever is wrong with a protocol is known before any runs.

    ``told``: the counts of its corpora are printed.

    Raises
    ------
    OptionError, PluginError, DataError
        The plan or its systems, the corpus, or results that may not be replaced.
    """
    values = exp.values
    found = planned(exp)
    systems, claims = chosen_systems(found, values), claims_of(found, exp)
    seeds = seeds_of(found, values["runs"], values["runs_of"])
    root = cross_corpus.output_folder(exp)
    refuse_other_results(root, exp)
    manifests, rows, test_rows = prepare(root, values, told=told)
    chosen = chosen_folds(rows, values)
    for fold in chosen:
        protocol.split(rows, test_rows, fold, values)  # a class may be missing
    units = units_of(systems, [*rows, *test_rows], chosen, seeds, root, manifests)
    return Protocol(exp, root, systems, claims, rows, test_rows, chosen, units)


def run(one: Protocol) -> bool:
    """What is to be done → representations → runs → results; whether all runs succeeded."""
    exp, values, units = one.exp, one.exp.values, one.units
    todo = [unit for unit in units if not unit.finished]
    most = len({unit.seed for unit in units})
    print(f"\n{len(one.systems)} systems ({', '.join(one.systems)}), {len(one.chosen)} folds, {most} seeds: "
          f"{len(units)} trainings, of which {len(units) - len(todo)} are finished", flush=True)
    errors: dict[runs.Unit, str] = {}
    if todo:
        for line in of_other_settings(one, todo):
            print(line, flush=True)
        precompute({unit.system: one.systems[unit.system] for unit in todo}, one.rows, one.test_rows,
                   values["num_workers"], progress=not exp.run_opts.noprogressbar)
        collect(one, errors)  # if a training is killed, the results are not those of an earlier plan
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
        collect(one, errors)
        print(f"results: {one.root / 'results.json'}, {one.root / 'predictions.csv.gz'}\n"
              f"tables and figures: {report_of([one.root])}")
        for unit, error in errors.items():
            print(f"\nFAILED {unit.system}, test {unit.test}, seed {unit.seed}: {error}", file=sys.stderr)
    return not errors


def report_of(roots: Sequence[Path], *more: str) -> str:
    """The command line of report.py."""
    return shlex.join(["python", "recipes/report.py", *map(str, roots), *more])


def main(argv: Sequence[str]) -> None:
    """All that is asked for is prepared, and then run; with several corpora, a protocol of each and of every pair."""
    exp = experiment.load(argv)
    experiment.check_values(exp.values, RULES)
    runs.check_backend(exp.values["backend"])
    cells = cross_corpus.cells(exp, argv)
    alone = [len(cells) == 1 or cell.values["test_corpus"] is None for cell in cells]  # where a corpus is told
    protocols = [prepared(cell, told=told) for cell, told in zip(cells, alone, strict=True)]
    failed = []
    for number, one in enumerate(protocols, start=1):
        if len(protocols) > 1:
            print(f"\n{number} of {len(protocols)}: {one.root}", flush=True)
        if not run(one):
            failed.append(str(one.root))
    if len(protocols) > 1:
        roots = [one.root for one in protocols]
        matrix = report_of(roots, "--output_folder", str(roots[0].parent / "report_corpora"))
        print(f"\nthe matrix of the corpora: {matrix}")
    if failed:
        if len(protocols) > 1:
            print(f"FAILED trainings in {', '.join(failed)}; see above", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    experiment.run(main)
