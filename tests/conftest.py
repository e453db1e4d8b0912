"""Audio, corpora and trained systems that several tests use; all of it is made here."""

import csv
import functools
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch; also of the recipes' processes, two of which run at once


# What trains most, or starts programs.
LONGEST = ("test_cross_validate", "test_train_asr", "test_train_ser", "test_probe", "test_bad_input")


def pytest_configure(config):
    """xdist would sort files by their number of tests, which says little of their time."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """The longest files first, so that one process does not end with them while the other waits."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))  # stable


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


@pytest.fixture(scope="session")
def torchrun():
    """Runs a script in several processes of one thread: ``torchrun(2, "script.py", "--seed", 2)``."""
    import ser_plugins

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(ser_plugins.__file__).parents[1])}

    def run(number, *words, timeout=600):
        launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", number, *words)
        return subprocess.run([*map(str, launcher)], capture_output=True, text=True, env=environment, timeout=timeout,
                              check=False)

    return run


HPARAMS = Path(__file__).parents[1] / "hparams"
SYSTEMS = ("baseline", "mp", "rnn", "progressive")
QUICK = ("--pitch", "yin", "--tempi", "[0.9]", "--number_of_epochs", "2", "--num_workers", "0")


@pytest.fixture(scope="session")
def recipe():
    """Runs a recipe in this process: ``recipe(train_ser.main, "mp.yaml", "--seed", 2)``.

    SpeechBrain's experiment directory takes over logging and `sys.excepthook`, which are given back, and asks pip for
    the installed packages, for which one answer is enough.
    """
    from speechbrain.utils import logger

    describe = functools.cache(logger.get_environment_description)

    def run(main, hparams, *words):
        root = logging.getLogger()
        handlers, level, hook = list(root.handlers), root.level, sys.excepthook
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logger, "get_environment_description", describe)
            try:
                return main([str(HPARAMS / hparams), *map(str, words)])
            finally:
                for handler in set(root.handlers) - set(handlers):
                    handler.close()
                root.handlers[:] = handlers
                root.setLevel(level)
                sys.excepthook = hook

    return run


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    """The folder of an untrained recogniser: 3 layers of 2 × 16 units."""
    import torch

    from ser_plugins.encoders.deepspeech2 import DeepSpeech2
    from ser_plugins.text import character_tokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny_encoder")
    DeepSpeech2(units=16, num_layers=3, channels=2, time_strides=(2, 2), tokenizer=character_tokenizer()).save(folder)
    return folder


@pytest.fixture(scope="session")
def small(synthetic_corpus, synthetic_folder, tiny_encoder):
    """Options of train_ser.py for two epochs on the small synthetic corpus with the tiny encoder."""
    assert synthetic_corpus.is_file()
    return (*QUICK, "--data_folder", str(synthetic_folder), "--corpus_options", "{speakers: 4, sentences: 3}",
            "--encoder", str(tiny_encoder), "--units", "16")


def without_unused(options, system):
    """The options without those that a system's head does not have."""
    at = options.index("--units") if "--units" in options else None
    return (*options[:at], *options[at + 2:]) if system == "mp" and at is not None else options


@pytest.fixture(scope="session")
def train(recipe, small):
    """Trains on the small corpus: ``train("mp", root, "--seed", 2)`` gives the run's folder."""
    import train_ser

    def run(system, root, *words):
        return recipe(train_ser.main, f"{system}.yaml", *without_unused(small, system), "--output_root", root, *words)

    return run


@pytest.fixture(scope="session")
def runs(train, tmp_path_factory):
    """System → the folder of a run that tests S01; all four share a store."""
    root = tmp_path_factory.mktemp("runs")
    return {system: train(system, root) for system in SYSTEMS}


def write_csv(path, rows):
    """A CSV file of mappings with the same keys."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def tones(tmp_path):
    """Makes a corpus of tones for the reader `csv`, 3 speakers × 2 labels by default, and returns its folder.

    ``tones(speakers, labels, repeats)``; no two recordings are alike.
    """

    def make(speakers=("ann", "bob", "cem"), labels=("calm", "tense"), repeats=1):
        folder, rows = tmp_path / "tones", []
        for speaker in speakers:
            for label in labels:
                for repeat in range(repeats):
                    name = f"{speaker}_{label}_{repeat}"
                    write_tone(folder / f"{name}.wav", seconds=0.3 + 0.01 * len(rows), frequency=150 + 7 * len(rows))
                    rows.append({"id": name, "path": f"{name}.wav", "speaker": speaker, "emotion": label})
        write_csv(folder / "manifest.csv", rows)
        return folder

    return make
