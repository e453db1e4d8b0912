"""Alignment by time, correlations against scipy, and probes on constructed vectors."""

import numpy as np
import pytest
import torch
from scipy import stats

from ser_plugins import descriptors, probing
from ser_plugins.contracts import SAMPLE_RATE, Frames
from ser_plugins.corpora.manifest import Row
from ser_plugins.descriptors import F0, LOUDNESS, NAMES, LowLevelDescriptors
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.errors import DataError

# Descriptors that an artificial vowel has without jumps
STEADY = (LOUDNESS, "slope0-500_sma3", "slope500-1500_sma3", "spectralFlux_sma3", "mfcc1_sma3", "mfcc4_sma3", F0,
          "HNRdBACF_sma3nz", "logRelF0-H1-H2_sma3nz")


def samples(seconds):
    return np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def voice(hertz, level, seed=0):
    """Harmonics under a pitch and a level of every sample, with some breath: an artificial vowel."""
    phase = 2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE
    tone = sum(np.sin(number * phase) / number for number in range(1, 16))
    return (level * (tone + 0.02 * np.random.default_rng(seed).normal(size=len(hertz)))).astype(np.float32)


def wavering(seconds=2.4, speed=1.0):
    """An artificial vowel whose pitch and level move on courses that are nowhere symmetric."""
    time = samples(seconds)
    hertz = 160 * 2 ** (0.35 * np.sin(2 * np.pi * 1.1 * speed * time) + 0.15 * np.sin(2 * np.pi * 2.3 * speed * time))
    level = 0.06 * np.exp(np.sin(2 * np.pi * 3.1 * speed * time) + 0.7 * np.sin(2 * np.pi * 1.7 * speed * time + 1))
    return voice(hertz, level), hertz, level


def described(waveform, times):
    """Descriptors of a waveform at some moments, ``[moments, 25]``."""
    batch = torch.from_numpy(waveform.copy()).unsqueeze(0)
    frames = LowLevelDescriptors()(batch, torch.tensor([len(waveform)])).data[0].numpy()
    return probing.align(descriptors.without_unvoiced(frames), LowLevelDescriptors.rate, descriptors.STARTS, times)


# Alignment


def test_align_is_linear_interpolation_within_the_measured_range():
    generator = np.random.default_rng(0)
    frames, starts = generator.normal(size=(20, 3)), np.array([-0.02, 0.0, 0.005])
    times = np.arange(-10, 40) / 125.0
    found = probing.align(frames, 100.0, starts, times)
    for column, start in enumerate(starts):
        known = start + np.arange(20) / 100.0
        truth = np.interp(times, known, frames[:, column])
        inside = (times >= known[0] - 1e-9) & (times <= known[-1] + 1e-9)
        np.testing.assert_allclose(found[inside, column], truth[inside], atol=1e-9)
        assert np.isnan(found[~inside, column]).all()


def test_a_moment_on_a_frame_needs_that_frame_alone():
    frames = np.array([np.nan, 1.0, np.nan, 3.0, 4.0])[:, None]
    found = probing.align(frames, 100.0, np.array([0.0]), np.array([0.01, 0.0125, 0.03, 0.035, 0.04, 0.041]))[:, 0]
    np.testing.assert_array_equal(found, [1.0, np.nan, 3.0, 3.5, 4.0, np.nan])


def test_pitch_is_put_on_the_moment_when_it_was_spoken():
    waveform, hertz, _ = wavering()
    times = np.arange(10, 50) / 25.0
    times = times[times < 2.2]
    found = described(waveform, times)[:, NAMES.index(F0)]
    truth = 12 * np.log2(hertz / 27.5)
    at = np.round(times * SAMPLE_RATE).astype(int)
    error = np.abs(found - truth[at])
    assert np.nanmedian(error) < 0.1  # semitones
    for shift in (-320, 320):  # 20 ms earlier or later
        assert np.nanmedian(np.abs(found - truth[at + shift])) > 2 * np.nanmedian(error)


@pytest.mark.parametrize("rate", [25.0, 50.0, 49.3])
def test_a_neuron_that_is_loudness_is_found_and_one_frame_later_it_is_not(rate):
    level = wavering(speed=2.0)[2]
    times = np.arange(int(2.4 * rate)) / rate
    loudness = described(voice(np.full(len(level), 150.0), level), times)[:, NAMES.index(LOUDNESS)]
    neuron = level[np.round(times * SAMPLE_RATE).astype(int)] ** 0.7  # loudness grows less than level
    assert probing.correlation(neuron, loudness) > 0.99
    assert probing.correlation(neuron[:-1], loudness[1:]) < 0.9
    assert probing.correlation(neuron[1:], loudness[:-1]) < 0.9


