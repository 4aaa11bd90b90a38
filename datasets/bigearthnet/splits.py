"""Which patches of BigEarthNet v1 form a split: the official lists, lists of the user's, or a seeded draw."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from datasets.base import SPLITS
from datasets.bigearthnet.labels_v1 import SMALL, decoded
from datasets.files.split_lists import hashed_split, read_name_list, rows_of_split
from utilities.errors import DatasetError

EXCLUDED = ("patches_with_seasonal_snow", "patches_with_cloud_and_shadow", "patches_with_no_19_class_targets")
HASHED = (60, 20, 20)  # percentages of the 2019 paper's random split
SOURCE = "https://git.tu-berlin.de/rsim/BigEarthNet-MM_19-classes_models"


def list_file(folder: Path, stem: str) -> Path | None:
    """`<folder>/<stem>.csv`, or the same compressed as .bz2; None if there is neither."""
    files = (folder / f"{stem}.csv", folder / f"{stem}.csv.bz2")
    return next((file for file in files if file.is_file()), None)


def find_lists(source: Path) -> Path | None:
    """The folder with the three lists: in the archive's folder, its `splits`, or beside it."""
    return next((place for place in _places(source) if all(list_file(place, split) for split in SPLITS)), None)


def _places(source: Path) -> tuple[Path, ...]:
    source = source.absolute()  # "." has a name and a parent
    return (source / "splits", source, source.parent / f"{source.name}-splits", source.parent / "splits")


def _refuse_some_lists(source: Path) -> None:
    """Raise `DatasetError` where some of the three lists are at hand: they are meant to be followed."""
    for place in _places(source):
        there = [split for split in SPLITS if list_file(place, split)]
        if there:
            lacking = " and ".join(f"{split}.csv" for split in SPLITS if split not in there)
            raise DatasetError(
                f"{place} holds {' and '.join(f'{split}.csv' for split in there)} and no {lacking}: all three lists "
                "are needed; add what is missing, or give --ben_splits hashed for a seeded draw"
            )


def lists_folder(source: Path, choice: str) -> Path | None:
    """Where the lists of --ben_splits are; None where they are looked for beside the data and not there."""
    return find_lists(source) if choice in ("auto", "hashed") else Path(choice)


def split_rows(names: np.ndarray, split: str, source: Path, choice: str, *, clean: bool = False) -> np.ndarray:
    """Rows of the split in `names` (N,) bytes, sorted.

    choice  "auto"    the official lists. A small folder that does not hold all that they list (a sample, a
                      demo) is split by "hashed", which is said
            "hashed"  60/20/20, drawn by hashing names, without the patches that the official lists leave out, where
                      these are at hand
            else      a folder with lists of the same format
    clean   whether what is to be left out is not among the names, as in version 2, whose table says it
    """
    folder = lists_folder(source, choice)
    if choice == "hashed":
        if folder is None and len(names) >= SMALL and not clean:
            warnings.warn(
                f"--ben_splits hashed without the official lists beside {source}: patches with snow, cloud or shadow "
                "and those without a label of the 19 are not left out",
                stacklevel=3,
            )
        return _hashed_rows(names, split, folder)
    if choice == "auto" and folder is None:
        _refuse_some_lists(source)
    if choice == "auto" and len(names) < SMALL:
        reason = "no lists train.csv, val.csv, test.csv found" if folder is None else _incomplete(names, folder)
        if reason:
            left = int(excluded(names, folder).sum())
            drawn = f"{len(names) - left:,} patches are split 60/20/20 by hashing their names"
            also = (
                f", without {left:,} that its lists name for snow, cloud or shadow or no label of the 19"
                if left
                else ""
            )
            warnings.warn(f"{source}: {reason}; {drawn}{also}", stacklevel=3)
            return _hashed_rows(names, split, folder)
    if folder is None:
        raise DatasetError(
            f"no official lists train.csv, val.csv, test.csv (or .csv.bz2) in {source / 'splits'} or beside "
            f"{source}; give --ben_splits the folder `splits` of {SOURCE}, or `hashed` for a seeded draw"
        )
    return _listed_rows(names, split, folder)


def _listed_rows(names: np.ndarray, split: str, folder: Path) -> np.ndarray:
    file = list_file(folder, split)
    if file is None:
        raise DatasetError(f"--ben_splits {folder} holds no {split}.csv or {split}.csv.bz2")
    rows, absent = locate(names, read_name_list(file, names))
    if len(absent):
        raise DatasetError(
            f"{len(absent):,} patches of {file} are absent ({', '.join(absent[:5].tolist())}"
            f"{', ...' if len(absent) > 5 else ''}); unpack the archive again, or give lists of your own "
            "with --ben_splits, or --ben_splits hashed",
            names=[f"absent: {name}" for name in absent.tolist()],
        )
    if len(names) < SMALL and len(left := unlisted(names, folder)):  # for whole archives: the check program
        named = ", ".join(os.fsdecode(name) for name in left[:5])
        warnings.warn(f"{len(left):,} patches are in no list of {folder} and left out ({named})", stacklevel=4)
    if len(np.unique(rows)) < len(rows):
        raise DatasetError(f"{file} lists {len(rows) - len(np.unique(rows)):,} patches twice")
    rows = rows[~excluded(names, folder)[rows]]
    if not len(rows):
        raise DatasetError(f"{file} leaves no patch for the {split} split")
    return rows


def _hashed_rows(names: np.ndarray, split: str, folder: Path | None) -> np.ndarray:
    kept = np.flatnonzero(~excluded(names, folder))
    strings = decoded(names[kept])
    return kept[rows_of_split(hashed_split(strings, np.zeros(len(kept), np.int64), HASHED, seed=0), split)]


def _incomplete(names: np.ndarray, folder: Path) -> str:
    """What is missing of the first list most of whose patches are not there, in words; "" where there is none.

    So it is with official lists beside a sample; a list of the user's that names a patch too many is a mistake."""
    for split in SPLITS:
        file = list_file(folder, split)
        if file is not None:
            listed = read_name_list(file, names)
            absent = len(locate(names, listed)[1])
            if 2 * absent > len(listed):
                return f"{absent:,} of the {len(listed):,} patches listed in {file} are absent"
    return ""


def locate(names: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the `wanted` (unicode) in `names` (bytes, sorted), in that order, and those not among them."""
    if not len(names):
        return np.zeros(0, np.int64), wanted
    keys = np.char.encode(wanted, "utf-8")
    rows = np.searchsorted(names, keys).clip(max=len(names) - 1)
    found = names[rows] == keys
    return rows[found], wanted[~found]


def excluded(names: np.ndarray, folder: Path | None) -> np.ndarray:
    """(N,) bool: named by a list of patches with snow, cloud or shadow, or without a label of the 19."""
    flags = np.zeros(len(names), bool)
    files = [file for stem in EXCLUDED if folder is not None and (file := list_file(folder, stem))]
    for file in files:
        flags[locate(names, read_name_list(file, names))[0]] = True
    return flags


def unlisted(names: np.ndarray, folder: Path) -> np.ndarray:
    """Names of patches that no list mentions: neither a split nor a reason to leave them out."""
    files = [file for stem in (*SPLITS, *EXCLUDED) if (file := list_file(folder, stem))]
    mentioned = np.zeros(len(names), bool)
    for file in files:
        mentioned[locate(names, read_name_list(file, names))[0]] = True
    return names[~mentioned]
