"""Tempo with the pitch kept, gain in decibels, and variants that depend on nothing but their key."""

from __future__ import annotations

import subprocess
import sys

import librosa
import numpy as np
import pytest

from ser_plugins import augment
from ser_plugins.errors import DataError

RATE = 16000  # Hz
TEMPI = (0.85, 0.9, 0.95, 1.05, 1.1, 1.15)
GAINS = (-3.0, 6.0)  # dB


def buzz(pitch: float, seconds: float = 1.5) -> np.ndarray:
    """Harmonics below 4 kHz with falling amplitudes, as a voice has."""
    time = np.arange(round(RATE * seconds)) / RATE
    return sum(0.1 * np.sin(2 * np.pi * pitch * k * time + k * k) / k
               for k in range(1, int(4000 / pitch))).astype(np.float32)


def pitch_of(samples: np.ndarray) -> float:
    """Median of YIN, in Hz, away from the edges."""
    return float(np.median(librosa.yin(samples, fmin=55, fmax=600, sr=RATE, frame_length=1024, hop_length=160)[10:-10]))


@pytest.mark.parametrize("tempo", TEMPI)
@pytest.mark.parametrize("pitch", [70.0, 90.0, 140.0, 230.0, 400.0])
def test_tempo_changes_duration_and_not_pitch_or_level(pitch, tempo):
    samples = buzz(pitch)
    changed = augment.change_tempo(samples, tempo)
    assert changed.dtype == np.float32
    assert len(changed) == pytest.approx(len(samples) / tempo, abs=1)
    assert pitch_of(changed) == pytest.approx(pitch, rel=0.01)
    assert np.sqrt(np.mean(changed**2)) == pytest.approx(np.sqrt(np.mean(samples**2)), rel=1e-4)


@pytest.mark.parametrize("tempo", [0.85, 1.15])
def test_tempo_moves_events_in_proportion(tempo):
    samples = buzz(140.0, seconds=2.0)
    samples[: RATE // 2] = samples[RATE:] = 0  # sounds from 0.5 to 1 s
    loud = np.flatnonzero(np.abs(augment.change_tempo(samples, tempo)) > 0.02) / RATE
    assert loud[0] == pytest.approx(0.5 / tempo, abs=0.025)
    assert loud[-1] == pytest.approx(1.0 / tempo, abs=0.025)


def test_tempo_one_is_the_same():
    np.testing.assert_array_equal(augment.change_tempo(buzz(140.0), 1.0), buzz(140.0))


@pytest.mark.parametrize("speed", [0.85, 0.9, 1.1, 1.15])
def test_speed_changes_duration_and_pitch_alike(speed):
    samples = buzz(140.0)
    changed = augment.change_speed(samples, speed)
    assert changed.dtype == np.float32
    assert len(changed) == np.ceil(len(samples) / speed)
    assert pitch_of(changed) == pytest.approx(140.0 * speed, rel=0.01)
    middle = slice(RATE // 10, -RATE // 10)
    expected = buzz(140.0 * speed, seconds=len(changed) / RATE)  # the same harmonics, up to 4 kHz and not 4 kHz × speed
    np.testing.assert_allclose(np.std(changed[middle]), np.std(expected[middle]), rtol=0.02)


def test_speed_one_is_the_same_and_others_are_refused():
    np.testing.assert_array_equal(augment.change_speed(buzz(140.0), 1.0), buzz(140.0))
    for speed in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="speed"):
            augment.change_speed(buzz(140.0), speed)


def test_silence_stays_silence():
    assert np.abs(augment.change_tempo(np.zeros(RATE, dtype=np.float32), 0.9)).max() == 0


@pytest.mark.parametrize("tempo", [0.0, -1.0, np.inf, np.nan])
def test_a_tempo_that_is_none_is_refused(tempo):
    with pytest.raises(ValueError, match="is not a positive number"):
        augment.change_tempo(buzz(140.0), tempo)


def test_an_utterance_shorter_than_a_window_is_refused():
    with pytest.raises(DataError, match="an utterance of 300 samples is too short for another tempo: 640 are needed"):
        augment.change_tempo(buzz(140.0)[:300], 0.9)


@pytest.mark.parametrize("gain_db", [-3.0, 0.0, 2.5, 6.0, 30.0])
def test_gain_in_decibels(gain_db):
    samples = buzz(140.0)
    changed = augment.change_gain(samples, gain_db)
    assert changed.dtype == np.float32
    power = np.mean(changed.astype(np.float64) ** 2) / np.mean(samples.astype(np.float64) ** 2)
    assert 10 * np.log10(power) == pytest.approx(gain_db, abs=1e-4)


def test_gain_does_not_clip():
    assert np.abs(augment.change_gain(np.ones(10, dtype=np.float32), 6.0)).min() == pytest.approx(1.9953, abs=1e-4)


def test_variants_begin_with_the_undisturbed_utterance_and_go_through_the_tempi():
    found = augment.variants("a", TEMPI, GAINS, seed=0)
    assert found[0] == augment.Variant(tempo=1.0, gain_db=0.0)
    assert [variant.tempo for variant in found[1:]] == list(TEMPI)
    samples = buzz(140.0)
    np.testing.assert_array_equal(augment.apply(samples, found[0]), samples)


def test_gains_are_uniform_over_the_range():
    gains = np.array([augment.variants(f"u{n}", [0.9], GAINS, 0)[1].gain_db for n in range(2000)])
    assert gains.min() >= -3.0
    assert gains.max() <= 6.0
    counts, _ = np.histogram(gains, bins=9, range=GAINS)
    assert np.abs(counts - 2000 / 9).max() < 4 * np.sqrt(2000 / 9)


def test_gains_differ_between_utterances_seeds_and_variants():
    keys = [("a", 0), ("b", 0), ("a", 1), ("a1", 0), ("a", 10)]
    gains = [variant.gain_db for name, seed in keys for variant in augment.variants(name, [0.9, 0.9], GAINS, seed)[1:]]
    assert len(set(gains)) == len(gains)


def test_a_gain_does_not_depend_on_the_other_tempi():
    assert augment.variants("a", [0.9], GAINS, 0)[1] == augment.variants("a", [0.9, 1.1, 1.15], GAINS, 0)[1]


def test_variants_are_the_same_in_another_process():
    # Python's own hash of a string differs from process to process.
    code = "from ser_plugins.augment import variants; print(variants('03a01Fa', [0.85, 1.15], (-3.0, 6.0), 7))"
    shown = {subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True,
                            check=True).stdout.strip() for seed in ("1", "2")}
    assert shown == {str(augment.variants("03a01Fa", [0.85, 1.15], GAINS, 7))}


def test_a_gain_range_upside_down_is_refused():
    with pytest.raises(ValueError, match=r"gain_range \(6.0, -3.0\) is not \(lowest, highest\)"):
        augment.variants("a", [0.9], (6.0, -3.0), 0)


def test_augmentation_needs_no_torch():
    code = ("import sys; import ser_plugins.augment as a, numpy; a.apply(numpy.zeros(999, 'f4'), a.Variant(0.9, 1.0)); "
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)
