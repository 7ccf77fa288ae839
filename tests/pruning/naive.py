"""The solvers written again from the papers' formulae: float64, dense, one element at a time, slow and plain."""

import torch


def naive_magnitude(weight, sparsity=None, kept=None, size=None):
    weight = weight.double()
    mask = torch.zeros_like(weight, dtype=torch.bool)
    rows, columns = weight.shape
    if size is None:
        entries = sorted((abs(weight[i, j].item()), i * columns + j) for i in range(rows) for j in range(columns))
        for _, place in entries[: int(weight.numel() * sparsity)]:
            mask[place // columns, place % columns] = True
    else:
        _mark_groups(weight.abs(), mask, kept, size)
    return weight.masked_fill(mask, 0), mask


def naive_wanda(weight, inputs, sparsity=None, kept=None, size=None):
    weight = weight.double()
    norms = torch.tensor([inputs[:, j].double().pow(2).sum().sqrt().item() for j in range(weight.shape[1])]).double()
    scores = weight.abs() * norms
    mask = torch.zeros_like(weight, dtype=torch.bool)
    if size is None:
        for i in range(weight.shape[0]):
            order = sorted(range(weight.shape[1]), key=lambda j: (scores[i, j].item(), j))
            mask[i, order[: int(weight.shape[1] * sparsity)]] = True
    else:
        _mark_groups(scores, mask, kept, size)
    return weight.masked_fill(mask, 0), mask


def _mark_groups(scores, mask, kept, size):
    for i in range(scores.shape[0]):
        for start in range(0, scores.shape[1], size):
            order = sorted(range(start, start + size), key=lambda j: (scores[i, j].item(), j))
            mask[i, order[: size - kept]] = True


def naive_sparsegpt(weight, inputs, sparsity=None, kept=None, size=None, damping=0.01, block=128):
    """Return weights, mask and how far each score was from its decision, relative to the score."""
    weight = weight.double().clone()
    inputs = inputs.double()
    rows, columns = weight.shape
    hessian = 2 / len(inputs) * inputs.T @ inputs
    for j in range(columns):
        if hessian[j, j] == 0:
            hessian[j, j] = 1
            weight[:, j] = 0
    hessian += damping * hessian.diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    factor = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    mask = torch.zeros_like(weight, dtype=torch.bool)
    margin = torch.full_like(weight, torch.inf)
    for start in range(0, columns, block):
        end = min(start + block, columns)
        if size is None and sparsity > 0:
            scores = weight[:, start:end] ** 2 / factor.diagonal()[start:end] ** 2
            threshold = scores.flatten().sort().values[int(scores.numel() * sparsity)]
            mask[:, start:end] = scores <= threshold
            margin[:, start:end] = (scores - threshold).abs() / threshold
        for j in range(start, end):
            if size is not None and j % size == 0:
                scores = weight[:, j : j + size] ** 2 / factor.diagonal()[j : j + size] ** 2
                group = torch.zeros_like(scores, dtype=torch.bool)
                _mark_groups(scores, group, kept, size)
                mask[:, j : j + size] = group
                ordered = scores.sort(dim=1).values
                gap = (ordered[:, size - kept] - ordered[:, size - kept - 1]) / ordered[:, size - kept]
                margin[:, j : j + size] = gap[:, None]
            for i in range(rows):
                if mask[i, j]:
                    error = weight[i, j] / factor[j, j]
                    weight[i, j:] -= error * factor[j, j:]
                    weight[i, j] = 0
    return weight.masked_fill(mask, 0), mask, margin


def reconstruction_error(weight, pruned, inputs):
    """Squared error of a layer's outputs, relative to the outputs."""
    inputs, weight, pruned = inputs.double(), weight.double(), pruned.double()
    return (((pruned - weight) @ inputs.T).pow(2).sum() / (weight @ inputs.T).pow(2).sum()).item()


def naive_alps(weight, inputs, sparsity=None, kept=None, size=None, damping=0.01):
    """ADMM with an explicit inverse and sorted entries, then least squares on the support in place of conjugate gradients."""
    weight, inputs = weight.double(), inputs.double()
    columns = weight.shape[1]
    hessian = inputs.T @ inputs
    alive = (hessian.diagonal() > 0).double()
    weight = weight * alive
    hessian += torch.diag(1 - alive)
    hessian += damping * hessian.diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    scale = hessian.diagonal().sqrt()
    scaled = hessian / scale[:, None] / scale[None]
    start = weight * scale

    def largest(values):
        mask = torch.zeros_like(values, dtype=torch.bool)
        if size is not None:
            _mark_groups(values.abs(), mask, kept, size)
        else:
            order = values.abs().flatten().sort(stable=True).indices
            mask.view(-1)[order[: int(values.numel() * sparsity)]] = True
        return mask

    full, sparse, dual, rho = start, start.clone(), torch.zeros_like(start), 0.1
    support = largest(start)
    stayed = (~support).sum().item()
    for iteration in range(1, 301):
        inverse = torch.linalg.inv(scaled + rho * torch.eye(columns, dtype=torch.float64))
        full = (start @ scaled - dual + rho * sparse) @ inverse
        mask = largest(full + dual / rho)
        sparse = (full + dual / rho).masked_fill(mask, 0)
        dual = dual + rho * (full - sparse)
        if iteration % 3 == 0:
            change = ((mask & ~support).sum() / stayed).item()
            if change == 0:
                break
            rho *= 1.3 if change > 0.1 else 1.2 if change > 0.005 else 1.1
            support = mask
    return least_squares(weight, hessian, mask), mask


def least_squares(weight, hessian, mask):
    """The weights on a support that reconstruct best, row by row."""
    best = torch.zeros_like(weight)
    for i in range(len(weight)):
        free = (~mask[i]).nonzero()[:, 0]
        best[i, free] = torch.linalg.solve(hessian[free][:, free], hessian[free] @ weight[i])
    return best


def naive_outlier_ratio(weights, inputs, times=5.0):
    """OWL's share of outliers in a block: the scores of all its matrices one after the other, against one mean of them all."""
    scores = []
    for weight, of_weight in zip(weights, inputs, strict=True):
        norms = [of_weight[:, j].double().pow(2).sum().sqrt().item() for j in range(weight.shape[1])]
        scores += [abs(row[j].item()) * norms[j] for row in weight.double() for j in range(len(norms))]
    mean = sum(scores) / len(scores)
    return sum(score > times * mean for score in scores) / len(scores)


def naive_owl(ratios, sizes, sparsity, spread=0.08):
    """OWL's sparsities in the authors' terms: what is kept spans 2 * spread, and all blocks together keep 1 - sparsity."""
    kept = [(ratio - min(ratios)) / (max(ratios) - min(ratios)) * 2 * spread for ratio in ratios]
    mean = sum(share * size for share, size in zip(kept, sizes, strict=True)) / sum(sizes)
    return [1 - (share - mean + 1 - sparsity) for share in kept]


def naive_swaps(dense, sparse, gram, size=None, moves=False, least_gain=1e-6, times=100):
    """Try every exchange of a kept and a pruned weight, by the whole error of the row, and take the best while there is one.

    Where weights move, the one that comes back takes the value that suits the others best.
    """
    dense, result, gram = dense.double(), sparse.double().clone(), gram.double()

    def errors(row, tried):
        return torch.einsum("ti,ij,tj->t", row - tried, gram, row - tried)

    for row, weights in zip(dense, result, strict=True):
        enough = least_gain * errors(row, weights[None])[0]
        for _ in range(times):
            kept, gone = (weights != 0).nonzero()[:, 0], ((weights == 0) & (row != 0)).nonzero()[:, 0]
            pairs = torch.cartesian_prod(kept, gone)
            if size is not None:
                pairs = pairs[pairs[:, 0] // size == pairs[:, 1] // size]
            if not len(pairs):
                break
            (out, into), of = pairs.T, torch.arange(len(pairs))
            tried = weights.repeat(len(pairs), 1)
            tried[of, out] = 0
            tried[of, into] = ((row - tried) @ gram)[of, into] / gram[into, into] if moves else row[into]
            found = errors(row, tried)
            if not errors(row, weights[None])[0] - found.min() > enough:
                break
            weights.copy_(tried[found.argmin()])
    return result
