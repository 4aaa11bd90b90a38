"""Images from anywhere that are searched for like images of a data set.

An example is a file (photographs), the folder of a Sentinel-2 patch, or the name of an image of the data set. It is
read as the data set reads its own images, so that it passes through the same network in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.base import RetrievalDataset
from datasets.bigearthnet.dataset import BigEarthNet
from datasets.files.images import SUFFIXES
from datasets.folder.dataset import Folder
from datasets.patches import PatchArchive
from datasets.query_files import (
    AS_STORED,
    FolderFile,
    PatchFile,
    PatchFolder,
    PhotographFile,
    QueryFile,
    Reading,
    take_over,
)
from datasets.query_files import SUFFIXES as PATCH_SUFFIXES
from datasets.whole import Whole
from utilities.errors import UserError
from utilities.geojson import Ring

NEARLY_SQUARE, STRIP = 1.1, 2.0  # longer side over the shorter one: from here on it is said, from here on warned of


class Example(NamedTuple):
    """What is searched for: an image of the data set, or one from elsewhere.

    name     as the data set spells it, else of the file or folder
    path     the file or the folder of a patch from elsewhere; None for an image of the data set
    dataset  the split that holds it, in `row`; None for an image from elsewhere
    """

    name: str
    path: Path | None
    dataset: RetrievalDataset | None
    row: int

    @property
    def stem(self) -> str:
        """The name without a photograph's suffix, in one word where it is a path."""
        return _stem(self.name).replace("/", "_")

    @property
    def labels(self) -> np.ndarray | None:
        """(L,) bool, None where they are not known."""
        return self.dataset.labels[self.row] if self.dataset is not None and self.dataset.label_names else None


def find_example(given: str, searched: RetrievalDataset, others: Callable[[], Iterable[RetrievalDataset]]) -> Example:
    """The example that `given`, a path or a name, stands for.

    searched is the split in which to search; others opens the further splits, which are asked only where an image
    of the data set is not in it. Raises UserError for what is not there and for images of the wrong kind.
    """
    path = Path(given)
    _check_name(path)
    if os.path.exists(given):  # unlike Path.exists, False also for what can be no path
        _check_kind(path, searched)
        inside = _below(path, searched.source_path)
        for split in (searched, *(others() if inside and _row_of_path(path, searched) is None else ())):
            if (row := _row_of_path(path, split)) is not None:
                return Example(str(split.names[row]), None, split, row)
        return Example(path.resolve().name if path.is_dir() else path.stem, path, None, 0)
    for open_splits in (lambda: [searched], others):
        for split in open_splits():
            if (row := _row_of_name(given, split)) is not None:
                return Example(str(split.names[row]), None, split, row)
    raise UserError(
        f"--query {given}: there is no such file or folder, and no image of this name in {searched.source_path}; "
        f"give {_wanted(searched)}, or a name such as {searched.names[0]}"
    )


class Examples(RetrievalDataset):
    """The examples as rows of a data set whose images are those of `like`.

    sources   where each is read from: a data set, and the row there
    """

    def __init__(self, examples: Sequence[Example], like: RetrievalDataset, reading: Reading = AS_STORED) -> None:
        RetrievalDataset.__init__(self, source_path=like.source_path, split=like.split)
        take_over(self, like, [example.name for example in examples])
        self.sources: list[tuple[RetrievalDataset, int]] = []
        for example in examples:
            if example.dataset is not None:
                self.sources.append((example.dataset, example.row))
            elif example.path is not None:
                self.sources.append((open_file(example.path, like, reading), 0))

    def notes(self, row: int) -> list[str]:
        dataset, own = self.sources[row]
        return [*dataset.notes(own), *about_shape(self.size(row)), *about_values(self[row].pixels)]

    def size(self, row: int) -> tuple[int, int] | None:
        dataset, own = self.sources[row]
        return dataset.size(own)

    def path(self, row: int) -> Path:
        dataset, own = self.sources[row]
        return dataset.path(own)

    def read(self, row: int) -> np.ndarray:
        dataset, own = self.sources[row]
        return dataset.read(own)

    def thumbnail(self, row: int, side: int = 128) -> np.ndarray:
        dataset, own = self.sources[row]
        return dataset.thumbnail(own, side)

    def outlines(self, rows: Sequence[int]) -> tuple[list[Ring | None], list[str]]:
        found = [dataset.outlines([own]) for dataset, own in (self.sources[row] for row in rows)]
        return [outline for (outline,), _ in found], [note for _, notes in found for note in notes]


