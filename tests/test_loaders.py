"""The loader: every row once, augmentation that depends on seed, epoch and place alone, ranks that share a batch."""

import builtins
import contextlib
import errno
import os

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.base import RetrievalDataset
from datasets.batches.loaders import Loader
from datasets.batches.scaling import Scaling
from datasets.batches.transforms import Augmentation, DeviceTransform
from datasets.files.geotiff import read_band
from datasets.files.images import read_rgb
from utilities.errors import DatasetError, RunFailure
from utilities.parallel import distributed


class Numbers(RetrievalDataset):
    """Image i is filled with noise that belongs to i; some rows can be made unreadable."""

    title = "numbers"

    def __init__(self, tmp_path, size=40, broken=()):
        super().__init__(source_path=tmp_path, split="train")
        self.bands, self.band_sides = ("R", "G", "B"), (12, 12, 12)
        self.mean = self.std = (1.0, 1.0, 1.0)
        self.dtype = np.dtype("uint8")
        self.names = np.array([f"image{i}" for i in range(size)])
        self.labels = np.random.default_rng(0).random((size, 4)) < 0.5
        self.label_names = ("a", "b", "c", "d")
        self.broken = broken

    def read(self, row):
        if row in self.broken:
            raise DatasetError(f"{self.names[row]}.jpg cannot be decoded")
        return np.random.default_rng(row).integers(0, 255, (3, 12, 12), dtype=np.uint8)


def loader(dataset, num_workers=0):
    transform = DeviceTransform(
        band_sides=(12,) * 3, image_size=8, resize_to=12, scaling=Scaling((0.0,) * 3, (1.0,) * 3)
    )
    device = torch.device("cpu")
    return Loader(dataset, transform, augmentation=Augmentation(), device=device, num_workers=num_workers)


def batches(size=40, batch=8):
    return list(np.arange(size).reshape(-1, batch))


def run(feed, start=0, epoch=0, **options):
    options = {"seed": 1, "second_view": False} | options
    try:
        return [batch for _, batch in feed.training(batches(), epoch=epoch, start=start, **options)]
    finally:
        feed.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_carry_rows_labels_and_the_same_pixels_for_any_number_of_workers(tmp_path, workers):
    dataset = Numbers(tmp_path)
    got = run(loader(dataset, workers))
    assert torch.equal(torch.cat([b.indices for b in got]), torch.arange(40))
    assert torch.equal(torch.cat([b.labels for b in got]), torch.from_numpy(dataset.labels))
    assert got[0].second_view is None
    assert got[0].images.shape == (8, 3, 8, 8)
    reference = run(loader(dataset))
    assert all(torch.equal(a.images, b.images) for a, b in zip(got, reference, strict=True))


def test_starting_in_the_middle_gives_the_rest_of_the_epoch(tmp_path):
    feed = loader(Numbers(tmp_path))
    whole, rest = run(feed), run(feed, start=3)
    assert len(rest) == 2
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole[3:], rest, strict=True))


def test_epochs_seeds_and_views_differ(tmp_path):
    feed = loader(Numbers(tmp_path))
    first = run(feed, second_view=True)[0]
    assert not torch.equal(first.images, first.second_view)
    assert torch.equal(first.images, run(feed)[0].images), "a second view does not change the first"
    assert not torch.equal(first.images, run(feed, epoch=1)[0].images)
    assert not torch.equal(first.images, run(feed, seed=2)[0].images)


def test_progressive_resizing_makes_the_first_epochs_small_and_nothing_else(tmp_path):
    feed, plain = loader(Numbers(tmp_path)), loader(Numbers(tmp_path))
    feed.small = (
        2,
        DeviceTransform(band_sides=(12,) * 3, image_size=4, resize_to=6, scaling=Scaling((0.0,) * 3, (1.0,) * 3)),
    )
    assert [run(feed, epoch=epoch)[0].images.shape[-1] for epoch in range(4)] == [4, 4, 8, 8]
    assert torch.equal(run(feed, epoch=2)[0].images, run(plain, epoch=2)[0].images)
    assert next(feed.evaluation(np.arange(8), 8)).images.shape[-1] == 8


