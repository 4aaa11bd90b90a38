"""From stored pixels to what a network was pretrained on: --input_scaling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from datasets.base import RetrievalDataset
from utilities.errors import UserError

Figures = Mapping[str, tuple[float, float]]  # band -> two numbers

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of R, G, B in 0..1
# SeCo: least and greatest value of 10000 / 255 digital numbers, before ImageNet's mean and deviation
SECO = {"B04": (0, 129), "B03": (2, 103), "B02": (3, 88)}
# SoftCon's mean and standard deviation of SSL4EO-S12, digital numbers of level 1C
SOFTCON = {
    "B01": (1612.9, 791.0), "B02": (1397.6, 854.3), "B03": (1322.3, 878.7), "B04": (1373.1, 1144.9),
    "B05": (1561.0, 1127.5), "B06": (2108.4, 1164.2), "B07": (2390.7, 1276.0), "B08": (2318.7, 1249.5),
    "B8A": (2581.0, 1345.9), "B09": (837.7, 577.5), "B10": (22.0, 47.5), "B11": (2195.2, 1340.0),
    "B12": (1537.4, 1142.9),
}  # fmt: skip
# reBEN's mean and standard deviation of BigEarthNet version 2
REBEN = {
    "B01": (361.0768, 575.0687), "B02": (438.3721, 607.0269), "B03": (614.0557, 603.2968), "B04": (588.4096, 684.5688),
    "B05": (942.8433, 738.4327), "B06": (1769.9316, 1100.4561), "B07": (2049.5515, 1275.8054),
    "B08": (2193.2920, 1369.3717), "B8A": (2235.5566, 1356.5441), "B09": (2241.4553, 1316.3933),
    "B11": (1568.2268, 1070.1613), "B12": (997.7325, 813.5276), "VV": (-12.6439, 5.1335), "VH": (-19.3526, 5.5905),
}  # fmt: skip
VISIBLE = ("B04", "B03", "B02")
TRUE_COLOUR = 3558.0  # digital number of 255 in the true-colour product of level 1C, which Satlas reads
OTHERS_OF_SATLAS = 8160.0


class Scaling(NamedTuple):
    """What is done to a band: (clamp(x, low, high) - mean) / std, all of them (C,) in stored units.

    low, high  None: no clamping
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None


OF_PHOTOGRAPHS = ("imagenet", "network", "tensorflow")
OF_DIGITAL_NUMBERS = ("reflectance", "reflectance_clipped", "seco", "softcon", "reben")
NAMES = ("dataset", *OF_PHOTOGRAPHS, "satlas", *OF_DIGITAL_NUMBERS)


def find_scaling(args: Mapping[str, Any], dataset: RetrievalDataset) -> Scaling:
    """The scaling that --input_scaling names, for the bands of the data set. Raises UserError where they do not fit.

    Runs from before the flag took the statistics of their data set.
    """
    name = args.get("input_scaling", "dataset")
    if name == "dataset":
        return Scaling(tuple(dataset.mean), tuple(dataset.std))
    wanted = "8-bit photographs" if name in OF_PHOTOGRAPHS else "digital numbers of Sentinel-2"
    if name != "satlas" and dataset.is_photograph != (name in OF_PHOTOGRAPHS):
        raise UserError(
            f"--input_scaling {name} is for {wanted}; {dataset.kind} has {dataset.dtype.name} of the bands "
            f"{' '.join(dataset.bands)}: give --input_scaling dataset"
        )
    return _of_photograph(name, args) if dataset.is_photograph else _of_digital_numbers(name, dataset.bands)


def _of_photograph(name: str, args: Mapping[str, Any]) -> Scaling:
    if name == "tensorflow":
        return Scaling((127.0,) * 3, (128.0,) * 3)
    if name == "satlas":
        return Scaling((0.0,) * 3, (255.0,) * 3)
    mean, std = IMAGENET if name == "imagenet" else (args["input_mean"], args["input_std"])
    if mean is None:
        raise UserError("--input_scaling network is for timm's networks, which bring it along: give another")
    return Scaling(tuple(255 * x for x in mean), tuple(255 * x for x in std))


def _of_digital_numbers(name: str, bands: Sequence[str]) -> Scaling:
    zero = (0.0,) * len(bands)
    if name in ("reflectance", "reflectance_clipped"):
        whole = (10_000.0,) * len(bands)
        return Scaling(zero, whole) if name == "reflectance" else Scaling(zero, whole, zero, whole)
    if name == "satlas":
        ends = tuple(TRUE_COLOUR if band in VISIBLE else OTHERS_OF_SATLAS for band in bands)
        return Scaling(zero, ends, zero, ends)
    if name == "seco":
        unit = 10_000 / 255
        lows, highs = _figures(name, SECO, bands)
        mean, std = zip(*((IMAGENET[0][i], IMAGENET[1][i]) for i in map(VISIBLE.index, bands)), strict=True)
        rows = list(zip(lows, highs, mean, std, strict=True))
        return Scaling(
            tuple(unit * (low + m * (high - low)) for low, high, m, _ in rows),
            tuple(unit * (high - low) * s for low, high, _, s in rows),
            tuple(unit * low for low in lows),
            tuple(unit * high for high in highs),
        )
    return Scaling(*_figures(name, SOFTCON if name == "softcon" else REBEN, bands))


def _figures(name: str, known: Figures, bands: Sequence[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The two numbers of every band. Raises UserError for bands without."""
    unknown = [band for band in bands if band not in known]
    if unknown:
        raise UserError(f"--input_scaling {name} has no figures for {', '.join(unknown)}; it knows {' '.join(known)}")
    first, second = zip(*(known[band] for band in bands), strict=True)
    return first, second
