"""Which problems of a data set are read, and what is added to their questions; imports nothing heavy."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .sources import find_source, is_endless


if TYPE_CHECKING:
    from ..records import Problem


@dataclass(frozen=True)
class ProblemOptions:
    """How the problem sets of a command are read.

    Args:
        split: Split to read; a known data set's own when None, else `train`.
        revision: Branch, tag or commit of a data set on the Hub.
        limit: Most problems of a set, drawn by the seed; None for all.
        question_column: Column of the question; found by its usual names when None.
        answer_column: Column of the final answer; found by its usual names when None.
        kind_column: Column of what sort of problem it is; found by its usual names, if it is there, when None.
        instruction: Text appended to every question; when None, a known data set's usual one, and for others that for a boxed
            answer.

    Raises:
        ConfigError: The limit is below 1.
    """

    split: str | None = None
    revision: str | None = None
    limit: int | None = None
    question_column: str | None = None
    answer_column: str | None = None
    kind_column: str | None = None
    instruction: str | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"the number of problems must be at least 1, not {self.limit}.")

    def load(self, name: str, *, evaluation: bool, seed: int) -> "list[Problem]":
        """Load a problem set; without a split of its own, from the one that is known to be for evaluation or for calibration.

        Args:
            name: What `load_problems` takes.
            evaluation: Whether models are evaluated on it.
            seed: Seed of the draw, of endless problems, and of the order of multiple-choice options.

        Raises:
            DataError: The source cannot be read or holds no problem.
        """
        from .load import load_problems  # with transformers

        return load_problems(
            name,
            split=self.split,
            evaluation=evaluation,
            limit=self.limit,
            question_column=self.question_column,
            answer_column=self.answer_column,
            kind_column=self.kind_column,
            seed=seed,
            revision=self.revision,
        )

    def load_all(self, name: str, *, seed: int) -> "list[Problem]":
        """Load a problem set to calibrate on without its limit, so that it can be drawn from what is left of it.

        Args:
            name: What `load_problems` takes; of endless problems, as many as the limit says.
            seed: See `load`.

        Raises:
            DataError: The source cannot be read or holds no problem.
        """
        everything = self if is_endless(name) else replace(self, limit=None)
        return everything.load(name, evaluation=False, seed=seed)

    def instruction_for(self, name: str | None) -> str:
        """Return the text to add to every question of a problem set."""
        if self.instruction is not None or name is None:
            return self.instruction or ""
        return find_source(name).instruction

    def evaluation_split(self, name: str) -> str:
        """Return the split that a problem set is evaluated on."""
        source = find_source(name)
        return self.split or source.evaluation_split or ("test" if is_endless(name) else source.split)
