"""Trains the CTC recogniser whose layers the emotion heads reuse (Lakomkin et al. 2017, §3.1.1).

    python recipes/train_asr.py hparams/asr_small.yaml --data_folder LibriSpeech

The run's folder gets the checkpoints, the log, CER and WER with alignments, ``text.txt``, the training transcripts for
a language model, and ``encoder/``, the trained encoder for ``--encoder`` of train_ser.py; the manifests lie in a folder
beside it. A run that was ended starts again at its last checkpoint, and ends with the weights of an undisturbed one.
Under ``torchrun`` the processes share every batch, and learn what one process would.
"""

from __future__ import annotations

from ser_plugins import command_line

if __name__ == "__main__":
    command_line.refuse_mistakes()  # before imports that take seconds

import importlib
import json
import logging
import os
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from asr_data import (
    ASRDataset,
    check_corpora,
    data_fingerprint,
    joined,
    report_unknown,
    speaker_split,
    usable,
    write_tokenizer,
)
from speechbrain.dataio.dataloader import SaveableDataLoader
from speechbrain.utils.distributed import ddp_init_group, if_main_process, run_on_main
from speechbrain.utils.metric_stats import ErrorRateStats
from torch.nn.functional import ctc_loss
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import ser_plugins
from ser_plugins import batches, decoding, experiment
from ser_plugins.contracts import Frames, fingerprint
from ser_plugins.corpora import manifest
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.errors import DataError, OptionError
from ser_plugins.files import write_atomically
from ser_plugins.frame_norm import over_processes

# it warns where torchvision is missing, which no recogniser needs
logging.getLogger("speechbrain.utils.train_logger").addFilter(lambda record: "torchvision" not in record.getMessage())
from speechbrain.utils.train_logger import TensorboardLogger, TrainLogger, WandBLogger  # noqa: E402

logger = logging.getLogger(__name__)

# What may change when a run goes on; the chosen schedule's arguments may not, and of one cycle epochs are one.
NOT_SETTINGS = ("output_folder", "data_folder", "overwrite", "num_workers", "number_of_epochs", "optimizers",
                "schedules", "train_data", "test_data", "ckpt_interval_minutes", "monitor", "tokenizer_file",
                *decoding.RULES)
TOKENS = ("characters", "unigram", "bpe")
MONITORS = ("tensorboard", "wandb")
RULES: experiment.Rules = {
    "valid_speakers": (lambda value: value >= 1, "1 or more"),
    "max_duration": (lambda value: value > 0, "above 0"),
    "number_of_epochs": (lambda value: value >= 1, "1 or more"),
    "batch_size": (lambda value: value >= 1, "1 or more"),
    "lr": (lambda value: value > 0, "above 0"),
    "max_grad_norm": (lambda value: value > 0, "above 0"),
    "tempo": (lambda value: value is None or (experiment.is_range(value) and value[0] > 0), "two numbers, or null"),
    "speeds": (lambda value: value is None or (isinstance(value, list) and bool(value) and all(
        experiment.numeric(speed) and 0.1 <= speed <= 10 for speed in value)), "numbers within 0.1 to 10, or null"),
    "gain": (lambda value: value is None or experiment.is_range(value), "two numbers of dB, or null"),
    "dropout": (lambda value: 0 <= value < 1, "0 or more, and below 1"),
    "num_workers": (lambda value: value >= 0, "0 or more"),
    "max_batch_length": (lambda value: value > 0, "above 0"),
    "num_buckets": (lambda value: value >= 1, "1 or more"),
    "time_masks": (lambda value: value >= 1, "1 or more"),
    "time_mask_length": (lambda value: value >= 2, "2 or more"),
    "frequency_masks": (lambda value: value >= 1, "1 or more"),
    "frequency_mask_length": (lambda value: value >= 2, "2 or more"),
    "tokens": (lambda value: value in TOKENS, f"one of {', '.join(TOKENS)}"),
    "vocabulary": (lambda value: value >= 2, "2 or more"),
    "monitor": (lambda value: value in (None, *MONITORS), f"one of {', '.join(MONITORS)}, or null"),
}


