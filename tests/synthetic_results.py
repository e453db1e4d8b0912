"""Results of a protocol that nobody ran: what `recipes/cross_validate.py` writes, drawn from known probabilities."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_plugins import results

LABELS = ("anger", "happiness", "neutral", "sadness")
SYSTEMS = {"majority": ("majority", None), "baseline-96": ("baseline", None), "mp-1": ("mp", 1), "mp-2": ("mp", 2),
           "mp-2-random": ("mp", 2), "rnn-2": ("rnn", 2)}
STRENGTH = {"majority": 0.0, "baseline": 2.0, "mp": 2.4, "rnn": 2.8, "progressive": 3.0, "svm": 2.2}


def full_plan() -> dict[str, tuple[str, int | None]]:
    """As many systems as a real protocol has: every layer of three heads, controls, and what needs no encoder."""
    plan: dict[str, tuple[str, int | None]] = {"majority": ("majority", None), "svm-egemaps": ("svm", None),
                                               "baseline-96": ("baseline", None)}
    plan |= {f"{head}-{layer}": (head, layer) for head in ("mp", "rnn", "progressive") for layer in range(1, 6)}
    return plan | {f"{head}-{layer}-random": (head, layer) for head, layer in (("mp", 1), ("mp", 3), ("mp", 5),
                                                                              ("progressive", 3))}


def write_results(folder: Path, *, systems: dict[str, tuple[str, int | None]] = SYSTEMS, speakers: int = 10,
                  runs: Sequence[int] = (1, 2, 3), per_class: int = 6, labels: Sequence[str] = LABELS, sharpness=2.0,
                  missing: Sequence[tuple[str, str, int]] = (), absent: str | None = None, seed: int = 0,
                  **about: Any) -> Path:
    """Writes the two files, the same ones for the same arguments.

    Logits are noise plus the system's strength at the true class, so their softmax is calibrated no more than by
    chance; times ``sharpness`` they are overconfident. ``missing`` names units (system, fold, seed) that failed. With a
    ``test_corpus`` there is one fold, which tests all its speakers. Of the label ``absent`` there is no utterance.
    """
    draw = np.random.default_rng(seed)
    other = about.get("test_corpus")
    names = [("" if other is None else f"{other}/") + f"{number:02}" for number in range(3, 3 + speakers)]
    ease = dict(zip(names, draw.normal(0, 0.6, speakers), strict=True))
    sizes = {name: draw.integers(max(1, per_class // 2), 2 * per_class, len(labels)) for name in names}
    if absent is not None:
        for counts in sizes.values():
            counts[labels.index(absent)] = 0
    truth = {name: np.repeat(np.arange(len(labels)), sizes[name]) for name in names}
    folds = [{"test": name, "valid": names[(number + 1) % speakers]} for number, name in enumerate(names)]
    if other is not None:
        folds, truth["01"], ease["01"] = [{"test": other, "valid": "01"}], truth[names[0]], 0.0
    units, lines = [], []
    for system, (head, layer) in systems.items():
        fixed = head in ("majority", "svm")
        strength = STRENGTH[head] - 0.15 * abs((layer or 3) - 3) - 1.2 * system.endswith("-random")
        for run in runs[:1] if fixed else runs:
            for fold in folds:
                failed = (system, fold["test"], run) in missing
                count = int(draw.integers(15, 40))
                fall = np.exp(-np.arange(count) / 8)
                curve = np.column_stack([1.3 * fall, 0.6 + 0.7 * fall]) * draw.uniform(0.7, 1.3)
                units.append({"system": system, "test": fold["test"], "seed": run, "seconds": None if failed else 12.5,
                              "state": "failed" if failed else "finished", "error": "killed" if failed else None,
                              "epochs": None if failed or fixed else count,
                              "tested_epoch": None if failed or fixed else count - 10,
                              "curve": None if failed or fixed else curve.round(4).tolist()})
                parts = [("valid", fold["valid"]), *(("test", name) for name in names if fold["test"] in (name, other))]
                for part, speaker in () if failed else parts:
                    noise = draw.normal(0, 1.2, (len(truth[speaker]), len(labels)))
                    noise[np.arange(len(noise)), truth[speaker]] += max(0.0, strength + ease[speaker])
                    logits = np.tile([0.3, 0, 0, 0][:len(labels)], (len(noise), 1)) if head == "majority" else noise
                    scores = np.exp(logits * sharpness)
                    for number, probabilities in enumerate(scores / scores.sum(axis=1, keepdims=True)):
                        lines.append([system, run, fold["test"], part, f"{speaker}-{number:03}", speaker,
                                      labels[truth[speaker][number]], labels[int(probabilities.argmax())],
                                      *(f"{probability:.6f}" for probability in probabilities)])
    described = {system: {
        "head": head, "layer": layer, "settings": {} if layer is None else {"layer": layer},
        **({"encoder": "0aaf1e2d", "control_of": "5b0c7f9e"} if system.endswith("-random") else
           {"encoder": None if layer is None else "5b0c7f9e"}),
        "trained_with": {"lr": 0.004}, "trainable_parameters": None if head == "majority" else 2052,
        "runs": list(runs[:1] if head in ("majority", "svm") else runs),
        "command": f"python recipes/train_ser.py hparams/{head}.yaml"} for system, (head, layer) in systems.items()}
    content = {
        "corpus": "emodb", "labels": list(labels), "command": ["python", "recipes/cross_validate.py", "a plan.yaml"],
        "date": "2026-11-25", "machine": "2 cores", "definitions": {
            "UA": "unweighted accuracy: mean of the classes' recalls", "WA": "share of utterances that are right",
            "F1": "macro F1: mean of the classes' F1"},
        "protocol": {"regime": "small", "batch_size": 16, "torch": "2.11.0", "tempi": [0.9, 1.1]},
        "speakers": {name: {"gender": ("male", "female")[number % 2], "counts": {
            label: int(size) for label, size in zip(labels, sizes[name], strict=True)}}
            for number, name in enumerate(names)},
        "folds": folds, "systems": described, "units": units, **about}
    results.write(folder, content, lines)
    return folder


def lines_of(folder: Path) -> list[list[str]]:
    """The lines of the predictions, the header first."""
    with gzip.open(folder / "predictions.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def rewrite(folder: Path, change: Callable[[list[list[str]]], list[list[str]]]) -> None:
    """Changes the lines of the predictions, as if the protocol had left others."""
    _, *lines = change(lines_of(folder))
    results.write(folder, json.loads((folder / "results.json").read_text(encoding="utf-8")), lines)
