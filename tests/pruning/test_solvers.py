import itertools

import pytest
import torch

from optimum_ssgr.pruning.patterns import NofM, Unstructured, kth_lowest, zero_pruned
from optimum_ssgr.pruning.solvers.magnitude import magnitude
from optimum_ssgr.pruning.solvers.sparsegpt import factorize, sparsegpt
from optimum_ssgr.pruning.solvers.wanda import wanda
from optimum_ssgr.pruning.statistics import InputStatistics

from .naive import naive_magnitude, naive_sparsegpt, naive_wanda, reconstruction_error


PATTERNS = [Unstructured(0.5), Unstructured(0.7), NofM(2, 4), NofM(4, 8), NofM(1, 4), NofM(6, 8), NofM(3, 4), NofM(8, 16)]


def layer(rows=24, columns=160, tokens=400, seed=0):
    """A random layer whose inputs are correlated and differ in size."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(tokens, columns, generator=generator) * torch.linspace(1, -1, columns).exp()
    sizes = torch.randn(columns, generator=generator).mul(0.7).exp()
    inputs = factors @ torch.randn(columns, columns, generator=generator) * sizes
    return torch.randn(rows, columns, generator=generator), inputs


def named(pattern):
    if isinstance(pattern, NofM):
        return {"kept": pattern.kept, "size": pattern.size}
    return {"sparsity": pattern.sparsity}


def statistics(inputs, full=True):
    gathered = InputStatistics(inputs.shape[1], full, torch.device("cpu"))
    for part in inputs.split(130):
        gathered.add(part)
    gathered.finish()
    return gathered


def run_sparsegpt(weight, inputs, pattern, damping=0.01):
    [pruned] = sparsegpt([weight], *factorize(statistics(inputs).hessian, damping), pattern)
    return pruned


def assert_close_where_agreeing(ours, theirs, mask):
    agree = (ours == 0) == mask
    assert agree.float().mean() >= 0.999
    # A row in which one entry was decided otherwise carries other updates in all of its weights.
    rows = agree.all(dim=1)
    assert rows.float().mean() > 0.9
    torch.testing.assert_close(ours[rows].double(), theirs[rows], rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_magnitude_equals_naive(pattern):
    weight, _ = layer()
    theirs, mask = naive_magnitude(weight, **named(pattern))
    ours = magnitude(weight, pattern)
    assert torch.equal(ours == 0, mask)
    assert torch.equal(ours.double(), theirs)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("full", [True, False])
def test_wanda_equals_naive(pattern, full):
    weight, inputs = layer()
    theirs, mask = naive_wanda(weight, inputs, **named(pattern))
    ours = wanda(weight, statistics(inputs, full).squared_norms, pattern)
    assert ((ours == 0) == mask).float().mean() >= 0.999
    assert torch.equal(ours[mask == (ours == 0)].double(), theirs[mask == (ours == 0)])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_sparsegpt_equals_naive(pattern, seed):
    weight, inputs = layer(seed=seed)
    theirs, mask, margin = naive_sparsegpt(weight, inputs, **named(pattern))
    ours = run_sparsegpt(weight, inputs, pattern)
    assert_close_where_agreeing(ours, theirs, mask)
    differing = (ours == 0) != mask
    # Only a near-tie may be decided otherwise, or a later entry of its row, whose weights that decision changed.
    first = differing & (differing.cumsum(dim=1) == 1)
    assert (margin[first] < 1e-3).all()


@pytest.mark.parametrize("pattern", [Unstructured(0.5), NofM(2, 4)], ids=str)
def test_layers_with_one_input_are_swept_together_as_if_alone(pattern):
    """Stacked rows keep a threshold per layer."""
    weight, inputs = layer(rows=40)
    weight[24:] *= 3
    parts = list(weight.split([24, 16]))
    together = sparsegpt(parts, *factorize(statistics(inputs).hessian, 0.01), pattern)
    for part, result in zip(parts, together, strict=True):
        theirs, mask, _ = naive_sparsegpt(part, inputs, **named(pattern))
        assert_close_where_agreeing(result, theirs, mask)


def test_weighted_statistics_equal_repeated_tokens():
    _, inputs = layer(tokens=60, columns=150)
    times = torch.arange(60) % 3
    repeated = inputs.repeat_interleave(times, dim=0)
    weighted = InputStatistics(150, True, torch.device("cpu"))
    weighted.add(inputs[times > 0], times[times > 0].float())
    weighted.finish()
    torch.testing.assert_close(weighted.hessian, statistics(repeated).hessian, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(weighted.hessian, 2 / len(repeated) * repeated.T @ repeated, rtol=1e-4, atol=1e-4)
    diagonal = InputStatistics(150, False, torch.device("cpu"))
    diagonal.add(inputs[times > 0], times[times > 0].float())
    diagonal.finish()
    norms = repeated.square().sum(dim=0)
    torch.testing.assert_close(diagonal.squared_norms, 2 / len(repeated) * norms, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("columns", [96, 300])
def test_bfloat16_inputs_lose_nothing_in_their_hessian(columns):
    """Products of bfloat16 numbers are exact in float32, so only the order of the sums may differ."""
    inputs = layer(columns=columns, tokens=3000)[1].bfloat16()
    statistics = InputStatistics(columns, True, torch.device("cpu"))
    statistics.add(inputs)
    statistics.finish()
    expected = 2 / len(inputs) * inputs.double().T @ inputs.double()
    assert (statistics.hessian.double() - expected).norm() < 1e-5 * expected.norm()
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"  # other products stay as they were


@pytest.mark.parametrize("shape", [(1000,), (1, 1), (7, 90)])
def test_thresholds_are_those_of_kthvalue(shape):
    """Ties and numbers that are not finite included: a NaN stands last."""
    scores = torch.randint(20, shape, generator=torch.Generator().manual_seed(0)).float()
    for special in ([], [torch.inf, -torch.inf], [torch.nan, torch.nan, torch.inf]):
        scores.view(-1)[: len(special)] = torch.tensor(special)[: scores.numel()]
        before = scores.clone()
        for position in {0, shape[-1] // 2, shape[-1] - 1}:
            expected = scores.kthvalue(position + 1, dim=-1, keepdim=True).values
            torch.testing.assert_close(kth_lowest(scores, position), expected, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(scores, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_what_is_pruned_is_zero_to_the_bit(dtype):
    weight = torch.randn(3, 40, 20).to(dtype)[1].T  # strides as experts that are stored transposed have them
    weight[:4], pruned = -torch.inf, torch.rand(20, 40) < 0.5
    zeroed = zero_pruned(weight, pruned)
    assert torch.equal(zeroed[~pruned], weight[~pruned])
    assert torch.equal(zeroed[pruned], torch.zeros_like(zeroed[pruned]))
    assert not zeroed[pruned].signbit().any()


def test_sparsegpt_keeps_groups_whole_that_do_not_divide_the_block():
    weight, inputs = layer(columns=150)
    theirs, mask, _ = naive_sparsegpt(weight, inputs, kept=2, size=3, block=126)
    assert_close_where_agreeing(run_sparsegpt(weight, inputs, NofM(2, 3)), theirs, mask)


def test_reconstruction_error_falls_from_magnitude_to_wanda_to_sparsegpt():
    for pattern, seed in itertools.product(PATTERNS, range(3)):
        weight, inputs = layer(seed=seed)
        by_magnitude = reconstruction_error(weight, magnitude(weight, pattern), inputs)
        by_wanda = reconstruction_error(weight, wanda(weight, statistics(inputs).squared_norms, pattern), inputs)
        by_sparsegpt = reconstruction_error(weight, run_sparsegpt(weight, inputs, pattern), inputs)
        assert by_sparsegpt < by_wanda < by_magnitude, pattern


@pytest.mark.parametrize("pattern", [NofM(1, 2), NofM(2, 4)], ids=str)
def test_wanda_is_optimal_without_correlation(pattern):
    """With orthogonal inputs and no weight update, no other mask of the pattern reconstructs better."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(1, 4, generator=generator)
    inputs = torch.linalg.qr(torch.randn(9, 4, generator=generator))[0] * torch.tensor([1.0, 3.0, 0.2, 2.0])
    groups = [itertools.combinations(range(s, s + pattern.size), pattern.kept) for s in range(0, 4, pattern.size)]
    best = min(
        reconstruction_error(weight, weight * torch.tensor([float(j in sum(kept, ())) for j in range(4)]), inputs)
        for kept in itertools.product(*groups)
    )
    pruned = wanda(weight, statistics(inputs).squared_norms, pattern)
    assert reconstruction_error(weight, pruned, inputs) == pytest.approx(best, rel=1e-5)