def test_ranks_share_a_global_batch(tmp_path, monkeypatch):
    feed = loader(Numbers(tmp_path))
    whole = run(feed)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(run(feed))
    for one, left, right in zip(whole, *parts, strict=True):
        assert torch.equal(one.images, torch.cat([left.images, right.images]))
        assert torch.equal(one.indices, torch.cat([left.indices, right.indices]))


def test_evaluation_visits_every_row_once_on_any_number_of_ranks(tmp_path, monkeypatch):
    feed = loader(Numbers(tmp_path))
    seen = torch.cat([b.indices for b in feed.evaluation(np.arange(40), 7)])
    assert torch.equal(seen, torch.arange(40))
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    rows = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        rows += torch.cat([b.indices for b in feed.evaluation(np.arange(40), 7)]).tolist()
    assert sorted(rows) == list(range(40)), "no row twice, none missing"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_stops_with_its_name_and_nothing_else(tmp_path, workers):
    with pytest.raises(DatasetError) as error:
        run(loader(Numbers(tmp_path, broken=(3,)), workers))
    assert str(error.value) == "image3.jpg cannot be decoded"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:skipped")
def test_skipped_images_are_left_out_and_counted(tmp_path, workers):
    dataset = Numbers(tmp_path, broken=(3, 8, 9, 10, 11, 12, 13, 14, 15))
    dataset.skip_broken = True
    feed = loader(dataset, workers)
    got = run(feed)
    assert [number for number, _ in feed.training(batches(), epoch=0, seed=1)] == [0, 2, 3, 4]
    assert [len(b.indices) for b in got] == [7, 8, 8, 8], "the batch without any readable image is left out"
    assert feed.skipped == {3, *range(8, 16)}
    reference = run(loader(Numbers(tmp_path)))[0]
    kept = [i for i in range(8) if i != 3]
    assert torch.equal(got[0].images, reference.images[kept]), "the others keep their augmentation"


class Photographs(Numbers):
    def read(self, row):
        return read_rgb(self.source_path / f"{row}.png", 12).transpose(2, 0, 1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("number", "left_out"), [(errno.ENOENT, True), (errno.EMFILE, False), (errno.EIO, False)])
def test_a_disk_or_a_machine_that_fails_breaks_no_image(tmp_path, monkeypatch, workers, number, left_out):
    """Too many open files, or a network disk that is away: the file is what it was, and is not left out."""
    for row in range(40):
        Image.new("RGB", (12, 12)).save(tmp_path / f"{row}.png")
    dataset = Photographs(tmp_path)
    dataset.skip_broken = True
    feed, ours = loader(dataset, workers), builtins.open

    def fails(file, *given, **options):
        if str(file) == str(tmp_path / "9.png"):
            raise OSError(number, os.strerror(number), str(file))
        return ours(file, *given, **options)

    monkeypatch.setattr(builtins, "open", fails)
    if left_out:
        with pytest.warns(UserWarning, match="skipped") if not workers else contextlib.nullcontext():
            run(feed)
        assert feed.skipped == {9}
        with pytest.raises(DatasetError, match="cannot read the band"):
            read_band(str(tmp_path / "9.png"), 12)
        return
    with pytest.raises(RunFailure) as error:
        run(feed)
    assert str(error.value).startswith(f"cannot read the image {tmp_path / '9.png'}: {os.strerror(number)}; the disk")
    with pytest.raises(RunFailure, match="cannot read the band"):
        read_band(str(tmp_path / "9.png"), 12)


def test_the_fingerprint_follows_names_and_labels_not_their_order(tmp_path):
    one, other = Numbers(tmp_path), Numbers(tmp_path)
    other.names, other.labels = other.names[::-1], other.labels[::-1]
    assert one.fingerprint() == other.fingerprint()
    other.labels = other.labels.copy()
    other.labels[0, 0] ^= True
    assert one.fingerprint() != other.fingerprint()
