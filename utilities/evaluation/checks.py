"""What is refused before anything is embedded: folders that are no run, places that cannot be written, other data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utilities.errors import UserError
from utilities.evaluation.places import EVALUATIONS, SEARCHES, checkpoint_name, comparison_folder
from utilities.export.formats import check_export
from utilities.files import check_writable
from utilities.flags.settings import Settings
from utilities.report.comparison import CONTENT
from utilities.runs import checkpoint
from utilities.runs import folder as run_folder
from utilities.training.start import say


def named_runs(given: Sequence[str]) -> list[Path]:
    """The folders of --load_from_checkpoint, without comparisons of before that `RUNS/*` names beside the runs."""
    folders = [Path(folder) for folder in given]
    runs = [folder for folder in folders if not (folder / CONTENT).is_file()]
    if left_out := [str(folder) for folder in folders if folder not in runs]:
        say([f"{', '.join(left_out)}: a comparison and no run, left out"])
    return runs or folders


def check_runs(folders: Sequence[Path], args: Settings) -> None:
    """Raise UserError before hours of work where one of the folders is no run, has no checkpoint or comes twice, and
    where results cannot be written."""
    name = checkpoint_name(args)
    for number, folder in enumerate(folders):
        run_folder.read_args(folder)
        if not checkpoint.present(folder, name):
            other = name == checkpoint.BEST and checkpoint.present(folder)
            instead = ", or evaluate it as it is with --checkpoint last" if other else ""
            raise UserError(f"{folder} has no {name} yet; train on with --load_from_checkpoint {folder}{instead}")
        if folder.resolve() in [other.resolve() for other in folders[:number]]:
            raise UserError(f"--load_from_checkpoint names {folder} twice; give each run once")
        if not args.export:
            check_writable(folder / (SEARCHES if args.query else EVALUATIONS), "results in")
    if args.export:
        check_export(args.export, runs=len(folders), is_search=bool(args.query))
    elif len(folders) > 1 and not args.query:
        check_writable(comparison_folder(folders, args), "--comparison_path")


def check_data(dataset: Any, data: Mapping[str, Any], folder: Path, args: Settings) -> None:
    """The images must be of the kind that the network was trained on, label for label and band for band, and are
    normalised as in training: a folder's own statistics follow the images that it holds now.

    Of another archive (--dataset) as many bands are asked for.
    dataset: `datasets.base.RetrievalDataset`; data: what the run in `folder` was trained on.
    """
    if not (dataset.label_names or args.query or args.get("export")):
        raise UserError(
            f"the images of {dataset.source_path} carry no labels, which every measure compares: give their table with "
            "--labels_csv, or search them with --query"
        )
    if args.dataset and len(dataset.bands) != len(data["bands"]):
        had = " ".join(data["bands"])
        raise UserError(f"{folder} was trained on {had}, and --bands names {' '.join(dataset.bands)}; give as many")
    dataset.mean, dataset.std = tuple(data["mean"]), tuple(data["std"])
    if args.dataset:
        return
    for key, now in (("label_names", list(dataset.label_names)), ("bands", list(dataset.bands))):
        if list(data[key]) != now:
            differing = sorted(set(data[key]) ^ set(now)) or "their order"
            raise UserError(f"{folder} was trained with other {key.replace('_', ' ')} than this data has: {differing}")


def other_data(dataset: Any, data: Mapping[str, Any]) -> list[str]:
    """A note where a split that training saw is not the one that it saw."""
    seen = data.get(f"{dataset.split}_fingerprint", now := dataset.fingerprint())
    return [] if seen == now else [f"{dataset.split} holds other images or labels than when this run was trained"]
