"""Which images of somebody's own archive are train, val and test: their lists, or a draw that is kept."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np

from datasets.base import SPLITS
from datasets.files.split_lists import (
    MANIFEST,
    balanced_split,
    hashed_split,
    parse_proportions,
    read_name_list,
    write_stored_split,
)
from utilities.errors import DatasetError

FOLDER = "splits"
LISTS = (".txt", ".csv")


def split_of(folder: Path, names: np.ndarray, labels: np.ndarray, proportions: str, seed: int) -> np.ndarray:
    """(N,) unicode: the split of every image, "" for one in no list. names (N,) unicode, labels (N, L) bool.

    Lists `<folder>/splits/train.txt` ... (or .csv) are taken; where there are none, the images are drawn, every set of
    labels divided by the percentages, and the lists written there, so that images that are added change none of them.
    """
    place = folder / FOLDER
    files = [next((f for e in LISTS if (f := place / f"{split}{e}").is_file()), None) for split in SPLITS]
    if any(files):
        if None in files:
            raise DatasetError(f"{place} holds {files[0] or files[1] or files[2]} and not all of {', '.join(SPLITS)}")
        _check_draw(place, proportions, seed)
        return _listed([file for file in files if file], names)
    shares, groups = parse_proportions(proportions), np.zeros(len(names), np.int64)
    if not labels.shape[1]:  # nothing to train on: what is only searched is left as it is
        return np.asarray(SPLITS)[hashed_split(names, groups, shares, seed=seed)]
    part = balanced_split(names, groups, labels, shares, seed=seed)
    partial = folder / f".{FOLDER}.{os.getpid()}"
    try:
        write_stored_split(partial, names, part, {"proportions": proportions, "seed": seed})
        partial.rename(place)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        warnings.warn(
            f"the drawn splits cannot be kept in {place} ({error.strerror}): it changes with the images and labels",
            stacklevel=3,
        )
    return np.asarray(SPLITS)[part]


def _check_draw(place: Path, proportions: str, seed: int) -> None:
    """Raise `DatasetError` where the lists were drawn otherwise than is asked for; not where they are the user's."""
    try:
        drawn = json.loads((place / MANIFEST).read_text())
        was = f"--folder_proportions {drawn['proportions']} --folder_seed {drawn['seed']}"
    except (OSError, ValueError, KeyError, TypeError):
        return
    if was != f"--folder_proportions {proportions} --folder_seed {seed}":
        raise DatasetError(f"{place} was drawn with {was}: give these, or delete it to draw anew")


def _listed(files: list[Path], names: np.ndarray) -> np.ndarray:
    whole = {name: row for row, name in enumerate(names.tolist())}
    row_of = {name.rpartition(".")[0]: row for name, row in whole.items()} | whole  # x.tif lies beside x.tif.png
    found = np.full(len(names), "", "<U5")
    for split, file in zip(SPLITS, files, strict=True):
        plain = file.suffix == ".txt"
        listed = (
            file.read_text().splitlines() if plain else read_name_list(file, np.char.encode(names, "utf-8")).tolist()
        )
        for name in listed:
            row = row_of.get(name)
            if row is None:
                raise DatasetError(f"{file} lists {name}, which is not there; mend the list, or delete {file.parent}")
            if found[row]:
                raise DatasetError(f"{name} is listed in {found[row]} and in {split} of {file.parent}")
            found[row] = split
    if left := int((found == "").sum()):
        warnings.warn(
            f"{left:,} images are in no list of {files[0].parent} and left out ({names[found == ''][0]}); delete it "
            "to draw anew",
            stacklevel=4,
        )
    return found
