"""A flat faiss index of embeddings, whose ids are the rows of the table beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from utilities.files import replacing
from utilities.neighbours.search import faiss_module


def write_index(path: Path, embeddings: np.ndarray) -> None:
    """Inner products of (N, D) float32 unit rows, which order images as Euclidean distances do. Raises UserError
    without faiss."""
    faiss = faiss_module()
    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(np.ascontiguousarray(embeddings, np.float32))
    with replacing(path) as temporary:
        faiss.write_index(index, str(temporary))
