"""A split with its embeddings: what scoring compares, and what a search by example looks through."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from utilities.batch import Feed
from utilities.flags.settings import Settings
from utilities.inference import way as inference
from utilities.inference import whole_split
from utilities.neighbours import embedding_file
from utilities.neighbours.coders import Coder
from utilities.neighbours.codes import Codes
from utilities.parallel import distributed
from utilities.report.page_parts import Collection
from utilities.training import precision


class Embedded(NamedTuple):
    """A split (`datasets.base.RetrievalDataset`), and the embeddings (M, D) of its rows (M,), both on the CPU.

    Rows are missing where broken images were skipped. codes: of the embeddings, where these are searched instead.
    way: how they were computed; None of kept ones.
    """

    dataset: Any
    embeddings: Tensor
    rows: Tensor
    codes: Codes | None = None
    way: inference.Way | None = None

    @property
    def searched(self) -> Tensor | Codes:
        """What is compared: the embeddings, or their codes where there are any."""
        return self.embeddings if self.codes is None else self.codes

    def coded(self, coder: Coder | None) -> Embedded:
        """With codes by the coder; as it is where there is none."""
        return self if coder is None else self._replace(codes=coder.encode(self.embeddings))

    @property
    def labels(self) -> Tensor:
        return torch.from_numpy(self.dataset.labels)[self.rows]

    def images(self) -> Collection:
        names, labels = self.dataset.names[self.rows], self.dataset.labels[self.rows]
        return Collection(names, labels, lambda row: self.dataset.thumbnail(int(self.rows[row]), 192))


def embed(network: Any, feed: Feed, run: Settings, device: torch.device, *, largest: int = 0) -> Embedded:
    """Every image of the feed through `network.embed` (`architectures.embedding.EmbeddingNetwork`), as the run
    says: batch size, memory format, precision.

    largest: images of the largest split that is compared with this one; all of them are embedded in the same way.
    """
    layout = torch.channels_last if run.channels_last else torch.contiguous_format
    network.to(device).to(memory_format=layout).eval()
    size = len(feed.dataset)
    batches = feed.evaluation(np.arange(size), run.eval_batch_size)
    title = f"embedding {feed.dataset.split}"
    bar = tqdm(batches, title, -(-size // run.eval_batch_size), disable=None, leave=False)
    number_format = precision.resolve(run.precision, device, network)
    with (
        precision.autocast(number_format, device),
        inference.embedding(network.backbone, images=largest or size, number_format=number_format) as way,
    ):
        embeddings, rows = whole_split.embed_split(network.embed, bar, size)
    way.name = getattr(feed, "way", way.name)
    return Embedded(feed.dataset, embeddings, rows, way=way)


def embed_once(path: Path, network: Any, feed: Feed, run: Settings, device: torch.device, *, refresh: bool) -> Embedded:
    """As `embed`, from `path` where an earlier search left there what the same network made of the same files."""
    dataset = feed.dataset
    flags = ["image_size", "resize_to", "per_image_normalisation", "channels_last"]
    flags += [name for name in ("input_scaling", "interpolation") if name in run]  # not in runs of before
    facts: dict[str, Any] = {name: run[name] for name in flags} | {
        "fingerprint": dataset.fingerprint(),
        "bands": list(dataset.bands),
        "precision": precision.resolve(run.precision, device, network),
        "device": device.type,
        "files": dataset.state(placed=True),
        "skip_broken_images": dataset.skip_broken,
        "way": inference.planned(len(dataset)),
    }
    key = embedding_file.digest(network, dataset.names, facts)
    kept = None if refresh or distributed.world_size() > 1 else embedding_file.load(path, key)
    if kept is not None and not any(map(dataset.readable, set(range(len(dataset))) - set(kept[1].tolist()))):
        print(f"note: embeddings of {embedding_file.date(path)} are used; --refresh embeds the images anew", flush=True)
        return Embedded(dataset, *kept)
    embedded = embed(network, feed, run, device)
    if distributed.is_main():
        embedding_file.save(path, key, embedded.embeddings, embedded.rows)
    return embedded


def rows_in(gallery: Embedded, queries: Embedded) -> Tensor:
    """(Q,) int64: which image of the gallery each query is, by its name; -1 where the gallery, another split, or `all`,
    does not hold it."""
    place = {name: row for row, name in enumerate(gallery.dataset.names[gallery.rows].tolist())}
    return torch.tensor([place.get(name, -1) for name in queries.dataset.names[queries.rows].tolist()])


def sides(queries: Embedded, gallery: Embedded | None) -> dict[str, Any]:
    """Which images were compared, for the protocol."""
    found: dict[str, Any] = {
        "fingerprint": queries.dataset.fingerprint(),
        "label_names": list(queries.dataset.label_names),
        "skipped_images": len(queries.dataset) - len(queries.rows),
    }
    if gallery is not None:
        found["gallery_fingerprint"] = gallery.dataset.fingerprint()
        found["skipped_images"] += len(gallery.dataset) - len(gallery.rows)
    return found
