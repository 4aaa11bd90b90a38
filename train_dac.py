"""D&C: divide and conquer the embedding space (Sanakoyeu, Tschernezki, Büchler, Ommer, CVPR 2019).

Every T epochs the training set is embedded and divided into K clusters by k-means, and the embedding is K slices of
D / K dimensions, one learner each (Algorithm 1). A batch comes from one cluster k, and

    L_k = margin loss of its triplets in slice k alone

reaches slice k and the backbone; every other slice gets no gradient. Clusters keep their learner: a new clustering is
renumbered to agree best with the one before (Hungarian algorithm on the symmetric differences). The last epochs
conquer: all data, and one margin loss on the whole embedding, the concatenation of the unit slices at unit length,

    L = margin loss of its triplets in (f_1, ..., f_K) / sqrt(K).

Differences from the paper
    Labels are sets: they choose triplets within a batch, by `--label_relation`, and play no part in clustering. Images
    without labels are neither clustered nor drawn.
    Clusters come in proportion to their size, each image about once an epoch (the paper draws clusters uniformly), and
    clusters smaller than a batch draw from the nearest one's images as well; their slice has its turn in proportion
    to their own size.
    The whole embedding has a margin loss of its own; boundaries beta are fixed at 1.2, as in the released code
    (`--margin_learn_beta`). Slices out of turn have no gradient at all, so Adam and weight decay leave them alone.
    The released recipe (`--dac_preset authors`) clusters the features before the embedding, trains the whole
    embedding on batches of clusters from 8/19 of the divided epochs on, takes clusters in turn, mines the nearest
    negatives beyond a cut-off, crops from 8 % of the area on, and divides by triplets instead of terms. Its
    renumbering applies the inverse permutation; that is mended here in every preset.
"""

from __future__ import annotations

from utilities.flags import early  # noqa: F401 - first: answers --help in a moment

# isort: split

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import parameters
from architectures.embedding import EmbeddingNetwork
from batchminer import MINERS
from criteria import CRITERIA
from datasets.base import RetrievalDataset
from datasets.batches.cluster_batches import ClusterBatches
from datasets.batches.samplers import ClassBalancedBatches
from datasets.open import open_data
from utilities.batch import Batch, IndexBatches
from utilities.errors import UserError, main_guard
from utilities.flags.settings import Settings
from utilities.neighbours.clustering import TrackedClusters
from utilities.parallel.distributed import gather_rows
from utilities.tensors.labels import PairRule
from utilities.training import engine
from utilities.training.method import Method


class DivideAndConquer(Method):
    name = "dac"
    unused_parameters = True
    sampler: ClassBalancedBatches

    def __init__(self, args: Settings, train: RetrievalDataset) -> None:
        super().__init__(seed=args.random_seed)
        self.args, self.labels = args, train.labels
        clusters, classes = args.dac_nb_clusters, train.labels.shape[1]
        relation = PairRule(args.label_relation, args.positive_threshold, args.negative_threshold)
        self.sampler = ClassBalancedBatches.from_settings(args, train.labels)
        if clusters > len(self.sampler.images):
            raise UserError(
                f"--dac_nb_clusters {clusters} is more than the {len(self.sampler.images)} labelled images of the "
                "training split; lower it"
            )
        slices = {f"slice{k}": args.sz_embedding // clusters for k in range(clusters)}
        self.network = EmbeddingNetwork.from_settings(args, train.bands, heads=slices, head_init="xavier_normal")
        self.miner = MINERS.build(args.dac_batch_miner, args, relation=relation)
        self.relation = self.miner.relation
        self.of_slice = nn.ModuleList(CRITERIA.build("margin", args, num_classes=classes) for _ in slices)
        self.of_whole = CRITERIA.build("margin", args, num_classes=classes)
        self.drawn_from: list[int] = []  # slice of each batch of the epoch: on the host, which does not wait
        self.clusters = TrackedClusters(
            size=len(train.labels),
            k=clusters,
            width=args.sz_embedding if args.dac_cluster_on == "embedding" else self.network.backbone.features,
            iterations=args.dac_kmeans_iterations,
            redo=args.dac_kmeans_redo,
            seed=args.random_seed,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.network(batch.images)
        if self.slices_train:
            k = self.drawn_from[self.batch]
            name, embeddings, criterion = f"slice{k}", outputs[f"slice{k}"], self.of_slice[k]
        else:
            name, embeddings, criterion = "whole", self.network.concatenate(outputs), self.of_whole
        embeddings, labels, indices = map(gather_rows, (embeddings, batch.labels, batch.indices))
        triplets = self.miner(embeddings.detach(), labels, indices, self.generator(embeddings.device))
        self.observed = {"changed_clusters": self.clusters.changed}
        return {name: criterion(embeddings, triplets, labels)}

    @property
    def slices_train(self) -> bool:
        """Whether slices are trained in this epoch, each by itself, or the whole embedding."""
        return self.epoch < self.args.dac_merge_epoch

    def epoch_batches(self, epoch: int) -> IndexBatches:
        """A function of the epoch and of the clusters, which the first call in their epoch makes."""
        args, whole = self.args, self.sampler
        if epoch >= args.dac_finetune_epoch:
            return whole.epoch(epoch)
        if self.clusters.due(epoch, every=args.dac_recluster_every):
            embed = self.unit_features if args.dac_cluster_on == "features" else self.embed
            rows = torch.from_numpy(whole.images)
            self.clusters.divide(self.embed_training_set(embed), rows, epoch=epoch)
        pools = self.clusters.drawn_from(whole.batch_size).numpy()
        shape = {"batch_size": whole.batch_size, "samples_per_class": whole.samples_per_class}
        sampler = ClusterBatches(self.labels, pools, **shape, seed=self.seed, order=args.dac_cluster_order)
        batches = sampler.epoch(epoch)
        self.drawn_from = sampler.turns(batches, self.clusters.assignment.cpu().numpy(), epoch)
        return batches

    def unit_features(self, images: Tensor) -> Tensor:
        return F.normalize(self.network.features(images))


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    args = parameters.start_run("dac", argv)
    with engine.session(args) as device:
        data = open_data(args, device)
        engine.train(DivideAndConquer(args, data.train.dataset), data, args, device)


if __name__ == "__main__":
    main()