class ASRBrain(sb.Brain):
    """CTC training of the encoder."""

    def compute_forward(self, batch: dict[str, Any], stage: sb.Stage) -> Frames:
        """Log-probabilities of the tokens, ``[batch, time, tokens]``."""
        change = partial(self.disturb, batch) if stage == sb.Stage.TRAIN else None
        waveforms, lengths = batch["waveforms"].to(self.device), batch["lengths"].to(self.device)
        return self.modules.encoder(waveforms, lengths, change).log_probs

    def disturb(self, batch: dict[str, Any], features: Frames) -> Frames:
        """Masks the spectrograms where that is asked for, and takes a copy's frames away: they shall count nothing."""
        counted = batch["weights"].to(features.lengths)
        frames = Frames(features.data, features.lengths * counted, features.rate)
        if self.hparams.spec_augment:
            items = [self.spec_augment(name, item) for name, item in zip(batch["ids"], features.unpad(), strict=True)]
            frames = replace(frames, data=torch.nn.utils.rnn.pad_sequence(items, batch_first=True))
        seeds = [self.seed_of("dropout", name) for name in batch["ids"]]
        self.hparams.encoder.dropout.seed(seeds, features.data.device)
        return frames

    def seed_of(self, *key: str) -> int:
        """A seed that depends on the run's, the epoch and ``key`` alone: a resumed run draws the same again."""
        return random.Random(" ".join([str(self.hparams.seed), str(self.epoch), *key])).getrandbits(63)

    def spec_augment(self, name: str, spectrogram: torch.Tensor) -> torch.Tensor:
        """Masks bands of time and frequency of a spectrogram ``[time, bins]`` (Park et al. 2019).

        An utterance has masks of its own, whatever batch it is in, so that more processes draw the same.
        """
        torch.manual_seed(self.seed_of(name))
        for mask in self.hparams.masks:
            spectrogram = mask(spectrogram.unsqueeze(0)).squeeze(0)
        return spectrogram

    def compute_objectives(self, predictions: Frames, batch: dict[str, Any], stage: sb.Stage) -> torch.Tensor:
        """CTC loss, summed over an utterance and averaged over the batch of all processes (Graves et al. 2006)."""
        log_probs = predictions.data.float().transpose(0, 1)  # [time, batch, characters]
        losses = ctc_loss(log_probs, batch["tokens"].to(self.device), predictions.lengths,
                          batch["token_lengths"].to(self.device), blank=0, reduction="none")
        if stage == sb.Stage.TRAIN:
            weights = batch["weights"].to(self.device)
            losses = losses.where(weights > 0, 0)  # that of a copy, which has no frames, is infinite
            self.check_losses(losses, batch["ids"])
            # the gradient is averaged over the processes, the loss over the utterances of all
            return (losses * weights).sum() * WORLD_SIZE / over_processes(weights.sum())
        found = zip(*(decode(predictions) for decode in self.decoders.values()), strict=True)
        self.outcome += zip(batch["ids"], found, batch["texts"], losses.tolist(), strict=True)
        return losses.mean()

    def check_losses(self, losses: torch.Tensor, ids: Sequence[str]) -> None:
        """Names the utterances whose loss is not finite, and the likely reason."""
        if losses.isfinite().all():
            return
        wrong = ", ".join(ids[item] for item in (~losses.isfinite()).nonzero().flatten().tolist())
        if losses.isnan().any():
            raise DataError(f"the CTC loss of {wrong} is not a number in epoch {self.epoch}, step {self.step}: "
                            "training has diverged; a lower --lr may help")
        raise DataError(f"the CTC loss of {wrong} is infinite: is a transcript longer than its audio?")

    def fit_batch(self, batch: dict[str, Any]) -> torch.Tensor:
        """As the base class; the loss is that of all processes' shares, since a checkpoint keeps one mean for all."""
        loss = super().fit_batch(batch).to(self.device)
        return over_processes(loss).cpu() / WORLD_SIZE

    def on_fit_batch_end(self, batch: Any, outputs: Any, loss: torch.Tensor, should_step: bool) -> None:
        """Steps a schedule that counts batches."""
        if self.by_batch and should_step:
            self.schedule.step()

    def init_optimizers(self) -> None:
        """The optimiser, and the schedule over it."""
        super().init_optimizers()
        steps = batches.steps_per_epoch(len(self.train_batches), self.grad_accumulation_factor)
        make = self.hparams.schedules[self.hparams.schedule]
        self.by_batch = "steps_per_epoch" in signature(make.func).parameters
        self.schedule = make(self.optimizer, **({"steps_per_epoch": steps} if self.by_batch else {}))
        self.checkpointer.add_recoverable("schedule", self.schedule)

    def _should_save_intra_epoch_ckpt(self, *interval: float) -> bool:
        """Never between batches whose gradients are still to be summed: a checkpoint holds no gradients."""
        return self.step % self.grad_accumulation_factor == 0 and super()._should_save_intra_epoch_ckpt(*interval)

    def _wrap_distributed(self) -> None:
        """No exchange of buffers: the norms' are equal, and the processes validate on unlike numbers of batches."""
        if not self.distributed_launch:
            return super()._wrap_distributed()
        devices = [self.device] if torch.device(self.device).type == "cuda" else None
        self.modules["encoder"] = DistributedDataParallel(self.modules["encoder"], devices, broadcast_buffers=False)

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """An epoch's randomness depends on the seed and its number alone, so that a resumed run repeats it."""
        self.outcome: list[tuple[str, tuple[str, ...], str, float]] = []
        self.decoders = {"": self.hparams.encoder.decode}  # what the names of its error rates end in → decoder
        if stage == sb.Stage.TEST and self.hparams.beam_size:
            self.decoders["_beam"] = self.beam_search
        if stage == sb.Stage.TRAIN:
            assert epoch is not None
            self.epoch = self.train_data.epoch = epoch
            self.train_batches.set_epoch(epoch)

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Logs, anneals and keeps the checkpoint with the lowest validation CER, and the last."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        ids, found, wanted, losses = zip(*gathered(self.outcome), strict=True)
        self.errors = {f"{rate}{ending}": error_rate(divide, ids, texts, wanted)
                       for ending, texts in zip(self.decoders, zip(*found, strict=True), strict=True)
                       for rate, divide in (("CER", list), ("WER", str.split))}
        stats = {"loss": sum(losses) / len(losses)} | {
            name: errors.summarize("error_rate") for name, errors in self.errors.items()}
        if stage == sb.Stage.VALID:
            rate = self.optimizer.param_groups[0]["lr"]
            self.hparams.train_logger.log_stats({"epoch": epoch, "lr": f"{rate:.2e}"}, {"loss": self.train_loss}, stats)
            if self.monitor is not None:
                self.monitor.log_stats({"epoch": epoch, "lr": rate}, {"loss": self.train_loss}, stats)
            if not self.by_batch:
                self.schedule.step()
            self.hparams.epoch_counter.update_metric(stats["CER"])
            self.checkpointer.save_and_keep_only(meta=stats, min_keys=["CER"])
        else:
            loaded = {"epoch loaded": self.hparams.epoch_counter.current}
            self.hparams.train_logger.log_stats(loaded, test_stats=stats)
            if self.monitor is not None:
                self.monitor.log_stats(loaded, test_stats=stats)
            self.test_stats = stats


