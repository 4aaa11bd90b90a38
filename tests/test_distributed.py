"""Two gloo processes against one: the same loss, the same gradient, the same memories, for every method.

Float64 and fixed batch-norm statistics, so that what is compared is the algebra of gathering and averaging.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import parameters
from train_baseline import Baseline
from train_bier import BIER
from train_dac import DivideAndConquer
from train_diva import DiVA
from train_sndl import SNDL
from utilities import distributed
from utilities.batch import Batch

KINDS = (Baseline, DiVA, DivideAndConquer, BIER, SNDL)
WORLD, GLOBAL, N, L = 2, 12, 48, 5
SMALL = ("--arch", "resnet18", "--sz_embedding", "16", "--num_samples_per_class", "3", "--freeze_batch_norm", "yes")
QUEUE = 2 * GLOBAL  # keys; its flag counts in --batch_size, which is that of one process


def split():
    generator = np.random.default_rng(3)
    labels = generator.random((N, L)) < 0.15
    labels[np.arange(N), np.arange(N) % L] = True
    return SimpleNamespace(bands=("R", "G", "B"), labels=labels)


def build(kind, batch_size):
    extra = {"dac": ["--dac_nb_clusters", "2"], "diva": ["--diva_moco_n_key_batches", str(QUEUE // batch_size)]}
    argv = [*SMALL, "--batch_size", str(batch_size), *extra.get(kind.name, [])]
    method = kind(parameters.parse(kind.name, argv), split()).double().train()
    if kind is DivideAndConquer:
        method.clusters.drawn_from.zero_()  # every image in cluster 0
    return method


def batch(part):
    generator = torch.Generator().manual_seed(5)
    rows = torch.randperm(N, generator=generator)[:GLOBAL]
    images = torch.randn(GLOBAL, 3, 32, 32, generator=generator, dtype=torch.float64)
    second = torch.randn(GLOBAL, 3, 32, 32, generator=generator, dtype=torch.float64)
    labels = torch.from_numpy(split().labels)[rows]
    return Batch(images[part], labels[part], rows[part], second[part])


def one_step(method, model, part):
    """Gradients by name and loss terms of one forward and backward; then what follows the step."""
    terms = model(batch(part))
    torch.stack(list(terms.values())).sum().backward()
    method.after_step()
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return {name: float(value.detach()) for name, value in terms.items()}, gradients


def largest_difference(one, other):
    names = set(one) | set(other)
    zero = torch.zeros(())
    return max(float((one.get(n, zero) - other.get(n, zero)).abs().max()) for n in names)


def worker(rank, folder):
    torch.set_num_threads(1)
    alone = {}
    for kind in KINDS:  # before there is a process group: one process holds the whole batch
        method = build(kind, GLOBAL)
        alone[kind.name] = (*one_step(method, method, slice(None)), method.state_dict())
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    found = {}
    for kind in KINDS:
        method = build(kind, GLOBAL // WORLD)
        model = DistributedDataParallel(
            method, find_unused_parameters=method.unused_parameters, broadcast_buffers=False
        )
        part = slice(rank * GLOBAL // WORLD, (rank + 1) * GLOBAL // WORLD)
        terms, gradients = one_step(method, model, part)
        mean = {}
        for name, value in terms.items():
            total = torch.tensor(value, dtype=torch.float64)
            dist.all_reduce(total)
            mean[name] = float(total) / WORLD
        expected_terms, expected_gradients, expected_state = alone[kind.name]
        state = method.state_dict()
        remembered = {n: v.double() for n, v in expected_state.items() if n in state and v.dtype.is_floating_point}
        found[kind.name] = {
            "terms": max(abs(mean[n] - expected_terms[n]) for n in expected_terms),
            "gradient": largest_difference(gradients, expected_gradients),
            "largest_gradient": max(float(g.abs().max()) for g in expected_gradients.values()),
            "state": max(float((state[n].double() - v).abs().max()) for n, v in remembered.items()),
        }
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(worker, (str(folder),), nprocs=WORLD)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_two_processes_equal_one_with_the_whole_batch(found, kind):
    for on_rank in found:
        differences = on_rank[kind.name]
        assert differences["largest_gradient"] > 1e-3, "nothing would be compared"
        assert differences["terms"] < 1e-6
        assert differences["gradient"] < 1e-6
        assert differences["state"] < 1e-6, "queues, memories and key networks"


def test_helpers_are_valid_without_a_process_group():
    rows = torch.randn(3, 2, requires_grad=True)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.gather_rows(rows) is rows
    assert torch.equal(distributed.gather_uneven(rows), rows)
    assert distributed.broadcast_object("x") == "x"
