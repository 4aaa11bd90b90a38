"""Pixels of a data set decoded once into one array on disk (`--use_npmem`), read by position afterwards.

    <cache_path>/<data set>-<key>/pixels.npy       (N, C, S, S) or (N, P), rows as `RetrievalDataset.item_shape`
                                  names.npy        (N,) bytes: row i of the pixels is image names[i]
                                  files.npy        (N, 2) int64: `sizes_and_times` of the files decoded
                                  manifest.json    what the array holds and how it was made

All splits share the array and find their rows by name, so other proportions, lists or labels, which come from the
data set's own files at every start, need no second pass. `datasets.prepared.from_files` makes the folder under another
name and renames it when it is complete.

`pixels.npy` can be mapped (`numpy.load(..., mmap_mode="r")`). Batches are read with `preadv` straight into place
instead: as fast from memory, one request an image from a disk, an error instead of a SIGBUS when the disk fails,
and no page of the map ever counts towards the process.
"""

from __future__ import annotations

import json
import os
import tokenize
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from datasets.base import PixelFormat, RetrievalDataset
from utilities.errors import DatasetError
from utilities.files import ABSENT, fingerprint

FORMAT = 1
PIXELS, NAMES, FILES, MANIFEST = "pixels.npy", "names.npy", "files.npy", "manifest.json"
COMPARED = 8  # images of a split that are compared with their files
MOST_CHANGED = 64  # and of those whose files have another size or time than when they were decoded
LIKE_DECODERS = 2  # mean difference of two JPEG decoders at most, in levels of a pixel
# Raised where files are damaged; numpy reads the header of an array as a line of Python.
DAMAGE = (OSError, ValueError, KeyError, EOFError, TypeError, tokenize.TokenError)


class PreparedPixels:
    """The rows of one split in a prepared array. Every process opens the file itself, when it first reads.

    rows    (N,) int64: where image i of the split lies in the array
    broken  (N,) bool: images that could not be decoded when the array was prepared
    facts   (N, 2) int64: sizes and times of their files then; None where they were not kept
    """

    def __init__(
        self,
        folder: Path,
        *,
        rows: np.ndarray,
        broken: np.ndarray,
        facts: np.ndarray | None,
        item_shape: tuple[int, ...],
        dtype: np.dtype,
    ) -> None:
        self.folder = folder
        self.array = folder / PIXELS
        self.broken = broken
        self.facts = facts
        self._rows = rows
        self._item_shape = item_shape
        self._dtype = dtype
        self._bytes = int(np.prod(item_shape)) * dtype.itemsize
        self._start = array_start(folder / PIXELS)
        self._file: int | None = None

    def gather(self, rows: Sequence[int]) -> torch.Tensor:
        """Images of the split's rows, (B, *item_shape), in the given order. They are read in the file's order."""
        images = _batch(len(rows), self._item_shape, self._dtype)
        pixels = images.numpy()
        wanted = self._rows[np.asarray(rows, np.int64)]
        file = self._open()
        for place in np.argsort(wanted).tolist():
            count = os.preadv(file, [pixels[place]], self._start + int(wanted[place]) * self._bytes)
            if count != self._bytes:
                raise DatasetError(f"{self.folder / PIXELS} ends early; delete {self.folder} to prepare it again")
        return images

    def _open(self) -> int:
        if self._file is None:
            self._file = os.open(self.folder / PIXELS, os.O_RDONLY)
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # type: ignore[arg-type]


def _batch(count: int, item_shape: tuple[int, ...], dtype: np.dtype) -> torch.Tensor:
    """An empty batch; in a worker in shared memory, so that it reaches the training process without a copy."""
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    shape = (count, *item_shape)
    if get_worker_info() is None:
        return torch.empty(shape, dtype=kind)
    storage = torch.UntypedStorage._new_shared(int(np.prod(shape)) * dtype.itemsize)
    return torch.empty(0, dtype=kind).set_(storage).view(shape)


