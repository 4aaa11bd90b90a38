"""All splits of a data set as one: what an archive is searched as, whatever was trained on which of its images."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from datasets.base import ALL, DecodedPixels, RetrievalDataset
from utilities.geojson import Ring


class Whole(RetrievalDataset):
    """The splits one behind the other: row i of the first, then of the second, ..."""

    def __init__(self, parts: Sequence[RetrievalDataset]) -> None:
        first = parts[0]
        RetrievalDataset.__init__(self, source_path=first.source_path, split=ALL)
        self.parts = list(parts)
        self.bands, self.band_sides, self.dtype, self.variant = (
            first.bands,
            first.band_sides,
            first.dtype,
            first.variant,
        )
        self.mean, self.std, self.label_names = first.mean, first.std, first.label_names
        self.names = np.concatenate([part.names for part in parts])
        self.labels = np.concatenate([part.labels for part in parts])
        self.skip_broken = first.skip_broken
        self.starts = np.cumsum([0, *map(len, parts)])
        decoded = [part.pixels for part in parts if part.pixels is not None]
        self.pixels = JoinedPixels(decoded, self.starts) if len(decoded) == len(parts) else None

    @property
    def kind(self) -> str:
        return self.parts[0].kind

    def origin(self, row: int) -> tuple[RetrievalDataset, int]:
        """The split that holds a row, and its row there."""
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.parts[part], row - int(self.starts[part])

    def read(self, row: int) -> np.ndarray:
        part, own = self.origin(row)
        return part.read(own)

    def path(self, row: int) -> Path:
        part, own = self.origin(row)
        return part.path(own)

    def files(self, row: int) -> Sequence[str | Path]:
        part, own = self.origin(row)
        return part.files(own)

    def thumbnail(self, row: int, side: int = 128) -> np.ndarray:
        part, own = self.origin(row)
        return part.thumbnail(own, side)

    def size(self, row: int) -> tuple[int, int] | None:
        part, own = self.origin(row)
        return part.size(own)

    def notes(self, row: int) -> list[str]:
        part, own = self.origin(row)
        return part.notes(own)

    def outlines(self, rows: Sequence[int]) -> tuple[list[Ring | None], list[str]]:
        """Each split is asked once: what it notes is of all its rows together."""
        found: list[Ring | None] = [None] * len(rows)
        part_of = np.searchsorted(self.starts, rows, side="right") - 1
        said: list[str] = []
        for number in np.unique(part_of).tolist():
            places = np.flatnonzero(part_of == number).tolist()
            outlines, notes = self.parts[number].outlines([rows[place] - int(self.starts[number]) for place in places])
            said += notes
            for place, outline in zip(places, outlines, strict=True):
                found[place] = outline
        return found, list(dict.fromkeys(said))

    def dates(self, rows: Sequence[int]) -> list[datetime.date | None]:
        return [date for part, own in map(self.origin, rows) for date in part.dates([own])]

    def splits_of(self, rows: Sequence[int]) -> list[str]:
        return [part.split for part, _ in map(self.origin, rows)]


class JoinedPixels:
    """Prepared pixels of several splits, rows one behind the other."""

    def __init__(self, parts: Sequence[DecodedPixels], starts: np.ndarray) -> None:
        self.parts, self.starts = list(parts), starts
        self.folder, self.array = parts[0].folder, parts[0].array
        self.broken = np.concatenate([part.broken for part in parts])
        facts = [part.facts for part in parts if part.facts is not None]
        self.facts = np.concatenate(facts) if len(facts) == len(parts) else None

    def gather(self, rows: Sequence[int]) -> torch.Tensor:
        wanted = np.asarray(rows, np.int64)
        part_of = np.searchsorted(self.starts, wanted, side="right") - 1
        images: list[torch.Tensor] = [torch.empty(0)] * len(wanted)
        for number in np.unique(part_of).tolist():
            places = np.flatnonzero(part_of == number).tolist()
            own = self.parts[number].gather((wanted[places] - self.starts[number]).tolist())
            for place, image in zip(places, own, strict=True):
                images[place] = image
        return torch.stack(images) if images else self.parts[0].gather([])
