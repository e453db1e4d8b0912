"""Figures as functions of counts and vectors: arrays in, matplotlib figures out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure


def confusion_figure(matrix: np.ndarray, labels: Sequence[str], title: str = "") -> Figure:
    """Confusion matrix, each row in per cent of its true class, with counts (Lakomkin et al. 2017, Fig. 5).

    Arguments
    ---------
    matrix : np.ndarray
        Counts, ``[true class, predicted class]``.
    labels : Sequence[str]
        Names of the classes.
    title : str
        Printed above.

    Returns
    -------
    matplotlib.figure.Figure
    """
    matrix = np.asarray(matrix)
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    figure = Figure(figsize=(1.6 + 0.9 * len(labels), 1.2 + 0.8 * len(labels)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    for row, column in np.ndindex(matrix.shape):
        axes.text(column, row, f"{shares[row, column]:.0%}\n({matrix[row, column]})", ha="center", va="center",
                  fontsize=9, color="black" if shares[row, column] > 0.55 else "white")
    ticks = range(len(labels))
    axes.set(xticks=ticks, yticks=ticks, xlabel="predicted", ylabel="true", title=title)
    axes.set_xticklabels(labels, rotation=30, ha="right")
    axes.set_yticklabels(labels)
    figure.colorbar(image, ax=axes, label="share of the true class", format="{x:.0%}")
    return figure