# torchrun's, as SpeechBrain reads them
if "LOCAL_RANK" in os.environ:
    RANK, WORLD_SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
else:
    RANK, WORLD_SIZE = 0, 1


def gathered(items: list[Any]) -> list[Any]:
    """Those of all processes, sorted."""
    parts = [items]
    if WORLD_SIZE > 1:
        parts = [[] for _ in range(WORLD_SIZE)]
        torch.distributed.all_gather_object(parts, items)
    return sorted(item for part in parts for item in part)


def error_rate(divide: Callable[[str], list[str]], ids: Sequence[str], found: Sequence[str],
               wanted: Sequence[str]) -> ErrorRateStats:
    """SpeechBrain's error rate of transcripts, by words or by characters."""
    errors = ErrorRateStats()
    errors.append(ids, [divide(text) for text in found], [divide(text) for text in wanted])
    return errors


class EpochCurves(TensorboardLogger):
    """SpeechBrain's logger for TensorBoard, with an epoch at its number: that counts calls, of a resumed run from 1."""

    def log_stats(self, stats_meta: dict[str, Any], train_stats: Any = None, valid_stats: Any = None,
                  test_stats: Any = None, verbose: bool = False) -> None:
        """As the base class; ``stats_meta`` names the epoch."""
        before = stats_meta["epoch" if "epoch" in stats_meta else "epoch loaded"] - 1
        stages = {"train": train_stats, "valid": valid_stats, "test": test_stats}
        self.global_step = {"meta": before} | {stage: dict.fromkeys(stats or (), before)
                                               for stage, stats in stages.items()}
        super().log_stats(stats_meta, train_stats, valid_stats, test_stats, verbose)


