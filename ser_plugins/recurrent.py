"""Bidirectional recurrent layers that end where each utterance ends, without packing.

A packed bidirectional GRU is batch invariant, but its backward pass on a CPU is many times slower than a padded one's.
Here a bidirectional layer is two one-directional ones; the second reads each item reversed *within its own length*.
On a CPU, `ser_plugins.gru` runs both. Outputs, gradients and weights are those of a packed bidirectional layer
(`benchmarks/recurrent.py` measures the gain).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ser_plugins.contracts import Frames

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}


def reverse_within_length(data: Tensor, lengths: Tensor) -> Tensor:
    """Reverses the valid part of each item; the padding stays where it is.

    Arguments
    ---------
    data : Tensor
        ``[batch, time, dim]``.
    lengths : Tensor
        Valid steps, int64, ``[batch]``.

    Returns
    -------
    Tensor
        ``[batch, time, dim]``.

    Example
    -------
    >>> reverse_within_length(torch.tensor([[[1], [2], [0]]]), torch.tensor([2])).flatten().tolist()
    [2, 1, 0]
    """
    steps = torch.arange(data.shape[1], device=data.device)
    reversed_steps = lengths.unsqueeze(1) - 1 - steps  # [batch, time], negative in the padding
    index = torch.where(reversed_steps >= 0, reversed_steps, steps)
    return data.gather(1, index.unsqueeze(2).expand_as(data))


class BiRNNLayer(nn.Module):
    """One bidirectional layer, its directions as separate modules.

    Arguments
    ---------
    input_size : int
        Size of an input frame.
    hidden_size : int
        Units of each direction.
    cell : str
        ``"gru"`` or ``"lstm"``.
    """

    def __init__(self, input_size: int, hidden_size: int, cell: str = "gru") -> None:
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"cell '{cell}' is not one of {', '.join(CELLS)}")
        self.forwards = CELLS[cell](input_size, hidden_size, batch_first=True)
        self.backwards = CELLS[cell](input_size, hidden_size, batch_first=True)

    def forward(self, frames: Frames) -> tuple[Tensor, Tensor]:
        """Returns the two directions' outputs, each ``[batch, time, hidden]``, aligned in time and zero in the padding.

        Arguments
        ---------
        frames : Frames
            ``[batch, time, input_size]``.
        """
        if self._fits_cpu(frames):
            from ser_plugins.gru import bidirectional_gru  # numba, which a GPU need not have

            return bidirectional_gru(frames.data, frames.lengths, self.forwards, self.backwards)
        mask = frames.mask().unsqueeze(2)
        ahead, _ = self.forwards(frames.data)
        behind, _ = self.backwards(reverse_within_length(frames.data, frames.lengths))
        return ahead * mask, reverse_within_length(behind, frames.lengths) * mask

    def _fits_cpu(self, frames: Frames) -> bool:
        """Whether `ser_plugins.gru` can do it; a graph that is traced or exported has PyTorch's own layer."""
        directions = (self.forwards, self.backwards)
        tensors = (frames.data, *(direction.weight_hh_l0 for direction in directions))
        return (all(type(direction) is nn.GRU and not direction._forward_hooks and not direction._forward_pre_hooks
                    for direction in directions)
                and all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
                and not torch.jit.is_tracing() and not torch.compiler.is_compiling()
                and not torch.is_autocast_enabled("cpu") and bool(frames.lengths.any()))


class BiRNN(nn.Module):
    """A stack of bidirectional layers with both directions side by side, as ``torch.nn.GRU(bidirectional=True)``.

    Arguments
    ---------
    input_size : int
        Size of an input frame.
    hidden_size : int
        Units of each direction; an output frame has twice as many.
    num_layers : int
        Layers.
    cell : str
        ``"gru"`` or ``"lstm"``.

    Example
    -------
    >>> frames = Frames(torch.rand(2, 7, 5), torch.tensor([7, 4]), rate=100.0).masked()
    >>> BiRNN(5, 3, num_layers=2)(frames).data.shape
    torch.Size([2, 7, 6])
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, cell: str = "gru") -> None:
        super().__init__()
        sizes = [input_size] + [2 * hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(BiRNNLayer(size, hidden_size, cell) for size in sizes)

    def forward(self, frames: Frames) -> Frames:
        """Maps frames ``[batch, time, input_size]`` to frames ``[batch, time, 2 * hidden_size]``."""
        for layer in self.layers:
            frames = Frames(torch.cat(layer(frames), dim=2), frames.lengths, frames.rate)
        return frames
