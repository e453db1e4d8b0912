"""Frozen representations, computed once per utterance and variant of tempo and gain.

An array lies at ``STORE/<fingerprint>/<kind>/<key>.npy``. The fingerprint is that of the extractor or encoder, weights
and settings included; the key is a hash of the audio file's bytes, the segment and the variant. So a stale value cannot
be found, and runs, folds and corpora share what they have in common. Kinds: ``features`` (float32, ``[time, dim]``),
``means`` (float32, those of all layers one after the other), ``layer1``, ``layer2``, … (float16, ``[time, dim]``) and
``log_probs`` (float32, ``[time, tokens]``).
A file gets its name when it is whole, so that a killed process leaves nothing half-written and several may write.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ser_plugins import audio
from ser_plugins.augment import Variant, apply
from ser_plugins.contracts import (
    SAMPLE_RATE,
    Encoder,
    FeatureExtractor,
    Frames,
    HeadInputs,
    Needs,
    class_name,
    numbers,
)
from ser_plugins.corpora.manifest import Row
from ser_plugins.errors import DataError, unknown_name
from ser_plugins.files import write_atomically

logger = logging.getLogger(__name__)

ABOUT = "about.json"  # of a fingerprint's folder: whose it is
LEFTOVER_AGE = 3600.0  # s, after which a file without its name is no longer being written
BATCH_SECONDS = 60.0  # of audio that the encoder reads at once
VERSION = 1  # of the disturbances and the arrays' layout: raise it when stored values change


@dataclass(frozen=True)
class Item:
    """One utterance in one variant: a row of the manifest, how it is disturbed, and the key of its audio."""

    row: Row
    variant: Variant
    key: str

    @property
    def duration(self) -> float:
        """Seconds, after the change of tempo."""
        return self.row.duration / self.variant.tempo


def audio_hashes(rows: Sequence[Row]) -> list[str]:
    """Hash of each row's audio: the file's bytes and the segment."""
    try:
        states = {path: os.stat(path) for path in {row.path for row in rows}}
        files = {path: _digest(path, state.st_mtime_ns, state.st_size) for path, state in states.items()}
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from error
    return [hashlib.sha256(f"{files[row.path]} {row.start} {row.end}".encode()).hexdigest()[:24] for row in rows]


@functools.lru_cache(1_000_000)
def _digest(path: str, _modified: int, _size: int) -> str:
    """Hash of a file's bytes, which a process reads once while time and size of the file stay."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def item(row: Row, audio_hash: str, variant: Variant) -> Item:
    """An utterance in a variant, with its key."""
    text = f"{audio_hash} {variant.tempo} {variant.gain_db} {VERSION}"
    libraries = [name for name, works in (("librosa", variant.tempo != 1), ("soxr", row.sample_rate != SAMPLE_RATE))
                 if works]  # tempo, and another rate
    text += "".join(f" {name} {_version(name)}" for name in libraries)
    return Item(row, variant, hashlib.sha256(text.encode()).hexdigest()[:24])


_version = functools.cache(version)


