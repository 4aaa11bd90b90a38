"""--compile changes how the backbone is computed, and nothing that is saved.

Graphs are captured as always and run as they are ("eager"): generating code takes minutes and is torch's own business.
"""

import functools

import pytest
import torch
from torch import nn

from tests.scripts import TINY, records, run_inside, state

RUN = (*TINY, "--demo_images_per_category", 4, "--nb_epochs", 1, "--eval_epoch", 1, "--precision", "fp32")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same run, plain and compiled: (plain, compiled, number of compiled modules)."""
    demo, runs = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("runs")
    compiled = []
    with pytest.MonkeyPatch.context() as patch:
        original = functools.partialmethod(nn.Module.compile, backend="eager")
        patch.setattr(nn.Module, "compile", original)
        for name, flags in (("plain", ()), ("compiled", ("--compile",))):
            argv = ("--source_path", demo, "--save_path", runs, "--savename", name, *RUN, *flags)
            run_inside("train_baseline", *argv)
            compiled.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        run_inside("train_baseline", "--load_from_checkpoint", runs / "Demo" / "compiled", "--nb_epochs", 2)
    return runs / "Demo" / "plain", runs / "Demo" / "compiled", compiled


def test_a_compiled_run_trains_like_a_plain_one_and_resumes(folders):
    plain, compiled, graphs = folders
    assert graphs[0] == 0 < graphs[1], "nothing was compiled"
    expected = [r["losses"]["margin"] for r in records(plain) if r["split"] == "train"]
    found = [r["losses"]["margin"] for r in records(compiled) if r["split"] == "train"]
    assert found[: len(expected)] == pytest.approx(expected, rel=1e-4)
    assert [r["epoch"] for r in records(compiled) if r["split"] == "val"] == [1, 2]


@pytest.mark.parametrize("part", ["method", "optimizer"])
def test_checkpoints_of_compiled_and_plain_runs_are_interchangeable(folders, part):
    plain, compiled, _ = folders
    one, other = state(plain)[part], state(compiled)[part]
    assert one.keys() == other.keys()
    if part == "method":
        assert not any("_orig_mod" in name for name in other)
        assert {n: t.shape for n, t in one.items()} == {n: t.shape for n, t in other.items()}


def test_a_compiled_run_is_evaluated(folders):
    run_inside("evaluate_model", "--load_from_checkpoint", folders[1], "--dataset_type", "val", "--num_workers", 0)
    assert (folders[1] / "evaluation_results" / "best_val" / "scores.json").exists()
