"""Rankings of a gallery as codes of gain: one sort of each row, without indices.

The exact squared distance (`utilities.neighbours.exact`) is a whole number in units of 2**-48 and below 2**51. 2**52
more is a float64 whose last 52 bits are that number; what an image contributes, its level of gain and whether it is
relevant, has room beside them in an int64. One sort of these keys yields the ranked codes. Images at exactly the same
distance but with different codes must be in the order of their indices; rows that may have such ties are sorted
again, stably. On a CPU a row is sorted and measured while a core's cache holds it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utilities.errors import UserError
from utilities.measures.formulae import Relevance
from utilities.measures.label_sets import distinct
from utilities.neighbours.codes import Codes, hamming_distances
from utilities.neighbours.exact import STEPS, beside, on_grid, squared_lengths
from utilities.tensors.labels import overlap

_BITS = 12  # of a code: what a float64 has before its last 52
_MOST_LEVELS = 2 ** (_BITS - 1)  # of gain, beside one bit for relevance
_MOST_SHARED = 1023  # labels, of which the worth 2**r is a float64
_ABOVE = 2.0**52
_UNPACKED = 2**13  # binary codes of the gallery at a time
_SELF = torch.iinfo(torch.int64).max  # sorts last, and is given no gain
# On a CPU keys are sorted as float64, in four fifths of the time. With this bit they are all normal numbers.
_NORMAL = 2**61
_INFINITE = 0x7FF << 52  # as float64: sorts last, and its code is 0
_TIED_ROWS = 64  # sorted again at a time


class Levels:
    """The gains that an image can yield, as small numbers that a key has room for: 0 is no gain.

    The number of shared labels is its own level; with Jaccard similarities asked for, a level is a pair of a
    number of shared labels and one of labels of either image. gains: kind -> (V,) float64, the gain of each level.
    """

    def __init__(self, of_query: Tensor, of_image: Tensor, width: int, kinds: set[str]) -> None:
        """Sizes of the label sets of queries and gallery, out of `width` labels."""
        device = of_query.device
        queries, images = int(of_query.max()) if len(of_query) else 0, int(of_image.max())
        most = min(queries, images)  # that two images can share
        self.place: Tensor | None = None
        self.gains = {"shared": torch.arange(most + 1, device=device).double()}
        if "jaccard" in kinds:
            either = min(width, queries + images)
            shared = torch.arange(most + 1, device=device)[:, None]
            union = torch.arange(either + 1, device=device)
            possible = (shared > 0) & (shared <= union) & (shared + union <= queries + images)
            self.place = possible.flatten().cumsum(0).view(possible.shape) * possible
            pairs = possible.nonzero()
            none = torch.zeros(1, dtype=torch.float64, device=device)
            self.gains = {
                "shared": torch.cat([none, pairs[:, 0].double()]),
                "jaccard": torch.cat([none, pairs[:, 0].double() / pairs[:, 1]]),
            }
        if most > _MOST_SHARED:
            raise UserError(
                f"measures of the whole ranking take images that share up to {_MOST_SHARED} labels; here are some that "
                f"may share {most}"
            )
        if len(self) > _MOST_LEVELS:
            raise UserError(
                f"measures of the whole ranking take up to {_MOST_LEVELS - 1} numbers of shared labels and of labels "
                f"of either image, {len(self) - 1} are given; leave out the measures with _jaccard"
            )

    def __len__(self) -> int:
        return len(self.gains["shared"])

    def of(self, shared: Tensor, of_query: Tensor, of_image: Tensor) -> Tensor:
        """Level of each pair, int64."""
        return shared if self.place is None else self.place[shared, of_query + of_image - shared]


class _Euclidean:
    """Keys of a gallery of embeddings, for queries on the grid: squared distances."""

    def __init__(self, gallery: Tensor) -> None:
        grid = on_grid(gallery, "gallery embeddings")
        self.right = beside(grid, squared_lengths(grid), None)

    def of(self, queries: Tensor, out: Tensor | None = None) -> Tensor:
        """2**52 + squared distances in units of 2**-48, (b, D) rows on the grid -> (b, N) float64, in `out` if given.

        One product of (-2 q, 1, 2**52 + |q|^2) and (g, |g|^2, 1): every partial sum is a whole number below 2**53.
        """
        left = beside(-2 * queries, None, squared_lengths(queries)).mul_(STEPS * STEPS)
        left[:, -1] += _ABOVE
        return torch.mm(left, self.right.T, out=out)


class _Hamming:
    """Keys of a gallery of binary codes: its index beside each distance, twice, so that no two look like a tie."""

    def __init__(self, gallery: Codes) -> None:
        self.gallery = gallery

    def of(self, queries: Codes, out: Tensor | None = None) -> Tensor:
        """2**52 + 2 (distance * N + index), b codes -> (b, N) float64, in `out` if given."""
        count = len(self.gallery)
        if out is None:
            out = torch.empty(len(queries), count, dtype=torch.float64, device=self.gallery.device)
        for start in range(0, count, _UNPACKED):
            part = slice(start, start + _UNPACKED)
            out[:, part] = hamming_distances(queries, self.gallery[part])
        index = torch.arange(count, dtype=torch.float64, device=out.device)
        return out.mul_(2 * count).add_(2 * index + _ABOVE)


class Ranker:
    """Sorts a gallery for blocks of queries. A code is twice the level of gain, plus 1 if relevant."""

    def __init__(self, gallery: Tensor | Codes, gallery_labels: Tensor, relevance: Relevance, levels: Levels) -> None:
        self.relevance, self.levels = relevance, levels
        self.keys = _Hamming(gallery) if isinstance(gallery, Codes) else _Euclidean(gallery)
        sets = distinct(gallery_labels)
        self.sets, self.set_of_image = sets.sets.to(gallery.device), sets.of_image.to(gallery.device)
        self.sizes = self.sets.sum(1)
        self.room = torch.empty(0, dtype=torch.float64, device=gallery.device)

    def ranked_codes(self, queries: Any, labels: Tensor, own: Tensor) -> Tensor:
        """Codes of the gallery by (distance, index), (b, N) int64; the query's own image comes last, as 0.

        queries: embeddings on the grid (b, D), or b Codes; labels (b, L), own (b,) int64 rows of the gallery or -1.
        The next call overwrites what this one returned.
        """
        of_sets = self._codes_of_sets(labels)
        ranked, tied = _sort(self._distances(queries).view(torch.int64), of_sets, self.set_of_image, own)
        ranked[own >= 0, -1] = 0
        if len(tied):
            ranked[tied] = self._sort_again(queries[tied], of_sets[tied], own[tied])
        return ranked

    def visit_rows(
        self, queries: Any, labels: Tensor, kind: Tensor, own: Tensor, visit: Callable[[int, np.ndarray], None]
    ) -> None:
        """Calls visit(row, codes) for every query, from several threads and in no order: `ranked_codes` on a CPU.

        labels (k, L) are the label sets that occur, kind (b,) int64 says which of them each query has; it is fastest
        where equal ones follow each other. codes (N,) int64 may be overwritten, and are by the next call.
        """
        of_sets = self._codes_of_sets(labels)
        marks_of, sets = of_sets.long().add_(_NORMAL).numpy(), self.set_of_image.numpy()
        keys, kinds, images = self._distances(queries).view(torch.int64).numpy(), kind.tolist(), own.tolist()
        tied: list[int] = []

        def work(rows: range) -> None:
            last = -1
            for row in rows:
                if kinds[row] != last:
                    last = kinds[row]
                    marks = marks_of[last].take(sets, mode="clip")
                if _sort_row(keys[row], marks, images[row]):
                    tied.append(row)
                else:
                    visit(row, keys[row])

        threads = torch.get_num_threads()
        step = -(-len(keys) // threads)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, (range(start, min(start + step, len(keys))) for start in range(0, len(keys), step))))
        for start in range(0, len(tied), _TIED_ROWS):
            few = torch.tensor(tied[start : start + _TIED_ROWS])
            again = self._sort_again(queries[few], of_sets[kind[few]], own[few])
            for row, codes in zip(few.tolist(), again.numpy(), strict=True):
                visit(row, codes)

    def _codes_of_sets(self, labels: Tensor) -> Tensor:
        """Labels (b, L) -> codes of the gallery's label sets (b, U) int16."""
        shared = overlap(labels, self.sets).long()
        of_query = labels.sum(1, keepdim=True)
        relevant = self.relevance(shared, of_query, self.sizes)
        return (2 * self.levels.of(shared, of_query, self.sizes) + relevant).short()

    def _distances(self, queries: Any) -> Tensor:
        """2**52 + squared distances of b queries, (b, N) float64, until the next call."""
        size = len(queries) * len(self.set_of_image)
        if len(self.room) < size:  # kept: the pages of a new array would cost as much as the product
            self.room = torch.empty(size, dtype=torch.float64, device=self.room.device)
        return self.keys.of(queries, self.room[:size].view(len(queries), -1))

    def _sort_again(self, queries: Any, of_sets: Tensor, own: Tensor) -> Tensor:
        """As `ranked_codes`, by a stable sort of the distances."""
        squared = self.keys.of(queries)
        codes = of_sets[:, self.set_of_image]
        inside = (own >= 0).nonzero().flatten()
        squared[inside, own[inside]] = torch.inf
        codes[inside, own[inside]] = 0
        return codes.gather(1, squared.sort(dim=1, stable=True).indices).long()


