"""Fine-tuning MP-k: mean pooling of layer k of the recogniser (Lakomkin et al. 2017, §3.1.3, Figure 3b)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ser_plugins.contracts import Head, HeadInputs, Needs


class MeanPooling(Head):
    """Averages layer k over time and classifies the average: only the output layer is trained.

    Arguments
    ---------
    layer_dims : Sequence[int]
        Size of each encoder layer.
    num_classes : int
        Emotions.
    layer : int
        The encoder layer k, counted from 1; the paper's best is 3.
    dropout : float
        Probability with which an element of the utterance vector is dropped in training.

    Example
    -------
    >>> import torch
    >>> MeanPooling(layer_dims=[512] * 5, num_classes=4)(HeadInputs(means={3: torch.rand(2, 512)})).shape
    torch.Size([2, 4])
    """

    needs = Needs(means="layer")

    def __init__(self, layer_dims: Sequence[int], num_classes: int, layer: int = 3, dropout: float = 0.25) -> None:
        super().__init__()
        self.layer = layer
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(layer_dims[layer - 1], num_classes)

    def represent(self, inputs: HeadInputs) -> Tensor:
        """Returns the utterance vectors, ``[batch, dim of layer k]``."""
        return inputs.means[self.layer]

    def forward(self, inputs: HeadInputs) -> Tensor:
        """Maps means to logits, ``[batch, classes]``."""
        return self.output(self.dropout(self.represent(inputs)))
