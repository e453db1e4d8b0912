"""Leave one speaker out: every speaker tested once, never heard before."""

from __future__ import annotations

import random

import pytest

from ser_plugins.errors import DataError, OptionError
from ser_plugins.folds import Fold, check_disjoint, find, leave_one_speaker_out, speaker_sessions

IEMOCAP = {f"{number}{letter}": f"Session{number}" for number in range(1, 6) for letter in "FM"}


def random_sessions(seed):
    """3 to 24 speakers in sessions of any size, or in none, named and ordered at random."""
    draw = random.Random(seed)
    speakers = [f"{draw.randrange(10**6):06d}" for _ in range(draw.randint(3, 24))]
    rooms = ["", *(f"room {number}" for number in range(draw.randint(0, 8)))]
    sessions = {speaker: draw.choice(rooms) for speaker in speakers}
    if len(set(sessions.values())) == 1:  # one session for all leaves no one to train on
        sessions[speakers[0]] = "of its own"
    return sessions


@pytest.mark.parametrize("seed", range(40))
def test_every_speaker_is_tested_once_by_a_model_that_never_heard_them(seed):
    sessions = random_sessions(seed)
    folds = leave_one_speaker_out(sessions)
    assert [fold.test for fold in folds] == sorted(sessions)
    for fold in folds:
        used = [fold.test, fold.valid, *fold.train]
        assert len(set(used)) == len(used)
        assert set(used) <= set(sessions)
        assert fold.train
        check_disjoint(fold.train, [fold.valid], [fold.test])


@pytest.mark.parametrize("seed", range(40))
def test_who_shares_the_tested_session_does_not_train(seed):
    sessions = random_sessions(seed)
    for fold in leave_one_speaker_out(sessions):
        mates = {speaker for speaker, name in sessions.items() if name and name == sessions[fold.test]} - {fold.test}
        assert not mates & set(fold.train)
        assert fold.valid in mates or not mates
        assert {fold.test, fold.valid, *mates, *fold.train} == set(sessions)


def test_the_order_in_which_speakers_are_named_does_not_matter():
    names = list(IEMOCAP)
    random.Random(0).shuffle(names)
    assert leave_one_speaker_out({name: IEMOCAP[name] for name in names}) == leave_one_speaker_out(IEMOCAP)


def test_iemocap_as_in_the_paper():
    """Four sessions train; of the fifth, one speaker validates and the other is tested (§3.2.1)."""
    folds = leave_one_speaker_out(IEMOCAP)
    assert len(folds) == 10
    for fold in folds:
        assert fold.valid == fold.test[0] + {"F": "M", "M": "F"}[fold.test[1]]
        assert len(fold.train) == 8
        assert {speaker[0] for speaker in fold.train} == set("12345") - {fold.test[0]}


def test_without_sessions_the_next_speaker_validates():
    speakers = ["03", "08", "09", "10"]
    folds = leave_one_speaker_out(dict.fromkeys(speakers, ""))
    assert [(fold.test, fold.valid) for fold in folds] == [("03", "08"), ("08", "09"), ("09", "10"), ("10", "03")]
    assert folds[1].train == ("03", "10")
    alone = leave_one_speaker_out({speaker: f"session of {speaker}" for speaker in speakers})
    assert alone == folds  # a session of one speaker is none


@pytest.mark.parametrize(("speakers", "found"), [
    ([], r"found 0: \(none\)"), (["anna"], "found 1: anna"), (["anna", "bert"], "found 2: anna, bert")])
def test_too_few_speakers(speakers, found):
    with pytest.raises(DataError, match=f"needs at least 3 speakers to test, validate and train on, {found}"):
        leave_one_speaker_out(dict.fromkeys(speakers, ""))


def test_one_session_for_all_leaves_no_one_to_train_on():
    with pytest.raises(DataError, match="testing speaker a leaves no one to train on: all 3 speakers share the"):
        leave_one_speaker_out(dict.fromkeys("abc", "studio"))


def test_sessions_of_speakers():
    pairs = [("a", "1"), ("a", "1"), ("b", ""), ("c", "1"), ("c", "2")]
    assert speaker_sessions(pairs) == {"a": "1", "b": "", "c": ""}


def test_find():
    folds = leave_one_speaker_out(IEMOCAP)
    assert find(folds, "3M").test == "3M"
    assert find(folds, None) is folds[0]
    with pytest.raises(OptionError, match="no test speaker '6X'; speakers: 1F, 1M, 2F"):
        find(folds, "6X")
    with pytest.raises(OptionError, match="no test speaker 'ana'; did you mean 'anna'"):
        find([Fold("anna", "bert", ("carl",))], "ana")


@pytest.mark.parametrize(("parts", "message"), [
    (("ab", "c", "b"), "1 of the test set also in the training set: b$"),
    (("ab", "c", "c"), "1 of the test set also in the validation set: c$"),
    (("ab", "ba", "d"), "2 of the validation set also in the training set: a, b$"),
    (("abcdefgh", "x", "hgfedc"), "6 of the test set also in the training set: c, d, e, f, g, …$"),
])
def test_a_leak_is_an_error(parts, message):
    with pytest.raises(DataError, match=f"leak: {message}"):
        check_disjoint(*parts)
