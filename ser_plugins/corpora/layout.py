"""What the readers share: audio files whatever their suffix, and the error of a folder of another layout."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

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
