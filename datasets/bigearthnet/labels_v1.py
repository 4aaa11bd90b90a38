"""The label table of a BigEarthNet archive, read once and kept.

Version 1 keeps the labels of a patch in a JSON file beside its bands: 590,326 files that take minutes to read
from a cold disk. They are read once, in parallel, into one `.npz`; a later start reads that file and lists
the folder only when its modification time changed. Version 2 brings one parquet table
(`datasets.bigearthnet.metadata_v2`).
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from datasets.bigearthnet.nomenclature import LABELS_43
from utilities.errors import DatasetError, WrongFolderError
from utilities.files import fingerprint, replacing

SMALL = 10_000  # patches; below, reading the labels takes less than a second and nothing is kept
FORMAT = 1
TABLE = "labels.npz"  # of an archive's patches, in its prepared folder
CHUNK = 500
COLUMN_OF = {label: i for i, label in enumerate(LABELS_43)}
READERS = 16  # threads: reading many small files is waiting for the disk


class PatchTable(NamedTuple):
    """names (N,) bytes, sorted; labels (N, L) bool in the order of `label_names`.

    splits (N,) unicode holds the official split of version 2; "" for a patch that is to be left out. None for
    version 1, whose official split comes in lists.
    """

    names: np.ndarray
    labels: np.ndarray
    label_names: tuple[str, ...]
    splits: np.ndarray | None = None


def patch_folders(root: Path) -> np.ndarray:
    """Names of the patch folders under `root`, sorted, as bytes (a third of the memory of unicode)."""
    with os.scandir(root) as entries:
        names = [os.fsencode(entry.name) for entry in entries if _is_patch(entry)]
    return np.sort(np.asarray(names, dtype=np.bytes_))


def holds_patches(root: Path) -> bool:
    with os.scandir(root) as entries:
        return any(map(_is_patch, entries))


def _is_patch(entry: os.DirEntry[str]) -> bool:
    return entry.name[:2] == "S2" and entry.is_dir()


def decoded(names: np.ndarray) -> np.ndarray:
    """(N,) bytes -> unicode; a name that is not UTF-8 is a `DatasetError`."""
    try:
        return np.char.decode(names, "utf-8")
    except UnicodeDecodeError as error:
        named = error.object.decode("utf-8", "backslashreplace")
        raise DatasetError(f"the name of the patch {named} is not UTF-8; rename it") from error


def read_label_files(root: Path, names: np.ndarray) -> np.ndarray:
    """Labels (N, 43) bool from `<patch>/<patch>_labels_metadata.json`.

    All unreadable files, files without `labels` and unknown labels end in one `DatasetError` that counts them
    and names the first five.
    """
    problems: list[str] = []

    def read(start: int) -> np.ndarray:
        flags = np.zeros((min(CHUNK, len(names) - start), len(LABELS_43)), bool)
        for row in range(len(flags)):
            name = os.fsdecode(names[start + row])
            path = f"{root}/{name}/{name}_labels_metadata.json"
            try:
                with open(path, "rb") as file:
                    flags[row, label_columns(file.read())] = True
            except OSError as error:
                problems.append(f"{path}: {error.strerror}")
            except ValueError as error:
                problems.append(f"{path}: {error}")
        return flags

    starts = range(0, len(names), CHUNK)
    with ThreadPoolExecutor(READERS) as pool:
        chunks = tqdm(
            pool.map(read, starts),
            "labels, read once",
            len(starts),
            unit_scale=CHUNK,
            disable=len(names) < SMALL,
        )
        labels = np.concatenate(list(chunks) or [np.zeros((0, len(LABELS_43)), bool)])
    refuse_unusable(problems, len(names))
    return labels


def label_columns(data: bytes) -> list[int]:
    """Which of the 43 labels stand in the contents of a `_labels_metadata.json`; ValueError says what is wrong."""
    try:
        return [COLUMN_OF[label] for label in json.loads(data)["labels"]]
    except KeyError as error:
        what = "is missing" if error.args == ("labels",) else "is not a label of BigEarthNet"
        raise ValueError(f"{error} {what}") from error
    except TypeError as error:
        raise ValueError(str(error)) from error


def refuse_unusable(problems: list[str], patches: int) -> None:
    """Raise `DatasetError` about label files, each described in a line; nothing where there are none."""
    if problems:
        raise DatasetError(
            f"{len(problems):,} label files of {patches:,} patches are unusable; the first: "
            f"{'; '.join(sorted(problems)[:5])}. Unpack the archive again"
            + (", or search patches without labels: evaluate_model.py --dataset Folder" * (len(problems) == patches))
        )


def read_version_1(root: Path, index_folder: Path | None) -> PatchTable:
    """Names and 43 labels of all patches in `root`, through the kept table where there is one.

    index_folder  where the table is kept; None: `.index` under `root`, or the user's cache folder where
                  `root` is read-only. Patches that were added since are read, others are not read again.
    """
    folder = index_folder or default_index_folder(root)
    path = folder / f"labels-{fingerprint(str(root.resolve()))[:16]}.npz"
    kept, stamp = load_table(path)
    changed = root.stat().st_mtime_ns  # before listing, so that nothing that arrives meanwhile is missed
    if kept is not None and stamp == changed:
        return kept
    names = patch_folders(root)
    if not len(names):
        raise WrongFolderError(f"{root} holds no patch folder S2A_MSIL2A_... or S2B_MSIL2A_...")
    labels = np.zeros((len(names), len(LABELS_43)), bool)
    known = np.zeros(len(names), bool)
    if kept is not None and len(kept.names):
        at = np.searchsorted(kept.names, names).clip(max=len(kept.names) - 1)
        known = kept.names[at] == names
        labels[known] = kept.labels[at[known]]
    labels[~known] = read_label_files(root, names[~known])
    table = PatchTable(names, labels, LABELS_43)
    if len(names) >= SMALL:
        if folder.parent == root and not folder.exists() and root.stat().st_mtime_ns == changed:
            with contextlib.suppress(OSError):  # said below; or another process was faster
                folder.mkdir()  # which changes the time of root, and nothing that was listed
                changed = root.stat().st_mtime_ns
        keep_table(path, table, changed)
    return table


def default_index_folder(root: Path) -> Path:
    """`.index` under the archive, or the user's cache folder where the archive is read-only."""
    if os.access(root, os.W_OK) and root.stat().st_mode & 0o222:  # root may write what nobody should
        return root / ".index"
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "multilabel-rs-retrieval"


