"""What the recipes share around SpeechBrain: command line, YAML and regimes, run folder.

A recipe's YAML is either a complete experiment or a variation of one::

    experiment: !include:ser.yaml
        head: progressive
        layer: 2

An experiment may hold ``regimes``: named sets of overrides, chosen by the key ``regime``. Precedence: the file, then
its regime, then what a variation names itself, then the command line.
"""

from __future__ import annotations

import copy
import errno
import fcntl
import json
import logging
import math
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from speechbrain.utils.run_opts import RunOptions

from ser_plugins import command_line
from ser_plugins.errors import DataError, OptionError, SerError, unknown_name
from ser_plugins.files import write_atomically
from ser_plugins.values import Rules, check_device, numeric

logger = logging.getLogger(__name__)

NOT_DECISIVE = {"device", "noprogressbar", "tqdm_colored_bar", "test_only", "log_config", "debug_persistently",
                "ckpt_interval_minutes", "ckpt_interval_steps", "distributed_backend"}
RESULTS = ("metrics.json", "encoder")  # of a run whose checkpoints were removed
STAMP = "settings.json"  # of a run's folder
LOCK = f".{STAMP}.lock"  # held by the process that trains it
_LOCKED: list[int] = []  # its descriptor
LOG_CONFIG = str(Path(__file__).with_name("log_config.yaml"))


