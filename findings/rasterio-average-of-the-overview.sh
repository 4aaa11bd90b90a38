#!/usr/bin/env bash
# rasterio's read(out_shape, resampling=average) averages the overview, if the file has one, not the pixels.
#
# Versions:   rasterio 1.4.4 (GDAL 3.10.3 in the wheel), numpy 2.4.6
# Behaviour:  rows alternate 0 and 255; read at half size with resampling=average gives 128. After build_overviews with
#             nearest (what gdaladdo does unless told otherwise) the very same call gives 0 or 255 everywhere; so does
#             a size between the levels.
# Surprise:   the pixels are as before and the call names its resampling; an overview is thought of as a cache for
#             viewers.
# Cost:       20 m bands made from 10 m ones, or thumbnails for an embedding, depend on whether somebody once looked at
#             the file in a GIS that offered to build pyramids. Opening with OVERVIEW_LEVEL="NONE" reads the pixels.
# Source:     GDAL's raster I/O picks the overview next in size before it resamples (GDALBandGetBestOverviewLevel2);
#             rasterio's manual mentions decimated reads, not this.
# Seen:       128 without overview; 255 with it, at (32, 32) and at (20, 20); 128 again with OVERVIEW_LEVEL=NONE.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check rasterio==1.4.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import rasterio
from rasterio.enums import Resampling

rows = np.zeros((64, 64), dtype=np.uint8)
rows[::2] = 255
with rasterio.open("rows.tif", "w", driver="GTiff", count=1, height=64, width=64, dtype="uint8") as dataset:
    dataset.write(rows, 1)


def average(size, **options):
    with rasterio.open("rows.tif", **options) as dataset:
        return np.unique(dataset.read(1, out_shape=(size, size), resampling=Resampling.average)).tolist()


before = average(32)
with rasterio.open("rows.tif", "r+") as dataset:
    dataset.build_overviews([2], Resampling.nearest)
after, between, pixels = average(32), average(20), average(32, OVERVIEW_LEVEL="NONE")
print("before", before, "after", after, "at 20 x 20", between, "without overviews", pixels)
assert before == [128]
assert after in ([0], [255]) and between in ([0], [255])
assert pixels == [128]
PYTHON
