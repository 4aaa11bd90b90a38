"""Which images form the batches of an epoch: index arrays, a pure function of (seed, epoch).

A batch here is the global one, over all processes: rank r of W works on its r-th part of B / W rows
(`Loader.training` cuts it). Epochs do not depend on earlier ones, so a resumed run draws what an uninterrupted
one would have drawn.
"""

from __future__ import annotations

import numpy as np

from utilities import seeding
from utilities.errors import UserError
from utilities.flags.settings import Settings
from utilities.parallel.distributed import world_size


class ShuffledBatches:
    """Every row once an epoch, in an order that is new in every epoch.

    drop_last  leave out the rows beyond the last whole batch (others in every epoch) instead of ending with a
               smaller one
    """

    def __init__(self, size: int, *, batch_size: int, seed: int, drop_last: bool) -> None:
        _check(size, batch_size, "images")
        self.size, self.batch_size, self.seed, self.drop_last = size, batch_size, seed, drop_last

    @classmethod
    def from_settings(cls, args: Settings, size: int) -> ShuffledBatches:
        """As the flags say: --batch_size on each process, --random_seed; whole batches only."""
        return cls(size, batch_size=_global_batch(args, size), seed=args.random_seed, drop_last=True)

    def epoch(self, epoch: int) -> list[np.ndarray]:
        order = _generator(self.seed, "shuffled batches", epoch).permutation(self.size)
        batches = np.split(order, range(self.batch_size, self.size, self.batch_size))
        return batches[: self.size // self.batch_size] if self.drop_last else batches


class ClassBalancedBatches:
    """Batches of `batch_size // samples_per_class` classes with m = `samples_per_class` images of each.

    labels  (N, L) bool. Images without labels and classes without images are never drawn.

    Classes take turns: each is chosen once, in random order, before any is chosen again, and a batch holds no
    class twice unless it needs more classes than there are. An epoch has N' // batch_size batches, with N' the
    number of images that carry a label. No image is twice in a batch. Rows of one class lie next to each other.

    Within a class, images that the epoch has not drawn yet, through whichever class, come first. A class that
    is all drawn starts over, so rare classes repeat their images. A class with fewer than m images outside the
    batch (a class with one image is the extreme) gives what it has; these places, and those left where m does
    not divide the batch, go to images of any class, again those not drawn yet first.

    No epoch of N' draws reaches every image if rare classes repeat, but no image waits for ever. The images of
    a class stand in a circle, and epoch e begins the class at place e q, where q = m * floor(classes chosen in
    an epoch / classes there are) is how far it advances at least. So, where q > 0, an image is drawn at least once
    in any `ceil(n_c / q)` consecutive epochs, with n_c the size of the smallest class it carries; where an epoch
    cannot come to every class (q = 0), chance brings it.
    """

    def __init__(self, labels: np.ndarray, *, batch_size: int, samples_per_class: int, seed: int) -> None:
        if not 1 <= samples_per_class <= batch_size:
            raise UserError(f"--num_samples_per_class {samples_per_class} is outside 1 ... batch size ({batch_size})")
        self.images = np.flatnonzero(labels.any(1))
        _check(len(self.images), batch_size, "images with a label")
        self.batch_size, self.samples_per_class, self.seed = batch_size, samples_per_class, seed
        self.classes = np.flatnonzero(labels.any(0))
        generator = _generator(seed, "circles of the classes")
        members = [np.flatnonzero(labels[:, c]).astype(np.int32) for c in self.classes]
        self._circles = [generator.permutation(rows) for rows in members]
        self._size = len(labels)

    @classmethod
    def from_settings(cls, args: Settings, labels: np.ndarray) -> ClassBalancedBatches:
        """As the flags say: --batch_size on each process, --num_samples_per_class, --random_seed."""
        return cls(
            labels,
            batch_size=_global_batch(args, int(labels.any(1).sum())),
            samples_per_class=args.num_samples_per_class,
            seed=args.random_seed,
        )

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    @property
    def advance(self) -> int:
        """q: places by which every class advances in an epoch, at least."""
        chosen = len(self) * (self.batch_size // self.samples_per_class)
        return self.samples_per_class * (chosen // len(self.classes))

    def epoch(self, epoch: int) -> np.ndarray:
        """(len(self), batch_size) int64 rows of the data set."""
        generator = _generator(self.seed, "class-balanced batches", epoch)
        per_batch = self.batch_size // self.samples_per_class
        chosen = _rounds(len(self.classes), len(self), per_batch, generator)
        queues = [_Queue(self._order(circle, epoch, generator)) for circle in self._circles]
        any_class = _Queue(generator.permutation(self.images).astype(np.int32))
        last = np.full(self._size, -1, np.int32).data
        batches = np.empty((len(self), self.batch_size), np.int64)
        for number, classes in enumerate(chosen.tolist()):
            rows: list[int] = []
            for c in classes:
                queues[c].draw(self.samples_per_class, number, last, rows)
            any_class.draw(self.batch_size - len(rows), number, last, rows)
            batches[number] = rows
        return batches

    def _order(self, circle: np.ndarray, epoch: int, generator: np.random.Generator) -> np.ndarray:
        """The epoch's window of the circle first, then the others; both in random order."""
        turned = np.roll(circle, -(epoch * self.advance) % len(circle))
        window = min(self.advance, len(circle))
        return np.concatenate([generator.permutation(turned[:window]), generator.permutation(turned[window:])])


class _Queue:
    """The images of a class in the order in which an epoch draws them; a loop in plain Python, O(1) a draw.

    On the first way round, images that the epoch has drawn are passed over, each once. Later ways round pass
    over what is in the current batch alone.
    """

    __slots__ = ("images", "left", "place")

    def __init__(self, images: np.ndarray) -> None:
        self.images = images.data  # a memoryview: indexing gives Python integers, ten times faster than numpy
        self.place = 0
        self.left = len(images)  # of the first way round

    def draw(self, count: int, batch: int, last: memoryview, rows: list[int]) -> None:
        """Append up to `count` images to `rows`; fewer only when all that are left lie in the batch already.

        last  (N,) int32, the number of the batch that drew an image last, -1 for none; updated.
        """
        images, size, place = self.images, len(self.images), self.place
        while count and self.left:
            image = images[place]
            place = (place + 1) % size
            self.left -= 1
            if last[image] < 0:
                last[image] = batch
                rows.append(image)
                count -= 1
        for _ in range(size if count else 0):
            image = images[place]
            place = (place + 1) % size
            if last[image] != batch:
                last[image] = batch
                rows.append(image)
                count -= 1
                if not count:
                    break
        self.place = place


def _rounds(classes: int, batches: int, per_batch: int, generator: np.random.Generator) -> np.ndarray:
    """(batches, per_batch) int64 class numbers: permutations of all classes, one behind the other, in batches.

    Where a permutation begins within a batch, classes that the batch has already are moved behind those that
    complete it, so that no class is twice in a batch of at most `classes`.
    """
    chosen = np.empty(batches * per_batch, np.int64)
    for start in range(0, len(chosen), classes):
        order = generator.permutation(classes)
        taken = start % per_batch
        if taken and per_batch <= classes:
            present = np.isin(order, chosen[start - taken : start])
            fitting = np.flatnonzero(~present)[: per_batch - taken]
            order = np.concatenate([order[fitting], np.delete(order, fitting)])
        chosen[start : start + classes] = order[: len(chosen) - start]
    return chosen.reshape(batches, per_batch)


def _generator(*parts: object) -> np.random.Generator:
    return np.random.default_rng(seeding.derive(*parts))


def _global_batch(args: Settings, images: int) -> int:
    """--batch_size on all processes; in a run without training, which draws none, no more than there are images."""
    whole = args.batch_size * world_size()
    return whole if args.nb_epochs else min(whole, images)


def _check(size: int, batch_size: int, what: str) -> None:
    if batch_size < 1:
        raise UserError(f"--batch_size {batch_size} must be at least 1")
    if batch_size > size:
        ranks = world_size()
        on_all = "is" if ranks == 1 else f"on {ranks} processes makes {batch_size} images,"
        raise UserError(
            f"--batch_size {batch_size // ranks} {on_all} more than the {size} {what} to draw from; lower it"
        )
