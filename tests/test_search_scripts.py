"""Search by example and the comparison of runs as a user runs them, on photographs and on Sentinel-2 patches."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import evaluate_model
import parameters
from datasets.bigearthnet.dataset import BigEarthNet
from datasets.demo.dataset import Demo
from tests.browser import browser, missing
from tests.miniatures import SHARED
from tests.scripts import run, run_inside
from utilities.evaluation import embedded as splits
from utilities.neighbours.table import read_neighbours

pytestmark = pytest.mark.filterwarnings("ignore:.*are split 60/20/20")
REAL_PATCH = SHARED / "BigEarthNet" / "S2B_MSIL2A_20170924T93020_69_24"
needs_browser = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def evaluate(folder: Path, *argv: object, **options: Any) -> Any:
    return run_inside("evaluate_model", "--load_from_checkpoint", folder, "--num_workers", 0, *argv, **options)


def hits(folder: Path) -> list[dict[str, str]]:
    with (folder / "hits.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def demo_split(source: Path, split: str) -> Demo:
    return Demo(source_path=source, split=split, images_per_category=8, side=48, seed=0)


def sentinel_split(source: Path, split: str) -> BigEarthNet:
    options: dict[str, Any] = {"labels": 19, "bands": "all", "version": 1, "splits": "auto", "index_path": None}
    return BigEarthNet(source_path=source, split=split, **options)


# Photographs ------------------------------------------------------------------------------------------------


def test_an_image_of_the_split_finds_what_the_evaluation_found(demo_run: tuple[Path, Path], tmp_path: Path) -> None:
    """Left out by its index, to the last bit of the saved neighbours, in a process of its own."""
    source, saved = demo_run
    folder = tmp_path / "baseline"
    shutil.copytree(saved, folder)
    evaluate(folder, "--retrieval_queries", 1, "--eval_metric", "recall@8")
    table = read_neighbours(folder / "evaluation_results" / "best_test")
    test = demo_split(source, "test")
    name = str(test.names[5])
    argv = ["--load_from_checkpoint", folder, "--query", Path(name).stem, "--top", 8, "--num_workers", 0]
    done = run("evaluate_model", *argv)
    rows = hits(folder / "search_results" / "best_test" / Path(name).stem)
    own = np.asarray(table["query"]) == name
    assert [row["image"] for row in rows] == np.asarray(table["image"])[own].tolist()
    assert [float(row["distance"]) for row in rows] == pytest.approx(np.asarray(table["distance"])[own], abs=1e-6)
    assert [float(row["jaccard"]) for row in rows] == pytest.approx(np.asarray(table["jaccard"])[own], abs=1e-4)
    assert name not in {row["image"] for row in rows}
    assert "the query is an image of the test split; it is left out of the hits by its index" in done.stdout
    for row in rows:
        assert row["image"] in done.stdout
        carried = {str(label) for label in np.asarray(test.label_names)[test.labels[test.names == row["image"]][0]]}
        assert set(row["labels"].split("; ")) == carried
        assert set(filter(None, row["shared_labels"].split("; "))) <= carried


def test_the_file_of_an_image_is_that_image(demo_run: tuple[Path, Path], tmp_path: Path) -> None:
    """By path as by name, also of another split; a copy elsewhere is found as its own nearest image."""
    source, saved = demo_run
    test, train = demo_split(source, "test"), demo_split(source, "train")
    copy = tmp_path / "copy.jpg"
    shutil.copy(test.path(3), copy)
    done = evaluate(saved, "--query", test.path(3), train.path(0), copy, "--top", 3)
    folder = saved / "search_results" / "best_test"
    own, other, elsewhere = (hits(folder / path.stem) for path in (test.path(3), train.path(0), copy))
    assert str(test.names[3]) not in {row["image"] for row in own}
    assert own[0]["jaccard"]
    assert "the query is an image of the train split\n" in done.stdout
    assert other[0]["jaccard"]
    assert elsewhere[0]["image"] == test.names[3]
    assert float(elsewhere[0]["distance"]) < 0.05
    assert elsewhere[0]["shared_labels"] == elsewhere[0]["jaccard"] == ""
    assert [row["image"] for row in elsewhere[1:]] == [row["image"] for row in own[:2]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_any_photograph(demo_run: tuple[Path, Path], tmp_path: Path, mode: str) -> None:
    path = tmp_path / f"{mode}.png"
    pixels = np.random.default_rng(0).integers(0, 256, (70, 130, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    folder = demo_run[1] / "search_results" / "best_val" / mode
    for said in (f"saved in {folder}\n", f"saved in {folder}, in place of an earlier search\n"):
        assert said in evaluate(demo_run[1], "--query", path, "--top", 2, "--dataset_type", "val").stdout
    assert [row["rank"] for row in hits(folder)] == ["1", "2"]
    assert (folder / "retrievals.png").stat().st_size > 10_000
    assert not (folder / "hits.geojson").exists()


def test_what_is_no_square_or_empty_is_said(demo_run: tuple[Path, Path], tmp_path: Path) -> None:
    """The whole photograph is shown as it was given, with a frame around what the network sees: 32 of 37 pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (640, 1203, 3), dtype=np.uint8)
    given = {"wide": noise, "strip": noise[:40], "upright": noise[:, :40], "square": noise[:64, :64], "grey": 0 * noise}
    for name, pixels in given.items():
        Image.fromarray(pixels[:64, :64] if name == "grey" else pixels).save(tmp_path / f"{name}.png")
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.fromarray(noise).save(tmp_path / "turned.jpg", exif=turned)
    paths = [tmp_path / f"{name}.png" for name in given]
    out = evaluate(demo_run[1], "--query", *paths, tmp_path / "turned.jpg", "--top", 2, "--dataset_type", "val").stdout
    said = {part.split(maxsplit=1)[0]: part for part in out.split("Nearest to ")[1:]}
    assert "note: the query has 1,203 × 640 pixels: it was squeezed to a square" in said["wide"]
    assert "note: the query has 640 × 1,203 pixels: it was squeezed" in said["turned"]
    assert "note: the query is a strip of 1,203 × 40 pixels" in said["strip"]
    assert "30.1 times as much one way as the other" in said["strip"]
    assert "note: the query is a strip of 40 × 640 pixels" in said["upright"]
    assert "pixels" not in said["square"]
    assert "note: all pixels of the query have one value" in said["grey"]
    assert out.count("one value") == 1
    results = demo_run[1] / "search_results" / "best_val"
    outside = f"inset:{50 * (1 - 32 / 37):.2f}%"
    for name, aspect in (("wide", "1.8797"), ("strip", "12.0000"), ("square", "1.0000"), ("turned", "0.5320")):
        page = (results / name / "search.html").read_text()
        assert f'class="query" style="aspect-ratio:{aspect}"' in page
        assert outside in page
        assert "framed: what the network looked at" in page


