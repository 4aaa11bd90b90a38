"""One table of labels in any of the usual forms: CSV or parquet, a 0/1 column a label or one column of lists."""

from __future__ import annotations

import ast
import csv
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tokenize import STRING, generate_tokens
from typing import Any, NamedTuple

import numpy as np

from datasets.files.images import is_image
from datasets.files.split_lists import NAMED
from utilities.errors import DatasetError, UserError

LISTS = ("labels", "label", "tags", "classes", "label_names", "categories")
"""What the one column of label lists is called."""
SPLIT = "split"
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
FLAGS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
DELIMITERS = (";", "\t", "|", "\n", ",")
BETWEEN_COLUMNS = (",", ";", "\t", "|")
NOTHING = ("nan", "none", "null", "na", "n/a", "<na>")
"""How tables spell an empty cell."""
BRACKETS = ("[", "(", "{")


class Table(NamedTuple):
    """names (N,) unicode as the table spells them, labels (N, L) bool, label_names in column order or sorted, and
    splits (N,) unicode, "" where none is given, or None without such a column."""

    names: np.ndarray
    labels: np.ndarray
    label_names: tuple[str, ...]
    splits: np.ndarray | None


def read_table(path: Path) -> Table:
    """What cannot be read, or is no table of labels, is a `DatasetError` that names file and row."""
    columns = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    columns = {name: values for name, values in columns.items() if not _is_filler(name, values)}
    if not columns or not next(iter(columns.values())):
        raise DatasetError(f"the table {path} holds no row")
    spelled = {name.strip().lower(): name for name in reversed(columns)}
    name_column = next((spelled[word] for word in NAMED if word in spelled), _of_files(columns))
    names = [str(name).strip() for name in columns[name_column]]
    if "" in names:
        raise DatasetError(
            f"the table {path}, row {names.index('') + 1}: no name of an image in column {name_column!r}"
        )
    twice = _first_twice(names)
    if twice:
        raise DatasetError(f"the table {path} lists {twice} twice; give each image one row that holds all its labels")
    split_column = spelled.get(SPLIT) or next((n for n, values in columns.items() if _says_split(values)), None)
    splits = None if split_column is None else _splits(columns[split_column], names, path)
    lists = next((spelled[word] for word in LISTS if word in spelled), None)
    others = {n: v for n, v in columns.items() if n not in (name_column, split_column, lists)}
    if lists is not None:
        labels, label_names = _of_lists(columns[lists], names, path)
        _note_flags(path, lists, labels, others)
    else:
        labels, label_names = _of_flags(others, names, path)
    return Table(np.asarray(names), labels, label_names, splits)