def test_sparsegpt_update_is_optimal_for_one_pruned_weight():
    """Pruning the first column only, the update equals the least-squares solution over the remaining ones."""
    weight, inputs = layer(rows=1, columns=6, tokens=50)
    hessian = statistics(inputs).hessian.double()
    weight[0, 0] = 1e-3
    factor, dead = factorize(hessian, 1e-9)
    [pruned] = sparsegpt([weight], factor, dead, Unstructured(0.0001))
    assert (pruned == 0).nonzero().tolist() == [[0, 0]]
    target = inputs.double() @ weight[0].double()
    best = torch.linalg.lstsq(inputs[:, 1:].double(), target[:, None]).solution[:, 0]
    torch.testing.assert_close(pruned[0, 1:], best, rtol=1e-5, atol=1e-6)


def test_exact_ties_go_in_column_order():
    weight = torch.ones(2, 8)
    norms = torch.ones(8)
    assert (wanda(weight, norms, Unstructured(0.5)) == 0).nonzero()[:, 1].tolist() == [0, 1, 2, 3] * 2
    assert (wanda(weight, norms, NofM(2, 4)) == 0).nonzero()[:, 1].tolist() == [0, 1, 4, 5] * 2
    assert (magnitude(weight, Unstructured(0.5)) == 0).nonzero()[:, 0].tolist() == [0] * 8
    assert (magnitude(weight, NofM(1, 4)) == 0).nonzero()[:, 1].tolist() == [0, 1, 2, 4, 5, 6] * 2


