"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ser_plugins.errors import DataError


def write_atomically(path: Path, content: Callable[[IO[Any]], Any], binary: bool = False) -> None:
    """Writes a file; it gets its name when it is whole.

    Arguments
    ---------
    path : Path
        The file; its folder is made.
    content : Callable
        Is called with the open file.
    binary : bool
        Bytes in place of UTF-8 text.

    Raises
    ------
    DataError
        The folder is not writable or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")  # hosts may share pids
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") if binary else open(temporary, "w", encoding="utf-8", newline="") as file:
            content(file)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}; "
                        "is the folder writable and the disk not full?") from error
    finally:
        if temporary.exists():
            temporary.unlink()
