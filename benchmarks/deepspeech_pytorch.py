"""Log-probabilities of an imported encoder, beside those of deepspeech.pytorch's own network.

    git clone https://github.com/SeanNaren/deepspeech.pytorch
    python benchmarks/deepspeech_pytorch.py deepspeech.pytorch --units 800
    git -C deepspeech.pytorch checkout v2.0 && python benchmarks/deepspeech_pytorch.py deepspeech.pytorch

The clone's network gets random weights, is saved in its version's layout, and imported. Both sides read the same padded
batch of noise of mixed lengths; the clone's network through librosa, as its parser calls it. The random network
amplifies rounding: so both also compute in float64. Of the clone only the file model.py is run; what it imports of
packages that it does not compute with is replaced by empty classes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import librosa
import numpy as np
import torch
from common import describe, table
from torch import Tensor, nn

from ser_plugins.encoders.import_deepspeech import import_checkpoint
from ser_plugins.inference import load_encoder

SAMPLES = (48000, 31999, 24160, 16001, 8000, 1600)
SOUND = {"sample_rate": 16000, "window_size": 0.02, "window_stride": 0.01, "window": "hamming"}
STEPS = 32768  # of a full-scale sample, 16 bit
RNNS = {"gru": nn.GRU, "lstm": nn.LSTM}
REPLACED = ("pytorch_lightning", "omegaconf", "deepspeech_pytorch", "deepspeech_pytorch.configs",
            "deepspeech_pytorch.configs.train_config", "deepspeech_pytorch.decoder", "deepspeech_pytorch.validation",
            "deepspeech_pytorch.enums")


class Empty(nn.Module):
    """What stands for a class of a replaced package."""

    get_type = staticmethod(type)  # of OmegaConf

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def save_hyperparameters(self) -> None:
        """Lightning's."""


class Replaced(ModuleType):
    """A module that has every class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, type(name, (Empty,), {}))
        return getattr(self, name)


def load(path: Path) -> ModuleType:
    """The module in a file; the packages of `REPLACED` are replaced."""
    sys.modules.update({name: Replaced(name) for name in REPLACED})
    specification = importlib.util.spec_from_file_location("deepspeech_pytorch_model", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def network(module: ModuleType, labels: list[str], cell: str, units: int, layers: int) -> tuple[nn.Module, Any]:
    """The clone's network with random weights, and its checkpoint."""
    if not hasattr(module, "BiDirectionalConfig"):
        model = module.DeepSpeech(rnn_type=RNNS[cell], labels="".join(labels), rnn_hidden_size=units, nb_layers=layers,
                                  audio_conf=SOUND, bidirectional=True)
        randomize(model)
        return model, module.DeepSpeech.serialize(model, epoch=1)
    config = module.BiDirectionalConfig()
    config.rnn_type, config.hidden_size, config.hidden_layers = SimpleNamespace(value=RNNS[cell]), units, layers
    model = module.DeepSpeech(labels=labels, model_cfg=config, precision=32, optim_cfg=None,
                              spect_cfg=SimpleNamespace(**SOUND))
    randomize(model)
    described = {"rnn_type": cell, "hidden_size": units, "hidden_layers": layers}
    return model, {"state_dict": model.state_dict(),
                   "hyper_parameters": {"labels": labels, "model_cfg": described, "spect_cfg": SOUND}}


def randomize(model: nn.Module) -> None:
    """Gives the normalisations statistics, and frames that differ; then evaluation."""
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.3)
        elif name.endswith("running_var"):
            tensor.uniform_(0.1, 2)
        elif name == "fc.0.module.1.weight":
            tensor.mul_(10)
    model.eval()


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
    model, checkpoint = network(module, labels, cell, units, layers)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(checkpoint, Path(folder) / "model")
        encoder = load_encoder(import_checkpoint(Path(folder) / "model", Path(folder) / "encoder"))
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
    files = [options.clone / name for name in ("deepspeech_pytorch/model.py", "model.py")]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        parser.error(f"{options.clone} is no clone of deepspeech.pytorch: it has neither {files[0]} nor {files[1]}")
    module = load(path)
    labels = json.loads((options.clone / "labels.json").read_text(encoding="utf-8"))
    rows = []
    for cell in RNNS:
        *largest, spread = differences(module, labels, cell, options.units, options.layers)
        rows.append((f"{cell}, {options.layers} × {options.units}", *(f"{value:.1e}" for value in largest),
                     f"{spread:.2f}"))
    print(table(("network", "largest difference, float32", "float64", "deviation of log-probabilities"), rows))
    print(f"\n{describe()}")


if __name__ == "__main__":
    main()
