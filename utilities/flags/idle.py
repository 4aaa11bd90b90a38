"""Flags that do nothing beside the others: noted where they were given, as somebody expects something of them."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from utilities.flags.flag import spelled
from utilities.flags.registry import Registry

OF_DATASET = {
    "demo_": "Demo",
    "mlrsnet_": "MLRSNet",
    "ben_": "BigEarthNet",
    "ucmerced_": "UCMerced",
    "folder_": "Folder",
}
_PAIRS = ("label_relation", "positive_threshold", "negative_threshold")
_PICTURES = ("retrieval_queries", "retrieval_files", "is_plot_dist", "map_method")
_SCORING = ("eval_metric", "protocol", "relevance", "scores_only", *_PICTURES)


def in_training(
    settings: Mapping[str, Any], *, miners: Registry[Any], criteria: Registry[Any], unmined: Collection[str]
) -> Iterator[tuple[str, str]]:
    """(flag, where): flags that reach nothing in a run with these settings, and what makes them so.

    unmined: the losses of --baseline_loss that take all pairs of a batch instead of triplets.
    """
    for prefix, dataset in OF_DATASET.items():
        if settings["dataset"] != dataset:
            yield from _each([name for name in settings if name.startswith(prefix)], settings, "dataset")
    if settings["dataset"] not in ("BigEarthNet", "Folder"):
        yield from _each(["boa_offset"], settings, "dataset")
    elif not of_digital_numbers(settings):
        scaled = settings["folder_band_scale"] is not None
        yield from _each(["boa_offset"], settings, "folder_band_scale" if scaled else "folder_bands")
    if settings["dataset"] == "BigEarthNet":
        yield from _each(["color_jitter"], settings, "dataset")
    if settings["small_epochs"] == 0:
        yield from _each(["small_image_size"], settings, "small_epochs")
    if settings["optim"] != "sgd":
        yield from _each(["momentum"], settings, "optim")
    if settings["scheduler"] != "step":
        yield from _each(["tau"] if settings["scheduler"] == "exp" else ["tau", "gamma"], settings, "scheduler")
    if settings["frozen"]:
        yield from _each(["freeze_batch_norm"], settings, "frozen")
        if settings["method"] not in ("diva", "bier"):  # whose regressors follow it
            yield from _each(["backbone_lr"], settings, "frozen")
    if not settings.get("margin_learn_beta", True):
        yield from _each(["criterion_lr"], settings, "margin_learn_beta")
    if settings["relevance"] != "jaccard":
        yield from _each(["relevance_threshold"], settings, "relevance")
    if settings.get("label_relation", "jaccard") != "jaccard":
        yield from _each(["positive_threshold", "negative_threshold"], settings, "label_relation")
    if settings["method"] == "baseline":
        yield from _of_baseline(settings, criteria, unmined)
    if settings["method"] == "bier":
        yield from _of_bier(settings)
    if settings["method"] == "sndl":
        yield "num_samples_per_class", "in SNDL, which shuffles plainly"
    choosers = [name for name in settings if name.endswith("_miner")]
    used = [settings[name] for name in choosers] + ["intra_random"] * (settings["method"] == "diva")
    for flag in _of_others(miners, used):
        yield from _each([flag], settings, *choosers)
    mined = choosers and settings.get("baseline_loss") not in unmined
    if mined and not any("relation" in miners.parameters(name) for name in used):
        yield from _each(_PAIRS, settings, *choosers)


def in_evaluation(values: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """As `in_training`, of evaluate_model.py. runs: the flags that its runs recorded."""
    if runs:
        yield from _of_runs(values, runs)
    if values["query"]:
        yield from ((name, "with --query") for name in (*_SCORING, "comparison_path"))
    else:
        yield from ((name, "without --query") for name in ("top", "refresh", "query_bands"))
        if len(values["load_from_checkpoint"]) == 1:
            yield "comparison_path", "with one run"
    if values["export"]:
        yield from ((name, "with --export") for name in ("codes", "gallery_split", "backend", *_SCORING))
    if values["scores_only"]:
        yield from ((name, "with --scores_only") for name in _PICTURES)
    if not values["dataset"]:
        drawn = ("folder_bands", "folder_band_scale", "folder_proportions", "folder_seed")
        yield from ((name, "without --dataset") for name in drawn)
    if values["codes"]:
        yield from ((name, "with --codes") for name in ("backend", "is_plot_dist"))
    else:
        yield "code_bits", "without --codes"
    if values["codes"] not in ("itq", "lsh"):
        yield "code_seed", f"with --codes {values['codes']}" if values["codes"] else "without --codes"
    if values["is_evaluate_initial"]:
        yield "checkpoint", "with --is_evaluate_initial"
    if values["relevance"] != "jaccard":
        yield "relevance_threshold", f"with --relevance {values['relevance']}"


def _of_runs(values: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """What none of the runs reads, nor the archive that --dataset names for them."""
    kinds = list(dict.fromkeys(run["dataset"] for run in runs))
    of_runs = f"for a run of {kinds[0]}" if len(runs) == 1 else f"for runs of {', '.join(kinds)}"
    if values["dataset"]:
        yield from ((name, "with --dataset") for name in ("ben_splits", "ben_index_path"))
    elif "BigEarthNet" not in kinds:
        yield from ((name, of_runs) for name in ("ben_splits", "ben_index_path", "query_bands"))
    if not values["dataset"] and "Folder" not in kinds:
        yield "folder_labels_csv", "without --dataset"
    read_as = ("folder_bands", "folder_band_scale") if values["folder_bands"] else ("folder_band_scale",)
    given = {name: values[name] for name in read_as} if values["dataset"] else {}
    if not any(of_digital_numbers({**run, **given}) for run in runs):
        yield "boa_offset", f"{of_runs}, which reads no digital numbers of Sentinel-2"


def of_digital_numbers(run: Mapping[str, Any]) -> bool:
    """Whether images are bands as a sensor stores them, not photographs or scaled: --boa_offset is taken off these."""
    if run.get("folder_band_scale") is not None:
        return False
    return run["dataset"] == "BigEarthNet" or run.get("folder_bands", "rgb") not in ("rgb", "R,G,B")


def notes(given: Container[str], idle: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A sentence for each reason why flags that were given do nothing. idle: (flag, where)."""
    named: dict[str, list[str]] = {}
    for flag, where in dict(idle).items():
        if flag in given:
            named.setdefault(where, []).append(f"--{flag}")
    for where, flags in named.items():
        yield f"{', '.join(flags)} without effect {where}"


