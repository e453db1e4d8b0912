"""Names to plugins, through Python entry points; built-in plugins come through the same door as a stranger's.

A plugin is a class that a distribution names in its ``setup.py``::

    entry_points={"ser_plugins.heads": ["attention = ser_head_attention:Attention"]}

Only the plugin asked for is imported. Two distributions that register one name are refused, both named. A plugin
that does not import is reported by ``ser check``, and does not disturb the others. Nothing here imports torch.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import logging
import os
import sys
import types
import typing
from collections.abc import Mapping
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

from ser_plugins.errors import OptionError, PluginError, unknown_name

logger = logging.getLogger(__name__)

GROUPS = ("corpora", "features", "encoders", "heads")
SINGULAR = {"corpora": "corpus", "features": "feature extractor", "encoders": "encoder", "heads": "head"}


def entry_points(group: str) -> EntryPoints:
    """The entry points of a group, read again only where a folder of `sys.path` has changed, as by an installation."""
    return _entry_points(tuple((path, _changed(path)) for path in sys.path)).select(group=group)


@functools.lru_cache(maxsize=1)
def _entry_points(_state: tuple[tuple[str, int], ...]) -> Any:
    """Those of all distributions: all of their metadata is read, some 10 ms, and a plan asks hundreds of times."""
    return importlib.metadata.entry_points()


def _changed(path: str) -> int:
    """When entries of a folder (or of an archive) were last added or removed, in ns; 0 where it does not exist."""
    try:
        return os.stat(path or ".").st_mtime_ns
    except OSError:
        return 0


def installed(group: str) -> dict[str, list[EntryPoint]]:
    """Entry points of a group by name, sorted; nothing is imported.

    Arguments
    ---------
    group : str
        One of `GROUPS`.

    Returns
    -------
    dict[str, list[EntryPoint]]
        More than one entry point under a name means that several distributions register it.
    """
    if group not in GROUPS:
        raise PluginError(unknown_name("plugin group", group, GROUPS))
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=f"ser_plugins.{group}"):
        if entry not in found.setdefault(entry.name, []):
            found[entry.name].append(entry)
    return dict(sorted(found.items()))


def distribution(entry: EntryPoint) -> str:
    """Name and version of the distribution that registers an entry point."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown distribution"


def find(group: str, name: str) -> EntryPoint:
    """The one entry point of a name.

    Raises
    ------
    PluginError
        There is none (the installed ones are named), or several distributions register it (they are named).
    """
    names = installed(group)
    if name not in names:
        raise PluginError(unknown_name(SINGULAR[group], name, names, "installed"))
    entries = names[name]
    if len(entries) > 1:
        owners = " and ".join(f"{distribution(entry)} ({entry.value})" for entry in entries)
        raise PluginError(f"{SINGULAR[group]} '{name}' is registered by {owners}; uninstall one of them")
    return entries[0]


def load(group: str, name: str) -> Any:
    """Imports one plugin; its distribution and version go to the log.

    Returns
    -------
    type
        The plugin's class.

    Raises
    ------
    PluginError
        No such name, a double one, or the plugin fails to import (the cause is chained).
    """
    entry = find(group, name)
    origin = f"{SINGULAR[group]} '{name}' of {distribution(entry)} ({entry.value})"
    try:
        plugin = entry.load()
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything
        own = isinstance(error, ModuleNotFoundError) and error.name == entry.module
        reason = f"its module '{entry.module}' does not exist" if own else failure(error)
        raise PluginError(f"{origin} does not load: {reason}") from error
    if not isinstance(plugin, type):
        raise PluginError(f"{origin} is no class but of type {type(plugin).__name__}")
    logger.debug("%s", origin)
    return plugin


def failure(error: BaseException) -> str:
    """What a plugin's code raised, in words; a package that is missing is named as such.

    Example
    -------
    >>> failure(ModuleNotFoundError("No module named 'parselmouth'", name="parselmouth"))
    "it needs the package 'parselmouth', which is not installed here"
    >>> failure(ValueError("too small"))
    'it raises ValueError: too small'
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"it needs the package '{error.name.partition('.')[0]}', which is not installed here"
    return f"it raises {type(error).__name__}: {error}"


def arguments(plugin: type) -> dict[str, inspect.Parameter]:
    """The constructor's arguments by name, in order, without ``self``.

    Example
    -------
    >>> class Head:
    ...     def __init__(self, num_classes: int, layer: int = 3) -> None: ...
    >>> list(arguments(Head))
    ['num_classes', 'layer']
    """
    return dict(inspect.signature(plugin).parameters)


def create(group: str, name: str, options: Mapping[str, Any] | None = None,
           context: Mapping[str, Any] | None = None) -> Any:
    """Builds a plugin from options.

    Arguments
    ---------
    group : str
        One of `GROUPS`.
    name : str
        The plugin's name.
    options : Mapping[str, Any]
        Arguments of the constructor; an unknown one is refused, and so is a value of another plain type.
    context : Mapping[str, Any]
        Values that the toolkit offers; passed only where the constructor names them, and not the user's to set.

    Returns
    -------
    object

    Raises
    ------
    OptionError
        An option that the constructor does not have; the right ones are named. Or a value that it refuses.
    PluginError
        As `load`.
    """
    plugin = load(group, name)
    known = arguments(plugin)
    offered = {key: value for key, value in (context or {}).items() if key in known}
    own = [key for key in known if key not in offered]
    options = dict(options or {})
    for option in options:
        if option not in own:
            raise OptionError(unknown_name("argument", option, own, "its arguments",
                                           owner=f"{SINGULAR[group]} '{name}'"))
    try:
        _check_types(plugin, options)
        _check_needs(plugin, options, context or {})
        return plugin(**offered, **options)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{SINGULAR[group]} '{name}': {error}") from error


def _check_types(plugin: type, options: Mapping[str, Any]) -> None:
    """Refuses a value that is none of the plain types its argument is annotated with; other annotations pass."""
    try:
        hints = typing.get_type_hints(plugin.__init__)  # type: ignore[misc]
    except (NameError, TypeError):  # annotations that cannot be evaluated say nothing
        return
    for option, value in options.items():
        hint = hints.get(option)
        is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
        allowed = typing.get_args(hint) if is_union else (hint,)
        if not set(allowed) <= {bool, int, float, str, type(None)}:
            continue
        accepted = (*allowed, int) if float in allowed else allowed  # a whole number may stand for a float
        stray_bool = isinstance(value, bool) and bool not in allowed  # Python counts True as an int
        if stray_bool or not isinstance(value, accepted):
            names = " or ".join("None" if kind is type(None) else kind.__name__ for kind in allowed)
            raise TypeError(f"{option} must be {names}, not {type(value).__name__} {value!r}")


def _check_needs(plugin: Any, options: Mapping[str, Any], offered: Mapping[str, Any]) -> None:
    """Refuses a layer or an output that the encoder does not have, before a head indexes its sizes with it."""
    if hasattr(plugin, "needs") and "layer_dims" in offered:
        defaults = {key: argument.default for key, argument in arguments(plugin).items()}
        needs = plugin.needs.resolve({**defaults, **options}, len(offered["layer_dims"]))
        if needs.log_probs and not offered.get("vocabulary"):
            raise ValueError("it reads CTC log-probabilities, and this encoder has no CTC output: take another "
                             "--encoder or another --head")
