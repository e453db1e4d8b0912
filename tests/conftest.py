"""Audio and corpora that several tests use; all of it is made here."""

from pathlib import Path

import numpy as np
import pytest
import soundfile


def write_tone(path: Path, seconds: float = 0.5, rate: int = 16000, channels: int = 1,
               frequency: float = 220.0) -> Path:
    """A sine with a slow swell; the folder is made."""
    time = np.arange(round(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * frequency * time) * (1 + 0.5 * np.sin(2 * np.pi * 3 * time))
    path.parent.mkdir(parents=True, exist_ok=True)
    formats = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".aiff": "AIFF"}
    soundfile.write(path, np.repeat(tone[:, None], channels, axis=1), rate, format=formats[path.suffix])
    return path


@pytest.fixture(scope="session")
def tone():
    """Writes a tone to a path: ``tone(path, seconds=0.5, rate=16000, channels=1, frequency=220.0)``."""
    return write_tone


@pytest.fixture(scope="session")
def synthetic_folder(tmp_path_factory):
    """A folder that holds a small synthetic corpus: 4 speakers × 4 emotions × 3 sentences."""
    pytest.importorskip("espeakng_loader", reason="espeakng-loader is missing: pip install 'ser_plugins[synthetic]'")
    return tmp_path_factory.mktemp("synthetic")


@pytest.fixture(scope="session")
def synthetic_corpus(synthetic_folder):
    """The manifest of the small synthetic corpus: 48 utterances of S01 to S04."""
    from ser_plugins.corpora import manifest

    return manifest.prepare("synthetic", synthetic_folder, synthetic_folder, {"speakers": 4, "sentences": 3})


@pytest.fixture(scope="session")
def synthetic_rows(synthetic_corpus):
    """The rows of `synthetic_corpus`."""
    from ser_plugins.corpora import manifest

    return manifest.load(synthetic_corpus)