def test_speech_played_backwards_has_the_mirrored_descriptors():
    waveform = wavering()[0]
    times = np.arange(5, 235) / 100.0
    forwards = described(waveform, times)
    right, early, late = (described(waveform[::-1], 2.4 - times + shift) for shift in (0.0, -0.02, 0.02))
    for name in STEADY:  # had a centre been 10 ms off, one of the others would fit
        column = NAMES.index(name)
        assert probing.correlation(forwards[:, column], right[:, column]) > 0.999, name
        for other in (early, late):
            assert probing.correlation(forwards[:, column], other[:, column]) < 0.99, name


def test_descriptors_of_the_voice_have_no_value_without_a_voice():
    hiss = (0.05 * np.random.default_rng(0).normal(size=SAMPLE_RATE)).astype(np.float32)
    waveform = np.concatenate([wavering(1.0)[0], hiss])
    found = described(waveform, np.arange(40) / 20.0)
    assert np.isfinite(found[:, ~descriptors.VOICED]).all()
    assert np.isnan(found[22:38][:, descriptors.VOICED]).mean() > 0.9
    assert np.isfinite(found[2:18][:, descriptors.VOICED]).mean() > 0.9


def test_descriptors_have_opensmiles_names_and_a_loud_recording_does_not_wrap_round():
    assert tuple(descriptors._smile().feature_names) == NAMES
    waveform = wavering(1.0)[0]
    times = np.arange(20) / 20.0
    quiet, loud = (described(factor * waveform / np.abs(waveform).max(), times) for factor in (0.95, 3.0))
    column = NAMES.index("mfcc2_sma3")
    np.testing.assert_allclose(loud[:, column], quiet[:, column], atol=0.5)


def test_frames_of_the_recogniser_are_centred_on_multiples_of_its_step():
    encoder = DeepSpeech2(units=2, num_layers=1, channels=1, time_strides=(2, 2)).freeze()
    for convolution in encoder.convolutions.convolutions:
        torch.nn.init.ones_(convolution.weight)
    for centre in (80, 84, 102):  # of 201 frames of 10 ms
        spectrum = torch.zeros(1, 201, encoder.frontend.dim)
        spectrum[0, centre] = 1e-4  # below the clipping
        response = encoder.convolutions(Frames(spectrum, torch.tensor([201]), encoder.frontend.rate)).data.sum(2)[0]
        moments = torch.arange(len(response)) / encoder.rate
        assert float((response * moments).sum() / response.sum()) == pytest.approx(centre / 100, abs=1e-3)


# Correlations


def utterances(seed=0, neurons=5, columns=3):
    """Random frames with something in common, ``(neurons, descriptors, speaker)``; some descriptors are missing.

    The three speakers have 5, 3 and 1 utterances.
    """
    generator = np.random.default_rng(seed)
    found = []
    for number in range(9):
        length = int(generator.integers(15, 40))
        common = generator.normal(size=(length, 1))
        x = generator.normal(size=(length, neurons)) + common * np.linspace(-1, 1, neurons) + number
        d = generator.normal(size=(length, columns)) + common
        d[generator.random(d.shape) < 0.1] = np.nan
        found.append((x.astype(np.float32), d, f"s{(number > 4) + (number > 7)}"))
    return found


def correlations(parts):
    correlator = probing.Correlator()
    for part in parts:
        correlator.add(*part)
    return correlator.correlations()


def test_correlations_are_scipys():
    parts = utterances()
    found = correlations(parts)
    for row, column in np.ndindex(found.r.shape):
        pairs = [(x[:, column][np.isfinite(d[:, row])].astype(float), d[:, row][np.isfinite(d[:, row])], speaker)
                 for x, d, speaker in parts]
        z = {}
        for x, d, speaker in pairs:
            z.setdefault(speaker, []).append(np.arctanh(stats.pearsonr(x, d).statistic))
        assert found.r[row, column] == pytest.approx(np.tanh(np.mean([np.mean(v) for v in z.values()])))
        assert found.pooled[row, column] == pytest.approx(
            stats.pearsonr(*(np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))).statistic)
        assert found.p[row, column] == pytest.approx(stats.ttest_1samp([np.mean(v) for v in z.values()], 0).pvalue)
        assert (found.utterances[row, column], found.speakers[row, column]) == (9, 3)


def test_holm_counts_all_neurons_within_a_descriptor():
    found = correlations(utterances(neurons=7))
    for p, holm in zip(found.p, found.holm, strict=True):
        order = np.argsort(p)
        stepped = [max(p[order[i]] * (7 - i) for i in range(rank + 1)) for rank in range(7)]
        np.testing.assert_allclose(holm[order], np.minimum(stepped, 1))


