"""Seconds per epoch and peak memory of the four systems, from the store.

    python benchmarks/epoch_cost.py --corpus emodb --data_folder EmoDB --threads 1

The store is filled first, by an epoch of each in a process of its own. Then each system trains in a fresh process,
whose peak resident memory (``ru_maxrss``) is shown: that of everything, Python, torch and the loaded encoder included,
and how much it was before the training began. An epoch includes validation and checkpoint. What follows ``--`` goes to
recipes/train_ser.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import median

import torch
from common import command_line, cores, describe, in_fresh_process, peak, table
from timed_training import Timing, train

from ser_plugins.errors import SerError


def measure(system: str, options: Sequence[str], epochs: int, threads: int) -> tuple[Timing, float, float]:
    """Trains one system: its timing, and the peak memory before and after, MB."""
    torch.set_num_threads(threads)
    before = peak()
    return train(system, options, epochs), before, peak()


def main() -> None:
    """Reads the command line, measures, prints."""
    own, more = command_line()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="synthetic")
    parser.add_argument("--data_folder", help="where the corpus lies; synthetic speech is made")
    parser.add_argument("--systems", default="baseline,mp,rnn,progressive", help="YAML files of hparams/")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--output_root", default="results", help="where manifest and store are")
    args = parser.parse_args(own)
    options = ["--corpus", args.corpus, "--output_root", args.output_root, *more]
    if args.data_folder is not None:
        options += ["--data_folder", args.data_folder]
    systems = args.systems.split(",")

    try:
        for system in systems:
            in_fresh_process(train, system, options, 1)
        measured = [in_fresh_process(measure, system, options, args.epochs, args.threads) for system in systems]
    except SerError as error:
        sys.exit(f"error: {error}")
    torch.set_num_threads(args.threads)  # for the line about the machine
    rows = [[timing.system, f"{timing.epochs[0]:.2f}", f"{median(timing.epochs[1:] or timing.epochs):.2f}",
             f"{after:.0f}", f"{before:.0f}"] for timing, before, after in measured]
    timing = measured[0][0]
    print(f"\n{args.corpus}: {timing.utterances} training and {timing.valid_utterances} validation utterances, "
          f"{args.epochs} epochs\n")
    print(table(["system", "first epoch, s", "other epochs, median, s", "peak memory, MB", "of which at the start"],
                rows))
    print(f"\n{describe()}")


if __name__ == "__main__":
    main()
