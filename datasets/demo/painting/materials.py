"""Materials of the demo's scenes: the labels they earn, how they look, how much of them counts as visible."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Material(NamedTuple):
    """labels that a visible patch of it earns, and its texture as relative amplitudes of brightness.

    fine: grain of about a pixel; coarse: tone over metres; waves: elongated grain; relief: light on slopes.
    """

    labels: tuple[str, ...]
    fine: float = 0.03
    coarse: float = 0.03
    waves: float = 0.0
    relief: float = 0.0


MATERIALS: dict[str, Material] = {
    "unlabelled": Material(()),
    "grass": Material(("grass",), fine=0.07, coarse=0.10),
    "field": Material(("field",), fine=0.04, coarse=0.06),
    "bare soil": Material(("bare soil",), fine=0.06, coarse=0.10),
    "sand": Material(("sand",), fine=0.03, coarse=0.04),
    "forest": Material(("forest", "trees"), fine=0.10, coarse=0.08, relief=0.8),
    "trees": Material(("trees",), fine=0.10, coarse=0.05, relief=0.8),
    "lake": Material(("water",), fine=0.02, coarse=0.05, waves=0.02),
    "river": Material(("river", "water"), fine=0.02, coarse=0.05, waves=0.03),
    "sea": Material(("sea", "water"), fine=0.02, coarse=0.05, waves=0.06),
    "road": Material(("road",), fine=0.03, coarse=0.04),
    "parking lot": Material(("parking lot",), fine=0.03, coarse=0.05),
    "pavement": Material(("pavement",), fine=0.03, coarse=0.04),
    "runway": Material(("runway",), fine=0.03, coarse=0.05),
    "railway": Material(("railway",), fine=0.08, coarse=0.05),
    "bridge": Material(("bridge",)),
    "dock": Material(("dock",), fine=0.04, coarse=0.03),
    "buildings": Material(("buildings",), fine=0.03, coarse=0.02),
    "cars": Material(("cars",), fine=0.01, coarse=0.0),
    "airplane": Material(("airplane",), fine=0.01, coarse=0.0),
    "ships": Material(("ships",), fine=0.02, coarse=0.0),
    "tanks": Material(("tanks",), fine=0.01, coarse=0.01, relief=0.4),
    "tennis court": Material(("tennis court",), fine=0.02, coarse=0.02),
    "basketball court": Material(("basketball court",), fine=0.02, coarse=0.02),
    "swimming pool": Material(("swimming pool",), fine=0.02, coarse=0.02, waves=0.03),
}
CODES = {name: code for code, name in enumerate(MATERIALS)}

LABELS: tuple[str, ...] = tuple(sorted({label for material in MATERIALS.values() for label in material.labels}))

# A label needs this share of the picture: 0.1 % is a car or two; surfaces need more than a sliver.
_LEAST_SHARE = dict.fromkeys(LABELS, 0.001) | {
    "bare soil": 0.03, "bridge": 0.005, "buildings": 0.006, "dock": 0.005, "field": 0.04, "forest": 0.05,
    "grass": 0.04, "parking lot": 0.03, "pavement": 0.03, "railway": 0.01, "river": 0.02, "road": 0.015,
    "runway": 0.02, "sand": 0.02, "sea": 0.02, "trees": 0.01, "water": 0.015, "basketball court": 0.005,
    "tennis court": 0.005, "swimming pool": 0.002, "tanks": 0.004, "airplane": 0.002, "ships": 0.0015,
}  # fmt: skip

# Families of colours (RGB); a picture draws its own from them.
TONES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "grass": ((104, 122, 74), (92, 116, 66), (124, 130, 84), (138, 134, 92), (84, 108, 70)),
    "crop": ((96, 122, 62), (122, 134, 72), (150, 142, 92), (172, 156, 108), (80, 106, 58),
             (136, 116, 84), (116, 98, 76)),
    "soil": ((150, 126, 98), (164, 142, 114), (134, 108, 84), (172, 154, 126)),
    "sand": ((206, 190, 158), (218, 204, 176), (196, 178, 146)),
    "crown": ((58, 80, 46), (68, 92, 54), (82, 100, 58), (50, 70, 46), (92, 102, 62)),
    "canopy": ((66, 90, 52), (76, 100, 58), (60, 80, 54), (88, 104, 64)),
    "lake": ((54, 76, 82), (66, 88, 84), (44, 62, 76), (78, 94, 86)),
    "river": ((86, 98, 84), (70, 88, 88), (104, 108, 88), (60, 80, 84)),
    "sea": ((42, 82, 104), (54, 98, 116), (34, 68, 94), (66, 106, 112)),
    "asphalt": ((98, 98, 100), (112, 110, 108), (84, 86, 90), (126, 124, 120)),
    "concrete": ((168, 164, 156), (154, 152, 148), (180, 174, 162), (142, 140, 136)),
    "runway": ((104, 104, 106), (128, 126, 124), (88, 90, 94)),
    "ballast": ((122, 112, 104), (108, 102, 98), (136, 124, 112)),
    "wood": ((150, 136, 116), (166, 156, 142), (132, 118, 102)),
    "roof flat": ((196, 194, 190), (172, 170, 168), (150, 150, 152), (214, 212, 206),
                  (128, 128, 132), (184, 170, 156)),
    "roof pitched": ((150, 92, 74), (132, 112, 98), (116, 108, 106), (166, 120, 96), (96, 94, 98),
                     (172, 158, 142)),
    "car": ((232, 232, 232), (206, 208, 212), (64, 66, 72), (44, 46, 52), (150, 40, 40), (48, 70, 122),
            (150, 150, 154)),
    "airplane": ((238, 240, 242), (226, 228, 232), (206, 210, 216)),
    "airline": ((40, 62, 120), (160, 48, 44), (60, 110, 140), (120, 124, 130)),
    "hull": ((234, 234, 232), (222, 224, 226), (70, 82, 104), (132, 62, 54), (190, 186, 176)),
    "deck": ((176, 150, 116), (206, 204, 196), (150, 146, 140)),
    "tank": ((226, 226, 222), (206, 206, 204), (186, 188, 186), (214, 206, 190)),
    "court": ((74, 122, 88), (66, 104, 138), (88, 132, 96), (58, 112, 118)),
    "court surround": ((146, 84, 66), (80, 118, 86), (126, 88, 74), (96, 122, 112)),
    "hardwood": ((172, 112, 82), (150, 96, 84), (128, 128, 130), (90, 116, 146), (112, 132, 104)),
    "pool": ((88, 180, 198), (110, 198, 210), (70, 160, 186)),
    "paint": ((226, 226, 220),),
    "yellow paint": ((206, 178, 84),),
    "foam": ((226, 232, 232),),
    "glass": ((50, 58, 68),),
}  # fmt: skip


def shares_by_label(shares: np.ndarray) -> dict[str, float]:
    """Visible share of the picture for every label present, from that of every material (in code order)."""
    found: dict[str, float] = {}
    for material, share in zip(MATERIALS.values(), shares, strict=True):
        for label in material.labels if share > 0 else ():
            found[label] = found.get(label, 0.0) + float(share)
    return found


def visible_labels(shares: dict[str, float]) -> tuple[str, ...]:
    """The labels of a picture: those whose share reaches the least that a person makes out."""
    return tuple(label for label in LABELS if shares.get(label, 0.0) >= _LEAST_SHARE[label])