def test_more_than_there_are(demo_run: tuple[Path, Path]) -> None:
    source, saved = demo_run
    test = demo_split(source, "test")
    done = evaluate(saved, "--query", test.names[0], "--top", 5000, "--checkpoint", "last")
    assert f"--top 5000 is more than there are: all {len(test) - 1} images are shown" in done.stdout
    rest = hits(saved / "search_results" / "last_test" / Path(test.names[0]).stem)
    assert sorted(row["image"] for row in rest) == sorted(test.names[1:])


def test_the_second_search_embeds_the_archive_no_more(
    demo_run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds the same, and a run that has been trained on is embedded anew."""
    source, saved = demo_run
    folder = tmp_path / "baseline"
    shutil.copytree(saved, folder, ignore=shutil.ignore_patterns("search_results"))
    embedded: list[int] = []
    embed = splits.embed

    def counted(network, feed, *given):
        embedded.append(len(feed.dataset))
        return embed(network, feed, *given)

    for module in (evaluate_model, splits):
        monkeypatch.setattr(module, "embed", counted)
    test = demo_split(source, "test")
    where = folder / "search_results" / "best_test" / Path(test.names[0]).stem
    found = []
    for _ in range(2):
        evaluate(folder, "--query", test.names[0], "--top", 5)
        found.append(hits(where))
    assert found[0] == found[1]
    assert embedded == [1, len(test), 1]  # each time the example itself
    payload = torch.load(folder / "best.pt", weights_only=True)
    payload["network"]["backbone.net.conv1.weight"] *= 1.5
    torch.save(payload, folder / "best.pt")
    evaluate(folder, "--query", test.names[0], "--top", 5)
    assert embedded[3:] == [1, len(test)]


def test_embeddings_of_other_pixels_are_not_taken(demo_run: tuple[Path, Path], tmp_path: Path) -> None:
    """Another copy with equal names, an exchanged image, one that was broken; --refresh; and what is kept says when."""
    source, folder = tmp_path / "Demo", tmp_path / "baseline"
    shutil.copytree(demo_run[0], source)
    shutil.copytree(demo_run[1], folder, ignore=shutil.ignore_patterns("search_results"))
    test = demo_split(source, "test")
    asked, other = test.path(0), test.path(1)

    def nearest(*argv: object) -> tuple[str, bool]:
        done = evaluate(folder, "--source_path", source, "--query", asked, "--top", 1, *argv)
        kept = "note: embeddings of 20" in done.stdout and "are used; --refresh embeds" in done.stdout
        return hits(folder / "search_results" / "best_test" / asked.stem)[0]["image"], kept

    evaluate(folder, "--query", test.names[0], "--top", 1)  # of the other copy
    far, kept = nearest()
    assert not kept
    assert nearest() == (far, True)
    assert nearest("--refresh") == (far, False)
    own = next(row for row, name in enumerate(test.names) if name not in (far, asked.name, other.name))
    was, status = test.path(own).read_bytes(), test.path(own).stat()
    shutil.copyfile(asked, test.path(own))
    assert nearest() == (str(test.names[own]), False)
    test.path(own).write_bytes(bytes(len(was)))  # broken, of the size and time of the sound one
    os.utime(test.path(own), ns=(status.st_atime_ns, status.st_mtime_ns))
    assert nearest("--skip_broken_images") == (far, False)
    assert nearest("--skip_broken_images") == (far, True)
    copied = asked.read_bytes() if asked.stat().st_size == len(was) else was
    test.path(own).write_bytes(copied)
    os.utime(test.path(own), ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not nearest("--skip_broken_images")[1], "it can be read again"


def test_two_files_of_one_name(demo_run: tuple[Path, Path], tmp_path: Path) -> None:
    source, saved = demo_run
    test = demo_split(source, "test")
    paths = [tmp_path / name for name in ("a/x.jpg", "b/x.jpg", "x-2.jpg")]
    for row, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        shutil.copy(test.path(row), path)
    evaluate(saved, "--query", *paths, "--top", 1)
    found = [hits(saved / "search_results" / "best_test" / name)[0]["image"] for name in ("x", "x-2", "x-2-2")]
    assert found == test.names[:3].tolist()


def test_another_split_is_searched(demo_run: tuple[Path, Path]) -> None:
    source, saved = demo_run
    train, test = demo_split(source, "train"), demo_split(source, "test")
    evaluate(saved, "--query", test.names[0], "--dataset_type", "test", "--gallery_split", "train", "--top", 4)
    rows = hits(saved / "search_results" / "best_train" / Path(test.names[0]).stem)
    assert {row["image"] for row in rows} <= set(train.names)


def test_what_cannot_be_a_query_ends_with_2(
    demo_run: tuple[Path, Path], sentinel_run: tuple[Path, Path], tmp_path: Path
) -> None:
    photographs, patches = demo_run[1], sentinel_run[1]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no more")
    (tmp_path / "empty").mkdir()
    patch = next(folder for folder in sentinel_run[0].iterdir() if folder.is_dir())
    partial = tmp_path / patch.name
    shutil.copytree(patch, partial)
    (partial / f"{patch.name}_B8A.tif").unlink()
    for folder, query, said in (
        (photographs, "nowhere.jpg", "nowhere.jpg: there is no such file or folder"),
        (photographs, "x" * 5000, "there is no such file or folder"),
        (photographs, broken, f"cannot read the image {broken}"),
        (photographs, patch, "is a folder, but this run reads RGB photographs"),
        (photographs, patch / f"{patch.name}_B04.tif", "more than 8 bits a channel"),
        (patches, broken, "is a single file, but this run reads 12 Sentinel-2 bands (B01 B02"),
        (patches, tmp_path / "empty", "holds no *_B01.tif"),
        (patches, partial, "holds no *_B8A.tif; give the folder of one patch"),
        (patches, "S2A_nowhere", "or a name such as S2"),
    ):
        done = evaluate(folder, "--query", query, code=2)
        assert said in done.stderr, done.stderr
        assert done.stderr.count("error:") == 1
    assert "--top 0 must be at least 1" in evaluate(photographs, "--query", broken, "--top", 0, code=2).stderr


def test_a_name_that_is_not_utf_8_is_refused_before_anything_is_written(
    demo_run: tuple[Path, Path], sentinel_run: tuple[Path, Path], tmp_path: Path
) -> None:
    """In a folder of such a name, a file may lie."""
    odd = os.fsdecode(b"lake \xe9")
    photograph = tmp_path / odd / "lake.jpg"
    photograph.parent.mkdir()
    shutil.copy(demo_split(demo_run[0], "test").path(0), photograph)
    shutil.copy(photograph, tmp_path / f"{odd}.jpg")
    for number, (saved, query) in enumerate(
        ((demo_run[1], tmp_path / f"{odd}.jpg"), (demo_run[1], odd), (sentinel_run[1], tmp_path / odd))
    ):
        folder = tmp_path / f"run {number}"
        shutil.copytree(saved, folder, ignore=shutil.ignore_patterns("search_results"))
        done = evaluate(folder, "--query", query, code=2)
        assert r"lake \xe9" in done.stderr
        assert "the name is not UTF-8" in done.stderr
        assert not (folder / "search_results").exists()
    evaluate(tmp_path / "run 0", "--query", photograph, "--top", 1)
    assert hits(tmp_path / "run 0" / "search_results" / "best_test" / "lake")


# Sentinel-2 -------------------------------------------------------------------------------------------------


def test_patches_are_found_with_their_places(sentinel_run: tuple[Path, Path]) -> None:
    pytest.importorskip("rasterio")
    source, saved = sentinel_run
    test = sentinel_split(source, "test")
    name = str(test.names[0])
    evaluate(saved, "--query", source / name, "--top", 3)
    folder = saved / "search_results" / "best_test" / name
    rows = hits(folder)
    collection = json.loads((folder / "hits.geojson").read_text())
    query, *found = collection["features"]
    assert (query["properties"]["role"], query["properties"]["name"]) == ("query", name)
    assert [feature["properties"]["name"] for feature in found] == [row["image"] for row in rows]
    assert [feature["properties"]["rank"] for feature in found] == [1, 2, 3]
    for feature, row in zip(found, rows, strict=True):
        assert feature["properties"]["distance"] == float(row["distance"])
        assert "; ".join(feature["properties"]["labels"]) == row["labels"]
        assert len(feature["geometry"]["coordinates"][0]) == 5
    assert "° N, " in (folder / "search.html").read_text()


@pytest.mark.skipif(not REAL_PATCH.is_dir(), reason=f"no BigEarthNet patch at {REAL_PATCH}")
def test_a_real_patch_from_elsewhere(sentinel_run: tuple[Path, Path], tmp_path: Path) -> None:
    """Its folder may have any name."""
    renamed = tmp_path / "lake in Finland"
    shutil.copytree(REAL_PATCH, renamed)
    done = evaluate(sentinel_run[1], "--query", renamed, REAL_PATCH, "--top", 4)
    assert "labels of the query" not in done.stdout
    folder = sentinel_run[1] / "search_results" / "best_test"
    assert hits(folder / renamed.name) == hits(folder / REAL_PATCH.name)
    query = json.loads((folder / renamed.name / "hits.geojson").read_text())["features"][0]
    assert query["geometry"]["coordinates"][0][0] == [30.5875353, 62.8145473]


def test_without_rasterio_only_the_map_is_missing(
    sentinel_run: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    name = str(sentinel_split(sentinel_run[0], "val").names[0])
    done = evaluate(sentinel_run[1], "--query", name, "--dataset_type", "val", "--top", 2)
    assert "footprints on the map need rasterio" in done.stdout
    assert "pip install rasterio" in done.stdout
    folder = sentinel_run[1] / "search_results" / "best_val" / name
    assert (folder / "search.html").exists()
    assert not (folder / "hits.geojson").exists()


# Pages and comparisons --------------------------------------------------------------------------------------


@needs_browser
def test_the_pages_load_without_errors(demo_run: tuple[Path, Path], sentinel_run: tuple[Path, Path]) -> None:
    names = demo_split(demo_run[0], "val").names[0], sentinel_split(sentinel_run[0], "val").names[0]
    with browser() as page:
        for (_, saved), name in zip((demo_run, sentinel_run), names, strict=True):
            evaluate(saved, "--query", name, "--dataset_type", "val", "--top", 5)
            page.open(saved / "search_results" / "best_val" / Path(name).stem / "search.html")
            assert page.log() == []
            assert page.run("return document.querySelectorAll('.hit').length") == 5
            assert page.run("return [...document.images].every(image => image.naturalWidth > 0)")


def test_a_published_protocol_is_measured_on_its_splits(demo_run: tuple[Path, Path]) -> None:
    done = evaluate(demo_run[1], "--protocol", "csmae", "--retrieval_queries", 0)
    folder = demo_run[1] / "evaluation_results" / "best_val_in_test"
    content = json.loads((folder / "scores.json").read_text())
    published = content["published"]
    precision, recall = (content["scores"][f"label_{name}@10"] for name in ("precision", "recall"))
    assert published["name"] == "csmae"
    assert published["scores"]["label_f1_of_means@10"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert f"label_f1_of_means@10{published['scores']['label_f1_of_means@10']:>12.4f}" in done.stdout


def test_several_runs_end_with_one_table_and_figure(demo_run: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(demo_run[1], tmp_path / "runs" / name)
    both = [tmp_path / "runs" / "one", tmp_path / "runs" / "two"]
    quick = ["--num_workers", 0, "--retrieval_queries", 1]
    done = run_inside("evaluate_model", "--load_from_checkpoint", *both, *quick)
    folder = tmp_path / "runs" / "comparison_best_test"
    assert f"saved in {folder}" in done.stdout
    table = (folder / "comparison.md").read_text()
    assert table in done.stdout
    header = next(line for line in table.splitlines() if line.startswith("| run"))
    assert [cell.strip() for cell in header.strip("|").split("|")] == [
        "run", "method", "recall@1", "r_precision@8", "map@8", "label_jaccard@8", "images/s", "training min",
    ]  # fmt: skip
    scores = json.loads((tmp_path / "runs" / "one" / "evaluation_results" / "best_test" / "scores.json").read_text())
    rows = json.loads((folder / "comparison.json").read_text())["runs"]
    assert [row["run"] for row in rows] == ["one", "two"]
    for name, value in scores["scores"].items():
        assert rows[0][name] == value
        assert [rows[0][f"{name} low"], rows[0][f"{name} high"]] == scores["interval"][name]
    assert (folder / "comparison.png").stat().st_size > 10_000
    assert (folder / "comparison.html").stat().st_size > 50_000
    kept = np.load(tmp_path / "runs" / "one" / "evaluation_results" / "best_test" / "query_scores.npz")
    for name, value in scores["scores"].items():
        assert np.nanmean(kept[name]) == pytest.approx(value, abs=1e-9)
    assert len(kept["query"]) == scores["protocol"]["queries"]
    assert "| one − two | +0.0000 [+0.0000, +0.0000]" in table, "one and the same network"
    assert "no difference beyond chance between one and two" in table
    args = parameters.parse_evaluation(
        ["--load_from_checkpoint", "one", "two", "--comparison_path", str(tmp_path / "elsewhere")]
    )
    evaluate_model.compare(both, [scores, scores], args)
    assert (tmp_path / "elsewhere" / "comparison.csv").exists()
