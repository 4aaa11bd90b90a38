"""Check a data set before anyone trains on it, and prepare its pixels.

    python -m datasets UCMerced --source_path DIR [--out DIR] [--use_npmem [--cache_path DIR]]
    python -m datasets BigEarthNet --source_path BigEarthNet-S2-v1.0.tar.gz --use_npmem --cache_path DIR

The second prepares the pixels straight from a published archive, in one pass and without unpacking it. Counts, missing
and broken files by name, label statistics with plots, split sizes, fingerprints and a contact sheet go to the terminal
and to --out. Exit code 1 when something is broken, 2 when something is asked for wrongly.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import parameters
from datasets.base import DATASETS, SPLITS, RetrievalDataset
from datasets.check import figures as check_figures
from datasets.check.inspect import Inspection, co_occurrence, inspect, sample, summary, text
from datasets.mlrsnet import splits as mlrsnet_splits
from datasets.open import folder_of_data, open_archive, open_files
from datasets.prepared.from_files import prepare
from datasets.prepared.stage import usable_cores
from utilities.errors import DatasetError, UserError, WrongFolderError, main_guard
from utilities.files import filling, write_json
from utilities.flags.flag import Flag, build_parser, switch
from utilities.flags.settings import Settings

FLAGS = [
    Flag("source_path", None, "folder of the data set; with --use_npmem also its archive"),
    Flag("out", None, "folder for check.json, check.txt and the pictures; default: dataset_check/<NAME>"),
    switch("quick", "do not decode the images, only look whether they are there"),
    Flag("contact_images", 48, "images on the contact sheet", int),
    switch("use_npmem", "prepare the array that --use_npmem of the training scripts reads"),
    Flag("cache_path", None, "folder for prepared data; default: inside --source_path"),
    switch("write_splits", "MLRSNet: write the stored splits anew from the label files, and nothing else"),
    switch("skip_broken_images", "with --use_npmem: prepare the others when images are broken"),
]


def parse(argv: Sequence[str] | None) -> Settings:
    groups = {"check": FLAGS, "one data set": parameters.DATASET}
    ways, about = ["NAME --source_path DIR [flags]"], "Check a data set, and prepare its pixels."
    parser = build_parser("-m datasets", ways, groups, about)
    parser.add_argument("dataset", choices=DATASETS.names(), help="data set")
    given = parser.given(argv)
    settings = Settings({flag.name: flag.default for flags in groups.values() for flag in flags} | given)
    if settings.source_path is None:
        raise UserError("--source_path DIR is needed: the folder of the data set")
    if settings.contact_images < 1:
        raise UserError(f"--contact_images {settings.contact_images} must be at least 1")
    return settings


def draw(folder: Path, result: Inspection, name: str, images: int) -> None:
    """The four pictures; of images without labels the contact sheet alone."""
    splits = result.splits
    whole = ", ".join(split.split for split in splits)
    if splits[0].label_names:
        draw_labels(folder, result, name, whole)
    pictures = [picture(split, row) for split, row in sample(splits, images)]
    said = f"{name}, {whole}: {len(pictures)} of {sum(map(len, splits)):,} images"
    check_figures.contact_sheet(folder / "contact_sheet.png", pictures, title=said)


def draw_labels(folder: Path, result: Inspection, name: str, whole: str) -> None:
    """The pictures of labels. whole: the splits in words."""
    splits, label_names = result.splits, result.splits[0].label_names
    content = summary(result, name)["splits"]
    check_figures.labels_per_image(
        folder / "labels_per_image.png",
        {split: values["labels_per_image"] for split, values in content.items()},
        title=f"{name}: labels per image",
    )
    check_figures.images_per_label(
        folder / "images_per_label.png",
        {split: values["images_per_label"] for split, values in content.items()},
        label_names,
        title=f"{name}: images per label",
    )
    check_figures.co_occurrence(
        folder / "co_occurrence.png",
        co_occurrence(np.concatenate([split.labels for split in splits])),
        label_names,
        title=f"{name}, {whole}: labels that come together",
    )


def picture(split: RetrievalDataset, row: int) -> check_figures.Picture:
    labels = [label for label, carried in zip(split.label_names, split.labels[row], strict=True) if carried]
    try:
        pixels = split.thumbnail(row, 192)
    except DatasetError:  # named among the problems
        pixels = None
    return check_figures.Picture(pixels, str(split.names[row]), labels)


def look_at(args: Settings) -> Inspection:
    """The inspection; of a data set in an archive, after the one pass that prepares it."""
    try:
        open_archive(args)
    except WrongFolderError:
        raise
    except DatasetError as error:
        return Inspection([], [str(error), *(f"    {name}" for name in error.names)], [])
    return inspect(lambda split: open_files(args, split), decode=not args.quick, processes=usable_cores())


def result_folder(args: Settings) -> Path:
    """Where the results will go. A place that cannot be written is a `UserError` before the images are decoded.

    It is tried, since permissions tell nothing to root, and left as it was: where the data set is refused, nothing is
    to be written.
    """
    folder = Path(args.out or f"dataset_check/{args.dataset}")
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"--out {folder} cannot be written ({error.strerror}); give another folder") from error
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # it was not made after all, or another check has begun to use it
                path.rmdir()
    return folder


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    if args.dataset != "Demo" and not Path(args.source_path).exists():  # the demo is generated
        raise UserError(f"--source_path {args.source_path} is not there; give the folder of {args.dataset}")
    if args.write_splits:
        if args.dataset != "MLRSNet":
            raise UserError(f"--write_splits is for MLRSNet; {args.dataset} has no splits that are made from labels")
        mlrsnet_splits.write_stored(folder_of_data(args))
        print(f"written to {mlrsnet_splits.STORED}")
        return
    folder = result_folder(args)
    result = look_at(args)
    content = summary(result, args.dataset)
    with filling(folder) as fresh:
        write_json(fresh / "check.json", content)
        whole = text(content, decoded=not args.quick, most=sys.maxsize)
        (fresh / "check.txt").write_text(f"{whole}\n", encoding="utf-8")
        if result.splits:
            draw(fresh, result, args.dataset, args.contact_images)
    print(f"{text(content, decoded=not args.quick)}\nwritten to {folder}")
    if args.use_npmem and len(result.splits) == len(SPLITS) and (not result.problems or args.skip_broken_images):
        prepare(result.splits, args.cache_path, processes=usable_cores(), skip_broken=args.skip_broken_images)
    if result.problems:
        sys.exit(1)


if __name__ == "__main__":
    main()
