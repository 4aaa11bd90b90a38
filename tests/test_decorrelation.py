"""Adversarial separation (DiVA), A-BIER and the activation loss: signs, reach and closed forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from criteria import CRITERIA
from criteria.decorrelation import (
    ABierRegulariser,
    AdversarialSeparation,
    Direction,
    activation_loss,
    reverse_gradient,
    unit_length_penalty,
)
from tests.oracles import losses
from utilities.errors import UserError

WIDTHS = {"discriminative": 4, "shared": 4, "intra": 3}


def separation(rho: float = 2.0) -> AdversarialSeparation:
    torch.manual_seed(0)
    directions = [Direction("shared", "discriminative", rho), Direction("intra", "discriminative", rho)]
    return AdversarialSeparation(widths=WIDTHS, directions=directions, hidden=6)


def embeddings(size: int = 5, dtype=torch.float32) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        name: F.normalize(torch.randn(size, d, generator=random, dtype=dtype)).requires_grad_()
        for name, d in WIDTHS.items()
    }


def test_reversal_is_the_identity_forward_and_minus_one_backward():
    x = torch.randn(3, 2, requires_grad=True)
    y = reverse_gradient(x)
    assert torch.equal(y, x)
    (gradient,) = torch.autograd.grad((3 * y).sum(), x)
    assert torch.equal(gradient, torch.full_like(x, -3.0))


def test_similarity_of_equal_one_hot_rows_is_one_over_the_dimension():
    module = AdversarialSeparation(widths={"a": 8, "b": 8}, directions=[Direction("a", "b", 1500.0)], hidden=2)
    module.regressors[0] = nn.Identity()
    rows = torch.eye(8)[:3]
    terms = module({"a": rows, "b": rows})
    assert list(terms) == ["a_to_b"]
    assert terms["a_to_b"].item() == pytest.approx(-1500 / 8)


def test_the_regressor_raises_and_the_embeddings_lower_the_similarity():
    module, rows = separation(rho=2.0), embeddings()
    terms = module(rows)
    sum(terms.values()).backward()

    def plain(parameters):
        """Gradient of sum c(target, psi(source)) without any reversal."""
        total = 0
        for (source, target, _), psi in zip(module.directions, module.regressors, strict=True):
            prediction = F.normalize(psi(F.normalize(rows[source])))
            total = total + (F.normalize(rows[target]) * prediction).square().mean()
        return torch.autograd.grad(total, parameters)

    leaves = list(rows.values())
    for leaf, expected in zip(leaves, plain(leaves), strict=True):
        torch.testing.assert_close(leaf.grad, 2.0 * expected)  # + rho dc/dphi
    weights = list(module.parameters())
    for weight, expected in zip(weights, plain(weights), strict=True):
        torch.testing.assert_close(weight.grad, -2.0 * expected)  # - rho dc/dpsi


def test_descent_trains_the_regressor_against_frozen_embeddings():
    module = separation(rho=1.0)
    rows = {name: r.detach() for name, r in embeddings().items()}
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    before = sum(module(rows).values()).item()
    for _ in range(50):
        optimizer.zero_grad()
        loss = sum(module(rows).values())
        loss.backward()
        optimizer.step()
    assert loss.item() < before - 0.05


def test_every_direction_has_its_own_weight():
    rows = embeddings()
    one = separation(rho=1.0)
    torch.manual_seed(0)
    directions = [Direction("shared", "discriminative", 1.0), Direction("intra", "discriminative", 3.0)]
    two = AdversarialSeparation(widths=WIDTHS, directions=directions, hidden=6)
    single, weighted = one(rows), two(rows)
    torch.testing.assert_close(weighted["shared_to_discriminative"], single["shared_to_discriminative"])
    torch.testing.assert_close(weighted["intra_to_discriminative"], 3 * single["intra_to_discriminative"])


def test_unknown_embedding_is_named():
    with pytest.raises(UserError, match=r"nce -> shared.*'nce'.*discriminative, shared, intra"):
        AdversarialSeparation(widths=WIDTHS, directions=[Direction("nce", "shared", 1.0)], hidden=6)


def test_separation_of_an_empty_batch_is_zero_with_a_graph():
    rows = {name: r[:0].detach().requires_grad_() for name, r in embeddings().items()}
    total = sum(separation()(rows).values())
    total.backward()
    assert total.item() == 0


def test_separation_stays_float32_under_autocast():
    module, rows = separation(), embeddings()
    expected = module(rows)
    with torch.autocast("cpu", torch.bfloat16):
        got = module(rows)
    for name, term in expected.items():
        assert torch.equal(got[name], term)
        assert got[name].dtype == torch.float32


# -- A-BIER --------------------------------------------------------------------------------

FEATURES = 5


def regulariser(sizes=(2, 3, 4), **changes) -> ABierRegulariser:
    torch.manual_seed(0)
    settings = {
        "hidden": 6,
        "lambda_div": 0.5,
        "lambda_weight": 10.0,
        "norm_axis": "output",
        "norm_reduction": "sum",
    }
    return ABierRegulariser(features=FEATURES, sizes=sizes, **(settings | changes))


def embedding_layer(sizes=(2, 3, 4)):
    random = torch.Generator().manual_seed(2)
    features = torch.randn(7, FEATURES, generator=random).requires_grad_()
    weights = [torch.randn(d, FEATURES, generator=random).requires_grad_() for d in sizes]
    return features, weights


def similarity_sum(module, features, weights):
    """sum_{i<j} mean (f_i g(f_j))^2, nothing reversed or detached but the features."""
    groups = [features.detach() @ w.T for w in weights]
    pairs = [(i, j) for i in range(len(groups)) for j in range(i + 1, len(groups))]
    return sum((groups[i] * g(groups[j])).square().mean() for (i, j), g in zip(pairs, module.regressors, strict=True))


def test_value_direction_and_size_of_the_adversarial_term():
    module, (features, weights) = regulariser(), embedding_layer()
    terms = module(features, weights)
    torch.testing.assert_close(terms.adversarial, -0.5 * similarity_sum(module, features, weights))
    shapes = [(g[0].in_features, g[2].out_features) for g in module.regressors]
    assert shapes == [(3, 2), (4, 2), (4, 3)]  # from the larger to the smaller group


def test_descending_sizes_still_predict_the_smaller_from_the_larger():
    shapes = [(g[0].in_features, g[2].out_features) for g in regulariser(sizes=(4, 2, 3)).regressors]
    assert shapes == [(4, 2), (4, 3), (3, 2)]


def test_gradients_reach_the_embedding_layer_reversed_and_nothing_below():
    module, (features, weights) = regulariser(), embedding_layer()
    module(features, weights).adversarial.backward()
    assert features.grad is None
    expected = torch.autograd.grad(similarity_sum(module, features, weights), [*weights, *module.parameters()])
    for weight, gradient in zip(weights, expected, strict=False):
        torch.testing.assert_close(weight.grad, 0.5 * gradient)  # + lambda dL_sim/dW
    for parameter, gradient in zip(module.parameters(), expected[3:], strict=True):
        torch.testing.assert_close(parameter.grad, -0.5 * gradient)


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_norm_term_sums_all_matrices_and_long_biases(axis, reduction):
    module, (features, weights) = regulariser(norm_axis=axis, norm_reduction=reduction), embedding_layer()
    long, short = module.regressors[0][0].bias, module.regressors[1][0].bias
    nn.init.constant_(long, 1.0)  # 6 entries: ||b||^2 - 1 = 5
    nn.init.constant_(short, 0.1)
    linear = [layer for g in module.regressors for layer in (g[0], g[2])]
    matrices = [*weights, *(layer.weight for layer in linear)]
    expected = 5.0 + sum(losses.unit_length_penalty(m.tolist(), axis=axis, reduction=reduction) for m in matrices)
    terms = module(features, weights)
    assert terms.norms.item() == pytest.approx(0.5 * 10 * expected, rel=1e-4)
    terms.norms.backward()
    torch.testing.assert_close(long.grad, torch.full_like(long, 0.5 * 10 * 2.0))
    assert not short.grad.any()


def test_vectors_of_unit_length_cost_nothing():
    weight = F.normalize(torch.randn(3, 5), dim=1)
    assert unit_length_penalty(weight, axis="output", reduction="sum").item() == pytest.approx(0, abs=1e-10)
    assert unit_length_penalty(weight.T, axis="input", reduction="mean").item() == pytest.approx(0, abs=1e-10)
    assert unit_length_penalty(2 * weight, axis="output", reduction="sum").item() == pytest.approx(27, rel=1e-4)


def test_groups_of_equal_size_keep_all_their_regressors():
    module = regulariser(sizes=(3, 3, 3))
    features, weights = embedding_layer((3, 3, 3))
    assert len(module.regressors) == 3
    assert len({id(g) for g in module.regressors}) == 3
    module(features, weights).adversarial.backward()
    assert all(w.grad.abs().sum() > 0 for w in weights)


def test_a_single_group_has_nothing_to_differ_from():
    module = regulariser(sizes=(3,))
    features, weights = embedding_layer((3,))
    terms = module(features, weights)
    (terms.adversarial + terms.norms).backward()
    assert terms.adversarial.item() == 0
    expected = losses.unit_length_penalty(weights[0].tolist(), axis="output", reduction="sum")
    assert terms.norms.item() == pytest.approx(5 * expected, rel=1e-4)


def test_regressors_start_from_glorot():
    module = regulariser(sizes=(300, 300), hidden=512)
    for layer in (module.regressors[0][0], module.regressors[0][2]):
        bound = (6 / (300 + 512)) ** 0.5
        assert not layer.bias.any()
        assert layer.weight.abs().max() <= bound
        assert layer.weight.var().item() == pytest.approx(bound**2 / 3, rel=0.02)


def test_wrong_choices_and_shapes_are_errors():
    with pytest.raises(UserError, match=r"norm_axis 'rows'.*output, input"):
        regulariser(norm_axis="rows")
    with pytest.raises(UserError, match=r"norm_reduction.*sum, mean"):
        regulariser(norm_reduction="max")
    features, weights = embedding_layer()
    with pytest.raises(ValueError, match="weights of shapes"):
        regulariser()(features, weights[:2])


def test_abier_stays_float32_under_autocast():
    module, (features, weights) = regulariser(), embedding_layer()
    expected = module(features, weights)
    with torch.autocast("cpu", torch.bfloat16):
        got = module(features, weights)
    assert torch.equal(torch.stack(got), torch.stack(expected))
    assert got.norms.dtype == got.adversarial.dtype == torch.float32


def test_activation_loss_equals_its_pairwise_twin():
    features, weights = embedding_layer()
    loss = activation_loss(features, weights, lambda_weight=0.3, norm_axis="output", norm_reduction="mean")
    products = losses.activation_products([(features @ w.T).tolist() for w in weights])
    norms = sum(losses.unit_length_penalty(w.tolist(), axis="output", reduction="mean") for w in weights)
    assert loss.item() == pytest.approx(products + 0.3 * norms, rel=1e-4)
    loss.backward()
    assert features.grad is None
    assert all(w.grad.abs().sum() > 0 for w in weights)


def test_activation_loss_vanishes_for_groups_that_never_fire_together():
    features = torch.eye(4)
    weights = [torch.eye(4)[:2], torch.eye(4)[2:]]
    loss = activation_loss(features, weights, lambda_weight=7.0, norm_axis="output", norm_reduction="sum")
    assert loss.item() == 0


def test_registered_under_their_flags():
    assert CRITERIA["adversarial"] is AdversarialSeparation
    assert CRITERIA.parameters("adversarial") == ["widths", "directions", "hidden"]
    settings = {"bier_hidden": 6, "bier_lambda_div": 1.0, "bier_lambda_weight": 1.0}
    settings |= {"bier_norm_axis": "input", "bier_norm_reduction": "mean"}
    assert CRITERIA.build("abier", settings, features=5, sizes=[2, 3]).norm_axis == "input"
