"""A step of training of many runs as one network, beside that of a run by itself, as the recipe trains it.

    python benchmarks/stacked.py --device cuda:0
    python benchmarks/stacked.py --device cuda:0 --runs 1 24 96 --frames 260
    python benchmarks/stacked.py --runs 1 2 --repeats 3

Progressive heads of the paper's size on random frames; a step is the batch, forward, backward, clipping and Adam. The
runs by themselves are one process's, on the device and on one thread of the CPU. Logits and gradients of a stack are
compared with those of its heads in double precision on the CPU.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Callable, Sequence
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from common import describe, table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from ser_plugins import stacked
from ser_plugins.contracts import Frames, HeadInputs, Needs
from ser_plugins.heads.progressive import Progressive

FEATURES, LAYER, DIMS, CLASSES, BATCH, UTTERANCES = 27, 2, [512] * 5, 4, 32, 256
SPREAD = 0.15  # of the logarithm of the utterances' lengths, as RAVDESS's
Batch = Sequence[Any]  # of utterances


class Made:
    """A store of random arrays."""

    needs = Needs(features=True, means=(LAYER,))
    kinds: tuple[str, ...] = ("features", "means")

    def __init__(self, frames: int) -> None:
        generator = torch.Generator().manual_seed(0)
        lengths = (frames * (SPREAD * torch.randn(UTTERANCES, generator=generator)).exp()).long().tolist()
        self.items = [SimpleNamespace(key=number) for number in range(UTTERANCES)]
        self.features = [torch.randn(length, FEATURES, generator=generator) for length in lengths]
        self.vectors = torch.randn(UTTERANCES, DIMS[LAYER - 1], generator=generator)
        self.truth = torch.randint(CLASSES, (UTTERANCES,), generator=generator)

    def rate(self, kind: str) -> float:
        """Frames per second."""
        return 100.0

    def read(self, kind: str, one: Any) -> Tensor:
        """A stored array."""
        return self.features[one.key]

    def means(self, one: Any) -> dict[int, Tensor]:
        """The mean of each layer that is needed."""
        return {LAYER: self.vectors[one.key]}

    def inputs(self, batch: Batch) -> HeadInputs:
        """As `Store.inputs`."""
        return HeadInputs(Frames.from_list([self.features[one.key] for one in batch], 100.0),
                          means={LAYER: torch.stack([self.vectors[one.key] for one in batch])})

    def batches(self, seed: int) -> list[Batch]:
        """An epoch of a run."""
        order = random.Random(seed).sample(self.items, UTTERANCES)
        return [order[start:start + BATCH] for start in range(0, UTTERANCES, BATCH)]


def heads_of(runs: int, device: str) -> list[Progressive]:
    """Heads of the paper's size, each with weights of its own."""
    heads = []
    for seed in range(runs):
        torch.manual_seed(seed)
        heads.append(Progressive(feature_dim=FEATURES, layer_dims=DIMS, num_classes=CLASSES, layer=LAYER).to(device))
    return heads


