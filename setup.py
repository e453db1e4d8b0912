"""Metadata, dependencies and entry points: the list of every built-in plugin."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "ser_plugins/__init__.py").read_text()).group(1)

SYNTHETIC = ["espeakng-loader>=0.2.4"]
DEMO = ["gradio>=6.10,<7", "pandas>=2"]
RAY, DASK = ["ray>=2.9"], ["distributed>=2024.1"]  # clusters that cross_validate.py can run on
HUGGINGFACE = ["transformers>=4.50"]  # which SpeechBrain's integrations need
DOCS = ["mkdocs-material>=9.5,<10", "mkdocstrings-python>=1.16", "mkdocs-jupyter>=0.25"]
ONNX = ["onnx>=1.16", "onnxruntime>=1.18"]  # ser export --onnx
# setuptools builds the example plugin inside the tests, without fetching anything
TEST = ["pytest>=8", "pytest-cov", "pytest-xdist", "ruff", "mypy", "setuptools>=70.1", *SYNTHETIC, *RAY, *DASK,
        *HUGGINGFACE, *DOCS, *ONNX, *DEMO, "playwright"]

setup(
    name="ser_plugins",
    version=VERSION,
    description="Speech emotion recognition from the representations of a frozen speech recogniser",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10.12",  # the first whose tarfile extracts safely
    packages=find_packages(include=["ser_plugins", "ser_plugins.*"]),
    package_data={"ser_plugins": ["assets/**/*", "corpora/*.yaml", "features/*.conf", "log_config.yaml", "py.typed"]},
    install_requires=[
        # torchaudio's last release, 2.11.0, works with torch 2.11 only: other pairs fail at `import speechbrain`.
        "torch>=2.11,<2.12",
        "torchaudio>=2.11,<2.12",
        "speechbrain>=1.1.2,<1.2",
        "hyperpyyaml>=1.2.3",
        "pyyaml",
        "ruamel.yaml<0.19",  # hyperpyyaml 1.2.3 breaks on 0.19
        "sentencepiece>=0.2",
        "safetensors>=0.4",
        "numpy>=1.26",
        "soundfile>=0.12.1",
        "soxr>=0.3",
        "opensmile>=2.5",
        "librosa>=0.10",
        "numba>=0.60",
        "scipy>=1.11",
        "scikit-learn>=1.4",
        "joblib>=1.4",
        "matplotlib>=3.8",
        "jinja2>=3.1",
        "tqdm",
    ],
    extras_require={
        "synthetic": SYNTHETIC,
        "ray": RAY,
        "dask": DASK,
        "huggingface": HUGGINGFACE,
        "docs": DOCS,
        "onnx": ONNX,
        "hub": ["huggingface_hub>=0.23"],  # models by owner/name, ser push; speechbrain brings it, too
        "lm": ["kenlm>=0.2", "pygtrie>=2.5"],  # not in [all]: kenlm is compiled, with a C++ compiler and cmake
        "demo": DEMO,
        "test": TEST,
        "all": sorted({*SYNTHETIC, *TEST}),
    },
    entry_points={
        "console_scripts": ["ser = ser_plugins.cli:main"],
        "ser_plugins.corpora": [
            "csv = ser_plugins.corpora.csv:CSV",
            "emodb = ser_plugins.corpora.emodb:EmoDB",
            "iemocap = ser_plugins.corpora.iemocap:IEMOCAP",
            "kaldi = ser_plugins.corpora.kaldi:Kaldi",
            "librispeech = ser_plugins.corpora.librispeech:LibriSpeech",
            "ravdess = ser_plugins.corpora.ravdess:RAVDESS",
            "synthetic = ser_plugins.corpora.synthetic:Synthetic",
            "tedlium = ser_plugins.corpora.tedlium:TEDLIUM",
            "voxforge = ser_plugins.corpora.voxforge:VoxForge",
        ],
        "ser_plugins.features": [
            "egemaps = ser_plugins.features.egemaps:EGeMAPS",
            "logmel = ser_plugins.features.logmel:LogMel",
            "mfcc_pitch = ser_plugins.features.mfcc_pitch:MFCCPitch",
            "spectrogram = ser_plugins.features.spectrogram:Spectrogram",
        ],
        "ser_plugins.encoders": [
            "deepspeech2 = ser_plugins.encoders.deepspeech2:DeepSpeech2",
            "huggingface = ser_plugins.encoders.huggingface:HuggingFace",
        ],
        "ser_plugins.heads": [
            "attention_pool = ser_plugins.heads.attention_pool:AttentionPool",
            "baseline = ser_plugins.heads.baseline:Baseline",
            "linguistic = ser_plugins.heads.linguistic:Linguistic",
            "mp = ser_plugins.heads.mp:MeanPooling",
            "progressive = ser_plugins.heads.progressive:Progressive",
            "rnn = ser_plugins.heads.rnn:RNN",
            "weighted_layers = ser_plugins.heads.weighted_layers:WeightedLayers",
        ],
    },
)
