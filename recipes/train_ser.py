"""Trains and tests one emotion system on one leave-one-speaker-out fold (Lakomkin et al. 2017, §3.3.1 and §4).

    python recipes/train_ser.py hparams/progressive.yaml
    python recipes/train_ser.py hparams/mp.yaml --corpus emodb --data_folder EmoDB --test_speaker 03 --layer 1

The run's folder, named by corpus, system, fold and seed, holds the resolved YAML, log, checkpoints, ``model/`` for
`ser_plugins.inference`, ``predictions.csv``, ``metrics.json`` and ``confusion.png``. A run that was ended starts again
at its last finished epoch and gives the predictions of an undisturbed one.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import platform
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from tqdm import tqdm

import ser_plugins
from ser_plugins import augment, batches, experiment, folds, inference, metrics, predictions, registry, store
from ser_plugins.checkpoints import AtomicCheckpointer
from ser_plugins.contracts import Encoder, FeatureExtractor, Head, HeadInputs, Needs, fingerprint
from ser_plugins.corpora import manifest
from ser_plugins.errors import DataError, OptionError
from ser_plugins.figures import confusion_figure
from ser_plugins.files import write_atomically

logger = logging.getLogger(__name__)

FLAT_HEAD_OPTIONS = ("layer", "units", "dropout")  # keys of the YAML that go to a head that names them; null: none
FLAT_FEATURE_OPTIONS = ("pitch",)
NOT_SETTINGS = ("output_root", "output_folder", "store_folder", "data_folder", "overwrite", "num_workers", "regimes")
DEFINITIONS = {
    "UA": "unweighted accuracy: mean of the classes' recalls",
    "WA": "weighted accuracy: share of utterances that are right",
    "F1": "macro F1: mean of the classes' F1",
    "ECE": "expected calibration error over 15 bins of confidence",
    "split": "leave one speaker out; the validation speaker is the other one of the session, or the next by name",
    "tested": "the epoch with the lowest cross-entropy on the validation speaker",
}


class SERBrain(sb.Brain):
    """Training of a head on stored representations. A batch is a list of utterances, each a list of its variants."""

    def compute_forward(self, batch: Sequence[Sequence[store.Item]], stage: sb.Stage) -> Tensor:
        """Logits, ``[batch, classes]``; training draws one variant of tempo and gain of each utterance."""
        if stage == sb.Stage.TRAIN:
            chosen = [self.draw.choice(variants) for variants in batch]
        else:
            chosen = [variants[0] for variants in batch]
        inputs: HeadInputs = self.store.inputs(chosen)
        return self.modules.head(inputs.to(self.device))

    def compute_objectives(self, predictions: Tensor, batch: Sequence[Sequence[store.Item]], stage: sb.Stage) -> Tensor:
        """Cross-entropy."""
        names = [variants[0].row.emotion for variants in batch]
        truth = torch.tensor([self.hparams.labels.index(name) for name in names], device=self.device)
        if stage != sb.Stage.TRAIN:
            losses = cross_entropy(predictions, truth, reduction="none")
            self.losses += losses.tolist()
            self.outcome += [(variants[0].row, probabilities) for variants, probabilities
                             in zip(batch, predictions.softmax(dim=1).tolist(), strict=True)]
        return cross_entropy(predictions, truth)

    def on_fit_start(self) -> None:
        """Recovers the last finished epoch; a run that had annealed to its end has nothing left to train."""
        super().on_fit_start()
        counter = self.hparams.epoch_counter
        if self.optimizer.param_groups[0]["lr"] <= self.hparams.lr_end:
            counter.limit = counter.current
        self.bar = tqdm(total=counter.limit, initial=counter.current, desc="training", unit="epoch",
                        disable=self.noprogressbar)

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """An epoch's randomness depends on the seed and its number alone, so that a resumed run repeats it."""
        self.losses: list[float] = []
        self.outcome: list[tuple[manifest.Row, list[float]]] = []
        if stage == sb.Stage.TRAIN:
            assert epoch is not None
            torch.manual_seed(self.hparams.seed * 100_003 + epoch)
            self.draw = random.Random(f"{self.hparams.seed} {epoch} variants")
            self.batches.set_epoch(epoch)

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Anneals the learning rate, and keeps the epoch with the lowest validation cross-entropy and the last."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        loss = sum(self.losses) / len(self.losses)  # over utterances: batches differ in size
        if stage == sb.Stage.TEST:
            self.test_loss = loss
            return
        rate, next_rate = self.hparams.lr_annealing([self.optimizer], epoch, loss)
        sb.nnet.schedulers.update_learning_rate(self.optimizer, next_rate)
        logger.info("epoch %d, lr %.2g, train loss %.4f, valid loss %.4f", epoch, rate, self.train_loss, loss)
        self.bar.set_postfix(train=f"{self.train_loss:.3f}", valid=f"{loss:.3f}", lr=f"{rate:.1g}")
        self.bar.update()
        self.checkpointer.save_and_keep_only(meta={"loss": loss, "epoch": epoch}, min_keys=["loss"])
        if next_rate <= self.hparams.lr_end:
            self.hparams.epoch_counter.limit = epoch


