"""Swaps against a search by the definition, over all pairs, and against the best of all masks."""

import itertools

import pytest
import torch

from optimum_ssgr.config import PruningConfig
from optimum_ssgr.pruning.blocks import find_blocks, find_matrices
from optimum_ssgr.pruning.layerwise import prune_layerwise
from optimum_ssgr.pruning.patterns import NofM, Unstructured
from optimum_ssgr.pruning.solvers import swaps
from optimum_ssgr.pruning.solvers.alps import alps, decompose
from optimum_ssgr.pruning.solvers.magnitude import magnitude
from optimum_ssgr.pruning.solvers.sparsegpt import factorize, sparsegpt
from optimum_ssgr.pruning.solvers.swaps import relative_error, swap, swap_and_refit
from optimum_ssgr.pruning.solvers.wanda import wanda

from ..models import random_model
from .naive import naive_swaps, naive_wanda, reconstruction_error
from .test_layerwise import naive_prune, random_sequences
from .test_solvers import PATTERNS, layer, statistics


def gram_of(inputs):
    return 2 / len(inputs) * inputs.double().T @ inputs.double()


def groups_of(pattern):
    return pattern.size if isinstance(pattern, NofM) else None


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("pattern", [Unstructured(0.6), NofM(2, 4), NofM(4, 8)], ids=str)
def test_swaps_equal_the_search_over_all_pairs(pattern, moves):
    weight, inputs = layer(rows=3, columns=24, tokens=60)
    gram, sparse = gram_of(inputs), wanda(weight.double(), gram_of(inputs).diagonal(), pattern)
    if moves:  # as a solver may have
        sparse = sparse * 1.1
    ours = swap(weight.double(), sparse, gram, pattern, moves)
    theirs = naive_swaps(weight, sparse, gram, groups_of(pattern), moves)
    assert not torch.equal(ours, sparse)
    torch.testing.assert_close(ours, theirs)


def test_the_best_candidates_of_many_do_as_well_as_all_pairs(monkeypatch):
    weight, inputs = layer(rows=2, columns=60)
    gram, sparse = gram_of(inputs), wanda(weight.double(), gram_of(inputs).diagonal(), Unstructured(0.5))
    theirs = naive_swaps(weight, sparse, gram)
    monkeypatch.setattr(swaps, "CANDIDATES", 8)
    ours = swap(weight.double(), sparse, gram, Unstructured(0.5))
    before, found, best = (relative_error(weight.double(), of, gram) for of in (sparse, ours, theirs))
    assert before - found > 0.9 * (before - best) > 0


