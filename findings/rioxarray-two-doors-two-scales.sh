#!/usr/bin/env bash
# One GeoTIFF, one library, two doors: xarray.open_dataset applies scale and offset, rioxarray.open_rasterio does
# not.
#
# Versions:   rioxarray 0.19.0, xarray 2026.9.0, rasterio 1.4.4, numpy 2.4.6
# Behaviour:  a band with scale 0.0001 and offset -0.1 (Sentinel-2 L2A from baseline 04.00 on) is read as 5000 by
#             open_rasterio, as 5000.0 by open_rasterio(masked=True), and as 0.4 by open_dataset(engine="rasterio"),
#             which rioxarray provides.
# Surprise:   the second is the first behind xarray's usual entrance; and masked=True sounds like the decoding half of
#             mask_and_scale, but does only the mask.
# Cost:       changing the way of opening rescales the bands by 10,000; where normalisation is by the patch's own
#             statistics nobody sees it, where it is by the data set's, all is a constant.
# Source:     rioxarray/xarray_plugin.py has mask_and_scale=True, rioxarray/_io.py open_rasterio has
#             mask_and_scale=False.
# Seen:       5000 uint16, 5000.0 float32, 0.4 float32.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    rioxarray==0.19.0 xarray==2026.9.0 rasterio==1.4.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import rasterio
import rioxarray
import xarray

with rasterio.open("band.tif", "w", driver="GTiff", count=1, height=4, width=4, dtype="uint16", nodata=0) as dataset:
    dataset.write(np.full((1, 4, 4), 5000, dtype=np.uint16))
    dataset.scales, dataset.offsets = (0.0001,), (-0.1,)
plain = rioxarray.open_rasterio("band.tif")
masked = rioxarray.open_rasterio("band.tif", masked=True)
decoded = xarray.open_dataset("band.tif", engine="rasterio")["band_data"]
for array in (plain, masked, decoded):
    print(array.dtype, array.values.ravel()[0])
assert plain.dtype == np.uint16 and (plain == 5000).all()
assert masked.dtype == np.float32 and (masked == 5000).all()
np.testing.assert_allclose(decoded, 0.4, rtol=1e-5)
PYTHON
