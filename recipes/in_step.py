"""Runs of one system that are trained in step: what `Brain.fit` does for each, with the passes of all as one network's.

``cross_validate.py --backend stacked`` uses it. Batches, variants, learning rates, checkpoints and logs are each run's
own, as are its numbers: they do not depend on the runs beside it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import speechbrain as sb
import torch
from torch.utils.data import DataLoader

from ser_plugins import stacked, store

if TYPE_CHECKING:
    from train_ser import Training

Batch = Sequence[Sequence[store.Item]]


class InStep:
    """Trains runs in step; iterated, it gives each as soon as it has ended, with its error if it failed.

    Arguments
    ---------
    trainings : Sequence[Training]
        Prepared runs of one system: other folds or seeds.
    """

    def __init__(self, trainings: Sequence[Training]) -> None:
        self.trainings = list(trainings)
        self.errors: dict[int, Exception] = {}  # of runs that failed, by position

    def __iter__(self) -> Iterator[tuple[Training, Exception | None]]:
        try:
            first = self.trainings[0].brain
            self.stack = stacked.Stack([one.brain.modules.head for one in self.trainings])
            self.table = stacked.Table(first.store, self._items(), first.device)
            going = list(range(len(self.trainings)))
            self._each(going, lambda run: self.trainings[run].brain.on_fit_start())
            while going:
                epochs = self._next_epochs(going)
                for run in [run for run in going if run not in epochs]:
                    going.remove(run)
                    self.trainings[run].close()
                    self._log_of(run)  # for the report
                    yield self.trainings[run], self.errors.get(run)
                if epochs:
                    self._train(epochs)
                    self._validate(epochs)
        finally:
            for handler in (handler for one in self.trainings for handler in one.log):
                handler.close()

    def _log_of(self, run: int) -> None:
        logging.getLogger().handlers = list(self.trainings[run].log)

    def _items(self) -> Iterator[store.Item]:
        """What training and validation read, each once."""
        return (one for training in self.trainings for loader in (training.loader, training.evaluated["valid"])
                for batch in loader for variants in batch for one in variants)

    def _next_epochs(self, runs: Sequence[int]) -> dict[int, int]:
        """The epoch that each run trains next; none of one that has ended or failed."""
        epochs: dict[int, int] = {}

        def count(run: int) -> None:
            epoch = next(self.trainings[run].brain.hparams.epoch_counter, None)
            if epoch is not None:
                epochs[run] = epoch

        self._each(runs, count)
        return epochs

    def _each(self, runs: Sequence[int], do: Callable[[int], object]) -> None:
        """Does something for each run that has not failed, with its own log; an error is that run's alone."""
        for run in runs:
            if run not in self.errors:
                self._log_of(run)
                try:
                    do(run)
                except Exception as error:
                    self.errors[run] = error

    def _train(self, epochs: dict[int, int]) -> None:
        def start(run: int) -> None:
            brain = self.trainings[run].brain
            brain.on_stage_start(sb.Stage.TRAIN, epochs[run])
            brain.modules.train()
            brain.zero_grad()
            brain.nonfinite_count = 0

        def end(run: int) -> None:
            brain = self.trainings[run].brain
            brain.zero_grad(set_to_none=True)
            brain.on_stage_end(sb.Stage.TRAIN, brain.avg_train_loss, epochs[run])
            brain.avg_train_loss, brain.step = 0.0, 0

        self._each(list(epochs), start)
        for number, batches in enumerate(self._batches(epochs, "train")):
            seeds = [random.Random(f"{self.trainings[run].brain.hparams.seed} {epochs[run]} {number} dropout")
                     .getrandbits(48) for run in batches]
            losses = self._losses(batches, sb.Stage.TRAIN, seeds)
            losses.sum().backward()
            values = dict(zip(batches, losses.detach().cpu(), strict=True))

            def step(run: int, values: dict[int, torch.Tensor] = values) -> None:
                brain = self.trainings[run].brain
                brain.step += 1
                brain.check_loss_isfinite(values[run])
                brain.optimizers_step()
                brain.avg_train_loss = brain.update_average(values[run], brain.avg_train_loss)

            self._each(list(batches), step)
        self._each(list(epochs), end)

    @torch.no_grad()
    def _validate(self, epochs: dict[int, int]) -> None:
        averages = dict.fromkeys(epochs, 0.0)

        def start(run: int) -> None:
            self.trainings[run].brain.on_stage_start(sb.Stage.VALID, epochs[run])
            self.trainings[run].brain.modules.eval()

        def end(run: int) -> None:
            self.trainings[run].brain.step = 0
            self.trainings[run].brain.on_stage_end(sb.Stage.VALID, averages[run], epochs[run])

        self._each(list(epochs), start)
        for batches in self._batches(epochs, "valid"):
            for run, loss in zip(batches, self._losses(batches, sb.Stage.VALID).cpu(), strict=True):
                brain = self.trainings[run].brain
                brain.step += 1
                averages[run] = brain.update_average(loss, averages[run])
        self._each(list(epochs), end)

    def _batches(self, epochs: dict[int, int], part: str) -> Iterator[dict[int, Batch]]:
        """The next batch of each run that has one."""
        def loader(run: int) -> DataLoader:
            one = self.trainings[run]
            return one.loader if part == "train" else one.evaluated[part]

        for batches in zip_longest(*map(loader, epochs)):
            present = {run: batch for run, batch in zip(epochs, batches, strict=True)
                       if batch is not None and run not in self.errors}
            if present:
                yield present

    def _losses(self, batches: dict[int, Batch], stage: sb.Stage, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """Mean loss of each run's batch, ``[runs]``."""
        brains = [self.trainings[run].brain for run in batches]
        chosen = [brain.chosen(batch, stage) for brain, batch in zip(brains, batches.values(), strict=True)]
        logits = self.stack(list(batches), self.table, chosen, seeds)
        return torch.stack([brain.compute_objectives(one[:len(batch)], batch, stage) for brain, one, batch
                            in zip(brains, logits, batches.values(), strict=True)])
