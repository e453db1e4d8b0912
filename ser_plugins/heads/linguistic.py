"""What was said, as the recogniser hears it: pooled CTC posteriors.

Lakomkin et al. 2017 leave linguistic knowledge to future work and give no form; this is the smallest: which letters or
subwords were heard, and how much of the utterance they took. Their order has no part in it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ser_plugins.contracts import Frames, Head, HeadInputs, Needs


class Linguistic(Head):
    """Classifies the mean and the maximum over time of each token's probability.

    The mean tells how much of the time a token or the blank took, and so the speaking rate; the maximum, whether it
    was heard at all.

    Arguments
    ---------
    vocabulary : int
        Tokens of the CTC output, blank included.
    num_classes : int
        Emotions.
    dropout : float
        Probability with which an element of the utterance vector is dropped in training.

    Example
    -------
    >>> log_probs = Frames(torch.randn(2, 25, 29).log_softmax(dim=2), torch.tensor([25, 16]), rate=50.0).masked()
    >>> Linguistic(vocabulary=29, num_classes=4)(HeadInputs(log_probs=log_probs)).shape
    torch.Size([2, 4])
    """

    needs = Needs(log_probs=True)

    def __init__(self, vocabulary: int, num_classes: int, dropout: float = 0.25) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(2 * vocabulary, num_classes)

    def represent(self, inputs: HeadInputs) -> Tensor:
        """Returns the utterance vectors, ``[batch, 2 * vocabulary]``."""
        assert inputs.log_probs is not None
        log_probs = inputs.log_probs
        posteriors = Frames(log_probs.data.exp(), log_probs.lengths, log_probs.rate).masked()
        return torch.cat([posteriors.mean(), posteriors.data.amax(dim=1)], dim=1)

    def forward(self, inputs: HeadInputs) -> Tensor:
        """Maps CTC log-probabilities to logits, ``[batch, classes]``."""
        return self.output(self.dropout(self.represent(inputs)))
