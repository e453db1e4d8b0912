"""``ser predict``: files, folders and patterns to transcripts and emotions, in the formats that other programs read."""

from __future__ import annotations

import argparse
import csv
import glob
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ser_plugins.errors import OptionError, SerError, unknown_name
from ser_plugins.files import write_atomically

if TYPE_CHECKING:
    from ser_plugins.recognition import Recognition, Segment

AUDIO = (".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".rf64", ".sph", ".w64",
         ".wav")  # suffixes that are taken from a folder
FILES: dict[str, tuple[str, Callable[[Recognition], str]]] = {  # format of one file each → suffix, content
    "textgrid": (".TextGrid", lambda said: said.to_textgrid()),
    "audacity": (".txt", lambda said: said.to_audacity()),
    "srt": (".srt", lambda said: said.to_srt()),
}
FORMATS = ("table", "json", "csv", *FILES)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``ser predict``."""
    parser.add_argument("--model", metavar="MODEL", help="a run's folder, or a model folder (default: the one shipped, "
                                                         "to try with: it heard eight German actors)")
    parser.add_argument("--format", default="json", metavar="FORMAT",
                        help=f"{', '.join(FORMATS)} (default: json, a line for each file)")
    parser.add_argument("--out", metavar="DIR", help=f"where the files of {', '.join(FILES)} go; without it, on the "
                                                     "screen, if there is one file")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are in --out already")
    parser.add_argument("--window", type=float, metavar="SECONDS", help="emotion over time, judged in such windows")
    parser.add_argument("--step", type=float, metavar="SECONDS", help="between two windows (default: 0.5)")


def audio_files(words: Sequence[str]) -> list[str]:
    """The files that are meant: what exists as it is, of folders the audio in them, and what a pattern matches.

    Arguments
    ---------
    words : Sequence[str]
        Files, folders, and patterns of the shell's kind (``**`` is any depth). What is none of these stays, so that
        it is told where it is opened.

    Returns
    -------
    list[str]
        In order, each once.
    """
    found: list[str] = []
    for word in words:
        path = Path(word)
        if path.is_dir():
            inside = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in AUDIO and file.is_file())
            found += inside or [word]
        elif path.exists():
            found.append(word)
        else:
            found += sorted(name for name in glob.glob(word, recursive=True) if Path(name).is_file()) or [word]
    return list(dict.fromkeys(found))


def check(options: argparse.Namespace, files: Sequence[str]) -> None:
    """Refuses options that contradict each other, and files that would be lost, before any model is loaded.

    Raises
    ------
    OptionError
    """
    if options.format not in FORMATS:
        raise OptionError(unknown_name("format", options.format, FORMATS, "formats"))
    if options.step is not None and options.window is None:
        raise OptionError("--step is between two windows: give --window, too, as 2")
    if options.out is not None and options.format not in FILES:
        raise OptionError(f"--out is for the formats of a file each, {', '.join(FILES)}; {options.format} is printed")
    if options.overwrite and options.out is None:
        raise OptionError("--overwrite is for the files in a folder: give --out, too")
    if options.format in FILES:
        if options.out is None and len(files) > 1:
            raise OptionError(f"{len(files)} files: {options.format} needs a folder for its files, --out DIR")
        twice = [name for name, number in Counter(Path(file).stem for file in files).items() if number > 1]
        if twice:
            same = [file for file in files if Path(file).stem == twice[0]]
            raise OptionError(f"{same[0]} and {same[1]} would both become {twice[0]}{FILES[options.format][0]}; give "
                              "them in two calls, with two folders")
    if options.out is not None and not options.overwrite:
        _refuse_loss([path for path in (_target(options, file) for file in files) if path.exists()], len(files))


def _refuse_loss(there: Sequence[Path], number: int) -> None:
    if there:
        raise OptionError(f"{there[0]} exists (of {number} files to write, {len(there)} do): give another folder by "
                          "--out, or --overwrite to replace what is there")


def _target(options: argparse.Namespace, file: str) -> Path:
    return Path(options.out) / f"{Path(file).stem}{FILES[options.format][0]}"


def run(options: argparse.Namespace, decoding: dict[str, Any]) -> int:
    """Answers all files that can be read; 1 if there was another.

    Arguments
    ---------
    options : argparse.Namespace
        ``files``, ``device``, and those of `add_options`.
    decoding : dict[str, Any]
        Options of `ser_plugins.decoding.decoder`.
    """
    files = audio_files(options.files)
    check(options, files)
    from ser_plugins import windows
    from ser_plugins.inference import EmotionRecognizer
    from ser_plugins.values import check_device

    step = windows.STEP if options.step is None else options.step
    if options.window is not None:
        windows.check(options.window, step)
    check_device(options.device)
    if options.model is None:
        print("ser: without --model, emotions are those of the model for first trials, which heard eight German actors",
              file=sys.stderr)
    recognizer = EmotionRecognizer.from_hparams(source=options.model, run_opts={"device": options.device}, **decoding)

    def answer(file: str) -> Recognition:
        if options.window is None:
            return recognizer.transcribe_and_classify_file(file)
        return recognizer.track_file(file, options.window, step)

    printer = _printer(options, files)
    faults = 0
    with tqdm(files, unit="file", disable=None, leave=False) as bar:  # none where nobody looks
        for file, said in _answers(bar, answer):
            if isinstance(said, SerError):
                faults += 1
                text = str(said) if file in str(said) else f"{file}: {said}"
                line = json.dumps({"file": file, "error": str(said)}, ensure_ascii=False)
                bar.write(line if options.format == "json" else f"ser: error: {text}", file=sys.stderr)
            else:
                for line in printer(file, said):
                    bar.write(line, file=sys.stdout)
                    sys.stdout.flush()
    return int(faults > 0)


def _answers(files: Any, answer: Callable[[str], Recognition]) -> Iterator[tuple[str, Recognition | SerError]]:
    for file in files:
        try:
            yield file, answer(file)
        except SerError as error:
            yield file, error


def _printer(options: argparse.Namespace, files: Sequence[str]) -> Callable[[str, Recognition], Iterator[str]]:
    """What gives the lines to print of a file."""
    if options.format == "json":
        return lambda file, said: iter([json.dumps({"file": file, **said.to_dict()}, ensure_ascii=False)])
    if options.format == "table":
        return _Table(max(map(len, files)), options.window is not None)
    if options.format == "csv":
        return _CSV(options.window is not None)
    return lambda file, said: _filed(options, file, said)


def _filed(options: argparse.Namespace, file: str, said: Recognition) -> Iterator[str]:
    _, content = FILES[options.format]
    if options.out is None:
        yield content(said).rstrip("\n")
        return
    path = _target(options, file)
    write_atomically(path, lambda out: out.write(content(said)))
    yield str(path)


class _Table:
    """A line for each file, or for each stretch of one emotion, under a head."""

    def __init__(self, width: int, track: bool) -> None:
        self.width, self.track, self.head = max(width, len("file")), track, True

    def __call__(self, file: str, said: Recognition) -> Iterator[str]:
        emotion = max(len("emotion"), *map(len, said.probabilities))
        if self.head:
            self.head = False
            yield f"{'file':{self.width}}  {'s':>7}  {'emotion':{emotion}}  share  text"
        yield (f"{file:{self.width}}  {said.duration:7.2f}  {said.label:{emotion}}  "
               f"{said.probabilities[said.label]:5.2f}  {said.text}".rstrip())
        for start, end, label in said.emotions() if self.track else ():
            yield f"{f'{start:.2f} – {end:.2f}':>{self.width}}  {'':7}  {label}"


class _CSV:
    """A row for each file, or for each segment of its track, with the words whose middle lies in it."""

    def __init__(self, track: bool) -> None:
        self.track, self.head = track, True

    def __call__(self, file: str, said: Recognition) -> Iterator[str]:
        rows: list[list[Any]] = []
        if self.head:
            self.head = False
            rows.append(["file", "start", "end", "label", *(f"p_{label}" for label in said.probabilities), "text"])
        spans: list[tuple[float, float, Recognition | Segment, str]] = [(0.0, said.duration, said, said.text)]
        if self.track:
            middles = [((word.start + word.end) / 2, word.text) for word in said.words]
            spans = [(one.start, one.end, one, " ".join(text for at, text in middles if one.start <= at < one.end))
                     for one in said.track]
        rows += [[file, f"{start:.3f}", f"{end:.3f}", one.label,
                  *(f"{share:.6f}" for share in one.probabilities.values()), text] for start, end, one, text in spans]
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows(rows)
        yield lines.getvalue().rstrip("\n")
