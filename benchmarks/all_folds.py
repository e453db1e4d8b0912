"""Every speaker tested once by every system: the table of results of one corpus.

    python benchmarks/all_folds.py --corpus emodb --data_folder EmoDB --jobs 2
    python benchmarks/all_folds.py --corpus ravdess --data_folder RAVDESS --systems mp,progressive -- --seed 2

What follows ``--`` goes to each run of recipes/train_ser.py. Representations are computed first, once for all systems
and folds, with every core; then the runs share ``--jobs`` processes of one thread each. Started again after an
interruption, it goes on: a finished run is only tested again (the seconds of an interrupted run are those after the
interruption). A run that fails is reported at the end (exit code 1)
and the others are kept. Metrics come from the runs' ``predictions.csv``; ``OUTPUT_ROOT/CORPUS/summary.json`` has all.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from common import HPARAMS, RECIPES, command_line, describe, table
from speechbrain.utils.distributed import infer_device
from tqdm import tqdm

from ser_plugins import experiment, folds, metrics, predictions, significance, store
from ser_plugins.contracts import Needs, numbers
from ser_plugins.errors import SerError
from ser_plugins.files import write_atomically

sys.path.insert(0, str(RECIPES))
import train_ser

DEFINITION = ("UA: mean of the classes' recalls; WA: share of utterances that are right; F1: mean of the classes' F1; "
              "in %, pooled over the utterances of all test speakers, and UA as mean ± standard deviation over "
              "speakers. Leave one speaker out; the tested epoch has the lowest validation cross-entropy.")


@dataclass(frozen=True)
class Run:
    """What came of one fold: the run's folder, or what went wrong."""

    system: str
    speaker: str
    folder: str = ""
    error: str = ""


def arguments(system: str, options: Sequence[str], speaker: str | None = None) -> list[str]:
    """Command line of train_ser.py; a speaker is quoted, since YAML reads 03 as a number."""
    chosen = [] if speaker is None else ["--test_speaker", json.dumps(speaker)]
    return [str(HPARAMS / f"{system}.yaml"), *options, *chosen, "--noprogressbar"]


def precompute(systems: Sequence[str], options: Sequence[str]) -> list[str]:
    """Stores what the systems need of every utterance and variant, in one pass over the audio; lists the speakers."""
    wanted: dict[tuple[str, str], tuple[Needs, Any]] = {}  # fingerprints → needs of the systems that share them
    for system in systems:
        exp = experiment.load(arguments(system, options))
        rows, _ = train_ser.prepare(exp.values)
        _, needs, extractor, encoder, _ = train_ser.build_parts(exp.values, exp.given)
        parts = (extractor.fingerprint, encoder.fingerprint)
        old = wanted[parts][0] if parts in wanted else Needs()
        wanted[parts] = (Needs(features=old.features or needs.features,
                               sequences=tuple(sorted({*numbers(old.sequences), *numbers(needs.sequences)})),
                               means=tuple(sorted({*numbers(old.means), *numbers(needs.means)}))),
                         (extractor, encoder, exp))
    for needs, (extractor, encoder, exp) in wanted.values():
        stored = store.Store(exp.values["store_folder"], needs, extractor, encoder)
        device = exp.run_opts.device or infer_device()
        train_ser.represented({"train": rows, "valid": [], "test": []}, stored, exp.values, device)
    sessions = folds.speaker_sessions((row.speaker, row.session) for row in rows)
    return [fold.test for fold in folds.leave_one_speaker_out(sessions)]


def run(system: str, speaker: str, options: Sequence[str]) -> Run:
    """Trains and tests one fold in a worker; what it prints goes to ``output.txt`` in the run's folder."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(output):
        try:
            folder = train_ser.main(arguments(system, options, speaker))
        except SerError as error:
            return Run(system, speaker, error=f"error: {error}")
        except Exception:
            return Run(system, speaker, error=output.getvalue() + traceback.format_exc())
    (folder / "output.txt").write_text(output.getvalue(), encoding="utf-8")
    if not (folder / "seconds.json").is_file():  # else it was finished before, and only tested again
        write_atomically(folder / "seconds.json", lambda file: json.dump(time.perf_counter() - started, file))
    return Run(system, speaker, str(folder))


def run_all(systems: Sequence[str], speakers: Sequence[str], options: Sequence[str], jobs: int) -> list[Run]:
    """Runs every system and fold; a failure is a `Run` with its error."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers, which are spawned and so read it anew
    runs = []
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(run, system, speaker, options): (system, speaker)
                   for system in systems for speaker in speakers}
        try:
            for future in tqdm(as_completed(futures), total=len(futures), desc="runs", unit="run"):
                failure = future.exception()  # a worker that was killed
                runs.append(Run(*futures[future], error=repr(failure)) if failure else future.result())
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return sorted(runs, key=lambda one: (systems.index(one.system), one.speaker))


