"""Trained systems on new speech, in the manner of SpeechBrain's pretrained interfaces.

    recognizer = EmotionRecognizer.from_hparams(source="results/emodb/progressive-2/test-03/seed-1")
    recognizer.transcribe_and_classify_file("speech.wav")

Models are read by `ser_plugins.models`; no code of their folders is run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import torch
from sentencepiece import SentencePieceProcessor
from speechbrain.inference.interfaces import Pretrained
from torch import Tensor

from ser_plugins import alignment, windows
from ser_plugins.audio import SAMPLE_RATE, Encoded, Source, name_of, read
from ser_plugins.contracts import Encoding, Frames
from ser_plugins.decoding import LM_WEIGHT, WORD_BONUS, BeamSearch, decoder
from ser_plugins.errors import DataError, OptionError
from ser_plugins.models import load_encoder, load_model
from ser_plugins.recognition import Recognition, Segment, Word, most_probable
from ser_plugins.windows import CHUNK, CONTEXT, STEP, Span, pieces

BATCH = 64  # windows that a head judges at once


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

    def transcribe_file(self, path: Source, chunk: float = CHUNK, rate: float | None = None) -> str:
        """Transcript of an audio file of any format and length; arguments as of `encode_file`."""
        return self.hparams.decode(self.encode_file(path, chunk, rate))[0]

    def encode_file(self, path: Source, chunk: float = CHUNK, rate: float | None = None) -> Frames:
        """CTC log-probabilities of an audio file, ``[1, time, tokens]``; only they grow with the file.

        Arguments
        ---------
        path : Source
            A path, the file's bytes, a file object, or samples ``[samples]`` or ``[samples, channels]``, an array or a
            tensor.
        chunk : float
            Seconds that the encoder hears at once. A longer file is heard in pieces (`ser_plugins.windows`).
        rate : float, optional
            Of samples, in Hz.

        Raises
        ------
        OptionError
            The chunk leaves nothing between its contexts, or samples have no rate.
        DataError
            The file cannot be read.
        """
        heard = [self.encode_batch(piece.samples).log_probs.data[0, piece.own]
                 for piece in pieces(path, rate, self.mods.encoder.rate, chunk)]
        return Frames.from_list([torch.cat(heard)], self.mods.encoder.rate)

    def embeddings(self, audio: Source | list[Source], layer: int, rate: float | None = None) -> Tensor:
        """Utterance vectors: the mean over time of an encoder layer (Lakomkin et al. 2017, §3.1.3).

        Arguments
        ---------
        audio : Source | list[Source]
            One recording of any kind that `encode_file` takes, or a list; of any length.
        layer : int
            The encoder layer, counted from 1.
        rate : float, optional
            Of samples, in Hz.

        Returns
        -------
        Tensor
            ``[batch, dim of the layer]``, on the CPU; one row for a single recording.

        Raises
        ------
        OptionError
            There is no such layer, or as `encode_file`.
        DataError
            A file cannot be read.

        Example
        -------
        >>> from sklearn.linear_model import LogisticRegression
        >>> generator = torch.Generator().manual_seed(0)
        >>> noises = [scale * torch.randn(4800, generator=generator) for scale in (0.3, 0.3, 0.3)]
        >>> tones = [torch.sin(torch.arange(4800) * pitch) for pitch in (0.1, 0.11, 0.12)]
        >>> recognizer = SpeechRecognizer.from_hparams()
        >>> vectors = recognizer.embeddings([*noises, *tones], layer=2, rate=16000)
        >>> vectors.shape
        torch.Size([6, 512])
        >>> LogisticRegression().fit(vectors[1:5], ["noise"] * 2 + ["tone"] * 2).predict(vectors[[0, 5]]).tolist()
        ['noise', 'tone']
        """
        number = len(self.mods.encoder.layer_dims)
        if isinstance(layer, bool) or not isinstance(layer, int) or not 1 <= layer <= number:
            raise OptionError(f"layer {layer!r} does not exist: the encoder has layers 1 to {number}")
        return torch.stack([self._mean(source, layer, rate) for source in _listed(audio)])

    def _mean(self, audio: Source, layer: int, rate: float | None) -> Tensor:
        total, count = torch.zeros(self.mods.encoder.layer_dims[layer - 1]), 0
        for piece in pieces(audio, rate, self.mods.encoder.rate, CHUNK):
            frames = self.encode_batch(piece.samples).layers[layer - 1].data[0, piece.own]  # [time, dim]
            total, count = total + frames.sum(dim=0).cpu(), count + len(frames)
        return total / count

    def _spoken(self, log_probs: Frames, duration: float) -> tuple[str, tuple[Word, ...]]:
        """Transcript and its words, of log-probabilities ``[1, time, tokens]``."""
        decode, tokenizer = self.hparams.decode, getattr(self.mods.encoder, "tokenizer", None)
        item, rate = log_probs.data[0].cpu(), log_probs.rate
        if not isinstance(tokenizer, SentencePieceProcessor):
            return decode(log_probs)[0], ()
        letters = [tokenizer.id_to_piece(number) for number in range(tokenizer.vocab_size())]
        if not isinstance(decode, BeamSearch):
            return decode(log_probs)[0], alignment.words(alignment.best_path(item), letters, rate, 0.0, duration)
        parts = list(decode.search(item, rate))
        text = " ".join(said for _, said in parts if said)
        found: list[Word] = []
        steps = 0
        for part, said in parts:
            tokens = tokenizer.encode(said)
            if alignment.needed(tokens) > len(part):  # the search spelled it with fewer subwords
                return text, ()
            path = alignment.forced_path(part, tokens)
            found += alignment.words(path, letters, rate, steps / rate, duration)
            steps += len(part)
        return text, tuple(found)

    def load_audio(self, path: Encoded, savedir: str | None = None) -> Tensor:
        """Any audio file as mono samples at 16 kHz, ``[samples]``."""
        return torch.from_numpy(read(path)).to(self.device)

    def forward(self, wavs: Tensor, wav_lens: Tensor | None = None) -> list[str]:
        """As `transcribe_batch`."""
        return self.transcribe_batch(wavs, wav_lens)

    def _absolute(self, wavs: Tensor, wav_lens: Tensor | None) -> tuple[Tensor, Tensor]:
        relative = torch.ones(len(wavs)) if wav_lens is None else wav_lens
        data = wavs.float().unsqueeze(2).to(self.device)
        frames = Frames.from_relative(data, relative.to(self.device), SAMPLE_RATE)
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
        source : str | Path, optional
            The folder of a run of train_ser.py, its ``model`` folder, a folder that ``ser export`` wrote, or
            ``owner/name`` on the hub. No code of it is run (docs/model_folders.md). None is the model that ships with
            the package, for first trials: it heard eight German actors.
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
        hparams = {"labels": model.labels, "needs": model.needs, "decode": decode,
                   "temperature": model.temperature}
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
            They are the test stage's, before the temperature that `transcribe_and_classify` applies.
        """
        return self._labelled(self._judge(*self._represent(*self._absolute(wavs, wav_lens))))

    def classify_file(self, path: Source | list[Source], rate: float | None = None
                      ) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """As `classify_batch` for one audio file, or a list of them.

        Up to 30 s they are the test stage's probabilities. A longer recording, which that hears at once, is heard in
        pieces here, and its probabilities are their mean, as of `transcribe_and_classify`.

        Arguments
        ---------
        path : Source | list[Source]
            As of `transcribe_and_classify`.
        rate : float, optional
            Of samples, in Hz.
        """
        heard = [self._hear(source, rate, transcribe=False).log_probs for source in _listed(path)]
        return self._labelled(torch.stack(heard))

    def transcribe_and_classify_file(self, path: Encoded) -> Recognition:
        """Transcript and emotion of an audio file; as `transcribe_and_classify`."""
        return self.transcribe_and_classify(path)

    def track_file(self, path: Source, window: float = 2.0, step: float = STEP, rate: float | None = None
                   ) -> Recognition:
        """As `transcribe_and_classify` of one recording, with the emotion over time, from the same pass.

        Arguments
        ---------
        path : Source
            As of `transcribe_and_classify`.
        window : float
            Seconds by which each segment of the track is judged: those about its middle; at the recording's ends the
            nearest whole window.
        step : float
            Seconds of a segment.
        rate : float, optional
            Of samples, in Hz.

        Returns
        -------
        Recognition
            Its ``track`` has segments of ``step`` seconds from 0 to ``duration``. The encoder, and what normalises the
            features, hear what lies around a window.
        """
        windows.check(window, step)
        return self._recognition(path, rate, (window, step))

    @overload
    def transcribe_and_classify(self, audio: Source, rate: float | None = None) -> Recognition: ...
    @overload
    def transcribe_and_classify(self, audio: list[Source], rate: float | None = None) -> list[Recognition]: ...

    def transcribe_and_classify(self, audio, rate=None):
        """Transcript with the times of its words, and emotion, from one pass through the encoder.

        A recording of up to 30 s is heard at once. A longer one is heard in pieces of 30 s that overlap by 6, and its
        probabilities are the mean of its pieces' by their duration.

        Arguments
        ---------
        audio : Source | list[Source]
            A path, the bytes of an audio file, a file object open for reading them, or samples, ``[samples]`` or
            ``[samples, channels]``, in an array or a tensor; or a list of these.
        rate : float, optional
            Of samples, in Hz, which a file says of itself.

        Returns
        -------
        Recognition | list[Recognition]
            One for each recording. Its probabilities are those of `classify_file` brought to the model's temperature;
            where the model has none, ``calibrated`` is False.

        Raises
        ------
        OptionError
            Samples without a rate or of another shape or type.
        DataError
            A file cannot be read, is too short, or is silent: every sample is zero.
        """
        if isinstance(audio, list):
            return [self._recognition(source, rate) for source in audio]
        return self._recognition(audio, rate)

    def forward(self, wavs: Tensor, wav_lens: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, list[str]]:  # type: ignore[override]
        """As `classify_batch`."""
        return self.classify_batch(wavs, wav_lens)

    def _recognition(self, audio: Source, rate: float | None, track: Span | None = None) -> Recognition:
        heard = self._hear(audio, rate, self.hparams.temperature or 1.0, track)
        text, words = self._spoken(heard.tokens, heard.duration) if heard.tokens else ("", ())
        probabilities = self._named(heard.log_probs)
        return Recognition(text, most_probable(probabilities), probabilities, words, tuple(heard.track), heard.duration,
                           self.hparams.temperature is not None)

    def _hear(self, audio: Source, rate: float | None, temperature: float = 1.0, track: Span | None = None,
              transcribe: bool = True) -> _Heard:
        """Everything, from one pass; ``track`` is the window and the step, in seconds."""
        context = windows.context_of(*track) if track else CONTEXT
        tokens, judged, shares = [], [], []
        segments: list[Segment] = []
        silent = True
        for piece in pieces(audio, rate, self.mods.encoder.rate, CHUNK - 2 * CONTEXT + 2 * context, context):
            silent = silent and not piece.samples.any()
            features, encoding = self._represent(*self._absolute(piece.samples, None), transcribe)
            if transcribe and encoding is not None and encoding.ctc is not None:
                tokens.append(encoding.ctc.data[0, piece.own])
            whole = piece.last and not piece.begin
            start, end = piece.span
            own = None if whole else [(start - piece.offset, end - piece.offset)]
            judged.append(self._judge(features, encoding, temperature, own)[0])
            shares.append(end - start)
            if track:
                spans = windows.segments(piece, *track, len(segments))
                found = [self._judge(features, encoding, temperature, [window for _, window in spans[at:at + BATCH]])
                         for at in range(0, len(spans), BATCH)]
                segments += self._segments([span for span, _ in spans], torch.cat(found)) if spans else []
            duration = piece.end
        if silent:
            raise DataError(f"{name_of(audio)}: every sample is zero: nobody speaks in it")
        weights = torch.tensor(shares, device=self.device).log() - math.log(sum(shares))
        log_probs = (torch.stack(judged) + weights.unsqueeze(1)).logsumexp(dim=0)  # [classes]
        encoded = Frames.from_list([torch.cat(tokens)], self.mods.encoder.rate) if tokens else None
        return _Heard(encoded, log_probs, segments, duration)

    @torch.no_grad()
    def _represent(self, waveforms: Tensor, lengths: Tensor, transcribe: bool = False
                   ) -> tuple[Frames | None, Encoding | None]:
        """The features and the encoding that the head needs, or the transcript."""
        needs = self.hparams.needs
        features = self.mods.extractor(waveforms, lengths).to(self.device) if needs.features else None
        return features, self.mods.encoder(waveforms, lengths) if needs.encoder or transcribe else None

    @torch.no_grad()
    def _judge(self, features: Frames | None, encoding: Encoding | None, temperature: float = 1.0,
               spans: Sequence[Span] | None = None) -> Tensor:
        """Log-probabilities ``[batch, classes]``; those of stretches of a single utterance where they are named."""
        needs = self.hparams.needs
        if spans is not None:
            features = windows.cut(features, spans) if features else None
            encoding = windows.cut_encoding(encoding, [*needs.sequences, *needs.means], spans) if encoding else None
        inputs = needs.take(features, encoding)
        stored = {layer: replace(frames, data=frames.data.half().float())  # as the store keeps them, and training reads
                  for layer, frames in inputs.sequences.items()}
        return (self.mods.head(replace(inputs, sequences=stored)) / temperature).log_softmax(dim=1)

    def _named(self, log_probs: Tensor) -> dict[str, float]:
        return dict(zip(self.hparams.labels, log_probs.exp().tolist(), strict=True))

    def _segments(self, spans: Sequence[Span], log_probs: Tensor) -> list[Segment]:
        named = map(self._named, log_probs)
        return [Segment(*span, most_probable(shares), shares) for span, shares in zip(spans, named, strict=True)]

    def _labelled(self, log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        score, index = log_probs.max(dim=1)
        return log_probs, score, index, [self.hparams.labels[number] for number in index.tolist()]


@dataclass(frozen=True)
class _Heard:
    """What one pass over a recording gives: the encoder's tokens, log-probabilities ``[classes]``, and the track."""

    tokens: Frames | None
    log_probs: Tensor
    track: list[Segment]
    duration: float


def _listed(audio: Source | list[Source]) -> list[Source]:
    """One recording, or several, as several; an empty list is refused."""
    if not isinstance(audio, list):
        return [audio]
    if not audio:
        raise OptionError("an empty list: there is no audio in it")
    return audio
