"""The errors that a user can cause; every message says what was found, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SerError(Exception):
    """Base of the errors below. The command line prints it without a traceback."""


class PluginError(SerError):
    """A plugin is missing, broken, doubly installed or breaks its contract."""


class MissingExtraError(PluginError):
    """A plugin needs a package that comes with an extra, which is not installed."""


class DataError(SerError):
    """Audio, a manifest, a corpus folder or a model file is not what it should be."""


class EmptyAudioError(DataError):
    """An audio file without bytes or without samples."""


class OptionError(SerError):
    """An option, argument, label or YAML key has a wrong name or value."""


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of which PyTorch tells on a CPU by a RuntimeError, and the system by an OSError.

    Example
    -------
    >>> out_of_memory(OSError(12, "Cannot allocate memory")), out_of_memory(RuntimeError("unexpected end of file"))
    (True, False)
    """
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text


def unknown_name(kind: str, name: str, known: Iterable[str], heading: str = "known", owner: str = "") -> str:
    """Sentence that names what exists and guesses what was meant.

    Arguments
    ---------
    kind : str
        What the name names, e.g. ``"head"``.
    name : str
        The name that was not found.
    known : Iterable[str]
        The names that exist.
    heading : str
        How the list of known names is introduced.
    owner : str
        Who has no such name, where the names are not everyone's.

    Returns
    -------
    str

    Example
    -------
    >>> unknown_name("head", "progresive", ["mp", "progressive"], "installed")
    "no head 'progresive'; did you mean 'progressive'? installed: mp, progressive"
    >>> unknown_name("argument", "unitz", ["layer", "units"], "its arguments", owner="head 'rnn'")
    "head 'rnn' has no argument 'unitz'; did you mean 'units'? its arguments: layer, units"
    >>> unknown_name("test speaker", "3", ["03", "13"], "speakers")
    "no test speaker '3'; did you mean '03'? speakers: 03, 13"
    """
    names = sorted(known)
    close = [one for one in names if one.isdecimal() and one.lstrip("0") == name.lstrip("0")]  # 03 for 3
    close += difflib.get_close_matches(name, names, n=1)
    guess = f"; did you mean '{close[0]}'?" if close else ";"
    return (f"{f'{owner} has ' if owner else ''}no {kind} '{name}'{guess} {heading}: "
            f"{', '.join(names) if names else '(none)'}")
