"""Which images can be among the k nearest, from blocks of approximate scores that come one after the other.

The k-th best score seen of a row, less twice the bound on how far scores are off, is what an image must reach to be
among the k nearest (`floors`): it only rises, and all images that reach the last one are kept. A block is
looked through by maxima of groups of columns; only in groups whose maximum reaches the floor are single scores read.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from utilities.neighbours.exact import Job, Neighbours, measure, measured_together
from utilities.neighbours.products import PAD, RoundedRows, centre_of, score_error

Progress = Callable[[int], object] | None
_TILE, _TILE_GPU = 2048, 16384  # rows and columns of a block of scores
_MOST_COLUMNS = 64  # in a group


class Candidates:
    """Collects for `count` rows of scores, which are kept together in strips of `height` rows.

    k, error   the number of nearest ones, and how far each row's scores may be off, (count,)
    most       a row with more candidates is given up: it has none in the end
    """

    def __init__(self, count: int, k: int, error: Tensor, *, height: int, most: int) -> None:
        self.count, self.k, self.height, self.most = count, k, height, most
        device, full = error.device, -(-count // height) * height
        self.best = torch.full((full, k), -torch.inf, device=device)  # maxima of different groups
        self.margin = torch.zeros(full, device=device)
        self.margin[:count] = 2 * error * (1 + 1e-6)
        self.floors = torch.full((full,), torch.inf, device=device)  # infinite: not looked for
        self.floors[:count] = torch.finfo(torch.float32).min
        # rows, columns, scores of each strip, and how many there were after it was last sifted
        self.kept: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in range(0, count, height)]
        self.sifted = [0] * len(self.kept)

    def take(self, scores: Tensor, row: int, column: int) -> None:
        """Scores (b, w) of one strip from `row` on, for images from `column` on; both are multiples of 64 or all."""
        b, w = scores.shape
        of_group = _MOST_COLUMNS
        while of_group > 1 and (w % of_group or w // of_group < 2 * self.k):
            of_group //= 2
        grouped = scores.unflatten(1, (of_group, w // of_group))  # a group's columns lie far apart
        # laid out as the scores are: torch takes 40 times as long for the maxima of a transposed block otherwise
        flat = scores.new_empty(b * grouped.shape[2])
        maxima = flat.view(-1, b).T if scores.stride(0) == 1 else flat.view(b, -1)
        torch.amax(grouped, 1, out=maxima)
        here = slice(row, row + b)
        reach = (maxima >= self.floors[here, None]).any(1).nonzero().flatten()
        if not len(reach):
            return
        maxima = maxima[reach]
        best = torch.cat([self.best[here][reach], maxima], 1).topk(self.k, dim=1).values
        self.best[here][reach] = best
        floors = torch.maximum(best[:, -1] - self.margin[here][reach], self.floors[here][reach])
        self.floors[here][reach] = floors
        of_reach, group = (maxima >= floors[:, None]).nonzero(as_tuple=True)
        values = grouped[reach[of_reach], :, group]
        pair, place = (values >= floors[of_reach, None]).nonzero(as_tuple=True)
        columns = column + place * (w // of_group) + group[pair]
        strip = row // self.height
        self.kept[strip].append((reach[of_reach[pair]] + row, columns, values[pair, place]))
        if sum(len(rows) for rows, *_ in self.kept[strip]) > 2 * max(self.sifted[strip], 8 * self.k * self.height):
            self.sift(strip)

    def sift(self, strip: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, columns and scores (m,) of those that still reach the floor."""
        rows, columns, scores = (torch.cat(parts) for parts in zip(*self.kept[strip], strict=True))
        start = strip * self.height
        good = scores >= self.floors[rows]
        counts = torch.bincount(rows[good] - start, minlength=self.height)
        self.floors[start : start + self.height][counts > self.most] = torch.inf
        good &= counts[rows - start] <= self.most
        found = rows[good], columns[good], scores[good]
        self.kept[strip], self.sifted[strip] = [found], int(good.sum())
        return found

    def finish(self, strip: int) -> tuple[Tensor, Tensor, Tensor]:
        """The candidates of a strip for which every image has been taken; they are not kept any longer."""
        found = self.sift(strip)
        self.kept[strip] = []
        return found


