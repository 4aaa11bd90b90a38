"""BigEarthNet (Sumbul et al. 2019, 2021; version 2, "reBEN": Clasen et al. 2024): Sentinel-2 patches.

    version 1   <source_path>/<patch>/<patch>_B01.tif ... _B12.tif, <patch>_labels_metadata.json
                590,326 patches; 519,284 in the official lists train.csv, val.csv, test.csv
    version 2   <source_path>/BigEarthNet-S2/<tile>/<patch>/<patch>_B01.tif ..., metadata.parquet
                549,488 patches; 480,038 recommended, their split in the table; the patches also in an LMDB
                of rico-hdl, <source_path>/<any name>/data.mdb

A patch is 1.2 km wide: twelve uint16 bands of 10 m (120 x 120), 20 m (60 x 60) and 60 m (20 x 20), surface
reflectance x 10,000. The 43 labels are CORINE Land Cover level 3; the 19 merge or drop what Sentinel-2 cannot
tell apart and are what the official splits and published results use. Licence CDLA-Permissive-1.0.
"""

from __future__ import annotations

import datetime
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from datasets.base import DATASETS, Packed, RetrievalDataset
from datasets.bigearthnet import footprints
from datasets.bigearthnet.labels_v1 import TABLE, PatchTable, decoded, load_table, read_version_1
from datasets.bigearthnet.lmdb_patches import DATA, LmdbPatches, find_lmdb
from datasets.bigearthnet.metadata_v2 import read_version_2
from datasets.bigearthnet.nomenclature import BAND_SETS, BAND_SIDES, LABELS_19, LABELS_43, STATISTICS, mapping_to_19
from datasets.bigearthnet.splits import split_rows
from datasets.files.geotiff import read_band, stretched
from datasets.files.reflectance import OFFSET, VISIBLE, looks_offset, no_data_share, without_offset
from utilities.errors import DatasetError, UserError
from utilities.geojson import Ring

PROBED = 16  # patches of a split that are looked at for an offset
_DAY = re.compile(r"S2[A-D]_MSIL2A_(20\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))T")


