"""What pruning did to a model: realised sparsity, always with its denominator."""

from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel

from .solve import LayerReport


@dataclass(frozen=True)
class PruningReport:
    """The outcome of pruning.

    Args:
        layers: One report per linear layer.
        parameters: All parameters of the model, tied ones counted once.
        held_out: What the pruned model gives to held-out traces of the dense one; None where that was not measured.
    """

    layers: tuple[LayerReport, ...]
    parameters: int
    held_out: dict[str, Any] | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, layers: list[LayerReport]) -> "PruningReport":
        """Put a model's reports together."""
        return cls(tuple(layers), model.num_parameters())

    @property
    def prunable(self) -> int:
        """Weights in the linear layers of the decoder blocks."""
        return sum(layer.weights for layer in self.layers)

    @property
    def zeros(self) -> int:
        """Those of them that are zero."""
        return sum(layer.zeros for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """Share of the prunable weights that is zero."""
        return self.zeros / self.prunable

    def to_dict(self) -> dict[str, Any]:
        """Return totals and layers as plain JSON types."""
        return {
            "zeros": self.zeros,
            "prunable_weights": self.prunable,
            "sparsity_of_prunable": self.sparsity,
            "parameters": self.parameters,
            "sparsity_of_all": self.zeros / self.parameters,
            "layers": [asdict(layer) for layer in self.layers],
        }

    def __str__(self) -> str:
        return (
            f"{self.zeros:,} of {self.prunable:,} weights in {len(self.layers)} linear layers are zero "
            f"({self.sparsity:.2%}; {self.zeros / self.parameters:.2%} of all {self.parameters:,} parameters)"
        )
