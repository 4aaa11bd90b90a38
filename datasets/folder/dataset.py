"""Anybody's own archive: images in any layout below one folder, and one table of labels.

    <source_path>/**/*.{jpg,png,tif}      photographs, or GeoTIFFs of any bands (--bands)
    <source_path>/labels.csv              or labels.parquet, or --labels_csv: see `datasets.folder.table`
    <source_path>/splits/<split>.txt      lists of names; drawn and written where there are none

So AID, DFC15, DLRSD and WHDLD with their multi-labels are read, and archives without labels, which can be searched.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from datasets.base import ALL, DATASETS, RetrievalDataset
from datasets.files.images import IMAGENET_MEAN, IMAGENET_STD, is_image, size_of
from datasets.files.reflectance import no_data_share
from datasets.folder.pixels import RGB, FileReader, parse_bands
from datasets.folder.splits import split_of
from datasets.folder.table import Table, read_table
from utilities import rasters
from utilities.errors import DatasetError, UserError, WrongFolderError
from utilities.files import walk
from utilities.geojson import Ring, ring

TABLES = ("labels.csv", "labels.parquet")
SAMPLED = 256  # images from which statistics of bands are taken


@DATASETS.register("Folder", prefix="folder")
class Folder(RetrievalDataset):
    """One split of a folder of images, or all that the table lists.

    Names are paths below the folder; the table may leave out parts of them, and suffixes.

    labels_csv   the table; None: labels.csv or labels.parquet in the folder; without one the images carry no labels
    bands        "rgb": photographs; else bands of GeoTIFFs, by description or number from 1, with commas
    band_scale   (low, high): values that become 0 and 255 of photographs, 0 and 10,000 of other bands; None: as is
    side         to which images are resized when they are read
    proportions  percent of train/val/test, and seed: of the draw where neither table nor lists say
    boa_offset   taken off every value but 0 of bands that are no photographs
    """

    marks = ("*",)
    title = "a folder of images (--labels_csv TABLE, or labels.csv in it)"

    def __init__(
        self,
        *,
        source_path: Path,
        split: str,
        labels_csv: str | Path | None,
        bands: str,
        band_scale: Sequence[float] | None,
        side: int,
        proportions: str,
        seed: int,
        boa_offset: int = 0,
    ) -> None:
        super().__init__(source_path=source_path, split=split)
        self.bands = parse_bands(bands)
        if band_scale is not None and not band_scale[0] < band_scale[1]:
            raise UserError(f"--band_scale {band_scale[0]:g} {band_scale[1]:g}: the second must be more than the first")
        scale = None if band_scale is None else (band_scale[0], band_scale[1])
        self.reader = FileReader(self.bands, side, scale, boa_offset)
        self.band_sides, self.dtype = (side,) * len(self.bands), self.reader.dtype
        self.variant = f"offset {boa_offset}" + (f", scaled from {scale[0]:g} to {scale[1]:g}" if scale else "")
        files = image_paths(source_path)
        if not files:
            raise WrongFolderError(f"{source_path} holds no image (jpg, png, tif); give {Folder.title}")
        table = table_of(source_path, None if labels_csv is None else Path(labels_csv), files)
        splits = table.splits
        if splits is None:
            splits = split_of(source_path, table.names, table.labels, proportions, seed)
        rows = np.flatnonzero(splits == split) if split != ALL else np.arange(len(table.names))
        if not len(rows):
            raise DatasetError(
                f"no image of {source_path} is in the {split} split; give it some, in the table's column or in the "
                "lists in splits/, or leave them out, and splits are drawn"
            )
        self.names, self.labels, self.label_names = table.names[rows], table.labels[rows], table.label_names
        self.splits = splits[rows] if table.label_names else np.full(len(rows), split)
        self.mean, self.std = IMAGENET_MEAN, IMAGENET_STD
        if self.bands != RGB:
            self.mean, self.std = self._statistics(table.names[splits == "train"])

    def path(self, row: int) -> Path:
        return self.source_path / str(self.names[row])

    def read(self, row: int) -> np.ndarray:
        return self.reader.decode(self.path(row))

    def thumbnail(self, row: int, side: int = 128) -> np.ndarray:
        return self.reader.show(self.path(row), side)

    def size(self, row: int) -> tuple[int, int] | None:
        return size_of(self.path(row))

    def no_data(self, pixels: np.ndarray) -> float:
        return 0.0 if self.is_photograph else no_data_share([pixels])

    def outlines(self, rows: Sequence[int]) -> tuple[list[Ring | None], list[str]]:
        return outlines_of([self.path(row) for row in rows]), []

    def splits_of(self, rows: Sequence[int]) -> list[str]:
        return [str(self.splits[row]) or ALL for row in rows]

    def _statistics(self, train: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each band over SAMPLED images of the train split, or of what there is."""
        names = train if len(train) else self.names
        chosen = names[np.unique(np.linspace(0, len(names) - 1, SAMPLED).astype(int))]
        paths = [self.source_path / name for name in chosen.tolist()]
        key = (self.bands, self.band_sides, self.variant, *map(str, paths))
        if key not in _MEASURED:
            _MEASURED[key] = statistics(paths, self.reader.decode)
        return _MEASURED[key]


