"""From one corpus to another, as it is and with each corpus standardised by itself: what is a shift of the recordings?

    ser prepare emodb EmoDB --out emodb
    ser prepare ravdess RAVDESS --out ravdess
    python benchmarks/corpus_shift.py emodb/manifest.csv ravdess/manifest.csv

By scikit-learn alone: eGeMAPS functionals under an SVM, and the mean of each layer of the trained recogniser, and of
the same network with random weights, under a logistic regression. All of one corpus is trained on, and all of the
other tested; C has the best UA of five folds of the training speakers. Standardised means that each dimension of each
corpus is brought to mean 0 and deviation 1 by that corpus's own recordings, so that all of the tested one must be
there. Intervals (95 %) are over the tested speakers, for this one training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import torch
from common import describe, table
from disturbance import layer_means
from egemaps_svm import functionals
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tqdm import tqdm

from ser_plugins import audio
from ser_plugins.corpora import manifest
from ser_plugins.errors import SerError
from ser_plugins.models import load_encoder
from ser_plugins.predictions import Predictions
from ser_plugins.significance import confidence_interval

ENCODERS = {"layer": "deepspeech2", "random layer": "untrained:deepspeech2"}
SVM, LINEAR = SVC(class_weight="balanced"), LogisticRegression(max_iter=2000)
COSTS = {"SVM": {"svc__C": np.logspace(-2, 2, 5)}, "linear": {"logisticregression__C": np.logspace(-4, 0, 5)}}


def inputs(rows: Sequence[manifest.Row]) -> dict[str, np.ndarray]:
    """What is read → ``[utterances, dim]``."""
    found = {"eGeMAPS": functionals(list(rows))}
    for name, source in ENCODERS.items():
        encoder = load_encoder(source)
        means = [layer_means(encoder, audio.read(row.path, row.start, row.end))
                 for row in tqdm(rows, desc=f"{name} means")]
        found |= {f"{name} {number}": np.stack(layer) for number, layer in enumerate(zip(*means, strict=True), start=1)}
    return found


def crossed(name: str, trained: np.ndarray, tested: np.ndarray, train_rows: Sequence[manifest.Row],
            test_rows: Sequence[manifest.Row]) -> str:
    """UA on the second corpus of what the first has taught, and its interval where there is one."""
    classifier, costs = (SVM, COSTS["SVM"]) if name == "eGeMAPS" else (LINEAR, COSTS["linear"])
    search = GridSearchCV(make_pipeline(StandardScaler(), classifier), costs, scoring="balanced_accuracy",
                          cv=GroupKFold(5))
    search.fit(trained, [row.emotion for row in train_rows], groups=[row.speaker for row in train_rows])
    predicted, truth = search.predict(tested).tolist(), [row.emotion for row in test_rows]
    found = confidence_interval([Predictions([row.id for row in test_rows], [row.speaker for row in test_rows], truth,
                                             predicted, np.zeros((len(truth), 0)), sorted({*truth}))])
    around = ""
    if found.low is not None and found.high is not None and found.low < found.high:
        around = f" ({found.low:.3f}–{found.high:.3f})"
    return f"{balanced_accuracy_score(truth, predicted):.3f}{around}"


def measure(corpora: Sequence[Sequence[manifest.Row]]) -> list[list[str]]:
    """Rows of the table: what is read, and for both directions UA as it is and standardised."""
    plain = [inputs(rows) for rows in corpora]
    result = []
    for name in tqdm(plain[0], desc="classifiers"):
        cells = [crossed(name, scaled(plain[one][name]), scaled(plain[other][name]), corpora[one], corpora[other])
                 for one, other in ((0, 1), (1, 0))
                 for scaled in (lambda values: values, StandardScaler().fit_transform)]
        result.append([name, *cells])
    return result


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs=2, help="of ser prepare")
    parser.add_argument("--labels", nargs="+", default=["anger", "happiness", "neutral", "sadness"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        corpora = [manifest.select(manifest.load(path), args.labels) for path in args.manifests]
        rows = measure(corpora)
    except SerError as error:
        sys.exit(f"error: {error}")
    print(f"\nUA over {len(args.labels)} classes, 1 is {args.manifests[0]}, 2 is {args.manifests[1]}\n")
    print(table(["reads", "1 → 2", "standardised", "2 → 1", "standardised"], rows))
    print(f"\n{describe()}")


if __name__ == "__main__":
    main()
