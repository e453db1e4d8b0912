"""Values are words of a command line, and words values."""

import math

import pytest

from ser_plugins.errors import OptionError
from ser_plugins.values import parse_value, told_value


@pytest.mark.parametrize("value", [
    "emodb", "3", "03", " a", "", "null", "true", "~", "a: b", "x y", "[1", "{a: b}", "1e-4", "--x", "=", "#x", "a #b",
    "a\nb", "tab\there", "'", '"', "!tag", "&a", "*a", "%x", "@x", "-", "- a", "?", "a:", "\\x", "0x1f", "1_000", "yes",
    "12:30", "2020-10-10", "2020-13-45", "über", "😀: x", "x" * 300, None, True, 0, -1.5, 1e-5, 1e300, math.inf, [],
    {}, ["03", 3, None], ["a, b", " x"], [["x"], ["x"]], {1: "x"}, {"b": {"W": ["x", {"y": 1}]}, "a": "neutral"}])
def test_a_value_is_read_as_it_was_told(value):
    word = told_value(value)
    assert "\n" not in word
    found = parse_value(word)
    assert (found, type(found)) == (value, type(value))


def test_mappings_keep_their_order_and_nothing_is_an_alias():
    shared = ["x"]
    assert told_value({"b": shared, "a": shared}) == "{b: [x], a: [x]}"


def test_a_date_that_there_is_not_is_told():
    with pytest.raises(OptionError, match=r"'2020-13-45' is no value \(month must be in 1..12\); a text may be put"):
        parse_value("2020-13-45")
