"""Which utterances make a batch, and in which order: SortaGrad, batches of as much audio each, shares of processes."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator, Sequence

import numpy as np
from speechbrain.dataio.sampler import DynamicBatchSampler
from torch.utils.data import Sampler

from ser_plugins.errors import OptionError

logger = logging.getLogger(__name__)

JITTER = math.log(1.4)  # of durations, so that buckets are not the same batches in every epoch


class SortaGradSampler(Sampler[list[int]]):
    """Batches in the order of SortaGrad: the first epoch by duration, shortest first (Amodei et al. 2016).

    The order of an epoch depends on the seed and the epoch's number alone, so that a resumed run repeats it.

    Arguments
    ---------
    durations : Sequence[float]
        Duration of each item in seconds.
    batch_size : int
        Items of a batch; the last one may have fewer.
    seed : int
        Seed of the shuffling.
    buckets : bool
        Later epochs shuffle batches of items of like duration, made anew in each epoch from durations that are
        changed by up to 40 % either way; otherwise they shuffle items.

    Example
    -------
    >>> sampler = SortaGradSampler([3.0, 1.0, 2.0], batch_size=2, seed=0)
    >>> list(sampler)
    [[1, 2], [0]]
    """

    def __init__(self, durations: Sequence[float], batch_size: int, seed: int, buckets: bool = False) -> None:
        self.durations, self.batch_size, self.seed, self.buckets = list(durations), batch_size, seed, buckets
        self.epoch = 1

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch, counted from 1."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        draw = random.Random(f"{self.seed} {self.epoch}")
        durations = self.durations
        if self.epoch > 1 and self.buckets:
            durations = [duration * math.exp(draw.uniform(-JITTER, JITTER)) for duration in durations]
        order = sorted(range(len(durations)), key=lambda item: durations[item])
        if self.epoch > 1 and not self.buckets:
            draw.shuffle(order)
        batches = [order[start:start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        if self.epoch > 1 and self.buckets:
            draw.shuffle(batches)
        return iter(batches)

    def __len__(self) -> int:
        return -(-len(self.durations) // self.batch_size)


class DynamicBatches(Sampler[list[int]]):
    """SpeechBrain's dynamic batches, of like duration and of as much audio each; the first epoch is SortaGrad's.

    Arguments
    ---------
    durations : Sequence[float]
        Duration of each item in seconds.
    max_batch_length : float
        Seconds of a batch at most, with its padding; a longer item is a batch of its own.
    num_buckets : int
        Ranges of duration, of as many items each.
    seed : int
        Seed of the shuffling; an epoch's order depends on it and the epoch's number alone.

    Example
    -------
    >>> list(DynamicBatches([3.0, 1.0, 2.0], max_batch_length=4.0, num_buckets=2, seed=0))
    [[2, 1], [0]]
    """

    def __init__(self, durations: Sequence[float], max_batch_length: float, num_buckets: int, seed: int) -> None:
        self.durations, self.max_batch_length, self.seed = list(durations), max_batch_length, seed
        self.boundaries = np.unique(np.quantile(self.durations, np.linspace(0, 1, num_buckets + 1)[1:])).tolist()
        self.set_epoch(1)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch, counted from 1; all have as many batches."""
        self.batches = list(DynamicBatchSampler(
            self.durations, self.max_batch_length, lengths_list=self.durations, bucket_boundaries=self.boundaries,
            batch_ordering="ascending" if epoch == 1 else "random",
            seed=random.Random(f"{self.seed} {epoch}").getrandbits(31), epoch=1))  # it adds the epoch to the seed

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Shares(Sampler[list[int]]):
    """A process's share of every batch: together the processes see each item once, in the batches of one process.

    Of a batch with fewer items than processes, some get a copy of the first, marked as ``~item``: it counts nothing.

    Arguments
    ---------
    batches : SortaGradSampler | DynamicBatches
        The batches of all processes.
    rank, world_size : int
        This process, counted from 0, and the number of processes.

    Example
    -------
    >>> [list(Shares(SortaGradSampler([1, 2, 3], 2, seed=0), rank, 2)) for rank in (0, 1)]
    [[[0], [2]], [[1], [-3]]]
    """

    def __init__(self, batches: SortaGradSampler | DynamicBatches, rank: int, world_size: int) -> None:
        self.batches, self.rank, self.world_size = batches, rank, world_size

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch, counted from 1."""
        self.batches.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch[self.rank::self.world_size] or [~batch[0]] for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def steps_per_epoch(number_of_batches: int, accumulated: int) -> int:
    """Steps of the optimiser in an epoch, each after ``accumulated`` batches; batches left at its end teach nothing.

    Raises
    ------
    OptionError
        There would be none.

    Example
    -------
    >>> steps_per_epoch(12, 3)
    4
    """
    if not 1 <= accumulated <= number_of_batches:
        raise OptionError(f"--grad_accumulation_factor {accumulated}: it must be from 1 to {number_of_batches}, the "
                          "batches of an epoch")
    if left := number_of_batches % accumulated:
        logger.warning("the last %d of an epoch's %d batches teach nothing: --grad_accumulation_factor %d divides them "
                       "with a remainder", left, number_of_batches, accumulated)
    return number_of_batches // accumulated
