"""Multi-hot label files: one line an image, one column a label, columns found by name."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.base import label_fingerprint
from utilities.errors import DatasetError


class LabelFile(NamedTuple):
    """One file as it stands: names (N,) unicode, header (C,) stripped column names, labels (N, C) bool."""

    path: Path
    header: tuple[str, ...]
    names: np.ndarray
    labels: np.ndarray


class LabelTable(NamedTuple):
    """All images of a data set: names (N,) unicode, labels (N, L) bool in the order of `label_names`.

    categories (N,) int64 is the row in `category_names`: the file, or the folder, an image belongs to.
    """

    names: np.ndarray
    labels: np.ndarray
    label_names: tuple[str, ...]
    categories: np.ndarray
    category_names: tuple[str, ...]

    def fingerprint(self) -> str:
        return label_fingerprint(self.names, self.labels, self.label_names)


def read_label_file(path: Path, delimiter: str = ",") -> LabelFile:
    """Read `name<delimiter>0<delimiter>1...` lines under a header line, with any line end.

    A row of another length than the header, a value that is not 0 or 1 and an empty name are `DatasetError`s
    that name file and line. A byte order mark and lines of only blanks are skipped.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
        rows = [line.strip().decode() for line in lines]
    except OSError as error:
        raise DatasetError(f"cannot read the label file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"label file {path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    if not rows or delimiter not in rows[0]:
        raise DatasetError(f"label file {path} has no header line `image{delimiter}label{delimiter}...`")
    header = tuple(_fields(path, 1, rows[0], delimiter)[1:])
    names, labels = _plain_rows(rows[1:], len(header), delimiter) or _checked_rows(path, rows[1:], header, delimiter)
    return LabelFile(path, header, np.asarray(names, dtype=np.str_), labels)


def _fields(path: Path, line: int, row: str, delimiter: str) -> list[str]:
    try:
        return [field.strip() for field in next(csv.reader([row], delimiter=delimiter))]
    except csv.Error as error:
        raise DatasetError(f"label file {path}, line {line}: {error}") from error


def _plain_rows(rows: Sequence[str], columns: int, delimiter: str) -> tuple[list[str], np.ndarray] | None:
    """Rows that are a name and single digits, all at once; None where any row is anything else."""
    parts = [row.partition(delimiter) for row in rows if row]
    flags = [part[2] for part in parts]
    if any(len(flag) != 2 * columns - 1 for flag in flags):
        return None
    joined = "".join(flag + delimiter for flag in flags)
    if not joined.isascii() or any('"' in part[0] or not part[0].strip() for part in parts):
        return None
    grid = np.frombuffer(joined.encode(), np.uint8).reshape(len(flags), 2 * columns)
    digits, between = grid[:, ::2], grid[:, 1::2]
    if not ((digits | 1 == ord("1")).all() and (between == ord(delimiter)).all()):
        return None
    return [part[0].strip() for part in parts], digits == ord("1")


def _checked_rows(
    path: Path, rows: Sequence[str], header: tuple[str, ...], delimiter: str
) -> tuple[list[str], np.ndarray]:
    """Row by row through the csv module: quoting and blanks are taken, everything else is named."""
    names: list[str] = []
    labels = np.zeros((len(rows), len(header)), bool)
    for line, row in enumerate(rows, start=2):
        if not row:
            continue
        name, *values = _fields(path, line, row, delimiter)
        where = f"label file {path}, line {line} ({name or 'no image name'})"
        if len(values) != len(header):
            raise DatasetError(f"{where}: {len(values)} values where the header names {len(header)} labels")
        wrong = next((f"{value!r} for {label!r}" for value, label in zip(values, header, strict=True)
                      if value not in ("0", "1")), "" if name else "an empty image name")  # fmt: skip
        if wrong:
            raise DatasetError(f"{where}: found {wrong}; a row is an image name and a 0 or 1 for every label")
        labels[len(names)] = [value == "1" for value in values]
        names.append(name)
    return names, labels[: len(names)]


def read_label_table(folder: Path, known: Sequence[str] = ()) -> LabelTable:
    """All `<category>.csv` of a folder as one table, columns matched by name.

    known  the data set's labels in canonical order. A header most of whose names are known must consist of
           known names and comes out in their order; any other set of labels keeps the order of its header.

    The columns of every file must be the same set. A blank header is the one label that its file misses. A
    column that only some files have, a column twice and an image listed twice are `DatasetError`s.
    """
    paths = sorted(path for path in folder.glob("*.csv") if not path.name.startswith("."))  # hidden: macOS's own
    if not paths:
        raise DatasetError(f"no label file `<category>.csv` in {folder}")
    files = [read_label_file(path) for path in paths]
    label_names = _label_names(files, known)
    columns = [column_order(file, label_names) for file in files]
    names = np.concatenate([file.names for file in files])
    categories = np.repeat(np.arange(len(files)), [len(file.names) for file in files])
    category_names = tuple(path.stem for path in paths)
    refuse_duplicates(names, [f"{path.name}" for path in paths], categories)
    labels = np.concatenate([file.labels[:, order] for file, order in zip(files, columns, strict=True)])
    return LabelTable(names, labels, label_names, categories, category_names)


def _label_names(files: Sequence[LabelFile], known: Sequence[str]) -> tuple[str, ...]:
    """The set of labels that most complete headers carry, in canonical order where it is the known one."""
    complete = [file for file in files if "" not in file.header]
    if not complete:
        return tuple(known)
    usual = Counter(frozenset(file.header) for file in complete).most_common(1)[0][0]
    first = next(file for file in complete if frozenset(file.header) == usual)
    foreign = usual - frozenset(known)
    if 2 * len(foreign) >= len(usual):
        return first.header
    if foreign:
        raise _unknown_columns(first.path, foreign, known)
    return tuple(label for label in known if label in usual)


def column_order(file: LabelFile, label_names: tuple[str, ...]) -> list[int]:
    """For every label the file's column that holds it."""
    twice = sorted(column for column, count in Counter(file.header).items() if column and count > 1)
    if twice:
        raise DatasetError(f"label file {file.path} has the column {twice[0]!r} twice; each label is one column")
    foreign = set(file.header) - set(label_names) - {""}
    if foreign:
        raise _unknown_columns(file.path, foreign, label_names)
    missing = [label for label in label_names if label not in file.header]
    blank = file.header.count("")
    if len(missing) != blank or blank > 1:
        absent = f"has no column for {', '.join(map(repr, missing))}" if missing else "misses no label"
        raise DatasetError(f"label file {file.path} {absent} and has {blank} without a name; compare its first line")
    header = [column or missing[0] for column in file.header]
    return [header.index(label) for label in label_names]


def _unknown_columns(path: Path, foreign: Collection[str], allowed: Sequence[str]) -> DatasetError:
    columns = ", ".join(map(repr, sorted(foreign)))
    return DatasetError(f"label file {path} has the unknown column {columns}; allowed: {', '.join(allowed)}")


def refuse_duplicates(names: np.ndarray, sources: Sequence[str], source_of: np.ndarray) -> None:
    """Raise `DatasetError` for the first name that occurs twice, with the files it stands in."""
    unique, counts = np.unique(names, return_counts=True)
    if len(unique) == len(names):
        return
    name = unique[counts > 1][0]
    where = sorted({sources[i] for i in source_of[names == name]})
    more = int((counts > 1).sum()) - 1
    raise DatasetError(f"image {name} is listed more than once (in {', '.join(where)}); {more} more such names")
