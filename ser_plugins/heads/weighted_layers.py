"""Weighted sum of all layers of the recogniser, as SUPERB's featurizer (Yang et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ser_plugins.contracts import Head, HeadInputs, Needs


class WeightedLayers(Head):
    """Learns how much of each layer to take, and classifies the mean over time of the sum.

    The weights are a softmax over one trained number for each layer. A sum of layers and a mean over time may change
    places, so that the head reads the layers' means only, and trains as fast as `mp`. ``head.weights()`` tells which
    layers it chose. Layers of different magnitude are not brought to one.

    Arguments
    ---------
    layer_dims : Sequence[int]
        Size of each encoder layer, all the same.
    num_classes : int
        Emotions.
    dropout : float
        Probability with which an element of the utterance vector is dropped in training.

    Raises
    ------
    ValueError
        The layers differ in size, so that there is no sum.

    Example
    -------
    >>> head = WeightedLayers(layer_dims=[512] * 5, num_classes=4)
    >>> head(HeadInputs(means={layer: torch.rand(2, 512) for layer in range(1, 6)})).shape
    torch.Size([2, 4])
    """

    needs = Needs(means="all")

    def __init__(self, layer_dims: Sequence[int], num_classes: int, dropout: float = 0.25) -> None:
        super().__init__()
        if len(set(layer_dims)) != 1:
            raise ValueError(f"layers of the sizes {', '.join(map(str, layer_dims))} cannot be added up")
        self.scores = nn.Parameter(torch.zeros(len(layer_dims)))  # every layer alike at first
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(layer_dims[0], num_classes)

    def weights(self) -> Tensor:
        """Share of each layer, ``[layers]``; they sum to 1."""
        return self.scores.softmax(dim=0)

    def represent(self, inputs: HeadInputs) -> Tensor:
        """Returns the utterance vectors, ``[batch, dim]``."""
        means = torch.stack([inputs.means[layer] for layer in range(1, len(self.scores) + 1)])  # [layers, batch, dim]
        return torch.einsum("l,lbd->bd", self.weights(), means)

    def forward(self, inputs: HeadInputs) -> Tensor:
        """Maps means of all layers to logits, ``[batch, classes]``."""
        return self.output(self.dropout(self.represent(inputs)))
