"""One image, wherever it comes from, as the network of a saved run takes it: `architectures.load_network`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.base import DATASETS, RetrievalDataset
from datasets.batches.scaling import Scaling
from datasets.batches.transforms import DeviceTransform
from datasets.bigearthnet.nomenclature import BAND_SIDES
from datasets.examples import open_file
from datasets.files.images import resized
from datasets.files.reflectance import without_offset
from datasets.folder.pixels import reader_of
from datasets.query_files import Reading
from utilities.errors import UserError


class RecordedFormat(RetrievalDataset):
    """What the pixels of a run's data set are, by its flags and what its checkpoint says of the data; no images.

    run: the flags, as args.json keeps them. data: `TrainingData.description`.
    """

    def __init__(self, run: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        self.source_path, self.split = Path(), "test"
        self.bands, self.label_names = tuple(data["bands"]), tuple(data["label_names"])
        if run["dataset"] == "BigEarthNet":
            self.band_sides: tuple[int, ...] = tuple(BAND_SIDES[band] for band in self.bands)
        elif run["dataset"] == "Folder":
            self.reader = reader_of(run, self.bands)
            self.band_sides = (self.reader.side,) * len(self.bands)
        else:
            side = run["demo_side"] if run["dataset"] == "Demo" else DATASETS[run["dataset"]].band_sides[0]
            self.band_sides = (side,) * len(self.bands)
        self.dtype = self.reader.dtype if run["dataset"] == "Folder" else DATASETS[run["dataset"]].dtype
        self.mean, self.std = tuple(data["mean"]), tuple(data["std"])
        scaled = run["dataset"] == "Folder" and self.reader.band_scale is not None  # such values carry no offset
        self.boa_offset = 0 if scaled else run.get("boa_offset") or 0


class Prepare:
    """What is given to `--query`, as the input of a network: (1, C, image_size, image_size) float32.

    A path     a photograph of any size and mode, or a Sentinel-2 patch: a folder of bands, or one GeoTIFF
    an array   or a tensor, in stored units: uint8 photographs (H, W, 3) or (3, H, W), as Pillow and torchvision give
               them; digital numbers (C, S, S) of the run's bands in their order, coarser ones repeated, with the
               --boa_offset that the run's own images carry; of a run with --band_scale what it makes of values:
               0..10,000
    """

    def __init__(self, run: Mapping[str, Any], data: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        self.like, self.device = RecordedFormat(run, data), torch.device(device)
        self.transform = DeviceTransform(
            band_sides=self.like.band_sides,
            image_size=data["image_size"],
            resize_to=data["resize_to"],
            scaling=Scaling(tuple(data["mean"]), tuple(data["std"]), data.get("low"), data.get("high")),
            interpolation=data.get("interpolation", "bilinear"),
            per_image=data["per_image_normalisation"],
            memory_format=torch.channels_last if run["channels_last"] else torch.contiguous_format,
            device=self.device,
        )

    def __call__(self, image: str | Path | np.ndarray | Tensor) -> Tensor:
        """Raises UserError for an image of another kind than the run's, `DatasetError` naming a broken file."""
        if isinstance(image, str | Path):
            path = Path(image)
            if not path.exists():
                raise UserError(f"{path} is not there; give an image, or the folder of a patch")
            stored = open_file(path, self.like, Reading()).read(0)
        else:
            stored = self._stored(image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image))
        return self.transform.evaluation(torch.from_numpy(np.ascontiguousarray(stored))[None].to(self.device))

    def _stored(self, pixels: np.ndarray) -> np.ndarray:
        """(C, S, S) as the data set would have read it."""
        bands, side = len(self.like.bands), max(self.like.band_sides)
        if self.like.is_photograph:
            if pixels.ndim == 3 and pixels.shape[2] != 3 and pixels.shape[0] == 3:
                pixels = pixels.transpose(1, 2, 0)
            if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
                kind = f"{pixels.dtype.name} {pixels.shape}"
                raise UserError(f"an image of {kind} is no photograph; give uint8, (H, W, 3) or (3, H, W)")
            return resized(np.ascontiguousarray(pixels), side).transpose(2, 0, 1)
        if pixels.shape != (bands, side, side) or pixels.dtype.kind not in "uif":
            raise UserError(
                f"an image of {pixels.dtype.name} {pixels.shape} is no patch of this run; give digital numbers "
                f"({bands}, {side}, {side}) of the bands {' '.join(self.like.bands)}"
            )
        return without_offset(pixels.astype(np.float32), self.like.boa_offset)
