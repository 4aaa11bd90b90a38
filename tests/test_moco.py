"""DaNCE and its queue, the momentum encoder, shuffled batch norm; two processes where ranks matter."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from criteria import CRITERIA
from criteria.memory import MemoryBank
from criteria.moco import NO_IMAGE, FastMoCo, MomentumEncoder, shuffle, unshuffle
from tests.oracles import losses
from utilities.errors import UserError
from utilities.tensors.distances import log_inverse_density

AUTHORS = {
    "temperature": 0.1,
    "n_key_batches": 4,
    "lower_cutoff": 0.5,
    "upper_cutoff": 1.4,
    "normalise": "row",
    "weight_in": "logit",
    "exclude_own": False,
}


def build(width: int = 3, batch_size: int = 2, **changes) -> FastMoCo:
    return FastMoCo(width=width, batch_size=batch_size, **(AUTHORS | changes))


def unit(size: int, width: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return F.normalize(torch.randn(size, width, generator=torch.Generator().manual_seed(seed), dtype=dtype))


def filled(size: int = 16, width: int = 6, **changes) -> FastMoCo:
    criterion = build(width=width, n_key_batches=1, batch_size=size, **changes)
    criterion.enqueue(unit(size, width, seed=9), torch.arange(100, 100 + size))
    return criterion


IMAGES = torch.arange(5)


@pytest.mark.parametrize("normalise", ["row", "batch", "none"])
def test_equals_the_literal_twin(normalise):
    criterion = filled(normalise=normalise, upper_cutoff=1.2)
    queries, keys = unit(5, 6, 1), unit(5, 6, 2)
    expected = losses.dance(
        queries.tolist(),
        keys.tolist(),
        criterion.queue.tolist(),
        temperature=0.1,
        lower=0.5,
        upper=1.2,
        normalise=normalise,
    )
    loss = criterion(queries, keys, IMAGES)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("normalise", ["row", "batch", "none"])
def test_an_orthogonal_queue_costs_the_same_whatever_the_weights(normalise):
    criterion = build(width=5, n_key_batches=2, batch_size=2, normalise=normalise)
    criterion.enqueue(torch.eye(5)[1:], torch.arange(1, 5))
    query = torch.eye(5)[:1]
    loss = criterion(query, query, torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log1p(4 * math.exp(-10)), rel=2e-3)  # 1.81583e-4, near 1 - 1
    assert loss.item() == pytest.approx(1.81583e-4, abs=2e-7)


def test_without_weights_it_is_cross_entropy_and_ntxent():
    criterion = filled(weight_in="none")
    queries, keys = unit(5, 6, 1), unit(5, 6, 2)
    loss = criterion(queries, keys, IMAGES)
    logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ criterion.queue.T], 1) / 0.1
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.zeros(5, dtype=torch.int64)))
    i = torch.arange(5)
    negatives = (i.repeat_interleave(16), 5 + torch.arange(16).repeat(5))
    losses = pytest.importorskip("pytorch_metric_learning.losses")  # here: the two processes need not load it
    reference = losses.NTXentLoss(temperature=0.1)(
        queries, indices_tuple=(i, i, *negatives), ref_emb=torch.cat([keys, criterion.queue]), ref_labels=None
    )
    torch.testing.assert_close(loss, reference)


def test_row_weights_sum_to_one_and_batch_weights_over_queries():
    queries = unit(5, 6, 1)
    everything = torch.ones(5, 16).bool()
    torch.testing.assert_close(filled().weights(queries, everything).sum(1), torch.ones(5))
    over_batch = filled(normalise="batch").weights(queries, everything)
    torch.testing.assert_close(over_batch.sum(0), torch.ones(16))
    capped = filled(normalise="none").weights(queries, everything)
    torch.testing.assert_close(capped.amax(1), torch.ones(5))


def test_in_three_dimensions_weights_are_inverse_distances():
    distances = torch.tensor([0.5, 1.0, 1.2, 1.4, 1.9])
    ratio = log_inverse_density(distances, 3).exp() * distances
    torch.testing.assert_close(ratio, torch.ones(5))


@pytest.mark.parametrize("width", [4, 16, 128, 512])
def test_weights_fall_with_distance_between_the_cutoffs(width):
    log_weights = log_inverse_density(torch.linspace(0.5, 1.4, 50), width)
    assert (log_weights.diff() < 0).all()
    expected = [math.log(losses.dance_weight(d, width, 0.5)) for d in (0.6, 1.0)]
    got = log_inverse_density(torch.tensor([0.6, 1.0]), width)
    assert got.tolist() == pytest.approx(expected, rel=1e-4)
    assert torch.isfinite(log_inverse_density(torch.tensor([2.0]), width)).all()


def test_unnormalised_weights_are_zero_beyond_the_cutoff_and_one_at_the_rarest_distance():
    criterion, everything = filled(normalise="none"), torch.ones(1, 16, dtype=torch.bool)
    query = criterion.queue[3:4].clone()
    far = criterion.queue @ query[0] < 1 - 1.4**2 / 2
    weights = criterion.weights(query, everything)[0]
    assert far.any()
    assert torch.equal(weights == 0, far)
    assert weights.max() == 1
    criterion.queue.copy_(-query.expand(16, -1))
    assert not criterion.weights(query, everything).any(), "the whole queue is beyond the cut-off"


def test_queries_in_float64_are_compared_in_float64():
    criterion = filled()
    queries = F.normalize(torch.randn(4, criterion.queue.shape[1], dtype=torch.float64))
    loss = criterion(queries, queries, torch.arange(4))
    assert loss.dtype == torch.float64
    single = criterion(queries.float(), queries.float(), torch.arange(4))
    assert single.item() == pytest.approx(loss.item(), rel=1e-4)


def at_distance(*distances: float) -> torch.Tensor:
    """Unit vectors in the plane at these distances from (1, 0)."""
    cosines = [1 - d * d / 2 for d in distances]
    return torch.tensor([[c, math.sqrt(1 - c * c)] for c in cosines])


def test_cutoffs():
    criterion = build(width=2, n_key_batches=4, batch_size=1)
    criterion.enqueue(at_distance(0.1, 0.5, 1.3, 1.5), torch.arange(4))
    query = torch.tensor([[1.0, 0.0]])
    weights = criterion.weights(query, torch.ones(1, 4).bool())[0]
    assert weights[0].item() == pytest.approx(weights[1].item(), rel=1e-5)  # nearer than 0.5 counts as 0.5
    assert weights[2] > 0
    assert weights[3] == 0


def test_a_queue_beyond_the_cutoff_counts_alike():
    criterion = build(width=2, n_key_batches=4, batch_size=1, exclude_own=True)
    criterion.enqueue(at_distance(1.5, 1.6, 1.7), torch.arange(3))  # one row of the queue is still empty
    compared = torch.tensor([[True, True, False, False], [False] * 4])
    weights = criterion.weights(torch.tensor([[1.0, 0.0]] * 2), compared)
    torch.testing.assert_close(weights[0], torch.tensor([0.5, 0.5, 0.0, 0.0]))
    assert torch.isfinite(weights[1]).all()


def test_the_query_s_own_image_is_left_out_on_request():
    queries, keys = unit(5, 6, 1), unit(5, 6, 2)
    images = torch.tensor([100, 1, 2, 3, 115])  # rows 0 and 15 of the queue
    criterion = filled(exclude_own=True, weight_in="none")
    logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ criterion.queue.T], 1) / 0.1
    assert filled(weight_in="none")(queries, keys, images).item() == pytest.approx(
        (logits.logsumexp(1) - logits[:, 0]).mean().item(), rel=1e-5
    )
    logits[0, 1] = logits[4, 16] = -torch.inf
    expected = (logits.logsumexp(1) - logits[:, 0]).mean()
    torch.testing.assert_close(criterion(queries, keys, images), expected)


def test_rows_not_yet_filled_take_no_part():
    queries, keys = unit(2, 3, 1), unit(2, 3, 2)
    images = torch.arange(2)
    partly, whole = build(n_key_batches=5), build(n_key_batches=1)
    for criterion in (partly, whole):
        criterion.enqueue(unit(2, 3, 3), torch.tensor([7, 8]))
    torch.testing.assert_close(partly(queries, keys, images), whole(queries, keys, images))
    empty = build()
    leaf = queries.clone().requires_grad_()
    loss = empty(leaf, keys, images)
    loss.backward()
    assert loss.item() == 0
    assert not leaf.grad.any()


@pytest.mark.parametrize("normalise", ["row", "batch", "none"])
def test_only_queries_receive_gradient_and_weights_are_constants(normalise):
    criterion = filled(normalise=normalise)
    queries, keys = unit(5, 6, 1).requires_grad_(), unit(5, 6, 2).requires_grad_()
    criterion(queries, keys, IMAGES).backward()
    assert keys.grad is None
    assert not criterion.queue.requires_grad
    weights = criterion.weights(queries, torch.ones(5, 16).bool())
    plain = queries.detach().clone().requires_grad_()
    own = (plain * keys.detach()).sum(1, keepdim=True)
    logits = torch.cat([own, weights * (plain @ criterion.queue.T)], 1) / 0.1
    F.cross_entropy(logits, torch.zeros(5, dtype=torch.int64)).backward()
    torch.testing.assert_close(queries.grad, plain.grad)


@pytest.mark.parametrize("normalise", ["row", "batch", "none"])
def test_duplicates_and_antipodes_are_finite(normalise):
    criterion = build(width=512, n_key_batches=1, batch_size=3, normalise=normalise)
    query = unit(1, 512).requires_grad_()
    criterion.enqueue(torch.cat([query, -query, -query]).detach(), torch.arange(3))
    loss = criterion(query, -query.detach(), torch.tensor([9]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(query.grad).all()
    assert criterion(query[:0], query[:0], torch.zeros(0, dtype=torch.int64)).item() == 0


def test_stays_float32_under_autocast():
    criterion, queries, keys = filled(), unit(5, 6, 1), unit(5, 6, 2)
    expected = criterion(queries, keys, IMAGES)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(criterion(queries, keys, IMAGES), expected)
    assert criterion(queries.bfloat16(), keys.bfloat16(), IMAGES).dtype == torch.float32


@pytest.mark.parametrize("sizes", [[2] * 9, [3, 1, 4, 2, 6, 5], [8, 1], [20, 3], [0, 2]])
def test_queue_is_first_in_first_out(sizes):
    criterion = build(width=3, n_key_batches=4, batch_size=2)
    history, images = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    for step, size in enumerate(sizes):
        keys, ids = unit(size, 3, step), torch.arange(size) + 100 * step
        criterion.stage(keys, ids)
        criterion.commit()
        history, images = torch.cat([history, keys]), torch.cat([images, ids])
        assert len(criterion.queue) == 8
        oldest_first = torch.roll(criterion.queue, -int(criterion.pointer), 0)
        ids_in_order = torch.roll(criterion.queue_images, -int(criterion.pointer))
        held = min(8, len(history))
        assert torch.equal(oldest_first[8 - held :], history[len(history) - held :])
        assert torch.equal(ids_in_order[8 - held :], images[len(images) - held :])
        assert (ids_in_order[: 8 - held] == NO_IMAGE).all()


def test_nothing_enters_the_queue_before_commit_and_backward_may_come_after():
    gradients = []
    for early in (False, True):
        criterion = filled()
        before = criterion.queue.clone()
        queries, keys = unit(5, 6, 1).requires_grad_(), unit(5, 6, 2)
        loss = criterion(queries, keys, IMAGES)
        criterion.stage(keys, IMAGES)
        assert torch.equal(criterion.queue, before)
        if early:
            criterion.commit()
        loss.backward()
        gradients.append(queries.grad)
    pointer = criterion.pointer.clone()
    criterion.commit()  # nothing is staged any more
    assert torch.equal(criterion.pointer, pointer)
    assert torch.equal(criterion.queue[:5], keys)
    assert torch.equal(*gradients)


def test_queue_survives_a_restart(tmp_path):
    one = filled()
    one.enqueue(unit(5, 6, 4), IMAGES)
    torch.save(one.state_dict(), tmp_path / "queue.pt")
    other = build(width=6, n_key_batches=1, batch_size=16)
    other.load_state_dict(torch.load(tmp_path / "queue.pt", weights_only=True))
    for each in (one, other):
        each.enqueue(unit(14, 6, 5), torch.arange(14))
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))


@pytest.mark.parametrize(
    "wrong", [{"normalise": "column"}, {"weight_in": "loss"}, {"temperature": 0.0}, {"n_key_batches": 0}]
)
def test_wrong_hyper_parameters_are_named(wrong):
    with pytest.raises(UserError, match=f"diva_moco_{next(iter(wrong))}"):
        build(**wrong)


def test_flags_are_diva_moco():
    settings = {f"diva_moco_{name}": value for name, value in AUTHORS.items()}
    assert len(CRITERIA.build("fast_moco", settings, width=8, batch_size=5).queue) == 20


# -- momentum encoder ----------------------------------------------------------------------


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, images):
        return {"nce": self.head(self.norm(images))}


def trained(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    network = Network()
    network(torch.randn(8, 3) + seed)
    return network


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_key_network_starts_as_a_copy_of_its_own_without_gradient():
    network = trained()
    encoder = MomentumEncoder(network, momentum=0.9, buffers="average")
    assert same(state(encoder.network), state(network))
    assert not any(p.requires_grad for p in encoder.parameters())
    assert all(p.requires_grad for p in network.parameters())
    nn.init.zeros_(network.head.weight)
    assert encoder.network.head.weight.any()
    assert not encoder(torch.randn(4, 3))["nce"].requires_grad


@pytest.mark.parametrize("buffers", ["average", "copy"])
def test_momentum_one_keeps_and_zero_copies(buffers):
    first, second = trained(0), trained(1)
    second(torch.randn(4, 3))
    kept = MomentumEncoder(first, momentum=1.0, buffers=buffers)
    kept.update(second)
    parameters = dict(kept.network.named_parameters())
    assert all(torch.equal(p, parameters[name]) for name, p in first.named_parameters())
    mean = first.norm.running_mean if buffers == "average" else second.norm.running_mean
    assert torch.equal(kept.network.norm.running_mean, mean)
    assert kept.network.norm.num_batches_tracked == second.norm.num_batches_tracked == 2
    copied = MomentumEncoder(first, momentum=0.0, buffers=buffers)
    copied.update(second)
    assert same(state(copied.network), state(second))


def test_average_after_n_steps():
    first, second = trained(0), trained(1)
    encoder = MomentumEncoder(first, momentum=0.9, buffers="average")
    for _ in range(7):
        encoder.update(second)
    for name in ("head.weight", "norm.running_mean", "norm.running_var"):
        start, end = state(first)[name], state(second)[name]
        expected = 0.9**7 * start + (1 - 0.9**7) * end
        torch.testing.assert_close(state(encoder.network)[name], expected)


def test_train_and_eval_follow_the_owner():
    encoder = MomentumEncoder(trained(), momentum=0.9, buffers="copy")
    owner = nn.ModuleDict({"key": encoder})
    before = encoder.network.norm.running_mean.clone()
    owner.train()
    encoder(torch.randn(8, 3))
    assert not torch.equal(encoder.network.norm.running_mean, before)
    owner.eval()
    assert not encoder.network.norm.training


def test_wrong_encoder_settings_are_named():
    with pytest.raises(UserError, match=r"momentum 1\.5"):
        MomentumEncoder(Network(), momentum=1.5, buffers="copy")
    with pytest.raises(UserError, match=r"'mean'.*average, copy"):
        MomentumEncoder(Network(), momentum=0.5, buffers="mean")


def test_shuffling_and_back_is_the_identity_but_shuffling_is_not():
    rows = torch.arange(20).reshape(10, 2)
    shuffled, permutation = shuffle(rows, torch.Generator().manual_seed(0))
    assert not torch.equal(shuffled, rows)
    assert torch.equal(shuffled, rows[permutation])
    assert torch.equal(unshuffle(shuffled, permutation), rows)


def test_shuffled_keys_come_back_in_order():
    encoder = MomentumEncoder(trained(), momentum=0.9, buffers="copy").eval()
    images = torch.randn(6, 3)
    keys = encoder(images, torch.Generator().manual_seed(3))
    torch.testing.assert_close(keys["nce"], encoder(images)["nce"])


# -- two processes -------------------------------------------------------------------------


def on_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    share = slice(3 * rank, 3 * rank + 3)
    queries, keys, images = (t[share] for t in (unit(6, 4, 1), unit(6, 4, 2), torch.tensor([4, 1, 2, 0, 3, 4])))
    criterion = queue_of_two()
    loss = criterion(queries, keys, images)
    criterion.stage(keys, images)
    criterion.commit()
    bank = bank_of_two()
    bank.stage(keys, images)
    bank.commit()
    shuffled, permutation = shuffle(images, torch.Generator().manual_seed(rank))
    result = {
        "loss": loss,
        "queue": criterion.queue,
        "queue_images": criterion.queue_images,
        "bank": bank.rows,
        "shuffled": shuffled,
        "permutation": permutation,
        "restored": unshuffle(shuffled, permutation),
    }
    torch.save(result, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def queue_of_two() -> FastMoCo:
    criterion = build(width=4, n_key_batches=2, batch_size=6, normalise="batch")
    criterion.enqueue(unit(9, 4, 5), torch.arange(9))
    return criterion


def bank_of_two() -> MemoryBank:
    torch.manual_seed(0)
    return MemoryBank(size=5, width=4, momenta=(0.5,), boundaries=())


def test_two_processes_hold_what_one_with_the_whole_batch_holds(tmp_path):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(on_rank, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    queries, keys, images = unit(6, 4, 1), unit(6, 4, 2), torch.tensor([4, 1, 2, 0, 3, 4])
    criterion, bank = queue_of_two(), bank_of_two()
    loss = criterion(queries, keys, images)
    torch.testing.assert_close((first["loss"] + second["loss"]) / 2, loss)
    for memory in (criterion, bank):
        memory.stage(keys, images)
        memory.commit()
    for name, expected in (
        ("queue", criterion.queue),
        ("queue_images", criterion.queue_images),
        ("bank", bank.rows),
    ):
        assert torch.equal(first[name], expected), name
        assert torch.equal(second[name], expected), name
    assert torch.equal(first["permutation"], second["permutation"])
    together = torch.cat([first["shuffled"], second["shuffled"]])
    assert torch.equal(together, images[first["permutation"]])
    assert torch.equal(torch.cat([first["restored"], second["restored"]]), images)
