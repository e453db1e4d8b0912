"""What the readers share: audio files whatever their suffix, lines of text, and errors of another layout."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ser_plugins.corpora.faults import Faults
from ser_plugins.errors import DataError


@cache
def audio_suffixes() -> frozenset[str]:
    """Suffixes of files that libsndfile may read: its formats' names and their usual other spellings.

    Example
    -------
    >>> {".wav", ".flac", ".ogg", ".aif", ".sph"} <= audio_suffixes()
    True
    """
    import soundfile  # here, so that naming a reader's options needs no audio library

    names = {f".{name.lower()}" for name in soundfile.available_formats()}
    return frozenset(names | {".aif", ".aifc", ".snd", ".oga", ".opus", ".sph"})


def audio_files(folder: Path) -> Iterator[Path]:
    """The audio files of a folder, sorted; hidden ones, such as macOS's ``._name``, are left out."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in audio_suffixes() and not path.name.startswith("."):
            yield path


def require(path: Path, folder: Path, layout: str) -> Path:
    """The path, if it exists.

    Arguments
    ---------
    path : Path
        What must exist.
    folder : Path
        The corpus folder that the user named.
    layout : str
        The expected layout, one line.

    Raises
    ------
    DataError
        It does not; the expected layout and the missing path are named.
    """
    missing = path if folder.exists() else folder
    if not missing.exists():
        raise DataError(f"{folder} is not this corpus: expected {layout}; first missing path: {missing}")
    return path


def require_audio(files: list[Path], folder: Path, layout: str) -> list[Path]:
    """The files, if there are any; a `DataError` that names the expected layout if there are none."""
    if not files:
        raise DataError(f"{folder} holds no audio of this corpus: expected {layout}")
    return files


def numbered_lines(path: Path, faults: Faults) -> Iterator[tuple[str, str]]:
    """The lines of a UTF-8 text that are not empty, each with its place; other bytes are a fault.

    Arguments
    ---------
    path : Path
        The file.
    faults : Faults
        Where lines of another encoding are noted; what can be read of them is still given.

    Returns
    -------
    Iterator[tuple[str, str]]
        Place, such as ``"train/text, line 3"``, and line.

    Raises
    ------
    DataError
        The file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    # bytes are split at line breaks alone, texts also at others, such as U+2028
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).splitlines(), start=1):
        where = f"{path}, line {number}"
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            faults.add("lines that are not UTF-8: convert the file", f"{where}: byte 0x{line[error.start]:02x}")
            text = line.decode("utf-8", errors="replace")
        if text.strip():
            yield where, text
