"""Where a BigEarthNet patch lies on the ground."""

from __future__ import annotations

import json
from pathlib import Path

from utilities.errors import DatasetError
from utilities.geojson import Footprint, raster_footprint


def patch_footprint(folder: Path) -> Footprint:
    """From the patch's JSON (version 1), else from the tags of its first GeoTIFF (version 2).

    Raises DatasetError naming the file where neither says.
    """
    metadata = next(iter(sorted(folder.glob("*_labels_metadata.json"))), None)
    if metadata is not None:
        return _from_json(metadata)
    raster = next(iter(sorted(folder.glob("*_B*.tif"))), None)
    if raster is None:
        raise DatasetError(f"{folder} holds neither *_labels_metadata.json nor *_B*.tif: nothing says where it lies")
    return raster_footprint(raster)


def _from_json(path: Path) -> Footprint:
    """`coordinates` are the upper left (ulx, uly) and lower right (lrx, lry) corner in metres of `projection`."""
    try:
        content = json.loads(path.read_text())
        corners = content["coordinates"]
        return Footprint(
            str(content["projection"]),
            west=float(corners["ulx"]),
            south=float(corners["lry"]),
            east=float(corners["lrx"]),
            north=float(corners["uly"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} does not say where the patch lies: {type(error).__name__} {error}") from error
