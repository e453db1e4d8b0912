"""Figures of what a recogniser knows: points of utterances, neurons over time, probes of its layers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ser_plugins.figures import KINDS, YELLOW
from ser_plugins.significance import Result

COLOURS = (*KINDS, YELLOW)
MARKERS = "osD^vPX*<>ph8dH"


@dataclass(frozen=True)
class Scatter:
    """One panel of `scatter_figure`: points ``[points, 2]``, and of each its class and (for its marker) its group."""

    title: str
    points: np.ndarray
    classes: Sequence[str]
    groups: Sequence[str]


def scatter_figure(panels: Sequence[Scatter], columns: int) -> Figure:
    """Points of utterances, coloured by class (Lakomkin et al. 2017, Fig. 4); axes of t-SNE have no unit.

    Arguments
    ---------
    panels : Sequence[Scatter]
        Row by row. A class has one colour, a group one marker in all of them; the group "" is not named.
    columns : int
        Panels in a row.

    Returns
    -------
    matplotlib.figure.Figure
    """
    rows = -(-len(panels) // columns)
    classes = list(dict.fromkeys(name for panel in panels for name in sorted({*panel.classes})))
    groups = list(dict.fromkeys(name for panel in panels for name in sorted({*panel.groups})))
    colours = dict(zip(classes, itertools.cycle(COLOURS), strict=False))
    markers = dict(zip(groups, itertools.cycle(MARKERS), strict=False))
    figure = Figure(figsize=(1 + 2.8 * columns, 0.8 + 3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        order = np.random.default_rng(0).permutation(len(panel.points))  # no class is drawn over all others
        for marker in {*panel.groups}:
            chosen = [at for at in order if panel.groups[at] == marker]
            axes.scatter(*panel.points[chosen].T, s=14, marker=markers[marker], linewidths=0, alpha=0.8,
                         c=[colours[panel.classes[at]] for at in chosen])
        axes.set_title(panel.title, fontsize=9)
    for axes in grid:
        axes.set(xticks=[], yticks=[])
    for axes in grid[len(panels):]:
        axes.set_axis_off()
    handles = [Line2D([], [], marker="o", linestyle="", color=colours[name], label=name) for name in classes]
    handles += [Line2D([], [], marker=markers[name], linestyle="", color="grey", label=name) for name in groups if name]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 2 + 2 * columns), frameon=False)
    return figure


@dataclass(frozen=True)
class Trace:
    """One panel of `trace_figure`: times in seconds, a neuron and a descriptor, ``[frames]`` each."""

    title: str
    times: np.ndarray
    neuron: np.ndarray
    descriptor: np.ndarray


def trace_figure(traces: Sequence[Trace], neuron: str, descriptor: str, *, inverted: bool = False) -> Figure:
    """A neuron over a descriptor of the speech, each on its own scale (Lakomkin et al. 2017, Fig. 6).

    One that falls where the descriptor rises is ``inverted``, so that the eye can follow: its axis points down.
    """
    figure = Figure(figsize=(7, 0.6 + 2.2 * len(traces)), layout="constrained")
    for axes, trace in zip(figure.subplots(len(traces), squeeze=False)[:, 0], traces, strict=True):
        twin = axes.twinx()
        axes.plot(trace.times, trace.descriptor, color=COLOURS[4], linewidth=2.5)
        twin.plot(trace.times, trace.neuron, color=COLOURS[0], linewidth=1.2, linestyle="--")
        axes.set_title(trace.title, fontsize=9)
        axes.set_xlabel("time (s)")
        axes.set_ylabel(descriptor, color="#8A5A00", fontsize=9)  # a darker tone of the line's: text is thin
        twin.set_ylabel(f"{neuron}\n(inverted axis)" if inverted else neuron, color=COLOURS[0])
        twin.yaxis.set_inverted(inverted)
    return figure


def probes_figure(panels: Mapping[str, Mapping[str, Sequence[Result]]], chances: Mapping[str, float],
                  score: str) -> Figure:
    """Scores of probes by layer, with their intervals and the level of chance.

    Arguments
    ---------
    panels : Mapping[str, Mapping[str, Sequence[Result]]]
        Title of a panel → system → results of layer 1, 2, …
    chances : Mapping[str, float]
        Title of a panel → the score of a guess.
    score : str
        Name of the score.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(1 + 3.2 * len(panels), 3.6), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, systems) in zip(grid, panels.items(), strict=True):
        for number, (system, results) in enumerate(systems.items()):
            value, low, high = np.array([[result.value, result.low, result.high] for result in results], dtype=float).T
            layers = np.arange(1, len(results) + 1)
            axes.errorbar(layers + 0.08 * number, value, (value - low, high - value), label=system, capsize=3,
                          color=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)])
        axes.axhline(chances[title], color="grey", linestyle=":", label="chance")
        axes.set(title=title, xlabel="layer", xticks=layers, ylim=(0, 1.02))
    grid[0].set_ylabel(score)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure
