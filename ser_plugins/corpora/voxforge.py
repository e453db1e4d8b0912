"""VoxForge (voxforge.org): sentences read by volunteers, submitted in folders of some ten each, for the recogniser.

Conventions. The speaker is the user whose name begins the folder's; of folders that are named otherwise it is the
README's user name. ``anonymous`` is many people, so every anonymous submission is a speaker of its own; that splits
whoever submitted twice, but never puts two people into one. The gender is the README's, where it says one.

``etc/PROMPTS`` is read before ``etc/prompts-original``. Both may be UTF-8 or, as older submissions are, Latin-1: what
is no UTF-8 is read as Latin-1. Audio without a prompt is passed over.
"""

from __future__ import annotations

import gzip
import logging
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from ser_plugins.contracts import Corpus, Utterance
from ser_plugins.corpora.faults import Faults
from ser_plugins.corpora.layout import audio_files, require
from ser_plugins.errors import DataError, OptionError, unknown_name

logger = logging.getLogger(__name__)

PROMPTS = ("PROMPTS", "prompts-original")
ARCHIVES = (".tgz", ".tar.gz")
NAME = re.compile(r"(?P<user>.+?)-\d{8,10}[a-z]*(?:[_-].*)?")
USER_NAME = re.compile(r"^[^\w\n]*User Name[ \t]*:[ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE)
GENDER = re.compile(r"^[^\w\n]*Gender[ \t]*:[^\w\n]*(\w+)", re.IGNORECASE | re.MULTILINE)
WORDS: dict[Literal["female", "male"], str] = {  # of the site's languages; other words are no gender
    "female": "female weiblich vrouw femenino feminino femminile féminin femme",
    "male": "male männlich man masculino maschile masculin homme",
}
GENDERS = {word: gender for gender, words in WORDS.items() for word in words.split()}


class VoxForge(Corpus):
    """Reads a folder of submissions; files may be of any audio format.

    Arguments
    ---------
    extract : str | Path, optional
        Folder into which archives without a folder beside them are extracted, once; it may be the corpus folder.
        None refuses them.
    faulty : str
        ``"refuse"`` reports all faults of the submissions; ``"skip"`` logs them and leaves out what is faulty:
        prompts, READMEs, missing and empty files. Audio that does not decode is found when the manifest is made.

    Example
    -------
    >>> VoxForge(faulty="skip").faulty
    'skip'
    """

    language = "en"
    layout = ("FOLDER/USER-20080101-abc/ with etc/PROMPTS or etc/prompts-original and wav/a0001.wav or flac/a0001.flac "
              "(any audio suffix), or FOLDER/USER-20080101-abc.tgz with the option 'extract'")
    labels: Mapping[str, str] = {}

    def __init__(self, extract: str | Path | None = None, faulty: str = "refuse"):
        if faulty not in ("refuse", "skip"):
            raise OptionError(unknown_name("value of faulty", faulty, ["refuse", "skip"], "valid values"))
        self.extract = None if extract is None else Path(extract)
        self.faulty = faulty

    def read(self, folder: Path) -> list[Utterance]:
        """Lists the prompts that were read.

        Raises
        ------
        DataError
            The folder is missing or of another layout, archives are not extracted, or submissions are faulty (all
            faults are named by file and line).
        """
        faults = Faults()
        submissions = self._submissions(require(folder, folder, self.layout), faults)
        utterances = [utterance for path in submissions for utterance in _read_submission(path, faults)]
        hint = "; the option 'faulty: skip' leaves them out" if self.faulty == "refuse" else ""
        try:
            faults.raise_any(f"{len(submissions)} submissions in {folder}{hint}")
        except DataError as error:
            if self.faulty == "refuse":
                raise
            logger.warning("left out: %s", error)
        return utterances

    def _submissions(self, folder: Path, faults: Faults) -> list[Path]:
        """The folders of all submissions, by name; archives are extracted where that is asked for."""
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
        found = {path.name: path for path in paths
                 if path.is_dir() and (NAME.fullmatch(path.name) or (path / "etc").is_dir())}
        archives = {path.name.removesuffix(suffix): path for path in paths for suffix in ARCHIVES
                    if path.name.endswith(suffix)}
        packed = {name: path for name, path in sorted(archives.items()) if name not in found}
        if packed and self.extract is None:
            raise DataError(f"{folder}: {len(packed)} archives have no folder beside them, first {min(packed)}: "
                            "extract them, or name a folder for them with the option 'extract'")
        if not found and not packed:
            require(folder / "*/etc/PROMPTS", folder, self.layout)
        if self.extract is not None:
            found.update(_extract_all(packed, self.extract, faults))
        return [found[name] for name in sorted(found)]


def _extract_all(archives: Mapping[str, Path], folder: Path, faults: Faults) -> dict[str, Path]:
    """Name → folder of each archive; what an earlier call has extracted is taken as it is."""
    from tqdm import tqdm

    found = {}
    for name, archive in tqdm(archives.items(), desc="extracting voxforge", unit="archive", disable=not archives):
        try:
            if not (folder / name).exists():
                extract(archive, folder / name)
        except DataError as error:
            faults.add("archives that cannot be extracted", str(error))
        else:
            found[name] = folder / name
    return found


def extract(archive: Path, target: Path) -> None:
    """Extracts a submission; its folder gets its name when it is whole, so that a killed call leaves no part of one.

    Members that would lie outside the folder, or are no files, are refused (PEP 706, filter ``data``).

    Raises
    ------
    DataError
        The archive is truncated, unsafe or no submission, or the folder cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had this one's number
    try:
        temporary.mkdir(parents=True)
        with tarfile.open(archive) as file:
            file.extractall(temporary, filter="data")
        roots = [path for path in (temporary, *temporary.iterdir()) if (path / "etc").is_dir()]
        if len(roots) != 1:
            raise DataError(f"{archive} holds {len(roots)} folders with etc/, not one")
        os.replace(roots[0], target)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        raise DataError(f"{archive}: {error}; fetch it again or remove it") from error
    except OSError as error:
        raise DataError(f"{archive} cannot be extracted to {target}: {error.strerror or error}; "
                        "is the folder writable and the disk not full?") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read_submission(folder: Path, faults: Faults) -> Iterator[Utterance]:
    prompts = next((path for name in PROMPTS if (path := folder / "etc" / name).is_file()), None)
    audio = {path.stem: path for kind in ("flac", "wav") if (folder / kind).is_dir()
             for path in audio_files(folder / kind)}
    if prompts is None:
        faults.add("submissions without prompts", f"{folder}: expected etc/{' or etc/'.join(PROMPTS)}")
        return
    if not audio:
        faults.add("submissions without audio", f"{folder}: expected wav/ or flac/")
        return
    speaker, gender = _speaker(folder)
    for name, text in _read_prompts(prompts, audio, faults):
        yield Utterance(f"{folder.name}-{name}", audio[name], speaker, text=text, session=folder.name, gender=gender)


def _read_prompts(path: Path, audio: Mapping[str, Path], faults: Faults) -> Iterator[tuple[str, str]]:
    """Name and text of each prompt that has both text and audio; the others are faults."""
    seen: dict[str, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        key, *text = line.split(maxsplit=1) or [""]
        name, where = key.rsplit("/", 1)[-1], f"{path}, line {number}"
        if not key:
            continue
        if name in seen:
            faults.add("duplicate prompts", f"{where}: {name}, first at {seen[name]}")
        elif not text:
            faults.add("empty transcripts", f"{where}: {name}")
        elif name not in audio:
            faults.add("missing audio", f"{where}: no {name}.wav or other format in wav/ or flac/")
        elif audio[name].stat().st_size == 0:
            faults.add("empty audio", f"{where}: {audio[name]} has 0 bytes")
        else:
            yield name, text[0].strip()
        seen.setdefault(name, where)
    if not seen:
        faults.add("submissions without prompts", f"{path} is empty")


def _speaker(folder: Path) -> tuple[str, Literal["female", "male", ""]]:
    """Speaker and gender of a submission, as described at the top."""
    readme = folder / "etc/README"
    text = "\n".join(_lines(readme)) if readme.is_file() else ""
    name, written, gender = NAME.fullmatch(folder.name), USER_NAME.search(text), GENDER.search(text)
    user = name["user"] if name else written[1].strip() if written else ""
    return (folder.name if user.casefold() in ("", "anonymous") else user,
            GENDERS.get(gender[1].lower(), "") if gender else "")


def _lines(path: Path) -> list[str]:
    """The lines of a text in UTF-8 or else Latin-1."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    try:
        data.decode("utf-8")
        encoding = "utf-8-sig"
    except UnicodeDecodeError:
        encoding = "latin-1"
    # bytes are split at line breaks alone, Latin-1 also at 0x85, the ellipsis of Windows
    return [line.decode(encoding) for line in data.splitlines()]
