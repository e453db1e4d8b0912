"""IEMOCAP (Busso et al. 2008): ten actors in five sessions; read from the user's own copy of the release.

Two rules make four classes of it.

``paper`` gives the 6,416 turns of Lakomkin et al. 2017, §3.2.1. The paper says: at least two annotators agree,
Excited merged with Happiness, turns with three different emotions dropped. How it was coded is inferred; of many
variants this one gives the paper's four counts exactly on the release:

1. all evaluators of the turn vote, the actor's self-evaluation (``C-F*``, ``C-M*``) included where there is one;
2. each casts one vote, the first label on the line;
3. Excited becomes Happiness before voting (by the label mapping);
4. labels other than the four are no votes;
5. a turn is kept if a class has at least two votes,
6. and dropped if the votes name three different classes;
7. ties go to the alphabetically first class.

``customary`` gives the 5,531 turns that most work uses: the official label, Excited merged with Happiness.

The speaker is the session and the letter of the *turn* (``Ses01F_impro01_M003`` is ``Ses01M``): a dialogue's name
says who wore the markers, and both actors speak in it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ser_plugins.contracts import Corpus, Utterance
from ser_plugins.corpora.labels import load_labels
from ser_plugins.corpora.layout import audio_files, require
from ser_plugins.corpora.manifest import Row
from ser_plugins.errors import DataError, OptionError, unknown_name

CLASSES = ("anger", "happiness", "neutral", "sadness")
RULES = ("paper", "customary")
# Turns of each speaker on the release, in the order of CLASSES.
PUBLISHED = {
    "paper": {
        "Ses01F": (136, 201, 183, 75), "Ses01M": (85, 224, 216, 116),
        "Ses02F": (65, 236, 132, 111), "Ses02M": (67, 239, 227, 78),
        "Ses03F": (104, 219, 137, 167), "Ses03M": (163, 272, 207, 128),
        "Ses04F": (201, 278, 76, 62), "Ses04M": (122, 232, 182, 79),
        "Ses05F": (72, 234, 221, 132), "Ses05M": (89, 361, 171, 116),
    },
    "customary": {
        "Ses01F": (147, 132, 171, 78), "Ses01M": (82, 146, 213, 116),
        "Ses02F": (67, 166, 135, 113), "Ses02M": (70, 161, 227, 84),
        "Ses03F": (92, 128, 130, 172), "Ses03M": (148, 158, 190, 133),
        "Ses04F": (205, 185, 76, 62), "Ses04M": (122, 118, 182, 81),
        "Ses05F": (78, 159, 221, 132), "Ses05M": (92, 283, 163, 113),
    },
}

TURN = re.compile(r"\[(?P<start>[\d.]+) - (?P<end>[\d.]+)\]\s+(?P<id>Ses\d\d[FM]_\w+_[FM]\w+)\s+(?P<label>\w+)\s+"
                  r"\[(?P<ratings>[\d.]+, *[\d.]+, *[\d.]+)\]")
VOTE = re.compile(r"C-\w+:\s*(?P<labels>[^(]*)")  # C-E2:\tNeutral; Frustration;\t(comment)
TRANSCRIPT = re.compile(r"(?P<id>Ses\w+)\s+\[[^\]]*\]:\s*(?P<text>.*)")


@dataclass
class Turn:
    """A turn of an annotation file: its name, official label, ratings, and each evaluator's first label."""

    id: str
    label: str
    ratings: tuple[float, ...]  # means of valence, activation, dominance, 1 to 5
    votes: list[str]

    @property
    def speaker(self) -> str:
        """Session and letter of the turn, e.g. ``"Ses01M"``."""
        return self.id[:5] + self.id.rsplit("_", 1)[1][0]


def parse_turns(lines: Iterable[str]) -> list[Turn]:
    """Turns of an annotation file.

    Example
    -------
    >>> parse_turns(["[6.29 - 8.23]\\tSes01F_impro01_M000\\tneu\\t[2.5, 2.5, 2.5]",
    ...              "C-E2:\\tNeutral; Anger;\\t()", "C-E3:\\t;\\t()", "A-E3:\\tval 3; act  2;\\t()"])
    [Turn(id='Ses01F_impro01_M000', label='neu', ratings=(2.5, 2.5, 2.5), votes=['Neutral'])]
    """
    turns: list[Turn] = []
    for line in lines:
        if turn := TURN.match(line):
            turns.append(Turn(turn["id"], turn["label"], tuple(map(float, turn["ratings"].split(","))), []))
        elif turns and (vote := VOTE.match(line)):
            first = vote["labels"].split(";")[0].strip()
            if first:  # an evaluator's list may be empty
                turns[-1].votes.append(first)
    return turns


def paper_label(votes: Iterable[str], labels: Mapping[str, str]) -> str | None:
    """Steps 3 to 7 of the paper's rule.

    Arguments
    ---------
    votes : Iterable[str]
        First label of each evaluator.
    labels : Mapping[str, str]
        Their words → common names.

    Returns
    -------
    str | None
        One of `CLASSES`, None for a turn that is dropped.

    Example
    -------
    >>> labels = {"Excited": "happiness", "Happiness": "happiness", "Anger": "anger"}
    >>> paper_label(["Excited", "Happiness", "Anger"], labels)
    'happiness'
    """
    names = [labels.get(vote, vote) for vote in votes]
    tally = Counter(name for name in names if name in CLASSES)
    if not tally or len(tally) >= 3 or max(tally.values()) < 2:
        return None
    return min(name for name, number in tally.items() if number == max(tally.values()))


