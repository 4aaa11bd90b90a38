"""Features on disk: an array a view, kept between runs and named by all that decides them.

    <place>/<data set>-<split>-<arch>-<key>/
        facts.json           what the key stands for, for people
        centre.npy           (N, F) float32, of the centre crop
        view<v>-<crops>.npy  (N, F) float32, of the v-th augmented look at each image

A folder may be deleted whenever no run reads it: what is missing is computed again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from datasets.base import RetrievalDataset
from datasets.batches.loaders import Loader
from datasets.batches.scaling import find_scaling
from datasets.batches.transforms import draw
from datasets.prepared.stage import locked, require_space
from utilities import seeding
from utilities.batch import Batch
from utilities.errors import RunFailure, UserError
from utilities.files import replacing, write_json
from utilities.flags.settings import Settings
from utilities.inference import way as inference
from utilities.inference.whole_split import embed_split
from utilities.neighbours.embedding_file import digest
from utilities.parallel import distributed
from utilities.training import precision

FORMAT = 2
LOCK = ".lock"
CENTRE = -1  # the centre crop, where views count from 0
FLAGS = (
    "arch",
    "image_size",
    "resize_to",
    "per_image_normalisation",
    "interpolation",
    "channels_last",
    "skip_broken_images",
)


def facts(args: Settings, dataset: RetrievalDataset, device: torch.device, backbone: nn.Module) -> dict[str, Any]:
    """What decides the features of a split besides weights, names and augmentation, as plain values."""
    scaling = find_scaling(args, dataset)
    return {name: args[name] for name in FLAGS} | {
        "format": FORMAT,
        "fingerprint": dataset.fingerprint(),
        "files": dataset.state(placed=True),
        "bands": list(dataset.bands),
        **{name: values and [float(x) for x in values] for name, values in scaling._asdict().items()},
        "precision": precision.resolve(args.precision, device, backbone),
        "device": device.type,
        "torch": torch.__version__,
    }


class FeatureFiles:
    """The features of one split; every rank calls the same methods in the same order.

    place     folder that holds the folders of all splits and backbones
    backbone  frozen, in evaluation mode; its tensors are part of the key
    features  what it computes, (B, C, H, W) -> (B, F) float32
    """

    def __init__(
        self,
        place: Path,
        backbone: nn.Module,
        loader: Loader,
        *,
        features: Callable[[Tensor], Tensor],
        args: Settings,
    ) -> None:
        self.loader, self.backbone, self.features, self.args = loader, backbone, features, args
        self.dataset = loader.dataset
        self.width = int(backbone.features)  # type: ignore[arg-type]
        own = facts(args, self.dataset, loader.device, backbone)
        key = distributed.broadcast_object(digest(backbone, self.dataset.names, own))
        name = f"{self.dataset.kind}-{self.dataset.split}-{str(args.arch).replace('/', '-')}-{key[:16]}"
        self.folder, self.facts = place / name, own | {"key": key}

    def prepare(self, views: Iterable[int]) -> None:
        """Compute what is missing of the views, after making sure that the disk holds it."""
        missing = [view for view in views if not distributed.on_all(self._is_there(view))]
        if not missing:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / LOCK).touch()
        except OSError as error:
            raise UserError(
                f"features of the frozen backbone cannot be kept in {self.folder} ({error.strerror}); give a folder "
                "for them with --cache_path"
            ) from error
        needed = len(missing) * len(self.dataset) * self.width * 4
        remedy = "lower --stored_views (0 trains without them), or give a folder on a larger disk with --cache_path"
        require_space(self.folder, needed, what=f"storing features of {len(missing)} views", remedy=remedy)
        for view in missing:
            self._make(view)

    def array(self, view: int) -> np.ndarray:
        """(N, F) float32, mapped: only what is read of it takes memory. Rows of skipped images are NaN."""
        self.prepare([view])
        return np.load(self.path(view), mmap_mode="r")

    def path(self, view: int) -> Path:
        return self.folder / ("centre.npy" if view == CENTRE else f"view{view}-{self._crops}.npy")

    @cached_property
    def _crops(self) -> str:
        return hashlib.sha256(repr(tuple(self.loader.augmentation)).encode()).hexdigest()[:8]

    def _is_there(self, view: int) -> bool:
        """Whether the whole array lies there; numpy refuses to map a file that ends early."""
        try:
            found = np.load(self.path(view), mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return False
        return found.shape == (len(self.dataset), self.width) and found.dtype == np.float32

    def _make(self, view: int) -> None:
        """One process computes, others that want the same wait for it and take what it wrote."""
        with locked(self.folder / LOCK, self.path(view)) if distributed.is_main() else nullcontext():
            if distributed.on_all(self._is_there(view)):
                return
            rows = self._compute(view)
            if int(os.environ.get("LOCAL_RANK", 0)) == 0:  # of each machine: they need not share the disk
                self._write(view, rows)
            distributed.barrier()

    def _write(self, view: int, rows: np.ndarray) -> None:
        path = self.path(view)
        try:
            write_json(self.folder / "facts.json", self.facts)
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, rows)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}); give another --cache_path") from error

    def _compute(self, view: int) -> np.ndarray:
        """(N, F) float32 on every rank."""
        size, batch_size = len(self.dataset), self.args.eval_batch_size
        batches = tqdm(
            self._batches(view, np.arange(size), batch_size),
            f"features of {self.dataset.split}, {'centre crop' if view == CENTRE else f'view {view + 1}'}",
            -(-size // (batch_size * distributed.world_size())),
            leave=False,
            disable=None if distributed.is_main() else True,
        )
        number_format = self.facts["precision"]
        with (
            precision.autocast(number_format, self.loader.device),
            inference.embedding(self.backbone, images=size, number_format=number_format),
        ):
            rows, found = embed_split(self.features, batches, size)
        if not rows.isfinite().all():
            raise RunFailure(f"features of {self.dataset.split} are not finite; try --precision fp32, check --weights")
        whole = np.full((size, self.width), np.nan, np.float32)
        whole[found.numpy()] = rows.numpy()
        return whole

    def _batches(self, view: int, rows: np.ndarray, batch_size: int) -> Iterable[Batch]:
        if view == CENTRE:
            return self.loader.evaluation(rows, batch_size)
        draws = draw(len(rows), seeding.generator("cpu", "stored view", view))
        return self.loader.view(rows, batch_size, draws)
