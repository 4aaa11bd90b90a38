"""Files from elsewhere that are searched for, read as a data set reads its own images: photographs, Sentinel-2 patches.

A patch is a folder with a file a band, or one GeoTIFF with all of them. Its bands may lie at their own resolution or
all at 10 m, be spelled `B2` or `B02`, and carry the offset of newer products.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.base import RetrievalDataset
from datasets.bigearthnet.footprints import outlines
from datasets.bigearthnet.nomenclature import BAND_SETS, BAND_SIDES
from datasets.files.geotiff import read_band_of, stretched
from datasets.files.images import read_rgb, size_of
from datasets.files.reflectance import OFFSET, looks_offset, no_data_share, without_offset
from datasets.folder.dataset import outlines_of
from datasets.folder.pixels import FileReader
from utilities import rasters
from utilities.errors import DatasetError, unreadable
from utilities.geojson import Ring

PATCH_SIDE = max(BAND_SIDES.values())
SUFFIXES = (".tif", ".tiff")
_BAND = re.compile(r"(?<![0-9a-z])b0?(8a|1[0-2]|[1-9])(?![0-9a-z])", re.IGNORECASE)


class Reading(NamedTuple):
    """--boa_offset and --query_bands of files from elsewhere; None: as the data set has it, as the file says."""

    boa_offset: int | None = None
    bands: Sequence[str] | None = None


AS_STORED = Reading()


def take_over(queries: RetrievalDataset, like: RetrievalDataset, names: Sequence[str]) -> None:
    """What the pixels of `like` are, and rows of these names without labels."""
    queries.bands, queries.band_sides = like.bands, like.band_sides
    queries.mean, queries.std, queries.dtype = like.mean, like.std, like.dtype
    queries.label_names = like.label_names
    queries.names = np.asarray(names)
    queries.labels = np.zeros((len(names), len(like.label_names)), bool)


class QueryFile(RetrievalDataset):
    """One file or folder as the only row of a data set like another. Subclasses read it."""

    def __init__(self, path: Path, like: RetrievalDataset, name: str) -> None:
        super().__init__(source_path=like.source_path, split=like.split)
        take_over(self, like, [name])
        self._path = path

    def path(self, row: int) -> Path:
        return self._path


class PhotographFile(QueryFile):
    """One file of any size and mode that `read_rgb` takes, as 8-bit RGB of the side that `like` stores."""

    def __init__(self, path: Path, like: RetrievalDataset) -> None:
        super().__init__(path, like, path.stem)

    def read(self, row: int) -> np.ndarray:
        return read_rgb(self._path, self.band_sides[0]).transpose(2, 0, 1)

    def thumbnail(self, row: int, side: int = 128) -> np.ndarray:
        return read_rgb(self._path, side)

    def size(self, row: int) -> tuple[int, int] | None:
        return size_of(self._path)


class FolderFile(QueryFile):
    """One file that is read as an archive of `Folder` reads its own."""

    def __init__(self, path: Path, like: RetrievalDataset, reader: FileReader) -> None:
        super().__init__(path, like, path.stem)
        self._reader = reader

    def read(self, row: int) -> np.ndarray:
        return self._reader.decode(self._path)

    def thumbnail(self, row: int, side: int = 128) -> np.ndarray:
        return self._reader.show(self._path, side)

    def size(self, row: int) -> tuple[int, int] | None:
        return size_of(self._path)

    def outlines(self, rows: Sequence[int]) -> tuple[list[Ring | None], list[str]]:
        return outlines_of([self._path for _ in rows]), []


class Patch(QueryFile):
    """A Sentinel-2 patch from elsewhere. Subclasses tell which bands there are, and give their digital numbers.

    An empty patch is a `DatasetError`.
    """

    def __init__(self, path: Path, like: RetrievalDataset, name: str, reading: Reading) -> None:
        super().__init__(path, like, name)
        self.boa_offset = getattr(like, "boa_offset", 0) if reading.boa_offset is None else reading.boa_offset

    def stored(self, band: str) -> np.ndarray:
        """(side, side) uint16 at the band's own resolution, as it is in the file."""
        raise NotImplementedError

    def holds(self, band: str) -> bool:
        raise NotImplementedError

    def read(self, row: int) -> np.ndarray:
        bands = [self.stored(band) for band in self.bands]
        if no_data_share(bands) == 1:
            raise DatasetError(f"{self._path} is empty: all values of {' '.join(self.bands)} are 0, which is no data")
        bands = [without_offset(band, self.boa_offset) for band in bands]
        return np.concatenate([band.ravel() for band in bands]).reshape(self.item_shape)

    def thumbnail(self, row: int, side: int = 128) -> np.ndarray:
        visible = all(map(self.holds, BAND_SETS["rgb"]))
        return stretched([self.stored(band) for band in (BAND_SETS["rgb"] if visible else self.bands[:1] * 3)], side)

    def outlines(self, rows: Sequence[int]) -> tuple[list[Ring | None], list[str]]:
        return outlines([self._path for _ in rows])

    def notes(self, row: int) -> list[str]:
        share = no_data_share([self.stored(band) for band in self.bands])
        said = [f"{share:.1%} of the query's values are 0, no data"] if share else []
        visible = {band: without_offset(self.stored(band), self.boa_offset) for band in self._visible()}
        if looks_offset(visible):
            said.append(
                f"the lowest value above 0 of the query's visible bands is {OFFSET} or more: products since processing "
                f"baseline 04.00 carry +{OFFSET}; if this one does, give --boa_offset {OFFSET}"
            )
        return said

    def _visible(self) -> list[str]:
        return [band for band in BAND_SETS["rgb"] if self.holds(band)]


