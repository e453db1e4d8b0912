"""Figures as functions of counts and vectors: arrays in, matplotlib figures out.

Colours can be told apart by the colour-blind: Okabe and Ito 2008 for kinds, Blues and PuOr for values. Of many
systems each has a small panel of its own, since twenty lines in one panel cannot be followed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from ser_plugins.files import write_atomically

Reliability = tuple[np.ndarray, np.ndarray, np.ndarray]  # confidence, accuracy and share of each bin
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
KINDS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
GREY = "#888888"


def row_shares(counts: np.ndarray) -> np.ndarray:
    """Counts ``[true class, predicted class]`` as shares of their row; NaN where a class has no utterances."""
    counts = np.asarray(counts)
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)


def confusion_figure(matrix: np.ndarray, labels: Sequence[str], title: str = "") -> Figure:
    """Confusion matrix, each row in per cent of its true class, with counts (Lakomkin et al. 2017, Fig. 5).

    The row of a class without utterances stays blank.

    Arguments
    ---------
    matrix : np.ndarray
        Counts, ``[true class, predicted class]``; of several runs, their mean.
    labels : Sequence[str]
        Names of the classes.
    title : str
        Printed above.

    Returns
    -------
    matplotlib.figure.Figure
    """
    shares = row_shares(matrix)
    figure = Figure(figsize=(1.6 + 0.9 * len(labels), 1.2 + 0.8 * len(labels)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    texts = [["–" if np.isnan(share) else f"{share:.0%}\n({round(float(count), 1):g})"
              for share, count in zip(*rows, strict=True)]
             for rows in zip(shares, matrix, strict=True)]
    _write_cells(axes, image, texts)
    ticks = range(len(labels))
    axes.set(xticks=ticks, yticks=ticks, xlabel="predicted", ylabel="true", title=title)
    axes.set_xticklabels(labels, rotation=30, ha="right")
    axes.set_yticklabels(labels)
    figure.colorbar(image, ax=axes, label="share of the true class", format="{x:.0%}")
    return figure


def confusions_figure(systems: Mapping[str, np.ndarray], labels: Sequence[str]) -> Figure:
    """Confusion matrices, ``[true class, predicted class]``, a panel for each system: each row in per cent."""
    figure, panels = _panels(list(systems), xlabel="predicted", ylabel="true")
    figure.set_layout_engine("compressed")  # panels are square
    figure.set_figheight(figure.get_figheight() + 0.6)  # inches, for the classes below two rows
    for axes, matrix in zip(panels, systems.values(), strict=True):
        shares = row_shares(matrix)
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        texts = [["–" if np.isnan(share) else f"{100 * share:.0f}" for share in row] for row in shares]
        _write_cells(axes, image, texts, fontsize=min(7, 40 / len(labels)))
        _name_ticks(axes, labels, labels)
    return figure


def comparison_figure(names: Sequence[str], difference: np.ndarray, p: np.ndarray, level: float = 0.05) -> Figure:
    """Who beats whom: above the diagonal, row minus column in percentage points; below it, p.

    Arguments
    ---------
    names : Sequence[str]
        The systems.
    difference : np.ndarray
        ``[systems, systems]``, row minus column, in [-1, 1].
    p : np.ndarray
        ``[systems, systems]``, symmetric; NaN where there is none.
    level : float
        A pair with p up to it is coloured and bold, others are pale.
    """
    count = len(names)
    upper = np.arange(count)[:, None] < np.arange(count)
    certain = (p <= level) | (p <= level).T
    texts = [["" if i == j else f"{100 * difference[i, j]:+.1f}".replace("-", "−") if upper[i, j] else _short(p[i, j])
              for j in range(count)] for i in range(count)]
    side, margin = 0.48 * count, 0.2 + 0.085 * max(map(len, names))  # inches; the margin is for the names
    figure = Figure(figsize=(side + margin + 1.1, side + max(0.75 * margin, 2.2 - side)), layout="compressed")
    axes = figure.subplots()
    reach = max(0.01, float(np.abs(difference).max())) * 100
    shown = 100 * np.where(upper, difference, 0) * np.where(certain, 1, 0.35)
    image = axes.imshow(shown, cmap="PuOr", vmin=-reach, vmax=reach)
    for text, bold in zip(_write_cells(axes, image, texts, fontsize=7.5), certain.ravel(), strict=True):
        text.set_fontweight("bold" if bold else "normal")
    _name_ticks(axes, names, names)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    figure.colorbar(image, ax=axes).set_label("points of UA", fontsize=8)  # of a short figure too
    return figure


def corpora_figure(train: Sequence[str], test: Sequence[str], values: np.ndarray, title: str = "") -> Figure:
    """UA by corpus of training (rows) and of the test (columns); NaN, not tried, stays blank."""
    figure = Figure(figsize=(2.2 + 0.9 * len(test), 1.6 + 0.6 * len(train)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=1)
    _write_cells(axes, image, [["–" if np.isnan(value) else f"{value:.3f}" for value in row] for row in values])
    _name_ticks(axes, test, train)
    axes.set(xlabel="tested on", ylabel="trained on", title=title)
    return figure


def layers_figure(lines: Mapping[tuple[str, bool], Sequence[tuple[int, float, float, float]]],
                  references: Mapping[str, float]) -> Figure:
    """UA by the recogniser's layer.

    Arguments
    ---------
    lines : Mapping
        (Head, whether the encoder has random weights) → layer, UA and ends of its interval, NaN for none; controls are
        dashed, in the head's colour.
    references : Mapping[str, float]
        UA of systems without a layer, dotted.
    """
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    heads = list(dict.fromkeys(head for head, _ in lines))
    marks = dict(zip(heads, "osD^vP*X", strict=False))
    for number, ((head, control), points) in enumerate(lines.items()):
        layer, value, low, high = np.array(sorted(points), dtype=float).T
        shift = 0.3 * ((number + 0.5) / len(lines) - 0.5)  # so that intervals do not hide each other
        errors = [np.maximum(value - low, 0), np.maximum(high - value, 0)]
        axes.errorbar(layer + shift, value, errors, color=KINDS[heads.index(head) % len(KINDS)], capsize=2.5,
                      linewidth=1.6, elinewidth=0.9, marker=marks.get(head, "o"), markersize=5,
                      linestyle="--" if control else "-", markerfacecolor="white" if control else None,
                      label=f"{head}, random weights" if control else head)
    for number, (name, value) in enumerate(references.items()):
        dots = (0, (1, 1 + 1.5 * number))
        axes.axhline(value, color=GREY, linewidth=1.2, linestyle=dots, label=f"{name}: {value:.2f}")
    layers = sorted({point[0] for points in lines.values() for point in points})
    axes.set(xlabel="layer of the recogniser", ylabel="UA", xticks=layers)
    axes.grid(axis="y", color="#dddddd")
    entries = list(zip(*axes.get_legend_handles_labels(), strict=True))
    handles, labels = zip(*entries[len(references):], *entries[:len(references)], strict=True)  # references last
    axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, handlelength=3.5,
                frameon=False)
    return figure


def speakers_figure(names: Sequence[str], values: np.ndarray, genders: Sequence[str],
                    worst: Sequence[str]) -> Figure:
    """UA of each speaker, a row for each system; a bar marks their mean.

    Arguments
    ---------
    names : Sequence[str]
        The systems.
    values : np.ndarray
        ``[systems, speakers]``.
    genders : Sequence[str]
        Of each speaker; empty where it is unknown.
    worst : Sequence[str]
        What to write beside the lowest value of each system.
    """
    figure = Figure(figsize=(8, 1.4 + 0.27 * len(names)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(names))
    for gender, colour, mark in (("female", VERMILION, "o"), ("male", BLUE, "s"), ("", GREY, "D")):
        chosen = [position for position, found in enumerate(genders) if found == gender]
        if chosen:
            axes.scatter(values[:, chosen], np.repeat(rows[:, None], len(chosen), axis=1), s=22, color=colour,
                         marker=mark, alpha=0.75, linewidths=0, label=gender or "gender unknown")
    axes.scatter(values.mean(axis=1), rows, marker="|", s=130, color=BLACK, linewidths=1.8, label="mean")
    for row, (lowest, text) in enumerate(zip(values.min(axis=1), worst, strict=True)):
        axes.annotate(text, (lowest, row), (-6, 0), textcoords="offset points", ha="right", va="center", fontsize=7.5)
    axes.set(yticks=rows, yticklabels=names, xlabel="UA of a speaker", xlim=(-0.1, 1.03), ylim=(len(names) - 0.4, -0.6))
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper right", ncols=4, fontsize=8, frameon=False)
    return figure


def reliability_figure(systems: Mapping[str, Sequence[Reliability]]) -> Figure:
    """Accuracy against confidence, a panel for each system: before, and where there is a second, after the temperature.

    The area of a mark is the bin's share of the utterances.
    """
    figure, panels = _panels(list(systems), xlabel="confidence", ylabel="accuracy")
    for axes, lines in zip(panels, systems.values(), strict=True):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        for (confidence, accuracy, share), colour, label in zip(lines, (VERMILION, BLUE), ("as it is", "tempered"),
                                                                strict=False):
            axes.plot(confidence, accuracy, color=colour, linewidth=0.8, alpha=0.4)
            axes.scatter(confidence, accuracy, s=3 + 120 * share, color=colour, alpha=0.7, linewidths=0, clip_on=False)
            axes.plot([], [], "o", color=colour, markersize=5, label=label)  # a mark of one size for the legend
        axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
    _legend(figure, panels)
    return figure


def coverage_figure(shares: np.ndarray, systems: Mapping[str, np.ndarray]) -> Figure:
    """UA of the most confident share, ``[shares]`` for each system, a panel each; grey, the best of all."""
    figure, panels = _panels(list(systems), xlabel="share of the utterances that is kept", ylabel="UA")
    everything = np.array(list(systems.values()))
    for axes, line in zip(panels, systems.values(), strict=True):
        axes.plot(shares, everything.max(axis=0), color="#aaaaaa", linewidth=1)
        axes.plot(shares, line, color=BLUE, linewidth=1.8)
        axes.set(xlim=(0, 1), ylim=(max(0.0, float(everything.min()) - 0.05), 1.01), xticks=(0, 0.5, 1))
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    return figure


def curves_figure(systems: Mapping[str, Sequence[np.ndarray]], tested: Mapping[str, float]) -> Figure:
    """Loss by epoch, a panel for each system: median over its units and the middle half of them.

    Arguments
    ---------
    systems : Mapping[str, Sequence[np.ndarray]]
        ``[epochs, 2]`` of each unit, loss of training and of validation. A unit that ended earlier is left out of the
        later epochs, and a line ends where fewer than half of the units are left.
    tested : Mapping[str, float]
        Median of the tested epoch, from 1; marked where there is one.
    """
    figure, panels = _panels(list(systems), xlabel="epoch", ylabel="cross-entropy", share_x=False)
    tops = []
    for axes, (name, curves) in zip(panels, systems.items(), strict=True):
        padded = np.full((len(curves), max(map(len, curves)), 2), np.nan)
        for unit, curve in zip(padded, curves, strict=True):
            unit[:len(curve)] = curve
        padded = padded[:, 2 * np.isfinite(padded[..., 0]).sum(axis=0) >= len(curves)]
        low, middle, high = np.nanpercentile(padded, (25, 50, 75), axis=0)  # [epochs, 2]
        epochs = np.arange(1, len(middle) + 1)
        for part, colour, label in ((0, GREY, "training"), (1, BLUE, "validation")):
            axes.fill_between(epochs, low[:, part], high[:, part], color=colour, alpha=0.25, linewidth=0)
            axes.plot(epochs, middle[:, part], color=colour, linewidth=1.3, label=label)
        if name in tested:
            axes.axvline(tested[name], color=VERMILION, linewidth=1, linestyle="--", label="tested epoch, median")
        axes.set_xlim(left=0.5)  # epochs count from 1: no tick at 0
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        tops.append(float(np.nanpercentile(high[1:] if len(high) > 1 else high, 90)))  # the first ones are far off
    for axes in panels:
        axes.set_ylim(0, 1.05 * max(tops))
    _legend(figure, panels)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes PATH.png and PATH.pdf, whole or not at all, with the same bytes for the same figure."""
    for kind in ("png", "pdf"):
        written = content(figure, kind)
        write_atomically(path.with_name(f"{path.name}.{kind}"), partial(_write, written), binary=True)