@DATASETS.register("BigEarthNet", prefix="ben")
class BigEarthNet(RetrievalDataset):
    """One split of BigEarthNet; patches keep every band's own resolution until they are on the device.

    labels      19 or 43 (version 2 has the 19 only), by name, in official order
    bands       "all" (12), "10m" (B02 B03 B04 B08), "rgb" (B04 B03 B02), or names with commas, in that order
    version     1 or 2
    splits      "auto": the official split; "hashed": 60/20/20 by hashing names; or a folder with lists
    boa_offset  taken off every digital number but 0 (`datasets.files.reflectance`)
    index_path  where the label table of version 1 is kept; None: with the data, or in the user's cache folder
    packed      patches that lie in an archive; None: in `source_path`
    """

    title = "BigEarthNet (a folder a patch, or BigEarthNet-S2 and metadata.parquet)"
    dtype = np.dtype(np.uint16)
    marks = ("S2?_MSIL2A_*", "BigEarthNet-v1.0", "BigEarthNet-S2", "metadata.parquet", "data.mdb")
    archives = ("BigEarthNet-*.tar*", "BigEarthNet-*.tgz")

    def __init__(
        self,
        *,
        source_path: Path,
        split: str,
        labels: int,
        bands: str,
        version: int,
        splits: str,
        index_path: str | Path | None,
        boa_offset: int = 0,
        packed: Packed | None = None,
    ) -> None:
        super().__init__(source_path=source_path, split=split)
        self.packed = packed
        self._lmdb: LmdbPatches | None = None
        if labels not in (19, 43) or version not in (1, 2):
            raise UserError(f"--ben_labels {labels} --ben_version {version}; choices: 19 or 43, 1 or 2")
        if (labels, version) == (43, 2):
            raise UserError("--ben_labels 43 needs --ben_version 1: version 2 comes with 19 labels only")
        self.bands = parse_bands(bands)
        self.band_sides = tuple(BAND_SIDES[band] for band in self.bands)
        self.mean, self.std = zip(*(STATISTICS[version][band] for band in self.bands), strict=True)
        self.version = version
        self.boa_offset = boa_offset
        self.variant = variant_of(version, boa_offset)
        if version == 1:
            self._root = archive_folder(source_path)
            table = packed_table(packed) if packed else read_version_1(self._root, _as_path(index_path))
            rows = split_rows(table.names, split, source_path, splits)
        else:
            self._root = source_path / "BigEarthNet-S2"
            table = read_version_2(source_path / "metadata.parquet")
            rows = rows_of_version_2(table, split, source_path, splits)
            database = None if packed or self._root.is_dir() else find_lmdb(source_path)
            self._lmdb = LmdbPatches(database) if database else None
            refuse_absent(table.names[rows], packed or self._lmdb or self._root)
        flags = table.labels[rows]
        self.labels = flags @ mapping_to_19() if labels < flags.shape[1] else flags
        self.label_names = LABELS_19 if labels == 19 else LABELS_43
        self.names = decoded(table.names[rows])
        if not packed:
            note_offset(self)

    def folder(self, row: int) -> str:
        """The folder of a patch."""
        name = str(self.names[row])
        tile = f"{name.rsplit('_', 2)[0]}/" if self.version == 2 else ""
        return f"{self._root}/{tile}{name}"

    def path(self, row: int) -> Path:
        return Path(self.folder(row))

    def files(self, row: int) -> list[str | Path]:
        """Of the bands that are used."""
        if self._lmdb is not None:
            return [self._lmdb.folder / DATA]
        stem = f"{self.folder(row)}/{self.names[row]}"
        return [f"{stem}_{band}.tif" for band in self.bands]

    def read(self, row: int) -> np.ndarray:
        if self.packed is not None:
            return self.prepared(row)
        bands = self._read_bands(row, self.bands)
        return np.concatenate([band.ravel() for band in bands]).reshape(self.item_shape)

    def thumbnail(self, row: int, side: int = 128) -> np.ndarray:
        """Red, green and blue, each stretched between its 2nd and 98th percentile.

        Of patches in an archive only the prepared bands are at hand: without these three it shows the first.
        """
        bands = self._prepared_rgb(row) if self.packed else self._read_bands(row, BAND_SETS["rgb"])
        return stretched(bands, side)

    def outlines(self, rows: Sequence[int]) -> tuple[list[Ring | None], list[str]]:
        return footprints.outlines([self.path(row) for row in rows])

    def dates(self, rows: Sequence[int]) -> list[datetime.date | None]:
        """The day in a patch's name, S2A_MSIL2A_20170613T101031_..."""
        found = (_DAY.match(str(self.names[row]).rpartition("/")[2]) for row in rows)
        return [day and datetime.datetime.strptime(day[1], "%Y%m%d").date() for day in found]

    def _read_bands(self, row: int, bands: tuple[str, ...]) -> list[np.ndarray]:
        if self._lmdb is not None:
            stored = self._lmdb.read(str(self.names[row]), bands)
        else:
            stem = f"{self.folder(row)}/{self.names[row]}"
            stored = [read_band(f"{stem}_{band}.tif", BAND_SIDES[band]) for band in bands]
        return [without_offset(band, self.boa_offset) for band in stored]

    def no_data(self, pixels: np.ndarray) -> float:
        return no_data_share([pixels])

    def note_prepared(self) -> None:
        note_offset(self)

    def visible(self, row: int) -> dict[str, np.ndarray]:
        """The visible bands of a patch: of an archive, those that were prepared."""
        bands = (
            self._prepared_bands(row)
            if self.packed
            else dict(zip(VISIBLE, self._read_bands(row, VISIBLE), strict=True))
        )
        return {band: bands[band] for band in VISIBLE if band in bands}

    def _prepared_bands(self, row: int) -> dict[str, np.ndarray]:
        flat, areas = self.prepared(row).ravel(), np.square(self.band_sides)
        pieces = np.split(flat, np.cumsum(areas)[:-1])
        squares = [piece.reshape(side, side) for piece, side in zip(pieces, self.band_sides, strict=True)]
        return dict(zip(self.bands, squares, strict=True))

    def _prepared_rgb(self, row: int) -> list[np.ndarray]:
        bands = self._prepared_bands(row)
        shown = BAND_SETS["rgb"] if bands.keys() >= set(BAND_SETS["rgb"]) else self.bands[:1] * 3
        return [bands[band] for band in shown]


