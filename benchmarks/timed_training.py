"""A training of recipes/train_ser.py, epoch by epoch against the clock; what several benchmarks share."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import speechbrain as sb
import torch
from common import HPARAMS, RECIPES
from torch.utils.data import DataLoader

from ser_plugins import store
from ser_plugins.batches import SortaGradSampler
from ser_plugins.checkpoints import AtomicCheckpointer

sys.path.insert(0, str(RECIPES))
import train_ser

from ser_plugins import protocol


@dataclass(frozen=True)
class Timing:
    """Seconds of the parts of one training, and its validation losses.

    Arguments
    ---------
    system : str
        Head and layer or units.
    utterances, valid_utterances : int
        Of the training and of the validation speakers.
    start, representations, test : float
        Seconds for manifest, weights and parts; for what the store lacked; for the test speaker.
    epochs : list[float]
        Seconds of each epoch, validation and checkpoint included.
    losses : list[float]
        Validation cross-entropy of each epoch.
    """

    system: str
    utterances: int
    valid_utterances: int
    start: float
    representations: float
    epochs: list[float]
    test: float
    losses: list[float]

    @property
    def total(self) -> float:
        """Seconds of the whole run."""
        return self.start + self.representations + sum(self.epochs) + self.test


class TimedBrain(train_ser.SERBrain):
    """Notes when each epoch ends, and its validation loss."""

    def on_fit_start(self) -> None:
        """Starts the clock."""
        super().on_fit_start()
        self.ends = [time.perf_counter()]
        self.valid_losses: list[float] = []

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """As the recipe's, then reads the clock."""
        super().on_stage_end(stage, stage_loss, epoch)
        if stage == sb.Stage.VALID:
            if self.device.startswith("cuda"):
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())
            self.valid_losses.append(sum(self.losses) / len(self.losses))


def train(system: str, options: Sequence[str], epochs: int, store_class: type[store.Store] = store.Store) -> Timing:
    """Trains and tests one fold exactly as the recipe does, ``epochs`` epochs long; nothing of the run is kept.

    Arguments
    ---------
    system : str
        Name of a YAML file of hparams/.
    options : Sequence[str]
        Command line of train_ser.py after the YAML file.
    epochs : int
        Epochs; annealing does not end the training.
    store_class : type[Store]
        What gives a head its inputs.
    """
    clock = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:
        exp = train_ser.load([str(HPARAMS / f"{system}.yaml"), *options, "--number_of_epochs", str(epochs),
                               "--lr_end", "0", "--output_folder", folder])
        values = exp.values
        built = train_ser.build(exp)
        rows, test_rows = protocol.prepare(values)
        parts = protocol.split(rows, test_rows, protocol.chosen_fold(rows, values), values)
        hparams = exp.build()
        checkpointer = AtomicCheckpointer(Path(folder) / "save", {
            "head": built.model, "counter": hparams["epoch_counter"], "annealing": hparams["lr_annealing"]})
        brain = TimedBrain({"head": built.model}, hparams["opt_class"], hparams, exp.run_opts, checkpointer)
        brain.store = store_class(values["store_folder"], built.needs, built.extractor, built.encoder)
        brain.curve = train_ser.Curve()
        clock.append(time.perf_counter())
        items = protocol.represented(parts, brain.store, values, brain.device)
        clock.append(time.perf_counter())
        brain.batches = SortaGradSampler([row.duration for row in parts["train"]], values["batch_size"],
                                         values["seed"], buckets=True)
        batches = DataLoader(items["train"], batch_sampler=brain.batches, collate_fn=list)  # type: ignore[arg-type, var-annotated]
        brain.fit(hparams["epoch_counter"], batches, train_ser.evaluation(items["valid"], values["batch_size"]),
                  progressbar=False)
        brain.bar.close()
        clock.append(time.perf_counter())
        brain.evaluate(train_ser.evaluation(items["test"], values["batch_size"]), min_key="loss", progressbar=False)
        clock.append(time.perf_counter())
    return Timing(
        built.name, len(parts["train"]), len(parts["valid"]),
        start=clock[1] - clock[0], representations=clock[2] - clock[1],
        epochs=[after - before for before, after in zip(brain.ends, brain.ends[1:], strict=False)],
        test=clock[4] - clock[3], losses=brain.valid_losses)
