"""Baseline: the margin loss over mined triplets (Wu et al. 2017, "Sampling Matters in Deep Embedding Learning").

For a triplet (a, p, n) of unit embeddings with Euclidean distances d, and the boundary beta_c of the class c
through which it was formed, the paper minimises

    L = ( sum_t [d_ap - beta_c + gamma]_+ + [beta_c - d_an + gamma]_+  +  nu sum_t beta_c ) / #active

where #active counts the terms that are positive: both terms of one triplet where both are. beta is learned per class.

Other losses need no miner and take the batch as it is (`--baseline_loss`). With `batch_nca` every pair counts by the
Jaccard similarity w of its labels (Goldberger et al. 2004, Neighbourhood Components Analysis),

    L = -1/B sum_i log ( sum_{j != i} w_ij exp(<e_i, e_j> / T) / sum_{j != i} exp(<e_i, e_j> / T) )

`multi_similarity` mines and weights pairs by their cosines (Wang et al. 2019), `mulsupcon` contrasts images label by
label (Zhang and Wu 2024), `smoothap` is a smooth average precision graded by the Jaccard similarity (Brown et al. 2020,
Ramzi et al. 2022), `classifier` predicts the labels and compares no images (Zhai and Wu 2019). Their equations stand
in criteria/.

Differences from the paper
    Labels are sets. A pair is positive from a Jaccard similarity of 0.5 on and negative without a shared label
    (`--label_relation`, `--positive_threshold`, `--negative_threshold`); c is drawn from the labels that anchor and
    positive share. On single labels this is the paper's definition.
    The paper samples negatives by distance (`--baseline_batch_miner distance`); the default here is the soft-hard
    miner of CV4RS (README). Boundaries are learned by the optimizer of the rest at a rate of 5e-4, as in the release of
    DiVA (`--criterion_lr`); that of Wu et al. steps them by SGD at 0.1. `--baseline_batches shuffled` takes batches as
    they come instead of class-balanced ones.
    multi_similarity: positive and negative pairs are those of the label sets as above; lambda is 0.5 as in the released
    code, where the paper's text says 1 (`--multi_similarity_base`), at which a negative of cosine 0.8 weighs e^-10.
    mulsupcon: the images of the batch take the place of the paper's queue of a momentum encoder and of its second view
    of each image; a label that no other image of the batch has adds no term.
    classifier: a sigmoid for each label instead of the softmax over classes; features are not layer-normalised; batches
    are those of the other losses.
    smoothap: relevance is graded, and the query is not retrieved (it is in the released code:
    `--smoothap_include_query yes`).
"""

from __future__ import annotations

from utilities.flags import early  # noqa: F401 - first: answers --help in a moment

# isort: split

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

import parameters
from architectures.embedding import EmbeddingNetwork
from batchminer import MINERS
from batchminer.base import Miner
from criteria import CRITERIA, of_batches
from datasets.base import RetrievalDataset
from datasets.batches.samplers import ClassBalancedBatches, ShuffledBatches
from datasets.open import open_data
from utilities.batch import Batch
from utilities.errors import main_guard
from utilities.flags.settings import Settings
from utilities.parallel.distributed import gather_rows
from utilities.tensors.labels import PairRule
from utilities.training import engine
from utilities.training.method import Method, at_own_rate


class Baseline(Method):
    name = "baseline"

    def __init__(self, args: Settings, train: RetrievalDataset) -> None:
        super().__init__(seed=args.random_seed)
        relation = PairRule(args.label_relation, args.positive_threshold, args.negative_threshold)
        self.network = EmbeddingNetwork.from_settings(args, train.bands, heads={"embedding": args.sz_embedding})
        self.miner: Miner | None = None
        if args.baseline_loss not in of_batches():
            self.miner = MINERS.build(args.baseline_batch_miner, args, relation=relation)
        wiring = {"relation": relation, "width": args.sz_embedding, "num_classes": train.labels.shape[1]}
        self.criterion = CRITERIA.build(args.baseline_loss, args, **wiring)
        self.relation = getattr(self.miner or self.criterion, "relation", None)
        self.sampler: ClassBalancedBatches | ShuffledBatches
        if args.baseline_batches == "balanced":
            self.sampler = ClassBalancedBatches.from_settings(args, train.labels)
        else:
            self.sampler = ShuffledBatches.from_settings(args, len(train.labels))
        self.loss_name = args.baseline_loss

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        embeddings = gather_rows(self.network(batch.images)["embedding"])
        labels, indices = gather_rows(batch.labels), gather_rows(batch.indices)
        if self.miner is None:
            return {self.loss_name: self.criterion(embeddings, labels, indices)}
        triplets = self.miner(embeddings.detach(), labels, indices, self.generator(embeddings.device))
        return {self.loss_name: self.criterion(embeddings, triplets, labels)}

    def param_groups(self, args: Mapping[str, Any]) -> list[dict[str, Any]]:
        groups = super().param_groups(args)
        if self.loss_name != "classifier":  # boundaries have a rate of their own
            return groups
        return at_own_rate(groups, self.criterion, name="classifier", lr=args["lr"])

    def needed(self) -> dict[str, Callable[[Tensor], bool]]:
        criterion: Any = self.criterion
        if self.relation is None and hasattr(criterion, "teaches"):  # a loss that grades all pairs of a batch
            return {criterion.needs: criterion.teaches}
        return super().needed()


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    args = parameters.start_run("baseline", argv)
    with engine.session(args) as device:
        data = open_data(args, device)
        engine.train(Baseline(args, data.train.dataset), data, args, device)


if __name__ == "__main__":
    main()
