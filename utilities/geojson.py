"""Places on the ground as GeoJSON (RFC 7946); rasterio knows every projection."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from utilities.errors import DatasetError
from utilities.files import replacing
from utilities.rasters import Footprint, rasterio_module

WGS84 = "EPSG:4326"
FARTHEST = 1e8  # metres or degrees: more than any projection of the Earth has
DIGITS = 7  # of a degree: a centimetre
Ring = list[list[float]]


def ring(footprint: Footprint) -> Ring:
    """The corners as [longitude, latitude] in WGS 84: counter-clockwise, the first again at the end.

    For images of a few kilometres, whose edges are straight in both, and not across the antimeridian, where
    RFC 7946 asks for two polygons. DatasetError for corners that lie nowhere on Earth.
    """
    need = "footprints on the map"
    warp, errors = rasterio_module(need, "rasterio.warp"), rasterio_module(need, "rasterio.errors")
    xs, ys = zip(*footprint.corners, footprint.corners[0], strict=True)
    nowhere = f"the corners {', '.join(f'({x:g}, {y:g})' for x, y in footprint.corners)} lie nowhere on Earth"
    if not all(abs(value) < FARTHEST for value in (*xs, *ys)):
        raise DatasetError(nowhere)  # GDAL has errors of its own for these
    try:
        longitudes, latitudes = warp.transform(footprint.projection, WGS84, xs, ys)
    except errors.CRSError as error:
        raise DatasetError(f"unknown projection {footprint.projection[:80]!r}: {error}") from error
    if not all(map(math.isfinite, (*longitudes, *latitudes))):
        raise DatasetError(nowhere)
    return [[round(x, DIGITS), round(y, DIGITS)] for x, y in zip(longitudes, latitudes, strict=True)]


def feature(outline: Ring | None, properties: Mapping[str, Any]) -> dict[str, Any]:
    """A feature; without an outline an unlocated one, as RFC 7946 has it (section 3.2)."""
    geometry = None if outline is None else {"type": "Polygon", "coordinates": [outline]}
    return {"type": "Feature", "geometry": geometry, "properties": dict(properties)}


def write_geojson(path: Path, features: Iterable[Mapping[str, Any]]) -> None:
    """A FeatureCollection, one feature a line."""
    lines = ",\n".join(json.dumps(each, ensure_ascii=False, allow_nan=False) for each in features)
    with replacing(path) as temporary:
        temporary.write_text(f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n', encoding="utf-8")
