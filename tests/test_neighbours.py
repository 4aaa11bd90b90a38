"""Exact neighbours: equal to rational arithmetic, whatever the backend, the block size and the input."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch

from tests.oracles.metrics import nearest
from utilities.errors import UserError
from utilities.neighbours import search as neighbours
from utilities.neighbours.exact import float32_error, on_grid, squared_distances, squared_lengths
from utilities.neighbours.products import RoundedRows, centre_of, fastest_kind, products_in, score_error
from utilities.neighbours.search import resolve_backend, search

CPU = torch.device("cpu")


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows.double(), dim=1).float()


def awkward(width: int = 6) -> torch.Tensor:
    """Unit rows with duplicates, near duplicates, one-hot rows (many equal distances) and opposite pairs."""
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn(60, width, generator=draw)
    rows[10:20] = rows[0]
    rows[20:30] = rows[1] + 1e-7 * torch.randn(10, width, generator=draw)
    rows[30:42] = torch.eye(width).repeat(2, 1)
    rows[42:48] = -rows[:6]
    return unit(rows)


def installed(backend: str) -> bool:
    return backend == "torch" or importlib.util.find_spec("faiss") is not None


@pytest.fixture(params=["torch", "torch bfloat16", "faiss"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """ "torch bfloat16" multiplies what is rounded to bfloat16, as `auto` does where a processor is fast at it."""
    name, *kind = request.param.split()
    if not installed(name):
        pytest.skip(f"{name} is not installed")
    monkeypatch.setattr(neighbours, "fastest_kind", lambda device: getattr(torch, *kind or ["float32"]))
    return name


def test_equal_to_rational_arithmetic_with_duplicates_and_ties(backend: str) -> None:
    rows = awkward()
    grid = on_grid(rows).tolist()
    own = torch.arange(len(rows))
    for k in (1, 5, 59):
        found = search(rows, rows, k, query_rows=own, backend=backend)
        assert found.indices.tolist() == nearest(grid, grid, k, own.tolist())
        assert (found.distances.diff(dim=1) >= 0).all()


def test_bit_identical_for_every_block_size_and_backend() -> None:
    draw = torch.Generator().manual_seed(2)
    rows = unit(torch.randn(700, 32, generator=draw))
    rows[300:400] = rows[0]  # more duplicates than the margin holds: the exact second search
    own = torch.arange(700)
    reference = search(rows, rows, 8, query_rows=own, backend="torch")
    for backend in filter(installed, ("torch", "faiss")):
        for block_bytes in (1, 100_000, 2**30):
            found = search(rows, rows, 8, query_rows=own, backend=backend, block_bytes=block_bytes)
            assert torch.equal(found.indices, reference.indices)
            assert torch.equal(found.distances, reference.distances)
    parts = [search(rows[a : a + 99], rows, 8, query_rows=own[a : a + 99]) for a in range(0, 700, 99)]
    assert torch.equal(torch.cat([part.indices for part in parts]), reference.indices)


def test_self_is_left_out_by_index_not_by_position(backend: str) -> None:
    rows = unit(torch.randn(40, 8, generator=torch.Generator().manual_seed(3)))
    rows[:] = rows[0]
    found = search(rows, rows, 39, query_rows=torch.arange(40), backend=backend)
    for row, indices in enumerate(found.indices.tolist()):
        assert indices == [other for other in range(40) if other != row]
    assert (found.distances == 0).all()


def test_queries_outside_the_gallery_find_everything(backend: str) -> None:
    rows = unit(torch.randn(30, 8, generator=torch.Generator().manual_seed(4)))
    found = search(rows[:3], rows, 4, backend=backend)
    assert found.indices[:, 0].tolist() == [0, 1, 2]
    mixed = search(rows[:3], rows, 4, query_rows=torch.tensor([-1, 1, -1]), backend=backend)
    assert mixed.indices[:, 0].tolist()[::2] == [0, 2]
    assert 1 not in mixed.indices[1]


def test_collapsed_embedding_is_still_ranked_exactly(backend: str) -> None:
    draw = torch.Generator().manual_seed(5)
    rows = unit(torch.ones(1, 32) + 1e-5 * torch.randn(40, 32, generator=draw))
    own = torch.arange(40)
    grid = on_grid(rows).tolist()
    found = search(rows, rows, 5, query_rows=own, backend=backend)
    assert found.indices.tolist() == nearest(grid, grid, 5, own.tolist())


def adversarial() -> dict[str, torch.Tensor]:
    """Rows that are hard to tell apart, or whose nearest ones are spread over groups and blocks of columns."""
    draw = torch.Generator().manual_seed(10)
    noise = torch.randn(230, 16, generator=draw)
    near = noise[torch.arange(230) % 23] + 1e-6 * torch.randn(230, 16, generator=draw)
    far = torch.tensor([100.0] + [0.0] * 15) + noise  # far from the origin, before they become unit rows
    lengths = 0.991 + 0.018 * torch.rand(230, 1, generator=draw)
    tied = noise.clone()
    tied[[0, 63, 64, 65, 127, 128, 129, 200, 229]] = noise[5]  # exact ties across groups and blocks
    constant = torch.ones(230, 16)
    few = noise[:5]  # below the size of a group
    two = torch.eye(16)[torch.arange(230) % 2]
    rows = {"near": near, "far": far, "tied": tied, "constant": constant, "few": few, "two": two}
    return {name: unit(value) for name, value in rows.items()} | {"not quite unit": unit(noise) * lengths}


@pytest.mark.parametrize("name", adversarial())
@pytest.mark.parametrize("block_bytes", [65_536, 2**30])
def test_adversarial_rows_equal_a_stable_sort_of_exact_distances(name: str, block_bytes: int, backend: str) -> None:
    rows = adversarial()[name]
    grid, own = on_grid(rows), torch.arange(len(rows))
    exact = squared_distances(grid, grid, squared_lengths(grid), squared_lengths(grid))
    exact[own, own] = torch.inf
    order = exact.sort(dim=1, stable=True)
    for k in (1, min(7, len(rows) - 1), len(rows) - 1):
        found = search(rows, rows, k, query_rows=own, backend=backend, block_bytes=block_bytes)
        assert torch.equal(found.indices, order.indices[:, :k])
        assert torch.equal(found.distances, order.values[:, :k].sqrt())
    asked = torch.cat([own[::3], torch.full((2,), -1)])  # not the gallery itself: no products are shared
    found = search(rows[asked], rows, 3, query_rows=asked, backend=backend, block_bytes=block_bytes)
    assert torch.equal(found.indices[: len(own[::3])], order.indices[::3, :3])
    assert int(found.indices[-1, 0]) == int((grid == grid[-1]).all(1).nonzero()[0])


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [1.0, 1e-4])
def test_products_prove_rows_that_are_close_together(
    kind: torch.dtype, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all rows point one way, as an untrained network's: no row is searched again in float64."""
    draw = torch.Generator().manual_seed(11)
    rows = unit(torch.ones(1, 64) + spread * torch.randn(300, 64, generator=draw))
    own = torch.arange(300)
    expected = search(rows, rows, 4, query_rows=own, backend="torch")
    monkeypatch.setattr(neighbours, "fastest_kind", lambda device: kind)
    again: list[int] = []
    whole = neighbours._search_again

    def counted(job, rows, *rest):  # type: ignore[no-untyped-def]
        again.append(len(rows))
        whole(job, rows, *rest)

    monkeypatch.setattr(neighbours, "_search_again", counted)
    found = search(rows, rows, 4, query_rows=own, backend="torch")
    assert again == [0]
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.distances, expected.distances)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["near", "far", "tied", "not quite unit"])
def test_score_error_is_a_bound(kind: torch.dtype, name: str) -> None:
    grid = on_grid(adversarial()[name])
    rounded = RoundedRows(grid, centre_of(grid), kind)
    assert torch.equal(rounded.rows, rounded.rows.to(kind).float())
    with products_in(kind):
        scores = rounded.scores(rounded, slice(0, 230), slice(0, 256), torch.empty(230 * 256))
    assert (scores[:, 230:] == -torch.inf).all()  # what fills up is never near
    exact = squared_distances(grid, grid, squared_lengths(grid), squared_lengths(grid))
    error = score_error(rounded, rounded, kind)
    assert ((scores[:, :230] + exact / 2).abs() <= error[:, None]).all()
    assert (error < (2e-2 if kind == torch.bfloat16 else 1e-5)).all()


