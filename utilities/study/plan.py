"""Which runs the comparison consists of: rows, trials, seeds, ablations, in the order in which they are made.

Everything here is a pure function of the table of finished runs, so a study that was stopped goes on where it was, and
a stop anywhere leaves a smaller study that is complete: seeds come before rows, so that all rows have as many.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from utilities.errors import UserError

TRIALS = 12  # a row, of the rate and its own knob
TRIAL_SEED = 1000  # --random_seed of all trials: none of the seeds that are reported
RATES = (1e-4, 1e-2)  # of the heads, drawn log-uniformly
SELECTED_BY = ("recall@1", "label_jaccard@8")  # of the val split; their sum chooses a trial
FEATURES = "features"  # the row without training

BACKBONE = ("--arch", "timm/tf_efficientnet_lite0", "--weights", "imagenet")
COMMON = (
    "--dataset", "UCMerced", *BACKBONE, "--image_size", "224", "--resize_to", "224",  # the whole photograph
    "--sz_embedding", "512", "--batch_size", "120", "--crop_area", "0.5", "1", "--num_workers", "0",
    "--optim", "adam", "--weight_decay", "4e-4", "--scheduler", "onecycle",
)  # fmt: skip
# What a tier adds: heads from stored features of a fixed backbone; all weights, small images first.
TIERS = {
    "frozen": ("--frozen", "--stored_views", "8", "--nb_epochs", "30", "--eval_epoch", "10"),
    "finetuned": (
        "--nb_epochs", "8", "--eval_epoch", "4", "--small_epochs", "6", "--small_image_size", "112",
        "--image_size", "160", "--resize_to", "160", "--backbone_lr", "3e-4",
    ),
}  # fmt: skip
# What all rows share was chosen before their trials, on val alone: what was tried -> tier, flags. 256 pixels and 16
# epochs were looked at afterwards.
TRIED = {
    "as chosen": ("frozen", ()),
    "centre of the photograph": ("frozen", ("--resize_to", "256")),
    "60 epochs": ("frozen", ("--nb_epochs", "60")),
    "weight decay 4e-5": ("frozen", ("--weight_decay", "4e-5")),
    "no weight decay": ("frozen", ("--weight_decay", "0")),
    "crops from 30 % on": ("frozen", ("--crop_area", "0.3", "1")),
    "256 pixels": ("frozen", ("--image_size", "256", "--resize_to", "256")),
    "all weights": ("finetuned", ()),
    "all weights, backbone rate 1e-3": ("finetuned", ("--backbone_lr", "1e-3")),
    "all weights, backbone rate 1e-4": ("finetuned", ("--backbone_lr", "1e-4")),
    "all weights, 16 epochs": ("finetuned", ("--nb_epochs", "16", "--small_epochs", "12", "--eval_epoch", "8")),
    "all weights, batches of 60": ("finetuned", ("--batch_size", "60")),
}
TRIED_ROWS = {
    "batch_nca": ("--lr", "0.0011", "--batch_nca_temperature", "0.12"),
    "sndl_alone": ("--lr", "0.0011", "--sndl_temperature", "0.12"),
    "smoothap": ("--lr", "0.00114", "--smoothap_temperature", "0.00586"),
}
TRIED_SEEDS = {"frozen": range(2000, 2004), "finetuned": range(2000, 2001)}  # with all weights, the first row alone
ON_VAL = ("shared", "trials")  # tiers that never see the test split
# A second ground: ResNet50 from scratch, every method with its defaults, on photographs and on generated scenes.
GROUNDS = {
    "scratch": (
        "--dataset", "UCMerced", "--weights", "none", "--image_size", "128", "--batch_size", "60", "--nb_epochs", "30",
        "--small_epochs", "24", "--color_jitter", "0.2", "--eval_epoch", "6", "--num_workers", "0",
    ),
    "demo": (
        "--dataset", "Demo", "--nb_epochs", "6", "--eval_epoch", "6", "--batch_size", "60", "--num_workers", "0",
    ),
}  # fmt: skip
SEEDS = {"frozen": 20, "ablation": 20, "grn": 5, "finetuned": 3, "finetuned-ablation": 3, "scratch": 3, "demo": 3}
BEST_SEEDS = 5  # of the best three rows of the fine-tuned tier
TELLING = 2  # ablations that are fine-tuned as well: those that change the val scores of the frozen tier most


class Knob(NamedTuple):
    """A number of the method's own that its paper names, and the range it is drawn from.

    flags   that take the drawn value, each `times` over
    values  the choices; or (low, high), drawn log-uniformly
    """

    flags: tuple[str, ...]
    values: tuple[float, ...]
    choices: bool = False
    times: int = 1

    def draw(self, uniform: float) -> float:
        """The value at a place in [0, 1)."""
        if self.choices:
            return self.values[int(uniform * len(self.values))]
        low, high = map(math.log, self.values)
        return float(f"{math.exp(low + uniform * (high - low)):.3g}")

    def spelled(self, value: float) -> tuple[str, ...]:
        return tuple(word for flag in self.flags for word in (flag, *[f"{value:g}"] * self.times))


class Row(NamedTuple):
    """One line of the comparison: a script with what makes it this method, and its knob."""

    name: str
    title: str
    script: str
    flags: tuple[str, ...] = ()
    knob: Knob | None = None


ROWS = (
    Row(FEATURES, "backbone features", "baseline", ("--head", "none", "--nb_epochs", "0")),
    Row("margin", "baseline (margin loss)", "baseline", (), Knob(("--margin_beta",), (0.4, 1.4))),
    Row("batch_nca", "baseline (batch_nca)", "baseline", ("--baseline_loss", "batch_nca"),
        Knob(("--batch_nca_temperature",), (0.03, 0.3))),
    Row("diva", "DiVA", "diva", (), Knob(("--diva_adversarial_rho",), (50, 1500), times=3)),
    Row("dac", "D&C", "dac", (), Knob(("--dac_nb_clusters",), (2, 4, 8), choices=True)),
    Row("bier", "BIER", "bier", (), Knob(("--bier_lambda_div",), (1e-5, 1e-2))),
    Row("sndl", "SNDL", "sndl", (), Knob(("--sndl_temperature",), (0.03, 0.3))),
    Row("sndl_alone", "SNDL without BCE", "sndl", ("--sndl_bce_weight", "0"),
        Knob(("--sndl_temperature",), (0.03, 0.3))),
    Row("multi_similarity", "multi-similarity", "baseline", ("--baseline_loss", "multi_similarity"),
        Knob(("--multi_similarity_base",), (0.3, 0.9))),
    Row("mulsupcon", "MulSupCon", "baseline", ("--baseline_loss", "mulsupcon"),
        Knob(("--mulsupcon_temperature",), (0.03, 0.3))),
    Row("smoothap", "graded SmoothAP", "baseline", ("--baseline_loss", "smoothap"),
        Knob(("--smoothap_temperature",), (0.003, 0.1))),
    Row("classifier", "classifier", "baseline", ("--baseline_loss", "classifier"),
        Knob(("--classifier_temperature",), (0.03, 0.3))),
)  # fmt: skip
# Rows that compare no images, and how sentences name them: what has the learning of a metric to offer beside them?
REFERENCES = {FEATURES: "the untrained features", "classifier": "the classifier"}
METHODS = ("margin", "diva", "dac", "bier", "sndl")  # the project's five

# What the papers claim of their parts: variant -> (row, what it changes).
ABLATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "diva-no-shared": ("diva", ("--diva_alpha_shared", "0")),
    "diva-no-intra": ("diva", ("--diva_alpha_intra", "0")),
    "diva-no-nce": ("diva", ("--diva_alpha_nce", "0")),
    "diva-no-decorrelation": ("diva", ("--diva_adversarial_rho", "0", "0", "0")),
    "dac-1-cluster": ("dac", ("--dac_nb_clusters", "1")),
    "dac-4-clusters": ("dac", ("--dac_nb_clusters", "4")),
    "dac-8-clusters": ("dac", ("--dac_nb_clusters", "8")),
    "bier-1-group": ("bier", ("--bier_groups", "1")),
    "bier-no-adversary": ("bier", ("--bier_lambda_div", "0")),
    "sndl-jaccard": ("sndl", ("--sndl_weighting", "jaccard")),
    "sndl-no-momentum": ("sndl", ("--sndl_momenta", "0")),
    "diva-authors": ("diva", ("--diva_preset", "authors")),
    "dac-authors": ("dac", ("--dac_preset", "authors")),
    "bier-authors": ("bier", ("--bier_preset", "authors")),
    "sndl-authors": ("sndl", ("--sndl_preset", "authors")),
}


class Run(NamedTuple):
    """One training run. `own` are the flags beyond those of its tier; `split` whose images it learns from."""

    tier: str
    row: str
    seed: int
    script: str
    own: tuple[str, ...]
    trial: int | None = None

    @property
    def name(self) -> str:
        """Unique; also the name of its folder."""
        number = f"seed{self.seed}" if self.trial is None else f"trial{self.trial}"
        return re.sub(r"[^\w-]+", "_", f"{self.tier}-{self.row}-{number}")

    @property
    def dataset(self) -> str:
        return "Demo" if self.tier == "demo" else "UCMerced"

    def flags(self) -> list[str]:
        """Of `train_<script>.py`, data and places aside; a later flag replaces an earlier one."""
        named = TRIED[self.row.partition(": ")[2]][0] if self.tier == "shared" else self.tier
        tier = TIERS["finetuned" if named.startswith("finetuned") else "frozen"]
        base = GROUNDS.get(self.tier, (*COMMON, *tier))
        return [*merged([*base, *self.own]), "--random_seed", str(self.seed)]


def merged(flags: Sequence[str]) -> list[str]:
    """Each flag once, with the values that came last, in the order of first appearance."""
    values: dict[str, list[str]] = {}
    name = ""
    for word in flags:
        if word.startswith("--"):
            name = word
            values[name] = []
        else:
            values[name].append(word)
    return [part for flag, words in values.items() for part in (flag, *words)]


def row_of(name: str) -> Row:
    for row in ROWS:
        if row.name == name:
            return row
    raise UserError(f"the study has no row {name!r}; rows: {', '.join(row.name for row in ROWS)}")


def trials() -> list[Run]:
    """All trials, first those with number 0. Trial t has the same rate in all rows, and the same place in the range of
    each row's knob: rows differ in nothing but themselves."""
    draws = np.random.default_rng(TRIAL_SEED).random((TRIALS, 2))
    low, high = map(math.log, RATES)
    found = []
    for number, (first, second) in enumerate(draws.tolist()):
        rate = f"{math.exp(low + first * (high - low)):.3g}"
        for row in ROWS[1:]:
            assert row.knob is not None
            drawn = ("--lr", rate, *row.knob.spelled(row.knob.draw(second)))
            found.append(Run("trials", row.name, TRIAL_SEED, row.script, (*row.flags, *drawn), number))
    return found


