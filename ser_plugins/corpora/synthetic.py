"""A corpus made on the spot: real speech synthesis (espeak-ng) with acted emotions, for trying the toolkit out.

Every speaker is a voice variant with a pitch and a rate of its own, and says the same sentences in four emotions.
An emotion is a change of rate, pitch, pitch range, loudness and spectral balance in the directions that the
literature agrees on; the sizes are this module's, chosen moderate:

=========== ====== ======= ======= ======== ==================
emotion     rate   pitch   range   loudness high frequencies
=========== ====== ======= ======= ======== ==================
anger       faster higher  wider   louder   more
happiness   faster highest widest  louder   a little more
sadness     slower lower   narrow  softer   less
=========== ====== ======= ======= ======== ==================

Each utterance scatters around its emotion about as widely as the emotions lie apart, so that no single number tells
them apart. Scores on this corpus say that a system learns, and nothing about human emotion.

References
----------
Murray & Arnott 1993, "Toward the simulation of emotion in synthetic speech", JASA 93(2), Table I.
Burkhardt & Sendlmeier 2000, "Verification of acoustical correlates of emotional speech using formant synthesis",
ISCA Workshop on Speech and Emotion.
Scherer 2003, "Vocal communication of emotion", Speech Communication 40, Table 2.
Juslin & Laukka 2003, "Communication of emotions in vocal expression and music performance", Psychological
Bulletin 129(5), Table 7.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import soxr

from ser_plugins.audio import SAMPLE_RATE
from ser_plugins.contracts import Corpus, Utterance
from ser_plugins.corpora import espeak
from ser_plugins.corpora.labels import load_labels
from ser_plugins.errors import DataError, MissingExtraError, OptionError
from ser_plugins.files import write_atomically

GENERATOR_VERSION = 1  # raised by every change of what is spoken or how; no file outlives it
LEVEL = -28.0  # dBFS; RMS of a neutral utterance on average
NOISE = -56.0  # dBFS; white noise under every utterance, as a microphone adds: normalisation per utterance then
# leaves a trace of loudness, as it does in recordings
PEAK = 0.98  # of full scale; louder utterances are scaled down to it, never clipped


@dataclass(frozen=True)
class Voice:
    """A speaker: espeak-ng voice and variant, gender, pitch in semitones from the variant's, words per minute."""

    name: str
    gender: Literal["female", "male"]
    pitch: float
    rate: float


VOICES = (
    Voice("en-us+f1", "female", 1.0, 172), Voice("en-us+m1", "male", 0.0, 168),
    Voice("en-gb-x-rp+f2", "female", -1.5, 180), Voice("en-gb-x-rp+m2", "male", 2.0, 185),
    Voice("en-us+f3", "female", -0.5, 160), Voice("en-us+m3", "male", -2.0, 176),
    Voice("en-gb-scotland+f4", "female", 2.0, 168), Voice("en-gb-scotland+m4", "male", 3.5, 164),
    Voice("en-us-nyc+f5", "female", -2.5, 188), Voice("en-us-nyc+m5", "male", 1.0, 192),
    Voice("en-us+Annie", "female", -3.0, 176), Voice("en-us+m7", "male", -1.0, 158),
    Voice("en-gb-x-rp+linda", "female", 0.0, 164), Voice("en-gb-x-rp+Michael", "male", 0.5, 172),
    Voice("en-us+steph", "female", 0.0, 184), Voice("en-us+edward", "male", -0.5, 180),
)


@dataclass(frozen=True)
class Prosody:
    """Changes against neutral.

    Arguments
    ---------
    rate : float
        Factor of words per minute.
    pitch : float
        Semitones.
    pitch_range : float
        Factor of the pitch movements.
    level : float
        Loudness, dB.
    tilt : float
        Level above against below about 1 kHz, dB.
    """

    rate: float
    pitch: float
    pitch_range: float
    level: float
    tilt: float


EMOTIONS = {
    "anger": Prosody(rate=1.15, pitch=1.5, pitch_range=1.35, level=5.0, tilt=5.0),
    "happiness": Prosody(rate=1.10, pitch=3.5, pitch_range=1.75, level=2.0, tilt=1.5),
    "neutral": Prosody(rate=1.0, pitch=0.0, pitch_range=1.0, level=0.0, tilt=0.0),
    "sadness": Prosody(rate=0.82, pitch=-1.5, pitch_range=0.55, level=-4.0, tilt=-5.0),
}
SPREAD = Prosody(rate=0.09, pitch=1.6, pitch_range=0.25, level=3.0, tilt=2.0)  # deviations; factors as logarithms

