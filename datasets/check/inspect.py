"""What there is to know about a data set before training on it: counts, broken files, label statistics.

`inspect` opens the three splits, decodes every image and counts; it raises nothing about the data, but lists what is
wrong with it. `datasets/__main__.py` prints and draws the result.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datasets.base import SPLITS, RetrievalDataset
from datasets.batches.workers import Carrying, arriving, as_is
from utilities.errors import DatasetError, WrongFolderError
from utilities.files import ABSENT

BLOCK = 64  # images that a process decodes before it reports


class Inspection(NamedTuple):
    """splits    those that could be opened
    problems  what makes the data set unusable as it is, a line each
    notes     what is worth knowing and no mistake of the files, a line each
    """

    splits: list[RetrievalDataset]
    problems: list[str]
    notes: list[str]


def inspect(open_split: Callable[[str], RetrievalDataset], *, decode: bool, processes: int) -> Inspection:
    """Open, decode and compare the splits. open_split("train") gives one or raises `DatasetError`.

    A `WrongFolderError` goes through: there is nothing to inspect.

    decode     whether to decode every image, and not only look whether it is there
    processes  that decode; 0: this one
    """
    splits: list[RetrievalDataset] = []
    problems: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for split in SPLITS:
            try:
                splits.append(open_split(split))
            except WrongFolderError:
                raise
            except DatasetError as error:
                problems += [str(error), *(f"    {name}" for name in error.names)]
    problems = list(dict.fromkeys(problems))  # the splits often fail for one reason
    notes = list(dict.fromkeys(str(warning.message) for warning in caught))
    problems += in_two_splits(splits)
    notes += about_labels(splits)
    if not decode:
        problems += [line for split in splits for line in absent_files(split)]
    if decode and splits:
        found = decode_all(splits, processes)
        problems += sorted(found.broken) + [f"{name} is empty: no data in any pixel" for name in sorted(found.empty)]
        notes += [f"{name} has one value in all pixels" for name in sorted(found.blank)]
        notes += [f"{share:.1%} of the values of {name} are 0, no data" for name, share in sorted(found.partial)]
    return Inspection(splits, problems, notes)


def absent_files(dataset: RetrievalDataset) -> list[str]:
    """What is not there of the files of a split's images; nothing of an archive, whose pixels are prepared."""
    if dataset.pixels is not None:
        return []
    rows = np.flatnonzero(dataset.file_facts()[:, 0] == ABSENT).tolist()
    return [f"{file} is not there" for row in rows for file in dataset.files(row) if not os.path.exists(file)]


def in_two_splits(splits: Sequence[RetrievalDataset]) -> list[str]:
    """Images of one split that another holds too."""
    found = []
    for i, one in enumerate(splits):
        for other in splits[i + 1 :]:
            shared = np.intersect1d(one.names, other.names)
            if len(shared):
                named = ", ".join(shared[:5].tolist())
                found.append(f"{len(shared):,} images are in {one.split} and in {other.split} ({named})")
    return found


def about_labels(splits: Sequence[RetrievalDataset]) -> list[str]:
    if splits and not splits[0].label_names:
        where = splits[0].source_path
        return [f"the images of {where} carry no labels: they can be searched; --labels_csv names a table of labels"]
    notes = []
    for dataset in splits:
        without = int((~dataset.labels.any(1)).sum())
        if without:
            notes.append(f"{without:,} images of {dataset.split} carry no label: in no training pair, but evaluated")
        elif len(dataset) > 1 and (dataset.labels == dataset.labels[0]).all():
            notes.append(
                f"all {len(dataset):,} images of {dataset.split} carry the same labels: nothing tells them apart"
            )
        counts = dataset.labels.sum(0)
        absent = [name for name, count in zip(dataset.label_names, counts, strict=True) if not count]
        if absent:
            notes.append(f"no image of {dataset.split} carries: {'; '.join(absent)}")
    return notes


