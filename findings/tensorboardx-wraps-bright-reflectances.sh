#!/usr/bin/env bash
# tensorboardX turns reflectances above 1 dark and negative ones bright, where PyTorch's own writer clips.
#
# Versions:   tensorboardX 2.6.5, pillow 13.0.0, numpy 2.4.6
# Behaviour:  add_image of floats multiplies by 255 and casts to uint8 without clipping: 1.2 becomes 50 (wrapped), -0.1
#             becomes 231; a uint16 picture is multiplied as well.
# Surprise:   the package is the origin of torch.utils.tensorboard and used in its place; that one has .clip(0, 255) at
#             the same spot.
# Cost:       Sentinel-2 reflectance exceeds 1 over clouds, snow and roofs, and falls below 0 after the offset of
#             baseline 04.00: these, and only these, pixels are wrong in the logged picture, as dark holes in clouds
#             that look like a fault of the data.
# Source:     tensorboardX/summary.py, make_image: (tensor_image * 255.0).astype(uint8); compare make_image's clip in
#             torch/utils/tensorboard/summary.py.
# Seen:       [0.5, 1.0, 1.2, -0.1] -> [127, 255, 50, 231].
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    tensorboardX==2.6.5 pillow==13.0.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import io

import numpy as np
from PIL import Image
from tensorboardX.summary import image

reflectance = np.array([0.5, 1.0, 1.2, -0.1])
picture = np.tile(reflectance, (3, 4, 1))  # bands, rows, columns
written = image("patch", picture).value[0].image.encoded_image_string
pixels = np.asarray(Image.open(io.BytesIO(written)))[0, :, 0].tolist()
print(reflectance.tolist(), "->", pixels)
assert pixels[:2] == [127, 255]
assert pixels[2] < 60, "1.2 is darker than 0.5"
assert pixels[3] > 200, "-0.1 is nearly white"
PYTHON
