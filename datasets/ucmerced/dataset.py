"""UC Merced Land Use (Yang and Newsam 2010) with the multi-labels of Chaudhuri et al. (2018).

    <source_path>/Images/<scene>/<scene>00.tif          or .jpg, .png; nominally 256 x 256, 44 of them are not
    <source_path>/LandUse_Multilabeled.txt              tab separated: image, one 0/1 column a label

2,100 aerial photographs (USGS National Map, 0.3 m), 21 scenes of 100, 17 labels, 1 to 7 an image.
B. Chaudhuri, B. Demir, S. Chaudhuri, L. Bruzzone, "Multilabel remote sensing image retrieval
using a semisupervised graph-theoretic method", IEEE TGRS 56(2), 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from datasets.base import DATASETS, SPLITS, RetrievalDataset
from datasets.files.images import IMAGENET_MEAN, IMAGENET_STD, image_files, read_rgb, refuse_difference
from datasets.files.label_csv import column_order, read_label_file, refuse_duplicates
from datasets.files.split_lists import read_stored_split
from utilities.errors import DatasetError, WrongFolderError

LABELS = (
    "airplane", "bare-soil", "buildings", "cars", "chaparral", "court", "dock", "field", "grass",
    "mobile-home", "pavement", "sand", "sea", "ship", "tanks", "trees", "water",
)  # fmt: skip
SIDE = 256
STORED_SPLITS = Path(__file__).parent / "stored"
"""70/10/20 of every scene, by `hashed_split(names, scenes, (70, 10, 20), seed=0)`; none is official."""


@DATASETS.register("UCMerced")
class UCMerced(RetrievalDataset):
    """One split of UC Merced. Names are those of the label file: no suffix, whatever the files' format is."""

    title = "UC Merced (Images/<scene>/* and LandUse_Multilabeled.txt)"
    bands = ("R", "G", "B")
    band_sides = (SIDE, SIDE, SIDE)
    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    dtype = np.dtype(np.uint8)
    label_names = LABELS
    marks = ("Images", "LandUse_Multilabeled.txt")

    def __init__(self, *, source_path: Path, split: str) -> None:
        super().__init__(source_path=source_path, split=split)
        path = source_path / "LandUse_Multilabeled.txt"
        if not path.is_file():
            raise WrongFolderError(f"{source_path} holds no LandUse_Multilabeled.txt; give the folder of {self.title}")
        table = read_label_file(path, "\t")
        labels = table.labels[:, column_order(table, LABELS)]
        refuse_duplicates(table.names, [path.name], np.zeros(len(table.names), np.int64))
        files = scene_files(source_path / "Images")
        images = source_path / "Images"
        refuse_difference(table.names.tolist(), files, path.name, images, lambda name: scene_file(name, files))
        stored = {part: read_stored_split(STORED_SPLITS, part) for part in SPLITS}
        whole = np.concatenate(list(stored.values())).tolist()
        refuse_difference(whole, files, "the stored splits", images, lambda name: scene_file(name, files))
        row_of = {name: row for row, name in enumerate(table.names.tolist())}
        rows = np.asarray([row_of[name] for name in stored[split].tolist()])
        self.names, self.labels = table.names[rows], labels[rows]
        self._files = np.asarray([files[name] for name in self.names.tolist()])

    def path(self, row: int) -> Path:
        return self.source_path / "Images" / str(self._files[row])

    def read(self, row: int) -> np.ndarray:
        return read_rgb(self.path(row), SIDE).transpose(2, 0, 1)

    def thumbnail(self, row: int, side: int = 128) -> np.ndarray:
        return read_rgb(self.path(row), side)


def scene_files(images: Path) -> dict[str, str]:
    """Name without suffix -> `<scene>/<file>` for all images; the same name twice is a `DatasetError`."""
    if not images.is_dir():
        raise DatasetError(f"{images.parent} holds no folder `Images`; give the folder of {UCMerced.title}")
    files: dict[str, str] = {}
    for scene in sorted(folder.name for folder in images.iterdir() if folder.is_dir() and folder.name[0] != "."):
        for file in sorted(image_files(images / scene)):
            name = Path(file).stem
            if name in files:
                raise DatasetError(f"{images} holds {name} twice: {files[name]} and {scene}/{file}; keep one of them")
            files[name] = f"{scene}/{file}"
    return files


def scene_file(name: str, files: Mapping[str, str]) -> str:
    """Where the image of this name lies, or, without suffix, should lie: `beach/beach05`."""
    return files.get(name, f"{name.rstrip('0123456789')}/{name}")
