"""Values of the command line, read in one way by the recipes and by ``ser``."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from ser_plugins.errors import OptionError

QUOTES = ("'", '"', "|", ">", "!", "&")  # a text that begins so is not what YAML reads of it
Rules = Mapping[str, tuple[Callable[[Any], bool], str]]  # option → what its value must fulfil, and that in words


def parse_value(text: str) -> Any:
    """A YAML 1.2 value, which reads 1e-4 as a number and leaves ``yes`` a word.

    Digits with a leading zero are a name (a speaker of EmoDB), and no number.

    Raises
    ------
    ruamel.yaml.error.YAMLError
        The text is no YAML.
    OptionError
        A key of a mapping has no space after its colon, and so no value; a date that there is not.

    Example
    -------
    >>> parse_value("1e-4"), parse_value("03"), parse_value("[1, a]"), parse_value("null"), parse_value("take #2")
    (0.0001, '03', [1, 'a'], None, 'take #2')
    """
    digits = text.strip(" \t\r\n")
    if digits.isdecimal() and digits != str(int(digits)):
        return digits
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except ValueError as error:  # as 2020-13-45, which is like a date
        raise OptionError(f"'{text}' is no value ({error}); a text may be put into quotes") from error
    if (isinstance(value, str) and digits[:1] not in QUOTES) or digits.startswith("#"):
        return digits  # YAML takes what follows a # for a comment
    for key in value if isinstance(value, dict) else ():
        if ":" in str(key) and value[key] is None:
            name, _, rest = str(key).partition(":")
            raise OptionError(f"'{key}' has no value: YAML wants a space after the colon, {{{name}: {rest}}}")
    return value


def told_value(value: Any) -> str:
    """The text that `parse_value` reads as this value, of plain kinds: with as few quotes as YAML needs.

    Example
    -------
    >>> told_value("emodb"), told_value("3"), told_value(["a", 1, None]), told_value({"a": 1e-4})
    ('emodb', "'3'", '[a, 1, null]', '{a: 0.0001}')
    """
    yaml: Any = YAML(typ="safe", pure=True)  # its attributes are typed by their defaults
    stream = StringIO()
    yaml.default_flow_style, yaml.allow_unicode, yaml.width = True, True, sys.maxsize
    yaml.sort_base_mapping_type_on_output = False
    yaml.representer.ignore_aliases = lambda _: True
    yaml.dump(value, stream)
    return stream.getvalue().removesuffix("\n").removesuffix("\n...")


def numeric(value: Any) -> bool:
    """Whether it is a finite number, and no switch."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_device(name: str | None) -> None:
    """Refuses a device that torch does not know or this machine lacks; None is the recipe's own choice.

    Raises
    ------
    OptionError
        What can be had instead.

    Example
    -------
    >>> check_device("cpu")
    """
    import torch

    if name is None:
        return
    count = torch.cuda.device_count()
    here = ", ".join(["cpu", *(f"cuda:{number}" for number in range(count))])
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or (device.type == "cuda" and (device.index or 0) >= count):
        raise OptionError(f"no device '{name}' on this machine; there are: {here}")