def keep_table(path: Path, table: PatchTable, stamp: int) -> None:
    """`write_table`; where that fails, it is said and the next start reads the labels again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, table, stamp)
    except OSError as error:
        warnings.warn(f"the label table is not kept, the next start reads it again: {error}", stacklevel=2)


def write_table(path: Path, table: PatchTable, stamp: int) -> None:
    """Write whole or not at all: two processes that build the same table do not meet."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file, names=table.names, labels=np.packbits(table.labels, axis=1),
            label_names=np.asarray(table.label_names), stamp=stamp, format=FORMAT,
        )  # fmt: skip


def load_table(path: Path) -> tuple[PatchTable | None, int]:
    """The kept table and the folder's modification time when it was made; (None, 0) without a usable one."""
    if not path.exists():
        return None, 0
    try:
        with np.load(path) as stored:
            if int(stored["format"]) != FORMAT or tuple(stored["label_names"].tolist()) != LABELS_43:
                raise ValueError("it was written by another version")
            labels = np.unpackbits(stored["labels"], axis=1, count=len(LABELS_43)).astype(bool)
            return PatchTable(stored["names"], labels, LABELS_43), int(stored["stamp"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        warnings.warn(f"the label table {path} cannot be used ({error}); reading all labels again", stacklevel=2)
        return None, 0
