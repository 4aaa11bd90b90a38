"""GeoTIFF bands as arrays: a minimal parser for what Sentinel-2 archives hold, tifffile or GDAL for anything else.

A BigEarthNet patch is twelve files of a few kilobytes, so opening them through GDAL costs far more than the
pixels do. The archives are uncompressed little-endian uint16 strips; their directory is the same in every
file of a band and is parsed once.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from utilities import rasters
from utilities.errors import DatasetError, unreadable

WIDTH, HEIGHT, BITS, COMPRESSION, OFFSETS, SAMPLES, COUNTS, FORMAT = 256, 257, 258, 259, 273, 277, 279, 339
SUBFILE_TAGS = frozenset({322, 324, 330})  # tiles and sub-directories: left to tifffile
DEFLATE, PREDICTORS = (1, 8, 32946), (1, 2)  # compression: none, deflate; predictor: none, horizontal
TYPES = {3: "<u2", 4: "<u4"}  # SHORT, LONG


class Array(NamedTuple):
    """An array of a TIFF directory: its values where they fit into the entry, else where they lie."""

    inline: tuple[int, ...]
    position: int
    dtype: str

    def values(self, data: bytes, count: int) -> np.ndarray:
        if self.inline:
            return np.asarray(self.inline)
        return np.frombuffer(data, self.dtype, count, self.position)


class Layout(NamedTuple):
    """What a directory says: size in pixels, number of strips, their offsets in the file and byte counts."""

    width: int
    height: int
    strips: int
    offsets: Array
    counts: Array


def read_band(path: str, side: int) -> np.ndarray:
    """(side, side) uint16 of a single-band GeoTIFF.

    A missing, cut off or otherwise unreadable file, another size and another dtype are `DatasetError`s that
    name the file and what was found.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
    except OSError as error:
        raise unreadable(f"cannot read the band {path}", error) from error
    return decode_band(data, side, path)


def read_band_of(path: str, sides: Collection[int]) -> np.ndarray:
    """As `read_band`, of any dtype and one of several sides; of another one no pixel is decoded, and all are 0."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise unreadable(f"cannot read the band {path}", error) from error
    try:
        pixels = _decode_plain(data)
        return _decode_any(data, sides, path) if pixels is None else pixels
    except ValueError as error:
        raise DatasetError(f"cannot read the band {path}: {error}") from error


def decode_band(data: bytes, side: int, name: str) -> np.ndarray:
    """As `read_band` for the bytes of a file (a member of an archive); read-only. name is for messages."""
    try:
        pixels = _decode_plain(data)
        if pixels is None:
            pixels = _decode_any(data, (side,), name)
    except ValueError as error:
        raise DatasetError(f"cannot read the band {name}: {error}") from error
    if pixels.shape != (side, side) or pixels.dtype != np.uint16:
        found = f"{' x '.join(map(str, pixels.shape))} {pixels.dtype}"
        raise DatasetError(f"the band {name} is {found} where {side} x {side} uint16 is expected")
    return pixels


def stretched(bands: Sequence[np.ndarray], side: int) -> np.ndarray:
    """(side, side, 3) uint8 of red, green and blue, each stretched between its 2nd and 98th percentile, to which 0
    (no data) counts nothing."""
    rgb = np.stack(bands, axis=-1).astype(np.float32)
    measured = [band[band > 0] if band.any() else band for band in bands]
    low, high = np.stack([np.percentile(values, (2, 98)) for values in measured], axis=-1)
    image = Image.fromarray((255 * (rgb - low) / np.maximum(high - low, 1)).clip(0, 255).astype(np.uint8))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def _decode_plain(data: bytes) -> np.ndarray | None:
    """Pixels of an uncompressed little-endian uint16 file, None for any other; ValueError when cut off."""
    if data[:4] != b"II*\0":
        return None
    try:
        (start,) = struct.unpack_from("<I", data, 4)
        (entries,) = struct.unpack_from("<H", data, start)
    except struct.error:
        raise ValueError(f"the file is cut off after {len(data)} bytes") from None
    end = start + 2 + 12 * entries
    layout = _layout(data[start + 2 : end]) if end <= len(data) else None
    if layout is None:
        return None
    if layout.strips == 1:
        first, length = layout.offsets.inline[0], layout.counts.inline[0]
    else:
        try:
            offsets, counts = (array.values(data, layout.strips) for array in (layout.offsets, layout.counts))
        except ValueError:
            raise ValueError(f"the file is cut off after {len(data)} bytes") from None
        if (offsets[1:] != offsets[:-1] + counts[:-1]).any():
            return None  # strips in another order, or with gaps
        first, length = int(offsets[0]), int(counts.sum())
    if length != 2 * layout.width * layout.height:
        return None
    if first + length > len(data):
        raise ValueError(f"the file is cut off after {len(data)} bytes of at least {first + length}")
    return np.frombuffer(data, "<u2", length // 2, first).reshape(layout.height, layout.width)


@functools.lru_cache(maxsize=256)
def _layout(directory: bytes) -> Layout | None:
    """The directory's 12-byte entries (tag, type, count, value) -> layout; None if it is not plain uint16."""
    entries = {tag: (kind, count, value) for tag, kind, count, value in struct.iter_unpack("<HHII", directory)}
    values = {}
    for tag, wanted in (
        (BITS, 16),
        (COMPRESSION, 1),
        (SAMPLES, 1),
        (FORMAT, 1),
        (WIDTH, None),
        (HEIGHT, None),
    ):
        kind, count, value = entries.get(tag, (3, 1, 1))
        values[tag] = value & 0xFFFF if kind == 3 else value  # a SHORT fills half of its four bytes
        if kind not in TYPES or count != 1 or wanted not in (None, values[tag]):
            return None
    if SUBFILE_TAGS & entries.keys() or not {WIDTH, HEIGHT, OFFSETS, COUNTS} <= entries.keys():
        return None
    offsets, counts = entries[OFFSETS], entries[COUNTS]
    if offsets[0] not in TYPES or counts[0] not in TYPES or offsets[1] != counts[1] or offsets[1] == 0:
        return None
    return Layout(values[WIDTH], values[HEIGHT], offsets[1], _array(*offsets), _array(*counts))


def _array(kind: int, count: int, value: int) -> Array:
    """One LONG or two SHORTs lie in the entry's four bytes; more of them where the value points."""
    inline: tuple[int, ...] = ()
    if kind == 4 and count == 1:
        inline = (value,)
    elif kind == 3 and count <= 2:
        inline = (value & 0xFFFF, value >> 16)[:count]
    return Array(inline, value, TYPES[kind])


def _decode_any(data: bytes, sides: Collection[int], name: str) -> np.ndarray:
    """tifffile, three times as fast, decodes nothing but deflate without a package of its own; GDAL the others.

    Of another side than one of `sides` nothing is decoded: a damaged size could ask for any amount of memory.
    """
    shapes = [(side, side) for side in sides]
    try:
        import tifffile

        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            if page.shape not in shapes:
                return np.broadcast_to(np.zeros((), page.dtype or np.uint8), page.shape)
            if page.compression in DEFLATE and page.predictor in PREDICTORS:
                return page.asarray()
    except ImportError:
        pass
    except Exception as error:  # every codec has its own exceptions
        raise ValueError(f"{type(error).__name__}: {error}") from error
    with rasters.opened(data, name) as raster:
        shape = (raster.height, raster.width) if raster.count == 1 else (raster.count, raster.height, raster.width)
        if shape not in shapes:
            return np.broadcast_to(np.zeros((), raster.dtypes[0]), shape)
        return raster.read(1)
