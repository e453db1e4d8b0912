"""wav2vec 2.0, HuBERT, WavLM and Whisper as encoders, through SpeechBrain's integration of Hugging Face's transformers.

``--encoder huggingface:SOURCE`` names a model of the hub or the folder of a saved one. Layer k is the output of
transformer block k, as transformers' ``hidden_states[k]``.

**Each utterance is encoded by itself.** The first convolution of many of these models (wav2vec2-base, HuBERT-base,
WavLM-base) is normalised over time without regard to the mask, the wrappers normalise a waveform over its padding, and
Whisper's spectrogram is clipped under the loudest value of its batch: in a batch, an utterance's numbers would depend
on its neighbours. That costs speed on a GPU, once, since representations are stored.

A model that was trained with CTC (``…ForCTC``) gives log-probabilities and transcripts. The others, and Whisper, whose
decoder is none of CTC, give layers only. Baevski et al. 2020, Hsu et al. 2021, Chen et al. 2022, Radford et al. 2023.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ser_plugins.contracts import SAMPLE_RATE, Encoder, Encoding, Frames, class_name, fingerprint
from ser_plugins.errors import DataError, MissingExtraError, OptionError, PluginError
from ser_plugins.registry import failure

WRAPPERS = {  # transformers' name of a kind of model → SpeechBrain's module and class
    "wav2vec2": ("wav2vec2", "Wav2Vec2"), "hubert": ("hubert", "HuBERT"), "wavlm": ("wavlm", "WavLM"),
    "whisper": ("whisper", "Whisper"),
}
WHISPER_WINDOW = 30  # s that Whisper hears; a shorter utterance is followed by silence
WHISPER_RATE = 50.0  # frames per second
SHORTEST = 400  # samples: 25 ms, one step of wav2vec 2.0's convolutions
PASSING = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")  # of a configuration: changes no number
NO_CODE = {"trust_remote_code": False}  # whatever code a model's files name: neither run, nor asked about
VERSION = 1  # of this file's arithmetic: raise it when the output changes


class HuggingFace(Encoder):
    """A frozen model of the hub. Build it with `from_pretrained`.

    Arguments
    ---------
    model : HFTransformersInterface
        SpeechBrain's wrapper, which gives all hidden states, ``[layers + 1, batch, time, dim]``.
    ctc_output : torch.nn.Linear, optional
        Maps the last layer to tokens.
    tokenizer : transformers.PreTrainedTokenizer, optional
        Of a model with a CTC output.
    """

    model: Any

    def __init__(self, model: Any, ctc_output: nn.Linear | None = None, tokenizer: Any = None) -> None:
        super().__init__()
        self.model, self.ctc_output, self.text = model, ctc_output, tokenizer
        self.config: dict[str, Any] = model.config.to_dict()
        self.whisper = self.config["model_type"] == "whisper"
        self.layer_dims = (self.config["hidden_size" if not self.whisper else "d_model"],) * (
            self.config["encoder_layers" if self.whisper else "num_hidden_layers"])
        self.rate = WHISPER_RATE if self.whisper else SAMPLE_RATE / prod(self.config["conv_stride"])
        self.vocabulary = 0 if ctc_output is None else ctc_output.out_features
        blank = self.config.get("pad_token_id") or 0
        self.order = [blank, *(token for token in range(self.vocabulary) if token != blank)]  # blank first

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None) -> HuggingFace:
        """Loads a model.

        Arguments
        ---------
        source : str | Path
            Its name on the hub, or the folder of ``save_pretrained``, ``preprocessor_config.json`` included.

        Raises
        ------
        OptionError
            No source is named: this plugin has no weights of its own.
        DataError
            The source cannot be loaded, or holds a model of another kind.
        PluginError
            transformers is not installed.
        """
        if source is None:
            raise OptionError("encoder 'huggingface' has no model of its own: name one of the hub or a folder, as "
                              "--encoder huggingface:facebook/wav2vec2-base-960h")
        transformers = _package("transformers")
        name = str(source)
        try:
            config = transformers.AutoConfig.from_pretrained(name, **NO_CODE)
            if config.model_type not in WRAPPERS:
                raise DataError(f"{name} is a model of the kind '{config.model_type}'; this encoder reads "
                                f"{', '.join(WRAPPERS)}")
            transformers.AutoFeatureExtractor.from_pretrained(name, **NO_CODE)  # the wrapper would ask, and then run it
            output, tokenizer = _ctc(transformers, name, config)
            return cls(_wrapped(name, config.model_type), output, tokenizer).float().freeze()
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise DataError(f"{name} cannot be loaded by transformers: {error}") from error

    @classmethod
    def example(cls) -> HuggingFace:
        """A tiny wav2vec 2.0 with random weights and a CTC output, for the contract; it needs no network."""
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            save_tiny(folder, "wav2vec2", ctc=True)
            return cls.from_pretrained(folder)

    @classmethod
    def untrained(cls, source: str | Path | None = None, seed: int = 0) -> HuggingFace:
        """A model's twin with the random weights that transformers starts from, as a control; frozen.

        Arguments and errors as `from_pretrained`; ``seed`` is that of the weights.
        """
        encoder = cls.from_pretrained(source)
        wrapper = encoder.model
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            wrapper.model = type(wrapper.model)(wrapper.model.config)
            if encoder.whisper:
                wrapper.model.decoder = None
            if encoder.ctc_output is not None:
                encoder.ctc_output.reset_parameters()
        return encoder.freeze()

    def freeze(self) -> HuggingFace:
        """Evaluation mode and no gradients, for good."""
        self.eval().requires_grad_(False)
        return self

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Encoding:
        """Encodes waveforms ``[batch, samples]``, each by itself.

        Raises
        ------
        DataError
            An utterance is too short for one frame, or longer than Whisper hears.
        """
        items = [self._encode(item[:length]) for item, length in zip(waveforms, lengths.tolist(), strict=True)]
        layers = tuple(self._frames([hidden[layer] for hidden in items], waveforms.device)
                       for layer in range(1, len(self.layer_dims) + 1))
        if self.ctc_output is None:
            return Encoding(layers)
        logits = self.ctc_output(layers[-1].data)[:, :, self.order]
        return Encoding(layers, Frames(logits.log_softmax(dim=2), layers[-1].lengths, self.rate).masked())

    def _encode(self, samples: Tensor) -> Tensor:
        """All hidden states of one utterance, ``[layers + 1, time, dim]``."""
        seconds = len(samples) / SAMPLE_RATE
        if len(samples) < SHORTEST:
            raise DataError(f"an utterance of {seconds * 1000:.0f} ms is too short: this encoder needs at least "
                            f"{SHORTEST / SAMPLE_RATE * 1000:.0f} ms")
        if self.whisper and seconds > WHISPER_WINDOW:
            raise DataError(f"an utterance of {seconds:.1f} s is too long: Whisper hears {WHISPER_WINDOW} s at once")
        hidden = self.model(samples.unsqueeze(0))[:, 0]
        return hidden[:, :-(-len(samples) * int(WHISPER_RATE) // SAMPLE_RATE)] if self.whisper else hidden

    def _frames(self, items: list[Tensor], device: torch.device) -> Frames:
        frames = Frames.from_list(items, self.rate)
        return Frames(frames.data, frames.lengths.to(device), self.rate)

    def decode(self, log_probs: Frames) -> list[str]:
        """Greedy CTC transcript of each item, in lower case.

        Raises
        ------
        DataError
            The model has no tokenizer.
        """
        if self.text is None:
            raise DataError("this model has no CTC output, so it cannot transcribe; one of the kind …ForCTC can")
        best = [[self.order[token] for token in item.argmax(dim=1).tolist()] for item in log_probs.unpad()]
        return [self.text.decode(tokens).strip().lower() for tokens in best]  # it drops repetitions and blanks

    @property
    def fingerprint(self) -> str:
        """Hash of weights, configuration and the preprocessing of waveforms."""
        decisive = {key: value for key, value in self.config.items() if key not in PASSING}
        prepared = self.model.feature_extractor.to_dict()
        prepared.pop("mel_filters", None)  # numbers that its other settings decide
        plain = json.loads(json.dumps({"config": decisive, "preprocessing": prepared}, default=str))
        return fingerprint({"class": class_name(self), "version": VERSION, **plain}, self.state_dict())


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        what = f"encoder 'huggingface': {failure(error)}; pip install 'ser_plugins[huggingface]'"
        raise (MissingExtraError if isinstance(error, ModuleNotFoundError) else PluginError)(what) from error


def _wrapped(source: str, kind: str) -> Any:
    """SpeechBrain's wrapper of a model, which gives all layers."""
    cache = _package("huggingface_hub").constants.HF_HUB_CACHE
    module, name = WRAPPERS[kind]
    wrapper = getattr(_package(f"speechbrain.integrations.huggingface.{module}"), name)
    options: Mapping[str, Any] = {"encoder_only": True} if kind == "whisper" else {}
    return wrapper(source, cache, freeze=True, output_all_hiddens=True, **options)