def test_what_is_constant_or_short_has_no_correlation():
    parts = utterances()
    for x, _, _ in parts:
        x[:, 2] = 0.75
    parts[0][1][:, 1] = np.nan
    parts[1][1][9:, 1] = np.nan  # 9 frames are too few
    found = correlations(parts)
    for values in (found.r, found.p, found.holm, found.pooled):
        assert np.isnan(values[:, 2]).all()
        assert np.isfinite(np.delete(values, 2, axis=1)).all()
    assert found.utterances[:, 0].tolist() == [9, 7, 9]
    assert found.utterances[:, 2].tolist() == [0, 0, 0]


def test_a_perfect_neuron_and_its_negative():
    parts = [(np.hstack([d[:, :1], -d[:, :1], d[:, :1] ** 2]), d, speaker)
             for speaker, d in ((f"s{seed}", np.random.default_rng(seed).normal(size=(20, 2))) for seed in range(4))]
    found = correlations(parts)
    np.testing.assert_allclose(found.r[0, :2], [1, -1], atol=1e-6)
    assert found.holm[0, 0] < 1e-6
    assert np.abs(found.r[1]).max() < 0.6


def test_a_speaker_of_many_utterances_does_not_turn_the_sign():
    generator = np.random.default_rng(0)
    d = generator.normal(size=(60, 1))
    parts = [(sign * d + generator.normal(size=d.shape), d, speaker) for speaker, sign, count in
             (("s0", -1, 30), ("s1", 1, 2), ("s2", 1, 2), ("s3", 1, 2)) for _ in range(count)]
    found = correlations(parts)
    means = [np.mean([np.arctanh(stats.pearsonr(x[:, 0], d[:, 0]).statistic) for x, d, speaker in parts
                      if speaker == f"s{number}"]) for number in range(4)]
    reference = stats.ttest_1samp(means, 0)
    assert found.p[0, 0] == pytest.approx(reference.pvalue)
    assert np.sign(found.r[0, 0]) == np.sign(reference.statistic) == 1


def test_correlations_that_are_exactly_zero_are_no_evidence():
    d = np.tile([1.0, 1.0, -1.0, -1.0], 5)[:, None]
    x = np.tile([1.0, -1.0, 1.0, -1.0], 5)[:, None]  # orthogonal in whole numbers
    found = correlations([(np.hstack([x, d]), d, speaker) for speaker in ("s0", "s1", "s2")])
    assert (found.r[0, 0], found.p[0, 0], found.holm[0, 0]) == (0, 1, 1)
    assert found.p[0, 1] < 1e-9  # all alike, and not zero


def test_a_single_speaker_with_a_value_has_no_p():
    d = np.tile([1.0, 1.0, -1.0, -1.0], 5)[:, None]
    x = np.tile([1.0, -1.0, 1.0, -1.0], 5)[:, None]
    found = correlations([(x, d, "s0"), (x, np.full_like(d, np.nan), "s1")])
    assert found.r[0, 0] == 0
    assert np.isnan(found.p[0, 0])


def test_frames_do_not_count_as_independent():
    generator = np.random.default_rng(0)
    small = []
    for _ in range(200):  # 3 speakers × 2 utterances of slow random walks, which correlate within themselves
        walks = [(*generator.normal(size=(2, 40, 1)).cumsum(axis=1), f"s{number % 3}") for number in range(6)]
        small.append(correlations(walks).p[0, 0] <= 0.05)
    assert np.mean(small) < 0.1


def test_one_speaker_is_refused():
    with pytest.raises(DataError, match=r"1 speaker\(s\): a test needs two or more, since speakers are its units"):
        correlations([(x, d, "s0") for x, d, _ in utterances()])


# Probes


def design(speakers=6, repeats=3, labels=("anger", "joy", "sadness")):
    """Who speaks and the label of every utterance: each speaker speaks each label as often."""
    pairs = [(f"s{number}", label) for number in range(speakers) for label in labels for _ in range(repeats)]
    return [speaker for speaker, _ in pairs], [label for _, label in pairs]


def codes(names, dim=20, size=1.0, seed=0):
    """A random direction for each name, and noise: ``[utterances, dim]``."""
    generator = np.random.default_rng(seed)
    of = {name: generator.normal(size=dim) for name in sorted({*names})}
    return np.stack([size * of[name] for name in names]) + 0.3 * generator.normal(size=(len(names), dim))


