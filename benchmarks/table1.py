"""Rows of Table 1 from a cold start by cross_validate.py, beside one training after another in the customary way.

    python benchmarks/table1.py --corpus emodb --data_folder EmoDB
    python benchmarks/table1.py --corpus emodb --data_folder EmoDB --heads rnn,progressive --runs 1

Here: the whole command as a user calls it, manifest and representations included, with nothing stored before. Beside
it: the encoder in every epoch, all threads for one training, and recurrent layers packed as `torch.nn.GRU` and
SpeechBrain have them. Of that side, one fold of every system is trained for ``--measured_epochs`` epochs, and the rest
extrapolated: each of its trainings takes as many epochs as ours took. What follows ``--`` goes to both, as options of
recipes/train_ser.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from unittest import mock

import torch
from common import HPARAMS, RECIPES, command_line, cores, describe, table
from frozen_reuse import NoStore, whole
from timed_training import Timing, train
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ser_plugins import models
from ser_plugins.contracts import Frames
from ser_plugins.errors import SerError
from ser_plugins.recurrent import BiRNNLayer
from ser_plugins.values import parse_value


def packed(layer: BiRNNLayer, frames: Frames) -> tuple[Tensor, Tensor]:
    """`BiRNNLayer.forward` as ``torch.nn.GRU(bidirectional=True)`` computes it of a packed sequence."""
    rows = pack_padded_sequence(frames.data, frames.lengths, batch_first=True, enforce_sorted=False)
    weights = [getattr(direction, f"{name}_l0") for direction in (layer.forwards, layer.backwards)
               for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    first = frames.data.new_zeros(2, len(frames.lengths), layer.forwards.hidden_size)
    data, _ = torch._VF.gru(rows.data, rows.batch_sizes, first, weights, True, 1, 0.0, layer.training, True)
    ahead, behind = pad_packed_sequence(rows._replace(data=data), batch_first=True,
                                        total_length=frames.data.shape[1])[0].chunk(2, dim=2)
    return ahead, behind


def ours(words: list[str], folder: Path) -> tuple[float, list[Mapping]]:
    """Seconds of the whole command, and the units of its results."""
    command = [sys.executable, str(RECIPES / "cross_validate.py"), str(HPARAMS / "table1.yaml"), *words,
               "--output_folder", str(folder), "--noprogressbar"]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    seconds = time.perf_counter() - started
    return seconds, json.loads((folder / "results.json").read_text(encoding="utf-8"))["units"]


def customary(head: str, layer: int, options: list[str], epochs: int) -> Timing:
    """One fold with the encoder in every epoch, and recurrent layers packed."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(BiRNNLayer, "forward", packed):
        return train(head, [*options, "--layer", str(layer), "--store_folder", folder], epochs, NoStore)


def main() -> None:
    """Reads the command line, runs both, prints."""
    own, more = command_line()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="synthetic")
    parser.add_argument("--data_folder", help="where the corpus lies; synthetic speech is made")
    parser.add_argument("--heads", default="mp", help="of mp, rnn and progressive, each at every layer")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--folds", default="all")
    parser.add_argument("--jobs", type=int, default=cores())
    parser.add_argument("--measured_epochs", type=int, default=1, help="of the trainings beside ours")
    args = parser.parse_args(own)
    layers = len(models.load_encoder("deepspeech2").layer_dims)
    systems = [f"{head}-{layer}" for head in args.heads.split(",") for layer in range(1, layers + 1)]
    shared = ["--corpus", args.corpus]
    if args.data_folder is not None:
        shared += ["--data_folder", args.data_folder]
    if len(more) % 2:
        sys.exit(f"error: after '--' come pairs of option and value, not {' '.join(more)}")
    changed = {name.removeprefix("--"): parse_value(value) for name, value in zip(more[::2], more[1::2], strict=True)}

    with tempfile.TemporaryDirectory() as root:
        words = [*shared, "--systems", ",".join(systems), "--runs", str(args.runs), "--folds", args.folds, "--jobs",
                 str(args.jobs), "--options", json.dumps(changed)]
        seconds, units = ours(words, Path(root) / "table1")
        beside: dict[str, Timing] = {}
        options = [*shared, "--output_root", root, "--num_workers", "0", *more]
        for name in systems:
            head, layer = name.rsplit("-", 1)
            beside[name] = customary(head, int(layer), options, args.measured_epochs)

    rows, total = [], 0.0
    for name, timing in beside.items():
        own_units = [unit for unit in units if unit["system"] == name]
        loop = sum(whole(timing, unit["epochs"]) for unit in own_units)
        total += loop
        rows.append([name, len(own_units), f"{mean(unit['epochs'] for unit in own_units):.0f}",
                     f"{mean(timing.epochs):.2f}", f"{loop / 3600:.2f}"])
    print(f"\n{args.heads} on {args.corpus}: {len(units)} trainings\n")
    print(table(["system", "trainings", "epochs, mean", "customary: one epoch, s", "all trainings, h (extrapolated)"],
                rows))
    print(f"\nHere: {seconds:.0f} s, measured, --jobs {args.jobs}. The customary way: {total / 3600:.1f} h, "
          f"extrapolated from {args.measured_epochs} epochs of one fold of each system. Ratio {total / seconds:.0f}."
          f"\n\n{describe()}")


if __name__ == "__main__":
    try:
        main()
    except SerError as error:
        sys.exit(f"error: {error}")
