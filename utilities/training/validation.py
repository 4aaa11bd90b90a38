"""The val split scored by a network in training, which embeds splits as it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utilities.batch import Feed
from utilities.files import json_safe
from utilities.flags.settings import Settings
from utilities.inference import way as inference
from utilities.inference import whole_split
from utilities.measures.formulae import Relevance
from utilities.measures.search_and_measure import evaluate
from utilities.neighbours import density
from utilities.training import precision
from utilities.training.method import Method
from utilities.training.run import say

SELECTED_BY = "recall@1"  # of the val split: the best network so far becomes best.pt


def in_words(scores: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in scores.items())


class Validation:
    """Embeds with the method as it is, and scores as the flags say. number_format: "bf16" or "fp32"."""

    def __init__(self, method: Method, args: Settings, device: torch.device, number_format: str) -> None:
        self.method, self.args, self.device, self.number_format = method, args, device, number_format
        self.said: set[str] = set()  # notes on the scores, each once

    def measure(self, feed: Feed) -> tuple[dict[str, float], dict[str, Any]]:
        """The scores of a split, and what metrics.jsonl says of them. The network is to be in evaluation mode."""
        start = time.perf_counter()
        embeddings, rows = self.embed(feed)
        embedded = time.perf_counter()
        scores, chance = self.score(embeddings, torch.from_numpy(feed.dataset.labels)[rows])
        record = {
            "scores": json_safe(scores),
            "chance": json_safe(chance),
            "seconds": round(time.perf_counter() - start, 3),
            "images_per_second": round(len(rows) / (embedded - start), 1),
        }
        if feed.skipped:
            record["skipped_images"] = len(feed.skipped)
        return scores, record

    def embed(self, feed: Feed, embed: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings (M, D) of a split and their rows (M,), on the CPU of every rank.

        embed  images -> (B, D) instead of the method's own
        """
        rows = np.arange(len(feed.dataset))
        with (
            precision.autocast(self.number_format, self.device),
            inference.embedding(self.method.network.backbone, images=len(rows), number_format=self.number_format),
        ):
            batches = feed.evaluation(rows, self.args["eval_batch_size"])
            return whole_split.embed_split(embed or self.method.embed, batches, len(rows))

    def score(self, embeddings: Tensor, labels: Tensor) -> tuple[dict[str, float], dict[str, float]]:
        """What --eval_metric asks for, and SELECTED_BY; the chance levels of these."""
        result = evaluate(
            embeddings,
            labels,
            metrics=list(dict.fromkeys([SELECTED_BY, *self.args["eval_metric"]])),
            ks=(1,),
            relevance=Relevance(self.args["relevance"], self.args["relevance_threshold"]),
            backend=self.args["backend"],
            device=self.device,
        )
        for note in result.scores.protocol["notes"]:
            if note not in self.said:
                say(f"note: {note}")
        self.said.update(result.scores.protocol["notes"])
        scores = dict(result.scores.scores)
        if self.args["is_log_intra_inter_overlap"]:
            densities = density.distance_densities(embeddings, labels, device=self.device)
            scores["intra_inter_overlap"] = densities.overlap()
            if densities.share < 1:
                scores["intra_inter_overlap_error"] = densities.error
        return scores, result.scores.chance
