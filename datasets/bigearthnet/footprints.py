"""Where a BigEarthNet patch lies on the ground."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from utilities.errors import DatasetError, UserError
from utilities.geojson import Ring, ring
from utilities.rasters import Footprint, raster_footprint, rasterio_module


def patch_footprint(folder: Path) -> Footprint:
    """From the patch's JSON (version 1), else from the tags of its first GeoTIFF (version 2), or of the one it is.

    Raises DatasetError naming the file where neither says.
    """
    if folder.is_file():
        return raster_footprint(folder)
    metadata = next(iter(sorted(folder.glob("[!.]*_labels_metadata.json"))), None)
    if metadata is not None:
        return _from_json(metadata)
    raster = next(iter(sorted(folder.glob("[!.]*_B*.tif"))), None)
    if raster is None:
        raise DatasetError(f"{folder} holds neither *_labels_metadata.json nor *_B*.tif: nothing says where it lies")
    return raster_footprint(raster)


def _from_json(path: Path) -> Footprint:
    """`coordinates` are the upper left (ulx, uly) and lower right (lrx, lry) corner in metres of `projection`."""
    try:
        content = json.loads(path.read_text())
        corners = content["coordinates"]
        return Footprint.upright(
            str(content["projection"]),
            west=float(corners["ulx"]),
            south=float(corners["lry"]),
            east=float(corners["lrx"]),
            north=float(corners["uly"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} does not say where the patch lies: {type(error).__name__} {error}") from error


def outlines(folders: Sequence[Path]) -> tuple[list[Ring | None], list[str]]:
    """Outlines of patches on the ground, None where a place is not known, and notes on why one is not.

    Without rasterio none is known, which a note says with what to install.
    """
    nowhere: list[Ring | None] = [None for _ in folders]
    try:
        rasterio_module("footprints on the map")
    except UserError as error:
        return nowhere, [str(error)]
    found, unknown = nowhere, []
    for place, folder in enumerate(folders):
        try:
            found[place] = ring(patch_footprint(folder))
        except DatasetError as error:
            unknown.append(str(error))
    if unknown:
        return found, [f"the places of {len(unknown)} of {len(folders)} images are not known: {unknown[0]}"]
    return found, []
