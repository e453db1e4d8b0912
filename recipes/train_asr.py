"""Trains the CTC recogniser whose layers the emotion heads reuse (Lakomkin et al. 2017, §3.1.1).

    python recipes/train_asr.py hparams/asr_small.yaml --data_folder LibriSpeech

The run's folder gets the checkpoints, the log, CER and WER with alignments, and ``encoder/``, the trained encoder for
``--encoder`` of train_ser.py. A run that was ended starts again at its last finished epoch.
"""

from __future__ import annotations

import json
import logging
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any

import sentencepiece
import speechbrain as sb
import torch
from speechbrain.utils.distributed import ddp_init_group, if_main_process, run_on_main
from speechbrain.utils.metric_stats import ErrorRateStats
from torch.nn.functional import ctc_loss
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

import ser_plugins
from ser_plugins import audio, augment, experiment, registry
from ser_plugins.contracts import SAMPLE_RATE, Frames, fingerprint
from ser_plugins.corpora import manifest
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.errors import DataError, OptionError
from ser_plugins.text import normalize_text

logger = logging.getLogger(__name__)

# What may change when a run goes on; the chosen schedule's arguments may not, and of one cycle epochs are one.
NOT_SETTINGS = ("output_folder", "data_folder", "overwrite", "num_workers", "number_of_epochs", "optimizers",
                "schedules", "train_data", "test_data")
RULES: experiment.Rules = {
    "valid_speakers": (lambda value: value >= 1, "1 or more"),
    "max_duration": (lambda value: value > 0, "above 0"),
    "number_of_epochs": (lambda value: value >= 1, "1 or more"),
    "batch_size": (lambda value: value >= 1, "1 or more"),
    "lr": (lambda value: value > 0, "above 0"),
    "max_grad_norm": (lambda value: value > 0, "above 0"),
    "tempo": (lambda value: value is None or (experiment.is_range(value) and value[0] > 0), "two numbers, or null"),
    "gain": (lambda value: value is None or experiment.is_range(value), "two numbers of dB, or null"),
    "num_workers": (lambda value: value >= 0, "0 or more"),
}


class ASRDataset(Dataset):
    """Waveform, token numbers and transcript of each utterance; training disturbs tempo and gain."""

    def __init__(self, rows: Sequence[manifest.Row], tokenizer: sentencepiece.SentencePieceProcessor,
                 tempo: Sequence[float] | None = None, gain: Sequence[float] | None = None, seed: int = 0) -> None:
        self.rows, self.tokenizer, self.tempo, self.gain, self.seed = rows, tokenizer, tempo, gain, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[str, torch.Tensor, torch.Tensor, str]:
        row = self.rows[index]
        samples = audio.read(row.path, row.start, row.end)
        draw = random.Random(f"{self.seed} {self.epoch} {row.id}")
        if self.tempo:
            samples = augment.change_tempo(samples, draw.uniform(*self.tempo))
        if self.gain:
            samples = augment.change_gain(samples, draw.uniform(*self.gain))
        text = normalize_text(row.text)
        return row.id, torch.from_numpy(samples), torch.tensor(self.tokenizer.encode(text)), text

    @staticmethod
    def collate(items: list[tuple[str, torch.Tensor, torch.Tensor, str]]) -> dict[str, Any]:
        """Pads a batch: ids, waveforms ``[batch, samples]``, tokens ``[batch, tokens]``, both lengths, and texts."""
        ids, waveforms, tokens, texts = zip(*items, strict=True)
        return {
            "ids": ids, "texts": texts,
            "waveforms": torch.nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True),
            "lengths": torch.tensor([len(waveform) for waveform in waveforms]),
            "tokens": torch.nn.utils.rnn.pad_sequence(list(tokens), batch_first=True),
            "token_lengths": torch.tensor([len(item) for item in tokens]),
        }


