"""Flags that cannot go together, each message naming both, and places that cannot be written."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utilities.errors import UserError
from utilities.files import check_writable
from utilities.flags import of_cv4rs


def check(settings: Mapping[str, Any], presets: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UserError for what cannot work. presets: name -> what it sets, of the method."""
    if settings["small_epochs"] > settings["nb_epochs"]:
        raise UserError(f"--small_epochs {settings['small_epochs']} is more than --nb_epochs {settings['nb_epochs']}")
    if settings["small_epochs"] and settings["small_image_size"] > settings["image_size"]:
        raise UserError(
            f"--small_image_size {settings['small_image_size']} is larger than --image_size {settings['image_size']}"
        )
    _check_stored_views(settings)
    if settings["resize_to"] < settings["image_size"]:
        raise UserError(f"--resize_to {settings['resize_to']} is smaller than --image_size {settings['image_size']}")
    balanced = settings["method"] != "sndl" and settings.get("baseline_batches") != "shuffled"
    if balanced and settings["batch_size"] % settings["num_samples_per_class"]:
        raise UserError(_no_multiple(settings, presets))
    area = settings["crop_area"]
    if area is not None and not 0 < area[0] <= area[1] <= 1:
        raise UserError(f"--crop_area {area[0]} {area[1]} must be two shares with 0 < LOW <= HIGH <= 1")
    if not 0 <= settings.get("negative_threshold", 0) < settings.get("positive_threshold", 1) <= 1:
        raise UserError(
            f"--negative_threshold {settings['negative_threshold']} and --positive_threshold "
            f"{settings['positive_threshold']} must satisfy 0 <= negative < positive <= 1"
        )
    if settings["per_image_normalisation"] and settings["input_scaling"] != "dataset":
        raise UserError(
            f"--per_image_normalisation and --input_scaling {settings['input_scaling']} are two ways to scale pixels; "
            "give one"
        )
    if settings["head"] == "none" and settings["nb_epochs"]:
        other = "start a new run without --head" if settings["load_from_checkpoint"] else "leave out --head"
        raise UserError(
            f"--head none searches by the backbone's features, and every method trains a head: give --nb_epochs 0, not "
            f"{settings['nb_epochs']}, or {other}"
        )
    _check_parts(settings)
    _check_folder(settings)


def _check_stored_views(settings: Mapping[str, Any]) -> None:
    views = settings["stored_views"]
    if views and not settings["frozen"]:
        raise UserError(
            f"--stored_views {views} are features of a backbone that does not change; give --frozen as well"
        )
    if views and settings["small_epochs"]:
        raise UserError(
            f"--stored_views {views} are of one size; leave out --small_epochs {settings['small_epochs']} or give "
            "--stored_views 0"
        )
    if views == 1 and settings["method"] == "diva":
        raise UserError("--stored_views 1 leaves DiVA no second view of an image; give 2 or more, or 0")


def _check_folder(settings: Mapping[str, Any]) -> None:
    """A run folder can be made, or written to where it is there."""
    name = settings["savename"]
    if not name or set(name) & {"/", "\0"} or name.startswith(".") or len(os.fsencode(name)) > 200:
        raise UserError(
            f"--savename {name[:60]!r} names one folder: not empty, no '/', no leading '.', at most 200 bytes"
        )
    if settings["load_from_checkpoint"]:
        check_writable(Path(settings["load_from_checkpoint"]), "--load_from_checkpoint")
    else:
        check_writable(Path(settings["save_path"]) / settings["dataset"], "--save_path")


def _no_multiple(settings: Mapping[str, Any], presets: Mapping[str, Mapping[str, Any]]) -> str:
    size, images, method = settings["batch_size"], settings["num_samples_per_class"], settings["method"]
    chosen = settings.get(f"{method}_preset")
    preset = presets[chosen].get("num_samples_per_class") if chosen else None
    source = f" (of --{method}_preset {chosen})" if images == preset else ""
    nearest = [str(size - size % images + more) for more in (0, images) if size - size % images + more]
    return (
        f"--batch_size {size} is no multiple of --num_samples_per_class {images}{source}; a balanced batch holds whole "
        f"classes: give {' or '.join(nearest)}"
    )


def _check_parts(settings: Mapping[str, Any]) -> None:
    """What divides the embedding must fit its width."""
    method, width = settings["method"], settings["sz_embedding"]
    parts = {"diva": 4, "dac": settings.get("dac_nb_clusters", 1)}.get(method, 1)
    if width % parts:
        what = "the four heads of DiVA" if method == "diva" else f"--dac_nb_clusters {parts} slices"
        raise UserError(f"--sz_embedding {width} cannot be divided equally among {what}; give a multiple")
    if not any(settings.get("diva_head_weights", [1])):
        raise UserError("--diva_head_weights are all 0: no head is left to search by; give one at least a weight")
    sizes = settings.get("bier_sizes")
    if sizes and (sum(sizes) != width or min(sizes) < 1):
        raise UserError(
            f"--bier_sizes {' '.join(map(str, sizes))} add up to {sum(sizes)}, not to --sz_embedding {width}; change "
            "one"
        )
    if settings.get("bier_norm_reduction") == "sum" and settings["bier_lambda_weight"] >= of_cv4rs.LARGEST_SUM:
        raise UserError(
            f"--bier_lambda_weight {settings['bier_lambda_weight']:g} is meant for a penalty that is a mean over "
            "dimensions, as in CV4RS; here it is a sum: add --bier_norm_reduction mean, or give 100, which is as strong"
        )
    if method == "dac" and settings["nb_epochs"]:
        _check_phases(settings["dac_merge_epoch"], settings["dac_finetune_epoch"], settings["nb_epochs"])


def _check_phases(merge: int, finetune: int, epochs: int) -> None:
    if not 0 <= merge <= finetune:
        raise UserError(f"--dac_merge_epoch {merge} must lie between 0 and --dac_finetune_epoch {finetune}")
    if merge == 0:
        warnings.warn(
            f"--dac_merge_epoch 0 (of --nb_epochs {epochs}): the whole embedding is trained from the first epoch on, "
            "and nothing is divided",
            stacklevel=2,
        )
    if finetune >= epochs:
        warnings.warn(
            f"--dac_finetune_epoch {finetune} is not below --nb_epochs {epochs}: no epoch trains the whole embedding "
            "on all data, as divide and conquer ends; lower it, or leave it out for 95 % of the run",
            stacklevel=2,
        )
