"""Self-similarity against a queue of keys (DaNCE, DiVA's fast MoCo), and the momentum encoder of the keys."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from criteria.base import CRITERIA
from utilities.errors import UserError
from utilities.parallel.distributed import broadcast, gather_rows, rank
from utilities.tensors.distances import check_cutoffs, log_inverse_density, pairwise_distances
from utilities.tensors.float32 import at_least_float32

NORMALISATIONS = ("row", "batch", "none")
WEIGHTED = ("logit", "none")
BUFFER_RULES = ("average", "copy")
NO_IMAGE = -1
QUEUE_BATCHES = 30  # length of the queue on CUB and Cars


@CRITERIA.register("fast_moco", prefix="diva_moco")
class FastMoCo(nn.Module):
    """Every query shall find its own key among a queue of others (noise contrastive estimation), where the
    others count by how rare their distance is on the sphere (DaNCE). For unit rows q, k and queue rows n:

        L = - mean log  exp(q.k / tau) / ( exp(q.k / tau) + sum_n exp(w(d_qn) q.n / tau) )
        w proportional to 1 / q(d),   q(d) = d^(D-2) (1 - d^2/4)^((D-3)/2),   d at least lower_cutoff

    and w = 0 beyond upper_cutoff, without gradient. The queue holds the latest n_key_batches * batch_size
    keys, first in first out, with the images they came from. Rows not yet filled take no part.

    temperature    tau (0.1)
    n_key_batches  length of the queue in batches of batch_size (30)
    lower_cutoff   0.5
    upper_cutoff   1.4
    normalise      w: "row" sums to 1 over the queue, the corrected release; uniform where the whole queue is
                   beyond the cut-off. "batch" sums to 1 over the queries, the release of 2020. "none": 1 at
                   the rarest distance of a row, 0 where the whole queue is beyond the cut-off
    weight_in      "logit" as above; "none" drops w: plain MoCo
    exclude_own    leave out queue rows of the query's own image
    width          D
    batch_size     of one process

    Source: Milbich et al., DiVA, ECCV 2020, eq. 6, and the authors' code, which normalises w.
    """

    queue: Tensor  # (K, D) float32
    queue_images: Tensor  # (K,) int64, image of each key; NO_IMAGE where none has been written
    pointer: Tensor  # () int64, row of the oldest key: the next to be overwritten

    def __init__(
        self,
        *,
        temperature: float,
        n_key_batches: int,
        lower_cutoff: float,
        upper_cutoff: float,
        normalise: str,
        weight_in: str,
        exclude_own: bool,
        width: int,
        batch_size: int,
    ) -> None:
        super().__init__()
        if normalise not in NORMALISATIONS:
            raise UserError(f"unknown --diva_moco_normalise {normalise!r}; choices: {', '.join(NORMALISATIONS)}")
        if weight_in not in WEIGHTED:
            raise UserError(f"unknown --diva_moco_weight_in {weight_in!r}; choices: {', '.join(WEIGHTED)}")
        if temperature <= 0 or n_key_batches < 1:
            raise UserError(
                f"--diva_moco_temperature {temperature} must be positive and --diva_moco_n_key_batches "
                f"{n_key_batches} at least 1"
            )
        check_cutoffs("diva_moco", lower_cutoff, upper_cutoff)
        self.temperature = temperature
        self.lower_cutoff = lower_cutoff
        self.upper_cutoff = upper_cutoff
        self.normalise = normalise
        self.weight_in = weight_in
        self.exclude_own = exclude_own
        length = n_key_batches * batch_size
        self.register_buffer("queue", torch.zeros(length, width))
        self.register_buffer("queue_images", torch.full((length,), NO_IMAGE))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self._staged: tuple[Tensor, Tensor] | None = None

    def forward(self, queries: Tensor, keys: Tensor, images: Tensor) -> Tensor:
        """queries, keys (B, D) unit rows, row i of both from image images[i], (B,) int64 -> () float32.

        Gradient reaches the queries alone. 0 with a graph where the queue has nothing to compare with.
        """
        with torch.autocast(queries.device.type, enabled=False):
            queries, keys = at_least_float32(queries), at_least_float32(keys).detach()
            compared = (self.queue_images != NO_IMAGE).expand(len(queries), -1)
            if self.exclude_own:
                compared = compared & (images[:, None] != self.queue_images)
            # a copy, since `commit` may write before backward has run
            negative = queries @ self.queue.to(queries.dtype, copy=True).T
            if self.weight_in == "logit":
                negative = negative * self.weights(queries, compared).to(queries.dtype)
            negative = negative.masked_fill(~compared, -torch.inf)
            logits = torch.cat([(queries * keys).sum(1, keepdim=True), negative], 1) / self.temperature
            own_key = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
            return F.cross_entropy(logits, own_key, reduction="sum") / max(1, len(queries))

    @torch.no_grad()
    def weights(self, queries: Tensor, compared: Tensor) -> Tensor:
        """w, (B, K) as the queries; compared (B, K) bool: the pairs that take part."""
        distances = pairwise_distances(queries, self.queue.to(queries.dtype))
        near = compared & (distances <= self.upper_cutoff)
        log_weights = log_inverse_density(distances.clamp(min=self.lower_cutoff), queries.shape[1])
        log_weights = log_weights.masked_fill(~near, -torch.inf)
        if self.normalise == "batch":
            return _normalised_over_batch(log_weights)
        if self.normalise == "none":
            largest = log_weights.amax(1, keepdim=True)
            return (log_weights - torch.where(largest.isinf(), 0, largest)).exp()
        # where a row has no key within the cut-off: all that are compared alike, or all when there is none
        alike = torch.zeros_like(log_weights).masked_fill(~compared & compared.any(1, keepdim=True), -torch.inf)
        log_weights = torch.where(near.any(1, keepdim=True), log_weights, alike)
        return log_weights.softmax(1)

    def stage(self, keys: Tensor, images: Tensor) -> None:
        """Keep this rank's keys (B, D) and their images (B,) int64 for `commit`."""
        self._staged = (keys.detach().to(self.queue.dtype), images)

    def commit(self) -> None:
        """Enqueue what was staged on all ranks, in rank order: after the optimizer step."""
        if self._staged is not None:
            keys, images = (gather_rows(part) for part in self._staged)
            self._staged = None
            self.enqueue(keys, images)

    @torch.no_grad()
    def enqueue(self, keys: Tensor, images: Tensor) -> None:
        """Overwrite the oldest rows by keys (n, D) of images (n,); of more than K only the last K stay."""
        length, count = len(self.queue), len(keys)
        kept = slice(max(0, count - length), count)
        places = (self.pointer + torch.arange(count, device=self.queue.device)[kept]) % length
        self.queue.index_copy_(0, places, keys[kept].to(self.queue))
        self.queue_images.index_copy_(0, places, images[kept])
        self.pointer.add_(count).remainder_(length)