# --- decoding -------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """What decoding brought to light.

    broken   messages about images that cannot be decoded
    empty    names of images without any data
    blank    names of images of a single value
    partial  names of images with some "no data", and its share
    """

    broken: list[str]
    empty: list[str]
    blank: list[str]
    partial: list[tuple[str, float]]


class _Reader(Dataset[Found]):
    """Item b reads block b of all images."""

    def __init__(self, splits: Sequence[RetrievalDataset]) -> None:
        self.splits = splits
        self.blocks = [(number, start) for number, split in enumerate(splits) for start in range(0, len(split), BLOCK)]

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, block: int) -> Found:
        number, start = self.blocks[block]
        dataset = self.splits[number]
        found = Found([], [], [], [])
        for row in range(start, min(start + BLOCK, len(dataset))):
            name = str(dataset.names[row])
            try:
                pixels = dataset.read(row)
            except DatasetError as error:
                found.broken.append(str(error))
                continue
            share = dataset.no_data(pixels)
            if share == 1:
                found.empty.append(name)
            elif pixels.min() == pixels.max():
                found.blank.append(name)
            elif share:
                found.partial.append((name, share))
        return found


def decode_all(splits: Sequence[RetrievalDataset], processes: int) -> Found:
    """Decode every image."""
    reader = _Reader(splits)
    blocks = DataLoader(
        Carrying(reader),
        batch_size=None,
        num_workers=min(processes, len(reader)) if len(reader) > 1 else 0,
        collate_fn=as_is,
        in_order=False,
    )
    found = Found([], [], [], [])
    with tqdm(total=sum(map(len, splits)), desc="decoding", unit=" images", unit_scale=True, disable=None) as bar:
        for some in arriving(blocks):
            found = Found(*(kind + more for kind, more in zip(found, some, strict=True)))
            bar.update(BLOCK)
    return found


# --- statistics -----------------------------------------------------------------------------------------------


def labels_per_image(labels: np.ndarray) -> np.ndarray:
    """labels (N, L) bool -> (most + 1,) int64: how many images carry 0, 1, ... labels."""
    return np.bincount(labels.sum(1, dtype=np.int64))


def co_occurrence(labels: np.ndarray) -> np.ndarray:
    """labels (N, L) bool -> (L, L) int64: images that carry label i and label j, of one label on the diagonal."""
    counted = labels.astype(np.float32)  # exact up to 2**24 images
    return (counted.T @ counted).astype(np.int64)


def summary(result: Inspection, name: str) -> dict[str, Any]:
    """The result in plain values: what check.json holds."""
    return {
        "dataset": name,
        "ok": not result.problems,
        "images": sum(map(len, result.splits)),
        "label_names": list(result.splits[0].label_names) if result.splits else [],
        "bands": list(result.splits[0].bands) if result.splits else [],
        "splits": {
            split.split: {
                "images": len(split),
                "fingerprint": split.fingerprint(),
                "mean_labels_per_image": round(float(split.labels.sum(1).mean()), 4),
                "labels_per_image": labels_per_image(split.labels).tolist(),
                "images_per_label": split.labels.sum(0).tolist(),
                "distinct_label_sets": len(np.unique(np.packbits(split.labels, axis=1), axis=0)),
            }
            for split in result.splits
        },
        "problems": result.problems,
        "notes": result.notes,
    }


def text(content: dict[str, Any], *, decoded: bool, most: int = 10) -> str:
    """The summary for a terminal; of problems and notes the first `most`. decoded: whether every image was."""
    lines = [f"{content['dataset']}: {content['images']:,} images, {len(content['label_names'])} labels"]
    for split, values in content["splits"].items():
        lines.append(
            f"  {split:5} {values['images']:>8,} images, {values['mean_labels_per_image']:.2f} labels an image, "
            f"{values['distinct_label_sets']:,} label sets, fingerprint {values['fingerprint'][:16]}"
        )
    for title in ("problems", "notes"):
        found = content[title]
        if found:
            lines += [
                f"{len(found):,} {title if len(found) > 1 else title[:-1]}:",
                *(f"  {line}" for line in found[:most]),
            ]
            if len(found) > most:
                lines.append(f"  ... and {len(found) - most:,} more")
    if not content["problems"]:
        lines.append("nothing is broken" if decoded else "no file is missing (images were not decoded: --quick)")
    return "\n".join(lines)


def sample(splits: Sequence[RetrievalDataset], count: int) -> list[tuple[RetrievalDataset, int]]:
    """(split, row) of images spread evenly over all, in order."""
    places = [(split, row) for split in splits for row in range(len(split))]
    return [places[i] for i in np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).astype(int))]
