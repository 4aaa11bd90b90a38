"""UC Merced Land Use (Yang and Newsam 2010) with the multi-labels of Chaudhuri et al. (2018).

    <source_path>/Images/<scene>/<scene>00.tif          or .jpg, .png; nominally 256 x 256, 44 of them are not
    <source_path>/LandUse_Multilabeled.txt              tab separated: image, one 0/1 column a label

2,100 aerial photographs (USGS National Map, 0.3 m), 21 scenes of 100, 17 labels, 1 to 7 an image.
B. Chaudhuri, B. Demir, S. Chaudhuri, L. Bruzzone, "Multilabel remote sensing image retrieval
using a semisupervised graph-theoretic method", IEEE TGRS 56(2), 2018.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from datasets.base import DATASETS, SPLITS, RetrievalDataset
from datasets.files.images import IMAGENET_MEAN, IMAGENET_STD, image_files, read_rgb, refuse_difference
from datasets.files.label_csv import column_order, read_label_file, refuse_duplicates
from datasets.files.split_lists import read_stored_split
from utilities.errors import DatasetError, WrongFolderError
from utilities.files import fingerprint

LABELS = (
    "airplane", "bare-soil", "buildings", "cars", "chaparral", "court", "dock", "field", "grass",
    "mobile-home", "pavement", "sand", "sea", "ship", "tanks", "trees", "water",
)  # fmt: skip
SIDE = 256
STORED_SPLITS = Path(__file__).parent / "stored"
"""70/10/20 of every scene, by `hashed_split(names, scenes, (70, 10, 20), seed=0)`; none is official."""
SPLIT_RULES = ("hashed", "grn")
GRN_FINGERPRINTS = {
    "train": "59b12695c92fef6de5823c07f7c983de3398b91d742eb1112a00c69c92846865",
    "val": "a3b888210a0fa6250074f60b96766ccf1978926aa345140ad42108af7061486f",
    "test": "87573a4618d282ba236f0cb30191de33c96c45793c4bb3501cf05c459bf31892",
}
"""sha256 of the names of `grn_split`, joined by line feeds in its order."""


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

    def __init__(self, *, source_path: Path, split: str, split_rule: str = "hashed") -> None:
        """split_rule "hashed": the stored lists of ours; "grn": those of GRN-SNDL (Kang et al. 2021)."""
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
        chosen = grn_split(files)[split] if split_rule == "grn" else stored[split].tolist()
        rows = np.asarray([row_of[name] for name in chosen])
        self.names, self.labels = table.names[rows], labels[rows]
        self._files = np.asarray([files[name] for name in self.names.tolist()])

    def path(self, row: int) -> Path:
        return self.source_path / "Images" / str(self._files[row])

    def read(self, row: int) -> np.ndarray:
        return read_rgb(self.path(row), SIDE).transpose(2, 0, 1)

    def thumbnail(self, row: int, side: int = 128) -> np.ndarray:
        return read_rgb(self.path(row), side)


def grn_split(files: Mapping[str, str]) -> dict[str, list[str]]:
    """The names of each split as the released code of GRN-SNDL draws them; files: name -> `<scene>/<file>`.

    One generator seeded by 42; scenes in the order of their names; in each, sorted names are shuffled and cut at 70 and
    80 %. Raises DatasetError where the outcome is not theirs (`GRN_FINGERPRINTS`).
    """
    scenes: dict[str, list[str]] = {}
    for name, file in files.items():
        scenes.setdefault(file.split("/")[0], []).append(name)
    draw = random.Random(42)
    found: dict[str, list[str]] = {split: [] for split in SPLITS}
    for scene in sorted(scenes):
        names = sorted(scenes[scene])
        draw.shuffle(names)
        train, val = int(0.7 * len(names)), int(0.8 * len(names))
        for split, part in zip(SPLITS, (names[:train], names[train:val], names[val:]), strict=True):
            found[split] += part
    for split, names in found.items():
        if fingerprint("\n".join(names)) != GRN_FINGERPRINTS[split]:
            raise DatasetError(
                f"the {split} split by the rule of GRN-SNDL has other images than theirs: it needs the 2,100 of UC "
                "Merced in 21 scenes; leave out --ucmerced_split grn"
            )
    return found


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
