"""``ser predict``: which files, in which formats, and what is told of the bad ones; a recogniser without a model."""

import csv
import io
import json
import types

import pytest

from ser_plugins import cli, predict
from ser_plugins.errors import DataError
from ser_plugins.recognition import Recognition, Segment, Word

CALM, ANGRY = {"calm": 0.9, "angry": 0.1}, {"calm": 0.2, "angry": 0.8}


class Recognizer:
    """Says the same of each file, but of those with ``bad`` in their name."""

    asked: dict

    @classmethod
    def from_hparams(cls, source, run_opts, **decoding):
        cls.asked = {"source": source, "decoding": decoding, "windows": []}
        return cls()

    def transcribe_and_classify_file(self, path):
        if "short" in path:
            raise DataError("an utterance of 1 ms is too short")
        if "bad" in path:
            raise DataError(f"{path}: the file is empty (0 bytes)")
        return Recognition('OH, "NO"', "calm", CALM, (Word("OH,", 0.1, 0.4), Word('"NO"', 1.2, 1.4)), (), 2.0, True)

    def track_file(self, path, window, step):
        self.asked["windows"].append((window, step))
        said = self.transcribe_and_classify_file(path)
        track = (Segment(0.0, 1.0, "calm", CALM), Segment(1.0, 2.0, "angry", ANGRY))
        return Recognition(said.text, said.label, CALM, said.words, track, 2.0, True)


@pytest.fixture
def ser(monkeypatch, capsys):
    """Runs ``ser predict`` in this process; gives exit code, standard output and standard error."""
    module = types.SimpleNamespace(EmotionRecognizer=Recognizer)
    monkeypatch.setitem(__import__("sys").modules, "ser_plugins.inference", module)

    def run(*words):
        code = cli.main(["predict", "--model", "run", *map(str, words)])
        return code, *capsys.readouterr()

    return run


def test_without_a_model_it_says_whose_emotions_these_are(ser, capsys, folder):
    assert cli.main(["predict", str(folder / "a.wav")]) == 0
    assert Recognizer.asked["source"] is None
    assert "eight German actors" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path):
    """A folder of names, most of them audio's."""
    for name in ("a.wav", "b.FLAC", "deep/er/c.ogg", "notes.txt", "[1].wav", "bad.wav"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "in" / "empty").mkdir()
    return tmp_path / "in"


@pytest.mark.parametrize(("words", "names"), [
    (["."], ["[1].wav", "a.wav", "b.FLAC", "bad.wav", "deep/er/c.ogg"]),
    (["deep", "a.wav", "a.wav"], ["deep/er/c.ogg", "a.wav"]),
    (["*.wav"], ["[1].wav", "a.wav", "bad.wav"]),
    (["**/*.ogg", "b*"], ["deep/er/c.ogg", "b.FLAC", "bad.wav"]),
    (["[1].wav"], ["[1].wav"]),  # a name before a pattern
    (["notes.txt", "none.wav", "x*.wav", "empty"], ["notes.txt", "none.wav", "x*.wav", "empty"]),  # told when opened
])
def test_files_folders_and_patterns(folder, monkeypatch, words, names):
    monkeypatch.chdir(folder)
    assert predict.audio_files(words) == names


def test_json_has_a_line_for_each_file_and_errors_have_theirs(ser):
    code, out, err = ser("a.wav", "bad.wav", "b.wav")
    assert code == 1
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["file"] for line in lines] == ["a.wav", "b.wav"]
    assert lines[0]["words"][1] == {"text": '"NO"', "start": 1.2, "end": 1.4}
    assert json.loads(err) == {"file": "bad.wav", "error": "bad.wav: the file is empty (0 bytes)"}


def test_a_table(ser):
    code, out, err = ser("a.wav", "bad.wav", "longer.wav", "--format", "table", "--beam_size", "7")
    assert (code, err) == (1, "ser: error: bad.wav: the file is empty (0 bytes)\n")
    assert out.splitlines() == ["file              s  emotion  share  text",
                                'a.wav          2.00  calm      0.90  OH, "NO"',
                                'longer.wav     2.00  calm      0.90  OH, "NO"']
    assert Recognizer.asked["decoding"] == {"beam_size": 7}
    assert ser("short.wav", "--format", "table")[2] == "ser: error: short.wav: an utterance of 1 ms is too short\n"


