"""A backbone with named embedding heads: what every method trains and what evaluation embeds with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.choice import build_backbone
from architectures.fill import Origin
from utilities.flags.settings import Settings
from utilities.tensors.float32 import at_least_float32

HEADS = ("linear", "none")
FEATURES = "features"  # the one output of a network without heads
HEAD_INITS: dict[str, Callable[[Tensor], Tensor]] = {
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "kaiming_normal": nn.init.kaiming_normal_,
}


class EmbeddingNetwork(nn.Module):
    """Backbone -> one linear layer a head -> unit rows.

    arch, bands, frozen, freeze_batch_norm, image_size: see `architectures.choice.build_backbone`.
    weights, weights_bands, missing_bands: see `architectures.fill.Origin`.
    head          "linear", or "none": no heads, the backbone's features are the embedding
    heads         name -> dimension, in the order of concatenation
    head_weights  name -> factor at test time: `embed` concatenates the weighted unit rows and normalises again,
                  so that inner products of embeddings are the weighted mean of the heads' cosines with weight
                  proportional to factor**2. None: all equal.
    head_init     the heads' initial weights: "default" (torch's), "xavier_uniform", "xavier_normal" or
                  "kaiming_normal"; with any but the default, biases start at 0
    """

    def __init__(
        self,
        *,
        arch: str,
        bands: tuple[str, ...],
        heads: Mapping[str, int],
        head_weights: Mapping[str, float] | None = None,
        weights: str = "none",
        weights_bands: str | None = None,
        missing_bands: str | None = None,
        frozen: bool = False,
        freeze_batch_norm: bool = False,
        image_size: int | None = None,
        head: str = "linear",
        head_init: str = "default",
    ) -> None:
        super().__init__()
        self.arch, self.bands, self.image_size, self.head = arch, tuple(bands), image_size, head
        self.backbone = build_backbone(
            arch,
            bands=self.bands,
            origin=Origin(weights, weights_bands, missing_bands),
            frozen=frozen,
            freeze_batch_norm=freeze_batch_norm,
            image_size=image_size,
        )
        if head == "none":
            heads, head_weights = {}, {FEATURES: 1.0}
        layers = {name: nn.Linear(self.backbone.features, size) for name, size in heads.items()}
        if head_init != "default":
            for layer in layers.values():
                HEAD_INITS[head_init](layer.weight)
                nn.init.zeros_(layer.bias)
        self.heads = nn.ModuleDict(layers)
        self.head_weights = dict(head_weights) if head_weights else dict.fromkeys(heads, 1.0)
        self.head_init = head_init

    @classmethod
    def from_settings(
        cls, args: Settings, bands: tuple[str, ...], *, heads: Mapping[str, int], **options: Any
    ) -> EmbeddingNetwork:
        """As the flags say: --arch, --weights (none where a checkpoint follows), --head, --image_size, --frozen and
        --freeze_batch_norm."""
        return cls(
            arch=args.arch,
            bands=bands,
            heads=heads,
            weights=args.initial_weights,
            weights_bands=args.weights_bands,
            missing_bands=args.missing_bands,
            frozen=args.frozen,
            freeze_batch_norm=args.freeze_batch_norm,
            image_size=args.image_size,
            head=args.head,
            **options,
        )

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, features) float32, before the heads; (B, features) are these already (--stored_views)."""
        if images.ndim == 2:
            return at_least_float32(images)
        return at_least_float32(self.backbone(images))

    def raw(self, features: Tensor) -> dict[str, Tensor]:
        """(B, features) -> name -> (B, d) float32, not normalised."""
        if self.head == "none":
            return {FEATURES: features}
        with torch.autocast(features.device.type, enabled=False):  # 1 % of the work; bf16 would cost neighbours
            return {name: head(features) for name, head in self.heads.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> name -> (B, d) float32 unit rows."""
        return {name: F.normalize(rows) for name, rows in self.raw(self.features(images)).items()}

    def concatenate(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Unit rows of every head -> (B, D) unit rows of the whole, heads weighted as at test time."""
        return F.normalize(torch.cat([self.head_weights[name] * outputs[name] for name in self.heads or [FEATURES]], 1))

    def embed(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D) float32 unit rows: what is searched."""
        return self.concatenate(self(images))

    @property
    def dimensions(self) -> int:
        """D, the length of what `embed` gives."""
        return sum(self.description()["heads"].values()) or self.backbone.features

    def description(self) -> dict[str, Any]:
        """Plain values for the checkpoint: `EmbeddingNetwork(**description)` takes the saved weights."""
        heads = {name: head.out_features for name, head in self.heads.items()}
        return {
            "arch": self.arch,
            "bands": self.bands,
            "heads": heads,
            "head_weights": dict(self.head_weights),
            "image_size": self.image_size,
            "head": self.head,
            "head_init": self.head_init,
        }