def summarise(folders: Sequence[Path]) -> dict[str, Any]:
    """Metrics of one system from its runs' predictions; sizes and epochs from their protocol stamps."""
    pooled = predictions.read(*(folder / "predictions.csv" for folder in folders))
    each = [predictions.read(folder / "predictions.csv") for folder in folders]
    recalls = [metrics.unweighted_accuracy(one.truth, one.predicted, one.names) for one in each]
    stamps = [json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in folders]
    return {
        "system": stamps[0]["protocol"]["system"], "speakers": len(folders), "utterances": len(pooled.ids),
        "labels": pooled.names, **metrics.summary(pooled.truth, pooled.predicted, pooled.names),
        "UA_speakers": {stamp["protocol"]["fold"]["test"]: value
                        for stamp, value in zip(stamps, recalls, strict=True)},
        "UA_mean": mean(recalls), "UA_sd": stdev(recalls) if len(recalls) > 1 else None,
        "trainable_parameters": stamps[0]["protocol"]["trainable_parameters"],
        "epochs_mean": mean(stamp["epochs"] for stamp in stamps),
        "run_seconds_mean": mean(json.loads((folder / "seconds.json").read_text()) for folder in folders),
    }


def results(summaries: Sequence[dict[str, Any]]) -> str:
    """The table."""
    rows = []
    for one in summaries:
        deviation = "" if one["UA_sd"] is None else f" ± {100 * one['UA_sd']:.1f}"
        rows.append([one["system"], f"{100 * one['UA']:.1f}", f"{100 * one['WA']:.1f}", f"{100 * one['F1']:.1f}",
                     f"{100 * one['UA_mean']:.1f}{deviation}", f"{one['trainable_parameters']:,}",
                     f"{one['epochs_mean']:.0f}", f"{one['run_seconds_mean']:.0f}",
                     f"{one['speakers']} / {one['utterances']}"])
    return table(["system", "UA", "WA", "F1", "UA, speakers", "trained parameters", "epochs", "s per run",
                  "speakers / utterances"], rows)


def certainty(folders: dict[str, list[Path]]) -> str:
    """UA's intervals over speakers, and each pair's difference, of the systems that ran on the same utterances."""
    pooled = {system: predictions.read(*(folder / "predictions.csv" for folder in found))
              for system, found in folders.items() if len(found) > 1}
    lines = ["UA with its 95 % interval over speakers; differences with p, and p after Holm's correction"]
    for system, one in pooled.items():
        interval = significance.confidence_interval(one)
        lines.append(f"{system}: {interval.value:.3f} ({interval.low:.3f}–{interval.high:.3f})")
    if len(pooled) > 1 and len({frozenset(one.ids) for one in pooled.values()}) == 1:
        for pair in significance.compare_all(pooled):
            found = pair.bootstrap
            lines.append(f"{' − '.join(pair.names)}: {found.value:+.3f} ({found.low:+.3f}–{found.high:+.3f}), "
                         f"p {found.p:.3f}, {found.holm:.3f}")
    return "\n".join(lines)


def main() -> int:
    """Reads the command line, runs, prints the table; 1 if a run failed."""
    own, more = command_line()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="synthetic")
    parser.add_argument("--data_folder", help="where the corpus lies; synthetic speech is made")
    parser.add_argument("--systems", default="baseline,mp,rnn,progressive", help="YAML files of hparams/")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes of one thread each")
    parser.add_argument("--output_root", default="results")
    args = parser.parse_args(own)
    systems = args.systems.split(",")
    options = ["--corpus", args.corpus, "--output_root", args.output_root, *more]
    if args.data_folder is not None:
        options += ["--data_folder", args.data_folder]

    started = time.perf_counter()
    try:
        speakers = precompute(systems, options)
    except SerError as error:
        sys.exit(f"error: {error}")
    stored = time.perf_counter() - started
    runs = run_all(systems, speakers, options, args.jobs)
    seconds = time.perf_counter() - started

    folders = {system: [Path(one.folder) for one in runs if one.system == system and not one.error]
               for system in systems}
    summaries = [summarise(found) for found in folders.values() if found]
    failed = [one for one in runs if one.error]
    machine = f"{describe()}; jobs {args.jobs}, one thread each"
    content = {"command": sys.argv, "corpus": args.corpus, "definition": DEFINITION, "machine": machine,
               "representations_seconds": stored, "seconds": seconds, "systems": summaries,
               "failed": {f"{one.system} {one.speaker}": one.error for one in failed}}
    write_atomically(Path(args.output_root) / args.corpus / "summary.json",
                     lambda file: json.dump(content, file, indent=2))
    print(f"\n{args.corpus}\n\n{results(summaries)}\n\n{DEFINITION}\n\n{certainty(folders)}\n\n{machine}\n"
          f"this call: {stored:.0f} s for manifest and representations, {seconds:.0f} s in all")
    for one in failed:
        print(f"\nFAILED {one.system}, test speaker {one.speaker}: {one.error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
