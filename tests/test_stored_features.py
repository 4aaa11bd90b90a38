"""Heads trained from stored features of a frozen backbone: what is stored, when it is used, and what it saves."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

import parameters
from architectures import saved
from architectures.embedding import EmbeddingNetwork
from architectures.resnet import ResNet
from datasets.batches.transforms import draw
from datasets.features.feed import gather, views_of
from datasets.open import open_data, open_files, open_loader, open_split
from tests.scripts import TINY, assert_same_run, records, run_inside, run_ranks, state
from utilities import seeding
from utilities.evaluation.embedded import embed
from utilities.flags.derive import STORED_VIEWS
from utilities.measures.formulae import Relevance
from utilities.measures.search_and_measure import evaluate
from utilities.runs import folder as run_folder

FLAGS = (*TINY, "--frozen", "--stored_views", 3, "--demo_images_per_category", 4, "--demo_side", 40)
METHODS = ("baseline", "diva", "dac", "bier", "sndl")
PLACE = "stored_features"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(autouse=True, scope="module")
def no_drawings():
    """Which take longer than these runs, and are others' business."""
    with mock.patch("utilities.report.curves.curves"):
        yield


def train(method, demo, save_path, *more, **options):
    argv = ["--source_path", demo, "--save_path", save_path, *FLAGS, *more]
    return run_inside(f"train_{method}", *argv, **options)


@pytest.fixture(scope="module")
def runs(demo, tmp_path_factory):
    """One run of each method: the first computes the features, divide and conquer the centre crops that it clusters,
    and the others take them."""
    save_path = tmp_path_factory.mktemp("runs")
    train("baseline", demo, save_path)
    train("dac", demo, save_path, "--dac_nb_clusters", 2, "--dac_cluster_on", "features", "--dac_recluster_every", 1)
    with mock.patch.object(ResNet, "forward", side_effect=AssertionError("the backbone ran again")):
        train("diva", demo, save_path)
        train("bier", demo, save_path, "--bier_prefit_steps", 3)
        train("sndl", demo, save_path, "--sndl_warm_start")
    return save_path / "Demo"


def arrays(save_path: Path) -> dict[str, np.ndarray]:
    """By split and name of the file."""
    place = save_path / PLACE
    return {f"{p.parent.name.split('-')[1]} {p.stem.split('-')[0]}": np.load(p) for p in place.rglob("*.npy")}


def test_an_epoch_takes_every_image_in_another_view_until_all_had_their_turn():
    epochs = np.stack([views_of(50, 4, seed=3, epoch=epoch) for epoch in range(4)])
    assert (np.sort(epochs[:, 0], axis=0) == np.arange(4)[:, None]).all()
    assert (epochs[:, 0] != epochs[:, 1]).all(), "the second view is another one"
    assert np.array_equal(epochs[2], views_of(50, 4, seed=3, epoch=2))
    assert not np.array_equal(epochs[2], views_of(50, 4, seed=4, epoch=2))
    assert len(np.unique(views_of(50, 4, seed=3, epoch=0)[0])) == 4, "images of an epoch are in different views"
    assert not views_of(50, 1, seed=3, epoch=5).any()


def test_rows_are_gathered_from_the_view_that_each_takes():
    views = [np.arange(12, dtype=np.float32).reshape(6, 2) + 100 * view for view in range(3)]
    found = gather(views, np.array([2, 0, 2, 1]), np.array([5, 0, 1, 5]))
    assert found.tolist() == [[210, 211], [0, 1], [202, 203], [110, 111]]


