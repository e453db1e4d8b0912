"""The readers of emodb, ravdess and csv on tiny trees of the published layouts, and the label maps."""

import pytest

from ser_plugins import registry
from ser_plugins.corpora import manifest
from ser_plugins.corpora.csv import CSV
from ser_plugins.corpora.emodb import EmoDB
from ser_plugins.corpora.labels import load_labels, overrides
from ser_plugins.corpora.ravdess import RAVDESS
from ser_plugins.errors import DataError, OptionError

READERS = ("csv", "emodb", "iemocap", "ravdess")


@pytest.mark.parametrize("corpus", READERS)
def test_a_missing_folder_is_named_with_the_expected_layout(tmp_path, corpus):
    reader = registry.create("corpora", corpus)
    with pytest.raises(DataError, match=r"(?s)no-such.*expected .*first missing path: .*no-such$"):
        list(reader.read(tmp_path / "no-such"))


@pytest.mark.parametrize(("corpus", "first"), [
    ("csv", "manifest.csv"), ("emodb", "wav"), ("iemocap", "Session1"), ("ravdess", "Actor_01")])
def test_a_folder_of_another_layout_is_refused(tmp_path, corpus, first):
    (tmp_path / "other").mkdir()
    reader = registry.create("corpora", corpus)
    with pytest.raises(DataError, match=f"expected .*first missing path: {tmp_path / first}$"):
        list(reader.read(tmp_path))


def test_emodb(tmp_path, tone):
    for name in ("03a01Fa.wav", "08b10Wb.flac", "16a05N.ogg"):
        tone(tmp_path / "wav" / name)
    (tmp_path / "wav/readme.txt").write_text("no audio")
    (tmp_path / "wav/._03a01Fa.wav").write_text("macOS")
    found = list(EmoDB().read(tmp_path))
    assert [(item.id, item.speaker, item.gender, item.emotion) for item in found] == [
        ("03a01Fa", "03", "male", "F"), ("08b10Wb", "08", "female", "W"), ("16a05N", "16", "female", "N")]
    assert found[0].text == "Der Lappen liegt auf dem Eisschrank."
    rows = manifest.load(manifest.prepare("emodb", tmp_path, tmp_path / "out"))
    assert [row.emotion for row in rows] == ["happiness", "anger", "neutral"]


def test_emodb_refuses_other_names_and_an_empty_folder(tmp_path, tone):
    (tmp_path / "wav").mkdir()
    with pytest.raises(DataError, match="holds no audio of this corpus"):
        list(EmoDB().read(tmp_path))
    tone(tmp_path / "wav/hello.wav")
    with pytest.raises(DataError, match=r"1 of 1 files are not named as EmoDB's: hello\.wav"):
        list(EmoDB().read(tmp_path))


def test_the_same_utterance_in_two_formats_is_a_fault(tmp_path, tone):
    tone(tmp_path / "wav/03a01Fa.wav")
    tone(tmp_path / "wav/03a01Fa.flac")
    with pytest.raises(DataError, match=r"duplicate ids \(1\):\n  03a01Fa: .*flac, .*wav"):
        manifest.prepare("emodb", tmp_path, tmp_path / "out")


@pytest.fixture
def ravdess(tmp_path, tone):
    for name in ("Actor_01/03-01-01-01-01-01-01.wav", "Actor_01/03-01-02-01-02-01-01.ogg",
                 "Actor_02/03-01-05-02-02-02-02.wav", "Actor_02/03-02-05-02-02-02-02.wav"):
        tone(tmp_path / name, channels=2)
    return tmp_path


@pytest.mark.parametrize(("options", "emotions"), [
    ({}, ["neutral", "calm", "anger"]),
    ({"calm": "neutral"}, ["neutral", "neutral", "anger"]),
    ({"calm": "neutral", "label_map": {"05": "wrath"}}, ["neutral", "neutral", "wrath"]),
])
def test_ravdess(ravdess, options, emotions):
    rows = manifest.load(manifest.prepare("ravdess", ravdess, ravdess, options))
    assert [row.emotion for row in rows] == emotions  # the song of actor 02 is passed over
    assert [(row.speaker, row.gender) for row in rows] == [("01", "male"), ("01", "male"), ("02", "female")]
    assert rows[1].text == "Dogs are sitting by the door."


def test_ravdess_refuses_a_misspelt_calm_and_a_folder_without_speech(tmp_path, tone):
    with pytest.raises(OptionError, match="no value of calm 'neutrl'; did you mean 'neutral'"):
        RAVDESS(calm="neutrl")
    tone(tmp_path / "Actor_01/03-02-01-01-01-01-01.wav")
    with pytest.raises(DataError, match="holds no audio of this corpus"):
        list(RAVDESS().read(tmp_path))


