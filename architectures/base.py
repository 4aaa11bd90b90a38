"""The registry of this folder."""

from __future__ import annotations

from torch import nn

from utilities.flags.registry import Registry


class Backbone(nn.Module):
    """(B, C, H, W) float -> (B, features) float."""

    features: int


BACKBONES: Registry[Backbone] = Registry("backbone")
