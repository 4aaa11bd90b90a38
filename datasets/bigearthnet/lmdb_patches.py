"""BigEarthNet v2 in an LMDB, as rico-hdl writes it and ConfigILM reads it.

    <folder>/data.mdb        patch name -> a safetensors dictionary: band name -> (side, side) uint16

Patches of Sentinel-1 and reference maps may lie in it too. Labels and splits are not in it: they come from
metadata.parquet. K. Clasen et al., "reBEN: Refined BigEarthNet dataset for remote sensing image analysis", 2024.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from datasets.bigearthnet.nomenclature import BAND_SIDES
from utilities.errors import DatasetError, UserError

DATA = "data.mdb"
SPELLED = {"U8": "uint8", "I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16", "F32": "float32"}
"""What safetensors calls what numpy does."""


def find_lmdb(source: Path) -> Path | None:
    """`source`, or the one folder in it that holds a data.mdb; None where there is none."""
    if (source / DATA).is_file():
        return source
    found = sorted(path.parent for path in source.glob(f"*/{DATA}"))
    if len(found) > 1:
        named = ", ".join(path.name for path in found)
        raise UserError(f"{source} holds several LMDBs ({named}); give one of them, with metadata.parquet in it")
    return found[0] if found else None


class _Environment:
    """An open LMDB. A process may open one only once, and opens anew what its parent had open when it was forked."""

    def __init__(self, folder: Path) -> None:
        try:
            import lmdb
        except ImportError as error:
            raise UserError(f"reading {folder} needs lmdb: pip install lmdb") from error
        self.process = os.getpid()
        try:
            self.opened = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
        except lmdb.Error as error:
            raise DatasetError(f"cannot open the LMDB {folder}: {error}") from error
        pages, size = self.opened.info()["last_pgno"] + 1, (folder / DATA).stat().st_size
        if pages * self.opened.stat()["psize"] > size:  # reading what is not there would end the process
            raise DatasetError(f"{folder / DATA} is cut off after {size:,} bytes; copy it again")


_OPEN: WeakValueDictionary[Path, _Environment] = WeakValueDictionary()
"""By folder, as long as a data set uses it: the splits of one data set share it."""


class LmdbPatches:
    """The patches of an LMDB. Every process opens it itself, when it first reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment: _Environment | None = None

    def names(self) -> Iterator[bytes]:
        with self._open().begin() as transaction:
            yield from transaction.cursor().iternext(values=False)

    def read(self, name: str, bands: tuple[str, ...]) -> list[np.ndarray]:
        """(side, side) uint16 of the bands. A patch or band that is missing or not that is a `DatasetError`."""
        from safetensors import SafetensorError, deserialize

        with self._open().begin() as transaction:
            value = transaction.get(name.encode())
        if value is None:
            raise DatasetError(f"the patch {name} is not in {self.folder / DATA}")
        try:
            found = dict(deserialize(value))  # numpy's `load` stops at types that numpy lacks, asked for or not
        except SafetensorError as error:
            raise DatasetError(f"cannot read the patch {name} in {self.folder / DATA}: {error}") from error
        return [self._checked(found.get(band), name, band) for band in bands]

    def _checked(self, tensor: Mapping[str, Any] | None, name: str, band: str) -> np.ndarray:
        """tensor: shape, dtype as safetensors spells it, data."""
        side = BAND_SIDES[band]
        if tensor is None:
            raise DatasetError(f"the patch {name} in {self.folder / DATA} has no band {band}")
        if tuple(tensor["shape"]) != (side, side) or tensor["dtype"] != "U16":
            found = f"{' x '.join(map(str, tensor['shape']))} {SPELLED.get(tensor['dtype'], tensor['dtype'])}"
            raise DatasetError(
                f"the band {band} of {name} in {self.folder / DATA} is {found} where {side} x {side} uint16 is expected"
            )
        return np.frombuffer(tensor["data"], "<u2").reshape(side, side)

    def _open(self) -> Any:
        if self._environment is None or self._environment.process != os.getpid():
            place = self.folder.resolve()
            held = _OPEN.get(place)
            if held is None or held.process != os.getpid():
                if held is not None:
                    held.opened.close()
                held = _OPEN[place] = _Environment(self.folder)
            self._environment = held
        return self._environment.opened

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_environment": None}
