"""Exchange pruned and kept weights while that lowers the error of a row's output (SparseSwaps, arXiv 2512.10922)."""

import torch

from ..patterns import NofM, Pattern, lowest_places
from .conjugate import refit, rescale


# Exchanges in a row at most.
SWAPS = 100
# Of a row's weights, how many that may go and how many that may come back are looked at in pairs (unstructured).
CANDIDATES = 32
# An exchange must lower the error by this share of what it was at first; less may be rounding.
LEAST_GAIN = 1e-6
# Pairs that are looked at together, in chunks of rows. That bounds the memory; and tensors of 16 MB are new memory from the
# system every time, which took a quarter of the time.
PAIRS = 2**20
# What an exchange costs that may not be. A product with a mask is added, since `masked_fill` branches at every entry and takes
# several times as long; of infinity that would not be a number.
BARRED = 1e30


def swap(
    dense: torch.Tensor, sparse: torch.Tensor, hessian: torch.Tensor, pattern: Pattern, moves: bool = False
) -> torch.Tensor:
    """Exchange a pruned and a kept weight of each row, those that lower its error most, while there are such.

    With c = (dense - sparse) H, exchanging a kept p for a pruned u, which takes the value v, changes the row's error by
    2 w_p c_p + w_p² H_pp - 2 v c_u + v² H_uu - 2 w_p v H_pu. A weight comes back as it was before pruning, or, where a
    solver has moved the others, with the value that suits them as they are, v = (c_u + w_p H_pu) / H_uu.

    Args:
        dense: Weights before pruning, float [out, in].
        sparse: Weights after it, float [out, in].
        hessian: A multiple of the sum of x xᵀ, float [in, in]; positive on its diagonal where weights move.
        pattern: N:M keeps exchanges within its groups.
        moves: Whether weights move.

    Returns:
        The weights on the new support, float [out, in]; as many in each row, and group, as before.
    """
    columns = hessian.shape[0]
    pairs = columns * pattern.size if isinstance(pattern, NofM) else max(columns, min(CANDIDATES, columns) ** 2)
    rows = max(1, PAIRS // pairs)
    chunks = zip(dense.split(rows), sparse.split(rows), strict=True)
    return torch.cat([_swap_rows(*chunk, hessian, pattern, moves) for chunk in chunks])


def swap_and_refit(
    dense: torch.Tensor, sparse: torch.Tensor, hessian: torch.Tensor, damping: float, pattern: Pattern
) -> torch.Tensor:
    """Exchange weights that a solver has moved, and fit those that stay by conjugate gradients before and after.

    Args:
        dense: Weights before pruning, float [out, in].
        sparse: What the solver made of them, float [out, in].
        hessian: A multiple of the sum of x xᵀ, float [in, in].
        damping: Share of the mean diagonal added to the diagonal.
        pattern: N:M keeps exchanges within its groups.

    Returns:
        The fitted weights on the new support, float [out, in]; as many in each row, and group, as before.
    """
    scaled, scale, dead = rescale(hessian, damping)
    dense = (dense * scale).masked_fill_(dead, 0)
    target, sparse = dense @ scaled, sparse * scale
    sparse = refit(sparse, target, sparse == 0, scaled)
    sparse = swap(dense, sparse, scaled, pattern, moves=True)
    return refit(sparse, target, sparse == 0, scaled) / scale


def relative_error(dense: torch.Tensor, sparse: torch.Tensor, hessian: torch.Tensor) -> float:
    """Return the squared error of a matrix's outputs, relative to the outputs; 0 where these are 0.

    Args:
        dense: Weights before pruning, float [out, in].
        sparse: Weights after it, float [out, in].
        hessian: A multiple of the sum of x xᵀ, float [in, in].
    """
    lacking = dense - sparse
    whole = ((dense @ hessian) * dense).sum(dtype=torch.float64).item()
    return ((lacking @ hessian) * lacking).sum(dtype=torch.float64).item() / whole if whole > 0 else 0.0


def _swap_rows(dense: torch.Tensor, sparse: torch.Tensor, hessian: torch.Tensor, pattern: Pattern, moves: bool) -> torch.Tensor:
    result = sparse.clone()
    image = (dense - sparse) @ hessian
    enough = LEAST_GAIN * ((dense - sparse) * image).sum(1)
    places = torch.arange(len(dense), device=dense.device)
    for _ in range(SWAPS):
        change, out, into, value = _best_exchange(dense, sparse, image, hessian, pattern, moves)
        better = change < -enough
        if not better.all():  # the rows that are done are put aside
            result[places[~better]] = sparse[~better]
            rows = (places, dense, sparse, image, enough, out, into, value)
            places, dense, sparse, image, enough, out, into, value = (of[better] for of in rows)
            if not len(places):
                return result
        gone = sparse.gather(1, out)
        image += gone * hessian[out[:, 0]] - value * hessian[into[:, 0]]
        sparse = sparse.scatter(1, out, 0).scatter(1, into, value)
    result[places] = sparse
    return result


def _best_exchange(
    dense: torch.Tensor,
    sparse: torch.Tensor,
    image: torch.Tensor,
    hessian: torch.Tensor,
    pattern: Pattern,
    moves: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find the exchange of each row that changes its error most.

    Returns:
        The change, float [rows]; the weight that goes and the one that comes back, int64 [rows, 1]; and its value, float
        [rows, 1].
    """
    diagonal, kept = hessian.diagonal(), sparse != 0
    # 1. What each would change by itself. A weight that was 0 before pruning does not come back.
    value, barred = image / diagonal if moves else dense, kept | (dense == 0)
    going = ((2 * image + sparse * diagonal) * sparse).add_(BARRED * ~kept)
    coming = ((value * diagonal - 2 * image) * value).add_(BARRED * barred)
    # 2. The pairs to look at, as columns [rows or 1, groups, weights]: those of each group, or the best of the row.
    if isinstance(pattern, NofM):
        out = into = torch.arange(dense.shape[1], device=dense.device).view(1, -1, pattern.size)
    else:
        count = min(CANDIDATES, dense.shape[1])
        out, into = (lowest_places(of, count).unsqueeze(1) for of in (going, coming))
    # 3. What they change together.
    places = out.unsqueeze(3) * len(hessian) + into.unsqueeze(2)
    cross = hessian.flatten().index_select(0, places.flatten()).view_as(places)  # three times as fast as by two indices
    gone, going = _take(sparse, out).unsqueeze(3), _take(going, out).unsqueeze(3)
    if moves:  # of -2 v c_u + v² H_uu - 2 w_p v H_pu, at the v that makes it least, there is left -(c_u + w_p H_pu)² / H_uu
        pull = _take(image, into).unsqueeze(2) + gone * cross
        change = going - pull.square_() / diagonal[into].unsqueeze(2) + BARRED * _take(barred, into).unsqueeze(2)
    else:
        change = going + _take(coming, into).unsqueeze(2) - 2 * gone * _take(dense, into).unsqueeze(2) * cross
    change = change.flatten(1)
    least, place = change.min(dim=1, keepdim=True)
    size = out.shape[2]
    first = place // size**2 * size
    out, into = (
        of.flatten(1).expand(len(dense), -1).gather(1, first + within)
        for of, within in ((out, place // size % size), (into, place % size))
    )
    value = dense.gather(1, into)
    if moves:
        value = (image.gather(1, into) + sparse.gather(1, out) * hessian[out, into]) / diagonal[into]
    return least[:, 0], out, into, value


def _take(values: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return the values of some columns of each row, [rows, groups, weights]."""
    chosen = columns.flatten(1).expand(len(values), -1)
    return values.gather(1, chosen).unflatten(1, columns.shape[1:])
