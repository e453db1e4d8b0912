"""Faults of a corpus, collected by kind so that all of them are told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ser_plugins.errors import DataError, unknown_name

if TYPE_CHECKING:  # importing it would import torch, and reading a manifest needs none
    from ser_plugins.contracts import Utterance

EXAMPLES = 10  # faults shown of each kind
GENDERS = ("female", "male", "")


class Faults:
    """Faults by kind.

    Example
    -------
    >>> faults = Faults()
    >>> faults.add("missing files", "a.wav")
    >>> faults.raise_any("2 utterances")
    Traceback (most recent call last):
    ...
    ser_plugins.errors.DataError: 1 faults in 2 utterances
    missing files (1):
      a.wav
    """

    def __init__(self) -> None:
        self.kinds: dict[str, list[str]] = {}

    def add(self, kind: str, example: str) -> None:
        """Notes one fault."""
        self.kinds.setdefault(kind, []).append(example)

    def raise_any(self, what: str) -> None:
        """Raises one `DataError` that tells all faults, if there are any, with up to `EXAMPLES` of each kind."""
        if not self.kinds:
            return
        lines = [f"{sum(map(len, self.kinds.values()))} faults in {what}"]
        for kind, examples in self.kinds.items():
            lines.append(f"{kind} ({len(examples)}):")
            lines += [f"  {example}" for example in examples[:EXAMPLES]]
            if len(examples) > EXAMPLES:
                lines.append(f"  … and {len(examples) - EXAMPLES} more")
        raise DataError("\n".join(lines))


def check_names(utterances: Sequence[Utterance], labels: Mapping[str, str], faults: Faults) -> None:
    """Ids, speakers, genders and labels: what can be judged without the audio."""
    paths: dict[str, list[str]] = {}
    for utterance in utterances:
        paths.setdefault(utterance.id, []).append(str(utterance.path))
    for name, same in paths.items():
        if len(same) > 1:
            faults.add("duplicate ids", f"{name or '(empty)'}: {', '.join(same[:3])}")
    labelled = any(utterance.emotion for utterance in utterances)
    for utterance in utterances:
        if not utterance.id.strip():
            faults.add("missing ids", str(utterance.path))
        if not utterance.speaker.strip():
            faults.add("missing speakers", f"{utterance.id}: {utterance.path}")
        if utterance.gender not in GENDERS:
            faults.add("unknown genders", f"{utterance.id}: '{utterance.gender}'; known: female, male or empty")
        if labelled and not utterance.emotion:
            faults.add("missing labels", f"{utterance.id}: {utterance.path}")
        elif utterance.emotion and utterance.emotion not in labels:
            faults.add("unknown labels", f"{utterance.id}: "
                       + unknown_name("label", utterance.emotion, labels, "this corpus's labels"))