def array_start(path: Path) -> int:
    """Bytes of the header of a .npy file."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()


# --- what a prepared array must agree with --------------------------------------------------------------------


def content(dataset: PixelFormat) -> dict[str, Any]:
    """What the pixels depend on, besides the files: an array made from anything else is refused."""
    return {
        "format": FORMAT,
        "dataset": dataset.kind,
        "variant": dataset.variant,
        "decoder": dataset.decoder,
        "bands": list(dataset.bands),
        "band_sides": list(dataset.band_sides),
        "dtype": dataset.dtype.name,
        "item_shape": list(dataset.item_shape),
    }


def prepared_folder(dataset: PixelFormat, cache_path: str | Path | None) -> Path:
    """`<cache_path>/<data set>-<key>`; without a cache_path in `.cache` inside the data set's folder.

    The key follows from the options that choose pixels (version, bands, sides), so that arrays of several choices
    lie side by side.
    """
    chosen = {name: value for name, value in content(dataset).items() if name not in ("format", "decoder")}
    key = fingerprint(json.dumps(chosen, sort_keys=True))[:8]
    parent = Path(cache_path) if cache_path else dataset.source_path / ".cache"
    return parent / f"{dataset.kind}-{key}"


def encoded(names: np.ndarray) -> np.ndarray:
    """(N,) unicode -> bytes, a quarter of the memory."""
    return np.char.encode(names, "utf-8")


def names_sha256(names: np.ndarray) -> str:
    """names (N,) bytes."""
    return fingerprint(b"\n".join(names.tolist()))


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Where two descriptions differ, in words; "" where `found` agrees with all that is expected."""
    return "; ".join(
        f"{key}: {found.get(key)} there, {value} expected" for key, value in expected.items() if found.get(key) != value
    )


