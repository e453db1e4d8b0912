"""A page with tables and figures from the results of a protocol.

    python recipes/report.py RESULTS [RESULTS2 …] [--output_folder DIR]

RESULTS is a folder that recipes/cross_validate.py wrote. DIR (by default RESULTS/report) gets ``index.html``, which
needs no other file, the figures as PNG and PDF, and the tables as CSV (all digits) and LaTeX (booktabs). Several
folders give the matrix of corpora trained on × tested on, by default in RESULTS/report_corpora.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import report_corpora
from report_parts import INTERVAL, Scores, contestants, partly_tested, protocol, scores_of
from tqdm import tqdm

from ser_plugins import command_line, figures, metrics, page, predictions, significance
from ser_plugins.claims import judge
from ser_plugins.page import Picture, Section, Table
from ser_plugins.results import Results, System

SHARES = np.arange(6, 21) / 20  # of the utterances kept
CAPTIONS = {
    "systems": "Table 1. Mean ± standard deviation; over runs, of a metric pooled over all test speakers; over "
               "speakers, of each speaker's own, averaged over runs. The 95 % interval is that of UA over speakers; "
               "the CSV file has those of WA and F1 too; a dash where speakers are too few, or all but one or two "
               "alike. Units (finished/planned) are trainings of one fold; a run is "
               "all folds of one seed.",
    "missing": "Units without a result.",
    "who_beats_whom": "Above the diagonal: row minus column, percentage points of UA. Below it: p after Holm's "
                      "correction over the pairs shown. Bold, in full colour: p ≤ 0.05.",
    "claims": "Claims of the plan, tested on UA: p before and after Holm's correction over these claims; supported or "
              "contradicted at 0.05. They are the plan's question, and all pairs below a look around.",
    "random_weights": "Trained against random weights: the same system over the same recogniser, before and after its "
                      "training. p before and after Holm's correction over these pairs; supported: the trained one is "
                      "better.",
    "comparisons": "All pairs: difference of UA, its 95 % interval over speakers, and p before and after Holm's "
                   "correction over the pairs shown. The CSV file has Nadeau–Bengio's, Wilcoxon's and McNemar's tests "
                   "beside them, each corrected over the same pairs.",
    "confusions": "All folds, averaged over runs: each row in per cent of its true class. A figure of each system "
                  "alone, with the mean counts, is confusion_SYSTEM.png (and .pdf).",
    "confusions_table": "Confusion matrices. Share of each true class that is taken for each.",
    "layers": "Mean over runs, with the 95 % interval over speakers. Dashed: a recogniser with random weights. "
              "Dotted: systems without the recogniser.",
    "layers_table": "UA by layer.",
    "speakers": "UA of each test speaker, averaged over runs; the worst is named, a bar marks the mean.",
    "genders": "Mean UA of each gender's speakers; the worst and the best. The CSV file has every speaker.",
    "calibration": "ECE over 15 bins, mean ± standard deviation over runs, and cross-entropy (nats); T, median and "
                   "range over folds and runs; "
                   "UA when the most confident half, or all, is kept.",
    "reliability": "All runs together; the area of a mark is its bin's share of the utterances. Below the dotted line "
                   "a system is surer than it is right.",
    "coverage": "UA of the most confident share, by the tempered confidence where there is one; a class of which no "
                "utterance is kept is left out. Grey: the best of all systems at that share.",
    "curves": "Cross-entropy: median over folds and runs, and the middle half of them. Units that ended are left out "
              "of later epochs; a line ends where fewer than half are left. The first "
              "epochs may be above the frame.",
}


def statistics(name: str, values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """``NAME_mean`` and ``NAME_sd`` (of the sample), and both as the text NAME.

    Example
    -------
    >>> statistics("UA", [0.5, 0.7])["UA"], statistics("UA", [0.5])
    ('0.600 ± 0.141', {'UA_mean': 0.5, 'UA_sd': None, 'UA': '0.500'})
    """
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
    text = f"{mean:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")
    return {f"{name}_mean": mean, f"{name}_sd": deviation, name: text}


def overview(results: Results, scores: Mapping[str, Scores]) -> Section:
    """Table 1, and which units are missing."""
    records = []
    lost: dict[tuple[str, int, str, str], list[str]] = {}
    for name, system in results.systems.items():
        units, complete = results.units_of(name), len(results.complete(name))
        finished, runs = sum(unit.state == "finished" for unit in units), len({unit.seed for unit in units})
        record: dict[str, Any] = {
            "system": name, "units": f"{finished}/{len(units)}", "complete_runs": f"{complete}/{runs}",
            "trainable_parameters": system.trainable_parameters}
        if name in scores:
            one = scores[name]
            for metric in significance.METRICS:
                record |= statistics(f"{metric}_runs", one.values[metric])
                record |= statistics(f"{metric}_speakers", one.by_speaker[metric])
                record |= dict(zip((f"{metric}_low", f"{metric}_high"), one.intervals[metric], strict=True))
        records.append(record)
    for unit in results.units:
        if unit.state != "finished":
            lost.setdefault((unit.system, unit.seed, unit.state, unit.error or ""), []).append(unit.test)
    items = [Table("systems", CAPTIONS["systems"], records, {
        "system": "{system}", "UA, runs": "{UA_runs}", "95 % interval": "{UA_low:.3f} to {UA_high:.3f}",
        "UA, speakers": "{UA_speakers}", "WA, runs": "{WA_runs}", "WA, speakers": "{WA_speakers}",
        "F1, runs": "{F1_runs}", "F1, speakers": "{F1_speakers}", "units": "{units}", "runs": "{complete_runs}",
        "trained": "{trainable_parameters:,}"})]
    text = partly_tested(results) + [f"{key}: {value}." for key, value in results.about["definitions"].items()]
    text += [f"{name} gives all utterances of a speaker one class, in every run: it tells no classes apart."
             for name, one in scores.items() if not one.system.is_chance and tells_nothing_apart(one)]
    if any(system.is_control for system in results.systems.values()):
        text.append("A recogniser with random weights is one draw of them, the same for all runs: what another draw "
                    "would change is in none of these numbers.")
    if lost:
        count = sum(len(tests) for tests in lost.values())
        text.append(f"{count} of {len(results.units)} units are missing. A system has numbers over its complete runs "
                    "only, and dashes where there is none.")
        keys = ("system", "seed", "state", "error", "test speakers")
        items.append(Table("missing", CAPTIONS["missing"],
                           [dict(zip(keys, (*key, ", ".join(tests)), strict=True)) for key, tests in lost.items()],
                           {key: f"{{{key}}}" for key in keys}, folded=True, prose=True))
    return Section("Results", text, items)


def tells_nothing_apart(scores: Scores) -> bool:
    """Whether each speaker's utterances are all given one class, in every run."""
    return all(len({*zip(run.speakers, run.predicted, strict=True)}) == len(scores.speakers) for run in scores.runs)


