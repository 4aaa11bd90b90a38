"""The contract of all miners, each against its literal twin, and parity with pytorch-metric-learning."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import normalize, one_hot
from torch.utils._python_dispatch import TorchDispatchMode

from batchminer import MINERS
from batchminer.base import Miner, draw, draw_below, draw_weighted
from batchminer.distance import distance_log_weights
from tests.oracles import miners as oracle
from utilities.batch import Triplets
from utilities.errors import UserError
from utilities.tensors.labels import PairRule

RULE = PairRule("jaccard")
CUTOFFS = {"lower_cutoff": 0.5, "upper_cutoff": 1.4}
HYPER_PARAMETERS: dict[str, dict[str, Any]] = {  # a new miner is tested once its numbers stand here
    "softhard": {"relation": RULE},
    "semihard": {"relation": RULE, "margin": 0.2},
    "distance": {"relation": RULE, **CUTOFFS},
    "random_distance": {"relation": RULE, **CUTOFFS},
    "shared_distance": {"positive": "distance", **CUTOFFS},
    "intra_random": {"with_replacement": False},
    "nearest_beyond": {"relation": RULE, "lower_cutoff": 0.5},
    "multilabel_semihard": {"max_triplets": 5, "coarse_draws": 2},
}
CLASSLESS = {"random_distance", "shared_distance"}  # what positives have in common is not a class

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def build(name: str, **changed: Any) -> Miner:
    return MINERS[name](**{**HYPER_PARAMETERS[name], **changed})


def seeded(seed: int, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def random_batch(count: int, classes: int, dim: int = 8, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings crowded enough for every miner, multi-hot labels of which some rows are empty, image ids of
    which one occurs twice."""
    g = seeded(seed)
    embeddings = normalize(torch.randn(count, dim, generator=g) + 0.5, dim=1)
    labels = torch.rand(count, classes, generator=g) < 1.7 / classes
    indices = torch.arange(count) + 100
    indices[-1], labels[-1] = indices[0], labels[0]
    return embeddings, labels, indices