def content(figure: Figure, kind: str) -> bytes:
    """A figure as svg, png or pdf."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        with matplotlib.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)  # keeps what is laid out: doing it for each format takes most of the time
    stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "ser_plugins"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=stamp)
    return buffer.getvalue()


def _write(content: bytes, file: IO[bytes]) -> None:
    file.write(content)


def _panels(names: Sequence[str], xlabel: str, ylabel: str, share_x: bool = True) -> tuple[Figure, list[Axes]]:
    """A small panel for each system."""
    columns = min(len(names), 6)
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(max(5.0, 1.75 * columns), 0.8 + 1.75 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=share_x, sharey=True, squeeze=False).ravel().tolist()
    for axes in panels[len(names):]:
        axes.remove()
    for axes, name in zip(panels, names, strict=False):
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in panels[max(0, len(names) - columns):len(names)]:
        axes.tick_params(labelbottom=True)  # the last panel of a column, where the last row is not full
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    return figure, panels[:len(names)]


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels."""
    entries = [entry for axes in panels for entry in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in entries}
    figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=4, fontsize=8, frameon=False)


def _short(p: float) -> str:
    """A p-value of three digits, or nothing for NaN."""
    return "" if np.isnan(p) else "1" if p > 0.9995 else "<.001" if p < 0.0005 else f"{p:.3f}".removeprefix("0")


def _name_ticks(axes: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)


def _write_cells(axes: Axes, image: AxesImage, texts: Sequence[Sequence[str]], fontsize: float = 9) -> list:
    """A text in each cell, black on a bright colour and white on a dark one (luminance of ITU-R BT.709)."""
    colours = image.to_rgba(np.ma.asarray(image.get_array()))
    colours[colours[..., 3] == 0] = 1  # no value: the white of the paper
    brightness = colours[..., :3] @ (0.2126, 0.7152, 0.0722)
    return [axes.text(column, row, texts[row][column], ha="center", va="center", fontsize=fontsize,
                      color="black" if brightness[row, column] > 0.5 else "white")
            for row, column in np.ndindex(brightness.shape)]
