#!/usr/bin/env bash
# tifffile writes a 12-band cube that rasterio opens as one band, or as 120 images of 120 x 12 pixels.
#
# Versions:   tifffile 2026.3.3, rasterio 1.4.4 (GDAL 3.10.3 in the wheel), numpy 2.4.6
# Behaviour:  imwrite of (12, 120, 120) makes 12 pages; of (120, 120, 12) it makes 120 pages of 120 x 12 pixels.
#             rasterio, which takes a page for an image of its own, sees count = 1. With 3 or 4 bands, in either order,
#             both agree.
# Surprise:   tifffile reads its own file back in the shape given, through a note in the file's description that only
#             it knows; and a test with RGB passes.
# Cost:       the whole patch is 12 bands for one half of the pipeline and B01 alone for the other; "read(1)" of the
#             second file is a strip of 120 x 12. photometric="minisblack" with planarconfig="separate" (or "contig")
#             writes what GDAL calls bands.
# Source:     tifffile's TiffWriter.write: without photometric and planarconfig, axes beyond the last two become pages,
#             unless the shape looks like RGB(A); GDAL's GTiff driver shows further pages as subdatasets.
# Seen:       (12, 120, 120): 1 band of (120, 120), 12 subdatasets; (120, 120, 12): 1 band of (120, 12), 120
#             subdatasets; (4, 120, 120): 4 bands of (120, 120).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    tifffile==2026.3.3 rasterio==1.4.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import rasterio
import tifffile


def bands(shape, **options):
    tifffile.imwrite("cube.tif", np.zeros(shape, dtype=np.uint16), **options)
    assert tifffile.imread("cube.tif").shape == shape
    with rasterio.open("cube.tif") as dataset:
        print(shape, options, dataset.count, dataset.shape, len(dataset.subdatasets))
        return dataset.count, dataset.shape, len(dataset.subdatasets)


assert bands((12, 120, 120)) == (1, (120, 120), 12)
assert bands((120, 120, 12)) == (1, (120, 12), 120)
assert bands((4, 120, 120)) == (4, (120, 120), 0)
assert bands((12, 120, 120), photometric="minisblack", planarconfig="separate") == (12, (120, 120), 0)
PYTHON
