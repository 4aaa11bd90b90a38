"""Binary codes of embeddings, packed into bytes, and exact search among them by Hamming distance.

A code of as many bits as the embedding has dimensions takes a 32nd of its memory, and only blocks of codes are ever
unpacked. Distances are whole numbers below 2**24, so float32 products of +1 / -1 rows give them exactly on any device;
a distance and the index of its image make one number, of which no two are equal: ties need no second look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from utilities.neighbours.exact import full_float32
from utilities.neighbours.search import Neighbours, default_block_bytes, findable, search

_IMAGES = 2**13  # of the gallery unpacked at a time: a power of two, by which float32 divides exactly
_GROUP = 32  # columns whose least number is looked at first
_EXACT = 2**24  # whole numbers up to here are float32
_BIT_VALUES = (128, 64, 32, 16, 8, 4, 2, 1)


@dataclass(frozen=True)
class Codes:
    """N codes. packed (N, ceil(bits / 8)) uint8, the first bit of a byte its highest, as numpy.packbits has it."""

    packed: Tensor
    bits: int

    @classmethod
    def of(cls, flags: Tensor) -> Codes:
        """(N, bits) bool -> codes on the same device."""
        count, bits = flags.shape
        whole = torch.nn.functional.pad(flags, (0, -bits % 8)).view(count, -(-bits // 8), 8)
        values = torch.tensor(_BIT_VALUES, dtype=torch.uint8, device=flags.device)
        return cls((whole.to(torch.uint8) * values).sum(2, dtype=torch.uint8), bits)

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, rows: slice | Tensor) -> Codes:
        return Codes(self.packed[rows], self.bits)

    @property
    def device(self) -> torch.device:
        return self.packed.device

    def to(self, device: torch.device | str) -> Codes:
        return Codes(self.packed.to(device), self.bits)

    def signs(self) -> Tensor:
        """(N, bits) float32, 1 for a bit that is set and -1 for one that is not: products are bits - 2 * distance."""
        values = torch.tensor(_BIT_VALUES, dtype=torch.uint8, device=self.device)
        flags = (self.packed[:, :, None] & values).ne(0).view(len(self), -1)[:, : self.bits]
        return flags.float().mul_(2).sub_(1)

    def shares(self) -> Tensor:
        """(bits,) float64: in which share of the codes each bit is set."""
        count = torch.zeros(self.bits, dtype=torch.float64, device=self.device)
        for start in range(0, len(self), _IMAGES):
            count += (self[slice(start, start + _IMAGES)].signs() > 0).sum(0)
        return count / len(self)


def hamming_distances(queries: Codes, gallery: Codes) -> Tensor:
    """(Q, N) float32 numbers of bits in which two codes differ."""
    with full_float32():
        return (queries.bits - queries.signs() @ gallery.signs().T) / 2


def search_codes(
    queries: Codes,
    gallery: Codes,
    k: int,
    *,
    query_rows: Tensor | None = None,
    block_bytes: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Neighbours:
    """The k gallery images of least Hamming distance for every query, as `search.search` finds them for embeddings.

    Distances are bits that differ, as float64. Raises UserError for a gallery without another image and ValueError for
    codes of unequal length.
    """
    if queries.bits != gallery.bits:
        raise ValueError(f"codes of {queries.bits} and of {gallery.bits} bits cannot be compared")
    device, count = gallery.device, len(gallery)
    k = findable(k, count, inside=query_rows is not None)
    rows = torch.full((len(queries),), -1) if query_rows is None else query_rows
    rows, queries = rows.to(device), queries.to(device)
    width = images_at_a_time(gallery.bits)
    found = torch.empty(len(queries), k, dtype=torch.float64, device=device)
    step = max(1, (block_bytes or default_block_bytes(device)) // (8 * (min(width, count) + k)))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        with full_float32():
            found[part] = _least(queries[part].signs(), rows[part], gallery, k, width)
        if progress is not None:
            progress(len(rows[part]))
    distances = torch.floor(found / count)
    return Neighbours((found - distances * count).long(), distances)


def search_either(
    queries: Tensor | Codes,
    gallery: Tensor | Codes,
    k: int,
    *,
    query_rows: Tensor | None = None,
    backend: str = "auto",
    block_bytes: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Neighbours:
    """`search.search` of embeddings or `search_codes`: both sides are of one kind."""
    if isinstance(queries, Codes) and isinstance(gallery, Codes):
        return search_codes(queries, gallery, k, query_rows=query_rows, block_bytes=block_bytes, progress=progress)
    if isinstance(queries, Codes) or isinstance(gallery, Codes):
        raise ValueError("codes cannot be searched among embeddings, nor embeddings among codes")
    return search(
        queries, gallery, k, query_rows=query_rows, backend=backend, block_bytes=block_bytes, progress=progress
    )


def images_at_a_time(bits: int) -> int:
    """How many images may be numbered beside distances of up to `bits` + 1 in one float32."""
    width = _IMAGES
    while width > 2 and width * (bits + 2) > _EXACT:
        width //= 2
    return width


def _least(signs: Tensor, own: Tensor, gallery: Codes, k: int, width: int) -> Tensor:
    """The k least numbers distance * N + index of each query, (b, k) float64, rising. signs (b, bits), own (b,)."""
    count, bits = len(gallery), gallery.bits
    best = torch.empty(len(signs), 0, dtype=torch.float64, device=signs.device)
    numbers = torch.arange(width, dtype=torch.float32, device=signs.device)
    for start in range(0, count, width):
        images = gallery[start : start + width].signs()
        columns = numbers[: len(images)]
        # distance * width + column, in one product: the distance is (bits - product) / 2
        keys = torch.addmm(columns + width * bits / 2, signs, images.T, alpha=-width / 2)
        inside = ((own >= start) & (own < start + len(images))).nonzero().flatten()
        place = own[inside] - start
        keys[inside, place] = (bits + 1) * width + columns[place]  # farther than any: k others are there
        few = _smallest(keys, min(k, len(images))).double()
        distances = torch.floor(few / width)
        best = torch.cat([best, distances * count + start + (few - distances * width)], 1)
        best = best.topk(min(k, best.shape[1]), largest=False, sorted=True).values
    return best


def _smallest(keys: Tensor, k: int) -> Tensor:
    """The k smallest of every row of different numbers, (b, w) -> (b, k) in no order.

    They lie in the k groups of columns whose least numbers are the smallest, which are found in one pass: sorting
    pairs of a number and its column, as topk does, costs more than the distances.
    """
    groups = keys.shape[1] // _GROUP
    if keys.shape[1] % _GROUP == 0 and 2 * k < groups:
        grouped = keys.view(len(keys), groups, _GROUP)
        chosen = grouped.amin(2).topk(k, largest=False, sorted=False).indices
        keys = grouped.gather(1, chosen[:, :, None].expand(-1, -1, _GROUP)).flatten(1)
    return keys.topk(k, largest=False, sorted=False).values
