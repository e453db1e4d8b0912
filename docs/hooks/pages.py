"""MkDocs hook: the pages of the API reference, one for each module, and the help of the command ``ser``."""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any
from unittest import mock

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
AREAS = {
    "Using a model": ("inference", "recognition", "models", "decoding", "demo"),
    "Plugins": ("contracts", "registry", "testing", "heads", "features", "encoders"),
    "Speech and corpora": ("corpora", "audio", "augment", "text"),
    "Evaluation": ("metrics", "significance", "claims", "folds", "predictions", "results", "probing", "descriptors",
                   "figures", "probe_figures", "page"),
    "Inside": (),  # all others
}
MARK = "<!-- help of ser -->"


class OwnLinks(Preprocessor):
    """Links of an included README start from the repository, those of a page from ``docs/``."""

    def run(self, lines: list[str]) -> list[str]:
        """Takes ``docs/`` off."""
        return [re.sub(r"\]\(docs/", "](", line) for line in lines]


class _OwnLinks(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(OwnLinks(md), "own_links", 31)  # after the snippets, before the fences


def modules() -> list[str]:
    """Names of the public modules and packages, without ``ser_plugins.``."""
    names = set()
    for path in (ROOT / "ser_plugins").rglob("*.py"):
        name = path.relative_to(ROOT / "ser_plugins").with_suffix("")
        parts = name.parent.parts if name.name == "__init__" else name.parts
        if parts and not any(part.startswith("_") for part in parts):
            names.add(".".join(parts))
    return sorted(names)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills the entry ``API reference`` of the navigation, and has links of included text mended."""
    areas: dict[str, list[dict[str, str]]] = {area: [] for area in AREAS}
    for name in modules():
        area = next((area for area, tops in AREAS.items() if name.split(".")[0] in tops), "Inside")
        areas[area].append({name: f"reference/{name}.md"})
    for area, tops in AREAS.items():
        areas[area].sort(key=lambda entry: _rank(next(iter(entry)), tops))
    (entry,) = [one for one in config.nav or [] if "API reference" in one]
    config.markdown_extensions.append(_OwnLinks())
    entry["API reference"] = [{area: entries} for area, entries in areas.items() if entries]
    return config


def _rank(name: str, tops: tuple[str, ...]) -> tuple[int, str]:
    top = name.split(".")[0]
    return (tops.index(top) if top in tops else len(tops), name)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each module."""
    for name in modules():
        head = f"---\ntitle: {name}\nsearch: {{boost: 0.3}}\n---\n"  # the guide's pages come first
        page = f"{head}\n# ser_plugins.{name}\n\n::: ser_plugins.{name}\n"
        files.append(File.generated(config, f"reference/{name}.md", content=page))
    return files


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Puts the help of ``ser`` and its commands where the mark stands."""
    if MARK not in markdown:
        return markdown
    from ser_plugins.cli import COMMANDS

    parts = [_help()]
    parts += [f"## ser {name}\n\n{_help(name)}" for name in COMMANDS]
    return markdown.replace(MARK, "\n\n".join(parts))


def _help(*words: str) -> str:
    from ser_plugins.cli import main

    with mock.patch.dict(os.environ, {"COLUMNS": "78"}), contextlib.redirect_stdout(io.StringIO()) as output, \
            contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return f"```text\n{output.getvalue()}```"