class PatchFolder(Patch):
    """A folder with the bands `<patch>_B01.tif ...` of one Sentinel-2 patch, whatever the folder is called."""

    def __init__(self, path: Path, like: RetrievalDataset, reading: Reading = AS_STORED) -> None:
        super().__init__(path, like, path.name, reading)
        self._files = _band_files(path)
        missing = [band for band in self.bands if band not in self._files]
        if missing:
            raise DatasetError(
                f"{path} holds no *_{missing[0]}.tif; give the folder of one patch, with a file <patch>_<band>.tif for "
                f"each of {' '.join(self.bands)}"
            )

    def holds(self, band: str) -> bool:
        return band in self._files

    def file(self, band: str) -> Path:
        return self._files[band]

    def stored(self, band: str) -> np.ndarray:
        path = str(self._files[band])
        return at_own_resolution(read_band_of(path, (BAND_SIDES[band], PATCH_SIDE)), band, path)


class PatchFile(Patch):
    """One GeoTIFF with all bands, named by their descriptions or by --query_bands, each at 10 m."""

    def __init__(self, path: Path, like: RetrievalDataset, reading: Reading) -> None:
        super().__init__(path, like, path.stem, reading)
        self._numbers = self._band_numbers(reading.bands)

    def _band_numbers(self, given: Sequence[str] | None) -> Mapping[str, int]:
        """Number of each band in the file, from 1."""
        try:
            with rasters.opened(self._path) as raster:
                found = rasters.about(raster)
        except ValueError as error:
            raise unreadable(f"cannot read {self._path}", error) from error
        asked = f"--query_bands {','.join(given)} names {len(given)}" if given else ""
        if given and len(given) != len(found.names):
            raise DatasetError(f"{self._path} holds {found}: {asked} bands; give a name for each, in the file's order")
        named = [spelled_band(name) for name in (given or found.names)]
        numbers = {name: place for place, name in enumerate(named, start=1) if name}
        missing = [band for band in self.bands if band not in numbers]
        if missing or len(numbers) < len([name for name in named if name]):
            wrong = f"{', '.join(missing)} not named among them" if missing else "a band is named twice"
            raise DatasetError(
                f"{self._path} holds {found}, {wrong}; this run reads {' '.join(self.bands)}: name the bands in the "
                f"file's order with --query_bands {','.join(self.bands[:3])},..."
            )
        return numbers

    def holds(self, band: str) -> bool:
        return band in self._numbers

    @functools.cached_property
    def _pixels(self) -> np.ndarray:
        """(C, H, W): all bands, 0 where nothing was measured."""
        try:
            with rasters.opened(self._path) as raster:
                found = rasters.about(raster)
                if (found.width, found.height) != (PATCH_SIDE, PATCH_SIDE):
                    raise ValueError(
                        f"it holds {found}, where a patch is {PATCH_SIDE} x {PATCH_SIDE} of 10 m; cut one out, e.g. "
                        f"gdal_translate -srcwin X Y {PATCH_SIDE} {PATCH_SIDE} IN.tif OUT.tif"
                    )
                pixels, empty = rasters.measured(raster, raster.indexes)
                return np.where(empty, pixels.dtype.type(0), pixels)
        except (OSError, ValueError) as error:
            raise unreadable(f"cannot read {self._path}", error) from error

    def stored(self, band: str) -> np.ndarray:
        return at_own_resolution(self._pixels[self._numbers[band] - 1], band, f"{self._path} ({band})")


