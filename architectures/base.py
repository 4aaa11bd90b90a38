"""What a backbone is, and the registry of this folder."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utilities.flags.registry import Registry


class Backbone(nn.Module):
    """(B, C, H, W) float -> (B, features) float, by `net`.

    frozen             no gradient into any weight, evaluation mode always: batch-norm statistics fixed, nothing dropped
    freeze_batch_norm  batch-norm statistics fixed while all weights train (Roth et al. 2020, Sanakoyeu et al. 2019)
    """

    features: int

    def __init__(self, net: nn.Module, features: int, *, frozen: bool, freeze_batch_norm: bool) -> None:
        super().__init__()
        self.net = net
        self.features = features
        self.frozen = frozen
        self.freeze_batch_norm = freeze_batch_norm or frozen
        if frozen:
            self.requires_grad_(False)
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def train(self, mode: bool = True) -> Self:
        """As in any module, except that frozen batch norm, and all of a frozen backbone, stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.net.eval()  # some of timm's drop blocks at random in training
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):  # also once it is torch's SyncBatchNorm
                    module.eval()
        return self


BACKBONES: Registry[Backbone] = Registry("backbone")
