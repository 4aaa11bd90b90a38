"""Generated Sentinel-2 patches in the layout of BigEarthNet v1.

    <folder>/<patch>/<patch>_B01.tif ... _B12.tif        12 uint16 GeoTIFFs of 20, 60 or 120 pixels
    <folder>/<patch>/<patch>_labels_metadata.json        CLC labels, coordinates, projection, source, date
    <folder>/manifest.json                               what the folder was generated from

Patch names keep the archive's quirks: the hour may have lost its leading zero, and one "time" is none at all,
so a date comes from the JSON only. The acquisitions are invented; the tiles and their grid are real.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.files.generated import generated_folder
from tests.sentinel import geotiff, landscapes
from utilities.errors import UserError
from utilities.seeding import derive

GENERATOR_VERSION = 1
PATCH_METRES = 1200
PATCHES_ACROSS = 90  # a tile holds 90 x 90 patches


class Acquisition(NamedTuple):
    """One pass over one tile: how it is named, where the tile lies (UTM), and what the country looks like."""

    name: str
    date: str
    source: str
    zone: int
    west: int
    north: int
    season: str
    landscapes: tuple[str, ...]


ACQUISITIONS = (
    Acquisition(
        "S2A_MSIL2A_20170708T101031", "2017-07-08 10:10:31",
        "S2A_MSIL1C_20170708T101031_N0205_R022_T33UUP_20170708T101608.SAFE",
        33, 300000, 5400000, "summer", ("plain", "smallholdings", "woods", "valley", "town", "heights"),
    ),
    Acquisition(
        "S2B_MSIL2A_20170907T93020", "2017-09-07 09:30:20",
        "S2B_MSIL1C_20170907T93020_N0205_R136_T35VPK_20170907T093132.SAFE",
        35, 600000, 7000020, "autumn", ("woods", "bog", "lakes", "plain"),
    ),
    Acquisition(
        "S2A_MSIL2A_20171206T112501", "2017-12-06 11:25:01",
        "S2A_MSIL1C_20171206T112501_N0206_R037_T29SND_20171206T114356.SAFE",
        29, 499980, 4400040, "winter", ("vineyards", "smallholdings", "coast", "valley"),
    ),
    Acquisition(
        "S2A_MSIL2A_20170528T113321", "2017-05-28 11:33:21",
        "S2A_MSIL1C_20170528T113321_N0205_R080_T29UPU_20170528T113319.SAFE",
        29, 600000, 5900040, "spring", ("grassland", "plain", "coast", "bog", "town"),
    ),
    Acquisition(
        "S2B_MSIL2A_20180512T94161", "2018-05-12 09:41:56",
        "S2B_MSIL1C_20180512T94161_N0206_R036_T35VPK_20180512T115809.SAFE",
        35, 600000, 7000020, "spring", ("lakes", "woods", "bog"),
    ),
)  # fmt: skip

_PROJECTION = (
    'PROJCS["WGS 84 / UTM zone {zone}N",GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,'
    '298.257223563,AUTHORITY["EPSG","7030"]],AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],'
    'UNIT["degree",0.0174532925199433,AUTHORITY["EPSG","9122"]],AXIS["Latitude",NORTH],AXIS["Longitude",EAST],'
    'AUTHORITY["EPSG","4326"]],PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],'
    'PARAMETER["central_meridian",{meridian}],PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],'
    'PARAMETER["false_northing",0],UNIT["metre",1,AUTHORITY["EPSG","9001"]],AXIS["Easting",EAST],'
    'AXIS["Northing",NORTH],AUTHORITY["EPSG","{epsg}"]]'
)


def write_bigearthnet_layout(folder: Path, *, patches: int, seed: int) -> None:
    """Generate patches into `folder`, unless it is there already, generated from the same settings.

    The folder appears complete or not at all. A folder that holds something else is a `DatasetError`.
    """
    most = len(ACQUISITIONS) * PATCHES_ACROSS**2
    if not 1 <= patches <= most:
        raise UserError(f"{patches} patches asked for; 1 to {most} can be generated")
    manifest = {
        "data_set": "BigEarthNet miniature",
        "generator_version": GENERATOR_VERSION,
        "patches": patches,
        "seed": seed,
    }
    with generated_folder(folder, manifest) as partial:
        if partial is not None:
            for number, (acquisition, column, row) in enumerate(_places(patches, seed)):
                _write_patch(partial, acquisition, column, row, number, seed)


def _places(patches: int, seed: int) -> list[tuple[Acquisition, int, int]]:
    """Acquisitions in turn, each patch at a place of its own in the tile's grid."""
    rng = np.random.default_rng(derive(seed, "places"))
    grids = [rng.permutation(PATCHES_ACROSS**2) for _ in ACQUISITIONS]
    places = []
    for number in range(patches):
        turn, which = divmod(number, len(ACQUISITIONS))
        column, row = divmod(int(grids[which][turn]), PATCHES_ACROSS)
        places.append((ACQUISITIONS[which], column, row))
    return places


def _write_patch(folder: Path, acquisition: Acquisition, column: int, row: int, number: int, seed: int) -> None:
    name = f"{acquisition.name}_{column}_{row}"
    kinds = acquisition.landscapes
    kind = kinds[number // len(ACQUISITIONS) % len(kinds)]
    patch = landscapes.paint(kind, acquisition.season, derive(seed, name))
    west, north = acquisition.west + column * PATCH_METRES, acquisition.north - row * PATCH_METRES
    target = folder / name
    target.mkdir()
    for band, pixels in patch.bands.items():
        metres = PATCH_METRES / len(pixels)
        content = geotiff.encode(pixels, west=west, north=north, metres=metres, zone=acquisition.zone)
        (target / f"{name}_{band}.tif").write_bytes(content)
    metadata = _metadata(acquisition, patch.labels, west, north)
    (target / f"{name}_labels_metadata.json").write_text(json.dumps(metadata))


def _metadata(acquisition: Acquisition, labels: tuple[str, ...], west: int, north: int) -> dict[str, Any]:
    zone = acquisition.zone
    lower_right = {"lrx": west + PATCH_METRES, "lry": north - PATCH_METRES}
    return {
        "labels": sorted(labels, key=landscapes.COVER_NAMES.index),
        "coordinates": {"ulx": west, "uly": north, **lower_right},
        "projection": _PROJECTION.format(zone=zone, meridian=6 * zone - 183, epsg=32600 + zone),
        "tile_source": acquisition.source,
        "acquisition_date": acquisition.date,
    }
