"""Model folders: a trained system on the disk, read without running anything of it.

``model.json`` holds plain values: labels, and the names and options of features, encoder and head, which the registry
resolves to installed plugins. ``head.safetensors`` holds the weights. In a run's own folder, ``RUN/model``, the
encoder is a plugin's name or a folder of this machine. A folder that `ser_plugins.export` made is complete: it has
``format`` in model.json, the encoder's files in ``encoder/``, and checksums (docs/model_folders.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from ser_plugins import hub, registry
from ser_plugins.contracts import Encoder, FeatureExtractor, Head, Needs, head_sizes
from ser_plugins.errors import DataError, OptionError, PluginError, SerError, out_of_memory
from ser_plugins.files import write_atomically
from ser_plugins.finetune import finetuned
from ser_plugins.folder_check import check_complete, check_folder, check_model, read_json, where
from ser_plugins.weights import bounded, load_weights

FORMAT = 1  # of exported folders
SHIPPED = Path(__file__).parent / "assets" / "emotion_small"  # the model for first trials
UNTRAINED = "untrained:"  # before an encoder's name: the same network with random weights
WITHIN = "encoder"  # the folder of an exported model's encoder


@dataclass(frozen=True)
class Model:
    """A trained system.

    Arguments
    ---------
    labels : list[str]
        The classes, in the order of the head's logits.
    extractor, encoder, head : torch.nn.Module
        Its parts; extractor and encoder are frozen.
    needs : Needs
        What the head reads, resolved to layer numbers.
    temperature : float, optional
        What the logits are divided by before the softmax; None where none was fitted.
    content : dict
        ``model.json``.
    folder : Path
        Where it lies.
    """

    labels: list[str]
    extractor: FeatureExtractor
    encoder: Encoder
    head: Head
    needs: Needs
    temperature: float | None
    content: dict[str, Any]
    folder: Path


def load_encoder(source: str | Path) -> Encoder:
    """Loads a frozen encoder.

    Arguments
    ---------
    source : str | Path
        A registered encoder (its own default weights); ``NAME:SOURCE``, of a registered encoder what it calls SOURCE,
        as ``huggingface:facebook/hubert-base-ls960``; or an encoder folder, whose ``encoder.json`` names the plugin;
        after ``untrained:``, the same network with random weights, a control.

    Raises
    ------
    PluginError
        Neither; the installed encoders are named.
    DataError
        The folder is no encoder folder, or corrupt.
    """
    name = str(source)
    plugin, folder = encoder_plugin(name.removeprefix(UNTRAINED))
    if not name.startswith(UNTRAINED):
        return plugin.from_pretrained(folder).freeze()
    if not hasattr(plugin, "untrained"):
        raise PluginError(f"encoder '{source}': {plugin.__name__} has no random weights to offer (a classmethod "
                          "'untrained')")
    return plugin.untrained(folder).freeze()


def encoder_plugin(name: str) -> tuple[Any, str | Path | None]:
    """The class of an encoder, and the source or folder of its weights; None where they are the plugin's own."""
    plugin, colon, weights = name.partition(":")
    if plugin in registry.installed("encoders"):
        return registry.load("encoders", plugin), weights if colon else None
    folder = Path(name)
    if not folder.is_dir():
        raise PluginError(f"encoder '{name}' is neither a folder nor installed; installed: "
                          f"{', '.join(registry.installed('encoders'))}")
    return registry.load("encoders", str(read_json(folder / "encoder.json").get("encoder", ""))), folder


