"""What the emotion costs beside the transcript, and beside two interfaces of SpeechBrain's.

    python benchmarks/joint.py EmoDB/wav --files 20
    python benchmarks/joint.py EmoDB/wav --files 20 --encoder deepspeech2 --heads mp progressive

Three ways, file after file, from the file on disk to the answer: `SpeechRecognizer.transcribe_file`;
`EmotionRecognizer.transcribe_and_classify_file`, words with times and probabilities from one pass; and SpeechBrain's
`EncoderASR` and `EncoderClassifier` one after the other, each over the same network of its own. Of the same network, so
that the difference is the pass that is saved, and no implementation. Heads, and the encoder that ``--units`` describes,
have random weights: those change no time. ``--windows`` adds `track_file`, with windows of 2 s every half second.
"""

from __future__ import annotations

import argparse
import ast
import copy
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from common import cores, describe, table
from encoder_rtf import audio_files, described, untrained
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.decoders import ctc_greedy_decode
from speechbrain.inference.ASR import EncoderASR
from speechbrain.inference.classifiers import EncoderClassifier
from torch import Tensor, nn
from tqdm import tqdm

from ser_plugins import audio, registry
from ser_plugins.contracts import Encoder, Frames, head_sizes
from ser_plugins.errors import SerError
from ser_plugins.inference import EmotionRecognizer
from ser_plugins.models import load_encoder

LABELS = ["anger", "happiness", "neutral", "sadness"]


class Transcriber(nn.Module):
    """The encoder as `EncoderASR` calls it: waveforms and relative lengths to log-probabilities."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, wavs: Tensor, wav_lens: Tensor) -> Tensor:
        """``[batch, time, tokens]``."""
        return self.encoder(wavs, torch.round(wav_lens * wavs.shape[1]).long()).log_probs.data


class Features(nn.Module):
    """What `EncoderClassifier` calls first: waveforms, and the features of a head that needs some."""

    def __init__(self, extractor: nn.Module | None) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, wavs: Tensor) -> tuple[Tensor, Frames | None]:
        """Waveforms and features."""
        lengths = torch.full((len(wavs),), wavs.shape[1])
        return wavs, None if self.extractor is None else self.extractor(wavs, lengths)


class Unchanged(nn.Module):
    """Normalisation is the encoder's own."""

    def forward(self, features: tuple[Tensor, Frames | None], wav_lens: Tensor) -> tuple[Tensor, Frames | None]:
        """What it is given."""
        return features


class Embedding(nn.Module):
    """The encoder and the head, with an encoder of its own."""

    def __init__(self, recognizer: EmotionRecognizer) -> None:
        super().__init__()
        self.encoder, self.head = copy.deepcopy(recognizer.mods.encoder), recognizer.mods.head
        self.needs = recognizer.hparams.needs

    @torch.no_grad()
    def forward(self, features: tuple[Tensor, Frames | None], wav_lens: Tensor) -> Tensor:
        """Logits ``[batch, 1, classes]``."""
        wavs, acoustic = features
        encoding = self.encoder(wavs, torch.round(wav_lens * wavs.shape[1]).long()) if self.needs.encoder else None
        return self.head(self.needs.take(acoustic, encoding)).unsqueeze(1)


def recognizer_of(name: str, encoder: Encoder, features: dict[str, str]) -> EmotionRecognizer:
    """A recogniser with a fresh head."""
    extractor = registry.create("features", "mfcc_pitch", features)
    torch.manual_seed(0)
    head = registry.create("heads", name, {}, head_sizes(extractor, encoder, len(LABELS)))
    options = {key: argument.default for key, argument in registry.arguments(type(head)).items()}
    needs = head.needs.resolve(options, len(encoder.layer_dims))
    hparams = {"labels": LABELS, "needs": needs, "decode": encoder.decode, "temperature": None}
    return EmotionRecognizer({"encoder": encoder, "extractor": extractor, "head": head.eval()}, hparams)


def separate(recognizer: EmotionRecognizer) -> tuple[EncoderASR, EncoderClassifier]:
    """SpeechBrain's two interfaces over the recogniser's network."""
    encoder, mods = recognizer.mods.encoder, recognizer.mods
    asr = EncoderASR({"encoder": Transcriber(encoder)}, {
        "tokenizer": encoder.tokenizer, "decoding_function": functools.partial(ctc_greedy_decode, blank_id=0)})
    names = CategoricalEncoder()
    names.update_from_iterable(LABELS)
    names.expect_len(len(LABELS))
    features = Features(mods.extractor if recognizer.hparams.needs.features else None)
    classifier = EncoderClassifier({
        "compute_features": features, "mean_var_norm": Unchanged(), "embedding_model": Embedding(recognizer),
        "classifier": nn.LogSoftmax(dim=-1)}, {"label_encoder": names})
    return asr, classifier


