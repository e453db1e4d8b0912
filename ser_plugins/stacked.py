"""Heads of several runs as one network, their weights side by side: what gives a GPU enough to do.

A head's recurrent layer takes hundreds of steps, each a product that is far too small for a GPU. `Stack` computes the
heads of many runs at once, by ``torch.func.vmap`` over their weights and with a recurrent layer that takes a step of
all of them together. Logits and gradients are those of each head alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, vmap

from ser_plugins.contracts import Frames, Head, HeadInputs, numbers
from ser_plugins.recurrent import BiRNNLayer, reverse_within_length
from ser_plugins.store import Item, Store

Tensors = dict[str, Tensor]


class Table:
    """What a store holds of items, in the memory of a device, from where batches of many runs are gathered at once.

    Arguments
    ---------
    stored : Store
        Where it is read from.
    items : Iterable[Item]
        The utterances, each in its variants.
    device : torch.device | str
        ``cpu``, ``cuda``, …
    """

    def __init__(self, stored: Store, items: Iterable[Item], device: torch.device | str) -> None:
        self.needs, self.device = stored.needs, device
        unique = list({one.key: one for one in items}.values())
        self._number = {one.key: number for number, one in enumerate(unique)}
        self._rates = {kind: stored.rate(kind) for kind in stored.kinds if kind != "means"}
        self._frames: dict[str, tuple[Tensor, Tensor, Tensor]] = {}  # kind → all frames, first ones, lengths
        for kind in self._rates:
            arrays = [stored.read(kind, one) for one in unique]
            lengths = torch.tensor([len(array) for array in arrays])
            frames = torch.cat(arrays)
            if kind.startswith("layer"):
                frames = frames.half()  # as they are stored
            first = lengths.cumsum(0) - lengths
            self._frames[kind] = (frames.to(device), first.to(device), lengths.to(device))
        self._means = {layer: torch.stack([stored.means(one)[layer] for one in unique]).to(device)
                       for layer in numbers(self.needs.means)}

    def gather(self, batches: Sequence[Sequence[Item]]) -> Tensors:
        """What a head needs of a batch of each run: ``[runs, batch, …]``; shorter batches end with one frame of zeros.

        `inputs` makes of it what a head reads.
        """
        size = max(map(len, batches))
        padded = [[self._number[one.key] for one in batch] + [-1] * (size - len(batch)) for batch in batches]
        rows = torch.tensor(padded).to(self.device)  # [runs, batch]
        real = rows >= 0
        rows = rows.clamp(min=0)
        tensors = {}
        for kind, (frames, first, lengths) in self._frames.items():
            length = torch.where(real, lengths[rows], 1)
            steps = torch.arange(int(length.max()), device=self.device)  # [time]
            inside = (steps < length.unsqueeze(2)) & real.unsqueeze(2)  # [runs, batch, time]
            index = torch.where(inside, first[rows].unsqueeze(2) + steps, 0)
            tensors[kind] = frames[index].float() * inside.unsqueeze(3)
            tensors[f"{kind} lengths"] = length
        for layer, means in self._means.items():
            tensors[f"means {layer}"] = means[rows]
        return tensors

    def inputs(self, tensors: Tensors) -> HeadInputs:
        """One run's part of what `gather` gives, as its head reads it."""
        frames = {kind: Frames(tensors[kind], tensors[f"{kind} lengths"], rate) for kind, rate in self._rates.items()}
        return HeadInputs(frames.get("features"),
                          {layer: frames[f"layer{layer}"] for layer in numbers(self.needs.sequences)},
                          {layer: tensors[f"means {layer}"] for layer in numbers(self.needs.means)},
                          frames.get("log_probs"))


