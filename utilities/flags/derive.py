"""Defaults that follow from the data set, from `--weights` and from the length of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from utilities.flags.flag import AUTO

STORED_VIEWS = 8  # docs/performance.md has what fewer cost


def derive(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace every AUTO by what follows from the data set and from `--weights`."""
    settings = dict(values)
    dataset = settings["dataset"]
    sentinel = dataset == "BigEarthNet"

    def default(name: str, value: Any) -> None:
        if settings.get(name) == AUTO:
            settings[name] = value

    default("weights", "none" if dataset == "Demo" else "imagenet")
    scratch = settings["weights"] == "none"
    default("image_size", {"BigEarthNet": 100, "Demo": 64}.get(dataset, 224))
    default("resize_to", round(settings["image_size"] * (6 / 5 if sentinel else 8 / 7)))
    default("small_image_size", max(2, settings["image_size"] // 2))
    default("freeze_batch_norm", not scratch)
    default("stored_views", _stored_views(settings))
    default("optim", "adamw" if scratch else "adam")
    default("lr", 1e-3 if scratch else 1e-5)
    default("backbone_lr", settings["lr"])
    default("weight_decay", 0.05 if scratch else 4e-4)
    default("scheduler", "onecycle" if scratch else "step")
    _derive_of_method(settings, default)
    settings["channels_last"] = not settings["contiguous"]
    settings["wandb_mode"] = "offline" if settings["wandb_dryrun"] else "online" if settings["log_online"] else None
    return settings


def _stored_views(settings: Mapping[str, Any]) -> int:
    """No more views than an image has epochs, but a second one where a method takes two."""
    if not settings["frozen"] or settings["small_epochs"] or not settings["nb_epochs"]:
        return 0
    return max(min(STORED_VIEWS, settings["nb_epochs"]), 2 if settings["method"] == "diva" else 1)


def _derive_of_method(settings: Mapping[str, Any], default: Callable[[str, Any], None]) -> None:
    for method in ("diva", "bier"):
        default(f"{method}_adversarial_lr", settings["backbone_lr"])
    epochs = settings["nb_epochs"]
    if settings["method"] == "dac":
        default("dac_finetune_epoch", max(0, min(round(0.95 * epochs), epochs - 1)))
        split = settings["dac_finetune_epoch"]
        default("dac_merge_epoch", -(-8 * split // 19) if settings["dac_preset"] == "authors" else split)
    if settings["method"] == "sndl":
        default("sndl_momentum_epochs", _momentum_epochs(len(settings["sndl_momenta"]), epochs))


def _momentum_epochs(stages: int, epochs: int) -> list[int]:
    """First epochs of all stages but the first: three as released, others of equal length."""
    shares = [8 / 13, 12 / 13] if stages == 3 else [stage / stages for stage in range(1, stages)]
    starts: list[int] = []
    for share in shares:
        starts.append(max(round(share * epochs), starts[-1] + 1 if starts else 1))
    return starts