def judged(name: str, first: Mapping[str, str], told: Sequence[tuple[str, str]],
           pairs: Sequence[significance.Comparison]) -> Table:
    """What becomes of the claims that one system is better than another; ``first`` are the first columns."""
    records = []
    for claim in judge(told, pairs):
        record: dict[str, Any] = {"better": claim.names[0], "worse": claim.names[1], "verdict": claim.verdict}
        if claim.values is not None:
            record |= {"UA_better": claim.values[0], "UA_worse": claim.values[1]}
        records.append(record | (asdict(claim.result) if claim.result is not None else {}))
    return Table(name, CAPTIONS[name], records, {
        **first, "UA": "{UA_better:.3f}", "UA of the other": "{UA_worse:.3f}",
        "difference": "{value:+.3f}", "95 % interval": "{low:+.3f} to {high:+.3f}", "p": "{p:.2g}",
        "p, Holm": "{holm:.2g}", "verdict": "{verdict}"})


def twins(scores: Mapping[str, Scores]) -> list[tuple[str, str]]:
    """Each system with its control, which has the same network with random weights and is alike otherwise."""

    def alike(trained: System, control: System) -> bool:
        return (trained.head, trained.settings, trained.encoder) == (control.head, control.settings, control.control_of)

    return [(name, control) for control, random in scores.items() for name, one in scores.items()
            if random.system.is_control and alike(one.system, random.system)]


