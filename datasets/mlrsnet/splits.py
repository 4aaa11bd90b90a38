"""MLRSNet's splits, stored as files: label-balanced, and the same on every machine whatever label files it has.

    stored/<train>-<val>-<test>.txt.gz     a digit for each image in the order of names: 0 train, 1 val, 2 test
    stored/manifest.json                   fingerprint of the names, and of each file's digits

None is official: the paper names proportions only. They were made from the published label files, repaired by the
lists of the categories alone (the one label more that `repair` removes would move hundreds of airplanes), by

    python -m datasets MLRSNet --source_path DIR --write_splits

which writes the same digits again.
"""

from __future__ import annotations

import gzip
import json
import warnings
import zlib
from pathlib import Path

import numpy as np

from datasets.files.label_csv import LabelTable, read_label_table
from datasets.files.split_lists import balanced_split, hashed_split, names_fingerprint, parse_proportions
from datasets.mlrsnet.labels import LABELS, repair_categories
from utilities.errors import DatasetError
from utilities.files import fingerprint, write_json

STORED = Path(__file__).parent / "stored"
PROPORTIONS = (
    "40/10/50",
    "20/10/70",
    "30/10/60",
    "40/30/30",
)  # the paper's three, and CV4RS's code (its stored lists: 40/9/51)
SEED = 0
ZERO = ord("0")


def split_of(table: LabelTable, proportions: str, seed: int) -> np.ndarray:
    """0 (train), 1 (val) or 2 (test) for every image: (N,) int64, as stored for MLRSNet's 109,161 images.

    Other images, a part of MLRSNet for one, and other proportions are divided by `hashed_split`, each category on its
    own. Where the labels are MLRSNet's, that is said.
    """
    shares = parse_proportions(proportions)
    if seed == SEED and proportions in PROPORTIONS:
        stored = read_stored(table.names, proportions)
        if stored is not None:
            return stored
    if table.label_names == LABELS:
        warnings.warn(
            f"no stored split {proportions} of these {len(table.names):,} images: drawn by hashing their names",
            stacklevel=3,
        )
    return hashed_split(table.names, table.categories, shares, seed=seed)


def read_stored(names: np.ndarray, proportions: str) -> np.ndarray | None:
    """The stored split of the images, in their order; None if they are not those that it was made for."""
    manifest = json.loads((STORED / "manifest.json").read_text())
    if len(names) != manifest["images"] or names_fingerprint(names.tolist()) != manifest["names"]:
        return None
    path = stored_file(proportions)
    try:
        digits = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"cannot read the stored split {path}: {error}; restore it from the repository") from error
    if fingerprint(digits) != manifest["digits"][proportions]:
        raise DatasetError(f"the stored split {path} was changed; restore it from the repository")
    part = np.empty(len(names), np.int64)
    part[np.argsort(names)] = np.frombuffer(digits, np.uint8) - ZERO
    return part


def stored_file(proportions: str) -> Path:
    return STORED / f"{proportions.replace('/', '-')}.txt.gz"


def digits_of(table: LabelTable, proportions: str) -> bytes:
    """What is stored of a split: one digit an image, in the order of names."""
    shares = parse_proportions(proportions)
    part = balanced_split(table.names, table.categories, table.labels, shares, seed=SEED)
    return bytes((part[np.argsort(table.names)] + ZERO).astype(np.uint8))


def write_stored(source_path: Path) -> None:
    """Write the files anew from the label files in `source_path`."""
    table = repair_categories(read_label_table(source_path / "labels", LABELS))
    STORED.mkdir(parents=True, exist_ok=True)
    digits = {proportions: digits_of(table, proportions) for proportions in PROPORTIONS}
    for proportions, content in digits.items():
        stored_file(proportions).write_bytes(gzip.compress(content, 9, mtime=0))
    manifest = {
        "images": len(table.names),
        "names": names_fingerprint(table.names.tolist()),
        "seed": SEED,
        "digits": {proportions: fingerprint(content) for proportions, content in digits.items()},
    }
    write_json(STORED / "manifest.json", manifest)
