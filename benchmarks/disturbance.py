"""How far gain and tempo move an utterance's representation, beside what tells one utterance from another.

    python benchmarks/disturbance.py EmoDB/wav --files 100

Of each encoder layer's mean over time, what `mp` sees: the RMS over utterances and dimensions of the change, each
dimension in units of its standard deviation over the undisturbed utterances. 0 is no change; two utterances drawn at
random differ by 1.41. The last row is that of the features, frame by frame (`mfcc_pitch` with YIN; another tempo has
other frames).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from common import describe, table
from encoder_rtf import audio_files
from tqdm import tqdm

from ser_plugins import audio, augment
from ser_plugins.augment import Variant
from ser_plugins.contracts import Encoder
from ser_plugins.errors import SerError
from ser_plugins.features.mfcc_pitch import MFCCPitch
from ser_plugins.models import load_encoder

DISTURBED = {"gain −3 dB": Variant(gain_db=-3.0), "gain +6 dB": Variant(gain_db=6.0),
             "tempo 0.85": Variant(tempo=0.85), "tempo 1.15": Variant(tempo=1.15)}


@torch.no_grad()
def layer_means(encoder: Encoder, samples: np.ndarray) -> list[np.ndarray]:
    """The mean of each layer over time, ``[dim]``."""
    encoding = encoder(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    return [layer.mean()[0].numpy() for layer in encoding.layers]


def frames(extractor: MFCCPitch, samples: np.ndarray) -> np.ndarray:
    """Features ``[time, 27]``."""
    return extractor(torch.from_numpy(samples)[None], torch.tensor([len(samples)])).data[0].numpy()


def moved(plain: np.ndarray, disturbed: np.ndarray) -> float:
    """RMS of the change of vectors ``[utterances, dim]``, in standard deviations of each dimension."""
    return float(np.sqrt(np.mean(((disturbed - plain) / plain.std(axis=0)) ** 2)))


def measure(files: list[Path], encoder: Encoder) -> list[list[str]]:
    """Rows of the table."""
    extractor = MFCCPitch(pitch="yin")
    plain: list[list[np.ndarray]] = []
    changed: dict[str, list[list[np.ndarray]]] = {name: [] for name in DISTURBED}
    of_features: dict[str, list[float]] = {name: [] for name, variant in DISTURBED.items() if variant.tempo == 1}
    for file in tqdm(files, desc="files"):
        samples = audio.read(file)
        plain.append(layer_means(encoder, samples))
        undisturbed = frames(extractor, samples)
        for name, variant in DISTURBED.items():
            other = augment.apply(samples, variant)
            changed[name].append(layer_means(encoder, other))
            if name in of_features:  # each feature has mean 0 and deviation 1 over the utterance
                of_features[name].append(float(np.mean((frames(extractor, other) - undisturbed) ** 2)))
    rows = [[f"layer {layer}", *(f"{moved(np.stack(before), np.stack(after)):.3f}" for after in afters)]
            for layer, (before, *afters) in enumerate(zip(*(zip(*means, strict=True) for means in
                                                            (plain, *changed.values())), strict=True), start=1)]
    last = [f"{np.sqrt(np.mean(of_features[name])):.3f}" if name in of_features else "" for name in DISTURBED]
    return [*rows, ["features", *last]]


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", help="audio files, or folders of them")
    parser.add_argument("--files", type=int, default=100, help="at most so many")
    parser.add_argument("--encoder", default="deepspeech2", help="a plugin, or an encoder folder")
    args = parser.parse_args()
    files = audio_files(args.paths, args.files)
    if len(files) < 2:
        sys.exit(f"error: {len(files)} audio files in {', '.join(args.paths)}; two are needed to tell them apart")
    try:
        rows = measure(files, load_encoder(args.encoder))
    except SerError as error:
        sys.exit(f"error: {error}")
    print(f"\nencoder {args.encoder}, {len(files)} files\n\n{table(['', *DISTURBED], rows)}\n\n{describe()}")


if __name__ == "__main__":
    main()