def one_hot_batch(count: int, classes: int, dim: int = 8, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    embeddings, _, _ = random_batch(count, classes, dim, seed)
    return embeddings, one_hot(torch.arange(count) % classes).bool(), torch.arange(count)


def drawn(miner: Miner, batch: tuple[Tensor, Tensor, Tensor], calls: int) -> Counter[tuple[int, int, int]]:
    """How often each triple comes in so many calls."""
    g = seeded(1)
    return Counter(t for _ in range(calls) for t in oracle.triples(miner(*batch, generator=g)))


def p_value(counts: list[int], probabilities: list[float]) -> float:
    """Of a chi-square test; what is expected less than five times is counted together."""
    scale = sum(counts) / sum(probabilities)
    cells = [(c, p * scale) for c, p in zip(counts, probabilities, strict=True)]
    large, small = ([c for c in cells if (c[1] >= 5) == is_large] for is_large in (True, False))
    observed, expected = sum(c for c, _ in small), sum(e for _, e in small)
    assert observed <= 10 + 4 * expected, f"{observed} draws of what is expected {expected} times"
    if expected >= 1:
        large.append((observed, expected))
    if len(large) < 2:
        return 1.0
    counts, shares = zip(*large, strict=True)
    return stats.chisquare(counts, [s * sum(counts) / sum(shares) for s in shares]).pvalue


# --- the contract -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MINERS.names())
def test_triplets_are_valid(name: str, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    found = 0
    for seed in range(5):
        embeddings, labels, indices = (t.to(device) for t in random_batch(40, 8, seed=seed))
        embeddings.requires_grad_()
        triplets = build(name)(embeddings, labels, indices, seeded(seed, device))
        found += triplets.count
        a, p, n, cls = triplets
        for part in triplets:
            assert part.shape == (triplets.count,)
            assert part.dtype == torch.int64
            assert part.device == embeddings.device
            assert not part.requires_grad
        for first, second in ((a, p), (a, n), (p, n)):
            assert (first != second).all()
            assert (indices[first] != indices[second]).all()
        assert labels[torch.cat([a, p, n])].any(1).all()
        if name in CLASSLESS:
            assert (cls == -1).all()
        else:
            assert labels[a, cls].all()
            assert labels[p, cls].all()
    assert found > 20, "the test says nothing without triplets"


@pytest.mark.parametrize("name", MINERS.names())
def test_equal_generators_give_equal_triplets(name: str) -> None:
    batch = random_batch(40, 8)
    torch.manual_seed(1)
    first = build(name)(*batch, generator=seeded(7))
    torch.manual_seed(2)
    second = build(name)(*batch, generator=seeded(7))
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("name", MINERS.names())
def test_order_of_the_batch_does_not_matter(name: str) -> None:
    """Mining a shuffled batch draws from the same distribution over (anchor, negative)."""
    batch = random_batch(14, 4, seed=3)
    shuffle = torch.randperm(14, generator=seeded(5))
    straight = Counter((a, n) for a, _, n in drawn(build(name), batch, 150).elements())
    mixed = Counter(
        (int(shuffle[a]), int(shuffle[n]))
        for a, _, n in drawn(build(name), tuple(t[shuffle] for t in batch), 150).elements()
    )
    assert straight
    frequent = [key for key in straight | mixed if straight[key] + mixed[key] >= 20]
    rare = [sum(c[key] for key in c if key not in frequent) for c in (straight, mixed)]
    table = [
        [c[key] for key in frequent] + ([r] if sum(rare) else []) for c, r in zip((straight, mixed), rare, strict=True)
    ]
    assert stats.chi2_contingency(table).pvalue > 1e-4


def same_images() -> tuple[Tensor, Tensor, Tensor]:
    embeddings, labels, _ = random_batch(12, 3)
    return embeddings, labels, torch.zeros(12, dtype=torch.int64)


def antipodal() -> tuple[Tensor, Tensor, Tensor]:
    embeddings, labels, _ = random_batch(6, 3)
    return torch.cat([embeddings, -embeddings]), torch.cat([labels, labels.flip(0)]), torch.arange(12)


DEGENERATE = {
    "no image": lambda: tuple(t[:0] for t in random_batch(5, 3)),
    "one image": lambda: tuple(t[:1] for t in random_batch(5, 3)),
    "two images": lambda: tuple(t[:2] for t in random_batch(5, 3)),
    "three images": lambda: tuple(t[:3] for t in random_batch(5, 3)),
    "one class": lambda: (random_batch(12, 3)[0], torch.ones(12, 1, dtype=torch.bool), torch.arange(12)),
    "a class each": lambda: (random_batch(12, 3)[0], torch.eye(12).bool(), torch.arange(12)),
    "no label": lambda: (random_batch(12, 3)[0], torch.zeros(12, 3, dtype=torch.bool), torch.arange(12)),
    "every label": lambda: (random_batch(12, 3)[0], torch.ones(12, 3, dtype=torch.bool), torch.arange(12)),
    "one image in every row": same_images,
    "equal embeddings": lambda: (normalize(torch.ones(12, 8), dim=1), *one_hot_batch(12, 3)[1:]),
    "antipodal embeddings": antipodal,
    "one dimension": lambda: (torch.ones(12, 1), *one_hot_batch(12, 3)[1:]),
    "two dimensions": lambda: one_hot_batch(12, 3, dim=2),
    "three dimensions": lambda: one_hot_batch(12, 3, dim=3),
    "many dimensions": lambda: one_hot_batch(12, 3, dim=4096),
    "bfloat16": lambda: (random_batch(12, 3)[0].bfloat16(), *random_batch(12, 3)[1:]),
    "float16": lambda: (random_batch(12, 3)[0].half(), *random_batch(12, 3)[1:]),
    "float labels": lambda: (random_batch(12, 3)[0], random_batch(12, 3)[1].float(), torch.arange(12)),
}
EMPTY = {"no image", "one image", "two images", "no label", "one image in every row"}


@pytest.mark.parametrize("situation", DEGENERATE)
@pytest.mark.parametrize("name", MINERS.names())
def test_degenerate_batches(name: str, situation: str) -> None:
    embeddings, labels, indices = DEGENERATE[situation]()
    triplets = build(name)(embeddings, labels, indices, seeded(0))
    a, p, n, cls = triplets
    assert all(part.dtype == torch.int64 for part in triplets)
    if situation in EMPTY:
        assert triplets.count == 0
    for first, second in ((a, p), (a, n), (p, n)):
        assert (indices[first] != indices[second]).all()
    assert name in CLASSLESS or labels.bool()[a, cls].all()


@pytest.mark.parametrize("name", MINERS.names())
def test_mines_under_autocast_as_without(name: str) -> None:
    batch = random_batch(40, 8)
    plain = build(name)(*batch, generator=seeded(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = build(name)(*batch, generator=seeded(0))
    assert all(map(torch.equal, plain, autocast))


class Recorder(TorchDispatchMode):
    """Counts what makes a device wait for the host, and remembers the largest tensor in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        if name in {"nonzero", "_local_scalar_dense", "is_nonzero", "masked_select", "unique", "equal"}:
            self.waits.append(name)
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("name", MINERS.names())
def test_waits_only_for_the_number_of_triplets(name: str) -> None:
    with Recorder() as recorder:
        build(name)(*random_batch(40, 8), generator=seeded(0))
    first = {
        "semihard": ["nonzero"],
        "multilabel_semihard": ["_local_scalar_dense"],
    }  # the number of positives
    assert recorder.waits == [*first.get(name, []), "nonzero"]


@pytest.mark.parametrize("name", ["semihard", "multilabel_semihard"])
def test_memory_stays_far_below_all_triples(name: str) -> None:
    changed = {"max_triplets": 100, "coarse_draws": 3} if name == "multilabel_semihard" else {}
    with Recorder() as recorder:
        build(name, **changed)(*random_batch(512, 20), generator=seeded(0))
    assert recorder.largest <= 2**25, "(B, B, B) bools would be 2**27 bytes"


# --- drawing ------------------------------------------------------------------------------------------------


def test_draw_is_uniform_over_the_true_columns() -> None:
    mask = torch.tensor([True, False, True, True, False])
    counts = draw(mask.expand(30000, -1), seeded(0))[0].bincount(minlength=5).tolist()
    assert counts[1] == counts[4] == 0
    assert p_value([counts[0], counts[2], counts[3]], [1, 1, 1]) > 1e-3


def test_draw_below_is_uniform_and_stays_below(monkeypatch: pytest.MonkeyPatch) -> None:
    assert p_value(draw_below(torch.full((30000,), 7), seeded(0)).bincount().tolist(), [1] * 7) > 1e-3
    count = torch.arange(2**20)
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, 1 - 2**-24))  # the largest there is
    assert torch.equal(draw_below(count, None), (count - 1).clamp(min=0))


def test_rows_without_candidate_are_said_to_have_none() -> None:
    mask = torch.tensor([[False, False], [False, True]])
    column, found = draw(mask, seeded(0))
    assert found.tolist() == [False, True]
    assert column[1] == 1
    assert column[0] in (0, 1)
    column, found = draw_weighted(torch.zeros(2, 2).where(mask, -torch.inf), seeded(0))
    assert found.tolist() == [False, True]
    assert column[1] == 1


def test_draw_weighted_is_the_softmax() -> None:
    log_weights = torch.tensor([0.0, 1.0, -torch.inf, -2.0]) + 300
    counts = draw_weighted(log_weights.expand(100000, -1), seeded(0))[0].bincount(minlength=4).tolist()
    probabilities = log_weights.softmax(0).tolist()
    assert counts[2] == 0
    assert p_value([counts[i] for i in (0, 1, 3)], [probabilities[i] for i in (0, 1, 3)]) > 1e-3


# --- each miner against its definition ----------------------------------------------------------------------

BATCHES = {
    "multi-label": (lambda: random_batch(14, 4, seed=3), "jaccard"),
    "multi-label, any shared": (lambda: random_batch(14, 4, seed=3), "any_share"),
    "multi-label, identical": (lambda: random_batch(14, 4, seed=3), "identical"),
    "one-hot": (lambda: one_hot_batch(12, 4), "jaccard"),
}


@pytest.fixture(params=BATCHES)
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    make, relation = BATCHES[request.param]
    embeddings, labels, indices = batch = make()
    sets, images = oracle.label_sets(labels), indices.tolist()
    related = oracle.related(sets, images, relation)
    if request.param == "one-hot":  # the single-label definition is another one, and the same
        related = oracle.related_by_class([next(iter(s)) for s in sets])
    return {
        "batch": batch,
        "rule": PairRule(relation),
        "d": oracle.distances(embeddings),
        "sets": sets,
        "images": images,
        "related": related,
        "one-hot": request.param == "one-hot",
    }


def test_softhard_draws_from_the_hard_pairs(case: dict[str, Any]) -> None:
    expected = oracle.softhard(case["d"], case["related"])
    counts = drawn(build("softhard", relation=case["rule"]), case["batch"], 400)
    assert {a for a, _, _ in counts} == set(expected)
    for a, (positives, negatives) in expected.items():
        ps, ns = (Counter(t[i] for t in counts.elements() if t[0] == a) for i in (1, 2))
        assert set(ps) == positives
        assert set(ns) == negatives
        assert p_value(list(ps.values()), [1] * len(ps)) > 1e-4
        assert p_value(list(ns.values()), [1] * len(ns)) > 1e-4
        assert ps.total() == 400, "one triplet per anchor"


def test_semihard_draws_from_the_band(case: dict[str, Any]) -> None:
    expected = oracle.semihard(case["d"], case["related"], 0.2)
    counts = drawn(build("semihard", relation=case["rule"]), case["batch"], 200)
    assert {(a, p) for a, p, _ in counts} == set(expected)
    for (a, p), negatives in expected.items():
        found = {n: counts[a, p, n] for n in negatives}
        assert sum(found.values()) == 200, "one triplet per pair"
        assert p_value(list(found.values()), [1] * len(found)) > 1e-4


@pytest.mark.parametrize("upper", [1.1, 1.4, 3.0])
def test_distance_draws_by_inverse_density(case: dict[str, Any], upper: float) -> None:
    counts = drawn(build("distance", relation=case["rule"], upper_cutoff=upper), case["batch"], 200)
    for a, (positives, negatives) in enumerate(case["related"]):
        probabilities = oracle.distance_probabilities({n: case["d"][a][n] for n in negatives}, 8, 0.5, upper)
        found = Counter(n for b, _, n in counts.elements() if b == a)
        if not positives or not probabilities:
            assert not found
            continue
        assert found.total() == 200
        assert set(found) <= set(probabilities)
        assert p_value([found[n] for n in probabilities], list(probabilities.values())) > 1e-4
        ps = Counter(p for b, p, _ in counts.elements() if b == a)
        assert set(ps) == positives


def test_multilabel_semihard_without_cap_is_all_misordered_triples(case: dict[str, Any]) -> None:
    fine, coarse = oracle.multilabel_semihard(case["d"], case["sets"], case["images"])
    miner = build("multilabel_semihard", max_triplets=10**4, coarse_draws=500)
    assert drawn(miner, case["batch"], 1) == Counter(fine | coarse)
    assert bool(fine) != case["one-hot"]
    only_fine = build("multilabel_semihard", max_triplets=10**4, coarse_draws=0)
    assert drawn(only_fine, case["batch"], 1) == Counter(fine)


def test_shared_triples_are_pairwise_disjoint(case: dict[str, Any]) -> None:
    expected = oracle.shared(case["sets"], case["images"])
    for positive in ("random", "distance"):
        found = set(drawn(build("shared_distance", positive=positive, upper_cutoff=3.0), case["batch"], 200))
        assert found <= expected
        assert {a for a, _, _ in found} == {a for a, _, _ in expected}


def test_intra_triples_are_of_one_class(case: dict[str, Any]) -> None:
    embeddings, labels, _ = case["batch"]
    g = seeded(0)
    found = Counter(
        (*t, c)
        for _ in range(600)
        for triplets in [build("intra_random")(embeddings, labels, None, g)]
        for t, c in zip(oracle.triples(triplets), triplets.cls.tolist(), strict=True)
    )
    assert set(found) == oracle.intra(case["sets"])
    per_class = Counter(c for *_, c in found.elements())
    assert p_value(list(per_class.values()), [1] * len(per_class)) > 1e-4
    of_one_class = [count for (*_, c), count in found.items() if c == min(per_class)]
    assert p_value(of_one_class, [1] * len(of_one_class)) > 1e-4


def test_nearest_beyond_is_the_authors_choice(case: dict[str, Any]) -> None:
    expected = oracle.nearest_beyond(case["d"], case["related"], 0.5)
    counts = drawn(build("nearest_beyond", relation=case["rule"]), case["batch"], 1)
    assert counts == Counter(expected)


def test_nearest_beyond_parts_a_collapsed_slice() -> None:
    """All embeddings within a cap of 0.1: each anchor still meets negatives, its farthest first."""
    angles = torch.tensor([0.0, 0.02, 0.05, 0.09])
    embeddings = torch.stack([angles.cos(), angles.sin()], 1)
    labels = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]]).bool()
    found = oracle.triples(build("nearest_beyond").mine(embeddings, labels, None, None))
    assert sorted(found) == [(0, 1, 3), (1, 0, 3), (2, 3, 0), (3, 2, 0)]


def test_class_is_uniform_among_the_shared_ones() -> None:
    embeddings = normalize(torch.eye(3) + 0.1, dim=1)
    labels = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 1]]).bool()
    miner = build("softhard")
    g = seeded(0)
    counts = torch.cat([miner(embeddings, labels, None, g).cls for _ in range(300)]).bincount(minlength=5).tolist()
    assert counts[0] == counts[3] == counts[4] == 0
    assert p_value(counts[1:3], [1, 1]) > 1e-4


# --- distance weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "distances", "probabilities"),
    [
        (3, (0.4, 1.0, 2**0.5), (0.539504, 0.269752, 0.190744)),  # 1 / max(d, 0.5)
        (4, (0.5, 1.0, 1.2), (0.671307, 0.187636, 0.141057)),  # d**-2 (1 - d**2 / 4)**-0.5
    ],
)
def test_distance_weights_in_closed_form(
    dim: int, distances: tuple[float, ...], probabilities: tuple[float, ...]
) -> None:
    log_weights = distance_log_weights(torch.tensor(distances), dim, 0.5, 3.0)
    torch.testing.assert_close(log_weights.softmax(0), torch.tensor(probabilities), atol=1e-6, rtol=0)
    counts = draw_weighted(log_weights.expand(100000, -1), seeded(0))[0].bincount().tolist()
    assert p_value(counts, list(probabilities)) > 1e-3


@pytest.mark.parametrize(("distance", "log_weight"), [(1.6, 20.3), (1.8, 123.0), (1.95, 425.0)])
def test_distance_weights_grow_again_beyond_sqrt_two(distance: float, log_weight: float) -> None:
    low = distance_log_weights(torch.tensor(2**0.5), 512, 0.5, 3.0)
    assert low.item() == pytest.approx(-(2**-1) * torch.log(torch.tensor(2.0)).item(), abs=1e-3)
    weight = distance_log_weights(torch.tensor(distance), 512, 0.5, 3.0)
    assert weight.item() == pytest.approx(log_weight, rel=5e-3)


@pytest.mark.parametrize("dim", [1, 2, 3, 16, 512, 4096])
def test_distance_weights_are_finite_on_the_whole_sphere(dim: int) -> None:
    assert distance_log_weights(torch.linspace(0, 2.001, 1000), dim, 0.5, 3.0).isfinite().all()


def test_distance_weights_equal_those_of_pml(monkeypatch: pytest.MonkeyPatch) -> None:
    pml = pytest.importorskip("pytorch_metric_learning.miners")
    embeddings, labels, _ = one_hot_batch(60, 10, dim=16)
    captured = {}

    def capture(*_: Any, weights: Tensor, **__: Any) -> tuple[Tensor, ...]:
        captured["weights"] = weights
        return (torch.zeros(0, dtype=torch.int64),) * 3

    monkeypatch.setattr("pytorch_metric_learning.utils.loss_and_miner_utils.get_random_triplet_indices", capture)
    pml.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4)(embeddings, labels.long().argmax(1))
    pairs = RULE.pairs(labels)
    distances = (embeddings[:, None] - embeddings).norm(dim=2)
    log_weights = distance_log_weights(distances, 16, 0.5, 1.4).masked_fill(~pairs.negative, -torch.inf)
    torch.testing.assert_close(log_weights.softmax(1), captured["weights"], atol=1e-5, rtol=1e-4)


# --- parity of candidate sets with pytorch-metric-learning --------------------------------------------------


def test_semihard_candidates_equal_those_of_pml() -> None:
    pml = pytest.importorskip("pytorch_metric_learning.miners")
    batch = one_hot_batch(24, 6)
    reference = pml.TripletMarginMiner(margin=0.2, type_of_triplets="semihard")
    expected = set(oracle.triples(reference(batch[0], batch[1].long().argmax(1))))
    assert len(expected) > 50
    assert set(drawn(build("semihard"), batch, 300)) == expected


def test_hard_candidates_equal_those_of_pml() -> None:
    """On one-hot labels coarse triplets are the hard ones, and soft-hard mining draws from their sides."""
    pml = pytest.importorskip("pytorch_metric_learning.miners")
    batch = one_hot_batch(24, 6)
    reference = pml.TripletMarginMiner(margin=0.2, type_of_triplets="hard")
    expected = set(oracle.triples(reference(batch[0], batch[1].long().argmax(1))))
    assert len(expected) > 50
    miner = build("multilabel_semihard", max_triplets=10**4, coarse_draws=500)
    assert set(drawn(miner, batch, 1)) == expected
    hard = {a for a, _, _ in expected}
    softhard = [t for t in drawn(build("softhard"), batch, 400) if t[0] in hard]
    assert {(a, p) for a, p, _ in softhard} == {(a, p) for a, p, _ in expected}
    assert {(a, n) for a, _, n in softhard} == {(a, n) for a, _, n in expected}


# --- particulars --------------------------------------------------------------------------------------------


def on_a_circle(*angles: float) -> Tensor:
    angle = torch.tensor(angles)
    return torch.stack([angle.cos(), angle.sin()], 1)


def test_multilabel_semihard_example() -> None:
    """Neighbours B to E of A by distance, sharing 4, 1, 2 and 5 of its labels."""
    labels = torch.tensor([[1] * n + [0] * (5 - n) for n in (5, 4, 1, 2, 5)]).bool()
    batch = (on_a_circle(0, 0.1, 0.2, 0.3, 0.4), labels, torch.arange(5))
    found = drawn(build("multilabel_semihard", max_triplets=100), batch, 1)
    assert {t for t in found if t[0] == 0} == {(0, 3, 2), (0, 4, 1), (0, 4, 2), (0, 4, 3)}


@pytest.mark.parametrize("cap", [1, 2, 3, 7, 50])
def test_multilabel_semihard_keeps_the_farthest_positives(cap: int) -> None:
    batch = random_batch(20, 4, seed=3)
    d, sets = oracle.distances(batch[0]), oracle.label_sets(batch[1])
    fine, coarse = oracle.multilabel_semihard(d, sets, batch[2].tolist())
    miner = build("multilabel_semihard", max_triplets=cap, coarse_draws=500)
    g = seeded(2)
    kept = Counter(oracle.triples(miner(*batch, generator=g)))
    assert max(kept.values()) == 1
    for a in range(20):
        everything = sorted((t for t in fine | coarse if t[0] == a), key=lambda t: -d[a][t[1]])
        mine = sorted((t for t in kept if t[0] == a), key=lambda t: -d[a][t[1]])
        assert set(mine) <= set(everything)
        assert [t[1] for t in mine] == [t[1] for t in everything[:cap]]


def test_multilabel_semihard_cuts_the_last_positive_at_random() -> None:
    """A positive at the far end, six nearer unrelated images, room for two: each is kept one time in 3."""
    labels = torch.tensor([[1, 0], [1, 0]] + [[0, 1]] * 6).bool()
    batch = (on_a_circle(0, 1.0, *(0.1 * i for i in range(1, 7))), labels, torch.arange(8))
    counts = drawn(build("multilabel_semihard", max_triplets=2, coarse_draws=200), batch, 300)
    negatives = {n: count for (a, _, n), count in counts.items() if a == 0}
    assert sum(negatives.values()) == 600
    assert p_value([negatives[n] for n in range(2, 8)], [1] * 6) > 1e-3


def test_multilabel_semihard_coarse_draws_repeat() -> None:
    """Two draws among two images meet one of them half of the time, and a repeat counts once."""
    labels = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]]).bool()
    batch = (on_a_circle(0, 1.0, 0.1, 0.2), labels, torch.arange(4))
    miner = build("multilabel_semihard", max_triplets=10, coarse_draws=2)
    g = seeded(0)
    sizes = Counter(int((miner(*batch, generator=g).anchor == 0).sum()) for _ in range(300))
    assert set(sizes) == {1, 2}
    assert p_value([sizes[1], sizes[2]], [1, 1]) > 1e-3


@pytest.mark.parametrize("name", ["semihard", "multilabel_semihard"])
def test_chunks_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One miner draws a number a pair in the order of pairs, the other before it cuts: chunks see the same ones."""
    batch = random_batch(30, 6)
    whole = drawn(build(name), batch, 30)
    monkeypatch.setattr(f"batchminer.{name}.CHUNK_ELEMENTS", 1)
    assert len(whole) > 100
    assert drawn(build(name), batch, 30) == whole


def test_random_distance_permutes_the_labels() -> None:
    """Of k classes of two images, a positive is of the anchor's class with probability 1 / (2k - 1)."""
    k = 5
    embeddings, labels, indices = one_hot_batch(2 * k, k)
    counts = drawn(build("random_distance", upper_cutoff=3.0), (embeddings, labels, indices), 400)
    true = sum(count for (a, p, _), count in counts.items() if (labels[a] & labels[p]).any())
    assert counts.total() == 400 * 2 * k
    # Triplets of one call are not independent: compare the mean with four standard errors of 400 draws.
    expected = 1 / (2 * k - 1)
    assert true / counts.total() == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 400) ** 0.5)


def test_shared_positive_follows_its_option() -> None:
    """Nine classes; the anchor's nearest image takes nearly all the distance weight in 64 dimensions."""
    g = seeded(0)
    embeddings = normalize(torch.randn(9, 64, generator=g) + 0.3, dim=1)
    embeddings[1] = normalize(embeddings[0] + 0.05 * embeddings[1], dim=0)
    batch = (embeddings, torch.eye(9).bool(), torch.arange(9))
    of = {
        option: drawn(build("shared_distance", positive=option, upper_cutoff=3.0), batch, 200)
        for option in ("random", "distance")
    }
    # The negative is drawn first and is image 1, so the positive is among the seven others.
    assert sum(c for (a, _, n), c in of["distance"].items() if a == 0 and n == 1) > 190
    spread = Counter(p for a, p, _ in of["random"].elements() if a == 0)
    assert p_value([spread[p] for p in range(2, 9)], [1] * 7) > 1e-4
    weights = oracle.distance_probabilities(
        {p: float((embeddings[0] - embeddings[p]).norm()) for p in range(2, 9)}, 64, 0.5, 3.0
    )
    by_distance = Counter(p for a, p, n in of["distance"].elements() if a == 0 and n == 1)
    assert p_value([by_distance[p] for p in weights], list(weights.values())) > 1e-4


def test_the_cut_off_is_of_what_is_drawn_by_distance_weights() -> None:
    """An anchor with one image at 60 and one at 100 degrees, which is 1.53 away: the near one is the negative."""
    angles = torch.tensor([0.0, 60.0, -100.0]).deg2rad()
    batch = (torch.stack([angles.cos(), angles.sin()], 1), torch.eye(3).bool(), torch.arange(3))
    for option, of_the_first in (("random", {(0, 2, 1): 50}), ("distance", {})):
        found = drawn(build("shared_distance", positive=option), batch, 50)
        assert {t: c for t, c in found.items() if t[0] == 0} == of_the_first
        assert all(anchor == 0 or other == 2 for anchor, other, _ in found), "no negative is beyond 1.4"
    found = drawn(build("shared_distance", positive="distance", upper_cutoff=3.0), batch, 50)
    assert sum(count for t, count in found.items() if t[0] == 0) == 50


def test_intra_with_replacement_draws_any_member() -> None:
    """Two images a class: all three draws agree one time in four; without replacement no triplet."""
    embeddings, labels, indices = one_hot_batch(4, 2)
    assert build("intra_random")(embeddings, labels, indices, seeded(0)).count == 0
    counts = drawn(build("intra_random", with_replacement=True), (embeddings, labels, indices), 200)
    assert counts.total() == 800
    agreeing = sum(c for (a, p, n), c in counts.items() if a == p == n)
    assert p_value([agreeing, 800 - agreeing], [1, 3]) > 1e-4


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("semihard", {"margin": 0.0}, "margin 0.0"),
        ("distance", {"lower_cutoff": 0.0}, "0 < lower < upper"),
        ("distance", {"upper_cutoff": 0.5}, "0 < lower < upper"),
        ("shared_distance", {"positive": "hardest"}, "random, distance"),
        ("nearest_beyond", {"lower_cutoff": 2.5}, "2.5"),
        ("multilabel_semihard", {"max_triplets": 0}, "at least 1"),
    ],
)
def test_impossible_hyper_parameters_are_errors(name: str, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(name, **changed)


def test_a_call_without_images_is_empty_triplets() -> None:
    triplets = build("distance")(torch.empty(0, 8), torch.empty(0, 3, dtype=torch.bool))
    assert isinstance(triplets, Triplets)
    assert triplets.count == 0


def test_the_miner_of_the_readme_mines(monkeypatch):
    monkeypatch.setattr(MINERS, "_classes", dict(MINERS._classes))
    monkeypatch.setattr(MINERS, "_prefixes", dict(MINERS._prefixes))
    _, code = re.findall(r"```python\n(.*?)```", (Path(__file__).parent.parent / "README.md").read_text(), re.S)
    exec(code, {})
    assert MINERS.flags("hardest", {"relation"}) == ["hardest_floor"]
    miner = MINERS.build("hardest", {"hardest_floor": 0.5}, relation=RULE)
    generator = torch.Generator().manual_seed(0)
    embeddings = normalize(torch.randn(24, 3, generator=generator))
    labels = one_hot(torch.arange(24) % 6).bool()
    triplets = miner(embeddings, labels, None, generator)
    assert len(triplets.anchor) > 12
    distances = torch.cdist(embeddings, embeddings)
    for anchor, positive, negative in zip(*triplets[:3], strict=True):
        assert torch.equal(labels[anchor], labels[positive])
        allowed = [j for j in range(24) if j % 6 != anchor % 6 and distances[anchor, j] >= 0.5]
        assert negative == min(allowed, key=lambda j: distances[anchor, j])
