"""Losses that take a batch as it is: multi-similarity, contrast by labels, smooth average precision, a classifier."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from criteria.nca import WEIGHTINGS
from criteria.whole_batches.classifier import CosineClassifier
from criteria.whole_batches.mulsupcon import MultiLabelContrast
from criteria.whole_batches.multi_similarity import MultiSimilarityLoss
from criteria.whole_batches.smoothap import SmoothAveragePrecision, _SmoothPrecision
from tests.oracles import losses as literal
from utilities.errors import UserError
from utilities.tensors.labels import PairRule

RELATION = PairRule("jaccard", 0.5, 0.0)
CONSTANTS = {"alpha": 2.0, "beta": 50.0, "base": 0.5, "epsilon": 0.1}
LOSSES = {
    "multi_similarity": MultiSimilarityLoss(relation=RELATION, **CONSTANTS),
    "mulsupcon": MultiLabelContrast(temperature=0.1),
    "smoothap": SmoothAveragePrecision(weighting="jaccard", temperature=0.01, include_query=False),
}
EACH = pytest.mark.parametrize("criterion", LOSSES.values(), ids=LOSSES)


def problem(size: int = 14, classes: int = 5, dtype=torch.float64):
    """Embeddings, multi-hot labels (image 3 has none) and image ids, of which 0 and 5 are the same image."""
    random = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(size, 5, generator=random, dtype=dtype))
    labels = torch.rand(size, classes, generator=random) < 0.3
    labels[3], labels[5] = False, labels[0]
    indices = torch.arange(100, 100 + size)
    indices[5] = indices[0]
    return rows, labels, indices


def one_hot(classes: int, images: int, dtype=torch.float64):
    """As many images of each class, in the order of their classes."""
    numbers = torch.arange(classes).repeat_interleave(images)
    rows = F.normalize(torch.randn(len(numbers), 6, generator=torch.Generator().manual_seed(1), dtype=dtype))
    return rows, numbers, F.one_hot(numbers).bool(), torch.arange(len(numbers))


@pytest.mark.parametrize("relation", [RELATION, PairRule("any_share"), PairRule("identical")], ids=lambda r: r.relation)
@pytest.mark.parametrize("changed", [{}, {"base": 1.0, "epsilon": 0.4}, {"alpha": 5.0, "beta": 10.0}])
def test_multi_similarity_equals_its_definition(relation, changed):
    rows, labels, indices = problem()
    positive, negative = relation.pairs(labels, indices)
    constants = CONSTANTS | changed
    value = MultiSimilarityLoss(relation=relation, **constants)(rows, labels, indices)
    expected = literal.multi_similarity(
        rows.tolist(), lambda i, j: int(positive[i, j]) - int(negative[i, j]), **constants
    )
    assert value.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_mulsupcon_equals_its_definition(temperature):
    rows, labels, indices = problem()
    sets = [set(row.nonzero().ravel().tolist()) for row in labels]
    value = MultiLabelContrast(temperature=temperature)(rows, labels, indices).item()
    expected = literal.mulsupcon(rows.tolist(), sets, indices.tolist(), temperature=temperature)
    assert value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize(
    "options", [{"temperature": 0.01, "include_query": False}, {"temperature": 0.2, "include_query": True}]
)
def test_smoothap_equals_its_definition_also_block_by_block(weighting, options, monkeypatch):
    rows, labels, indices = problem()
    grades = WEIGHTINGS[weighting](labels, labels).double().tolist()
    criterion = SmoothAveragePrecision(weighting=weighting, **options)
    value = criterion(rows.requires_grad_(), labels, indices)
    expected = literal.smooth_ap(rows.tolist(), lambda i, j: grades[i][j], indices.tolist(), **options)
    assert value.item() == pytest.approx(expected, abs=1e-9)
    whole = torch.autograd.grad(value, rows)
    monkeypatch.setitem(_SmoothPrecision.block_elements, True, 3 * len(rows) ** 2)
    blocks = criterion(rows, labels, indices)
    torch.testing.assert_close(blocks, value)
    torch.testing.assert_close(torch.autograd.grad(blocks, rows), whole)


def test_on_one_hot_labels_multi_similarity_is_that_of_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    miners = pytest.importorskip("pytorch_metric_learning.miners")
    rows, classes, labels, indices = one_hot(4, 3)
    value = LOSSES["multi_similarity"](rows, labels, indices)
    pairs = miners.MultiSimilarityMiner(epsilon=0.1)(rows, classes)
    torch.testing.assert_close(value, losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)(rows, classes, pairs))
    assert value < losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)(rows, classes), "mining leaves pairs out"


def test_on_one_hot_labels_mulsupcon_is_supcon_of_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    rows, classes, labels, indices = one_hot(4, 3)
    classes[0] = 4  # alone in its class: no positive, no term
    labels = F.one_hot(classes).bool()
    value = MultiLabelContrast(temperature=0.2)(rows, labels, indices)
    torch.testing.assert_close(value, losses.SupConLoss(temperature=0.2)(rows, classes))


def test_on_one_hot_labels_smoothap_is_that_of_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    rows, classes, labels, indices = one_hot(4, 4, torch.float32)  # theirs takes as many classes as images of each
    criterion = SmoothAveragePrecision(weighting="jaccard", temperature=0.05, include_query=True)
    torch.testing.assert_close(criterion(rows, labels, indices), losses.SmoothAPLoss(temperature=0.05)(rows, classes))


def test_smoothap_of_a_low_temperature_is_average_precision():
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])  # of one query: related, not, related, not
    rows = torch.stack([torch.ones(5), torch.tensor([0.0, *(1 - scores**2).sqrt()])], 1)
    rows[1:, 0] = scores
    labels = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]).bool()
    criterion = SmoothAveragePrecision(weighting="jaccard", temperature=1e-4, include_query=False)
    of_queries = (1 + 2 / 3) / 2, (1 / 2 + 2 / 4) / 2, (1 / 2 + 2 / 4) / 2  # rows 0, 1 and 3; 2 and 4 are alone
    assert 1 - criterion(rows, labels, torch.arange(5)).item() == pytest.approx(sum(of_queries) / 3, abs=1e-5)


def test_mulsupcon_pulls_harder_at_what_shares_more_labels():
    labels = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 0, 1]]).bool()
    rows = F.normalize(torch.ones(3, 4, dtype=torch.float64) + torch.eye(3, 4)).requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES["mulsupcon"](rows, labels, torch.arange(3)), rows)
    assert (gradient[0] @ rows[1]) < (gradient[0] @ rows[2]), "descent moves image 0 more towards its equal"


def test_the_classifier_equals_its_definition():
    rows, labels, indices = problem(dtype=torch.float32)
    criterion = CosineClassifier(temperature=0.2, width=rows.shape[1], num_classes=labels.shape[1])
    with torch.no_grad():
        criterion.classifier.weight.mul_(7)  # only their directions count
    vectors, biases = criterion.classifier.weight.tolist(), criterion.classifier.bias.tolist()
    value = criterion(rows, labels, indices)
    expected = literal.cosine_bce(rows.tolist(), labels.tolist(), vectors, biases, temperature=0.2)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(criterion(rows, labels, indices), value, rtol=0, atol=0)
    assert criterion(rows.bfloat16(), labels, indices).dtype == torch.float32


def test_the_classifier_brings_images_of_like_labels_together_without_pairs():
    rows, labels, indices = problem(dtype=torch.float32)
    rows = rows.requires_grad_()
    torch.manual_seed(0)
    criterion = CosineClassifier(temperature=0.1, width=rows.shape[1], num_classes=labels.shape[1])
    optimizer = torch.optim.Adam([rows, *criterion.parameters()], 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        criterion(F.normalize(rows), labels, indices).backward()
        optimizer.step()
    cosines = F.normalize(rows.detach()) @ F.normalize(rows.detach()).T
    alike, off = WEIGHTINGS["jaccard"](labels, labels), ~torch.eye(len(rows), dtype=torch.bool)
    assert cosines[(alike == 1) & off].mean() > 0.9
    assert cosines[(alike == 0) & off].mean() < 0.2


@EACH
def test_gradient_reaches_both_images_of_a_pair(criterion):
    rows, labels, indices = problem()
    if isinstance(criterion, SmoothAveragePrecision):  # steep: finite differences need it smoother
        criterion = SmoothAveragePrecision(weighting="jaccard", temperature=0.3, include_query=False)
    assert torch.autograd.gradcheck(lambda r: criterion(r, labels, indices), rows.requires_grad_())


@EACH
@pytest.mark.parametrize("case", ["nothing shared", "no labels", "one image", "one image twice"])
def test_without_positives_it_is_a_zero_with_a_graph(criterion, case):
    rows = F.normalize(torch.randn(4, 3))
    labels, indices = torch.eye(4, dtype=torch.bool), torch.arange(4)
    if case == "no labels":
        labels = torch.zeros_like(labels)
    count = {"one image": 1, "one image twice": 2}.get(case, 4)
    if case == "one image twice":
        labels, indices = torch.ones_like(labels), torch.zeros_like(indices)
    rows = rows[:count].requires_grad_()
    loss = criterion(rows, labels[:count], indices[:count])
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(rows.grad, torch.zeros_like(rows))


@EACH
def test_duplicates_and_equal_labels_stay_finite(criterion):
    rows = F.normalize(torch.ones(6, 3)).requires_grad_()
    labels = torch.ones(6, 4, dtype=torch.bool)
    labels[:2, 1:] = False
    loss = criterion(rows, labels, torch.arange(6))
    loss.backward()
    assert loss.isfinite()
    assert rows.grad.isfinite().all()


@EACH
def test_is_computed_in_float32_under_autocast(criterion):
    rows, labels, indices = problem(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = criterion(rows, labels, indices)
    torch.testing.assert_close(inside, criterion(rows, labels, indices), rtol=0, atol=0)
    assert criterion(rows.bfloat16(), labels, indices).dtype == torch.float32


@EACH
def test_order_of_the_batch_does_not_matter(criterion):
    rows, labels, indices = problem()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(criterion(rows[order], labels[order], indices[order]), criterion(rows, labels, indices))


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: MultiSimilarityLoss(relation=RELATION, **(CONSTANTS | {"beta": 0.0})), "--multi_similarity_beta 0.0"),
        (lambda: MultiLabelContrast(temperature=0.0), "--mulsupcon_temperature 0.0"),
        (lambda: CosineClassifier(temperature=0.0, width=2, num_classes=1), "--classifier_temperature 0.0"),
        (
            lambda: SmoothAveragePrecision(weighting="dice", temperature=0.1, include_query=False),
            "--smoothap_weighting 'dice'; choices: hamming, jaccard",
        ),
        (
            lambda: SmoothAveragePrecision(weighting="jaccard", temperature=-1.0, include_query=False),
            "--smoothap_temperature -1.0",
        ),
    ],
)
def test_misuse_is_named(build, named):
    with pytest.raises(UserError, match=named):
        build()
