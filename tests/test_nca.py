"""SNDL: the loss against a memory, the memory itself, and the joint classifier."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import hamming_loss
from torch.utils._python_dispatch import TorchDispatchMode

from criteria import CRITERIA
from criteria.bce import JointBCE
from criteria.memory import MemoryBank, _last_occurrence
from criteria.nca import WEIGHTINGS, NeighbourhoodLoss
from tests.oracles import losses
from utilities.errors import UserError

TWINS = {
    "hamming": losses.hamming,
    "jaccard": losses.jaccard,
    "cosine": losses.cosine,
    "overlap": losses.overlap_share,
}


def build(labels, weighting="jaccard", temperature=0.05, margin=0.0, block_size=None) -> NeighbourhoodLoss:
    criterion = NeighbourhoodLoss(weighting=weighting, temperature=temperature, margin=margin, labels=labels)
    if block_size:
        criterion.block_size = block_size
    return criterion


def problem(size: int = 40, width: int = 6, classes: int = 7, dtype=torch.float32):
    """Queries, their rows, a memory and multi-hot labels; image 3 has no label."""
    random = torch.Generator().manual_seed(0)
    memory = F.normalize(torch.randn(size, width, generator=random, dtype=dtype))
    labels = torch.rand(size, classes, generator=random) < 0.3
    labels[3] = False
    indices = torch.tensor([5, 3, 39, 0, 17, 5])
    queries = F.normalize(torch.randn(len(indices), width, generator=random, dtype=dtype))
    return queries, indices, memory, labels


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("margin", [0.0, 0.3])
@pytest.mark.parametrize("block_size", [7, 40, 1000])
def test_equals_the_literal_twin_for_any_block_size(weighting, margin, block_size):
    queries, indices, memory, labels = problem()
    rows = labels.int().tolist()
    expected = losses.nca(
        queries.tolist(),
        indices.tolist(),
        memory.tolist(),
        lambda i, j: TWINS[weighting](rows[i], rows[j]),
        temperature=0.1,
        margin=margin,
    )
    loss = build(labels, weighting, 0.1, margin, block_size)(queries, indices, memory)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_worked_example():
    memory = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    labels = torch.tensor([[1, 0], [1, 0], [0, 1]]).bool()
    loss = build(labels, temperature=1.0)(memory[:1], torch.tensor([0]), memory)
    assert loss.item() == pytest.approx(0.313262, abs=1e-6)


@pytest.mark.parametrize("weighting", ["jaccard", "cosine", "overlap"])
def test_on_one_hot_labels_it_is_nca(weighting):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    rows = F.normalize(torch.randn(24, 5, generator=torch.Generator().manual_seed(1)))
    classes = torch.arange(24) % 4
    reference = losses.NCALoss(softmax_scale=20, distance=distances.CosineSimilarity())(rows, classes)
    got = build(F.one_hot(classes).bool(), weighting)(rows, torch.arange(24), rows)
    torch.testing.assert_close(got, reference)


def test_hamming_on_one_hot_labels_keeps_a_share_for_other_classes():
    labels = torch.eye(5).bool()
    weights = WEIGHTINGS["hamming"](labels, labels)
    torch.testing.assert_close(weights, torch.eye(5) * 2 / 5 + 3 / 5)  # 1 - 2/C between classes


def test_label_weights():
    random = torch.Generator().manual_seed(2)
    labels = torch.rand(12, 9, generator=random) < 0.4
    for name, weigh in WEIGHTINGS.items():
        weights = weigh(labels, labels)
        assert weights.min() >= 0, name
        assert weights.max() <= 1, name
    weights = WEIGHTINGS["hamming"](labels, labels)
    assert torch.equal(weights, weights.T)
    assert torch.equal(weights.diagonal(), torch.ones(12))
    assert not WEIGHTINGS["hamming"](labels, ~labels).diagonal().any()
    expected = [[1 - hamming_loss(a, b) for b in labels.numpy()] for a in labels.numpy()]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_gradcheck(margin):
    queries, indices, memory, labels = problem(dtype=torch.float64)
    criterion = build(labels, "hamming", 0.2, margin, block_size=9)
    assert torch.autograd.gradcheck(lambda e: criterion(e, indices, memory), queries.requires_grad_())


def test_gradient_is_that_of_the_whole_matrix_and_never_reaches_the_memory():
    queries, indices, memory, labels = problem(dtype=torch.float64)
    queries.requires_grad_()
    memory.requires_grad_()
    build(labels, "jaccard", block_size=11)(queries, indices, memory).backward()
    assert memory.grad is None
    whole = queries.detach().clone().requires_grad_()
    logits = (whole @ memory.detach().T / 0.05).scatter(1, indices[:, None], -torch.inf)
    weights = WEIGHTINGS["jaccard"](labels[indices], labels).double()
    related = [0, 2, 3, 4, 5]  # query 1 has no label
    p = (logits.softmax(1) * weights).sum(1)[related]
    (-p.log().sum() / 6).backward()
    torch.testing.assert_close(queries.grad, whole.grad)


def test_a_constant_factor_in_the_weights_shifts_the_loss_only():
    queries, indices, memory, labels = problem()
    criterion = build(labels, "jaccard")
    leaves = [queries.clone().requires_grad_() for _ in range(2)]
    one = criterion(leaves[0], indices, memory)
    criterion.similarity = lambda a, b: 0.25 * WEIGHTINGS["jaccard"](a, b)
    quarter = criterion(leaves[1], indices, memory)
    (one + quarter).backward()
    assert (quarter - one).item() == pytest.approx(math.log(4) * 5 / 6, rel=1e-5)  # 5 of 6 have a relative
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_equal_weights_leave_no_gradient():
    queries, indices, memory, _ = problem()
    queries.requires_grad_()
    build(torch.ones(40, 3).bool())(queries, indices, memory).backward()
    assert queries.grad.abs().max() < 1e-5  # p = 1 whatever the embedding; logits reach 20


@pytest.mark.parametrize("size", [1, 6])
def test_without_relatives_the_loss_is_zero_with_a_graph(size):
    rows = torch.eye(6)[:size].requires_grad_()
    loss = build(torch.eye(6)[:size].bool())(rows, torch.arange(size), rows.detach())
    loss.backward()
    assert loss.item() == 0
    assert not rows.grad.any()


def test_empty_batch_is_zero_with_a_graph():
    queries, indices, memory, labels = problem()
    rows = queries[:0].requires_grad_()
    loss = build(labels)(rows, indices[:0], memory)
    loss.backward()
    assert loss.item() == 0


def test_sharp_temperatures_do_not_underflow():
    """The one relative is antipodal: its term is e^-400 of the largest."""
    memory = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    labels = torch.tensor([[1, 0], [0, 1], [1, 0]]).bool()
    query = memory[:1].clone().requires_grad_()
    loss = build(labels, temperature=0.005, block_size=1)(query, torch.tensor([0]), memory)
    loss.backward()
    assert loss.item() == pytest.approx(400, rel=1e-5)
    torch.testing.assert_close(query.grad, torch.tensor([[400.0, 0.0]]))


@pytest.mark.parametrize(("temperature", "margin"), [(0.05, 0.3), (0.05, 0.9), (0.01, 0.3), (0.01, 2.0), (0.05, 2.0)])
def test_large_margins_keep_their_precision(temperature, margin):
    """p is 1 but for e^-40 and less, which a margin of many temperatures brings back, or does not."""
    memory = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.01], [-1.0, 0.0], [-1.0, 0.1]]))
    labels = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]]).bool()
    query = memory[:1].clone().requires_grad_()
    loss = build(labels, temperature=temperature, margin=margin)(query, torch.tensor([0]), memory)
    loss.backward()
    _, near, far, other = (memory.double() @ memory[0].double()).tolist()
    odds = sum(math.exp((margin + c - near) / temperature) for c in (far, other))
    assert loss.item() == pytest.approx(math.log1p(odds), rel=1e-4)
    assert query.grad[0, 0].item() == pytest.approx(-2 * odds / (1 + odds) / temperature, rel=5e-3)


def test_stays_float32_under_autocast():
    queries, indices, memory, labels = problem()
    criterion = build(labels, "hamming")
    expected = criterion(queries, indices, memory)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(criterion(queries, indices, memory), expected)
    assert criterion(queries.bfloat16(), indices, memory).dtype == torch.float32


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor any operation returns."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.numel())
        return result


def test_no_array_grows_with_batch_times_memory():
    size, batch = 3000, 8
    labels = torch.rand(size, 10) < 0.3
    memory = F.normalize(torch.randn(size, 4))
    queries = memory[:batch].clone().requires_grad_()
    criterion = build(labels, block_size=256)
    with LargestTensor() as seen:
        criterion(queries, torch.arange(batch), memory).backward()
    assert seen.largest == memory.numel()  # the memory seen as a whole, then blocks
    assert batch * 256 <= seen.largest < batch * size


def test_blocks_on_a_cpu_are_what_a_cache_holds():
    size, batch = 5000, 16
    memory = F.normalize(torch.randn(size, 4))
    criterion = build(torch.rand(size, 3) < 0.3)
    with LargestTensor() as seen:
        criterion(memory[:batch].clone().requires_grad_(), torch.arange(batch), memory).backward()
    assert seen.largest == batch * NeighbourhoodLoss.block_size_on_cpu


FULL_SIZE = """
import resource, torch, torch.nn.functional as F
import criteria.nca, criteria.memory
torch.set_num_threads(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
N, d, L, B = 269_695, 128, 43, 256
labels = torch.rand(N, L) < 0.07
bank = criteria.memory.MemoryBank(size=N, width=d, momenta=(0.5,), boundaries=())
loss = criteria.nca.NeighbourhoodLoss(weighting="hamming", temperature=0.05, margin=0.0, labels=labels)
queries = F.normalize(torch.randn(B, d)).requires_grad_()
indices = torch.arange(B) * 1000
loss(queries, indices, bank.rows).backward()
bank.stage(queries, indices)
bank.commit()
assert torch.isfinite(queries.grad).all() and queries.grad.abs().sum() > 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_step_over_bigearthnet_stays_below_one_and_a_half_gigabytes():
    """N = 269,695 patches: bank, labels, forward, backward and update together."""
    root = Path(__file__).resolve().parents[1]
    run = subprocess.run([sys.executable, "-c", FULL_SIZE], cwd=root, capture_output=True, text=True, check=True)
    assert int(run.stdout) * 1024 < 1.5e9  # ru_maxrss is in KiB


def test_wrong_hyper_parameters_are_named():
    labels = torch.eye(3).bool()
    with pytest.raises(UserError, match=r"'tanimoto'.*hamming, jaccard, overlap, cosine"):
        build(labels, "tanimoto")
    with pytest.raises(UserError, match="sndl_temperature 0"):
        build(labels, temperature=0)


def test_labels_are_no_state_and_flags_are_sndl():
    settings = {"sndl_weighting": "hamming", "sndl_temperature": 0.05, "sndl_margin": 0.0}
    criterion = CRITERIA.build("nca", settings, labels=torch.eye(3).bool())
    assert not criterion.state_dict()


# -- memory bank ---------------------------------------------------------------------------


def bank(size=6, width=2, momentum=0.5) -> MemoryBank:
    torch.manual_seed(0)
    return MemoryBank(size=size, width=width, momenta=(momentum,), boundaries=())


def write(memory: MemoryBank, rows, indices) -> None:
    memory.stage(torch.as_tensor(rows, dtype=torch.float32), torch.tensor(indices))
    memory.commit()


def test_rows_are_unit_from_the_start_and_after_updates():
    memory = bank(size=50, width=8)
    torch.testing.assert_close(memory.rows.norm(dim=1), torch.ones(50))
    write(memory, torch.randn(20, 8), list(range(20)))
    torch.testing.assert_close(memory.rows.norm(dim=1), torch.ones(50))


def test_update_is_the_normalised_mean_and_leaves_other_rows_alone():
    memory = bank()
    memory.rows[4] = torch.tensor([1.0, 0.0])
    before = memory.rows.clone()
    write(memory, [[0.0, 1.0]], [4])
    torch.testing.assert_close(memory.rows[4], torch.tensor([0.707107, 0.707107]))
    others = [0, 1, 2, 3, 5]
    assert torch.equal(memory.rows[others], before[others])
    assert memory.coverage().item() == pytest.approx(1 / 6)


def test_of_opposite_rows_the_embedding_stays():
    bank = MemoryBank(size=2, width=3, momenta=[0.5], boundaries=[])
    before = bank.rows.clone()
    bank.stage(-before[:1], torch.tensor([0]))
    bank.commit()
    assert torch.equal(bank.rows[0], -before[0])
    assert torch.equal(bank.rows[1], before[1])


def test_momentum_one_changes_nothing_and_zero_takes_the_embedding():
    kept, taken = bank(momentum=1.0), bank(momentum=0.0)
    before = kept.rows.clone()
    write(kept, [[0.0, 1.0]], [2])
    write(taken, [[0.6, 0.8]], [2])
    torch.testing.assert_close(kept.rows, before)
    torch.testing.assert_close(taken.rows[2], torch.tensor([0.6, 0.8]))


def test_of_duplicates_the_last_counts():
    once, often = bank(), bank()
    write(once, [[0.0, 1.0], [-1.0, 0.0]], [1, 3])
    write(often, [[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], [1, 3, 1, 1])
    assert torch.equal(once.rows, often.rows)
    # so that no device's order of writing matters
    assert _last_occurrence(torch.tensor([1, 3, 1, 1])).tolist() == [3, 1, 3, 3]


def test_nothing_is_written_before_commit_and_nothing_twice():
    memory = bank()
    before = memory.rows.clone()
    embeddings = torch.tensor([[0.0, 1.0]], requires_grad=True)
    memory.stage(embeddings, torch.tensor([0]))
    assert torch.equal(memory.rows, before)
    memory.commit()
    after = memory.rows.clone()
    memory.commit()
    assert torch.equal(memory.rows, after)
    assert not after.requires_grad
    write(memory, torch.zeros(0, 2), [])
    assert torch.equal(memory.rows, after)


def test_momentum_schedule():
    memory = MemoryBank(size=2, width=2, momenta=(0.5, 0.8, 0.9), boundaries=(80, 120))
    expected = {0: 0.5, 79: 0.5, 80: 0.8, 119: 0.8, 120: 0.9, 500: 0.9}
    for epoch, momentum in expected.items():
        memory.set_epoch(epoch)
        assert memory.momentum.item() == pytest.approx(momentum)
    for momenta, boundaries in (((0.5,), (80,)), ((0.5, 0.8, 0.9), (120, 80)), ((0.5, 1.8), (80,))):
        with pytest.raises(UserError, match="memory momenta"):
            MemoryBank(size=2, width=2, momenta=momenta, boundaries=boundaries)


def test_fill_replaces_the_random_start():
    memory = bank()
    memory.fill(torch.full((6, 2), 3.0))
    torch.testing.assert_close(memory.rows, torch.full((6, 2), 0.5**0.5))
    assert memory.coverage().item() == 1


def test_fill_leaves_images_that_could_not_be_embedded_at_their_start():
    memory = bank()
    start = memory.rows.clone()
    memory.fill(torch.tensor([[3.0, 0.0]] * 4 + [[0.0, 0.0]] * 2))
    assert torch.equal(memory.rows[4:], start[4:])
    assert memory.written.tolist() == [True] * 4 + [False] * 2
    torch.testing.assert_close(memory.rows.norm(dim=1), torch.ones(6))


def test_bank_survives_a_restart(tmp_path):
    memory = MemoryBank(size=5, width=3, momenta=(0.5, 0.8), boundaries=(10,))
    memory.set_epoch(10)
    write(memory, torch.randn(2, 3), [0, 4])
    torch.save(memory.state_dict(), tmp_path / "bank.pt")
    restored = MemoryBank(size=5, width=3, momenta=(0.5, 0.8), boundaries=(10,))
    restored.load_state_dict(torch.load(tmp_path / "bank.pt", weights_only=True))
    update = torch.randn(2, 3)
    for each in (memory, restored):
        write(each, update, [4, 1])
    assert all(torch.equal(a, b) for a, b in zip(memory.buffers(), restored.buffers(), strict=True))


def test_backward_after_commit_uses_the_memory_of_the_forward_pass():
    queries, indices, memory_rows, labels = problem()
    gradients = []
    for early in (False, True):
        memory = MemoryBank(size=40, width=6, momenta=(0.0,), boundaries=())
        memory.fill(memory_rows)
        leaf = queries.clone().requires_grad_()
        loss = build(labels)(leaf, indices, memory.rows)
        memory.stage(leaf, indices)
        if early:
            memory.commit()
        loss.backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


# -- joint classifier ----------------------------------------------------------------------


def test_bce_is_the_weighted_mean_over_images_and_labels():
    torch.manual_seed(0)
    criterion = JointBCE(weight=2.0, width=4, num_classes=3)
    raw, labels = 10 * torch.randn(5, 4), torch.rand(5, 3) < 0.5
    logits = raw @ criterion.classifier.weight.T + criterion.classifier.bias
    p = torch.sigmoid(logits)
    expected = -2 * torch.where(labels, p.log(), (1 - p).log()).mean()
    torch.testing.assert_close(criterion(raw, labels), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(criterion(raw, labels), criterion(raw.clone(), labels))
        assert criterion(raw, labels).dtype == torch.float32


def test_bce_of_an_empty_batch_is_zero_with_a_graph():
    criterion = JointBCE(weight=1.0, width=4, num_classes=3)
    loss = criterion(torch.zeros(0, 4), torch.zeros(0, 3).bool())
    loss.backward()
    assert loss.item() == 0
    assert not criterion.classifier.weight.grad.any()


def test_bce_flag():
    assert CRITERIA.build("bce", {"sndl_bce_weight": 1.0}, width=4, num_classes=3).weight == 1.0