def _sort(keys: Tensor, of_sets: Tensor, set_of_image: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Sorts every row by (distance, code): ranked codes (b, N) int64, and the rows that may have ties (t,).

    keys (b, N) int64: float64 of 2**52 + squared distance; overwritten. of_sets (b, U) int16 codes of the label
    sets, set_of_image (N,), own (b,).
    """
    keys = keys.bitwise_left_shift_(_BITS).add_(of_sets[:, set_of_image])
    inside = (own >= 0).nonzero().flatten()
    keys[inside, own[inside]] = _SELF
    ranked = keys.sort(dim=1).values
    # Two such keys differ by 1 to 2**_BITS - 1; so do some at distances next to each other, where nothing changes.
    steps = (ranked[:, 1:] - ranked[:, :-1]).sub_(1)
    tied = (steps.bitwise_right_shift_(_BITS) == 0).any(1).nonzero().flatten()
    return ranked.bitwise_and_(2**_BITS - 1), tied


def _sort_row(keys: np.ndarray, marks: np.ndarray, own: int) -> bool:
    """Turns one row of keys (N,) int64, float64 of 2**52 + squared distance, into ranked codes; whether there are ties.

    marks (N,) int64 are codes plus _NORMAL; own is a row of the gallery, or -1. With ties, keys are of no use.
    """
    keys <<= _BITS
    keys += marks
    if own >= 0:
        keys[own] = _INFINITE
    keys.view(np.float64).sort()
    differing = keys[1:] ^ keys[:-1]  # below 2**_BITS at the same distance, 0 with the same code
    tied = differing.min(initial=_SELF) < 2**_BITS and bool(((differing > 0) & (differing < 2**_BITS)).any())
    keys &= 2**_BITS - 1
    return tied
