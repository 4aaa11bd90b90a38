"""The data on the host: feeding batches, preparing the array, opening the label table, each against the original way.

    python -m tests.benchmarks.loader [--images 1200] [--patches 200] [--rounds 7] [--json FILE] [--folder DIR]

The original way is re-written here. Feeding: every image a file of float32 that `numpy.fromfile` reads whole,
standardised on its own in numpy, collated by stacking; the array's way is what `datasets.prepared.array` hands to the
loader, stored integers, whose crop and normalisation are the device's. MLRSNet's images are stored at 256 pixels in
the array and at 224 in the files (the original stores what it feeds). Preparing: rasterio band by band, and unpacking
before it. Labels: one `json.load` a patch, timed on --patches and scaled to 590,326. Everything runs in one process,
from the page cache, both ways in turn; ratios are medians over rounds. Generated pixels; decoding does not depend on
their values.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.base import SPLITS, RetrievalDataset
from datasets.bigearthnet.archive import BigEarthNetArchive
from datasets.bigearthnet.dataset import BigEarthNet
from datasets.bigearthnet.labels_v1 import PatchTable, keep_table
from datasets.bigearthnet.nomenclature import BAND_SIDES, LABELS_43
from datasets.prepared.array import open_prepared
from datasets.prepared.from_archive import prepare_archive
from datasets.prepared.from_files import prepare
from tests.benchmarks.timing import arguments, paired, ratio, show
from tests.sentinel.patches import write_bigearthnet_layout

BATCH = 120
PATCHES = 590_326  # of BigEarthNet
MLRSNET = (("R", "G", "B"), (256, 256, 256), np.dtype(np.uint8), (3, 224, 224))
BIGEARTHNET = (tuple(BAND_SIDES), tuple(BAND_SIDES.values()), np.dtype(np.uint16), (12, 120, 120))
Row = dict[str, Any]


def row(what: str, unit: str, here: float, original: float, times: float, target: str) -> Row:
    """One line of the table; times is how many times better `here` is."""
    return {"what": what, "unit": unit, "here": here, "original way": original, "times": times, "target": target}


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


def feeding(folder: Path, name: str, layout: tuple[Any, ...], images: int, rounds: int, bytes_target: str) -> list[Row]:
    """Images a second of both ways, one process each, and the bytes that they read."""
    bands, sides, dtype, shape = layout
    folder.mkdir()
    splits = [Random(folder, split, images, bands, sides, dtype) for split in SPLITS]
    train = splits[0]
    train.pixels = open_prepared(train, prepare(splits, None, processes=0, skip_broken=False))
    rng = np.random.default_rng(0)
    for number in range(images):
        rng.random(shape, np.float32).tofile(folder / f"{number}.bin")

    def batches() -> list[list[int]]:
        order = rng.permutation(images)
        return [order[i : i + BATCH].tolist() for i in range(0, images, BATCH)]

    def from_array() -> None:
        for rows in batches():
            train.__getitems__(rows)

    def from_files() -> None:
        for rows in batches():
            torch.stack([original_item(folder / f"{number}.bin", shape) for number in rows])

    seconds = paired({"array": from_array, "files": from_files}, rounds)
    here, original = (images / float(np.median(seconds[way])) for way in ("array", "files"))
    stored, fed = int(np.prod(train.item_shape)) * dtype.itemsize, int(np.prod(shape)) * 4
    return [
        row(f"batches, {name}", "images/s a core", here, original, ratio(seconds, "files", "array"), "10"),
        row(f"stored, {name}", "bytes an image", stored, fed, fed / stored, bytes_target),
    ]


class ThroughGdal(BigEarthNet):
    """The same patches, read by rasterio band by band."""

    def _read_bands(self, row: int, bands: tuple[str, ...]) -> list[np.ndarray]:
        import rasterio

        pixels = []
        for band in bands:
            with rasterio.open(f"{self.folder(row)}/{self.names[row]}_{band}.tif") as file:
                pixels.append(file.read(1))
        return pixels


def opened(kind: type[BigEarthNet], root: Path, index: Path | None = None, splits: str = "hashed") -> list[BigEarthNet]:
    return [
        kind(source_path=root, split=s, labels=19, bands="all", version=1, splits=splits, index_path=index)
        for s in SPLITS
    ]


def preparing(folder: Path, patches: int, rounds: int) -> list[Row]:
    """Patches a second of whole passes that fill the array; the arrays of both ways are compared."""
    root, archive = folder / "BigEarthNet-v1.0", folder / "BigEarthNet-v1.0.tar.gz"
    write_bigearthnet_layout(root, patches=patches, seed=0)
    with tarfile.open(archive, "w:gz", compresslevel=6) as tar:
        tar.add(root, root.name)
    arrays: dict[str, np.ndarray] = {}

    def through(kind: type[BigEarthNet], source: Path) -> None:
        place = folder / "array"
        done = prepare(opened(kind, source), place, processes=0, skip_broken=False)
        keep(kind.__name__, done)
        shutil.rmtree(place)

    def from_archive() -> None:
        place, layout = folder / "array", BigEarthNetArchive(source_path=folder / "none", bands="all", version=1)
        keep("archive", prepare_archive(layout, archive, place, processes=1, skip_broken=False))
        shutil.rmtree(place)

    def unpacked_first() -> None:
        with tarfile.open(archive) as tar:
            tar.extractall(folder / "unpacked", filter="data")
        through(ThroughGdal, folder / "unpacked" / root.name)
        shutil.rmtree(folder / "unpacked")

    def keep(way: str, done: Path) -> None:
        if way not in arrays:
            order = np.argsort(np.load(done / "names.npy"))
            arrays[way] = np.load(done / "pixels.npy")[order]

    ways = {
        "here": lambda: through(BigEarthNet, root),
        "rasterio": lambda: through(ThroughGdal, root),
        "archive": from_archive,
        "unpacked": unpacked_first,
    }
    seconds = paired(ways, rounds)
    assert all(np.array_equal(pixels, arrays["BigEarthNet"]) for pixels in arrays.values()), "pixels differ"
    rates = {way: patches / float(np.median(seconds[way])) for way in ways}
    folder_times, archive_times = ratio(seconds, "rasterio", "here"), ratio(seconds, "unpacked", "archive")
    what = "preparing BigEarthNet, identical pixels,"
    return [
        row(f"{what} from folders", "patches/s a core", rates["here"], rates["rasterio"], folder_times, "5"),
        row(f"{what} from .tar.gz", "patches/s a core", rates["archive"], rates["unpacked"], archive_times, ""),
    ]


def label_tables(folder: Path, patches: int, rounds: int) -> list[Row]:
    """A later start with all splits of 590,326 patches, labels and lists, and one json.load a patch."""
    root, index, lists = folder / "root", folder / "index", folder / "lists"
    for place in (root, index, lists):
        place.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = np.unique([f"S2A_MSIL2A_20170613T{i % 1000:06d}_{i // 10_000}_{i}" for i in range(PATCHES)])
    table = PatchTable(names.astype(np.bytes_), rng.random((PATCHES, 43)) < 0.07, LABELS_43)
    kept = index / f"labels-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}.npz"
    keep_table(kept, table, root.stat().st_mtime_ns)
    for split, part in zip(SPLITS, np.split(rng.permutation(names), [270_000, 394_000]), strict=True):
        (lists / f"{split}.csv").write_text("".join(f"{name},{name}\n" for name in part.tolist()))
    text = json.dumps(
        {"labels": list(LABELS_43[:3]), "projection": "P" * 600, "acquisition_date": "2017-06-13 10:10:31"}
    )
    files = [folder / f"{number}.json" for number in range(patches)]
    for path in files:
        path.write_text(text)

    def every_file() -> None:
        for path in files:
            with path.open() as file:
                json.load(file)

    seconds = paired({"here": lambda: opened(BigEarthNet, root, index, str(lists)), "original": every_file}, rounds)
    here, original = np.median(seconds["here"]), np.median(seconds["original"]) * PATCHES / patches
    what = "a later start: labels and official lists of 590,326 patches"
    return [row(what, "s", float(here), float(original), float(original / here), "under 2 s")]


def main() -> None:
    args = arguments(__doc__ or "", images=1200, patches=200, rounds=7, folder="")
    torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=args.folder or None) as name, contextlib.redirect_stderr(io.StringIO()):
        folder = Path(name)  # every pass says what it does; here there are dozens
        rows = [
            *feeding(folder / "mlrsnet", "MLRSNet 224 px", MLRSNET, args.images, args.rounds, ""),
            *feeding(folder / "ben", "BigEarthNet 12 x 120 x 120", BIGEARTHNET, args.images, args.rounds, "4.3"),
            *preparing(folder / "patches", args.patches, args.rounds),
            *label_tables(folder / "labels", args.patches, args.rounds),
        ]
    title = f"Data on the host: {args.images} images, {args.patches} patches, {args.rounds} rounds"
    show(title, rows, args.json)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