def queue_batches(asked: int | None, *, images: int, batch_size: int) -> int:
    """Length of a queue in batches, QUEUE_BATCHES or what the training set holds unless asked for.

    Raises UserError for more than the training set holds.
    """
    held = max(1, images // batch_size)
    if asked is not None and asked > held:
        raise UserError(
            f"--diva_moco_n_key_batches {asked} of --batch_size {batch_size} are more keys than the {images} images of "
            f"the training split; give at most {held}"
        )
    return min(QUEUE_BATCHES, held) if asked is None else asked


def _normalised_over_batch(log_weights: Tensor) -> Tensor:
    """exp(log_weights), relative to their largest, with columns of sum 1 over the queries of all ranks.

    A floor far below every weight that matters makes columns without any weight uniform: the smallest normal number,
    1e-38 in float32 (the release's 1e-45 is subnormal, and 0 wherever a device flushes such numbers).
    """
    if not len(log_weights):
        return log_weights
    largest = gather_rows(log_weights.amax().reshape(1)).amax()
    largest = torch.where(largest.isinf(), 0, largest)
    weights = (log_weights - largest).exp().clamp(min=torch.finfo(log_weights.dtype).tiny)
    return weights / gather_rows(weights.sum(0, keepdim=True)).sum(0)


class MomentumEncoder(nn.Module):
    """A copy of a network that follows it: theta_key <- momentum theta_key + (1 - momentum) theta.

    It starts as an exact copy, parameters and buffers, never receives gradient, and follows train() and
    eval() of whatever module owns it.

    momentum  0.9 in DiVA
    buffers   "average": floating-point buffers (batch norm statistics) follow like parameters; "copy": they
              are taken over. Integer buffers are taken over always

    Source: He et al., Momentum Contrast, CVPR 2020, eq. 2.
    """

    def __init__(self, network: nn.Module, *, momentum: float, buffers: str) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise UserError(f"--diva_moco_momentum {momentum} must lie in [0, 1]")
        if buffers not in BUFFER_RULES:
            raise UserError(f"unknown --diva_moco_buffers {buffers!r}; choices: {', '.join(BUFFER_RULES)}")
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.momentum = momentum
        self.buffers_rule = buffers

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """One step towards `network`; after the optimizer step. What is frozen there is equal here, and stays."""
        followers: list[Tensor] = []
        leaders: list[Tensor] = []
        for mine, theirs in zip(self.network.modules(), network.modules(), strict=True):
            own = list(theirs.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                continue
            followers += mine.parameters(recurse=False)
            leaders += own
            for buffer, leading in zip(mine.buffers(recurse=False), theirs.buffers(recurse=False), strict=True):
                if self.buffers_rule == "average" and buffer.is_floating_point():
                    followers.append(buffer)
                    leaders.append(leading)
                else:
                    buffer.copy_(leading)
        if followers:
            torch._foreach_lerp_(followers, leaders, 1 - self.momentum)

    @torch.no_grad()
    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Keys of this rank's images, name -> (B, d). With a generator, under shuffled batch norm: give one
        when batch norm statistics are those of the batch."""
        if generator is None:
            return self.network(images)
        shuffled, permutation = shuffle(images, generator)
        return {name: unshuffle(rows, permutation) for name, rows in self.network(shuffled).items()}


def shuffle(rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Exchange rows between ranks at random, so that batch norm sees a key beside other images than its
    query.

    (B, ...) on every rank -> (B, ...) and the permutation (world * B,) int64 for `unshuffle`. On a single
    process this is a permutation of the batch, which batch statistics do not feel. Source: MoCo, section 3.3.
    """
    everything = gather_rows(rows)
    permutation = torch.randperm(len(everything), generator=generator, device=generator.device).to(rows.device)
    permutation = broadcast(permutation)
    return everything[permutation[_own_share(len(rows))]], permutation


def unshuffle(rows: Tensor, permutation: Tensor) -> Tensor:
    """Bring the outputs (B, ...) of shuffled rows back to their rank and place."""
    everything = gather_rows(rows)
    return everything[permutation.argsort()[_own_share(len(rows))]]


def _own_share(count: int) -> slice:
    return slice(rank() * count, (rank() + 1) * count)
