"""What every data set is: one split of an archive: a table of names and labels, and a way to read a row."""

from __future__ import annotations

import datetime
import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from utilities.batch import Batch
from utilities.errors import DatasetError, WrongFolderError
from utilities.files import fingerprint, sizes_and_times
from utilities.flags.registry import Registry
from utilities.geojson import Ring

SPLITS = ("train", "val", "test")
ALL = "all"  # the three as one


class Packed(NamedTuple):
    """A data set whose files lie in an archive: its pixels are read from the array prepared in one pass over it.

    archive  the archive, for messages
    folder   what the pass kept of its small files (labels)
    names    (N,) unicode: the images that it holds
    """

    archive: Path
    folder: Path
    names: np.ndarray


class DecodedPixels(Protocol):
    """Pixels of a split that were decoded beforehand (`datasets.prepared.array`)."""

    folder: Path  # that holds them
    array: Path  # the file in it that does
    broken: np.ndarray  # (N,) bool: could not be decoded
    facts: np.ndarray | None  # (N, 2) int64: `sizes_and_times` of the files decoded; None in arrays of before 2026-12

    def gather(self, rows: Sequence[int]) -> torch.Tensor:
        """Images of the rows, (B, *item_shape)."""


class Item(NamedTuple):
    """One image of a data set.

    pixels  (C, S, S) as stored: 0..255 or digital numbers; bands of lower resolution repeated to the largest side
    labels  (L,) bool
    name    as the archive spells it
    """

    pixels: np.ndarray
    labels: np.ndarray
    name: str


class PixelFormat:
    """What the pixels of a data set are, wherever they come from: its files or its archive."""

    bands: tuple[str, ...]
    band_sides: tuple[int, ...]
    dtype: np.dtype
    source_path: Path
    decoder: ClassVar[int] = 1  # to be raised when equal files give other pixels
    variant: str = ""  # what else pixels depend on: version, seed; images of one name and variant are equal

    @property
    def kind(self) -> str:
        """Name of the data set."""
        return type(self).__name__

    @property
    def item_shape(self) -> tuple[int, ...]:
        if len(set(self.band_sides)) == 1:
            return (len(self.bands), self.band_sides[0], self.band_sides[0])
        return (sum(side * side for side in self.band_sides),)

    @property
    def is_photograph(self) -> bool:
        """Whether pixels are 8-bit RGB, 0..255, and not digital numbers of a sensor."""
        return self.dtype == np.uint8 and tuple(self.bands) == ("R", "G", "B")


