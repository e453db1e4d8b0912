"""Trains and tests one emotion system on one leave-one-speaker-out fold (Lakomkin et al. 2017, §3.3.1 and §4).

    python recipes/train_ser.py hparams/progressive.yaml
    python recipes/train_ser.py hparams/mp.yaml --corpus emodb --data_folder EmoDB --test_speaker 03 --layer 1

The run's folder, named by corpus, system, fold and seed, holds the resolved YAML, log, checkpoints, ``model/`` for
`ser_plugins.inference`, ``predictions.csv``, ``metrics.json`` and ``confusion.png``. A run that was ended starts again
at its last finished epoch and gives the predictions of an undisturbed one.
"""

from __future__ import annotations

from ser_plugins import command_line

if __name__ == "__main__":
    command_line.refuse_mistakes()  # before imports that take seconds

import ctypes
import hashlib
import inspect
import json
import logging
import os
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from tqdm import tqdm

from ser_plugins import batches, experiment, finetune, folds, metrics, models, protocol, registry, store
from ser_plugins.checkpoints import AtomicCheckpointer
from ser_plugins.contracts import FILLED_IN, HeadInputs, head_sizes
from ser_plugins.corpora import manifest
from ser_plugins.errors import OptionError, PluginError

logger = logging.getLogger(__name__)

FLAT_HEAD_OPTIONS = ("layer", "units", "dropout")  # keys of the YAML that go to a head that names them; null: none
FLAT_FEATURE_OPTIONS = ("pitch",)


class SERBrain(sb.Brain):
    """Training of a head on stored representations. A batch is a list of utterances, each a list of its variants."""

    def compute_forward(self, batch: Sequence[Sequence[store.Item]], stage: sb.Stage) -> Tensor:
        """Logits, ``[batch, classes]``; training draws one variant of tempo and gain of each utterance."""
        if stage == sb.Stage.TRAIN:
            chosen = [self.draw.choice(variants) for variants in batch]
        else:
            chosen = [variants[0] for variants in batch]
        inputs: HeadInputs = self.store.inputs(chosen)
        logits: Tensor = self.modules.head(inputs.to(self.device))
        if logits.shape != (len(batch), len(self.hparams.labels)):
            raise PluginError(f"head '{self.hparams.head}' gives logits of shape {tuple(logits.shape)}; expected "
                              f"{(len(batch), len(self.hparams.labels))}, [batch, classes]: ser check "
                              f"{self.hparams.head} tells more")
        return logits

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

    def init_optimizers(self) -> None:
        """The head's weights; copied layers of the encoder are a second group, with a learning rate of their own."""
        head = self.modules.head
        if not isinstance(head, finetune.FineTuned):
            super().init_optimizers()
            return
        self.optimizer = self.opt_class([
            {"params": list(head.head.parameters())},
            {"params": list(head.layers.parameters()), "lr": self.hparams.finetune_lr}])
        self.optimizers_dict = {"opt_class": self.optimizer}
        self.checkpointer.add_recoverable("optimizer", self.optimizer)

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
        sb.nnet.schedulers.update_learning_rate(self.optimizer, next_rate, [0])
        for group in self.optimizer.param_groups[1:]:
            group["lr"] *= next_rate / rate  # in proportion
        logger.info("epoch %d, lr %.2g, train loss %.4f, valid loss %.4f", epoch, rate, self.train_loss, loss)
        self.bar.set_postfix(train=f"{self.train_loss:.3f}", valid=f"{loss:.3f}", lr=f"{rate:.1g}")
        self.bar.update()
        self.curve.losses.append([self.train_loss, loss])
        self.checkpointer.save_and_keep_only(meta={"loss": loss, "epoch": epoch}, min_keys=["loss"])
        if next_rate <= self.hparams.lr_end:
            self.hparams.epoch_counter.limit = epoch


@register_checkpoint_hooks
class Curve:
    """Training and validation loss of each epoch, kept with the checkpoints."""

    def __init__(self) -> None:
        self.losses: list[list[float]] = []

    @mark_as_saver
    def save(self, path: str) -> None:
        """Writes the losses."""
        Path(path).write_text(json.dumps(self.losses), encoding="utf-8")

    @mark_as_loader
    def load(self, path: str, end_of_epoch: bool) -> None:
        """Reads the losses."""
        self.losses = json.loads(Path(path).read_text(encoding="utf-8"))


