#!/usr/bin/env bash
# skimage.io.imread moves the axes of a TIFF with 3 or 4 bands, and leaves those with 2, 10 or 12.
#
# Versions:   scikit-image 0.26.0, tifffile 2026.3.3, numpy 2.4.6
# Behaviour:  a file of shape (4, H, W) is read as (H, W, 4), one of (12, H, W) as (12, H, W). tifffile, which does the
#             reading, gives both bands first. A crop of (4, H, 3) pixels stays as it is, since its last axis is 3.
# Surprise:   the 10 m bands and all bands of Sentinel-2 lie alike on disk; one function, two layouts, decided by the
#             count.
# Cost:       code that was tested with B02, B03, B04, B08 and then given 10 bands (or the other way round) normalises
#             rows by band statistics; shapes such as (120, 120, 4) broadcast without an error where H = W.
# Source:     skimage/io/_io.py, imread: two swaps of axes if shape[-1] is not 3 or 4 and shape[-3] is.
# Seen:       (4, 32, 32) -> (32, 32, 4); (12, 32, 32) -> (12, 32, 32); (4, 32, 3) -> (4, 32, 3).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    scikit-image==0.26.0 tifffile==2026.3.3 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import skimage.io
import tifffile


def shapes(*shape):
    tifffile.imwrite("bands.tif", np.zeros(shape, dtype=np.uint16), photometric="minisblack")
    assert tifffile.imread("bands.tif").shape == shape
    print(shape, "->", skimage.io.imread("bands.tif").shape)
    return skimage.io.imread("bands.tif").shape


assert shapes(4, 32, 32) == (32, 32, 4)
assert shapes(3, 32, 32) == (32, 32, 3)
assert shapes(12, 32, 32) == (12, 32, 32)
assert shapes(2, 32, 32) == (2, 32, 32)
assert shapes(4, 32, 3) == (4, 32, 3)
PYTHON