def at_own_resolution(pixels: np.ndarray, band: str, name: str) -> np.ndarray:
    """(side, side) uint16 of a band that is stored so, or at 10 m: the mean of the values that share a pixel.

    Exact for bands that were repeated. Whole numbers of another type are taken; anything else is a `DatasetError`.
    """
    side = BAND_SIDES[band]
    if pixels.dtype != np.uint16 and ((pixels >= 0) & (pixels < 2**16) & (pixels == np.rint(pixels))).all():
        pixels = pixels.astype(np.uint16)
    if pixels.dtype != np.uint16 or pixels.shape not in ((side, side), (PATCH_SIDE, PATCH_SIDE)):
        found = f"{' x '.join(map(str, pixels.shape))} {pixels.dtype}"
        also = f", or {PATCH_SIDE} x {PATCH_SIDE}," if side < PATCH_SIDE else ""
        scale = "; digital numbers are reflectance x 10,000" if pixels.dtype.kind == "f" else ""
        raise DatasetError(f"the band {name} is {found} where {side} x {side}{also} uint16 is expected{scale}")
    if pixels.shape == (side, side):
        return pixels
    step = PATCH_SIDE // side
    return np.rint(pixels.reshape(side, step, side, step).mean((1, 3))).astype(np.uint16)


def spelled_band(name: str) -> str:
    """`B2`, "b02 (blue)" -> B02; "" where no band of Sentinel-2, or several, are named."""
    found = {match.upper() for match in _BAND.findall(name)}
    return "B" + found.pop().zfill(2) if len(found) == 1 else ""


def band_of(path: Path) -> str:
    """The band that a file <patch>_<band>.tif holds; "" for any other file."""
    if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
        return ""
    return spelled_band(path.stem.rpartition("_")[2])


def _band_files(folder: Path) -> dict[str, Path]:
    """Band -> its file; DatasetError unless the folder holds one patch."""
    files: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        stem = path.stem.rpartition("_")[0]
        if band := band_of(path):
            if band in files.setdefault(stem, {}):
                raise DatasetError(f"{folder} holds {band} twice: {files[stem][band].name} and {path.name}")
            files[stem][band] = path
    if len(files) != 1:
        found = f"{len(files)} patches ({', '.join(list(files)[:3])}, ...)" if files else "no *_B01.tif"
        raise DatasetError(
            f"{folder} holds {found}; give the folder of one patch, with a file <patch>_<band>.tif a band"
        )
    return files.popitem()[1]
