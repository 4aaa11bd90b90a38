#!/usr/bin/env bash
# rasterio's write() wraps and cuts values that do not fit the band; read(out_dtype=) clamps and rounds them.
#
# Versions:   rasterio 1.4.4 (GDAL 3.10.3 in the wheel), numpy 2.4.6
# Behaviour:  written to a uint16 band, 70000 becomes 4464, -1 becomes 65535 and 1.6 becomes 1, without a warning. Read
#             from such values with out_dtype="uint16" the same numbers become 65535, 0 and 2.
# Surprise:   GDAL converts with clamping and rounding on both ways, and rasterio is GDAL; but on writing rasterio
#             converts the array with numpy before GDAL sees it.
# Cost:       reflectances after an offset (Sentinel-2 from baseline 04.00 on: DN - 1000) or bicubic overshoot below 0
#             become the brightest pixels of the patch, and every fraction is rounded down, half a digital number of
#             bias.
# Source:     rasterio/_io.pyx, DatasetWriterBase.write: the array is cast to the dataset's dtype by numpy; io_band on
#             reading hands the buffer's type to GDALRasterIOEx.
# Seen:       write [4464 65535 1], read [65535 0 2].
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check rasterio==1.4.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import rasterio


def band(path, dtype, values):
    with rasterio.open(path, "w", driver="GTiff", count=1, height=1, width=len(values), dtype=dtype) as dataset:
        dataset.write(np.array([values]), 1)
    return rasterio.open(path)


written = band("integers.tif", "uint16", [70000, -1]).read(1)[0].tolist()
written += band("fractions.tif", "uint16", [1.6]).read(1)[0].tolist()
read = band("wide.tif", "float64", [70000, -1, 1.6]).read(1, out_dtype="uint16")[0].tolist()
print("write", written, "read", read)
assert written == [4464, 65535, 1]
assert read == [65535, 0, 2]
PYTHON
