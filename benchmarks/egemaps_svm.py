"""An SVM on eGeMAPS functionals by scikit-learn alone: what the plan's `svm-egemaps` and published figures lie beside.

    ser prepare emodb EmoDB --out prepared
    python benchmarks/egemaps_svm.py prepared/manifest.csv
    python benchmarks/egemaps_svm.py prepared/manifest.csv --labels anger boredom disgust fear happiness neutral sadness

Every speaker is left out once; UA is pooled, for each kernel and C, so the best of a column is chosen by the test
speakers. The second column brings each speaker's functionals to mean 0 and deviation 1 by that speaker's own
recordings, as Eyben et al. (2016) do; for a speaker who is tested, all of them must be there.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from common import describe, table
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tqdm import tqdm

from ser_plugins import audio
from ser_plugins.corpora import manifest
from ser_plugins.errors import SerError
from ser_plugins.features.functionals import Functionals

COSTS = (0.01, 0.1, 1.0, 10.0)


def functionals(rows: list[manifest.Row]) -> np.ndarray:
    """``[utterances, 88]``."""
    extractor = Functionals()
    found = []
    for row in tqdm(rows, desc="functionals"):
        samples = torch.from_numpy(audio.read(row.path, row.start, row.end))[None]
        found.append(extractor(samples, torch.tensor([samples.shape[1]])).data[0, 0].numpy())
    return np.stack(found)


def by_speaker(values: np.ndarray, speakers: np.ndarray) -> np.ndarray:
    """Each speaker's values at mean 0 and deviation 1."""
    result = np.empty_like(values)
    for speaker in set(speakers):
        own = speakers == speaker
        result[own] = StandardScaler().fit_transform(values[own])
    return result


def measure(rows: list[manifest.Row]) -> list[list[str]]:
    """Rows of the table."""
    values = functionals(rows)
    truth, speakers = np.array([row.emotion for row in rows]), np.array([row.speaker for row in rows])
    result = []
    for kernel in ("linear", "rbf"):
        for cost in COSTS:
            classifier = make_pipeline(StandardScaler(), SVC(kernel=kernel, C=cost))
            scores = [balanced_accuracy_score(truth, cross_val_predict(
                classifier, one, truth, groups=speakers, cv=LeaveOneGroupOut()))
                for one in (values, by_speaker(values, speakers))]
            result.append([f"{kernel}, C {cost:g}", *(f"{score:.3f}" for score in scores)])
    return result


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", help="of ser prepare")
    parser.add_argument("--labels", nargs="+", default=["anger", "happiness", "neutral", "sadness"])
    args = parser.parse_args()
    try:
        rows = manifest.select(manifest.load(args.manifest), args.labels)
        measured = measure(rows)
    except SerError as error:
        sys.exit(f"error: {error}")
    print(f"\n{len(rows)} utterances, {len({row.speaker for row in rows})} speakers, {len(args.labels)} classes; UA\n")
    print(table(["SVM", "as they are", "each speaker standardised"], measured))
    print(f"\n{describe()}")


if __name__ == "__main__":
    main()
