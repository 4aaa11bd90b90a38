"""`evaluate_model.py` as a user runs it on one saved run: what is searched, what is left behind, what is refused."""

import json
import os
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import evaluate_model
import parameters
from architectures.embedding import EmbeddingNetwork
from datasets.demo.dataset import Demo
from evaluate_model import load_network
from tests.oracles import metrics as twin
from tests.scripts import run_inside
from train_baseline import Baseline
from utilities.errors import UserError
from utilities.evaluation.checks import check_data, named_runs
from utilities.flags.settings import Settings
from utilities.inference import whole_split
from utilities.measures.formulae import metric_names
from utilities.neighbours.table import read_neighbours
from utilities.report.comparison import CONTENT
from utilities.runs import checkpoint


@pytest.fixture(scope="module")
def source(demo_run):
    return demo_run[0].parent


@pytest.fixture(scope="module")
def saved(demo_run, tmp_path_factory):
    """The run of one epoch, for evaluations to write into."""
    folder = tmp_path_factory.mktemp("runs") / "baseline"
    shutil.copytree(demo_run[1], folder, ignore=shutil.ignore_patterns("search_results", "evaluation_results"))
    return folder


def evaluate(folder, *argv, **options):
    return run_inside(
        "evaluate_model",
        "--load_from_checkpoint",
        folder,
        "--num_workers",
        0,
        "--retrieval_queries",
        1,
        *argv,
        **options,
    )


def test_queries_do_not_find_themselves_in_the_whole_archive(source, saved):
    quick = ("--scores_only", "--eval_metric", "hit@1", "map")
    done = evaluate(saved, "--dataset_type", "test", "--gallery_split", "all", *quick)
    assert "44 queries, each against the 175 other images of all; relevance" in done.stdout
    assert "the query's own row is left out by index" in done.stdout
    table = read_neighbours(saved / "evaluation_results" / "best_test_in_all")
    assert not (table["query"] == table["image"]).any()
    done = evaluate(saved, "--dataset_type", "all", "--gallery_split", "test", *quick)
    assert "176 queries, each against the 44 images of test without itself (44 queries are among them)" in done.stdout
    table = read_neighbours(saved / "evaluation_results" / "best_all_in_test")
    assert not (table["query"] == table["image"]).any()
    assert len(set(table["query"])) == 176


def split_of(source, split):
    return Demo(source_path=source, split=split, images_per_category=8, side=48, seed=0)


def test_queries_of_one_split_are_searched_in_another(source, saved):
    done = evaluate(saved, "--dataset_type", "test", "--gallery_split", "train", "--is_plot_dist")
    folder = saved / "evaluation_results" / "best_test_in_train"
    test, train = split_of(source, "test"), split_of(source, "train")
    assert f"{len(test)} queries, each against the {len(train)} images of train; relevance" in done.stdout
    assert "no query is part of the gallery: nothing is left out" in done.stdout

    table = read_neighbours(folder)
    images = [pair for split in (test, train) for pair in zip(split.names, split.labels, strict=True)]
    labels = {str(name): frozenset(row.nonzero()[0]) for name, row in images}
    assert set(table["query"]) == set(test.names)
    assert set(table["image"]) <= set(train.names)
    found = {}
    for query, image in zip(table["query"], table["image"], strict=True):
        found.setdefault(query, []).append(labels[image])
    expected = {k: [twin.recall(labels[query], top[:k]) for query, top in found.items()] for k in (1, 8)}

    content = json.loads((folder / "scores.json").read_text())
    for k, values in expected.items():
        assert content["scores"][f"recall@{k}"] == pytest.approx(sum(values) / len(values), abs=1e-12)
    protocol = content["protocol"]
    assert (protocol["split"], protocol["gallery_split"]) == ("test", "train")
    assert (protocol["queries"], protocol["gallery"], protocol["query_in_gallery"]) == (len(test), len(train), 0)
    assert protocol["fingerprint"] == test.fingerprint() != protocol["gallery_fingerprint"] == train.fingerprint()
    for name in ("retrievals.png", "label_scores.png", "distance_density.png", "report.html", "evaluate_model.txt"):
        assert (folder / name).stat().st_size, name


def test_a_split_searched_in_itself_leaves_every_query_out(saved):
    evaluate(saved, "--dataset_type", "val", "--gallery_split", "val", "--map_method", "tsne")
    folder = saved / "evaluation_results" / "best_val"
    protocol = json.loads((folder / "scores.json").read_text())["protocol"]
    assert protocol["query_in_gallery"] == protocol["queries"] == protocol["gallery"]
    assert protocol["self_match"] == "the query's own row is left out by index"
    table = read_neighbours(folder)
    assert (table["query"] != table["image"]).all()
    assert "t-SNE of the embeddings" in (folder / "report.html").read_text()
    assert (folder / "embedding_map.png").stat().st_size


