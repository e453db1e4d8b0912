"""What may stand in a model folder of a stranger: names, links, checksums, JSON; nothing of it is run.

An exported folder (``format`` in its model.json) holds the files of `FILES` and no other, all of them within it, each
with its SHA-256 in ``checksums.json`` but for README.md, which may be edited. Checksums find damage, not malice:
whoever changes a file can change them too. What keeps a reader safe are the other checks.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ser_plugins import safe_yaml
from ser_plugins.errors import DataError
from ser_plugins.files import write_atomically
from ser_plugins.metrics import TEMPERATURES

CHECKSUMS = "checksums.json"
FILES = ("model.json", "head.safetensors", "hyperparams.yaml", "README.md", CHECKSUMS, "model.onnx",
         "encoder/*.json", "encoder/*.safetensors", "encoder/*.model", "encoder/*.txt", "encoder/README.md",
         "encoder/LICENSE*")
PICKLES = frozenset({".bin", ".ckpt", ".dill", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"})
LARGEST = 1_000_000  # bytes of a JSON file
TEXTS = ("features", "features_fingerprint", "encoder", "encoder_fingerprint", "head")  # of model.json
OPTIONS = ("feature_options", "head_options")


def check_folder(folder: Path, within: Path | None = None) -> None:
    """Refuses a model folder with links that lead out of it, pickles, or YAML that is code.

    Arguments
    ---------
    folder : Path
        The model folder.
    within : Path, optional
        Where links may lead; None is the folder. (The hub's client keeps files beside its snapshots.)

    Raises
    ------
    DataError
        The file, and what is wrong with it.
    """
    home = (within or folder).resolve()
    for path in _files(folder, home):
        if path.suffix.lower() in PICKLES:
            raise DataError(f"{path}: pickled weights may run code when they are read; a model folder holds "
                            "safetensors")
        if path.suffix in (".yaml", ".yml"):
            safe_yaml.check(path)


def check_complete(folder: Path) -> None:
    """Refuses an exported folder with files of other names, or other files than its checksums say.

    Raises
    ------
    DataError
        The file, and what is wrong with it.
    """
    for path in _files(folder, folder.resolve(), links=True):
        if not any(fnmatch(path.relative_to(folder).as_posix(), pattern) for pattern in FILES):
            raise DataError(f"{path} is no file of a model folder; those are {', '.join(FILES)}")
    _check_sums(folder)


def _files(folder: Path, home: Path, links: bool = False) -> Iterator[Path]:
    """The folder's files, but for hidden ones (git's, the hub's), which nothing reads; links were checked before."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in sorted([*folders, *names]):
            path = Path(root, name)
            if name.startswith("."):
                continue
            if path.is_symlink() and not links and not path.resolve().is_relative_to(home):
                raise DataError(f"{path} is a link to {os.readlink(path)}, out of the model folder")
            if path.is_symlink() and path.is_dir():
                raise DataError(f"{path} is a link to a folder; a model folder holds files")
            if path.is_file():
                yield path
            elif not path.is_dir():
                raise DataError(f"{path} is no regular file")


def _check_sums(folder: Path) -> None:
    recorded = read_json(folder / CHECKSUMS)
    found = _sums(folder)
    for name in sorted({*recorded, *found}):
        if name not in found:
            raise DataError(f"{folder / name} is missing; {CHECKSUMS} lists it")
        if name not in recorded:
            raise DataError(f"{folder / name} is not listed in {CHECKSUMS}: it was added after the export")
        if recorded[name] != found[name]:
            raise DataError(f"{where(folder / CHECKSUMS, name)}: {name} has another SHA-256 than at the export: the "
                            "file is damaged or was changed")


def _sums(folder: Path) -> dict[str, str]:
    found = {}
    for path in _files(folder, folder.resolve(), links=True):
        name = path.relative_to(folder).as_posix()
        if name not in (CHECKSUMS, "README.md"):
            digest = hashlib.sha256()
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            found[name] = digest.hexdigest()
    return dict(sorted(found.items()))


def write_checksums(folder: Path) -> None:
    """Writes ``checksums.json``: the SHA-256 of each file but README.md."""
    sums = _sums(folder)
    write_atomically(folder / CHECKSUMS, lambda file: json.dump(sums, file, indent=2))


def read_json(path: Path) -> dict[str, Any]:
    """A mapping of plain, finite values.

    Raises
    ------
    DataError
        The file is missing, no JSON, no mapping, too large, or holds NaN or an infinity; the line is named.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path} has {path.stat().st_size} bytes; a settings file has at most {LARGEST}")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_not_finite)
    except FileNotFoundError as error:
        raise DataError(f"{path.parent} holds no {path.name}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is corrupt: line {error.lineno}: {error.msg}") from error
    except RecursionError as error:
        raise DataError(f"{path} is corrupt: it is nested too deeply") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is corrupt: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is corrupt: it holds no mapping")
    return content


def _not_finite(constant: str) -> Any:
    raise ValueError(f"{constant} is no value")


def where(path: Path, key: str) -> str:
    """File and line of a key in a JSON file; the file alone where it is not found."""
    lines = path.read_text(encoding="utf-8").splitlines()
    number = next((number for number, line in enumerate(lines, start=1) if f'"{key}"' in line), None)
    return str(path) if number is None else f"{path}, line {number}"


def check_model(content: Mapping[str, Any], path: Path) -> None:
    """Refuses a model.json with values that name no model.

    Raises
    ------
    DataError
        File and line, what stands there, and what it must be.
    """
    for key in ("labels", *TEXTS, *OPTIONS):
        if key not in content:
            raise DataError(f"{path} is corrupt: '{key}' is missing")
        expected, kind = (str, "text") if key in TEXTS else (dict, "a mapping") if key in OPTIONS else (list, "a list")
        if not isinstance(content[key], expected):
            raise DataError(f"{where(path, key)}: {key} must be {kind}, not {content[key]!r:.80}")
    labels = content["labels"]
    if not labels or not all(isinstance(label, str) and label for label in labels):
        raise DataError(f"{where(path, 'labels')}: labels must be a list of names, not {labels!r:.80}")
    double = [label for number, label in enumerate(labels) if label in labels[:number]]
    if double:
        raise DataError(f"{where(path, 'labels')}: labels holds '{double[0]}' twice")
    layers = content.get("finetune_layers", 1)
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 1:
        raise DataError(f"{where(path, 'finetune_layers')}: finetune_layers must be a number of layers, not "
                        f"{layers!r:.80}")
    temperature, (lowest, highest) = content.get("temperature"), TEMPERATURES
    if temperature is not None and (isinstance(temperature, bool) or not isinstance(temperature, int | float)
                                    or not lowest <= temperature <= highest):
        raise DataError(f"{where(path, 'temperature')}: temperature {temperature!r:.80} is no number from {lowest:g} "
                        f"to {highest:g}")
