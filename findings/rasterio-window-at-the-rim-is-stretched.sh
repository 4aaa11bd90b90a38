#!/usr/bin/env bash
# A rasterio window that reaches over the rim, read with out_shape, is stretched: its pixels are doubled, not padded.
#
# Versions:   rasterio 1.4.4 (GDAL 3.10.3 in the wheel), numpy 2.4.6
# Behaviour:  read(window=Window(2, 2, 4, 4), out_shape=(4, 4)) of a 4 x 4 raster first cuts the window to the 2 x 2
#             pixels inside, then resamples these to 4 x 4. No padding, no error, no warning.
# Surprise:   out_shape equal to the window's own size looks like a safeguard ("give me 4 x 4 in any case") and asks
#             for no resampling.
# Cost:       patches cut from a scene come out in the size asked for, all of them, so nothing fails; those at the
#             right and lower rim show the ground at another scale (here 5 m instead of 10 m pixels), shifted against
#             their bounds. boundless=True is what pads.
# Source:     rasterio/_io.pyx, DatasetReaderBase.read: without boundless the window is cropped to the dataset before
#             reading, and out_shape stays as given.
# Seen:       [[10, 10, 11, 11], [10, 10, 11, 11], [14, 14, 15, 15], [14, 14, 15, 15]].
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check rasterio==1.4.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import rasterio
from rasterio.windows import Window

scene = np.arange(16, dtype=np.uint16).reshape(4, 4)
with rasterio.open("scene.tif", "w", driver="GTiff", count=1, height=4, width=4, dtype="uint16") as dataset:
    dataset.write(scene, 1)
with rasterio.open("scene.tif") as dataset:
    window = Window(2, 2, 4, 4)
    stretched = dataset.read(1, window=window, out_shape=(4, 4))
    padded = dataset.read(1, window=window, out_shape=(4, 4), boundless=True, fill_value=0)
print(stretched.tolist())
np.testing.assert_array_equal(stretched, np.kron(scene[2:, 2:], np.ones((2, 2), dtype=np.uint16)))
np.testing.assert_array_equal(padded, np.pad(scene[2:, 2:], ((0, 2), (0, 2))))
PYTHON
