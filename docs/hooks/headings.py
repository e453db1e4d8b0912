"""Griffe extension: docstrings here have SpeechBrain's headings, which numpy's parser knows by other names."""

import re
from typing import Any

from griffe import Extension, Object

HEADINGS = {"Arguments": "Parameters", "Example": "Examples"}
HEADING = re.compile(r"^(Arguments|Example)\n(-{3,})$", re.MULTILINE)


class Headings(Extension):
    """Renames headings before docstrings are parsed, and lets ``text::`` begin a block of code as in reST."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is None:
            return
        text = HEADING.sub(lambda match: f"{HEADINGS[match[1]]}\n{'-' * len(HEADINGS[match[1]])}", obj.docstring.value)
        obj.docstring.value = re.sub(r"::$", ":", text, flags=re.MULTILINE)