def save_model(folder: Path, values: Mapping[str, Any], extractor: FeatureExtractor, encoder: Encoder,
               head: Head) -> None:
    """Writes a run's model folder.

    Arguments
    ---------
    folder : Path
        Made where it does not exist.
    values : Mapping[str, Any]
        ``labels``, ``features``, ``feature_options``, ``encoder``, ``head``, ``head_options``; ``temperature`` where
        one was fitted; ``finetune_layers`` where ``head`` is a `FineTuned` one.
    extractor, encoder, head : torch.nn.Module
        The parts; of the first two only names, settings and fingerprints are kept.
    """
    content = {
        "labels": values["labels"],
        "features": values["features"],
        "feature_options": values["feature_options"],
        "features_fingerprint": extractor.fingerprint,
        "encoder": _from_anywhere(values["encoder"]),
        "encoder_fingerprint": encoder.fingerprint,
        "head": values["head"],
        "head_options": values["head_options"],
    }
    content |= {key: values[key] for key in ("temperature", "finetune_layers") if values.get(key)}
    write(folder, content, head)


def _from_anywhere(encoder: str) -> str:
    """The encoder's name with a relative folder in it made absolute."""
    prefix = UNTRAINED if encoder.startswith(UNTRAINED) else ""
    source = encoder.removeprefix(prefix)
    plugin, colon, weights = source.partition(":")
    if plugin in registry.installed("encoders"):
        prefix, source = f"{prefix}{plugin}{colon}", weights
    return prefix + (str(Path(source).absolute()) if source and Path(source).is_dir() else source)


def write(folder: Path, content: Mapping[str, Any], head: Head) -> None:
    """Writes ``head.safetensors`` and then ``model.json``, each whole or not at all."""
    weights = save({name: tensor.contiguous().cpu() for name, tensor in head.state_dict().items()})
    write_atomically(folder / "head.safetensors", lambda file: file.write(weights), binary=True)
    write_atomically(folder / "model.json", lambda file: json.dump(content, file, indent=2))


def find(source: str | Path | None) -> tuple[Path, Path | None]:
    """The model folder that is meant, and out of which folder its links may not lead: None is itself.

    Arguments
    ---------
    source : str | Path, optional
        A run's folder, a model folder, or ``owner/name`` on the hub; None is the model that ships with the package.

    Raises
    ------
    DataError
        There is no model.
    """
    if source == "":
        raise DataError("a model with an empty name: is a variable of your shell not set?")
    folder, home = SHIPPED if source is None else Path(source), None
    if not folder.exists() and hub.is_repository(str(source)):
        folder, home = hub.download(str(source))
    elif not folder.is_dir():
        raise DataError(f"{source}: no such folder; a trained system is the folder of a run, as "
                        "results/emodb/mp-3/test-03/seed-1")
    elif (folder / "model" / "model.json").is_file():
        folder = folder / "model"
    if not (folder / "model.json").is_file():
        raise DataError(f"{source} holds no trained system: expected model/model.json, as train_ser.py writes it "
                        "when training has ended")
    return folder, home


def load_model(source: str | Path | None) -> Model:
    """Loads a trained system; no code of its folder is run.

    Arguments
    ---------
    source : str | Path, optional
        As of `find`.

    Returns
    -------
    Model

    Raises
    ------
    DataError
        The folder holds no model, one that is spoilt or malicious, or one that does not fit the encoder or features
        installed here. The file is named, and the line where there is one.
    OptionError
        A plugin does not take its options.
    PluginError
        A plugin is not installed.
    """
    folder, home = find(source)
    check_folder(folder, home)
    content = read_json(folder / "model.json")
    check_model(content, folder / "model.json")
    exported = "format" in content or home is not None
    if exported:
        _check_format(content, folder)
    extractor = _made(folder, "features", content["features"], content["feature_options"])
    encoder = load_encoder(_encoder_source(content["encoder"], folder, exported))
    with bounded(folder / "head.safetensors"):
        head = _made(folder, "head", content["head"], content["head_options"],
                     head_sizes(extractor, encoder, len(content["labels"])))
    options = {name: parameter.default for name, parameter in registry.arguments(type(head)).items()}
    needs = head.needs.resolve({**options, **content["head_options"]}, len(encoder.layer_dims))
    if "finetune_layers" in content:
        head = _finetuned(folder, head, needs, encoder, content["finetune_layers"])
        needs = head.needs
    for part, name, used in ((extractor, "features", needs.features), (encoder, "encoder", True)):
        if used and part.fingerprint != content[f"{name}_fingerprint"]:
            raise DataError(f"{folder}: the {name} '{content[name]}' installed here differs from the one that the "
                            "head was trained on; the model would give other numbers")
    load_weights(head, folder / "head.safetensors", "the head that model.json names")
    return Model(content["labels"], extractor, encoder, head.eval(), needs, content.get("temperature"), content, folder)


