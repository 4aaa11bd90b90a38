"""MLRSNet (Qi et al. 2020): 109,161 aerial photographs, 46 categories, 60 labels, CC BY 4.0.

    <source_path>/Images/<category>/<category>_00001.jpg      nominally 256 x 256, some larger
    <source_path>/labels/<category>.csv                       image, one 0/1 column a label
    <source_path>/Categories_names.xlsx                       labels of each category (optional)

1 to 13 labels an image; ten images have none. X. Qi et al., "MLRSNet: A multi-label high spatial resolution
remote sensing dataset for semantic scene understanding", ISPRS Journal 169, 2020.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from datasets.base import DATASETS, Packed, RetrievalDataset
from datasets.files.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    difference,
    image_files,
    read_rgb,
    refuse_difference,
    resized,
)
from datasets.files.label_csv import LabelTable, read_label_table
from datasets.files.split_lists import rows_of_split
from datasets.mlrsnet.labels import LABELS, corrupted_rows, letters, listed_labels, repair
from datasets.mlrsnet.splits import split_of
from utilities.errors import DatasetError, UserError, WrongFolderError

LABEL_MODES = ("repair", "as_is")
SIDE = 256


@DATASETS.register("MLRSNet", prefix="mlrsnet")
class MLRSNet(RetrievalDataset):
    """One split of MLRSNet, or of any data set in its layout.

    labels       "repair" undoes the corruption of the label files that are published since 2021 (see
                 `datasets.mlrsnet.labels`), "as_is" takes them as they are; both say what they found
    proportions  percentages of train/val/test; "40/10/50" is the paper's (`datasets.mlrsnet.splits`)
    packed       images that lie in an archive; None: in `source_path`

    Splits are stored, or follow from the names alone: they are the same on every machine. Label files whose columns are
    not MLRSNet's are read too: the labels are then those of their header.
    """

    title = "MLRSNet (Images/<category>/*.jpg and labels/<category>.csv)"
    bands = ("R", "G", "B")
    band_sides = (SIDE, SIDE, SIDE)
    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    dtype = np.dtype(np.uint8)
    marks: ClassVar[tuple[str, ...]] = ("Images", "labels")
    archives: ClassVar[tuple[str, ...]] = ("MLRSNet*.tar*", "MLRSNet*.tgz", "Images*.tar*", "Images*.tgz")
    split_seed: ClassVar[int] = 0

    def __init__(
        self, *, source_path: Path, split: str, labels: str, proportions: str, packed: Packed | None = None
    ) -> None:
        super().__init__(source_path=source_path, split=split)
        table = label_table(label_source(source_path, packed), labels)
        self.packed = packed
        if packed is None:
            images = source_path / "Images"
            folders = category_folders(images, table.category_names)
            refuse_differences(table, images, folders)
        else:
            folders = list(table.category_names)
            refuse_difference(table.names.tolist(), packed.names.tolist(), "the label files", packed.archive)
        part = split_of(table, proportions, self.split_seed)
        rows = rows_of_split(part, split)
        self.names, self.labels, self.label_names = table.names[rows], table.labels[rows], table.label_names
        self._folder_of = np.asarray(folders)[table.categories[rows]]

    def path(self, row: int) -> Path:
        return self.source_path / "Images" / str(self._folder_of[row]) / str(self.names[row])

    def read(self, row: int) -> np.ndarray:
        if self.packed is not None:
            return self.prepared(row)
        return read_rgb(self.path(row), SIDE).transpose(2, 0, 1)

    def thumbnail(self, row: int, side: int = 128) -> np.ndarray:
        if self.packed is not None:
            return resized(self.prepared(row).transpose(1, 2, 0), side)
        return read_rgb(self.path(row), side)


def label_source(source_path: Path, packed: Packed | None) -> Path:
    """The folder that holds `labels`: the data set's, or what was kept of an archive that holds them too."""
    if packed is None or (source_path / "labels").is_dir():
        return source_path
    return packed.folder


def label_table(source_path: Path, labels: str) -> LabelTable:
    """All rows of `<source_path>/labels`, repaired or as they are; warns where rows are corrupted."""
    if labels not in LABEL_MODES:
        raise UserError(f"--mlrsnet_labels {labels!r} is unknown; choices: {', '.join(LABEL_MODES)}")
    folder = source_path / "labels"
    if not folder.is_dir():
        raise WrongFolderError(f"{source_path} holds no folder `labels`; give the folder of {MLRSNet.title}")
    table = read_label_table(folder, LABELS)
    if table.label_names != LABELS:
        return table  # another data set in this layout: nothing is known about what its categories may carry
    repaired = repair(table, listed_labels(source_path))
    corrupted = corrupted_rows(table, repaired)
    if not corrupted:
        return table
    counts = ", ".join(f"{category} {count:,}" for category, count in corrupted.items())
    found = f"{sum(corrupted.values()):,} of {len(table.names):,} rows of {folder} are corrupted ({counts})"
    if labels == "as_is":
        warnings.warn(f"{found}; kept, because --mlrsnet_labels is as_is", stacklevel=2)
        return table
    warnings.warn(
        f"{found}: labels that do not belong to the category or the image were removed, `tanks` "
        f"and `stadium` put back; label fingerprint {repaired.fingerprint()}; --mlrsnet_labels as_is keeps them",
        stacklevel=2,
    )
    return repaired


def refuse_differences(table: LabelTable, images: Path, folders: Sequence[str]) -> None:
    """Raise one `DatasetError` about all categories whose images are not those of their label file."""
    errors = []
    for i, (category, folder) in enumerate(zip(table.category_names, folders, strict=True)):
        listed = table.names[table.categories == i].tolist()
        error = difference(listed, image_files(images / folder), f"labels/{category}.csv", images / folder)
        if error is not None:
            errors.append(error)
    if errors:
        more = f" ({len(errors) - 1} other categories likewise)" if len(errors) > 1 else ""
        raise DatasetError(f"{errors[0]}{more}", names=[name for error in errors for name in error.names])


def category_folders(images: Path, categories: Sequence[str]) -> list[str]:
    """The folder of each category, allowing for another separator (`harbor_port` for `harbor&port`)."""
    if not images.is_dir():
        raise DatasetError(f"{images.parent} holds no folder `Images`; --source_path is the folder of {MLRSNet.title}")
    present = {entry.name for entry in images.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    if not present and any(images.glob("*.rar")):
        raise DatasetError(f"{images} holds the .rar archives as published: unpack each of them there (unrar x)")
    by_letters = {letters(name): name for name in present}
    folders = [name if name in present else by_letters.get(letters(name), name) for name in categories]
    refuse_difference(folders, present, "the label files, one folder a csv", images)
    return folders
