"""The cells of a study: which models are pruned, each on what."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..config import PruningConfig


DAMAGE = "cover+damage"
"""The strategy `cover` with traces drawn by the damage that the cell's own pruning does to them."""
BANDS = {"difficulty": ("easiest", "middle", "hardest"), "length": ("shortest", "middle", "longest")}
"""Thirds of the correct traces by a quantity, in order."""


@dataclass(frozen=True)
class Cell:
    """One pruned model of the study.

    Args:
        method: Pruning method, perhaps with what refines it, such as `wanda+swaps+blocks`.
        target: Sparsity such as `0.5`, or N:M pattern such as `2:4`.
        calibration: Strategy, or band such as `length:shortest`; None for a method without calibration.
        seed: Seed of the rollouts and of the selection.
    """

    method: str
    target: str
    calibration: str | None
    seed: int

    @property
    def name(self) -> str:
        """A name for files."""
        return f"{self.method}-{self.target}-{self.calibration or 'none'}-{self.seed}".replace(":", "_")

    @property
    def pruning(self) -> PruningConfig:
        """The settings of pruning."""
        return pruning_of(self.method, self.target)


def pruning_of(method: str, target: str) -> PruningConfig:
    """Return the settings of pruning to a sparsity or a pattern.

    Raises:
        ConfigError: The method is unknown, or the target is out of range.
    """
    method, *refine = method.split("+")
    if ":" in target:
        return PruningConfig(method=method, pattern=target, refine=tuple(refine))
    return PruningConfig(method=method, sparsity=float(target), refine=tuple(refine))


def bands_of(quantities: Sequence[str]) -> list[str]:
    """Return the names of all bands of some quantities, such as `length:shortest`."""
    return [f"{quantity}:{band}" for quantity in quantities for band in BANDS[quantity]]


def study_cells(
    strategies: Sequence[str], methods: Sequence[str], targets: Sequence[str], seeds: Sequence[int], bands: Sequence[str]
) -> Iterator[Cell]:
    """Yield the cells: every method, target, strategy and seed; one cell a target where nothing is calibrated on.

    Bands are calibrated on with the first method that needs calibration. All of a seed comes before the next one.
    """
    banded = next((method for method in methods if pruning_of(method, "0.5").needs_calibration), None)
    for seed in seeds:
        for method in methods:
            names = [*strategies, *(bands_of(bands) if method == banded else [])]
            if not pruning_of(method, "0.5").needs_calibration:
                names = [None] if seed == seeds[0] else []
            for target in targets:
                yield from (Cell(method, target, name, seed) for name in names)
