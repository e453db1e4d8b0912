"""Leave-one-speaker-out: every speaker is tested once, by a model that never heard them (Lakomkin et al. 2017, §3.2.1).

The validation speaker is the other speaker of the test speaker's session, as in the paper; where there are no sessions
of two or more speakers, it is the next speaker in the order of names. Who is neither tests nor validates trains; of a
session that is tested, nobody does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ser_plugins.errors import DataError, OptionError, unknown_name


@dataclass(frozen=True)
class Fold:
    """Speakers of one fold: the tested one, the validating one, and those that train."""

    test: str
    valid: str
    train: tuple[str, ...]


def leave_one_speaker_out(sessions: Mapping[str, str]) -> list[Fold]:
    """One fold for each speaker, in the order of their names.

    Arguments
    ---------
    sessions : Mapping[str, str]
        Speaker → recording session, empty where there is none.

    Returns
    -------
    list[Fold]

    Raises
    ------
    DataError
        There are too few speakers to test, validate and train on different ones.

    Example
    -------
    >>> leave_one_speaker_out({"a": "", "b": "", "c": ""})[2]
    Fold(test='c', valid='a', train=('b',))
    >>> leave_one_speaker_out({"1F": "1", "1M": "1", "2F": "2", "2M": "2"})[1]
    Fold(test='1M', valid='1F', train=('2F', '2M'))
    """
    speakers = sorted(sessions)
    if len(speakers) < 3:
        raise DataError(f"leave-one-speaker-out needs at least 3 speakers to test, validate and train on, "
                        f"found {len(speakers)}: {', '.join(speakers) or '(none)'}")
    folds = [_fold(speaker, speakers, sessions) for speaker in speakers]
    empty = [fold.test for fold in folds if not fold.train]
    if empty:
        raise DataError(f"testing speaker {empty[0]} leaves no one to train on: all {len(speakers)} speakers share the "
                        f"session '{sessions[empty[0]]}'; give each session a name of its own, or none")
    return folds


def _fold(test: str, speakers: Sequence[str], sessions: Mapping[str, str]) -> Fold:
    mates = [speaker for speaker in speakers if sessions[speaker] and sessions[speaker] == sessions[test]]
    circle = mates if len(mates) > 1 else speakers
    valid = circle[(circle.index(test) + 1) % len(circle)]
    out = {test, valid, *(mates if len(mates) > 1 else ())}
    return Fold(test, valid, tuple(speaker for speaker in speakers if speaker not in out))


def speaker_sessions(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Speaker → session from (speaker, session) pairs of utterances; a speaker of several sessions has none.

    Example
    -------
    >>> speaker_sessions([("a", "1"), ("b", "1"), ("b", "2")])
    {'a': '1', 'b': ''}
    """
    found: dict[str, set[str]] = {}
    for speaker, session in pairs:
        found.setdefault(speaker, set()).add(session)
    return {speaker: names.pop() if len(names) == 1 else "" for speaker, names in found.items()}


def find(folds: Sequence[Fold], test_speaker: str | None) -> Fold:
    """The fold that tests a speaker; the first one for None.

    Raises
    ------
    OptionError
        There is no such speaker; those that exist are named.
    """
    if test_speaker is None:
        return folds[0]
    for fold in folds:
        if fold.test == test_speaker:
            return fold
    raise OptionError(unknown_name("test speaker", test_speaker, [fold.test for fold in folds], "speakers"))


def check_disjoint(train: Iterable[str], valid: Iterable[str], test: Iterable[str]) -> None:
    """Refuses a leak: something (speakers, or hashes of audio) that stands in more than one part.

    Raises
    ------
    DataError
        The shared names are listed.
    """
    parts = {"training": set(train), "validation": set(valid), "test": set(test)}
    for first, second in (("training", "test"), ("validation", "test"), ("training", "validation")):
        shared = sorted(parts[first] & parts[second])
        if shared:
            raise DataError(f"leak: {len(shared)} of the {second} set also in the {first} set: "
                            f"{', '.join(shared[:5])}{', …' if len(shared) > 5 else ''}")
