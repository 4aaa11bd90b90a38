"""Files that are written whole or not at all, JSON files, places that can be written, files that have changed."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from utilities.errors import RunFailure, UserError

ABSENT = -1
_AT_ONCE, _LOOKERS = 4096, 8  # a network disk answers several at once
_SAMPLES, _SAMPLED = 16, 2**16


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False, previous: Path | None = None) -> Iterator[Path]:
    """A temporary name beside `path`, which takes its place when the block ends well, and is gone when it does not.

    No other process has the same one: two evaluations of a run may write at once.

    durable   on the disk before it takes its place, for what a power cut may not cost. Nobody else may write `path`
              meanwhile: the name is always the same, so that kills leave one at most
    previous  where what was there before is kept
    """
    unique = f".{path.stem}.{os.urandom(6).hex()}{path.suffix}"
    temporary = path.with_name(f"{path.name}.tmp" if durable else unique)
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # libraries that write tell no name, and some no number
            raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def filling(folder: Path, leftovers: Collection[str] = ()) -> Iterator[Path]:
    """A hidden folder inside `folder`, whose files take their places there when the block ends well.

    Until then, and when the block fails, what lies in `folder` stays as it was. Raises RunFailure where the block could
    not write (a full disk).

    leftovers   names of files and folders that go where the block wrote none in their place
    """
    hidden = folder / f".{os.urandom(6).hex()}"
    try:
        hidden.mkdir(parents=True)
        yield hidden
        written = sorted(hidden.iterdir())
        for name in {*leftovers} - {path.name for path in written}:
            left = folder / name
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)
        for path in written:
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
    except BrokenPipeError:  # of the output
        raise
    except OSError as error:
        raise RunFailure(
            f"{folder} could not be written ({error.strerror or error}); what was there before is as it was. Free some "
            "space and start again"
        ) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing is in it


def check_writable(folder: Path, what: str) -> None:
    """Raise UserError where `folder`, named `what`, is a file or may not be written or made: hours before it is."""
    nearest = folder
    while not os.path.exists(nearest) and nearest != nearest.parent:  # False as well where one above may not be read
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UserError(f"{what} {folder}: {nearest} is a file; give a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{what} {folder}: {nearest} may not be written to; give another folder, or change its mode")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError naming it."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def json_safe(value: Any) -> Any:
    """The value with NaN as None, which JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: json_safe(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_json(path: Path, content: Mapping[str, Any], *, durable: bool = False) -> None:
    """Whole or not at all; durable as in `replacing`."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Folders below `root`, itself included, each with the names of its files; hidden folders are passed over.

    Links to folders elsewhere are followed, as archives on other disks are linked; not those that lead round, or to
    what is walked anyway.
    """
    own = Path(os.path.realpath(root))
    waiting, walked = [str(root)], [own]
    while waiting:
        for folder, below, files in os.walk(waiting.pop()):
            below[:] = sorted(name for name in below if not name.startswith("."))
            yield folder, files
            for path in filter(os.path.islink, (os.path.join(folder, name) for name in below)):
                target = Path(os.path.realpath(path))
                if not own.is_relative_to(target) and not any(map(target.is_relative_to, walked)):
                    waiting.append(path)
                    walked.append(target)


def fingerprint(content: str | bytes) -> str:
    """SHA-256 in hexadecimal digits: by this, data, lists and settings are told apart everywhere."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def sample_sha256(path: Path) -> str:
    """SHA-256 of a megabyte of a file, its beginning and end included: archives of one size are told apart in no time.

    Checksums of a compressed stream lie at its end, so that a change anywhere in one frame of it shows.
    """
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        for number in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLED) * number // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLED))
    return digest.hexdigest()


def sizes_and_times(files: Callable[[int], Iterable[str | Path]], count: int) -> np.ndarray:
    """(N, 2) int64: of each group of files their bytes in all, and one number made of their times of change.

    files(i) names group i of `count`, when it is its turn: the 6 million files of BigEarthNet are a gigabyte of names.
    ABSENT twice where one of the files is not there. What is written anew has another time; who sets a file's time
    back (`touch -r`, `rsync --times --size-only`) goes unnoticed, since contents are not read.
    """
    parts = [range(count)[start : start + _AT_ONCE] for start in range(0, count, _AT_ONCE)]
    if len(parts) < 2:
        return _looked_up(files, range(count))
    with ThreadPoolExecutor(_LOOKERS) as pool:
        return np.concatenate(list(pool.map(functools.partial(_looked_up, files), parts)))


def _looked_up(files: Callable[[int], Iterable[str | Path]], groups: range) -> np.ndarray:
    found = np.zeros((len(groups), 2), np.int64)
    for row, group in enumerate(groups):
        size = time = 0
        try:
            for place, path in enumerate(files(group), start=1):
                status = os.stat(path)
                size += status.st_size
                time += place * status.st_mtime_ns  # files that have changed places make another number
        except OSError:
            found[row] = ABSENT
            continue
        found[row] = size, time & 0x7FFF_FFFF_FFFF_FFFF
    return found
