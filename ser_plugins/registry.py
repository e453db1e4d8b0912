"""Names to plugins, through Python entry points; built-in plugins come through the same door as a stranger's.

A plugin is a class that a distribution names in its ``setup.py``::

    entry_points={"ser_plugins.heads": ["attention = ser_head_attention:Attention"]}

Only the plugin asked for is imported. Two distributions that register one name are refused, both named. A plugin
that does not import is reported by `check`, and does not disturb the others.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ser_plugins.errors import OptionError, PluginError, unknown_name

GROUPS = ("corpora", "features", "encoders", "heads")
_SINGULAR = {"corpora": "corpus", "features": "feature extractor", "encoders": "encoder", "heads": "head"}


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
        raise PluginError(unknown_name(_SINGULAR[group], name, names, "installed"))
    entries = names[name]
    if len(entries) > 1:
        owners = " and ".join(f"{distribution(entry)} ({entry.value})" for entry in entries)
        raise PluginError(f"{_SINGULAR[group]} '{name}' is registered by {owners}; uninstall one of them")
    return entries[0]


def load(group: str, name: str) -> Any:
    """Imports one plugin.

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
    try:
        return entry.load()
    except Exception as error:  # a stranger's module may raise anything
        raise PluginError(
            f"{_SINGULAR[group]} '{name}' of {distribution(entry)} ({entry.value}) does not load: "
            f"{type(error).__name__}: {error}"
        ) from error


def arguments(plugin: type) -> dict[str, inspect.Parameter]:
    """The constructor's arguments by name, in order, without ``self``."""
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
        Arguments of the constructor; an unknown one is refused.
    context : Mapping[str, Any]
        Values that the toolkit offers; passed only where the constructor names them.

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
    context = {key: value for key, value in (context or {}).items() if key in known}
    options = dict(options or {})
    for option in options:
        if option not in known or option in context:
            own = [key for key in known if key not in context]
            raise OptionError(unknown_name(f"argument of {_SINGULAR[group]} '{name}'", option, own, "valid arguments"))
    try:
        return plugin(**context, **options)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{_SINGULAR[group]} '{name}': {error}") from error