def refuse_mismatch(folder: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    differs = difference(found, expected)
    if differs:
        raise DatasetError(
            f"{folder} was prepared from something else ({differs}); delete it to prepare it again, or give "
            "another --cache_path"
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{folder} has no readable {MANIFEST} ({error}); delete the folder to prepare it again"
        ) from error
    if not isinstance(manifest, dict):
        raise DatasetError(f"{folder / MANIFEST} is no manifest; delete {folder} to prepare it again")
    return manifest


def read_names(folder: Path) -> np.ndarray:
    """(N,) bytes: which image each row of the array is. What cannot be read is a `DatasetError`."""
    try:
        names = np.load(folder / NAMES)
        if names.dtype.kind != "S" or names.ndim != 1:
            raise ValueError(f"{NAMES} holds {names.dtype} {names.shape}, not names")
    except DAMAGE as error:
        raise DatasetError(f"{folder} is damaged ({error}); delete it to prepare it again") from error
    return names


def open_prepared(dataset: RetrievalDataset, folder: Path) -> PreparedPixels:
    """The split's rows in a complete array. What does not agree with the data set is a `DatasetError`."""
    manifest = read_manifest(folder)
    refuse_mismatch(folder, manifest, content(dataset))
    names = read_names(folder)
    try:
        size = (folder / PIXELS).stat().st_size
        expected = array_start(folder / PIXELS) + manifest["images"] * row_bytes(dataset)
    except DAMAGE as error:
        raise DatasetError(f"{folder} is damaged ({error}); delete it to prepare it again") from error
    if size != expected:
        raise DatasetError(
            f"{folder / PIXELS} holds {size:,} bytes where {expected:,} belong; delete {folder} to prepare it again"
        )
    if len(names) != manifest["images"] or names_sha256(names) != manifest["names_sha256"]:
        raise DatasetError(
            f"{folder / NAMES} is not the list that {MANIFEST} describes; delete {folder} to prepare it again"
        )
    rows = _locate(names, dataset, folder)
    broken = np.isin(dataset.names, manifest["broken"]) if manifest["broken"] else np.zeros(len(dataset), bool)
    facts = read_facts(folder, manifest["images"])
    prepared = PreparedPixels(
        folder,
        rows=rows,
        broken=broken,
        facts=None if facts is None else facts[rows],
        item_shape=dataset.item_shape,
        dtype=dataset.dtype,
    )
    _refuse_other_pixels(dataset, prepared)
    return prepared


def read_facts(folder: Path, images: int) -> np.ndarray | None:
    """(N, 2) int64 of FILES; None where the array was made before there was one, or from an archive."""
    if not (folder / FILES).exists():
        return None
    try:
        facts = np.load(folder / FILES)
        if facts.dtype != np.int64 or facts.shape != (images, 2):
            raise ValueError(f"{FILES} holds {facts.dtype} {facts.shape}")
    except DAMAGE as error:
        raise DatasetError(f"{folder} is damaged ({error}); delete it to prepare it again") from error
    return facts


def _changed(dataset: RetrievalDataset, prepared: PreparedPixels) -> np.ndarray:
    """Rows whose files are there, with another size or time than when they were decoded."""
    if prepared.facts is None:
        return np.empty(0, np.int64)
    now = dataset.file_facts()
    return np.flatnonzero((now[:, 0] != ABSENT) & (now != prepared.facts).any(1))


def _spread(rows: np.ndarray, most: int) -> set[int]:
    """At most so many of the rows, evenly spread."""
    return set(rows[np.unique(np.linspace(0, max(0, len(rows) - 1), most).astype(int))[: len(rows)]].tolist())


def _refuse_other_pixels(dataset: RetrievalDataset, prepared: PreparedPixels) -> None:
    """Compare images of the array with their files: those whose files have changed, and some of the others.

    Data sets may agree in everything but their pixels.
    """
    decoded = np.flatnonzero(~prepared.broken)
    changed = _changed(dataset, prepared)
    mended = changed[prepared.broken[changed]]
    changed = changed[~prepared.broken[changed]]
    for row in sorted(_spread(decoded, COMPARED) | _spread(changed, MOST_CHANGED)):
        try:
            pixels = dataset.read(row).astype(np.int64)
        except DatasetError:  # the files need not be there any more: an array stands for them
            continue
        if np.abs(pixels - prepared.gather([row])[0].numpy()).mean() > LIKE_DECODERS:
            raise DatasetError(
                f"{prepared.folder} was prepared from other images: {dataset.names[row]} of "
                f"{dataset.source_path} is another; delete it to prepare it again, or give another --cache_path"
            )
    again = f"if their pixels were exchanged, delete {prepared.folder} to prepare it again"
    if len(changed) > MOST_CHANGED:
        warnings.warn(
            f"{len(changed):,} files of the {dataset.split} split have another size or time than when "
            f"{prepared.folder} was prepared; {MOST_CHANGED} of them hold what it holds; {again}",
            stacklevel=3,
        )
    if len(mended) and dataset.skip_broken:
        warnings.warn(
            f"{len(mended):,} images that could not be decoded then have been changed since "
            f"({shortened(dataset.names[mended].tolist())}); delete {prepared.folder} to prepare it again",
            stacklevel=3,
        )


def row_bytes(dataset: PixelFormat) -> int:
    return int(np.prod(dataset.item_shape)) * dataset.dtype.itemsize


def _locate(names: np.ndarray, dataset: RetrievalDataset, folder: Path) -> np.ndarray:
    """(N,) int64 rows of the split's images in `names` (M,) bytes, in any order."""
    wanted = encoded(dataset.names)
    order = np.argsort(names)
    rows = order[np.searchsorted(names, wanted, sorter=order).clip(max=len(names) - 1)]
    absent = dataset.names[names[rows] != wanted]
    if len(absent):
        raise DatasetError(
            f"{folder} was prepared without {len(absent):,} images of the {dataset.split} split "
            f"({shortened(absent.tolist())}); delete it to prepare it again, or give another --cache_path"
        )
    return rows


def shortened(names: Iterable[str], most: int = 5) -> str:
    """The first few names, for messages."""
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
