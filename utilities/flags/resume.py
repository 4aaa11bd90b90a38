"""Flags that a saved run brings along: where it goes on, and where it is evaluated."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from utilities.errors import UserError
from utilities.flags import recorded as recorded_flags
from utilities.flags.derive import derive
from utilities.flags.flag import AUTO, Flag, spelled
from utilities.flags.settings import Settings
from utilities.runs import checkpoint
from utilities.runs import folder as run_folder

TRANSIENT = ("log_online", "wandb_dryrun", "gpu_ids")  # asked for anew at every part of a run
UNUSED = ("save_path", "savename", "wandb_mode")  # where a run was begun; what follows from resumable ones
# what runs did that were begun before there was such a flag
BEFORE = {"stored_views": 0, "margin_counted": "terms", "decay_kernels_only": False}
# Epochs that follow from --nb_epochs where they are not given.
EPOCHS_OF_RUN = ("dac_finetune_epoch", "dac_merge_epoch", "sndl_momentum_epochs")


def going_on(
    method: str, folder: Path, given: Mapping[str, Any], flags: Iterable[Flag], resumable: Collection[str]
) -> dict[str, Any]:
    """The run's own flags under those of the command line, of which only the resumable ones may differ."""
    trained_by = run_folder.read_args(folder)["method"]
    if trained_by != method:
        raise UserError(f"{folder} is a run of train_{trained_by}.py; resume it with that script")
    recorded = recorded_flags.read(folder, flags, {*resumable, *UNUSED})
    if checkpoint.present(folder, checkpoint.BEST) and not checkpoint.present(folder):
        raise UserError(
            f"{folder} has a {checkpoint.BEST} and no {checkpoint.LAST}, from which alone training goes on: put that "
            f"back or start a new run (evaluate_model.py needs {checkpoint.BEST} only)"
        )
    changed = [n for n, v in given.items() if n not in resumable and n in recorded and recorded[n] != v]
    if changed:
        differing = "; ".join(f"--{n} {spelled(recorded[n])}, not {spelled(given[n])}" for n in changed)
        raise UserError(
            f"a resumed run keeps its flags, and {folder} has {differing}: leave them out "
            f"(only {', '.join(sorted(resumable))} may differ) or start a new run"
        )
    return BEFORE | {name: value for name, value in recorded.items() if name not in TRANSIENT} | dict(given)


def initial_weights(settings: Mapping[str, Any]) -> str:
    """--weights, or "none" where a checkpoint is there, which holds every tensor."""
    folder = settings["load_from_checkpoint"]
    return "none" if folder and checkpoint.present(Path(folder)) else settings["weights"]


def kept_epochs(settings: Mapping[str, Any]) -> Iterator[str]:
    """Which epochs a resumed run derived from its first --nb_epochs and keeps, though it is another now."""
    if not settings["load_from_checkpoint"]:
        return
    recorded, epochs = run_folder.read_args(Path(settings["load_from_checkpoint"])), settings["nb_epochs"]
    names = [name for name in EPOCHS_OF_RUN if name in recorded]
    was, now = (
        derive({**recorded, **dict.fromkeys(names, AUTO), "nb_epochs": whole})
        for whole in (recorded["nb_epochs"], epochs)
    )
    for name in names:
        if recorded[name] == was[name] != now[name]:
            new = f"a new run of {epochs} epochs would have {spelled(now[name])}"
            yield f"--{name} stays {spelled(recorded[name])}; {new}"


def evaluated(
    folder: Path, evaluation: Settings, changeable: Collection[str], flags: Iterable[Flag], resumable: Collection[str]
) -> Settings:
    """Flags of a saved run with the changeable ones as its evaluation gives them; a switch can only be added."""
    recorded = recorded_flags.read(folder, flags, {*resumable, *UNUSED})
    changed = {name: evaluation[name] for name in changeable if evaluation[name] is not None}
    changed["skip_broken_images"] = evaluation["skip_broken_images"] or recorded.get("skip_broken_images", False)
    return Settings(recorded | changed | {"load_from_checkpoint": str(folder)})
