"""The table of version 2 of BigEarthNet, `metadata.parquet`: patches, labels and official split."""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from datasets.bigearthnet.labels_v1 import PatchTable
from datasets.bigearthnet.nomenclature import LABELS_19
from utilities.errors import DatasetError, UserError, WrongFolderError

LEFT_OUT = ("contains_seasonal_snow", "contains_cloud_or_shadow")
SPLIT_NAMES = {"train": "train", "validation": "val", "val": "val", "test": "test", "": ""}
TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False, "": False}
NULL = -1  # place of what is null among the names of a column


def read_version_2(path: Path) -> PatchTable:
    """Names, 19 labels and official split; read once for all splits of a process.

    Patches with seasonal snow, cloud or shadow get no split where the table says so in columns of its own, nor do
    those whose split is null.
    """
    if not path.is_file():
        raise WrongFolderError(f"{path.parent} holds no {path.name}; --ben_version 2 reads the labels from it")
    status = path.stat()
    return _read(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=1)
def _read(path: Path, changed: int, size: int) -> PatchTable:
    """changed, size: of the file; another one under its name is read anew."""
    columns = _columns(path)
    wrong = _wrong(columns)
    if wrong:
        raise _unusable(path, wrong)
    names = np.asarray([name.encode() for name in columns["patch_id"].to_pylist()])
    order = np.argsort(names)
    twice = np.flatnonzero(names[order[1:]] == names[order[:-1]])
    if len(twice):
        raise _unusable(path, f"the patch_id {names[order[twice[0]]].decode()} stands in several rows")
    arrays = [array[order] for array in (names, _multi_hot(columns["labels"], path), _splits(columns))]
    for array in arrays:
        array.flags.writeable = False  # all who ask share them
    names, labels, splits = arrays
    return PatchTable(names, labels, LABELS_19, splits)


def _columns(path: Path) -> dict[str, Any]:
    """Arrow arrays of the columns that matter, by name."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError(f"reading {path} needs pyarrow: pip install pyarrow") from error
    needed = ("patch_id", "labels", "split")
    try:
        wanted = [name for name in parquet.read_schema(path).names if name in (*needed, *LEFT_OUT)]
        table = parquet.read_table(path, columns=wanted)
        columns = {name: _plain(table[name].combine_chunks()) for name in dict.fromkeys((*needed, *wanted))}
        return columns | {"labels": _plain_lists(columns["labels"])}
    except (OSError, KeyError, UnicodeError, ArrowException) as error:
        raise DatasetError(f"cannot read the table of patches {path}: {error}") from error


def _plain(column: Any) -> Any:
    """Text that was stored as codes or views (pandas' categories, polars' strings) as text; the rest as it is."""
    from pyarrow import string, types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(string()) if types.is_string_view(column.type) else column


def _plain_lists(column: Any) -> Any:
    """Lists of any kind (views, of fixed size) of texts of any kind (codes, views) as lists of text; the rest as is."""
    from pyarrow import array, list_, string, types

    kind = column.type
    listed = (
        types.is_list,
        types.is_large_list,
        types.is_fixed_size_list,
        types.is_list_view,
        types.is_large_list_view,
    )
    if not any(is_kind(kind) for is_kind in listed):
        return column
    plain = types.is_list(kind) or types.is_large_list(kind)
    if plain and not (types.is_dictionary(kind.value_type) or types.is_string_view(kind.value_type)):
        return column
    rows = column.to_pylist()
    return array(rows, list_(string())) if all(isinstance(name, str) for row in rows for name in row or ()) else column


def _wrong(columns: dict[str, Any]) -> str:
    """What makes the columns unusable, in words; "" where nothing does."""
    from pyarrow import types

    def is_text(kind: Any) -> bool:
        return types.is_string(kind) or types.is_large_string(kind)

    ids, lists, splits = (columns[name] for name in ("patch_id", "labels", "split"))
    if not len(ids):
        return "it holds no row"
    if ids.null_count or not is_text(ids.type):
        named = next(name for name in ids.to_pylist() if not isinstance(name, str))
        return f"patch_id is {named} where a name is expected"
    if not (types.is_list(lists.type) or types.is_large_list(lists.type)):
        return f"labels is {lists[0]} for {ids[0]} where a list of names is expected"
    if lists.null_count:
        return f"labels is null for {ids[lists.is_null().to_pylist().index(True)]} where a list of names is expected"
    if not (is_text(splits.type) or types.is_null(splits.type)):
        return f"split is {splits[0]} for {ids[0]} where a name is expected"
    deciding: dict[str, Collection[str]] = {"split": SPLIT_NAMES} | {f: TRUTH for f in LEFT_OUT if f in columns}
    for name, allowed in deciding.items():
        places, values = _places(columns[name])
        wrong = [place for place, value in enumerate(values) if _word(value) not in allowed]
        if wrong:
            named = ", ".join(word for word in allowed if word)
            row = int(np.flatnonzero(places == wrong[0])[0])
            return f"{name} is {values[wrong[0]]!r} for {ids[row]} where one of {named}, or nothing, is expected"
    return ""


def _word(value: object) -> str:
    """A value of a column as a word, so that text, numbers and truth values that mean the same are the same."""
    return "" if value is None or value != value else str(value).strip().lower()


def _unusable(path: Path, wrong: str) -> DatasetError:
    return DatasetError(f"the table of patches {path} cannot be used: {wrong}; download it again")


def _places(column: Any) -> tuple[np.ndarray, list[Any]]:
    """(N,) place of each value of a column among its different ones, NULL for null; these."""
    coded = column.dictionary_encode()
    return coded.indices.fill_null(NULL).to_numpy(zero_copy_only=False), coded.dictionary.to_pylist()


def _splits(columns: dict[str, Any]) -> np.ndarray:
    """(N,) unicode in the order of the rows."""
    places, named = _places(columns["split"])
    splits = np.asarray([*(SPLIT_NAMES[_word(name)] for name in named), ""])[places]  # NULL is the last
    for flag in LEFT_OUT:
        if flag in columns:
            places, values = _places(columns[flag])
            splits[np.asarray([*(TRUTH[_word(value)] for value in values), False])[places]] = ""  # null is no
    return splits


def _multi_hot(lists: Any, path: Path) -> np.ndarray:
    """Lists of label names -> (N, 19) bool."""
    places, named = _places(lists.flatten())
    unknown = [name for name in [*named, *([None] if NULL in places else [])] if name not in LABELS_19]
    if unknown:
        allowed = "; ".join(LABELS_19)
        raise DatasetError(f"{path} has the unknown label {unknown[0]}; allowed: {allowed}")
    labels = np.zeros((len(lists), len(LABELS_19)), bool)
    column = np.asarray([LABELS_19.index(name) for name in named], np.int64)
    rows = np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy(zero_copy_only=False))
    labels[rows, column[places]] = True
    return labels
