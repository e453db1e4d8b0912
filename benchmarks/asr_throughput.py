"""Seconds of speech that the recogniser trains on and encodes in a second, beside deepspeech.pytorch's network.

    git clone https://github.com/SeanNaren/deepspeech.pytorch
    python benchmarks/asr_throughput.py deepspeech.pytorch --data_folder LibriSpeech
    python benchmarks/asr_throughput.py deepspeech.pytorch --data_folder LibriSpeech --units 800 --batches 1
    python benchmarks/asr_throughput.py deepspeech.pytorch --data_folder LibriSpeech --device cuda:0 --precision bf16

Both networks have the sizes that are fixed there (convolutions of 32 channels, a step of 20 ms), the same first
weights, and read the same spectrograms, which are computed beforehand: reading and features are not in the times. A
training step is forward, CTC, backward, clipping of the gradient and AdamW; inference is the forward pass to the
log-probabilities. The two take turns, and the median of the rounds counts. Nothing of the clone but model.py is run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import sentencepiece
import torch
from clone import load, network
from common import cores, describe, table
from speech import ASRDataset, Batch, batches, described
from torch import Tensor, nn
from torch.nn.functional import ctc_loss
from tqdm import tqdm

from ser_plugins.contracts import Frames
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.encoders.import_deepspeech import import_checkpoint
from ser_plugins.features.spectrogram import Spectrogram
from ser_plugins.text import character_tokenizer

Item = tuple[Frames, Tensor, Tensor]  # spectrograms, tokens [batch, tokens], their numbers [batch]


class Given(nn.Module):
    """A front end that is given its frames."""

    rate = Spectrogram.rate

    def forward(self, frames: Tensor, lengths: Tensor) -> Frames:
        """The frames ``[batch, time, bins]`` as they are."""
        return Frames(frames, lengths, self.rate)


class Theirs(nn.Module):
    """The clone's network behind the interface of ours."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Frames) -> Frames:
        """Log-probabilities; in evaluation that network gives probabilities, which are left so."""
        spectrograms = frames.data.transpose(1, 2).unsqueeze(1)  # [batch, 1, bins, time]
        found, lengths = self.model(spectrograms, frames.lengths)[:2]
        return Frames(found.log_softmax(2) if self.training else found, lengths, frames.rate / 2)


class Ours(nn.Module):
    """`DeepSpeech2` behind its front end."""

    def __init__(self, encoder: DeepSpeech2) -> None:
        super().__init__()
        self.encoder = encoder
        encoder.frontend = Given()

    def forward(self, frames: Frames) -> Frames:
        """Log-probabilities."""
        return self.encoder(frames.data, frames.lengths).log_probs


def pair(clone: Path, units: int, layers: int) -> tuple[Ours, Theirs]:
    """Both networks with the same weights."""
    module, labels = load(clone)
    model, checkpoint = network(module, labels, "gru", units, layers)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(checkpoint, Path(folder) / "model")
        encoder = DeepSpeech2.from_pretrained(import_checkpoint(Path(folder) / "model", Path(folder) / "encoder"))
    return Ours(encoder.requires_grad_(True)), Theirs(model)


def items(chosen: Sequence[Batch], device: str) -> list[Item]:
    """Spectrograms and tokens of the batches."""
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=character_tokenizer())
    frontend, made = Spectrogram(), []
    for rows in chosen:
        dataset = ASRDataset(rows, tokenizer)
        batch = ASRDataset.collate([dataset[item] for item in range(len(rows))])
        frames = frontend(batch["waveforms"], batch["lengths"]).to(device)
        made.append((frames, batch["tokens"].to(device), batch["token_lengths"].to(device)))
    return made


def trainer(model: nn.Module, data: Sequence[Item], computes: Callable[[], Any]) -> Callable[[], None]:
    """A function that trains on all batches."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def train() -> None:
        model.train()
        for frames, tokens, token_lengths in data:
            optimizer.zero_grad()
            with computes():
                found = model(frames)
            ctc_loss(found.data.float().transpose(0, 1), tokens, found.lengths, token_lengths, reduction="sum",
                     zero_infinity=True).div(len(tokens)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 400.0)
            optimizer.step()

    return train


def reader(model: nn.Module, data: Sequence[Item], computes: Callable[[], Any]) -> Callable[[], None]:
    """A function that encodes all batches."""

    @torch.no_grad()
    def read() -> None:
        model.eval()
        for frames, _, _ in data:
            with computes():
                model(frames)

    return read


def seconds(work: Callable[[], None], device: str) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started


@torch.no_grad()
def difference(ours: nn.Module, theirs: nn.Module, frames: Frames) -> float:
    """Largest difference of the probabilities on valid frames."""
    one, other = ours.eval()(frames), theirs.eval()(frames)
    assert one.lengths.tolist() == other.lengths.tolist()
    first, second = (item.data[one.mask()].sort(dim=1)[0] for item in (Frames(one.data.exp(), one.lengths, 1), other))
    return float((first - second).abs().max())  # sorted: the labels have another order


def measured(both: Sequence[nn.Module], data: Sequence[Item], args: argparse.Namespace) -> list[list[str]]:
    """Rows of the table."""
    precision = torch.bfloat16 if args.precision == "bf16" else None
    device = torch.device(args.device).type

    def computes() -> Any:
        return torch.autocast(device, precision, enabled=precision is not None)

    speech = sum(float(frames.lengths.sum()) for frames, _, _ in data) / Spectrogram.rate
    rows = []
    for name, make in (("training", trainer), ("inference", reader)):
        for model in both:
            make(model, data[:1], computes)()  # warm-up: compilation, memory
        work = [make(model, data, computes) for model in both]
        times = [[seconds(one, args.device) for one in work] for _ in tqdm(range(args.repeats), desc=name)]
        ratios = [theirs / ours for ours, theirs in times]
        found = [f"{speech / median(one):.1f}" for one in zip(*times, strict=True)]
        rows.append([name, *found, f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"])
    return rows


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, help="a clone of deepspeech.pytorch at version 2.0, or 3.0 and later")
    parser.add_argument("--data_folder", type=Path, required=True, help="LibriSpeech")
    parser.add_argument("--splits", default="train-clean-5", help="of LibriSpeech, separated by commas")
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    try:
        ours, theirs = (model.to(args.device) for model in pair(args.clone, args.units, args.layers))
    except FileNotFoundError as error:
        parser.error(str(error))
    chosen = batches(args.data_folder, args.splits.split(","), args.batch_size, args.batches)
    data = items(chosen, args.device)
    differ = difference(ours, theirs, data[0][0])
    rows = measured((ours, theirs), data, args)
    print(f"\n{args.layers} × {args.units} units, batches of {args.batch_size}, {args.device}, {args.precision}, "
          f"{args.repeats} rounds; {described(chosen)}\n")
    print(table(["seconds of speech in a second", "DeepSpeech2", "deepspeech.pytorch", "ratio of a round, median"],
                rows))
    print(f"\nsame weights: probabilities differ by {differ:.1e} at most\n\n{describe()}")


if __name__ == "__main__":
    main()