SENTENCES = (
    "The kettle whistled while we were still asleep.",
    "You left your green umbrella on the bus again.",
    "Nobody told me that the meeting had been moved.",
    "There are seven yellow apples in the basket.",
    "She will call you back on Thursday evening.",
    "My brother painted the garden fence this morning.",
    "They are going to close the bridge for a year.",
    "I found the missing keys behind the radio.",
    "We could hear the church bells from the harbour.",
    "The doctor asked him to wait outside.",
    "Please put those heavy boxes near the window.",
    "His train should have arrived an hour ago.",
    "The children are playing with the neighbour's dog.",
    "It has been raining since we got here.",
    "Somebody is standing at the front door.",
    "Our teacher read the whole letter aloud.",
    "You never said that you were moving to Oxford.",
    "The soup is much too hot to eat right now.",
    "He took the photographs down from the wall.",
    "We have to choose between the two of them.",
    "A thin layer of ice covered the quiet lake.",
    "Just look at what they did to the kitchen.",
    "I thought that you had already bought the tickets.",
    "The judge gave her answer on the very same day.",
    "Every shelf in the shop was completely empty.",
    "George usually drinks his coffee with fresh milk.",
    "They chose a boat with a large blue sail.",
    "Tomorrow I will show you where the path begins.",
)


