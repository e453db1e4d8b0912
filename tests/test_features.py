"""Features against equations written naively, other libraries, and signals whose truth is constructed."""

from __future__ import annotations

import logging
import pickle

import librosa
import numpy as np
import pytest
import scipy.fft
import torch
from torch.utils.data import DataLoader, Dataset

from ser_plugins import registry
from ser_plugins.descriptors import F0, LOUDNESS, NAMES, LowLevelDescriptors
from ser_plugins.errors import DataError, OptionError
from ser_plugins.features import mfcc_pitch
from ser_plugins.features.egemaps import EGeMAPS
from ser_plugins.features.logmel import LogMel
from ser_plugins.features.mfcc_pitch import MFCCPitch
from ser_plugins.features.spectrogram import Spectrogram

RATE = 16000  # Hz
TRACKERS = ("opensmile", "yin")
EXTRACTORS = [MFCCPitch("opensmile"), MFCCPitch("yin"), Spectrogram(), Spectrogram(power=True, normalize="global"),
              Spectrogram(normalize="none")]


def buzz(pitch, brightness: float = 1.0) -> np.ndarray:
    """Harmonics below 4 kHz of a pitch contour in Hz, ``[samples]``; their amplitudes fall by power ``brightness``."""
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    return sum(0.1 * np.sin(k * phase + k * k) / k**brightness
               for k in range(1, int(4000 / np.max(pitch)))).astype(np.float32)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def speechlike(seconds: float, seed: int = 0) -> np.ndarray:
    """A buzz that wanders between 100 and 200 Hz, interrupted by noise and by silence."""
    size = round(RATE * seconds)
    time = np.arange(size) / RATE
    signal = buzz(150 + 50 * np.sin(2 * np.pi * 1.5 * time + seed)) * (np.sin(2 * np.pi * 2.3 * time + seed) > -0.3)
    return (signal + noise(size, seed) * np.where(np.sin(2 * np.pi * 3.1 * time) > 0.7, 1.0, 0.01)).astype(np.float32)


def extract(extractor, *signals: np.ndarray):
    waveforms = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(signal) for signal in signals], batch_first=True)
    return extractor(waveforms, torch.tensor([len(signal) for signal in signals]))


