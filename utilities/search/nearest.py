"""Search by example: what lies nearest to each example in a split, written down and printed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from utilities.evaluation.embedded import Embedded
from utilities.files import filling
from utilities.neighbours.codes import search_either
from utilities.neighbours.search import Neighbours
from utilities.search.example import Search, Shown
from utilities.search.search_folder import LEFTOVERS, write_search


class Example(Protocol):
    """One image that is searched for (`datasets.examples.Example`).

    dataset  the split that holds it, in `row`; None for an image from elsewhere
    """

    @property
    def name(self) -> str: ...

    @property
    def stem(self) -> str: ...

    @property
    def labels(self) -> np.ndarray | None: ...

    @property
    def dataset(self) -> Any: ...

    @property
    def row(self) -> int: ...


def search_each(
    examples: Sequence[Example],
    asked: Embedded,
    gallery: Embedded,
    folder: Path,
    *,
    top: int,
    network: str,
    looked_at: float,
    backend: str,
    device: torch.device,
    notes: Sequence[str] = (),
) -> None:
    """A folder of results for each example, whose embeddings are the rows of `asked`, and its hits as text.

    network says in words by which network the embeddings were made; looked_at: the share of an image's sides that it
    sees, in the middle; notes: what else there is to say.
    """
    about: dict[str, Any] = {"top": top, "network": network, "looked_at": looked_at, "notes": notes}
    for number, (example, name) in enumerate(zip(examples, folder_names(examples), strict=True)):
        found = nearest(example, asked, number, gallery, top=top, backend=backend, device=device)
        result = describe(example, asked, number, found, gallery, **about)
        replaced = ", in place of an earlier search" if (folder / name).exists() else ""
        with filling(folder / name, LEFTOVERS) as fresh:
            text = write_search(fresh, result)
        print(text)
        print(f"saved in {folder / name}{replaced}\n")


def folder_names(examples: Sequence[Example]) -> Iterator[str]:
    """The stem of each example; of several with one stem, the others get -2, -3, ..."""
    used: set[str] = set()
    for example in examples:
        numbered = (f"{example.stem}-{count}" for count in itertools.count(2))
        name = next(name for name in itertools.chain([example.stem], numbered) if name not in used)
        used.add(name)
        yield name


def nearest(
    example: Example,
    asked: Embedded,
    number: int,
    gallery: Embedded,
    *,
    top: int,
    backend: str,
    device: torch.device,
) -> Neighbours:
    """Rows of the gallery's embeddings nearest to an example, itself left out where it is one of them."""
    own, query = None, asked.searched[number : number + 1]
    if example.dataset is gallery.dataset:
        own = (gallery.rows == example.row).nonzero().flatten()
        query = gallery.searched[own]  # to the last bit what an evaluation searches for
    found = search_either(query.to(device), gallery.searched.to(device), top, query_rows=own, backend=backend)
    return Neighbours(found.indices[0].cpu(), found.distances[0].cpu())


def describe(
    example: Example,
    asked: Embedded,
    number: int,
    found: Neighbours,
    gallery: Embedded,
    *,
    top: int,
    network: str,
    looked_at: float,
    notes: Sequence[str],
) -> Search:
    """The search as people see it: images, labels, places and what there is to say about it."""
    dataset, rows = gallery.dataset, gallery.rows[found.indices].tolist()
    places, of_places = dataset.outlines(rows)
    (own_place,), own_notes = asked.dataset.outlines([number])
    labelled = bool(dataset.label_names)
    hits = [
        Shown(str(dataset.names[row]), dataset.thumbnail(row, 192), dataset.labels[row] if labelled else None, place)
        for row, place in zip(rows, places, strict=True)
    ]
    said = [f"the query is an image of {example.dataset.part_name}"] if example.dataset else []
    if example.dataset is dataset:
        said = [f"{said[0]}; it is left out of the hits by its index"]
    said += asked.dataset.notes(number)
    if top > len(rows):
        said.append(f"--top {top} is more than there are: all {len(rows)} images are shown")
    if skipped := len(dataset) - len(gallery.rows):
        said.append(f"{skipped} unreadable images were left out")
    distance = "Hamming distance of binary codes" if gallery.codes else "Euclidean distance of unit embeddings"
    return Search(
        Shown(
            example.name,
            asked.dataset.thumbnail(number, 320),
            example.labels,
            own_place,
            asked.dataset.size(number),
            looked_at,
        ),
        hits,
        found.distances.tolist(),
        dataset.label_names,
        title=f"Nearest to {example.name}",
        about=f"{len(rows)} of {len(gallery.rows):,} images of {dataset.kind}, {dataset.part_name}; "
        f"{distance}; {network}",
        notes=[*said, *notes, *dict.fromkeys([*own_notes, *of_places])],
    )