def test_sparsegpt_prunes_all_entries_that_tie_with_the_threshold():
    weight = torch.tensor([[1.0, 2.0, 2.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    factor = torch.eye(8)
    [pruned] = sparsegpt([weight], factor, torch.zeros(8, dtype=torch.bool), Unstructured(0.25))
    assert pruned.tolist() == [[0, 0, 0, 0, 3, 4, 5, 6]]


def test_sparsity_zero_leaves_weights_alone():
    weight, inputs = layer()
    assert torch.equal(magnitude(weight, Unstructured(0.0)), weight)
    assert torch.equal(wanda(weight, statistics(inputs).squared_norms, Unstructured(0.0)), weight)
    torch.testing.assert_close(run_sparsegpt(weight, inputs, Unstructured(0.0)), weight)


def test_dead_inputs_lose_their_weights():
    weight, inputs = layer()
    inputs[:, 7] = 0
    theirs, mask, _ = naive_sparsegpt(weight, inputs, sparsity=0.5)
    ours = run_sparsegpt(weight, inputs, Unstructured(0.5))
    assert (ours[:, 7] == 0).all()
    assert_close_where_agreeing(ours, theirs, mask)


def test_all_inputs_dead():
    weight, inputs = layer()
    for pattern in PATTERNS:
        assert (run_sparsegpt(weight, torch.zeros_like(inputs), pattern) == 0).all()
        assert wanda(weight, torch.zeros(160), pattern).isfinite().all()


def test_fewer_tokens_than_inputs():
    """A rank-deficient Hessian is made definite by the damping alone."""
    weight, inputs = layer(tokens=20)
    theirs, mask, _ = naive_sparsegpt(weight, inputs, sparsity=0.5)
    ours = run_sparsegpt(weight, inputs, Unstructured(0.5))
    assert ours.isfinite().all()
    assert_close_where_agreeing(ours, theirs, mask)


@pytest.mark.parametrize("rows, columns", [(1, 160), (24, 1), (1, 1)])
def test_one_row_one_column(rows, columns):
    weight, inputs = layer(rows=rows, columns=columns)
    theirs, mask, _ = naive_sparsegpt(weight, inputs, sparsity=0.5)
    assert_close_where_agreeing(run_sparsegpt(weight, inputs, Unstructured(0.5)), theirs, mask)
    assert torch.equal(magnitude(weight, Unstructured(0.5)) == 0, naive_magnitude(weight, sparsity=0.5)[1])
    ours = wanda(weight, statistics(inputs).squared_norms, Unstructured(0.5))
    assert torch.equal(ours == 0, naive_wanda(weight, inputs, sparsity=0.5)[1])


def test_factor_is_that_of_the_inverse():
    _, inputs = layer()
    hessian = statistics(inputs).hessian.double()
    factor, dead = factorize(hessian, 0.01)
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(160)
    assert not dead.any()
    assert torch.equal(factor, factor.triu())
    torch.testing.assert_close(factor.T @ factor @ damped, torch.eye(160).double(), rtol=0, atol=1e-6)


def test_indefinite_hessian_is_refused():
    with pytest.raises(torch.linalg.LinAlgError):
        factorize(torch.tensor([[1.0, 5.0], [5.0, 1.0]]), 0.01)


def test_a_hessian_whose_mean_overflows_is_refused_rather_than_wiping_the_weights():
    inputs = torch.linspace(0.1, 1, 64) * 1e19
    with pytest.raises(torch.linalg.LinAlgError):
        factorize(2 * torch.outer(inputs, inputs), 0.01)
