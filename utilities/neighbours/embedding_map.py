"""Embeddings laid out in the plane."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from utilities.errors import UserError

NAMES = {"pca": "PCA", "tsne": "t-SNE"}
METHODS = tuple(NAMES)


class EmbeddingMap(NamedTuple):
    """points (N, 2) float64; shares: how much of the embeddings' variance lies along each axis, None of t-SNE."""

    points: Tensor
    method: str
    shares: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        return NAMES[self.method]

    @property
    def about(self) -> str:
        """What is to be known of distances on the map."""
        if self.shares is None:
            return "neighbours lie together; distances between groups mean nothing"
        seen, across, up = (f"{100 * share:.0f} %" for share in (sum(self.shares), *self.shares))
        return f"{seen} of the variance is to be seen, {across} across and {up} up"


def embedding_map(embeddings: Tensor, *, method: str, seed: int) -> EmbeddingMap:
    """Embeddings (N, D) laid out in the plane.

    "pca": the two principal components, each signed so that its largest loading is positive, hence the same
    on every machine up to rounding. "tsne": scikit-learn's t-SNE from that start, for some thousand images;
    it keeps neighbourhoods, and its distances between groups mean nothing.
    """
    if method not in METHODS:
        raise UserError(f"unknown map {method!r}; choices: {', '.join(METHODS)}")
    centred = embeddings.double() - embeddings.double().mean(0)
    if centred.shape[1] < 2:
        centred = torch.nn.functional.pad(centred, (0, 2 - centred.shape[1]))
    variances, axes = torch.linalg.eigh(centred.T @ centred)
    axes = axes[:, -2:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    plane = centred @ axes
    if method == "pca" or len(embeddings) < 5:
        up, across = (variances[-2:].clamp(min=0) / variances.clamp(min=0).sum().clamp(min=1e-300)).tolist()
        return EmbeddingMap(plane, "pca", (across, up))
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise UserError(f"t-SNE needs scikit-learn ({error}): pip install scikit-learn, or use pca") from None
    start = (plane / plane[:, 0].std().clamp(min=1e-12) * 1e-4).float().numpy()
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    layout = TSNE(init=start, random_state=seed, perplexity=perplexity, learning_rate="auto").fit_transform(
        embeddings.float().numpy()
    )
    return EmbeddingMap(torch.from_numpy(layout).double(), "tsne")
