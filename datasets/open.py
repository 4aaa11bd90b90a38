"""From flags to the loaders of a run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch

from datasets.base import ALL, DATASETS, SPLITS, Packed, RetrievalDataset
from datasets.batches.loaders import Loader
from datasets.batches.scaling import find_scaling
from datasets.batches.transforms import Augmentation, DeviceTransform
from datasets.bigearthnet.dataset import parse_bands
from datasets.features.feed import FeatureFeed
from datasets.features.files import FeatureFiles
from datasets.files.tar import SUFFIXES, find_archive
from datasets.folder.dataset import Folder
from datasets.patches import PatchArchive, holds_patches
from datasets.place import folder_of, naming_both
from datasets.prepared.archive_layout import ARCHIVES
from datasets.prepared.array import open_prepared, prepared_folder
from datasets.prepared.from_archive import open_packed, prepare_archive
from datasets.prepared.from_files import prepare
from datasets.prepared.stage import refuse_broken, usable_cores
from datasets.whole import Whole
from utilities.errors import UserError
from utilities.flags.settings import Settings
from utilities.parallel import distributed


class TrainingData(NamedTuple):
    """Loaders of a training run and a description of its data in plain values. test: with --eval_test alone."""

    train: Loader | FeatureFeed
    val: Loader | FeatureFeed
    description: dict[str, Any]
    test: Loader | FeatureFeed | None = None

    def of_features(self, network: Any, args: Settings, parent: Path) -> TrainingData:
        """The same splits as features of the network's frozen backbone, --stored_views looks at each training image.

        They are kept in --cache_path, or in `stored_features` inside `parent`, for every later run of the same.
        """
        views = {"train": args.stored_views, "val": 0, "test": 0}
        loaders = {name: getattr(self, name) for name in views if isinstance(getattr(self, name), Loader)}
        feeds: dict[str, Any] = {
            name: stored_feed(loader, network, args, parent, views[name]) for name, loader in loaders.items()
        }
        return self._replace(**feeds)


def stored_feed(loader: Loader, network: Any, args: Settings, parent: Path, views: int) -> FeatureFeed:
    """A split as features of the network's frozen backbone, kept in --cache_path or in `parent`/stored_features."""
    place = Path(args.cache_path or parent) / "stored_features"
    return FeatureFeed(FeatureFiles(place, network.backbone, loader, features=network.features, args=args), views)


def open_split(args: Settings, split: str) -> RetrievalDataset:
    """One split, or ALL, of the data set that the flags name. Raises UserError when it is not what it should be."""
    if split == ALL and not issubclass(DATASETS[args.dataset], Folder):  # which opens all at once
        return Whole([open_split(args, part) for part in SPLITS])
    dataset = open_files(args, split)
    if args.use_npmem:
        attach_prepared(args, dataset)
    refuse_known_broken(dataset)
    return dataset


def open_files(args: Settings, split: str) -> RetrievalDataset:
    """One split that reads its images from their own files, also with --use_npmem; an archive's are prepared first."""
    if args.get("patches"):
        return open_patches(args, split)
    packed = open_archive(args)
    new = not args.get("load_from_checkpoint")  # a saved run's demo exists: elsewhere it is a mistyped path
    wiring = {"source_path": folder_of_data(args), "packed": packed, "generate": new, "boa_offset": _boa_offset(args)}
    wiring["split_rule"] = args.get("ucmerced_split", "hashed")  # which runs of before do not record
    with naming_both(Path(args.source_path), args.dataset, _marks(args)):
        dataset = DATASETS.build(args.dataset, args, split=split, **wiring)
    dataset.skip_broken = args.skip_broken_images
    if packed is not None:
        dataset.pixels = open_prepared(dataset, packed.folder.parent)
        dataset.note_prepared()
    return dataset


def open_patches(args: Settings, split: str) -> PatchArchive:
    """Patches without label files, in the place of a BigEarthNet run's own."""
    wiring = {"bands": args.folder_bands.split(","), "labels_csv": args.folder_labels_csv}
    dataset = PatchArchive(source_path=Path(args.source_path), split=split, boa_offset=_boa_offset(args), **wiring)
    dataset.skip_broken = args.skip_broken_images
    return dataset