def wandb_run(init: Callable[..., Any], folder: Path) -> Any:
    """The run of Weights & Biases that this folder's is; ``wandb_id`` in it keeps its name."""
    path = folder / "wandb_id"
    if not path.is_file():
        write_atomically(path, lambda file: file.write(secrets.token_hex(4)))
    return init(dir=str(folder), id=path.read_text(encoding="utf-8"), resume="allow")


def monitor(name: str | None, folder: Path) -> TrainLogger | None:
    """SpeechBrain's logger of that name: TensorBoard's curves in the run's folder, or Weights & Biases.

    Raises
    ------
    OptionError
        Its package is not installed, or Weights & Biases gives no run.
    """
    try:
        if name == "tensorboard":
            return EpochCurves(str(folder / "tensorboard"))
        if name == "wandb":
            return WandBLogger(wandb_run, importlib.import_module("wandb").init, folder)
    except ImportError as error:
        raise OptionError(f"--monitor {name}: {error}; install it: pip install {name}") from error
    except TypeError as error:  # SpeechBrain calls the exception that it caught
        raise OptionError(f"--monitor {name}: {error.__context__}") from error
    return None


def start_from(encoder: DeepSpeech2, folder: str | Path) -> None:
    """Gives an encoder the weights of a trained one.

    Raises
    ------
    OptionError
        That has other sizes or another preprocessing.
    """
    trained, own = DeepSpeech2.from_pretrained(folder), encoder.architecture
    different = [f"{key} {value} there, {own[key]} here" for key, value in trained.architecture.items()
                 if value != own[key]]
    if different:
        raise OptionError(f"--pretrained_encoder {folder} is another network: {'; '.join(different)}")
    encoder.load_state_dict(trained.state_dict())


def run_settings(exp: experiment.Experiment) -> dict[str, Any]:
    """All that decides a run's numbers beside the data: values, optimiser and schedule, run options, first weights."""
    settings = {key: value for key, value in exp.values.items() if key not in NOT_SETTINGS}
    chosen = {kind: exp.text(f"{kind}s", str(exp.values[kind])) for kind in ("optimizer", "schedule")}
    if settings["pretrained_encoder"] is not None:
        trained = DeepSpeech2.from_pretrained(settings["pretrained_encoder"])
        tokens = (trained.tokenizer_model or b"").hex()  # no part of its fingerprint: what it computes is the same
        settings["pretrained_encoder"] = fingerprint({"encoder": trained.fingerprint, "tokens": tokens}, {})
    return {"recipe": "train_asr"} | settings | chosen | {
        "run_options": exp.decisive_options, "version": ser_plugins.__version__}


def training_batches(rows: Sequence[manifest.Row], values: Mapping[str, Any]) -> batches.Shares:
    """This process's share of the batches.

    Raises
    ------
    OptionError
        The batch cannot be divided among the processes.
    """
    durations = [row.duration for row in rows]
    if values["dynamic_batching"]:
        whole: Any = batches.DynamicBatches(durations, values["max_batch_length"], values["num_buckets"],
                                            values["seed"])
    elif values["batch_size"] % WORLD_SIZE:
        raise OptionError(f"--batch_size {values['batch_size']} is that of all {WORLD_SIZE} processes together, and no "
                          f"multiple of {WORLD_SIZE}")
    else:
        whole = batches.SortaGradSampler(durations, values["batch_size"], values["seed"], buckets=True)
    return batches.Shares(whole, RANK, WORLD_SIZE)