class Stack:
    """The heads of several runs, of one class and size.

    ``torch.func.vmap`` must be able to compute the head: what it does may not depend on the values in its inputs.
    Dropout draws from a seed of the run in place of PyTorch's generator, so that a run's numbers do not depend on those
    beside it.

    Arguments
    ---------
    heads : Sequence[Head]
        Their parameters stay theirs: gradients arrive there.
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        self.heads = list(heads)
        self._network = _stackable(copy.deepcopy(self.heads[0]))
        self._dropouts = [module for module in self._network.modules() if isinstance(module, _SeededDropout)]

    def __call__(self, chosen: Sequence[int], table: Table, batches: Sequence[Sequence[Item]],
                 seeds: Sequence[int] | None = None) -> Tensor:
        """Logits of some heads, each for a batch of its own, ``[runs, batch, classes]``.

        Arguments
        ---------
        chosen : Sequence[int]
            Positions of the heads.
        table : Table
            What they read.
        batches : Sequence[Sequence[Item]]
            One of each head; shorter ones get further rows, which mean nothing.
        seeds : Sequence[int], optional
            Of each head's dropout, for training; without them the heads are in evaluation mode.
        """
        self._network.train(seeds is not None)
        heads = [self.heads[number] for number in chosen]
        states = [{**dict(head.named_parameters()), **dict(head.named_buffers())} for head in heads]
        state = {name: torch.stack([one[name] for one in states]) for name in states[0]}
        drawn = torch.tensor(seeds if seeds is not None else [0] * len(heads)).to(table.device)

        def logits(state: Tensors, tensors: Tensors, seed: Tensor) -> Tensor:
            for number, dropout in enumerate(self._dropouts):
                dropout.seed = seed * len(self._dropouts) + number
            result: Tensor = functional_call(self._network, state, (table.inputs(tensors),))
            return result

        result: Tensor = vmap(logits)(state, table.gather(batches), drawn)
        return result


def _stackable(network: nn.Module) -> nn.Module:
    """Puts dropout and recurrent layers that can be stacked in place of a network's own, parameters as they are."""
    for name, module in list(network.named_children()):
        if type(module) is nn.Dropout:
            setattr(network, name, _SeededDropout(module.p))
        elif type(module) is BiRNNLayer and type(module.forwards) is nn.GRU:
            setattr(network, name, _StackableBiGRU(module))
        else:
            _stackable(module)
    return network


