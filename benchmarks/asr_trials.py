"""One change of the recogniser's recipe after another, each in a short training of the same length and seed.

    python benchmarks/asr_trials.py --data_folder LibriSpeech
    python benchmarks/asr_trials.py --data_folder LibriSpeech --from_encoder A --trials disturbances

Each is ``train_asr.py hparams/asr_small.yaml`` on train-clean-5 in a one-cycle of ``--epochs``, first without speeds,
dropout and SpecAugment, then with one change; from random weights for the shape of the network and its optimiser, and
from a trained encoder for what disturbs the speech, which helps only where a network begins to know its data by heart.
A trial that was ended goes on, and its minutes are those of the call that ends it. CER is that of the two validation
speakers; the test set decides nothing here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import soundfile
from common import HPARAMS, RECIPES, describe, table
from tqdm import tqdm

from ser_plugins.batches import DynamicBatches
from ser_plugins.corpora import espeak, manifest
from ser_plugins.corpora.synthetic import VOICES, require_espeak
from ser_plugins.encoders.deepspeech2 import SequenceNorm
from ser_plugins.errors import SerError

PLAIN = {"speeds": "null", "dropout": "0", "spec_augment": "false"}
SPEEDS = {"speeds": "[0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15]"}
TRIALS: dict[str, dict[str, dict[str, str]]] = {
    "network": {
        "as asr_small.yaml, nothing disturbed": {},
        "no batch norm between recurrent layers": {"patch": "no_norm"},
        "no curriculum in the first epoch": {"patch": "no_curriculum"},
        "lr 0.002": {"lr": "0.002"},
        "3 recurrent layers": {"num_layers": "3"},
        "320 units": {"units": "320"},
        "SGD as the paper": {"optimizer": "sgd", "schedule": "divide", "lr": "0.0003"},
        "lr 0.0005": {"lr": "0.0005"},
        "32 channels": {"channels": "32"},
        "7 recurrent layers": {"num_layers": "7"},
        "192 units": {"units": "192"},
    },
    "disturbances": {
        "nothing disturbed": {},
        "speeds": SPEEDS,
        "SpecAugment": {"spec_augment": "true"},
        "dropout 0.2": {"dropout": "0.2"},
        "all three": {**SPEEDS, "spec_augment": "true", "dropout": "0.2"},
        "synthetic speech added": {"synthetic": "true"},
    },
}
set_epoch = DynamicBatches.set_epoch
PATCHES: dict[str, tuple[type, str, Callable]] = {
    "no_norm": (SequenceNorm, "forward", lambda self, frames: frames.masked()),
    "no_curriculum": (DynamicBatches, "set_epoch", lambda self, epoch: set_epoch(self, epoch + 1)),
}


def speak(data_folder: Path, folder: Path) -> None:
    """Every second sentence of train-clean-5 by espeak-ng, in one of the synthetic corpus's voices: a Kaldi folder."""
    with tempfile.TemporaryDirectory() as temporary:
        rows = manifest.load(manifest.prepare("librispeech", data_folder, temporary, {"splits": ["train-clean-5"]}))
    draw, paths = random.Random(0), require_espeak()
    lists: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
    (folder / "wav").mkdir(parents=True, exist_ok=True)
    for row in tqdm(rows[::2], desc="synthetic speech", unit="utterance"):
        number, wav = draw.randrange(len(VOICES)), folder / "wav" / f"{row.id}.wav"
        voice = VOICES[number]
        raw, rate = espeak.speak(espeak.Utterance(
            row.text.lower(), voice.name, rate=round(voice.rate * draw.uniform(0.85, 1.15)),
            pitch=round(50 + 50 * voice.pitch / 12), pitch_range=draw.randint(30, 70)), *paths)
        soundfile.write(wav, np.frombuffer(raw, np.int16), rate)
        for name, value in (("wav.scp", f"wav/{wav.name}"), ("text", row.text), ("utt2spk", f"V{number:02d}")):
            lists[name].append(f"{row.id} {value}\n")
    for name, lines in lists.items():
        (folder / name).write_text("".join(lines), encoding="utf-8")


def command(change: dict[str, str], args: argparse.Namespace, start: Path | None, output: Path) -> list[str]:
    """The recipe's arguments for one trial."""
    corpora: list[dict[str, object]] = [{"corpus": "librispeech", "options": {"splits": ["train-clean-5"]}}]
    if "synthetic" in change:
        corpora.append({"corpus": "kaldi", "folder": str((args.output_folder / "synthetic").resolve())})
    options = {**PLAIN, "number_of_epochs": str(args.epochs), "patience": str(args.epochs),
               "train_data": json.dumps(corpora), "data_folder": str(args.data_folder),
               "output_folder": str(output), **({"pretrained_encoder": str(start)} if start else {}),
               **{name: value for name, value in change.items() if name not in ("patch", "synthetic")}}
    words = (word for name, value in options.items() for word in (f"--{name}", value))
    return [str(HPARAMS / "asr_small.yaml"), *words]


def trial(name: str, change: dict[str, str], args: argparse.Namespace, start: Path | None) -> list[str]:
    """Trains, and returns the row of the table."""
    output = args.output_folder / re.sub(r"\W+", "_", f"{'warm' if start else 'random'} {name}")
    before = os.times()
    # the recipe takes up what is there, trains no more where it has ended, and refuses other settings
    subprocess.run([sys.executable, __file__, "--inside", change.get("patch", ""), "--",
                    *command(change, args, start, output)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = os.times()
    done = output / "seconds.txt"
    if not done.is_file():
        done.write_text(str(after.children_user + after.children_system
                            - before.children_user - before.children_system), encoding="utf-8")
    log = (output / "train_log.txt").read_text(encoding="utf-8")
    rates = [f"{float(rate):.1f}" for rate in re.findall(r"valid CER: ([0-9.e+-]+)", log)]
    return [name, *rates, f"{float(done.read_text(encoding='utf-8')) / 60:.1f}"]


def main() -> None:
    """Reads the command line, trains, prints."""
    if sys.argv[1:2] == ["--inside"]:
        patch, sys.argv = sys.argv[2], [str(RECIPES / "train_asr.py"), *sys.argv[4:]]
        sys.path.insert(0, str(RECIPES))
        with mock.patch.object(*PATCHES[patch]) if patch else contextlib.nullcontext():
            runpy.run_path(sys.argv[0], run_name="__main__")
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_folder", type=Path, required=True, help="LibriSpeech")
    parser.add_argument("--output_folder", type=Path, default=Path("results/asr_trials"))
    parser.add_argument("--trials", default="network", choices=list(TRIALS))
    parser.add_argument("--from_encoder", type=Path, help="folder of the encoder where training starts")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--first", type=int, help="only so many of the trials")
    args = parser.parse_args()
    chosen = list(TRIALS[args.trials].items())[:args.first]
    if any("synthetic" in change for _, change in chosen) and not (args.output_folder / "synthetic/utt2spk").is_file():
        speak(args.data_folder, args.output_folder / "synthetic")
    rows = [trial(name, change, args, args.from_encoder) for name, change in chosen]
    print(table([f"trial, {args.trials}", *(f"CER after epoch {epoch + 1}" for epoch in range(args.epochs)),
                 "minutes of a core"], rows))
    print(f"\n{describe()}")


if __name__ == "__main__":
    try:
        main()
    except SerError as error:
        sys.exit(f"error: {error}")