def main(argv: Sequence[str]) -> None:
    """Parse → YAML → experiment directory → prepare → datasets → Brain → fit → evaluate → export."""
    exp = experiment.load(argv)
    values = exp.values
    experiment.check_values(values, RULES)
    for key in {"tokens", "vocabulary"} & exp.given if values["pretrained_encoder"] is not None else ():
        raise OptionError(f"--{key} goes without --pretrained_encoder: that has tokens of its own")
    decode_options = {key: values[key] for key in decoding.RULES}
    decoding.check(**decode_options)
    for part in ("train_data", "test_data"):
        check_corpora(values[part], values["data_folder"])
    settings, folder = run_settings(exp), Path(values["output_folder"])
    ddp_init_group(exp.run_opts)
    manifests = folder.with_name(f"{folder.name}_data")  # beside the run's folder, which is not touched before
    parts = {part: joined(values[f"{part}_data"], values["data_folder"], manifests / part)
             for part in ("train", "test")}
    rows = {part: [row for one in corpora for row in one] for part, corpora in parts.items()}
    stamp = {**settings, "data": data_fingerprint(rows["train"])}
    run_on_main(experiment.claim_folder, args=(folder, stamp, values["overwrite"]))
    sb.create_experiment_directory(str(folder), str(exp.file), exp.nested())
    first_rows, valid_rows = speaker_split(parts["train"][0], values["valid_speakers"])
    train_rows = first_rows + [row for one in parts["train"][1:] for row in one]

    run_on_main(write_tokenizer, args=(folder, values, train_rows))
    torch.manual_seed(values["seed"])  # the encoder's first weights
    hparams = exp.build({"tokenizer_file": str(folder / "tokenizer.model")})
    encoder = hparams["encoder"]
    if hparams["pretrained_encoder"] is not None:
        start_from(encoder, hparams["pretrained_encoder"])
    disturbances = {name: hparams[name] for name in ("tempo", "speeds", "gain")}
    fastest = max(hparams["tempo"] or [1.0]) * max(hparams["speeds"] or [1.0])
    train_rows = usable(train_rows, encoder, hparams["max_duration"], fastest)
    data = ASRDataset(train_rows, encoder.tokenizer, **disturbances, seed=hparams["seed"])
    brain = ASRBrain({"encoder": encoder}, hparams["optimizers"][hparams["optimizer"]], hparams, exp.run_opts,
                     hparams["checkpointer"])
    brain.monitor = monitor(hparams["monitor"], folder)
    brain.beam_search = decoding.decoder(encoder, **decode_options)
    brain.train_data, brain.train_batches = data, training_batches(train_rows, values)
    train = SaveableDataLoader(data, batch_sampler=brain.train_batches, collate_fn=ASRDataset.collate,
                               num_workers=hparams["num_workers"])
    brain.checkpointer.add_recoverable("loader", train)

    def evaluation(chosen: Sequence[manifest.Row]) -> DataLoader:
        order = batches.SortaGradSampler([row.duration for row in chosen], hparams["batch_size"], seed=0)
        share = [batch[RANK::WORLD_SIZE] for batch in order if len(batch) > RANK]
        return DataLoader(ASRDataset(chosen, encoder.tokenizer), batch_sampler=share, collate_fn=ASRDataset.collate,
                          num_workers=hparams["num_workers"])

    brain.fit(hparams["epoch_counter"], train, evaluation(usable(valid_rows, encoder, hparams["max_duration"])))
    report_unknown(rows["test"], encoder.tokenizer)
    brain.evaluate(evaluation(rows["test"]), min_key="CER")
    if if_main_process():
        export(brain, hparams, len(train_rows), sum(row.duration for row in train_rows) / 3600, len(rows["test"]))
    if WORLD_SIZE > 1:
        torch.distributed.destroy_process_group()  # else a process may end in a crash that torchrun reports


def export(brain: ASRBrain, hparams: dict[str, Any], utterances: int, hours: float, tested: int) -> None:
    """Writes ``encoder/`` and the error rates of the test set with their alignments."""
    folder = Path(hparams["output_folder"])
    for old in folder.glob("[cw]er_test_beam.txt"):  # of an earlier test
        old.unlink()
    for name, errors in brain.errors.items():
        rate, beam, _ = name.lower().partition("_beam")
        with open(folder / f"{rate}_test{beam}.txt", "w", encoding="utf-8") as file:
            errors.write_stats(file)
    train, test = (" and ".join(f"{one['corpus']} {json.dumps(one.get('options', {}))}" for one in hparams[part])
                   for part in ("train_data", "test_data"))
    notes = {"train": f"{train}: {utterances} utterances, {hours:.2f} h",
             "test": f"{test}: {tested} utterances, greedy decoding",
             **{name: round(brain.test_stats[name], 2) for name in brain.errors},
             "epochs": hparams["epoch_counter"].current}
    if hparams["beam_size"]:
        notes["beam"] = f"{hparams['beam_size']} texts" + (
            f", language model {Path(hparams['lm']).name} with weight {hparams['lm_weight']:g}, word bonus "
            f"{hparams['word_bonus']:g}" if hparams["lm"] else "")
    hparams["encoder"].save(folder / "encoder", notes)
    rates = ", ".join(f"{name.replace('_', ' by ')} {notes[name]} %" for name in brain.errors)
    print(f"\ntest {rates}\nencoder: {folder / 'encoder'}")


if __name__ == "__main__":
    experiment.run(main)
