"""Checkpoints of deepspeech.pytorch, weights and preprocessing, as encoder folders.

The network of that project since July 2018, in both of its file layouts: the package ``.pth`` (until January 2021) and
Lightning's ``.ckpt`` (3.0 and later). A file is read by ``torch.load(weights_only=True)``, and no code from it is run:
configuration objects (OmegaConf's, the project's own) are read through stand-ins that keep values and do nothing.

What differs from `DeepSpeech2` in form, not in numbers: convolutions there have a bias, which goes into the mean of the
batch norm behind them; batch norm stands before every recurrent layer but the first, here behind every one. The
spectrogram there is a magnitude with one mean and deviation per utterance, of samples in -1..1 and of librosa's frames.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from ser_plugins.contracts import SAMPLE_RATE
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.errors import DataError, OptionError
from ser_plugins.features.spectrogram import HOP, PADDINGS, WINDOW

CHANNELS, TIME_STRIDES = 32, (2, 1)  # fixed in that project
GATES = {"gru": 3, "lstm": 4}
EPSILON = 1e-12  # that project divides by the deviation alone; this keeps digital silence finite
CONVOLUTIONS = (("conv.seq_module.0", "conv.seq_module.1"), ("conv.seq_module.3", "conv.seq_module.4"))  # and norms
PACKAGE = ("hidden_size", "hidden_layers", "rnn_type", "audio_conf", "labels", "state_dict")
LIGHTNING = ("hyper_parameters", "state_dict")
EXPECTED = (f"expected a mapping with {', '.join(PACKAGE)} (.pth), or with {' and '.join(LIGHTNING)} "
            "(Lightning's .ckpt)")
COUNTER = "num_batches_tracked"
# Modules and names of which stand-ins are made: what describes a training, and nothing of which is needed but values.
DESCRIPTIVE = ("omegaconf.", "deepspeech_pytorch.", "hydra_configs.", "pytorch_lightning.", "typing.", "pathlib.",
               "torch.nn.modules.rnn.")
DESCRIPTIVE_NAMES = {"_operator.getitem", "operator.getitem", "collections.defaultdict", "argparse.Namespace", *(
    f"builtins.{name}" for name in ("Ellipsis", "bool", "dict", "float", "int", "list", "object", "str", "tuple",
                                    "type"))}


class StandIn:
    """Stands for an object of another package: it keeps what the file says of it and does nothing."""

    def __new__(cls, *arguments: Any) -> StandIn:
        """Whatever the file calls it with is kept."""
        made = super().__new__(cls)
        made.arguments = arguments
        made.state = {}
        return made

    def __init__(self, *arguments: Any) -> None:
        self.arguments: tuple[Any, ...]
        self.state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state


def stand_in(name: str) -> Callable[..., Any]:
    """A class of its own for a name in the file."""
    return type(name.rpartition(".")[2], (StandIn,), {})


def import_checkpoint(checkpoint: str | Path, folder: str | Path, padding: str = "reflect") -> Path:
    """Writes an encoder folder from a checkpoint of deepspeech.pytorch; weights keep their precision.

    Arguments
    ---------
    checkpoint : str | Path
        A package ``.pth`` or Lightning's ``.ckpt``.
    folder : str | Path
        Where it goes; made where it does not exist.
    padding : str
        What stood before and after an utterance in training, which the file does not say: ``"reflect"``, its mirror
        image (librosa until 0.8), or ``"zero"`` (librosa since 0.9, February 2022).

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    DataError
        The file is missing, truncated, of another layout, holds code, or a network that has no counterpart here.
    OptionError
        The folder is not empty, or the padding is unknown.
    """
    path, folder = Path(checkpoint), Path(folder)
    if padding not in PADDINGS:
        raise OptionError(f"padding '{padding}' is not one of {', '.join(PADDINGS)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"{folder} exists and is not an empty folder: give another one")
    package = _load(path)
    try:
        encoder = _encoder(_description(package), package["state_dict"], padding)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    notes = {name: package[name] for name in ("epoch", "iteration") if isinstance(package.get(name), int)}
    try:
        encoder.save(folder, {"imported": f"deepspeech.pytorch, {path.name}", **notes}, half=False)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}; "
                        "is the folder writable and the disk not full?") from error
    return folder


# The file


def _load(path: Path) -> dict[str, Any]:
    """The file's mapping; stand-ins where objects of other packages were."""
    if not path.is_file():
        raise DataError(f"{path} is no file: give a checkpoint of deepspeech.pytorch (.pth or .ckpt)")
    try:
        # files of torch before 1.6 are no archives, and older than any configuration object
        names = get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        described = [name for name in names if name.startswith(DESCRIPTIVE) or name in DESCRIPTIVE_NAMES]
        foreign = sorted(set(names) - set(described))
        if not foreign:
            with safe_globals([(stand_in(name), name) for name in described]):
                package = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = re.findall(r"GLOBAL (\S+)", str(error))[:1]
        if not foreign:
            raise DataError(f"{path} is corrupt, or no checkpoint: {_first_line(error)}") from error
    except Exception as error:  # whatever reading arbitrary bytes may raise
        raise DataError(f"{path} is corrupt, or no checkpoint: {_first_line(error)}") from error
    if foreign:
        raise DataError(
            f"{path} holds objects that could be restored only by running code: {', '.join(foreign)}. None was run. If "
            "you trust who made the file, strip it where the software that wrote it is installed: "
            f"package = torch.load('{path.name}', weights_only=False, map_location='cpu'); "
            f"torch.save({{name: package[name] for name in {sorted({*PACKAGE, *LIGHTNING, 'bidirectional'})} "
            "if name in package}, 'stripped.pth'); then import that")
    if not isinstance(package, dict):
        raise DataError(f"{path} holds a {type(package).__name__}; {EXPECTED}")
    return package


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200] or type(error).__name__


