"""Several corpora beside each other: which are asked for, the labels that all have, and a protocol for each pair."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ser_plugins import experiment, registry
from ser_plugins.corpora import manifest
from ser_plugins.errors import DataError, OptionError
from ser_plugins.values import told_value

ONE_EACH = ("corpus", "data_folder", "corpus_options", "test_corpus", "test_data_folder", "test_corpus_options",
            "folds")  # keys that every pair has a value of its own of


@dataclass(frozen=True)
class Corpus:
    """A corpus of a protocol."""

    name: str
    folder: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def words(self, prefix: str = "") -> list[str]:
        """The options of cross_validate.py that name it; ``prefix`` is ``test_`` where it is tested only."""
        return [f"--{prefix}corpus={told_value(self.name)}", f"--{prefix}data_folder={told_value(self.folder)}",
                f"--{prefix}corpus_options={told_value(dict(self.options))}"]


def several(values: Mapping[str, Any]) -> list[Corpus]:
    """The corpora of the key ``corpora``; none where a protocol is about one corpus, or one pair.

    Raises
    ------
    PluginError
        A corpus is not installed.
    OptionError
        There is one only, or one has no folder.
    """
    found = []
    for name, given in (values.get("corpora") or {}).items():
        registry.find("corpora", str(name))
        one = given if isinstance(given, Mapping) else {"data_folder": given}
        if not isinstance(one.get("data_folder"), str) or one.keys() - {"data_folder", "corpus_options"}:
            raise OptionError(f"--corpora: {name} is {given}; give its folder, as {{{name}: FOLDER}}, or "
                              f"{{{name}: {{data_folder: FOLDER, corpus_options: {{…}}}}}}")
        found.append(Corpus(str(name), one["data_folder"], one.get("corpus_options") or {}))
    if len(found) == 1:
        raise OptionError(f"--corpora names {found[0].name} only: name two or more; for one there is --corpus")
    return found


def pair(values: Mapping[str, Any]) -> list[Corpus]:
    """The corpus that is trained on and the one that is tested."""
    return [Corpus(str(values[f"{prefix}corpus"]), str(values[f"{prefix}data_folder"]),
                   values[f"{prefix}corpus_options"]) for prefix in ("", "test_")]


def shared_labels(labels: Sequence[str], corpora: Sequence[Corpus]) -> list[str]:
    """Those of the labels that every corpus has; which are left out is printed.

    Raises
    ------
    DataError
        Fewer than two are left; what each corpus has is told. A corpus is faulty.
    """
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for number, one in enumerate(corpora):
            path = manifest.prepare(one.name, one.folder, Path(temporary) / str(number), one.options)
            found[one.name, one.folder] = {row.emotion for row in manifest.load(path)} - {""}
    lacking = {label: [name for (name, _), own in found.items() if label not in own] for label in labels}
    shared = [label for label in labels if not lacking[label]]
    if len(shared) < 2:
        told = "; ".join(f"{name} has {', '.join(sorted(own)) or 'none'}" for (name, _), own in found.items())
        raise DataError(f"the corpora share fewer than two of the labels {', '.join(labels)}: {told}. Map a corpus's "
                        "own names to common ones by its option label_map, or name others by --labels")
    for label, names in lacking.items():
        if names:
            print(f"label left out: {label}, which {' and '.join(names)} lacks")
    return shared


def every_pair(exp: experiment.Experiment, corpora: Sequence[Corpus], argv: Sequence[str],
               one: Callable[[Sequence[str]], object]) -> None:
    """Calls ``one`` for each corpus by itself, and for each pair of two; runs that failed are told at the end.

    Raises
    ------
    OptionError
        An option is given of which every pair has a value of its own.
    """
    for key in ONE_EACH:
        if key in exp.given:
            raise OptionError(f"--{key} goes without --corpora, which names all of them")
    values = exp.values
    labels = values["labels"] if "labels" in exp.given else shared_labels(values["labels"], corpora)
    root = Path(values["output_folder"])
    if "output_folder" not in exp.given:
        root = root.with_name("-".join(corpus.name for corpus in corpora))
    store = values["store_folder"] if "store_folder" in exp.given else str(root / "store")  # of all: each heard once
    shared = [*argv, "--corpora={}", f"--labels={told_value(labels)}", f"--store_folder={told_value(store)}"]
    folders, failed = [], []
    for trained in corpora:
        for tested in corpora:
            alone = trained == tested
            name = trained.name if alone else f"{trained.name}-to-{tested.name}"
            folders.append(root / name)
            print(f"\n{len(folders)} of {len(corpora)**2}: {name}", flush=True)
            try:
                one([*shared, *trained.words(), *([] if alone else tested.words("test_")),
                     f"--output_folder={told_value(str(folders[-1]))}"])
            except SystemExit:
                failed.append(name)
    print(f"\nmatrix of the corpora: python recipes/report.py {' '.join(map(str, folders))} "
          f"--output_folder {root / 'report'}")
    if failed:
        print(f"FAILED trainings in {', '.join(failed)}; see above", file=sys.stderr)
        sys.exit(1)