def by_itself(made: Made, runs: int, device: str) -> Callable[[int], None]:
    """A function that makes a step of one run."""
    (head,) = heads_of(runs, device)
    optimizer, batches = torch.optim.Adam(head.parameters(), lr=1e-4), made.batches(0)

    def step(number: int) -> None:
        batch = batches[number % len(batches)]
        truth = torch.tensor([int(made.truth[one.key]) for one in batch], device=device)
        cross_entropy(head(made.inputs(batch).to(device)), truth).backward()
        nn.utils.clip_grad_norm_(head.parameters(), 15.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def in_step(made: Made, runs: int, device: str) -> Callable[[int], None]:
    """A function that makes a step of so many runs as one network."""
    heads = heads_of(runs, device)
    optimizers = [torch.optim.Adam(head.parameters(), lr=1e-4) for head in heads]
    stack, gathered = stacked.Stack(heads), stacked.Table(made, made.items, device)  # type: ignore[arg-type]
    epochs = [made.batches(seed) for seed in range(runs)]

    def step(number: int) -> None:
        batches = [epoch[number % len(epoch)] for epoch in epochs]
        logits = stack(range(runs), gathered, batches, range(runs))
        truth = torch.tensor([[int(made.truth[one.key]) for one in batch] for batch in batches], device=device)
        sum(cross_entropy(one, true) for one, true in zip(logits, truth, strict=True)).backward()  # type: ignore[union-attr]
        for head, optimizer in zip(heads, optimizers, strict=True):
            nn.utils.clip_grad_norm_(head.parameters(), 15.0)
            optimizer.step()
            optimizer.zero_grad()

    return step


def seconds(step: Callable[[int], None], repeats: int, device: str) -> float:
    """Median of the steps after the first two."""
    taken = []
    for number in range(repeats + 2):
        started = time.perf_counter()
        step(number)
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return median(taken[2:])


def differences(made: Made, device: str) -> tuple[float, float]:
    """Largest difference of three runs' logits, and of their gradients relative to each weight's largest one."""
    heads = heads_of(3, device)
    gathered = stacked.Table(made, made.items, device)  # type: ignore[arg-type]
    batches = [made.batches(seed)[0][:BATCH - seed] for seed in range(3)]
    logits = stacked.Stack(heads)(range(3), gathered, batches)
    pairs: list[tuple[Tensor, Tensor]] = []
    of_gradients = 0.0
    for head, one, batch in zip(heads, logits, batches, strict=True):
        truth = made.truth[[item.key for item in batch]]
        cross_entropy(one[:len(batch)], truth.to(device)).backward(retain_graph=True)
        exact, inputs = copy.deepcopy(head).cpu().double().eval(), made.inputs(batch)
        exact.zero_grad()
        assert inputs.features is not None
        double = HeadInputs(Frames(inputs.features.data.double(), inputs.features.lengths, 100.0),
                            means={LAYER: inputs.means[LAYER].double()})
        expected = exact(double)
        cross_entropy(expected, truth).backward()
        pairs.append((one[:len(batch)].detach().cpu().double(), expected.detach()))
        for own, true in zip(head.parameters(), exact.parameters(), strict=True):
            assert own.grad is not None
            assert true.grad is not None
            of_gradients = max(of_gradients, float((own.grad.cpu() - true.grad).abs().max() / true.grad.abs().max()))
    return max(float((own - true).abs().max()) for own, true in pairs), of_gradients


def main() -> None:
    """Prints the differences and a table of the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="of the stack (default: cpu)")
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 24, 48, 96], help="default: %(default)s")
    parser.add_argument("--frames", type=int, default=370, help="of an utterance, the median (default: RAVDESS's 370)")
    parser.add_argument("--repeats", type=int, default=8, help="steps of each that are timed (default: 8)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device, made = arguments.device, Made(arguments.frames)
    print(describe(), flush=True)
    for tf32 in ((False,) if device == "cpu" else (False, True)):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        logits, gradients = differences(made, device)
        print(f"{'TF32' if tf32 else 'float32'}: logits differ by {logits:.1e} at most, gradients by "
              f"{gradients:.1e} of the largest", flush=True)
    ways = [("one run, one thread of the CPU", 1, "cpu", by_itself)]
    ways += [(f"one run, {device}", 1, device, by_itself)] * (device != "cpu")
    ways += [(f"{runs} in step, {device}", runs, device, in_step) for runs in arguments.runs]
    rows: list[list[Any]] = []
    for name, runs, where, way in tqdm(ways, unit="way"):
        if where != "cpu":
            torch.cuda.reset_peak_memory_stats()
        taken = seconds(way(made, runs, where), arguments.repeats, where) * 1e3
        memory = "" if where == "cpu" else f"{torch.cuda.max_memory_allocated() / 2**30:.1f}"
        rows.append([name, taken, taken / runs, memory])
    slowest, alone = rows[0][2], rows[device != "cpu"][2]
    print(table(["", "ms a step", "ms a run and step", "× the CPU's thread", f"× one run, {device}", "GiB"],
                [[name, f"{taken:.1f}", f"{each:.1f}", f"{slowest / each:.1f}", f"{alone / each:.1f}", memory]
                 for name, taken, each, memory in rows]))


if __name__ == "__main__":
    main()