def test_what_is_there_is_read_whoever_speaks():
    speakers, labels = design()
    result = probing.across_speakers(codes(labels) + codes(speakers, seed=1), labels, speakers)
    assert result.value > 0.9
    assert (result.low, result.count) == (pytest.approx(result.value, abs=0.3), 6)


def test_what_is_not_there_is_not_read():
    speakers, labels = design()
    result = probing.across_speakers(codes(speakers), labels, speakers)
    assert result.value < 0.5
    assert result.low <= 1 / 3 <= result.high


def test_a_probe_of_emotion_does_not_profit_from_knowing_the_speaker():
    speakers, _ = design(speakers=9, repeats=2)
    generator = np.random.default_rng(0)
    habits = {f"s{number}": ("anger", "joy", "sadness")[number % 3] for number in range(9)}  # most often, not always
    labels = [habits[speaker] if generator.random() < 0.8 else "joy" for speaker in speakers]
    vectors = codes(speakers, size=3.0)
    assert probing.across_speakers(vectors, labels, speakers).value < 0.5
    shuffled = [str(number % 9) for number in generator.permutation(len(labels))]  # folds that know every speaker
    assert probing.across_speakers(vectors, labels, shuffled).value > 0.75


def test_a_probe_of_the_speaker_does_not_profit_from_the_sentence():
    texts = [f"t{number}" for _ in range(5) for number in range(4) for _ in range(3)]
    speakers = [f"s{number}" for number in range(5) for _ in range(12)]
    pairs = [f"{speaker} {text}" for speaker, text in zip(speakers, texts, strict=True)]
    vectors = codes(pairs, size=3.0)  # each speaker's sentence is a place of its own
    assert probing.of_speakers(vectors, speakers, texts).value < 0.45
    assert probing.of_speakers(vectors, speakers, [""] * len(texts)).value > 0.9  # nothing is known of the texts
    result = probing.of_speakers(codes(speakers), speakers, texts)
    assert result.value > 0.9
    assert result.count == 5
    assert 0 <= result.low <= result.value <= result.high <= 1


def test_regularisation_is_chosen_where_features_outnumber_utterances():
    speakers, labels = design(speakers=5, repeats=2)
    generator = np.random.default_rng(0)
    vectors = np.hstack([codes(labels, dim=6), generator.normal(size=(len(labels), 300))])
    assert probing.across_speakers(vectors, labels, speakers).value > 0.5


@pytest.mark.parametrize(("labels", "speakers", "message"), [
    (["a", "a", "a"], ["x", "y", "z"], "all utterances are 'a': a probe needs two labels"),
    (["a", "b", "a", "b", "a"], ["x", "x", "y", "y", "z"], "'b' has 2 speakers: a probe needs three or more of each"),
    (["a", "b", "a", "a"], ["x", "x", "y", "z"], "'b' has 1 speaker: a probe needs three"),
])
def test_too_few_groups_are_refused(labels, speakers, message):
    with pytest.raises(DataError, match=message):
        probing.across_speakers(np.zeros((len(labels), 2)), labels, speakers)


@pytest.mark.parametrize(("speakers", "texts"), [
    ("babaaabbba", "1412320043"),  # an inner fold has one speaker
    ("babbabbaa", "224224110"),  # a training part has one text of a speaker
])
def test_two_speakers_of_few_texts_are_refused(speakers, texts):
    vectors = np.random.default_rng(0).normal(size=(len(texts), 3))
    with pytest.raises(DataError, match="the folds that choose the penalty would train on one label only"):
        probing.of_speakers(vectors, [*speakers], [*texts])


def test_gender_must_be_known():
    rows = [Row(str(number), "a.wav", 0.0, 1.0, 1.0, 16000, speaker, gender=gender)
            for number, (speaker, gender) in enumerate([("x", "female"), ("y", ""), ("z", "")])]
    with pytest.raises(DataError, match="the gender of 2 utterances is unknown"):
        probing.PROBES["gender"](np.zeros((3, 2)), rows)


def test_embedding_keeps_neighbours_and_is_repeatable():
    _, labels = design(speakers=4)
    vectors = codes(labels, size=2.0)
    points = probing.embed(vectors, seed=3, perplexity=8)
    assert points.shape == (len(labels), 2)
    centres = {name: points[np.array(labels) == name].mean(axis=0) for name in labels}
    nearest = [min(centres, key=lambda name: np.linalg.norm(point - centres[name])) for point in points]
    assert nearest == labels
    np.testing.assert_array_equal(points, probing.embed(vectors, seed=3, perplexity=8))
    assert np.isfinite(probing.embed(vectors[:5])).all()  # fewer than the perplexity
