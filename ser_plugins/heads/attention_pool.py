"""Self-attentive pooling of layer k of the recogniser (Lin et al. 2017, §2.1; of speech, Cai et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ser_plugins.contracts import Head, HeadInputs, Needs


class AttentionPool(Head):
    """`mp` with a mean in which a small network says how much each frame counts: emotion is not in all of them alike.

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
    views : int
        Weighted means side by side, each with weights of its own (the rows of Lin et al.'s annotation matrix).
    dropout : float
        Probability with which an element of the utterance vector is dropped in training.

    Example
    -------
    >>> from ser_plugins.contracts import Frames
    >>> frames = Frames(torch.rand(2, 25, 512), torch.tensor([25, 16]), rate=50.0).masked()
    >>> AttentionPool(layer_dims=[512] * 5, num_classes=4)(HeadInputs(sequences={2: frames})).shape
    torch.Size([2, 4])
    """

    needs = Needs(sequences="layer")

    def __init__(self, layer_dims: Sequence[int], num_classes: int, layer: int = 2, units: int = 64, views: int = 1,
                 dropout: float = 0.25) -> None:
        super().__init__()
        self.layer = layer
        dim = layer_dims[layer - 1]
        self.score = nn.Sequential(nn.Linear(dim, units), nn.Tanh(), nn.Linear(units, views, bias=False))
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(views * dim, num_classes)

    def weights(self, inputs: HeadInputs) -> Tensor:
        """How much each frame counts, ``[batch, time, views]``: sums to 1 over time, and is zero in the padding."""
        frames = inputs.sequences[self.layer]
        return self.score(frames.data).masked_fill(~frames.mask().unsqueeze(2), -torch.inf).softmax(dim=1)

    def represent(self, inputs: HeadInputs) -> Tensor:
        """Returns the utterance vectors, ``[batch, views * dim of layer k]``."""
        return torch.einsum("btv,btd->bvd", self.weights(inputs), inputs.sequences[self.layer].data).flatten(1)

    def forward(self, inputs: HeadInputs) -> Tensor:
        """Maps frames of layer k to logits, ``[batch, classes]``."""
        return self.output(self.dropout(self.represent(inputs)))
