"""eGeMAPS functionals: 88 numbers for an utterance, what SER systems without deep learning read (Eyben et al. 2016)."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ser_plugins.contracts import SAMPLE_RATE, FeatureExtractor, Frames
from ser_plugins.errors import DataError

VERSION = 1  # of this file's arithmetic: raise it when the output changes


class Functionals(FeatureExtractor):
    """eGeMAPSv02 over the whole utterance, by openSMILE, whose licence allows **non-commercial use only**.

    An utterance has one frame, so that there is nothing for a recurrent head to read: no plugin of the group
    ``features``, but what recipes/train_sklearn.py stores.

    Example
    -------
    >>> Functionals()(torch.randn(1, 16000), torch.tensor([16000])).data.shape
    torch.Size([1, 1, 88])
    """

    dim = 88
    rate = 1.0

    def settings(self) -> dict[str, Any]:
        """Everything that changes the output."""
        return {"set": "eGeMAPSv02", "opensmile": version("opensmile"), "version": VERSION}

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        """Maps waveforms ``[batch, samples]`` to frames ``[batch, 1, 88]``.

        Raises
        ------
        DataError
            openSMILE finds no number for a functional: the utterance is too short.
        """
        items = []
        for waveform, length in zip(waveforms, lengths, strict=True):
            values = _smile().process_signal(waveform[:length].numpy(), SAMPLE_RATE).to_numpy(np.float32, copy=True)
            if values.shape != (1, self.dim) or not np.isfinite(values).all():
                raise DataError(f"openSMILE gives no eGeMAPS functionals of {int(length) / SAMPLE_RATE:.2f} s of audio")
            items.append(torch.from_numpy(values))
        return Frames.from_list(items, self.rate)


@cache
def _smile() -> Any:
    import opensmile

    return opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
