"""An epoch of the baseline, beside the same network on PyTorch's GRU, padded, and SpeechBrain's with lengths, packed.

    python benchmarks/recurrent.py --threads 1
    python benchmarks/recurrent.py --batch_size 64 --utterances 256 --repeats 5

All train on random frames of the features' size, with lengths like EmoDB's, from the same weights; forward, backward,
and Adam's step are timed. Epochs alternate, and the median of the repeats counts. The padded one reads the second
direction reversed within each length, as `ser_plugins.recurrent` does where `ser_plugins.gru` does not fit.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from statistics import median

import torch
from common import cores, describe, table
from speechbrain.nnet.RNN import GRU
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from ser_plugins.contracts import Frames, HeadInputs
from ser_plugins.heads.baseline import Baseline
from ser_plugins.recurrent import BiRNNLayer

FEATURES, UNITS, LAYERS, CLASSES = 27, 96, 2, 4  # Lakomkin et al. 2017, §3.1.2
RATE = 100.0  # frames per second
MEDIAN, SPREAD, SHORTEST, LONGEST = 260, 0.35, 140, 900  # frames: EmoDB's utterances of four classes last 1.4 to 9 s

Batch = tuple[Frames, Tensor]  # features, true classes [batch]


class Packed(nn.Module):
    """The baseline head's network on SpeechBrain's bidirectional GRU, with the head's weights."""

    def __init__(self, head: Baseline) -> None:
        super().__init__()
        self.rnn = GRU(UNITS, input_size=FEATURES, num_layers=LAYERS, bidirectional=True)
        self.dropout = nn.Dropout(head.dropout.p)
        self.output = nn.Linear(2 * UNITS, CLASSES)
        self.output.load_state_dict(head.output.state_dict())
        weights = {}
        for number, layer in enumerate(head.rnn.layers):
            assert isinstance(layer, BiRNNLayer)
            for suffix, direction in (("", layer.forwards), ("_reverse", layer.backwards)):
                weights.update({name.replace("l0", f"l{number}") + suffix: value
                                for name, value in direction.state_dict().items()})
        self.rnn.rnn.load_state_dict(weights)

    def forward(self, inputs: HeadInputs) -> Tensor:
        """Maps features to logits, ``[batch, classes]``."""
        frames = inputs.features
        assert frames is not None
        relative = (frames.lengths + 0.25) / frames.data.shape[1]  # SpeechBrain rounds down: keep clear of the edge
        data, _ = self.rnn(frames.data, lengths=relative)
        return self.output(self.dropout(Frames(data, frames.lengths, frames.rate).mean()))


class Padded(nn.Module):
    """The baseline head with PyTorch's one-directional GRUs."""

    def __init__(self, head: Baseline) -> None:
        super().__init__()
        self.head = copy.deepcopy(head)
        for layer in self.head.rnn.layers:
            layer._fits_cpu = lambda frames: False  # type: ignore[assignment]

    def forward(self, inputs: HeadInputs) -> Tensor:
        """Maps features to logits, ``[batch, classes]``."""
        return self.head(inputs)


def epoch_of(utterances: int, batch_size: int, device: str) -> list[Batch]:
    """Random frames and classes; lengths log-normal between `SHORTEST` and `LONGEST`, not sorted."""
    generator = torch.Generator().manual_seed(0)
    lengths = (MEDIAN * (SPREAD * torch.randn(utterances, generator=generator)).exp()).clamp(SHORTEST, LONGEST).long()
    frames = [torch.randn(int(length), FEATURES, generator=generator) for length in lengths]
    truth = torch.randint(CLASSES, (utterances,), generator=generator)
    return [(Frames.from_list(frames[start:start + batch_size], RATE).to(device),
             truth[start:start + batch_size].to(device)) for start in range(0, utterances, batch_size)]


