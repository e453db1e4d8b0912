"""A report of tables and figures: one HTML page that needs no other file, and each of them as files for a paper."""

from __future__ import annotations

import base64
import csv
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import jinja2
from matplotlib.figure import Figure
from tqdm import tqdm

from ser_plugins import figures
from ser_plugins.errors import DataError
from ser_plugins.files import write_atomically

DASH = "–"  # a number that there is none of
LATEX = str.maketrans({
    **{sign: rf"\{sign}" for sign in "&%$#_{}"}, **{sign: f"${sign}$" for sign in "<>|"}, "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "→": r"$\to$", "≤": r"$\le$", "−": "$-$",
    "×": r"$\times$", "–": "--", "…": r"\dots{}"})
COORDINATES = re.compile(r' (?:d|x|y)="[^"]*"|translate\([^)]*\)')  # of an SVG image
MADE = "files.json"  # beside the page: the names of what was made with it


@dataclass(frozen=True)
class Table:
    """A table of records.

    Arguments
    ---------
    name : str
        Of the files.
    caption : str
        Its first sentence is the title where the table is folded.
    records : Sequence[Mapping[str, Any]]
        What the CSV file holds, with all digits; None and NaN are empty there.
    columns : Mapping[str, str | tuple[str, str]]
        What the page and LaTeX show: heading → format of a record, such as ``"{low:.3f} to {high:.3f}"``, or key and
        format of one value, whose key may be any text: ``("calm: low", ".3f")``. A cell whose numbers a record lacks,
        or has as None or NaN, is a dash.
    folded : bool
        The page shows it on demand.
    prose : bool
        Its cells are text that may be wrapped.
    """

    name: str
    caption: str
    records: Sequence[Mapping[str, Any]]
    columns: Mapping[str, str | tuple[str, str]]
    folded: bool = False
    prose: bool = False

    @property
    def rows(self) -> list[list[str]]:
        """The texts of the cells."""
        return [[_cell(column, record) for column in self.columns.values()] for record in self.records]

    @property
    def files(self) -> tuple[str, ...]:
        return f"{self.name}.csv", f"{self.name}.tex"

    def save(self, folder: Path) -> None:
        """Writes NAME.csv and NAME.tex (booktabs)."""
        def write_csv(file: IO[str]) -> None:
            writer = csv.DictWriter(file, dict.fromkeys(key for record in self.records for key in record),
                                    lineterminator="\n")
            writer.writeheader()
            writer.writerows({key: value for key, value in record.items() if value == value} for record in self.records)

        head, *body = (" & ".join(map(_latex, row)) + r" \\" for row in (list(self.columns), *self.rows))
        lines = [f"% {self.caption}", rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}", r"\toprule", head,
                 r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""]
        write_atomically(folder / f"{self.name}.csv", write_csv)
        write_atomically(folder / f"{self.name}.tex", lambda file: file.write("\n".join(lines)))


@dataclass(frozen=True)
class Picture:
    """A figure; ``alt`` tells what it shows to who cannot see it."""

    name: str
    caption: str
    alt: str
    figure: Figure

    @property
    def files(self) -> tuple[str, ...]:
        return f"{self.name}.png", f"{self.name}.pdf"

    def save(self, folder: Path) -> None:
        """Writes NAME.png and NAME.pdf."""
        figures.save(self.figure, folder / self.name)

    @property
    def address(self) -> str:
        """The figure as a data address, for the page."""
        content = shortened(figures.content(self.figure, "svg").decode())
        return "data:image/svg+xml;base64," + base64.b64encode(content.encode()).decode()


def shortened(svg: str) -> str:
    """An SVG image with coordinates cut to hundredths of a point, and without indentation; it looks the same.

    Example
    -------
    >>> shortened('<g transform="translate(3.45678 9) scale(0.015625)">\\n  <path d="M 1.23456 2"/>\\n</g>')
    '<g transform="translate(3.45 9) scale(0.015625)">\\n<path d="M 1.23 2"/>\\n</g>'
    """
    return re.sub(r"\n\s+", "\n", COORDINATES.sub(lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), svg))


@dataclass(frozen=True)
class Section:
    """A heading with sentences, command lines, tables and figures.

    ``small`` figures stand side by side; what is ``apart`` is written as files only.
    """

    title: str
    text: Sequence[str] = ()
    items: Sequence[Table | Picture] = ()
    commands: Sequence[str] = ()
    small: bool = False
    apart: Sequence[Table | Picture] = ()

    @property
    def saved(self) -> list[Table | Picture]:
        return [*self.items, *self.apart]

    @property
    def key(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower())


def write(folder: Path, title: str, sections: Sequence[Section]) -> Path:
    """Writes ``index.html``, and each table and figure as files; returns the page.

    ``files.json`` lists what was made, so that what an earlier page had and this one has not is removed.

    Raises
    ------
    DataError
        ``files.json`` is no such list, or a file cannot be written or is there already, not made with a page.
    """
    made = {"index.html", *(name for section in sections for item in section.saved for name in item.files)}
    before = refuse_foreign(folder, made)
    _list(folder / MADE, made | before)  # all of them, should this be interrupted
    for item in tqdm([item for section in sections for item in section.saved], "tables and figures", leave=False,
                     disable=None):
        item.save(folder)
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("assets"))
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("report.html").render(title=title, sections=sections)
    write_atomically(folder / "index.html", lambda file: file.write(page))
    for name in before - made:
        (folder / name).unlink(missing_ok=True)
    _list(folder / MADE, made)
    return folder / "index.html"


def refuse_foreign(folder: Path, names: Collection[str] = ("index.html",)) -> set[str]:
    """Refuses a folder with files of these names that no page was made with; returns those of its page, if any.

    Raises
    ------
    DataError
        The first of them, or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; a page needs a folder")
    before = _listed(folder / MADE)
    foreign = sorted(name for name in {*names} - before if (folder / name).exists())
    if foreign:
        raise DataError(f"{folder / foreign[0]} exists (of {len(names)} files to write, {len(foreign)} do), and no "
                        f"page was made with it, by {MADE}: give another --output_folder, or remove it")
    return before


def _listed(path: Path) -> set[str]:
    """The names that ``files.json`` has; none where it is not there."""
    try:
        names = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        if not all(Path(name).name == name and Path(name).suffix for name in names):  # else it is not ours
            raise ValueError("need names of files, without a folder")
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is no list of a page's files ({error}): remove it, and old files beside it") from error
    return set(names)


def _list(path: Path, names: Collection[str]) -> None:
    write_atomically(path, lambda file: json.dump(sorted(names), file, indent=1))


def _cell(column: str | tuple[str, str], record: Mapping[str, Any]) -> str:
    """A record in a column's format.

    Example
    -------
    >>> _cell("{low:.1f} to {high:.1f}", {"low": 0.25, "high": 0.5}), _cell("{low:.1f}", {"low": None})
    ('0.2 to 0.5', '–')
    >>> _cell(("calm: low", ".2f"), {"calm: low": 0.25})
    '0.25'
    """
    known = {key: value for key, value in record.items() if value == value}  # no NaN
    try:
        return column.format_map(known) if isinstance(column, str) else format(known[column[0]], column[1])
    except (KeyError, TypeError):  # None has no number format
        return DASH


def _latex(text: str) -> str:
    r"""A cell of a LaTeX table, in any font encoding.

    Example
    -------
    >>> print(_latex("mp_1 > rnn_2: 50 % ± 2"))
    mp\_1 $>$ rnn\_2: 50 \% $\pm$ 2
    """
    return text.translate(LATEX)
