"""The manifest: what goes in comes out, all faults are told at once, counts are right."""

import csv
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from ser_plugins.corpora import manifest
from ser_plugins.errors import DataError, OptionError, PluginError


def row(name="a", emotion="anger", speaker="S1", **values):
    return manifest.Row(name, f"/x/{name}.wav", 0.0, 1.5, 1.5, 16000, speaker, emotion=emotion, **values)


def hand_written(folder, rows, columns=("id", "path", "speaker", "emotion", "start", "end", "gender")):
    folder.mkdir(exist_ok=True)
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_columns_are_in_the_documented_order():
    assert manifest.COLUMNS == ("id", "path", "start", "end", "duration", "sample_rate", "speaker", "session",
                                "gender", "emotion", "text", "valence", "activation", "dominance")


def test_what_is_written_is_read_again(tmp_path):
    rows = [row(text='He said: "well, no",\nand left.', session="1", gender="male"),
            replace(row("b", emotion=""), start=0.1, end=0.400001, duration=0.300001),
            replace(row("Ü"), valence=0.0, dominance=2.5)]
    manifest.write(rows, tmp_path / "deep/manifest.csv")
    assert manifest.load(tmp_path / "deep/manifest.csv") == rows
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["manifest.csv"]


def test_relative_paths_are_relative_to_the_manifest(tmp_path):
    manifest.write([row()], tmp_path / "m.csv")
    text = (tmp_path / "m.csv").read_text().replace("/x/a.wav", "audio/a.wav")
    (tmp_path / "m.csv").write_text(text)
    assert manifest.load(tmp_path / "m.csv")[0].path == str(tmp_path / "audio/a.wav")


@pytest.mark.parametrize(("content", "message"), [
    ("id,path\n", "columns start, end, .* are missing"),
    (",".join(manifest.COLUMNS) + "\n", "has no rows"),
    (",".join(manifest.COLUMNS) + "\na,a.wav,zero,1,1,16000,S,,,x,,,,\n", "line 2: malformed row .*zero"),
    (",".join(manifest.COLUMNS) + "\na,a.wav,0\n", r"line 2: malformed row \(3 of 14 columns\)"),
    (",".join(manifest.COLUMNS) + '\n"a,' + "x\n" * 99999, r"m\.csv is no CSV text: .*; is a quotation mark left open"),
])
def test_malformed_manifests_are_refused(tmp_path, content, message):
    (tmp_path / "m.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        manifest.load(tmp_path / "m.csv")


def test_missing_and_binary_manifests_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        manifest.load(tmp_path / "no.csv")
    for content in (b"\xff\xfe\x00", ",".join(manifest.COLUMNS).encode() + b"\na,caf\xe9.wav,0,1,1,16000,S,,,x,\n"):
        (tmp_path / "b.csv").write_bytes(content)
        with pytest.raises(DataError, match=r"b\.csv is not UTF-8 text: .*can't decode byte 0x"):
            manifest.load(tmp_path / "b.csv")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        manifest.write([row()], tmp_path / "file" / "m.csv")


def test_a_full_disk_leaves_the_old_manifest(tmp_path, monkeypatch):
    manifest.write([row()], tmp_path / "m.csv")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match="cannot be written: No space left"):
        manifest.write([row("b")], tmp_path / "m.csv")
    assert [item.id for item in manifest.load(tmp_path / "m.csv")] == ["a"]
    assert len(list(tmp_path.iterdir())) == 1


def test_prepare_measures_audio_and_counts(tmp_path, tone):
    tone(tmp_path / "c/a.wav", seconds=0.5)
    tone(tmp_path / "c/b.flac", seconds=1.0, rate=44100, channels=2)
    folder = hand_written(tmp_path / "c", [
        {"id": "a", "path": "a.wav", "speaker": "S1", "emotion": "anger", "gender": "f"},
        {"id": "b1", "path": "b.flac", "speaker": "S2", "emotion": "joy", "start": 0.25, "end": 0.75},
        {"id": "b2", "path": "b.flac", "speaker": "S2", "emotion": "joy", "start": 0.75},
    ])
    path = manifest.prepare("csv", folder, tmp_path / "out", {"label_map": {"joy": "happiness"}})
    first, second, third = manifest.load(path)
    assert (first.start, first.end, first.duration, first.sample_rate, first.gender) == (0, 0.5, 0.5, 16000, "female")
    assert (second.start, second.end, second.duration, second.sample_rate) == (0.25, 0.75, 0.5, 44100)
    assert (third.start, third.end, third.emotion) == (0.75, 1.0, "happiness")
    assert second.path == str(folder / "b.flac")
    about = json.loads((tmp_path / "out/manifest.json").read_text())
    assert about["corpus"] == "csv"
    assert about["options"] == {"label_map": {"joy": "happiness"}}
    assert about["classes"] == {"anger": 1, "happiness": 2}
    assert about["speakers"] == {"S1": 1, "S2": 2}
    assert about["speakers_classes"]["S2"] == {"anger": 0, "happiness": 2}
    assert "3 utterances, 2 speakers, 2 classes" in manifest.report(path)


