"""From stored pixels to what a network was pretrained on: --input_scaling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from datasets.base import RetrievalDataset
from utilities.errors import UserError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of R, G, B in 0..1


class Scaling(NamedTuple):
    """What is done to a band: (clamp(x, low, high) - mean) / std, all of them (C,) in stored units.

    low, high  None: no clamping
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None


NAMES = ("dataset", "network", "imagenet", "tensorflow")


def find_scaling(args: Mapping[str, Any], dataset: RetrievalDataset) -> Scaling:
    """The scaling that --input_scaling names, for the bands of the data set. Raises UserError where they do not fit.

    Runs from before the flag took the statistics of their data set.
    """
    name = args.get("input_scaling", "dataset")
    if name == "dataset":
        return Scaling(tuple(dataset.mean), tuple(dataset.std))
    if not dataset.is_photograph:
        raise UserError(
            f"--input_scaling {name} is for 8-bit photographs; {dataset.kind} has {dataset.dtype.name} of the bands "
            f"{' '.join(dataset.bands)}: give --input_scaling dataset"
        )
    if name == "tensorflow":
        return Scaling((127.0,) * 3, (128.0,) * 3)
    mean, std = IMAGENET if name == "imagenet" else (args["input_mean"], args["input_std"])
    return Scaling(tuple(255 * x for x in mean), tuple(255 * x for x in std))
