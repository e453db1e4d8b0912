"""Label mapping as data: a corpus's own labels → common names, from ``labels.yaml`` and the user's overrides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ser_plugins.errors import DataError, OptionError, unknown_name

BUILT_IN = Path(__file__).with_name("labels.yaml")


def _read_yaml(path: Path) -> object:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"label map {path} cannot be read: {error.strerror}") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"label map {path} is no YAML: {error}") from error


def _checked(mapping: object, where: str) -> dict[str, str]:
    if not isinstance(mapping, Mapping):
        raise DataError(f"{where} must be a mapping of the corpus's own labels to names, e.g. \"W\": anger")
    wrong = [f"{key!r}: {value!r}" for key, value in mapping.items()
             if not isinstance(key, str) or not isinstance(value, str) or not value]
    if wrong:
        raise DataError(f"{where}: labels and names must be texts; put quotes round {', '.join(wrong)}")
    return dict(mapping)


def overrides(label_map: str | Path | Mapping[str, str] | None) -> dict[str, str]:
    """A user's label map: the path of a YAML file, a mapping, or None for no overrides.

    Raises
    ------
    DataError
        The file cannot be read or is no mapping of texts to texts.

    Example
    -------
    >>> overrides({"happy": "happiness"})
    {'happy': 'happiness'}
    """
    if label_map is None:
        return {}
    if isinstance(label_map, Mapping):
        return _checked(label_map, "label_map")
    return _checked(_read_yaml(Path(label_map)), f"label map {label_map}")


def load_labels(corpus: str, label_map: str | Path | Mapping[str, str] | None = None) -> dict[str, str]:
    """The label mapping of a built-in corpus.

    Arguments
    ---------
    corpus : str
        A key of ``labels.yaml``.
    label_map : str | Path | Mapping[str, str], optional
        Overrides: entries that replace the built-in ones.

    Returns
    -------
    dict[str, str]
        The corpus's own label → common name.

    Raises
    ------
    DataError
        A file that cannot be read or is no mapping.
    OptionError
        An override of a label that the corpus does not have; those it has are named.

    Example
    -------
    >>> load_labels("emodb")["W"], load_labels("emodb", {"L": "neutral"})["L"]
    ('anger', 'neutral')
    """
    built_in = _read_yaml(BUILT_IN)
    assert isinstance(built_in, dict)
    labels = _checked(built_in[corpus], f"{BUILT_IN}: {corpus}")
    for label, name in overrides(label_map).items():
        if label not in labels:
            raise OptionError(unknown_name(f"label of {corpus}", label, labels, "its labels"))
        labels[label] = name
    return labels
