"""The registry of this folder."""

from __future__ import annotations

from torch import nn

from utilities.registry import Registry

BACKBONES: Registry[nn.Module] = Registry("backbone")
