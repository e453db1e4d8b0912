"""What does the recogniser know? Its layers drawn, its neurons compared with descriptors of speech, and probed.

    python recipes/probe.py hparams/probe.yaml --corpus emodb --data_folder EmoDB
    python recipes/probe.py hparams/probe.yaml --corpus emodb --data_folder EmoDB --rnn_run results/emodb/rnn-2/…/seed-1

The folder holds ``tsne`` (Lakomkin et al. 2017, Fig. 4), ``neuron`` (Fig. 6) and ``probes`` as PNG and PDF,
``tsne.csv``, ``correlations.csv`` (neurons counted from 0; of a bidirectional layer the first half reads forwards),
``probes.csv`` and ``metrics.json``. Neurons and probes are also those of the encoder's twin with random weights: what
that shows too, training has not given. What is stored of an interrupted run is not computed again.
"""

from __future__ import annotations

from ser_plugins import command_line

if __name__ == "__main__":
    command_line.refuse_mistakes()  # before imports that take seconds

import csv
import json
import logging
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import speechbrain as sb
from matplotlib.figure import Figure
from probe_data import Subject, TrainedRNN, check_options, untrained, utterances
from speechbrain.utils.distributed import infer_device
from tqdm import tqdm

import ser_plugins
from ser_plugins import experiment, figures, models, probing, protocol
from ser_plugins.contracts import fingerprint
from ser_plugins.descriptors import F0, NAMES
from ser_plugins.errors import DataError
from ser_plugins.files import write_atomically
from ser_plugins.probe_figures import Scatter, Trace, probes_figure, scatter_figure, trace_figure
from ser_plugins.significance import Result
from ser_plugins.store import Item

logger = logging.getLogger(__name__)

PACKAGES = ("ser_plugins", "torch", "speechbrain", "scikit-learn", "scipy", "numpy", "opensmile")


def embed(subject: Subject, rnn: TrainedRNN | None, items: Sequence[Item], values: Mapping[str, Any], *,
          progress: bool) -> tuple[list[Scatter], list[list[Any]]]:
    """t-SNE of the layers' means and of an RNN's vectors, for all classes, then for the pair: panels, and CSV lines."""
    vectors = {f"mp-{layer}": means for layer, means in enumerate(subject.means(items), start=1)}
    if rnn is not None:
        vectors[rnn.title] = rnn.vectors(subject, items)
    panels, lines = [], []
    for labels, told in ((values["labels"], "all classes"), (values["pair"], ", ".join(values["pair"]))):
        chosen = [at for at, one in enumerate(items) if one.row.emotion in labels]
        rows = [items[at].row for at in chosen]
        groups = [row.speaker if values["speaker_markers"] else "" for row in rows]
        for title, every in tqdm(vectors.items(), desc=f"t-SNE of {told}", unit="panel", disable=not progress):
            points = probing.embed(every[chosen], values["seed"], values["perplexity"])
            panels.append(Scatter(f"{textwrap.fill(title, 32)}\n{told}", points, [row.emotion for row in rows], groups))
            lines += [[title, "+".join(labels), row.id, row.speaker, row.emotion, *point]
                      for row, point in zip(rows, points.tolist(), strict=True)]
    return panels, lines


def neuron_figure(subject: Subject, best: Mapping[str, Any], items: Sequence[Item], descriptor: str) -> Figure:
    """A neuron over the descriptor in two utterances, of two speakers: those whose r is nearest to its mean."""
    traces: dict[str, tuple[float, Trace]] = {}  # speaker → distance of r, and the utterance nearest
    for one in items:
        neuron = subject.layer(one, best["layer"])[:, best["neuron"]]
        values = subject.descriptors(one, len(neuron))[:, NAMES.index(descriptor)]
        r = probing.correlation(neuron, values)
        distance = abs(r - best["r"]) if np.isfinite(r) else np.inf
        if distance < traces.get(one.row.speaker, (np.inf,))[0]:
            title = f"{one.row.id}, {one.row.emotion}: r = {r:.2f}"
            traces[one.row.speaker] = distance, Trace(title, subject.times(len(neuron)), neuron, values)
    nearest = [trace for _, trace in sorted(traces.values(), key=lambda pair: pair[0])[:2]]
    return trace_figure(nearest, f"layer {best['layer']}, neuron {best['neuron']}", descriptor, inverted=best["r"] < 0)


def probe(subjects: Mapping[str, Subject], items: Sequence[Item], *, progress: bool
          ) -> dict[str, dict[str, list[Result]]]:
    """Of emotion, speaker and gender, each encoder's probes by layer; what cannot be probed is left out, and told."""
    rows = [one.row for one in items]
    found = {}
    for target, function in probing.PROBES.items():
        try:
            found[target] = {
                name: [function(vectors, rows) for vectors in tqdm(subject.means(items), unit="layer",
                                                                   desc=f"probes of {target}, {name} encoder",
                                                                   disable=not progress)]
                for name, subject in subjects.items()}
        except DataError as error:
            logger.warning("no probe of %s: %s", target, error)
    return found


