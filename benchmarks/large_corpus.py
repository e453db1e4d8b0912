"""Seconds and memory of a whole protocol over 100 hours, before anything is trained: manifest, plan and store's index.

    python benchmarks/large_corpus.py
    python benchmarks/large_corpus.py --hours 20

The corpus is made: an hour of silence for each speaker, as a file with holes that takes no room on the disk, cut into
utterances of 4.5 s with labels in turn. One fresh process does what recipes/cross_validate.py does with
hparams/table1.yaml, in its order: it reads and checks the corpus, hashes the audio, plans every system, fold and run,
and looks for the stored means of every utterance and variant, for which empty files are laid. Memory is the process's
peak (``ru_maxrss``) after each step.
"""

from __future__ import annotations

import argparse
import csv
import os
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import HPARAMS, RECIPES, describe, in_fresh_process, table
from large_manifest import Steps

UTTERANCE, HOUR, RATE = 4.5, 3600, 16000
LABELS = ("anger", "happiness", "neutral", "sadness")


def make(folder: Path, hours: int) -> int:
    """Writes the corpus in the layout of the reader ``csv``; returns the number of utterances."""
    folder.mkdir()
    count = 0
    with open(folder / "manifest.csv", "w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["id", "path", "speaker", "emotion", "start", "end"])
        for speaker in range(hours):
            name = f"speaker{speaker:04d}"
            silence(folder / f"{name}.wav", mark=speaker)
            for number in range(int(HOUR / UTTERANCE)):
                lines.writerow([f"{name}-{number:04d}", f"{name}.wav", name, LABELS[number % len(LABELS)],
                                number * UTTERANCE, (number + 1) * UTTERANCE])
                count += 1
    return count


def silence(path: Path, mark: int) -> None:
    """An hour of 16-bit silence but for its first sample, so that no two files are alike."""
    size = HOUR * RATE * 2
    with open(path, "wb") as file:
        file.write(b"RIFF" + struct.pack("<I", size + 36) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE,
                                                                                    2 * RATE, 2, 16))
        file.write(b"data" + struct.pack("<Ih", size, mark))
        file.truncate(size + 44)


def measure(folder: Path) -> tuple[list[tuple[str, float, float, float]], int, int]:
    """Steps with seconds and peak memory in MB; the numbers of units and of stored arrays."""
    steps = Steps()
    recipe = steps("import of the recipe", recipe_module)
    from ser_plugins import augment, experiment, protocol, store
    from ser_plugins.contracts import Needs

    words = [str(HPARAMS / "table1.yaml"), "--corpus", "csv", "--data_folder", str(folder / "corpus"),
             "--output_folder", str(folder / "out")]
    exp = experiment.load(words)
    systems = steps("systems of the plan, built", recipe.planned, exp)
    manifests = steps("corpus read and checked, manifest written", protocol.write_manifests, exp.values, folder / "out")
    rows, _ = steps("manifest opened", protocol.prepared_rows, manifests, exp.values)
    chosen = steps("folds", recipe.chosen_folds, rows, exp.values)
    hashes = steps("hashes of the audio", store.audio_hashes, rows)
    units = steps("units of the plan", recipe.units_of, systems, rows, chosen,
                  recipe.seeds_of(systems, exp.values["runs"], {}), folder / "out", manifests)
    one = systems["mp-1"]

    def variants() -> list[store.Item]:
        return [store.item(row, key, variant) for row, key in zip(rows, hashes, strict=True)
                for variant in augment.variants(row.id, one.exp.values["tempi"], tuple(one.exp.values["gain"]), seed=0)]

    items = steps("utterances in their variants", variants)
    stored = store.Store(folder / "store", Needs(means=(1, 2, 3, 4, 5)), None, one.system.encoder)
    for item in items:
        os.close(os.open(stored.kinds["means"] / f"{item.key}.npy", os.O_CREAT | os.O_WRONLY))
    left = steps("index of the store", stored.missing, items)
    assert not left
    return steps.rows, len(units), len(items)


def recipe_module() -> Any:
    """cross_validate.py as a module."""
    sys.path.insert(0, str(RECIPES))
    import cross_validate

    return cross_validate


def main() -> None:
    """Makes the corpus, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=100, help="one of each speaker; 3 or more")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        count = make(Path(folder) / "corpus", args.hours)
        measured, units, items = in_fresh_process(measure, Path(folder))
    rows = [[name, f"{wall:.1f}", f"{cpu:.1f}", f"{memory:.0f}"] for name, wall, cpu, memory in measured]
    print(f"\n{args.hours} hours, {count:,} utterances of {args.hours} speakers; {units:,} trainings planned; "
          f"{items:,} arrays in the store\n")
    print(table(["step", "seconds", "of computing", "peak memory so far, MB"], rows))
    print(f"\n{describe()}")


if __name__ == "__main__":
    main()
