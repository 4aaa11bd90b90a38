#!/usr/bin/env bash
# rasterio.merge treats 0 as missing where no file declares nodata: a valid 0 loses to whatever lies under it, even
# in "min".
#
# Versions:   rasterio 1.4.4 (GDAL 3.10.3 in the wheel), numpy 2.4.6
# Behaviour:  two uint16 files without nodata overlap, the first holds 0 there, the second 9. method="first" gives 9,
#             and so does "min". method="count" says that both pixels are valid.
# Surprise:   without nodata every pixel is valid (dataset_mask() is 255 throughout), and min(0, 9) is 0.
# Cost:       mosaics of label rasters (class 0), of reflectances clipped at 0 (deep water, shadow) or of masks take
#             the neighbour's value in the overlap; files of one scene cut with an overlap look right, files of two
#             dates do not.
# Source:     rasterio/merge.py, merge(): nodataval falls back to 0, and the region painted so far counts as empty
#             wherever it equals nodataval.
# Seen:       first [9], min [9], count [2].
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check rasterio==1.4.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import rasterio
from rasterio.merge import merge
from rasterio.transform import from_origin


def write(path, value):
    options = {"driver": "GTiff", "count": 1, "height": 4, "width": 4, "dtype": "uint16", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", transform=from_origin(500000, 5000000, 10, 10), **options) as dataset:
        dataset.write(np.full((1, 4, 4), value, dtype=np.uint16))


write("zero.tif", 0)
write("nine.tif", 9)
with rasterio.open("zero.tif") as dataset:
    assert dataset.nodata is None and (dataset.dataset_mask() == 255).all(), "every pixel is valid"
paths = ["zero.tif", "nine.tif"]
result = {method: np.unique(merge(paths, method=method)[0]).tolist() for method in ("first", "min", "count")}
print(result)
assert result == {"first": [9], "min": [9], "count": [2]}
PYTHON
