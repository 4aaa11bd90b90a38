"""Where a data set lies: `--source_path` names its own folder, or the folder above it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from utilities.errors import DatasetError


def folder_of(source: Path, name: str, marks: Sequence[str]) -> Path:
    """`source/name` where that is a folder and nothing in `source` itself is of the data set; else `source`.

    marks: patterns of what lies in the folder of the data set (`RetrievalDataset.marks`).
    """
    inner = source / name
    return inner if inner.is_dir() and not _holds(source, name, marks) else source


@contextlib.contextmanager
def naming_both(source: Path, name: str, marks: Sequence[str]) -> Iterator[None]:
    """A DatasetError of the block says that `source` and `source/name` were looked at, where `source` holds nothing."""
    try:
        yield
    except DatasetError as error:
        if not source.is_dir() or _holds(source, name, marks):
            raise
        both = f"looked at {source} and {source / name}: --source_path is the data set's folder or the one above it"
        raise type(error)(f"{error} ({both})", error.names) from error


def _holds(folder: Path, name: str, marks: Sequence[str]) -> bool:
    """Whether anything in a folder is of the data set, an array prepared from its archive included.

    Ends at the first: a folder of BigEarthNet has 590,326 entries.
    """
    with os.scandir(folder) as entries:
        if any(fnmatch(entry.name.lower(), mark.lower()) for entry in entries for mark in marks):
            return True
    return any((folder / ".cache").glob(f"{name}-*"))