@pytest.mark.parametrize("pattern", [Unstructured(0.5), NofM(2, 4)], ids=str)
def test_swaps_are_near_the_best_of_all_masks(pattern):
    """All masks of one row of eight weights; Wanda's own is the best far less often."""
    optimal = {"wanda": 0, "swaps": 0}
    for seed in range(30):
        weight, inputs = layer(rows=1, columns=8, tokens=60, seed=seed)
        gram, mask = gram_of(inputs), torch.zeros(1, 8)
        groups = [range(4), range(4, 8)] if isinstance(pattern, NofM) else [range(8)]
        masks = itertools.product(*(itertools.combinations(group, len(group) // 2) for group in groups))
        errors = []
        for kept in masks:
            mask.zero_()[0, list(sum(kept, ()))] = 1
            errors.append(relative_error(weight.double(), (weight * mask).double(), gram))
        sparse = wanda(weight.double(), gram.diagonal(), pattern)
        for name, found in {"wanda": sparse, "swaps": swap(weight.double(), sparse, gram, pattern)}.items():
            error = relative_error(weight.double(), found, gram)
            assert error >= min(errors) - 1e-12
            optimal[name] += error <= min(errors) + 1e-12
    assert optimal["swaps"] >= 27 > 20 > optimal["wanda"]


@pytest.mark.parametrize("method", [magnitude, wanda], ids=lambda method: method.__name__)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_the_error_falls_the_counts_stay_and_weights_do_not_move(method, pattern):
    weight, inputs = layer()
    weight[0, :5] = 0  # weights that are zero already do not come back
    hessian = statistics(inputs).hessian
    sparse = magnitude(weight, pattern) if method is magnitude else wanda(weight, hessian.diagonal(), pattern)
    ours = swap(weight, sparse, hessian, pattern)
    assert reconstruction_error(weight, ours, inputs) < reconstruction_error(weight, sparse, inputs)
    by_row = ((weight - of) @ inputs.T for of in (ours, sparse))
    after, before = (of.double().square().sum(1) for of in by_row)
    assert (after <= before * (1 + 1e-5)).all()
    size = groups_of(pattern) or weight.shape[1]
    assert torch.equal(*((of != 0).unflatten(1, (-1, size)).sum(-1) for of in (ours, sparse)))
    assert torch.equal(ours[ours != 0], weight[ours != 0])


@pytest.mark.parametrize("solver", ["sparsegpt", "alps"])
@pytest.mark.parametrize("pattern", [Unstructured(0.6), NofM(2, 4)], ids=str)
def test_weights_that_were_moved_are_fitted_again(solver, pattern):
    weight, inputs = layer()
    inputs[:, 7] = 0
    hessian = statistics(inputs).hessian
    if solver == "alps":
        sparse = alps(weight, decompose(hessian, 0.01), pattern)
    else:
        [sparse] = sparsegpt([weight], *factorize(hessian, 0.01), pattern)
    ours = swap_and_refit(weight, sparse, hessian, 0.01, pattern)
    assert reconstruction_error(weight, ours, inputs) < reconstruction_error(weight, sparse, inputs)
    size = groups_of(pattern) or weight.shape[1]
    assert torch.equal(*((of != 0).unflatten(1, (-1, size)).sum(-1) for of in (ours, sparse)))
    assert (ours[:, 7] == sparse[:, 7]).all()


def test_rows_are_taken_in_chunks(monkeypatch):
    weight, inputs = layer()
    gram = gram_of(inputs)
    for pattern in (Unstructured(0.5), NofM(2, 4)):
        sparse = wanda(weight.double(), gram.diagonal(), pattern)
        monkeypatch.setattr(swaps, "PAIRS", 2**22)
        whole = swap(weight.double(), sparse, gram, pattern)
        monkeypatch.setattr(swaps, "PAIRS", 1)
        torch.testing.assert_close(swap(weight.double(), sparse, gram, pattern), whole)


@pytest.mark.parametrize("pattern", [Unstructured(0.5), Unstructured(0.0), NofM(2, 4)], ids=str)
@pytest.mark.parametrize("rows, columns", [(1, 4), (3, 4), (1, 160)])
def test_what_cannot_be_exchanged_stays(rows, columns, pattern):
    """Inputs that were never active, and rows without weights."""
    weight, _ = layer(rows=rows, columns=columns)
    weight[0] = 0
    hessian = torch.zeros(columns, columns)
    sparse = wanda(weight, hessian.diagonal(), pattern)
    assert torch.equal(swap(weight, sparse, hessian, pattern), sparse)
    assert swap_and_refit(weight, sparse, hessian, 0.01, pattern).isfinite().all()


@pytest.mark.parametrize("true_sequential", [False, True])
def test_in_a_model_swaps_follow_wanda_as_in_the_naive_loop(true_sequential):
    model, reference, sequences = random_model("gpt2"), random_model("gpt2"), random_sequences()
    for of in (model, reference):
        del of.transformer.h[1:]
        of.config.n_layer = 1
    config = PruningConfig(method="wanda", pattern="2:4", true_sequential=true_sequential, refine=("swaps",))
    reports = prune_layerwise(model, sequences, config)

    def prune(weight, inputs):
        sparse, _ = naive_wanda(weight, inputs, kept=2, size=4)
        return naive_swaps(weight, sparse, gram_of(inputs), size=4).float()

    naive_prune(reference, sequences, prune, true_sequential)
    [(name, block)], [(_, theirs)] = find_blocks(model).items(), find_blocks(reference).items()
    ours, theirs = find_matrices(name, block), find_matrices(name, theirs)
    for report, matrix in zip(reports, ours.values(), strict=True):
        agreeing = (matrix.weight() == 0) == (theirs[matrix.name].weight() == 0)
        assert agreeing.float().mean() >= 0.995  # a near-tie decided otherwise changes what its row does next
        assert 0 < report.swaps.after < report.swaps.before


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "alps"])
def test_the_reported_error_is_that_of_the_outputs(method):
    """Of the first matrices, whose inputs pruning does not change."""
    dense, sequences = random_model("llama"), random_sequences()
    seen = []
    hook = dense.model.layers[0].self_attn.q_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    for ids in sequences:
        dense(torch.tensor([ids]))
    hook.remove()
    inputs, weight = torch.cat(seen).detach(), dense.model.layers[0].self_attn.q_proj.weight.detach()
    errors = []
    for refine in ((), ("swaps",)):
        model = random_model("llama")
        [report, *_] = prune_layerwise(model, sequences, PruningConfig(method=method, sparsity=0.6, refine=refine))
        errors.append(reconstruction_error(weight, model.model.layers[0].self_attn.q_proj.weight.detach(), inputs))
        assert report.method == method
        assert (report.swaps is None) == (not refine)
    assert (report.swaps.before, report.swaps.after) == pytest.approx(tuple(errors), rel=1e-3)
    assert errors[1] < errors[0] or (method == "alps" and errors[1] == errors[0])  # which leaves little to do


def test_experts_that_few_tokens_reach_are_not_swapped():
    model = random_model("mixtral")
    reports = prune_layerwise(model, random_sequences((8, 9)), PruningConfig(method="wanda", refine=("swaps",)))
    for report in reports:
        assert (report.swaps is None) == ("experts" in report.name)
