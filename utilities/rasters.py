"""GeoTIFFs as GDAL reads them: the only rasterio import. Pixels of any codec, names of bands, places on the ground."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from utilities.errors import DatasetError, UserError

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF


class Raster(NamedTuple):
    """What a raster says of itself.

    width, height  in pixels
    dtype          of all bands, by numpy's name
    names          descriptions of the bands, "" where there is none
    colours        what they are to be shown as: red, green, blue, gray, alpha, ..., undefined
    """

    width: int
    height: int
    dtype: str
    names: tuple[str, ...]
    colours: tuple[str, ...]

    def __str__(self) -> str:
        named = f" ({', '.join(self.names)})" if all(self.names) else ""
        count = len(self.colours)
        return f"{self.width} x {self.height} pixels, {count} band{'s' * (count > 1)} of {self.dtype}{named}"


class Footprint(NamedTuple):
    """Four corners (x, y) in a projection (WKT or EPSG:...), in its units, counter-clockwise."""

    projection: str
    corners: tuple[tuple[float, float], ...]

    @classmethod
    def upright(cls, projection: str, *, west: float, south: float, east: float, north: float) -> Footprint:
        return cls(projection, ((west, south), (east, south), (east, north), (west, north)))


def rasterio_module(need: str, name: str = "rasterio") -> ModuleType:
    """rasterio or one of its modules; `UserError` saying what to install where there is none. need: what needs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{need} need rasterio ({error}): pip install rasterio") from None


@contextlib.contextmanager
def opened(source: Path | bytes, name: str = "") -> Iterator[Any]:
    """The raster of a file, or of the bytes of one. What GDAL cannot read is a `ValueError` with its reason."""
    rasterio = rasterio_module(f"such GeoTIFFs as {name or source!s}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            if isinstance(source, bytes):
                with rasterio.MemoryFile(source) as memory, memory.open() as raster:
                    yield raster
            else:
                with rasterio.open(source) as raster:
                    yield raster
        except rasterio.errors.RasterioError as error:
            raise ValueError(str(error)) from error


def about(raster: Any) -> Raster:
    """What an `opened` raster says of itself; `ValueError` where its bands are of several types."""
    if len(set(raster.dtypes)) > 1:
        raise ValueError(f"its bands are of several types: {', '.join(raster.dtypes)}")
    colours = tuple(colour.name.lower() for colour in raster.colorinterp)
    names = tuple((name or "").strip() for name in raster.descriptions)
    return Raster(raster.width, raster.height, raster.dtypes[0], names, colours)


def measured(raster: Any, bands: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Bands of an `opened` raster by their numbers, (C, H, W), and where nothing was measured, (C, H, W) bool: their
    "no data" value, their mask, NaN.

    An alpha band masks nothing: GDAL calls the fourth of four bands of 8 bits so, which often is near infrared.
    """
    transparent = any(flag.name == "alpha" for band in bands for flag in raster.mask_flag_enums[band - 1])
    found = raster.read(bands, masked=not transparent)
    empty = np.ma.getmaskarray(found)
    return np.ma.getdata(found), empty | np.isnan(np.ma.getdata(found)) if found.dtype.kind == "f" else empty


def rgb_bands(raster: Raster) -> Sequence[int]:
    """Numbers, from 1, of the bands that are shown as red, green and blue; `ValueError` where that is not clear."""
    wanted = ("red", "green", "blue")
    if set(wanted) <= set(raster.colours):
        return [raster.colours.index(colour) + 1 for colour in wanted]
    if len(raster.colours) == 1 and raster.colours[0] != "palette":
        return [1, 1, 1]
    if len(raster.colours) == 3:
        return [1, 2, 3]
    raise ValueError(f"it holds {raster}, none of them marked as red, green and blue")


def raster_footprint(path: Path) -> Footprint:
    """Where a GeoTIFF lies, from its own tags. DatasetError for a file that does not say."""
    rasterio = rasterio_module("footprints on the map")
    try:
        with rasterio.open(path) as raster:
            if raster.crs is None:
                raise DatasetError(f"{path} has no projection among its tags")
            rows, columns = raster.shape
            corners = [raster.xy(*place, offset="ul") for place in ((rows, 0), (rows, columns), (0, columns), (0, 0))]
            mirrored = raster.transform.determinant > 0  # rows from the south
            return Footprint(raster.crs.to_wkt(), tuple(corners[:: -1 if mirrored else 1]))
    except rasterio.errors.RasterioIOError as error:
        raise DatasetError(f"cannot read {path}: {error}") from error
