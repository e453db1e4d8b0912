"""A report's tables and figures as files, and the page that holds them all."""

from __future__ import annotations

import base64
import csv
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ser_plugins import page
from ser_plugins.errors import DataError
from ser_plugins.page import DASH, Picture, Section, Table

RECORDS = [{"system": "mp_1 & <b>", "low": 0.123456789, "high": 0.5}, {"system": "rnn", "low": None, "high": 0.5}]
TABLE = Table("numbers", "A title. The rest: 50 %.", RECORDS,
              {"system": "{system}", "interval": "{low:.2f} to {high:.2f}", "absent": "{absent:.2f}"})


class Tags(HTMLParser):
    """Start tags with their attributes, and the text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def picture():
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot(np.arange(3))
    return Picture("line", "A line.", 'rising "steadily"', figure)


def test_a_number_that_there_is_none_of_is_a_dash():
    assert TABLE.rows == [["mp_1 & <b>", "0.12 to 0.50", DASH], ["rnn", DASH, DASH]]


def test_a_number_that_is_none_is_a_dash_and_empty_in_the_csv_file(tmp_path):
    table = Table("t", "", [{"a": float("nan"), "b": 1}, {"a": np.float64("nan"), "b": None}], {"a": "{a:.1f}"})
    assert table.rows == [[DASH], [DASH]]
    table.save(tmp_path)
    assert (tmp_path / "t.csv").read_text() == "a,b\n,1\n,\n"


@pytest.mark.parametrize("key", ["a.b[0]", "calm: low", "{x}", "!r"])
def test_the_key_of_a_value_may_be_any_text(key):
    records = [{key: value} for value in (0.5, None, float("nan"))]
    assert Table("t", "", records, {"x": (key, ".1f")}).rows == [["0.5"], ["–"], ["–"]]


def test_the_csv_file_has_all_digits(tmp_path):
    TABLE.save(tmp_path)
    with open(tmp_path / "numbers.csv", encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert float(first["low"]) == 0.123456789
    assert first["system"] == "mp_1 & <b>"
    assert second["low"] == ""


def test_records_may_differ_in_their_keys(tmp_path):
    Table("t", "", [{"a": 1}, {"b": 2}], {"a": "{a}"}).save(tmp_path)
    assert (tmp_path / "t.csv").read_text() == "a,b\n1,\n,2\n"


def test_latex_escapes_its_signs_and_has_as_many_cells_in_each_row(tmp_path):
    TABLE.save(tmp_path)
    lines = (tmp_path / "numbers.tex").read_text(encoding="utf-8").splitlines()
    assert lines[1] == r"\begin{tabular}{lrr}"
    assert lines[5] == r"mp\_1 \& $<$b$>$ & 0.12 to 0.50 & -- \\"
    rows = [line for line in lines if line.endswith(r"\\")]
    assert len(rows) == 3
    assert {line.replace(r"\&", "").count("&") for line in rows} == {2}


@pytest.mark.parametrize(("text", "expected"), [
    ("mp-3 > rnn-2", "mp-3 $>$ rnn-2"), ("a < b | c", "a $<$ b $|$ c"), ("p ≤ 0.05", r"p $\le$ 0.05"),
    ("0.5 ± 0.1 – 0.6", r"0.5 $\pm$ 0.1 -- 0.6"), ("−0.1, a → b, 2 × 3", r"$-$0.1, a $\to$ b, 2 $\times$ 3"),
    (r"C:\x_{1}", r"C:\textbackslash{}x\_\{1\}"), ("~/a^2…", r"\textasciitilde{}/a\textasciicircum{}2\dots{}"),
    ("50 % & $1 #2", r"50 \% \& \$1 \#2"),
])
def test_signs_in_latex(tmp_path, text, expected):
    Table("t", "", [{"a": text}], {"a": "{a}"}).save(tmp_path)
    assert (tmp_path / "t.tex").read_text(encoding="utf-8").splitlines()[5] == rf"{expected} \\"
    assert expected.isascii()  # whatever the input encoding


def test_the_page_needs_nothing_else(tmp_path):
    written = page.write(tmp_path, "a <title>", [Section("First part", ["a & b"], [TABLE, picture()], ["run --it"]),
                                                 Section("Second", small=True, items=[picture()])])
    found = Tags(written)
    addresses = [value for _, attributes in found.tags for key, value in attributes.items() if key in ("src", "href")]
    assert len([one for one in addresses if one.startswith("data:image/svg+xml;base64,")]) == 2
    identities = {attributes["id"] for _, attributes in found.tags if "id" in attributes}
    assert all(one.startswith("data:") or one.removeprefix("#") in identities for one in addresses)
    assert "@import" not in written.read_text()
    assert "url(" not in written.read_text()
    svg = base64.b64decode(next(one for one in addresses if one.startswith("data:")).partition(",")[2])
    assert b"<svg" in svg
    for text in ("a <title>", "mp_1 & <b>", "0.12 to 0.50", "run --it", "A line."):
        assert text in found.text
    assert [attributes["alt"] for tag, attributes in found.tags if tag == "img"] == ['rising "steadily"'] * 2


def test_what_an_earlier_page_made_is_removed_and_nothing_else(tmp_path):
    for name in ("notes.csv", "line2.png"):
        (tmp_path / name).write_text("the user's")
    page.write(tmp_path, "one", [Section("A", items=[TABLE, picture()])])
    assert {"numbers.csv", "numbers.tex", "line.png", "line.pdf"} <= {path.name for path in tmp_path.iterdir()}
    (tmp_path / "line.pdf").unlink()  # by the user
    page.write(tmp_path, "two", [Section("A", items=[TABLE])])
    assert {path.name for path in tmp_path.iterdir()} == {
        "index.html", "files.json", "numbers.csv", "numbers.tex", "notes.csv", "line2.png"}


def test_a_page_needs_a_folder(tmp_path):
    (tmp_path / "README.md").write_text("text")
    with pytest.raises(DataError, match=r"README\.md is a file; a page needs a folder"):
        page.write(tmp_path / "README.md", "one", [Section("A")])


def test_a_file_that_no_page_made_is_not_replaced(tmp_path):
    (tmp_path / "index.html").write_text("the user's")
    with pytest.raises(DataError, match=r"index\.html exists \(of 5 files to write, 1 do\), and no page was"):
        page.write(tmp_path, "one", [Section("A", items=[TABLE, picture()])])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("index.html", "the user's")]


def test_what_is_apart_is_a_file_and_not_on_the_page(tmp_path):
    written = page.write(tmp_path, "one", [Section("A", apart=[TABLE, picture()])])
    assert {path.name for path in tmp_path.iterdir()} == {
        "index.html", "files.json", "numbers.csv", "numbers.tex", "line.png", "line.pdf"}
    assert not {"img", "table"} & {tag for tag, _ in Tags(written).tags}
    page.write(tmp_path, "two", [Section("A")])
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "files.json"}


def test_an_interrupted_page_knows_its_files(tmp_path, monkeypatch):
    page.write(tmp_path, "one", [Section("A", items=[picture()])])

    def interrupt(*_):
        raise KeyboardInterrupt

    second = [Section("A", items=[TABLE, Picture("new", "", "", picture().figure)])]
    with monkeypatch.context() as patch:
        patch.setattr(page.figures, "content", interrupt)
        with pytest.raises(KeyboardInterrupt):
            page.write(tmp_path, "two", second)
    page.write(tmp_path, "three", [Section("A")])
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "files.json"}


@pytest.mark.parametrize("content", ["{", "7", "[7]", '[".."]', '["../results.json"]', '["/etc/passwd"]'])
def test_a_list_that_no_page_wrote_is_refused(tmp_path, content):
    (tmp_path / "files.json").write_text(content)
    with pytest.raises(DataError, match=r"files\.json is no list of a page's files"):
        page.write(tmp_path, "one", [Section("A", items=[TABLE])])
    assert [path.name for path in tmp_path.iterdir()] == ["files.json"]


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_a_figure_is_an_image_with_the_same_bytes_each_time(tmp_path, kind):
    for name in "ab":
        picture().save(tmp_path / name)
    one, two = ((tmp_path / name / f"line.{kind}").read_bytes() for name in "ab")
    assert one == two
    assert picture().address == picture().address
    if kind == "png":
        with Image.open(tmp_path / "a" / "line.png") as image:
            image.verify()
    else:
        assert one.startswith(b"%PDF")
