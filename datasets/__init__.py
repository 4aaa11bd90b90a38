"""Data sets, one folder each, and what they share.

    base  open  examples         what a data set is; from flags to loaders; images searched by example
    query_files  patches         files of --query, decoded; Sentinel-2 patches in anybody's files
    place  whole  network_input  the folder that --source_path means; all splits as one; one image as a network takes it
    bigearthnet  mlrsnet  ucmerced  demo  folder
    files  prepared  batches     foreign files; arrays of decoded pixels; samplers, loaders, transforms
    features                     of a frozen backbone, computed once
    check                        what `python -m datasets` prints and draws

A data set is a folder whose `dataset.py` registers a class in `DATASETS`; an `archive.py` beside it says how its
published archive is laid out.

May import: datasets.base, datasets.batches, datasets.bigearthnet, datasets.features, datasets.files, datasets.folder,
datasets.prepared,
utilities, utilities.flags, utilities.parallel.
"""

from utilities.flags import early  # noqa: F401 - first: answers `python -m datasets --help` in a moment

# isort: split

from datasets.base import DATASETS, RetrievalDataset
from utilities.flags.registry import import_folders

import_folders(__name__, list(__path__), ("dataset", "archive"))

__all__ = ["DATASETS", "RetrievalDataset"]
