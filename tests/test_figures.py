"""Figures show the numbers that they are given, and are images."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from ser_plugins import figures
from ser_plugins.figures import (
    COLOURS,
    Scatter,
    Trace,
    confusion_figure,
    layer_figure,
    scatter_figure,
    trace_figure,
)
from ser_plugins.significance import Result

LABELS = ["anger", "happiness", "neutral", "sadness"]
MATRIX = np.array([[8, 1, 1, 0], [0, 3, 1, 0], [2, 2, 3, 1], [0, 0, 0, 0]])


def cells(figure):
    return {tuple(map(int, text.get_position())): text.get_text() for text in figure.axes[0].texts}


def test_each_cell_holds_its_share_of_the_row_and_its_count():
    shown = cells(confusion_figure(MATRIX, LABELS))
    assert len(shown) == 16
    for row, counts in enumerate(MATRIX.tolist()):
        for column, count in enumerate(counts):
            share = 100 * count / sum(counts) if sum(counts) else 0
            percent, number = shown[column, row].split("\n")
            assert float(percent.removesuffix("%")) == pytest.approx(share, abs=0.5)
            assert number == f"({count})"


def test_rows_are_the_true_class():
    axes = confusion_figure(MATRIX, LABELS, "progressive-2").axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel(), axes.get_title()) == ("true", "predicted", "progressive-2")
    assert [label.get_text() for label in axes.get_yticklabels()] == LABELS
    assert [label.get_text() for label in axes.get_xticklabels()] == LABELS


def test_a_cell_can_be_read_on_its_colour():
    figure = confusion_figure(np.array([[9, 1], [0, 5]]), ["a", "b"])
    axes = figure.axes[0]
    image = axes.images[0]
    for text in axes.texts:
        column, row = map(int, text.get_position())
        red, green, blue, _ = image.to_rgba(image.get_array()[row, column])
        bright = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5
        assert text.get_color() == ("black" if bright else "white")


@pytest.mark.parametrize("classes", [2, 4, 7])
def test_it_is_an_image_that_opens(tmp_path, classes):
    matrix = np.arange(classes * classes).reshape(classes, classes)
    path = tmp_path / "confusion.png"
    confusion_figure(matrix, [f"label {number}" for number in range(classes)], "title").savefig(path)
    with Image.open(path) as image:
        image.verify()
        assert min(image.size) > 200


# Figures of a whole protocol


def test_a_mean_count_has_one_digit():
    assert cells(confusion_figure(np.array([[2 / 3, 4], [0, 1]]), ["a", "b"]))[0, 0] == "14%\n(0.7)"


def test_who_beats_whom_shows_differences_above_and_p_below_the_diagonal():
    difference = np.array([[0, 0.1, -0.25], [-0.1, 0, 0.004], [0.25, -0.004, 0]])
    p = np.array([[np.nan, 0.2, 0.0312], [0.2, np.nan, 1.0], [0.0312, 1.0, np.nan]])
    axes = figures.comparison_figure(["x", "y", "z"], difference, p).axes[0]
    texts = np.array([text.get_text() for text in axes.texts]).reshape(3, 3).tolist()
    assert texts == [["", "+10.0", "−25.0"], [".200", "", "+0.4"], [".031", "1", ""]]
    bold = np.array([text.get_fontweight() == "bold" for text in axes.texts]).reshape(3, 3)
    assert np.argwhere(bold).tolist() == [[0, 2], [2, 0]]


def test_without_p_the_half_below_the_diagonal_is_empty():
    p = np.full((2, 2), np.nan)
    axes = figures.comparison_figure(["x", "y"], np.array([[0, 0.1], [-0.1, 0]]), p).axes[0]
    assert [text.get_text() for text in axes.texts] == ["", "+10.0", "", ""]


def test_layers_are_lines_with_intervals_and_controls_are_dashed():
    points = [(2, 0.7, 0.6, 0.75), (1, 0.5, 0.4, 0.6)]
    axes = figures.layers_figure({("mp", False): points, ("mp", True): points[:1]}, {"majority": 0.25}).axes[0]
    (line, _, (bars,)), (control, *_) = (container.lines for container in axes.containers)
    assert line.get_ydata().tolist() == [0.5, 0.7]
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert ends == [pytest.approx([0.4, 0.6]), pytest.approx([0.6, 0.75])]
    assert (line.get_linestyle(), control.get_linestyle()) == ("-", "--")
    assert line.get_color() == control.get_color()
    assert [text.get_text() for text in axes.get_legend().texts] == ["mp", "mp, random weights", "majority: 0.25"]


def test_each_speaker_is_a_mark_in_the_row_of_the_system():
    values = np.array([[0.5, 0.7, 0.9], [0.4, 0.3, 0.2]])
    axes = figures.speakers_figure(["one", "two"], values, ["female", "", "female"], ["s1", "s3"]).axes[0]
    marks = np.vstack([np.asarray(collection.get_offsets()) for collection in axes.collections[:-1]])
    expected = [(value, row) for row, system in enumerate(values.tolist()) for value in system]
    assert sorted(map(tuple, marks.tolist())) == sorted(expected)
    assert np.asarray(axes.collections[-1].get_offsets()) == pytest.approx(np.array([[0.7, 0], [0.3, 1]]))
    assert [(text.get_text(), *text.xy) for text in axes.texts] == [("s1", 0.5, 0), ("s3", 0.2, 1)]


def test_curves_are_the_median_of_the_units_that_run_so_long():
    short, long = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]])
    axes = figures.curves_figure({"mp": [short, long]}, {"mp": 1.5}).axes[0]
    training, validation, tested = axes.lines
    assert training.get_ydata().tolist() == [2.0, 5.0]
    assert validation.get_ydata().tolist() == [3.0, 6.0]
    assert tested.get_xdata() == [1.5, 1.5]


def test_corpora_that_were_not_tried_stay_blank():
    axes = figures.corpora_figure(["a"], ["a", "b"], np.array([[0.5, np.nan]])).axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.500", "–"]
    assert axes.texts[1].get_color() == "black"


@pytest.mark.parametrize("count", [1, 5, 22])
def test_panels_of_any_number_of_systems(count):
    shares = np.array([0.5, 1.0])
    systems = {f"s{number}": np.array([0.9, number / 22]) for number in range(count)}
    figure = figures.coverage_figure(shares, systems)
    assert [axes.get_title() for axes in figure.axes] == list(systems)
    assert [axes.lines[-1].get_ydata().tolist() for axes in figure.axes] == [line.tolist() for line in systems.values()]
    bins = tuple(np.array([value]) for value in (0.8, 0.6, 1.0))
    figure = figures.reliability_figure({name: [bins, bins] for name in systems})
    assert [len(axes.collections) for axes in figure.axes] == [2] * count


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


def test_scores_by_layer_with_intervals_and_chance():
    results = [Result(0.5, 10, low=0.4, high=0.7), Result(0.8, 10, low=0.75, high=0.85)]
    axes, = layer_figure({"emotion": {"trained": results, "random": results[:1]}}, {"emotion": 0.25}, "UA").axes
    trained, random = axes.containers
    np.testing.assert_allclose(trained.lines[0].get_ydata(), [0.5, 0.8])
    ends = [segment[:, 1].tolist() for segment in trained.lines[2][0].get_segments()]
    np.testing.assert_allclose(ends, [[0.4, 0.7], [0.75, 0.85]])
    assert len(random.lines[0].get_ydata()) == 1
    assert [line.get_ydata()[0] for line in axes.lines if line.get_label() == "chance"] == [0.25]
    assert axes.get_ylabel() == "UA"
