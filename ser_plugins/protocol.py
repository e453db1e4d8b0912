"""What the recipes of emotion systems share: whom a run trains and tests, the stamp of its settings, what it leaves.

A run is one system on one fold with one seed. Its folder holds ``settings.json``, all that decides its numbers;
``predictions.csv`` of the test speaker and ``predictions_valid.csv`` of the validation speaker; and ``metrics.json``
with the protocol's stamp.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import Any

from ser_plugins import augment, experiment, figures, folds, metrics, models, predictions, registry, store
from ser_plugins.contracts import Encoder, FeatureExtractor, Needs, fingerprint
from ser_plugins.corpora import manifest
from ser_plugins.errors import DataError, OptionError
from ser_plugins.files import write_atomically

NOT_SETTINGS = ("output_root", "output_folder", "store_folder", "data_folder", "test_data_folder", "overwrite",
                "num_workers", "regimes")
OF_FEATURES, OF_ENCODER = ("features", "pitch", "feature_options"), ("encoder",)  # settings of a part
VERSION = 1  # of what recipes and `ser_plugins` compute, but for the head's module: raise it when numbers change
DECISIVE = ("ser_plugins", "torch", "speechbrain", "numba", "numpy", "scikit-learn", "librosa", "soxr")
OF_FINETUNING = ("finetune_layers", "finetune_lr")
DEFINITIONS = {
    "UA": "unweighted accuracy: mean of the classes' recalls",
    "WA": "weighted accuracy: share of utterances that are right",
    "F1": "macro F1: mean of the classes' F1",
    "ECE": "expected calibration error over 15 bins of confidence",
    "split": "leave one speaker out; the validation speaker is the other one of the session, or the next by name",
    "tested": "the epoch with the lowest cross-entropy on the validation speaker",
}

LABELS_RULE: tuple[Callable[[Any], bool], str] = (
    lambda value: len(value or ()) > 1 and all(isinstance(label, str) for label in value), "two names or more")

CROSSED = "one speaker of the corpus validates and all others train; another corpus is tested as a whole"

Outcome = Sequence[tuple[manifest.Row, Sequence[float]]]  # utterances and the probabilities of their labels


@dataclass(frozen=True)
class System:
    """One system of Table 1, built: ``model`` is what is trained, ``code`` tells another author's version of it."""

    recipe: str
    name: str
    model: Any
    needs: Needs
    extractor: FeatureExtractor | None
    encoder: Encoder | None
    options: dict[str, Any]
    code: dict[str, str]
    deterministic: bool = False  # another seed gives the same


def definitions(values: Mapping[str, Any]) -> dict[str, str]:
    """What the numbers of a run mean."""
    return DEFINITIONS | ({} if values["test_corpus"] is None else {"split": CROSSED})


def check_corpora(values: Mapping[str, Any], given: Collection[str]) -> None:
    """Refuses a corpus that does not exist, or whose folder nobody named."""
    for corpus, folder in (("corpus", "data_folder"), ("test_corpus", "test_data_folder")):
        if values.get(corpus) is None:  # not every recipe tests another corpus
            if folder in given:
                raise OptionError(f"--{folder} goes with --{corpus} only: name the corpus, too")
            continue
        registry.find("corpora", str(values[corpus]))
        if values[corpus] != "synthetic" and folder not in given:
            raise OptionError(f"where is corpus '{values[corpus]}'? give --{folder} FOLDER")


