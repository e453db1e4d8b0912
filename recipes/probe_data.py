"""What probe.py reads: options, utterances, encoders with what is stored of them, and a trained head."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ser_plugins import descriptors, experiment, inference, models, probing, protocol, store
from ser_plugins.augment import Variant
from ser_plugins.contracts import Encoder, Needs
from ser_plugins.descriptors import NAMES
from ser_plugins.errors import DataError, OptionError, unknown_name
from ser_plugins.heads.rnn import RNN

logger = logging.getLogger(__name__)


RULES: experiment.Rules = {
    "labels": protocol.LABELS_RULE,
    "pair": (lambda value: len(value or ()) > 1, "two labels or more"),
    "perplexity": (lambda value: value > 0, "above 0"),
    "first_frame": (lambda value: value >= 0, "0 s or more"),
    "num_workers": (lambda value: value >= 0, "0 or more"),
    "seed": (lambda value: value >= 0, "0 or more"),
}


def check_options(exp: experiment.Experiment) -> None:
    """Refuses options that nothing else checks.

    Raises
    ------
    OptionError
        A wrong value or name, with what is right.
    """
    values = exp.values
    experiment.check_values(values, RULES)
    for label in values["pair"]:
        if label not in values["labels"]:
            raise OptionError(f"--pair: {unknown_name('label', str(label), values['labels'], 'labels')}")
    if values["descriptor"] not in NAMES:
        raise OptionError(f"--descriptor: {unknown_name('descriptor', str(values['descriptor']), NAMES)}")
    protocol.check_corpora(values, exp.given)


def utterances(values: Mapping[str, Any]) -> list[store.Item]:
    """The utterances of the experiment's labels, undisturbed."""
    rows, _ = protocol.prepare({**values, "test_corpus": None})
    return [store.item(row, key, Variant()) for row, key in zip(rows, store.audio_hashes(rows), strict=True)]


class Subject:
    """An encoder and what is stored of the utterances that it heard.

    Arguments
    ---------
    encoder : Encoder
        Frozen.
    folder : str
        Root of the store.
    first_frame : float
        Centre of the encoder's first frame, in seconds.
    """

    def __init__(self, encoder: Encoder, folder: str, first_frame: float = 0.0) -> None:
        self.encoder, self.folder, self.first_frame = encoder, folder, first_frame
        self.dims = np.array(encoder.layer_dims)
        needs = Needs(features=True, sequences="all", means="all").resolve({}, len(self.dims))
        self.store = store.Store(folder, needs, descriptors.LowLevelDescriptors(), encoder)

    def layer(self, one: store.Item, layer: int) -> np.ndarray:
        """Frames of a layer, ``[time, dim]``."""
        return self.store.read(f"layer{layer}", one).numpy()

    def neurons(self, one: store.Item) -> np.ndarray:
        """Frames of all layers side by side, ``[time, neurons]``."""
        return np.hstack([self.layer(one, number) for number in range(1, len(self.dims) + 1)])

    def locate(self, neuron: int) -> tuple[int, int]:
        """Layer, counted from 1, and number within it, counted from 0, of one of `neurons`."""
        ends = np.cumsum(self.dims)
        layer = int(np.searchsorted(ends, neuron, side="right"))
        return layer + 1, int(neuron - ends[layer] + self.dims[layer])

    def means(self, items: Sequence[store.Item]) -> list[np.ndarray]:
        """Of each layer the utterances' means over time, ``[utterances, dim]``."""
        every = np.stack([self.store.read("means", one).numpy() for one in items])
        return np.split(every, np.cumsum(self.dims)[:-1], axis=1)

    def times(self, frames: int) -> np.ndarray:
        """Centres of as many frames, in seconds."""
        return self.first_frame + np.arange(frames) / self.encoder.rate

    def descriptors(self, one: store.Item, frames: int) -> np.ndarray:
        """Descriptors at the centres of the encoder's frames, ``[frames, 25]``; NaN where there is none."""
        measured = descriptors.without_unvoiced(self.store.read("features", one).numpy())
        return probing.align(measured, descriptors.LowLevelDescriptors.rate, descriptors.STARTS, self.times(frames))

    def correlations(self, items: Sequence[store.Item], *, progress: bool) -> probing.Correlations:
        """Correlations of all neurons with all descriptors."""
        correlator = probing.Correlator()
        for one in tqdm(items, desc="correlations", unit="utterance", disable=not progress):
            neurons = self.neurons(one)
            correlator.add(neurons, self.descriptors(one, len(neurons)), one.row.speaker)
        return correlator.correlations()

    def lines(self, found: probing.Correlations) -> Iterator[list[Any]]:
        """Layer, neuron, descriptor, utterances, speakers, r, pooled r, p and corrected p of every correlation."""
        for cell in np.ndindex(found.r.shape):
            columns = (found.utterances, found.speakers, found.r, found.pooled, found.p, found.holm)
            yield [*self.locate(cell[1]), NAMES[cell[0]], *(values[cell] for values in columns)]

    def best_neurons(self, found: probing.Correlations) -> dict[str, dict[str, Any]]:
        """Of each descriptor that has any correlation, the neuron with the largest |r|: the best of thousands."""
        best = {}
        for number, name in enumerate(NAMES):
            size = np.nan_to_num(np.abs(found.r[number]), nan=-1.0)
            if (size >= 0).any():
                cell = number, int(size.argmax())
                layer, neuron = self.locate(cell[1])
                best[name] = {"layer": layer, "neuron": neuron, "r": found.r[cell].item(),
                              "r_pooled": found.pooled[cell].item(), "utterances": found.utterances[cell].item(),
                              "p": found.p[cell].item(), "p_holm": found.holm[cell].item()}
        return best


def untrained(values: Mapping[str, Any], encoder: Encoder) -> Encoder | None:
    """The encoder's twin with random weights; None where none is wanted, or the plugin has none."""
    if not values["control"] or values["encoder"].startswith(models.UNTRAINED):
        return None
    if not hasattr(type(encoder), "untrained"):
        logger.warning("no control: %s has no untrained twin", type(encoder).__name__)
        return None
    return models.load_encoder(f"{models.UNTRAINED}{values['encoder']}")


class TrainedRNN:
    """A finished run of train_ser.py whose head is `RNN`.

    Raises
    ------
    OptionError
        The run has another head, or was trained on another encoder.
    DataError
        The folder holds no finished run.
    """

    def __init__(self, folder: str, encoder: Encoder) -> None:
        recognizer = inference.EmotionRecognizer.from_hparams(folder)
        self.head, self.needs = recognizer.mods.head, recognizer.hparams.needs
        if not isinstance(self.head, RNN):
            raise OptionError(f"--rnn_run {folder} holds the head {type(self.head).__name__}: give a run of "
                              "hparams/rnn.yaml")
        if recognizer.mods.encoder.fingerprint != encoder.fingerprint:
            raise OptionError(f"--rnn_run {folder} was trained on another encoder: give that one as --encoder")
        try:
            stamp = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))["protocol"]
            speakers = " ".join(stamp["fold"]["train"])
            self.title = f"{stamp['system']}, trained on {stamp['settings']['corpus']} {speakers}"
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder} is no finished run of train_ser.py: metrics.json: {error}") from error

    @torch.no_grad()
    def vectors(self, subject: Subject, items: Sequence[store.Item]) -> np.ndarray:
        """Utterance vectors, ``[utterances, 2 × units]``."""
        stored = store.Store(subject.folder, self.needs, None, subject.encoder)
        return torch.cat([self.head.represent(stored.inputs([one])) for one in items]).numpy()
