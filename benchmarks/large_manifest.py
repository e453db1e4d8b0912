"""Seconds and memory that a large manifest takes, from opening it to the first batch of recipes/train_asr.py.

    python benchmarks/large_manifest.py
    python benchmarks/large_manifest.py --rows 1000000

The manifest is made: rows like LibriSpeech's, each with a transcript of words of random letters. One fresh process does
what the recipe does with all rows before it trains, in its order. Memory is the process's peak (``ru_maxrss``) after
each step. No audio is read: that `ser prepare` opens every file once is not in it.
"""

from __future__ import annotations

import argparse
import random
import string
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import RECIPES, describe, in_fresh_process, peak, table

from ser_plugins.corpora import manifest
from ser_plugins.corpora.manifest import Row

CHAPTER, SPEAKER = 40, 160  # utterances
SHORTEST, LONGEST = 2.0, 17.0  # s
WORDS_PER_SECOND = 2.7  # of LibriSpeech
WORDS = 20_000  # different ones


def made(count: int) -> Iterator[Row]:
    """Rows in LibriSpeech's layout."""
    draw = random.Random(0)
    words = ["".join(draw.choices(string.ascii_uppercase, k=draw.randrange(1, 9))) for _ in range(WORDS)]
    for number in range(count):
        speaker, chapter = number // SPEAKER, number // CHAPTER
        name = f"{speaker}-{chapter}-{number % CHAPTER:04d}"
        duration = round(draw.uniform(SHORTEST, LONGEST), 3)
        path = f"/corpora/LibriSpeech/train-960/{speaker}/{chapter}/{name}.flac"
        text = " ".join(draw.choices(words, k=int(WORDS_PER_SECOND * duration)))
        yield Row(name, path, 0.0, duration, duration, 16000, str(speaker), gender="female" if speaker % 2 else "male",
                  text=text)


class Steps:
    """Seconds of each step, and the process's peak memory after it."""

    def __init__(self) -> None:
        self.rows = [("start: Python, torch", 0.0, 0.0, peak())]

    def __call__(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """The function's result."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = function(*args)
        self.rows.append((name, time.perf_counter() - wall, time.process_time() - cpu, peak()))
        return result


def measure(path: Path) -> list[tuple[str, float, float, float]]:
    """Step, seconds by the clock and of computing, and peak memory in MB, in the recipe's order."""
    steps = Steps()
    rows = steps("open: manifest.load", manifest.load, path)
    train_asr = steps("import of the recipe", recipe)
    from ser_plugins.encoders.deepspeech2 import DeepSpeech2
    from ser_plugins.text import character_tokenizer

    encoder = DeepSpeech2(units=8, channels=2, tokenizer=character_tokenizer())
    steps("data's fingerprint", train_asr.data_fingerprint, rows)
    train, _ = steps("speaker_split", train_asr.speaker_split, rows, 20)
    train = steps("usable", train_asr.usable, train, encoder, LONGEST)
    values = {"dynamic_batching": False, "batch_size": 20, "seed": 1, "max_batch_length": 300.0, "num_buckets": 20}
    batches = steps("SortaGradSampler", train_asr.training_batches, train, values)
    steps("its second epoch", another_epoch, batches)
    batches = steps("DynamicBatches", train_asr.training_batches, train, values | {"dynamic_batching": True})
    steps("its second epoch", another_epoch, batches)
    return steps.rows


def recipe() -> Any:
    """The recipe as a module."""
    sys.path.insert(0, str(RECIPES))
    import train_asr

    return train_asr


def another_epoch(batches: Any) -> list[list[int]]:
    """All batches of the second epoch."""
    batches.set_epoch(2)
    return list(batches)


def main() -> None:
    """Makes the manifest, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.csv"
        started = time.perf_counter()
        manifest.write(made(args.rows), path)
        print(f"\n{args.rows:,} rows, {path.stat().st_size / 1e6:.0f} MB, made and written in "
              f"{time.perf_counter() - started:.1f} s\n")
        measured = in_fresh_process(measure, path)
    rows = [[name, f"{wall:.1f}", f"{cpu:.1f}", f"{memory:.0f}"] for name, wall, cpu, memory in measured]
    print(table(["step", "seconds", "of computing", "peak memory so far, MB"], rows))
    print(f"\n{describe()}")


if __name__ == "__main__":
    main()
