"""Which image belongs to train, val or test: drawn by hashing names, or read from stored lists."""

from __future__ import annotations

import bz2
import csv
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from datasets.base import SPLITS
from utilities.errors import DatasetError, UserError
from utilities.files import fingerprint, write_json

NAMED = (
    "patch",
    "patch_id",
    "patch_name",
    "name",
    "image",
    "image_id",
    "image_name",
    "filename",
    "file",
    "s2_name",
    "s2",
)
"""What a list calls its column of names, the most telling first."""
MANIFEST = "manifest.json"
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio


def parse_proportions(text: str) -> tuple[int, int, int]:
    """`40/10/50` -> percentages of train, val and test."""
    parts = text.split("/")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts) or sum(map(int, parts)) != 100:
        raise UserError(f"proportions {text!r} must be train/val/test percentages adding up to 100, e.g. 40/10/50")
    train, val, test = map(int, parts)
    return train, val, test


def hashed_split(names: np.ndarray, groups: np.ndarray, proportions: tuple[int, int, int], *, seed: int) -> np.ndarray:
    """0 (train), 1 (val) or 2 (test) for every name, each group divided by the percentages on its own.

    The images of a group are ordered by the sha256 of `seed:name`, so the split is the same on every machine
    and in any order of the files, and no list needs to be stored. names (N,) unicode, groups (N,) int ->
    (N,) int64. A group of n images gives `round(n * share)` of them, counted cumulatively.
    """
    order = np.lexsort((_hash_keys(names, seed), groups))
    sorted_groups = groups[order]
    starts = np.searchsorted(sorted_groups, sorted_groups, side="left")
    sizes = np.searchsorted(sorted_groups, sorted_groups, side="right") - starts
    position = np.arange(len(names)) - starts
    train, val, _ = proportions
    part = np.empty(len(names), np.int64)
    part[order] = (position >= (sizes * train + 50) // 100).astype(np.int64) + (
        position >= (sizes * (train + val) + 50) // 100
    )
    return part


def balanced_split(
    names: np.ndarray, groups: np.ndarray, labels: np.ndarray, proportions: tuple[int, int, int], *, seed: int
) -> np.ndarray:
    """0 (train), 1 (val) or 2 (test) for every name, so that every set of labels is divided by the percentages.

    The images are ordered by group, label set and the sha256 of `seed:name`, and image number i of that order goes
    where i * phi mod 1 falls (phi the golden ratio): of any n images in a row, each split gets its share to within one
    or two. In integers, so it is the same on every machine. names (N,) unicode, groups (N,) int, labels (N, L) bool ->
    (N,) int64.
    """
    label_set = np.packbits(labels, axis=1)
    order = np.lexsort((_hash_keys(names, seed), *label_set.T[::-1], groups))
    place = np.arange(len(names), dtype=np.uint64) * GOLDEN >> np.uint64(32)  # modulo 2**64, of which the upper half
    train, val, _ = proportions
    bounds = np.asarray([train, train + val], np.uint64) * np.uint64(2**32) // np.uint64(100)
    part = np.empty(len(names), np.int64)
    part[order] = np.searchsorted(bounds, place, side="right")
    return part


def _hash_keys(names: np.ndarray, seed: int) -> np.ndarray:
    digests = [hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8] for name in names.tolist()]
    return np.frombuffer(b"".join(digests), ">u8")


def rows_of_split(part: np.ndarray, split: str) -> np.ndarray:
    """Rows that `hashed_split` put into a split; none at all is a `DatasetError`."""
    rows = np.flatnonzero(part == SPLITS.index(split))
    if not len(rows):
        raise DatasetError(f"the {split} split of these {len(part)} images is empty; more images are needed")
    return rows


def names_fingerprint(names: Sequence[str]) -> str:
    """sha256 over the sorted names, a line each: equal splits, equal fingerprint."""
    return fingerprint("".join(f"{name}\n" for name in sorted(names)))


def read_name_list(path: Path, known: np.ndarray | None = None) -> np.ndarray:
    """The names in a csv or text file, plain or .bz2, as a unicode array; blank lines are skipped.

    They stand in the column that a header line calls so (NAMED), else in the first that does not count the rows, as
    pandas writes one. A header is a first line of several whose own entry is no name: none of those `known`, (N,)
    bytes, and blank, a count or without two digits in a row, which the names of archives have.
    """
    try:
        text = (bz2.decompress(path.read_bytes()) if path.suffix == ".bz2" else path.read_bytes()).decode("utf-8-sig")
        lines = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines())]
    except (OSError, EOFError, ValueError, csv.Error) as error:
        raise DatasetError(f"cannot read the list of names {path}: {error}") from error
    rows = [row for row in lines if any(row)]
    if not rows:
        return np.asarray([], np.str_)
    called = [cell.lower() for cell in rows[0]]
    column = next((called.index(word) for word in NAMED if word in called), None)
    if column is None:
        column = 1 if len(rows[-1]) > 1 and rows[-1][0].isdecimal() else 0
    first = rows[0][column] if len(rows[0]) > column else ""
    is_name = known is not None and np.isin(first.encode(), known).item()
    if len(rows) > 1 and not is_name and (first.isdecimal() or not re.search(r"\d\d", first)):
        rows = rows[1:]
    short = next((row for row in rows if len(row) <= column or not row[column]), None)
    if short is not None:
        raise DatasetError(
            f"the list of names {path} has the line {','.join(short)!r} without a name in column {column + 1}"
        )
    return np.asarray([row[column] for row in rows], dtype=np.str_)


def read_stored_split(folder: Path, split: str) -> np.ndarray:
    """Names in `<folder>/<split>.txt`, checked against the fingerprint in `<folder>/manifest.json`."""
    names = np.asarray((folder / f"{split}.txt").read_text().split("\n")[:-1], np.str_)
    expected = json.loads((folder / MANIFEST).read_text())["fingerprints"][split]
    found = names_fingerprint(names.tolist())
    if found != expected:
        raise DatasetError(
            f"stored split {folder / f'{split}.txt'} was changed: fingerprint {found[:12]} instead of "
            f"{expected[:12]}; restore the file from the repository"
        )
    return names


def write_stored_split(
    folder: Path, names: np.ndarray, part: np.ndarray, drawn: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write `<split>.txt` for the three splits and the manifest with fingerprints, sizes and how they were drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    fingerprints, sizes = {}, {}
    for i, split in enumerate(SPLITS):
        chosen = sorted(names[part == i].tolist())
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in chosen))
        fingerprints[split], sizes[split] = names_fingerprint(chosen), len(chosen)
    write_json(folder / MANIFEST, {**drawn, "fingerprints": fingerprints, "sizes": sizes})