def write_csv(folder, text, name="manifest.csv", encoding="utf-8"):
    (folder / name).write_text(text, encoding=encoding)
    return folder / name


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_takes_a_file_or_its_folder(tmp_path, separator):
    text = "id,path,speaker,emotion,note\na,sub/a.wav,S1,anger,x\n".replace(",", separator)
    path = write_csv(tmp_path, text, encoding="utf-8-sig")
    for folder in (path, tmp_path):
        reader = CSV()
        assert [(item.id, item.path, item.speaker) for item in reader.read(folder)] == [
            ("a", tmp_path / "sub/a.wav", "S1")]
        assert reader.labels == {"anger": "anger"}


def test_csv_texts_may_hold_separators_and_line_breaks(tmp_path):
    write_csv(tmp_path, 'id,path,speaker,emotion,text\na,/b/a.wav,S1,anger,"Well, no\nyes"\n')
    assert CSV().read(tmp_path)[0].text == "Well, no\nyes"


@pytest.mark.parametrize(("text", "message"), [
    ("id,file,speakers\na,b,c\n", "missing: path, speaker, emotion; column 'speakers': did you mean 'speaker'"),
    ("", "required columns are missing: id, path, speaker, emotion; found: \\(none\\)"),
    ("id,path,speaker,emotion,strat\na,b,c,d,1\n", "column 'strat': did you mean 'start'"),
    ("id,path,speaker,emotion,id\na,b,c,d,e\n", "twice: id"),
    ("id,path,speaker,emotion,start,end\na,b,c,d,x,\na,b,c,d,1,y\n",
     "(?s)malformed rows \\(2\\):.*line 2: start is no number of seconds: 'x'.*line 3: end"),
    ("id,path,speaker,emotion\na,b,c,d,e\n", "line 2: more fields than columns"),
    ("id,path,speaker,emotion\na,b\n", "line 2: fewer fields"),
    ("id,path,speaker,emotion\na,,c,d\n", "line 2: the path is empty"),
])
def test_csv_refuses_malformed_files(tmp_path, text, message):
    write_csv(tmp_path, text)
    with pytest.raises(DataError, match=message):
        CSV().read(tmp_path)


def test_csv_reads_ratings(tmp_path):
    write_csv(tmp_path, "id,path,speaker,emotion,valence,dominance\na,b,c,d,1.5,\n")
    (found,) = CSV().read(tmp_path)
    assert (found.valence, found.activation, found.dominance) == (1.5, None, None)
    write_csv(tmp_path, "id,path,speaker,emotion,valence\na,b,c,d,good\n")
    with pytest.raises(DataError, match="valence is no number: 'good'"):
        CSV().read(tmp_path)


def test_csv_tells_of_columns_that_no_one_reads(tmp_path, caplog):
    write_csv(tmp_path, "id,path,speaker,emotion,mood\na,b,c,d,1\n")
    CSV().read(tmp_path)
    assert "columns that no one reads: mood" in caplog.text


def test_csv_of_another_encoding_or_without_rows(tmp_path):
    (tmp_path / "manifest.csv").write_bytes("id,path,speaker,emotion\nä".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        CSV().read(tmp_path)
    write_csv(tmp_path, 'id,path,speaker,emotion\n"a,' + "x\n" * 99999)
    with pytest.raises(DataError, match=r"is no CSV text: field larger .*; is a quotation mark left open"):
        CSV().read(tmp_path)
    write_csv(tmp_path, "id,path,speaker,emotion\n")
    with pytest.raises(DataError, match="holds no utterance"):
        manifest.prepare("csv", tmp_path, tmp_path / "out")


def test_csv_is_never_overwritten(tmp_path, tone):
    tone(tmp_path / "a.wav")
    text = "id,path,speaker,emotion\na,a.wav,S1,anger\n"
    write_csv(tmp_path, text)
    with pytest.raises(DataError, match="it would be overwritten"):
        manifest.prepare("csv", tmp_path, tmp_path)
    assert (tmp_path / "manifest.csv").read_text() == text


def test_speech_without_labels_is_taken(tmp_path, tone):
    tone(tmp_path / "a.wav")
    write_csv(tmp_path, "id,path,speaker,emotion\na,a.wav,S1,\n")
    path = manifest.prepare("csv", tmp_path, tmp_path / "out")
    assert manifest.load(path)[0].emotion == ""
    assert "(no label)" in manifest.report(path)


def test_label_maps_come_from_files(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text('"L": neutral\n')
    assert load_labels("emodb", str(path))["L"] == "neutral"
    assert load_labels("emodb", str(path))["W"] == "anger"


@pytest.mark.parametrize(("text", "message"), [
    ("05: anger\n", "put quotes round 5: 'anger'"),
    ("- anger\n", "must be a mapping"),
    ("a: [\n", "is no YAML"),
    ('"05":\n', "must be texts"),
])
def test_malformed_label_maps_are_refused(tmp_path, text, message):
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        overrides(tmp_path / "map.yaml")


def test_a_label_that_the_corpus_lacks_and_a_missing_map(tmp_path):
    with pytest.raises(OptionError, match=r"no label of emodb 'w'.*its labels: A, E, F, L, N, T, W"):
        load_labels("emodb", {"w": "anger"})
    with pytest.raises(DataError, match=r"no\.yaml cannot be read: No such file"):
        overrides(tmp_path / "no.yaml")
