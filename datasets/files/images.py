"""Photographs on disk: decoding to three channels of one size, and finding what is listed but absent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import BITSPERSAMPLE, STRIPBYTECOUNTS, TiffImageFile

from utilities import rasters
from utilities.errors import DatasetError, unreadable
from utilities.rasters import TIFF

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")

TILEBYTECOUNTS = 325
# No scale from reflectance or radiance to 8 bits is the right one
EIGHT_BITS = "make 8-bit RGB of it, e.g. gdal_translate -b 1 -b 2 -b 3 -ot Byte -scale LOW HIGH 0 255 IN.tif OUT.tif"

# ImageNet's statistics in 0..255: the aerial sets publish none, and pre-trained weights expect these.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def read_rgb(path: Path | BinaryIO, side: int, name: str = "") -> np.ndarray:
    """(side, side, 3) uint8, resized with an antialiased bilinear filter where the size differs.

    Grayscale is repeated, CMYK and palettes converted, an alpha channel dropped, an EXIF orientation followed. TIFFs
    that Pillow does not read as they are meant go through GDAL. A file that cannot be decoded, is cut off, or
    holds more than 8 bits a channel is a `DatasetError` that names it (an open file: `name`); a disk or network
    that fails meanwhile, a `RunFailure`.
    """
    try:
        rgb = _by_pillow(path)
        if rgb is None:
            rgb = Image.fromarray(_by_gdal(path, name or str(path)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise unreadable(f"cannot read the image {name or path}", error) from error
    return np.asarray(_resized(rgb, side))


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of an image that `read_rgb` reads, or of bands that GDAL does, an EXIF orientation followed.

    Raises `DatasetError` naming a file that says neither.
    """
    try:
        try:
            with Image.open(path) as image:
                turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
                return image.size[::-1] if turned else image.size
        except OSError:
            if not _is_tiff(path):
                raise
        with rasters.opened(path) as raster:
            return raster.width, raster.height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise unreadable(f"cannot read the image {path}", error) from error


def _by_pillow(path: Path | BinaryIO) -> Image.Image | None:
    """None for a TIFF that Pillow cannot read, or not as it is meant: a codec or number of bands it does not know,
    or absent tiles, for which it shows other pixels."""
    try:
        with Image.open(path) as image:
            if _is_deep(image):
                raise ValueError(f"it has more than 8 bits a channel; {EIGHT_BITS}")
            if isinstance(image, TiffImageFile) and 0 in (
                *image.tag_v2.get(STRIPBYTECOUNTS, ()),
                *image.tag_v2.get(TILEBYTECOUNTS, ()),
            ):
                return None
            ImageOps.exif_transpose(image, in_place=True)
            return image.convert("RGB")
    except OSError:
        if _is_tiff(path):
            return None
        raise


def _is_tiff(path: Path | BinaryIO) -> bool:
    if isinstance(path, Path):
        with path.open("rb") as file:
            return file.read(4) in TIFF
    path.seek(0)
    return path.read(4) in TIFF


def _by_gdal(path: Path | BinaryIO, name: str) -> np.ndarray:
    """(H, W, 3) uint8 of the bands marked as red, green and blue."""
    if not isinstance(path, Path):
        path.seek(0)
    with rasters.opened(path if isinstance(path, Path) else path.read(), name) as raster:
        found = rasters.about(raster)
        if found.width * found.height > 2 * (Image.MAX_IMAGE_PIXELS or np.inf):
            raise ValueError(f"it holds {found}: more than are decoded, as they could ask for any amount of memory")
        if found.dtype != "uint8":
            raise ValueError(f"it has more than 8 bits a channel: {found}; {EIGHT_BITS}")
        return np.moveaxis(raster.read(rasters.rgb_bands(found)), 0, -1)


def _is_deep(image: Image.Image) -> bool:
    """Whether the file holds more than 8 bits a channel, of which Pillow drops the rest where there are three."""
    stored = image.tag_v2.get(BITSPERSAMPLE, (1,)) if isinstance(image, TiffImageFile) else (1,)
    raw_modes = (str(tile.args) for tile in getattr(image, "tile", ()))
    return image.mode.startswith(("I", "F")) or max(stored) > 8 or any(";16" in mode for mode in raw_modes)


def resized(pixels: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (side, side, 3) by the same filter."""
    return np.asarray(_resized(Image.fromarray(pixels), side))


def _resized(image: Image.Image, side: int) -> Image.Image:
    return image if image.size == (side, side) else image.resize((side, side), Image.Resampling.BILINEAR)


def is_image(name: str) -> bool:
    """Whether a file of this name is an image: by suffix, and not hidden, as what macOS keeps beside one is."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def image_files(folder: Path) -> set[str]:
    """Names of the images that lie in a folder, by `is_image`; links count as what they are named."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if is_image(entry.name)}
    except OSError as error:
        raise DatasetError(f"cannot list the image folder {folder}: {error.strerror}") from error


def refuse_difference(
    listed: Iterable[str], present: Iterable[str], listing: str, folder: Path, within: Callable[[str], str] = str
) -> None:
    """Raise `DatasetError` naming what is listed but absent, or present but unlisted; the first five of each.

    listing says in words what lists the images, within where in the folder one of this name lies.
    """
    error = difference(listed, present, listing, folder, within)
    if error is not None:
        raise error


def difference(
    listed: Iterable[str], present: Iterable[str], listing: str, folder: Path, within: Callable[[str], str] = str
) -> DatasetError | None:
    """What `refuse_difference` raises."""
    listed, present = set(listed), set(present)
    problems = [
        f"{len(names):,} {what} ({', '.join(sorted(names)[:5])}{', ...' if len(names) > 5 else ''})"
        for names, what in (
            (listed - present, "listed but absent"),
            (present - listed, "present but unlisted"),
        )
        if names
    ]
    if not problems:
        return None
    return DatasetError(
        f"the images in {folder} are not those of {listing}: {'; '.join(problems)}; "
        "unpack the archive again, or make the two agree",
        names=[
            *(f"absent: {folder / within(name)}" for name in sorted(listed - present)),
            *(f"unlisted: {folder / within(name)}" for name in sorted(present - listed)),
        ],
    )
