"""The plan of cross_validate.py as its YAML has it; nothing is built, and torch is not imported."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ser_plugins import command_line
from ser_plugins.errors import OptionError, unknown_name

SWEPT = ("layer", "units")  # options of which a system of the plan may have several values
OURS = {"train_ser.py": "head", "train_sklearn.py": "estimator"}  # recipe → the key that a system's name begins with


def sweep(entry: Mapping[str, Any], layers: int = 0) -> Iterator[dict[str, Any]]:
    """One mapping of options for each value of a swept option; ``layer: all`` is each of so many layers.

    Example
    -------
    >>> list(sweep({"hparams": "mp.yaml", "layer": "all"}, layers=2))
    [{'hparams': 'mp.yaml', 'layer': 1}, {'hparams': 'mp.yaml', 'layer': 2}]
    """
    for key in SWEPT:
        values = list(range(1, layers + 1)) if key == "layer" and entry.get(key) == "all" else entry.get(key)
        if isinstance(values, list):
            for value in values:
                yield from sweep({**entry, key: value}, layers)
            return
    yield dict(entry)


def names(given: Any) -> list[str]:
    """A list, or words between commas; of ``all``, none.

    Raises
    ------
    OptionError
        Nothing is given, as by an empty variable of the shell.
    """
    if given == "all":
        return []
    if given in (None, "", []):
        raise OptionError("--systems and --folds want names between commas, or all; found nothing")
    return [str(name).strip() for name in (given if isinstance(given, list) else str(given).split(","))]


def refuse_misspelt_systems(argv: Sequence[str]) -> None:
    """Refuses a system whose head the plan has nowhere; layers and sizes show only when the systems are built.

    Raises
    ------
    OptionError
        The heads of the plan are named.
    """
    file, given, _ = command_line.read(argv)
    values = command_line.experiment(command_line.tree(file)) | given
    if not {"plan", "options", "systems"} <= values.keys():  # no plan, of which cross_validate.py tells
        return
    entries, shared, heads = values["plan"], values["options"], set()
    if not isinstance(entries, list) or not isinstance(shared, Mapping):  # of which cross_validate.py tells
        return
    for entry in entries:
        if not isinstance(entry, Mapping) or not (file.parent / str(entry.get("hparams"))).is_file():
            return
        key = OURS.get(str(entry.get("recipe", "train_ser.py")))
        own = command_line.experiment(command_line.tree(file.parent / entry["hparams"]))
        options = {**own, **(shared if key == "head" else {}), **entry}
        if key not in options:  # another's recipe names its systems as it likes; a file of another recipe is told later
            return
        heads.add(str(options[key]))
    for name in names(values["systems"]):
        if not any(name == head or name.startswith(f"{head}-") for head in heads):
            told = unknown_name("head", re.sub(r"-\d.*", "", name), heads, "those of the plan")
            raise OptionError(f"no system '{name}' in the plan: {told}")
