"""The Berlin Database of Emotional Speech (Burkhardt et al. 2005): 10 speakers, 10 German sentences, 7 emotions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from ser_plugins.contracts import Corpus, Utterance
from ser_plugins.corpora.labels import load_labels
from ser_plugins.corpora.layout import audio_files, require, require_audio
from ser_plugins.errors import DataError

GENDERS: dict[str, Literal["female", "male"]] = {
    "03": "male", "08": "female", "09": "female", "10": "male", "11": "male",
    "12": "male", "13": "female", "14": "female", "15": "male", "16": "female",
}
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
NAME = re.compile(r"(?P<speaker>\d\d)(?P<text>[ab]\d\d)(?P<emotion>[A-Z])(?P<version>[a-z]?)")


class EmoDB(Corpus):
    """Reads EmoDB; files may be of any audio format.

    Arguments
    ---------
    label_map : str | Mapping[str, str], optional
        YAML file or mapping that replaces entries of the label mapping, e.g. ``{"L": "neutral"}``.

    Example
    -------
    >>> EmoDB().labels["W"]
    'anger'
    """

    language = "de"
    layout = "FOLDER/wav/03a01Fa.wav (speaker 03, sentence a01, emotion letter F, version a; any audio suffix)"

    def __init__(self, label_map: str | Mapping[str, str] | None = None):
        self.labels = load_labels("emodb", label_map)

    def read(self, folder: Path) -> Iterator[Utterance]:
        """Lists the utterances of ``folder/wav``.

        Raises
        ------
        DataError
            The folder is missing or of another layout, or audio files are not named as EmoDB's are.
        """
        files = list(audio_files(require(folder / "wav", folder, self.layout)))
        wrong = [path.name for path in require_audio(files, folder, self.layout) if not NAME.fullmatch(path.stem)]
        if wrong:
            raise DataError(f"{folder / 'wav'}: {len(wrong)} of {len(files)} files are not named as EmoDB's: "
                            f"{', '.join(wrong[:10])}; expected {self.layout}")
        for path in files:
            match = NAME.fullmatch(path.stem)
            assert match is not None
            yield Utterance(
                id=path.stem, path=path, speaker=match["speaker"], emotion=match["emotion"],
                text=SENTENCES.get(match["text"], ""), gender=GENDERS.get(match["speaker"], ""),
            )
