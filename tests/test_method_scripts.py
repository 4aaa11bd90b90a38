"""The four methods' scripts as a user runs them: train, SIGKILL in the middle of an epoch, resume, evaluate.

Runs that need no process of their own share this one, on one thread, as the killed ones have it.
"""

import contextlib
import json

import pytest
import torch

from tests.scripts import (
    TINY,
    assert_same_run,
    kill_when,
    records,
    run_inside,
    state,
)

# what makes a tiny run use all that a method has
FLAGS = {
    "diva": ("--num_samples_per_class", 4, "--diva_moco_n_key_batches", 3, "--margin_learn_beta", "yes"),
    "dac": ("--dac_nb_clusters", 4, "--dac_recluster_every", 1, "--num_samples_per_class", 4),
    "bier": ("--bier_sizes", 4, 4, 8, "--bier_prefit_steps", 5),
    "sndl": ("--sndl_warm_start",),
}
TERMS = {
    "diva": {"disc", "shared", "intra", "nce", "nce_to_disc", "shared_to_disc", "intra_to_disc", "total"},
    "bier": {"learner1", "learner2", "learner3", "adversarial", "norms", "total"},
    "sndl": {"nca", "bce", "total"},
}
REMEMBERED = {
    "diva": {"contrast.queue", "contrast.pointer", "key_network.network.backbone.net.bn1.running_mean",
             "separation.regressors.0.0.weight", "margins.disc.beta"},
    "dac": {"clusters.assignment", "clusters.centroids", "clusters.made_in", "of_whole.beta"},
    "bier": {"decorrelation.regressors.0.0.weight", "prefitted"},
    "sndl": {"memory.rows", "memory.written", "memory.momentum", "joint.classifier.weight"},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def flags(demo, save_path, name):
    return ["--source_path", demo, "--save_path", save_path, *TINY, *FLAGS[name]]


@pytest.fixture(scope="module", params=FLAGS)
def finished(request, demo, tmp_path_factory):
    """Name and folder of an uninterrupted run."""
    save_path = tmp_path_factory.mktemp("runs")
    run_inside(f"train_{request.param}", *flags(demo, save_path, request.param))
    return request.param, save_path / "Demo" / request.param


def test_a_run_logs_the_terms_and_saves_all_that_the_method_remembers(finished):
    name, folder = finished
    lines = [r for r in records(folder) if r["split"] == "train"]
    assert [r["epoch"] for r in records(folder) if r["split"] == "val"] == [2, 3]
    if name == "dac":
        divided = {term for r in lines if r["epoch"] < 3 for term in r["losses"]} - {"total"}
        assert divided <= {f"slice{k}" for k in range(4)}
        assert "whole" in lines[-1]["losses"]
        assert 0 <= lines[-1]["observed"]["changed_clusters"] < 1
    else:
        assert all(r["losses"].keys() == TERMS[name] for r in lines)
    saved = state(folder)
    assert REMEMBERED[name] <= saved["method"].keys()
    if name == "sndl":
        assert lines[0]["observed"]["memory_coverage"] == 1, "the warm start"
        before = state(folder, "last.previous.pt")  # an epoch earlier
        moved = (saved["method"]["memory.rows"] != before["method"]["memory.rows"]).any(1)
        assert moved.sum() == 16 * (saved["step"] - before["step"]), "the rows of the images of the last epoch"


def test_killed_in_the_middle_of_an_epoch_and_resumed_is_the_same_run(finished, demo, tmp_path):
    name, whole = finished
    folder = tmp_path / "Demo" / name

    def saved_within_the_second_epoch():
        with contextlib.suppress(FileNotFoundError):
            saved = torch.load(folder / "last.pt", weights_only=True, mmap=True)
            return saved["epoch"] == 1 and saved["batch"] > 0
        return False

    kill_when(saved_within_the_second_epoch, f"train_{name}", *flags(demo, tmp_path, name), "--save_every_steps", 2)
    assert state(folder)["batch"] > 0
    run_inside(f"train_{name}", "--load_from_checkpoint", folder)
    assert_same_run(whole, folder)


def test_a_saved_run_is_evaluated(finished):
    _, folder = finished
    run_inside("evaluate_model", "--load_from_checkpoint", folder, "--dataset_type", "test", "--retrieval_queries", 1)
    report = json.loads((folder / "evaluation_results" / "best_test" / "scores.json").read_text())
    assert 0 < report["scores"]["recall@1"] <= 1


@pytest.mark.parametrize(
    ("name", "argv", "said"),
    [
        ("diva", ("--diva_moco_n_key_batches", 50), "--diva_moco_n_key_batches 50"),
        ("dac", ("--dac_nb_clusters", 256, "--sz_embedding", 256), "--dac_nb_clusters 256 is more than"),
        ("bier", ("--bier_sizes", 4, 4, 4), "--bier_sizes 4 4 4 add up to 12, not to --sz_embedding 16"),
        ("sndl", ("--sndl_momenta", 0.5, "--sndl_momentum_epochs", 2), "one fewer than there are --sndl_momenta"),
    ],
)
def test_misuse_ends_with_2_and_leaves_nothing(demo, tmp_path, name, argv, said):
    done = run_inside(f"train_{name}", *flags(demo, tmp_path, name), *argv, code=2)
    assert said in done.stderr
    assert not list(tmp_path.iterdir()), "no run folder for a run that never was"


def test_a_non_finite_loss_names_every_term(demo, tmp_path):
    wild = ("--lr", "1e30", "--scheduler", "none", "--optim", "sgd")
    done = run_inside("train_diva", *flags(demo, tmp_path, "diva"), *wild, code=1)
    assert all(f"{term} = " in done.stderr for term in TERMS["diva"] - {"total"})
    assert "at epoch 1, step" in done.stderr


@pytest.mark.parametrize("name", FLAGS)
def test_help_lists_the_methods_flags(name, capsys):
    with pytest.raises(SystemExit):
        __import__("parameters").parser_of(name).parse_args(["--help"])
    assert f"--{name}_preset" in capsys.readouterr().out
