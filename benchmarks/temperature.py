"""Does a temperature fitted on the validation speaker help the test speakers, and how near to 1 should it be kept?

    python benchmarks/temperature.py docs/results/emodb docs/results/ravdess

For each deviation of the prior of log T (`metrics.fit_temperature`; infinite: the likelihood alone): of how many
systems the cross-entropy of the tests falls, and its mean and that of ECE over the systems. Systems of chance have no
part in it.
"""

from __future__ import annotations

import argparse
import math
import sys

import numpy as np
from common import describe, table

from ser_plugins import metrics
from ser_plugins.errors import SerError
from ser_plugins.results import Results

DEVIATIONS = (0.1, 0.15, 0.25, 0.5, 1.0, math.inf)


def measured(results: Results, system: str, deviation: float | None) -> np.ndarray:
    """Cross-entropy and ECE, means over the runs; without a deviation, of the probabilities as they are."""
    runs = results.runs(system)
    given = [run.probabilities for run in runs] if deviation is None else [
        probabilities for probabilities, _ in results.tempered(system, deviation)]
    return np.mean([[function(run.truth, probabilities, results.labels) for function in
                     (metrics.cross_entropy, metrics.calibration_error)]
                    for run, probabilities in zip(runs, given, strict=True)], axis=0)


def main() -> None:
    """Measures and prints the table of each folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", help="folders of cross_validate.py")
    args = parser.parse_args()
    try:
        found = [Results.load(folder) for folder in args.results]
    except SerError as error:
        sys.exit(f"error: {error}")
    print(describe())
    for results in found:
        systems = [name for name, one in results.systems.items() if not one.is_chance and results.complete(name)]
        plain = np.array([measured(results, name, None) for name in systems])
        rows = [["none", "", *(f"{value:.3f}" for value in plain.mean(axis=0))]]
        for deviation in DEVIATIONS:
            values = np.array([measured(results, name, deviation) for name in systems])
            falls = f"{int((values[:, 0] < plain[:, 0]).sum())} of {len(systems)}"
            rows.append([f"{deviation:g}", falls, *(f"{value:.3f}" for value in values.mean(axis=0))])
        print(f"\n{results.title}, {len(systems)} systems\n"
              + table(["deviation of log T", "cross-entropy falls", "cross-entropy", "ECE"], rows))


if __name__ == "__main__":
    main()
