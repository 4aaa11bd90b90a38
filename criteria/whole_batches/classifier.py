"""Classification: labels predicted from the embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from criteria.base import CRITERIA
from utilities.errors import UserError
from utilities.tensors.float32 import at_least_float32


@CRITERIA.register("classifier")
class CosineClassifier(nn.Module):
    """A classifier of labels over the unit embedding, with no pair of images in it. With w_c and b_c learned for each
    label c:

        L = mean over images i and labels c of BCE( sigmoid(<e_i, w_c / |w_c|> / T + b_c), y_ic )

    Images of like labels come to lie together because they lie at the same w_c. An image without labels is pushed
    away from all of them.

    temperature  T (0.1)
    width        D of the embedding
    num_classes  L

    Source: Zhai and Wu, Classification is a Strong Baseline for Deep Metric Learning, BMVC 2019, section 3; a sigmoid
    for each label takes the place of the softmax over classes, since labels are sets.
    """

    def __init__(self, *, temperature: float, width: int, num_classes: int) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"--classifier_temperature {temperature} must be positive")
        self.temperature = temperature
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """embeddings (B, D) unit rows; labels (B, L) bool; indices (B,) are not looked at: an image that a batch
        holds twice counts twice. -> () float32."""
        with torch.autocast(embeddings.device.type, enabled=False):
            rows, weights = at_least_float32(embeddings), F.normalize(self.classifier.weight)
            logits = rows @ weights.T.to(rows.dtype) / self.temperature + self.classifier.bias
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