class ASRBrain(sb.Brain):
    """CTC training of the encoder."""

    def compute_forward(self, batch: dict[str, Any], stage: sb.Stage) -> Frames:
        """Log-probabilities of the characters, ``[batch, time, 29]``."""
        change = self.spec_augment if stage == sb.Stage.TRAIN and self.hparams.spec_augment else None
        waveforms, lengths = batch["waveforms"].to(self.device), batch["lengths"].to(self.device)
        return self.modules.encoder(waveforms, lengths, change).log_probs

    def spec_augment(self, features: torch.Tensor) -> torch.Tensor:
        """Masks bands of time and frequency of the spectrogram (Park et al. 2019)."""
        for mask in self.hparams.spec_augment:
            features = mask(features)
        return features

    def compute_objectives(self, predictions: Frames, batch: dict[str, Any], stage: sb.Stage) -> torch.Tensor:
        """CTC loss, summed over an utterance and averaged over the batch (Graves et al. 2006)."""
        log_probs = predictions.data.float().transpose(0, 1)  # [time, batch, characters]
        losses = ctc_loss(log_probs, batch["tokens"].to(self.device), predictions.lengths,
                          batch["token_lengths"].to(self.device), blank=0, reduction="none")
        if stage == sb.Stage.TRAIN and not losses.isfinite().all():
            wrong = [batch["ids"][item] for item in (~losses.isfinite()).nonzero().flatten().tolist()]
            raise DataError(f"the CTC loss of {', '.join(wrong)} is not finite: is a transcript longer than its audio?")
        if stage != sb.Stage.TRAIN:
            found, wanted = self.hparams.encoder.decode(predictions), batch["texts"]
            self.words.append(batch["ids"], [text.split() for text in found], [text.split() for text in wanted])
            self.characters.append(batch["ids"], [list(text) for text in found], [list(text) for text in wanted])
        return losses.mean()

    def on_fit_batch_end(self, batch: Any, outputs: Any, loss: torch.Tensor, should_step: bool) -> None:
        """Steps a schedule that counts batches."""
        if self.by_batch:
            self.schedule.step()

    def init_optimizers(self) -> None:
        """The optimiser, and the schedule over it."""
        super().init_optimizers()
        make = self.hparams.schedules[self.hparams.schedule]
        self.by_batch = "steps_per_epoch" in signature(make.func).parameters
        self.schedule = make(self.optimizer, **({"steps_per_epoch": len(self.train_batches)} if self.by_batch else {}))
        self.checkpointer.add_recoverable("schedule", self.schedule)

    def _wrap_distributed(self) -> None:
        """SpeechBrain synchronises batch norm, which PyTorch can do on GPUs only; on CPUs each process has its own."""
        if self.distributed_launch and torch.device(self.device).type == "cpu":
            self.modules["encoder"] = DistributedDataParallel(self.modules["encoder"])
        else:
            super()._wrap_distributed()

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """An epoch's randomness depends on the seed and its number alone, so that a resumed run repeats it."""
        self.words, self.characters = ErrorRateStats(), ErrorRateStats()
        if stage == sb.Stage.TRAIN:
            torch.manual_seed(self.hparams.seed * 100_003 + epoch)
            self.train_batches.set_epoch(epoch)
            self.train_data.epoch = epoch

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Logs, anneals and keeps the checkpoint with the lowest validation CER, and the last."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        stats = {"loss": stage_loss, "CER": self.characters.summarize("error_rate"),
                 "WER": self.words.summarize("error_rate")}
        if stage == sb.Stage.VALID:
            rate = self.optimizer.param_groups[0]["lr"]
            self.hparams.train_logger.log_stats({"epoch": epoch, "lr": f"{rate:.2e}"}, {"loss": self.train_loss}, stats)
            if not self.by_batch:
                self.schedule.step()
            self.hparams.epoch_counter.update_metric(stats["CER"])
            self.checkpointer.save_and_keep_only(meta=stats, min_keys=["CER"])
        else:
            self.hparams.train_logger.log_stats({"epoch loaded": self.hparams.epoch_counter.current}, test_stats=stats)
            self.test_stats = stats


