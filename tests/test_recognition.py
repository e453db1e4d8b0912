"""The answer and its exports: read back by parsers of our own, written from the formats' definitions."""

import builtins
import json
import re
from itertools import pairwise

import pytest

from ser_plugins.errors import OptionError
from ser_plugins.recognition import Recognition, Segment, Word

ANGER, CALM = {"Ärger": 0.75, 'so "calm"': 0.25}, {"Ärger": 0.25, 'so "calm"': 0.75}
WORDS = (Word("SO", 0.25, 0.5), Word('"SHE"', 0.5, 0.9), Word("NAÏVE", 2.25, 2.6))
TRACK = (Segment(0.0, 1.0, "Ärger", ANGER), Segment(1.0, 2.0, "Ärger", ANGER),
         Segment(2.0, 3.125, 'so "calm"', CALM))
SAID = Recognition('SO "SHE" NAÏVE', "Ärger", ANGER, WORDS, TRACK, 3.125, True)
PLAIN = Recognition("A", "Ärger", ANGER, (), (), 1.0)


def read_textgrid(text):
    """Tier → its intervals, from Praat's long format: it reads numbers, flags and strings, and skips the rest."""
    tokens = re.findall(r'"(?:[^"]|"")*"|<exists>|(?<![\w\[])-?\d+(?:\.\d+)?(?![\w\]])', text)

    def string(token):
        assert token[0] == token[-1] == '"'
        return token[1:-1].replace('""', '"')

    values = iter(tokens)
    assert [string(next(values)), string(next(values))] == ["ooTextFile", "TextGrid"]
    start, end = float(next(values)), float(next(values))
    assert next(values) == "<exists>"
    tiers = {}
    for _ in range(int(next(values))):
        assert string(next(values)) == "IntervalTier"
        name = string(next(values))
        assert (float(next(values)), float(next(values))) == (start, end)
        tiers[name] = [(float(next(values)), float(next(values)), string(next(values)))
                       for _ in range(int(next(values)))]
        assert tiers[name][0][0] == start
        assert tiers[name][-1][1] == end
        assert all(one[1] == other[0] for one, other in pairwise(tiers[name]))
        assert all(one[0] < one[1] for one in tiers[name])
    assert next(values, None) is None
    return tiers


def test_a_textgrid_has_words_and_emotions_without_gaps():
    assert read_textgrid(SAID.to_textgrid()) == {
        "words": [(0.0, 0.25, ""), (0.25, 0.5, "SO"), (0.5, 0.9, '"SHE"'), (0.9, 2.25, ""), (2.25, 2.6, "NAÏVE"),
                  (2.6, 3.125, "")],
        "emotion": [(0.0, 2.0, "Ärger"), (2.0, 3.125, 'so "calm"')]}


def test_a_textgrid_without_words_and_track_is_one_interval():
    assert read_textgrid(PLAIN.to_textgrid()) == {"words": [(0.0, 1.0, "")], "emotion": [(0.0, 1.0, "Ärger")]}


@pytest.mark.parametrize(("words", "wanted"), [
    ((Word("A", 0.1, 0.5), Word("B", 0.3, 0.6)), [(0.0, 0.1, ""), (0.1, 0.5, "A"), (0.5, 0.6, "B"), (0.6, 1.0, "")]),
    ((Word("A", 0.0, 0.5), Word("B", 0.2, 0.4), Word("C", 0.5, 1.0)), [(0.0, 0.5, "A"), (0.5, 1.0, "C")]),
    ((Word("A", 0.2, 0.2), Word("B", 0.2, 0.9), Word("C", 1.0, 1.0)),
     [(0.0, 0.2, ""), (0.2, 0.9, "B"), (0.9, 1.0, "")]),
    ((Word("A", 0.5, 1.2),), [(0.0, 0.5, ""), (0.5, 1.0, "A")]),
])
def test_intervals_of_a_textgrid_have_a_length_and_do_not_overlap(words, wanted):
    assert read_textgrid(Recognition("", "a", {"a": 1.0}, words, (), 1.0).to_textgrid())["words"] == wanted


@pytest.mark.parametrize("samples", range(16000, 16008))
def test_an_interval_that_microseconds_do_not_show_is_not_written(samples):
    end = samples / 16000  # 1.0000625 s and its like end between two microseconds
    said = Recognition("", "a", {"a": 1.0}, (Word("A", 0.0, round(end, 6)),), (), end)
    assert read_textgrid(said.to_textgrid()) == {"words": [(0.0, round(end, 6), "A")],
                                                 "emotion": [(0.0, round(end, 6), "a")]}


def test_a_textgrid_needs_a_duration():
    with pytest.raises(OptionError, match="a TextGrid needs the duration of the audio, and it is 0 s"):
        Recognition("", "a", {"a": 1.0}).to_textgrid()


