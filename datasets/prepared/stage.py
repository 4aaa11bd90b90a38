"""The unfinished folder of a prepared array: begun under a lock, resumed after a kill, renamed when it is whole.

    .<name>.partial/plan.json     what it is filled from; written last when the folder is begun
                    done          a byte for each block of images, 1 when the block is on the disk
                    pixels.npy    the array

What carries the name without dot is whole. A lock lets one process prepare while others wait for the result.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.prepared.array import MANIFEST, refuse_mismatch, shortened
from utilities.errors import DatasetError, RunFailure, UserError
from utilities.files import write_json

DONE, PLAN = "done", "plan.json"
BLOCK_BYTES = 32 * 2**20
RESERVE = 64 * 2**20  # bytes left free besides the array


@contextlib.contextmanager
def preparing(folder: Path, *, given: bool) -> Iterator[Path]:
    """Hold the lock of `folder` and yield the path of its unfinished twin. A full disk becomes a `RunFailure`.

    given  whether the user chose the place (--cache_path)
    """
    _require_writable(folder.parent, given=given)
    with locked(folder.with_name(f".{folder.name}.lock"), folder):
        try:
            yield folder.with_name(f".{folder.name}.partial")
        except OSError as error:
            raise RunFailure(
                f"preparing {folder} stopped: {error.strerror or error}; what is written stays and the next start "
                "goes on from there (free space, or give another --cache_path)"
            ) from error


def prepared_once(folder: Path, cache_path: str | Path | None, fill: Callable[[Path], None]) -> Path:
    """`folder`; if it is not there yet, `fill` completes its unfinished twin, while other processes wait."""
    if folder.exists():
        return folder
    with preparing(folder, given=cache_path is not None) as partial:
        if not folder.exists():
            fill(partial)
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
def locked(path: Path, folder: Path) -> Iterator[None]:
    """Hold the lock file; the system lets go of it however this process ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise UserError(f"{path.parent} cannot be locked ({error}); give another --cache_path") from error
            say(f"another process prepares {folder}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # workers that were forked meanwhile hold the file open after it is closed


def begin(partial: Path, plan: dict[str, Any], size: int, lay_out: Callable[[], None]) -> int:
    """Images of a block. Makes the unfinished folder, or checks that the one that is there was begun for the same.

    lay_out  fills a new folder, before the plan that makes it one to be resumed
    """
    if not (partial / PLAN).exists():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        lay_out()
        write_json(partial / PLAN, plan | {"block_images": size}, durable=True)
        return size
    try:
        found = json.loads((partial / PLAN).read_text())
    except ValueError as error:
        raise DatasetError(f"{partial / PLAN} cannot be read ({error}); delete {partial}") from error
    refuse_mismatch(partial, found, plan)
    return int(found["block_images"])


def require_space(
    folder: Path,
    needed: int,
    *,
    what: str = "the prepared array",
    remedy: str = "give a folder on a larger disk with --cache_path",
) -> None:
    """Refuse when the disk of `folder` has not `needed` bytes free, and a reserve. what, remedy: of the message."""
    free = shutil.disk_usage(folder).free
    if free < needed + RESERVE:
        raise UserError(f"{what} takes {size_text(needed)} and {folder.parent} has {size_text(free)} free; {remedy}")


def write_header(path: Path, dtype: str, shape: Sequence[int]) -> int:
    """Write the header of a .npy file in place; returns its bytes, which do not depend on the number of rows."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(file, "r+b") as opened:
        descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
        header = {"descr": descr, "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(opened, header)
        return opened.tell()


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


def refuse_broken(broken: Sequence[tuple[str, str]], remedy: str) -> None:
    """Raise `DatasetError` about images (name, message) that could not be decoded; nothing where there are none.

    remedy  what to do about them, besides --skip_broken_images: a sentence without its stop
    """
    if not broken:
        return
    named = "; ".join(message for _, message in broken[:5])
    raise DatasetError(
        f"{len(broken):,} images cannot be decoded ({named}{'; ...' if len(broken) > 5 else ''}). {remedy}. "
        "Or leave them out with --skip_broken_images",
        names=[message for _, message in broken],
    )


def finish(partial: Path, folder: Path, manifest: dict[str, Any], broken: list[str]) -> None:
    """Write the manifest and give the folder its name. Labels stand in it for people; they are never read back."""
    manifest = manifest | {
        "shape": [manifest["images"], *manifest["item_shape"]],
        "libraries": {name: importlib.metadata.version(name) for name in ("numpy", "pillow")},
        "broken": broken,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(partial / MANIFEST, manifest, durable=True)
    partial.rename(folder)
    for name in (DONE, PLAN):  # after the rename: without them, a pass that is killed here would begin anew
        (folder / name).unlink()
    if broken:
        say(f"{len(broken):,} images could not be decoded and are listed in {folder / MANIFEST}: {shortened(broken)}")


def usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def size_text(count: int) -> str:
    """Bytes for people: 83.1 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
