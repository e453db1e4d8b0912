"""An `mp` training through the store, beside the same training with the encoder run again in every epoch.

    python benchmarks/frozen_reuse.py                                             # synthetic speech
    python benchmarks/frozen_reuse.py --corpus emodb --data_folder EmoDB --epochs 40 --measured_epochs 2

Both train the same head on the same batches in the same order. One reads what the frozen encoder said from the store,
which it fills first; the other decodes the audio, changes tempo and gain, and runs the encoder for each batch. Both
work in one process with the same threads. Of the slow side only ``--measured_epochs`` epochs are run; its whole run is
then extrapolated, and said to be. What follows ``--`` goes to both, as options of recipes/train_ser.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from statistics import mean

import torch
from common import HPARAMS, command_line, cores, describe, table
from timed_training import Timing, protocol, train

from ser_plugins import audio, augment, experiment, store
from ser_plugins.contracts import SAMPLE_RATE, Frames, HeadInputs
from ser_plugins.errors import SerError

EPOCHS = (40, 100, 500)  # for the table of ratios; 500 is the most that the paper's regime trains


class NoStore(store.Store):
    """Stores nothing: runs the encoder whenever the head asks, as one does who trains with the encoder in the loop."""

    seconds: dict[str, float]

    def compute(self, items: Sequence[store.Item], device: torch.device | str = "cpu", workers: int = 0, *,
                progress: bool = True) -> int:
        """Nothing in advance."""
        assert self.encoder is not None
        self.encoder.to(device)
        self.device = device
        NoStore.seconds = {"audio": 0.0, "encoder": 0.0}
        return 0

    @torch.no_grad()
    def inputs(self, items: Sequence[store.Item]) -> HeadInputs:
        """From the audio files."""
        assert self.encoder is not None
        started = time.perf_counter()
        waveforms = [torch.from_numpy(augment.apply(audio.read(one.row.path, one.row.start, one.row.end), one.variant))
                     for one in items]
        batch = Frames.from_list([waveform.unsqueeze(1) for waveform in waveforms], SAMPLE_RATE).to(self.device)
        decoded = time.perf_counter()
        features = self.extractor(batch.data.squeeze(2), batch.lengths) if self.extractor is not None else None
        inputs = self.needs.take(features, self.encoder(batch.data.squeeze(2), batch.lengths))
        NoStore.seconds["audio"] += decoded - started
        NoStore.seconds["encoder"] += time.perf_counter() - decoded
        return inputs


def whole(timing: Timing, epochs: int) -> float:
    """Seconds of a run of ``epochs`` epochs: all measured parts, and the mean epoch as often as it takes."""
    return timing.start + timing.representations + epochs * mean(timing.epochs) + timing.test


def comparison(stored: Timing, rerun: Timing, epochs: int) -> str:
    """The two runs part by part."""
    note = "measured" if len(rerun.epochs) == epochs else f"extrapolated from {len(rerun.epochs)}"
    loop, once = whole(rerun, epochs), whole(stored, epochs)
    rows: list[list[object]] = [
        ["start (manifest, weights)", f"{stored.start:.2f}", f"{rerun.start:.2f}", ""],
        ["encoder, once", f"{stored.representations:.2f}", "", ""],
        ["epochs measured", len(stored.epochs), len(rerun.epochs), ""],
        ["one epoch, mean", f"{mean(stored.epochs):.3f}", f"{mean(rerun.epochs):.3f}",
         f"{mean(rerun.epochs) / mean(stored.epochs):.0f}"],
        ["test speaker", f"{stored.test:.2f}", f"{rerun.test:.2f}", ""],
        ["sum of what was measured", f"{stored.total:.1f}", f"{rerun.total:.1f}", ""],
        [f"whole run of {epochs} epochs", f"{once:.1f} (measured)", f"{loop:.1f} ({note})", f"{loop / once:.1f}"],
    ]
    return table(["seconds", "store", "encoder in the loop", "ratio"], rows)


def main() -> None:
    """Reads the command line, runs both, prints."""
    own, more = command_line()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="synthetic")
    parser.add_argument("--data_folder", help="where the corpus lies; synthetic speech is made")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--measured_epochs", type=int, default=2, help="of the run with the encoder in the loop")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--output_root", default="results", help="where the manifest (and synthetic speech) goes")
    args = parser.parse_args(own)
    torch.set_num_threads(args.threads)
    options = ["--corpus", args.corpus, "--output_root", args.output_root, "--num_workers", "0", *more]
    if args.data_folder is not None:
        options += ["--data_folder", args.data_folder]

    try:
        values = experiment.load([str(HPARAMS / "mp.yaml"), *options]).values
        protocol.prepare(values)  # makes synthetic speech, which is no part of either run
        with tempfile.TemporaryDirectory() as folder:
            stored = train("mp", [*options, "--store_folder", folder], args.epochs)
            rerun = train("mp", [*options, "--store_folder", folder], min(args.measured_epochs, args.epochs), NoStore)
    except SerError as error:
        sys.exit(f"error: {error}")

    variants = 1 + len(values["tempi"])
    difference = max(abs(one - other) for one, other in zip(stored.losses, rerun.losses, strict=False))
    audio_share = NoStore.seconds["audio"] / sum(NoStore.seconds.values())
    print(f"\n{stored.system} on {args.corpus}: {stored.utterances} training and {stored.valid_utterances} validation "
          f"utterances; variants of tempo and gain of each training utterance in the store: {variants}\n")
    print(comparison(stored, rerun, args.epochs), "\n")
    print(table(["epochs", "store, s", "encoder in the loop, s", "ratio (from the mean epochs above)"],
                [[epochs, f"{whole(stored, epochs):.0f}", f"{whole(rerun, epochs):.0f}",
                  f"{whole(rerun, epochs) / whole(stored, epochs):.1f}"] for epochs in EPOCHS]))
    print(f"\nThe store reads each variant of an utterance once, the loop one of them in every epoch: if "
          f"training itself cost nothing, {args.epochs} epochs would gain about {args.epochs / variants:.0f} times.\n"
          f"Same training: validation losses differ by {difference:.1e} at most. Of the loop's time for inputs "
          f"{audio_share:.0%} went into audio (decoding, tempo, gain), the rest into the encoder.\n\n{describe()}")


if __name__ == "__main__":
    main()
