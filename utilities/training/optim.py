"""Optimizers by name and learning-rate schedules as functions of progress, with no state to restore."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch

from utilities.errors import UserError

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("none", "step", "exp", "cosine", "onecycle")
WARM_UP = 0.25  # share of the run in which onecycle rises
START = 1 / 25  # of the peak rate, where onecycle begins


def build(groups: list[dict[str, Any]], args: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Fused optimizer over the groups; each group keeps its own "lr" (and weight decay where it names one).

    Raises UserError where there is nothing to train; a run of no epochs gets one of nothing.
    """
    if not groups:
        if args["nb_epochs"]:
            raise UserError("--frozen leaves nothing to train here; give --nb_epochs 0, or leave out --frozen")
        groups = [{"params": [torch.zeros(0, requires_grad=True)], "lr": 0.0, "name": "nothing"}]
    decay = args["weight_decay"]
    if args.get("decay_kernels_only"):
        groups = list(itertools.chain.from_iterable(map(_kernels_apart, groups)))
    if args["optim"] == "sgd":
        momentum = args["momentum"]  # of which Nesterov's is a kind: without any there is none
        return torch.optim.SGD(groups, momentum=momentum, nesterov=momentum > 0, weight_decay=decay, fused=True)
    kind = torch.optim.Adam if args["optim"] == "adam" else torch.optim.AdamW
    return kind(groups, weight_decay=decay, fused=True)


def _kernels_apart(group: dict[str, Any]) -> list[dict[str, Any]]:
    """A group as two: matrices and convolutions, and vectors (biases, batch norm), which are not decayed."""
    kernels = group | {"params": [p for p in group["params"] if p.ndim > 1]}
    vectors = {"params": [p for p in group["params"] if p.ndim <= 1], "name": f"{group['name']} vectors"}
    return [part for part in (kernels, group | vectors | {"weight_decay": 0.0}) if part["params"]]


def factor(progress: float, args: Mapping[str, Any]) -> float:
    """What every base rate is multiplied by after `progress` epochs (a step in epoch 3 of 40: 3.0 .. 4.0).

    step: times --gamma at each epoch of --tau. exp: times --gamma after every epoch. cosine: half a cosine to 0.
    onecycle: half a cosine up from START in the first WARM_UP of the run, half a cosine down to 0 in the rest
    (Smith & Topin 2019, two phases).
    """
    kind = args["scheduler"]
    if kind == "none":
        return 1.0
    if kind == "step":
        return args["gamma"] ** sum(progress >= epoch for epoch in args["tau"])
    if kind == "exp":
        return args["gamma"] ** int(progress)
    share = min(progress / max(args["nb_epochs"], 1), 1.0)
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    if share < WARM_UP:
        return START + (1 - START) * 0.5 * (1 - math.cos(math.pi * share / WARM_UP))
    return 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))


def stretched(epoch: int, was: int, args: Mapping[str, Any]) -> str:
    """A note where --nb_epochs, once `was`, changes the rate at which `epoch` begins; "" where it does not."""
    then, now = (args["lr"] * factor(epoch, {**args, "nb_epochs": epochs}) for epochs in (was, args["nb_epochs"]))
    if then == now:
        return ""
    return (
        f"note: --nb_epochs {was} -> {args['nb_epochs']} stretches the {args['scheduler']} schedule: learning rate "
        f"{then:.1e} -> {now:.1e}"
    )


def set_rates(optimizer: torch.optim.Optimizer, base: list[float], scale: float) -> list[float]:
    """Give every group its base rate times `scale`; returns the rates."""
    for group, rate in zip(optimizer.param_groups, base, strict=True):
        group["lr"] = rate * scale
    return [rate * scale for rate in base]