def comparisons(results: Results, scores: Mapping[str, Scores]) -> Section:
    """Who beats whom: the plan's claims, controls, and all pairs of contestants, each with a correction of its own."""
    trained = [len(fold["train"]) for fold in results.about["folds"] if fold.get("train")]
    chosen, controls = contestants(scores), twins(scores)
    count = len(chosen) * (len(chosen) - 1) // 2
    options: dict[str, Any] = {
        "resamples": max(4999, 200 * count - 1),  # so that p times the pairs can fall to 0.005
        "ratio": sum(1 / number for number in trained) / len(trained) if trained else None}
    runs = {name: one.runs for name, one in scores.items()}
    pairs = significance.compare_all({name: runs[name] for name in chosen}, **options) if len(chosen) > 1 else []
    known = {frozenset(pair.names) for pair in pairs}
    besides = [significance.compare(runs[one], runs[other], names=(one, other), **options)
               for one, other in dict.fromkeys([*results.claims, *controls])
               if {one, other} <= runs.keys() and frozenset((one, other)) not in known]
    items: list[Table | Picture] = []
    if results.claims:
        items.append(judged("claims", {"claim": "{better} > {worse}"}, results.claims, [*pairs, *besides]))
    if controls:
        items.append(judged("random_weights", {"trained": "{better}", "random weights": "{worse}"}, controls, besides))
    if pairs:
        text, picture, table = all_pairs(results, chosen, pairs, options["resamples"])
        items += [picture, table]
    else:
        text = ("There is nothing to compare: of systems that read something, and with trained weights, "
                f"{' and '.join(chosen) or 'none'} has a complete run.")
    left = [name for name in scores if name not in chosen]
    others = [f"Not among all pairs are {', '.join(left)}: they read nothing of an utterance, or have a recogniser "
              "with random weights."] if left else []
    return Section("Who beats whom", [text, *others], items)


def all_pairs(results: Results, scores: Mapping[str, Scores], pairs: Sequence[significance.Comparison],
              resamples: int) -> tuple[str, Picture, Table]:
    """What is said of all pairs of these systems, their matrix and their table."""
    names = list(scores)
    difference, p = np.zeros((len(names), len(names))), np.full((len(names), len(names)), np.nan)
    records = []
    for pair, (i, j) in zip(pairs, itertools.combinations(range(len(names)), 2), strict=True):
        difference[i, j], difference[j, i] = np.subtract(*pair.values), -np.subtract(*pair.values)
        tests = {name: result for name, result in asdict(pair).items()
                 if isinstance(result, dict) and not (results.crossed and name == "nadeau_bengio")}  # has one fold
        if "bootstrap" in tests:
            p[i, j] = p[j, i] = tests["bootstrap"]["holm"]
        records.append({"first": names[i], "second": names[j], "UA_first": pair.values[0], "UA_second": pair.values[1]}
                       | {f"{name}_{key}": value for name, result in tests.items() for key, value in result.items()
                          if value is not None})  # not every test has an interval
    table = Table("comparisons", CAPTIONS["comparisons"], records, {
        "first": "{first}", "second": "{second}", "difference": "{bootstrap_value:+.3f}",
        "95 % interval": "{bootstrap_low:+.3f} to {bootstrap_high:+.3f}", "p": "{bootstrap_p:.2g}",
        "p, Holm": "{bootstrap_holm:.2g}"}, folded=True)
    speakers = len(scores[names[0]].speakers)
    text = (f"{int((p <= 0.05).sum()) // 2} of {len(pairs)} pairs differ at p ≤ 0.05: paired bootstrap over {speakers} "
            f"speakers, {resamples} draws (the least p is {1 / (resamples + 1):.2g}), Holm's correction over these "
            "pairs. Systems that do not differ here are not thereby equal.")
    if results.crossed:
        text += (" Each run is one training, which tests all speakers: what its seed does to all alike is not in "
                 "these p-values.")
    least = 2 / 2**speakers
    if least * len(pairs) > 0.05:
        text += (f" Wilcoxon's test cannot decide here: its least p with {speakers} speakers is {least:.2g}, times "
                 f"{len(pairs)} pairs {least * len(pairs):.2g}.")
    if speakers == 1:
        text = "One speaker says nothing about others: there is no p-value but McNemar's, in the CSV file."
    picture = Picture("who_beats_whom", CAPTIONS["who_beats_whom"], f"Matrix of {len(names)} systems. {text}",
                      figures.comparison_figure(names, difference, p))
    return text, picture, table


def confusions(scores: Mapping[str, Scores]) -> Section:
    """Fig. 5 of the paper: a panel for each system, and as a file a figure of each."""
    labels = next(iter(scores.values())).runs[0].names
    counts = {name: np.mean([metrics.confusion_matrix(run.truth, run.predicted, labels) for run in one.runs], axis=0)
              for name, one in scores.items()}
    keys = {label: f"predicted {label}" for label in labels}
    records = [{"system": name, "true": label, **dict(zip(keys.values(), row, strict=True))}
               for name, matrix in counts.items()
               for label, row in zip(labels, figures.row_shares(matrix).tolist(), strict=True)]
    columns: dict[str, str | tuple[str, str]] = {"system": "{system}", "true": "{true}"}
    columns |= {key: (key, ".3f") for key in keys.values()}
    alt = "The share of each true class that is taken for each, a panel for each system; the table has the numbers."
    return Section("Confusion matrices", items=[
        Picture("confusions", CAPTIONS["confusions"], alt, figures.confusions_figure(counts, labels)),
        Table("confusions", CAPTIONS["confusions_table"], records, columns, folded=True)], apart=[
        Picture(f"confusion_{name}", "", "", figures.confusion_figure(matrix, labels, name))
        for name, matrix in counts.items()])


