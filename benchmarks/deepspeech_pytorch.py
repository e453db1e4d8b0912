"""Log-probabilities of an imported encoder, beside those of deepspeech.pytorch's own network.

    git clone https://github.com/SeanNaren/deepspeech.pytorch
    python benchmarks/deepspeech_pytorch.py deepspeech.pytorch --units 800
    git -C deepspeech.pytorch checkout v2.0 && python benchmarks/deepspeech_pytorch.py deepspeech.pytorch

The clone's network gets random weights, is saved in its version's layout, and imported. Both sides read the same padded
batch of noise of mixed lengths; the clone's network through librosa, as its parser calls it. The random network
amplifies rounding: so both also compute in float64.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from types import ModuleType

import librosa
import numpy as np
import torch
from clone import RNNS, load, network, randomize
from common import describe, table
from torch import Tensor, nn

from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.encoders.import_deepspeech import import_checkpoint
from ser_plugins.models import load_encoder

SAMPLES = (48000, 31999, 24160, 16001, 8000, 1600)
STEPS = 32768  # of a full-scale sample, 16 bit


def spectrograms(waveforms: list[np.ndarray], symmetric: bool) -> tuple[Tensor, Tensor]:
    """What the clone's parser gives of 16-bit samples, ``[batch, 1, 161, time]``, and frames."""
    items = []
    for waveform in waveforms:
        samples = waveform / (STEPS - 1 if symmetric else STEPS)
        window = np.hamming(320) if symmetric else "hamming"
        # padded here: librosa since 0.10 mirrors the last sample of some lengths otherwise than it did until 0.9
        level = torch.from_numpy(np.log1p(np.abs(librosa.stft(
            np.pad(samples, 160, mode="reflect"), n_fft=320, hop_length=160, window=window, center=False))))
        items.append((level - level.mean()) / level.std())
    padded = nn.utils.rnn.pad_sequence([item.T for item in items], batch_first=True)
    return padded.transpose(1, 2).unsqueeze(1), torch.tensor([item.shape[1] for item in items])


def differences(module: ModuleType, labels: list[str], cell: str, units: int, layers: int) -> list[float]:
    """The largest difference of log-probabilities on valid frames in float32 and float64; their deviation."""
    torch.manual_seed(0)
    model, checkpoint = network(module, labels, cell, units, layers, randomize)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(checkpoint, Path(folder) / "model")
        encoder = load_encoder(import_checkpoint(Path(folder) / "model", Path(folder) / "encoder"))
    assert isinstance(encoder, DeepSpeech2)
    assert encoder.tokenizer is not None
    generator = np.random.default_rng(0)
    noise = [(3000 * generator.standard_normal(count) * (1.1 + np.sin(np.arange(count) / 900))).round()
             for count in SAMPLES]
    letters = [encoder.tokenizer.id_to_piece(piece).replace("▁", " ") for piece in range(1, len(labels))]
    order = [labels.index(letter) for letter in ("_", *letters)]
    found = []
    for kind in (np.float32, np.float64):
        items = [item.astype(kind) for item in noise]
        waveforms = nn.utils.rnn.pad_sequence([torch.from_numpy(item) for item in items], batch_first=True) / STEPS
        with torch.no_grad():
            model, encoder = model.to(waveforms.dtype), encoder.to(waveforms.dtype)
            theirs, lengths = model(*spectrograms(items, "hyper_parameters" not in checkpoint))[:2]
            ours = encoder(waveforms, torch.tensor(SAMPLES)).log_probs
        assert ours.lengths.tolist() == lengths.tolist()
        expected = theirs.log()[ours.mask()][:, order]
        found.append(float((ours.data[ours.mask()] - expected).abs().max()))
    return [*found, float(expected.std())]


def main() -> None:
    """Compares and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, help="a clone of deepspeech.pytorch at version 2.0, or 3.0 and later")
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--layers", type=int, default=5)
    options = parser.parse_args()
    try:
        module, labels = load(options.clone)
    except FileNotFoundError as error:
        parser.error(str(error))
    rows = []
    for cell in RNNS:
        *largest, spread = differences(module, labels, cell, options.units, options.layers)
        rows.append((f"{cell}, {options.layers} × {options.units}", *(f"{value:.1e}" for value in largest),
                     f"{spread:.2f}"))
    print(table(("network", "largest difference, float32", "float64", "deviation of log-probabilities"), rows))
    print(f"\n{describe()}")


if __name__ == "__main__":
    main()
