"""MLRSNet in a tar archive: `[<folder>/]Images/<category>/*.jpg`, and `labels/*.csv` in it or beside it.

The data set is published as one .rar a category; this is the archive that many keep of the unpacked folder.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datasets.base import Packed
from datasets.files.images import is_image, read_rgb
from datasets.files.tar import Member
from datasets.mlrsnet.dataset import MLRSNet, label_source, label_table
from datasets.prepared.archive_layout import ARCHIVES, ArchiveLayout, Part


@ARCHIVES.register("MLRSNet", prefix="mlrsnet")
class MLRSNetArchive(ArchiveLayout):
    """labels: "repair" or "as_is", as `MLRSNet` takes it; only what the manifest says depends on it."""

    pattern = r"(?i)(mlrsnet|images)"
    kind = MLRSNet.__name__
    files = frozenset({"the image"})
    bands, band_sides, dtype, decoder = MLRSNet.bands, MLRSNet.band_sides, MLRSNet.dtype, MLRSNet.decoder

    def __init__(self, *, source_path: Path, labels: str) -> None:
        self.source_path, self._mode = source_path, labels
        self._kept: dict[str, bytes] = {}

    def part(self, path: str) -> Part | None:
        folder, _, name = path.rpartition("/")
        images, _, category = folder.rpartition("/")
        image = images.rpartition("/")[2] == "Images" and not category.startswith(".") and is_image(name)
        return Part(name, "the image") if image else None

    def decode(self, image: str, files: Mapping[str, bytes]) -> np.ndarray:
        side = self.band_sides[0]
        return read_rgb(io.BytesIO(files["the image"]), side, image).transpose(2, 0, 1)

    def keep(self, member: Member) -> None:
        folder, _, name = member.path.rpartition("/")
        if folder.rpartition("/")[2] == "labels" and name.endswith(".csv") and not name.startswith("."):
            self._kept[f"labels/{name}"] = member.data
        elif name in ("Categories_names.xlsx", "Categories_names.xls"):
            self._kept[name] = member.data

    def finish(self, folder: Path) -> dict[str, Any]:
        for path, data in self._kept.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        packed = Packed(self.source_path, folder, np.zeros(0, np.str_))
        table = label_table(label_source(self.source_path, packed), self._mode)
        return {"label_names": list(table.label_names), "fingerprints": {"all": table.fingerprint()}}

    def is_unpacked(self) -> bool:
        return (self.source_path / "Images").is_dir()