_MEASURED: dict[tuple[object, ...], tuple[tuple[float, ...], tuple[float, ...]]] = {}
"""Statistics by what they were measured on: the splits of one data set share them."""


def statistics(
    paths: Sequence[Path], decode: Callable[[Path], np.ndarray]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (at least 1) of each band over all pixels; files that cannot be read are left out."""
    sums, squares, count = np.zeros(1), np.zeros(1), 0
    for path in paths:
        with contextlib.suppress(DatasetError):  # named where the image is needed
            pixels = decode(path).astype(np.float64)
            sums, squares = sums + pixels.sum((1, 2)), squares + np.square(pixels).sum((1, 2))
            count += pixels[0].size
    if not count:
        decode(paths[0])  # says what is wrong with all of them
    mean = sums / count
    return tuple(mean.tolist()), tuple(np.sqrt(squares / count - mean**2).clip(1).tolist())


def outlines_of(paths: Sequence[Path]) -> list[Ring | None]:
    """Outlines on the ground of the files that are GeoTIFFs with a projection."""
    found: list[Ring | None] = []
    for path in paths:
        outline = None
        if path.suffix.lower() in (".tif", ".tiff"):
            try:
                outline = ring(rasters.raster_footprint(path))
            except UserError:  # no rasterio, or no place
                outline = None
        found.append(outline)
    return found


def image_paths(root: Path) -> list[str]:
    """Paths of all images below a folder (`walk`), sorted, relative to it; hidden files are passed over."""
    return sorted(
        os.path.relpath(os.path.join(folder, name), root)
        for folder, files in walk(root)
        for name in files
        if is_image(name)
    )


def table_of(root: Path, given: Path | None, files: Sequence[str]) -> Table:
    """The table, its names resolved to `files`, the paths of the images below `root`; of all, without labels, where
    there is none."""
    path = given or next((root / name for name in TABLES if (root / name).is_file()), None)
    if path is None:
        _check_names(files, root)
        return Table(np.asarray(files), np.zeros((len(files), 0), bool), (), None)
    table = read_table(path)
    names = _resolved(table.names, files, path, root)
    _check_names(names, root)
    if len(files) > len(names):
        left = sorted(set(files) - set(names))
        warnings.warn(f"{len(left):,} images of {root} are not in {path} and left out ({left[0]})", stacklevel=4)
    return table._replace(names=np.asarray(names))


def _check_names(names: Sequence[str], root: Path) -> None:
    """Splits are drawn by names, and tables and pages hold them: a name that is no text is a DatasetError."""
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        odd = [os.fsencode(name) for name in names if os.fsencode(name).decode(errors="replace") != name]
        shown = odd[0].decode("utf-8", "backslashreplace")
        raise DatasetError(
            f"{len(odd)} images below {root} have names that are not UTF-8 ({shown}); rename them"
        ) from None


def _resolved(names: np.ndarray, files: Sequence[str], path: Path, root: Path) -> list[str]:
    """The file of each name: a path below the folder, or only the end of one, with or without suffix; or a path that
    leads to the folder first, as scripts write them, with Windows' separators too."""
    by_end: dict[str, str] = {}
    ends: Counter[str] = Counter()
    for file in files:
        parts = Path(file).parts
        for start in range(len(parts)):
            for end in dict.fromkeys((os.path.join(*parts[start:]), os.path.splitext(os.path.join(*parts[start:]))[0])):
                ends[end] += 1
                by_end[end] = file
    whole, top = set(files), Path(os.path.abspath(root)).parts
    found, absent = [], []
    for name in names.tolist():
        wanted = os.path.normpath(name)
        if not ends[wanted]:
            wanted = _below(os.path.normpath(name.replace("\\", "/")), top)
        if wanted in whole:
            found.append(wanted)
        elif ends[wanted] == 1:
            found.append(by_end[wanted])
        elif ends[wanted] > 1:
            raise DatasetError(
                f"{path} lists {name}, and {root} holds {ends[wanted]} files of this name; give more of the path"
            )
        else:
            absent.append(name)
    if absent:
        named = ", ".join(absent[:5])
        raise DatasetError(
            f"{len(absent):,} images of {path} are not below {root} ({named}); leave their rows out, or give the "
            "folder that holds them",
            names=absent,
        )
    if len(set(found)) < len(found):
        raise DatasetError(f"{path} lists {Counter(found).most_common(1)[0][0]} twice, under different spellings")
    return found


def _below(path: str, top: Sequence[str]) -> str:
    """A path without the parts by which it leads to a folder; top: all parts of that folder's path."""
    parts = Path(path).parts
    leading = next((n for n in range(1, len(parts)) if tuple(top[-n:]) == parts[:n]), 0)
    return os.path.join(*parts[leading:]) if parts else path
