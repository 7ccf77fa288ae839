"""Statistics of a linear layer's inputs, accumulated over micro-batches."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .distributed import all_reduce
from .solvers.finite import all_finite


# Rows of the Hessian accumulated together: few enough to skip most of the lower triangle, enough for fast matrix products.
TILE = 128


def remedy_for_overflow(dtype: torch.dtype) -> str:
    """Say what to do about numbers that are not finite in a model of some dtype."""
    wider = {torch.float16: "bfloat16 or float32", torch.bfloat16: "float32"}.get(dtype)
    return f"load the model in {wider}" if wider else "the model itself gives such numbers, so load a sound one"


class InputStatistics:
    """Weighted second moments of the inputs seen so far: the full matrix, or its diagonal where that is enough (Wanda).

    Args:
        columns: Number of inputs.
        full: Whether to keep the full matrix.
        device: Where to accumulate.
    """

    def __init__(self, columns: int, full: bool, device: torch.device) -> None:
        self.full = full
        self.tokens = 0
        self._weight = 0.0
        # Of the full matrix only the tiles on and above the diagonal are kept up to date.
        self._sums = torch.zeros((columns, columns) if full else columns, dtype=torch.float32, device=device)

    def add(self, inputs: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Count some tokens' inputs; sums are kept in float32 whatever the dtype.

        Args:
            inputs: float [tokens, columns].
            weights: Importance of each token, float [tokens], above 0; None counts every token once.
        """
        exact = inputs.dtype == torch.bfloat16 and inputs.device.type == "cpu"
        inputs = inputs.float()
        self.tokens += len(inputs)
        if weights is None or bool((weights == 1).all()):
            self._weight += len(inputs)
        else:
            self._weight += weights.sum().item()
            inputs, exact = inputs * weights.sqrt().unsqueeze(1), False
        if not self.full:
            self._sums += inputs.square().sum(0)  # four times as fast as `vector_norm` along this dimension
            return
        with bfloat16_products(exact):
            for start in range(0, inputs.shape[1], TILE):
                end = start + TILE
                self._sums[start:end, start:].addmm_(inputs[:, start:end].T, inputs[:, start:])

    def finish(self) -> None:
        """Add up what all processes have seen and bring the sums to their final form, in place; nothing can be added after."""
        all_reduce(self._sums)
        totals = torch.tensor([self.tokens, self._weight], dtype=torch.float64)
        all_reduce(totals)
        self.tokens, self._weight = int(totals[0]), totals[1].item()
        self._sums *= 2 / max(self._weight, 1e-30)
        if self.full:
            for start in range(0, len(self._sums), TILE):
                end = start + TILE
                tile = self._sums[start:end, start:end]
                tile.copy_(tile.triu() + tile.triu(1).T)
                self._sums[end:, start:end] = self._sums[start:end, end:].T

    def is_finite(self) -> bool:
        """Tell whether every sum is a finite number."""
        return all_finite(self.squared_norms)  # an input that is not finite shows on the diagonal

    @property
    def hessian(self) -> torch.Tensor:
        """H = 2/N * sum of w x xᵀ, with N the sum of the tokens' weights w; float32 [columns, columns]."""
        return self._sums

    @property
    def squared_norms(self) -> torch.Tensor:
        """The diagonal of H, which is 2/N times each input's squared norm; float32 [columns]."""
        return self._sums.diagonal() if self.full else self._sums

    @property
    def norms(self) -> torch.Tensor:
        """Each input's norm over all tokens, to be held against those of other inputs; float32 [columns]."""
        return (self.squared_norms * (self._weight / 2)).sqrt()


@contextmanager
def bfloat16_products(exact: bool) -> Iterator[None]:
    """Let oneDNN multiply float32 matrices as bfloat16 and sum in float32: where they hold bfloat16 values nothing is lost."""
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    if exact:
        settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before
