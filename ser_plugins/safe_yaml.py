"""YAML of strangers: checked by its nodes, of which nothing is built.

HyperPyYAML's YAML is code: ``!apply:os.system`` runs it, ``!include:`` opens any file, and even the plain value
``(!!python/object/apply:os.system [id])`` runs, since what stands in parentheses is read as a tuple by PyYAML's unsafe
loader. `check` walks the parsed nodes, so that anchors, directives and quoting hide nothing, and lets pass: plain
values, tuples of plain values, and ``!new:`` and ``!name:`` of a class on the allow-list. That is:

- a class that an installed plugin registers as entry point, and those of `KNOWN`;
- ``torch.nn.X``, a module, and ``torch.optim.X``, an optimiser, by these very names (no longer path).

A resolved file, as `ser export` writes it, holds no references; ``!ref`` and ``!copy`` are refused with the rest.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML, MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from ser_plugins import registry
from ser_plugins.errors import DataError

KNOWN = frozenset({
    "speechbrain.nnet.schedulers.ReduceLROnPlateau",
    "speechbrain.utils.epoch_loop.EpochCounter",
})
LARGEST = 1_000_000  # bytes of a file
MOST_NODES = 20_000  # of a file, each alias counted as what it stands for
DEEPEST = 50  # levels
PLAIN = frozenset(f"tag:yaml.org,2002:{name}" for name in (
    "null", "bool", "int", "float", "str", "seq", "map", "timestamp", "merge", "value")) | {"!tuple"}
TUPLE = re.compile(r"\([\w\s.,+-]*\)")  # numbers and words


def check(path: Path) -> None:
    """Parses a file and refuses what is no plain value and no allowed class; nothing is built.

    Arguments
    ---------
    path : Path
        The YAML file.

    Raises
    ------
    DataError
        The file and line of what is refused, and why.
    """
    root = _parsed(path)
    if not isinstance(root, MappingNode):
        raise DataError(f"{path} holds no mapping")
    for number, node in enumerate(_expanded(root, path), start=1):
        if number > MOST_NODES:
            raise _refused(path, node, f"more than {MOST_NODES} values, each alias counted as what it stands for")
        reason = objection(node)
        if reason:
            raise _refused(path, node, reason)


def _parsed(path: Path) -> Node | None:
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path} has {path.stat().st_size} bytes; hyperparameters have at most {LARGEST}")
        return YAML(typ="safe", pure=True).compose(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        raise _no_yaml(path, error) from error
    except RecursionError as error:
        raise DataError(f"{path} is nested more than {DEEPEST} deep") from error
    except (YAMLError, OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _expanded(root: Node, path: Path) -> Iterator[Node]:
    """The nodes as a tree, keys included; what is deeper than allowed, as an alias within itself, is refused."""
    waiting = [(root, 1)]
    while waiting:
        node, depth = waiting.pop()
        if depth > DEEPEST:
            raise _refused(path, node, f"nested more than {DEEPEST} deep")
        yield node
        if isinstance(node, MappingNode):
            waiting += [(part, depth + 1) for pair in node.value for part in pair]
        elif isinstance(node, SequenceNode):
            waiting += [(part, depth + 1) for part in node.value]


def _no_yaml(path: Path, error: MarkedYAMLError) -> DataError:
    mark = error.problem_mark or error.context_mark
    where = f"{path}, line {mark.line + 1}" if mark else str(path)
    return DataError(f"{where}: no YAML: {error.problem or error.context}")


def _refused(path: Path, node: Node, reason: str) -> DataError:
    return DataError(f"{path}, line {node.start_mark.line + 1}: {reason}")


def objection(node: Node) -> str:
    """Why a node is refused; empty for one that is not."""
    if node.tag in PLAIN:
        text = node.value.strip() if isinstance(node, ScalarNode) else ""
        if (node.tag == "!tuple" or (text.startswith("(") and text.endswith(")"))) and not TUPLE.fullmatch(text):
            return f"'{text}' would be read as a tuple of other than numbers and words"
        return ""
    kind, colon, name = str(node.tag).partition(":")
    if colon and kind in ("!new", "!name"):
        return "" if allowed(name) else (
            f"'{node.tag}' is refused: {name} is neither a registered plugin's class nor one that a trained system "
            "needs")
    return f"'{node.tag}' is refused: only plain values, and !new: and !name: of known classes, are loaded"


@functools.cache
def allowed(name: str) -> bool:
    """Whether a file may name this class.

    Example
    -------
    >>> allowed("torch.nn.Linear"), allowed("torch.nn.modules.module.torch.load"), allowed("os.system")
    (True, False, False)
    """
    if name in KNOWN or name in _plugins():
        return True
    from torch import nn, optim

    for module, base in ((nn, nn.Module), (optim, optim.Optimizer)):
        package, _, last = name.rpartition(".")
        found = getattr(module, last, None) if package == module.__name__ else None
        if isinstance(found, type) and issubclass(found, base):
            return True
    return False


def _plugins() -> frozenset[str]:
    """Classes that installed distributions register; nothing is imported."""
    return frozenset(entry.value.replace(":", ".") for group in registry.GROUPS
                     for entries in registry.installed(group).values() for entry in entries)