def require_espeak() -> tuple[str, str]:
    """Paths of espeak-ng's library and data, from the wheel ``espeakng-loader``.

    Raises
    ------
    MissingExtraError
        The wheel is not installed.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise MissingExtraError("corpus 'synthetic' speaks through espeak-ng, which is not installed: "
                                "pip install 'ser_plugins[synthetic]'") from error
    return str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path())


class Synthetic(Corpus):
    """Makes its utterances in the folder on first reading, in a subfolder named by a hash of all that shapes them.

    What is there and whole is kept, so that a generation that was killed goes on where it stopped; files of other
    settings are never taken. One seed gives the same bytes on one machine.

    Arguments
    ---------
    speakers : int
        3 to 16, female and male in turn.
    sentences : int
        Per speaker and emotion: there are ``speakers × 4 × sentences`` utterances.
    seed : int
        Of the scatter of prosody and the choice of sentences.

    Example
    -------
    >>> Synthetic(speakers=4, sentences=2).labels["anger"]
    'anger'
    """

    language = "en"
    layout = "any folder; the corpus is made in it"

    def __init__(self, speakers: int = 10, sentences: int = 8, seed: int = 0):
        self.speakers = _whole("speakers", speakers, 3, len(VOICES))
        self.sentences = _whole("sentences", sentences, 1, 1000)
        self.seed = _whole("seed", seed, 0, 2**31 - 1)
        self.labels = load_labels("synthetic")

    def settings(self) -> dict[str, Any]:
        """All that shapes the samples, as plain values."""
        return {
            "generator_version": GENERATOR_VERSION, "speakers": self.speakers, "sentences": self.sentences,
            "seed": self.seed, "espeakng_loader": version("espeakng-loader"), "soxr": version("soxr"),
            "numpy": np.__version__,
            "machine": f"{platform.system()} {platform.machine()}",
        }

    def read(self, folder: Path) -> Iterator[Utterance]:
        """Makes what is missing, with a progress bar, and lists the utterances.

        Raises
        ------
        PluginError
            espeak-ng is not installed.
        DataError
            espeak-ng fails, or the folder cannot be written.
        """
        espeak_paths = require_espeak()
        text = json.dumps(self.settings(), indent=2, sort_keys=True)
        home = Path(folder) / f"synthetic-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        write_atomically(home / "config.json", lambda file: file.write(text + "\n"))
        plan = {utterance.id: utterance for utterance in self.plan(home)}
        _generate(plan, home, self.seed, espeak_paths)
        yield from plan.values()

    def plan(self, home: Path) -> Iterator[Utterance]:
        """The utterances, made or not."""
        for number, voice in enumerate(VOICES[: self.speakers], start=1):
            speaker = f"S{number:02d}"
            order = list(range(len(SENTENCES)))
            random.Random(f"{self.seed} {speaker}").shuffle(order)
            for emotion in EMOTIONS:
                for take in range(self.sentences):
                    name = f"{speaker}_{emotion}_{take:03d}"
                    yield Utterance(id=name, path=home / speaker / f"{name}.wav", speaker=speaker, emotion=emotion,
                                    text=SENTENCES[order[take % len(order)]], gender=voice.gender)


def _whole(name: str, value: int, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise OptionError(f"{name} of corpus 'synthetic' must be a whole number from {least} to {most}: {value!r}")
    return value


def prosody(utterance: Utterance, seed: int) -> Prosody:
    """The prosody of one utterance: its emotion's, scattered.

    Depends on the utterance's id and the seed only, not on what was drawn before.
    """
    scatter = random.Random(f"{seed} {utterance.id}").gauss
    mean = EMOTIONS[utterance.emotion]
    return Prosody(
        rate=mean.rate * float(np.exp(scatter(0, SPREAD.rate))),
        pitch=mean.pitch + scatter(0, SPREAD.pitch),
        pitch_range=mean.pitch_range * float(np.exp(scatter(0, SPREAD.pitch_range))),
        level=mean.level + scatter(0, SPREAD.level),
        tilt=mean.tilt + scatter(0, SPREAD.tilt),
    )


def render(utterance: Utterance, seed: int, espeak_paths: tuple[str, str]) -> np.ndarray:
    """Samples of one utterance.

    Arguments
    ---------
    utterance : Utterance
        From `Synthetic.plan`.
    seed : int
        The corpus's.
    espeak_paths : tuple[str, str]
        From `require_espeak`.

    Returns
    -------
    np.ndarray
        Float32, ``[samples]``, 16 kHz, within ±1.
    """
    voice = VOICES[int(utterance.speaker[1:]) - 1]
    change = prosody(utterance, seed)
    request = espeak.Utterance(
        utterance.text, voice.name, rate=round(voice.rate * change.rate),
        pitch=_clipped(50 + 50 * (voice.pitch + change.pitch) / 12),  # 50 units are an octave
        pitch_range=_clipped(50 * change.pitch_range),
    )
    raw, rate = espeak.speak(request, *espeak_paths)
    samples = soxr.resample(np.frombuffer(raw, np.int16) / 32768, rate, SAMPLE_RATE, quality="HQ")
    samples = _tilted(samples, change.tilt)
    gain = 10 ** ((LEVEL + change.level) / 20) / np.sqrt(np.mean(samples**2))
    samples *= min(gain, PEAK / np.abs(samples).max())
    number = int.from_bytes(hashlib.sha256(f"{seed} {utterance.id}".encode()).digest()[:8], "little")
    noise = np.random.default_rng(number).standard_normal(len(samples)) * 10 ** (NOISE / 20)
    return np.clip(samples + noise, -1, 1).astype(np.float32)


def _clipped(value: float) -> int:
    return round(min(max(value, 0), 100))


def _tilted(samples: np.ndarray, tilt: float) -> np.ndarray:
    """Raises what lies above about 1 kHz by ``tilt`` dB against what lies below: a first-order shelf."""
    frequencies = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)  # Hz
    share = (frequencies / 1000) ** 2 / (1 + (frequencies / 1000) ** 2)  # 0 far below 1 kHz, 1 far above
    return np.fft.irfft(np.fft.rfft(samples) * 10 ** (tilt * share / 20), len(samples))


def _generate(plan: Mapping[str, Utterance], home: Path, seed: int, espeak_paths: tuple[str, str]) -> None:
    """Makes the files that are missing or not as the journal recorded them."""
    from tqdm import tqdm

    journal = home / "made.txt"
    recorded = _journal(journal)
    todo = [item for name, item in plan.items() if name not in recorded or recorded[name] != _digest(item.path)]
    if not todo:
        return

    def make(utterance: Utterance) -> str:
        return f"{utterance.id} {_save(render(utterance, seed, espeak_paths), utterance.path)}\n"

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with open(journal, "a", encoding="utf-8") as log:
            bar = tqdm(pool.map(make, todo), total=len(plan), initial=len(plan) - len(todo),
                       desc="making synthetic speech", unit="utterance", disable=None)  # none in a log
            for line in bar:
                log.write("\n" + line)  # a line that a kill tore off ends here
                log.flush()
    except OSError as error:
        raise DataError(f"{home}: synthetic speech cannot be written: {error.strerror or error}") from error
    except RuntimeError as error:
        raise DataError(f"{home}: {error}") from error
    finally:
        pool.shutdown(cancel_futures=True)  # so that an error or Ctrl-C does not wait for the whole corpus


def _journal(path: Path) -> dict[str, str]:
    """Utterance → digest of the file made, from the lines that are whole."""
    if not path.is_file():
        return {}
    lines = [line.split(" ") for line in path.read_text(encoding="utf-8").splitlines()]
    return {line[0]: line[1] for line in lines if len(line) == 2}


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _save(samples: np.ndarray, path: Path) -> str:
    """Writes a 16-bit file at once or not at all, and returns its digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    try:
        soundfile.write(temporary, samples, SAMPLE_RATE, subtype="PCM_16", format="WAV")
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return digest
