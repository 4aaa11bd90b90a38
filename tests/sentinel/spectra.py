"""How surfaces look to Sentinel-2, and what the CORINE land cover classes are made of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")

# Surface reflectance x 10,000 in summer, in the order of BANDS: vegetation has its red edge between B04
# and B07, water is dark from the near infrared on, soil and sand rise to B11, roofs are bright and flat.
SPECTRA: dict[str, tuple[int, ...]] = {
    "lake": (330, 290, 270, 170, 150, 130, 125, 115, 105, 100, 60, 45),
    "sea": (480, 430, 360, 200, 170, 140, 130, 120, 110, 105, 60, 45),
    "river": (430, 440, 540, 430, 410, 350, 330, 310, 280, 250, 150, 110),
    "broad-leaved": (250, 260, 520, 310, 900, 2700, 3450, 3650, 3850, 3800, 1650, 780),
    "conifer": (200, 200, 370, 240, 560, 1500, 1850, 1950, 2050, 2000, 900, 430),
    "pasture": (360, 390, 780, 470, 1330, 3550, 4350, 4550, 4800, 4750, 2250, 1120),
    "crop": (330, 360, 720, 400, 1200, 3400, 4300, 4500, 4700, 4650, 2000, 920),
    "ploughed": (600, 780, 1080, 1330, 1560, 1760, 1930, 2080, 2230, 2200, 2800, 2350),
    "ripe crop": (700, 880, 1330, 1660, 2020, 2420, 2680, 2820, 2960, 2900, 3450, 2450),
    "heath": (330, 350, 570, 590, 930, 1650, 1950, 2080, 2230, 2200, 1950, 1150),
    "shrub": (300, 310, 580, 450, 930, 2150, 2650, 2800, 2950, 2900, 1850, 960),
    "peat": (290, 300, 520, 510, 860, 1600, 1900, 2000, 2120, 2100, 1420, 760),
    "reed": (310, 340, 640, 560, 980, 1950, 2300, 2400, 2500, 2450, 1300, 650),
    "dry grass": (400, 460, 820, 780, 1320, 2600, 3100, 3250, 3450, 3400, 2650, 1550),
    "rock": (900, 1000, 1180, 1300, 1400, 1480, 1550, 1620, 1680, 1650, 1900, 1700),
    "sand": (1650, 2050, 2550, 2950, 3150, 3300, 3400, 3500, 3600, 3550, 4000, 3500),
    "red roof": (900, 950, 1150, 1650, 1800, 1950, 2050, 2150, 2250, 2250, 2500, 2200),
    "grey roof": (1200, 1320, 1420, 1500, 1560, 1640, 1700, 1760, 1800, 1800, 1900, 1750),
    "bright roof": (2500, 2800, 2900, 2950, 2950, 3000, 3050, 3100, 3100, 3050, 2950, 2700),
    "asphalt": (750, 820, 930, 1010, 1080, 1170, 1230, 1300, 1340, 1330, 1500, 1380),
    "garden": (420, 470, 800, 640, 1250, 2650, 3200, 3350, 3550, 3500, 2100, 1200),
}
SURFACES = tuple(SPECTRA)
VEGETATION = tuple(name for name, dn in SPECTRA.items() if dn[7] > 2.5 * dn[3])

# Per season: brightness of everything (height of the sun), share of its green that vegetation has kept.
SEASONS = {"summer": (1.0, 1.0), "spring": (0.95, 0.95), "autumn": (0.6, 0.8), "winter": (0.5, 0.62)}


class Cover(NamedTuple):
    """A land cover class: surfaces with weights, parcels of some metres, what stands on or between them.

    speckle: relative variation from pixel to pixel; roofs: buildings a hectare; hedges: width in metres.
    natural: parcels with wandering instead of straight edges.
    """

    mix: dict[str, float]
    parcel: float
    speckle: float
    roofs: float = 0.0
    hedges: float = 0.0
    natural: bool = False


ARABLE = {"ploughed": 3.0, "crop": 3.0, "ripe crop": 3.0}
COVERS: dict[str, Cover] = {
    "Continuous urban fabric": Cover({"asphalt": 2, "grey roof": 2, "red roof": 1}, 35, 0.15, roofs=24),
    "Discontinuous urban fabric": Cover({"garden": 4, "asphalt": 1, "broad-leaved": 1}, 40, 0.1, roofs=6),
    "Industrial or commercial units": Cover({"bright roof": 3, "grey roof": 3, "asphalt": 3}, 80, 0.06),
    "Non-irrigated arable land": Cover(ARABLE, 260, 0.03),
    "Vineyards": Cover({"shrub": 2, "ploughed": 3, "ripe crop": 1}, 70, 0.12),
    "Olive groves": Cover({"shrub": 2, "dry grass": 3}, 150, 0.2),
    "Pastures": Cover({"pasture": 6, "dry grass": 1, "crop": 1}, 190, 0.03, hedges=14),
    "Complex cultivation patterns": Cover({**ARABLE, "pasture": 3, "garden": 2}, 75, 0.05, roofs=0.4),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": Cover(
        {**ARABLE, "pasture": 4, "broad-leaved": 5, "shrub": 4}, 120, 0.07, hedges=10
    ),
    "Broad-leaved forest": Cover({"broad-leaved": 1}, 150, 0.10, natural=True),
    "Coniferous forest": Cover({"conifer": 1}, 150, 0.10, natural=True),
    "Mixed forest": Cover({"broad-leaved": 1, "conifer": 1}, 50, 0.10, natural=True),
    "Natural grassland": Cover({"dry grass": 4, "rock": 1}, 120, 0.07, natural=True),
    "Moors and heathland": Cover({"heath": 4, "shrub": 1}, 120, 0.08, natural=True),
    "Transitional woodland/shrub": Cover({"shrub": 4, "broad-leaved": 1, "dry grass": 1, "conifer": 1}, 45,
                                         0.1, natural=True),
    "Beaches, dunes, sands": Cover({"sand": 1}, 200, 0.05, natural=True),
    "Bare rock": Cover({"rock": 5, "dry grass": 1}, 70, 0.12, natural=True),
    "Inland marshes": Cover({"reed": 4, "lake": 1, "pasture": 1}, 60, 0.08, natural=True),
    "Peatbogs": Cover({"peat": 6, "heath": 1, "lake": 0.4}, 90, 0.08, natural=True),
    "Water courses": Cover({"river": 1}, 400, 0.02, natural=True),
    "Water bodies": Cover({"lake": 1}, 600, 0.02, natural=True),
    "Sea and ocean": Cover({"sea": 1}, 900, 0.03, natural=True),
}  # fmt: skip
COVER_NAMES = tuple(COVERS)


class Landscape(NamedTuple):
    """Classes with weights that share a patch, how many regions across, and the water that crosses it."""

    covers: dict[str, float]
    regions: float
    water: str | None = None
    roads: int = 1


LANDSCAPES: dict[str, Landscape] = {
    "plain": Landscape({"Non-irrigated arable land": 5, "Pastures": 1, "Broad-leaved forest": 1,
                        "Discontinuous urban fabric": 1}, 2.0, roads=2),
    "grassland": Landscape({"Pastures": 6, "Non-irrigated arable land": 1, "Moors and heathland": 1}, 1.6),
    "smallholdings": Landscape({"Complex cultivation patterns": 4, "Broad-leaved forest": 1,
        "Land principally occupied by agriculture, with significant areas of natural vegetation": 4}, 2.0),
    "vineyards": Landscape({"Vineyards": 4, "Olive groves": 3, "Complex cultivation patterns": 1,
                            "Discontinuous urban fabric": 1}, 2.2, roads=2),
    "woods": Landscape({"Coniferous forest": 3, "Mixed forest": 3, "Broad-leaved forest": 2,
                        "Transitional woodland/shrub": 2}, 2.2),
    "bog": Landscape({"Peatbogs": 4, "Coniferous forest": 2, "Mixed forest": 1, "Inland marshes": 2}, 2.0),
    "lakes": Landscape({"Coniferous forest": 2, "Mixed forest": 2, "Pastures": 1,
                        "Transitional woodland/shrub": 1}, 2.0, water="Water bodies"),
    "valley": Landscape({"Pastures": 2, "Non-irrigated arable land": 2, "Broad-leaved forest": 2,
                         "Inland marshes": 1}, 2.0, water="Water courses"),
    "coast": Landscape({"Natural grassland": 2, "Moors and heathland": 1, "Discontinuous urban fabric": 1,
                        "Pastures": 1}, 2.0, water="Sea and ocean"),
    "town": Landscape({"Continuous urban fabric": 3, "Discontinuous urban fabric": 3,
                       "Industrial or commercial units": 2, "Non-irrigated arable land": 1}, 2.4, roads=4),
    "heights": Landscape({"Natural grassland": 3, "Bare rock": 2, "Coniferous forest": 2,
                          "Moors and heathland": 1}, 2.0, roads=0),
}  # fmt: skip


def spectra_of(season: str) -> np.ndarray:
    """(surfaces, 12) float32 digital numbers of every surface in a season.

    Out of season vegetation moves towards dry grass in shape; everything darkens with the lower sun.
    """
    light, green = SEASONS[season]
    table = np.array(list(SPECTRA.values()), np.float32)
    faded = table[SURFACES.index("heath")]
    for name in VEGETATION:
        row = SURFACES.index(name)
        table[row] = green * table[row] + (1 - green) * faded
    return table * light
