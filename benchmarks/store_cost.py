"""What the store takes for each hour of audio: seconds to compute it, and megabytes on the disk.

    python benchmarks/store_cost.py EmoDB/wav
    python benchmarks/store_cost.py EmoDB/wav --files 100 --tempi 0.85 0.95 1.05 1.15

Each row is a store of its own, built from nothing: reading, tempo, features and encoder, in one pass. An hour is one of
the files as they are; ``--tempi`` adds variants of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from common import cores, describe, table
from encoder_rtf import audio_files

from ser_plugins import audio, augment, registry, store
from ser_plugins.contracts import Encoder, Needs
from ser_plugins.corpora.manifest import Row
from ser_plugins.errors import SerError
from ser_plugins.models import load_encoder


def row(file: Path) -> Row:
    """The whole file as an utterance."""
    info = audio.info(file)
    return Row(file.stem, str(file), 0.0, info.duration, info.duration, info.sample_rate, speaker="")


def build(items: list[store.Item], needs: Needs, encoder: Encoder, workers: int) -> tuple[float, int]:
    """Seconds, and bytes."""
    extractor = registry.create("features", "mfcc_pitch", {}) if needs.features else None
    with tempfile.TemporaryDirectory() as folder:
        stored = store.Store(folder, needs, extractor, encoder if needs.encoder else None)
        started = time.perf_counter()
        stored.compute(items, workers=workers)
        seconds = time.perf_counter() - started
        return seconds, sum(size for part in store.contents(folder) for _, size in part.kinds.values())


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", help="audio files, or folders of them")
    parser.add_argument("--files", type=int, default=10**9, help="at most so many")
    parser.add_argument("--tempi", type=float, nargs="*", default=[], help="of variants besides the undisturbed one")
    parser.add_argument("--workers", type=int, default=cores(), help="processes that read audio")
    args = parser.parse_args()
    try:
        rows = [row(file) for file in audio_files(args.paths, args.files)]
        if not rows:
            sys.exit(f"error: no audio in {', '.join(args.paths)}")
        hours = sum(one.duration for one in rows) / 3600
        items = [store.item(one, key, variant) for one, key in zip(rows, store.audio_hashes(rows), strict=True)
                 for variant in augment.variants(one.id, args.tempi, (-3, 6), seed=0)]
        encoder = load_encoder("deepspeech2")
        layers = tuple(range(1, len(encoder.layer_dims) + 1))
        kinds = {"means of all layers (mp)": Needs(means=layers),
                 "features (baseline)": Needs(features=True),
                 "features and means (progressive)": Needs(features=True, means=layers),
                 "frames of layer 2 (rnn-2)": Needs(sequences=(2,)),
                 "all of these, frames of every layer": Needs(features=True, means=layers, sequences=layers)}
        measured = [(name, *build(items, needs, encoder, args.workers)) for name, needs in kinds.items()]
    except SerError as error:
        sys.exit(f"error: {error}")
    print(f"\n{len(rows)} files, {hours:.2f} h, in {len(items) // len(rows)} variants each\n")
    print(table(["stored", "seconds", "for each hour", "MB for each hour"],
                [[name, f"{seconds:.1f}", f"{seconds / hours:.0f}", f"{size / 1e6 / hours:.1f}"]
                 for name, seconds, size in measured]))
    print(f"\n{describe()}")


if __name__ == "__main__":
    main()