RULES: experiment.Rules = {
    "labels": (lambda value: len(value or ()) > 1 and all(isinstance(label, str) for label in value),
               "two names or more"),
    "tempi": (lambda value: all(experiment.numeric(tempo) and tempo > 0 for tempo in value or ()), "positive numbers"),
    "gain": (experiment.is_range, "lowest and highest in dB"),
    "number_of_epochs": (lambda value: value >= 1, "1 or more"),
    "batch_size": (lambda value: value >= 1, "1 or more"),
    "lr": (lambda value: value > 0, "above 0"),
    "max_grad_norm": (lambda value: value > 0, "above 0"),
    "annealing_factor": (lambda value: 0 < value < 1, "between 0 and 1"),
    "annealing_patience": (lambda value: value >= 0, "0 or more"),
    "num_workers": (lambda value: value >= 0, "0 or more"),
}


def head_options(values: Mapping[str, Any], given: frozenset[str]) -> dict[str, Any]:
    """The options of the head: the flat keys that it names, and ``head_options``.

    Raises
    ------
    OptionError
        The command line sets a flat key that the head does not have.
    """
    known = registry.arguments(registry.load("heads", values["head"]))
    unused = [key for key in FLAT_HEAD_OPTIONS if key in given and key not in known]
    if unused:
        own = [key for key in known if key not in ("feature_dim", "layer_dims", "num_classes")]
        raise OptionError(f"head '{values['head']}' takes no '{unused[0]}'; its arguments are {', '.join(own)}")
    defaults = {key: known[key].default for key in FLAT_HEAD_OPTIONS if key in known}
    flat = {key: values[key] for key in defaults if values[key] is not None}
    return {**defaults, **flat, **values["head_options"]}


def feature_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the feature extractor: the flat keys that it names, and ``feature_options``."""
    known = registry.arguments(registry.load("features", values["features"]))
    return {**{key: values[key] for key in FLAT_FEATURE_OPTIONS if key in known}, **values["feature_options"]}


Parts = tuple[Head, Needs, FeatureExtractor, Encoder, dict[str, Any]]


def build_parts(values: Mapping[str, Any], given: frozenset[str]) -> Parts:
    """Head, what it needs, feature extractor, frozen encoder, and the head's options."""
    options = head_options(values, given)
    head_class = registry.load("heads", values["head"])
    extractor = registry.create("features", values["features"], feature_options(values))
    encoder = inference.load_encoder(values["encoder"])
    defaults = {name: parameter.default for name, parameter in registry.arguments(head_class).items()}
    try:
        needs = head_class.needs.resolve({**defaults, **options}, len(encoder.layer_dims))
    except ValueError as error:
        raise OptionError(f"head '{values['head']}': {error}") from error
    torch.manual_seed(values["seed"])  # the head's first weights
    head = registry.create("heads", values["head"], options, {
        "feature_dim": extractor.dim, "layer_dims": encoder.layer_dims, "num_classes": len(values["labels"])})
    return head, needs, extractor, encoder, options


def system_name(head: str, options: Mapping[str, Any]) -> str:
    """As the paper's Table 1 names systems: head and layer, or head and units.

    Example
    -------
    >>> system_name("progressive", {"layer": 2, "units": 96}), system_name("baseline", {"units": 96})
    ('progressive-2', 'baseline-96')
    """
    number = options.get("layer", options.get("units"))
    return head if number is None else f"{head}-{number}"


def prepare(values: Mapping[str, Any]) -> tuple[list[manifest.Row], folds.Fold]:
    """Manifest rows of the experiment's labels, and the fold."""
    out = Path(values["output_root"]) / values["corpus"]
    path = manifest.prepare(values["corpus"], values["data_folder"], out, values["corpus_options"])
    print(manifest.report(path), flush=True)
    rows = manifest.select(manifest.load(path), values["labels"])
    sessions = folds.speaker_sessions((row.speaker, row.session) for row in rows)
    test_speaker = values["test_speaker"]
    return rows, folds.find(folds.leave_one_speaker_out(sessions), None if test_speaker is None else str(test_speaker))


