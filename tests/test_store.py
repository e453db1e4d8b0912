"""The store gives what a live pass gives, computes it once, and survives interruptions, faults and full disks."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ser_plugins import audio, store
from ser_plugins.augment import Variant, apply
from ser_plugins.contracts import SAMPLE_RATE, Frames, Needs
from ser_plugins.corpora.manifest import Row
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.errors import DataError
from ser_plugins.features.spectrogram import Spectrogram
from ser_plugins.store import Store

NEEDS = {"baseline": Needs(features=True), "mp": Needs(means=(2,)), "rnn": Needs(sequences=(2,)),
         "progressive": Needs(features=True, means=(1, 3))}
SECONDS = (0.4, 0.25, 0.6, 0.31)


def tiny(seed=0):
    torch.manual_seed(seed)
    return DeepSpeech2(units=4, num_layers=3, channels=2).freeze()


def whole(path, name=None, speaker="S1"):
    """The row of a whole file."""
    about = audio.info(path)
    return Row(name or path.stem, str(path), 0.0, about.duration, about.duration, about.sample_rate, speaker)


def noise(path, seconds, seed=0, scale=0.1):
    samples = scale * np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE))
    soundfile.write(path, samples, SAMPLE_RATE, subtype="FLOAT")
    return path


def items_of(rows, variant=Variant()):  # noqa: B008
    return [store.item(row, key, variant) for row, key in zip(rows, store.audio_hashes(rows), strict=True)]


@pytest.fixture
def rows(tmp_path):
    """Four recordings, two of each speaker."""
    return [whole(noise(tmp_path / f"u{number}.wav", seconds, number), speaker=f"S{number // 2}")
            for number, seconds in enumerate(SECONDS)]


@pytest.fixture
def counted(monkeypatch):
    """An encoder, and the sizes of the batches that it was given."""
    encoder, sizes = tiny(), []
    forward = encoder.forward

    def counting(waveforms, lengths):
        sizes.append(len(lengths))
        return forward(waveforms, lengths)

    monkeypatch.setattr(encoder, "forward", counting)
    return encoder, sizes


@pytest.fixture
def one_at_a_time(monkeypatch):
    monkeypatch.setattr(store, "BATCH_SECONDS", 0.01)


def made(tmp_path, needs="progressive", encoder=None, extractor=None):
    return Store(tmp_path / "store", NEEDS[needs], extractor or Spectrogram(), encoder or tiny())


def files(tmp_path):
    return sorted(path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.name != store.ABOUT)


# What is stored


def test_the_progress_bar_can_be_left_out(tmp_path, rows, capsys):
    for name, progress in (("quiet", False), ("told", True)):
        made(tmp_path / name).compute(items_of(rows[:2]), progress=progress)
        assert ("representations" in capsys.readouterr().err) is progress


@pytest.mark.parametrize("needs", NEEDS)
@pytest.mark.parametrize("variant", [Variant(), Variant(gain_db=-3.0)], ids=["undisturbed", "quieter"])
@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_stored_is_what_a_live_pass_gives(tmp_path, rows, needs, variant, workers):
    encoder, extractor = tiny(), Spectrogram()
    items = items_of(rows, variant)
    stored = made(tmp_path, needs, encoder, extractor)
    assert stored.compute(items, workers=workers) == len(rows)
    found = stored.inputs(items)

    sounds = [torch.from_numpy(apply(audio.read(row.path), variant)).unsqueeze(1) for row in rows]
    batch = Frames.from_list(sounds, SAMPLE_RATE)
    waveforms = batch.data.squeeze(2)
    live = NEEDS[needs].take(extractor(waveforms, batch.lengths), encoder(waveforms, batch.lengths))

    assert (found.features is None) == (live.features is None)
    if live.features:
        torch.testing.assert_close(found.features.data, live.features.data, atol=1e-5, rtol=0)
        assert found.features.lengths.tolist() == live.features.lengths.tolist()
        assert found.features.rate == live.features.rate
    assert found.means.keys() == live.means.keys()
    for layer, mean in live.means.items():
        torch.testing.assert_close(found.means[layer], mean, atol=1e-6, rtol=0)
    assert found.sequences.keys() == live.sequences.keys()
    for layer, frames in live.sequences.items():
        torch.testing.assert_close(found.sequences[layer].data, frames.data, atol=1e-3, rtol=1e-3)  # half precision
        assert found.sequences[layer].lengths.tolist() == frames.lengths.tolist()
        assert found.sequences[layer].rate == frames.rate


def test_inputs_stand_in_the_order_asked_for(tmp_path, rows):
    items, stored = items_of(rows), made(tmp_path)
    stored.compute(items)
    torch.testing.assert_close(stored.inputs(items[::-1]).means[3], stored.inputs(items).means[3].flip(0))


@pytest.mark.parametrize(("needs", "kinds"), [
    ("baseline", {"features"}), ("mp", {"means"}), ("rnn", {"layer2"}), ("progressive", {"features", "means"})])
def test_only_what_is_needed_is_computed_and_stored(tmp_path, rows, counted, needs, kinds):
    encoder, sizes = counted
    stored = made(tmp_path, needs, encoder)
    stored.compute(items_of(rows))
    assert {path.parent.name for path in files(tmp_path)} == kinds
    assert bool(sizes) == NEEDS[needs].encoder


def test_segments_of_one_file_are_kept_apart(tmp_path):
    path = noise(tmp_path / "long.wav", 1.0)
    row = whole(path)
    first, second = replace(row, id="a", end=0.5, duration=0.5), replace(row, id="b", start=0.5, duration=0.5)
    items, stored = items_of([first, second]), made(tmp_path, "baseline")
    assert stored.compute(items) == 2
    samples = audio.read(path)
    for item, half in zip(items, (samples[:8000], samples[8000:]), strict=True):
        expected = Spectrogram()(torch.from_numpy(half).unsqueeze(0), torch.tensor([8000])).data[0]
        torch.testing.assert_close(stored.read("features", item), expected)


# Keys


def test_the_key_is_that_of_bytes_segment_and_variant(tmp_path):
    row = whole(noise(tmp_path / "a.wav", 0.3))
    key = items_of([row])[0].key
    copy = tmp_path / "copy.wav"
    copy.write_bytes(Path(row.path).read_bytes())
    assert items_of([replace(whole(copy), speaker="S9", emotion="joy")])[0].key == key
    others = [items_of([replace(row, start=0.1)])[0], items_of([replace(row, end=0.2)])[0],
              *(items_of([row], variant)[0] for variant in (Variant(0.9), Variant(1.1), Variant(1.0, 2.0),
                                                            Variant(0.9, 2.0), Variant(0.9, 2.5)))]
    noise(row.path, 0.3, scale=0.2)
    others.append(items_of([row])[0])
    keys = [key, *(other.key for other in others)]
    assert len(set(keys)) == len(keys)


def test_another_version_of_what_disturbs_or_resamples_is_another_key(tmp_path, monkeypatch):
    """And of nothing else: a library's new version costs only what it may have changed."""
    row = whole(noise(tmp_path / "a.wav", 0.3))
    assert row.sample_rate == 16000
    other = replace(row, sample_rate=44100)

    def keys():
        return [items_of([one], variant)[0].key for one in (row, other) for variant in (Variant(), Variant(0.9))]

    before = keys()
    for library, expected in (("librosa", [False, True, False, True]), ("soxr", [False, False, True, True])):
        monkeypatch.setattr(store, "_version", lambda name, changed=library: "9" if name == changed else version(name))
        assert [old != new for old, new in zip(before, keys(), strict=True)] == expected


