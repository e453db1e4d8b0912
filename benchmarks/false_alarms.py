"""How often each test of `ser_plugins.significance` calls two equal systems different, at p ≤ 0.05.

    python benchmarks/false_alarms.py --speakers 4,6,10,24 --sets 2000
    python benchmarks/false_alarms.py --speakers 10 --runs 5 --seed_fold 0.3

Each set is a simulated corpus on which both systems are right with the same probability: 4 classes, 2 to 15 utterances
of each a speaker. Normal effects on the logit of being right, standard deviations: speaker 0.7, speaker × class 0.35
and utterance 1, which the systems share; speaker × system ``--spread``, with class half of that; of several runs, the
seed ``--seed_fold`` in each fold, ``--seed_all`` in all folds alike.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from common import describe, table
from tqdm import tqdm

from ser_plugins import significance
from ser_plugins.predictions import Predictions

NAMES = list("abcd")
MEAN, MOST, SPREADS = 0.8, 15, (0.7, 0.35, 1.0)
LEVEL, RESAMPLES = 0.05, 999


def corpus(draw: np.random.Generator, speakers: int, args: argparse.Namespace) -> list[list[Predictions]]:
    """Two systems' runs on one simulated corpus."""
    shape = (speakers, len(NAMES), MOST)
    there = np.less(np.arange(MOST), draw.integers(2, MOST + 1, size=shape[:2])[..., None])
    if args.missing:
        there &= draw.random(shape[:2])[..., None] >= args.missing
        there[:, 0] |= ~np.any(there, axis=(1, 2), keepdims=True)[..., 0]
    of_speaker, of_class, of_utterance = SPREADS
    shared = (MEAN + of_speaker * draw.normal(size=(speakers, 1, 1)) + of_class * draw.normal(size=(*shape[:2], 1))
              + of_utterance * draw.normal(size=shape))
    speaker, truth, _ = np.nonzero(there)
    common = Predictions([f"u{number:05d}" for number in range(len(speaker))], [f"s{number}" for number in speaker],
                         [NAMES[number] for number in truth], [], np.empty((len(speaker), 0)), NAMES)
    systems = []
    for _ in range(2):
        own = shared + args.spread * (draw.normal(size=(speakers, 1, 1)) + draw.normal(size=(*shape[:2], 1)) / 2)
        runs = []
        for _ in range(args.runs):
            noise = args.seed_fold * draw.normal(size=(speakers, 1, 1)) + args.seed_all * draw.normal()
            right = (own + noise + draw.logistic(size=shape) > 0)[there]
            predicted = np.where(right, truth, (truth + draw.integers(1, len(NAMES), size=len(truth))) % len(NAMES))
            runs.append(replace(common, predicted=[NAMES[number] for number in predicted]))
        systems.append(runs)
    return systems


def percentile(draw: np.random.Generator, systems: list[list[Predictions]], speakers: int) -> bool:
    """Whether a percentile interval of UA's difference leaves out 0: the test that `significance` does without."""
    weights = draw.multinomial(speakers, np.full(speakers, 1 / speakers), size=RESAMPLES)
    values = []
    for runs in systems:
        right, all_ = np.zeros((2, len(runs), speakers, len(NAMES)))
        for number, run in enumerate(runs):
            for speaker, true, said in zip(run.speakers, run.truth, run.predicted, strict=True):
                at = (number, int(speaker[1:]), NAMES.index(true))
                right[at] += true == said
                all_[at] += 1
        with np.errstate(invalid="ignore"):
            recalls = np.einsum("ds,rsc->drc", weights, right) / np.einsum("ds,rsc->drc", weights, all_)
        values.append(np.nanmean(recalls, axis=2).mean(axis=1))
    low, high = np.quantile(values[0] - values[1], [LEVEL / 2, 1 - LEVEL / 2])
    return not low <= 0 <= high


def rates(speakers: int, args: argparse.Namespace) -> dict[str, float]:
    """Per cent of the sets in which each test is at most `LEVEL`."""
    draw, alarms = np.random.default_rng(args.seed), dict.fromkeys(
        ("bootstrap", "percentile", "wilcoxon", "nadeau_bengio", "mcnemar"), 0)
    for number in tqdm(range(args.sets), desc=f"{speakers} speakers", unit="set"):
        first, second = systems = corpus(draw, speakers, args)
        found = significance.compare(first, second, metric=args.metric, resamples=RESAMPLES, seed=number)
        for name in alarms:
            alarms[name] += (percentile(draw, systems, speakers) if name == "percentile"
                             else getattr(found, name).p <= LEVEL)
    return {name: 100 * count / args.sets for name, count in alarms.items()}


def main() -> None:
    """Reads the command line, simulates, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speakers", default="10", help="numbers of speakers")
    parser.add_argument("--sets", type=int, default=200, help="simulated corpora for each")
    parser.add_argument("--metric", default="UA", help="UA, WA or F1 (percentile: UA)")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--spread", type=float, default=0.5)
    parser.add_argument("--seed_fold", type=float, default=0.0)
    parser.add_argument("--seed_all", type=float, default=0.0)
    parser.add_argument("--missing", type=float, default=0.0, help="share of classes that a speaker lacks")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    columns = [int(number) for number in args.speakers.split(",")]
    found = [rates(number, args) for number in columns]
    rows = [[name, *(f"{column[name]:.1f}" for column in found)] for name in found[0]]
    print(f"\nfalse alarms, %, of {args.sets} sets each\n")
    print(table(["speakers", *map(str, columns)], rows))
    print(f"\n{describe()}")


if __name__ == "__main__":
    main()
