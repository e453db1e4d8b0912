"""Pieces and windows: every stretch of the audio is given once, and heard with what lies around it."""

import itertools

import numpy as np
import pytest
import torch

from ser_plugins import windows
from ser_plugins.contracts import Encoding, Frames
from ser_plugins.errors import OptionError

RATE = 25.0  # steps per second


def pieces_of(seconds, chunk=8.0, context=2.0):
    samples = np.arange(round(seconds * 16000), dtype=np.float32)
    return samples, list(windows.pieces(samples, 16000, RATE, chunk, context))


@pytest.mark.parametrize("seconds", [0.5, 8.0, 8.01, 12.0, 12.04, 23.456])
def test_pieces_give_the_audio_once(seconds):
    samples, pieces = pieces_of(seconds)
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[0].span[0] == 0
    assert pieces[-1].span[1] == pieces[-1].end == pytest.approx(seconds)
    for one, other in itertools.pairwise(pieces):
        assert one.span[1] == other.span[0]
        assert other.span[0] - other.offset == 2.0
        assert one.end - one.span[1] == 2.0
    for piece in pieces:
        start = round(piece.offset * 16000)
        assert np.array_equal(piece.samples[0].numpy(), samples[start:start + piece.samples.shape[1]])


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0, 1.3, 3.9, 8.0, 12.04, 23.456])
@pytest.mark.parametrize(("window", "step"), [(2.0, 0.5), (4.0, 2.0), (2.0, 2.0), (0.3, 0.3)])
def test_segments_tile_the_audio_and_lie_in_their_windows(seconds, window, step):
    _, pieces = pieces_of(seconds)
    track = []
    for piece in pieces:
        for span, (start, end) in windows.segments(piece, window, step, len(track)):
            track.append((span, (start + piece.offset, end + piece.offset)))
            assert start >= 0
            assert end <= piece.end - piece.offset
    spans = [span for span, _ in track]
    assert spans[0][0] == 0
    assert spans[-1][1] == pytest.approx(seconds)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(spans))
    assert all(end - start == pytest.approx(step) for start, end in spans[:-1])
    assert spans[-1][1] - spans[-1][0] <= 1.5 * step + 1e-9 or len(spans) == 1
    for (first, last), (start, end) in track:
        assert end - start == pytest.approx(min(window, seconds))
        inside = window / 2 < first and last < seconds - window / 2
        if inside:
            assert (start + end) / 2 == pytest.approx((first + last) / 2)
        assert max(start, first) < min(end, last)  # a segment is judged by a window that holds some of it


def test_no_window_starts_before_its_piece_whatever_window_step_and_duration():
    random = np.random.default_rng(0)
    cases = [(10.15, 0.08, 25.0, 45.0)]
    for _ in range(50):
        window, rate = round(random.uniform(0.05, 24), 2), float(random.choice([12.5, 25, 31.25, 49.95, 50]))
        cases.append((window, round(min(window, 10 ** random.uniform(-1.3, 1.3)), 2), rate, random.uniform(0.1, 90)))
    for window, step, rate, seconds in cases:
        samples = np.zeros(round(seconds * 16000), dtype=np.float32)
        context, reached, ended = windows.context_of(window, step), 0, 0.0
        for piece in windows.pieces(samples, 16000, rate, 24 + 2 * context, context):
            length = max(int(piece.samples.shape[1] / 16000 * rate), 1)
            frames = Frames(torch.arange(float(length)).view(1, length, 1), torch.tensor([length]), rate)
            found = windows.segments(piece, window, step, reached)
            for (first, last), (start, end) in found:
                assert -1e-9 < start < end, (window, step, rate, len(samples))
                assert first == pytest.approx(ended)
                ended = last
            reached += len(found)
            assert found or not piece.last
            if found:
                cut = windows.cut(frames, [span for _, span in found])
                starts = [start * rate for _, (start, _) in found]
                assert int(cut.lengths.min()) >= 1
                assert all(first >= min(start, length - 1) - 1e-5
                           for first, start in zip(cut.data[:, 0, 0].tolist(), starts, strict=True))
        assert ended == pytest.approx(len(samples) / 16000)  # nothing is left over


def test_a_start_that_rounding_puts_before_the_utterance_is_its_beginning():
    frames = Frames(torch.arange(5.0).view(1, 5, 1), torch.tensor([5]), rate=10.0)
    assert windows.cut(frames, [(-0.3, 0.1)]).data.flatten().tolist() == [0, 1]


def test_the_context_of_pieces_holds_windows_and_steps():
    assert [windows.context_of(*track) for track in ((2.0, 0.5), (8.0, 0.5), (4.0, 4.0))] == [3.0, 4.0, 4.0]


@pytest.mark.parametrize(("window", "step", "message"), [
    (0.0, 0.5, "window 0.0: it must be a number of seconds above 0"),
    (float("nan"), 0.5, "window nan"),
    ("2", 0.5, "window '2'"),
    (2.0, 0.0, "step 0.0: it must be a number of seconds, from 0.01 to the window's 2"),
    (2.0, 3.0, "step 3.0"),
])
def test_windows_that_are_none(window, step, message):
    with pytest.raises(OptionError, match=message):
        windows.check(window, step)


def test_what_is_cut_is_one_frame_at_least_and_within_the_utterance():
    frames = Frames(torch.arange(12.0).view(1, 6, 2), torch.tensor([5]), rate=10.0)
    parts = windows.cut(frames, [(0.1, 0.3), (0.11, 0.19), (0.31, 9.0), (0.7, 0.8)])
    assert [part[:, 0].tolist() for part in parts.unpad()] == [[2, 4, 6], [4], [8], [8]]
    encoding = windows.cut_encoding(Encoding((frames, frames), frames), [2], [(0.0, 0.2)])
    assert encoding.layers[0] is frames
    assert encoding.layers[1].lengths.tolist() == encoding.log_probs.lengths.tolist() == [3]