def test_a_file_that_is_gone_is_named(tmp_path):
    row = whole(noise(tmp_path / "a.wav", 0.3))
    Path(row.path).unlink()
    with pytest.raises(DataError, match=r"a\.wav: No such file or directory"):
        store.audio_hashes([row])


def test_the_duration_is_that_at_the_variants_tempo(tmp_path):
    row = whole(noise(tmp_path / "a.wav", 0.6))
    assert items_of([row], Variant(tempo=1.2))[0].duration == pytest.approx(0.5)


@pytest.mark.parametrize(("other", "recomputed"), [
    ({}, 0), ({"encoder": tiny(seed=1)}, 4), ({"extractor": Spectrogram(power=True)}, 4)],
    ids=["the same", "weights", "settings"])
def test_another_encoder_or_extractor_finds_nothing_of_the_first(tmp_path, rows, other, recomputed):
    items = items_of(rows)
    made(tmp_path).compute(items)
    assert made(tmp_path, **other).compute(items) == recomputed


def test_one_changed_weight_finds_nothing(tmp_path, rows):
    encoder, items = tiny(), items_of(rows)
    made(tmp_path, "mp", encoder).compute(items)
    with torch.no_grad():
        encoder.recurrent[0].forwards.bias_hh_l0[0] += 1e-3
    assert len(made(tmp_path, "mp", encoder).missing(items)) == len(items)


def test_changed_audio_is_not_taken_from_the_store(tmp_path, rows):
    stored = made(tmp_path, "baseline")
    stored.compute(items_of(rows))
    noise(rows[0].path, SECONDS[0], seed=99)
    assert [one.row.id for one in stored.missing(items_of(rows))] == ["u0"]


# Once, and again after an interruption


