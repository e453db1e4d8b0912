"""What the report of one protocol and that of several corpora share: a system's numbers, and how they were made."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ser_plugins import significance
from ser_plugins.errors import DataError
from ser_plugins.page import Section, Table
from ser_plugins.predictions import Predictions
from ser_plugins.results import Results, System

INTERVAL = "{low:.3f} to {high:.3f}"
PLAN = "The systems. Each with its own settings, the fingerprint of its encoder and the command of its units."


@dataclass(frozen=True)
class Scores:
    """A system's numbers over its complete runs, one or more."""

    system: System
    runs: Sequence[Predictions]
    values: Mapping[str, Sequence[float]]  # metric → of each run, pooled over the speakers
    speakers: Sequence[str]
    by_speaker: Mapping[str, np.ndarray]  # metric → [speakers], mean over runs
    intervals: Mapping[str, tuple[float | None, float | None]]  # ends at 95 %; None of too few or like speakers

    @property
    def ua(self) -> float:
        return float(np.mean(self.values["UA"]))

    @property
    def low(self) -> float | None:
        """Lower end of the interval of UA."""
        return self.intervals["UA"][0]

    @property
    def high(self) -> float | None:
        """Upper end of the interval of UA."""
        return self.intervals["UA"][1]


def scores_of(results: Results) -> dict[str, Scores]:
    """The systems that have a complete run.

    Raises
    ------
    DataError
        There is none.
    """
    scores = {}
    for name, system in results.systems.items():
        runs = results.runs(name)
        if runs:
            values = {metric: [function(run.truth, run.predicted, run.names) for run in runs]
                      for metric, function in significance.METRICS.items()}
            each = {metric: significance.by_speaker(runs, metric) for metric in significance.METRICS}
            speakers = each["UA"][0]
            intervals = {metric: significance.confidence_interval(runs, metric) if len(speakers) > 1 else None
                         for metric in significance.METRICS}
            scores[name] = Scores(system, runs, values, speakers,
                                  {key: found.mean(axis=0) for key, (_, found) in each.items()},
                                  {key: (one.low, one.high) if one else (None, None) for key, one in intervals.items()})
    if not scores:
        raise DataError(f"{results.folder}: no system has a complete run, all folds of one seed; finish one first")
    return scores


def contestants(scores: Mapping[str, Scores]) -> dict[str, Scores]:
    """All systems but those of chance and controls: to beat these says little of a system."""
    return {name: one for name, one in scores.items() if not (one.system.is_chance or one.system.is_control)}


def protocol(results: Results, name: str = "") -> Section:
    """What was run, and how to run it again; ``name`` tells it from other protocols of the page."""
    about = results.about
    counts = sum((Counter(one.get("counts", {})) for one in about["speakers"].values()), Counter())
    languages = [about[key] for key in ("language", "test_language") if about.get(key)]
    facts = {"corpus": results.title, "language": " → ".join(dict.fromkeys(languages)),
             "sentences": told_sentences(about["sentences"]) if about.get("sentences") else None,
             "labels": ", ".join(f"{label} {counts[label]}" for label in results.labels),
             "test speakers": len(about["speakers"]), "utterances": counts.total(),
             "folds": len(about["folds"]), "date": about["date"], "machine": about["machine"], **about["protocol"]}
    systems = [{"system": system} | asdict(one) | {"settings": ", ".join(f"{k}: {v}" for k, v in one.settings.items()),
                                                   "seeds": ", ".join(map(str, one.runs)),
                                                   "reads": told_reads(one), "trained_with": None}
               for system, one in results.systems.items()]
    suffix = f"_{name}" if name else ""
    return Section(f"Protocol {name}".strip(), ["To repeat it:"], [
        Table(f"protocol{suffix}", "What all systems share.",
              [{"setting": key, "value": str(value)} for key, value in facts.items() if value not in ("", None)],
              {"setting": "{setting}", "value": "{value}"}, prose=True),
        Table(f"plan{suffix}", PLAN, systems, {
            "system": "{system}", "head": "{head:s}", "layer": "{layer:d}", "reads": "{reads:s}",
            "own settings": "{settings}", "encoder": "{encoder:s}", "seeds": "{seeds}", "command": "{command}"},
            folded=True, prose=True),
        Table(f"settings{suffix}", "What the systems were trained with.", trained_with(results.systems),
              {"setting": "{setting}", "value": "{value}", "systems": "{systems}"}, folded=True, prose=True)],
        [shlex.join(map(str, about["command"])), shlex.join(["python", "recipes/report.py", str(results.folder)])])


def trained_with(systems: Mapping[str, System]) -> list[dict[str, str]]:
    """A line for each value of a setting, with the systems that have it."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, system in systems.items():
        for key, value in system.trained_with.items():
            found.setdefault(key, {}).setdefault(str(value), []).append(name)
    return [{"setting": key, "value": value, "systems": ", ".join(names) if len(values) > 1 else "all that have it"}
            for key, values in found.items() for value, names in values.items()]


def told_reads(system: System) -> str | None:
    """What a system reads of an utterance; None where that is not known."""
    return None if system.reads is None else ", ".join(system.reads) or "nothing"


def partly_tested(results: Results) -> list[str]:
    """A sentence, where the folds are not all that the corpus has; nothing is known of that in older results."""
    tested, every = len(results.about["folds"]), results.about.get("corpus_speakers")
    if every is None or tested >= every:
        return []
    return [f"{tested} of the corpus's {every} speakers {'was' if tested == 1 else 'were'} tested."]


def told_sentences(counts: Mapping[str, int]) -> str:
    """Which sentences a system may know by heart.

    Example
    -------
    >>> told_sentences({"trained": 10, "tested": 2, "both": 0})
    '2 tested sentences, none is among the 10 of the training'
    """
    both = {0: "none is", counts["tested"]: "all are"}.get(counts["both"], f"{counts['both']} are")
    return f"{counts['tested']} tested sentences, {both} among the {counts['trained']} of the training"
