"""The synthetic corpus: reproducible bytes in any order, resumed after a kill, and no emotion told by one number."""

import dataclasses
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_plugins.corpora import espeak, manifest, synthetic
from ser_plugins.corpora.synthetic import EMOTIONS, SENTENCES, VOICES, Synthetic, prosody, render
from ser_plugins.errors import DataError, OptionError, PluginError

pytest.importorskip("espeakng_loader", reason="espeakng-loader is missing: pip install 'ser_plugins[synthetic]'")

SMALL = {"speakers": 3, "sentences": 1}


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).rglob("*.wav"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus of 12 utterances: its folder and its files' bytes."""
    folder = tmp_path_factory.mktemp("made")
    list(Synthetic(**SMALL).read(folder))
    return folder, files(folder)


def test_corpus_is_balanced_and_speaks_its_text(synthetic_rows):
    assert Counter((row.speaker, row.emotion) for row in synthetic_rows) == {
        (f"S0{number}", emotion): 3 for number in (1, 2, 3, 4) for emotion in EMOTIONS}
    assert {row.speaker: row.gender for row in synthetic_rows} == {
        "S01": "female", "S02": "male", "S03": "female", "S04": "male"}
    texts = {(row.speaker, row.emotion): [] for row in synthetic_rows}
    for row in synthetic_rows:
        texts[row.speaker, row.emotion].append(row.text)
        assert row.sample_rate == 16000
        assert 0.8 < row.duration < 6
        assert row.text in SENTENCES
    for speaker in ("S01", "S02"):  # the words do not tell the emotion
        assert len({tuple(texts[speaker, emotion]) for emotion in EMOTIONS}) == 1


def test_audio_is_sound_and_not_clipped(synthetic_rows):
    for row in synthetic_rows[::5]:
        assert soundfile.info(row.path).subtype == "PCM_16"
        samples, _ = soundfile.read(row.path)
        assert 0.005 < np.sqrt(np.mean(samples**2)) < 0.3
        assert np.abs(samples).max() < 1


def test_design_offers_ten_speakers_of_both_genders():
    assert len(VOICES) >= 10
    assert len({(voice.name, voice.pitch, voice.rate) for voice in VOICES}) == len(VOICES)
    assert Counter(voice.gender for voice in VOICES[:10]) == {"female": 5, "male": 5}
    assert len(set(SENTENCES)) >= 24


def test_same_seed_same_bytes_and_another_seed_others(made, tmp_path):
    list(Synthetic(**SMALL).read(tmp_path / "again"))
    assert files(tmp_path / "again") == made[1]
    list(Synthetic(**SMALL, seed=1).read(tmp_path / "other"))
    other = files(tmp_path / "other")
    assert other.keys() == made[1].keys()
    assert all(other[name] != made[1][name] for name in other)


def test_samples_do_not_depend_on_what_was_spoken_before(tmp_path):
    plan = list(Synthetic(**SMALL).plan(tmp_path))
    paths = synthetic.require_espeak()
    first = {item.id: render(item, 0, paths) for item in plan}
    random.Random(1).shuffle(plan)
    for item in plan:
        np.testing.assert_array_equal(first[item.id], render(item, 0, paths))


def test_what_is_whole_is_kept_and_what_is_not_is_made_again(made):
    folder, content = made
    wavs = sorted(folder.rglob("*.wav"))
    before = {path: path.stat().st_mtime_ns for path in wavs}
    wavs[0].write_bytes(content[wavs[0].name][:1000])  # truncated
    wavs[1].unlink()
    list(Synthetic(**SMALL).read(folder))
    assert files(folder) == content
    assert [path for path in wavs if path.stat().st_mtime_ns != before[path]] == wavs[:2]


def test_other_settings_never_take_files(made):
    folder, content = made
    home = next(folder.glob("synthetic-*"))
    list(Synthetic(speakers=3, sentences=2).read(folder))
    assert len(list(folder.glob("synthetic-*"))) == 2
    assert files(home) == content
    assert (home / "config.json").read_text().count("generator_version") == 1


def test_killed_generation_goes_on_and_gives_the_same_bytes(made, tmp_path):
    code = f"from ser_plugins.corpora.synthetic import Synthetic as S; list(S(**{SMALL}).read(__import__('pathlib')" \
           f".Path({str(tmp_path)!r})))"
    for wanted in (2, 6):
        child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        while child.poll() is None and len(list(tmp_path.rglob("*.wav"))) < wanted:
            time.sleep(0.002)
        child.kill()  # SIGKILL
        child.wait()
        assert len(files(tmp_path)) >= wanted
    list(Synthetic(**SMALL).read(tmp_path))
    assert files(tmp_path) == made[1]


def test_a_torn_line_of_the_journal_is_passed_over(made):
    folder, content = made
    with open(next(folder.glob("synthetic-*/made.txt")), "a") as journal:
        journal.write("S01_anger_000 12ab")
    list(Synthetic(**SMALL).read(folder))
    list(Synthetic(**SMALL).read(folder))
    assert files(next(folder.glob("synthetic-*"))).items() <= content.items()


@pytest.mark.parametrize(("options", "message"), [
    ({"speakers": 2}, "speakers .* must be a whole number from 3 to 16: 2"),
    ({"speakers": 17}, "from 3 to 16: 17"),
    ({"sentences": 0}, "sentences .* from 1 to 1000: 0"),
    ({"sentences": 1.5}, "whole number .*1.5"),
    ({"seed": -1}, "seed"),
])
def test_sizes_out_of_range_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        Synthetic(**options)


def test_missing_wheel_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(PluginError, match=r"pip install 'ser_plugins\[synthetic\]'"):
        list(Synthetic().read(tmp_path))


def test_failures_of_espeak_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(synthetic, "VOICES", tuple(dataclasses.replace(v, name="no-such-voice") for v in VOICES))
    with pytest.raises(DataError, match="espeak-ng refused voice 'no-such-voice'"):
        list(Synthetic(**SMALL).read(tmp_path))
    assert not files(tmp_path)
    paths = synthetic.require_espeak()
    with pytest.raises(RuntimeError, match="espeak-ng failed"):
        espeak.speak(espeak.Utterance("a", "en-us", 170, 50, 50), "/no/lib.so", paths[1])


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        list(Synthetic(**SMALL).read(tmp_path / "file"))


def one_number_score(values, labels, speakers):
    """Mean recall of the nearest class mean on one number, each speaker left out in turn, normalised per speaker."""
    values = np.array(values, dtype=float)
    for speaker in set(speakers):
        own = speakers == speaker
        values[own] = (values[own] - values[own].mean()) / values[own].std()
    hits = []
    for speaker in set(speakers):
        own = speakers == speaker
        means = {name: values[~own & (labels == name)].mean() for name in EMOTIONS}
        hits += [min(means, key=lambda name: abs(means[name] - value)) == label
                 for value, label in zip(values[own], labels[own], strict=True)]
    return np.mean(hits)


def test_no_single_number_tells_the_emotions_apart_but_all_together_do(tmp_path):
    plan = list(Synthetic(speakers=10, sentences=30).plan(tmp_path))
    drawn = [prosody(item, seed=0) for item in plan]
    labels = np.array([item.emotion for item in plan])
    table = np.array([dataclasses.astuple(item) for item in drawn])
    speakers = np.array([item.speaker for item in plan])
    for column in table.T:  # rate, pitch, range, level, tilt as they were asked for: what is heard tells less
        assert 0.3 < one_number_score(column, labels, speakers) < 0.75
    scaled = (table - table.mean(0)) / table.std(0)
    means = np.stack([scaled[labels == name].mean(0) for name in EMOTIONS])
    nearest = np.linalg.norm(scaled[:, None] - means, axis=2).argmin(1)
    assert np.mean(np.array(list(EMOTIONS))[nearest] == labels) > 0.8


def test_heard_loudness_and_duration_do_not_tell_the_emotions_apart(synthetic_rows):
    labels = np.array([row.emotion for row in synthetic_rows])
    speakers = np.array([row.speaker for row in synthetic_rows])
    loudness = [20 * np.log10(np.std(soundfile.read(row.path)[0])) for row in synthetic_rows]
    assert one_number_score(loudness, labels, speakers) < 0.8
    assert one_number_score([row.duration for row in synthetic_rows], labels, speakers) < 0.8


def test_emotions_have_the_published_directions():
    assert EMOTIONS["sadness"].rate < EMOTIONS["neutral"].rate < EMOTIONS["anger"].rate
    assert EMOTIONS["sadness"].pitch < EMOTIONS["neutral"].pitch < EMOTIONS["anger"].pitch
    assert EMOTIONS["sadness"].level < EMOTIONS["neutral"].level < EMOTIONS["anger"].level
    assert EMOTIONS["sadness"].pitch_range < EMOTIONS["neutral"].pitch_range < EMOTIONS["happiness"].pitch_range


def test_corpus_may_be_prepared_twice_into_its_own_folder(synthetic_folder, synthetic_corpus, synthetic_rows):
    again = manifest.prepare("synthetic", synthetic_folder, synthetic_folder, {"speakers": 4, "sentences": 3})
    assert again == synthetic_corpus
    assert manifest.load(again) == synthetic_rows
