"""What was said, when, and how: the answer of an `EmotionRecognizer`, and the files that other programs read it from.

Times are seconds from the beginning of the audio. Formats: Praat's TextGrid (Boersma and Weenink, long text format),
Audacity's label track, SubRip (SRT), JSON, and a data frame of pandas.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any

from ser_plugins.errors import OptionError

if TYPE_CHECKING:
    import pandas as pd

CAPTION = 42  # characters of a caption of SRT, what a line of subtitles customarily holds
PAUSE = 1.0  # s without a word that end a caption


@dataclass(frozen=True)
class Word:
    """A word and its time, in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Segment:
    """The emotion of a stretch of time.

    Arguments
    ---------
    start, end : float
        Seconds.
    label : str
        The most probable emotion.
    probabilities : dict[str, float]
        Probability of each emotion.
    """

    start: float
    end: float
    label: str
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Recognition:
    """What was said, when, and how.

    Arguments
    ---------
    text : str
        Transcript.
    label : str
        The most probable emotion.
    probabilities : dict[str, float]
        Probability of each emotion.
    words : tuple[Word, ...]
        The words of the transcript; none where the recogniser does not tell its tokens, or where those of a searched
        text are more than its steps.
    track : tuple[Segment, ...]
        Emotion over time: segments without gap or overlap, where it was asked for.
    duration : float
        Seconds of audio.
    calibrated : bool
        Whether the probabilities were brought to the model's temperature, fitted on speech that it was not trained on.
        Others tend to claim too much.

    Example
    -------
    >>> said = Recognition("A TONE", "anger", {"anger": 0.7, "neutral": 0.3},
    ...                    (Word("A", 0.1, 0.2), Word("TONE", 0.3, 0.65)), duration=1.0)
    >>> print(said.to_srt(), end="")
    1
    00:00:00,100 --> 00:00:00,650
    [anger] A TONE
    """

    text: str
    label: str
    probabilities: dict[str, float]
    words: tuple[Word, ...] = ()
    track: tuple[Segment, ...] = ()
    duration: float = 0.0
    calibrated: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = asdict(self)
        return {**values, "words": list(values["words"]), "track": list(values["track"])}

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict` as JSON; ``indent`` is what each level is moved to the right by, and None gives one line."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent)

    def to_dataframe(self) -> pd.DataFrame:
        """A row for the audio, for each segment of the track, and for each word.

        Returns
        -------
        pandas.DataFrame
            Columns: ``kind`` (``audio``, ``segment`` or ``word``), ``start`` and ``end`` in seconds, ``text``,
            ``label``, and ``p_<emotion>`` for each emotion. A segment has no text, and a word no emotion.

        Raises
        ------
        OptionError
            pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise OptionError("a data frame needs pandas: pip install pandas") from error

        def row(kind: str, start: float, end: float, text: str | None, judged: Recognition | Segment | None) -> list:
            shares = judged.probabilities if judged else {}
            return [kind, start, end, text, judged.label if judged else None, *map(shares.get, self.probabilities)]

        rows = [row("audio", 0.0, self.duration, self.text, self)]
        rows += [row("segment", one.start, one.end, None, one) for one in self.track]
        rows += [row("word", one.start, one.end, one.text, None) for one in self.words]
        names = ["kind", "start", "end", "text", "label"]
        frame = pd.DataFrame(rows, columns=[*names, *(f"p_{label}" for label in self.probabilities)])
        return frame.astype({f"p_{label}": float for label in self.probabilities})

    def emotions(self) -> list[tuple[float, float, str]]:
        """Start, end and label of each stretch of one emotion: the track's, or the whole audio."""
        if not self.track:
            return [(0.0, self.duration, self.label)]
        runs = [list(run) for _, run in groupby(self.track, key=lambda one: one.label)]
        return [(run[0].start, run[-1].end, run[0].label) for run in runs]

    def to_textgrid(self) -> str:
        """A TextGrid of Praat's in its long text format, with the tiers ``words`` and ``emotion``.

        Its intervals have a length and do not overlap: of words that do, the later one begins later, and a word of no
        length is left out.

        Raises
        ------
        OptionError
            There is no duration: a TextGrid has to have one.
        """
        if not self.duration > 0:
            raise OptionError(f"a TextGrid needs the duration of the audio, and it is {self.duration:g} s")
        tiers = {"words": [(one.start, one.end, one.text) for one in self.words], "emotion": self.emotions()}
        lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0",
                 f"xmax = {_seconds(self.duration)}", "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
        for number, (name, spans) in enumerate(tiers.items(), start=1):
            intervals = _without_gaps(spans, self.duration)
            lines += [f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_quoted(name)}",
                      "        xmin = 0", f"        xmax = {_seconds(self.duration)}",
                      f"        intervals: size = {len(intervals)}"]
            for position, (start, end, text) in enumerate(intervals, start=1):
                lines += [f"        intervals [{position}]:", f"            xmin = {_seconds(start)}",
                          f"            xmax = {_seconds(end)}", f"            text = {_quoted(text)}"]
        return "\n".join(lines) + "\n"

    def to_audacity(self) -> str:
        """A label track of Audacity's: each stretch of emotion, in brackets, and each word, by their beginnings."""
        spans = [(start, end, f"[{label}]") for start, end, label in self.emotions()]
        spans += [(one.start, one.end, one.text) for one in self.words]
        ordered = sorted(spans, key=lambda span: (span[0], -span[1]))
        return "".join(f"{start:.6f}\t{end:.6f}\t{_one_line(text)}\n" for start, end, text in ordered)

    def to_srt(self) -> str:
        """Subtitles: up to 42 characters each, after the emotion in brackets; a pause of a second begins a new one.

        Where no word has a time, the text is spread over the audio by its letters; without text, each stretch of one
        emotion is a subtitle.
        """
        captions = list(_captions(self.words))
        spans = [(caption[0].start, caption[-1].end, " ".join(word.text for word in caption)) for caption in captions]
        if not spans:
            spans = _spread(self.text, self.duration) or [(start, end, "") for start, end, _ in self.emotions()]
        return "\n".join(f"{number}\n{_clock(start)} --> {_clock(end)}\n"
                         f"{_one_line(f'[{self._emotion_of(start, end)}] {text}')}\n"
                         for number, (start, end, text) in enumerate(spans, start=1))

    def _emotion_of(self, start: float, end: float) -> str:
        """The label that holds for most of a time."""
        return max(self.emotions(), key=lambda span: min(end, span[1]) - max(start, span[0]))[2]


def most_probable(probabilities: Mapping[str, float]) -> str:
    """The label of the highest probability; of equal ones the first."""
    return max(probabilities, key=lambda label: probabilities[label])


def _captions(words: Iterable[Word]) -> Iterable[list[Word]]:
    """Words that are shown together."""
    caption: list[Word] = []
    for word in words:
        length = sum(len(one.text) + 1 for one in caption) + len(word.text)
        if caption and (length > CAPTION or word.start - caption[-1].end > PAUSE):
            yield caption
            caption = []
        caption.append(word)
    if caption:
        yield caption


def _spread(text: str, duration: float) -> list[tuple[float, float, str]]:
    """Captions of a text whose words have no times, as long as their share of the letters."""
    lines = textwrap.wrap(_one_line(text), CAPTION, break_long_words=False, break_on_hyphens=False)
    ends = list(accumulate(map(len, lines)))
    return [(duration * (end - len(line)) / ends[-1], duration * end / ends[-1], line)
            for end, line in zip(ends, lines, strict=True)]


def _without_gaps(spans: Sequence[tuple[float, float, str]], duration: float) -> list[tuple[float, float, str]]:
    """The spans, and empty ones between them, from 0 to the end: Praat's tiers have no gaps.

    Times are written in microseconds, and an interval lasts one at least: what is shorter, or lies under the span
    before it, is left out.
    """
    filled, reached, last = [], 0.0, round(duration, 6)
    for start, end, text in spans:
        begin, end = max(round(start, 6), reached), min(round(end, 6), last)
        if begin >= end:
            continue
        if begin > reached:
            filled.append((reached, begin, ""))
        filled.append((begin, end, text))
        reached = end
    return [*filled, (reached, last, "")] if reached < last else filled


def _seconds(value: float) -> str:
    """Microseconds are shown, and none of the digits that floats add; equal times are equal texts."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _quoted(text: str) -> str:
    """Praat's strings double the quotation marks in them."""
    return '"' + _one_line(text).replace('"', '""') + '"'


def _one_line(text: str) -> str:
    """Without tabs and line breaks, which end an entry."""
    return " ".join(text.split())


def _clock(seconds: float) -> str:
    """SubRip's time.

    Example
    -------
    >>> _clock(3661.0625)
    '01:01:01,062'
    """
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02},{milliseconds:03}"