@dataclass(frozen=True)
class Experiment:
    """A recipe's command line, read and checked; nothing is constructed before `build`.

    Arguments
    ---------
    file : Path
        The YAML file.
    values : dict
        Its keys with plain values, overrides applied and references resolved. Objects are not in it.
    run_opts : RunOptions
        SpeechBrain's run options (device, debug, …).
    overrides : dict
        What the regime and the command line replace.
    given : frozenset[str]
        Keys that the command line set.
    resolved : Mapping
        The file's tree with the objects' nodes, for `text`.
    """

    file: Path
    values: dict[str, Any]
    run_opts: RunOptions
    overrides: dict[str, Any]
    given: frozenset[str]
    resolved: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def text(self, *keys: str) -> str:
        """What stands under nested keys in one line, objects as their tags and arguments: what they are built from.

        Raises
        ------
        OptionError
            A key is not there; those beside it are named.
        """
        node: Any = self.resolved
        for key in keys:
            if key not in node:
                raise OptionError(f"{self.file}: {unknown_name('key', key, node, 'known')}")
            node = node[key]
        return _described(node)

    @property
    def decisive_options(self) -> dict[str, Any]:
        """SpeechBrain's run options that were given and change a run's numbers."""
        return {key: self.run_opts[key] for key in sorted(self.run_opts.overridden_args - NOT_DECISIVE)}

    def nested(self, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The overrides in the file's own structure, as HyperPyYAML and `create_experiment_directory` want them."""
        chosen = copy.deepcopy({**self.overrides, **(more or {})})  # HyperPyYAML resolves references in them
        return {"experiment": chosen} if command_line.is_variation(command_line.tree(self.file)) else chosen

    def build(self, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Loads the hyperparameters with further overrides.

        Raises
        ------
        OptionError
            A value does not suit the object that it builds, or a placeholder has none.
        """
        return _Keys(self.file, command_line.experiment(_loaded(load_hyperpyyaml, self.file, self.nested(more))))


RECIPES = {"plan": "cross_validate.py", "estimator": "train_sklearn.py", "train_data": "train_asr.py",
           "head": "train_ser.py", "perplexity": "probe.py"}  # key that only files for this recipe have


class _Keys(dict[str, Any]):
    """A file's keys; one that a recipe reads and the file lacks is the user's error."""

    def __init__(self, file: Path, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.file = file

    def __missing__(self, key: str) -> Any:
        told = unknown_name("key", key, self, "keys of this file")
        owner = "".join(f"; a file with '{mark}' is one for recipes/{RECIPES[mark]}" for mark in RECIPES.keys() & self)
        raise OptionError(f"{self.file}: {told}{owner}")


def run(main: Callable[[Sequence[str]], object]) -> None:
    """As `command_line.run`; SIGTERM, by which a queue or Docker ends a program, interrupts it as Ctrl-C does."""
    terminated = []

    def interrupt(number: int, _frame: object) -> None:
        terminated.append(number)
        raise KeyboardInterrupt

    mine = threading.current_thread() is threading.main_thread()  # no other thread may handle signals
    before = signal.signal(signal.SIGTERM, interrupt) if mine else None
    try:
        command_line.run(main)
    except SystemExit:
        if terminated:
            sys.exit(128 + terminated[0])
        raise
    finally:
        if mine:
            signal.signal(signal.SIGTERM, before)


def load(argv: Sequence[str]) -> Experiment:
    """Reads ``RECIPE.yaml [--key value | --key=value | --run_option]…``.

    Raises
    ------
    OptionError
        The file is missing or no YAML, a key or run option is unknown (the nearest is named), a value is missing, or
        an ``=`` stands alone.
    """
    file, given, run_arguments = command_line.read(argv)
    keys = command_line.experiment(command_line.tree(file))
    overrides = dict(given)
    if "regimes" in keys:
        regime = given.get("regime", keys["regime"])
        own = command_line.variation_keys(file)
        overrides = {key: value for key, value in (keys["regimes"][regime] or {}).items() if key not in own} | given
    _, run_opts, _ = RunOptions.from_command_line_args([str(file), *run_arguments])
    check_device(run_opts.device)
    blank = Experiment(file, {}, run_opts, overrides, frozenset(given))
    resolved = command_line.experiment(YAML().load(_loaded(resolve_references, file, blank.nested())))
    values = _Keys(file, _plain(resolved))
    for key, default in command_line.base_tree(file).items():
        if key in values:
            _check_kind(key, values[key], default)
    return replace(blank, values=values, resolved=resolved)


def _check_kind(key: str, value: Any, default: Any) -> None:
    """What the file has as a number, switch, list or mapping is one of that kind; a list may be null, for none.

    Example
    -------
    >>> _check_kind("lr", "fast", 0.1)
    Traceback (most recent call last):
    ...
    ser_plugins.errors.OptionError: --lr: 'fast' is not a number, such as 0.1
    """
    for kind, accepted, name in ((bool, bool, "true or false"), (int, int, "a whole number"),
                                 (float, int | float, "a number"), (list, list | None, "a list, [a, b]"),
                                 (Mapping, Mapping, "a mapping, {key: value}")):
        if isinstance(default, kind):
            if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
                raise OptionError(f"--{key}: {value!r} is not {name}, such as {default!r}")
            return


def _loaded(function: Callable[..., Any], file: Path, overrides: Mapping[str, Any]) -> Any:
    """HyperPyYAML's function of a file, its errors as one sentence."""
    try:
        with open(file, encoding="utf-8") as stream:
            return function(stream, overrides, overrides_must_match=False)
    except SerError:
        raise
    except (ValueError, TypeError, KeyError, OSError, YAMLError, yaml.YAMLError) as error:
        text = str(error)
        if "!PLACEHOLDER" in text:
            key = text.split("'")[1]
            text = f"'{key}' has no default; give it one: --{key} VALUE"
        elif "structure of the overrides" in text:
            mappings = [f"--{key} {value}" for key, value in overrides.items() if isinstance(value, Mapping)]
            text = f"one of these is no mapping in the file: {', '.join(mappings)}"
        raise OptionError(f"{file}: {text}") from error


def _plain(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The values that need no construction."""

    def is_object(node: Any) -> bool:
        return str(getattr(getattr(node, "tag", None), "value", None) or "").startswith("!")

    def pruned(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {key: pruned(value) for key, value in node.items() if not is_object(value)}
        return [pruned(value) for value in node if not is_object(value)] if isinstance(node, list) else node

    buffer = StringIO()
    YAML().dump(pruned(tree), buffer)
    return YAML(typ="safe", pure=True).load(buffer.getvalue())


def _described(node: Any) -> str:
    """A node in YAML's short form, without comments."""
    if isinstance(node, Mapping):
        body = "{" + ", ".join(f"{key}: {_described(value)}" for key, value in node.items()) + "}"
    elif isinstance(node, list):
        body = "[" + ", ".join(map(_described, node)) + "]"
    else:
        body = str(getattr(node, "value", node))
    tag = str(getattr(getattr(node, "tag", None), "value", None) or "")
    return f"{tag} {body}" if tag.startswith("!") else body


def is_range(value: Any) -> bool:
    """Whether it is a list of two numbers, the lower one first."""
    return isinstance(value, list) and len(value) == 2 and all(map(numeric, value)) and value[0] <= value[1]


def check_values(values: Mapping[str, Any], rules: Rules) -> None:
    """Refuses values that no plugin checks.

    Raises
    ------
    OptionError
        The key, its value and what it must be.

    Example
    -------
    >>> check_values({"lr": -1.0}, {"lr": (lambda value: value > 0, "above 0")})
    Traceback (most recent call last):
    ...
    ser_plugins.errors.OptionError: --lr -1.0: it must be above 0
    """
    for key, (holds, expected) in rules.items():
        value = values[key]
        if (isinstance(value, int | float) and not math.isfinite(value)) or not holds(value):
            raise OptionError(f"--{key} {value}: it must be {expected}")


class RunTaken(OptionError):
    """Another process trains the run."""


def claim_folder(folder: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Makes a run's folder, or takes up the run in it if that has the same settings or has trained nothing yet.

    Other processes are kept out of it until this one ends or claims another.

    Arguments
    ---------
    folder : Path
        The run's folder; ``settings.json`` in it is the run's stamp.
    settings : Mapping[str, Any]
        All that decides the run's numbers, as JSON; ``recipe`` is the recipe's name.
    overwrite : bool
        Throws away a run that the folder holds.

    Raises
    ------
    OptionError
        It holds a run with other settings, which are named; or it is not empty, and no run's.
    RunTaken
        Another process is at it.
    DataError
        The folder cannot be written to.
    """
    stamp = folder / STAMP
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []  # once: another may claim it now
    strangers = [name for name in there if not name.startswith(f".{STAMP}")]  # its lock, and what a kill left of it
    if strangers and STAMP not in there:
        raise OptionError(f"{folder} holds {strangers[0]} and no {STAMP}: it is no run's folder; give another "
                          "--output_folder")
    _lock(folder / LOCK)
    try:
        stamped = json.loads(stamp.read_text(encoding="utf-8")) if stamp.is_file() else None
    except ValueError:
        stamped = "no JSON"
    if stamped is not None and not (isinstance(stamped, dict) and stamped.get("recipe") == settings["recipe"]):
        raise OptionError(f"{stamp} was not written by this recipe: {folder} is no run's folder; give another one")
    if overwrite:
        old_first = sorted(folder.iterdir(), key=lambda path: path == stamp)  # the stamp goes last, in case of a kill
        for old in (path for path in old_first if path.name != LOCK):
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink()
    elif any(folder.glob("save/CKPT*")) or any((folder / result).exists() for result in RESULTS):
        different = differences(stamped or {}, settings)
        if different:
            raise OptionError(f"{folder} holds a run with other settings ({'; '.join(different)}); give another "
                              "--output_folder, or throw that run away with --overwrite true")
        return
    write_atomically(stamp, lambda file: json.dump(settings, file, indent=2))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Which keys of the new settings the old ones have otherwise; of mappings within both, which of theirs.

    Objects, as ``!new:…``, are told where no value differs, which they follow.

    Example
    -------
    >>> differences({"lr": 0.1, "versions": {"numba": "0.60", "torch": "2"}}, {"lr": 0.1, "versions": {"numba": "1"}})
    ["versions numba '0.60' → '1'", "versions torch '2' → None"]
    """
    plain: list[str] = []
    objects: list[str] = []
    for key, value in new.items():
        before = old.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            plain += [f"{key} {one}" for one in differences(before, {**value, **dict.fromkeys(before.keys() - value)})]
        elif before != value:
            (objects if str(value).startswith("!") else plain).append(f"{key} {before!r} → {value!r}")
    return plain or objects


def _lock(path: Path) -> None:
    """Locks a file until this process ends, however it does, or locks another: it trains one run at a time."""
    while _LOCKED:
        os.close(_LOCKED.pop())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _LOCKED.append(os.open(path, os.O_RDWR | os.O_CREAT))
        fcntl.lockf(_LOCKED[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES) and _LOCKED:
            raise RunTaken(f"another process trains the run in {path.parent}: let it end, or give another "
                              "--output_folder") from error
        if not _LOCKED:
            raise DataError(f"{path.parent} cannot be made: {error.strerror}; is the folder writable and the disk not "
                            "full?") from error
        logger.warning("%s cannot be locked (%s): start no second process on this run", path, error.strerror)