class Store:
    """Reads and computes what a head needs of utterances.

    Arguments
    ---------
    folder : str | Path
        Root of the stored arrays; made where it does not exist.
    needs : Needs
        What the head needs, layers resolved to numbers.
    extractor : FeatureExtractor, optional
        Needed where ``needs.features``.
    encoder : Encoder, optional
        Frozen; needed where ``needs.encoder``.
    """

    def __init__(self, folder: str | Path, needs: Needs, extractor: FeatureExtractor | None = None,
                 encoder: Encoder | None = None) -> None:
        self.needs = needs
        self.extractor = extractor if needs.features else None
        self.encoder = encoder if needs.encoder else None
        self.kinds: dict[str, Path] = {}  # kind → its folder
        self._cached: dict[str, dict[int, Tensor]] = {}
        if self.extractor is not None:
            self.kinds["features"] = Path(folder) / self.extractor.fingerprint / "features"
        if self.encoder is not None:
            names = [f"layer{layer}" for layer in numbers(needs.sequences)] + (["means"] if needs.means else [])
            names += ["log_probs"] if needs.log_probs else []
            root = Path(folder) / self.encoder.fingerprint
            self.kinds.update({name: root / name for name in names})
        try:
            for path in self.kinds.values():
                path.mkdir(parents=True, exist_ok=True)
            for part in (self.extractor, self.encoder):
                if part is not None and not (about := Path(folder) / part.fingerprint / ABOUT).is_file():
                    of = part.settings() if isinstance(part, FeatureExtractor) else {"layer_dims": part.layer_dims}
                    content = {"class": class_name(part), **of}
                    write_atomically(about, partial(json.dump, content, default=str))
        except OSError as error:
            raise DataError(f"store folder {error.filename} cannot be made: {error.strerror}") from error

    def missing(self, items: Sequence[Item], kinds: Iterable[str] | None = None) -> list[Item]:
        """Items of which something (of these kinds) is not stored yet, each key once."""
        chosen = self.kinds if kinds is None else kinds
        present = [{entry.name for entry in os.scandir(self.kinds[kind])} for kind in chosen]
        unique = {one.key: one for one in items}
        return [one for one in unique.values() if any(f"{one.key}.npy" not in names for names in present)]

    def compute(self, items: Sequence[Item], device: torch.device | str = "cpu", workers: int = 0, *,
                progress: bool = True) -> int:
        """Computes and stores what is missing, by default with a progress bar; what is stored stays after a break.

        Audio is read, disturbed and turned into features in ``workers`` processes, and encoded here in batches. What
        stands beside an utterance in its batch changes the last bit of its numbers, so a batch depends on the speaker's
        utterances alone, and one that was interrupted is computed again as a whole.

        Returns
        -------
        int
            Number of items computed.

        Raises
        ------
        DataError
            Audio that cannot be used; all faults at once.
        """
        every = list({one.key: one for one in items}.values())
        batches, featureless, unheard = self._plan(every)
        todo = [every[index] for batch in batches for index in batch]
        if not todo:
            return 0
        if self.encoder is not None:
            self.encoder.to(device)
        workers = min(workers, len(batches))
        loader = DataLoader(_Waveforms(self, every, featureless), batch_sampler=batches, collate_fn=list,
                            num_workers=workers)
        faults = []
        bar = tqdm(total=len(todo), desc="representations", unit="utterance", disable=not progress)
        with bar, _threads(torch.get_num_threads() - workers):
            for batch in loader:
                faults += [result for result in batch if isinstance(result, str)]
                good = [result for result in batch if not isinstance(result, str)]
                for index, _, features in good:
                    if every[index].key in featureless:
                        self.write("features", every[index], features)
                good = [result for result in good if every[result[0]].key in unheard]
                if good:
                    faults += self._encode([every[index] for index, _, _ in good],
                                           [waveform for _, waveform, _ in good], device)
                bar.update(len(batch))
        faults = list(dict.fromkeys(faults))  # a recording has one for each of its variants
        if faults:
            shown = "\n  ".join(faults[:20])
            more = f"\n  … and {len(faults) - 20} more" if len(faults) > 20 else ""
            recordings = len({one.row.id for one in todo})
            raise DataError(f"{len(faults)} of {recordings} recordings cannot be used:\n  {shown}{more}")
        return len(todo)

    def _plan(self, every: Sequence[Item]) -> tuple[list[list[int]], Set[str], Set[str]]:
        """Batches of positions, the keys of those that need features, and of those that the encoder must hear."""
        featureless = {one.key for one in self.missing(every, self.kinds.keys() & {"features"})}
        absent = {one.key for one in self.missing(every, self.kinds.keys() - {"features"})}
        whole = [batch for batch in _batches(every) if any(every[index].key in absent for index in batch)]
        unheard = {every[index].key for batch in whole for index in batch}
        wanted = featureless | unheard
        batches = [[index for index in batch if every[index].key in wanted] for batch in _batches(every)]
        return [batch for batch in batches if batch], featureless, unheard

    @torch.no_grad()
    def _encode(self, items: Sequence[Item], waveforms: Sequence[Tensor], device: torch.device | str) -> list[str]:
        """Encodes and stores a batch; returns the faults of recordings that the encoder refuses."""
        assert self.encoder is not None
        batch = Frames.from_list([waveform.unsqueeze(1) for waveform in waveforms], SAMPLE_RATE).to(device)
        try:
            encoding = self.encoder(batch.data.squeeze(2), batch.lengths)
        except DataError as error:
            if len(items) == 1:
                return [f"{items[0].row.id}: {error}"]
            return [fault for one, waveform in zip(items, waveforms, strict=True)
                    for fault in self._encode([one], [waveform], device)]
        for layer in numbers(self.needs.sequences):
            for one, frames in zip(items, encoding.layers[layer - 1].unpad(), strict=True):
                if not frames.half().isfinite().all():
                    raise DataError(f"{one.row.id}: layer {layer} of the encoder has values that are not finite in "
                                    "float16, in which frames are stored")
                self.write(f"layer{layer}", one, frames.half())
        if self.needs.means:
            means = torch.cat([frames.mean() for frames in encoding.layers], dim=1)  # [batch, sum of the layers' dims]
            for one, values in zip(items, means, strict=True):
                self.write("means", one, values)
        if self.needs.log_probs:
            for one, frames in zip(items, encoding.log_probs.unpad(), strict=True):
                self.write("log_probs", one, frames)
        return []

    def write(self, kind: str, one: Item, values: Tensor) -> None:
        """Stores an array; it gets its name when it is whole."""
        path = self.kinds[kind] / f"{one.key}.npy"
        write_atomically(path, lambda file: np.save(file, values.cpu().numpy()), binary=True)

    def read(self, kind: str, one: Item) -> Tensor:
        """A stored array as float32."""
        path = self.kinds[kind] / f"{one.key}.npy"
        try:
            return torch.from_numpy(np.array(np.load(path, mmap_mode="r"), np.float32))  # from the page cache, once
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} cannot be read ({error}); remove it, and it is computed again") from error

    def inputs(self, items: Sequence[Item]) -> HeadInputs:
        """What the head needs of a batch of stored items."""
        features = None
        if self.extractor is not None:
            features = Frames.from_list([self.read("features", one) for one in items], self.extractor.rate)
        sequences = {layer: Frames.from_list([self.read(f"layer{layer}", one) for one in items], self._rate())
                     for layer in numbers(self.needs.sequences)}
        means = {layer: torch.stack([self._means(one)[layer] for one in items]) for layer in numbers(self.needs.means)}
        log_probs = (Frames.from_list([self.read("log_probs", one) for one in items], self._rate())
                     if self.needs.log_probs else None)
        return HeadInputs(features, sequences, means, log_probs)

    def _means(self, one: Item) -> dict[int, Tensor]:
        """Means of the needed layers; they are small, and stay in memory."""
        if one.key not in self._cached:
            assert self.encoder is not None
            layers = self.read("means", one).split(self.encoder.layer_dims)
            self._cached[one.key] = {layer: layers[layer - 1].clone() for layer in numbers(self.needs.means)}
        return self._cached[one.key]

    def _rate(self) -> float:
        assert self.encoder is not None
        return self.encoder.rate