def trainer(network: nn.Module, batches: list[Batch]) -> Callable[[], float]:
    """A function that trains one epoch and returns its seconds."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def epoch() -> float:
        started = time.perf_counter()
        for features, truth in batches:
            optimizer.zero_grad()
            cross_entropy(network(HeadInputs(features)), truth).backward()
            optimizer.step()
        if features.data.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return epoch


def differences(ours: Baseline, packed: Packed, batch: Batch) -> tuple[float, float]:
    """Largest difference of the logits, and of the gradients relative to the largest gradient; same dropout."""
    logits, gradients = [], []
    for network in (ours, packed):
        torch.manual_seed(0)
        logits.append(network(HeadInputs(batch[0])))
        cross_entropy(logits[-1], batch[1]).backward()
    first = ours.rnn.layers[0]
    assert isinstance(first, BiRNNLayer)
    for direction, suffix in ((first.forwards, ""), (first.backwards, "_reverse")):
        theirs = getattr(packed.rnn.rnn, f"weight_ih_l0{suffix}").grad
        gradients.append(float((direction.weight_ih_l0.grad - theirs).abs().max() / theirs.abs().max()))
    return float((logits[0] - logits[1]).detach().abs().max()), max(gradients)


def arithmetic(frames: int) -> float:
    """Operations of the recurrent layers' products in an epoch, forward and backward, in units of 10⁹.

    A product and its two gradients take as many each; the first layer's inputs want no gradient.
    """
    each_way = 2 * 3 * UNITS  # operations of a frame for each number that a gate's weights are multiplied with
    inputs = 2 * FEATURES + 3 * (LAYERS - 1) * 2 * UNITS
    return 2 * frames * each_way * (inputs + 3 * LAYERS * UNITS) / 1e9


def product_rate(device: str) -> float:
    """Operations in a second of a product of 1024 × 1024 numbers, in units of 10⁹."""
    left, right = torch.randn(2, 1024, 1024, device=device)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        float((left @ right)[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * 1024**3 / min(seconds) / 1e9


def main() -> None:
    """Reads the command line, runs both, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    batches = epoch_of(args.utterances, args.batch_size, args.device)
    ours = Baseline(FEATURES, CLASSES, UNITS).to(args.device)
    packed = Packed(ours).to(args.device)
    in_logits, in_gradients = differences(ours, packed, batches[0])

    epochs = {"baseline": trainer(ours, batches), "PyTorch GRU, padded": trainer(Padded(ours), batches),
              "SpeechBrain GRU with lengths": trainer(packed, batches)}
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in tqdm(range(args.repeats), desc="rounds of epochs"):
        for name, epoch in epochs.items():
            seconds[name].append(epoch())
    rows = []
    for name, times in seconds.items():
        ratios = [theirs / own for own, theirs in zip(seconds["baseline"], times, strict=True)]
        rows.append([name, f"{median(times):.2f}", f"{min(times):.2f}–{max(times):.2f}",
                     f"{median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})"])
    lengths = torch.cat([features.lengths for features, _ in batches])
    print(f"\n{args.utterances} utterances of {int(lengths.min())} to {int(lengths.max())} frames (mean "
          f"{lengths.float().mean():.0f}) × {FEATURES}, batch {args.batch_size}, {LAYERS} × {UNITS} units, "
          f"{args.device}, {args.repeats} repeats\n")
    print(table(["seconds per epoch", "median", "range", "times the baseline's"], rows))
    work = arithmetic(int(lengths.sum()))
    print(f"\nthe baseline's recurrent products: {work:.0f} GFLOP an epoch, {work / median(seconds['baseline']):.0f} "
          f"GFLOPS; a product of 1024 × 1024: {product_rate(args.device):.0f} GFLOPS")
    print(f"\nsame weights: logits differ by {in_logits:.1e} at most, gradients by {in_gradients:.1e} of the largest"
          f"\n\n{describe()}")


if __name__ == "__main__":
    main()