RULES: experiment.Rules = {
    "labels": protocol.LABELS_RULE,
    "tempi": (lambda value: all(experiment.numeric(tempo) and tempo > 0 for tempo in value or ()), "positive numbers"),
    "gain": (experiment.is_range, "lowest and highest in dB"),
    "number_of_epochs": (lambda value: value >= 1, "1 or more"),
    "batch_size": (lambda value: value >= 1, "1 or more"),
    "lr": (lambda value: value > 0, "above 0"),
    "finetune_layers": (lambda value: value >= 0, "0 or more"),
    "finetune_lr": (lambda value: value >= 0, "0 or more"),
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
        own = [key for key in known if key not in FILLED_IN]
        raise OptionError(f"head '{values['head']}' takes no '{unused[0]}'; its arguments are {', '.join(own)}")
    defaults = {key: known[key].default for key in FLAT_HEAD_OPTIONS if key in known}
    flat = {key: values[key] for key in defaults if values[key] is not None}
    return {**defaults, **flat, **values["head_options"]}


def feature_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the feature extractor: the flat keys that it names, and ``feature_options``."""
    known = registry.arguments(registry.load("features", values["features"]))
    return {**{key: values[key] for key in FLAT_FEATURE_OPTIONS if key in known}, **values["feature_options"]}


def build(exp: experiment.Experiment) -> protocol.System:
    """The head with its first weights, and what it needs: feature extractor and frozen encoder."""
    values = exp.values
    options = head_options(values, exp.given)
    head_class = registry.load("heads", values["head"])
    extractor = registry.create("features", values["features"], feature_options(values))
    encoder = protocol.encoder_of(values["encoder"])
    defaults = {name: parameter.default for name, parameter in registry.arguments(head_class).items()}
    try:
        needs = head_class.needs.resolve({**defaults, **options}, len(encoder.layer_dims))
    except ValueError as error:
        raise OptionError(f"head '{values['head']}': {error}") from error
    torch.manual_seed(values["seed"])
    head = registry.create("heads", values["head"], options, head_sizes(extractor, encoder, len(values["labels"])))
    if values["finetune_layers"]:
        head = finetune.finetuned(head, needs, encoder, values["finetune_layers"])
        needs = head.needs
    name = protocol.system_name(values["head"], options, values["encoder"] if needs.encoder else None,
                                values["finetune_layers"])
    return protocol.System("train_ser", name, head, needs, extractor, encoder, options, code_of(head_class))


def code_of(head_class: type) -> dict[str, str]:
    """A hash of the head's module: who edits it may leave version and arguments as they are."""
    source = Path(inspect.getfile(head_class)).read_bytes()
    return {"head_code": hashlib.sha256(source).hexdigest()[:16]}


def load(argv: Sequence[str]) -> experiment.Experiment:
    """Reads and checks the command line."""
    exp = experiment.load(argv)
    values = exp.values
    experiment.check_values(values, RULES)
    if values["lr"] <= values["lr_end"]:
        raise OptionError(f"--lr {values['lr']}: it must lie above lr_end {values['lr_end']}, where training ends")
    if "finetune_lr" in exp.given and not values["finetune_layers"]:
        raise OptionError("--finetune_lr is the learning rate of layers that --finetune_layers chooses, which chooses "
                          "none")
    protocol.check_corpora(values, exp.given)
    return exp


def keep_freed_memory() -> None:
    """Tells the GNU C library to keep what is freed: a batch's arrays are large, and given back to the system they cost
    a page fault for each 4 KiB of the next batch, a fifth of the time of an epoch."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, at its largest
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def main(argv: Sequence[str]) -> Path:
    """Trains and tests what the command line says; returns the run's folder."""
    exp = load(argv)
    values = exp.values
    replaced = values["regimes"][values["regime"]] or {}
    print(f"regime {values['regime']}" + "".join(f", {key} {values[key]}" for key in replaced), flush=True)
    system = build(exp)  # before the audio: names may be wrong
    rows, test_rows = protocol.prepare(values)
    fold = protocol.chosen_fold(rows, values)
    folder = Path(values["output_folder"] or protocol.run_folder(values, system.name, fold))
    return train(exp, system, rows, test_rows, fold, folder)


def train(exp: experiment.Experiment, system: protocol.System, rows: Sequence[manifest.Row],
          test_rows: Sequence[manifest.Row], fold: folds.Fold, folder: Path) -> Path:
    """Parts → experiment directory → representations → Brain → fit → evaluate; returns the run's folder.

    Arguments
    ---------
    exp : Experiment
        Of `load`.
    system : System
        Of `build`.
    rows, test_rows : Sequence[Row]
        Of `protocol.prepare`.
    fold : Fold
        Who tests, validates and trains.
    folder : Path
        The run's folder.
    """
    values = exp.values
    parts = protocol.split(rows, test_rows, fold, values)
    settings = protocol.run_settings(exp, system, [*rows, *test_rows], fold)
    experiment.claim_folder(folder, settings, values["overwrite"])
    resolved = {"test_speaker": fold.test, "output_folder": str(folder)}
    hparams = exp.build(resolved)
    sb.create_experiment_directory(str(folder), str(exp.file), exp.nested(resolved), experiment.LOG_CONFIG)

    stored = store.Store(values["store_folder"], system.needs, system.extractor, system.encoder)
    head, curve = system.model, Curve()
    checkpointer = AtomicCheckpointer(folder / "save", {
        "head": head, "counter": hparams["epoch_counter"], "annealing": hparams["lr_annealing"], "curve": curve})
    brain = SERBrain({"head": head}, hparams["opt_class"], hparams, exp.run_opts, checkpointer)
    items = protocol.represented(parts, stored, values, brain.device, progress=not brain.noprogressbar)
    brain.store, brain.curve = stored, curve
    brain.batches = batches.SortaGradSampler([row.duration for row in parts["train"]], values["batch_size"],
                                             values["seed"], buckets=True)
    if "OMP_NUM_THREADS" not in os.environ:  # a recurrent step is too small to share; threads of two runs would block
        torch.set_num_threads(1)
    keep_freed_memory()
    loader = DataLoader(items["train"], batch_sampler=brain.batches, collate_fn=list)  # type: ignore[arg-type, var-annotated]
    evaluated = {part: evaluation(items[part], values["batch_size"]) for part in ("valid", "test")}
    try:
        brain.fit(hparams["epoch_counter"], loader, evaluated["valid"], progressbar=False)
    finally:
        if hasattr(brain, "bar"):  # not with --test_only
            brain.bar.close()  # an error gets a line of its own
    best, latest = checkpointer.find_checkpoint(min_key="loss"), checkpointer.find_checkpoint()
    if best is None:
        raise OptionError(f"{folder} holds no trained epoch: --test_only is for a run that has been trained")
    losses = curve.losses  # the best checkpoint, which is loaded next, has those before it
    outcomes = {}
    for part, utterances in evaluated.items():
        brain.evaluate(utterances, min_key="loss", progressbar=False)
        outcomes[part] = brain.outcome

    assert system.extractor is not None
    assert system.encoder is not None
    model = {**values, "feature_options": feature_options(values), "head_options": system.options,
             "temperature": calibrate(outcomes["valid"], values["labels"])}
    models.save_model(folder / "model", model, system.extractor, system.encoder, head)
    protocol.report(folder, system.name, parts, fold, settings, outcomes, {
        "loss": brain.test_loss, "epochs": latest.meta["epoch"], "tested_epoch": best.meta["epoch"],
        "curve": losses, "protocol": {
            "trainable_parameters": sum(p.numel() for p in head.parameters() if p.requires_grad),
            "device": str(brain.device)}})
    print(f"{system.name} on {values['corpus']}, test speaker {fold.test} ({len(parts['test'])} utterances), "
          f"epoch {best.meta['epoch']}, the best of {latest.meta['epoch']}\neverything lies in {folder}")
    return folder


def calibrate(outcome: protocol.Outcome, labels: Sequence[str]) -> float:
    """The temperature of the validation speaker (Guo et al. 2017), for inference; the report fits the same one."""
    written = np.round([shares for _, shares in outcome], 6)  # as predictions_valid.csv has them
    found = metrics.fit_temperature([row.emotion for row, _ in outcome], written, labels)
    logger.info("temperature %.3f, fitted on the validation speaker", found)
    return found


def evaluation(items: Sequence[Any], batch_size: int) -> DataLoader:
    """Utterances by duration, so that batches need little padding."""
    order = batches.SortaGradSampler([variants[0].duration for variants in items], batch_size, seed=0)
    return DataLoader(items, batch_sampler=order, collate_fn=list)  # type: ignore[arg-type]


if __name__ == "__main__":
    experiment.run(main)
