"""Similarities of label sets and the pairs built on them, against sets of Python."""

import numpy as np
import pytest
import torch
from sklearn.metrics import hamming_loss

from utilities.tensors import labels as relations
from utilities.tensors.labels import PairRule


def random_labels(count: int, classes: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, classes, generator=torch.Generator().manual_seed(seed)) < 0.3


def as_sets(labels: torch.Tensor) -> list[set[int]]:
    return [set(row.nonzero().flatten().tolist()) for row in labels]


LITERAL = {
    "overlap": lambda a, b, size: len(a & b),
    "jaccard": lambda a, b, size: len(a & b) / len(a | b) if a | b else 0.0,
    "cosine": lambda a, b, size: len(a & b) / (len(a) * len(b)) ** 0.5 if a and b else 0.0,
    "hamming": lambda a, b, size: 1 - len(a ^ b) / size,
}


@pytest.mark.parametrize("name", sorted(LITERAL))
def test_similarity_equals_its_definition_on_sets(name):
    a, b = random_labels(23, 7), random_labels(19, 7, seed=1)
    a[3], b[5] = False, False  # images without labels
    expected = [[LITERAL[name](x, y, 7) for y in as_sets(b)] for x in as_sets(a)]
    np.testing.assert_allclose(getattr(relations, name)(a, b), expected, atol=1e-6)


def test_hamming_is_one_minus_scikit_learns_hamming_loss():
    a = random_labels(10, 12)
    ours = relations.hamming(a, a)
    assert ours[2, 7].item() == pytest.approx(1 - hamming_loss(a[2], a[7]), abs=1e-6)


@pytest.mark.parametrize("name", sorted(set(LITERAL) - {"hamming"}))
def test_on_one_hot_labels_every_similarity_but_hamming_is_equality(name):
    classes = torch.randint(5, (30,), generator=torch.Generator().manual_seed(0))
    one_hot = torch.nn.functional.one_hot(classes, 5).bool()
    expected = (classes[:, None] == classes).float()
    assert torch.equal(getattr(relations, name)(one_hot, one_hot), expected)


@pytest.mark.parametrize("relation", relations.RELATIONS)
def test_on_one_hot_labels_every_rule_is_the_single_label_definition(relation):
    classes = torch.randint(5, (30,), generator=torch.Generator().manual_seed(0))
    one_hot = torch.nn.functional.one_hot(classes, 5).bool()
    same, off_diagonal = classes[:, None] == classes, ~torch.eye(30, dtype=torch.bool)
    positive, negative = PairRule(relation).pairs(one_hot)
    assert torch.equal(positive, same & off_diagonal)
    assert torch.equal(negative, ~same)


def test_rules_on_a_worked_example():
    labels = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]).bool()
    positive, negative = PairRule("jaccard", 0.6, 0.0).pairs(labels)
    assert positive.nonzero().tolist() == [[0, 2], [2, 0]]  # 2/3; the pair (0, 1) has 1/2
    assert negative[3].tolist() == [True, True, True, False, False]
    assert not positive[4].any()
    assert not negative[4].any(), "an image without labels says nothing"
    positive, _ = PairRule("any_share").pairs(labels)
    assert positive.sum() == 6
    positive, _ = PairRule("identical").pairs(labels)
    assert not positive.any()


def test_thresholds_leave_an_ignored_band():
    labels = random_labels(40, 6)
    jaccard = relations.jaccard(labels, labels)
    positive, negative = PairRule("jaccard", 0.5, 0.2).pairs(labels)
    usable = labels.any(1)[:, None] & labels.any(1) & ~torch.eye(40, dtype=torch.bool)
    assert torch.equal(positive, (jaccard >= 0.5) & usable)
    assert torch.equal(negative, (jaccard <= 0.2) & usable)
    assert (usable & ~positive & ~negative).any()


def test_two_rows_of_one_image_form_no_pair():
    labels = torch.ones(4, 2, dtype=torch.bool)
    positive, _ = PairRule("jaccard").pairs(labels, torch.tensor([7, 8, 7, 9]))
    assert not positive[0, 2]
    assert not positive[2, 0]
    assert positive[0, 1]


def test_similarities_stay_exact_under_autocast():
    labels = torch.ones(2, 301, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        assert relations.overlap(labels, labels)[0, 1] == 301  # bf16 would say 302