def test_audacitys_labels_are_three_columns_in_order_of_time():
    lines = [line.split("\t") for line in SAID.to_audacity().splitlines()]
    assert [(float(start), float(end), text) for start, end, text in lines] == [
        (0.0, 2.0, "[Ärger]"), (0.25, 0.5, "SO"), (0.5, 0.9, '"SHE"'), (2.0, 3.125, '[so "calm"]'),
        (2.25, 2.6, "NAÏVE")]


def test_what_would_end_an_entry_is_a_space():
    said = Recognition("A", "a\tb\nc", {"a\tb\nc": 1.0}, (Word("A", 0.0, 0.5),), (), 1.0)
    assert said.to_audacity().splitlines() == ["0.000000\t1.000000\t[a b c]", "0.000000\t0.500000\tA"]
    assert 'text = "a b c"' in said.to_textgrid()
    assert said.to_srt().splitlines()[2:] == ["[a b c] A"]


def test_subtitles_are_numbered_and_end_at_a_pause():
    assert SAID.to_srt() == ('1\n00:00:00,250 --> 00:00:00,900\n[Ärger] SO "SHE"\n\n'
                             '2\n00:00:02,250 --> 00:00:02,600\n[so "calm"] NAÏVE\n')


def test_subtitles_hold_42_characters():
    words = tuple(Word("ABCDEFGHIJ", 3600 + number, 3600.5 + number) for number in range(9))
    blocks = Recognition("", "a", {"a": 1.0}, words, (), 3700.0).to_srt().split("\n\n")
    assert [block.splitlines()[2].count("ABC") for block in blocks] == [3, 3, 3]
    assert blocks[1].splitlines()[:2] == ["2", "01:00:03,000 --> 01:00:05,500"]


@pytest.mark.parametrize(("said", "lines"), [
    (PLAIN, ["1", "00:00:00,000 --> 00:00:01,000", "[Ärger] A"]),
    (Recognition("", "Ärger", ANGER, (), TRACK, 3.125),
     ["1", "00:00:00,000 --> 00:00:02,000", "[Ärger]", "", "2", "00:00:02,000 --> 00:00:03,125", '[so "calm"]']),
])
def test_subtitles_without_words(said, lines):
    assert said.to_srt().splitlines() == lines


@pytest.mark.parametrize("track", [(), TRACK])
def test_a_text_without_times_is_cut_at_spaces_over_the_audio(track):
    text = " ".join(["ABCDEFGHIJ"] * 9 + ["K" * 50])
    lines = Recognition(text, "Ärger", ANGER, (), track, 140.0).to_srt().split("\n\n")
    captions = [line.splitlines()[2].removeprefix("[Ärger] ").removeprefix('[so "calm"] ') for line in lines]
    assert captions == ["ABCDEFGHIJ ABCDEFGHIJ ABCDEFGHIJ"] * 3 + ["K" * 50]
    times = [line.splitlines()[1].split(" --> ") for line in lines]
    assert [times[0][0], times[-1][1]] == ["00:00:00,000", "00:02:20,000"]
    assert all(one[1] == other[0] for one, other in pairwise(times))
    assert times[3][0] == "00:01:32,055"  # 96 of 146 letters and spaces


def test_json_gives_everything_back():
    values = json.loads(SAID.to_json())
    assert values == SAID.to_dict()
    assert values["words"][1] == {"text": '"SHE"', "start": 0.5, "end": 0.9}
    again = Recognition(**{**values, "words": tuple(Word(**one) for one in values["words"]),
                           "track": tuple(Segment(**one) for one in values["track"])})
    assert again == SAID
    assert "NAÏVE" in SAID.to_json()
    assert SAID.to_json(indent=2).startswith('{\n  "text"')


def test_a_data_frame_has_a_row_for_the_audio_each_segment_and_each_word():
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = SAID.to_dataframe()
    assert list(frame.columns) == ["kind", "start", "end", "text", "label", "p_Ärger", 'p_so "calm"']
    assert frame.kind.tolist() == ["audio"] + ["segment"] * 3 + ["word"] * 3
    assert frame.end.tolist() == [3.125, 1.0, 2.0, 3.125, 0.5, 0.9, 2.6]
    assert frame["p_Ärger"].tolist()[:4] == [0.75, 0.75, 0.75, 0.25]
    assert frame["p_Ärger"].isna().tolist() == [False] * 4 + [True] * 3
    assert frame.text[frame.kind == "word"].tolist() == ["SO", '"SHE"', "NAÏVE"]


def test_a_data_frame_without_pandas_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(OptionError, match="a data frame needs pandas: pip install pandas"):
        SAID.to_dataframe()