@dataclass(frozen=True)
class Stored:
    """What a store holds of one extractor or encoder: ``kinds`` is kind → (arrays, bytes)."""

    fingerprint: str
    about: dict[str, Any]
    kinds: dict[str, tuple[int, int]]


def contents(folder: str | Path) -> list[Stored]:
    """What a store holds, in the order of fingerprints.

    Raises
    ------
    DataError
        There is no such folder, it is no store, or a file in it is broken.
    """
    found = []
    for path in _parts(folder):
        kinds = {}
        for kind in sorted(one for one in path.iterdir() if one.is_dir()):
            sizes = [entry.stat().st_size for entry in os.scandir(kind) if entry.name.endswith(".npy")]
            kinds[kind.name] = (len(sizes), sum(sizes))
        found.append(Stored(path.name, _about(path / ABOUT), kinds))
    return found


def _about(path: Path) -> dict[str, Any]:
    """What a store says of an extractor or encoder; nothing in one of an earlier version."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); remove it, and it is written again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {content!r:.60}; remove it, and it is written again")
    return content


def prune(folder: str | Path, fingerprints: Sequence[str] = ()) -> int:
    """Removes all of these extractors and encoders, and what killed writers left; returns bytes.

    Raises
    ------
    DataError
        As `contents`, or it holds no such fingerprint.
    """
    parts = {path.name: path for path in _parts(folder)}
    for name in fingerprints:
        if name not in parts:
            raise DataError(f"{folder}: {unknown_name('fingerprint', name, parts, 'stored')}")
    old = time.time() - LEFTOVER_AGE
    left = [path for part in parts.values() for path in part.glob("**/.*.tmp") if path.stat().st_mtime < old]
    size = sum(path.stat().st_size for path in left)
    for path in left:
        path.unlink(missing_ok=True)
    for name in fingerprints:
        size += sum(path.stat().st_size for path in parts[name].glob("**/*.npy"))
        shutil.rmtree(parts[name])
    return size


def _parts(folder: str | Path) -> list[Path]:
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"no store {root}: there is no such folder")
    parts = sorted(path for path in root.iterdir() if path.is_dir())
    inner = {path: [one for one in path.iterdir() if one.is_dir()] for path in parts}
    strangers = [path.name for path, kinds in inner.items()
                 if not kinds or any(one.is_dir() for kind in kinds for one in kind.iterdir())]
    if strangers:
        raise DataError(f"{root} is no store: {strangers[0]} in it is no folder of stored arrays")
    return parts


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """So many threads of PyTorch's, or one: threads that wait for a core which a worker has hold up all the others."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, number))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Waveforms(Dataset):
    """Disturbed audio and its features. A fault is returned as text, so that all are reported."""

    def __init__(self, store: Store, items: Sequence[Item], featureless: Set[str]) -> None:
        self.store, self.items, self.featureless = store, items, featureless

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[int, Tensor, Tensor] | str:
        one, features = self.items[index], torch.empty(0)
        try:
            waveform = torch.from_numpy(apply(audio.read(one.row.path, one.row.start, one.row.end), one.variant))
            if self.store.extractor is not None and one.key in self.featureless:
                features = self.store.extractor(waveform.unsqueeze(0), torch.tensor([len(waveform)])).unpad()[0]
        except DataError as error:
            return f"{one.row.id}: {error}"
        return index, waveform if self.store.encoder is not None else torch.empty(0), features


def _batches(items: Sequence[Item]) -> Iterator[list[int]]:
    """Positions of items of one speaker and tempo and of like duration that, padded, last at most `BATCH_SECONDS`."""

    def group(position: int) -> tuple[str, float]:
        return items[position].row.speaker, items[position].variant.tempo

    batch: list[int] = []
    for position in sorted(range(len(items)), key=lambda at: (*group(at), items[at].duration, items[at].row.id)):
        full = items[position].duration * (len(batch) + 1) > BATCH_SECONDS
        if batch and (full or group(position) != group(batch[0])):
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch
