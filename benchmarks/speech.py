"""Batches of LibriSpeech for the benchmarks of the recogniser's training."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import RECIPES

from ser_plugins.batches import SortaGradSampler
from ser_plugins.corpora import manifest
from ser_plugins.text import normalize_text

sys.path.insert(0, str(RECIPES))
from asr_data import ASRDataset as ASRDataset

LONGEST = 17.0  # s, as hparams/asr_small.yaml
Batch = list[manifest.Row]


def batches(folder: Path, splits: Sequence[str], batch_size: int, count: int) -> list[Batch]:
    """Batches of utterances of like duration, as a training has them, evenly spread over all durations.

    Within a batch the longest comes first, as deepspeech.pytorch demands.
    """
    with tempfile.TemporaryDirectory() as temporary:
        rows = manifest.load(manifest.prepare("librispeech", folder, temporary, {"splits": list(splits)}))
    rows = [row for row in rows if row.duration <= LONGEST and normalize_text(row.text)]
    ordered = list(SortaGradSampler([row.duration for row in rows], batch_size, seed=0))  # shortest first
    chosen = [ordered[(2 * number + 1) * len(ordered) // (2 * count)] for number in range(count)]
    return [[rows[item] for item in reversed(batch)] for batch in chosen]


def described(chosen: Sequence[Batch]) -> str:
    """Numbers and durations, in words."""
    durations = sorted(row.duration for batch in chosen for row in batch)
    return (f"{len(chosen)} batches, {len(durations)} utterances of {durations[0]:.1f} to {durations[-1]:.1f} s "
            f"(median {durations[len(durations) // 2]:.1f} s), {sum(durations):.0f} s of speech")
