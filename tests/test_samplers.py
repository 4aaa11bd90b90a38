"""Samplers: what every batch holds, which images an epoch reaches, and the laws of the draws."""

from __future__ import annotations

import time

import numpy as np
import pytest

from datasets.batches import samplers
from datasets.batches.samplers import ClassBalancedBatches, ShuffledBatches, _Queue, _rounds
from utilities.errors import UserError


def multi_hot(images: int, classes: int, seed: int = 0, rarest: float = 0.01) -> np.ndarray:
    """Labels of very different frequency, some images without any."""
    rng = np.random.default_rng(seed)
    return rng.random((images, classes)) < np.geomspace(0.5, rarest, classes)


def balanced(
    labels: np.ndarray, batch_size: int = 24, samples_per_class: int = 3, seed: int = 0
) -> ClassBalancedBatches:
    return ClassBalancedBatches(labels, batch_size=batch_size, samples_per_class=samples_per_class, seed=seed)


CASES = [
    pytest.param(multi_hot(500, 12), 24, 3, id="many labels an image"),
    pytest.param(multi_hot(500, 12), 25, 3, id="a place left over"),
    pytest.param(multi_hot(500, 12), 60, 2, id="more classes wanted than there are"),
    pytest.param(multi_hot(500, 12), 12, 12, id="one class a batch"),
    pytest.param(multi_hot(500, 12), 20, 1, id="one image a class"),
    pytest.param(np.eye(5, dtype=bool)[np.arange(200) % 5], 20, 4, id="one label an image"),
    pytest.param(multi_hot(60, 12, rarest=0.03), 40, 4, id="hardly more images than the batch"),
    pytest.param(np.ones((50, 1), bool), 10, 2, id="one class"),
]


@pytest.mark.parametrize(("labels", "batch_size", "samples_per_class"), CASES)
def test_every_batch_is_whole_without_repetition_and_without_unlabelled_images(
    labels: np.ndarray, batch_size: int, samples_per_class: int
) -> None:
    labels = labels.copy()
    labels[::7] = False
    sampler = balanced(labels, batch_size, samples_per_class)
    for epoch in range(3):
        batches = sampler.epoch(epoch)
        assert batches.dtype == np.int64
        assert batches.shape == (labels.any(1).sum() // batch_size, batch_size)
        assert len(batches) == len(sampler)
        ordered = np.sort(batches, axis=1)
        assert (ordered[:, 1:] != ordered[:, :-1]).all()
        assert labels[batches].any(2).all()


@pytest.mark.parametrize(("batch_size", "samples_per_class"), [(24, 3), (25, 3), (60, 2), (12, 12)])
def test_rows_lie_in_blocks_of_images_that_share_a_class(batch_size: int, samples_per_class: int) -> None:
    labels = multi_hot(900, 12, rarest=0.1)
    classes = batch_size // samples_per_class
    for batch in balanced(labels, batch_size, samples_per_class).epoch(1):
        blocks = batch[: classes * samples_per_class].reshape(classes, samples_per_class)
        shared = labels[blocks].all(1)  # (classes, L): which labels a whole block carries
        assert shared.any(1).all()
        if classes <= 12:  # each block has a class of its own: a perfect matching exists
            assert perfect_matching(shared)


def perfect_matching(possible: np.ndarray) -> bool:
    """Whether every row can be given a column of its own."""
    owner: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column in np.flatnonzero(possible[row]).tolist():
            if column not in tried:
                tried.add(column)
                if column not in owner or place(owner[column], tried):
                    owner[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(possible)))


def test_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    labels = multi_hot(300, 8)
    sampler = balanced(labels)
    first, second = sampler.epoch(0), sampler.epoch(1)
    assert (sampler.epoch(0) == first).all()
    assert (balanced(labels).epoch(1) == second).all()
    assert (first != second).any()
    assert (balanced(labels, seed=1).epoch(0) != first).any()


