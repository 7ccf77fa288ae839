"""Hessians that hardly anything can be done with: more damping, then magnitude for that layer alone, and never silently."""

import pytest
import torch

from optimum_ssgr.config import PruningConfig
from optimum_ssgr.errors import NumericalError
from optimum_ssgr.pruning import solve
from optimum_ssgr.pruning.blocks import find_matrices
from optimum_ssgr.pruning.layerwise import prune_layerwise
from optimum_ssgr.pruning.solvers.alps import decompose
from optimum_ssgr.pruning.solvers.sparsegpt import factorize

from ..models import random_model
from .naive import naive_magnitude
from .test_layerwise import inputs_of, random_sequences


@pytest.fixture
def told(monkeypatch):
    messages = []
    monkeypatch.setattr("optimum_ssgr.pruning.solve.logger.warning", messages.append)
    monkeypatch.setattr("optimum_ssgr.pruning.layerwise.logger.warning", messages.append)
    return messages


def test_more_damping_is_tried_and_told(told):
    """A Hessian that is not positive definite (float noise made large here) gets doubled damping, and the log says so."""

    def with_hessian(hessian):
        return lambda damping: [factorize(hessian, damping)[0]]

    indefinite = torch.eye(4) - 0.55 * torch.ones(4, 4) / 2
    [factor], damping = solve.solve_with_damping(with_hessian(indefinite), "layer", 0.01, torch.float32)
    assert damping == 0.16
    assert len(told) == 4
    assert told[-1] == "the Hessian of layer is not usable with damping 0.08; trying 0.16."
    torch.testing.assert_close(factor.T @ factor, torch.linalg.inv(indefinite + 0.16 * 0.725 * torch.eye(4)))
    found = solve.solve_with_damping(with_hessian(torch.eye(4) - torch.ones(4, 4)), "layer", 0.01, torch.float32)
    assert found == ([], 0.5)


def test_weights_that_overflow_are_damped_like_a_hessian_that_fails(told):
    """Updates that a solver makes from a poor Hessian may be more than float16 holds."""
    pruned, damping = solve.solve_with_damping(lambda damping: [torch.tensor([2e4 / damping])], "layer", 0.1, torch.float16)
    assert (pruned, damping) == ([torch.tensor([5e4]).half()], 0.4)


@pytest.mark.parametrize("method", ["sparsegpt", "alps"])
def test_one_layer_that_resists_all_damping_is_pruned_by_magnitude_alone_and_named(monkeypatch, told, method):
    """As if float noise had made the Hessian of down_proj, the only one with 64 inputs, indefinite in the first block."""
    prepare, calls = {"sparsegpt": factorize, "alps": decompose}[method], []

    def prepare_or_fail(hessian, damping):
        calls.append((len(hessian), damping))
        if len(hessian) == 64 and sum(size == 64 for size, _ in calls) <= 7:  # 0.01, doubled up to 0.5
            hessian = hessian - 9 * hessian.trace() * (1 - torch.eye(64))
        return prepare(hessian, damping)

    monkeypatch.setattr(solve, prepare.__name__, prepare_or_fail)
    model, dense = random_model("llama"), random_model("llama")
    reports = prune_layerwise(model, random_sequences(), PruningConfig(method=method))
    [fallen] = [report for report in reports if report.resisted]
    assert (fallen.name, fallen.method, fallen.damping) == ("model.layers.0.mlp.down_proj.weight", "magnitude", 0.5)
    assert {(report.method, report.damping) for report in reports if report is not fallen} == {(method, 0.01)}
    assert [damping for size, damping in calls if size == 64] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.01]
    expected, _ = naive_magnitude(dense.model.layers[0].mlp.down_proj.weight.detach(), sparsity=0.5)
    assert torch.equal(model.model.layers[0].mlp.down_proj.weight.double(), expected)
    assert told[-1].startswith("1 of 14 matrices were pruned by magnitude, since no damping up to 0.5 made")
    assert "model.layers.0.mlp.down_proj.weight;" in told[-1]


@pytest.mark.parametrize("damping", [0.01, 1e-9])
@pytest.mark.parametrize("method", ["sparsegpt", "alps"])
def test_one_token_makes_every_hessian_rank_one(told, method, damping):
    """The largest weights a row may lose to a single input still leave finite ones, as many as asked for."""
    model = random_model("llama")
    reports = prune_layerwise(model, [[5]], PruningConfig(method=method, damping=damping))
    for report in reports:
        assert report.tokens == 1
        assert report.zeros / report.weights == pytest.approx(0.5, abs=0.02)
        assert report.damping >= damping
        assert report.resisted == (report.method == "magnitude")
    raised = [report for report in reports if report.damping > damping]
    assert bool(told) == bool(raised)  # never silent
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_hessian_too_large_for_its_own_mean_falls_back(told):
    """A layer whose inputs are enormous and whose weights are tiny: nothing is infinite but what damping adds."""
    model, dense = random_model("llama"), random_model("llama")
    [inputs] = inputs_of(dense, find_matrices("", dense.model.layers[0])["mlp.down_proj.weight"], [[5]])
    scale = 1e19 / inputs.abs().max().item()
    for changed in (model, dense):
        changed.model.layers[0].mlp.up_proj.weight.data *= scale
        changed.model.layers[0].mlp.down_proj.weight.data /= scale
    reports = prune_layerwise(model, [[5]], PruningConfig(true_sequential=False))
    names = [report.name for report in reports if report.resisted]
    assert names == ["model.layers.0.mlp.down_proj.weight"]
    expected, _ = naive_magnitude(dense.model.layers[0].mlp.down_proj.weight.detach(), sparsity=0.5)
    assert torch.equal(model.model.layers[0].mlp.down_proj.weight.double(), expected)
    assert names[0] in told[-1]


@pytest.mark.parametrize("method", ["sparsegpt", "wanda"])
def test_broken_weights_are_refused_rather_than_called_a_hessians_fault(told, method):
    model = random_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = torch.nan
    with pytest.raises(
        NumericalError, match=r"weights of model\.layers\.1\.mlp\.gate_proj\.weight/mlp\.up_proj\.weight are not"
    ):
        prune_layerwise(model, random_sequences(), PruningConfig(method=method))
    assert not told