def _as_path(given: str | Path | None) -> Path | None:
    return Path(given) if given else None


def variant_of(version: int, boa_offset: int) -> str:
    return f"v{version}" + (f", offset {boa_offset}" if boa_offset else "")


def note_offset(dataset: BigEarthNet) -> None:
    """Say so where most of some patches seem to carry the offset of processing baseline 04.00."""
    rows = np.unique(np.linspace(0, len(dataset) - 1, PROBED).astype(int)).tolist()
    looked, offset = 0, 0
    for row in rows:
        try:
            bands = dataset.visible(row)
        except DatasetError:  # named where the patch is needed
            continue
        looked += 1
        offset += looks_offset(bands)
    if offset > looked / 2:
        warnings.warn(
            f"the lowest value above 0 of the visible bands is {OFFSET} or more in {offset} of {looked} patches looked "
            f"at: products since processing baseline 04.00 carry +{OFFSET}; if these do, give --boa_offset {OFFSET}",
            stacklevel=3,
        )


def packed_table(packed: Packed) -> PatchTable:
    """The label table of version 1 that was made from the JSON files of an archive."""
    table, _ = load_table(packed.folder / TABLE)
    if table is None:
        raise DatasetError(f"{packed.folder / TABLE} is missing or damaged; delete {packed.folder.parent}")
    return table


def parse_bands(text: str) -> tuple[str, ...]:
    """A set of bands by name, or the bands themselves with commas."""
    bands = BAND_SETS.get(text) or tuple(part.strip() for part in text.split(","))
    unknown = [band for band in bands if band not in BAND_SIDES]
    if unknown or len(set(bands)) < len(bands):
        wrong = f"unknown {', '.join(map(repr, unknown))}" if unknown else "a band occurs twice"
        raise UserError(
            f"--ben_bands {text}: {wrong}; choices: {', '.join(BAND_SETS)}, or some of {','.join(BAND_SIDES)}"
        )
    return bands


def archive_folder(source: Path) -> Path:
    """The folder that holds the patches of version 1: `source`, or what the published archive unpacks to."""
    unpacked = source / "BigEarthNet-v1.0"
    return unpacked if unpacked.is_dir() else source


def rows_of_version_2(table: PatchTable, split: str, source: Path, splits: str) -> np.ndarray:
    """Rows of the split that the table names, or of other lists; never a patch that is to be left out."""
    assert table.splits is not None
    if splits != "auto":
        usable = np.flatnonzero(table.splits != "")
        return usable[split_rows(table.names[usable], split, source, splits, clean=True)]
    rows = np.flatnonzero(table.splits == split)
    if not len(rows):
        raise DatasetError(f"{source / 'metadata.parquet'} leaves no patch for the {split} split")
    return rows


def refuse_absent(names: np.ndarray, place: Path | Packed | LmdbPatches) -> None:
    """Raise `DatasetError` if patches of version 2 are not in the folder, archive or LMDB; the first five are named."""
    absent = set(names.tolist())
    if isinstance(place, Packed):
        root = place.archive
        absent.difference_update(np.char.encode(place.names, "utf-8").tolist())
    elif isinstance(place, LmdbPatches):
        root = place.folder
        absent.difference_update(place.names())
    else:
        root = place
        absent.difference_update(_patches_by_tile(root))
    if absent:
        named = [os.fsdecode(name) for name in sorted(absent)]
        raise DatasetError(
            f"{len(absent):,} patches of metadata.parquet are absent under {root} ({', '.join(named[:5])})",
            names=[f"absent: {name}" for name in named],
        )


def _patches_by_tile(root: Path) -> Iterator[bytes]:
    if not root.is_dir():
        raise DatasetError(f"{root} is not there; --ben_version 2 expects BigEarthNet-S2/<tile>/<patch>, or an LMDB")
    with os.scandir(os.fsencode(root)) as tiles:
        for tile in tiles:
            if tile.is_dir():
                yield from os.listdir(tile.path)