def plain(value: Any) -> Any:
    """A configuration without its stand-ins: mappings, lists, numbers, and names of classes.

    Example
    -------
    >>> node = StandIn()
    >>> node.__setstate__({"_content": {"hidden_size": 800}, "_parent": None})
    >>> plain(node), plain(StandIn("hamming"))
    ({'hidden_size': 800}, 'hamming')
    """
    if isinstance(value, StandIn):
        state = value.state if isinstance(value.state, dict) else {}
        kept = state.get("_content", state.get("_val"))  # of OmegaConf's containers and values
        if kept is None:  # an enumeration's member, called with its value; or a dataclass
            kept = value.arguments[0] if len(value.arguments) == 1 else state
        return plain(kept)
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


# The network


@dataclass(frozen=True)
class Description:
    """What a checkpoint says of its network.

    Arguments
    ---------
    model : dict[str, Any]
        ``hidden_size``, ``hidden_layers``, ``rnn_type`` and more.
    sound : dict[str, Any]
        ``sample_rate``, ``window_size``, ``window_stride``, ``window``.
    labels : Any
        The alphabet.
    lightning : bool
        Whether Lightning wrote it: the blank may then have any place in the alphabet.
    configured : bool
        Whether ``sound`` was a configuration object: since 2020, samples are divided by 32768 and no longer by 32767,
        and the window is periodic.
    """

    model: dict[str, Any]
    sound: dict[str, Any]
    labels: Any
    lightning: bool
    configured: bool


def _description(package: Mapping[str, Any]) -> Description:
    lightning = "hyper_parameters" in package
    _require(package, LIGHTNING if lightning else PACKAGE, "the file")
    if lightning:
        described = package["hyper_parameters"]
        _require(described, ("labels", "model_cfg", "spect_cfg"), "hyper_parameters")
        model, sound, labels = (described[name] for name in ("model_cfg", "spect_cfg", "labels"))
    else:
        model = {name: package[name] for name in (*PACKAGE[:3], "bidirectional") if name in package}
        sound, labels = package["audio_conf"], package["labels"]
    configured = lightning or not isinstance(sound, dict)
    try:
        model, sound, labels = plain(model), plain(sound), plain(labels)
    except RecursionError as error:
        raise DataError("its configuration contains itself") from error
    _require(model, PACKAGE[:3], "the model's configuration")
    _require(sound, ("sample_rate", "window_size", "window_stride", "window"), "the spectrogram's configuration")
    return Description(model, sound, labels, lightning, configured)


