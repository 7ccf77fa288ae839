"""What pruning did to a model: realised sparsity, always with its denominator."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from transformers import PreTrainedModel
from typing_extensions import Self

from .blocks import is_of_expert


@dataclass(frozen=True)
class Refinement:
    """What refining gave.

    Args:
        before: Squared error of the outputs, relative to the dense outputs, before it.
        after: The same after it.
        seconds: Time it took; not part of what runs are compared by.
    """

    before: float
    after: float
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class LayerReport:
    """What became of one weight matrix.

    Args:
        name: Name of the matrix in the model.
        shape: Rows (outputs) and columns (inputs).
        zeros: Weights that are zero now.
        tokens: Calibration tokens its statistics come from; 0 for magnitude pruning.
        method: Method that was used; `magnitude` instead of the one asked for where an expert saw too few tokens, where no
            damping made the Hessian usable, or where the inputs of a layer cannot be seen.
        damping: Damping that made the Hessian usable, or, where the method fell back to magnitude, the most that was tried in
            vain; None for methods without one, and where there was nothing to calibrate on.
        swaps: What swaps gave, on the calibration tokens; None where there were none.
        block: What refining its block gave, on sequences that were held out; None where it was not refined.
    """

    name: str
    shape: tuple[int, int]
    zeros: int
    tokens: int
    method: str
    damping: float | None
    swaps: Refinement | None = None
    block: Refinement | None = None

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]

    @property
    def of_expert(self) -> bool:
        """Whether it is an expert's part of a fused parameter."""
        return is_of_expert(self.name)

    @property
    def resisted(self) -> bool:
        """Whether no damping made the Hessian usable."""
        return self.method == "magnitude" and self.damping is not None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a report from what `dataclasses.asdict` returns."""
        refined = {name: Refinement(**values[name]) for name in ("swaps", "block") if values.get(name)}
        return cls(**{**values, "shape": tuple(values["shape"]), **refined})

    def to_dict(self) -> dict[str, Any]:
        """Return what two runs have in common as plain JSON types: no times, and no refinement where there was none."""
        refined = {name: {"before": of.before, "after": of.after} for name in ("swaps", "block") if (of := getattr(self, name))}
        return {key: value for key, value in asdict(self).items() if key not in ("swaps", "block")} | refined


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
            "layers": [layer.to_dict() for layer in self.layers],
        }

    def __str__(self) -> str:
        swapped = [layer.swaps for layer in self.layers if layer.swaps]
        found = (layer.block for layer in self.layers if layer.block)  # all matrices of a block have the same
        blocks = list({(block.before, block.after, block.seconds): block for block in found}.values())
        return (
            f"{self.zeros:,} of {self.prunable:,} weights in {len(self.layers)} linear layers are zero "
            f"({self.sparsity:.2%}; {self.zeros / self.parameters:.2%} of all {self.parameters:,} parameters)"
            + _describe("swaps", "linear layers", swapped)
            + _describe("fitting blocks", "blocks, on held-out sequences,", blocks)
        )


def _describe(what: str, of: str, found: Sequence[Refinement]) -> str:
    """Say what refining gave, as means; nothing where there was none."""
    if not found:
        return ""
    before, after = (sum(getattr(one, name) for one in found) / len(found) for name in ("before", "after"))
    seconds = sum(one.seconds for one in found)
    taken = f" in {seconds:,.0f} s" if seconds else ""
    return f"\n{what} brought the mean relative error of the {of} from {before:.4f} to {after:.4f}{taken}"
