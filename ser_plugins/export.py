"""``ser export RUN OUT``: a trained system as one folder that is complete, and safe to read.

    OUT/README.md            model card
        model.json           labels, plugins with their options, temperature, fingerprints
        head.safetensors     the head's weights
        encoder/             the recogniser's own files, unless its readers have them installed
        hyperparams.yaml     the resolved experiment, without paths of this machine
        model.onnx           on request
        checksums.json       SHA-256 of each but README.md
"""

from __future__ import annotations

import io
import secrets
import shutil
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ruamel.yaml import YAML, MappingNode, Node, ScalarNode, SequenceNode

from ser_plugins import __version__, hub, models, registry, safe_yaml
from ser_plugins.errors import DataError, OptionError
from ser_plugins.files import write_atomically
from ser_plugins.folder_check import FILES, write_checksums
from ser_plugins.model_card import write_card
from ser_plugins.models import FORMAT, UNTRAINED, WITHIN, Model, load_model

OF_THIS_MACHINE = frozenset({"data_folder", "test_data_folder", "output_root", "output_folder", "store_folder",
                             "num_workers", "overwrite", "regimes"})  # keys that say nothing of the model


def export_model(run: str | Path, out: str | Path, onnx: bool = False, *, with_encoder: bool = True
                 ) -> Path:
    """Writes a run's system as a complete model folder, and reads it back.

    Arguments
    ---------
    run : str | Path
        The folder of a finished run of train_ser.py.
    out : str | Path
        A folder that does not exist, or is empty.
    onnx : bool
        With ``model.onnx``, which onnxruntime runs without this package (`ser_plugins.onnx_export`).
    with_encoder : bool
        With the encoder's files. Without them the folder is small, and names the plugin whose own weights it needs;
        its fingerprint tells whether those that a reader has installed are the same.

    Returns
    -------
    Path
        ``out``, absolute.

    Raises
    ------
    DataError
        The run has not ended, its parts are not what they were when it was trained, or the disk refuses.
    OptionError
        ``out`` holds files already; the system cannot be had as ONNX, and why; or the encoder cannot be
        left out.
    """
    run, out = Path(run), Path(out).absolute()
    for name in ("metrics.json", "predictions.csv", "hyperparams.yaml"):
        if not (run / name).is_file():
            raise DataError(f"{run} holds no {name}: ser export takes the folder of a run of train_ser.py that has "
                            "ended")
    if onnx and not with_encoder:
        raise OptionError("a graph holds the encoder: model.onnx and a folder without the encoder go not together")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"{out} exists already; name another folder, or remove it")
    model = load_model(run)
    draft = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        _write(draft, model, run, onnx, with_encoder)
        load_model(draft)  # it is what it claims to be
        if out.exists():  # empty, and kept: it may be the current folder
            for path in sorted(draft.iterdir()):
                path.rename(out / path.name)
        else:
            draft.rename(out)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}; is the folder writable and the disk not "
                        "full?") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out