class IEMOCAP(Corpus):
    """Reads the release's folder; sound files may have been converted to any audio format.

    Arguments
    ---------
    label_rule : str
        ``"paper"`` (6,416 turns) or ``"customary"`` (5,531 turns).
    label_map : str | Mapping[str, str], optional
        YAML file or mapping that replaces entries of the label mapping, e.g. ``{"Frustration": "anger"}``; the paper's
        rule applies it to the evaluators' words, the customary one to the official codes (``"fru"``).

    Example
    -------
    >>> IEMOCAP(label_rule="customary").labels["exc"]
    'happiness'
    """

    language = "en"
    layout = ("FOLDER/Session1/sentences/wav/<dialogue>/<turn>.wav, FOLDER/Session1/dialog/EmoEvaluation/*.txt, "
              "FOLDER/Session1/dialog/transcriptions/*.txt; so for Session2 to Session5")

    def __init__(self, label_rule: str = "paper", label_map: str | Mapping[str, str] | None = None):
        if label_rule not in RULES:
            raise OptionError(unknown_name("label_rule", label_rule, RULES, "valid values"))
        self.label_rule = label_rule
        # Votes have common names already when the manifest maps them.
        self.labels = {**load_labels("iemocap", label_map), **{name: name for name in CLASSES}}

    def read(self, folder: Path) -> Iterator[Utterance]:
        """Lists the turns that the label rule keeps.

        Raises
        ------
        DataError
            The folder is missing or of another layout, or an annotation file holds no turn.
        """
        sessions = sorted(path for path in folder.glob("Session[0-9]*") if path.is_dir()) if folder.is_dir() else []
        if not sessions:
            require(folder / "Session1", folder, self.layout)
        for session in sessions:
            for part in ("sentences/wav", "dialog/EmoEvaluation", "dialog/transcriptions"):
                require(session / part, folder, self.layout)
        for session in sessions:
            dialogues = _texts(session / "dialog/EmoEvaluation")
            if not dialogues:
                require(session / "dialog/EmoEvaluation/*.txt", folder, self.layout)
            for dialogue in dialogues:
                yield from self._read_dialogue(session, dialogue)

    def _read_dialogue(self, session: Path, annotation: Path) -> Iterator[Utterance]:
        turns = parse_turns(_lines(annotation))
        if not turns:
            raise DataError(f"{annotation} holds no turn of the form '[6.2901 - 8.2357] Ses01F_impro01_F000 neu …'")
        texts = _transcripts(session / "dialog/transcriptions" / annotation.name)
        wav = session / "sentences/wav" / annotation.stem
        files = {path.stem: path for path in audio_files(wav)} if wav.is_dir() else {}
        for turn in turns:
            emotion = self.emotion(turn)
            if emotion is not None:
                yield Utterance(
                    id=turn.id, path=files.get(turn.id, wav / f"{turn.id}.wav"), speaker=turn.speaker, emotion=emotion,
                    text=texts.get(turn.id, ""), session=turn.id[:5],
                    gender="female" if turn.speaker.endswith("F") else "male",
                    **dict(zip(("valence", "activation", "dominance"), turn.ratings, strict=True)),
                )

    def emotion(self, turn: Turn) -> str | None:
        """The turn's class by the label rule, None if the rule drops it."""
        if self.label_rule == "paper":
            return paper_label(turn.votes, self.labels)
        name = self.labels.get(turn.label)
        return name if name in CLASSES else None

    def published(self, rows: Sequence[Row]) -> str:
        """How the counts per speaker and class compare with those of the release.

        Returns
        -------
        str
            A line that says they agree, or one line for each difference.
        """
        found = Counter((row.speaker, row.emotion) for row in rows)
        table = PUBLISHED[self.label_rule]
        total = sum(map(sum, table.values()))
        differences = []
        for speaker in sorted({*table, *(speaker for speaker, _ in found)}):
            for name, expected in zip(CLASSES, table.get(speaker, (0, 0, 0, 0)), strict=True):
                number = found[speaker, name]
                if number != expected:
                    differences.append(f"  {speaker} {name}: {number}, published {expected} ({number - expected:+d})")
        rule = f"label_rule {self.label_rule}"
        if not differences:
            return f"counts of all speakers and classes equal the published ones ({rule}, {total} turns)"
        return "\n".join([f"counts differ from the published ones ({rule}): {len(rows)} turns, published {total}",
                          *differences])


def _texts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))  # "._x" is macOS's


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _transcripts(path: Path) -> dict[str, str]:
    """Turn → text; empty where the file is missing, as texts are no condition for emotion."""
    if not path.is_file():
        return {}
    return {match["id"]: match["text"].strip() for line in _lines(path) if (match := TRANSCRIPT.match(line))}
