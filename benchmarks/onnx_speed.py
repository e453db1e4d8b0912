"""An exported graph under onnxruntime beside PyTorch: CPU seconds, their ratio, and how far the numbers differ.

    python benchmarks/onnx_speed.py LibriSpeech/test-clean-5spk --files 32
    python benchmarks/onnx_speed.py EmoDB/wav --head rnn --layer 2 --threads 2

The shipped encoder under a head with random weights. Both sides get the same padded batches with lengths; they
alternate, and the median of the repeats counts. CPU seconds are those of all threads of the process, which other work
on the machine disturbs less than a clock. PyTorch's side is what inference runs on a CPU (`ser_plugins.gru`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from common import describe, table
from encoder_rtf import audio_files

from ser_plugins import audio, models, onnx_export, registry
from ser_plugins.contracts import SAMPLE_RATE
from ser_plugins.errors import SerError

LABELS = ["anger", "happiness", "neutral", "sadness"]


def system(head: str, layer: int) -> models.Model:
    """The shipped encoder under a head with random weights."""
    encoder = models.load_encoder("deepspeech2")
    extractor = registry.create("features", "mfcc_pitch", {"pitch": "yin"})
    torch.manual_seed(0)
    built = registry.create("heads", head, {"layer": layer}, {
        "feature_dim": extractor.dim, "layer_dims": encoder.layer_dims, "num_classes": len(LABELS)}).eval()
    needs = built.needs.resolve({"layer": layer}, len(encoder.layer_dims))
    content = {"head": head, "features": "mfcc_pitch", "encoder": "deepspeech2"}
    return models.Model(LABELS, extractor, encoder, built, needs, None, content, Path("."))


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    call()
    return time.process_time() - started


@torch.no_grad()
def measure(model: models.Model, graph: Path, files: list[Path], batch_size: int,
            args: argparse.Namespace) -> list[str]:
    """A row of the table."""
    whole, session = onnx_export.Whole(model).eval(), onnx_export.session(str(graph), args.threads)
    samples = sorted((torch.from_numpy(audio.read(file)) for file in files), key=len)
    batches = [(torch.nn.utils.rnn.pad_sequence(part, batch_first=True), torch.tensor([len(one) for one in part]))
               for part in (samples[start:start + batch_size] for start in range(0, len(samples), batch_size))]
    both = [(whole(*batch), onnx_export.run(session, *batch)) for batch in batches]  # and a warm-up
    pairs = [(one[number], other[number]) for one, other in both for number in (0, 2)]  # of tokens and of emotions
    differences = [max(float((kind(mine) - kind(theirs)).abs().max()) for mine, theirs in pairs)
                   for kind in (torch.Tensor.double, torch.Tensor.exp)]
    times = [(seconds(lambda: [whole(*batch) for batch in batches]),
              seconds(lambda: [onnx_export.run(session, *batch) for batch in batches])) for _ in range(args.repeats)]
    torches, onnxes = (median(column) for column in zip(*times, strict=True))
    speech = sum(map(len, samples)) / SAMPLE_RATE
    return [str(batch_size), f"{speech:.0f}", f"{torches:.2f}", f"{onnxes:.2f}", f"{torches / onnxes:.2f}",
            *(f"{difference:.1e}" for difference in differences)]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="audio files, or folders of them")
    parser.add_argument("--files", type=int, default=32)
    parser.add_argument("--head", default="mp")
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    files = audio_files(args.paths, args.files)
    try:
        model = system(args.head, args.layer)
        with tempfile.TemporaryDirectory() as folder:
            graph = Path(folder, "model.onnx")
            onnx_export.export_onnx(model, graph)
            size = graph.stat().st_size / 1e6
            rows = [measure(model, graph, files, number, args) for number in (1, args.batch_size)]
    except SerError as error:
        sys.exit(f"error: {error}")
    print(f"\n{args.head}-{args.layer} over the shipped encoder, {len(files)} files, model.onnx {size:.1f} MB\n")
    print(table(["batch", "speech, s", "PyTorch, s", "onnxruntime, s", "ratio", "log-probabilities differ by",
                 "probabilities by"], rows))
    print(f"\n{describe()}")


if __name__ == "__main__":
    main()