def open_archive(args: Settings) -> Packed | None:
    """The images of a data set that lies in an archive, prepared where they are not yet; None where it is unpacked.

    --source_path is the archive, or the folder that holds it. Once prepared, the archive itself may be gone.
    """
    source = _source(args)
    if args.dataset not in ARCHIVES.names():
        return None
    layout = ARCHIVES.build(args.dataset, args, source_path=folder_of_data(args), boa_offset=_boa_offset(args))
    if not layout.source_path.exists() or (source.is_dir() and layout.is_unpacked()):
        return None
    archive = find_archive(source, layout.pattern)
    folder = prepared_folder(layout, args.cache_path)
    if archive is None:
        return open_packed(folder, None) if folder.exists() else None
    if not args.use_npmem:
        raise UserError(
            f"the images of {args.dataset} lie in {archive}: give --use_npmem, which prepares them in one pass without "
            "unpacking, or unpack the archive and give its folder as --source_path"
        )
    prepare_archive(layout, archive, args.cache_path, processes=usable_cores(), skip_broken=args.skip_broken_images)
    packed = open_packed(folder, archive)
    if packed is None:
        raise UserError(
            f"{folder} was prepared from unpacked files, whose labels {archive.parent} does not hold: give another "
            "--cache_path, or delete it to prepare it from the archive"
        )
    return packed


def _source(args: Settings) -> Path:
    """--source_path, or the folder of the data set in it."""
    return folder_of(Path(args.source_path), args.dataset, _marks(args))


def _marks(args: Settings) -> tuple[str, ...]:
    """What tells the folder of the data set from the one above: an archive only where it would be read."""
    kind = DATASETS[args.dataset]
    return (*kind.marks, *(kind.archives if args.use_npmem else ()))


def folder_of_data(args: Settings) -> Path:
    """The folder of the data set that --source_path means, or in which the archive lies, or lay, that it names."""
    source = _source(args)
    named = source.name.lower().endswith(SUFFIXES) and not source.is_dir()
    return source.parent if (named or source.is_file()) and args.dataset in ARCHIVES.names() else source


def other_archive(run: Settings, given: Settings) -> Settings:
    """Settings of a run for a search of another archive: the `Folder` that an evaluation names.

    Its bands are those of the run unless --bands says how they are called there; images are read at --resize_to. A
    network of BigEarthNet reads folders of patches as it reads its own.
    """
    own = {name: given[name] for name in given if name.startswith("folder_")}
    if own["folder_bands"] is None:
        sentinel = run.dataset == "BigEarthNet"
        own["folder_bands"] = ",".join(parse_bands(run.ben_bands)) if sentinel else run.get("folder_bands", "rgb")
    own["folder_side"] = run.resize_to
    other = Settings({**run, **own, "dataset": given.dataset, "use_npmem": False})
    as_its_own = run.dataset == "BigEarthNet" and (given.folder_bands, given.folder_band_scale) == (None, None)
    bands = own["folder_bands"].split(",")
    return Settings({**other, "patches": as_its_own and holds_patches(Path(run.source_path), bands)})


def _boa_offset(args: Settings) -> int:
    return args.get("boa_offset") or 0  # runs of before there was one know none


def attach_prepared(args: Settings, *opened: RetrievalDataset) -> None:
    """Let the splits read from the prepared array, after preparing it where it is not there yet."""
    folder = prepared_folder(opened[0], args.cache_path)
    if not folder.exists():
        at_hand = {dataset.split: dataset for dataset in opened}
        splits = [at_hand.get(split) or open_files(args, split) for split in SPLITS]
        prepare(splits, args.cache_path, processes=usable_cores(), skip_broken=args.skip_broken_images)
    for dataset in opened:
        dataset.pixels = open_prepared(dataset, folder)


def refuse_known_broken(*opened: RetrievalDataset) -> None:
    """Raise `DatasetError` at once about images of the splits that could not be decoded when the array was prepared.

    Otherwise the first that is drawn would end a run that may have been training for hours.
    """
    for dataset in opened:
        if dataset.pixels is not None and not dataset.skip_broken:
            names = dataset.names[dataset.pixels.broken].tolist()
            remedy = f"Mend them and delete {dataset.pixels.folder} to prepare it again"
            refuse_broken([(name, name) for name in names], remedy)


