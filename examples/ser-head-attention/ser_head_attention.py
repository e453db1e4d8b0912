"""Attentive statistics pooling (Okabe, Koshinaka and Shinoda 2018, §3) of layer k of the recogniser."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ser_plugins.contracts import Head, HeadInputs, Needs


class Attention(Head):
    """Classifies the weighted mean and the weighted deviation of layer k; a small network weighs the frames.

    Arguments
    ---------
    layer_dims : Sequence[int]
        Size of each encoder layer.
    num_classes : int
        Emotions.
    layer : int
        The encoder layer k, counted from 1.
    units : int
        Hidden units of the network that weighs the frames.
    dropout : float
        Probability with which an element of the utterance vector is dropped in training.
    """

    needs = Needs(sequences="layer")

    def __init__(self, layer_dims: Sequence[int], num_classes: int, layer: int = 2, units: int = 64,
                 dropout: float = 0.25) -> None:
        super().__init__()
        self.layer = layer
        dim = layer_dims[layer - 1]
        self.score = nn.Sequential(nn.Linear(dim, units), nn.Tanh(), nn.Linear(units, 1))
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(2 * dim, num_classes)

    def forward(self, inputs: HeadInputs) -> Tensor:
        """Maps frames of layer k to logits, ``[batch, classes]``."""
        frames = inputs.sequences[self.layer]
        scores = self.score(frames.data).squeeze(2).masked_fill(~frames.mask(), -torch.inf)  # [batch, time]
        weights = scores.softmax(dim=1).unsqueeze(2)  # zero in the padding
        mean = (weights * frames.data).sum(dim=1)  # [batch, dim]
        variance = (weights * (frames.data - mean.unsqueeze(1)) ** 2).sum(dim=1)
        deviation = variance.clamp(min=1e-6).sqrt()  # the root has no gradient at 0, where an utterance has one frame
        return self.output(self.dropout(torch.cat([mean, deviation], dim=1)))