def shared() -> list[Run]:
    """What was tried of what all rows share; a run's row is "row: what"."""
    return [
        Run("shared", f"{name}: {what}", seed, row_of(name).script, (*row_of(name).flags, *own, *flags))
        for what, (tier, flags) in TRIED.items()
        for name, own in list(TRIED_ROWS.items())[: None if tier == "frozen" else 1]
        for seed in TRIED_SEEDS[tier]
    ]


def chosen(finished: Iterable[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """Row -> flags of its best trial on the val split, for rows whose trials are all there; ties to the first."""
    scores: dict[str, dict[int, float]] = {}
    for record in finished:
        if record["tier"] == "trials":
            total = sum(float(record[f"val {measure}"]) for measure in SELECTED_BY)
            scores.setdefault(record["row"], {})[int(record["trial"])] = total
    best = {row: max(sorted(of), key=lambda t: of[t]) for row, of in scores.items() if len(of) == TRIALS}
    return {run.row: run.own for run in trials() if best.get(run.row) == run.trial}


def plan(finished: Sequence[Mapping[str, str]], tiers: Sequence[str]) -> list[Run]:
    """All runs of the tiers that can be named yet, in order, finished ones included.

    The runs of a tier beyond the trials begin when every row has its settings: the test split is read after that.
    """
    runs = (shared() if "shared" in tiers else []) + (trials() if "trials" in tiers else [])
    settings = chosen(finished)
    if len(settings) < len(ROWS) - 1:
        return runs
    settings[FEATURES] = row_of(FEATURES).flags

    def seeds(tier: str, names: Sequence[str], first: int, last: int) -> list[Run]:
        return [
            Run(tier, name, seed, row_of(name).script, settings[name])
            for seed in range(first, last)
            for name in names
            if name != FEATURES or seed == 0
        ]

    every = [row.name for row in ROWS]
    if "frozen" in tiers:
        runs += seeds("frozen", every, 0, SEEDS["frozen"])
    if "ablation" in tiers:
        runs += [
            Run("ablation", name, seed, row_of(row).script, (*settings[row], *changed))
            for seed in range(SEEDS["ablation"])
            for name, (row, changed) in ABLATIONS.items()
        ]
    if "grn" in tiers:
        runs += [
            run._replace(own=(*run.own, "--ucmerced_split", "grn")) for run in seeds("grn", every, 0, SEEDS["grn"])
        ]
    if "finetuned" in tiers:
        trained = every[1:]
        runs += seeds("finetuned", trained, 0, SEEDS["finetuned"])
        runs += seeds("finetuned", best_three(finished), SEEDS["finetuned"], BEST_SEEDS)
        runs += [
            Run("finetuned-ablation", name, seed, row_of(row).script, (*settings[row], *changed))
            for seed in range(SEEDS["finetuned-ablation"])
            for name in telling(finished)
            for row, changed in (ABLATIONS[name],)
        ]
    for ground in GROUNDS:
        if ground in tiers:
            runs += [
                Run(ground, name, seed, row_of(name).script, row_of(name).flags)
                for seed in range(SEEDS[ground])
                for name in METHODS
            ]
    return runs


def telling(finished: Iterable[Mapping[str, str]]) -> list[str]:
    """The variants of the frozen tier whose mean val scores differ most from their method's; none before all are there.

    A variant that leaves no method behind it (`authors` presets) explains no part, and is left out.
    """
    totals: dict[tuple[str, str], list[float]] = {}
    for record in finished:
        if record["tier"] in ("frozen", "ablation"):
            total = sum(float(record[f"val {measure}"]) for measure in SELECTED_BY)
            totals.setdefault((record["tier"], record["row"]), []).append(total)
    means = {key: statistics.mean(of) for key, of in totals.items() if len(of) >= SEEDS[key[0]]}
    parts = {name: row for name, (row, _) in ABLATIONS.items() if not name.endswith("-authors")}
    if not all(("ablation", name) in means and ("frozen", row) in means for name, row in parts.items()):
        return []
    return sorted(parts, key=lambda name: -abs(means["ablation", name] - means["frozen", parts[name]]))[:TELLING]


def best_three(finished: Iterable[Mapping[str, str]]) -> list[str]:
    """The fine-tuned rows with the best val scores over the first seeds; none before all of them are there."""
    totals: dict[str, list[float]] = {}
    for record in finished:
        if record["tier"] == "finetuned" and int(record["seed"]) < SEEDS["finetuned"]:
            totals.setdefault(record["row"], []).append(sum(float(record[f"val {m}"]) for m in SELECTED_BY))
    if len(totals) < len(ROWS) - 1 or any(len(of) < SEEDS["finetuned"] for of in totals.values()):
        return []
    return sorted(totals, key=lambda row: -sum(totals[row]))[:3]
