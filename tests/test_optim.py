"""Schedules in closed form, and optimizers that respect the groups."""

import itertools

import pytest
import torch

from utilities.training import optim

BASE = {"nb_epochs": 40, "tau": [10, 30], "gamma": 0.3, "weight_decay": 0.1, "momentum": 0.9}


@pytest.mark.parametrize(("progress", "expected"), [(0, 1), (9.99, 1), (10, 0.3), (29.9, 0.3), (30, 0.09), (90, 0.09)])
def test_step(progress, expected):
    assert optim.factor(progress, BASE | {"scheduler": "step"}) == pytest.approx(expected)


def test_cosine_falls_from_one_to_zero():
    values = [optim.factor(p, BASE | {"scheduler": "cosine"}) for p in (0, 20, 40, 45)]
    assert values == pytest.approx([1, 0.5, 0, 0])


def test_onecycle_rises_for_a_quarter_then_falls():
    args = BASE | {"scheduler": "onecycle"}
    values = [optim.factor(p, args) for p in (0, 5, 10, 25, 40)]
    assert values == pytest.approx([1 / 25, (1 + 1 / 25) / 2, 1, 0.5, 0], abs=1e-12)
    steps = [optim.factor(p / 10, args) for p in range(401)]
    assert max(abs(a - b) for a, b in itertools.pairwise(steps)) < 0.02, "no jumps"


def test_none_is_constant():
    assert {optim.factor(p, BASE | {"scheduler": "none"}) for p in (0, 3, 90)} == {1.0}


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_groups_keep_their_rate_and_weight_decay(name):
    fast, slow = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    groups = [{"params": [fast], "lr": 0.1}, {"params": [slow], "lr": 0.001, "weight_decay": 0.0}]
    optimizer = optim.build(groups, BASE | {"optim": name})
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0]
    rates = optim.set_rates(optimizer, [0.1, 0.001], 0.5)
    assert rates == pytest.approx([0.05, 0.0005])
    (fast.sum() + slow.sum()).backward()
    optimizer.step()
    assert (1 - fast).abs().min() > 20 * (1 - slow).abs().max()
    assert torch.isfinite(fast).all()


def test_sgd_without_momentum_is_plain_gradient_descent():
    weight = torch.ones(2, requires_grad=True)
    group = {"params": [weight], "lr": 0.5, "name": "all"}
    optimizer = optim.build([group], BASE | {"optim": "sgd", "momentum": 0.0, "weight_decay": 0.0})
    weight.sum().backward()
    optimizer.step()
    assert weight.tolist() == [0.5, 0.5]


def test_vectors_are_not_decayed_on_request():
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    groups = [{"name": "heads", "params": list(layer.parameters()), "lr": 0.1}]
    args = {"optim": "adam", "weight_decay": 0.5, "nb_epochs": 1, "decay_kernels_only": True}
    kernels, vectors = optim.build(groups, args).param_groups
    assert [tuple(p.shape) for p in kernels["params"]] == [(2, 3)]
    assert kernels["weight_decay"] == 0.5
    assert [tuple(p.shape) for p in vectors["params"]] == [(2,)] * 3
    assert (vectors["weight_decay"], vectors["name"]) == (0.0, "heads vectors")
    assert len(optim.build(groups, args | {"decay_kernels_only": False}).param_groups) == 1


@pytest.mark.parametrize(("progress", "expected"), [(0, 1), (0.9, 1), (1, 0.3), (2.5, 0.09)])
def test_exp_multiplies_the_rate_after_every_epoch(progress, expected):
    assert optim.factor(progress, BASE | {"scheduler": "exp"}) == pytest.approx(expected)
