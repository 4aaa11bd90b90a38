"""Process group helpers that are also valid without a process group (one process, rank 0)."""

from __future__ import annotations

import functools
import os
import warnings
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utilities.errors import RunFailure, UserError

# A rank that dies is noticed at once, by torchrun and by its closed connections. This only has to outlast what rank 0
# does while the others wait: generating data, k-means of a whole training set.
TIMEOUT = timedelta(hours=2)


def is_active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if is_active() else 0


def world_size() -> int:
    return dist.get_world_size() if is_active() else 1


def is_main() -> bool:
    """True on the one process that writes files and prints."""
    return rank() == 0


def start(device: str) -> torch.device:
    """Join the process group that torchrun describes in the environment; return this process's device.

    device: "auto" (the GPU of LOCAL_RANK when there is one), "cpu", "cuda" or "cuda:N". Raises UserError where this
    process has no GPU to compute on.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        seen = torch.cuda.device_count()
        if not seen:
            raise UserError(
                "--device cuda: no GPU found; give --device cpu, or install PyTorch and a driver that match"
            )
        if local_rank >= seen:
            raise UserError(
                f"process {local_rank} of this machine has no GPU, torch sees {seen}: start at most one process a GPU "
                "(--nproc_per_node, --gpu_ids) or give --device cpu"
            )
        device = f"cuda:{local_rank}"
    chosen = torch.device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if "RANK" in os.environ and not is_active():
        if chosen.type == "cuda":  # barriers would guess the GPU otherwise
            dist.init_process_group("nccl", timeout=TIMEOUT, device_id=chosen)
        else:
            dist.init_process_group("gloo", timeout=TIMEOUT)
    return chosen


def stop() -> None:
    if is_active():
        _hosts.cache_clear()
        dist.destroy_process_group()


def data_parallel(module: nn.Module, device: torch.device, *, find_unused: bool) -> nn.Module:
    """DDP around a module whose buffers every rank writes alike: banks and queues are too large to be sent around."""
    # strides of 1 x 1 kernels are ambiguous in channels_last: DDP warns of a copy that is one either way
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)  # older versions know no other name
        return DistributedDataParallel(
            module,
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=find_unused,
            broadcast_buffers=False,
        )


def communication_device() -> torch.device:
    """Where tensors have to lie that ranks exchange: NCCL knows GPUs only, gloo CPUs."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def barrier() -> None:
    if is_active():
        dist.barrier()


def any_rank(value: bool) -> bool:
    """Whether it is true on some rank; every rank calls this. The processes ask each other, and wait for no GPU."""
    if world_size() == 1:
        return value
    found = torch.tensor([value], dtype=torch.uint8)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=_hosts())
    return bool(found)


@functools.cache
def _hosts() -> Any:
    """All ranks, connected without their GPUs; None where they are so by default."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=TIMEOUT)


class _GatherRows(torch.autograd.Function):
    """All ranks' rows in rank order; the backward pass sums the ranks' gradients and keeps the own rows.

    DDP averages parameter gradients over ranks. Every rank computes the same loss over all rows, so the sum
    here, averaged there, is the gradient of one process holding the whole batch.
    """

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.count = len(rows)
        rows = rows.contiguous()  # before `empty_like`, which keeps strides: a backend may move bytes as they lie
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # which autograd may still use elsewhere
        dist.all_reduce(gradient)
        return gradient[rank() * ctx.count : (rank() + 1) * ctx.count]


def gather_rows(rows: Tensor) -> Tensor:
    """(B, ...) on every rank -> (world * B, ...) in rank order, with gradient. Every rank holds the same B."""
    if world_size() == 1:
        return rows
    if rows.dtype == torch.bool:  # no backend reduces or moves bool reliably
        return gather_rows(rows.to(torch.uint8)).bool()
    return _GatherRows.apply(rows)


def check_share(images: int, whole: int) -> None:
    """Raise RunFailure where this rank lacks images of its share of a batch of `whole`: `gather_rows` would wait."""
    if images * world_size() != whole:
        raise RunFailure(
            f"rank {rank()} has {images} images of a batch of {whole} for {world_size()} processes: "
            "--skip_broken_images left some out. Mend or remove the images that the warnings name, or train on one "
            "process"
        )


def gather_uneven(rows: Tensor) -> Tensor:
    """As `gather_rows` without gradient, for ranks that hold different numbers of rows."""
    if world_size() == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    longest = int(max(counts))
    padded = rows.new_zeros((longest, *rows.shape[1:]))  # and contiguous
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of the ranks' values, which have one shape; values itself may be overwritten."""
    if is_active():
        dist.all_reduce(values)
    return values / world_size()


def on_all(value: bool) -> bool:
    """Whether it holds on every rank, each of which calls this."""
    if not is_active():
        return value
    smallest = torch.tensor(int(value), device=communication_device())
    dist.all_reduce(smallest, dist.ReduceOp.MIN)
    return bool(smallest)


def broadcast(tensor: Tensor) -> Tensor:
    """Rank 0's values on every rank, in place; what is computed once (clusters) is computed there."""
    if is_active():
        dist.broadcast(tensor, 0)
    return tensor


def broadcast_object(value: Any) -> Any:
    """Rank 0's small picklable value on every rank."""
    if not is_active():
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]
