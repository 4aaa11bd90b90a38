"""Names and folders of what an evaluation, a search or a comparison leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utilities.flags.settings import Settings
from utilities.neighbours.coders import Coder
from utilities.report import compared
from utilities.runs import checkpoint

EVALUATIONS, SEARCHES = "evaluation_results", "search_results"  # in the folder of a run


def checkpoint_name(args: Settings) -> str:
    """The file that is read."""
    return checkpoint.LAST if args.checkpoint == "last" or args.is_evaluate_initial else checkpoint.BEST


def network_name(args: Settings) -> str:
    return "initial" if args.is_evaluate_initial else args.checkpoint


def split_name(args: Settings) -> str:
    """ "test", or "test in train" where another split is searched."""
    return args.dataset_type + (f" in {args.gallery_split}" if args.gallery_split else "")


def searched_split(args: Settings) -> str:
    """Of --query."""
    return args.gallery_split or args.dataset_type


def what_searches(args: Settings, coder: Coder | None) -> str:
    """ "best network", or "best network, codes itq, 64 bits"."""
    return f"{network_name(args)} network" + (f", codes {coder}" if coder else "")


def results_name(args: Settings, split: str) -> str:
    """Of the folder of results: "best_test_in_train", "best_test_itq64" for those of codes."""
    return _embedded_name(args, split) + (f"_{args.codes}{args.code_bits or ''}" if args.codes else "")


def _embedded_name(args: Settings, split: str) -> str:
    """What was embedded by which network: "best_test", "best_Folder_all" of another archive than the run's."""
    archive = f"_{args.dataset}" if args.dataset else ""
    return f"{network_name(args)}{archive}_{split.replace(' ', '_')}"


def results_folder(run: Path, args: Settings) -> Path:
    return run / EVALUATIONS / results_name(args, split_name(args))


def search_folder(run: Path, args: Settings) -> Path:
    return run / SEARCHES / results_name(args, searched_split(args))


def kept_embeddings(run: Path, args: Settings) -> Path:
    """Where a search leaves the embeddings of the split for the next one, whatever codes are made of them."""
    return run / SEARCHES / _embedded_name(args, searched_split(args)) / "embeddings.npz"


def comparison_folder(runs: Sequence[Path], args: Settings) -> Path:
    default = compared.place(runs) / f"comparison_{results_name(args, split_name(args))}"
    return Path(args.comparison_path or default)