def both(asr: EncoderASR, classifier: EncoderClassifier, path: str) -> tuple[str, str]:
    """Transcript and label by two interfaces."""
    return asr.transcribe_file(path), classifier.classify_file(path)[3][0]


def fastest(ways: dict[str, Callable[[str], object]], files: Sequence[Path], repeats: int) -> dict[str, float]:
    """Seconds for all files; of each file the least of its repeats, in which the ways take turns."""
    for way in ways.values():
        way(str(files[0]))  # warm-up
    seconds = dict.fromkeys(ways, 0.0)
    for file in tqdm(files, desc=" · ".join(ways), disable=None):
        least = dict.fromkeys(ways, float("inf"))
        for _ in range(repeats):
            for name, way in ways.items():
                started = time.perf_counter()
                way(str(file))
                least[name] = min(least[name], time.perf_counter() - started)
        seconds = {name: seconds[name] + least[name] for name in ways}
    return seconds


def agree(recognizer: EmotionRecognizer, asr: EncoderASR, classifier: EncoderClassifier, file: Path) -> None:
    """Refuses to compare what does not do the same."""
    said, (text, label) = recognizer.transcribe_and_classify_file(file), both(asr, classifier, str(file))
    if (said.text, said.label) != (text.strip(), label):
        sys.exit(f"error: one pass says {(said.text, said.label)} of {file}, two say {(text, label)}")


def measure(args: argparse.Namespace, encoder: Encoder, files: Sequence[Path]) -> list[list[object]]:
    """Rows of the table, one a head."""
    rows: list[list[object]] = []
    for name in args.heads:
        recognizer = recognizer_of(name, encoder, {"pitch": args.pitch})
        asr, classifier = separate(recognizer)
        agree(recognizer, asr, classifier, files[0])
        ways: dict[str, Callable[[str], object]] = {
            "transcript": recognizer.transcribe_file, "joint": recognizer.transcribe_and_classify_file,
            "separate": functools.partial(both, asr, classifier)}
        if args.windows:
            ways["track"] = recognizer.track_file
        took = fastest(ways, files, args.repeats)
        rows.append([name, *(f"{took[way]:.2f}" for way in ("transcript", "joint", "separate")),
                     f"{took['joint'] / took['transcript']:.2f}", f"{took['joint'] / took['separate']:.2f}",
                     *([f"{took['track'] / took['transcript']:.2f}"] if args.windows else [])])
    return rows


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", help="audio files, or folders of them")
    parser.add_argument("--files", type=int, default=20, help="at most so many")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--heads", nargs="+", default=["mp", "rnn", "progressive"])
    parser.add_argument("--pitch", default="opensmile", help="of heads that need acoustic features: opensmile or yin")
    parser.add_argument("--windows", action="store_true", help="measure track_file, too")
    parser.add_argument("--encoder", default="deepspeech2", help="a plugin, or an encoder folder")
    parser.add_argument("--units", type=int, help="an untrained network of so many units, in place of --encoder")
    parser.add_argument("--layers", type=int, default=5, help="of the untrained network")
    parser.add_argument("--channels", type=int, default=16, help="of the untrained network")
    parser.add_argument("--time_strides", type=ast.literal_eval, default=[2, 2], help="of the untrained network")
    parser.add_argument("--threads", type=int, default=cores())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if args.units is not None:
                args.encoder = str(untrained(Path(folder) / "encoder", args))
            files = audio_files(args.paths, args.files)
            rows = measure(args, load_encoder(args.encoder), files)
    except SerError as error:
        sys.exit(f"error: {error}")
    speech = sum(audio.info(file).duration for file in files)
    print(f"\nencoder {described(args)}, {len(files)} files, {speech:.1f} s of speech; seconds\n")
    print(table(["head", "transcript", "joint", "two interfaces", "joint / transcript", "joint / two",
                 *(["track / transcript"] if args.windows else [])], rows))
    print(f"\n{describe()}")


if __name__ == "__main__":
    main()
