"""Sequence-wise batch normalisation that counts valid frames only (Ioffe and Szegedy 2015; Amodei et al. 2016)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.linalg import vector_norm
from torch.nn.functional import batch_norm


class FrameNorm(nn.Module):
    """Batch norm whose statistics are those of the valid frames, over the batches of all processes.

    So neither padding nor the number of processes changes what is learned. Evaluation is that of any batch norm, and
    the weights have the names of ``torch.nn.BatchNorm1d``. It is none, since PyTorch replaces those by another norm
    where several GPUs train.

    Arguments
    ---------
    channels : int
        Channels, each with statistics of its own.
    eps : float
        Added to the variance.
    momentum : float
        Share of a batch in the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Maps ``[batch, channels, …]`` to the same shape; ``mask`` is 1 where a frame is valid, and broadcast over it.

        What it gives for the padding means nothing.
        """
        if not self.training:
            return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        # in float32 also where the layers around it compute in less
        normalised, mean, variance, count = _Normalise.apply(x.to(self.weight), mask, self.weight, self.bias, self.eps)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        self.num_batches_tracked += 1
        return normalised.to(x)


class _Normalise(torch.autograd.Function):
    """Normalised values, mean, variance and number of values of a channel; gradients reach all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        over, shape = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
        count = over_processes(mask.sum() * (x.numel() // x.shape[1] // mask.numel()))
        x = x * mask
        mean = over_processes(x.sum(over)) / count
        x = x.sub_(mean.view(shape)).mul_(mask)
        variance = over_processes(vector_norm(x, dim=over).square()) / count
        deviation = (variance + eps).sqrt()
        x = x.div_(deviation.view(shape))
        ctx.save_for_backward(x, mask, weight / deviation, count)
        ctx.over, ctx.shape = over, shape
        ctx.mark_non_differentiable(mean, variance, count)
        return torch.addcmul(bias.view(shape), x, weight.view(shape)), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, mask, scale, count = ctx.saved_tensors
        gradient = gradient * mask
        of_bias, of_weight = gradient.sum(ctx.over), (gradient * x).sum(ctx.over)
        shift, slope = (over_processes(torch.stack([of_bias, of_weight])) / count).unbind()
        of_x = gradient.sub_(shift.view(ctx.shape)).addcmul_(x, slope.view(ctx.shape), value=-1)
        return of_x.mul_(scale.view(ctx.shape)).mul_(mask), None, of_weight, of_bias, None


def over_processes(value: Tensor) -> Tensor:
    """Sum over the processes of a distributed training, in place."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value