def test_the_kind_of_product_is_measured_and_leaves_settings_alone() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        assert fastest_kind(CPU) in (torch.float32, torch.bfloat16)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_grid_moves_less_than_float32_can_tell() -> None:
    rows = unit(torch.randn(50, 128, generator=torch.Generator().manual_seed(6)))
    moved = on_grid(rows)
    assert (moved - rows).abs().max() <= 2**-25
    assert torch.equal(on_grid(moved), moved)
    exact = torch.cdist(rows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert (search(rows, rows, 50).distances - exact.sort(dim=1).values).abs().max() < 1e-7


def test_float64_adds_the_grid_without_rounding() -> None:
    rows = on_grid(unit(torch.randn(40, 300, generator=torch.Generator().manual_seed(7))))
    shuffled = torch.randperm(300, generator=torch.Generator().manual_seed(8))
    one = squared_distances(rows, rows, squared_lengths(rows), squared_lengths(rows))
    other = squared_distances(rows[:, shuffled], rows[:, shuffled], squared_lengths(rows), squared_lengths(rows))
    literal = (rows.double()[:, None] - rows.double()).square().sum(-1)
    assert torch.equal(one, other)
    assert torch.equal(one, literal)


def test_float32_error_is_a_bound() -> None:
    rows = on_grid(unit(torch.randn(400, 512, generator=torch.Generator().manual_seed(9))))
    lengths = squared_lengths(rows)
    exact = squared_distances(rows, rows, lengths, lengths)
    approximate = lengths.float()[:, None] + lengths.float() - 2 * rows @ rows.T
    longest = float(lengths.max().sqrt())
    assert (approximate - exact).abs().max() < float32_error(512, longest, longest) < 2e-4


def test_a_backend_that_lies_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = awkward()
    own = torch.arange(len(rows))
    right = search(rows, rows, 5, query_rows=own, backend="torch")

    def lying(gallery, gpu):  # type: ignore[no-untyped-def]
        def found(queries, count):  # type: ignore[no-untyped-def]
            indices = np.tile(np.arange(count), (len(queries), 1))
            return np.full(indices.shape, 0.5, np.float32), indices

        return found

    def lying_scores(self, other, part, of_other, out):  # type: ignore[no-untyped-def]
        scores = true_scores(self, other, part, of_other, out)
        return scores.masked_fill_(scores > -torch.inf, -0.25)

    true_scores = RoundedRows.scores
    monkeypatch.setattr(neighbours, "_faiss_search", lying)
    monkeypatch.setattr(RoundedRows, "scores", lying_scores)
    for backend in filter(installed, ("torch", "faiss")):
        wrong = search(rows, rows, 5, query_rows=own, backend=backend)
        assert torch.equal(wrong.indices, right.indices)
        assert torch.equal(wrong.distances, right.distances)


@pytest.mark.skipif(not installed("faiss"), reason="faiss is not installed")
def test_faiss_is_given_the_gallery_once_for_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, blocks = [], []

    def counting(gallery: np.ndarray, *, gpu: bool):  # type: ignore[no-untyped-def]
        begun.append(gallery.shape)
        search_block = plain(gallery, gpu=gpu)
        return lambda queries, count: blocks.append(len(queries)) or search_block(queries, count)

    plain = neighbours._faiss_search
    monkeypatch.setattr(neighbours, "_faiss_search", counting)
    rows = unit(torch.randn(50, 8, generator=torch.Generator().manual_seed(3)))
    search(rows, rows, 5, query_rows=torch.arange(50), backend="faiss", block_bytes=16 * 10 * 20)
    assert begun == [(50, 8)]
    assert blocks == [20, 20, 10]


def test_k_is_cut_to_what_can_be_found(backend: str) -> None:
    rows = awkward()[:12]
    assert search(rows, rows, 50, query_rows=torch.arange(12), backend=backend).indices.shape == (12, 11)
    assert search(rows, rows, 50, backend=backend).indices.shape == (12, 12)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (float("nan"), r"2 of 12 gallery embeddings hold NaN.*rows 3, 7"),
        (float("inf"), r"2 of 12 gallery embeddings hold NaN or infinite.*rows 3, 7"),
        (0.0, r"2 of 12 gallery embeddings are zero.*rows 3, 7"),
    ],
)
def test_spoilt_embeddings_are_counted_and_named(spoil: float, message: str) -> None:
    rows = awkward()[:12]
    bad = rows.clone()
    bad[[3, 7]] = spoil
    with pytest.raises(UserError, match=message):
        search(rows, bad, 3)


