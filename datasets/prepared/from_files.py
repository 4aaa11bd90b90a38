"""One pass over the files of a data set that fills the array of `datasets.prepared.array`.

Blocks of images are decoded and written by position, in parallel (`datasets.prepared.stage` tells what is kept of an
unfinished pass). `datasets.prepared.from_archive` fills the same array from an archive.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datasets.base import RetrievalDataset
from datasets.batches.workers import Carrying, arriving, as_is
from datasets.prepared import stage
from datasets.prepared.array import (
    FILES,
    NAMES,
    PIXELS,
    array_start,
    content,
    encoded,
    names_sha256,
    prepared_folder,
    row_bytes,
)
from datasets.prepared.stage import (
    DONE,
    begin,
    finish,
    prepared_once,
    refuse_broken,
    require_space,
    say,
    size_text,
    write_at,
)
from utilities.errors import DatasetError
from utilities.files import replacing, sizes_and_times

PROBES = 8  # images decoded beforehand for the estimate of time


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
        try:
            write_at(self.path, pixels, self.start + first * row_bytes(self.splits[0]))
        except OSError as error:
            return Block(number, broken, error)
        return Block(number, broken, None)


def prepare(
    splits: Sequence[RetrievalDataset], cache_path: str | Path | None, *, processes: int, skip_broken: bool
) -> Path:
    """The folder of the complete array of all images of the splits; prepared if it is not there yet.

    processes    that decode; 0: this one
    skip_broken  images that cannot be decoded are listed in the manifest; else they are a `DatasetError` once
                 all others are done, and the next call reads only their blocks again. A full disk is a `RunFailure`
    """
    folder = prepared_folder(splits[0], cache_path)
    return prepared_once(folder, cache_path, lambda partial: _fill(splits, folder, partial, processes, skip_broken))


def _fill(splits: Sequence[RetrievalDataset], folder: Path, partial: Path, processes: int, skip_broken: bool) -> None:
    names, origins = union(splits)
    plan = content(splits[0]) | {"images": len(names), "names_sha256": names_sha256(names)}
    size = max(1, stage.BLOCK_BYTES // row_bytes(splits[0]))

    def lay_out() -> None:
        require_space(partial, plan["images"] * row_bytes(splits[0]))
        np.save(partial / NAMES, names)
        start = stage.write_header(partial / PIXELS, plan["dtype"], (len(names), *plan["item_shape"]))
        with (partial / PIXELS).open("r+b") as file:
            file.truncate(start + len(names) * row_bytes(splits[0]))
        (partial / DONE).write_bytes(bytes(-(-len(names) // size)))

    writer = BlockWriter(splits, origins, partial / PIXELS, begin(partial, plan, size, lay_out))
    if (partial / DONE).stat().st_size != len(writer):
        raise DatasetError(f"{partial / DONE} is damaged; delete {partial} to prepare it again")
    done = np.memmap(partial / DONE, np.uint8, "r+", shape=(len(writer),))
    _forget_changed(writer, done, partial / FILES)
    todo = np.flatnonzero(done == 0).tolist()
    _announce(writer, len(todo), folder, processes)
    broken = _write(writer, todo, done, processes)
    if not skip_broken:
        refuse_broken(broken, f"Mend them and start again: only their blocks of {partial} are read again")
    about = {
        "label_names": list(splits[0].label_names),
        "fingerprints": {split.split: split.fingerprint() for split in splits},
    }
    finish(partial, folder, plan | about, [name for name, _ in broken])


def _forget_changed(writer: BlockWriter, done: np.ndarray, path: Path) -> None:
    """Keep sizes and times of all files, and read those blocks again whose files changed since an earlier start."""

    def files(image: int) -> Sequence[str | Path]:
        split, row = writer.origins[image].tolist()
        return writer.splits[split].files(row)

    facts = sizes_and_times(files, len(writer.origins))
    if path.exists():
        changed = np.flatnonzero((np.load(path) != facts).any(1))
        done[np.unique(changed // writer.size)] = 0
    with replacing(path) as temporary:
        np.save(temporary, facts)


def union(splits: Sequence[RetrievalDataset]) -> tuple[np.ndarray, np.ndarray]:
    """Names of all images, (N,) bytes, sorted, and where each is read, (N, 2) int64: split, row. Each once."""
    names = np.concatenate([encoded(split.names) for split in splits])
    origins = np.concatenate(
        [np.stack([np.full(len(split), i), np.arange(len(split))], axis=1) for i, split in enumerate(splits)]
    )
    unique, first = np.unique(names, return_index=True)
    return unique, origins[first]


def _announce(writer: BlockWriter, blocks: int, folder: Path, processes: int) -> None:
    """Check the space that is still needed, and say what the pass will take."""
    images = min(blocks * writer.size, len(writer.origins))
    bytes_left = images * row_bytes(writer.splits[0])
    require_space(folder.parent, bytes_left)
    start = time.perf_counter()
    probes = np.unique(np.linspace(0, len(writer.origins) - 1, PROBES).astype(int))
    for split, row in writer.origins[probes].tolist():
        with contextlib.suppress(DatasetError):  # reported with all others when its block is read
            writer.splits[split].read(row)
    seconds = (time.perf_counter() - start) / len(probes) * images / max(1, processes)
    whole = len(writer.origins)
    resumed = f" ({whole - images:,} are there from an earlier start)" if images < whole else ""
    say(
        f"preparing {images:,} images{resumed} of {writer.splits[0].kind} in {folder}: "
        f"{size_text(bytes_left)}, about {timedelta(seconds=round(seconds))} of decoding with "
        f"{max(1, processes)} processes, the disk permitting"
    )


def _write(writer: BlockWriter, todo: Sequence[int], done: np.ndarray, processes: int) -> list[tuple[str, str]]:
    """Write the blocks; returns the images that could not be decoded, whose blocks stay to do."""
    processes = min(processes, len(todo)) if len(todo) > 1 else 0
    blocks = DataLoader(
        Carrying(writer),
        batch_size=None,
        sampler=todo,
        num_workers=processes,
        collate_fn=as_is,  # without batch_size it gets single items
        in_order=False,
    )
    broken: list[tuple[str, str]] = []
    with tqdm(total=len(todo) * writer.size, desc="preparing", unit=" images", unit_scale=True, disable=None) as bar:
        for block in arriving(blocks):
            if block.disk_error is not None:
                raise block.disk_error
            broken += block.broken
            if not block.broken:
                done[block.number] = 1
            bar.update(writer.size)
    return sorted(broken)
