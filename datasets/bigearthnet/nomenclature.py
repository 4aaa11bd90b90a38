"""BigEarthNet's labels in official order, its bands, and their published statistics."""

from __future__ import annotations

import numpy as np

_MOSAIC = "Land principally occupied by agriculture, with significant areas of natural vegetation"

# CORINE Land Cover level-3 name -> name in the 19-class nomenclature; None where that one drops it (Sumbul et
# al. 2021, "BigEarthNet-MM"). The order of the keys is the official order of the 43 labels.
CLC_TO_19: dict[str, str | None] = {
    "Continuous urban fabric": "Urban fabric",
    "Discontinuous urban fabric": "Urban fabric",
    "Industrial or commercial units": "Industrial or commercial units",
    "Road and rail networks and associated land": None,
    "Port areas": None,
    "Airports": None,
    "Mineral extraction sites": None,
    "Dump sites": None,
    "Construction sites": None,
    "Green urban areas": None,
    "Sport and leisure facilities": None,
    "Non-irrigated arable land": "Arable land",
    "Permanently irrigated land": "Arable land",
    "Rice fields": "Arable land",
    "Vineyards": "Permanent crops",
    "Fruit trees and berry plantations": "Permanent crops",
    "Olive groves": "Permanent crops",
    "Pastures": "Pastures",
    "Annual crops associated with permanent crops": "Permanent crops",
    "Complex cultivation patterns": "Complex cultivation patterns",
    _MOSAIC: _MOSAIC,
    "Agro-forestry areas": "Agro-forestry areas",
    "Broad-leaved forest": "Broad-leaved forest",
    "Coniferous forest": "Coniferous forest",
    "Mixed forest": "Mixed forest",
    "Natural grassland": "Natural grassland and sparsely vegetated areas",
    "Moors and heathland": "Moors, heathland and sclerophyllous vegetation",
    "Sclerophyllous vegetation": "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland/shrub": "Transitional woodland, shrub",
    "Beaches, dunes, sands": "Beaches, dunes, sands",
    "Bare rock": None,
    "Sparsely vegetated areas": "Natural grassland and sparsely vegetated areas",
    "Burnt areas": None,
    "Inland marshes": "Inland wetlands",
    "Peatbogs": "Inland wetlands",
    "Salt marshes": "Coastal wetlands",
    "Salines": "Coastal wetlands",
    "Intertidal flats": None,
    "Water courses": "Inland waters",
    "Water bodies": "Inland waters",
    "Coastal lagoons": "Marine waters",
    "Estuaries": "Marine waters",
    "Sea and ocean": "Marine waters",
}

LABELS_43 = tuple(CLC_TO_19)

LABELS_19 = (
    "Urban fabric",
    "Industrial or commercial units",
    "Arable land",
    "Permanent crops",
    "Pastures",
    "Complex cultivation patterns",
    _MOSAIC,
    "Agro-forestry areas",
    "Broad-leaved forest",
    "Coniferous forest",
    "Mixed forest",
    "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland, shrub",
    "Beaches, dunes, sands",
    "Inland wetlands",
    "Coastal wetlands",
    "Inland waters",
    "Marine waters",
)


def mapping_to_19() -> np.ndarray:
    """(43, 19) bool: which of the 19 labels each of the 43 becomes; a row of zeros for those dropped."""
    return np.asarray([[CLC_TO_19[label] == target for target in LABELS_19] for label in LABELS_43])


BAND_SIDES = {
    "B01": 20, "B02": 120, "B03": 120, "B04": 120, "B05": 60, "B06": 60,
    "B07": 60, "B08": 120, "B8A": 60, "B09": 20, "B11": 60, "B12": 60,
}  # fmt: skip
"""Side in pixels of a patch of 1.2 km: bands of 60, 10 and 20 m. L2A products have no B10 (cirrus)."""

BAND_SETS = {"all": tuple(BAND_SIDES), "10m": ("B02", "B03", "B04", "B08"), "rgb": ("B04", "B03", "B02")}

# Mean and standard deviation in digital numbers. Version 1: TU Berlin's bigearthnet-models. Version 2:
# ConfigILM, training split, bands at native resolution (`datasets.batches.transforms` repeats, not interpolates).
STATISTICS: dict[int, dict[str, tuple[float, float]]] = {
    1: {
        "B01": (340.76769064, 554.81258967), "B02": (429.9430203, 572.41639287),
        "B03": (614.21682446, 582.87945694), "B04": (590.23569706, 675.88746967),
        "B05": (950.68368468, 729.89827633), "B06": (1792.46290469, 1096.01480586),
        "B07": (2075.46795189, 1273.45393088), "B08": (2218.94553375, 1365.45589904),
        "B8A": (2266.46036911, 1356.13789355), "B09": (2246.0605464, 1302.3292881),
        "B11": (1594.42694882, 1079.19066363), "B12": (1009.32729131, 818.86747235),
    },
    2: {
        "B01": (361.0768, 575.0687), "B02": (438.3721, 607.0269), "B03": (614.0557, 603.2968),
        "B04": (588.4096, 684.5688), "B05": (942.8433, 738.4327), "B06": (1769.9316, 1100.4561),
        "B07": (2049.5515, 1275.8054), "B08": (2193.2920, 1369.3717), "B8A": (2235.5566, 1356.5441),
        "B09": (2241.4553, 1316.3933), "B11": (1568.2268, 1070.1613), "B12": (997.7325, 813.5276),
    },
}  # fmt: skip