def test_all_faults_are_told_at_once_and_nothing_is_written(tmp_path, tone):
    folder = tmp_path / "c"
    tone(folder / "good.wav", seconds=0.5)
    tone(folder / "short.wav", seconds=0.029)
    (folder / "text.wav").write_text("I am no audio. " * 20)
    (folder / "zero.wav").write_bytes(b"")
    soundfile.write(folder / "header.wav", np.zeros(0), 16000)
    good = {"path": "good.wav", "speaker": "S1", "emotion": "anger"}
    rows = [{**good, "id": f"gone{n}", "path": f"gone{n}.wav"} for n in range(12)]
    rows += [{**good, "id": name, "path": f"{name}.wav"} for name in ("short", "text", "zero", "header")]
    rows += [{**good, "id": "twice"}, {**good, "id": "twice"}, {**good, "id": ""}]
    rows += [{**good, "id": "nobody", "speaker": " "}, {**good, "id": "nothing", "emotion": ""}]
    rows += [{**good, "id": "late", "start": 0.4, "end": 0.6}, {**good, "id": "back", "start": 0.3, "end": 0.2}]
    rows += [{**good, "id": "nan", "start": "nan"}, {**good, "id": "who", "gender": "x"}]
    hand_written(folder, rows)
    with pytest.raises(DataError) as caught:
        manifest.prepare("csv", folder, tmp_path / "out")
    text = str(caught.value)
    for kind, number in {"missing files": 12, "shorter than 50 ms": 1, "unreadable files": 1, "empty audio": 2,
                         "duplicate ids": 1, "missing ids": 1, "missing speakers": 1, "missing labels": 1,
                         "segments outside the audio": 3, "unknown genders": 1}.items():
        assert f"\n{kind} ({number}):\n" in text
    assert text.startswith("24 faults in 25 utterances of corpus 'csv'")
    assert "… and 2 more" in text
    assert "late: 0.4 to 0.6 s" in text
    assert not (tmp_path / "out").exists()


def test_unknown_labels_are_told_with_the_known_ones(tmp_path, tone):
    tone(tmp_path / "wav/03a01Xa.wav")
    with pytest.raises(DataError, match=r"unknown labels \(1\):\n  03a01Xa: no label 'X'.*A, E, F, L, N, T, W"):
        manifest.prepare("emodb", tmp_path, tmp_path / "out")


def test_preparation_always_reads_again(tmp_path, tone):
    tone(tmp_path / "wav/03a01Fa.wav")
    path = manifest.prepare("emodb", tmp_path, tmp_path)
    tone(tmp_path / "wav/03a01Wa.wav")
    assert len(manifest.load(path)) == 1
    manifest.prepare("emodb", tmp_path, tmp_path)
    assert len(manifest.load(path)) == 2


def test_misspelt_corpus_and_option(tmp_path):
    with pytest.raises(PluginError, match="no corpus 'emodbb'; did you mean 'emodb'"):
        manifest.prepare("emodbb", tmp_path, tmp_path)
    with pytest.raises(OptionError, match="corpus 'ravdess' has no argument 'calms'; did you mean 'calm'"):
        manifest.prepare("ravdess", tmp_path, tmp_path, {"calms": "neutral"})


def test_ends_rounded_behind_the_last_sample_are_taken(tmp_path, tone):
    tone(tmp_path / "c/a.wav", seconds=0.5)
    folder = hand_written(tmp_path / "c", [
        {"id": "a", "path": "a.wav", "speaker": "S", "emotion": "anger", "end": 0.5005}])
    assert manifest.load(manifest.prepare("csv", folder, tmp_path / "o"))[0].end == 0.5


def test_summary_shows_every_cell():
    lines = manifest.summary([row("a"), row("b"), row("c", "joy"), row("d", "joy", "S2")]).splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["speaker", "anger", "joy", "total"], ["S1", "2", "1", "3"], ["S2", "0", "1", "1"], ["total", "2", "2", "4"]]


def test_select_keeps_the_labels_and_the_order():
    rows = [row("a"), row("b", "fear"), row("c", "joy"), row("d")]
    assert [item.id for item in manifest.select(rows, ["joy", "anger"])] == ["a", "c", "d"]


@pytest.mark.parametrize(("labels", "message"), [
    (["anger", "angst"], r"no emotion 'angst'.*anger, joy \(utterances: anger 2, joy 1\)"),
    (["angr"], "did you mean 'anger'"),
    ([], "each label once"),
    (["joy", "joy"], "each label once"),
])
def test_select_refuses_labels_that_no_row_has(labels, message):
    with pytest.raises(OptionError, match=message):
        manifest.select([row("a"), row("b"), row("c", "joy")], labels)