def test_rows_that_are_not_unit_are_a_programming_error() -> None:
    rows = awkward()[:12]
    with pytest.raises(ValueError, match="1 of 12 gallery embeddings are not of unit length"):
        search(rows, torch.cat([rows[:11], 2 * rows[11:]]), 3)


def test_a_gallery_of_one_image_has_no_neighbours() -> None:
    with pytest.raises(UserError, match="gallery of 1 images, 0 to be found"):
        search(awkward()[:1], awkward()[:1], 3, query_rows=torch.tensor([0]))


def test_unknown_and_missing_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="choices: auto, faiss, faiss-gpu, torch"):
        resolve_backend("annoy", 8)
    monkeypatch.setitem(sys.modules, "faiss", None)  # what Python leaves where an import must fail
    for backend in ("faiss", "faiss-gpu"):
        with pytest.raises(UserError, match="pip install faiss"):
            resolve_backend(backend, 8)
    assert resolve_backend("auto", 8) == resolve_backend("torch", 8) == "torch"


def test_faiss_gpu_asked_for_and_not_there() -> None:
    faiss = pytest.importorskip("faiss")
    if hasattr(faiss, "knn_gpu") and faiss.get_num_gpus():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="faiss sees no GPU"):
        search(awkward(), awkward(), 3, backend="faiss-gpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_equals_cpu() -> None:
    rows = awkward()
    own = torch.arange(len(rows))
    cpu, gpu = (search(rows.to(d), rows.to(d), 5, query_rows=own, backend="torch") for d in ("cpu", "cuda"))
    assert torch.equal(cpu.indices, gpu.indices.cpu())
    assert torch.equal(cpu.distances, gpu.distances.cpu())


def test_precision_settings_are_left_as_found() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        search(awkward(), awkward(), 3, backend="torch")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_progress_counts_every_query(backend: str) -> None:
    rows = torch.cat([awkward(), awkward(), awkward()])
    for k in (3, 100):
        seen: list[int] = []
        search(rows, rows, k, block_bytes=70_000, backend=backend, progress=seen.append)
        assert sum(seen) == 180
        assert len(seen) > 1 or (k, backend) == (3, "faiss")