def test_stored_are_the_features_of_augmented_looks_and_of_the_centre_crop(runs, demo):
    """Against the network of the checkpoint and the transforms, image by image."""
    best = state(runs / "baseline", "best.pt")
    network = EmbeddingNetwork(**best["network_description"], frozen=True).eval()
    network.load_state_dict(best["network"])
    args = parameters.parse("baseline", ["--source_path", str(demo / "Demo"), *map(str, FLAGS)])
    data = open_data(args, torch.device("cpu"))
    stored = arrays(runs.parent)
    assert sorted(stored) == ["train centre", "train view0", "train view1", "train view2", "val centre"]
    pixels = data.train.dataset.__getitems__([0, 7])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
        centre = network.features(data.train.transform.evaluation(pixels.images))
        draws = draw(len(data.train.dataset), seeding.generator("cpu", "stored view", 2))[[0, 7]]
        view = network.features(data.train.transform.training(pixels.images, draws, data.train.augmentation))
    torch.testing.assert_close(torch.from_numpy(stored["train centre"][[0, 7]]), centre, rtol=0.03, atol=0.03)
    torch.testing.assert_close(torch.from_numpy(stored["train view2"][[0, 7]]), view, rtol=0.03, atol=0.03)
    assert not np.allclose(stored["train view2"], stored["train view1"], atol=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_its_heads_and_is_evaluated_from_images(runs, method):
    """The checkpoint holds the whole network, and validation from features scored what images score."""
    folder = runs / method
    validated = [r for r in records(folder) if r["split"] == "val"]
    steps = [r for r in records(folder) if r["split"] == "train"]
    assert [r["epoch"] for r in validated] == [2, 3]
    assert all(np.isfinite(list(r["losses"].values())).all() for r in steps)
    first, last = state(runs / "baseline", "best.pt")["network"], state(folder)["method"]
    backbone = [name for name in first if name.startswith("backbone.")]
    assert backbone
    assert all(torch.equal(first[name], last[f"network.{name}"]) for name in backbone), "frozen, and all of it saved"
    evaluation = ["--load_from_checkpoint", str(folder), "--dataset_type", "val", "--checkpoint", "last"]
    run = parameters.of_run(folder, parameters.parse_evaluation(evaluation))
    device = torch.device("cpu")
    network, _ = saved.read_network(folder, "last.pt")
    embedded = embed(network, open_loader(run, open_split(run, "val"), device), run, device)
    relevance = Relevance(run.relevance, run.relevance_threshold)
    names = list(validated[-1]["scores"])
    found = evaluate(
        embedded.embeddings, embedded.labels, metrics=names, ks=(1,), relevance=relevance, backend="torch"
    ).scores.scores
    for name, value in validated[-1]["scores"].items():
        assert found[name] == pytest.approx(value, abs=0.03), name


def test_the_test_split_is_scored_from_features_too(demo, tmp_path):
    train("baseline", demo, tmp_path, "--eval_test", "yes", "--nb_epochs", 1)
    scored = records(tmp_path / "Demo" / "baseline")[-1]
    assert scored["split"] == "test"
    assert 0 < scored["scores"]["recall@1"] <= 1
    assert [name for name in arrays(tmp_path) if name.startswith("test")] == ["test centre"]


def test_evaluation_takes_features_that_are_there_and_scores_as_from_images(runs, monkeypatch):
    folder = runs / "baseline"
    say = ("--dataset_type", "val", "--backend", "torch", "--num_workers", 0, "--scores_only")
    run_inside("evaluate_model", "--load_from_checkpoint", folder, *say)
    results = folder / "evaluation_results" / "best_val"
    kept = json.loads((results / "scores.json").read_text())["scores"]
    assert not list(results.glob("*.png"))
    assert not (results / "report.html").exists()
    with mock.patch.object(ResNet, "forward", side_effect=AssertionError("the backbone ran again")):
        with mock.patch(
            "utilities.neighbours.density.distance_densities", side_effect=AssertionError("for no picture")
        ):
            run_inside("evaluate_model", "--load_from_checkpoint", folder, *say)
        monkeypatch.chdir(folder / "figures")  # they lie two folders above that of the run, however that is named
        run_inside("evaluate_model", "--load_from_checkpoint", "..", *say)
        assert (results / "evaluate_model.txt").read_text().startswith("baseline on Demo, val, best network")
    with mock.patch("evaluate_model.stored_feed", lambda loader, *rest, **more: loader):  # from images
        run_inside("evaluate_model", "--load_from_checkpoint", folder, *say)
    assert json.loads((results / "scores.json").read_text())["scores"] == kept


def test_features_of_a_run_that_was_moved_lie_beside_it(runs, tmp_path, monkeypatch):
    """Not above the folder that somebody put it into; and a place that takes none is named with what to do."""
    args = json.loads((runs / "baseline" / "args.json").read_text())
    for place, expected in (("Demo/mine", ""), ("mine", ""), ("runs/of 2026/mine", "runs/of 2026")):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "args.json").write_text(json.dumps(args))
        assert run_folder.save_path(folder) == tmp_path / expected
        monkeypatch.chdir(folder)
        assert run_folder.save_path(Path()) == tmp_path / expected
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(runs / "baseline", moved, ignore=shutil.ignore_patterns("*_results"))
    (tmp_path / "elsewhere" / PLACE).touch()
    say = ("--dataset_type", "val", "--num_workers", 0, "--scores_only", "--eval_metric", "recall@1")
    done = run_inside("evaluate_model", "--load_from_checkpoint", moved, *say, code=2)
    assert f"cannot be kept in {tmp_path / 'elsewhere' / PLACE}" in done.stderr
    assert "give a folder for them with --cache_path" in done.stderr
    run_inside("evaluate_model", "--load_from_checkpoint", moved, *say, "--cache_path", tmp_path / "cache")
    assert list(tmp_path.rglob("centre.npy")) == list((tmp_path / "cache" / PLACE).rglob("centre.npy"))


def test_a_resumed_run_is_the_uninterrupted_one(runs, demo, tmp_path):
    """Also where the features have to be computed again."""
    flags = ("--scheduler", "none", "--eval_epoch", 1)
    train("diva", demo, tmp_path, *flags)
    train("diva", demo, tmp_path, *flags, "--nb_epochs", 1, "--savename", "resumed")
    shutil.rmtree(tmp_path / PLACE)
    run_inside("train_diva", "--load_from_checkpoint", tmp_path / "Demo" / "resumed", "--nb_epochs", 3)
    assert_same_run(tmp_path / "Demo" / "diva", tmp_path / "Demo" / "resumed")


