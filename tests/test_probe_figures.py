"""Figures of what a recogniser knows show the numbers that they are given."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_hex

from ser_plugins.probe_figures import COLOURS, Scatter, Trace, probes_figure, scatter_figure, trace_figure
from ser_plugins.significance import Result


def points(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 2))


def drawn(axes):
    """(x, y, colour, marker) of every point."""
    found = set()
    for collection in axes.collections:
        marker = collection.get_paths()[0].vertices.tobytes()
        for (x, y), colour in zip(collection.get_offsets(), collection.get_facecolors(), strict=True):
            found.add((round(float(x), 6), round(float(y), 6), to_hex(colour).upper(), marker))
    return found


def test_a_class_has_one_colour_in_all_panels():
    first = Scatter("all", points(6, 0), ["b", "a", "c", "a", "b", "c"], [""] * 6)
    second = Scatter("pair", points(4, 1), ["c", "a", "c", "a"], [""] * 4)
    figure = scatter_figure([first, second], columns=1)
    colours = {name: COLOURS[number] for number, name in enumerate("abc")}
    for axes, panel in zip(figure.axes, (first, second), strict=True):
        assert axes.get_title() == panel.title
        assert {point[:3] for point in drawn(axes)} == {
            (round(x, 6), round(y, 6), colours[name]) for (x, y), name in zip(panel.points, panel.classes, strict=True)}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]


def test_groups_have_markers_and_unused_panels_are_blank():
    panels = [Scatter(str(number), points(4, number), ["a", "a", "b", "b"], ["s1", "s2", "s1", "s3"])
              for number in range(3)]
    figure = scatter_figure(panels, columns=2)
    assert len({marker for *_, marker in drawn(figure.axes[0])}) == 3
    assert not figure.axes[3].axison
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "s1", "s2", "s3"]


def test_a_trace_has_both_curves_and_keeps_gaps():
    times = np.arange(5) / 25
    pitch = np.array([1.0, np.nan, 3.0, 4.0, 5.0])
    traces = [Trace("one", times, np.arange(5.0), pitch), Trace("two", times, -times, times)]
    figure = trace_figure(traces, "n", "pitch")
    curves = [axes.lines[0].get_ydata() for axes in figure.axes if axes.get_ylabel() == "pitch"]
    np.testing.assert_array_equal(curves[0], pitch)
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["one", "two"]
    assert sum(axes.get_ylabel() == "n" for axes in figure.axes) == 2


def test_an_inverted_neuron_points_down_and_says_so():
    trace = Trace("one", np.arange(3) / 25, -np.arange(3.0), np.arange(3.0))
    twins = [next(axes for axes in trace_figure([trace], "n", "pitch", inverted=inverted).axes
                  if axes.get_ylabel().startswith("n")) for inverted in (False, True)]
    assert [axes.yaxis_inverted() for axes in twins] == [False, True]
    assert [axes.get_ylabel() for axes in twins] == ["n", "n\n(inverted axis)"]
    assert twins[1].lines[0].get_ydata().tolist() == [0.0, -1.0, -2.0]


def test_scores_by_layer_with_intervals_and_chance():
    results = [Result(0.5, 10, low=0.4, high=0.7), Result(0.8, 10, low=0.75, high=0.85)]
    axes, = probes_figure({"emotion": {"trained": results, "random": results[:1]}}, {"emotion": 0.25}, "UA").axes
    trained, random = axes.containers
    np.testing.assert_allclose(trained.lines[0].get_ydata(), [0.5, 0.8])
    ends = [segment[:, 1].tolist() for segment in trained.lines[2][0].get_segments()]
    np.testing.assert_allclose(ends, [[0.4, 0.7], [0.75, 0.85]])
    assert len(random.lines[0].get_ydata()) == 1
    assert [line.get_ydata()[0] for line in axes.lines if line.get_label() == "chance"] == [0.25]
    assert axes.get_ylabel() == "UA"