def speaker_split(rows: Sequence[manifest.Row], held_out: int) -> tuple[list[manifest.Row], list[manifest.Row]]:
    """Training rows, and the rows of the ``held_out`` last speakers in the order of their names."""
    speakers = sorted({row.speaker for row in rows})
    if not 0 < held_out < len(speakers):
        raise DataError(f"{held_out} of {len(speakers)} speakers cannot be held out for validation")
    valid = set(speakers[-held_out:])
    return [row for row in rows if row.speaker not in valid], [row for row in rows if row.speaker in valid]


def usable(rows: Sequence[manifest.Row], encoder: DeepSpeech2, max_duration: float,
           fastest: float = 1.0) -> list[manifest.Row]:
    """The rows with a transcript that CTC can align at tempo ``fastest``, and at most ``max_duration`` seconds."""
    assert encoder.tokenizer is not None
    kept = []
    for row in rows:
        tokens = encoder.tokenizer.encode(normalize_text(row.text))
        repeats = sum(first == second for first, second in pairwise(tokens))
        steps = int(encoder.steps(torch.tensor([int(row.duration * SAMPLE_RATE / fastest)])))
        if tokens and row.duration <= max_duration and steps >= len(tokens) + repeats:
            kept.append(row)
    logger.info("%d of %d utterances are used: the others are over %g s, without text, or too fast for CTC",
                len(kept), len(rows), max_duration)
    if not kept:
        raise DataError(f"none of {len(rows)} utterances has a transcript that fits {max_duration} s")
    return kept


def loader(dataset: ASRDataset, batches: Any, workers: int) -> DataLoader:
    """A loader of padded batches."""
    return DataLoader(dataset, batch_sampler=batches, collate_fn=ASRDataset.collate, num_workers=workers)


def check_corpora(corpora: Sequence[Any], default: str | None) -> None:
    """Refuses a list of corpora whose readers or keys do not exist, or that lacks a folder."""
    if not corpora:
        raise OptionError("--train_data and --test_data must name one corpus or more")
    for one in corpora:
        if not isinstance(one, Mapping) or not {"corpus"} <= one.keys() <= {"corpus", "folder", "options"}:
            raise OptionError(f"a corpus is {{corpus: NAME, folder: FOLDER, options: {{…}}}}, not {one}")
        registry.find("corpora", str(one["corpus"]))
        if one.get("folder", default) is None:
            raise OptionError(f"where is corpus '{one['corpus']}'? give --data_folder FOLDER")


def joined(corpora: Sequence[Mapping[str, Any]], default: str | None, folder: Path) -> list[manifest.Row]:
    """Rows of all corpora, each with a manifest of its own; of several, ids and speakers are named by their corpus."""
    rows = []
    for number, one in enumerate(corpora, start=1):
        out = folder / f"{number}-{one['corpus']}"
        run_on_main(manifest.prepare, args=(one["corpus"], one.get("folder", default), out, one.get("options")))
        found = manifest.load(out / "manifest.csv")
        if len(corpora) > 1:
            found = [replace(row, id=f"{out.name}/{row.id}", speaker=f"{out.name}/{row.speaker}") for row in found]
        rows += found
    return rows


def run_settings(exp: experiment.Experiment) -> dict[str, Any]:
    """All that decides a run's numbers beside the data: values, optimiser and schedule, run options, processes."""
    settings = {key: value for key, value in exp.values.items() if key not in NOT_SETTINGS}
    chosen = {kind: exp.text(f"{kind}s", str(exp.values[kind])) for kind in ("optimizer", "schedule")}
    return {"recipe": "train_asr"} | settings | chosen | {
        "run_options": exp.decisive_options, "processes": int(os.environ.get("WORLD_SIZE", 1)),
        "version": ser_plugins.__version__}


def main(argv: Sequence[str]) -> None:
    """Parse → YAML → experiment directory → prepare → datasets → Brain → fit → evaluate → export."""
    exp = experiment.load(argv)
    experiment.check_values(exp.values, RULES)
    for part in ("train_data", "test_data"):
        check_corpora(exp.values[part], exp.values["data_folder"])
    settings = run_settings(exp)
    ddp_init_group(exp.run_opts)
    claim = partial(run_on_main, experiment.claim_folder)
    claim(args=(Path(exp.values["output_folder"]), settings, exp.values["overwrite"]))
    torch.manual_seed(exp.values["seed"])  # the encoder's first weights
    hparams = exp.build()
    sb.create_experiment_directory(hparams["output_folder"], str(exp.file), exp.nested())
    rows = {part: joined(hparams[f"{part}_data"], hparams["data_folder"],
                         Path(hparams["output_folder"]) / f"manifest_{part}") for part in ("train", "test")}
    said = {split: sorted([row.id, row.start, row.end, row.speaker, row.text] for row in rows[split]) for split in rows}
    claim(args=(Path(hparams["output_folder"]), {**settings, "data": fingerprint(said, {})}, False))

    encoder = hparams["encoder"]
    train_rows, valid_rows = speaker_split(rows["train"], hparams["valid_speakers"])
    train_rows = usable(train_rows, encoder, hparams["max_duration"], max(hparams["tempo"] or [1.0]))
    data = ASRDataset(train_rows, encoder.tokenizer, hparams["tempo"], hparams["gain"], hparams["seed"])
    brain = ASRBrain({"encoder": encoder}, hparams["optimizers"][hparams["optimizer"]], hparams, exp.run_opts,
                     hparams["checkpointer"])
    brain.train_data = data
    brain.train_batches = experiment.SortaGradSampler(
        [row.duration for row in train_rows], hparams["batch_size"], hparams["seed"], buckets=True,
        rank=int(os.environ.get("RANK", 0)), world_size=int(os.environ.get("WORLD_SIZE", 1)))  # torchrun's

    def evaluation(chosen: Sequence[manifest.Row]) -> DataLoader:
        order = experiment.SortaGradSampler([row.duration for row in chosen], hparams["batch_size"], seed=0)
        return loader(ASRDataset(chosen, encoder.tokenizer), order, hparams["num_workers"])

    brain.fit(hparams["epoch_counter"], loader(data, brain.train_batches, hparams["num_workers"]),
              evaluation(usable(valid_rows, encoder, hparams["max_duration"])))
    brain.evaluate(evaluation(rows["test"]), min_key="CER")
    if if_main_process():
        export(brain, hparams, len(train_rows), sum(row.duration for row in train_rows) / 3600, len(rows["test"]))


def export(brain: ASRBrain, hparams: dict[str, Any], utterances: int, hours: float, tested: int) -> None:
    """Writes ``encoder/`` and the error rates of the test set with their alignments."""
    folder = Path(hparams["output_folder"])
    for name, stats in (("cer", brain.characters), ("wer", brain.words)):
        with open(folder / f"{name}_test.txt", "w", encoding="utf-8") as file:
            stats.write_stats(file)
    train, test = (" and ".join(f"{one['corpus']} {json.dumps(one.get('options', {}))}" for one in hparams[part])
                   for part in ("train_data", "test_data"))
    notes = {"train": f"{train}: {utterances} utterances, {hours:.2f} h",
             "test": f"{test}: {tested} utterances, greedy decoding",
             "CER": round(brain.test_stats["CER"], 2), "WER": round(brain.test_stats["WER"], 2),
             "epochs": hparams["epoch_counter"].current}
    hparams["encoder"].save(folder / "encoder", notes)
    print(f"\ntest CER {notes['CER']} %, WER {notes['WER']} %\nencoder: {folder / 'encoder'}")


if __name__ == "__main__":
    experiment.run(main)