def test_a_table_of_emotions_over_time(ser):
    code, out, _ = ser("a.wav", "--format", "table", "--window", "2")
    assert code == 0
    assert [line.split() for line in out.splitlines()[2:]] == [["0.00", "–", "1.00", "calm"],
                                                               ["1.00", "–", "2.00", "angry"]]
    assert Recognizer.asked["windows"] == [(2.0, 0.5)]


@pytest.mark.parametrize(("words", "wanted"), [
    ([], [["a.wav", "0.000", "2.000", "calm", "0.900000", "0.100000", 'OH, "NO"'],
          ["b.wav", "0.000", "2.000", "calm", "0.900000", "0.100000", 'OH, "NO"']]),
    (["--window", "1", "--step", "1"], [
        [name, *rest] for name in ("a.wav", "b.wav")
        for rest in (["0.000", "1.000", "calm", "0.900000", "0.100000", "OH,"],
                     ["1.000", "2.000", "angry", "0.200000", "0.800000", '"NO"'])]),
])
def test_csv_has_a_row_for_each_file_or_segment(ser, words, wanted):
    code, out, _ = ser("a.wav", "bad.wav", "b.wav", "--format", "csv", *words)
    head, *rows = csv.reader(io.StringIO(out))
    assert code == 1
    assert head == ["file", "start", "end", "label", "p_calm", "p_angry", "text"]
    assert rows == wanted


@pytest.mark.parametrize(("kind", "suffix", "first"), [
    ("textgrid", ".TextGrid", 'File type = "ooTextFile"'), ("audacity", ".txt", "0.000000\t2.000000\t[calm]"),
    ("srt", ".srt", "1")])
def test_a_file_for_each(ser, tmp_path, kind, suffix, first):
    code, out, err = ser("x/a.wav", "bad.wav", "b.wav", "--format", kind, "--out", tmp_path / "out")
    written = [tmp_path / "out" / f"{name}{suffix}" for name in "ab"]
    assert (code, out.split()) == (1, [str(path) for path in written])
    assert err == "ser: error: bad.wav: the file is empty (0 bytes)\n"
    assert [path.read_text(encoding="utf-8").splitlines()[0] for path in written] == [first, first]
    assert sorted((tmp_path / "out").iterdir()) == written
    code, out, _ = ser("a.wav", "--format", kind)
    assert (code, out.splitlines()[0]) == (0, first)


@pytest.mark.parametrize(("words", "message"), [
    (["--format", "tabel"], "no format 'tabel'; did you mean 'table'? formats: audacity, csv, json, srt, table"),
    (["--step", "1"], "--step is between two windows: give --window, too, as 2"),
    (["--window", "0"], "window 0.0: it must be a number of seconds above 0"),
    (["--window", "1", "--step", "2"], "step 2.0: it must be a number of seconds, from 0.01 to the window's 1"),
    (["--out", "x"], "--out is for the formats of a file each, textgrid, audacity, srt; json is printed"),
    (["b.wav", "--format", "srt"], "2 files: srt needs a folder for its files, --out DIR"),
    (["b/a.mp3", "--format", "srt", "--out", "x"], "a.wav and b/a.mp3 would both become a.srt; give them in two calls"),
    (["--overwrite"], "--overwrite is for the files in a folder: give --out, too"),
    (["--beam", "3"], "'ser predict' takes no argument '--beam'; see ser predict -h"),
])
def test_what_contradicts_itself_is_refused_before_a_model_is_loaded(ser, words, message):
    Recognizer.asked = None
    code, out, err = ser("a.wav", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"ser: error: {message}")
    assert Recognizer.asked is None


@pytest.mark.parametrize(("kind", "suffix"), [("textgrid", ".TextGrid"), ("audacity", ".txt"), ("srt", ".srt")])
def test_a_file_that_exists_is_replaced_on_demand_only(ser, tmp_path, kind, suffix):
    for name in "bc":
        (tmp_path / f"{name}{suffix}").write_text("by hand", encoding="utf-8")
    Recognizer.asked = None
    words = ("a.wav", "b.wav", "c.wav", "--format", kind, "--out", tmp_path)
    code, out, err = ser(*words)
    assert (code, out) == (2, "")
    assert err == (f"ser: error: {tmp_path / 'b'}{suffix} exists (of 3 files to write, 2 do): give another folder by "
                   "--out, or --overwrite to replace what is there\n")
    assert Recognizer.asked is None
    assert sorted(path.read_text(encoding="utf-8") for path in tmp_path.iterdir()) == ["by hand"] * 2
    assert ser(*words, "--overwrite")[0] == 0
    assert "by hand" not in [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()]
