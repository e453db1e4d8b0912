"""Real-time factor of an encoder: seconds of computing for each second of speech, one file at a time and in batches.

    python benchmarks/encoder_rtf.py EmoDB/wav --files 100
    python benchmarks/encoder_rtf.py speech.wav --threads 1 --encoder ENCODER_FOLDER

From the file on disk to the transcript: decoding, resampling, features, encoder, greedy CTC.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from common import cores, describe, table
from tqdm import tqdm

from ser_plugins import audio
from ser_plugins.contracts import SAMPLE_RATE, Encoder, Frames
from ser_plugins.errors import SerError
from ser_plugins.inference import load_encoder

SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".sph", ".aiff", ".aif"}


def audio_files(paths: Sequence[str], limit: int) -> list[Path]:
    """The files, and those in the folders; of more than ``limit`` a random choice, always the same."""
    found = sorted({file for path in map(Path, paths)
                    for file in (path.rglob("*") if path.is_dir() else [path])
                    if file == path or file.suffix.lower() in SUFFIXES})
    return found if len(found) <= limit else sorted(random.Random(0).sample(found, limit))


@torch.no_grad()
def transcribe(encoder: Encoder, files: Sequence[Path], device: str) -> float:
    """Transcribes files in one batch; returns their seconds of speech."""
    waveforms = [torch.from_numpy(audio.read(file)).unsqueeze(1) for file in files]
    batch = Frames.from_list(waveforms, SAMPLE_RATE).to(device)
    encoder.decode(encoder(batch.data.squeeze(2), batch.lengths).log_probs)
    return float(batch.lengths.sum()) / SAMPLE_RATE


def measure(encoder: Encoder, files: Sequence[Path], batch_size: int, device: str) -> tuple[float, float]:
    """Seconds of speech, and of computing."""
    batches = [files[start:start + batch_size] for start in range(0, len(files), batch_size)]
    started = time.perf_counter()
    speech = sum(transcribe(encoder, batch, device) for batch in tqdm(batches, desc=f"batch {batch_size}"))
    return speech, time.perf_counter() - started


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", help="audio files, or folders of them")
    parser.add_argument("--files", type=int, default=100, help="at most so many")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--encoder", default="deepspeech2", help="a plugin, or an encoder folder")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        encoder = load_encoder(args.encoder).to(args.device)
        files = sorted(audio_files(args.paths, args.files), key=lambda file: audio.info(file).duration)
        if not files:
            sys.exit(f"error: no audio in {', '.join(args.paths)}; taken are {', '.join(sorted(SUFFIXES))}")
        transcribe(encoder, files[:1], args.device)  # warm-up
        results = {size: measure(encoder, files, size, args.device) for size in (1, args.batch_size)}
    except SerError as error:
        sys.exit(f"error: {error}")
    rows = [["one file at a time" if size == 1 else f"batches of {size}", f"{speech:.1f}", f"{seconds:.2f}",
             f"{seconds / speech:.4f}", f"{speech / seconds:.0f}"] for size, (speech, seconds) in results.items()]
    parameters = sum(weight.numel() for weight in encoder.parameters())
    print(f"\nencoder {args.encoder}, {parameters:,} parameters, {len(files)} files, {args.device}\n")
    print(table(["", "speech, s", "computing, s", "real-time factor", "times faster than real time"], rows))
    print(f"\n{describe()}")


if __name__ == "__main__":
    main()
