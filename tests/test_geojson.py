"""Places on the ground: the same as rasterio's own, and GeoJSON as RFC 7946 wants it."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.bigearthnet.dataset import BigEarthNet
from datasets.bigearthnet.footprints import patch_footprint
from datasets.demo.dataset import Demo
from tests.miniatures import SHARED, write_reben
from tests.sentinel.patches import write_bigearthnet_layout
from utilities.errors import DatasetError, UserError
from utilities.geojson import DIGITS, feature, ring, write_geojson
from utilities.rasters import Footprint, raster_footprint

REAL = sorted((SHARED / "BigEarthNet").glob("S2*"))
NEEDS_RASTERIO = pytest.mark.skipif(importlib.util.find_spec("rasterio") is None, reason="rasterio is not installed")
needs_real = pytest.mark.skipif(not REAL, reason=f"no BigEarthNet patches in {SHARED / 'BigEarthNet'}")
SQUARE = Footprint.upright("EPSG:32633", west=500_000, south=5_400_000, east=501_200, north=5_401_200)
"""Its western edge is the central meridian of zone 33."""


def area(outline: list[list[float]]) -> float:
    """Signed, positive where the ring runs counter-clockwise (shoelace)."""
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(outline)) / 2


def assert_valid(collection: dict[str, Any]) -> None:
    """RFC 7946: 3.1.6 closed rings of four positions or more, the exterior counter-clockwise; 3.2; 3.3; 4: degrees."""
    assert collection["type"] == "FeatureCollection"
    assert "crs" not in collection
    for each in collection["features"]:
        assert each["type"] == "Feature"
        assert each.keys() >= {"geometry", "properties"}
        if each["geometry"] is None:
            continue
        assert each["geometry"]["type"] == "Polygon"
        for outline in each["geometry"]["coordinates"]:
            assert len(outline) >= 4
            assert outline[0] == outline[-1]
            assert area(outline) > 0
            for longitude, latitude in outline:
                assert -180 <= longitude <= 180
                assert -90 <= latitude <= 90


@NEEDS_RASTERIO
def test_a_ring_in_closed_form() -> None:
    """On the central meridian the longitude is exact; a side of 1,200 m scaled by 0.9996 is 1,200.48 m of ground."""
    outline = ring(SQUARE)
    assert outline[0] == outline[-1]
    south_west, south_east, north_east, north_west, _ = outline
    assert south_west[0] == north_west[0] == 15
    assert south_east[1] == pytest.approx(south_west[1], abs=2e-6)
    assert north_east[1] > south_east[1]
    latitude = math.radians(south_west[1])
    curvature = 1 - 0.00669438 * math.sin(latitude) ** 2
    east = math.radians(south_east[0] - 15) * math.cos(latitude) * 6_378_137 / math.sqrt(curvature)
    north = math.radians(north_west[1] - south_west[1]) * 6_378_137 * (1 - 0.00669438) / curvature**1.5
    assert (east, north) == (pytest.approx(1200 / 0.9996, abs=0.1), pytest.approx(1200 / 0.9996, abs=0.1))


@needs_real
@pytest.mark.parametrize("folder", REAL, ids=lambda folder: folder.name)
def test_real_patches_lie_where_rasterio_sees_them(folder: Path) -> None:
    """The JSON, the tags of the GeoTIFF and rasterio's own bounds agree."""
    rasterio = pytest.importorskip("rasterio")
    outline = ring(patch_footprint(folder))
    band = folder / f"{folder.name}_B02.tif"
    assert outline == ring(raster_footprint(band))
    with rasterio.open(band) as raster:
        west, south, east, north = rasterio.warp.transform_bounds(raster.crs, "EPSG:4326", *raster.bounds)
    longitudes, latitudes = zip(*outline, strict=True)
    assert (min(longitudes), min(latitudes)) == pytest.approx((west, south), abs=10**-DIGITS)
    assert (max(longitudes), max(latitudes)) == pytest.approx((east, north), abs=10**-DIGITS)
    assert_valid({"type": "FeatureCollection", "features": [feature(outline, {})]})


@NEEDS_RASTERIO
def test_generated_patches_of_both_versions(tmp_path: Path) -> None:
    write_bigearthnet_layout(tmp_path / "v1", patches=5, seed=0)
    for folder in (tmp_path / "v1").glob("S2*"):
        from_json = ring(patch_footprint(folder))
        next(folder.glob("*.json")).unlink()  # version 2 has none
        assert ring(patch_footprint(folder)) == from_json
        for path in list(folder.glob("S2*_B01.tif")):  # what macOS leaves beside files on other systems' disks
            (folder / f"._{path.name}").write_bytes(b"\0\5\x16\7")
        (folder / f"._{folder.name}_labels_metadata.json").write_bytes(b"\0\5\x16\7")
        assert ring(patch_footprint(folder)) == from_json
        assert area(from_json) > 0