def _of_baseline(
    settings: Mapping[str, Any], criteria: Registry[Any], unmined: Collection[str]
) -> Iterator[tuple[str, str]]:
    if settings["baseline_batches"] == "shuffled":
        yield from _each(["num_samples_per_class"], settings, "baseline_batches")
    yield from _each(_of_others(criteria, [settings["baseline_loss"]]), settings, "baseline_loss")
    if settings["baseline_loss"] != "margin":
        yield from _each(["criterion_lr"], settings, "baseline_loss")
    if settings["baseline_loss"] in unmined:
        yield from _each(["baseline_batch_miner"], settings, "baseline_loss")
        if "relation" not in criteria.parameters(settings["baseline_loss"]):
            yield from _each(_PAIRS, settings, "baseline_loss")


def _of_bier(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if settings["bier_boosting"] != "additive":
        yield from _each(["bier_shrinkage"], settings, "bier_boosting")
    if settings["bier_prefit_steps"] == 0:
        yield from _each(["bier_prefit_lr"], settings, "bier_prefit_steps")
    if settings["bier_sizes"]:
        yield from _each(["bier_groups"], settings, "bier_sizes")


def _of_others(registry: Registry[Any], used: Sequence[str]) -> list[str]:
    """Flags that feed classes of the registry, but none of those that are used."""
    feeding = {flag for name in used for flag in registry.flags(name, set())}
    return sorted({flag for name in registry for flag in registry.flags(name, set())} - feeding)


def _each(flags: Iterable[str], settings: Mapping[str, Any], *causes: str) -> Iterator[tuple[str, str]]:
    where = "with " + " ".join(f"--{name} {spelled(settings[name])}" for name in causes)
    return ((flag, where) for flag in flags)