def about_shape(size: tuple[int, int] | None) -> list[str]:
    """What there is to say of a photograph that is no square: (width, height), None where it is not known."""
    longer, shorter = (max(size), min(size)) if size else (1, 1)
    if longer < NEARLY_SQUARE * shorter:
        return []
    width, height = size or (1, 1)
    if longer < STRIP * shorter:
        return [f"the query has {width:,} × {height:,} pixels: it was squeezed to a square, as every image here"]
    return [
        f"the query is a strip of {width:,} × {height:,} pixels: it was squeezed to a square, {longer / shorter:.1f} "
        "times as much one way as the other; search with a square that is cut out of it"
    ]


def about_values(pixels: np.ndarray) -> list[str]:
    """A note on an image (C, S, S) each of whose bands has one value in all pixels."""
    values = pixels.reshape(len(pixels), -1)
    if (values != values[:, :1]).any():
        return []
    return ["all pixels of the query have one value: there is nothing in it to compare, and what is found is chance"]


def open_file(path: Path, like: RetrievalDataset, reading: Reading) -> QueryFile:
    """A file or folder from elsewhere, read as `like` reads its images."""
    like = _first(like)
    reader = getattr(like, "reader", None)  # of a `Folder`
    if reader is not None:
        offset = reader.boa_offset if reading.boa_offset is None else reading.boa_offset
        return FolderFile(path, like, reader._replace(boa_offset=offset))
    if like.is_photograph:
        return PhotographFile(path, like)
    return PatchFolder(path, like, reading) if path.is_dir() else PatchFile(path, like, reading)


def _first(dataset: RetrievalDataset) -> RetrievalDataset:
    """A split of what may be all of them."""
    return dataset.parts[0] if isinstance(dataset, Whole) else dataset


def _check_name(path: Path) -> None:
    """Results are named after the query, and pages and pictures hold text only."""
    name = os.fsencode(path.resolve().name if os.path.isdir(path) else path.name)
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        readable = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise UserError(f"--query {readable}: the name is not UTF-8; give a copy with another name") from None


def _check_kind(path: Path, searched: RetrievalDataset) -> None:
    sentinel = isinstance(_first(searched), BigEarthNet)
    if path.is_dir() and not sentinel:
        raise UserError(f"--query {path} is a folder, but this run reads {_reads(searched)}; give {_wanted(searched)}")
    if sentinel and not path.is_dir() and path.suffix.lower() not in PATCH_SUFFIXES:
        raise UserError(
            f"--query {path} is a single file, but this run reads {_reads(searched)}; give {_wanted(searched)}"
        )


def _reads(searched: RetrievalDataset) -> str:
    if isinstance(_first(searched), BigEarthNet):
        return f"{len(searched.bands)} Sentinel-2 bands ({' '.join(searched.bands)})"
    return "RGB photographs" if searched.is_photograph else f"the bands {' '.join(searched.bands)} of GeoTIFFs"


def _wanted(searched: RetrievalDataset) -> str:
    if isinstance(_first(searched), BigEarthNet):
        return "the folder of a patch, with a file <patch>_<band>.tif a band, or one GeoTIFF with all bands"
    return f"an image ({', '.join(suffix[1:] for suffix in SUFFIXES)})"


def _row_of_path(path: Path, split: RetrievalDataset) -> int | None:
    """Row of the image that lies there: by name first, then by being the same file."""
    spelled = _below(path, split.source_path)  # what `Folder` calls an image
    for place in (Path(os.path.abspath(path)), path.resolve()):  # a link, and what it leads to
        spelled += [place.name, place.stem]
    named = np.flatnonzero(np.isin(split.names, spelled))
    return next((row for row in named.tolist() if _same_file(path, split.path(row))), None)


def _below(path: Path, root: Path) -> list[str]:
    """The path below `root`, as it is called and where links lead to; nothing where it lies elsewhere."""
    ways = ((Path(os.path.abspath(path)), Path(os.path.abspath(root))), (path.resolve(), root.resolve()))
    return [str(place.relative_to(top)) for place, top in ways if place.is_relative_to(top)]


def _same_file(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def _row_of_name(name: str, split: RetrievalDataset) -> int | None:
    """Row of the image of this name; a suffix of photographs may be there or not."""
    spelled = [name, _stem(name), *(_stem(name) + suffix for suffix in SUFFIXES)]
    rows = np.flatnonzero(np.isin(split.names, spelled)).tolist()
    if rows or not isinstance(_first(split), (Folder, PatchArchive)):
        return rows[0] if rows else None
    ends = [
        row for row, path in enumerate(split.names.tolist()) if Path(path).name in spelled or Path(path).stem == name
    ]
    return ends[0] if len(ends) == 1 else None  # the end of a path, where one image alone has it


def _stem(name: str) -> str:
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name
