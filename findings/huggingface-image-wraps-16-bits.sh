#!/usr/bin/env bash
# The Image feature of Hugging Face's datasets keeps 16 bits for one band and wraps them to 8 for three.
#
# Versions:   datasets 5.2.0, pillow 13.0.0, numpy 2.4.6
# Behaviour:  a uint16 array (H, W) is stored and read as I;16, value 300. As (H, W, 3) or (H, W, 4) it is stored with
#             "astype uint8": 300 becomes 44, 256 becomes 0. A Python warning speaks of "downcasting"; the values are
#             not scaled.
# Surprise:   a test with one band passes, and a downcast of an image is expected to scale or clip; the bright half of
#             a scene turns into bands of noise while dark water looks right.
# Cost:       Sentinel-2 RGB or RGB + NIR composites pushed to a hub as Image are destroyed; every value above 255 is
#             lost for good. Array3D(dtype="uint16") keeps them.
# Source:     datasets/features/image.py, encode_np_array: several channels allow |u1 alone, then
#             array.astype(dest_dtype).
# Seen:       one band I;16 300; three bands uint8 [44, 0, 255] for [300, 256, 65535].
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    datasets==5.2.0 pillow==13.0.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from datasets import Dataset, Features, Image


def stored(array):
    image = Dataset.from_dict({"image": [array]}, features=Features({"image": Image()}))[0]["image"]
    return image.mode, np.asarray(image)


mode, pixels = stored(np.full((4, 4), 300, dtype=np.uint16))
print(mode, pixels[0, 0])
assert mode == "I;16" and (pixels == 300).all()
mode, pixels = stored(np.tile(np.array([300, 256, 65535], dtype=np.uint16), (4, 4, 1)))
print(mode, pixels.dtype, pixels[0, 0])
assert mode == "RGB" and pixels.dtype == np.uint8 and pixels[0, 0].tolist() == [44, 0, 255]
PYTHON
