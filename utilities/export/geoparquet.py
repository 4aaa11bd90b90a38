"""Embeddings as a table, one row an image, with places on the ground as GeoParquet 1.1; the only pyarrow import here.

    name          string
    split         string: train, val or test; "all" for an image of an archive that is in none
    labels        list of string, in the order of the data set
    embedding     fixed-size list of float32, a unit row
    date          day of acquisition, where names tell it
    geometry      footprint as WKB in longitude and latitude (OGC:CRS84), null where it is not known
    bbox          its bounds, by which readers skip rows: xmin, ymin, xmax, ymax

The last two are there where any place is known; without them the file is plain Parquet.
"""

from __future__ import annotations

import datetime
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from utilities.errors import UserError
from utilities.files import replacing
from utilities.geojson import Ring

VERSION = "1.1.0"  # of the specification
ROWS = 2**14  # of a row group: what a reader skips or reads at once
_POLYGON = 3  # in well-known binary


def write_table(
    path: Path,
    *,
    names: np.ndarray,
    splits: Sequence[str],
    labels: np.ndarray,
    label_names: Sequence[str],
    embeddings: np.ndarray,
    places: Sequence[Ring | None],
    dates: Sequence[datetime.date | None],
    facts: Mapping[str, str],
) -> None:
    """Write N rows. labels (N, L) bool, embeddings (N, D) float32; facts: plain strings kept in the file's metadata."""
    pyarrow = arrow_module()
    from pyarrow import parquet

    spelled = np.asarray(label_names)
    columns: dict[str, Any] = {
        "name": pyarrow.array([str(name) for name in names]),
        "split": pyarrow.array(list(splits)),
        "labels": pyarrow.array([spelled[row].tolist() for row in labels], pyarrow.list_(pyarrow.string())),
        "embedding": pyarrow.FixedSizeListArray.from_arrays(
            pyarrow.array(np.ascontiguousarray(embeddings, np.float32).ravel()), embeddings.shape[1]
        ),
    }
    metadata = dict(facts)
    if any(date is not None for date in dates):
        columns["date"] = pyarrow.array(dates, pyarrow.date32())
    if any(place is not None for place in places):
        columns["geometry"] = pyarrow.array([place and polygon(place) for place in places], pyarrow.binary())
        corners = ("xmin", "ymin", "xmax", "ymax")
        box = pyarrow.struct([(corner, pyarrow.float64()) for corner in corners])
        bounds = [place and dict(zip(corners, bounds_of([place]), strict=True)) for place in places]
        columns["bbox"] = pyarrow.array(bounds, box)
        metadata["geo"] = json.dumps(geo_metadata([place for place in places if place is not None]))
    table = pyarrow.table(columns).replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd", row_group_size=ROWS)


def geo_metadata(places: Sequence[Ring]) -> dict[str, Any]:
    """The value of the key "geo" (GeoParquet 1.1.0). Without "crs" coordinates are OGC:CRS84, as they are here."""
    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "orientation": "counterclockwise",
        "bbox": bounds_of(places),
        "covering": {"bbox": {corner: ["bbox", corner] for corner in ("xmin", "ymin", "xmax", "ymax")}},
    }
    return {"version": VERSION, "primary_column": "geometry", "columns": {"geometry": column}}


def bounds_of(places: Sequence[Ring]) -> list[float]:
    """[west, south, east, north] of all."""
    corners = np.asarray([corner for place in places for corner in place])
    return [*corners.min(0).tolist(), *corners.max(0).tolist()]


def polygon(place: Ring) -> bytes:
    """Well-known binary of one ring, little-endian."""
    head = struct.pack("<BIII", 1, _POLYGON, 1, len(place))
    return head + np.asarray(place, "<f8").tobytes()


def arrow_module() -> ModuleType:
    """pyarrow; UserError saying what to install where there is none."""
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(f"--export geoparquet writes with pyarrow ({error}): pip install pyarrow") from None
    return pyarrow
