"""Binary codes: how they are made, and that Hamming search and every measure are those of a literal count of bits."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from datasets.demo.dataset import Demo
from tests.oracles import metrics as twin
from tests.scripts import run_inside
from utilities.errors import UserError
from utilities.measures.formulae import Relevance, metric_names
from utilities.measures.search_and_measure import evaluate
from utilities.neighbours.coders import check, fit, notes
from utilities.neighbours.codes import Codes, hamming_distances, images_at_a_time, search_codes
from utilities.neighbours.search import search
from utilities.neighbours.table import read_neighbours


def random_flags(count: int, bits: int, seed: int = 0) -> torch.Tensor:
    """Few different codes, so that most distances are shared by several images."""
    draw = torch.Generator().manual_seed(seed)
    patterns = torch.rand(7, bits, generator=draw) < 0.5
    flags = patterns[torch.randint(0, 7, (count,), generator=draw)]
    flags[::3, 0] ^= True
    return flags


def unit(count: int, width: int, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows + 0.3, dim=1)


def sorted_by_count(queries: torch.Tensor, gallery: torch.Tensor, own: list[int], k: int) -> list[list[tuple]]:
    """(distance, index) of the k nearest, by counting the bits that differ."""
    result = []
    for query, row in zip(queries.tolist(), own, strict=True):
        pairs = [
            (sum(a != b for a, b in zip(query, image, strict=True)), i) for i, image in enumerate(gallery.tolist())
        ]
        result.append(sorted(pair for pair in pairs if pair[1] != row)[:k])
    return result


@pytest.mark.parametrize("bits", [1, 8, 13, 64])
def test_packed_bits_are_numpys_and_signs_undo_them(bits):
    flags = random_flags(9, bits)
    codes = Codes.of(flags)
    assert np.array_equal(codes.packed.numpy(), np.packbits(flags.numpy(), axis=1))
    assert torch.equal(codes.signs(), flags.float() * 2 - 1)
    assert torch.equal(codes[2:5].signs(), codes.signs()[2:5])


@pytest.mark.parametrize("bits", [5, 16, 2100])
def test_hamming_search_is_a_count_of_bits_with_ties_by_index(bits):
    flags = random_flags(40, bits)
    codes, own = Codes.of(flags), torch.arange(40)
    own[7] = -1
    for k in (1, 6, 200):
        found = search_codes(codes, codes, k, query_rows=own)
        expected = sorted_by_count(flags, flags, own.tolist(), min(k, 39))
        assert found.indices.tolist() == [[index for _, index in row] for row in expected]
        assert found.distances.tolist() == [[distance for distance, _ in row] for row in expected]


def test_hamming_search_is_the_same_for_every_block(monkeypatch):
    codes = Codes.of(random_flags(500, 24))
    queries = Codes.of(random_flags(40, 24, seed=1))
    own = torch.arange(40)
    whole = search_codes(queries, codes, 30, query_rows=own)
    finished: list[int] = []
    for images, k in ((64, 30), (256, 3)):
        monkeypatch.setattr("utilities.neighbours.codes._IMAGES", images)
        finished.clear()
        parts = search_codes(queries, codes, k, query_rows=own, block_bytes=4000, progress=finished.append)
        assert torch.equal(whole.indices[:, :k], parts.indices)
        assert torch.equal(whole.distances[:, :k], parts.distances)
    assert sum(finished) == 40
    assert len(finished) > 1


def test_the_numbers_of_a_block_are_whole_in_float32():
    for bits in (1, 512, 2046, 2047, 4096, 100_000):
        width = images_at_a_time(bits)
        assert (bits + 2) * width <= 2**24
        assert width & (width - 1) == 0, "no power of two"
    flags = random_flags(3, 100_000)
    flags[2] = ~flags[0]
    assert hamming_distances(Codes.of(flags[:1]), Codes.of(flags)).tolist()[0][2] == 100_000


def test_every_measure_of_codes_is_that_of_rows_of_plus_and_minus_one():
    """Whose squared Euclidean distance is 4 / bits times the Hamming distance, through the other search."""
    flags = random_flags(90, 16)
    labels = torch.rand(90, 6, generator=torch.Generator().manual_seed(2)) < 0.4
    rows = Codes.of(flags).signs() / 4
    assert torch.equal(search(rows, rows, 9).indices, search_codes(Codes.of(flags), Codes.of(flags), 9).indices)
    options = {"metrics": metric_names(), "ks": (1, 4, 8), "relevance": Relevance("share")}
    for gallery in (None, 30):
        first = slice(gallery, None)
        codes = evaluate(
            Codes.of(flags[first]), labels[first], gallery=gallery and (Codes.of(flags[:30]), labels[:30]), **options
        )
        twin = evaluate(rows[first], labels[first], gallery=gallery and (rows[:30], labels[:30]), **options)
        assert codes.scores.scores == pytest.approx(twin.scores.scores, abs=1e-12, nan_ok=True)
        assert codes.scores.chance == pytest.approx(twin.scores.chance, nan_ok=True)
        torch.testing.assert_close(codes.neighbours.distances, twin.neighbours.distances.square() * 4)


def test_sign_codes_are_the_signs_and_folded_ones_those_of_means():
    rows = unit(20, 12)
    rows[3, 4] = 0
    assert torch.equal(fit("sign", None, rows, seed=0).encode(rows).signs() > 0, rows > 0)
    folded = fit("sign", 4, rows, seed=0).encode(rows).signs() > 0
    for row, flags in zip(rows.double().tolist(), folded.tolist(), strict=True):
        assert flags == [sum(row[j::4]) / 3 > 0 for j in range(4)]


def test_median_codes_divide_the_gallery_in_halves():
    rows = unit(400, 12)
    assert (rows > 0).float().mean() > 0.55, "signs do not"
    for bits in (12, 6):
        flags = fit("median", bits, rows, seed=0).encode(rows).signs() > 0
        assert torch.equal(flags.sum(0), torch.full((bits,), 200))


def test_lsh_codes_are_signs_of_numpys_gaussian_products():
    rows = unit(30, 8)
    np.random.seed(42)  # noqa: NPY002 - as the released code of Blumenstiel et al. seeds it
    planes = np.random.randn(20, 8)  # noqa: NPY002
    expected = rows.double().numpy() @ planes.T > 0
    assert np.array_equal((fit("lsh", 20, rows, seed=42).encode(rows).signs() > 0).numpy(), expected)


def test_itq_rotates_the_principal_components_so_that_signs_lose_less():
    """Its loss |B - V R|^2 is below that of no rotation and of random ones, which a rotation cannot change but by B."""
    draw = torch.Generator().manual_seed(5)
    centres = torch.randn(6, 24, generator=draw)
    rows = centres[torch.randint(0, 6, (600,), generator=draw)] + 0.4 * torch.randn(600, 24, generator=draw)
    rows = torch.nn.functional.normalize(rows, dim=1)
    coder = fit("itq", 8, rows, seed=0)
    torch.testing.assert_close(coder.matrix.T @ coder.matrix, torch.eye(8, dtype=torch.float64))
    centred = rows.double() - rows.double().mean(0)
    spanned = torch.linalg.svd(centred).Vh[:8].T
    torch.testing.assert_close(spanned @ (spanned.T @ coder.matrix), coder.matrix)  # the same space

    def loss(matrix):
        projected = centred @ matrix
        return float((projected.sign() - projected).square().sum())

    others = [spanned, *(spanned @ torch.linalg.qr(torch.randn(8, 8, generator=draw).double()).Q for _ in range(5))]
    assert loss(coder.matrix) < min(map(loss, others))
    flags = coder.encode(rows).signs() > 0
    assert torch.equal(flags, centred @ coder.matrix > 0)


def test_codes_take_a_32nd_of_the_embeddings():
    rows = unit(50, 512)
    assert rows.nbytes == 32 * fit("sign", None, rows, seed=0).encode(rows).packed.nbytes


@pytest.mark.parametrize(
    ("kind", "bits", "said"),
    [
        ("sign", 5, "give one of 1, 2, 3, 4, 6, 12, or --codes itq or lsh"),
        ("median", 24, "24: --codes median folds the 12 dimensions"),
        ("itq", 13, "at most one bit for each of 12 dimensions"),
    ],
)
def test_numbers_of_bits_that_cannot_be_are_refused(kind, bits, said):
    with pytest.raises(UserError, match=said):
        check(kind, bits, 12)


def test_what_itq_cannot_learn_and_codes_of_other_lengths_are_refused():
    with pytest.raises(UserError, match="learns 8 bits from more images than that; 6 are searched"):
        fit("itq", 8, unit(6, 12), seed=0)
    with pytest.raises(ValueError, match="codes of 8 and of 9 bits"):
        search_codes(Codes.of(random_flags(3, 8)), Codes.of(random_flags(3, 9)), 1)
    with pytest.raises(UserError, match="1 images, 0 to be found"):
        search_codes(Codes.of(random_flags(1, 8)), Codes.of(random_flags(1, 8)), 1, query_rows=torch.zeros(1).long())


def test_a_saved_run_is_scored_and_searched_by_codes(demo_run, tmp_path):
    """The folder's name tells which; a search by example finds what the evaluation found, from the kept embeddings."""
    source, saved = demo_run
    folder = tmp_path / "baseline"
    shutil.copytree(saved, folder, ignore=shutil.ignore_patterns("*_results"))
    argv = ["--load_from_checkpoint", folder, "--num_workers", 0, "--codes", "itq", "--code_bits", 8]
    done = run_inside("evaluate_model", *argv, "--retrieval_queries", 1, "--eval_metric", "recall@4", "--code_seed", 3)
    results = folder / "evaluation_results" / "best_test_itq8"
    assert f"saved in {results}" in done.stdout
    content = json.loads((results / "scores.json").read_text())
    assert content["protocol"]["codes"] == {"kind": "itq", "bits": 8, "seed": 3}
    test = Demo(source_path=source, split="test", images_per_category=8, side=48, seed=0)
    table = read_neighbours(results)
    assert set(table["distance"]) <= set(range(9)), "bits that differ"
    shared, shares = table["shared_labels"] > 0, []
    for kind in (shared, ~shared):
        shares.append(np.bincount(table["distance"][kind].astype(int), minlength=9) / kind.sum())
    overlap = np.minimum(*shares).sum()  # a bin a number of bits, and not all from 2 on in the last one
    assert content["neighbours"]["intra_inter_overlap"] == pytest.approx(overlap, abs=1e-12)
    sets = {str(name): frozenset(row.nonzero()[0]) for name, row in zip(test.names, test.labels, strict=True)}
    found: dict[str, list[str]] = {}
    for query, image in zip(table["query"], table["image"], strict=True):
        found.setdefault(str(query), []).append(str(image))
    expected = [twin.recall(sets[query], [sets[image] for image in images[:4]]) for query, images in found.items()]
    assert content["scores"]["recall@4"] == pytest.approx(sum(expected) / len(expected), abs=1e-12)

    name = str(test.names[5])
    done = run_inside("evaluate_model", *argv, "--code_seed", 3, "--query", name, "--top", 4)
    assert "Hamming distance of binary codes; baseline, best network, codes itq, 8 bits" in done.stdout
    hits = folder / "search_results" / "best_test_itq8" / name.removesuffix(".jpg") / "hits.csv"
    with hits.open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == found[name][:4]
    assert (folder / "search_results" / "best_test" / "embeddings.npz").exists()
    refused = run_inside("evaluate_model", *argv[:4], "--codes", "sign", "--code_bits", 5, code=2)
    assert (
        "folds the 16 dimensions of the embedding into bits of equal share; give one of 1, 2, 4, 8, 16"
        in refused.stderr
    )