def _require(mapping: Any, names: Iterable[str], what: str) -> None:
    if not isinstance(mapping, Mapping):
        raise DataError(f"{what} is a {type(mapping).__name__}; {EXPECTED}")
    missing = [name for name in names if name not in mapping]
    if missing:
        raise DataError(f"{what} has no {', '.join(missing)}, but {_listed(mapping)}; {EXPECTED}")


def _listed(names: Iterable[Any], most: int = 8) -> str:
    """The first of some names, and how many more there are."""
    names = [str(name) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def _encoder(described: Description, state: Any, padding: str) -> DeepSpeech2:
    weights = _weights(state)
    _refuse_other_networks(described.model, weights)
    cell, units, layers = _size(described.model, weights)
    tokenizer, order = _tokenizer(described)
    encoder = DeepSpeech2(units, layers, CHANNELS, TIME_STRIDES, cell, _frontend(described, padding), tokenizer)
    own = {name: tensor for name, tensor in encoder.state_dict().items() if not name.endswith(COUNTER)}
    sources = {name: _source(name, layers) for name in own}
    shapes = {sources[name]: tuple(tensor.shape) for name, tensor in own.items()}
    shapes |= {f"{convolution}.bias": (CHANNELS,) for convolution, _ in CONVOLUTIONS}
    biases = {name: torch.zeros(shape) for name, shape in shapes.items() if ".rnn.bias_" in name}
    if not biases.keys() & weights.keys():  # recurrent layers without bias
        weights |= biases
    _check_weights(weights, shapes)
    filled = {name: weights[sources[name]] for name in own}
    for number, (convolution, _) in enumerate(CONVOLUTIONS):
        mean = f"convolutions.norms.{number}.running_mean"
        filled[mean] = filled[mean] - weights[f"{convolution}.bias"]
    filled["output.weight"] = filled["output.weight"][order]
    encoder.load_state_dict(filled, strict=False)
    encoder.freeze()
    return encoder


def _weights(state: Any) -> dict[str, Tensor]:
    """The weights in float32, without the batch norms' counters."""
    _require(state, (), "state_dict")
    others = [name for name, tensor in state.items() if not isinstance(tensor, Tensor)]
    if others:
        raise DataError(f"state_dict holds no tensors under {_listed(others)}")
    weights = {str(name): tensor.float() for name, tensor in state.items() if not str(name).endswith(COUNTER)}
    infinite = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if infinite:
        raise DataError(f"its weights are not finite: {_listed(infinite)}")
    return weights


def _refuse_other_networks(model: Mapping[str, Any], weights: Iterable[str]) -> None:
    one_way = model.get("bidirectional") is False or "lookahead_context" in model
    if one_way or any(name.startswith("lookahead.") for name in weights):
        raise DataError("a unidirectional network with lookahead convolution has no counterpart here, where layers "
                        "read both directions; import a bidirectional one")
    if "conv.0.weight" in weights:
        raise DataError("a network from before July 2018 (conv.0.weight; expected conv.seq_module.0.weight) has no "
                        "counterpart here: its convolutions are padded otherwise, and an output depends on the batch")
    if str(model["rnn_type"]).lower() not in GATES:
        raise DataError(f"recurrent layers of type '{model['rnn_type']}' have no counterpart here: "
                        f"expected {' or '.join(GATES)}")


def _size(model: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[str, int, int]:
    """Cell, units and layers, compared with the weights before anything of that size is made."""
    cell = str(model["rnn_type"]).lower()
    for name in ("hidden_size", "hidden_layers"):
        if isinstance(model[name], bool) or not isinstance(model[name], int) or model[name] < 1:
            raise DataError(f"{name} is {model[name]!r}; expected a whole number from 1")
    units, layers = model["hidden_size"], model["hidden_layers"]
    counted = len({name.split(".")[1] for name in weights if name.startswith("rnns.")})
    if counted != layers:
        raise DataError(f"hidden_layers is {layers}, but there are weights of {counted} recurrent layers (rnns.…)")
    name, expected = "rnns.0.rnn.weight_hh_l0", (GATES[cell] * units, units)
    if name in weights and tuple(weights[name].shape) != expected:
        raise DataError(f"{name} has shape {tuple(weights[name].shape)}; expected {expected} of a {cell} with "
                        f"hidden_size {units}")
    return cell, units, layers


def _source(name: str, layers: int) -> str:
    """The checkpoint's name of a weight of `DeepSpeech2` with so many recurrent layers."""
    part, *rest = name.split(".")
    if part == "convolutions":
        return f"{CONVOLUTIONS[int(rest[1])][rest[0] == 'norms']}.{rest[2]}"
    if part == "recurrent":
        return f"rnns.{rest[0]}.rnn.{rest[2]}{'_reverse' if rest[1] == 'backwards' else ''}"
    if part == "norms":
        behind = int(rest[0]) + 1
        return f"{f'rnns.{behind}.batch_norm.module' if behind < layers else 'fc.0.module.0'}.{rest[2]}"
    return "fc.0.module.1.weight"


def _check_weights(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    wrong = [f"{name} {tuple(weights[name].shape)} in place of {shape}" for name, shape in shapes.items()
             if name in weights and tuple(weights[name].shape) != shape]
    faults = {"missing": [name for name in shapes if name not in weights],
              "unexpected": [name for name in weights if name not in shapes], "of another shape": wrong}
    told = [f"{fault}: {_listed(names)}" for fault, names in faults.items() if names]
    if told:
        raise DataError(f"its weights are not those of the network; {'; '.join(told)}")


# Preprocessing and alphabet


def _frontend(described: Description, padding: str) -> dict[str, Any]:
    """The spectrogram of a checkpoint; what `Spectrogram` cannot express is refused."""
    for name, expected, unit in (("sample_rate", SAMPLE_RATE, "Hz"), ("window_size", WINDOW / SAMPLE_RATE, "s"),
                                 ("window_stride", HOP / SAMPLE_RATE, "s")):
        value = described.sound[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value - expected) > 1e-9:
            raise DataError(f"{name} is {value!r}; only checkpoints with {expected:g} {unit} can be imported")
    if described.sound["window"] != "hamming":
        raise DataError(f"window is {described.sound['window']!r}; only checkpoints with 'hamming' can be imported")
    return {"features": "spectrogram", "normalize": "global", "padding": padding, "epsilon": EPSILON,
            "scale": 1.0 if described.configured else 32768 / 32767,
            "window": "hamming" if described.configured else "hamming_symmetric"}


def _tokenizer(described: Description) -> tuple[bytes, list[int]]:
    """A tokenizer of the labels, and the place among them of each of its pieces; piece 0 is the blank ``_``."""
    if not isinstance(described.labels, (str, list)):
        raise DataError(f"labels are a {type(described.labels).__name__}; expected a list of characters")
    labels = list(described.labels)
    wrong = [label for label in labels if not isinstance(label, str) or len(label) != 1 or labels.count(label) > 1]
    if wrong:
        raise DataError(f"labels are not single, different characters: {_listed(map(repr, wrong))}")
    if "_" not in labels or (labels[0] != "_" and not described.lightning):
        raise DataError(f"the blank '_' is not {'among' if described.lightning else 'the first of'} "
                        f"the labels {_listed(map(repr, labels))}")
    letters = [label for label in labels if label != "_"]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"{letter} {letter}" if " " in letters else letter for letter in letters]),
        model_writer=model, model_type="char", vocab_size=len(labels), character_coverage=1.0, unk_id=0, bos_id=-1,
        eos_id=-1, pad_id=-1, normalization_rule_name="identity", add_dummy_prefix=False, minloglevel=2)
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [tokenizer.id_to_piece(number).replace("▁", " ") for number in range(1, tokenizer.vocab_size())]
    if sorted(pieces) != sorted(letters):
        raise DataError(f"labels that no tokenizer can hold: {_listed(map(repr, set(letters) - set(pieces)))}")
    return model.getvalue(), [labels.index(label) for label in ("_", *pieces)]