class RetrievalDataset(PixelFormat, Dataset[Item]):
    """One split. Subclasses fill the attributes, those of pixels in the class, and implement `read`.

    names        (N,) numpy unicode array: stable, unique name of each image, as the archive spells it
    labels       (N, L) numpy bool
    label_names  the L label names in column order
    bands        band names in channel order, e.g. ("R", "G", "B") or ("B01", ..., "B12")
    band_sides   side in pixels of each band as stored; equal for RGB, 20 / 60 / 120 for Sentinel-2
    mean, std    per band, in stored units (0..255 for uint8, digital numbers for uint16)
    dtype        numpy dtype of the pixels

    An item of equal band sides is (C, S, S); of unequal sides (P,), the bands flattened one behind the other
    (`datasets.batches.transforms` puts them together on the device). numpy arrays instead of lists of strings: forked
    workers share them without copying.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    label_names: tuple[str, ...]
    names: np.ndarray
    labels: np.ndarray

    title: ClassVar[str] = ""  # what to call it in a report
    # patterns of names in its folder, and of its archives, by which that folder is told from the one above
    marks: ClassVar[tuple[str, ...]] = ()
    archives: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, source_path: Path, split: str) -> None:
        if split not in (*SPLITS, ALL):
            raise DatasetError(f"unknown split {split!r}; choices: {', '.join(SPLITS)}")
        if not source_path.is_dir():
            raise WrongFolderError(f"--source_path {source_path} is not a folder; give that of {self.title}")
        self.source_path = source_path
        self.split = split
        self.skip_broken = False
        self.pixels: DecodedPixels | None = None

    @property
    def part_name(self) -> str:
        """ "the test split", or "the whole archive"."""
        return f"the {self.split} split" if self.split in SPLITS else "the whole archive"

    def read(self, row: int) -> np.ndarray:
        """Pixels of one image, `item_shape` and `dtype`. Raises `DatasetError` naming the file."""
        raise NotImplementedError

    def path(self, row: int) -> Path:
        """The file of an image, or the folder of its bands."""
        raise NotImplementedError

    def files(self, row: int) -> Sequence[str | Path]:
        """All files that hold pixels of an image."""
        return [self.path(row)]

    def readable(self, row: int) -> bool:
        """Whether the pixels of an image are at hand now."""
        if self.pixels is not None:
            return not self.pixels.broken[row]
        try:
            self.read(row)
        except DatasetError:
            return False
        return True

    def file_facts(self) -> np.ndarray:
        """(N, 2) int64: sizes and times of the images' files as they are now."""
        return sizes_and_times(self.files, len(self))

    def state(self, *, placed: bool = False) -> str:
        """sha256 of all that tells, without reading them, whether pixels are the same as before: names, sizes and times
        of the files.

        placed  also where they lie, and the prepared array that they are read from: another copy is another state
        """
        about: list[Any] = [self.kind, self.variant, self.decoder]
        if placed:
            about.append(str(self.source_path.resolve()))
        if placed and self.pixels is not None:
            array = self.pixels.array
            about += [str(array.resolve()), sizes_and_times(lambda _: [array], 1).tolist()]
        hashed = hashlib.sha256(json.dumps(about).encode())
        hashed.update("\n".join(self.names.tolist()).encode())
        decoded = None if self.pixels is None else self.pixels.facts
        hashed.update((self.file_facts() if decoded is None else decoded).astype("<i8").tobytes())
        return hashed.hexdigest()

    def notes(self, row: int) -> list[str]:
        """What there is to say about the pixels of an image that is searched for."""
        return []

    def note_prepared(self) -> None:
        """Warn of what the pixels of an archive look like, once they are at hand."""

    def no_data(self, pixels: np.ndarray) -> float:
        """Share of an image's values that say "nothing measured here"; photographs have no such value."""
        return 0.0

    def thumbnail(self, row: int, side: int = 128) -> np.ndarray:
        """(side, side, 3) uint8 for people's eyes."""
        raise NotImplementedError

    def size(self, row: int) -> tuple[int, int] | None:
        """Width and height of a photograph in its file, as people see it: reading makes a square of it.

        None where files hold nothing but squares.
        """
        return None

    def outlines(self, rows: Sequence[int]) -> tuple[list[Ring | None], list[str]]:
        """Outlines of images on the ground, None where a place is not known, and notes on why one is not.

        Photographs have no places, and nothing is said about it.
        """
        return [None for _ in rows], []

    def dates(self, rows: Sequence[int]) -> list[datetime.date | None]:
        """Days on which images were taken; None where it is not known, as of photographs."""
        return [None for _ in rows]

    def splits_of(self, rows: Sequence[int]) -> list[str]:
        """The split of each image, also where this is the whole archive; ALL where images are in none."""
        return [self.split for _ in rows]

    def prepared(self, row: int) -> np.ndarray:
        """Pixels of one image from the prepared array: the only place where an archive's images can be read."""
        if self.pixels is None:
            raise DatasetError(f"{self.names[row]} lies in an archive; give --use_npmem, or unpack the archive")
        if self.pixels.broken[row]:
            raise DatasetError(f"{self.names[row]} could not be decoded when the pixels were prepared")
        return self.pixels.gather([row])[0].numpy()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Item:
        """One image by its row, which may count from the end. Raises IndexError, or `DatasetError` naming a file."""
        number = range(len(self))[row]
        pixels = self.read(number) if self.pixels is None else self.prepared(number)
        return Item(stacked(pixels, self.band_sides), self.labels[number], str(self.names[number]))

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        """The rows as one batch; with `skip_broken`, unreadable images are warned about and left out."""
        images, kept = self._decode(rows) if self.pixels is None else self._fetch(rows, self.pixels)
        indices = np.asarray(kept, np.int64)
        return Batch(images, torch.from_numpy(self.labels[indices]), torch.from_numpy(indices))

    def _decode(self, rows: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        images = np.empty((len(rows), *self.item_shape), self.dtype)
        kept: list[int] = []
        for row in rows:
            try:
                images[len(kept)] = self.read(row)
            except DatasetError as error:
                self._skip(error)
                continue
            kept.append(row)
        return torch.from_numpy(images[: len(kept)]), kept

    def _fetch(self, rows: Sequence[int], pixels: DecodedPixels) -> tuple[torch.Tensor, list[int]]:
        broken = pixels.broken[np.asarray(rows, np.int64)]
        for row in np.asarray(rows, np.int64)[broken].tolist():
            self._skip(DatasetError(f"{self.names[row]} could not be decoded when the pixels were prepared"))
        kept = [row for row, left_out in zip(rows, broken.tolist(), strict=True) if not left_out]
        return pixels.gather(kept), kept

    def _skip(self, error: DatasetError) -> None:
        if not self.skip_broken:
            raise error
        warnings.warn(f"skipped: {error}", stacklevel=1)

    def fingerprint(self) -> str:
        """`label_fingerprint` of this split: equal data, equal fingerprint."""
        return label_fingerprint(self.names, self.labels, self.label_names)


def stacked(item: np.ndarray, band_sides: Sequence[int]) -> np.ndarray:
    """(C, S, S) as it is; (P,), bands of unequal sides one behind the other, as (C, S, S) of the largest side S."""
    if item.ndim > 1:
        return item
    ends = np.cumsum(np.square(band_sides))
    bands = zip(np.split(item, ends[:-1]), band_sides, strict=True)
    largest = max(band_sides)
    return np.stack([np.kron(b.reshape(s, s), np.ones((largest // s,) * 2, item.dtype)) for b, s in bands])


def label_fingerprint(names: np.ndarray, labels: np.ndarray, label_names: Sequence[str]) -> str:
    """sha256 over the sorted lines `name:label,label\n`, the labels of a line sorted.

    Independent of the order of rows and columns. names (N,) unicode, labels (N, L) bool.
    """
    order = np.argsort(np.asarray(label_names))
    spelled = [label_names[column] for column in order]
    packed = np.packbits(labels[:, order], axis=1)
    sets, set_of = np.unique(packed, axis=0, return_inverse=True)  # far fewer than images: spell each set once
    flags = np.unpackbits(sets, axis=1, count=len(spelled)).astype(bool)
    tails = [",".join(label for label, carried in zip(spelled, row, strict=True) if carried) for row in flags]
    lines = sorted(f"{name}:{tails[i]}\n" for name, i in zip(names.tolist(), set_of.ravel().tolist(), strict=True))
    return fingerprint("".join(lines))


DATASETS: Registry[RetrievalDataset] = Registry("data set")