def encoder_of(source: str) -> Encoder:
    """The frozen encoder of this name or folder, loaded once in a process; it is shared, so leave it as it is.

    Raises
    ------
    PluginError, DataError
        As of `models.load_encoder`.
    """
    plugin, _, weights = source.removeprefix(models.UNTRAINED).partition(":")
    known = registry.load("encoders", plugin) if plugin in registry.installed("encoders") else None
    folder = plugin if known is None else weights  # none: the plugin's own weights
    files = sorted(path for path in Path(folder).glob("*") if path.is_file()) if folder else []
    return _encoder(source, (known, *((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files)))


@functools.lru_cache(8)
def _encoder(source: str, _state: Hashable) -> Encoder:
    return models.load_encoder(source)


def system_name(head: str, options: Mapping[str, Any], encoder: str | None = None, finetune_layers: int = 0) -> str:
    """As the paper's Table 1 names systems: head and layer, or head and units; then what is done to the encoder.

    Example
    -------
    >>> system_name("progressive", {"layer": 2, "units": 96}), system_name("baseline", {"units": 96})
    ('progressive-2', 'baseline-96')
    >>> system_name("mp", {"layer": 1}, "untrained:deepspeech2")
    'mp-1-untrained'
    >>> system_name("rnn", {"layer": 5}, "deepspeech2", finetune_layers=2)
    'rnn-5-finetuned2'
    """
    number = options.get("layer", options.get("units"))
    name = head if number is None else f"{head}-{number}"
    name += f"-finetuned{finetune_layers}" if finetune_layers else ""
    return f"{name}-untrained" if str(encoder).startswith(models.UNTRAINED) else name


def run_folder(values: Mapping[str, Any], system: str, fold: folds.Fold) -> Path:
    """Where a run lies by default: corpus, system, fold and seed."""
    corpus = values["corpus"] if values["test_corpus"] is None else f"{values['corpus']}-to-{values['test_corpus']}"
    return Path(values["output_root"]) / corpus / system / f"test-{fold.test}" / f"seed-{values['seed']}"


def prepare(values: Mapping[str, Any]) -> tuple[list[manifest.Row], list[manifest.Row]]:
    """Manifest rows of the experiment's labels: those of the corpus, and those of ``test_corpus`` if there is one."""
    return prepared_rows(write_manifests(values, Path(values["output_root"])), values)


def write_manifests(values: Mapping[str, Any], root: Path, *, told: bool = True) -> list[Path]:
    """The manifest of the corpus, and that of ``test_corpus`` if there is one; ``told``: their counts are printed."""
    corpus = values["corpus"]
    corpora = [(corpus, values["data_folder"], root / corpus, values["corpus_options"])]
    if values["test_corpus"] is not None:
        other = str(values["test_corpus"])
        corpora.append((other, values["test_data_folder"], root / f"{corpus}-to-{other}",
                        values["test_corpus_options"]))
    paths = [manifest.prepare(*arguments) for arguments in corpora]
    for (name, folder, *_), path in zip(corpora, paths, strict=True):
        if told:
            print(f"{name} in {folder}\n{manifest.report(path)}", flush=True)
    return paths


def prepared_rows(paths: Sequence[str | Path], values: Mapping[str, Any]
                  ) -> tuple[list[manifest.Row], list[manifest.Row]]:
    """Rows of written manifests; those of the tested corpus bear its name.

    Raises
    ------
    DataError
        A speaker of a corpus is tested, and trained on in another one of the same plugin.
    """
    rows, *test = [_labelled(path, values["labels"], str(values[key]))
                   for path, key in zip(paths, ("corpus", "test_corpus"), strict=False)]
    other = str(values["test_corpus"])
    shared = sorted({row.speaker for row in rows} & {row.speaker for one in test for row in one})
    if shared and other == values["corpus"]:  # two plugins' corpora may well call other people 03
        raise DataError(f"leak: speakers {', '.join(shared[:5])}{', …' if len(shared) > 5 else ''} stand in both "
                        f"corpora; a speaker is trained on or tested: leave those out of {values['test_data_folder']}, "
                        "or, if they are other people, give them other names")
    return rows, [replace(row, id=f"{other}/{row.id}", speaker=f"{other}/{row.speaker}") for one in test for row in one]


def _labelled(path: str | Path, labels: Sequence[str], corpus: str) -> list[manifest.Row]:
    """The rows of an experiment's labels, by speaker and id: batches and draws depend on the order.

    Where a label is lacking, the corpus is named.
    """
    try:
        return sorted(manifest.select(manifest.load(path), labels), key=attrgetter("speaker", "id"))
    except OptionError as error:
        raise OptionError(f"corpus '{corpus}': {error}") from error


def all_folds(rows: Sequence[manifest.Row], values: Mapping[str, Any]) -> list[folds.Fold]:
    """Leave one speaker out; with a ``test_corpus``, one fold that tests it: all but one speaker of the corpus train.

    Raises
    ------
    OptionError
        ``test_corpus`` and ``test_speaker`` are both given.
    """
    sessions = folds.speaker_sessions((row.speaker, row.session) for row in rows)
    found = folds.leave_one_speaker_out(sessions)
    if values["test_corpus"] is None:
        return found
    if values["test_speaker"] is not None:
        raise OptionError("--test_speaker goes without --test_corpus, all of whose speakers are tested")
    others = tuple(sorted(sessions.keys() - {found[0].valid}))
    return [folds.Fold(str(values["test_corpus"]), found[0].valid, others)]


def chosen_fold(rows: Sequence[manifest.Row], values: Mapping[str, Any]) -> folds.Fold:
    """The fold of ``test_speaker``; the first one for null."""
    speaker = values["test_speaker"]
    return folds.find(all_folds(rows, values), None if speaker is None else str(speaker))


def split(rows: Sequence[manifest.Row], test_rows: Sequence[manifest.Row], fold: folds.Fold,
          values: Mapping[str, Any]) -> dict[str, list[manifest.Row]]:
    """Rows of each part; ``test_rows`` are those of another corpus that is tested.

    Raises
    ------
    DataError
        A class is absent from training, or from the test; a recording stands in two parts.
    """
    parts = {"train": [row for row in rows if row.speaker in fold.train],
             "valid": [row for row in rows if row.speaker == fold.valid],
             "test": list(test_rows) or [row for row in rows if row.speaker == fold.test]}
    tested = f"test corpus '{fold.test}' has" if test_rows else f"test speaker '{fold.test}' has"
    for part, who in (("train", "the training speakers have"), ("test", tested)):
        absent = [label for label in values["labels"] if label not in {row.emotion for row in parts[part]}]
        if absent and not (part == "test" and values["allow_missing_class"]):
            hint = "choose other labels" if part == "train" else (
                "choose another --test_speaker or other --labels, or average over the classes that there are with "
                "--allow_missing_class true")
            raise DataError(f"{who} no utterance of {', '.join(absent)}: {hint}")
    names: dict[str, str] = {}  # of the first utterance with this audio
    folds.check_disjoint(**{part: [names.setdefault(key, row.id) for row, key
                                   in zip(chosen, store.audio_hashes(chosen), strict=True)]
                            for part, chosen in parts.items()})
    return parts


def represented(parts: Mapping[str, Sequence[manifest.Row]], stored: store.Store,
                values: Mapping[str, Any], device: str, *, progress: bool = True) -> dict[str, list[list[store.Item]]]:
    """Each utterance as its variants, the undisturbed one first; all of them computed and stored.

    The gains of the variants are the same for every seed of a run, so that runs share what is stored.
    """
    items = {
        part: [[store.item(row, key, variant) for variant in augment.variants(
                    row.id, (values["tempi"] or []) if part == "train" else [], tuple(values["gain"]), seed=0)]
               for row, key in zip(rows, store.audio_hashes(rows), strict=True)]
        for part, rows in parts.items()}
    stored.compute([one for part in items.values() for variants in part for one in variants], device,
                   values["num_workers"], progress=progress)
    return items


def run_settings(exp: experiment.Experiment, system: System, rows: Sequence[manifest.Row], fold: folds.Fold
                 ) -> dict[str, Any]:
    """All that decides a run's numbers: values, SpeechBrain's run options, fold, data, and fingerprints of its parts.

    What a system does not need has no part in it: a baseline stays the same with another encoder.
    """
    needs, extractor, encoder = system.needs, system.extractor, system.encoder
    unused = {*NOT_SETTINGS, *(() if needs.features else OF_FEATURES), *(() if needs.encoder else OF_ENCODER),
              *(() if exp.values.get("finetune_layers") else OF_FINETUNING)}
    settings = {key: value for key, value in exp.values.items() if key not in unused}
    if needs.features and extractor is not None:
        settings["features_fingerprint"] = extractor.fingerprint
    if needs.encoder and encoder is not None:
        settings["encoder_fingerprint"] = encoder.fingerprint
    objects = {key: exp.text(key) for key in exp.resolved if key not in exp.values}  # optimiser, annealing, …
    data = sorted([row.id, row.speaker, row.session, row.emotion, key]
                  for row, key in zip(rows, store.audio_hashes(rows), strict=True))
    return {"recipe": system.recipe} | settings | objects | system.code | {
        "test_speaker": fold.test, "run_options": exp.decisive_options, "data": fingerprint({"rows": data}, {}),
        "versions": {name: version(name) for name in DECISIVE}, "code": VERSION}


def run_key(settings: Mapping[str, Any], fold: folds.Fold, seed: int) -> str:
    """Short hash of a protocol's run; the settings are those of its system before fold, seed and folder are given."""
    return fingerprint({**settings, "test_speaker": fold.test, "seed": seed}, {})[:8]


def report(folder: Path, system: str, parts: Mapping[str, Sequence[manifest.Row]], fold: folds.Fold,
           settings: Mapping[str, Any], outcomes: Mapping[str, Outcome], about: Mapping[str, Any]) -> None:
    """Writes predictions, metrics with the protocol's stamp and the predictions' hashes, and the confusion matrix.

    The metrics are also printed.

    Arguments
    ---------
    folder : Path
        The run's folder.
    system : str
        Its name.
    parts : Mapping[str, Sequence[Row]]
        Utterances of ``train``, ``valid`` and ``test``.
    fold : Fold
        The speakers of the parts.
    settings : Mapping[str, Any]
        Of `run_settings`.
    outcomes : Mapping[str, Outcome]
        What it said of ``valid`` and ``test``.
    about : Mapping[str, Any]
        What else to say of the run in ``metrics.json``; ``protocol`` in it joins the stamp.
    """
    labels = settings["labels"]
    predictions.write(folder / "predictions_valid.csv", outcomes["valid"], labels)
    predictions.write(folder / "predictions.csv", outcomes["test"], labels)
    written = predictions.read(folder / "predictions.csv")
    truth, predicted = written.truth, written.predicted
    result = metrics.summary(truth, predicted, labels)
    stamp = {
        "system": system, "fold": {"test": fold.test, "valid": fold.valid, "train": list(fold.train)},
        "counts": {part: dict(Counter(row.emotion for row in rows)) for part, rows in parts.items()},
        "settings": dict(settings), "definitions": definitions(settings),
        "plugins": {group: registry.distribution(registry.find(group, str(settings[key]))) for group, key
                    in (("corpora", "corpus"), ("features", "features"), ("heads", "head")) if key in settings},
        "versions": {name: version(name) for name in ("ser_plugins", "torch", "torchaudio", "speechbrain", "numpy",
                                                      "scikit-learn")},
        "machine": {"python": platform.python_version(), "system": platform.platform()},
    }
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
             for name in ("predictions.csv", "predictions_valid.csv")}
    content = {**result, "ECE": metrics.calibration_error(truth, written.probabilities, labels), **about,
               "protocol": {**stamp, **about["protocol"]}, "files": files}
    title = f"{system}, {'corpus' if settings['test_corpus'] else 'speaker'} {fold.test}: UA {result['UA']:.3f}"
    matrix = metrics.confusion_matrix(truth, predicted, labels)
    picture = figures.content(figures.confusion_figure(matrix, labels, title), "png")
    write_atomically(folder / "confusion.png", lambda file: file.write(picture), binary=True)
    write_atomically(folder / "metrics.json", lambda file: json.dump(content, file, indent=2))  # last: the run is whole
    print(metrics.table(result, labels))
