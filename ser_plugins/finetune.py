"""Fine-tuning of the recogniser's last layers together with a head (Lakomkin et al. 2017, §1).

The layers are copied, and the head reads the copies; the encoder itself stays frozen, so that others share it and
what it says in words stays the same. The store keeps the frames of the layer below the copies, which is all that an
epoch computes anew from.
"""

from __future__ import annotations

from torch import Tensor, nn

from ser_plugins.contracts import Encoder, Head, HeadInputs, Needs, numbers
from ser_plugins.errors import OptionError


class FineTuned(Head):
    """A head over copies of encoder layers, which are trained with it.

    Norms in the copies keep the statistics of the recogniser's training, also in training mode: a batch of emotional
    speech decides none of its utterances' numbers. The CTC log-probabilities that a head may read are the frozen
    recogniser's; of a stretch of a longer recording (`EmotionRecognizer.track_file`) the copies hear that alone.

    Arguments
    ---------
    head : Head
        What reads the layers.
    needs : Needs
        What ``head`` needs, resolved to layer numbers.
    layers : nn.Sequential
        Modules that each map the `Frames` of a layer to those of the next one.
    below : int
        The layer that feeds the first of them.
    """

    def __init__(self, head: Head, needs: Needs, layers: nn.Sequential, below: int) -> None:
        super().__init__()
        self.head, self.layers = head, layers
        self.below, self.wanted = below, needs
        frozen = {number for number in numbers(needs.sequences) if number <= below}
        means = tuple(number for number in numbers(needs.means) if number <= below)
        self.needs = Needs(needs.features, tuple(sorted(frozen | {below})), means, needs.log_probs)

    def train(self, mode: bool = True) -> FineTuned:
        """As any module's, but norms stay in evaluation mode."""
        super().train(mode)
        for module in self.layers.modules():
            if hasattr(module, "running_mean"):
                module.eval()
        return self

    def forward(self, inputs: HeadInputs) -> Tensor:
        """Maps frames of the layer below the copies, and what else the head needs, to logits, ``[batch, classes]``."""
        layers = {self.below: inputs.sequences[self.below]}
        for number, layer in enumerate(self.layers, start=self.below + 1):
            layers[number] = layer(layers[number - 1])
        sequences = {number: layers[number] if number > self.below else inputs.sequences[number]
                     for number in numbers(self.wanted.sequences)}
        means = {number: layers[number].mean() if number > self.below else inputs.means[number]
                 for number in numbers(self.wanted.means)}
        return self.head(HeadInputs(inputs.features, sequences, means, inputs.log_probs))


def finetuned(head: Head, needs: Needs, encoder: Encoder, count: int) -> FineTuned:
    """A head over copies of the encoder's last layers; those above the highest that it reads are left out.

    Arguments
    ---------
    head : Head
        The head.
    needs : Needs
        What it needs, resolved to layer numbers.
    encoder : Encoder
        Whose layers are copied.
    count : int
        How many of its layers, from the last one down, are trained.

    Returns
    -------
    FineTuned

    Raises
    ------
    OptionError
        There are not so many layers above the first, the head reads none of them, or the encoder cannot be split.
    """
    total = len(encoder.layer_dims)
    if not 1 <= count < total:
        raise OptionError(f"finetune_layers {count}: the encoder has {total} layers, and the first one stays frozen; 0 "
                          f"to {total - 1} can be trained")
    below, read = total - count, {*numbers(needs.sequences), *numbers(needs.means)}
    if max(read, default=0) <= below:
        told = f"layer{'s' * (len(read) > 1)} {', '.join(map(str, sorted(read)))}" if read else "no layer"
        raise OptionError(f"finetune_layers {count} trains layers {below + 1} to {total} of the encoder, and the head "
                          f"reads {told}: give it a layer among them, or more finetune_layers")
    layers = nn.Sequential(*list(encoder.top(count))[:max(read) - below])
    return FineTuned(head, needs, layers, below)
