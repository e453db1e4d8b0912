"""The network of deepspeech.pytorch, out of a user's clone of it.

Of the clone only the file model.py is run, and labels.json is read; what model.py imports of packages that it does not
compute with is replaced by empty classes.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from torch import nn

FILES = ("deepspeech_pytorch/model.py", "model.py")  # of version 3.0 and later, of 2.0
SOUND = {"sample_rate": 16000, "window_size": 0.02, "window_stride": 0.01, "window": "hamming"}
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


def load(clone: Path) -> tuple[ModuleType, list[str]]:
    """The clone's module model.py, where the packages of `REPLACED` are replaced, and its labels.

    Raises
    ------
    FileNotFoundError
        The folder is no clone.
    """
    path = next((clone / name for name in FILES if (clone / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{clone} is no clone of deepspeech.pytorch: it has neither {' nor '.join(FILES)}")
    sys.modules.update({name: Replaced(name) for name in REPLACED})
    specification = importlib.util.spec_from_file_location("deepspeech_pytorch_model", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module, json.loads((clone / "labels.json").read_text(encoding="utf-8"))


def network(module: ModuleType, labels: list[str], cell: str, units: int, layers: int,
            change: Callable[[nn.Module], object] = nn.Module.eval) -> tuple[nn.Module, Any]:
    """The clone's network with its first weights, which may be changed, and its checkpoint."""
    if not hasattr(module, "BiDirectionalConfig"):
        model = module.DeepSpeech(rnn_type=RNNS[cell], labels="".join(labels), rnn_hidden_size=units, nb_layers=layers,
                                  audio_conf=SOUND, bidirectional=True)
        change(model)
        return model, module.DeepSpeech.serialize(model, epoch=1)
    config = module.BiDirectionalConfig()
    config.rnn_type, config.hidden_size, config.hidden_layers = SimpleNamespace(value=RNNS[cell]), units, layers
    model = module.DeepSpeech(labels=labels, model_cfg=config, precision=32, optim_cfg=None,
                              spect_cfg=SimpleNamespace(**SOUND))
    change(model)
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
