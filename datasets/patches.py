"""Somebody's own Sentinel-2 patches: an archive that a network of BigEarthNet searches, with a table of labels or none.

<source_path>/**/<patch>/<any name>_B02.tif ...    a folder a patch, in any layout, each band at its own resolution
                                                   or at 10 m; no label files
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from datasets.base import ALL, RetrievalDataset
from datasets.bigearthnet.dataset import BigEarthNet, note_offset, variant_of
from datasets.bigearthnet.nomenclature import BAND_SIDES, STATISTICS
from datasets.files.reflectance import VISIBLE, without_offset
from datasets.folder.dataset import table_of
from datasets.query_files import PatchFolder, Reading, band_of
from utilities.errors import UserError
from utilities.files import walk


class PatchArchive(BigEarthNet):
    """All patches below a folder. Names are paths of their folders, which a table may shorten.

    bands, boa_offset  as `BigEarthNet` has them; labels_csv: the table, as `datasets.folder.dataset.Folder` takes it
    """

    title = "a folder of Sentinel-2 patches"

    def __init__(
        self, *, source_path: Path, split: str, bands: Sequence[str], labels_csv: str | Path | None, boa_offset: int
    ) -> None:
        RetrievalDataset.__init__(self, source_path=source_path, split=split)
        if split != ALL:
            raise UserError(f"the patches of {source_path} are in no split, and {split} is asked for: give all")
        self.packed, self._lmdb = None, None
        self.bands, self.boa_offset, self.variant = tuple(bands), boa_offset, variant_of(1, boa_offset)
        self.band_sides = tuple(BAND_SIDES[band] for band in bands)
        self.mean, self.std = zip(*(STATISTICS[1][band] for band in bands), strict=True)
        patches = sorted(os.path.relpath(folder, source_path) for folder in patch_folders(source_path))
        table = table_of(source_path, None if labels_csv is None else Path(labels_csv), patches)
        self.names, self.labels, self.label_names = table.names, table.labels, table.label_names
        note_offset(self)

    def path(self, row: int) -> Path:
        return self.source_path / str(self.names[row])

    def files(self, row: int) -> list[str | Path]:
        return [*map(self._patch(row).file, self.bands)]

    def thumbnail(self, row: int, side: int = 128) -> np.ndarray:
        return self._patch(row).thumbnail(0, side)

    def visible(self, row: int) -> dict[str, np.ndarray]:
        held = tuple(filter(self._patch(row).holds, VISIBLE))
        return dict(zip(held, self._read_bands(row, held), strict=True))

    def _read_bands(self, row: int, bands: tuple[str, ...]) -> list[np.ndarray]:
        patch = self._patch(row)
        return [without_offset(patch.stored(band), self.boa_offset) for band in bands]

    def _patch(self, row: int) -> PatchFolder:
        return PatchFolder(self.path(row), self, Reading(self.boa_offset))


def patch_folders(root: Path) -> Iterator[Path]:
    """Folders, `root` included, that hold a file of a band; hidden ones are passed over."""
    for folder, files in walk(root):
        if any(band_of(Path(name)) for name in files):
            yield Path(folder)


def holds_patches(root: Path, bands: Sequence[str]) -> bool:
    """Whether some folder below `root` holds files of several of the bands, which are no images by themselves."""
    few = min(2, len(bands))
    return any(len({*bands} & set(map(band_of, folder.iterdir()))) >= few for folder in patch_folders(root))
