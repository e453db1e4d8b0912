"""``model.onnx``: encoder and head as one graph, audio in, log-probabilities of tokens and emotions out.

    waveforms [batch, samples] float32, 16 kHz; lengths [batch] int64, samples, 320 or more
    → token_log_probs [batch, steps, tokens], steps [batch], emotion_log_probs [batch, classes]

The graph is traced by PyTorch, so the layers take the paths that can be traced: ``torch.nn.GRU``, each direction by
itself (`ser_plugins.recurrent`), and the spectrogram as a convolution. What a file computes is compared with PyTorch
before it is kept, on lengths that the tracing did not see. Its metadata hold labels and sample rate as JSON.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ser_plugins.contracts import SAMPLE_RATE, length_mask
from ser_plugins.errors import DataError, OptionError, SerError
from ser_plugins.features.spectrogram import Spectrogram
from ser_plugins.files import write_atomically
from ser_plugins.models import Model

OPSET = 17
INPUTS = ("waveforms", "lengths")
OUTPUTS = ("token_log_probs", "steps", "emotion_log_probs")
TOLERANCE = 1e-4  # of log-probabilities
TRACED = (21000, 30011)  # samples of the utterances that are traced
COMPARED = (9607, 16000, 51234)  # and of those on which the graph is compared with PyTorch


class Whole(nn.Module):
    """Encoder and head in one module, as `inference.EmotionRecognizer` runs them.

    Arguments
    ---------
    model : Model
        The system.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.extractor, self.encoder, self.head = model.extractor, model.encoder, model.head
        self.needs, self.temperature = model.needs, model.temperature or 1.0

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps ``[batch, samples]`` and ``[batch]`` to the three outputs."""
        heard = waveforms * length_mask(lengths, waveforms.shape[1])
        features = self.extractor(heard, lengths) if self.needs.features else None
        encoding = self.encoder(heard, lengths)
        inputs = self.needs.take(features, encoding)
        stored = {layer: replace(frames, data=frames.data.half().float())  # as training reads them from the store
                  for layer, frames in inputs.sequences.items()}
        logits = self.head(replace(inputs, sequences=stored))
        return encoding.log_probs.data, encoding.log_probs.lengths, (logits / self.temperature).log_softmax(dim=1)


def export_onnx(model: Model, path: Path) -> None:
    """Writes the graph, if it gives PyTorch's numbers.

    Arguments
    ---------
    model : Model
        The system, on the CPU.
    path : Path
        The file.

    Raises
    ------
    OptionError
        onnx or onnxruntime is missing; or features or encoder cannot be traced, and why.
    DataError
        The graph gives other numbers than PyTorch; or the file cannot be written.
    """
    if model.needs.features and not isinstance(model.extractor, Spectrogram):
        raise OptionError(f"head '{model.content['head']}' reads the features '{model.content['features']}', which are "
                          "computed outside of PyTorch (openSMILE, librosa) and cannot be in an ONNX graph; heads over "
                          "the encoder alone, as mp and rnn, can")
    onnx = _packages()[0]
    graph = onnx.load_model_from_string(_traced(Whole(model).eval(), str(model.content["encoder"])))
    about = {"labels": json.dumps(model.labels), "sample_rate": str(SAMPLE_RATE)}
    onnx.helper.set_model_props(graph, about)
    content = graph.SerializeToString()
    _compare(Whole(model).eval(), content, path)
    write_atomically(path, lambda file: file.write(content), binary=True)


def speech(lengths: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise that swells, as a padded batch ``[batch, samples]`` with its lengths ``[batch]``."""
    generator = torch.Generator().manual_seed(seed)
    items = [0.1 * torch.randn(length, generator=generator) * torch.linspace(0, 20, length).sin() for length in lengths]
    return nn.utils.rnn.pad_sequence(items, batch_first=True), torch.tensor(lengths)


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise OptionError(f"{error.name} is missing: pip install 'ser_plugins[onnx]'") from error
    return onnx, onnxruntime


def _traced(whole: nn.Module, encoder: str) -> bytes:
    axes = {"waveforms": {0: "batch", 1: "samples"}, "lengths": {0: "batch"}, "steps": {0: "batch"},
            "token_log_probs": {0: "batch", 1: "steps"}, "emotion_log_probs": {0: "batch"}}
    try:
        with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")  # what tracing freezes is seen by the comparison
            path = Path(folder, "model.onnx")
            torch.onnx.export(whole, speech(TRACED), path, dynamo=False, opset_version=OPSET, input_names=INPUTS,
                              output_names=OUTPUTS, dynamic_axes=axes)
            return path.read_bytes()
    except SerError:
        raise
    except Exception as error:  # of an encoder that PyTorch cannot trace
        raise OptionError(f"encoder '{encoder}' cannot be had as ONNX: {type(error).__name__}: "
                          f"{str(error).strip().splitlines()[0] if str(error).strip() else ''}") from error


@torch.no_grad()
def _compare(whole: nn.Module, content: bytes, path: Path) -> None:
    waveforms, lengths = speech(COMPARED, seed=1)
    found = run(session(content), waveforms, lengths)
    for name, mine, theirs in zip(OUTPUTS, whole(waveforms, lengths), found, strict=True):
        if mine.shape != theirs.shape or not torch.allclose(mine.double(), theirs.double(), rtol=0, atol=TOLERANCE):
            difference = f"by {(mine - theirs).abs().max():.2g}" if mine.shape == theirs.shape else "in shape"
            raise DataError(f"{path} was not written: {name} of the graph differs from PyTorch's {difference}")


def session(content: bytes | str, threads: int = 1) -> Any:
    """An onnxruntime session on the CPU, of a file or its bytes."""
    onnxruntime = _packages()[1]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(graph: Any, waveforms: Tensor, lengths: Tensor) -> list[Tensor]:
    """The three outputs of a session."""
    outputs = graph.run(list(OUTPUTS), dict(zip(INPUTS, (waveforms.numpy(), lengths.numpy()), strict=True)))
    return [torch.from_numpy(output) for output in outputs]