def save_table(path: Path, header: str, lines: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV file."""
    rounded = ([f"{value:.6g}" if isinstance(value, float) else value for value in line] for line in lines)
    write_atomically(path, lambda file: csv.writer(file, lineterminator="\n").writerows([header.split(), *rounded]))


def report(best: Mapping[str, Mapping[str, Mapping[str, Any]]], probes: Mapping[str, Mapping[str, Sequence[Result]]],
           shown: Iterable[str]) -> None:
    """Prints the neurons that follow some descriptors, and the probes."""
    for descriptor in shown:
        for name, neurons in best.items():
            if descriptor in neurons:
                print("{0}, {1} encoder: layer {layer}, neuron {neuron}, r = {r:.2f} over {utterances} utterances "
                      "(pooled {r_pooled:.2f})".format(descriptor, name, **neurons[descriptor]))
    for target, systems in probes.items():
        for name, results in systems.items():
            print(f"{target}, {name} encoder, UA by layer: {'  '.join(f'{result.value:.3f}' for result in results)}")


def main(argv: Sequence[str]) -> Path:
    """Parse → YAML → encoders → prepare → experiment directory → representations → figures, tables, ``metrics.json``.

    Returns
    -------
    Path
        The folder.
    """
    exp = experiment.load(argv)
    values = exp.values
    check_options(exp)
    encoders = {"trained": models.load_encoder(values["encoder"])}
    rnn = None if values["rnn_run"] is None else TrainedRNN(values["rnn_run"], encoders["trained"])
    twin = untrained(values, encoders["trained"])
    if twin is not None:
        encoders["random"] = twin
    items = utterances(values)

    folder = Path(values["output_folder"] or Path(values["output_root"]) / values["corpus"] / "probe"
                  / Path(values["encoder"]).name / f"seed-{values['seed']}")
    data = [[one.row.id, one.row.speaker, one.row.gender, one.row.emotion, one.row.text, one.key] for one in items]
    own = {key: value for key, value in values.items() if key not in protocol.NOT_SETTINGS}
    settings = {"recipe": "probe"} | own | {
        "data": fingerprint({"rows": sorted(data)}, {}), "version": ser_plugins.__version__,
        "encoder_fingerprint": encoders["trained"].fingerprint,
        "rnn_fingerprint": None if rnn is None else fingerprint({}, rnn.head.state_dict())}
    experiment.claim_folder(folder, settings, values["overwrite"])
    sb.create_experiment_directory(str(folder), str(exp.file), exp.nested({"output_folder": str(folder)}),
                                   experiment.LOG_CONFIG)
    subjects = {name: Subject(encoder, values["store_folder"], values["first_frame"])
                for name, encoder in encoders.items()}
    progress = not exp.run_opts.noprogressbar
    for subject in subjects.values():
        subject.store.compute(items, exp.run_opts.device or infer_device(), values["num_workers"],
                              progress=progress)

    content = {**analyse(subjects, rnn, items, values, folder, progress=progress), "settings": settings,
               "versions": {name: version(name) for name in PACKAGES}}
    write_atomically(folder / "metrics.json", lambda file: json.dump(content, file, indent=2))
    print(f"everything lies in {folder}")
    return folder


def analyse(subjects: Mapping[str, Subject], rnn: TrainedRNN | None, items: Sequence[Item], values: Mapping[str, Any],
            folder: Path, *, progress: bool) -> dict[str, Any]:
    """Writes figures and tables of what is stored; returns the best neurons and the probes, and prints of them."""
    trained = subjects["trained"]
    panels, lines = embed(trained, rnn, items, values, progress=progress)
    figures.save(scatter_figure(panels, columns=len(panels) // 2), folder / "tsne")
    save_table(folder / "tsne.csv", "representation classes id speaker emotion x y", lines)

    found = {name: subject.correlations(items, progress=progress) for name, subject in subjects.items()}
    save_table(folder / "correlations.csv", "encoder layer neuron descriptor utterances speakers r r_pooled p p_holm",
               ([name, *line] for name, subject in subjects.items() for line in subject.lines(found[name])))
    best = {name: subject.best_neurons(found[name]) for name, subject in subjects.items()}
    descriptor = values["descriptor"]
    if descriptor not in best["trained"]:
        raise DataError(f"{descriptor} has no correlation: no utterance has {probing.MIN_FRAMES} frames with a value "
                        "of it that varies")
    figures.save(neuron_figure(trained, best["trained"][descriptor], items, descriptor), folder / "neuron")

    probes = probe(subjects, items, progress=progress)
    chances = {target: 1 / len({getattr(one.row, target) for one in items}) for target in probes}
    header = "encoder layer target UA low high chance utterances speakers"
    scores = [[name, layer, target, result.value, result.low, result.high, chances[target], len(items), result.count]
              for target, systems in probes.items() for name, results in systems.items()
              for layer, result in enumerate(results, start=1)]
    save_table(folder / "probes.csv", header, scores)
    if probes:
        figures.save(probes_figure(probes, chances, "UA of a linear probe"), folder / "probes")
    report(best, probes, dict.fromkeys((descriptor, F0)))
    return {"best": best, "probes": [dict(zip(header.split(), line, strict=True)) for line in scores]}


if __name__ == "__main__":
    experiment.run(main)
