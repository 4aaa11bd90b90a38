"""Pretrained networks that people have: which bands their first layer takes, in which order, and how pixels are scaled.

The order of a file's bands cannot be seen in it, and filters in a wrong order cost everything without a word: it is
named (`--weights_bands`), or read where something beside the weights tells it, and never guessed from their number.
"""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

from utilities.errors import UserError

RGB = ("R", "G", "B")
TRUE_COLOUR = ("B04", "B03", "B02")
LEVEL_1C = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
LEVEL_2A = tuple(band for band in LEVEL_1C if band != "B10")
SATLAS = (*TRUE_COLOUR, "B05", "B06", "B07", "B08", "B11", "B12")
REBEN_020 = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
REBEN_011 = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B11", "B12", "B8A")
SAME_LIGHT = {"R": "B04", "G": "B03", "B": "B02"}  # what Sentinel-2 calls the bands of a photograph


class Source(NamedTuple):
    """bands: of the first layer, in order; scaling: a value of --input_scaling."""

    bands: tuple[str, ...]
    scaling: str


# torchgeo's are named as its weights are, without the network; reBEN's as on its hub, without the network.
SOURCES = {
    "imagenet": Source(RGB, "imagenet"),
    "sentinel2_all_seco_eco": Source(LEVEL_2A, "reflectance"),
    "sentinel2_all_moco": Source(LEVEL_1C, "reflectance"),
    "sentinel2_all_dino": Source(LEVEL_1C, "reflectance"),
    "sentinel2_all_decur": Source(LEVEL_1C, "reflectance"),
    "sentinel2_all_closp": Source(LEVEL_1C, "reflectance"),
    "sentinel2_all_geoclosp": Source(LEVEL_1C, "reflectance"),
    "sentinel2_all_softcon": Source(LEVEL_1C, "softcon"),
    "sentinel2_rgb_moco": Source(TRUE_COLOUR, "reflectance"),
    "sentinel2_rgb_seco": Source(TRUE_COLOUR, "seco"),
    "sentinel2_si_ms_satlas": Source(SATLAS, "satlas"),
    "sentinel2_mi_ms_satlas": Source(SATLAS, "satlas"),
    "sentinel2_si_rgb_satlas": Source(TRUE_COLOUR, "satlas"),
    "sentinel2_mi_rgb_satlas": Source(TRUE_COLOUR, "satlas"),
    "fmow_rgb_gassl": Source(RGB, "imagenet"),
    "ssl4eo_moco": Source(LEVEL_1C, "reflectance_clipped"),
    "ssl4eo_dino": Source(LEVEL_1C, "reflectance_clipped"),
    "satlas_ms": Source(SATLAS, "satlas"),
    "satlas_rgb": Source(TRUE_COLOUR, "satlas"),
    "reben_s2_v0.2.0": Source(REBEN_020, "reben"),
    "reben_s2_v0.1.1": Source(REBEN_011, "reben"),
    "reben_all_v0.2.0": Source(("VV", "VH", *REBEN_020), "reben"),
    "reben_all_v0.1.1": Source((*REBEN_011, "VH", "VV"), "reben"),
}


def find_source(given: str) -> Source:
    """What `--weights_bands` stands for: a source by name, or bands with commas, whose scaling is the data set's.

    Raises UserError for a name that is neither.
    """
    name = given.strip().lower()
    if name in SOURCES:
        return SOURCES[name]
    bands = tuple(canonical(part) for part in given.split(","))
    if len(bands) == 1 and bands[0] not in (*LEVEL_1C, *RGB, "VV", "VH"):
        near = difflib.get_close_matches(name, SOURCES, 3, 0.3) or SOURCES
        raise UserError(
            f"--weights_bands {given} is no source that is known; near: {', '.join(near)}; all: docs/weights.md. Or "
            "give the bands of the file's first layer in order, such as B02,B03,B04,B08"
        )
    if "" in bands or len(set(bands)) < len(bands):
        raise UserError(f"--weights_bands {given} must name every band of the file's first layer once, in order")
    return Source(bands, "dataset")


def canonical(band: str) -> str:
    """B2 -> B02; other names as they are."""
    band = band.strip()
    return re.sub(r"^B(\d)$", r"B0\1", band)


def of_length(count: int) -> str:
    """The sources with so many bands, for messages."""
    orders: dict[tuple[str, ...], list[str]] = {}
    for name, source in SOURCES.items():
        if len(source.bands) == count:
            orders.setdefault(source.bands, []).append(name)
    return "; ".join(f"{', '.join(names)} ({' '.join(bands)})" for bands, names in orders.items())
