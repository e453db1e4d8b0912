"""Figures show the numbers that they are given, and are images."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ser_plugins import figures
from ser_plugins.errors import DataError
from ser_plugins.figures import confusion_figure

LABELS = ["anger", "happiness", "neutral", "sadness"]
MATRIX = np.array([[8, 1, 1, 0], [0, 3, 1, 0], [2, 2, 3, 1], [0, 0, 0, 0]])


def cells(figure):
    return {tuple(map(int, text.get_position())): text.get_text() for text in figure.axes[0].texts}


def test_each_cell_holds_its_share_of_the_row_and_its_count():
    shown = cells(confusion_figure(MATRIX, LABELS))
    assert len(shown) == 16
    for row, counts in enumerate(MATRIX.tolist()):
        for column, count in enumerate(counts):
            if not sum(counts):
                assert shown[column, row] == "–"
                continue
            share = 100 * count / sum(counts)
            percent, number = shown[column, row].split("\n")
            assert float(percent.removesuffix("%")) == pytest.approx(share, abs=0.5)
            assert number == f"({count})"


def test_the_row_of_a_class_without_utterances_is_blank():
    axes = confusion_figure(MATRIX, LABELS).axes[0]
    colours = axes.images[0].to_rgba(axes.images[0].get_array())
    assert (colours[..., 3] == 0).tolist() == [[False] * 4] * 3 + [[True] * 4]
    assert [text.get_color() for text in axes.texts[-4:]] == ["black"] * 4


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


def test_a_panel_has_the_shares_of_its_system():
    figure = figures.confusions_figure({"one": MATRIX, "two": MATRIX.T}, LABELS)
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]
    for axes, matrix in zip(figure.axes, (MATRIX, MATRIX.T), strict=True):
        texts = np.array([text.get_text() for text in axes.texts]).reshape(4, 4).tolist()
        assert texts == [[f"{100 * count / sum(row):.0f}" if sum(row) else "–" for count in row]
                         for row in matrix.tolist()]
    one = figure.axes[0]
    assert [label.get_text() for label in one.get_yticklabels()] == LABELS
    assert [label.get_text() for label in one.get_xticklabels()] == LABELS


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


def test_curves_are_scaled_to_later_epochs_and_end_where_few_units_are_left():
    fall = np.repeat(np.array([[50.0], [1.0], [0.8], [0.6], [0.5]]), 2, axis=1)
    axes = figures.curves_figure({"mp": [fall[:3], fall[:3], fall]}, {}).axes[0]
    assert axes.lines[1].get_xdata().tolist() == [1, 2, 3]
    assert 1 < axes.get_ylim()[1] < 1.1
    assert axes.get_xlim()[0] > 0


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


@pytest.mark.parametrize("name", ["tsne", "svm-0.5"])
def test_a_figure_is_saved_as_png_and_pdf_and_twice_the_same(tmp_path, name):
    for folder in ("a", "b"):
        figures.save(confusion_figure(MATRIX, LABELS), tmp_path / folder / name)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {f"{name}.png", f"{name}.pdf"}
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_figure_is_laid_out_once(monkeypatch):
    figure = confusion_figure(MATRIX, LABELS)
    first = figures.content(figure, "svg")
    monkeypatch.setattr(type(figure), "draw_without_rendering", lambda _: pytest.fail("it is laid out again"))
    assert figures.content(figure, "svg") == first


def test_a_figure_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "tsne.png").mkdir()  # is in the way
    with pytest.raises(DataError, match=r"tsne\.png cannot be written"):
        figures.save(confusion_figure(MATRIX, LABELS), tmp_path / "tsne")
    assert [path.name for path in tmp_path.iterdir()] == ["tsne.png"]


def test_no_statistics_are_imported():
    code = "import sys, ser_plugins.figures; sys.exit(' '.join({'torch', 'scipy'} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