class _SeededDropout(nn.Module):
    """Dropout by a hash of ``seed`` and each element's place: the same with other items or more padding beside it."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.seed = share, torch.tensor(0)

    def forward(self, data: Tensor) -> Tensor:
        """Maps a tensor of any shape to one of the same."""
        if not (self.training and self.share):
            return data
        bits = self.seed
        for size in data.shape:
            places = torch.arange(size, device=data.device)
            bits = _mixed(bits.unsqueeze(-1) + places)
        kept = (bits & 0xFFFFFF) >= self.share * 2**24
        return data * kept / (1 - self.share)


def _mixed(bits: Tensor) -> Tensor:
    """A hash of 64-bit integers, in two rounds of multiplication and shift (as Steele et al. 2014, SplitMix)."""
    for factor in (0x3F58476D1CE4E5B9, 0x14D049BB133111EB):
        bits = (bits ^ ((bits >> 31) & 0x1FFFFFFFF)) * factor  # a shift that fills with zeros
    return bits ^ ((bits >> 31) & 0x1FFFFFFFF)


class _StackableBiGRU(nn.Module):
    """`BiRNNLayer` of GRUs, both directions at once, and under `vmap` those of all runs."""

    def __init__(self, layer: BiRNNLayer) -> None:
        super().__init__()
        self.forwards, self.backwards = layer.forwards, layer.backwards

    def forward(self, frames: Frames) -> tuple[Tensor, Tensor]:
        """As `BiRNNLayer.forward`."""
        directions = (self.forwards, self.backwards)
        weight_ih, weight_hh, bias_ih, bias_hh = (
            torch.stack([getattr(one, f"{name}_l0") for one in directions])
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        both = torch.stack([frames.data, reverse_within_length(frames.data, frames.lengths)])  # [2, batch, time, dim]
        gates = torch.matmul(both, weight_ih.mT.unsqueeze(1)) + bias_ih[:, None, None]
        outputs, _ = _Recurrence.apply(gates.permute(2, 0, 1, 3), weight_hh, bias_hh)  # [time, 2, batch, hidden]
        ahead, behind = outputs.permute(1, 2, 0, 3)
        mask = frames.mask().unsqueeze(2)
        return ahead * mask, reverse_within_length(behind, frames.lengths) * mask


class _Recurrence(torch.autograd.Function):
    """Steps of several GRUs side by side, from zeros (Cho et al. 2014, as ``torch.nn.GRU`` computes them).

    ``gates [time, groups, batch, 3 × hidden]`` is what the inputs add, ``weight [groups, 3 × hidden, hidden]`` and
    ``bias [groups, 3 × hidden]`` act on the hidden state. Returns the hidden states ``[time, groups, batch, hidden]``
    and, for the way back, what the steps computed, ``[time, groups, batch, 5 × hidden]``.
    """

    @staticmethod
    def forward(gates: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        gates, weight = gates.contiguous(), weight.mT.contiguous()
        _, groups, batch, width = gates.shape
        states, kept = [], []
        state = gates.new_zeros(groups, batch, width // 3)
        for gate in gates:
            hidden = torch.baddbmm(bias.unsqueeze(1), state, weight)
            state, workspace = _step(gate, hidden, state)
            states.append(state)
            kept.append(workspace)
        return torch.stack(states), torch.stack(kept)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        _, weight, _ = inputs
        states, kept = output
        ctx.mark_non_differentiable(kept)
        ctx.save_for_backward(weight, states, kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_states: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, states, kept = ctx.saved_tensors
        grad_gates, grad_hidden = [], []
        grad = torch.zeros_like(states[0])
        for step in range(len(states) - 1, -1, -1):
            of_gates, of_hidden, direct = _step_back(grad + grad_states[step], kept[step])
            grad = torch.baddbmm(direct, of_hidden, weight)
            grad_gates.append(of_gates)
            grad_hidden.append(of_hidden)
        of_hidden = torch.stack(grad_hidden[::-1]).transpose(0, 1)  # [groups, time, batch, 3 × hidden]
        before = torch.cat([torch.zeros_like(states[:1]), states[:-1]]).transpose(0, 1)
        return (torch.stack(grad_gates[::-1]), torch.bmm(of_hidden.flatten(1, 2).mT, before.flatten(1, 2)),
                of_hidden.sum(dim=(1, 2)))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, int, int], gates: Tensor, weight: Tensor, bias: Tensor
             ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        """Further groups are all that the runs of a stack are."""
        gates = gates.movedim(in_dims[0], 1).flatten(1, 2)
        weight = weight.movedim(in_dims[1], 0).flatten(0, 1)
        bias = bias.movedim(in_dims[2], 0).flatten(0, 1)
        states, kept = _Recurrence.apply(gates, weight, bias)
        runs = (info.batch_size, -1)
        return (states.unflatten(1, runs), kept.unflatten(1, runs)), (1, 1)


def _step(gates: Tensor, hidden: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The next state, and what `_step_back` needs: reset, update and new gate, the state, and what reset acts on."""
    if gates.is_cuda:  # PyTorch's own, of one kernel
        width = gates.shape[-1]
        new, kept = torch.ops.aten._thnn_fused_gru_cell(gates.view(-1, width), hidden.view(-1, width),
                                                        state.view(-1, width // 3))
        return new.view_as(state), kept.view(*gates.shape[:-1], -1)
    (reset, update, new), (of_reset, of_update, of_new) = gates.chunk(3, dim=-1), hidden.chunk(3, dim=-1)
    reset, update = torch.sigmoid(reset + of_reset), torch.sigmoid(update + of_update)
    new = torch.tanh(new + reset * of_new)
    return new + update * (state - new), torch.cat([reset, update, new, state, of_new], dim=-1)


def _step_back(grad: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of what the inputs add, of what the hidden state adds, and of the state where it is taken over."""
    if grad.is_cuda:
        width = grad.shape[-1]
        of_gates, of_hidden, direct, _, _ = torch.ops.aten._thnn_fused_gru_cell_backward(
            grad.view(-1, width), kept.view(-1, 5 * width), False)
        shape = (*grad.shape[:-1], 3 * width)
        return of_gates.view(shape), of_hidden.view(shape), direct.view_as(grad)
    reset, update, new, state, of_new = kept.chunk(5, dim=-1)
    grad_new = grad * (1 - update) * (1 - new * new)
    grad_update = grad * (state - new) * update * (1 - update)
    grad_reset = grad_new * of_new * reset * (1 - reset)
    return (torch.cat([grad_reset, grad_update, grad_new], dim=-1),
            torch.cat([grad_reset, grad_update, grad_new * reset], dim=-1), grad * update)
