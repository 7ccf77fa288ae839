"""Which runtimes can use a sparsity pattern, and under which conditions; what is known of each stands in `runtimes.json`."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .inspect import PATTERNS, TensorSparsity, common_pattern


ANY_ZEROS = "unstructured"
"""In place of a pattern: zeros anywhere."""
GAIN = "Who gains from it, and under which conditions:"
NO_GAIN = "No runtime that is known here gains from it."
IN_VAIN = "Who does not:"
SAME_SIZE = "The files are as large as the dense model's, because zeros are stored like all other weights."
NO_ZEROS = "There are no zeros that a runtime could skip."
DENSE_BELOW = 0.01  # share of zeros; rounding leaves a few in models that nobody pruned


@dataclass(frozen=True)
class Runtime:
    """What one runtime makes of zeros.

    Args:
        name: The runtime.
        patterns: N:M patterns that it looks for, with N the weights that are kept, or `unstructured` for zeros anywhere.
        gain: What is gained; None for a runtime that one might expect a gain of, and that has none.
        conditions: Under which conditions, in sentences.
        source: Where that is said.
        checked: Day on which it was looked up there, as YYYY-MM-DD.
        least_zeros: Share of zeros below which it gains nothing.
    """

    name: str
    patterns: tuple[str, ...]
    gain: str | None
    conditions: str
    source: str
    checked: str
    least_zeros: float = 0.0

    def looks_for(self, patterns: Collection[str], zeros: float) -> bool:
        """Tell whether it concerns weights that keep to some patterns and have some share of zeros."""
        return zeros >= self.least_zeros and not {*patterns, ANY_ZEROS}.isdisjoint(self.patterns)


@cache
def known_runtimes() -> tuple[Runtime, ...]:
    """Read `runtimes.json`."""
    entries = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return tuple(Runtime(**{**entry, "patterns": tuple(entry["patterns"])}) for entry in entries)


def runtimes_for(patterns: Collection[str], zeros: float) -> tuple[list[Runtime], list[Runtime]]:
    """Return the runtimes that gain from weights, and those that one might expect it of in vain.

    Args:
        patterns: N:M patterns that the weights keep to.
        zeros: Share of them that is zero.
    """
    concerned = [runtime for runtime in known_runtimes() if runtime.looks_for(patterns, zeros)]
    return [one for one in concerned if one.gain], [one for one in concerned if not one.gain]


def implied_patterns(kept: int, size: int) -> list[str]:
    """Return the known patterns that weights keep to which keep to one of any kind: what is 1:4, say, is also 2:4 and 6:8.

    Args:
        kept: Weights kept in a group.
        size: Weights in a group.
    """
    return [f"{n}:{m}" for n, m in PATTERNS if _most_kept(kept, size, m) <= n]


def _most_kept(kept: int, size: int, window: int) -> int:
    """Return how many weights can be kept in one of the groups of another size that lie side by side."""

    def of_group(group: int, start: int) -> int:
        return min(kept, min((group + 1) * size, start + window) - max(group * size, start))

    starts = range(0, size * window, window)
    return max(sum(of_group(group, start) for group in range(start // size, -(-(start + window) // size))) for start in starts)


def what_to_expect(matrices: Collection[TensorSparsity]) -> list[str]:
    """Say which pattern matrices have, how large the files are, and which runtimes gain from them under which conditions.

    Args:
        matrices: Weight matrices of the blocks, at least one.

    Returns:
        Paragraphs; those about a runtime begin with a dash.
    """
    count = len(matrices)
    zeros = sum(matrix.zeros for matrix in matrices) / sum(matrix.weights for matrix in matrices)
    if zeros < DENSE_BELOW:
        return [f"All {count} matrices are dense. {NO_ZEROS}"]
    patterned = {matrix.pattern for matrix in matrices} - {None}
    if pattern := common_pattern(matrices):
        patterns = set.intersection(*(set(matrix.patterns) for matrix in matrices))
        also = ", which is also 2:4" if "2:4" in patterns - {pattern} else ""
        head = f"All {count} matrices are {pattern}{also}."
    elif patterned:
        known = [f"{n}:{m}" for n, m in PATTERNS]
        of_each = ", ".join(
            f"{sum(name in matrix.patterns for matrix in matrices)} are {name}" for name in known if name in patterned
        )
        head = f"The pattern is mixed: of {count} matrices {of_each}. Who looks for a pattern gains on those alone."
        patterns = {name for matrix in matrices for name in matrix.patterns}
    else:
        head, patterns = "The zeros are unstructured.", set()
    gaining, others = runtimes_for(patterns, zeros)
    said = [f"{head} {SAME_SIZE}", *([GAIN, *_list(gaining)] if gaining else [NO_GAIN])]
    return [*said, IN_VAIN, *_list(others)] if others else said


def _list(runtimes: Sequence[Runtime]) -> list[str]:
    return [
        f"- {one.name}{f' ({one.gain})' if one.gain else ''}: {one.conditions} [{one.source}, checked {one.checked}]"
        for one in runtimes
    ]