def layers(results: Results, scores: Mapping[str, Scores]) -> Section:
    """UA by the layer of the recogniser."""
    lines: dict[tuple[str, bool], list[tuple[int, float, float, float]]] = {}
    references: dict[str, float] = {}
    records: list[dict[str, Any]] = []
    kinds = {name: results.kind(name) for name in scores}
    points = Counter((kinds[name], one.system.is_control, one.system.layer) for name, one in scores.items())
    for name, one in scores.items():
        system = one.system
        if system.layer is None:
            references[name] = one.ua
            continue
        low, high = (np.nan, np.nan) if one.low is None or one.high is None else (one.low, one.high)
        kind = kinds[name]
        if points[kind, system.is_control, system.layer] > 1:  # the settings do not tell them apart
            kind = name
        lines.setdefault((kind, system.is_control), []).append((system.layer, one.ua, low, high))
        records.append({"system": name, "head": kind, "layer": system.layer, "random_weights": system.is_control,
                        "UA": one.ua, "low": one.low, "high": one.high})
    if not lines:
        return Section("UA by layer", ["No system that uses a layer of the recogniser has a complete run."])
    best = max(records, key=lambda record: record["UA"])
    return Section("UA by layer", items=[
        Picture("layers", CAPTIONS["layers"], f"UA by layer; highest is {best['system']}, {best['UA']:.3f}.",
                figures.layers_figure(lines, references)),
        Table("layers", CAPTIONS["layers_table"], records, {
            "system": "{system}", "layer": "{layer}", "UA": "{UA:.3f}", "95 % interval": INTERVAL}, folded=True)])


def speakers(results: Results, scores: Mapping[str, Scores]) -> Section:
    """UA of each speaker and gender."""
    names = next(iter(scores.values())).speakers
    about = [results.about["speakers"][name] for name in names]
    genders = [one.get("gender") or "" for one in about]
    values = np.array([one.by_speaker["UA"] for one in scores.values()])  # [systems, speakers]
    known = [gender for gender in ("female", "male") if gender in genders]
    records = [{"system": name, "worst": named(names, own == own.min()), "worst_UA": own.min(),
                "best": named(names, own == own.max()), "best_UA": own.max()}
               | {gender: own[np.array(genders) == gender].mean() for gender in known}
               | {f"speaker_{speaker}": value for speaker, value in zip(names, own, strict=True)}
               for name, own in zip(scores, values, strict=True)]
    chosen = contestants(scores)
    text = []
    if chosen:
        means = np.mean([one.by_speaker["UA"] for one in chosen.values()], axis=0)
        text.append("Over the systems that neither guess nor have a recogniser with random weights, speaker "
                    f"{names[means.argmin()]} is the hardest: mean UA {means.min():.3f}.")
    for speaker, one in zip(names, about, strict=True):
        heard = [label for label, count in one.get("counts", {}).items() if count]
        if len(heard) == 1:
            text.append(f"Speaker {speaker} has utterances of {heard[0]} only: UA is the recall of that class.")
    if "" in genders:
        text.append(f"The gender of {genders.count('')} of {len(genders)} speakers is not known.")
    alt = f"UA of {len(names)} speakers for {len(scores)} systems. {' '.join(text)}"
    return Section("Speakers", text, [
        Picture("speakers", CAPTIONS["speakers"], alt,
                figures.speakers_figure(list(scores), values, genders, [str(one["worst"]) for one in records])),
        Table("speakers", CAPTIONS["genders"], records, {
            "system": "{system}", **{gender: f"{{{gender}:.3f}}" for gender in known},
            "worst speaker": "{worst}: {worst_UA:.3f}", "best speaker": "{best}: {best_UA:.3f}"})])


def named(names: Sequence[str], chosen: np.ndarray) -> str:
    """One or two of the names, or how many they are."""
    found = [name for name, one in zip(names, chosen, strict=True) if one]
    return ", ".join(found) if len(found) < 3 else f"{len(found)} speakers"