def _csv(path: Path) -> dict[str, list[Any]]:
    """Columns by header."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        found = [delimiter for delimiter in BETWEEN_COLUMNS if delimiter in text.partition("\n")[0]] or [","]
        rows = _rows(text, max(found, key=lambda delimiter: _fits(text, delimiter)) if len(found) > 1 else found[0])
    except UnicodeDecodeError as error:
        raise DatasetError(f"the table {path} is no UTF-8 ({error}); save it as CSV UTF-8") from error
    except (OSError, csv.Error) as error:
        raise DatasetError(f"cannot read the table {path}: {error}") from error
    if not rows:
        raise DatasetError(f"the table {path} is empty")
    header, *rows = rows
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DatasetError(f"the table {path}, line {line}: {len(row)} values under a header of {len(header)}")
    if (twice := _first_twice(header)) is not None:
        raise DatasetError(f"the table {path} has the column {twice!r} twice")
    return {name: [row[place].strip() for row in rows] for place, name in enumerate(header)}


def _rows(text: str, delimiter: str) -> list[list[str]]:
    """Those that hold anything. A cell in quotes may run over several lines."""
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    return [row for row in table if any(map(str.strip, row))]


def _fits(text: str, delimiter: str) -> tuple[bool, int]:
    """How well a delimiter divides a table: whether all rows get as many columns as the header, and how many it gets.

    Counting in the header alone takes the commas of `Beaches, dunes, sands` for delimiters.
    """
    try:
        widths = [len(row) for row in _rows(text, delimiter)]
    except csv.Error:
        return False, 0
    return len(set(widths)) == 1 and widths[0] > 1, widths[0] if widths else 0


def _parquet(path: Path) -> dict[str, list[Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError(f"reading {path} needs pyarrow: pip install pyarrow") from error
    try:
        return parquet.read_table(path).to_pydict()
    except (OSError, ArrowException) as error:
        raise DatasetError(f"cannot read the table {path}: {error}") from error


def _is_filler(name: str, values: Sequence[Any]) -> bool:
    """Whether a column has no name, and is empty (a delimiter ends each line) or counts the rows (pandas' index)."""
    unnamed = not name.strip() or name.startswith("Unnamed: ") or name == "__index_level_0__"
    return unnamed and (
        all(str(value) == str(row) for row, value in enumerate(values)) or all(value in ("", None) for value in values)
    )


def _of_files(columns: Mapping[str, Sequence[Any]]) -> str:
    """The first column of names of image files, else the first of all."""
    return next((n for n, values in columns.items() if all(is_image(str(v)) for v in values)), next(iter(columns)))


def _says_split(values: Sequence[Any]) -> bool:
    """Whether a column, whatever it is called, says of every row whether it is train, val or test."""
    words = {str(value).strip().lower() for value in values}
    return len(words) > 1 and words <= SPLIT_NAMES.keys()


def _note_flags(path: Path, column: str, labels: np.ndarray, others: Mapping[str, Sequence[Any]]) -> None:
    """Warn where a column of one label an image stands beside 0/1 columns: a scene may be taken for the labels."""
    flags = [name for name, values in others.items() if all(str(value).strip().lower() in FLAGS for value in values)]
    if len(flags) > 1 and labels.sum(1).max(initial=0) < 2:
        warnings.warn(
            f"{path}: the labels are those of the column {column!r}, one an image, and its {len(flags)} 0/1 columns "
            f"({', '.join(flags[:3])}, ...) are not read; leave out that column if they are the labels",
            stacklevel=5,
        )


def _first_twice(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def _splits(values: Sequence[Any], names: Sequence[str], path: Path) -> np.ndarray:
    found = ["" if value is None else str(value).strip().lower() for value in values]
    wrong = next((row for row, word in enumerate(found) if word and word not in SPLIT_NAMES), None)
    if wrong is not None:
        raise DatasetError(
            f"the table {path}, {names[wrong]}: split is {values[wrong]!r}; allowed: train, val, test, or nothing"
        )
    return np.asarray([SPLIT_NAMES.get(word, "") for word in found])


def _of_flags(
    columns: Mapping[str, Sequence[Any]], names: Sequence[str], path: Path
) -> tuple[np.ndarray, tuple[str, ...]]:
    if not columns:
        raise DatasetError(
            f"the table {path} has no labels: neither a column of lists ({', '.join(LISTS[:3])}, ...) nor 0/1 columns"
        )
    labels = np.zeros((len(names), len(columns)), bool)
    for place, (label, values) in enumerate(columns.items()):
        for row, value in enumerate(values):
            flag = FLAGS.get(str(value).strip().lower())
            if flag is None:
                raise DatasetError(
                    f"the table {path}, {names[row]}: {label!r} is {value!r} where 0 or 1 is expected; leave out "
                    f"columns that are no labels, or give one column of lists called {LISTS[0]}"
                )
            labels[row, place] = flag
    return labels, tuple(name.strip() for name in columns)


def _of_lists(values: Sequence[Any], names: Sequence[str], path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    lists, delimiter = [], delimiter_of(values)
    for name, value in zip(names, values, strict=True):
        try:
            lists.append(label_list(value, delimiter))
        except ValueError as error:
            raise DatasetError(f"the table {path}, {name}: {error}") from error
    if any(len(labels) > len(set(labels)) for labels in lists) and all(set(labels) <= {"0", "1"} for labels in lists):
        raise DatasetError(
            f"the table {path} holds vectors of 0 and 1 ({values[0]}), which do not say of which labels: give a column "
            "a label instead, with its name above"
        )
    label_names = tuple(sorted({label for labels in lists for label in labels}))
    if not label_names:
        raise DatasetError(f"the table {path} carries no label at all; without labels, leave --labels_csv out")
    column = {label: place for place, label in enumerate(label_names)}
    labels = np.zeros((len(lists), len(label_names)), bool)
    for row, carried in enumerate(lists):
        labels[row, [column[label] for label in carried]] = True
    return labels, label_names


def delimiter_of(values: Sequence[Any]) -> str:
    """The first of DELIMITERS that any text of the column holds; a blank where labels stand as words behind each other.

    Where labels stand with semicolons between, `Transitional woodland, shrub` is one, alone in its row too. Blanks are
    between labels, and not in them, where fewer words make up more different texts: `haze primary`, `clear primary
    road`, ... of Kaggle's Amazon, and not `bare soil`.
    """
    texts = [value.strip() for value in values if isinstance(value, str)]
    plain = {text for text in texts if text[:1] not in BRACKETS and text.lower() not in NOTHING}
    found = next((mark for mark in DELIMITERS if any(mark in text for text in plain)), None)
    words = {word for text in plain for word in text.split()}
    return found or (" " if len(plain) > len(words) else DELIMITERS[0])


def label_list(value: Any, delimiter: str) -> list[str]:
    """The labels of a list, of text with delimiters between, or of a list as Python, JSON and numpy write it."""
    if value is None or value != value:
        return []
    if not isinstance(value, str):
        return [str(label).strip() for label in value]
    text = value.strip()
    if text.lower() in NOTHING:
        return []
    if text[:1] in BRACKETS:
        try:
            found = [*ast.literal_eval(text)]
            quotes = sum(text.count(quote) for quote in ("'", '"'))
            # more than two a label: numpy's ['sea' 'ship'], which Python joins, or an apostrophe
            if quotes > 2 * len(found) and len(words := _quoted(text)) > len(found):
                found = [*map(ast.literal_eval, words)]
            return [str(label).strip() for label in found]
        except (ValueError, SyntaxError, TypeError) as error:
            raise ValueError(f"{text[:60]!r} is no list of labels: write them with semicolons between") from error
    return [label for part in text.split(delimiter) if (label := part.strip())]


def _quoted(text: str) -> list[str]:
    """The strings of a list as it is written, with their quotes."""
    return [token.string for token in generate_tokens(io.StringIO(text).readline) if token.type == STRING]