def test_a_wrong_run_folder_is_found_before_anything_is_evaluated(saved, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(saved / "args.json", empty)
    unvalidated = tmp_path / "unvalidated"
    unvalidated.mkdir()
    for name in ("args.json", "last.pt"):
        shutil.copy(saved / name, unvalidated)
    wrong = {
        "nowhere": "is not a run folder",
        empty: f"has no best.pt yet; train on with --load_from_checkpoint {empty}\n",
        unvalidated: "has no best.pt yet; train on with --load_from_checkpoint "
        f"{unvalidated}, or evaluate it as it is with --checkpoint last\n",
        saved / "." / "figures" / "..": "twice",
    }
    for folder, said in wrong.items():
        done = run_inside("evaluate_model", "--load_from_checkpoint", saved, folder, "--source_path", tmp_path, code=2)
        assert said in done.stderr, "--source_path is not looked at yet"


def test_comparisons_beside_runs_are_left_out(saved, tmp_path, capsys):
    """The second `--load_from_checkpoint RUNS/*` names the comparison of the first as well."""
    comparison = tmp_path / "comparison_best_test"
    comparison.mkdir()
    (comparison / CONTENT).write_text("{}")
    assert named_runs([str(saved), str(comparison)]) == [saved]
    assert capsys.readouterr().out == f"note: {comparison}: a comparison and no run, left out\n"
    done = run_inside("evaluate_model", "--load_from_checkpoint", comparison, code=2)
    assert "is not a run folder" in done.stderr


def test_where_results_are_saved_and_what_they_replace_is_said(saved):
    target = saved / "evaluation_results" / "last_test"
    first = evaluate(saved, "--checkpoint", "last", "--eval_metric", "recall@1")
    assert f"saved in {target}\n" in first.stdout
    assert f"saved in {target}\n" in evaluate(saved, "--checkpoint", "last", "--eval_metric", "recall@1").stdout
    again = evaluate(saved, "--checkpoint", "last", "--eval_metric", "recall@1", "--relevance", "share")
    replaced = "replaces an evaluation of recall@1, label_jaccard@8 under relevance subset"
    assert f"saved in {target} ({replaced})\n" in again.stdout


def test_scores_that_cannot_be_read_are_replaced(saved):
    target = saved / "evaluation_results" / "best_val"
    target.mkdir(parents=True, exist_ok=True)
    for content in ("{", "[]", "{}"):
        (target / "scores.json").write_text(content)
        done = evaluate(saved, "--dataset_type", "val", "--eval_metric", "recall@1")
        assert f"saved in {target} (replaces a scores.json that could not be read)\n" in done.stdout


def test_results_that_cannot_be_written_are_found_before_anything_is_evaluated(saved, tmp_path):
    copy, file = tmp_path / "baseline", tmp_path / "file"
    shutil.copytree(saved, copy, ignore=shutil.ignore_patterns("*_results"))
    file.touch()
    argv = ("--source_path", tmp_path, "--comparison_path", file)  # --source_path is not looked at yet
    done = run_inside("evaluate_model", "--load_from_checkpoint", saved, copy, *argv, code=2)
    assert f"--comparison_path {file}: {file} is a file" in done.stderr
    (copy / "evaluation_results").touch()
    done = run_inside("evaluate_model", "--load_from_checkpoint", copy, *argv[:2], code=2)
    assert f"{copy / 'evaluation_results'} is a file" in done.stderr


def test_an_unknown_split_lists_the_choices(saved):
    done = evaluate(saved, "--gallery_split", "archive", code=2)
    assert "train" in done.stderr
    assert "archive" in done.stderr


def test_a_backend_that_is_not_there_is_refused_before_anything_is_embedded(saved, monkeypatch):
    def refuse(*given):
        raise AssertionError("embedded")

    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(whole_split, "embed_split", refuse)
    assert "faiss cannot be imported" in evaluate(saved, "--backend", "faiss", code=2).stderr


def test_help_lists_every_measure_and_an_unknown_one_ends_with_the_choices(saved):
    told = evaluate(saved, "--help", "all").stdout.split()
    assert set(metric_names()) <= set(told)
    done = evaluate(saved, "--eval_metric", "recall@1", "ndgc@5", code=2)
    assert "unknown metric 'ndgc@5' (--eval_metric)" in done.stderr
    assert all(name in done.stderr for name in ("ndcg@K", "ndcg_jaccard@K", "knn_f1@K", "map_at_r"))


def test_the_docstring_of_the_script_lists_every_flag_once():
    listed = re.findall(r"--(\w+)", evaluate_model.__doc__.partition("Flags, which")[2].partition("\n")[2])
    assert sorted(listed) == sorted(flag.name for flag in parameters.EVALUATION)


def test_every_measure_has_a_score_a_chance_level_and_an_interval(saved):
    names = [name.replace("@K", "@3") for name in metric_names()]
    evaluate(saved, "--eval_metric", *names)
    content = json.loads((saved / "evaluation_results" / "best_test" / "scores.json").read_text())
    for part in ("scores", "chance", "interval"):
        assert set(names) <= content[part].keys()
    for name in names:
        low, high = content["interval"][name]
        assert low <= content["scores"][name] <= high


def changed_copy(source, tmp_path, change):
    """The data with changed label files; images are not copied."""
    other = tmp_path / "other"
    shutil.copytree(source / "Demo", other / "Demo", copy_function=os.link)
    for table in (other / "Demo" / "labels").iterdir():
        text = table.read_text()
        table.unlink()  # it is the source's own file
        table.write_text(change(text))
    return other


def test_label_names_that_the_run_does_not_know_are_refused(source, saved, tmp_path):
    def rename(text):
        header, _, rest = text.partition("\n")
        return header.replace("airplane", "terrace") + "\n" + rest

    other = changed_copy(source, tmp_path, rename)
    done = evaluate(saved, "--source_path", other, code=2)
    assert "trained with other label names than this data has: ['airplane', 'terrace']" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_split_other_than_the_one_of_training_is_said(source, saved, tmp_path):
    evaluate(saved, "--dataset_type", "test", "--gallery_split", "train")
    scores = saved / "evaluation_results" / "best_test_in_train" / "scores.json"
    assert json.loads(scores.read_text())["protocol"]["notes"] == []
    other = changed_copy(source, tmp_path, lambda text: text.replace(",0", ",1", 1))
    done = evaluate(saved, "--source_path", other, "--dataset_type", "test", "--gallery_split", "train")
    assert "note: train holds other images or labels than when this run was trained" in done.stdout


def test_a_checkpoint_of_another_data_set_is_refused(saved, tmp_path):
    folder = tmp_path / "baseline"
    shutil.copytree(saved, folder)
    args = json.loads((folder / "args.json").read_text())
    (folder / "args.json").write_text(json.dumps(args | {"dataset": "UCMerced"}))
    done = evaluate(folder, "--source_path", tmp_path, code=2)
    assert "was changed since the run was trained: --dataset UCMerced, trained with Demo" in done.stderr


def test_the_network_before_training_begins_from_the_weights_of_the_run(tmp_path, monkeypatch):
    weights = tmp_path / "weights.pth"
    bands = ("R", "G", "B")
    torch.save(EmbeddingNetwork(arch="resnet18", bands=bands, heads={"other": 2}).state_dict(), weights)
    run = parameters.parse("baseline", ["--arch", "resnet18", "--sz_embedding", "4", "--weights", str(weights)])
    begun = Baseline(run, SimpleNamespace(labels=np.ones((120, 2), bool), bands=bands)).network
    trained, best = ({key: tensor + more for key, tensor in begun.state_dict().items()} for more in (1, 2))
    description = {"network_description": begun.description(), "data": {}}
    last = {"method": {f"network.{key}": tensor for key, tensor in trained.items()}}
    files = {"last.pt": description | last}
    monkeypatch.setattr(checkpoint, "load", lambda folder, name: files[name])
    for initial, which, state in ((True, "best", begun.state_dict()), (False, "last", trained), (False, "best", best)):
        args = Settings({"is_evaluate_initial": initial, "checkpoint": which})
        loaded = load_network(tmp_path, run, args)[0].state_dict()
        files["best.pt"] = description | {"network": best}  # which a run need not have yet to be looked at untrained
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, None),
        ({"bands": ("B02", "B03", "B08")}, r"other bands than this data has: \['B04', 'B08'\]"),
        ({"bands": ("B04", "B03", "B02")}, "other bands than this data has: their order"),
        ({"label_names": ["sea", "port"]}, "other label names than this data has: their order"),
    ],
)
def test_other_bands_or_labels_than_those_of_training_are_refused(tmp_path, changed, said):
    data = {"label_names": ["port", "sea"], "bands": ["B02", "B03", "B04"], "mean": [1.0] * 3, "std": [2.0] * 3}
    own = {"label_names": ("port", "sea"), "bands": ("B02", "B03", "B04"), "mean": (7.0,) * 3, "std": (8.0,) * 3}
    dataset = SimpleNamespace(**own | changed)
    args = Settings({"dataset": None, "query": None, "export": None})
    if said is None:
        check_data(dataset, data, tmp_path, args)
        assert (dataset.mean, dataset.std) == ((1.0,) * 3, (2.0,) * 3)  # its images are normalised as in training
        return
    with pytest.raises(UserError, match=said):
        check_data(dataset, data, tmp_path, args)