def calibration(results: Results, scores: Mapping[str, Scores]) -> Section:
    """Confidence against accuracy, before and after a temperature; what is gained by leaving out the unsure."""
    diagrams, kept, records = {}, {}, []
    for name, one in scores.items():
        truth = [run.truth for run in one.runs]
        stages = {"": [run.probabilities for run in one.runs]}
        record: dict[str, Any] = {"system": name}
        tempered = results.tempered(name)
        if tempered:
            stages["_tempered"] = [probabilities for probabilities, _ in tempered]
            fitted = np.concatenate([temperatures for _, temperatures in tempered])
            record |= {"T": np.median(fitted), "T_low": fitted.min(), "T_high": fitted.max()}
        for stage, given in stages.items():
            for key, function in {"ECE": metrics.calibration_error, "cross_entropy": metrics.cross_entropy}.items():
                record |= statistics(f"{key}{stage}", [function(labels, found, results.labels)
                                                       for labels, found in zip(truth, given, strict=True)])
        final = stages.get("_tempered", stages[""])
        kept[name] = np.mean([metrics.coverage(labels, found, results.labels, SHARES)
                              for labels, found in zip(truth, final, strict=True)], axis=0)
        diagrams[name] = [metrics.reliability(predictions.join(one.runs).truth, np.concatenate(found), results.labels)
                          for found in stages.values()]
        records.append(record | {f"UA_{share:.0%}": value for share, value in zip(SHARES, kept[name], strict=True)})
    both = [record for record in records if "T" in record and not scores[record["system"]].system.is_chance]
    better = sum(record["cross_entropy_tempered_mean"] < record["cross_entropy_mean"] for record in both)
    text = ["A fold's temperature (T) is fitted on its validation speaker, and kept near 1 by a prior, since speakers "
            "differ; a fold's test speaker has no part in it. ECE is of each run; a small set has some by chance."]
    if both:
        text.append(f"The temperature lowers the cross-entropy of the tests for {better} of {len(both)} systems that "
                    "read something.")
    return Section("Calibration", text, [
        Table("calibration", CAPTIONS["calibration"], records, {
            "system": "{system}", "ECE": "{ECE}", "ECE, tempered": "{ECE_tempered}",
            "cross-entropy": "{cross_entropy_mean:.3f}", "cross-entropy, tempered": "{cross_entropy_tempered_mean:.3f}",
            "T": "{T:.2f} ({T_low:.2f} to {T_high:.2f})", "UA, half kept": "{UA_50%:.3f}", "UA": "{UA_100%:.3f}"}),
        Picture("reliability", CAPTIONS["reliability"], "Accuracy against confidence, a panel for each system.",
                figures.reliability_figure(diagrams)),
        Picture("coverage", CAPTIONS["coverage"], "UA against the share of utterances kept, a panel for each system.",
                figures.coverage_figure(SHARES, kept))])


def curves(results: Results) -> Section:
    """Losses by epoch."""
    units = {name: [unit for unit in results.units_of(name) if unit.state == "finished" and unit.curve]
             for name in results.systems}
    found = {name: [np.array(unit.curve, dtype=float) for unit in own] for name, own in units.items() if own}
    if not found:
        return Section("Training", ["No unit has a training curve."])
    epochs = {name: [unit.tested_epoch for unit in own if unit.tested_epoch is not None] for name, own in units.items()}
    tested = {name: float(np.median(own)) for name, own in epochs.items() if own}
    return Section("Training", items=[
        Picture("curves", CAPTIONS["curves"], "Training and validation loss by epoch, a panel for each system.",
                figures.curves_figure(found, tested))])


def main(argv: Sequence[str]) -> Path:
    """Reads the folders and writes the report; returns the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="RESULTS")
    parser.add_argument("--output_folder", metavar="DIR")
    args = parser.parse_args(argv)
    default = "report" if len(args.results) == 1 else "report_corpora"
    folder = Path(args.output_folder or Path(args.results[0], default))
    page.refuse_foreign(folder)  # before what takes minutes
    first, *others = map(Results.load, args.results)
    if others:
        title = "across corpora"
        sections = report_corpora.sections([first, *others])
    else:
        scores = scores_of(first)
        title = first.title
        made = [partial(one, first, scores) for one in (overview, comparisons, layers)]
        made += [partial(confusions, scores), partial(speakers, first, scores), partial(calibration, first, scores),
                 partial(curves, first), partial(protocol, first)]
        sections = [one() for one in tqdm(made, "sections", leave=False, disable=None)]
    written = page.write(folder, title, sections)
    print(f"the report is {written}; its figures and tables lie beside it")
    return written


if __name__ == "__main__":
    command_line.run(main)