def _ctc(transformers: Any, source: str, config: Any) -> tuple[nn.Linear | None, Any]:
    """The layer of tokens and the tokenizer of a model that was trained with CTC, which the wrapper leaves out."""
    if not any(name.endswith("ForCTC") for name in config.architectures or ()):
        return None, None
    model, loaded = transformers.AutoModelForCTC.from_pretrained(source, output_loading_info=True, **NO_CODE)
    absent = [name for name in loaded["missing_keys"] if name.startswith("lm_head")]
    if absent:
        raise DataError(f"{source} calls itself {config.architectures[0]} and lacks {', '.join(absent)}: its CTC "
                        "output has not been trained")
    return model.lm_head, transformers.AutoTokenizer.from_pretrained(source, **NO_CODE)


def save_tiny(folder: str | Path, kind: str, ctc: bool = False, **options: Any) -> None:
    """Writes a model of two layers of 16 units with random weights, as a trained one is saved: for tests.

    Arguments
    ---------
    folder : str | Path
        Where to.
    kind : str
        One of `WRAPPERS`.
    ctc : bool
        With an output of letters; not for Whisper.
    options : Any
        Of transformers' configuration, e.g. ``feat_extract_norm="layer"``.
    """
    transformers = _package("transformers")
    name = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM", "whisper": "Whisper"}[kind]
    sizes: dict[str, Any] = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    if kind == "whisper":
        sizes = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
                 "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_mel_bins": 80,
                 "vocab_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
                 "decoder_start_token_id": 1}
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"etaonihsrdlu"]
    if ctc:
        sizes["vocab_size"] = len(letters)
    config = getattr(transformers, f"{name}Config")(**{**sizes, **options})
    getattr(transformers, f"{name}{'ForCTC' if ctc else 'Model'}")(config).save_pretrained(folder)
    extractor = "WhisperFeatureExtractor" if kind == "whisper" else "Wav2Vec2FeatureExtractor"
    getattr(transformers, extractor)().save_pretrained(folder)
    if ctc:
        vocabulary = Path(folder) / "vocab.json"
        vocabulary.write_text(json.dumps({letter: number for number, letter in enumerate(letters)}))
        transformers.Wav2Vec2CTCTokenizer(str(vocabulary)).save_pretrained(folder)
