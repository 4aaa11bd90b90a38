"""Boosted binomial deviance against its pairwise twin and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from criteria import CRITERIA
from criteria.binomial import BoostedBinomialDeviance, group_sizes, learner_weights
from tests.oracles import losses
from utilities.errors import UserError
from utilities.tensors.labels import PairRule

PAPER = {
    "beta1": 2.0,
    "beta2": 0.5,
    "negative_cost": 25.0,
    "boosting": "eta",
    "shrinkage": 0.06,
    "include_diagonal": False,
}


def build(relation: str = "jaccard", **changes) -> BoostedBinomialDeviance:
    return BoostedBinomialDeviance(relation=PairRule(relation), **(PAPER | changes))


def batch(size: int = 10, widths=(3, 5, 4), classes: int = 6, seed: int = 0, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)
    groups = [F.normalize(torch.randn(size, d, generator=random, dtype=dtype)) for d in widths]
    labels = torch.rand(size, classes, generator=random) < 0.35
    labels[0] = False  # an image without labels
    return groups, labels


def twin(groups, criterion, relation):
    return losses.boosted_binomial(
        [g.tolist() for g in groups],
        relation,
        beta1=criterion.beta1,
        beta2=criterion.beta2,
        cost=criterion.negative_cost,
        boosting=criterion.boosting,
        shrinkage=criterion.shrinkage,
        include_diagonal=criterion.include_diagonal,
    )


@pytest.mark.parametrize("boosting", ["eta", "additive"])
@pytest.mark.parametrize("include_diagonal", [False, True])
def test_equals_the_pairwise_twin_on_multi_label_batches(boosting, include_diagonal):
    groups, labels = batch()
    images = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 3, 9])  # one image twice

    def relation(i, j):
        if images[i] == images[j] or not labels[i].any() or not labels[j].any():
            return 0
        similarity = losses.jaccard(labels[i].tolist(), labels[j].tolist())
        return 1 if similarity >= 0.5 else -1 if similarity == 0 else 0

    assert {relation(i, j) for i in range(10) for j in range(10)} == {-1, 0, 1}
    criterion = build(boosting=boosting, include_diagonal=include_diagonal)
    got = criterion(groups, labels, images).losses
    assert got.dtype == torch.float32
    assert got.shape == (3,)
    assert got.tolist() == pytest.approx(twin(groups, criterion, relation), rel=2e-5)


@pytest.mark.parametrize("relation", ["jaccard", "any_share", "identical"])
@pytest.mark.parametrize("boosting", ["eta", "additive"])
def test_on_one_hot_labels_it_is_the_single_label_loss(relation, boosting):
    groups, _ = batch(seed=1)
    classes = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 0, 5])
    criterion = build(relation, boosting=boosting)
    expected = twin(groups, criterion, lambda i, j: 1 if classes[i] == classes[j] else -1)
    assert criterion(groups, F.one_hot(classes).bool()).losses.tolist() == pytest.approx(expected, rel=2e-5)


def test_one_learner_is_the_plain_binomial_deviance():
    groups, labels = batch(widths=(4,))
    pairs = PairRule("jaccard").pairs(labels)
    similarity = groups[0] @ groups[0].T
    positive = torch.log1p(torch.exp(-2 * (similarity - 0.5)))[pairs.positive].mean()
    negative = torch.log1p(torch.exp(50 * (similarity - 0.5)))[pairs.negative].mean()
    terms = build()(groups, labels)
    torch.testing.assert_close(terms.losses.sum(), positive + negative)
    assert terms.positive_weights.tolist() == terms.negative_weights.tolist() == [1.0]


@pytest.mark.parametrize(
    ("positive", "cosine", "weight"),
    [(True, 1.0, 0.268941), (True, 0.5, 0.5), (False, 0.0, 1.3888e-11), (False, 1.0, 1.0)],
)
def test_weight_of_the_second_learner(positive, cosine, weight):
    rows = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]])
    labels = torch.eye(2, dtype=torch.bool) if not positive else torch.ones(2, 2, dtype=torch.bool)
    terms = build()([rows, rows], labels)
    got = terms.positive_weights if positive else terms.negative_weights
    assert got.tolist() == pytest.approx([1.0, weight], rel=1e-4)


def test_at_the_boundary_every_learner_pays_ln2_times_its_weight():
    # three vectors at mutual cosine 1/2: deviance ln 2 for every pair, weights 1, then 1/2
    rows = torch.linalg.cholesky(torch.full((3, 3), 0.5) + 0.5 * torch.eye(3))
    labels = torch.tensor([[1, 0], [1, 0], [0, 1]]).bool()
    got = build()([rows, rows, rows], labels).losses
    ln2 = math.log(2)
    assert got.tolist() == pytest.approx([2 * ln2 / 3, ln2 / 3, ln2 / 3], rel=1e-5)
    # two of the five positives counted with the diagonal are off it: positive mass 2/5
    diagonal = build(include_diagonal=True)([rows], labels).losses
    assert diagonal.item() == pytest.approx(ln2 * (2 / 5 + 1), rel=1e-5)


def test_weights_carry_no_gradient():
    groups, labels = batch(dtype=torch.float64)
    leaves = [g.clone().requires_grad_() for g in groups]
    build()(leaves, labels).losses.sum().backward()
    mass = build().pair_mass(PairRule("jaccard").pairs(labels)).double()
    direction = torch.where(PairRule("jaccard").pairs(labels).negative, -25.0, 1.0)
    ensemble = 0
    weights = torch.ones_like(mass)
    for m, (group, leaf) in enumerate(zip(groups, leaves, strict=True), start=1):
        rows = group.clone().requires_grad_()
        activation = 2 * (rows @ rows.T - 0.5) * direction
        (F.softplus(-activation) * weights * mass).sum().div(3).backward()
        torch.testing.assert_close(leaf.grad, rows.grad)
        ensemble = (1 - 2 / (m + 1)) * ensemble + 2 / (m + 1) * activation.detach()
        weights = torch.sigmoid(-ensemble)


def test_gradcheck_of_one_learner():
    groups, labels = batch(size=6, widths=(3,), dtype=torch.float64)
    rows = groups[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda r: build()([r], labels).losses.sum(), rows)


def test_solved_pairs_lose_weight():
    classes = torch.tensor([0, 0, 1, 1])
    labels = F.one_hot(classes).bool()
    solved = F.one_hot(classes).float()
    unsolved = F.one_hot(torch.tensor([0, 1, 0, 1])).float()
    good, bad = build()([solved, solved], labels), build()([unsolved, unsolved], labels)
    assert good.positive_weights[1] < bad.positive_weights[1]
    assert good.negative_weights[1] < bad.negative_weights[1]


@pytest.mark.parametrize(
    "labels",
    [torch.ones(4, 1), torch.eye(4), torch.zeros(4, 3), torch.ones(1, 3), torch.zeros(0, 3)],
    ids=["only positives", "only negatives", "no labels", "one image", "no image"],
)
def test_degenerate_batches_give_a_finite_loss_with_a_graph(labels):
    rows = F.normalize(torch.ones(len(labels), 3)).requires_grad_()  # exact duplicates
    terms = build()([rows, rows], labels.bool())
    terms.losses.sum().backward()
    assert torch.isfinite(terms.losses).all()
    assert torch.isfinite(rows.grad).all()
    if not labels.any() or len(labels) < 2:
        assert terms.losses.tolist() == [0, 0]


def test_stays_float32_under_autocast():
    groups, labels = batch()
    expected = build()(groups, labels).losses
    with torch.autocast("cpu", torch.bfloat16):
        got = build()(groups, labels).losses
    assert torch.equal(got, expected)
    assert build()([g.bfloat16() for g in groups], labels).losses.dtype == torch.float32


def test_no_parameters_and_a_named_choice():
    assert not list(build().parameters())
    with pytest.raises(UserError, match=r"nonsense.*eta, additive"):
        build(boosting="nonsense")
    assert CRITERIA["binomial"] is BoostedBinomialDeviance
    settings = {f"bier_{name}": value for name, value in PAPER.items()}
    built = CRITERIA.build("binomial", settings, relation=PairRule("identical"))
    assert built.negative_cost == 25.0


@pytest.mark.parametrize("count", range(1, 9))
def test_learner_weights_are_those_of_the_recursion(count):
    etas = [2 / (m + 1) for m in range(1, count + 1)]
    expected = [eta * math.prod(1 - later for later in etas[m + 1 :]) for m, eta in enumerate(etas)]
    assert learner_weights(count).tolist() == pytest.approx(expected)
    assert learner_weights(count).sum().item() == pytest.approx(1)


def test_the_recursion_is_the_weighted_mean_of_the_scores_so_far():
    activations = torch.randn(4, 2, 2)
    ensemble = torch.full((2, 2), 99.0)  # forgotten by the first learner
    for m, activation in enumerate(activations, start=1):
        ensemble = build().boost(ensemble, activation, m)
        torch.testing.assert_close(ensemble, torch.tensordot(learner_weights(m), activations[:m], 1))


def test_group_sizes():
    assert group_sizes(512, 3) == [85, 171, 256]
    assert group_sizes(512, 1) == [512]
    for width in range(6, 40):
        sizes = group_sizes(width, 3)
        assert sum(sizes) == width
        assert sizes == sorted(sizes)
    with pytest.raises(UserError, match="4 dimensions"):
        group_sizes(4, 4)


def test_root_weighted_groups_make_inner_products_the_ensemble_score():
    groups, _ = batch(widths=(2, 3, 3))  # two groups of equal size
    alpha = learner_weights(3)
    embedded = torch.cat([a.sqrt() * g for a, g in zip(alpha, groups, strict=True)], 1)
    score = sum(a * g @ g.T for a, g in zip(alpha, groups, strict=True))
    torch.testing.assert_close(embedded @ embedded.T, score)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(10))
