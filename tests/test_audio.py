"""Audio in: formats, rates, channels, segments, resampling, and the errors of bad files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_plugins import audio
from ser_plugins.errors import DataError

RATE = audio.SAMPLE_RATE


def tone(frequency: float, rate: int = RATE, seconds: float = 1.0, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def spectrum(samples: np.ndarray) -> np.ndarray:
    """Amplitude of each whole Hz of one second of samples."""
    return np.abs(np.fft.rfft(samples[:RATE] * np.hanning(RATE))) / (RATE / 4)


def truncate(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


LOSSLESS = [("WAV", "PCM_16", 2**-15), ("WAV", "PCM_24", 2**-23), ("WAV", "PCM_32", 1e-7), ("WAV", "FLOAT", 0.0),
            ("WAV", "DOUBLE", 1e-7), ("WAVEX", "PCM_16", 2**-15), ("FLAC", "PCM_16", 2**-15),
            ("AIFF", "PCM_16", 2**-15), ("AU", "PCM_16", 2**-15), ("NIST", "PCM_16", 2**-15), ("CAF", "FLOAT", 0.0)]


@pytest.mark.parametrize("suffix", [".wav", ".sound"])
@pytest.mark.parametrize(("container", "subtype", "error"), LOSSLESS)
def test_lossless_formats_give_the_samples_whatever_the_suffix(tmp_path, container, subtype, error, suffix):
    path = tmp_path / f"audio{suffix}"
    soundfile.write(path, tone(440), RATE, format=container, subtype=subtype)
    samples = audio.read(path)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, tone(440), atol=error)
    assert audio.info(path) == audio.AudioInfo(1.0, RATE, 1)


@pytest.mark.parametrize(("container", "subtype"),
                         [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_lossy_formats_give_the_tone(tmp_path, container, subtype):
    soundfile.write(tmp_path / "audio", tone(440), RATE, format=container, subtype=subtype)
    samples = audio.read(tmp_path / "audio")
    assert len(samples) == RATE
    assert np.argmax(spectrum(samples)) == 440
    assert spectrum(samples)[440] == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_resampling_keeps_frequency_amplitude_and_duration(tmp_path, rate):
    soundfile.write(tmp_path / "audio.wav", tone(1000, rate), rate, subtype="FLOAT")
    samples = audio.read(tmp_path / "audio.wav")
    assert len(samples) == RATE
    assert np.argmax(spectrum(samples)) == 1000
    np.testing.assert_allclose(samples[500:-500], tone(1000)[500:-500], atol=1e-3)


def test_nothing_above_half_the_new_rate_is_folded_down(tmp_path):
    soundfile.write(tmp_path / "audio.wav", tone(10000, 44100), 44100, subtype="FLOAT")  # would alias to 6 kHz
    inner = audio.read(tmp_path / "audio.wav")[500:-500]  # a tone's abrupt ends hold every frequency
    assert np.sqrt(np.mean(inner**2)) < 1e-4  # -71 dB of the tone


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_averaged(tmp_path, channels):
    each = np.stack([tone(200 * (n + 1)) for n in range(channels)], axis=1)
    soundfile.write(tmp_path / "audio.wav", each, RATE, subtype="FLOAT")
    samples = audio.read(tmp_path / "audio.wav")
    assert samples.shape == (RATE,)
    np.testing.assert_allclose(samples, each.mean(axis=1), atol=1e-7)
    assert audio.info(tmp_path / "audio.wav").channels == channels


@pytest.mark.parametrize(("container", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"),
                                                    ("MP3", "MPEG_LAYER_III")])
@pytest.mark.parametrize("rate", [8000, RATE])
def test_a_segment_is_that_part_of_the_file(tmp_path, container, subtype, rate):
    soundfile.write(tmp_path / "audio", tone(440, rate, 2.0), rate, format=container, subtype=subtype)
    whole, part = audio.read(tmp_path / "audio"), audio.read(tmp_path / "audio", 0.5, 1.25)
    assert len(part) == round(0.75 * RATE)
    inner = slice(500, -500)  # a resampler sees silence beyond the segment's ends
    np.testing.assert_allclose(part[inner], whole[RATE // 2: RATE // 2 + len(part)][inner], atol=1e-3)


def test_a_segment_open_at_one_end(tmp_path):
    soundfile.write(tmp_path / "audio.wav", tone(440), RATE, subtype="FLOAT")
    np.testing.assert_array_equal(audio.read(tmp_path / "audio.wav", end=0.25), tone(440)[:4000])
    np.testing.assert_array_equal(audio.read(tmp_path / "audio.wav", start=0.75), tone(440)[12000:])


def test_a_segment_is_read_without_decoding_the_rest(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "audio.wav", tone(440, seconds=60.0), RATE)
    asked = []
    decode = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read",
                        lambda self, frames=-1, **options: asked.append(frames) or decode(self, frames, **options))
    audio.read(tmp_path / "audio.wav", 30.0, 30.5)
    assert asked == [RATE // 2]


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_an_end_rounded_up_by_a_manifest_is_the_end(tmp_path, rate):
    frames = rate + 37
    soundfile.write(tmp_path / "audio.wav", tone(440, rate, 2.0)[:frames], rate)
    whole = audio.read(tmp_path / "audio.wav")
    for decimals in (2, 3, 6):
        end = np.ceil(frames / rate * 10**decimals) / 10**decimals
        np.testing.assert_array_equal(audio.read(tmp_path / "audio.wav", 0.0, end), whole)


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.02), (1.0, None), (0.5, 0.5), (0.6, 0.5), (-0.1, 0.5), (2.0, 3.0)])
def test_a_segment_outside_the_audio_is_refused(tmp_path, start, end):
    soundfile.write(tmp_path / "audio.wav", tone(440), RATE)
    with pytest.raises(DataError, match=r"audio\.wav: segment .* lies outside the audio, which is 1\.000 s long"):
        audio.read(tmp_path / "audio.wav", start, end)


@pytest.mark.parametrize("function", [audio.read, audio.info])
class TestBadFiles:
    """Both functions refuse a bad file and name it."""

    def test_missing(self, tmp_path, function):
        with pytest.raises(DataError, match=r"\*\.wav: no such audio file; no file matches this pattern$"):
            function(str(tmp_path / "*.wav"))
        with pytest.raises(DataError, match=r"none\.wav: no such audio file$"):
            function(tmp_path / "none.wav")

    def test_folder(self, tmp_path, function):
        with pytest.raises(DataError, match="a folder; need an audio file"):
            function(tmp_path)

    def test_empty(self, tmp_path, function):
        (tmp_path / "audio.wav").touch()
        with pytest.raises(DataError, match=r"audio\.wav: the file is empty \(0 bytes\)"):
            function(tmp_path / "audio.wav")

    @pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".txt"])
    def test_text(self, tmp_path, function, suffix):
        path = tmp_path / f"audio{suffix}"
        path.write_text("This is no audio.\n" * 100)
        with pytest.raises(DataError, match=rf"audio\{suffix}: not audio that libsndfile can read"):
            function(path)

    def test_headerless(self, tmp_path, function):
        (tmp_path / "audio.raw").write_bytes(bytes(1000))
        with pytest.raises(DataError, match=r"audio\.raw: headerless audio; convert it"):
            function(tmp_path / "audio.raw")

    def test_no_samples(self, tmp_path, function):
        soundfile.write(tmp_path / "audio.wav", np.zeros(0), RATE)
        with pytest.raises(DataError, match=r"audio\.wav: the audio holds no samples"):
            function(tmp_path / "audio.wav")

    @pytest.mark.parametrize("container", ["WAV", "AIFF", "AU", "W64"])
    def test_shorter_than_the_header_says(self, tmp_path, function, container):
        soundfile.write(tmp_path / "audio", tone(440), RATE, format=container, subtype="PCM_16")
        truncate(tmp_path / "audio", 0.5)
        with pytest.raises(DataError, match=r"audio: truncated, \d+ of 3\d+ bytes are there"):
            function(tmp_path / "audio")


@pytest.mark.parametrize(("container", "subtype"),
                         [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("CAF", "PCM_16")])
def test_truncated_after_the_header(tmp_path, container, subtype):
    soundfile.write(tmp_path / "audio", tone(440), RATE, format=container, subtype=subtype)
    truncate(tmp_path / "audio", 0.5)
    with pytest.raises(DataError, match=r"audio: .*(truncated|malformed)"):
        audio.read(tmp_path / "audio")


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_the_placeholder_sizes_of_streamed_wav_are_no_truncation(tmp_path, size):
    path = tmp_path / "audio.wav"
    soundfile.write(path, tone(440), RATE)
    content = bytearray(path.read_bytes())
    data = content.index(b"data")
    content[4:8] = content[data + 4: data + 8] = size.to_bytes(4, "little")
    path.write_bytes(content)
    assert len(audio.read(path)) == RATE


@pytest.mark.parametrize(("bad", "count"), [(slice(None), 16000), (slice(5, 8), 3)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite(tmp_path, bad, count, value):
    samples = tone(440)
    samples[bad] = value
    soundfile.write(tmp_path / "audio.wav", samples, RATE, subtype="FLOAT")
    with pytest.raises(DataError, match=rf"audio\.wav: {count} of 16000 samples are not finite"):
        audio.read(tmp_path / "audio.wav")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize(("seconds", "number"), [(0.8, 1), (1.0, 1), (1.01, 2), (2.2, 3), (3.47, 6)])
def test_blocks_are_the_file(tmp_path, suffix, seconds, number):
    """Of 1 s, which have 0.4 s in common."""
    path = tmp_path / f"noise{suffix}"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (round(seconds * 16000), 2))
    soundfile.write(path, noise, 16000, format=suffix[1:].upper())
    whole, blocks = audio.read(path), list(audio.read_blocks(path, 1.0, 0.4))
    assert all(len(block) == 16000 for block in blocks[:-1])
    starts, exact = range(0, len(whole), 9600), 1e-6 if suffix == ".mp3" else 0  # mpg123 rounds by its buffer
    for start, block in zip(starts, blocks, strict=False):
        np.testing.assert_allclose(block, whole[start:start + 16000], rtol=0, atol=exact)
    if suffix != ".mp3":  # which is padded to whole frames
        assert len(blocks) == number
    joined = np.concatenate([blocks[0], *(block[6400:] for block in blocks[1:])])
    np.testing.assert_allclose(joined, whole, rtol=0, atol=exact)


def test_blocks_without_overlap_of_another_rate(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(22050, 0.25), 11025)
    assert [len(block) for block in audio.read_blocks(tmp_path / "a.wav", 1.2, 0.0)] == [19200, 12800]


def test_a_block_that_is_not_there_is_refused(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 64000), 16000)
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    blocks = audio.read_blocks(path, 1.0, 0.4)
    assert len(next(blocks)) == 16000
    with pytest.raises(DataError, match="truncated"):
        list(blocks)
