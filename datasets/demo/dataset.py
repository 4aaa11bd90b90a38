"""The embedded demo data: generated aerial scenes in MLRSNet's layout, read as MLRSNet is.

    <folder>/Images/<category>/<category>_00001.jpg
    <folder>/labels/<category>.csv                       image, one 0/1 column a label
    <folder>/Categories_names.xlsx                       labels of each category, for people; not without openpyxl
    <folder>/manifest.json                               what the folder was generated from

22 categories in MLRSNet's spellings (with its quirks: `harbor&port`, `swimmimg_pool`), 24 of its 60 labels,
1 to 9 an image. The pictures and their labels come from `datasets.demo.painting`; equal settings give equal bytes.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from datasets.base import DATASETS
from datasets.demo.painting import CATEGORIES, LABELS, paint, visible_labels
from datasets.files.generated import generated_folder
from datasets.files.images import read_rgb
from datasets.mlrsnet.dataset import MLRSNet
from datasets.mlrsnet.labels import workbook_library
from utilities.errors import DatasetError, UserError
from utilities.seeding import derive

GENERATOR_VERSION = 1  # raise it whenever equal settings give other pictures or labels
PROPORTIONS = "60/15/25"
JPEG_QUALITY = 92


def write_mlrsnet_layout(folder: Path, *, images_per_category: int, side: int, seed: int) -> None:
    """Generate the demo into `folder`, unless it is there already, generated from the same settings.

    side is the pictures' width and height in pixels. The folder appears complete or not at all, also when
    several processes generate it at once. A folder that holds something else is a `DatasetError`.
    """
    _check(images_per_category, side)
    manifest = _manifest(images_per_category, side, seed)
    with generated_folder(folder, manifest) as partial:
        if partial is not None:
            listed = {c: _write_category(partial, c, images_per_category, side, seed) for c in CATEGORIES}
            _write_workbook(partial / "Categories_names.xlsx", listed)


def _manifest(images_per_category: int, side: int, seed: int) -> dict[str, Any]:
    return {
        "data_set": "Demo",
        "generator_version": GENERATOR_VERSION,
        "images_per_category": images_per_category,
        "side": side,
        "seed": seed,
    }


def _check(images_per_category: int, side: int) -> None:
    if not 1 <= images_per_category <= 99_999:
        raise UserError(f"--demo_images_per_category {images_per_category} must be 1 to 99999")
    if not 32 <= side <= 1024:
        raise UserError(f"--demo_side {side} must be 32 to 1024 pixels")


def _write_category(folder: Path, category: str, count: int, side: int, seed: int) -> list[str]:
    """Write a category's pictures and label file; returns the labels that occur, the frequent ones first."""
    images = folder / "Images" / category
    images.mkdir(parents=True)
    lines, occurrences = [",".join(["image", *LABELS])], dict.fromkeys(LABELS, 0)
    for number in range(1, count + 1):
        name = f"{category}_{number:05d}.jpg"
        picture = paint(category, side=side, seed=derive(seed, name))
        Image.fromarray(picture.pixels).save(images / name, quality=JPEG_QUALITY, subsampling=0)
        labels = visible_labels(picture.shares)
        for label in labels:
            occurrences[label] += 1
        lines.append(",".join([name, *("1" if label in labels else "0" for label in LABELS)]))
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels" / f"{category}.csv").write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    return sorted((label for label in LABELS if occurrences[label]), key=lambda label: -occurrences[label])


def _write_workbook(path: Path, listed: Mapping[str, Sequence[str]]) -> None:
    """The workbook, or a note where openpyxl is absent: no reader of the demo looks into it."""
    try:
        openpyxl = workbook_library(Path(path.name))
    except UserError as error:
        warnings.warn(f"the demo goes without a workbook, which nothing here reads: {error}", stacklevel=3)
        return
    path.write_bytes(_workbook(openpyxl, listed))


def _workbook(openpyxl: ModuleType, listed: Mapping[str, Sequence[str]]) -> bytes:
    """`Categories_names.xlsx`: sheet `Categories`, and sheet `tags` under its two header rows."""
    book = openpyxl.Workbook()
    categories = book.active
    categories.title = "Categories"
    for row in ["Categories", *listed]:
        categories.append([row])
    tags = book.create_sheet("tags")
    most = max(map(len, listed.values()))
    tags.append([None, "Categor names", "Associated multi-labels"])
    tags.append([None, None, *range(1, most + 1)])
    tags.merge_cells(start_row=1, start_column=3, end_row=1, end_column=most + 2)
    for number, (category, labels) in enumerate(listed.items(), start=1):
        tags.append([number, category, *labels])
    written = io.BytesIO()
    book.save(written)
    return _without_dates(written)


def _without_dates(workbook: io.BytesIO) -> bytes:
    """The same archive with every time stamp set to one date, so that equal content is equal bytes."""
    fixed = io.BytesIO()
    with zipfile.ZipFile(workbook) as source, zipfile.ZipFile(fixed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.namelist():
            content = source.read(entry)
            if entry == "docProps/core.xml":
                content = re.sub(rb"\d{4}-\d\d-\d\dT[\d:]+Z", b"2020-01-01T00:00:00Z", content)
            target.writestr(zipfile.ZipInfo(entry), content)
    return fixed.getvalue()


@DATASETS.register("Demo", prefix="demo")
class Demo(MLRSNet):
    """One split of the generated scenes: 60/15/25 percent of each category are train/val/test.

    source_path          a folder that holds the demo, or in which `Demo` is generated when it is absent
    images_per_category  how many pictures of each of the 22 scene types
    side                 of the pictures in pixels
    seed                 from which all of them are drawn
    generate             False: an absent demo is a `DatasetError`
    """

    title = "the generated demo data"
    marks = ("*",)  # `__init__` knows both places

    def __init__(
        self, *, source_path: Path, split: str, images_per_category: int, side: int, seed: int, generate: bool = True
    ) -> None:
        folder = source_path if (source_path / "manifest.json").is_file() else source_path / "Demo"
        if not (generate or folder.exists()):
            raise DatasetError(f"{folder} is not there; give the --source_path from which the run was trained")
        write_mlrsnet_layout(folder, images_per_category=images_per_category, side=side, seed=seed)
        super().__init__(source_path=folder, split=split, labels="as_is", proportions=PROPORTIONS)
        self.band_sides = (side, side, side)
        self.variant = f"generator {GENERATOR_VERSION}, seed {seed}, {images_per_category} a category"
        self._side = side

    def read(self, row: int) -> np.ndarray:
        return read_rgb(self.path(row), self._side).transpose(2, 0, 1)
