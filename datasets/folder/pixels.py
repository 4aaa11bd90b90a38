"""Pixels of one file of somebody's own archive: a photograph, or bands of a GeoTIFF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datasets.files.geotiff import stretched
from datasets.files.images import EIGHT_BITS, read_rgb
from datasets.files.reflectance import without_offset
from utilities import rasters
from utilities.errors import DatasetError, UserError, unreadable

RGB = ("R", "G", "B")
SHOWN = (("b04", "b4", "red"), ("b03", "b3", "green"), ("b02", "b2", "blue"))
"""What red, green and blue are called among the bands of a sensor."""
WHOLE = 10_000  # the digital number of a value that --band_scale puts at its upper end, as reflectance 1 has


class FileReader(NamedTuple):
    """How files are read: see `Folder` for the fields."""

    bands: tuple[str, ...]
    side: int
    band_scale: tuple[float, float] | None = None
    boa_offset: int = 0

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.bands == RGB else np.uint16)

    def decode(self, path: Path) -> np.ndarray:
        """Pixels of a file, here or elsewhere, `item_shape` and `dtype`."""
        if self.bands == RGB and self.band_scale is None:
            try:
                return read_rgb(path, self.side).transpose(2, 0, 1)
            except DatasetError as error:
                if EIGHT_BITS not in str(error):
                    raise
                raise DatasetError(
                    f"{error}; or read the archive with --band_scale LOW HIGH, which become 0 and 255"
                ) from error
        planes = [_resized(plane, self.side) for plane in self._planes(path)]
        return np.stack(planes).round().clip(0, np.iinfo(self.dtype).max).astype(self.dtype)

    def _planes(self, path: Path) -> np.ndarray:
        """(C, H, W) float32 of the bands, scaled, without offset; 0 where the file says that nothing was measured."""
        try:
            with rasters.opened(path) as raster:
                found = rasters.about(raster)
                pixels, empty = rasters.measured(raster, self._numbers(found))
        except (OSError, ValueError) as error:
            raise unreadable(f"cannot read the image {path}", error) from error
        if self.band_scale is not None:
            low, high = self.band_scale
            top = 255 if self.bands == RGB else WHOLE
            scaled = ((pixels.astype(np.float32) - low) / (high - low) * top).clip(0, top)
            return np.where(empty, np.float32(0), scaled)
        if pixels.dtype not in (np.uint8, np.uint16):
            measured = pixels[~empty]
            values = f"{measured.min():g} to {measured.max():g}" if measured.size else "none but no data"
            raise DatasetError(
                f"{path} holds {found}, values {values}: give --band_scale LOW HIGH, the values that are to become 0 "
                f"and {WHOLE:,} (reflectance: 0 1)"
            )
        pixels = np.where(empty, pixels.dtype.type(0), pixels)
        if self.boa_offset > np.iinfo(pixels.dtype).max:
            raise DatasetError(
                f"{path} holds {found}: --boa_offset {self.boa_offset} is for digital numbers of 16 bits; leave it out"
            )
        return without_offset(pixels, self.boa_offset).astype(np.float32)

    def _numbers(self, raster: rasters.Raster) -> list[int]:
        if self.bands == RGB:
            return list(rasters.rgb_bands(raster))
        named = {name.lower(): number for number, name in enumerate(raster.names, start=1) if name}
        named |= {str(number): number for number in range(1, len(raster.names) + 1)}
        missing = [band for band in self.bands if band.lower() not in named]
        if missing:
            raise ValueError(f"it holds {raster}, and no band {missing[0]}; --bands takes names or numbers from 1")
        return [named[band.lower()] for band in self.bands]

    def show(self, path: Path, side: int) -> np.ndarray:
        """(side, side, 3) uint8: a photograph as it is, or bands, stretched: those that are called red, green and blue
        (SHOWN), else the first three."""
        if self.bands == RGB and self.band_scale is None:
            return read_rgb(path, side)
        pixels = self.decode(path)
        if self.bands == RGB:
            return np.asarray(
                Image.fromarray(np.moveaxis(pixels, 0, -1)).resize((side, side), Image.Resampling.BILINEAR)
            )
        named = [next((i for i, band in enumerate(self.bands) if band.lower() in words), None) for words in SHOWN]
        shown = [i for i in named if i is not None]
        if len(shown) < 3:
            shown = [0, 1, 2] if len(pixels) >= 3 else [0, 0, 0]
        return stretched(list(pixels[shown]), side)


def reader_of(settings: Mapping[str, Any], bands: Sequence[str]) -> FileReader:
    """The reader of a run's own `Folder`, by its flags and the names of its bands."""
    scale = settings["folder_band_scale"]
    pair = None if scale is None else (float(scale[0]), float(scale[1]))
    return FileReader(tuple(bands), settings["folder_side"], pair, settings.get("boa_offset") or 0)


def parse_bands(text: str) -> tuple[str, ...]:
    """ "rgb", or different names or numbers with commas."""
    bands = RGB if text == "rgb" else tuple(text.replace(",", " ").split())
    if not bands or len(set(bands)) < len(bands):
        raise UserError(f"--bands {text}: give rgb, or different names or numbers of bands with commas")
    return bands


def _resized(plane: np.ndarray, side: int) -> np.ndarray:
    """(H, W) float32 -> (side, side) by an antialiased bilinear filter."""
    if plane.shape == (side, side):
        return plane
    return np.asarray(Image.fromarray(plane.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR))
