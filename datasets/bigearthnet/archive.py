"""BigEarthNet as published: BigEarthNet-S2-v1.0.tar.gz, and BigEarthNet-S2.tar.zst of version 2 beside its parquet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datasets.base import label_fingerprint
from datasets.bigearthnet.dataset import BigEarthNet, archive_folder, parse_bands, variant_of
from datasets.bigearthnet.labels_v1 import (
    TABLE,
    PatchTable,
    decoded,
    holds_patches,
    label_columns,
    refuse_unusable,
    write_table,
)
from datasets.bigearthnet.lmdb_patches import find_lmdb
from datasets.bigearthnet.metadata_v2 import read_version_2
from datasets.bigearthnet.nomenclature import BAND_SIDES, LABELS_43
from datasets.bigearthnet.splits import EXCLUDED, list_file, lists_folder
from datasets.files.geotiff import decode_band
from datasets.files.reflectance import without_offset
from datasets.files.split_lists import read_name_list
from datasets.prepared.archive_layout import ARCHIVES, ArchiveLayout, Part, Selection
from datasets.prepared.array import encoded

LABELS = "labels_metadata"


@ARCHIVES.register("BigEarthNet", prefix="ben")
class BigEarthNetArchive(ArchiveLayout):
    """bands, version and splits as `BigEarthNet` takes them. Patches that no split may hold are passed over."""

    kind = BigEarthNet.__name__
    dtype, decoder = BigEarthNet.dtype, BigEarthNet.decoder

    def __init__(self, *, source_path: Path, bands: str, version: int, splits: str, boa_offset: int = 0) -> None:
        self.source_path, self.version, self.variant = source_path, version, variant_of(version, boa_offset)
        self.boa_offset = boa_offset
        self.bands = parse_bands(bands)
        self.band_sides = tuple(BAND_SIDES[band] for band in self.bands)
        self.files = frozenset({*self.bands, LABELS} if version == 1 else self.bands)
        self.splits = splits
        self._selection: Selection | None = None
        self._names: list[str] = []
        self._labels: list[list[int]] = []
        self._problems: list[str] = []

    @property
    def pattern(self) -> str:  # type: ignore[override]
        return r"(?i)BigEarthNet-(S2-)?v1" if self.version == 1 else r"(?i)BigEarthNet-S2\."

    def part(self, path: str) -> Part | None:
        """`.../<patch>/<patch>_<file>.tif` or `..._labels_metadata.json`."""
        folder, _, name = path.rpartition("/")
        patch = folder.rpartition("/")[2]
        file = name.rpartition(".")[0].removeprefix(f"{patch}_")
        return Part(patch, file) if file in self.files and name.startswith(f"{patch}_") else None

    def decode(self, image: str, files: Mapping[str, bytes]) -> np.ndarray:
        bands = [decode_band(files[band], BAND_SIDES[band], f"{image}_{band}.tif") for band in self.bands]
        pixels = np.concatenate([band.ravel() for band in bands]).reshape(self.item_shape)
        return without_offset(pixels, self.boa_offset)

    def take(self, image: str, files: Mapping[str, bytes]) -> None:
        if self.version == 2:
            return
        columns: list[int] = []
        if LABELS in files:
            try:
                columns = label_columns(files[LABELS])
            except ValueError as error:
                self._problems.append(f"{image}_{LABELS}.json: {error}")
        self._names.append(image)
        self._labels.append(columns)

    def finish(self, folder: Path) -> dict[str, Any]:
        if self.version == 2:
            table = read_version_2(self.source_path / "metadata.parquet")
        else:
            refuse_unusable(self._problems, len(self._names))
            table = self._table()
            write_table(folder / TABLE, table, 0)
        fingerprint = label_fingerprint(decoded(table.names), table.labels, table.label_names)
        return {"label_names": list(table.label_names), "fingerprints": {"all": fingerprint}}

    def _table(self) -> PatchTable:
        names = encoded(np.asarray(self._names))
        labels = np.zeros((len(names), len(LABELS_43)), bool)
        lengths = [len(columns) for columns in self._labels]
        labels[np.repeat(np.arange(len(names)), lengths), np.concatenate([*self._labels, []]).astype(int)] = True
        order = np.argsort(names)
        return PatchTable(names[order], labels[order], LABELS_43)

    def is_unpacked(self) -> bool:
        if self.version == 2:
            return (self.source_path / "BigEarthNet-S2").is_dir() or find_lmdb(self.source_path) is not None
        return archive_folder(self.source_path) != self.source_path or holds_patches(self.source_path)

    def selection(self) -> Selection:
        """Without snow, cloud or shadow, or no label of the 19: by the lists of --ben_splits, or the parquet table.

        Version 2 as published has most such patches in a table of their own: what its table does not list is not taken.
        """
        if self._selection is None:
            self._selection = self._of_table() if self.version == 2 else Selection(None, frozenset(self._listed_out()))
        return self._selection

    def _of_table(self) -> Selection:
        table = read_version_2(self.source_path / "metadata.parquet")
        assert table.splits is not None
        return Selection(frozenset(map(os.fsdecode, table.names[table.splits != ""])), frozenset())

    def _listed_out(self) -> list[str]:
        folder = lists_folder(self.source_path, self.splits)
        files = [file for stem in EXCLUDED if folder and (file := list_file(folder, stem))]
        return [name for file in files for name in read_name_list(file).tolist()]
