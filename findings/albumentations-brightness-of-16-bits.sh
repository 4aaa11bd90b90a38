#!/usr/bin/env bash
# albumentations: "20 % brighter" makes a Sentinel-2 patch five times as bright, and the documentation has the two
# modes the wrong way round.
#
# Versions:   albumentations 2.0.8, opencv-python-headless 5.0.0.93, numpy 2.4.6
# Behaviour:  RandomBrightnessContrast with a brightness of 0.2 adds 0.2 x 65535 = 13107 to every uint16 value:
#             reflectance 3000 becomes 16107. With brightness_by_max=False it adds 0.2 x the mean, 3600.
# Surprise:   the docstring's formula says that the first mode multiplies by 1 + 0.2 and that the second adds 0.2 times
#             the maximum: the opposite. For uint8 the harm is small enough to pass; reflectances fill the lowest sixth
#             of uint16.
# Cost:       an augmentation meant to be mild saturates reflectances beyond anything seen in the data; the network
#             learns to ignore level.
# Source:     albumentations/augmentations/pixel/transforms.py: formula in RandomBrightnessContrast's docstring against
#             "beta * max_value if self.brightness_by_max else beta * np.mean(image)" further down.
# Seen:       3000 -> 16107 (default), 3000 -> 3600 (brightness_by_max=False).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    albumentations==2.0.8 opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
import albumentations
import numpy as np

patch = np.full((64, 64, 4), 3000, dtype=np.uint16)


def brighter(**options):
    transform = albumentations.RandomBrightnessContrast((0.2, 0.2), (0, 0), p=1, **options)
    return np.unique(transform(image=patch)["image"]).tolist()


by_maximum, by_mean = brighter(), brighter(brightness_by_max=False)
print("default", by_maximum, "brightness_by_max=False", by_mean)
assert by_maximum == [16107]
assert by_mean == [3600]
PYTHON
