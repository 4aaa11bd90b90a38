"""Batch norm over the images of all ranks: N ranks of B images normalise as one process with N * B."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from utilities.parallel.distributed import world_size


def synchronise(module: nn.Module, device: torch.device) -> None:
    """Let every `nn.BatchNorm2d` inside `module` take its statistics over all ranks; in place. timm's, which hold the
    activation that follows, too.

    Parameters and buffers stay the same tensors under the same names, so that a checkpoint fits any number of ranks.
    On a GPU this is torch's `SyncBatchNorm`, which knows no CPU, waits for the GPU in every layer of a forward pass,
    and interrupts the graph of `torch.compile`; on CPUs, `SynchronisedBatchNorm2d`. Nothing is changed in a single
    process.
    """
    if world_size() == 1:
        return
    kind = FollowedSyncBatchNorm if device.type == "cuda" else SynchronisedBatchNorm2d
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d) and not isinstance(child, kind):
                setattr(parent, name, taking_over(child, kind))


def taking_over(norm: nn.BatchNorm2d, kind: type[Any]) -> Any:
    """A norm of this kind with the parameters, buffers, mode and children of `norm`.

    Children are what timm lets follow its norms in place: a dropout and the activation.
    """
    new = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for name, tensor in (*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)):
        setattr(new, name, tensor)
    for name, child in norm.named_children():
        new.add_module(name, child)
    return new.train(norm.training)


class FollowedSyncBatchNorm(nn.SyncBatchNorm):
    """torch's, and then its children in turn."""

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        for child in self.children():
            output = child(output)
        return output


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d`, and then its children in turn, whose training statistics are those of the images of all ranks,
    which may hold different numbers of them. In evaluation mode, and so where batch norm is frozen, it is
    `nn.BatchNorm2d`.
    """

    @torch.compiler.disable
    def forward(self, input: Tensor) -> Tensor:
        output = self.normalised(input)
        for child in self.children():
            output = child(output)
        return output

    def normalised(self, input: Tensor) -> Tensor:
        """(B, C, H, W) of this rank -> the same by the statistics of all."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        output, mean, variance, count = _Normalise.apply(input, self.weight, self.bias, self.eps)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean.to(self.running_mean), share)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), share)
        return output


class _Normalise(torch.autograd.Function):
    """(B, C, H, W) -> the same normalised over all ranks; mean and biased variance (C,), number of pixels ().

    Backward, with x' the normalised input and means over the pixels of all ranks:

        dx = weight / std (dy - mean(dy) - x' mean(dy x'))

    and the gradients of weight and bias are this rank's sums, which DDP averages like any other.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _statistics_of_all(*_statistics(x, weight.dtype))
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps), mean, variance, count

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, variance, count = ctx.saved_tensors
        # The kernel of torch's own batch norm with given statistics, for this rank's sums alone
        _, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        mean_dy, mean_dy_x = _of_all(torch.stack([d_bias, d_weight])).sum(0) / count
        inverse = (variance + ctx.eps).rsqrt()
        scale = weight * inverse
        of_x = -scale * inverse * mean_dy_x
        # dx is scale dy + of_x x + a constant, for each channel. The forward kernel gives all but the middle in one
        # pass that keeps the memory format (`F.batch_norm` of older versions takes no eps of zero).
        ones = torch.ones_like(mean)
        constant = -scale * mean_dy - of_x * mean
        dx = torch.batch_norm(dy, scale, constant, torch.zeros_like(mean), ones, False, 0.0, 0.0, False)
        dx.addcmul_(x, of_x.to(x.dtype).view(-1, 1, 1))
        return dx, d_weight, d_bias, None


def _statistics(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance (C,) of this rank, and its number of pixels."""
    channels, count = x.shape[1], x.numel() // x.shape[1]
    if not count:
        return x.new_zeros(channels, dtype=dtype), x.new_zeros(channels, dtype=dtype), 0
    # the kernel of torch's own batch norm; with statistics to update, it computes in their format, whatever x is in
    unused = x.new_zeros(channels, dtype=dtype), x.new_ones(channels, dtype=dtype)
    return *torch.batch_norm_update_stats(x, *unused, 1.0), count


def _statistics_of_all(mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and number over the ranks' pixels (Chan et al. 1983: no difference of large numbers)."""
    every = _of_all(torch.cat([mean, variance, mean.new_tensor([count])]))
    means, variances, counts = every.split([len(mean), len(mean), 1], 1)
    total = counts.sum()
    whole = (counts * means).sum(0) / total
    return whole, (counts * (variances + (means - whole).square())).sum(0) / total, total


def _of_all(own: Tensor) -> Tensor:
    """(...) on every rank -> (world, ...), with gloo in half the time that `all_reduce` takes for so few numbers."""
    parts = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(parts, own)
    return torch.stack(parts)
