"""Model folders on the Hugging Face Hub, by the package ``huggingface_hub`` (extra ``[hub]``).

Only the files of `folder_check.FILES` are downloaded, whatever else a repository holds. Tokens and cache are
huggingface_hub's own: ``hf auth login``, ``HF_TOKEN``, ``HF_HOME``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ser_plugins.errors import DataError, OptionError
from ser_plugins.folder_check import FILES

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[\w./-]{1,100})?")


def is_repository(source: str) -> bool:
    """Whether it may be a repository's id, ``owner/name``, with ``@revision`` where one is wanted.

    Example
    -------
    >>> [is_repository(text) for text in ("ann/ser-mp", "ann/ser-mp@v1", "../model", "results/emodb/mp-3", "model")]
    [True, True, False, False, False]
    """
    return bool(REPOSITORY.fullmatch(source)) and ".." not in source


def download(source: str) -> tuple[Path, Path]:
    """Downloads a model folder, or finds it in the hub's cache.

    Arguments
    ---------
    source : str
        ``owner/name``, or ``owner/name@revision`` for a branch, tag or commit.

    Returns
    -------
    tuple[Path, Path]
        The folder, and the folder out of which its links do not lead.

    Raises
    ------
    OptionError
        huggingface_hub is not installed.
    DataError
        There is no such repository, or it cannot be reached.
    """
    repository, _, revision = source.partition("@")
    try:
        folder = Path(_client().snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES)))
    except Exception as error:
        if not _of_the_hub(error):
            raise
        raise DataError(f"'{source}' is no folder here, and as a repository of the hub it could not be had: "
                        f"{_first_line(error)}") from error
    return folder, folder.parents[1] if folder.parent.name == "snapshots" else folder


def upload(folder: Path, repository: str, private: bool = False) -> str:
    """Creates a repository where there is none, and uploads a model folder as one commit.

    Returns
    -------
    str
        The commit's address.

    Raises
    ------
    OptionError
        huggingface_hub is not installed, or the id is none.
    DataError
        The hub refuses: no token, no right, no connection.
    """
    if not is_repository(repository) or "@" in repository:
        raise OptionError(f"'{repository}' is no repository's id; one is owner/name")
    client = _client()
    try:
        interface = client.HfApi()
        interface.create_repo(repository, private=private, exist_ok=True)
        # what an earlier export had and this one has not goes
        commit = interface.upload_folder(repo_id=repository, folder_path=str(folder), allow_patterns=list(FILES),
                                         delete_patterns=list(FILES), commit_message="Model folder of ser_plugins")
    except Exception as error:
        if not _of_the_hub(error):
            raise
        raise DataError(f"{folder} could not be uploaded to '{repository}': {_first_line(error)}; is there a token "
                        "(hf auth login) that may write there?") from error
    return str(commit.commit_url)


def _client() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise OptionError("models on the hub need huggingface_hub: pip install 'ser_plugins[hub]'") from error
    return huggingface_hub


def _of_the_hub(error: Exception) -> bool:
    """Whether huggingface_hub refuses, or what it speaks to the network with, which is another in each version."""
    return isinstance(error, OSError | ValueError | RuntimeError) or type(error).__module__.startswith("http")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
