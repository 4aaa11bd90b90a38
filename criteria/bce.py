"""Binary cross-entropy on the labels: the joint classification term of SNDL-BCE."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from criteria.base import CRITERIA
from utilities.tensors.float32 import at_least_float32


@CRITERIA.register("bce", prefix="sndl_bce")
class JointBCE(nn.Module):
    """A linear classifier over the embedding, trained with it: weight * mean BCE over images and labels.

    It reads the embedding **before** normalisation, so that logits are not bounded by the classifier's norm.

    weight       of the term (1)
    width        D of the embedding
    num_classes  L

    Source: the authors' released SNDL-BCE (Kang et al., Graph Relation Network, TGRS 2021).
    """

    def __init__(self, *, weight: float, width: int, num_classes: int) -> None:
        super().__init__()
        self.weight = weight
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, raw: Tensor, labels: Tensor) -> Tensor:
        """raw (B, D), not normalised; labels (B, L) bool -> () float32; 0 with a graph for B = 0."""
        with torch.autocast(raw.device.type, enabled=False):
            logits = self.classifier(at_least_float32(raw))
            total = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="sum")
        return self.weight * total / max(1, labels.numel())