def push_model(folder: str | Path, repository: str, private: bool = False) -> str:
    """Uploads an exported folder to the hub, after the checks that its readers will make; returns the address.

    Raises
    ------
    DataError, OptionError
        The folder is not exported, or spoilt; or as of `hub.upload`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; ser export RUN {folder} writes it")
    model = load_model(folder)
    if model.content.get("format") is None:
        raise OptionError(f"{folder} is a run's own folder, and not complete: push what ser export {folder} OUT writes")
    return hub.upload(model.folder, repository, private)  # what was checked: it may lie in folder/model


def _write(folder: Path, model: Model, run: Path, onnx: bool, with_encoder: bool) -> None:
    folder.mkdir(parents=True)
    name = _write_encoder(folder / WITHIN, model, with_encoder)
    origin = {group: registry.distribution(registry.find(group, plugin))
              for group, key in (("features", "features"), ("heads", "head"), ("encoders", "encoder"))
              if (plugin := str(model.content[key]).removeprefix(UNTRAINED)) in registry.installed(group)}
    content = {"format": FORMAT, "written_by": f"ser_plugins {__version__}", "plugins": origin,
               **model.content, "encoder": name}
    models.write(folder, content, model.head)
    text = shared_yaml(run / "hyperparams.yaml", name)
    write_atomically(folder / "hyperparams.yaml", lambda file: file.write(text))
    if onnx:
        from ser_plugins.onnx_export import export_onnx

        export_onnx(model, folder / "model.onnx")
    write_card(folder / "README.md", model, run, onnx, (folder / WITHIN).is_dir())
    write_checksums(folder)


def _write_encoder(folder: Path, model: Model, with_encoder: bool) -> str:
    """Copies the encoder's files, where it has any and they are wanted; returns its name for model.json."""
    source = str(model.content["encoder"])
    prefix = UNTRAINED if source.startswith(UNTRAINED) else ""
    plugin, found = models.encoder_plugin(source.removeprefix(prefix))
    if found and not with_encoder:
        raise OptionError(f"encoder '{source}' cannot be left out: its weights are none that {plugin.__name__} brings "
                          "along, and readers of the folder would lack them")
    if isinstance(found, str) or (found and not plugin.safe_folder):
        raise OptionError(f"encoder '{source}' is read by {plugin.__name__}, which does not declare that it reads a "
                          "stranger's folder safely (safe_folder): a folder with it could not be shared safely; share "
                          "the run's settings and name the encoder")
    found = found or (plugin.shipped if plugin.safe_folder and with_encoder else None)
    if found is None:  # the plugin has its weights from elsewhere; the fingerprint tells whether they are the same
        return source
    folder.mkdir()
    for path in sorted(found.iterdir()):
        if path.is_file() and any(fnmatch(f"{WITHIN}/{path.name}", pattern) for pattern in FILES):
            shutil.copyfile(path, folder / path.name)
    return prefix + WITHIN


def shared_yaml(path: Path, encoder: str) -> str:
    """A run's resolved hyperparameters for others: plain values and known classes, no paths of this machine.

    Objects of other classes, which a reader's check would refuse, become text; so does each absolute path.

    Arguments
    ---------
    path : Path
        ``hyperparams.yaml`` of a run.
    encoder : str
        The encoder's name in the exported folder.
    """
    reader = YAML(typ="safe", pure=True)
    root = reader.compose(path.read_text(encoding="utf-8"))
    if not isinstance(root, MappingNode):
        raise DataError(f"{path} holds no mapping")
    pairs = [(key.value, key, value) for key, value in root.value]
    if [name for name, *_ in pairs] == ["experiment"]:
        pairs = [(key.value, key, value) for key, value in pairs[0][2].value]
    kept = [(key, ScalarNode("tag:yaml.org,2002:str", encoder) if name == "encoder" else _shared(value))
            for name, key, value in pairs if name not in OF_THIS_MACHINE]
    text = io.StringIO()
    reader.width = 120
    reader.serialize(MappingNode("tag:yaml.org,2002:map", kept, flow_style=False), text)
    return "# The experiment that trained this model: a record for people; loading the model does not need it.\n" \
        + text.getvalue()


def _shared(node: Node) -> Any:
    if safe_yaml.objection(node):
        return ScalarNode("tag:yaml.org,2002:str", f"{node.tag} (an object, left out)")
    if isinstance(node, MappingNode):
        value = [(_shared(key), _shared(one)) for key, one in node.value]
        return MappingNode(node.tag, value, flow_style=node.flow_style)
    if isinstance(node, SequenceNode):
        return SequenceNode(node.tag, [_shared(one) for one in node.value], flow_style=node.flow_style)
    if any(kind(node.value).is_absolute() for kind in (PurePosixPath, PureWindowsPath)):
        return ScalarNode("tag:yaml.org,2002:str", "a path, left out")
    return node
