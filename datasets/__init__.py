"""Data sets, splits, samplers, loaders and the device side of augmentation."""

from datasets.base import DATASETS, RetrievalDataset
from utilities.registry import import_siblings

import_siblings(__name__, list(__path__))

__all__ = ["DATASETS", "RetrievalDataset"]
