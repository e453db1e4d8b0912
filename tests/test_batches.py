"""The order of batches, their audio, and what each process gets of them."""

import random
from itertools import pairwise

import pytest
import torch

from ser_plugins.batches import DynamicBatches, Shares, SortaGradSampler


def random_sampler(seed, **options):
    draw = random.Random(seed)
    durations = [draw.choice([0.5, draw.uniform(0.3, 15)]) for _ in range(draw.randint(1, 60))]
    return SortaGradSampler(durations, draw.randint(1, 9), seed=seed, **options)


def epoch(sampler, number):
    sampler.set_epoch(number)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return batches


MANY = pytest.mark.parametrize("seed", range(30))
BUCKETS = pytest.mark.parametrize("buckets", [False, True])


@MANY
@BUCKETS
def test_every_item_once_in_every_epoch(seed, buckets):
    sampler = random_sampler(seed, buckets=buckets)
    for number in (1, 2, 9):
        batches = epoch(sampler, number)
        assert sorted(item for batch in batches for item in batch) == list(range(len(sampler.durations)))
        sizes = sorted(map(len, batches), reverse=True)
        assert all(size == sampler.batch_size for size in sizes[:-1])
        assert 1 <= sizes[-1] <= sampler.batch_size


@MANY
@BUCKETS
def test_the_first_epoch_goes_from_short_to_long(seed, buckets):
    sampler = random_sampler(seed, buckets=buckets)
    durations = [sampler.durations[item] for batch in epoch(sampler, 1) for item in batch]
    assert durations == sorted(durations)


@MANY
def test_buckets_keep_like_durations_together(seed):
    sampler = random_sampler(seed, buckets=True)
    spans = sorted((min(batch), max(batch)) for batch in
                   [[sampler.durations[item] for item in batch] for batch in epoch(sampler, 3)])
    # each duration was changed by a factor of at most 1.4: neighbouring batches overlap by no more than that, twice
    assert all(first[1] <= second[1] * 1.4**2 for first, second in pairwise(spans))


def test_buckets_are_made_anew_in_each_epoch():
    sampler = SortaGradSampler([1 + item / 100 for item in range(64)], 8, seed=0, buckets=True)
    second, third = ({frozenset(batch) for batch in epoch(sampler, number)} for number in (2, 3))
    assert len(second & third) < 2


@BUCKETS
def test_later_epochs_differ_and_depend_on_seed_and_number_alone(buckets):
    def order(seed, number):
        return epoch(SortaGradSampler(range(1, 41), 4, seed, buckets), number)

    orders = [order(0, 1), order(0, 2), order(0, 3), order(1, 2)]
    assert all(first != second for position, first in enumerate(orders) for second in orders[:position])
    assert order(0, 3) == orders[2]
    assert order(0, 1) == order(1, 1)
    resumed = SortaGradSampler(range(1, 41), 4, 0, buckets)
    epoch(resumed, 2)
    epoch(resumed, 2)  # what came before leaves no trace
    assert epoch(resumed, 3) == orders[2]


def padding(batches, durations):
    """Share of the padded batches that is padding."""
    padded = sum(len(batch) * max(durations[item] for item in batch) for batch in batches)
    return 1 - sum(durations) / padded


def test_batches_hold_utterances_of_like_duration():
    generator = torch.Generator().manual_seed(0)
    durations = (1 + 15 * torch.rand(37, generator=generator)).tolist()
    place = {item: rank for rank, item in enumerate(sorted(range(37), key=durations.__getitem__))}
    sampler = SortaGradSampler(durations, batch_size=5, seed=1, buckets=True)
    assert [place[item] for batch in sampler for item in batch] == list(range(37))
    assert padding(sampler, durations) < 0.1
    epochs = []
    for epoch in (2, 3):
        sampler.set_epoch(epoch)
        assert sorted(item for batch in sampler for item in batch) == list(range(37))
        shortest = [min(durations[item] for item in batch) for batch in sampler]
        assert shortest != sorted(shortest), "batches of any duration come in any order"
        epochs.append({frozenset(batch) for batch in sampler})
    assert epochs[0] != epochs[1], "an utterance has other neighbours in another epoch"
    mixed = SortaGradSampler(durations, batch_size=5, seed=1)
    for each in (sampler, mixed):
        each.set_epoch(2)
    assert padding(sampler, durations) < 0.7 * padding(mixed, durations)


@pytest.mark.parametrize("make", [
    lambda durations: SortaGradSampler(durations, 6, seed=1, buckets=True),
    lambda durations: DynamicBatches(durations, 40.0, 4, seed=1)])
def test_processes_share_every_batch_and_each_utterance_is_seen_once(make):
    durations = (1 + 15 * torch.rand(37, generator=torch.Generator().manual_seed(0))).tolist()
    shares = [Shares(make(durations), rank, 4) for rank in range(4)]
    alone = make(durations)
    for epoch in (1, 2, 5):
        for sampler in (alone, *shares):
            sampler.set_epoch(epoch)
        assert len({len(list(sampler)) for sampler in (alone, *shares)} | {len(share) for share in shares}) == 1
        for whole, *parts in zip(alone, *shares, strict=True):
            counted = [item for part in parts for item in part if item >= 0]
            assert sorted(counted) == sorted(whole)
            assert all(parts)
            assert {~item for part in parts for item in part if item < 0} <= {whole[0]}
        assert sorted(item for batch in alone for item in batch) == list(range(37))


def test_dynamic_batches_hold_as_much_audio_each():
    durations = (1 + 15 * torch.rand(200, generator=torch.Generator().manual_seed(0))).tolist()
    batches = DynamicBatches(durations, 40.0, 5, seed=1)
    longest = [max(durations[item] for item in batch) for batch in batches]
    assert longest == sorted(longest), "the first epoch is SortaGrad's"
    orders = []
    for epoch in (2, 3):
        batches.set_epoch(epoch)
        orders.append(list(batches))
        assert all(len(batch) * max(durations[item] for item in batch) <= 40.0 for batch in batches)
        assert padding(batches, durations) < 0.2
        assert len({len(batch) for batch in batches}) > 2
    assert {frozenset(batch) for batch in orders[0]} != {frozenset(batch) for batch in orders[1]}
    assert len(orders[0]) == len(orders[1]) == len(batches)