def test_the_encoder_sees_each_utterance_once(tmp_path, rows, counted):
    encoder, sizes = counted
    items = items_of(rows)
    stored = made(tmp_path, "progressive", encoder)
    assert stored.compute([*items, *items]) == len(items)  # named twice, computed once
    assert sum(sizes) == len(items)
    stored.inputs(items)
    assert stored.compute(items) == 0
    assert made(tmp_path, "mp", encoder).compute(items) == 0  # another head, the same encoder
    assert sum(sizes) == len(items)


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("kind", ["features", "means"])
def test_one_missing_file_is_computed_again_and_nothing_else(tmp_path, rows, counted, kind):
    encoder, sizes = counted
    items, stored = items_of(rows), made(tmp_path, "progressive", encoder)
    stored.compute(items)
    (stored.kinds[kind] / f"{items[2].key}.npy").unlink()
    assert stored.missing(items) == [items[2]]
    assert stored.compute(items) == 1
    assert sum(sizes) == len(items) + (kind == "means")  # features are made without the encoder
    assert stored.compute(items) == 0


def test_log_probs_are_stored_as_the_encoder_gives_them(tmp_path, rows):
    encoder, items = tiny(), items_of(rows)
    stored = Store(tmp_path, Needs(log_probs=True), None, encoder)
    assert stored.compute(items) == len(items)
    assert [path.name for path in (tmp_path / encoder.fingerprint).iterdir() if path.is_dir()] == ["log_probs"]
    inputs = stored.inputs(items)
    for one, found in zip(items, inputs.log_probs.unpad(), strict=True):
        samples = torch.from_numpy(audio.read(one.row.path))
        expected = encoder(samples[None], torch.tensor([len(samples)])).log_probs.data[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (inputs.features, inputs.sequences, inputs.means) == (None, {}, {})


def test_a_removed_file_comes_back_to_the_bit(tmp_path, rows):
    items, stored = items_of(rows), made(tmp_path)
    stored.compute(items)
    before = {path: path.read_bytes() for path in files(tmp_path)}
    (stored.kinds["means"] / f"{items[1].key}.npy").unlink()
    stored.compute(items)
    assert {path: path.read_bytes() for path in files(tmp_path)} == before


@pytest.mark.usefixtures("one_at_a_time")
def test_what_was_computed_before_an_interruption_stays(tmp_path, rows, monkeypatch):
    encoder, items = tiny(), items_of(rows)
    forward, calls = encoder.forward, []

    def interrupted(waveforms, lengths):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(waveforms, lengths)

    monkeypatch.setattr(encoder, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, "mp", encoder).compute(items)
    assert made(tmp_path, "mp", encoder).compute(items) == len(items) - 2


def test_a_half_written_file_is_not_read(tmp_path, rows):
    items, stored = items_of(rows), made(tmp_path, "mp")
    for one in items:  # as a process that was killed leaves them
        (stored.kinds["means"] / f"{one.key}.4711.tmp").write_bytes(b"\x93NUMPY half")
    assert stored.missing(items) == items
    assert stored.compute(items) == len(items)
    assert stored.inputs(items).means[2].isfinite().all()


# Bad audio


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("needs", ["baseline", "mp"])
def test_all_bad_recordings_are_named_at_once_and_the_good_ones_kept(tmp_path, rows, needs, workers):
    nan, empty, short = (noise(tmp_path / f"{name}.wav", 0.3) for name in ("nan", "empty", "short"))
    bad = [whole(path) for path in (nan, empty, short)]
    soundfile.write(nan, np.full(4800, np.nan), SAMPLE_RATE, subtype="FLOAT")
    empty.write_bytes(b"")
    noise(short, 0.015)
    bad[2] = whole(short)
    items, stored = items_of([*rows, *bad]), made(tmp_path, needs)
    with pytest.raises(DataError, match="3 of 7 recordings cannot be used") as caught:
        stored.compute(items, workers=workers)
    for message in ("nan: .*4800 of 4800 samples are not finite", r"empty: .*empty\.wav",
                    "short: an utterance of 15 ms is too short"):
        caught.match(message)
    assert [one.row.id for one in stored.missing(items)] == ["nan", "empty", "short"]
    stored.inputs(items[:4])


def test_a_recording_that_is_bad_in_all_its_variants_is_named_once(tmp_path):
    row = whole(noise(tmp_path / "nan.wav", 0.3))
    soundfile.write(row.path, np.full(4800, np.nan), SAMPLE_RATE, subtype="FLOAT")
    items = [items_of([row], Variant(gain_db=gain))[0] for gain in (0.0, 1.0, 2.0)]
    with pytest.raises(DataError, match="1 of 1 recordings") as caught:
        made(tmp_path, "baseline").compute(items)
    assert str(caught.value).count("not finite") == 1


def test_a_long_list_of_faults_is_cut(tmp_path):
    good = whole(noise(tmp_path / "good.wav", 0.3))
    rows = [replace(good, id=f"u{number}", path=noise(tmp_path / f"u{number}.wav", 0.005, number))
            for number in range(23)]
    with pytest.raises(DataError, match=r"23 of 23 recordings cannot be used:(\n  u\d+: .*){20}\n  … and 3 more$"):
        made(tmp_path, "baseline").compute(items_of(rows))


# Bad disks


@pytest.mark.parametrize("needs", ["baseline", "mp", "rnn"])
@pytest.mark.parametrize(("owner", "function"), [(os, "replace"), (np, "save")])
def test_a_full_disk_is_said_at_once_and_leaves_nothing_half_written(tmp_path, rows, monkeypatch, needs, owner,
                                                                     function):
    items, stored = items_of(rows), made(tmp_path, needs)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, full)
        with pytest.raises(DataError, match=r"\.npy cannot be written: No space left on device") as caught:
            stored.compute(items)
    caught.match("^((?!recordings).)*$")  # the recordings are not to blame
    assert files(tmp_path) == []
    assert stored.compute(items) == len(items)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "store").write_text("a file")
    with pytest.raises(DataError, match=r"store folder .*store.* cannot be made: "):
        made(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"nonsense", None], ids=["empty", "cut", "text", "truncated"])
