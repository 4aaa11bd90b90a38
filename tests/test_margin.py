"""The margin loss in closed form, its boundaries, parity with pytorch-metric-learning; the triplet loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from criteria import CRITERIA
from criteria.margin import MarginLoss
from utilities.batch import Triplets
from utilities.errors import UserError

NONE = torch.empty(0, dtype=torch.int64)


def margin(**changed: Any) -> MarginLoss:
    defaults = {
        "gamma": 0.2,
        "beta": 1.2,
        "nu": 0.0,
        "per_class": False,
        "learn_beta": True,
        "counted": "terms",
        "num_classes": 4,
    }
    return MarginLoss(**{**defaults, **changed})


def triplets_of(*rows: tuple[int, int, int], cls: list[int] | None = None) -> Triplets:
    a, p, n = torch.tensor(rows).T
    return Triplets(a, p, n, torch.full_like(a, -1) if cls is None else torch.tensor(cls))


# Anchor (1, 0) with three (positive, negative), of which the second has no active term:
# .414214 + 0, 0 + 0, .414214 + .634633.
POINTS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0], [0.5**0.5, 0.5**0.5]])
LABELS = one_hot(torch.tensor([0, 0, 1, 0, 1]), 4).bool()
THREE = triplets_of((0, 1, 2), (0, 3, 1), (0, 1, 4), cls=[0, 0, 0])


def random_case(seed: int, count: int = 40, classes: int = 5) -> tuple[Tensor, Triplets, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    embeddings = normalize(torch.randn(count, 6, generator=g), dim=1)
    classes_of = torch.randint(classes, (count,), generator=g)
    a, p, n = torch.randint(count, (3, 200), generator=g)
    kept = (classes_of[a] == classes_of[p]) & (a != p) & (classes_of[a] != classes_of[n])
    a, p, n = a[kept], p[kept], n[kept]
    return embeddings, Triplets(a, p, n, classes_of[a]), one_hot(classes_of, classes).bool(), classes_of


def test_closed_form_counts_both_terms() -> None:
    """1.463060 over three active terms; counting triplets instead of terms would give 0.731530."""
    assert margin()(POINTS, THREE, LABELS).item() == pytest.approx(0.487687, abs=1e-5)


def test_the_releases_divide_by_triplets_with_any_term() -> None:
    """Of three triplets two have a term, one of them both: 1.463060 / 2."""
    assert margin(counted="triplets")(POINTS, THREE, LABELS).item() == pytest.approx(0.731530, abs=1e-5)
    with pytest.raises(UserError, match="margin_counted 'pairs'"):
        margin(counted="pairs")


def test_regulariser_is_the_sum_of_boundaries_over_active_terms() -> None:
    loss = margin(nu=0.1)(POINTS, THREE, LABELS).item()
    assert loss == pytest.approx((1.463060 + 0.1 * 3 * 1.2) / 3, abs=1e-5)


def test_gradient_of_beta_is_one_over_the_active_terms() -> None:
    for row, expected in (((0, 1, 2), -1.0), ((0, 3, 4), 1.0), ((0, 1, 4), 0.0)):
        criterion = margin()
        criterion(POINTS, triplets_of(row), LABELS).backward()
        assert criterion.beta.grad is not None
        assert criterion.beta.grad.item() == pytest.approx(expected)


# With one boundary PML does not divide the regulariser by the active terms, so only nu = 0 compares there.
@pytest.mark.parametrize(("per_class", "nu"), [(False, 0.0), (True, 0.0), (True, 0.1)])
def test_equals_pml(per_class: bool, nu: float) -> None:
    pml = pytest.importorskip("pytorch_metric_learning.losses")
    for seed in range(5):
        embeddings, triplets, labels, classes_of = random_case(seed)
        reference = pml.MarginLoss(margin=0.2, nu=nu, beta=1.2, learn_beta=True, num_classes=5 if per_class else None)
        ours = margin(nu=nu, per_class=per_class, num_classes=5)
        with torch.no_grad():
            values = torch.linspace(0.9, 1.3, 5) if per_class else torch.tensor([1.1])
            reference.beta.copy_(values)
            ours.beta.copy_(values)
        x, y = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
        expected = reference(x, classes_of, indices_tuple=tuple(triplets)[:3])
        found = ours(y, triplets, labels)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
        expected.backward()
        found.backward()
        torch.testing.assert_close(ours.beta.grad, reference.beta.grad, atol=1e-6, rtol=1e-5)
        # PML normalises: compare what is tangential to the sphere.
        tangential = y.grad - (y.grad * y).sum(1, keepdim=True) * y
        torch.testing.assert_close(tangential, x.grad, atol=1e-5, rtol=1e-4)


def test_order_of_triplets_does_not_matter() -> None:
    embeddings, triplets, labels, _ = random_case(0)
    shuffle = torch.randperm(triplets.count, generator=torch.Generator().manual_seed(0))
    criterion = margin(per_class=True, num_classes=5, nu=0.1)
    shuffled = Triplets(*(part[shuffle] for part in triplets))
    torch.testing.assert_close(
        criterion(embeddings, triplets, labels), criterion(embeddings, shuffled, labels), atol=1e-6, rtol=0
    )


def test_boundary_is_that_of_the_class_or_the_mean_over_the_anchors_labels() -> None:
    criterion = margin(per_class=True)
    with torch.no_grad():
        criterion.beta.copy_(torch.tensor([1.0, 2.0, 3.0, 5.0]))
    labels = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 0]]).bool()
    triplets = triplets_of((0, 1, 2), (0, 1, 2), (1, 0, 2), (2, 1, 0), cls=[3, -1, -1, -1])
    assert criterion.boundaries(triplets, labels).tolist() == [5.0, 3.0, 2.5, 2.0]
    criterion.boundaries(triplets, labels)[1:3].sum().backward()
    assert criterion.beta.grad is not None
    assert criterion.beta.grad.tolist() == [0.5, 0.5, 0.5, 0.5]


def test_on_one_hot_labels_the_mean_is_the_class() -> None:
    embeddings, triplets, labels, _ = random_case(1)
    criterion = margin(per_class=True, num_classes=5)
    with torch.no_grad():
        criterion.beta.copy_(torch.linspace(0.9, 1.3, 5))
    classless = Triplets(*triplets[:3], torch.full_like(triplets.anchor, -1))
    assert torch.equal(criterion(embeddings, triplets, labels), criterion(embeddings, classless, labels))


def test_equal_boundaries_are_one_boundary() -> None:
    embeddings, triplets, labels, _ = random_case(2)
    one = margin(nu=0.1)(embeddings, triplets, labels)
    many = margin(nu=0.1, per_class=True, num_classes=5)(embeddings, triplets, labels)
    torch.testing.assert_close(one, many)


@pytest.mark.parametrize("learn_beta", [False, True])
@pytest.mark.parametrize("per_class", [False, True])
def test_beta_is_in_the_state_and_a_parameter_only_when_learned(per_class: bool, learn_beta: bool) -> None:
    criterion = margin(per_class=per_class, learn_beta=learn_beta)
    assert criterion.state_dict()["beta"].shape == ((4,) if per_class else (1,))
    assert isinstance(criterion.beta, nn.Parameter) == learn_beta
    assert len(list(criterion.parameters())) == learn_beta


@pytest.mark.parametrize("name", ["margin", "triplet"])
def test_no_triplet_is_zero_with_a_graph(name: str) -> None:
    criterion = margin(nu=0.1, per_class=True) if name == "margin" else CRITERIA[name](margin=0.1)
    embeddings = POINTS.clone().requires_grad_()
    loss = criterion(embeddings, Triplets(NONE, NONE, NONE, NONE), LABELS)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.item() == 0
    loss.backward()
    assert embeddings.grad is not None
    assert not embeddings.grad.any()


def test_no_active_term_is_zero_with_a_graph_and_without_regulariser() -> None:
    criterion = margin(nu=0.1)
    embeddings = POINTS.clone().requires_grad_()
    loss = criterion(embeddings, triplets_of((0, 3, 2)), LABELS)
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad is not None
    assert not embeddings.grad.any()


@pytest.mark.parametrize("name", ["margin", "triplet"])
def test_duplicates_and_antipodes_have_finite_gradients(name: str) -> None:
    criterion = margin(beta=0.1) if name == "margin" else CRITERIA[name](margin=3.0)
    embeddings = torch.cat([POINTS[:1], POINTS[:1], -POINTS[:1]]).requires_grad_()
    for row in ((0, 1, 2), (0, 2, 1)):
        criterion(embeddings, triplets_of(row), LABELS[:3]).backward()
        assert embeddings.grad is not None
        assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("name", ["margin", "triplet"])
def test_float32_under_autocast(name: str) -> None:
    criterion = margin(per_class=True) if name == "margin" else CRITERIA[name](margin=0.1)
    classless = Triplets(*THREE[:3], torch.full_like(THREE.cls, -1))
    plain = criterion(POINTS, classless, LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(criterion(POINTS, classless, LABELS), plain)
        assert criterion(POINTS.bfloat16(), classless, LABELS).dtype == torch.float32


def test_boundaries_per_class_need_classes() -> None:
    with pytest.raises(UserError, match="num_classes is 0"):
        margin(per_class=True, num_classes=0)


def test_triplet_loss_equals_that_of_torch() -> None:
    embeddings, triplets, labels, _ = random_case(3)
    a, p, n = (embeddings[part] for part in triplets[:3])
    expected = nn.TripletMarginLoss(margin=0.3)(a, p, n)
    found = CRITERIA["triplet"](margin=0.3)(embeddings, triplets, labels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_triplet_loss_in_closed_form() -> None:
    """d_ap = sqrt 2, d_an = 2 and 2 sin(22.5 degrees): [sqrt 2 - 2 + .1]_+ and [sqrt 2 - .765367 + .1]_+."""
    loss = CRITERIA["triplet"](margin=0.1)(POINTS, triplets_of((0, 1, 2), (0, 1, 4)), LABELS)
    assert loss.item() == pytest.approx((0 + 2**0.5 - 0.765367 + 0.1) / 2, abs=1e-5)