def split(rows: Sequence[manifest.Row], fold: folds.Fold, labels: Sequence[str],
          allow_missing_class: bool) -> dict[str, list[manifest.Row]]:
    """Rows of each part.

    Raises
    ------
    DataError
        A class is absent from training, or from the test speaker.
    """
    parts = {"train": [row for row in rows if row.speaker in fold.train],
             "valid": [row for row in rows if row.speaker == fold.valid],
             "test": [row for row in rows if row.speaker == fold.test]}
    for part, who in (("train", "the training speakers"), ("test", f"test speaker '{fold.test}'")):
        absent = [label for label in labels if label not in {row.emotion for row in parts[part]}]
        if absent and not (part == "test" and allow_missing_class):
            hint = "choose other labels" if part == "train" else (
                "choose another --test_speaker or other --labels, or average over the classes that there are with "
                "--allow_missing_class true")
            raise DataError(f"{who} have no utterance of {', '.join(absent)}: {hint}")
    return parts


def represented(parts: Mapping[str, Sequence[manifest.Row]], stored: store.Store,
                values: Mapping[str, Any], device: str) -> dict[str, list[list[store.Item]]]:
    """Each utterance as its variants, the undisturbed one first; all of them computed and stored.

    The gains of the variants are the same for every seed of a run, so that runs share what is stored.
    """
    hashes = {part: store.audio_hashes(rows) for part, rows in parts.items()}
    names: dict[str, str] = {}  # of the first utterance with this audio
    folds.check_disjoint(**{part: [names.setdefault(key, row.id) for row, key in zip(rows, hashes[part], strict=True)]
                            for part, rows in parts.items()})
    items = {
        part: [[store.item(row, key, variant) for variant in augment.variants(
                    row.id, (values["tempi"] or []) if part == "train" else [], tuple(values["gain"]), seed=0)]
               for row, key in zip(rows, hashes[part], strict=True)]
        for part, rows in parts.items()}
    stored.compute([one for part in items.values() for variants in part for one in variants], device,
                   values["num_workers"])
    return items


def foreign_code(head: str) -> dict[str, str]:
    """Of another distribution's head, a hash of its module: its author changes it, and keeps version and arguments."""
    entry = registry.find("heads", head)
    if entry.dist is not None and entry.dist.name == "ser_plugins":
        return {}
    source = Path(inspect.getfile(registry.load("heads", head))).read_bytes()
    return {"head_code": hashlib.sha256(source).hexdigest()[:16]}


def run_settings(exp: experiment.Experiment, rows: Sequence[manifest.Row], fold: folds.Fold,
                 extractor: FeatureExtractor, encoder: Encoder) -> dict[str, Any]:
    """All that decides a run's numbers: values, SpeechBrain's run options, fold, data, and the parts' fingerprints."""
    settings = {key: value for key, value in exp.values.items() if key not in NOT_SETTINGS}
    data = sorted([row.id, row.speaker, row.session, row.emotion, key]
                  for row, key in zip(rows, store.audio_hashes(rows), strict=True))
    return {"recipe": "train_ser"} | settings | foreign_code(settings["head"]) | {
        "test_speaker": fold.test, "run_options": exp.decisive_options, "data": fingerprint({"rows": data}, {}),
        "features_fingerprint": extractor.fingerprint, "encoder_fingerprint": encoder.fingerprint,
        "version": ser_plugins.__version__}


