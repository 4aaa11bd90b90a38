"""One pass over an archive that fills the array of `datasets.prepared.array`, without unpacking anything.

The archive is read once, front to back; blocks of images are decoded and written by threads (inflating, decoding JPEG
and writing let go of the interpreter), a few blocks at a time, so memory does not grow with the archive. Row i of the
array is the i-th image of the archive. A killed pass reads the archive again, since a compressed stream has no middle
to start from, but decodes and writes only the blocks that are not there yet.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import warnings
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from datasets.base import Packed
from datasets.files.tar import TarStream
from datasets.prepared import stage
from datasets.prepared.archive_layout import ArchiveLayout, Image, images
from datasets.prepared.array import (
    NAMES,
    PIXELS,
    content,
    encoded,
    names_sha256,
    prepared_folder,
    read_manifest,
    read_names,
    refuse_mismatch,
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
from utilities.files import sample_sha256

KEPT = "source"  # folder inside the prepared one: small files of the archive
PROBED = 200  # images read beforehand for the estimate of size and time
SAMPLE = "archive_sample_sha256"
CERTAIN = 0.5  # share of an estimated number of images that there are at least


def prepare_archive(
    layout: ArchiveLayout, archive: Path, cache_path: str | Path | None, *, processes: int, skip_broken: bool
) -> Path:
    """The folder of the complete array of all images in the archive; prepared if it is not there yet.

    processes    threads that decode
    skip_broken  images that cannot be decoded, or lack a file, are listed in the manifest; else they are a
                 `DatasetError` once all others are done. An archive that ends early is one at once
    """
    folder, threads = prepared_folder(layout, cache_path), max(1, processes)
    return prepared_once(
        folder, cache_path, lambda partial: _fill(layout, archive, folder, partial, threads, skip_broken)
    )


def open_packed(folder: Path, archive: Path | None) -> Packed | None:
    """The data set in a prepared folder; None where the folder was not prepared from an archive.

    archive  None where it is not there any more. Another one than the array was made from is a `DatasetError`: by
             name, size and samples of its bytes. Copies have times of their own: another one is no error, but noted of
             arrays of before there were samples
    """
    manifest = read_manifest(folder)
    if "archive" not in manifest:
        return None
    if archive is not None:
        expected: dict[str, Any] = {"archive": archive.name, "archive_bytes": archive.stat().st_size}
        if SAMPLE in manifest:
            expected[SAMPLE] = sample_sha256(archive)
        elif manifest.get("archive_time") != archive.stat().st_mtime_ns:
            warnings.warn(
                f"{archive} has another time than when {folder} was prepared from it; if it was exchanged, delete "
                f"{folder} to prepare it again",
                stacklevel=3,
            )
        refuse_mismatch(folder, manifest, expected)
    names = np.char.decode(read_names(folder), "utf-8")
    return Packed(archive or Path(manifest["archive"]), folder / KEPT, names)


def _fill(layout: ArchiveLayout, archive: Path, folder: Path, partial: Path, threads: int, skip_broken: bool) -> None:
    plan, sample = content(layout) | _identity(layout, archive), sample_sha256(archive)
    estimate = _probe(layout, archive, threads)

    def lay_out() -> None:
        require_space(partial, estimate.least * row_bytes(layout))
        stage.write_header(partial / PIXELS, plan["dtype"], (0, *plan["item_shape"]))
        (partial / DONE).write_bytes(b"")

    size = begin(partial, plan, max(1, stage.BLOCK_BYTES // row_bytes(layout)), lay_out)
    blocks = _Blocks(layout, partial, size)
    _announce(layout, archive, folder, partial, estimate, threads)
    try:
        _stream(layout, archive, blocks, threads)
    except DatasetError:  # of the archive: what was written of it is not to be trusted
        shutil.rmtree(partial)
        raise
    if not blocks.names:
        raise DatasetError(f"{archive} holds no image of {layout.kind}; is it the archive that --dataset names?")
    if not skip_broken:
        refuse_broken(sorted(blocks.broken), f"Delete {partial} and start again with a mended archive")
    _complete(layout, folder, partial, plan | {SAMPLE: sample}, blocks)


def _stream(layout: ArchiveLayout, archive: Path, blocks: _Blocks, threads: int) -> None:
    """Read the archive through, and hand its images to the threads block by block."""
    waiting: deque[Future[_Block]] = deque()
    block: list[Image] = []
    with TarStream(archive) as stream, ThreadPoolExecutor(threads) as pool, _bar(stream) as bar:
        for image in images(iter(stream), layout, archive):
            layout.take(image.name, image.files)
            blocks.names.append(image.name)
            block.append(image)
            if len(block) == blocks.size:
                waiting.append(pool.submit(blocks.write, len(blocks.names) // blocks.size - 1, block))
                block = []
                bar.update(stream.consumed - bar.n)
            while len(waiting) > threads:
                blocks.finished(waiting.popleft().result())
        if block:
            waiting.append(pool.submit(blocks.write, len(blocks.names) // blocks.size, block))
        for future in waiting:
            blocks.finished(future.result())


def _identity(layout: ArchiveLayout, archive: Path) -> dict[str, Any]:
    """What an unfinished pass must agree with to be continued."""
    status = archive.stat()
    return {
        "archive": archive.name,
        "archive_bytes": status.st_size,
        "archive_time": status.st_mtime_ns,
        "selection_sha256": layout.selection().fingerprint(),
    }


def _complete(layout: ArchiveLayout, folder: Path, partial: Path, plan: dict[str, Any], blocks: _Blocks) -> None:
    """Give the array its length, write names and labels, and rename the folder."""
    count = len(blocks.names)
    start = stage.write_header(partial / PIXELS, plan["dtype"], (count, *plan["item_shape"]))
    os.truncate(partial / PIXELS, start + count * row_bytes(layout))
    names = encoded(np.asarray(blocks.names))
    np.save(partial / NAMES, names)
    (partial / KEPT).mkdir(exist_ok=True)
    about = {"images": count, "names_sha256": names_sha256(names)} | layout.finish(partial / KEPT)
    finish(partial, folder, plan | about, sorted(name for name, _ in blocks.broken))


class _Block(NamedTuple):
    number: int
    broken: list[tuple[str, str]]


class _Blocks:
    """Writes blocks of images, and knows which are on the disk."""

    def __init__(self, layout: ArchiveLayout, partial: Path, size: int) -> None:
        self.layout, self.size = layout, size
        self.names: list[str] = []
        self.broken: list[tuple[str, str]] = []
        self._path, self._done_path = partial / PIXELS, partial / DONE
        self._done = self._done_path.read_bytes()
        # As long for any number of rows: it was written by the same function.
        self._start = stage.write_header(self._path, layout.dtype.name, (0, *layout.item_shape))

    def write(self, number: int, block: Sequence[Image]) -> _Block:
        """Decode and write images number * size and on, unless they are there from an earlier start."""
        broken: list[tuple[str, str]] = []
        if self._done[number : number + 1] == b"\1":
            return _Block(number, broken)
        pixels = np.zeros((len(block), *self.layout.item_shape), self.layout.dtype)
        for place, image in enumerate(block):
            try:
                if image.missing:
                    raise DatasetError(f"{image.name} lacks {', '.join(sorted(image.missing))}")
                pixels[place] = self.layout.decode(image.name, image.files)
            except DatasetError as error:
                broken.append((image.name, str(error)))
        write_at(self._path, pixels, self._start + number * self.size * row_bytes(self.layout))
        return _Block(number, broken)

    def finished(self, block: _Block) -> None:
        self.broken += block.broken
        if not block.broken:
            file = os.open(self._done_path, os.O_WRONLY)
            try:
                os.pwrite(file, b"\1", block.number)
            finally:
                os.close(file)


class _Estimate(NamedTuple):
    """images: those of an archive read to its end, or as many as its first ones let expect; seconds of a pass."""

    images: int
    exact: bool
    seconds: float

    @property
    def least(self) -> int:
        return self.images if self.exact else round(CERTAIN * self.images)


def _probe(layout: ArchiveLayout, archive: Path, threads: int) -> _Estimate:
    """Read and decode the first images: how many there may be in all, and how long they may take."""
    start = time.perf_counter()
    read, decoding = 0, 0.0
    with TarStream(archive) as stream:
        found = images((m for m in stream if layout.part(m.path)), layout, archive)
        for image in found:
            began = time.perf_counter()
            if not image.missing:
                with contextlib.suppress(DatasetError):  # reported with all others when its block is written
                    layout.decode(image.name, image.files)
            decoding += time.perf_counter() - began
            read += 1
            if read == PROBED:
                break
        whole = stream.bytes / max(1, min(stream.consumed, stream.bytes)) if read == PROBED else 1.0
    reading = time.perf_counter() - start - decoding
    return _Estimate(round(read * whole), read < PROBED, max(reading, decoding / threads) * whole)


def _announce(
    layout: ArchiveLayout, archive: Path, folder: Path, partial: Path, estimate: _Estimate, threads: int
) -> None:
    """Check the space that is still needed, and say what the pass will take."""
    needed = estimate.images * row_bytes(layout)
    written = min(needed, (partial / PIXELS).stat().st_blocks * 512)
    require_space(folder.parent, max(0, estimate.least * row_bytes(layout) - written))
    free = shutil.disk_usage(folder.parent).free
    if free < needed - written + stage.RESERVE:
        say(f"note: {size_text(free)} are free, which may not be enough; a pass that fills the disk can be continued")
    resumed = f" ({size_text(written)} are there from an earlier start)" if any((partial / DONE).read_bytes()) else ""
    say(
        f"preparing {layout.kind} from {archive.name} ({size_text(archive.stat().st_size)}) in {folder}: about "
        f"{estimate.images:,} images, {size_text(needed)}{resumed}, {timedelta(seconds=round(estimate.seconds))} with "
        f"{threads} threads, the disk permitting"
    )


def _bar(stream: TarStream) -> tqdm:
    return tqdm(total=stream.bytes, desc="reading the archive", unit="B", unit_scale=True, disable=None)