def name(extractor) -> str:
    return "-".join([type(extractor).__name__, *map(str, extractor.settings().values())])


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=name)
class TestEveryExtractor:
    """What holds for both features and all their options."""

    def test_frames_are_ten_milliseconds_apart_beginning_at_zero(self, extractor):
        for samples in (480, 481, 639, 640, 16000, 23456):
            frames = extract(extractor, noise(samples))
            assert frames.data.shape == (1, samples // 160 + 1, extractor.dim)
            assert frames.data.dtype == torch.float32
            assert frames.lengths.tolist() == [samples // 160 + 1]
            assert frames.rate == extractor.rate == 100.0

    def test_an_utterance_gives_the_same_alone_batched_and_beside_a_longer_one(self, extractor):
        signals = [speechlike(0.8, 1), speechlike(1.337, 2), speechlike(0.8, 3), speechlike(2.5, 4)]
        alone = [extract(extractor, signal).data[0] for signal in signals]
        together = extract(extractor, *signals)
        for one, other in zip(alone, together.unpad(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        assert together.data[~together.mask()].abs().max() == 0

    def test_it_is_deterministic(self, extractor):
        signal = speechlike(1.0)
        assert torch.equal(extract(extractor, signal).data, extract(extractor, signal).data)

    @pytest.mark.parametrize("level", [0.0, 0.5])
    def test_a_constant_signal_gives_no_nan(self, extractor, level):
        assert extract(extractor, np.full(8000, level, dtype=np.float32)).data.isfinite().all()

    def test_silence_gives_zeros(self, extractor):
        assert extract(extractor, np.zeros(8000, dtype=np.float32)).data.abs().max() == 0

    def test_too_short_audio_is_refused_with_the_numbers(self, extractor):
        with pytest.raises(DataError, match=r"an utterance of 10 ms is too short: .* needs at least [23]0 ms"):
            extract(extractor, noise(160), noise(16000))


@pytest.mark.parametrize("tracker", TRACKERS)
def test_mfcc_pitch_does_not_look_beyond_the_length(tracker):
    padded = torch.from_numpy(noise(16000)).unsqueeze(0)
    found = MFCCPitch(tracker)(padded, torch.tensor([9000]))
    assert torch.equal(found.data, extract(MFCCPitch(tracker), noise(16000)[:9000]).data)


class TestSpectrogram:
    """Against the Fourier sum written out."""

    def naive(self, signal: np.ndarray) -> np.ndarray:
        padded = np.pad(signal.astype(np.float64), 160)
        n = np.arange(320)
        window = 0.54 - 0.46 * np.cos(2 * np.pi * n / 320)  # periodic Hamming
        transform = np.exp(-2j * np.pi * np.outer(n, np.arange(161)) / 320)
        starts = range(0, len(padded) - 319, 160)
        return np.abs(np.stack([(padded[start: start + 320] * window) @ transform for start in starts]))

    @pytest.mark.parametrize("power", [False, True])
    def test_magnitude(self, power):
        signal = speechlike(0.5)
        magnitude = self.naive(signal)
        found = extract(Spectrogram(power=power, normalize="none", scale=1.0), signal).data[0].numpy()
        np.testing.assert_allclose(found, np.log1p(magnitude**2 if power else magnitude), atol=1e-4)

    def test_the_scale_is_that_of_16_bit_samples(self):
        steps = 32768 * self.naive(speechlike(0.5))
        found = extract(Spectrogram(normalize="none"), speechlike(0.5)).data[0].numpy()
        np.testing.assert_allclose(found, np.log1p(steps), atol=1e-3, rtol=1e-3)

    def test_a_tone_peaks_in_its_bin(self):
        time = np.arange(RATE) / RATE
        tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
        assert extract(Spectrogram(normalize="none"), tone).data[0, 50].argmax() == 1000 / 50  # bins are 50 Hz apart

    def test_each_bin_is_normalised(self):
        data = extract(Spectrogram(normalize="bin"), speechlike(2.0)).data[0].double()
        torch.testing.assert_close(data.mean(0), torch.zeros(161).double(), atol=1e-4, rtol=0)
        torch.testing.assert_close(data.std(0), torch.ones(161).double(), atol=1e-2, rtol=0)

    def test_the_whole_is_normalised(self):
        data = extract(Spectrogram(normalize="global"), speechlike(2.0)).data[0].double()
        assert data.mean().item() == pytest.approx(0, abs=1e-4)
        assert data.std().item() == pytest.approx(1, abs=1e-3)
        assert data.mean(0).abs().max() > 0.1

    def test_unknown_normalisation(self):
        with pytest.raises(ValueError, match="normalize 'row' is not one of bin, global, none"):
            Spectrogram(normalize="row")


class TestMFCC:
    """Against librosa's filters and scipy's cosine transform, and the regression written out."""

    def test_cepstrum(self):
        signal = speechlike(1.0)
        power = np.abs(librosa.stft(signal, n_fft=512, win_length=320, hop_length=160, window="hamming",
                                    pad_mode="constant")) ** 2
        filters = librosa.filters.mel(sr=RATE, n_fft=512, n_mels=26, fmin=20.0, fmax=8000.0, htk=True, norm=None)
        expected = scipy.fft.dct(np.log(filters @ power + 1e-6), axis=0, norm="ortho")[:13].T
        np.testing.assert_allclose(mfcc_pitch.mfcc(torch.from_numpy(signal)).numpy(), expected, atol=1e-3)

    @pytest.mark.parametrize("frames", [4, 5, 50])
    def test_deltas_are_the_regression(self, frames):
        values = np.random.default_rng(0).normal(size=(frames, 13))
        expected = np.zeros_like(values)
        for t in range(frames):
            for n in (1, 2):
                ahead, behind = values[min(t + n, frames - 1)], values[max(t - n, 0)]
                expected[t] += n * (ahead - behind) / (2 * (1**2 + 2**2))
        np.testing.assert_allclose(mfcc_pitch.deltas(torch.from_numpy(values)).numpy(), expected, atol=1e-12)

    def test_deltas_of_a_line_are_its_slope(self):
        line = torch.arange(20.0).unsqueeze(1) * 3
        torch.testing.assert_close(mfcc_pitch.deltas(line)[2:-2], torch.full((16, 1), 3.0))


class TestNormalisation:
    """Mean 0 and deviation 1 of each feature."""

    @pytest.mark.parametrize("tracker", TRACKERS)
    def test_each_feature_is_normalised(self, tracker):
        data = extract(MFCCPitch(tracker), speechlike(2.0)).data[0].double()
        torch.testing.assert_close(data.mean(0), torch.zeros(27).double(), atol=1e-5, rtol=0)
        torch.testing.assert_close(data.std(0, correction=0), torch.ones(27).double(), atol=1e-5, rtol=0)

    def test_a_constant_feature_becomes_zeros(self):
        frames = torch.stack([torch.full((100,), 211.7), torch.randn(100)], dim=1)
        assert mfcc_pitch.normalize(frames)[:, 0].abs().max() < 1e-6
        assert mfcc_pitch.normalize(frames)[:, 1].std(correction=0).item() == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize("tracker", TRACKERS)
    def test_pitch_of_unvoiced_audio_becomes_zeros(self, tracker):
        assert extract(MFCCPitch(tracker), np.zeros(RATE, dtype=np.float32)).data[0, :, 26].abs().max() == 0

    @pytest.mark.parametrize("tracker", TRACKERS)
    @pytest.mark.parametrize("gain_db", [-40, -6, 6, 30])
    def test_gain_changes_nothing(self, tracker, gain_db):
        # The samples exceed 1 at +30 dB, which 16-bit integers would not survive.
        signal = speechlike(2.0)
        louder = (signal * 10 ** (gain_db / 20)).astype(np.float32)
        assert (extract(MFCCPitch(tracker), signal).data - extract(MFCCPitch(tracker), louder).data).abs().max() < 1e-2


@pytest.mark.parametrize("tracker", TRACKERS)
class TestPitch:
    """Constructed pitch is recovered, where and when it was put."""

    def track(self, tracker, signal, smoothed=False):
        return mfcc_pitch.TRACKERS[tracker](signal, smoothed=smoothed)

    @pytest.mark.parametrize("pitch", [70, 100, 150, 220, 330, 450])
    def test_pitch_of_a_buzz(self, tracker, pitch):
        _, hertz = self.track(tracker, buzz(np.full(RATE, pitch)))
        inner = hertz[6:-6]
        assert (inner > 0).mean() > 0.95
        np.testing.assert_allclose(inner[inner > 0], pitch, rtol=0.02)

    def test_pitch_of_a_glide(self, tracker):
        contour = np.linspace(100, 250, 2 * RATE)
        times, hertz = self.track(tracker, buzz(contour))
        voiced = (hertz > 0) & (times > 0.06) & (times < 1.94)
        assert voiced.sum() > 170
        truth = np.interp(times[voiced], np.arange(2 * RATE) / RATE, contour)
        np.testing.assert_allclose(hertz[voiced], truth, rtol=0.02)

    def test_silence_and_noise_are_unvoiced(self, tracker):
        signal = np.concatenate([buzz(np.full(RATE, 150)), noise(RATE) * 0.1, np.zeros(RATE, dtype=np.float32)])
        times, hertz = self.track(tracker, signal)
        voiced = hertz > 0
        assert voiced[times < 0.95].mean() > 0.95
        assert voiced[(times > 1.1) & (times < 1.95)].mean() < 0.1
        assert not voiced[times > 2.1].any()

    def test_frames_are_centred_on_every_tenth_millisecond(self, tracker):
        for samples in (480, 640, 16000, 23456):
            times, hertz = self.track(tracker, noise(samples), smoothed=True)
            np.testing.assert_allclose(times, np.arange(samples // 160 + 1) / 100, atol=1e-6)
            assert len(hertz) == len(times)

    @pytest.mark.parametrize("step", [0.7, 1.003, 1.237])
    def test_a_step_of_pitch_is_found_when_it_happens(self, tracker, step):
        # A window that holds both pitches shows the lower one (YIN), so a rise is seen late and a fall early; together
        # they show the true time.
        time = np.arange(2 * RATE) / RATE
        seen = []
        for before, after in ((140, 230), (230, 140)):
            times, hertz = self.track(tracker, buzz(np.where(time < step, before, after)))
            nearer_after = np.abs(hertz - after) < np.abs(hertz - before)
            first, second = times[(hertz > 0) & ~nearer_after], times[(hertz > 0) & nearer_after]
            seen.append((first[-1] + second[0]) / 2)
        assert seen == pytest.approx([step, step], abs=0.03)
        assert np.mean(seen) == pytest.approx(step, abs=0.01)  # one frame

    @pytest.mark.parametrize("step", [0.7, 1.003, 1.237])
    def test_mfcc_and_pitch_step_together(self, tracker, step):
        time = np.arange(2 * RATE) / RATE
        voice = buzz(np.where(time < step, 140, 230), brightness=0.5)
        signal = np.where(time < step, np.convolve(voice, np.ones(16) / 16, "same"), voice).astype(np.float32)
        data = extract(MFCCPitch(tracker), signal).data[0].numpy()
        centres = np.arange(len(data)) / 100
        inner = slice(10, -10)  # the edges fade into the padding
        change = np.abs(np.diff(data[inner, :13], axis=0)).sum(axis=1)
        assert centres[inner][np.argmax(change)] + 0.005 == pytest.approx(step, abs=0.015)
        halfway = (data[20:40, 26].mean() + data[-40:-20, 26].mean()) / 2
        assert centres[np.flatnonzero(data[:, 26] > halfway)[0]] == pytest.approx(step, abs=0.025)

    def test_the_average_runs_over_fifteen_frames(self, tracker):
        signal = buzz(150 + 30 * np.sin(2 * np.pi * 3 * np.arange(2 * RATE) / RATE))
        _, raw = self.track(tracker, signal)
        _, smoothed = self.track(tracker, signal, smoothed=True)
        assert (raw[10:-10] > 0).all()
        np.testing.assert_allclose(smoothed[17:-17], np.convolve(raw, np.ones(15) / 15, "same")[17:-17], rtol=1e-4)

    def test_the_average_leaves_unvoiced_frames_out(self, tracker):
        _, raw = self.track(tracker, speechlike(3.0))
        _, smoothed = self.track(tracker, speechlike(3.0), smoothed=True)
        assert (raw == 0).any()
        edges = np.pad(raw, 7, mode="edge")
        expected = [np.mean([v for v in edges[t: t + 15] if v > 0]) if raw[t] > 0 else 0.0 for t in range(len(raw))]
        np.testing.assert_allclose(smoothed, expected, rtol=1e-4)

    def test_an_extractor_survives_pickling_and_forked_workers(self, tracker):
        extractor = MFCCPitch(tracker)
        signals = [speechlike(0.5, seed) for seed in range(6)]
        here = [extract(extractor, signal).data for signal in signals]  # the parent's tracker is in use before the fork
        assert pickle.loads(pickle.dumps(extractor)).fingerprint == extractor.fingerprint
        loader = DataLoader(_Extracted(extractor, signals), batch_size=None, num_workers=2,
                            multiprocessing_context="fork", timeout=60)
        there = list(loader)
        assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))


class _Extracted(Dataset):
    def __init__(self, extractor, signals):
        self.extractor, self.signals = extractor, signals

    def __len__(self):
        return len(self.signals)

    def __getitem__(self, index):
        return extract(self.extractor, self.signals[index]).data


def test_unvoiced_gaps_are_bridged_and_ends_held():
    times = np.arange(8) / 100
    hertz = np.array([0.0, 100.0, 0.0, 0.0, 0.0, 140.0, 120.0, 0.0])
    np.testing.assert_allclose(mfcc_pitch.bridge(times, hertz, times), [100, 100, 110, 120, 130, 140, 120, 120])


def test_a_stream_with_other_centres_is_read_by_time():
    times = 0.0065 + np.arange(100) * 0.0125
    np.testing.assert_allclose(mfcc_pitch.bridge(times, 100 + 50 * times, np.arange(1, 120) / 100),
                               100 + 50 * np.arange(1, 120) / 100)


def test_fingerprints_tell_trackers_configurations_and_options_apart(monkeypatch, tmp_path):
    prints = {extractor.fingerprint for extractor in EXTRACTORS}
    assert len(prints) == len(EXTRACTORS)
    assert MFCCPitch().fingerprint in prints
    changed = tmp_path / "pitch.conf"
    changed.write_text(mfcc_pitch.OPENSMILE_CONFIG.read_text() + "; another\n")
    monkeypatch.setattr(mfcc_pitch, "OPENSMILE_CONFIG", changed)
    assert MFCCPitch("opensmile").fingerprint not in prints
    assert MFCCPitch("yin").fingerprint in prints


def test_unknown_tracker():
    with pytest.raises(ValueError, match="pitch 'praat' is not one of opensmile, yin"):
        MFCCPitch("praat")


def test_opensmile_s_licence_is_named_once(caplog):
    mfcc_pitch._smile.cache_clear()
    with caplog.at_level(logging.INFO, logger=mfcc_pitch.__name__):
        for _ in range(2):
            mfcc_pitch.opensmile_pitch(speechlike(0.5))
    assert [record.getMessage() for record in caplog.records].count(
        "pitch by openSMILE, which is licensed for non-commercial use only; choose pitch: yin for other uses") == 1


@pytest.mark.parametrize(("plugin", "dim"), [("mfcc_pitch", 27), ("spectrogram", 161)])
def test_the_registry_knows_it(plugin, dim):
    assert registry.load("features", plugin).dim == dim


# Log-mel and eGeMAPS


@pytest.mark.parametrize("bands", [1, 40, 126])
def test_logmel_is_that_of_librosa(bands):
    signal = speechlike(0.6)
    mel = librosa.feature.melspectrogram(y=signal, sr=RATE, n_fft=512, win_length=400, hop_length=160, window="hann",
                                         center=True, pad_mode="constant", n_mels=bands, fmin=20.0, fmax=8000.0,
                                         htk=True, norm=None)
    frames = LogMel(bands, normalize=False)(torch.from_numpy(signal)[None], torch.tensor([len(signal)]))
    expected = np.log(np.maximum(mel.T, 1e-10))
    audible = expected > -15  # below, float32 decides
    np.testing.assert_allclose(frames.data[0].numpy()[audible], expected[audible], atol=2e-3)
    assert frames.lengths.tolist() == [len(signal) // 160 + 1]


def test_logmel_does_not_hear_a_gain():
    signal = torch.from_numpy(speechlike(0.5) + noise(8000) / 10)[None]
    extractor, length = LogMel(), torch.tensor([8000])
    torch.testing.assert_close(extractor(signal / 8, length).data, extractor(signal, length).data, atol=1e-3, rtol=0)


@pytest.mark.parametrize("bands", [0, 127])
def test_logmel_refuses_bands_that_would_be_empty(bands):
    with pytest.raises(OptionError, match=f"feature extractor 'logmel': bands {bands}: from 1 to 126"):
        registry.create("features", "logmel", {"bands": bands})


def test_egemaps_puts_what_happens_at_one_moment_into_one_frame():
    """Pitch, loudness and balance change at 1 s; each has a window of its own in openSMILE."""
    before, after = buzz(np.full(RATE, 120.0)), buzz(np.full(RATE, 200.0), brightness=0.5)
    signal = np.concatenate([0.1 * before, after])
    frames = EGeMAPS(normalize=False)(torch.from_numpy(signal)[None], torch.tensor([len(signal)]))
    assert frames.data.shape == (1, 201, 25)
    for name in (LOUDNESS, F0, "alphaRatio_sma3", "mfcc1_sma3"):
        values = frames.data[0, :, NAMES.index(name)].numpy()
        early, late = np.median(values[60:90]), np.median(values[110:140])
        changed = (values > (early + late) / 2) == (late > early)
        last_before = 90 + np.flatnonzero(~changed[90:111])[-1]
        assert abs(last_before + 1 - 100) <= 2, name


def test_egemaps_are_openSMILEs_numbers_normalised():
    signal = torch.from_numpy(speechlike(0.8))[None]
    raw, normalised = (EGeMAPS(normalize=choice)(signal, torch.tensor([12800])).data[0] for choice in (False, True))
    rows = LowLevelDescriptors()(signal, torch.tensor([12800])).data[0]
    pitch, loudness = NAMES.index(F0), NAMES.index(LOUDNESS)
    torch.testing.assert_close(raw[:, pitch], rows[:81, pitch])  # row i of a window of 60 ms is centred on 10 i ms
    torch.testing.assert_close(raw[:, loudness], rows[2:83, loudness])  # of 20 ms, on 10 i - 20 ms
    torch.testing.assert_close(normalised.mean(dim=0), torch.zeros(25), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalised.std(dim=0, correction=0), torch.ones(25), atol=1e-3, rtol=0)
