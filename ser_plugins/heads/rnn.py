"""Fine-tuning RNN-k: a new GRU on layer k of the recogniser (Lakomkin et al. 2017, §3.1.3, Figure 3c)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ser_plugins.contracts import Head, HeadInputs, Needs
from ser_plugins.recurrent import BiRNN


class RNN(Head):
    """Feeds the frames of layer k to a new GRU, averages it over time and classifies the average.

    The paper gives neither the width nor the direction of the new GRU; both are the baseline's here.

    Arguments
    ---------
    layer_dims : Sequence[int]
        Size of each encoder layer.
    num_classes : int
        Emotions.
    layer : int
        The encoder layer k, counted from 1; the paper's best is 2.
    units : int
        GRU units of each direction.
    dropout : float
        Probability with which an element of the utterance vector is dropped in training.

    Example
    -------
    >>> import torch
    >>> from ser_plugins.contracts import Frames
    >>> frames = Frames(torch.rand(2, 25, 512), torch.tensor([25, 16]), rate=50.0).masked()
    >>> RNN(layer_dims=[512] * 5, num_classes=4)(HeadInputs(sequences={2: frames})).shape
    torch.Size([2, 4])
    """

    needs = Needs(sequences="layer")

    def __init__(self, layer_dims: Sequence[int], num_classes: int, layer: int = 2, units: int = 96,
                 dropout: float = 0.25) -> None:
        super().__init__()
        self.layer = layer
        self.rnn = BiRNN(layer_dims[layer - 1], units)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(2 * units, num_classes)

    def represent(self, inputs: HeadInputs) -> Tensor:
        """Returns the utterance vectors, ``[batch, 2 * units]``."""
        return self.rnn(inputs.sequences[self.layer]).mean()

    def forward(self, inputs: HeadInputs) -> Tensor:
        """Maps frames of layer k to logits, ``[batch, classes]``."""
        return self.output(self.dropout(self.represent(inputs)))
