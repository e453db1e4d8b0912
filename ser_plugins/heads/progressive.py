"""Progressive net-k: the baseline's branch beside the mean of layer k (Lakomkin et al. 2017, §3.1.4, Figure 3d)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ser_plugins.contracts import Head, HeadInputs, Needs
from ser_plugins.recurrent import BiRNN


class Progressive(Head):
    """Concatenates two utterance vectors and classifies the result.

    The emotion branch has the baseline's architecture and features and is trained from scratch; the speech
    recognition branch is frozen, and the mean of its layer k over time is added as it is.

    Arguments
    ---------
    feature_dim : int
        Size of a feature frame.
    layer_dims : Sequence[int]
        Size of each encoder layer.
    num_classes : int
        Emotions.
    layer : int
        The encoder layer k, counted from 1; the paper's best is 2.
    units : int
        GRU units of each direction in the emotion branch.
    dropout : float
        Probability with which an element of the utterance vector is dropped in training.

    Example
    -------
    >>> import torch
    >>> from ser_plugins.contracts import Frames
    >>> features = Frames(torch.rand(2, 50, 27), torch.tensor([50, 31]), rate=100.0).masked()
    >>> head = Progressive(feature_dim=27, layer_dims=[512] * 5, num_classes=4)
    >>> head(HeadInputs(features, means={2: torch.rand(2, 512)})).shape
    torch.Size([2, 4])
    """

    needs = Needs(features=True, means="layer")

    def __init__(self, feature_dim: int, layer_dims: Sequence[int], num_classes: int, layer: int = 2, units: int = 96,
                 dropout: float = 0.25) -> None:
        super().__init__()
        self.layer = layer
        self.rnn = BiRNN(feature_dim, units, num_layers=2)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(2 * units + layer_dims[layer - 1], num_classes)

    def represent(self, inputs: HeadInputs) -> Tensor:
        """Returns the utterance vectors, ``[batch, 2 * units + dim of layer k]``."""
        assert inputs.features is not None
        emotion = self.rnn(inputs.features).mean()  # [batch, 2 * units]
        return torch.cat([emotion, inputs.means[self.layer]], dim=1)

    def forward(self, inputs: HeadInputs) -> Tensor:
        """Maps features and the mean of layer k to logits, ``[batch, classes]``."""
        return self.output(self.dropout(self.represent(inputs)))