def main(argv: Sequence[str]) -> Path:
    """Parse → YAML → prepare → parts → experiment directory → representations → Brain → fit → evaluate.

    Returns
    -------
    Path
        The run's folder.
    """
    exp = experiment.load(argv)
    values = exp.values
    experiment.check_values(values, RULES)
    if values["lr"] <= values["lr_end"]:
        raise OptionError(f"--lr {values['lr']}: it must lie above lr_end {values['lr_end']}, where training ends")
    replaced = values["regimes"][values["regime"]] or {}
    print(f"regime {values['regime']}" + "".join(f", {key} {values[key]}" for key in replaced), flush=True)
    registry.find("corpora", str(values["corpus"]))
    if values["corpus"] != "synthetic" and "data_folder" not in exp.given:
        raise OptionError(f"where is corpus '{values['corpus']}'? give --data_folder FOLDER")
    head, needs, extractor, encoder, options = build_parts(values, exp.given)  # before the audio: names may be wrong
    rows, fold = prepare(values)
    parts = split(rows, fold, values["labels"], values["allow_missing_class"])

    system = system_name(values["head"], options)
    folder = Path(values["output_folder"] or Path(values["output_root"]) / values["corpus"] / system
                  / f"test-{fold.test}" / f"seed-{values['seed']}")
    settings = run_settings(exp, rows, fold, extractor, encoder)
    experiment.claim_folder(folder, settings, values["overwrite"])
    resolved = {"test_speaker": fold.test, "output_folder": str(folder)}
    hparams = exp.build(resolved)
    sb.create_experiment_directory(str(folder), str(exp.file), exp.nested(resolved), experiment.LOG_CONFIG)

    stored = store.Store(values["store_folder"], needs, extractor, encoder)
    checkpointer = AtomicCheckpointer(folder / "save", {
        "head": head, "counter": hparams["epoch_counter"], "annealing": hparams["lr_annealing"]})
    brain = SERBrain({"head": head}, hparams["opt_class"], hparams, exp.run_opts, checkpointer)
    items = represented(parts, stored, values, brain.device)
    brain.store = stored
    brain.batches = batches.SortaGradSampler([row.duration for row in parts["train"]], values["batch_size"],
                                             values["seed"], buckets=True)
    if "OMP_NUM_THREADS" not in os.environ:  # a recurrent step is too small to share; threads of two runs would block
        torch.set_num_threads(1)
    train = DataLoader(items["train"], batch_sampler=brain.batches, collate_fn=list)  # type: ignore[arg-type, var-annotated]
    try:
        brain.fit(hparams["epoch_counter"], train, evaluation(items["valid"], values["batch_size"]), progressbar=False)
    finally:
        if hasattr(brain, "bar"):  # not with --test_only
            brain.bar.close()  # an error gets a line of its own
    if checkpointer.find_checkpoint(min_key="loss") is None:
        raise OptionError(f"{folder} holds no trained epoch: --test_only is for a run that has been trained")
    brain.evaluate(evaluation(items["test"], values["batch_size"]), min_key="loss", progressbar=False)

    model = {**values, "feature_options": feature_options(values), "head_options": options}
    inference.save_model(folder / "model", model, extractor, encoder, head)
    report(folder, brain, system, parts, fold, settings)
    return folder


def evaluation(items: Sequence[Any], batch_size: int) -> DataLoader:
    """Utterances by duration, so that batches need little padding."""
    order = batches.SortaGradSampler([variants[0].duration for variants in items], batch_size, seed=0)
    return DataLoader(items, batch_sampler=order, collate_fn=list)  # type: ignore[arg-type]


def report(folder: Path, brain: SERBrain, system: str, parts: Mapping[str, Sequence[manifest.Row]], fold: folds.Fold,
           settings: Mapping[str, Any]) -> None:
    """Writes predictions, metrics with the protocol's stamp, and the confusion matrix; prints them."""
    labels = settings["labels"]
    predictions.write(folder / "predictions.csv", brain.outcome, labels)
    written = predictions.read(folder / "predictions.csv")
    truth, predicted = written.truth, written.predicted
    result = metrics.summary(truth, predicted, labels)
    best, latest = brain.checkpointer.find_checkpoint(min_key="loss"), brain.checkpointer.find_checkpoint()
    stamp = {
        "system": system, "fold": {"test": fold.test, "valid": fold.valid, "train": list(fold.train)},
        "counts": {part: dict(Counter(row.emotion for row in rows)) for part, rows in parts.items()},
        "settings": dict(settings), "definitions": DEFINITIONS,
        "trainable_parameters": sum(p.numel() for p in brain.modules.parameters() if p.requires_grad),
        "plugins": {group: registry.distribution(registry.find(group, str(settings[key]))) for group, key
                    in (("corpora", "corpus"), ("features", "features"), ("heads", "head"))},
        "versions": {name: version(name) for name in ("ser_plugins", "torch", "torchaudio", "speechbrain", "numpy")},
        "machine": {"python": platform.python_version(), "system": platform.platform(), "device": str(brain.device)},
    }
    calibration = metrics.calibration_error(truth, written.probabilities, labels)
    content = {**result, "ECE": calibration, "loss": brain.test_loss, "epochs": latest.meta["epoch"],
               "tested_epoch": best.meta["epoch"], "protocol": stamp}
    write_atomically(folder / "metrics.json", lambda file: json.dump(content, file, indent=2))
    title = f"{system}, speaker {fold.test}: UA {result['UA']:.3f}"
    confusion_figure(metrics.confusion_matrix(truth, predicted, labels), labels, title).savefig(
        folder / "confusion.png", dpi=150)
    print(metrics.table(result, labels))
    print(f"{system} on {settings['corpus']}, test speaker {fold.test} ({len(truth)} utterances), "
          f"epoch {best.meta['epoch']}, the best of {content['epochs']}\neverything lies in {folder}")


if __name__ == "__main__":
    experiment.run(main)
