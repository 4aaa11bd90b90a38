"""What the code of before wrote still opens: a run goes on and is evaluated, its prepared pixels and embeddings too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from architectures import load_network
from tests import before
from tests.scripts import records, run_inside, state


@pytest.fixture(scope="module")
def old(demo_run, tmp_path_factory) -> tuple[Path, Path]:
    """(data, run folder), with the prepared pixels in the data's folder."""
    data, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("runs") / "Demo" / "baseline"
    shutil.copytree(demo_run[0], data / "Demo", ignore=shutil.ignore_patterns(".cache"))
    target = folder / "search_results" / "best_test"
    target.mkdir(parents=True)
    (folder / "figures").mkdir()
    for name in ("args.json", "environment.json", "metrics.jsonl"):
        shutil.copy(before.FOLDER / name, folder)
    shutil.copy(before.FOLDER / "embeddings.npz", target)
    before.write_checkpoints(folder)
    prepared = data / "Demo" / ".cache" / "Demo-dcc37b56"
    shutil.copytree(before.FOLDER / "prepared", prepared)
    images = {path.name: path for path in (data / "Demo" / "Images").rglob("*.jpg")}
    names = [name.decode() for name in np.load(prepared / "names.npy").tolist()]
    pixels = [np.asarray(Image.open(images[name])).transpose(2, 0, 1) for name in names]
    np.save(prepared / "pixels.npy", np.stack(pixels))
    return data, folder


def test_a_run_of_before_is_evaluated(old):
    data, folder = old
    run_inside(
        "evaluate_model", "--load_from_checkpoint", folder, "--source_path", data, "--dataset_type", "val",
        "--eval_metric", "recall@1", "--retrieval_queries", 0,
    )  # fmt: skip
    content = json.loads((folder / "evaluation_results" / "best_val" / "scores.json").read_text())
    assert 0 < content["scores"]["recall@1"] <= 1
    assert content["protocol"]["notes"] == [], "the data of the run"
    for name in ("best", "last"):
        network, prepare = load_network(folder, name)
        assert network.embed(prepare(np.zeros((48, 48, 3), np.uint8))).shape == (1, 4)


def test_a_search_beside_embeddings_that_were_kept_before(old):
    data, folder = old
    kept = folder / "search_results" / "best_test" / "embeddings.npz"
    key = str(np.load(kept)["key"])
    run_inside("evaluate_model", "--load_from_checkpoint", folder, "--source_path", data, "--query", "lake_00001")
    assert (folder / "search_results" / "best_test" / "lake_00001" / "hits.csv").exists()
    assert str(np.load(kept)["key"]) != key, "they do not say of which files and weights they are: made anew"


def test_a_run_of_before_goes_on_from_its_prepared_pixels(old):
    data, folder = old
    pixels = data / "Demo" / ".cache" / "Demo-dcc37b56" / "pixels.npy"
    written, was = pixels.stat().st_mtime_ns, records(folder)
    done = run_inside("train_baseline", "--load_from_checkpoint", folder, "--source_path", data, "--nb_epochs", 3)
    assert f"resuming {folder} at epoch 3, step 12" in done.stdout
    assert pixels.stat().st_mtime_ns == written
    assert [path.name for path in pixels.parent.parent.iterdir() if path.is_dir()] == ["Demo-dcc37b56"]
    now = records(folder)
    assert now[: len(was)] == was
    assert [record["step"] for record in now[len(was) :]] == [14, 16, 18, 18]
    last = state(folder)
    assert (last["epoch"], last["step"]) == (3, 18)
    fresh = before.rebuilt(json.loads((before.FOLDER / "last.json").read_text()))
    assert last["method"].keys() == fresh["method"].keys()
    assert not torch.equal(
        last["method"]["network.heads.embedding.weight"], fresh["method"]["network.heads.embedding.weight"]
    )
