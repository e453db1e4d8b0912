"""The contract of corpus readers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ser_plugins.contracts import Corpus
from ser_plugins.errors import DataError
from ser_plugins.testing.rules import Rule, require, require_constructor


class CorpusCase:
    """A corpus reader's class and its options."""

    def __init__(self, plugin: type[Corpus], options: Mapping[str, Any] | None = None) -> None:
        self.plugin = plugin
        self.options = dict(options or {})
        self.makes_audio = False

    def require_refused(self, folder: Path, expected: str) -> None:
        """A `DataError` whose message holds `expected`; a reader that synthesises may make the audio instead."""
        if self.makes_audio:  # once is enough: it takes its time
            return
        try:
            rows = list(self.plugin(**self.options).read(folder))
        except DataError as error:
            require(expected in str(error), f"'{expected}' is not in the message: {error}")
            return
        absent = sum(not Path(row.path).is_file() for row in rows)
        require(bool(rows) and absent == 0, f"it gives {len(rows)} utterances and no error, {absent} without audio")
        self.makes_audio = True


def corpus_constructor(case: CorpusCase) -> None:
    """The constructor names every argument, and every option has a default."""
    require_constructor(case.plugin)
    case.plugin(**case.options)


def corpus_layout(case: CorpusCase) -> None:
    """`layout` shows the expected folder in one line."""
    layout = getattr(case.plugin, "layout", None)
    require(isinstance(layout, str) and layout.strip() != "" and "\n" not in layout, f"`layout` is {layout!r}")


def corpus_labels(case: CorpusCase) -> None:
    """`labels` maps the corpus's own labels to the common names, strings to strings."""
    labels = case.plugin(**case.options).labels
    require(isinstance(labels, Mapping), f"`labels` is a {type(labels).__name__}")
    wrong = [item for item in labels.items() if not all(isinstance(part, str) for part in item)]
    require(not wrong, f"{wrong[:1]} is no pair of strings")


def corpus_missing(case: CorpusCase) -> None:
    """A missing folder raises a DataError that names it, or the audio is made there."""
    with tempfile.TemporaryDirectory() as folder:
        missing = Path(folder) / "nowhere"
        case.require_refused(missing, str(missing))


def corpus_other_layout(case: CorpusCase) -> None:
    """A folder of another layout raises a DataError that shows `layout`, or the audio is made there."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "notes.txt").write_text("nothing that any corpus holds")
        case.require_refused(Path(folder), case.plugin.layout)


CORPUS_RULES: tuple[Rule[CorpusCase], ...] = (
    corpus_constructor, corpus_layout, corpus_labels, corpus_missing, corpus_other_layout,
)
