"""Several corpora: a protocol of each by itself, and of every ordered pair, on the labels that all have."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import plan
from collect import ANY_CORPUS

from ser_plugins import experiment, protocol, registry
from ser_plugins.corpora import manifest
from ser_plugins.errors import DataError, OptionError
from ser_plugins.values import told_value

OF_ONE = ("corpus", "data_folder", "corpus_options", "test_data_folder", "test_corpus_options")  # not with corpora


@dataclass(frozen=True)
class Corpus:
    """A corpus of several, as the key ``corpora`` lists them."""

    corpus: str
    folder: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """That of a folder of results; of a reader of any corpus with the corpus's own folder."""
        return f"{self.corpus}-{Path(self.folder).name}" if self.corpus in ANY_CORPUS else self.corpus

    def words(self, prefix: str = "") -> list[str]:
        """The options of cross_validate.py that name it; ``prefix`` is ``test_`` where it is tested only."""
        told = {"corpus": self.corpus, "data_folder": self.folder, "corpus_options": dict(self.options)}
        return [f"--{prefix}{key}={told_value(value)}" for key, value in told.items()]


def cells(exp: experiment.Experiment, argv: Sequence[str]) -> list[experiment.Experiment]:
    """The protocols that are asked for: that of the command line, or with ``corpora`` one of each cell of their matrix.

    Raises
    ------
    OptionError
        An option is given of which every cell has its own.
    DataError, PluginError
        As of `several` and `shared_labels`.
    """
    values, corpora = exp.values, several(exp.values)
    labels_given = "labels" in exp.given
    if not corpora:
        protocol.check_corpora(values, exp.given)
        if values["test_corpus"] is not None and plan.names(values["folds"]):
            raise OptionError("--folds goes without --test_corpus: the whole of that is one fold")
        if values["test_corpus"] is None or labels_given:
            return [exp]
        pair = [Corpus(str(values[f"{prefix}corpus"]), str(values[f"{prefix}data_folder"]),
                       values[f"{prefix}corpus_options"]) for prefix in ("", "test_")]
        return [experiment.load([*argv, f"--labels={told_value(shared_labels(values['labels'], pair))}"])]
    refused = [key for key in OF_ONE if key in exp.given]
    refused += ["test_corpus"] * (values["test_corpus"] is not None) + ["folds"] * bool(plan.names(values["folds"]))
    for key in refused:
        raise OptionError(f"--{key} and --corpora exclude each other: the list names each corpus, with its options, "
                          "and all of its speakers are tested")
    shared = [*argv, "--corpora=[]"]
    if not labels_given:
        shared.append(f"--labels={told_value(shared_labels(values['labels'], corpora))}")
    return [_cell(exp, shared, trained, tested) for trained in corpora for tested in corpora]


def _cell(exp: experiment.Experiment, shared: Sequence[str], trained: Corpus, tested: Corpus
          ) -> experiment.Experiment:
    """The protocol of one cell; beside it lies the store of all, so that each corpus is heard once."""
    words = [*shared, *trained.words(), *([] if trained == tested else tested.words("test_"))]
    cell = experiment.load(words)
    folder = Path(cell.values["output_folder"])
    if "output_folder" not in exp.given and folder.name == trained.corpus:
        folder = folder.parent  # where the file has it: a corpus's own
    name = trained.name if trained == tested else f"{trained.name}-to-{tested.name}"
    words.append(f"--output_folder={told_value(str(folder / name))}")
    if cell.values["store_folder"] == f"{cell.values['output_folder']}/store":  # where the file has it
        words.append(f"--store_folder={told_value(str(folder / 'store'))}")
    return experiment.load(words)


def output_folder(exp: experiment.Experiment) -> Path:
    """Where a protocol lies: of another corpus as the test beside the corpus's own, unless the folder is given."""
    root, tested = Path(exp.values["output_folder"]), exp.values["test_corpus"]
    return root if tested is None or "output_folder" in exp.given else root.with_name(f"{root.name}-to-{tested}")


def several(values: Mapping[str, Any]) -> list[Corpus]:
    """The corpora of the key ``corpora``; none where a protocol is of one corpus, or one pair.

    Raises
    ------
    PluginError
        A corpus is not installed.
    OptionError
        There is one only, one has no folder or stands twice.
    """
    found: list[Corpus] = []
    for given in values.get("corpora") or []:
        keys = given.keys() if isinstance(given, Mapping) else set()
        if not {"corpus", "folder"} <= keys <= {"corpus", "folder", "options"} or not isinstance(
                given.get("options", {}), Mapping):
            raise OptionError(f"--corpora: {given} is no corpus; each is {{corpus: NAME, folder: FOLDER}}, with "
                              "options: {…} of its reader, if any")
        registry.find("corpora", str(given["corpus"]))
        found.append(Corpus(str(given["corpus"]), str(given["folder"]), given.get("options", {})))
    names = Counter(one.name for one in found)
    if len(names) < len(found):
        raise OptionError(f"--corpora: {names.most_common(1)[0][0]} stands twice; folders of one reader need names of "
                          "their own")
    if len(found) == 1:
        raise OptionError(f"--corpora names {found[0].name} only: name two or more; for one there is --corpus")
    return found


def shared_labels(labels: Sequence[str], corpora: Sequence[Corpus]) -> list[str]:
    """Those of the labels that every corpus has; which are left out is printed.

    Raises
    ------
    DataError
        Fewer than two are left; what each corpus has is told. A corpus is faulty.
    """
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for number, one in enumerate(corpora):
            path = manifest.prepare(one.corpus, one.folder, Path(temporary) / str(number), one.options)
            found.append({row.emotion for row in manifest.load(path)} - {""})
    shared = [label for label in labels if all(label in own for own in found)]
    if len(shared) < 2:
        told = "; ".join(f"{one.corpus} in {one.folder} has {', '.join(sorted(own)) or 'none'}"
                         for one, own in zip(corpora, found, strict=True))
        raise DataError(f"the corpora share fewer than two of the labels {', '.join(labels)}: {told}. Map a corpus's "
                        "own names to common ones by its option label_map, or name others by --labels")
    for label in labels:
        if label not in shared:
            lacking = ", ".join(one.name for one, own in zip(corpora, found, strict=True) if label not in own)
            print(f"label left out: {label} (not in {lacking})")
    return shared
