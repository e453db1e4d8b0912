"""Trains and tests a scikit-learn classifier on one leave-one-speaker-out fold: what the networks must beat.

    python recipes/train_sklearn.py hparams/svm.yaml --corpus emodb --data_folder EmoDB --test_speaker 03
    python recipes/train_sklearn.py hparams/linear.yaml --corpus emodb --data_folder EmoDB --layer 2

It reads functionals of the audio, the mean of a layer of the frozen encoder, both or neither.

Fold, labels and the run's folder are those of train_ser.py. Parameters of ``grid`` are chosen by the cross-entropy on
the validation speaker, as train_ser.py chooses an epoch.
"""

from __future__ import annotations

from ser_plugins import command_line

if __name__ == "__main__":
    command_line.refuse_mistakes()  # before imports that take seconds

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid
from speechbrain.utils.distributed import infer_device

from ser_plugins import experiment, folds, protocol, store
from ser_plugins.contracts import Needs, fingerprint
from ser_plugins.corpora import manifest
from ser_plugins.errors import OptionError
from ser_plugins.features.functionals import Functionals

LEAST = 1e-7  # of a probability in a cross-entropy

RULES: experiment.Rules = {
    "labels": protocol.LABELS_RULE,
    "num_workers": (lambda value: value >= 0, "0 or more"),
}


def load(argv: Sequence[str]) -> experiment.Experiment:
    """Reads and checks the command line."""
    exp = experiment.load(argv)
    experiment.check_values(exp.values, RULES)
    protocol.check_corpora(exp.values, exp.given)
    return exp


def build(exp: experiment.Experiment) -> protocol.System:
    """The classifier, unfitted, and what it reads.

    Raises
    ------
    OptionError
        There is no such classifier, it has no parameter that the grid names, or the encoder has no such layer.
    """
    hparams = exp.build()
    name, read, layer = str(hparams["estimator"]), bool(hparams["functionals"]), hparams["layer"]
    described = exp.text("estimators", name)
    if not hparams["deterministic"]:  # `train` makes it of these
        described = re.sub(r"random_state: \w+", "random_state: seed, speaker", described)
    estimator = hparams["estimators"][name]
    for key in hparams["grid"].keys() - estimator.get_params().keys():
        raise OptionError(f"{exp.file}: grid: the estimator has no parameter '{key}'; it has "
                          f"{', '.join(sorted(estimator.get_params()))}")
    encoder = None if layer is None else protocol.encoder_of(hparams["encoder"])
    try:
        needs = Needs(features=read, means=() if layer is None else layer)
        needs = needs.resolve({}, 0 if encoder is None else len(encoder.layer_dims))
    except ValueError as error:
        raise OptionError(f"estimator '{name}': {error}") from error
    options = {} if layer is None else {"layer": layer}
    name = protocol.system_name(name, options, hparams["encoder"] if needs.encoder else None)
    return protocol.System("train_sklearn", name, estimator, needs, Functionals() if read else None, encoder, options,
                           {"estimator": described, "scipy": version("scipy")}, hparams["deterministic"])


def main(argv: Sequence[str]) -> Path:
    """Trains and tests what the command line says; returns the run's folder."""
    exp = load(argv)
    system = build(exp)
    rows, test_rows = protocol.prepare(exp.values)
    fold = protocol.chosen_fold(rows, exp.values)
    folder = Path(exp.values["output_folder"] or protocol.run_folder(exp.values, system.name, fold))
    return train(exp, system, rows, test_rows, fold, folder)


def train(exp: experiment.Experiment, system: protocol.System, rows: Sequence[manifest.Row],
          test_rows: Sequence[manifest.Row], fold: folds.Fold, folder: Path) -> Path:
    """Representations → fit → choose → test; arguments and return as in train_ser.py."""
    values = exp.values
    parts = protocol.split(rows, test_rows, fold, values)
    settings = protocol.run_settings(exp, system, [*rows, *test_rows], fold)
    experiment.claim_folder(folder, settings, values["overwrite"])

    stored = store.Store(values["store_folder"], system.needs, system.extractor, system.encoder)
    items = protocol.represented(parts, stored, {**values, "tempi": [], "gain": [0, 0]},
                                 exp.run_opts.device or infer_device(), progress=not exp.run_opts.noprogressbar)
    inputs = {part: _inputs(stored, [variants[0] for variants in items[part]]) for part in parts}
    truth = {part: [row.emotion for row in chosen] for part, chosen in parts.items()}
    fitted = []
    drawn = {"random_state": int(fingerprint({"seed": values["seed"], "test": fold.test}, {})[:8], 16)}
    for parameters in ParameterGrid(values["grid"]):
        model = clone(system.model).set_params(**parameters, **({} if system.deterministic else drawn))
        model.fit(inputs["train"], truth["train"])
        found = _probabilities(model, inputs["valid"], values["labels"])
        right = found[range(len(found)), [values["labels"].index(label) for label in truth["valid"]]]
        fitted.append((-float(np.log(np.maximum(right, LEAST)).mean()), parameters, model))
    loss, parameters, model = min(fitted, key=lambda one: one[0])

    said = {part: _probabilities(model, inputs[part], values["labels"]).tolist() for part in ("valid", "test")}
    outcomes = {part: list(zip(parts[part], said[part], strict=True)) for part in said}
    protocol.report(folder, system.name, parts, fold, settings, outcomes, {
        "valid_loss": loss, "protocol": {"parameters": parameters}})
    chosen = "".join(f", {key} {value}" for key, value in parameters.items())
    print(f"{system.name} on {values['corpus']}, test speaker {fold.test} ({len(parts['test'])} utterances){chosen}\n"
          f"everything lies in {folder}")
    return folder


def _inputs(stored: store.Store, items: Sequence[store.Item]) -> np.ndarray:
    """Functionals and means side by side, ``[utterances, dim]``; of a classifier that reads nothing, a zero each."""
    inputs = stored.inputs(items)
    parts = [] if inputs.features is None else [inputs.features.data[:, 0]]
    parts += inputs.means.values()
    return torch.cat(parts, dim=1).numpy() if parts else np.zeros((len(items), 1))


def _probabilities(model: object, inputs: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """``[utterances, classes]`` in the order of the labels, which is not the classifier's."""
    order = [list(model.classes_).index(label) for label in labels]  # type: ignore[attr-defined]
    return model.predict_proba(inputs)[:, order]  # type: ignore[attr-defined]


if __name__ == "__main__":
    experiment.run(main)