def search_by_products(
    job: Job, asked: Tensor, kind: torch.dtype, result: Neighbours, block_bytes: int, progress: Progress
) -> Tensor:
    """Nearest of the queries `asked` (m,) int64 among all images, by products in `kind`; returns those left open.

    Where the queries are the gallery, a block of scores serves its rows and its columns: half the products.
    """
    if not len(asked):
        return asked
    device, count = job.gallery.device, len(job.gallery)
    centre = centre_of(job.gallery)
    images = RoundedRows(job.gallery, centre, kind)
    mirrored = job.mirrored and len(asked) == count
    queries = images if mirrored else RoundedRows(job.queries[asked], centre, kind)
    error = score_error(queries, images, kind)
    tile = _TILE if device.type == "cpu" else _TILE_GPU
    while tile > PAD and tile * tile * 16 > block_bytes:
        tile //= 2
    room = torch.empty(tile * tile, device=device)
    most = max(4 * job.k + 64, min(count // 128, 2**25 // count))
    found = Candidates(len(asked), job.k, error, height=tile, most=most)
    own = job.rows[asked]
    left_open = []
    for strip, start in enumerate(range(0, len(asked), tile)):
        part = slice(start, min(start + tile, len(queries.rows)))
        for column in range(start if mirrored else 0, count, tile):
            of_images = slice(column, min(column + tile, len(images.rows)))
            scores = queries.scores(images, part, of_images, room)
            inside = ((own[part] >= of_images.start) & (own[part] < of_images.stop)).nonzero().flatten()
            scores[inside, own[part][inside] - column] = -torch.inf
            found.take(scores, start, column)
            if mirrored and column > start:
                found.take(scores.T, column, start)
        rows = asked[part]
        proven = _accept_all(job, rows, start, found.finish(strip), error[part], result)
        left_open.append(rows[~proven])
        if progress is not None:
            progress(len(rows))
    return torch.cat(left_open)


def _accept_all(
    job: Job, rows: Tensor, start: int, found: tuple[Tensor, Tensor, Tensor], error: Tensor, result: Neighbours
) -> Tensor:
    """Exact k nearest of the queries `rows` (b,) among all that can be, into `result`; proven (b,) bool.

    found: places (m,) in what was searched, of which `rows` begin at `start`, columns and scores. A row is not proven
    if it was given up, or if a score is off by more than its bound `error` (b,).
    """
    of_row, columns, scores = found[0] - start, found[1], found[2]
    counts = torch.bincount(of_row, minlength=len(rows))
    order = (of_row * len(job.gallery) + columns).argsort()
    place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[of_row[order]]
    shape = (len(rows), int(counts.max()))
    table = torch.full(shape, -1, device=order.device).index_put_((of_row[order], place), columns[order])
    given = torch.zeros(shape, device=order.device).index_put_((of_row[order], place), scores[order])
    proven = counts >= job.k
    together = measured_together(order.device)
    by_count = counts.argsort(descending=True)
    sizes, done = counts[by_count].tolist(), 0
    while done < len(sizes) and sizes[done] >= job.k:
        most = sizes[done]
        few = by_count[done : done + max(1, together // most)]
        done += len(few)
        few = few[proven[few]]
        proposed, approximate = table[few, :most], given[few, :most]
        exact = measure(job, rows[few], proposed.clamp(min=0))
        off = (exact / 2 + approximate).abs().masked_fill(proposed < 0, 0)
        proven[few] = (off <= error[few, None]).all(1)
        nearest = exact.masked_fill(proposed < 0, torch.inf).sort(dim=1, stable=True)  # ties by (distance, index)
        result.indices[rows[few]] = proposed.gather(1, nearest.indices[:, : job.k])
        result.distances[rows[few]] = nearest.values[:, : job.k]
    return proven
