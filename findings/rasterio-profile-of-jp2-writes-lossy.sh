#!/usr/bin/env bash
# A cropped copy of a lossless Sentinel-2 JPEG 2000, written with the source's profile to "crop.tif", is a lossy JPEG
# 2000.
#
# Versions:   rasterio 1.4.4 (GDAL 3.10.3 and OpenJPEG in the wheel), numpy 2.4.6
# Behaviour:  profile carries driver="JP2OpenJPEG" on, not the reversible coding; GDAL then writes with its own choice
#             of QUALITY=25 and an irreversible wavelet. The name's ".tif" decides nothing. Nearly every pixel of a
#             textured scene changes.
# Surprise:   "profile = src.profile; profile.update(height=, width=)" is the recipe of the manual, and for GeoTIFF it
#             copies exactly.
# Cost:       patches cut from Sentinel-2 granules differ from the archive's by up to dozens of digital numbers; band
#             statistics hardly move, so it goes unseen. driver="GTiff" or QUALITY=100, REVERSIBLE=YES mends it.
# Source:     GDAL's page on JP2OpenJPEG, creation options QUALITY and REVERSIBLE; rasterio's profile holds driver,
#             size, type, blocks, not the coding.
# Seen:       the source equals its array; the copy differs in most pixels; its driver is JP2OpenJPEG.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check rasterio==1.4.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import rasterio

generator = np.random.default_rng(0)
slope = np.add.outer(np.arange(240), np.arange(240)) * 8
scene = (1000 + slope + generator.normal(0, 200, (240, 240))).clip(1, 10000).astype(np.uint16)
options = {"driver": "JP2OpenJPEG", "count": 1, "height": 240, "width": 240, "dtype": "uint16"}
with rasterio.open("granule.jp2", "w", QUALITY=100, REVERSIBLE="YES", **options) as dataset:
    dataset.write(scene, 1)
with rasterio.open("granule.jp2") as source:
    np.testing.assert_array_equal(source.read(1), scene)
    profile = source.profile
    profile.update(height=120, width=120)
    with rasterio.open("crop.tif", "w", **profile) as target:
        target.write(source.read(window=((0, 120), (0, 120))))
with rasterio.open("crop.tif") as copy:
    difference = np.abs(copy.read(1).astype(int) - scene[:120, :120])
    print(copy.driver, f"changed {(difference > 0).mean():.3f}, most {difference.max()}")
    assert copy.driver == "JP2OpenJPEG"
assert (difference > 0).mean() > 0.5 and difference.max() > 10
PYTHON
