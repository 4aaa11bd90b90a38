#!/usr/bin/env bash
# One zarr cube in format 2 and in format 3: xarray takes the pixels of value 0 for missing in one, for 0 in the other,
# and the documented switch for it does nothing.
#
# Versions:   xarray 2026.9.0, zarr 3.1.6, numpy 2.4.6
# Behaviour:  create_array of zarr gives both formats the fill value 0, and zarr reads the same uint16 pixels from both.
#             xarray.open_zarr takes the fill value of format 2 for _FillValue: zeros become NaN, the cube becomes
#             float32 and its mean leaves them out. From format 3 it gives uint16 with zeros.
#             use_zarr_fill_value_as_mask=False, and True with format 3, is accepted and changes nothing. A cube that
#             xarray wrote itself has its zeros in both.
# Surprise:   the format is thought of as a way of storage. In zarr a fill value is what an unwritten chunk holds, not
#             a mark for missing pixels, and these pixels were written.
# Cost:       a band's mean and standard deviation for normalising differ between a store and its copy in the newer
#             format: 0 is a valid reflectance (deep shadow, water, what atmospheric correction clips), and here the
#             means are 2.0 and 1.5. NaN goes on into the embeddings. mask_and_scale=False reads both alike (and drops
#             scale and offset too).
# Source:     xarray/backends/zarr.py: use_zarr_fill_value_as_mask is "True for format 2 and False for format 3" where
#             it is None, and open_dataset passes None on, whatever it was given.
# Seen:       format 2: float32, 43243 NaN, mean 2.0017; format 3: uint16, no NaN, mean 1.5008.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    xarray==2026.9.0 zarr==3.1.6 numpy==2.4.6 pandas==3.1.1
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import xarray as xr
import zarr

axes = ["band", "y", "x"]
pixels = np.random.RandomState(0).randint(0, 4, (12, 120, 120)).astype(np.uint16)


def cube(version, **options):
    path = f"cube{version}.zarr"
    group = zarr.create_group(path, zarr_format=version, overwrite=True)
    names = {"dimension_names": axes} if version == 3 else {"attributes": {"_ARRAY_DIMENSIONS": axes}}
    array = group.create_array("bands", shape=pixels.shape, chunks=(1, 120, 120), dtype="uint16", **names)
    array[:] = pixels
    assert array.fill_value == 0 and np.array_equal(zarr.open(path)["bands"][:], pixels), "zarr: the same pixels"
    bands = xr.open_zarr(path, consolidated=False, **options)["bands"]
    missing, mean = int(bands.isnull().sum()), round(float(bands.mean()), 4)
    print(f"format {version} {options}: {bands.dtype}, {missing} NaN, mean {mean}")
    return str(bands.dtype), missing, mean


def by_xarray(version):
    xr.Dataset({"bands": (axes, pixels)}).to_zarr(f"own{version}.zarr", zarr_format=version)
    return xr.open_zarr(f"own{version}.zarr")["bands"]


zeros = int((pixels == 0).sum())
whole = round(float(pixels.mean()), 4)
assert cube(2) == ("float32", zeros, round(float(pixels[pixels > 0].mean()), 4)), "every zero is missing"
assert cube(3) == ("uint16", 0, whole)
assert cube(2, use_zarr_fill_value_as_mask=False) == cube(2), "the switch does nothing"
assert cube(3, use_zarr_fill_value_as_mask=True) == cube(3), "nor here"
assert cube(2, mask_and_scale=False) == cube(3)
assert np.array_equal(by_xarray(2), pixels) and np.array_equal(by_xarray(3), pixels)
PYTHON
