"""BIER: boosting independent embeddings robustly (Opitz, Waltner, Possegger, Bischof 2018, arXiv 1801.04815).

The embedding is M groups of growing size, one learner each. With s_m the cosine of a pair under learner m, the
binomial deviance l(s, y) = log(1 + exp(-b1 (s - b2) c_y)), c_1 = 1, c_0 = -C, is boosted (Algorithm 1): pairs that the
learners before m get right count less for m,

    L_metric = 1/M sum_m sum_pairs v w_m l(s_m, y),    w_1 = 1,    w_{m+1} = -l'(s^m, y) without gradient
    s^m      = (1 - eta_m) s^{m-1} + eta_m s_m,        eta_m = 2 / (m + 1)

with v = 1 / #positive or 1 / #negative pairs. Regressors g try to predict the smaller group from the larger, and the
embedding layer, through a gradient reversal R, to prevent it (A-BIER, Eqs. 7-11):

    L = L_metric + lambda_div ( - sum_{i<j} mean (R(f_i) * g_{j->i}(R(f_j)))^2 + lambda_w P )

P keeps the weights of regressors and embedding at unit length, and the regressors' biases at most that. Features are
cut off from this part: only the embedding layer is decorrelated. At test time group m, of unit length, is weighted by
sqrt(alpha_m), alpha_m = 2m / (M (M + 1)), so that an inner product is the boosted ensemble's score.

Differences from the paper
    Labels are sets: pairs are positive, negative or ignored by `--label_relation`; #positive leaves out the pairs of an
    image with itself, which the released code counts (`--bier_include_diagonal`).
    l' is by the activation b1 (s - b2) c_y, as in the released code; by s, weights would carry the factor b1 c_y.
    The paper weights groups by alpha at test time; it is the square roots that give the ensemble's score.
    The released recipe (`--bier_preset authors`) is another one: additive boosting by small steps, the penalty as a
    mean over input units with lambda_w 1e5 (with the paper's sums, 100 is as strong), groups weighted by their size.
    Adam's steps of the regressors do not depend on lambda_div: `--bier_adversarial_lr` sets their pace.
    As in it, a similarity is a mean over the smaller group (paper: the larger), and a batch holds two images a class
    (paper: five to ten). Plain BIER starts from decorrelated groups (`--bier_prefit_steps`), A-BIER as Glorot does.
"""

from __future__ import annotations

from utilities.flags import early  # noqa: F401 - first: answers --help in a moment

# isort: split

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import parameters
from architectures.embedding import EmbeddingNetwork
from criteria import CRITERIA
from criteria.binomial import group_sizes, learner_weights
from criteria.decorrelation import BELOW_ZERO, decorrelated_start
from datasets.base import RetrievalDataset
from datasets.batches.samplers import ClassBalancedBatches
from datasets.open import open_data
from utilities import seeding
from utilities.batch import Batch, IndexBatches
from utilities.errors import main_guard
from utilities.flags.settings import Settings
from utilities.parallel.distributed import broadcast, gather_rows
from utilities.tensors.labels import PairRule
from utilities.training import engine
from utilities.training.method import Method, at_own_rate


class BIER(Method):
    name = "bier"
    below_zero = BELOW_ZERO["bier"]
    prefitted: Tensor  # () bool

    def __init__(self, args: Settings, train: RetrievalDataset) -> None:
        super().__init__(seed=args.random_seed)
        self.args = args
        self.relation = PairRule(args.label_relation, args.positive_threshold, args.negative_threshold)
        sizes = args.bier_sizes or group_sizes(args.sz_embedding, args.bier_groups)
        groups = {f"group{m}": size for m, size in enumerate(sizes, start=1)}
        alpha = learner_weights(len(sizes)).sqrt() if args.bier_test_weights == "alpha" else torch.tensor(sizes) * 1.0
        self.network = EmbeddingNetwork.from_settings(
            args,
            train.bands,
            heads=groups,
            head_weights=dict(zip(groups, alpha.tolist(), strict=True)),
            head_init="xavier_uniform",
        )
        self.deviance = CRITERIA.build("binomial", args, relation=self.relation)
        self.decorrelation = CRITERIA.build("abier", args, features=self.network.backbone.features, sizes=sizes)
        self.register_buffer("prefitted", torch.tensor(args.bier_prefit_steps == 0))
        self.sampler = ClassBalancedBatches.from_settings(args, train.labels)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.network.features(batch.images)
        groups = [gather_rows(F.normalize(rows)) for rows in self.network.raw(features).values()]
        boosted = self.deviance(groups, gather_rows(batch.labels), gather_rows(batch.indices))
        for m in range(1, len(groups)):
            self.observed[f"boosting_of_positives{m + 1}"] = boosted.positive_weights[m]
            self.observed[f"boosting_of_negatives{m + 1}"] = boosted.negative_weights[m]
        learners = {f"learner{m}": loss for m, loss in enumerate(boosted.losses.unbind(), start=1)}
        return learners | self.decorrelation(features, self.weights())._asdict()

    def weights(self) -> list[Tensor]:
        """The embedding layer's weights, (d_m, features) of each group."""
        return [head.weight for head in self.network.heads.values()]

    def epoch_batches(self, epoch: int) -> IndexBatches:
        if not self.prefitted:
            self.prefit()
        return self.sampler.epoch(epoch)

    def prefit(self) -> None:
        """Minimise the activation loss (Eqs. 4-6) by the embedding layer's weights, the backbone as it stands."""
        start = decorrelated_start(
            self.embed_training_set(self.network.features).to(self.prefitted.device),
            self.weights(),
            steps=self.args.bier_prefit_steps,
            lr=self.args.bier_prefit_lr,
            batch_size=self.args.batch_size,
            generator=seeding.generator("cpu", self.seed, "pre-fit"),
            lambda_weight=self.args.bier_lambda_weight,
            norm_axis="output",  # the released code has the other axis in the adversarial loss alone
            norm_reduction=self.args.bier_norm_reduction,
        )
        for weight, values in zip(self.weights(), start, strict=True):
            weight.data.copy_(broadcast(values))
        self.prefitted.fill_(True)

    def param_groups(self, args: Mapping[str, Any]) -> list[dict[str, Any]]:
        rate = args["bier_adversarial_lr"]
        return at_own_rate(super().param_groups(args), self.decorrelation, name="regressors", lr=rate, weight_decay=0.0)


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    args = parameters.start_run("bier", argv)
    with engine.session(args) as device:
        data = open_data(args, device)
        engine.train(BIER(args, data.train.dataset), data, args, device)


if __name__ == "__main__":
    main()