def test_bits_that_are_equal_for_nearly_all_images_are_counted():
    generator = torch.Generator().manual_seed(0)
    positive = torch.nn.functional.normalize(torch.rand(1000, 16, generator=generator) + 0.1, dim=1)
    positive[:5] *= -1  # half a percent
    for kind, alike in (("sign", 16), ("median", 0), ("itq", 0)):
        coder = fit(kind, None, positive, seed=0)
        found = notes(coder, coder.encode(positive))
        assert len(found) == bool(alike), kind
        if alike:
            assert found[0].startswith(
                "16 of the 16 bits of --codes sign are equal in 99% of the 1,000 images and more"
            )
            assert found[0].endswith("--codes median or itq learn their thresholds from the images")
    rectified = torch.relu(torch.randn(1000, 16, generator=generator) - 3)  # nearly always 0: so is the median
    coder = fit("median", None, rectified, seed=0)
    assert "--codes itq turns them first" in notes(coder, coder.encode(rectified))[0]
    assert torch.equal(
        Codes.of(torch.tensor([[True, False, True]] * 3 + [[False] * 3])).shares(),
        torch.tensor([0.75, 0, 0.75]).double(),
    )


def test_codes_that_collapse_are_noted_with_the_way_out(demo_run, tmp_path):
    """By an evaluation and by a search: every component of these embeddings is positive."""
    source, saved = demo_run
    folder = tmp_path / "baseline"
    shutil.copytree(saved, folder, ignore=shutil.ignore_patterns("*_results"))
    payload = torch.load(folder / "best.pt", weights_only=True)
    payload["network"]["heads.embedding.bias"] += 100
    torch.save(payload, folder / "best.pt")
    argv = ["--load_from_checkpoint", folder, "--num_workers", 0]
    said = "16 of the 16 bits of --codes sign are equal in 99%"
    quick = ["--scores_only", "--eval_metric", "recall@1"]
    done = run_inside("evaluate_model", *argv, *quick, "--codes", "sign")
    assert said in " ".join(done.stdout.split())
    results = folder / "evaluation_results" / "best_test_sign"
    assert said in json.loads((results / "scores.json").read_text())["protocol"]["notes"][-1]
    assert said in " ".join((results / "evaluate_model.txt").read_text().split())
    [name] = Demo(source_path=source, split="test", images_per_category=8, side=48, seed=0).names[:1]
    searched = run_inside("evaluate_model", *argv, "--query", name, "--top", 2, "--codes", "sign").stdout
    assert said in " ".join(searched.split())
    for kind in ("median", "itq"):  # the ways out
        done = run_inside("evaluate_model", *argv, *quick, "--codes", kind)
        assert "tell next to nothing" not in " ".join(done.stdout.split()), kind
