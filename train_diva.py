"""DiVA: diverse visual feature aggregation (Milbich, Roth, Bharadhwaj, Sinha, Bengio, Ommer, Cohen, ECCV 2020).

Four embeddings share a backbone, each trained for something else and each at unit length:

    disc    what separates classes      margin loss, a and p related, n not                          (distance miner)
    shared  what goes across classes    margin loss, a, p and n pairwise without a common label      Eq. 3
    intra   what varies within a class  margin loss, a, p and n three images of one class            Eq. 4
    nce     what is the image's own     contrast of two views against a queue of keys of others      Eq. 6, DaNCE

    L = L_disc + alpha_1 L_shared + alpha_2 L_intra + alpha_3 L_nce - sum_P rho c(disc, .)           Eqs. 7-8

P = {nce, shared, intra}: a regressor psi predicts disc from each of them, and through a gradient reversal R both
embeddings learn to prevent it, c(a, b) = ||R(a) * psi(R(b))||^2. Keys come from a momentum encoder that starts as a
copy of the network and follows it after every step; then the queue takes them in. At test time the unit embeddings are
concatenated with weights 0.5 : 1 : 1 : 1.

Differences from the paper
    Labels are sets: related and unrelated as `--label_relation` says, "different classes" are disjoint label sets, and
    "one class" is a class that all three images carry. An intra triplet takes three different images, so three images
    of a class in a batch (`--num_samples_per_class 3`); the released code draws with repetition from two.
    Weights of the queue sum to one over the queue, as in the corrected release (Eq. 6 has no normalisation), and
    earlier keys of the query's own image are left out (`--diva_moco_exclude_own no` keeps them).
    The query's own key stands in the denominator of the contrast, unlike in Eq. 6 as typeset, and the logits of keys
    beyond `--diva_moco_upper_cutoff` are weighted 0, where Eq. 6 only caps weights; both as in the released code.
    Anchors whose negatives all lie beyond `--distance_upper_cutoff` are left out: their negative term would be zero.
    Shared positives are drawn uniformly, as the released default draws positives. The released exact variant of Eq. 3
    weights them by distance: `--distance_positive distance`, here within `--distance_upper_cutoff`, as negatives.
    c is a mean over dimensions with both sides normalised, as rho = 1500 presupposes in the released code.
    The queue is not filled before training: rows that no key has reached yet take no part.
    The released recipe (`--diva_preset authors`) permutes labels for shared triplets, draws intra triplets with
    repetition, has no upper cut-off for negatives, normalises the weights of the queue over the batch and keeps the
    query's own earlier keys in it, uses tau = 0.01, crops from 8 % of the area on, divides margin losses by triplets
    instead of terms and learns a boundary per class; the paper fixes beta = 1.2.
"""

from __future__ import annotations

from utilities.flags import early  # noqa: F401 - first: answers --help in a moment

# isort: split

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

import parameters
from architectures.embedding import EmbeddingNetwork
from batchminer import MINERS
from criteria import CRITERIA
from criteria.decorrelation import BELOW_ZERO, Direction
from criteria.moco import MomentumEncoder, queue_batches
from datasets.base import RetrievalDataset
from datasets.batches.samplers import ClassBalancedBatches
from datasets.open import open_data
from utilities.batch import Batch
from utilities.errors import main_guard
from utilities.flags.settings import Settings
from utilities.parallel.distributed import gather_rows
from utilities.tensors.labels import PairRule
from utilities.training import engine
from utilities.training.method import Method, at_own_rate

HEADS = ("disc", "shared", "intra", "nce")


class DiVA(Method):
    name = "diva"
    second_view = True
    below_zero = BELOW_ZERO["diva"]

    def __init__(self, args: Settings, train: RetrievalDataset) -> None:
        super().__init__(seed=args.random_seed)
        widths = dict.fromkeys(HEADS, args.sz_embedding // len(HEADS))
        at_test = dict(zip(HEADS, args.diva_head_weights, strict=True))
        self.network = EmbeddingNetwork.from_settings(args, train.bands, heads=widths, head_weights=at_test)
        self.key_network = MomentumEncoder(
            self.network, momentum=args.diva_moco_momentum, buffers=args.diva_moco_buffers
        )
        relation = PairRule(args.label_relation, args.positive_threshold, args.negative_threshold)
        miners = {"disc": args.diva_batch_miner, "shared": args.diva_shared_miner, "intra": "intra_random"}
        self.miners = {head: MINERS.build(name, args, relation=relation) for head, name in miners.items()}
        self.relation = self.miners["disc"].relation
        classes = train.labels.shape[1]
        self.margins = nn.ModuleDict({head: CRITERIA.build("margin", args, num_classes=classes) for head in miners})
        self.advice = self.miners["shared"].advice if args.diva_alpha_shared else None
        self.alpha = {"disc": 1.0, "shared": args.diva_alpha_shared, "intra": args.diva_alpha_intra}
        self.alpha_nce = args.diva_alpha_nce
        length = queue_batches(args.diva_moco_n_key_batches, images=len(train.labels), batch_size=args.batch_size)
        self.contrast: Any = CRITERIA.build(
            "fast_moco", args, width=widths["nce"], batch_size=args.batch_size, n_key_batches=length
        )
        sources = zip(("nce", "shared", "intra"), args.diva_adversarial_rho, strict=True)
        directions = [Direction(source, "disc", rho) for source, rho in sources]
        self.separation = CRITERIA.build("adversarial", args, widths=widths, directions=directions)
        self.sampler = ClassBalancedBatches.from_settings(args, train.labels)
        if args.num_samples_per_class < 3 and not args.intra_random_with_replacement:
            warnings.warn("--num_samples_per_class below 3 leaves DiVA few triplets within a class", stacklevel=2)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.second_view is not None
        generator = self.generator(batch.images.device)
        live = not self.network.backbone.freeze_batch_norm
        keys = self.key_network(batch.second_view, generator if live else None)["nce"]
        self.contrast.stage(keys, batch.indices)

        outputs = self.network(batch.images)
        labels, indices = gather_rows(batch.labels), gather_rows(batch.indices)
        terms = {}
        for head, weight in self.alpha.items():
            embeddings = gather_rows(outputs[head])
            triplets = self.miners[head](embeddings.detach(), labels, indices, generator)
            terms[head] = weight * self.margins[head](embeddings, triplets, labels)
        terms["nce"] = self.alpha_nce * self.contrast(outputs["nce"], keys, batch.indices)
        return terms | self.separation(outputs)

    def after_step(self) -> None:
        self.key_network.update(self.network)
        self.contrast.commit()

    def param_groups(self, args: Mapping[str, Any]) -> list[dict[str, Any]]:
        rate = args["diva_adversarial_lr"]
        return at_own_rate(super().param_groups(args), self.separation, name="regressors", lr=rate, weight_decay=0.0)


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    args = parameters.start_run("diva", argv)
    with engine.session(args) as device:
        data = open_data(args, device)
        engine.train(DiVA(args, data.train.dataset), data, args, device)


if __name__ == "__main__":
    main()