def _check_format(content: Mapping[str, Any], folder: Path) -> None:
    """Refuses a folder that is not exported, or by a later version, or not complete."""
    path = folder / "model.json"
    if "format" not in content:
        raise DataError(f"{path} has no 'format': a model on the hub is a folder that ser export has written")
    if content["format"] != FORMAT:
        raise DataError(f"{where(path, 'format')}: format {content['format']!r:.80} is unknown; this version of "
                        f"ser_plugins reads {FORMAT}")
    check_complete(folder)


def _made(folder: Path, kind: str, name: str, options: Mapping[str, Any],
          context: Mapping[str, Any] | None = None) -> Any:
    """A plugin of model.json; whatever its constructor raises of a stranger's options is told with the line."""
    place = where(folder / "model.json", kind)
    try:
        return registry.create("heads" if kind == "head" else kind, name, options, context)
    except SerError as error:
        raise type(error)(f"{place}: {error}") from error
    except Exception as error:
        if out_of_memory(error):
            raise
        raise OptionError(f"{place}: '{name}' does not take its options: {type(error).__name__}: {error}") from error


def _finetuned(folder: Path, head: Head, needs: Needs, encoder: Encoder, count: int) -> Head:
    """The head over copies of the encoder's last layers, which its weights file fills."""
    try:
        return finetuned(head, needs, encoder, count)
    except OptionError as error:
        raise OptionError(f"{where(folder / 'model.json', 'finetune_layers')}: {error}") from error


def _encoder_source(name: str, folder: Path, exported: bool) -> str:
    """What `load_encoder` is to load; an exported model's encoder lies in its folder, or is a plugin's own.

    A run's own folder may name a folder of this machine, which is read as data; in the folder of its run, which has
    ``settings.json``, also ``NAME:SOURCE``. Either must have the fingerprint of the encoder that was trained on.
    """
    prefix = UNTRAINED if name.startswith(UNTRAINED) else ""
    bare = name.removeprefix(prefix)
    plugin, colon, _ = bare.partition(":")
    if bare in registry.installed("encoders"):
        return name
    place = where(folder / "model.json", "encoder")
    if not exported and colon and plugin in registry.installed("encoders"):
        own = folder.resolve()
        if own.name == "model" and (own.parent / "settings.json").is_file():
            return name
        raise DataError(f"{place}: encoder '{bare}' is had from elsewhere, which only the folder of a run may ask for: "
                        f"{own} is no folder 'model' with a run's settings.json above it")
    if exported and bare != WITHIN:
        raise DataError(f"{place}: encoder '{bare}' is neither installed nor '{WITHIN}', the folder within a model "
                        "folder that holds it")
    if not exported and not Path(bare).is_absolute():
        raise DataError(f"{place}: encoder '{bare}' is neither installed nor the absolute path of a folder")
    if exported:
        _check_encoder(folder / WITHIN)
        return f"{prefix}{folder / WITHIN}"
    return name


def _check_encoder(folder: Path) -> None:
    """Refuses an exported model's encoder folder whose plugin does not declare that it may be a stranger's."""
    plugin, _ = encoder_plugin(str(folder))
    if not plugin.safe_folder:
        raise DataError(f"{where(folder / 'encoder.json', 'encoder')}: encoder '{plugin.__name__}' does not declare "
                        "that it reads a stranger's folder without running anything of it (safe_folder): a model "
                        "folder cannot hold one; take the encoder of a run of your own")
