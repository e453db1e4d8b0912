"""Greedy decoding beside beam search, with and without a language model: error rates, and what they cost.

    python benchmarks/decoding.py --data_folder LibriSpeech --beam_size 20
    python benchmarks/decoding.py --data_folder LibriSpeech --beam_size 20 --lm words3.arpa --lm_weight 0.6

Every utterance of the splits is encoded by itself; then each decoder reads the same log-probabilities.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from common import cores, describe, table
from speechbrain.utils.metric_stats import ErrorRateStats
from tqdm import tqdm

from ser_plugins import audio, decoding
from ser_plugins.contracts import Encoder, Frames
from ser_plugins.corpora import manifest
from ser_plugins.errors import SerError
from ser_plugins.models import load_encoder
from ser_plugins.text import normalize_text


def encoded(encoder: Encoder, rows: Sequence[manifest.Row]) -> list[Frames]:
    """CTC log-probabilities of each utterance."""
    found = []
    with torch.no_grad():
        for row in tqdm(rows, desc="encoding", unit="utterance"):
            samples = torch.from_numpy(audio.read(row.path, row.start, row.end)).unsqueeze(0)
            found.append(encoder(samples, torch.tensor([samples.shape[1]])).log_probs)
    return found


def measured(name: str, decode: decoding.Decode, log_probs: Sequence[Frames],
             rows: Sequence[manifest.Row]) -> list[str]:
    """A decoder's row of the table."""
    started = time.process_time()
    found = [decode(frames)[0] for frames in tqdm(log_probs, desc=name, unit="utterance")]
    seconds = time.process_time() - started
    rates = []
    for divide in (list, str.split):
        errors = ErrorRateStats()
        errors.append([row.id for row in rows], [divide(text) for text in found],
                      [divide(normalize_text(row.text)) for row in rows])
        rates.append(f"{errors.summarize('error_rate'):.2f}")
    return [name, *rates, f"{seconds / sum(row.duration for row in rows):.2g}"]


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_folder", type=Path, required=True, help="LibriSpeech")
    parser.add_argument("--splits", default="test-clean-5spk", help="of LibriSpeech, separated by commas")
    parser.add_argument("--speakers", type=int, default=0, help="only so many, the last by name")
    parser.add_argument("--encoder", default="deepspeech2", help="a plugin, or an encoder folder")
    parser.add_argument("--beam_size", type=int, default=20)
    parser.add_argument("--lm", help="a word n-gram in ARPA's format")
    parser.add_argument("--lm_weight", type=float, default=decoding.LM_WEIGHT)
    parser.add_argument("--word_bonus", type=float, default=decoding.WORD_BONUS)
    parser.add_argument("--threads", type=int, default=cores())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        encoder = load_encoder(args.encoder)
        decoders = {"greedy": encoder.decode, f"beam {args.beam_size}": decoding.decoder(encoder, args.beam_size)}
        if args.lm:
            decoders[f"beam {args.beam_size}, {Path(args.lm).name}"] = decoding.decoder(
                encoder, args.beam_size, args.lm, args.lm_weight, args.word_bonus)
        with tempfile.TemporaryDirectory() as temporary:
            rows = manifest.load(manifest.prepare("librispeech", args.data_folder, temporary,
                                                  {"splits": args.splits.split(",")}))
    except SerError as error:
        sys.exit(f"error: {error}")
    chosen = sorted({row.speaker for row in rows})[-args.speakers:]
    rows = [row for row in rows if row.speaker in chosen]
    log_probs = encoded(encoder, rows)
    results = [measured(name, decode, log_probs, rows) for name, decode in decoders.items()]
    print(f"\n{len(rows)} utterances of {len(chosen)} speakers; language model's weight {args.lm_weight:g}, "
          f"word bonus {args.word_bonus:g}\n")
    print(table(["decoding", "CER, %", "WER, %", "seconds of computing for a second of speech"], results))
    print(f"\n{describe()}")


if __name__ == "__main__":
    main()
