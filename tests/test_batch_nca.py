"""Neighbourhood component analysis within a batch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from criteria.nca import WEIGHTINGS, NeighbourhoodLoss
from criteria.whole_batches.batch_nca import BatchNeighbourhoodLoss
from utilities.errors import UserError


def problem(size: int = 14, classes: int = 6, dtype=torch.float64):
    """Embeddings, multi-hot labels (image 3 has none) and image ids, of which 0 and 5 are the same image."""
    random = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(size, 5, generator=random, dtype=dtype))
    labels = torch.rand(size, classes, generator=random) < 0.3
    labels[3], labels[5] = False, labels[0]
    indices = torch.arange(100, 100 + size)
    indices[5] = indices[0]
    return rows, labels, indices


def literal(rows, labels, indices, weighting, temperature):
    """Loops over the definition."""
    weights = WEIGHTINGS[weighting](labels, labels).tolist()
    total = 0.0
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if indices[j] != indices[i]]
        scores = {j: math.exp(float(rows[i] @ rows[j]) / temperature) for j in others}
        related = sum(weights[i][j] * scores[j] for j in others)
        if related > 0:
            total -= math.log(related / sum(scores.values()))
    return total / len(rows)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_equals_the_definition(weighting, temperature):
    rows, labels, indices = problem()
    criterion = BatchNeighbourhoodLoss(weighting=weighting, temperature=temperature)
    value = criterion(rows, labels, indices).item()
    assert value == pytest.approx(literal(rows, labels, indices, weighting, temperature), abs=1e-6)


def test_value_is_that_of_the_memory_loss_with_the_batch_as_memory():
    rows, labels, _ = problem(dtype=torch.float32)
    own = torch.arange(len(rows))
    memory = NeighbourhoodLoss(weighting="jaccard", temperature=0.1, margin=0.0, labels=labels)
    criterion = BatchNeighbourhoodLoss(weighting="jaccard", temperature=0.1)
    torch.testing.assert_close(criterion(rows, labels, own), memory(rows, own, rows))


def test_gradient_reaches_both_images_of_a_pair():
    rows, labels, indices = problem()
    criterion = BatchNeighbourhoodLoss(weighting="cosine", temperature=0.3)
    weights = WEIGHTINGS["cosine"](labels, labels)
    assert (weights[3] == 0).all()  # the image without labels is in the problem
    rows.requires_grad_()
    assert torch.autograd.gradcheck(lambda r: criterion(r, labels, indices), rows)


def test_on_one_hot_labels_it_is_nca():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    rows, _, _ = problem()
    classes = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3, 3, 0, 1, 2, 3, 0])
    labels = F.one_hot(classes).bool()
    value = BatchNeighbourhoodLoss(weighting="jaccard", temperature=0.2)(rows, labels, torch.arange(len(rows)))
    peer = losses.NCALoss(softmax_scale=1 / 0.2, distance=distances.CosineSimilarity())
    torch.testing.assert_close(value, peer(rows, classes), atol=1e-6, rtol=1e-6)


def test_nothing_related_is_a_zero_with_a_graph():
    rows = F.normalize(torch.randn(3, 4)).requires_grad_()
    criterion = BatchNeighbourhoodLoss(weighting="jaccard", temperature=0.1)
    loss = criterion(rows, torch.eye(3, dtype=torch.bool), torch.arange(3))
    loss.backward()
    assert loss.item() == 0
    assert rows.grad.abs().max() == 0


def test_is_computed_in_float32_under_autocast():
    rows, labels, indices = problem(dtype=torch.float32)
    criterion = BatchNeighbourhoodLoss(weighting="jaccard", temperature=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        inside = criterion(rows, labels, indices)
    torch.testing.assert_close(inside, criterion(rows, labels, indices), rtol=0, atol=0)


@pytest.mark.parametrize(("weighting", "temperature", "named"), [("dice", 0.1, "dice"), ("jaccard", 0.0, "0.0")])
def test_misuse_is_named(weighting, temperature, named):
    with pytest.raises(UserError, match=named):
        BatchNeighbourhoodLoss(weighting=weighting, temperature=temperature)
