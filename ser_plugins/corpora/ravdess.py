"""The speech part of RAVDESS (Livingstone & Russo 2018): 24 actors, 2 English sentences, 8 emotions.

``Actor_07/03-01-03-01-02-01-07`` and ``…-02-02-07`` are the same recording under two names in the release. Both are
kept, as every published count of 1,440 has them; they have one speaker, so no fold has one on each side.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ser_plugins.contracts import Corpus, Utterance
from ser_plugins.corpora.labels import load_labels, overrides
from ser_plugins.corpora.layout import audio_files, require, require_audio
from ser_plugins.errors import OptionError, unknown_name

STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
AUDIO_ONLY, SPEECH = "03", "01"  # modality (full video and video only are 01, 02); vocal channel (song is 02)
FIELDS = ("modality", "channel", "emotion", "intensity", "statement", "repetition", "actor")
NAME = re.compile("-".join(rf"(?P<{name}>\d\d)" for name in FIELDS))


class RAVDESS(Corpus):
    """Reads RAVDESS's audio-only speech; song and video files beside it are passed over.

    Arguments
    ---------
    calm : str
        ``"separate"`` keeps calm as a class of its own; ``"neutral"`` merges it into neutral.
    label_map : str | Mapping[str, str], optional
        YAML file or mapping that replaces entries of the label mapping, e.g. ``{"08": "happiness"}``.

    Example
    -------
    >>> RAVDESS().labels["02"], RAVDESS(calm="neutral").labels["02"]
    ('calm', 'neutral')
    """

    language = "en"
    layout = "FOLDER/Actor_01/03-01-05-01-01-01-01.wav … FOLDER/Actor_24/ (any audio suffix)"

    def __init__(self, calm: str = "separate", label_map: str | Mapping[str, str] | None = None):
        if calm not in ("separate", "neutral"):
            raise OptionError(unknown_name("value of calm", calm, ["separate", "neutral"], "valid values"))
        merged = {"02": "neutral"} if calm == "neutral" else {}
        self.labels = load_labels("ravdess", {**merged, **overrides(label_map)})

    def read(self, folder: Path) -> Iterator[Utterance]:
        """Lists the utterances of ``folder/Actor_*``.

        Raises
        ------
        DataError
            The folder is missing or of another layout, or holds no speech.
        """
        actors = sorted(path for path in folder.glob("Actor_*") if path.is_dir()) if folder.is_dir() else []
        if not actors:
            require(folder / "Actor_01", folder, self.layout)
        files = [path for actor in actors for path in audio_files(actor) if self._fields(path)]
        for path in require_audio(files, folder, self.layout):
            fields = self._fields(path)
            assert fields is not None
            yield Utterance(
                id=path.stem, path=path, speaker=fields["actor"], emotion=fields["emotion"],
                text=STATEMENTS.get(fields["statement"], ""), gender="male" if int(fields["actor"]) % 2 else "female",
            )

    @staticmethod
    def _fields(path: Path) -> dict[str, str] | None:
        match = NAME.fullmatch(path.stem)
        speech = match and match["modality"] == AUDIO_ONLY and match["channel"] == SPEECH
        return match.groupdict() if match and speech else None
