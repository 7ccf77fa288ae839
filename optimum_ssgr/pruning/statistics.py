"""Statistics of a linear layer's inputs, accumulated over micro-batches."""

import torch


class InputStatistics:
    """Second moments of the inputs seen so far: the full matrix for SparseGPT, its diagonal for Wanda.

    Args:
        columns: Number of inputs.
        full: Whether to keep the full matrix.
        device: Where to accumulate.
    """

    def __init__(self, columns: int, full: bool, device: torch.device) -> None:
        shape = (columns, columns) if full else (columns,)
        self.full = full
        self.tokens = 0
        self._sums = torch.zeros(shape, dtype=torch.float32, device=device)

    def add(self, inputs: torch.Tensor) -> None:
        """Count some tokens' inputs, float [tokens, columns]; sums are kept in float32 whatever the dtype."""
        inputs = inputs.float()
        self.tokens += len(inputs)
        if self.full:
            self._sums.addmm_(inputs.T, inputs)
        else:
            self._sums += inputs.square().sum(dim=0)

    def is_finite(self) -> bool:
        """Tell whether every sum is a finite number."""
        return bool(self._sums.isfinite().all())

    @property
    def hessian(self) -> torch.Tensor:
        """H = 2/N * sum of x xᵀ over the N tokens, float32 [columns, columns]."""
        return self._sums * (2 / self.tokens)

    @property
    def squared_norms(self) -> torch.Tensor:
        """Sum of each input's square, float32 [columns]."""
        return self._sums.diagonal() if self.full else self._sums
