#!/usr/bin/env bash
# wandb.Image takes float pictures in [0, 1] for black and lets 16 bits wrap.
#
# Versions:   wandb 0.31.0, pillow 13.0.0, numpy 2.4.6
# Behaviour:  any array is turned into uint8 by truncation: 0.5 becomes 0, 1.0 becomes 1, 300 becomes 44, 3000 becomes
#             184. No scaling, no clipping, no warning.
# Surprise:   matplotlib, torchvision and tensorboard take floats in [0, 1] as pictures, and so did earlier releases of
#             wandb, which looked at the range of the data.
# Cost:       logged pictures (a query and its neighbours, say) are black after an upgrade, and raw Sentinel-2 values
#             show false colours that look like texture. (x * 255).clip(0, 255).astype(uint8) before the call mends it.
# Source:     wandb/sdk/data_types/image.py, _convert_to_uint8 is data.astype(uint8); the docstring asks for values in
#             [0, 255].
# Seen:       float [0, 0.5, 1] -> [0, 0, 1]; uint16 [300, 3000] -> [44, 184].
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check wandb==0.31.0 pillow==13.0.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import wandb


def logged(values, dtype):
    picture = np.tile(np.array(values, dtype=dtype)[None, :, None], (4, 1, 3))
    return np.asarray(wandb.Image(picture).image)[0, :, 0].tolist()


floats, sixteen = logged([0, 0.5, 1], np.float32), logged([300, 3000], np.uint16)
print("float", floats, "uint16", sixteen)
assert floats == [0, 0, 1]
assert sixteen == [44, 184]
PYTHON