@pytest.mark.parametrize(("classes", "per_batch"), [(12, 8), (12, 5), (12, 12), (3, 10), (1, 4), (7, 1)])
def test_classes_take_turns(classes: int, per_batch: int) -> None:
    chosen = _rounds(classes, 50, per_batch, np.random.default_rng(0))
    counts = np.bincount(chosen.ravel(), minlength=classes)
    assert counts.max() - counts.min() <= 1
    whole = chosen.ravel()[: len(chosen.ravel()) // classes * classes].reshape(-1, classes)
    assert (np.sort(whole, axis=1) == np.arange(classes)).all()
    for batch in chosen:
        assert len(set(batch.tolist())) == min(classes, per_batch)


def test_any_class_is_as_likely_in_any_place() -> None:
    """5,000 draws of 6 batches of 3 out of 7 classes: each place is uniform (chi-square, 6 degrees, p = 1e-6)."""
    generator = np.random.default_rng(0)
    draws = np.stack([_rounds(7, 6, 3, generator).ravel() for _ in range(5000)])
    for place in draws.T:
        counts = np.bincount(place, minlength=7)
        assert ((counts - 5000 / 7) ** 2 / (5000 / 7)).sum() < 37.3


def test_any_image_of_a_class_is_as_likely() -> None:
    """First batches over 2,000 seeds: the 12 images of each of 3 classes are equally frequent (11 degrees)."""
    labels = np.eye(3, dtype=bool)[np.arange(36) % 3]
    drawn = np.concatenate([balanced(labels, 6, 2, seed).epoch(4)[0] for seed in range(2000)])
    counts = np.bincount(drawn, minlength=36).reshape(12, 3)
    assert counts.sum(0).tolist() == [4000] * 3
    expected = 4000 / 12
    # two of twelve without replacement: the variance is smaller than that of independent draws
    assert (((counts - expected) ** 2 / expected).sum(0) < 44).all()


def test_images_of_a_class_are_drawn_without_replacement() -> None:
    """One label an image: after each full round no image of a class is ahead of another by more than one draw,
    or two where the start of a round was in the current batch."""
    labels = np.eye(5, dtype=bool)[np.concatenate([np.zeros(10, int), np.arange(4).repeat(50) + 1])]
    batches = balanced(labels, 20, 4).epoch(0)
    counts = np.bincount(batches.ravel(), minlength=210)
    assert counts[:10].min() >= 3  # the class of ten images repeats them
    for start, stop in ((0, 10), (10, 60), (60, 110), (110, 160), (160, 210)):
        assert counts[start:stop].max() - counts[start:stop].min() <= 2
    assert counts[10:].max() == 1


def literal_draw(
    circle: list[int], fresh: int, count: int, drawn: set[int], present: set[int]
) -> tuple[list[int], list[int], int]:
    """The rule of `_Queue` in lists and sets: (rows, circle as it stands afterwards, what is left of round one)."""
    rows: list[int] = []
    while fresh and len(rows) < count:
        image, circle, fresh = circle[0], circle[1:] + circle[:1], fresh - 1
        if image not in drawn:
            rows.append(image)
    free = [image for image in circle if image not in present and image not in rows][: count - len(rows)]
    if free and len(rows) + len(free) == count:
        after = circle.index(free[-1]) + 1
        circle = circle[after:] + circle[:after]
    return rows + free, circle, fresh


def test_a_queue_agrees_with_its_literal_twin() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        images = rng.permutation(12)[: rng.integers(1, 9)].astype(np.int32)
        last = rng.integers(-1, 1, 12).astype(np.int32)  # some drawn by batch 0
        queue, circle, fresh = _Queue(images), images.tolist(), len(images)
        drawn = set(np.flatnonzero(last >= 0).tolist())
        for batch in range(1, 6):
            present: set[int] = set()
            for count in (2, 1, 4):
                expected, circle, fresh = literal_draw(circle, fresh, count, drawn, present)
                drawn |= set(expected)
                present |= set(expected)
                rows: list[int] = []
                queue.draw(count, batch, last.data, rows)
                assert rows == expected


def test_images_not_drawn_yet_come_first() -> None:
    """Whenever a class is not all drawn, what is drawn through it is new: an epoch wastes draws only on classes
    that it has drawn completely."""
    labels = multi_hot(600, 10, rarest=0.02)
    batches = balanced(labels, 30, 3).epoch(0)
    seen = np.zeros(600, bool)
    for batch in batches:
        repeated = [row for row in batch.tolist() if seen[row]]
        seen[batch] = True
        exhausted = np.asarray([seen[labels[:, c]].all() for c in range(10)])
        assert (labels[repeated] & exhausted).any(1).all()
    whole = [c for c in range(10) if labels[:, c].sum() <= balanced(labels, 30, 3).advance]
    assert len(whole) >= 2
    assert all(seen[labels[:, c]].all() for c in whole)


def reached_within(sampler: ClassBalancedBatches, labels: np.ndarray) -> np.ndarray:
    """(N,) in any so many consecutive epochs an image is drawn at least once; 0 for one that is never drawn."""
    sizes = labels.sum(0)
    return np.asarray([-(-min(sizes[row]) // sampler.advance) if row.any() else 0 for row in labels])


@pytest.mark.parametrize(("labels", "batch_size", "samples_per_class"), CASES[:6])
def test_every_image_is_reached_within_the_stated_epochs(
    labels: np.ndarray, batch_size: int, samples_per_class: int
) -> None:
    sampler = balanced(labels, batch_size, samples_per_class)
    bound = reached_within(sampler, labels)
    epochs = int(2 * bound.max() + 3)
    drawn = np.zeros((epochs, len(labels)), bool)
    for epoch in range(epochs):
        drawn[epoch, sampler.epoch(epoch).ravel()] = True
    waited, longest = np.zeros(len(labels), np.int64), np.zeros(len(labels), np.int64)
    for row in drawn:
        waited = np.where(row, 0, waited + 1)
        longest = np.maximum(longest, waited)
    labelled = bound > 0
    assert (longest[labelled] < bound[labelled]).all()
    assert not drawn[:, ~labelled].any()


def test_classes_advance_by_the_times_that_they_are_chosen() -> None:
    sampler = balanced(multi_hot(500, 12))
    assert sampler.advance == 3 * (len(sampler) * 8 // 12)
    short = balanced(np.eye(40, dtype=bool), 20, 5)
    assert (len(short), short.advance) == (2, 0), "an epoch too short for all classes promises nothing"


def test_a_class_with_one_image_gives_it_and_others_fill_its_places() -> None:
    labels = np.zeros((41, 2), bool)
    labels[:40, 0] = True
    labels[40, 1] = True
    batches = balanced(labels, 8, 4).epoch(0)
    assert batches.shape == (5, 8)
    assert (batches == 40).sum(1).tolist() == [1] * 5
    assert set(batches.ravel().tolist()) >= {40}


def test_classes_without_images_are_never_chosen() -> None:
    labels = np.zeros((40, 6), bool)
    labels[:20, 1] = labels[20:, 4] = True
    sampler = balanced(labels, 8, 4)
    assert sampler.classes.tolist() == [1, 4]
    for batch in sampler.epoch(0):
        assert labels[batch].sum(0).tolist() == [0, 4, 0, 0, 4, 0]


@pytest.mark.parametrize(
    ("batch_size", "samples_per_class", "words"),
    [
        (24, 0, "--num_samples_per_class 0 is outside 1 ... batch size"),
        (24, 25, "--num_samples_per_class 25"),
        (101, 2, "--batch_size 101 is more than the 100 images with a label"),
        (0, 0, "--num_samples_per_class"),
    ],
)
def test_impossible_batches_are_refused(batch_size: int, samples_per_class: int, words: str) -> None:
    labels = np.ones((120, 3), bool)
    labels[100:] = False
    with pytest.raises(UserError, match=words):
        balanced(labels, batch_size, samples_per_class)


def test_an_epoch_of_bigearthnet_is_drawn_in_seconds() -> None:
    labels = multi_hot(590_326, 19)
    sampler = balanced(labels, 120, 3)
    start = time.process_time()
    batches = sampler.epoch(0)
    assert time.process_time() - start < 5
    assert len(batches) > 4000


def test_shuffled_batches_hold_every_row_once() -> None:
    for drop_last, sizes in ((False, [8, 8, 4]), (True, [8, 8])):
        sampler = ShuffledBatches(20, batch_size=8, seed=0, drop_last=drop_last)
        batches = sampler.epoch(0)
        assert [len(batch) for batch in batches] == sizes
        rows = np.concatenate(batches)
        assert len(set(rows.tolist())) == len(rows)
        assert set(rows.tolist()) <= set(range(20))
        assert (np.concatenate(sampler.epoch(0)) == rows).all()
        assert (np.concatenate(sampler.epoch(1)) != rows).any()
    whole = ShuffledBatches(16, batch_size=8, seed=0, drop_last=False).epoch(3)
    assert [len(batch) for batch in whole] == [8, 8]


def test_plain_batches_larger_than_the_split_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--batch_size 11 is more than the 10 images to draw from"):
        ShuffledBatches(10, batch_size=11, seed=0, drop_last=True)
    monkeypatch.setattr(samplers, "world_size", lambda: 4)
    with pytest.raises(UserError, match="--batch_size 3 on 4 processes makes 12 images, more than the 10 images"):
        ShuffledBatches(10, batch_size=12, seed=0, drop_last=True)
    with pytest.raises(UserError, match="--batch_size 0 must be at least 1"):
        ShuffledBatches(10, batch_size=0, seed=0, drop_last=True)
