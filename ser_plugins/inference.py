"""Trained systems on new speech, in the manner of SpeechBrain's pretrained interfaces.

    recognizer = EmotionRecognizer.from_hparams(source="results/emodb/progressive-2/test-03/seed-1")
    recognizer.transcribe_and_classify_file("speech.wav")

Models are read by `ser_plugins.models`; no code of their folders is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from speechbrain.inference.interfaces import Pretrained
from torch import Tensor

from ser_plugins import audio
from ser_plugins.contracts import Encoding, Frames
from ser_plugins.decoding import LM_WEIGHT, WORD_BONUS, decoder
from ser_plugins.errors import OptionError
from ser_plugins.models import UNTRAINED as UNTRAINED
from ser_plugins.models import load_encoder as load_encoder
from ser_plugins.models import load_model
from ser_plugins.models import save_model as save_model

CHUNK = 30.0  # s that the encoder hears at once of a longer file
CONTEXT = 3.0  # s of them at either end that are only heard

@dataclass(frozen=True)
class Recognition:
    """What was said and how.

    Arguments
    ---------
    text : str
        Transcript.
    label : str
        The most probable emotion.
    probabilities : dict[str, float]
        Probability of each emotion.
    """

    text: str
    label: str
    probabilities: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class SpeechRecognizer(Pretrained):
    """Transcribes with a frozen encoder.

    Example
    -------
    >>> recognizer = SpeechRecognizer.from_hparams(run_opts={"device": "cpu"})
    >>> isinstance(recognizer.transcribe_batch(torch.zeros(1, 16000), torch.ones(1))[0], str)
    True
    """

    @classmethod
    def from_hparams(
            cls, source: str | Path | None = None, run_opts: Mapping[str, Any] | None = None, beam_size: int = 0,
            lm: str | Path | None = None, lm_weight: float = LM_WEIGHT, word_bonus: float = WORD_BONUS
    ) -> SpeechRecognizer:
        """Loads an encoder.

        Arguments
        ---------
        source : str | Path, optional
            An encoder folder or the name of an encoder plugin; None is the encoder that ships with the package.
        run_opts : Mapping[str, Any], optional
            ``device`` and SpeechBrain's other run options.
        beam_size, lm, lm_weight, word_bonus
            How transcripts are decoded, as of `decoding.decoder`; by default greedily.

        Returns
        -------
        SpeechRecognizer
        """
        encoder = load_encoder("deepspeech2" if source is None else source)
        decode = decoder(encoder, beam_size, lm, lm_weight, word_bonus)
        return cls({"encoder": encoder}, {"decode": decode}, dict(run_opts or {}))

    def encode_batch(self, wavs: Tensor, wav_lens: Tensor | None = None) -> Encoding:
        """One pass of the encoder over waveforms ``[batch, samples]`` at 16 kHz; relative lengths ``[batch]``."""
        waveforms, lengths = self._absolute(wavs, wav_lens)
        with torch.no_grad():
            return self.mods.encoder(waveforms, lengths)

    def transcribe_batch(self, wavs: Tensor, wav_lens: Tensor | None = None) -> list[str]:
        """Transcripts of waveforms ``[batch, samples]`` at 16 kHz; relative lengths ``[batch]``."""
        return self.hparams.decode(self.encode_batch(wavs, wav_lens).log_probs)

    def transcribe_file(self, path: str | Path, chunk: float = CHUNK) -> str:
        """Transcript of an audio file of any format and length; ``chunk`` as of `encode_file`."""
        return self.hparams.decode(self.encode_file(path, chunk))[0]

    def encode_file(self, path: str | Path, chunk: float = CHUNK) -> Frames:
        """CTC log-probabilities of an audio file, ``[1, time, tokens]``; only they grow with the file.

        A file longer than ``chunk`` seconds is heard in pieces of that length. Of two that follow each other, which
        have 2 × `CONTEXT` in common, each gives the steps on its side of the middle. What the encoder computes over
        a whole utterance, as means for normalisation, it computes over each piece.

        Raises
        ------
        OptionError
            The chunk leaves nothing between its contexts.
        DataError
            The file cannot be read.
        """
        rate = self.mods.encoder.rate
        context, whole = int(CONTEXT * rate), int(chunk * rate)  # steps, on which the pieces start
        if whole <= 2 * context:
            raise OptionError(f"chunk {chunk} s: it must be above {2 * CONTEXT:g} s, of which {CONTEXT:g} s at either "
                              "end are context")
        pieces = [self.encode_batch(torch.from_numpy(samples).unsqueeze(0)).log_probs.data[0]
                  for samples in audio.read_blocks(path, whole / rate, 2 * context / rate)]
        starts = [0] + [context] * (len(pieces) - 1)
        ends = [whole - context] * (len(pieces) - 1) + [len(pieces[-1])]
        own = [piece[start:end] for piece, start, end in zip(pieces, starts, ends, strict=True)]
        return Frames.from_list([torch.cat(own)], rate)

    def load_audio(self, path: str | Path, savedir: str | None = None) -> Tensor:
        """Any audio file as mono samples at 16 kHz, ``[samples]``."""
        return torch.from_numpy(audio.read(path)).to(self.device)

    def forward(self, wavs: Tensor, wav_lens: Tensor | None = None) -> list[str]:
        """As `transcribe_batch`."""
        return self.transcribe_batch(wavs, wav_lens)

    def _absolute(self, wavs: Tensor, wav_lens: Tensor | None) -> tuple[Tensor, Tensor]:
        relative = torch.ones(len(wavs)) if wav_lens is None else wav_lens
        data = wavs.float().unsqueeze(2).to(self.device)
        frames = Frames.from_relative(data, relative.to(self.device), audio.SAMPLE_RATE)
        return frames.data.squeeze(2), frames.lengths


class EmotionRecognizer(SpeechRecognizer):
    """Classifies and transcribes with a trained system; both come from one pass through the encoder."""

    @classmethod
    def from_hparams(
            cls, source: str | Path | None = None, run_opts: Mapping[str, Any] | None = None, beam_size: int = 0,
            lm: str | Path | None = None, lm_weight: float = LM_WEIGHT, word_bonus: float = WORD_BONUS
    ) -> EmotionRecognizer:
        """Loads a trained system.

        Arguments
        ---------
        source : str | Path
            The folder of a run of train_ser.py, its ``model`` folder, a folder that ``ser export`` wrote, or
            ``owner/name`` on the hub. No code of it is run (docs/model_folders.md).
        run_opts : Mapping[str, Any], optional
            ``device`` and SpeechBrain's other run options.
        beam_size, lm, lm_weight, word_bonus
            How transcripts are decoded, as of `decoding.decoder`; by default greedily.

        Raises
        ------
        DataError
            The folder holds no model, or one that does not fit the encoder or features installed here.
        """
        model = load_model(source)
        decode = decoder(model.encoder, beam_size, lm, lm_weight, word_bonus)
        hparams = {"labels": model.labels, "needs": model.needs, "decode": decode}
        return cls({"encoder": model.encoder, "extractor": model.extractor, "head": model.head}, hparams,
                   dict(run_opts or {}))

    def classify_batch(self, wavs: Tensor, wav_lens: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """Classifies waveforms, with the shapes of SpeechBrain's `EncoderClassifier`.

        Arguments
        ---------
        wavs : Tensor
            ``[batch, samples]`` at 16 kHz.
        wav_lens : Tensor, optional
            Relative lengths, ``[batch]``; the longest is 1.

        Returns
        -------
        tuple
            Log-probabilities ``[batch, classes]``, the best one ``[batch]``, its index ``[batch]``, its label (list).
        """
        return self._labelled(self._classify(*self._absolute(wavs, wav_lens))[0])

    def classify_file(self, path: str | Path) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """As `classify_batch` for one audio file of any format."""
        return self.classify_batch(self.load_audio(path).unsqueeze(0))

    def transcribe_and_classify_file(self, path: str | Path) -> Recognition:
        """Transcript and emotion of an audio file, from one pass through the encoder, which hears all of it at once."""
        waveforms, lengths = self._absolute(self.load_audio(path).unsqueeze(0), None)
        log_probs, encoding = self._classify(waveforms, lengths, transcribe=True)
        assert encoding is not None
        probabilities = dict(zip(self.hparams.labels, log_probs[0].exp().tolist(), strict=True))
        label = max(probabilities, key=lambda name: probabilities[name])
        return Recognition(self.hparams.decode(encoding.log_probs)[0], label, probabilities)

    def forward(self, wavs: Tensor, wav_lens: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, list[str]]:  # type: ignore[override]
        """As `classify_batch`."""
        return self.classify_batch(wavs, wav_lens)

    @torch.no_grad()
    def _classify(self, waveforms: Tensor, lengths: Tensor, transcribe: bool = False) -> tuple[Tensor, Encoding | None]:
        needs = self.hparams.needs
        features = self.mods.extractor(waveforms, lengths).to(self.device) if needs.features else None
        encoding = self.mods.encoder(waveforms, lengths) if needs.encoder or transcribe else None
        inputs = needs.take(features, encoding)
        stored = {layer: replace(frames, data=frames.data.half().float())  # as the store keeps them, and training reads
                  for layer, frames in inputs.sequences.items()}
        return self.mods.head(replace(inputs, sequences=stored)).log_softmax(dim=1), encoding

    def _labelled(self, log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        score, index = log_probs.max(dim=1)
        return log_probs, score, index, [self.hparams.labels[number] for number in index.tolist()]
