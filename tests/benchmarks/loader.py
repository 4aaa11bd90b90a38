"""Feeding on the host: batches from the prepared array against one float32 file an image; reading Sentinel-2 bands.

    python -m tests.benchmarks.loader [--images 1200] [--rounds 7] [--json FILE]

The original way is re-written here: every image a file of float32 that `numpy.fromfile` reads whole, standardised on
its own in numpy, collated by stacking. The array's way is what `datasets.cache` hands to the loader: stored integers,
whose crop and normalisation are the device's. Both run in one process, from the page cache, in turn. MLRSNet's images
are stored at 256 pixels in the array and at 224 in the files (the original stores what it feeds).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.base import SPLITS, RetrievalDataset
from datasets.bigearthnet_tables import BAND_SIDES
from datasets.cache import open_cache
from datasets.cache_writer import prepare
from datasets.rasters import read_band
from tests.benchmarks.timing import arguments, paired, ratio, show
from tests.miniatures import write_patch

BATCH = 120
MLRSNET = (("R", "G", "B"), (256, 256, 256), np.dtype(np.uint8), (3, 224, 224))
BIGEARTHNET = (tuple(BAND_SIDES), tuple(BAND_SIDES.values()), np.dtype(np.uint16), (12, 120, 120))


class Random(RetrievalDataset):
    """A data set of random pixels in a given layout; a tenth of it is val, a tenth test."""

    title = "random pixels"
    label_names = ("a",)

    def __init__(
        self, folder: Path, split: str, count: int, bands: tuple[str, ...], sides: tuple[int, ...], dtype: np.dtype
    ) -> None:
        super().__init__(source_path=folder, split=split)
        self.bands, self.band_sides, self.dtype = bands, sides, dtype
        count = count if split == "train" else max(1, count // 10)
        self.names = np.array([f"{split}{i}" for i in range(count)])
        self.labels = np.ones((count, 1), bool)

    def read(self, row: int) -> np.ndarray:
        top = 256 if self.dtype == np.uint8 else 10_000
        return np.random.default_rng(row).integers(0, top, self.item_shape, self.dtype)


def original_item(path: Path, shape: tuple[int, ...]) -> torch.Tensor:
    """One float32 image from its own file, each band standardised by its own statistics."""
    pixels = np.fromfile(path, np.float32).reshape(shape)
    mean = pixels.mean((1, 2), keepdims=True)
    std = pixels.std((1, 2), keepdims=True)
    return torch.from_numpy((pixels - mean) / (std + 1e-6))


def feeding(folder: Path, layout: tuple[Any, ...], images: int, rounds: int) -> dict[str, Any]:
    """Images a second of both ways, one process each, and the bytes that they read."""
    bands, sides, dtype, shape = layout
    folder.mkdir()
    splits = [Random(folder, split, images, bands, sides, dtype) for split in SPLITS]
    train = splits[0]
    train.cache = open_cache(train, prepare(splits, None, processes=0, skip_broken=False))
    rng = np.random.default_rng(0)
    for row in range(images):
        rng.random(shape, np.float32).tofile(folder / f"{row}.bin")

    def batches() -> list[list[int]]:
        order = rng.permutation(images)
        return [order[i : i + BATCH].tolist() for i in range(0, images, BATCH)]

    def from_array() -> None:
        for rows in batches():
            train.__getitems__(rows)

    def from_files() -> None:
        for rows in batches():
            torch.stack([original_item(folder / f"{row}.bin", shape) for row in rows])

    seconds = paired({"array": from_array, "files": from_files}, rounds)
    stored, original = int(np.prod(train.item_shape)) * dtype.itemsize, int(np.prod(shape)) * 4
    return {
        "array images/s": images / float(np.median(seconds["array"])),
        "original images/s": images / float(np.median(seconds["files"])),
        "times faster": ratio(seconds, "files", "array"),
        "bytes an image": stored,
        "original bytes": original,
        "times fewer bytes": original / stored,
    }


def reading_patches(folder: Path, rounds: int, patches: int = 40) -> dict[str, Any]:
    """Patches a second of `read_band` and of rasterio, band by band, on one core; equal pixels are checked."""
    import rasterio

    rng = np.random.default_rng(0)
    stems = []
    for number in range(patches):
        write_patch(folder / f"S2A_{number}", rng)
        stems.append(str(folder / f"S2A_{number}" / f"S2A_{number}"))

    def own(stem: str) -> list[np.ndarray]:
        return [read_band(f"{stem}_{band}.tif", side) for band, side in BAND_SIDES.items()]

    def gdal(stem: str) -> list[np.ndarray]:
        bands = []
        for band in BAND_SIDES:
            with rasterio.open(f"{stem}_{band}.tif") as file:
                bands.append(file.read(1))
        return bands

    for stem in stems:
        assert all(np.array_equal(a, b) for a, b in zip(own(stem), gdal(stem), strict=True)), stem

    def every(read: Callable[[str], list[np.ndarray]]) -> Callable[[], None]:
        return lambda: [read(stem) for stem in stems] and None

    seconds = paired({"own": every(own), "rasterio": every(gdal)}, rounds)
    return {
        "read_band patches/s": patches / float(np.median(seconds["own"])),
        "rasterio patches/s": patches / float(np.median(seconds["rasterio"])),
        "times faster": ratio(seconds, "rasterio", "own"),
        "pixels": "identical",
    }


def main() -> None:
    args = arguments(__doc__ or "", images=1200, rounds=7, folder="")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=args.folder or None) as name:
        folder = Path(name)
        rows = [
            {"shape": "MLRSNet, 224 px"} | feeding(folder / "mlrsnet", MLRSNET, args.images, args.rounds),
            {"shape": "BigEarthNet, 12 x 120 x 120"} | feeding(folder / "ben", BIGEARTHNET, args.images, args.rounds),
        ]
        show("Batches of 120 on the host, one process", rows, args.json)
        (folder / "patches").mkdir()
        show("Reading the twelve bands of a patch, one core", [reading_patches(folder / "patches", args.rounds)], None)


if __name__ == "__main__":
    main()
