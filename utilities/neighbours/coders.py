"""How embeddings become binary codes: bit j of x is whether (x @ matrix)_j lies above threshold_j.

    sign    the components of the embedding against 0. With fewer bits than dimensions, the mean of components j,
            j + bits, j + 2 bits, ...: "binary" and "trivial hash" of Blumenstiel et al. (IGARSS 2024), by their
            released code (IBM/remote-sensing-image-retrieval)
    median  the same against the median over the gallery, so that every bit divides it in halves
    itq     principal components of the gallery, rotated so that their signs lose least (Gong and Lazebnik, Iterative
            Quantization, CVPR 2011)
    lsh     products with Gaussian random vectors against 0 (Charikar, STOC 2002), drawn as numpy's RandomState draws
            them: the "LSH" of the same release, whose figures are means over the seeds 42, 84, 126, 168 and 210

What is learned is learned from the images that are searched, without their labels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utilities.errors import UserError
from utilities.neighbours.codes import Codes
from utilities.parallel.distributed import broadcast, communication_device, is_active

KINDS = ("sign", "median", "itq", "lsh")
_ITERATIONS = 50  # of ITQ, as published
_MOST_ROWS = 2**14  # from which ITQ learns its rotation: evenly spaced ones of a larger gallery
_CHUNK = 2**14  # rows turned into float64 at a time
_ALIKE = 0.99  # share of the images from which on a bit that they have in common tells next to nothing
_WAYS_OUT = {
    "sign": "their components hardly change their sign, as features behind a ReLU; --codes median or itq learn their "
    "thresholds from the images",
    "median": "more than half of the images share the value of a component; --codes itq turns them first",
    "itq": "the images hardly differ in most directions; give fewer --code_bits",
    "lsh": "the images lie in nearly one direction; --codes itq or median learn their thresholds from the images",
}


class Coder(NamedTuple):
    """kind and bits as given; matrix (D, bits) and threshold (bits,) float64 on the CPU."""

    kind: str
    bits: int
    matrix: Tensor
    threshold: Tensor

    def __str__(self) -> str:
        return f"{self.kind}, {self.bits} bits"

    def encode(self, embeddings: Tensor) -> Codes:
        """(N, D) -> their codes, on the same device."""
        matrix, threshold = self.matrix.to(embeddings.device), self.threshold.to(embeddings.device)
        flags = [block.double() @ matrix > threshold for block in embeddings.split(_CHUNK)]
        return Codes.of(torch.cat(flags))


def check(kind: str, bits: int | None, dimensions: int) -> int:
    """The number of bits, of the embedding's dimensions where it is None. Raises UserError for what cannot be."""
    bits = bits or dimensions
    if kind in ("sign", "median") and dimensions % bits:
        divisors = [str(n) for n in range(1, dimensions + 1) if dimensions % n == 0]
        raise UserError(
            f"--code_bits {bits}: --codes {kind} folds the {dimensions} dimensions of the embedding into bits of equal "
            f"share; give one of {', '.join(divisors)}, or --codes itq or lsh"
        )
    if kind == "itq" and bits > dimensions:
        raise UserError(f"--code_bits {bits}: --codes itq gives at most one bit for each of {dimensions} dimensions")
    return bits


def fit(kind: str, bits: int | None, gallery: Tensor, *, seed: int) -> Coder:
    """The coder for a gallery of embeddings (N, D); every rank gets that of the first. Raises UserError."""
    bits = check(kind, bits, gallery.shape[1])
    if kind == "itq" and bits >= len(gallery):
        raise UserError(f"--codes itq learns {bits} bits from more images than that; {len(gallery)} are searched")
    matrix, threshold = _fold(gallery.shape[1], bits), torch.zeros(bits, dtype=torch.float64)
    if kind == "median":
        threshold = (gallery.cpu().double() @ matrix).median(0).values
    elif kind == "lsh":
        matrix = torch.from_numpy(np.random.RandomState(seed).randn(bits, gallery.shape[1]).T.copy())
    elif kind == "itq":
        matrix, threshold = _quantizer(gallery.cpu(), bits, seed)
    return Coder(kind, bits, _shared(matrix), _shared(threshold))


def notes(coder: Coder, codes: Codes) -> list[str]:
    """What there is to say about the codes of the images that are searched: whether most of their bits tell nothing."""
    shares = codes.shares()
    alike = int((torch.maximum(shares, 1 - shares) >= _ALIKE).sum())
    if 2 * alike <= coder.bits:
        return []
    return [
        f"{alike:,} of the {coder.bits:,} bits of --codes {coder.kind} are equal in {_ALIKE:.0%} of the {len(codes):,} "
        f"images and more, and tell next to nothing: {_WAYS_OUT[coder.kind]}"
    ]


def _shared(values: Tensor) -> Tensor:
    """The first rank's, on the CPU."""
    if not is_active():
        return values
    return broadcast(values.contiguous().to(communication_device())).cpu()


def _fold(dimensions: int, bits: int) -> Tensor:
    """(D, bits): column j sums components j, j + bits, j + 2 bits, ..."""
    return torch.eye(bits, dtype=torch.float64).repeat(dimensions // bits, 1)


def _quantizer(gallery: Tensor, bits: int, seed: int) -> tuple[Tensor, Tensor]:
    """Matrix (D, bits) and threshold (bits,) of ITQ: alternately the signs B of V R, and the rotation R nearest to
    taking V to B (Gong and Lazebnik 2011, section 3.2; orthogonal Procrustes problem)."""
    rows = gallery[torch.linspace(0, len(gallery) - 1, min(len(gallery), _MOST_ROWS)).long()].double()
    centred = rows - rows.mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # values rise
    components = vectors[:, -bits:].flip(1)
    projected = centred @ components
    start = np.random.RandomState(seed).randn(bits, bits)
    rotation = torch.linalg.qr(torch.from_numpy(start)).Q
    for _ in range(_ITERATIONS):
        signs = torch.where(projected @ rotation > 0, 1.0, -1.0).double()
        left, _, right = torch.linalg.svd(projected.T @ signs)
        rotation = left @ right
    matrix = components @ rotation
    return matrix, rows.mean(0) @ matrix
