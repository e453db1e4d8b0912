"""The confusion figure shows every share and count, and is an image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

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
