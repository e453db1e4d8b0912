"""Baseline: a two-layer bidirectional GRU on acoustic features (Lakomkin et al. 2017, §3.1.2, Figure 3a)."""

from __future__ import annotations

from torch import Tensor, nn

from ser_plugins.contracts import Head, HeadInputs, Needs
from ser_plugins.recurrent import BiRNN


class Baseline(Head):
    """Averages the second GRU layer over time and classifies the average; nothing of the recogniser is used.

    Arguments
    ---------
    feature_dim : int
        Size of a feature frame.
    num_classes : int
        Emotions.
    units : int
        GRU units of each direction; the paper tries 64, 96 and 128.
    dropout : float
        Probability with which an element of the utterance vector is dropped in training.

    Example
    -------
    >>> import torch
    >>> from ser_plugins.contracts import Frames
    >>> features = Frames(torch.rand(2, 50, 27), torch.tensor([50, 31]), rate=100.0).masked()
    >>> Baseline(feature_dim=27, num_classes=4)(HeadInputs(features)).shape
    torch.Size([2, 4])
    """

    needs = Needs(features=True)

    def __init__(self, feature_dim: int, num_classes: int, units: int = 96, dropout: float = 0.25) -> None:
        super().__init__()
        self.rnn = BiRNN(feature_dim, units, num_layers=2)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(2 * units, num_classes)

    def represent(self, inputs: HeadInputs) -> Tensor:
        """Returns the utterance vectors, ``[batch, 2 * units]``."""
        assert inputs.features is not None
        return self.rnn(inputs.features).mean()

    def forward(self, inputs: HeadInputs) -> Tensor:
        """Maps features to logits, ``[batch, classes]``."""
        return self.output(self.dropout(self.represent(inputs)))
