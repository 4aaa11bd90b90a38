"""Which way a backbone takes while a split is embedded: through its fused copy where that pays, or as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from utilities.inference.fused import fused

FUSED, PLAIN = "fused", "plain"
FROM_IMAGES = 256  # making the copy takes as long as it saves with so many images of 64 pixels through a ResNet50
EXAMPLE = 4  # images for which it is made, and by which it is checked
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}  # relative difference of features: a mistake, not rounding


def planned(images: int) -> str:
    """The way by which a split of so many images is embedded: nothing else decides it but whether fx can trace the
    network, so that equal runs take equal ways."""
    return FUSED if images >= FROM_IMAGES else PLAIN


class Way:
    """How a backbone computed, known once it has: FUSED, or PLAIN and why."""

    def __init__(self) -> None:
        self.name, self.reason = PLAIN, ""


@contextlib.contextmanager
def embedding(backbone: nn.Module, *, images: int, number_format: str) -> Iterator[Way]:
    """While it lasts, `backbone(images)` embeds by the planned way; nothing of the module itself is changed.

    number_format  "bf16" or "fp32" (`precision.resolve`)
    """
    way = Way()
    if planned(images) == PLAIN:
        yield way
        return
    dtype = torch.bfloat16 if number_format == "bf16" else torch.float32
    compiled, backbone._compiled_call_impl = backbone._compiled_call_impl, None  # --compile is for training
    detour = _Detour(backbone, dtype, way)
    detour.open()
    try:
        yield way
    finally:
        detour.close()
        backbone._compiled_call_impl = compiled


class _Detour:
    """Stands in the place of `backbone.forward`; the first images show how the copy is made and whether it is right."""

    def __init__(self, backbone: nn.Module, dtype: torch.dtype, way: Way) -> None:
        self.backbone, self.dtype, self.way = backbone, dtype, way
        self.copy: nn.Module | None = None

    def open(self) -> None:
        self.backbone.__dict__["forward"] = self

    def close(self) -> None:
        self.backbone.__dict__.pop("forward", None)

    def __call__(self, images: Tensor) -> Tensor:
        if self.copy is None and not self.way.reason:
            self.close()
            self._make(images[:EXAMPLE])
            self.open()
        if self.copy is None:
            return type(self.backbone).forward(self.backbone, images)
        with torch.autocast(images.device.type, enabled=False):
            return self.copy(images.to(self.dtype))

    def _make(self, images: Tensor) -> None:
        wanted = self.backbone(images).float()
        try:
            with torch.autocast(images.device.type, enabled=False):
                copy = fused(self.backbone, images, self.dtype)
                found = copy(images.to(self.dtype)).float()
        except Exception as error:  # fx names what it cannot trace by exceptions of every kind
            self.way.reason = f"its network cannot be traced: {type(error).__name__}: {str(error)[:100]}"
            return
        difference = ((found - wanted).norm() / wanted.norm().clamp(min=1e-12)).item()
        if not difference <= TOLERANCE[self.dtype]:
            self.way.reason = f"the fused network is off by {difference:.2g}"
            return
        self.copy, self.way.name = copy, FUSED


def describe(way: Way) -> dict[str, Any]:
    """For the protocol."""
    return {"embedding": way.name} | ({"embedding_note": way.reason} if way.reason else {})
