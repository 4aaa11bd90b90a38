"""Several processes as a user starts them: torchrun, --gpu_ids and Slurm."""

import itertools
import json
import os
import shlex
import subprocess
import time

import pytest
import torch

import parameters
from tests.scripts import ROOT, TINY, records, run_inside, run_ranks, state
from utilities.errors import UserError
from utilities.parallel import distributed

TWO = (*TINY, "--batch_size", 8, "--nb_epochs", 1, "--demo_images_per_category", 4)
EVALUATION = ("--dataset_type", "val", "--eval_batch_size", 5, "--num_workers", 0)  # batches that do not come out even


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def trained(demo, tmp_path_factory):
    """What two processes printed, and their run folder."""
    save_path = tmp_path_factory.mktemp("runs")
    done = run_ranks(2, "train_baseline", "--source_path", demo, "--save_path", save_path, *TWO)
    return done, save_path / "Demo" / "baseline"


def test_rank_0_alone_writes(trained):
    done, folder = trained
    assert done.stdout.count("run folder") == 1
    assert "FutureWarning" not in done.stderr
    assert [path.name for path in folder.parent.iterdir()] == ["baseline"]
    steps = [r["step"] for r in records(folder) if r["split"] == "train"]
    assert steps == sorted(set(steps))
    assert state(folder)["world_size"] == 2


def test_a_run_of_two_processes_goes_on_with_one(trained, tmp_path):
    _, folder = trained
    copy = tmp_path / "baseline"
    subprocess.run(["cp", "-r", folder, copy], check=True)
    done = run_inside("train_baseline", "--load_from_checkpoint", copy, "--nb_epochs", 2)
    assert "the run had 2 processes and goes on with 1" in done.stdout
    assert state(copy)["epoch"] == 2


def test_two_processes_evaluate_like_one(trained, tmp_path):
    """The same scores, chance levels, intervals and files; embeddings depend on the batch in their last bits."""
    _, folder = trained
    results = folder / "evaluation_results" / "best_val"
    written = []
    for world in (1, 2):
        if world == 1:
            run_inside("evaluate_model", "--load_from_checkpoint", folder, *EVALUATION)
        else:
            done = run_ranks(2, "evaluate_model", "--load_from_checkpoint", folder, *EVALUATION)
            assert done.stdout.count("baseline on Demo") == 1
        content = json.loads((results / "scores.json").read_text())
        content["protocol"].pop("seconds")
        found = {key: content[key] for key in ("scores", "chance", "interval", "protocol")}
        written.append((found, sorted(path.name for path in results.iterdir())))
        results.rename(tmp_path / str(world))
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("how", "said"), [("raise", "[rank1]: ArithmeticError: this rank fails"), ("kill", "Signal 9 (SIGKILL)")]
)
def test_a_rank_that_fails_ends_the_job_with_its_reason(demo, tmp_path, how, said):
    start = time.monotonic()
    done = run_ranks(
        2,
        "tests/failing_rank",
        how,
        "--source_path",
        demo,
        "--save_path",
        tmp_path,
        *TWO,
        "--log_every_steps",
        1,
        code=1,
    )
    seconds = time.time() - max(path.stat().st_mtime for path in tmp_path.rglob("metrics.jsonl"))
    assert said in done.stderr
    assert "Root Cause (first observed failure)" in done.stderr
    assert seconds < 30, f"of {time.monotonic() - start:.0f}: the others waited"
    assert [r["step"] for r in records(tmp_path / "Demo" / "baseline")] == [1]


@pytest.fixture
def gpus(monkeypatch):
    """A machine with four GPUs, and what the program would become."""
    launched = []
    monkeypatch.setattr(
        torch.cuda, "device_count", lambda: len((os.environ["CUDA_VISIBLE_DEVICES"] or "0,1,2,3").split(","))
    )
    monkeypatch.setattr(os, "execv", lambda program, argv: launched.append(argv))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("RANK", raising=False)
    return launched


def test_gpu_ids_of_several_become_one_process_each(gpus, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # so that what is set in its place is taken back
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    parameters.start_run("baseline", ["--gpu_ids", "1", "3", "--nb_epochs", "3"])
    (argv,) = gpus
    assert argv[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    assert argv[-4:] == ["1", "3", "--nb_epochs", "3"], "the command line goes on unchanged"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert os.environ["OMP_NUM_THREADS"] == "8", "of the cores, each process its share"


def test_one_gpu_id_stays_in_this_process(gpus):
    parameters.start_run("baseline", ["--gpu_ids", "2"])
    assert not gpus
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"


def test_one_gpu_id_that_comes_too_late_for_cuda_is_refused(gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)  # whatever is visible by now
    with pytest.raises(UserError, match="set CUDA_VISIBLE_DEVICES=2 before the command and leave --gpu_ids out"):
        parameters.start_run("baseline", ["--gpu_ids", "2"])


def test_gpu_ids_count_among_the_gpus_that_a_job_was_given(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    parameters.start_run("baseline", ["--gpu_ids", "0", "3"])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"


@pytest.mark.parametrize("given", [["4"], ["0", "0"], ["0", "-1"]])
def test_gpu_ids_that_are_not_there_are_refused(gpus, given):
    with pytest.raises(UserError, match=r"torch sees 4 GPUs, numbered from 0"):
        parameters.start_run("baseline", ["--gpu_ids", *given])


def test_a_process_without_a_gpu_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match="process 1 of this machine has no GPU, torch sees 1"):
        distributed.start("cuda")


def test_a_machine_without_a_gpu_is_told_in_plain_words(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(UserError, match=r"no GPU found; give --device cpu"):
        distributed.start("cuda")


@pytest.mark.parametrize("words", [["demo", "--prnt"], ["demo", "--print", "twice"], ["setup", "--dev"]])
def test_an_option_that_sample_run_does_not_know_runs_nothing(words):
    done = subprocess.run(["bash", ROOT / "SampleRun.sh", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown option" in done.stderr
    assert not done.stdout


@pytest.mark.parametrize("cores", ["48", ""])
def test_the_slurm_recipe_names_the_first_machine_of_the_job(tmp_path, cores):
    subprocess.run(["bash", "-n", ROOT / "SampleRun.sh"], check=True)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames gpu[07-08]" ] && printf "gpu07\\ngpu08\\n"\n')
    scontrol.chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "31"}
    job["SLURM_CPUS_PER_TASK"] = cores
    shown = subprocess.run(
        ["bash", ROOT / "SampleRun.sh", "slurm", "--print"],
        env={**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    words = shlex.split(shown.stdout)
    options = dict(itertools.pairwise(words))
    assert words[0] == "srun"
    asked = [word for word in words if word.startswith("--cpus-per-task")]
    assert asked == ([f"--cpus-per-task={cores}"] if cores else []), "which srun does not take from sbatch"
    assert options["--rdzv_endpoint"] == "gpu07:29500"
    assert (options["--nnodes"], options["--nproc_per_node"], options["--rdzv_id"]) == ("2", "8", "31")