def test_what_decides_the_features_names_their_folder(runs, demo, tmp_path):
    """Nothing stale is used: another file, weight, size, augmentation or precision is another folder or file."""
    place = tmp_path / PLACE
    data = tmp_path / "data"
    shutil.copytree(demo, data)

    def made(*more) -> set[str]:
        """Names of the arrays that a run leaves behind."""
        before = set(place.rglob("*.npy"))
        train("baseline", data, tmp_path, "--nb_epochs", 1, *more)
        return {path.stem.split("-")[0] for path in set(place.rglob("*.npy")) - before}

    assert made("--stored_views", 2) == {"view0", "view1", "centre"}
    assert not made("--sz_embedding", 32, "--batch_size", 20, "--stored_views", 2), "what decides heads alone"
    assert made("--no_flips", "--stored_views", 2) == {"view0", "view1"}, "the centre crops are there"
    for other in (["--random_seed", 1], ["--image_size", 24], ["--contiguous"]):
        assert made(*other, "--stored_views", 1) == {"view0", "centre"}, other
    args = parameters.parse("baseline", ["--source_path", str(data / "Demo"), *map(str, FLAGS)])
    os.utime(open_files(args, "train").path(0), ns=(1, 1))
    assert made("--stored_views", 1) == {"view0"}, "a file that was changed since"


def test_a_damaged_array_is_computed_again(runs, demo, tmp_path):
    shutil.copytree(runs.parent / PLACE, tmp_path / PLACE)
    before = arrays(tmp_path)
    for path in (tmp_path / PLACE).rglob("view1-*.npy"):
        path.write_bytes(path.read_bytes()[:-100])
    train("baseline", demo, tmp_path, "--nb_epochs", 1)
    after = arrays(tmp_path)
    assert all(np.array_equal(after[name], before[name]) for name in before)
    assert not list((tmp_path / PLACE).rglob(".*.npy")), "nothing half written stays"


def test_two_processes_store_and_train_as_one(runs, demo, tmp_path):
    flags = ("--source_path", demo, "--save_path", tmp_path, *FLAGS, "--nb_epochs", 1, "--batch_size", 8)
    run_ranks(2, "train_baseline", *flags)
    one, two = arrays(runs.parent), arrays(tmp_path)
    assert two.keys() == one.keys() - {"train centre"}
    for name, rows in two.items():
        np.testing.assert_allclose(rows, one[name], rtol=0.03, atol=0.03)
    train("baseline", demo, tmp_path, "--nb_epochs", 1, "--savename", "one")  # of as many images a step
    losses = [records(tmp_path / "Demo" / name)[-2]["losses"]["margin"] for name in ("baseline", "one")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_unreadable_images_are_left_out_of_every_view(demo, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(demo, data)
    args = parameters.parse("baseline", ["--source_path", str(data / "Demo"), *map(str, FLAGS)])
    open_files(args, "train").path(5).write_bytes(b"no image")
    with pytest.warns(UserWarning, match="skipped"):
        train("baseline", data, tmp_path, "--nb_epochs", 1, "--skip_broken_images")
    found = arrays(tmp_path)["train view0"]
    assert np.isnan(found[5]).all()
    assert np.isfinite(np.delete(found, 5, 0)).all()
    assert np.isfinite(records(tmp_path / "Demo" / "baseline")[-2]["losses"]["margin"])
    assert "cannot" in train("baseline", data, tmp_path, "--nb_epochs", 1, code=2).stderr


@pytest.mark.parametrize(
    ("method", "flags", "words"),
    [
        ("baseline", ["--stored_views", "2"], "give --frozen"),
        ("baseline", ["--frozen", "--stored_views", "2", "--small_epochs", "1"], "--small_epochs 1"),
        ("diva", ["--frozen", "--stored_views", "1"], "second view"),
    ],
)
def test_flags_that_cannot_go_together_are_named(method, flags, words):
    done = run_inside(f"train_{method}", "--save_path", "/nonexistent", *flags, code=2)
    assert words in done.stderr


def test_the_default_stores_views_of_a_frozen_backbone_alone():
    def views(method, *flags):
        return parameters.parse(method, [*flags])["stored_views"]

    assert views("baseline") == 0
    assert views("baseline", "--frozen") == STORED_VIEWS
    assert views("baseline", "--frozen", "--nb_epochs", "3") == 3
    assert views("baseline", "--frozen", "--small_epochs", "1") == 0
    assert views("diva", "--frozen", "--nb_epochs", "1") == 2


def test_a_run_of_before_goes_on_as_it_was(runs, tmp_path):
    folder = tmp_path / "baseline"
    shutil.copytree(runs / "baseline", folder, ignore=shutil.ignore_patterns("*.pt"))  # which know the flags too
    recorded = json.loads((folder / "args.json").read_text())
    del recorded["stored_views"]
    (folder / "args.json").write_text(json.dumps(recorded))
    assert parameters.parse("baseline", ["--load_from_checkpoint", str(folder)])["stored_views"] == 0