@NEEDS_RASTERIO
def test_rows_from_the_south_turn_no_ring_round(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    outlines = []
    for name, place in (("north.tif", (10, 0, 5e5, 0, -10, 54e5 + 80)), ("south.tif", (10, 0, 5e5, 0, 10, 54e5))):
        size = {"width": 8, "height": 8, "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
        with rasterio.open(tmp_path / name, "w", driver="GTiff", transform=rasterio.Affine(*place), **size) as raster:
            raster.write(np.ones((1, 8, 8), np.uint8))
        outlines.append(ring(raster_footprint(tmp_path / name)))
    assert outlines[0] == outlines[1]
    assert area(outlines[1]) > 0


@NEEDS_RASTERIO
def test_an_image_turned_on_the_ground_has_its_own_corners(tmp_path: Path) -> None:
    """As scenes along the path of a satellite: rows run to the east of south."""
    rasterio = pytest.importorskip("rasterio")
    turned = rasterio.Affine(8, 6, 5e5, 6, -8, 54e5)  # by atan(6 / 8), pixels of 10 m
    size = {"width": 6, "height": 4, "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(tmp_path / "turned.tif", "w", driver="GTiff", transform=turned, **size) as raster:
        raster.write(np.ones((1, 4, 6), np.uint8))
    footprint = raster_footprint(tmp_path / "turned.tif")
    left, right = (5e5 + 24, 54e5 - 32), (5e5 + 24 + 48, 54e5 - 32 + 36)  # of the lowest row
    assert footprint.corners == (left, right, (5e5 + 48, 54e5 + 36), (5e5, 54e5))
    assert area(ring(footprint)) > 0


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@NEEDS_RASTERIO
def test_a_patch_that_does_not_say_where_it_lies(tmp_path: Path) -> None:
    root = write_reben(tmp_path, 6)
    options: dict[str, Any] = {"labels": 19, "bands": "all", "version": 2, "splits": "auto", "index_path": None}
    test = BigEarthNet(source_path=root, split="test", **options)
    with pytest.raises(DatasetError, match=r"_B01\.tif has no projection"):
        patch_footprint(test.path(0))
    found, notes = test.outlines(range(len(test)))
    assert found == [None] * len(test)
    (note,) = notes
    assert f"the places of {len(test)} of {len(test)} images are not known" in note
    with pytest.raises(DatasetError, match="nothing says where it lies"):
        patch_footprint(tmp_path / "absent")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "x_labels_metadata.json").write_text('{"coordinates": {"ulx": 1}}')
    with pytest.raises(DatasetError, match=r"x_labels_metadata\.json does not say where .* 'uly'|'projection'"):
        patch_footprint(broken)
    with pytest.raises(DatasetError, match="unknown projection 'PROJCS"):
        ring(SQUARE._replace(projection="PROJCS[]"))


def test_photographs_have_no_place_and_say_nothing(demo_run: tuple[Path, Path]) -> None:
    test = Demo(source_path=demo_run[0], split="test", images_per_category=8, side=48, seed=0)
    assert test.outlines([0, 1]) == ([None, None], [])


def test_without_rasterio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio.warp", None)
    with pytest.raises(UserError, match="pip install rasterio"):
        ring(SQUARE)


@pytest.mark.parametrize("x", [1e30, math.nan, math.inf])
@NEEDS_RASTERIO
def test_corners_that_lie_nowhere_are_refused(x: float) -> None:
    with pytest.raises(DatasetError, match="lie nowhere on Earth"):
        ring(Footprint.upright("EPSG:32633", west=x, south=5_400_000, east=501_200, north=5_401_200))


def test_what_is_no_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_geojson(tmp_path / "a.geojson", [feature(None, {"distance": math.nan})])


@NEEDS_RASTERIO
def test_a_written_collection_is_valid(tmp_path: Path) -> None:
    features = [feature(ring(SQUARE), {"name": 'Sjö "1"', "labels": ["a, b"]}), feature(None, {"name": "nowhere"})]
    write_geojson(tmp_path / "a.geojson", features)
    read = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))
    assert_valid(read)
    assert read["features"] == features
    assert np.shape(read["features"][0]["geometry"]["coordinates"]) == (1, 5, 2)
