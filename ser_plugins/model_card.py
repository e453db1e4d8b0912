"""The model card of an exported system, after Mitchell et al. 2019, "Model cards for model reporting".

Every number is read from the run's ``metrics.json`` and ``predictions.csv``; what is not known is said to be so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from ser_plugins import __version__, metrics, predictions, registry
from ser_plugins.corpora import manifest
from ser_plugins.errors import DataError
from ser_plugins.files import write_atomically
from ser_plugins.folder_check import read_json
from ser_plugins.models import UNTRAINED, Model, encoder_plugin

TEMPLATE = Path(__file__).parent / "assets" / "model_card.md"
ACTED = frozenset({"emodb", "ravdess"})
TERMS = {
    "emodb": "Corpus: the Berlin Database of Emotional Speech, to be cited (Burkhardt et al. 2005).",
    "ravdess": "Corpus: RAVDESS (Livingstone and Russo 2018), CC BY-NC-SA 4.0: what is trained on it may not be sold.",
    "iemocap": "Corpus: IEMOCAP (Busso et al. 2008), which USC licenses on request: see there what may be shared.",
    "synthetic": "Corpus: synthetic speech of espeak-ng (GPL-3.0, which does not reach its output); it shows that the "
                 "software works, and nothing about people.",
}


def write_card(path: Path, model: Model, run: Path, onnx: bool, with_encoder: bool) -> None:
    """Writes ``README.md``.

    Arguments
    ---------
    path : Path
        The file.
    model : Model
        The system.
    run : Path
        The folder of the run that trained it.
    onnx : bool
        Whether ``model.onnx`` lies beside it.
    with_encoder : bool
        Whether ``encoder/`` does.

    Raises
    ------
    DataError
        The run's results lack what a card needs.
    """
    try:
        values = _values(model, run, onnx, with_encoder)
    except (KeyError, TypeError) as error:
        raise DataError(f"{run / 'metrics.json'} lacks {error}, which the model card tells; the run is of an earlier "
                        "version: train it again") from error
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, autoescape=False)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(values)
    write_atomically(path, lambda file: file.write(text.rstrip() + "\n"))


def _values(model: Model, run: Path, onnx: bool, with_encoder: bool) -> dict[str, Any]:
    try:
        result = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{run / 'metrics.json'} is corrupt: {error}") from error
    said = predictions.read(run / "predictions.csv")
    protocol, content = result["protocol"], model.content
    settings, fold = protocol["settings"], protocol["fold"]
    corpus, tested = settings["corpus"], settings["test_corpus"]
    genders = _genders(run, said, corpus, tested)
    grouped = [("test speaker", said.speakers)]
    if all(speaker in genders for speaker in said.speakers):
        grouped.append(("gender", [genders[speaker] for speaker in said.speakers]))
    language = registry.load("corpora", corpus).language
    return {
        **{key: result[key] for key in ("UA", "WA", "F1", "ECE", "epochs", "tested_epoch")},
        "finetuned": content.get("finetune_layers", 0),
        "system": protocol["system"], "head": content["head"], "features": content["features"], "onnx": onnx,
        "encoder": type(model.encoder).__name__, "uses_features": model.needs.features, "version": __version__,
        "labels": model.labels, "temperature": model.temperature, "language": language,
        "corpus": corpus if tested is None else f"{corpus}, tested on {tested}", "seed": settings["seed"],
        "counts": {part: sum(counts.values()) for part, counts in protocol["counts"].items()},
        "speakers": {part: _named(fold[part]) for part in ("train", "valid", "test")},
        "split": protocol["definitions"]["split"], "acted": corpus in ACTED, "genders": len(grouped) > 1,
        "classes": [(label, "none" if result["recall"][label] is None else f"{result['recall'][label]:.3f}",
                     protocol["counts"]["test"].get(label, 0)) for label in model.labels],
        "tables": [(title, _by_group(said, groups)) for title, groups in grouped],
        "with_encoder": with_encoder, "untrained": content["encoder"].startswith(UNTRAINED),
        "encoder_package": _encoder_package(content["encoder"]),
        "licences": _licences(model, corpus, tested, with_encoder),
    }


def _by_group(said: predictions.Predictions, groups: Sequence[str]) -> list[tuple[str, str, str, int]]:
    """Name, UA, WA and number of the utterances of each group; UA is over the classes that the group has."""
    rows = []
    for group in sorted(set(groups)):
        chosen = [number for number, name in enumerate(groups) if name == group]
        truth, predicted = ([part[number] for number in chosen] for part in (said.truth, said.predicted))
        rows.append((group, f"{metrics.unweighted_accuracy(truth, predicted, said.names):.3f}",
                     f"{metrics.weighted_accuracy(truth, predicted, said.names):.3f}", len(chosen)))
    return rows


def _genders(run: Path, said: predictions.Predictions, corpus: str, tested: str | None) -> Mapping[str, str]:
    """Speaker → gender, from the manifest that the recipes left above the run; empty where there is none.

    Another corpus's manifest may lie there too, so one counts only where it holds all that the run was tested on.
    """
    name, prefix = (corpus, "") if tested is None else (f"{corpus}-to-{tested}", f"{tested}/")
    for parent in list(run.resolve().parents)[:6]:
        for path in (parent / "manifest.csv", parent / "manifests" / name / "manifest.csv"):
            try:
                of = read_json(path.with_suffix(".json")).get("corpus")
                rows = manifest.load(path) if of == (tested or corpus) else []
            except DataError:  # missing, or broken: nothing is known from it
                continue
            speakers = {f"{prefix}{row.id}": f"{prefix}{row.speaker}" for row in rows}
            if all(speakers.get(one) == speaker for one, speaker in zip(said.ids, said.speakers, strict=True)):
                return {f"{prefix}{row.speaker}": row.gender for row in rows if row.gender}
    return {}


def _named(speakers: str | Sequence[str]) -> str:
    names = [speakers] if isinstance(speakers, str) else list(speakers)
    return f"{len(names)} speaker{'s' * (len(names) != 1)} ({', '.join(names)})"


def _licences(model: Model, corpus: str, tested: str | None, with_encoder: bool) -> list[str]:
    notes = ["Code: `ser_plugins`, Apache-2.0."]
    for name in dict.fromkeys(filter(None, (corpus, tested))):
        notes.append(TERMS.get(name, f"Corpus: `{name}`; whoever publishes this model states its terms here."))
    readme = "`encoder/README.md`" if with_encoder else "the `README.md` of its weights in that package"
    if not model.content["encoder"].startswith(UNTRAINED):
        notes.append(f"Encoder: its licence is told in {readme}." if _has_readme(model) else
                     "Encoder: whoever publishes this model states here what it was trained on, and its licence.")
    if model.needs.features and model.extractor.licence:
        notes.append(f"Features: {model.extractor.licence}")
    return notes


def _encoder_package(encoder: str) -> str:
    """The package of the plugin that reads an encoder; of a folder of this machine, which is exported, none."""
    name = encoder.removeprefix(UNTRAINED).partition(":")[0]
    found = name in registry.installed("encoders")
    return registry.distribution(registry.find("encoders", name)) if found else ""


def _has_readme(model: Model) -> bool:
    plugin, folder = encoder_plugin(model.content["encoder"].removeprefix(UNTRAINED))
    folder = folder or plugin.shipped
    return folder is not None and (Path(folder) / "README.md").is_file()
