"""Every script on a device that refuses CPU tensors (`tests.pretended_device`), in one process of its own."""

import os
import shlex
import subprocess
import sys

import pytest
from torch.utils import backend_registration

import parameters
from tests.scripts import ROOT, TINY

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch knows no device written in Python",
)
HARNESS = """
import torch
from tests.pretended_device import pretended_device
from utilities import seeding

def refused(call, kind):
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{kind} expected")

with pretended_device() as far:
    a, b = torch.ones(3, 4, device=far), torch.ones(3, 4)
    assert (a + b.to(far)).device == far and float((a * torch.tensor(2.0)).sum()) == 24
    assert (a[torch.tensor([0, 2])] == 1).all() and a.cpu().numpy().sum() == 12
    refused(lambda: a + b, RuntimeError)
    refused(lambda: torch.cat([a, b]), RuntimeError)
    refused(lambda: b[torch.tensor([0], device=far)], RuntimeError)
    refused(lambda: a.index_put_((torch.tensor([0]),), b[:1]), RuntimeError)
    refused(lambda: a.numpy(), TypeError)
    refused(lambda: torch.rand(3, device=far, generator=seeding.generator("cpu", 1)), RuntimeError)
    refused(lambda: torch.rand(3, generator=seeding.generator(far, 1)), RuntimeError)
    assert torch.rand(3, device=far, generator=seeding.generator(far, 1)).device == far
    weights = torch.nn.Linear(4, 2).to(far)
    weights(a).sum().backward()
    assert weights.weight.grad.device == far
"""
METHODS = {
    "diva": (),
    "dac": ("--dac_nb_clusters", 2, "--dac_cluster_on", "features"),
    "bier": ("--bier_prefit_steps", 2),
    "sndl": ("--sndl_warm_start",),
}


def python(*argv, given=""):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *argv], input=given, capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def test_the_pretended_device_refuses_what_cuda_refuses():
    python("-c", HARNESS)


@pytest.fixture
def commands(tmp_path):
    """The command line of a training run in tmp_path, by method, name and further flags."""

    def train(method, name, *more):
        line = [f"train_{method}.py", "--dataset", "Demo", "--source_path", tmp_path, "--save_path", tmp_path, *TINY]
        return shlex.join(map(str, [*line, "--batch_size", 24, "--nb_epochs", 1, "--savename", name, *more]))

    return train


def test_every_script_keeps_to_its_device(commands, tmp_path):
    runs = tmp_path / "Demo"
    lines = [commands("baseline", "baseline", "--is_log_intra_inter_overlap")]
    lines += [commands(method, method, *more) for method, more in METHODS.items()]
    lines += [
        f"train_{method}.py --load_from_checkpoint {runs / method} --nb_epochs 2" for method in ("baseline", "dac")
    ]
    lines += [commands("baseline", "frozen", "--frozen", "--stored_views", 2)]
    lines += [f"evaluate_model.py --load_from_checkpoint {runs / 'frozen'} --scores_only --codes itq --code_bits 8"]
    measures = "recall@K map map_at_r ndcg@K acg@K wap@K precision@K label_f1@K knn_f1@K"
    lines += [f"evaluate_model.py --load_from_checkpoint {runs / 'sndl'} {runs / 'bier'} --eval_metric {measures}"]
    lines += [f"evaluate_model.py --load_from_checkpoint {runs / 'diva'} --gallery_split train --is_evaluate_initial"]
    lines += [
        f"evaluate_model.py --load_from_checkpoint {runs / 'dac'} --query {runs}/Images/lake/lake_00001.jpg --top 5"
    ]
    printed = python("-m", "tests.pretended_device", given="\n".join(lines))
    assert printed.count("  val  ") == len(METHODS) + 4
    assert len(list(runs.glob("*/evaluation_results/*/scores.json"))) == 4
    assert list(runs.glob("dac/search_results/*/*/*.html"))


def test_every_loss_and_miner_keeps_to_its_device(commands):
    flags = {flag.name: flag for group in parameters.groups_of("baseline").values() for flag in group}
    lines = [
        commands("baseline", f"{name}-{choice}", f"--{name}", choice)
        for name in ("baseline_loss", "baseline_batch_miner", "baseline_batches")
        for choice in flags[name].choices
    ]
    printed = python("-m", "tests.pretended_device", given="\n".join(lines))
    assert printed.count("  val  ") == len(lines)
