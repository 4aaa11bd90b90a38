"""Digital numbers of Sentinel-2: the offset that products carry since processing baseline 04.00, and "no data".

Until January 2022 a digital number was surface reflectance x 10,000. Since then it is that plus 1,000, in reprocessed
archives too, so that dark pixels need not be negative; 0 stays "no data" (ESA, "Sentinel-2 products specification",
BOA_ADD_OFFSET). BigEarthNet, and every network trained on it, knows numbers without the offset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

OFFSET = 1000
VISIBLE = ("B02", "B03", "B04")


def without_offset(pixels: np.ndarray, offset: int) -> np.ndarray:
    """Digital numbers less the offset, never below 0; "no data" stays 0."""
    if not offset:
        return pixels
    return np.where(pixels > offset, pixels - pixels.dtype.type(offset), pixels.dtype.type(0))


def lowest_visible(bands: Mapping[str, np.ndarray]) -> int | None:
    """The lowest value above 0 of the visible bands among these; None without any."""
    seen = [values.min() for name in VISIBLE if name in bands and (values := bands[name][bands[name] > 0]).size]
    return int(min(seen)) if seen else None


def looks_offset(bands: Mapping[str, np.ndarray]) -> bool:
    """Whether the visible bands hold nothing between "no data" and the offset, as they hardly do without it."""
    lowest = lowest_visible(bands)
    return lowest is not None and lowest >= OFFSET


def no_data_share(bands: Sequence[np.ndarray]) -> float:
    """Share of the values of all bands that are 0, which no measured value is."""
    return float(sum((band == 0).sum() for band in bands) / sum(band.size for band in bands))