@pytest.mark.parametrize(("needs", "kind"), [("baseline", "features"), ("mp", "means"), ("rnn", "layer2")])
def test_a_corrupt_file_says_what_to_do(tmp_path, rows, needs, kind, content):
    items, stored = items_of(rows), made(tmp_path, needs)
    stored.compute(items)
    path = stored.kinds[kind] / f"{items[1].key}.npy"
    path.write_bytes(path.read_bytes()[:-10] if content is None else content)
    with pytest.raises(DataError, match=rf"{path.name} cannot be read .*; remove it, and it is computed again"):
        stored.inputs(items)
    path.unlink()
    stored.compute(items)
    stored.inputs(items)


@pytest.fixture
def filled(rows, tmp_path):
    """A store of one encoder's layer and means, and of one extractor's features."""
    folder = tmp_path / "store"
    Store(folder, Needs(sequences=(2,), means=(1,)), None, tiny()).compute(items_of(rows))
    Store(folder, Needs(features=True), Spectrogram()).compute(items_of(rows[:3]))
    return folder


def test_a_store_tells_what_it_holds(filled):
    encoder, extractor = (next(one for one in store.contents(filled) if one.fingerprint == part.fingerprint)
                          for part in (tiny(), Spectrogram()))
    assert encoder.about["class"].endswith("DeepSpeech2")
    assert extractor.about["class"].endswith("Spectrogram")
    assert extractor.about["normalize"] == "bin"
    assert {kind: number for kind, (number, _) in encoder.kinds.items()} == {"layer2": 4, "means": 4}
    on_disk = sum(path.stat().st_size for path in (filled / extractor.fingerprint).glob("features/*"))
    assert extractor.kinds == {"features": (3, on_disk)}


def test_pruning_removes_what_is_named_and_what_killed_writers_left(filled, rows):
    old, new = (filled / tiny().fingerprint / "means" / name for name in (".a.npy.1.tmp", ".b.npy.2.tmp"))
    for path in (old, new):
        path.write_bytes(b"12345")
    os.utime(old, (0, 0))
    before = {path for path in filled.glob("**/*.npy") if not path.name.startswith(".")}
    assert store.prune(filled) == 5
    assert (old.exists(), new.exists()) == (False, True)  # the second may still be written
    assert before <= set(filled.glob("**/*.npy"))
    size = sum(path.stat().st_size for path in (filled / Spectrogram().fingerprint).glob("features/*"))
    assert store.prune(filled, [Spectrogram().fingerprint]) == size
    assert [one.fingerprint for one in store.contents(filled)] == [tiny().fingerprint]
    assert not Store(filled, Needs(means=(1,)), None, tiny()).missing(items_of(rows))


def test_what_is_no_store_is_left_alone(filled, tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        store.contents(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"no fingerprint 'f00'.*stored"):
        store.prune(filled, ["f00"])
    home = tmp_path / "home"
    (home / "thesis" / "figures" / "final").mkdir(parents=True)
    with pytest.raises(DataError, match="is no store: thesis"):
        store.prune(home, ["thesis"])
    assert (home / "thesis" / "figures" / "final").is_dir()


@pytest.mark.parametrize(("content", "message"), [
    (b'{"class": ', r"cannot be read \(Expecting value"), (b"\xff", "cannot be read .*decode"), (b"[]", r"holds \[\]")])
def test_a_broken_description_says_what_to_do(filled, content, message):
    path = filled / tiny().fingerprint / store.ABOUT
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} {message}.*; remove it, and it is written again"):
        store.contents(filled)
