"""What a training step of the recogniser spends its time on.

    python benchmarks/asr_parts.py --data_folder LibriSpeech
    python benchmarks/asr_parts.py --data_folder LibriSpeech --units 800 --channels 32 --time_strides "[2,1]"

Each part runs by itself, forward and backward, on what the part before it gave; so its times do not hide another's.
Beside their sum is the time of the same step as recipes/train_asr.py runs it, without reading. Batches alternate, and
the median of the rounds counts. Convolutions include their norms and clipping, recurrent layers the norm behind each.
"""

from __future__ import annotations

import argparse
import ast
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import sentencepiece
import torch
from common import cores, describe, table
from speech import ASRDataset, Batch, batches, described
from torch import Tensor, nn
from torch.nn.functional import ctc_loss
from tqdm import tqdm

from ser_plugins.contracts import Frames
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.text import character_tokenizer

MAX_NORM = 400.0  # of the gradient, as hparams/asr.yaml
Times = dict[tuple[str, str], float]  # part, and "forward" or "backward" → seconds


class Clock:
    """Seconds of what it calls."""

    def __init__(self, device: str) -> None:
        self.cuda, self.times = device.startswith("cuda"), Times()

    def __call__(self, part: str, direction: str, function: Callable[..., Any], *args: Any) -> Any:
        """The function's result."""
        started = time.perf_counter()
        result = function(*args)
        if self.cuda:
            torch.cuda.synchronize()
        self.times[part, direction] = self.times.get((part, direction), 0.0) + time.perf_counter() - started
        return result


def loss_of(log_probs: Frames, batch: dict[str, Any]) -> Tensor:
    """The recipe's objective."""
    return ctc_loss(log_probs.data.float().transpose(0, 1), batch["tokens"], log_probs.lengths, batch["token_lengths"],
                    reduction="none").mean()


def stages(encoder: DeepSpeech2, batch: dict[str, Any]) -> list[tuple[str, Callable[[Frames], Any]]]:
    """The encoder's parts behind its front end, each on the frames of the one before it."""

    def layer(number: int) -> Callable[[Frames], Frames]:
        def run(frames: Frames) -> Frames:
            ahead, behind = encoder.recurrent[number](frames)
            return encoder.norms[number](Frames(ahead + behind, frames.lengths, frames.rate))

        return run

    def loss(frames: Frames) -> Tensor:
        log_probs = encoder.output(frames.data).log_softmax(dim=2)
        return loss_of(Frames(log_probs, frames.lengths, frames.rate).masked(), batch)

    recurrent = [(f"recurrent layer {number + 1}", layer(number)) for number in range(len(encoder.recurrent))]
    return [("convolutions", encoder.convolutions), *recurrent, ("output, CTC", loss)]


def step_by_parts(encoder: DeepSpeech2, rows: Batch, tokenizer: Any, device: str,
                  optimizer: torch.optim.Optimizer) -> tuple[Times, float]:
    """Seconds of each part of one step, and its loss."""
    clock, dataset = Clock(device), ASRDataset(rows, tokenizer)
    batch = clock("reading audio", "forward", lambda: collated(dataset, device))
    with torch.no_grad():
        frames = clock("features", "forward", encoder.frontend, batch["waveforms"], batch["lengths"])
    passed: list[tuple[str, Tensor, Tensor]] = []  # part, its input, its output
    for name, run in stages(encoder, batch):
        data = frames.data.detach().requires_grad_(bool(passed))
        given = Frames(data, frames.lengths, frames.rate)
        frames = clock(name, "forward", run, given)
        passed.append((name, data, frames.data if isinstance(frames, Frames) else frames))
    loss, gradient = passed[-1][2], None
    for name, data, output in reversed(passed):
        clock(name, "backward", output.backward, gradient)
        gradient = data.grad
    clock("clipping, optimiser", "forward", update, encoder, optimizer)
    return clock.times, loss.item()


def collated(dataset: ASRDataset, device: str) -> dict[str, Any]:
    """All of a data set as one batch."""
    batch = ASRDataset.collate([dataset[item] for item in range(len(dataset))])
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def update(encoder: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Clips the gradient and steps."""
    nn.utils.clip_grad_norm_(encoder.parameters(), MAX_NORM)
    optimizer.step()
    optimizer.zero_grad()


def whole_step(encoder: DeepSpeech2, batch: dict[str, Any], optimizer: torch.optim.Optimizer) -> float:
    """The step in one piece; its loss."""
    loss = loss_of(encoder(batch["waveforms"], batch["lengths"]).log_probs, batch)
    loss.backward()
    update(encoder, optimizer)
    return loss.item()


def rounds(encoder: DeepSpeech2, chosen: Sequence[Batch], tokenizer: Any, repeats: int,
           device: str) -> tuple[list[Times], list[float]]:
    """Of each round the seconds of the parts, and of the whole step, summed over the batches."""
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.0)  # the weights stay, so that losses can be compared
    whole_step(encoder, collated(ASRDataset(chosen[0], tokenizer), device), optimizer)  # warm-up
    parts, wholes = [], []
    for _ in tqdm(range(repeats), desc="rounds"):
        total, seconds = Times(), 0.0
        for rows in chosen:
            times, loss = step_by_parts(encoder, rows, tokenizer, device, optimizer)
            total = {key: total.get(key, 0.0) + value for key, value in times.items()}
            clock, batch = Clock(device), collated(ASRDataset(rows, tokenizer), device)
            same = clock("step", "whole", whole_step, encoder, batch, optimizer)
            assert abs(loss - same) <= 1e-3 * abs(same), f"the parts have the loss {loss}, the step {same}"
            seconds += clock.times["step", "whole"]
        parts.append(total)
        wholes.append(seconds)
    return parts, wholes


def rows_of(parts: Sequence[Times], batches: int) -> list[list[str]]:
    """Of each part the seconds of a step forward and backward, median of the rounds, and its share."""
    medians = {key: median(times[key] for times in parts) / batches for key in parts[0]}
    whole, found = sum(medians.values()), []
    for name in dict.fromkeys(name for name, _ in medians):
        ahead, back = medians[name, "forward"], medians.get((name, "backward"))
        share = (ahead + (back or 0.0)) / whole
        found.append([name, f"{ahead:.3f}", "" if back is None else f"{back:.3f}", f"{100 * share:.1f} %"])
    return [*found, ["sum", f"{whole:.3f}", "", "100 %"]]


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_folder", type=Path, required=True, help="LibriSpeech")
    parser.add_argument("--splits", default="train-clean-5", help="of LibriSpeech, separated by commas")
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--time_strides", type=ast.literal_eval, default=[2, 2])
    parser.add_argument("--batch_size", type=int, default=20)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=character_tokenizer())
    encoder = DeepSpeech2(args.units, args.layers, args.channels, args.time_strides).to(args.device).train()
    chosen = batches(args.data_folder, args.splits.split(","), args.batch_size, args.batches)
    parts, wholes = rounds(encoder, chosen, tokenizer, args.repeats, args.device)
    print(f"\n{args.layers} × {args.units} units, {args.channels} channels, strides {args.time_strides}, batches of "
          f"{args.batch_size}, {args.device}, {args.repeats} rounds; {described(chosen)}\n")
    print(table(["seconds of a step", "forward", "backward", "share"], rows_of(parts, len(chosen))))
    print(f"\nthe step in one piece, without reading: {median(wholes) / len(chosen):.3f} s\n\n{describe()}")


if __name__ == "__main__":
    main()
