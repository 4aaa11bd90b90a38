"""One pass over a data set that fills the array of `datasets.cache`.

Blocks of images are decoded and written by position, in parallel; a byte in `done` is set for each block that is on
the disk, so that a killed pass goes on where it was. The folder is made as `.<name>.partial` and renamed when every
block is done: what carries the name is whole. A lock lets one process prepare while others wait for the result.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.metadata
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datasets.base import RetrievalDataset
from datasets.cache import (
    MANIFEST,
    NAMES,
    PIXELS,
    array_start,
    cache_folder,
    content,
    encoded,
    names_sha256,
    refuse_mismatch,
    shortened,
)  # fmt: skip
from utilities.errors import DatasetError, RunFailure, UserError

DONE, PLAN = "done", "plan.json"
BLOCK_BYTES = 32 * 2**20
PROBES = 8  # images decoded beforehand for the estimate of time
RESERVE = 64 * 2**20  # bytes left free besides the array


class Block(NamedTuple):
    """What became of one block: images that could not be decoded, and why; what the disk said."""

    number: int
    broken: list[tuple[str, str]]
    disk_error: OSError | None


class BlockWriter(Dataset[Block]):
    """Item b decodes and writes rows [b * size, (b + 1) * size) of the array.

    splits   the data sets that together hold all images
    origins  (N, 2) int64: for each row of the array, which of `splits` and which of its rows
    """

    def __init__(self, splits: Sequence[RetrievalDataset], origins: np.ndarray, path: Path, size: int) -> None:
        self.splits, self.origins, self.path, self.size = splits, origins, path, size
        self.start = array_start(path)

    def __len__(self) -> int:
        return -(-len(self.origins) // self.size)

    def __getitem__(self, number: int) -> Block:
        first = number * self.size
        rows = self.origins[first : first + self.size]
        pixels = np.zeros((len(rows), *self.splits[0].item_shape), self.splits[0].dtype)
        broken: list[tuple[str, str]] = []
        for place, (split, row) in enumerate(rows.tolist()):
            try:
                pixels[place] = self.splits[split].read(row)
            except DatasetError as error:
                broken.append((str(self.splits[split].names[row]), str(error)))
        row_bytes = pixels.nbytes // len(rows)
        try:
            write_at(self.path, pixels, self.start + first * row_bytes)
        except OSError as error:
            return Block(number, broken, error)
        return Block(number, broken, None)


def write_at(path: Path, pixels: np.ndarray, position: int) -> None:
    """All bytes of `pixels` to the disk. Not through a map, where a full disk is a SIGBUS."""
    file = os.open(path, os.O_WRONLY)
    try:
        left = pixels.data.cast("B")
        while left:
            written = os.pwrite(file, left, position)
            left, position = left[written:], position + written
        os.fdatasync(file)
    finally:
        os.close(file)


def usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def prepare(
    splits: Sequence[RetrievalDataset], cache_path: str | Path | None, *, processes: int, skip_broken: bool
) -> Path:
    """The folder of the complete array of all images of the splits; prepared if it is not there yet.

    processes  that decode; 0: this one. Several processes may call at once: one prepares, the others wait.
    With skip_broken images that cannot be decoded are listed in the manifest; else they are a `DatasetError` once
    all others are done, and the next call reads only their blocks again. A full disk is a `RunFailure`.
    """
    folder = cache_folder(splits[0], cache_path)
    if folder.exists():
        return folder
    _require_writable(folder.parent, given=cache_path is not None)
    with _locked(folder.with_name(f".{folder.name}.lock"), folder):
        if not folder.exists():
            _fill(splits, folder, processes, skip_broken)
    return folder


def _require_writable(parent: Path, *, given: bool) -> None:
    flag = f"--cache_path {parent}" if given else f"{parent.parent}, the place for prepared data without --cache_path,"
    place = next(folder for folder in (parent, *parent.absolute().parents) if folder.exists())
    if not os.access(place, os.W_OK) or not place.stat().st_mode & 0o222:  # root may write what nobody should
        raise UserError(f"{flag} is read-only; give a folder on a large, fast disk with --cache_path")
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{flag} cannot be made ({error.strerror}); give a folder on a large, fast disk with --cache_path"
        ) from error


@contextlib.contextmanager
def _locked(path: Path, folder: Path) -> Iterator[None]:
    """Hold the lock file; the system lets go of it however this process ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise UserError(f"{path.parent} cannot be locked ({error}); give another --cache_path") from error
            _say(f"another process prepares {folder}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fill(splits: Sequence[RetrievalDataset], folder: Path, processes: int, skip_broken: bool) -> None:
    names, origins = union(splits)
    partial = folder.with_name(f".{folder.name}.partial")
    row_bytes = int(np.prod(splits[0].item_shape)) * splits[0].dtype.itemsize
    plan = content(splits[0]) | {
        "images": len(names),
        "names_sha256": names_sha256(names),
    }
    try:
        writer = BlockWriter(splits, origins, partial / PIXELS, _start(partial, plan, names, row_bytes))
        done = np.memmap(partial / DONE, np.uint8, "r+", shape=(len(writer),))
        todo = np.flatnonzero(done == 0).tolist()
        _announce(writer, len(todo), folder, row_bytes, processes)
        broken = _write(writer, todo, done, processes)
        if broken and not skip_broken:
            raise DatasetError(_about_broken(broken, partial))
        _finish(partial, folder, plan, splits, [name for name, _ in broken])
    except OSError as error:
        raise RunFailure(
            f"preparing {folder} stopped: {error.strerror or error}; what is written stays and the next start goes "
            "on from there (free space, or give another --cache_path)"
        ) from error


def union(splits: Sequence[RetrievalDataset]) -> tuple[np.ndarray, np.ndarray]:
    """Names of all images, (N,) bytes, sorted, and where each is read, (N, 2) int64: split, row. Each once."""
    names = np.concatenate([encoded(split.names) for split in splits])
    origins = np.concatenate(
        [np.stack([np.full(len(split), i), np.arange(len(split))], axis=1) for i, split in enumerate(splits)]
    )
    unique, first = np.unique(names, return_index=True)
    return unique, origins[first]


def _start(partial: Path, plan: dict[str, Any], names: np.ndarray, row_bytes: int) -> int:
    """Images of a block. Makes the unfinished folder, or checks that the one that is there was begun for the same."""
    if (partial / PLAN).exists():
        return _resume(partial, plan)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _require_space(partial, plan["images"] * row_bytes)
    size = max(1, BLOCK_BYTES // row_bytes)
    np.save(partial / NAMES, names)
    dtype, shape = np.dtype(plan["dtype"]), (plan["images"], *plan["item_shape"])
    with (partial / PIXELS).open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + plan["images"] * row_bytes)
    (partial / DONE).write_bytes(bytes(-(-plan["images"] // size)))
    _write_json(partial / PLAN, plan | {"block_images": size})
    return size


def _resume(partial: Path, plan: dict[str, Any]) -> int:
    try:
        found = json.loads((partial / PLAN).read_text())
    except ValueError as error:
        raise DatasetError(f"{partial / PLAN} cannot be read ({error}); delete {partial}") from error
    refuse_mismatch(partial, found, plan)
    size = found["block_images"]
    if (partial / DONE).stat().st_size != -(-plan["images"] // size):
        raise DatasetError(f"{partial / DONE} is damaged; delete {partial} to prepare it again")
    return int(size)


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + RESERVE:
        raise UserError(
            f"the prepared array takes {size_text(needed)} and {folder.parent} has {size_text(free)} free; "
            "give a folder on a larger disk with --cache_path"
        )


def _announce(writer: BlockWriter, blocks: int, folder: Path, row_bytes: int, processes: int) -> None:
    """Check the space that is still needed, and say what the pass will take."""
    images = min(blocks * writer.size, len(writer.origins))
    _require_space(folder.parent, images * row_bytes)
    start = time.perf_counter()
    probes = np.unique(np.linspace(0, len(writer.origins) - 1, PROBES).astype(int))
    for split, row in writer.origins[probes].tolist():
        with contextlib.suppress(DatasetError):  # reported with all others when its block is read
            writer.splits[split].read(row)
    seconds = (time.perf_counter() - start) / len(probes) * images / max(1, processes)
    whole = len(writer.origins)
    resumed = f" ({whole - images:,} are there from an earlier start)" if images < whole else ""
    _say(
        f"preparing {images:,} images{resumed} of {type(writer.splits[0]).__name__} in {folder}: "
        f"{size_text(images * row_bytes)}, about {timedelta(seconds=round(seconds))} of decoding with "
        f"{max(1, processes)} processes, the disk permitting"
    )


def _write(writer: BlockWriter, todo: Sequence[int], done: np.ndarray, processes: int) -> list[tuple[str, str]]:
    """Write the blocks; returns the images that could not be decoded, whose blocks stay to do."""
    processes = min(processes, len(todo)) if len(todo) > 1 else 0
    blocks = DataLoader(
        writer,
        batch_size=None,
        sampler=todo,
        num_workers=processes,
        collate_fn=_as_is,  # type: ignore[arg-type]  # without batch_size it gets single items
        in_order=False,
    )
    broken: list[tuple[str, str]] = []
    with tqdm(total=len(todo) * writer.size, desc="preparing", unit=" images", unit_scale=True, disable=None) as bar:
        for block in blocks:
            if block.disk_error is not None:
                raise block.disk_error
            broken += block.broken
            if not block.broken:
                done[block.number] = 1
            bar.update(writer.size)
    return sorted(broken)


def _as_is(block: Block) -> Block:
    return block


def _about_broken(broken: Sequence[tuple[str, str]], partial: Path) -> str:
    named = "; ".join(message for _, message in broken[:5])
    return (
        f"{len(broken):,} images cannot be decoded ({named}{'; ...' if len(broken) > 5 else ''}). Mend them and start "
        f"again: only their blocks of {partial} are read again. Or leave them out with --skip_broken_images"
    )


def _finish(
    partial: Path, folder: Path, plan: dict[str, Any], splits: Sequence[RetrievalDataset], broken: list[str]
) -> None:
    """Write the manifest and give the folder its name. Labels stand in it for people; they are never read back."""
    manifest = plan | {
        "shape": [plan["images"], *plan["item_shape"]],
        "label_names": list(splits[0].label_names),
        "fingerprints": {split.split: split.fingerprint() for split in splits},
        "libraries": {name: importlib.metadata.version(name) for name in ("numpy", "pillow")},
        "broken": broken,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    _write_json(partial / MANIFEST, manifest)
    partial.rename(folder)
    for name in (DONE, PLAN):  # after the rename: without them, a pass that is killed here would begin anew
        (folder / name).unlink()
    if broken:
        _say(f"{len(broken):,} images could not be decoded and are listed in {folder / MANIFEST}: {shortened(broken)}")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        file.write(json.dumps(value, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def size_text(count: int) -> str:
    """Bytes for people: 83.1 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
