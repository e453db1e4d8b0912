"""Real-time factor of an encoder: seconds of computing for each second of speech, one file at a time and in batches.

    python benchmarks/encoder_rtf.py EmoDB/wav --files 100
    python benchmarks/encoder_rtf.py speech.wav --threads 1 --encoder ENCODER_FOLDER
    python benchmarks/encoder_rtf.py EmoDB/wav --hours 1
    python benchmarks/encoder_rtf.py EmoDB/wav --files 20 --units 800 --channels 32 --time_strides "[2,1]"

From the file on disk to the transcript: decoding, resampling, features, encoder, greedy CTC. ``--hours`` measures
`SpeechRecognizer.transcribe_file` on one long file, the speech over and over, in a fresh process: its peak memory
(``ru_maxrss``), too. ``--units`` measures an untrained network of that size.
"""

from __future__ import annotations

import argparse
import ast
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import soundfile
import torch
from common import cores, describe, in_fresh_process, peak, table
from tqdm import tqdm

from ser_plugins import audio
from ser_plugins.contracts import SAMPLE_RATE, Encoder, Frames
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.errors import SerError
from ser_plugins.inference import SpeechRecognizer
from ser_plugins.models import load_encoder
from ser_plugins.text import character_tokenizer

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


def untrained(folder: Path, args: argparse.Namespace) -> Path:
    """An encoder folder with a network of the given size, random weights."""
    torch.manual_seed(0)
    DeepSpeech2(args.units, args.layers, args.channels, args.time_strides, tokenizer=character_tokenizer()).save(folder)
    return folder


def long_file(files: Sequence[Path], hours: float, path: Path) -> Path:
    """The speech of the files over and over, a WAV at 16 kHz; written as it is read, so that it needs no memory."""
    left = round(hours * 3600 * SAMPLE_RATE)
    with soundfile.SoundFile(str(path), "w", SAMPLE_RATE, 1, "PCM_16") as out:
        for file in cycle(files):
            samples = audio.read(file)[:left]
            out.write(samples)
            left -= len(samples)
            if not left:
                break
    return path


def measure_long(path: Path, first: Path, encoder: str, threads: int, device: str) -> tuple[float, float, float]:
    """Seconds for the long file, and the process's peak memory before and after, MB."""
    torch.set_num_threads(threads)
    recognizer = SpeechRecognizer.from_hparams(encoder, {"device": device})
    recognizer.transcribe_file(first)  # warm-up
    before, started = peak(), time.perf_counter()
    recognizer.transcribe_file(path)
    return time.perf_counter() - started, before, peak()


def measure_files(files: Sequence[Path], args: argparse.Namespace) -> list[list[str]]:
    """Rows of the table: one file at a time, and in batches."""
    encoder = load_encoder(args.encoder).to(args.device)
    transcribe(encoder, files[:1], args.device)  # warm-up
    results = {size: measure(encoder, files, size, args.device) for size in (1, args.batch_size)}
    parameters = sum(weight.numel() for weight in encoder.parameters())
    print(f"\nencoder {described(args)}, {parameters:,} parameters, {len(files)} files, {args.device}\n")
    return [["one file at a time" if size == 1 else f"batches of {size}", *factors(*result)]
            for size, result in results.items()]


def factors(speech: float, seconds: float) -> list[str]:
    """Columns of the table."""
    return [f"{speech:.1f}", f"{seconds:.2f}", f"{seconds / speech:.4f}", f"{speech / seconds:.0f}"]


def described(args: argparse.Namespace) -> str:
    """What the encoder is."""
    if args.units is None:
        return args.encoder
    return f"of {args.layers} × {args.units} units, {args.channels} channels, strides {args.time_strides}, untrained"


def run(args: argparse.Namespace, folder: Path) -> None:
    """Measures and prints; ``folder`` is for what is made."""
    if args.units is not None:
        args.encoder = str(untrained(folder / "encoder", args))
    files = sorted(audio_files(args.paths, args.files), key=lambda file: audio.info(file).duration)
    if not files:
        sys.exit(f"error: no audio in {', '.join(args.paths)}; taken are {', '.join(sorted(SUFFIXES))}")
    header = ["", "speech, s", "computing, s", "real-time factor", "times faster than real time"]
    if args.hours is None:
        print(table(header, measure_files(files, args)))
        return
    path = long_file(files, args.hours, folder / "long.wav")
    seconds, before, after = in_fresh_process(measure_long, path, files[0], args.encoder, args.threads, args.device)
    print(f"\nencoder {described(args)}, one file, {args.device}\n")
    print(table([*header, "peak memory, MB", "of which at the start"],
                [["one file", *factors(args.hours * 3600, seconds), f"{after:.0f}", f"{before:.0f}"]]))


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", help="audio files, or folders of them")
    parser.add_argument("--files", type=int, default=100, help="at most so many")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--encoder", default="deepspeech2", help="a plugin, or an encoder folder")
    parser.add_argument("--units", type=int, help="an untrained network of so many units, in place of --encoder")
    parser.add_argument("--layers", type=int, default=5, help="of the untrained network")
    parser.add_argument("--channels", type=int, default=16, help="of the untrained network")
    parser.add_argument("--time_strides", type=ast.literal_eval, default=[2, 2], help="of the untrained network")
    parser.add_argument("--hours", type=float, help="one file of so many hours, in place of the files")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            run(args, Path(folder))
    except SerError as error:
        sys.exit(f"error: {error}")
    print(f"\n{describe()}")


if __name__ == "__main__":
    main()