def open_loader(args: Settings, dataset: RetrievalDataset, device: torch.device) -> Loader:
    """The loader of one split with its device-side transform. --color_jitter is for photographs: else it is 0."""
    small_resize = round(args.resize_to * args.small_image_size / args.image_size)
    whole, small = (
        DeviceTransform(
            band_sides=dataset.band_sides,
            image_size=image_size,
            resize_to=resize_to,
            scaling=find_scaling(args, dataset),
            interpolation=args.get("interpolation", "bilinear"),
            per_image=args.per_image_normalisation,
            memory_format=torch.channels_last if args.channels_last else torch.contiguous_format,
            device=device,
        )
        for image_size, resize_to in ((args.image_size, args.resize_to), (args.small_image_size, small_resize))
    )
    return Loader(
        dataset,
        whole,
        augmentation=Augmentation(
            args.crop_area,
            flips=not args.no_flips,
            jitter=args.color_jitter if dataset.is_photograph else 0.0,
        ),
        device=device,
        num_workers=args.num_workers,
        small=(args.small_epochs, small),
    )


def refuse_alike(train: RetrievalDataset) -> None:
    """Raise UserError where labels tell no two images of the training split apart."""
    if not train.labels.any():
        raise UserError(
            f"none of the {len(train):,} images of the train split carries a label: nothing says "
            "which of them are alike. Check the label files (python -m datasets)"
        )
    if (train.labels == train.labels[0]).all():
        carried = ", ".join(name for name, has in zip(train.label_names, train.labels[0], strict=True) if has)
        raise UserError(
            f"all {len(train):,} images of the train split carry the same labels ({carried}): nothing tells them "
            "apart. Check the label files (python -m datasets)"
        )


def open_data(args: Settings, device: torch.device) -> TrainingData:
    """Train and val of the run. The main process opens them first: it may have to generate them."""
    if args.use_npmem:
        open_archive(args)  # may take hours: the processes wait for each other by a lock, which knows no time-out
    if not distributed.is_main():
        distributed.barrier()
    opened = [open_files(args, split) for split in SPLITS if split != "test" or args.eval_test]
    if distributed.is_main():
        distributed.barrier()
    if args.use_npmem:  # hours and a lock, likewise
        attach_prepared(args, *opened)
    refuse_known_broken(*opened)
    refuse_unfit(args, *opened)
    loaders = [open_loader(args, dataset, device) for dataset in opened]
    return TrainingData(loaders[0], loaders[1], describe(args, *opened[:2]), *loaders[2:])


def refuse_unfit(args: Settings, train: RetrievalDataset, *scored: RetrievalDataset) -> None:
    """Raise UserError where a method cannot learn from the train split, or one of those scored has nothing to find."""
    if not train.label_names:
        raise UserError(
            f"the images of {train.source_path} carry no labels, from which every method learns: give their table with "
            "--labels_csv"
        )
    whole = args.batch_size * distributed.world_size()
    if args.nb_epochs and whole > len(train):
        raise UserError(
            f"--batch_size {args.batch_size} x {distributed.world_size()} processes is more than the "
            f"{len(train)} images of the train split of {args.dataset}; lower --batch_size"
        )
    refuse_alike(train)
    for split in scored:
        if len(split) < 2:
            raise UserError(
                f"the {split.split} split of {args.dataset} has {len(split)} images; retrieval needs at least two"
            )
    if args.color_jitter and not train.is_photograph and distributed.is_main():  # no error: presets set it
        warnings.warn(
            f"--color_jitter {args.color_jitter} is for 8-bit RGB images and does nothing on {args.dataset}, whose "
            f"pixels are {train.dtype.name} of the bands {' '.join(train.bands)}",
            stacklevel=3,
        )


def describe(args: Settings, train: RetrievalDataset, val: RetrievalDataset) -> dict[str, Any]:
    """The data of a run in plain values: what its checkpoints keep of them."""
    scaling = find_scaling(args, train)
    return {
        "dataset": args.dataset,
        "label_names": list(train.label_names),
        "bands": list(train.bands),
        "train_fingerprint": train.fingerprint(),
        "val_fingerprint": val.fingerprint(),
        "train_files": train.state() if distributed.is_main() else None,
        "val_files": val.state() if distributed.is_main() else None,
        "train_images": len(train),
        "val_images": len(val),
        "images_without_label": int((~train.labels.any(1)).sum()),
        "input_scaling": args.input_scaling,
        "mean": [float(x) for x in scaling.mean],
        "std": [float(x) for x in scaling.std],
        "low": scaling.low and list(scaling.low),
        "high": scaling.high and list(scaling.high),
        "interpolation": args.interpolation,
        "image_size": args.image_size,
        "resize_to": args.resize_to,
        "per_image_normalisation": args.per_image_normalisation,
    }
