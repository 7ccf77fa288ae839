"""Several problem sets to calibrate on together, each a kind of its own, with columns, instruction and share of its own.

Imports nothing heavy, so that mistakes in the names are found at once.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .options import ProblemOptions


if TYPE_CHECKING:
    from ..records import Problem

SHARE = "share"
OPTIONS = {
    "split": "split",
    "revision": "revision",
    "num_problems": "limit",
    "question_column": "question_column",
    "answer_column": "answer_column",
    "kind_column": "kind_column",
    "instruction": "instruction",
}
"""What may stand behind the name of a set, and the field of `ProblemOptions` that it sets."""

_FIRST = re.compile(r":(?=\w+=)")
_NEXT = re.compile(rf",(?=(?:{'|'.join([SHARE, *OPTIONS])})=)")


@dataclass(frozen=True)
class ProblemSet:
    """One of several problem sets.

    Args:
        name: What `load_problems` takes.
        reading: How it is read.
        share: Share of the selected tokens that its traces are to have, which the strategy `cover` meets; None leaves that to
            what the other sets leave.

    Raises:
        ConfigError: The share is out of range.
    """

    name: str
    reading: ProblemOptions = field(default_factory=ProblemOptions)
    share: float | None = None

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share <= 1:
            raise ConfigError(f"the share of {self.name} must be above 0 and at most 1, not {self.share}.")

    @property
    def instruction(self) -> str:
        """The text to add to its questions."""
        return self.reading.instruction_for(self.name)


ProblemSets = Sequence[str | Path | ProblemSet]
"""Several problem sets, by their names as `read_problem_sets` reads them, or as they are."""


def read_problem_sets(names: ProblemSets, defaults: ProblemOptions | None = None) -> list[ProblemSet]:
    """Read problem sets as they are written on the command line, and see whether they go together.

    Args:
        names: Names as `load_problems` takes them, each perhaps with options of its own behind it:
            `openai/gsm8k:main:share=.3,split=train,instruction=Think.`; or sets.
        defaults: How sets are read that do not say otherwise.

    Raises:
        ConfigError: An option is unknown or out of range, a set is named twice, or the shares do not go together.
    """
    defaults = defaults or ProblemOptions()
    sets = [_fill(name, defaults) if isinstance(name, ProblemSet) else _read_set(str(name), defaults) for name in names]
    twice = [one.name for number, one in enumerate(sets) if one.name in [other.name for other in sets[:number]]]
    if twice:
        raise ConfigError(f"the problem set {twice[0]} is named twice.")
    shares = [one.share for one in sets if one.share is not None]
    total = sum(shares)
    if shares and len(sets) == 1:
        raise ConfigError(f"a share divides the tokens among several problem sets, and {sets[0].name} is the only one.")
    if total > 1 + 1e-9:
        raise ConfigError(f"the shares of the problem sets are {total:g} together, more than 1.")
    if len(shares) == len(sets) and shares and total < 1 - 1e-9:
        raise ConfigError(f"the shares of the problem sets are {total:g} together, not 1, and no other set takes the rest.")
    if 0 < len(shares) < len(sets) and total > 1 - 1e-9:
        left = next(one.name for one in sets if one.share is None)
        raise ConfigError(f"the shares of the problem sets are 1 together, which leaves nothing for {left}.")
    return sets


def kinds_of(sets: Sequence[ProblemSet]) -> dict[str, str]:
    """Return what the problems of each of several sets are called as a kind: the end of its name, where that tells them apart.

    Args:
        sets: The sets.

    Returns:
        Kinds by the names of the sets.
    """
    ends = {one.name: re.split(r"/(?=[^(]*$)", one.name)[-1] for one in sets}
    return {name: end if list(ends.values()).count(end) == 1 else name for name, end in ends.items()}


def kind_shares(sets: Sequence[ProblemSet]) -> tuple[tuple[str, float], ...]:
    """Return `CalibrationConfig.kind_shares` of several sets."""
    kinds = kinds_of(sets)
    return tuple((kinds[one.name], one.share) for one in sets if one.share is not None)


def mix_problems(problems: Mapping[ProblemSet, Sequence["Problem"]]) -> list["Problem"]:
    """Put the problems of several sets together; each takes its set's name as its kind, and its set's instruction along.

    The problems of a single set stay as they are, with kinds of their own. A question that an earlier set has, too, is left
    out.

    Args:
        problems: Problems by their set.
    """
    if len(problems) == 1:
        return list(next(iter(problems.values())))
    kinds = kinds_of(list(problems))
    mixed: dict[str, Problem] = {}
    for one, found in problems.items():
        for problem in found:
            marked = dataclasses.replace(problem, kind=kinds[one.name], instruction=one.instruction)
            mixed.setdefault(problem.id, marked)
    return list(mixed.values())


def instruction_of(sets: Sequence[ProblemSet]) -> str:
    """Return the text to add to the questions of a single set; nothing for several, whose problems have their own."""
    return sets[0].instruction if len(sets) == 1 else ""


def load_mixture(sets: Sequence[ProblemSet], seed: int = 0) -> list["Problem"]:
    """Load several problem sets to calibrate on, each with at most as many problems as it says.

    Args:
        sets: What `read_problem_sets` returns.
        seed: See `load_problems`.

    Raises:
        DataError: A set cannot be read or holds no problem.
    """
    return mix_problems({one: one.reading.load(one.name, evaluation=False, seed=seed) for one in sets})


def is_mixture(problems: Any) -> bool:
    """Tell whether problems are given as a list of sets or their names, and not as one source or as the problems."""
    names = isinstance(problems, list | tuple) and problems
    return bool(names) and all(isinstance(one, str | Path | ProblemSet) for one in names)


def _fill(one: ProblemSet, defaults: ProblemOptions) -> ProblemSet:
    """Read a set by the defaults where it does not say otherwise."""
    given = {name: value for name, value in vars(one.reading).items() if value is not None}
    return dataclasses.replace(one, reading=dataclasses.replace(defaults, **given))


def _read_set(text: str, defaults: ProblemOptions) -> ProblemSet:
    found = _FIRST.search(text)
    if found is None:
        return ProblemSet(text, defaults)
    name, given = text[: found.start()], {}
    for option in _NEXT.split(text[found.end() :]):
        key, _, value = option.partition("=")
        if key not in (SHARE, *OPTIONS):
            raise ConfigError(f"unknown option {key} of {name}; a problem set takes {', '.join([SHARE, *OPTIONS])}.")
        given[key] = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
    share = _number(name, SHARE, given.pop(SHARE), float) if SHARE in given else None
    if "num_problems" in given:
        given["num_problems"] = _number(name, "num_problems", given["num_problems"], int)
    reading = dataclasses.replace(defaults, **{OPTIONS[key]: value for key, value in given.items()})
    return ProblemSet(name, reading, share)


def _number(name: str, key: str, value: str, kind: type) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(f"the option {key} of {name} must be a number, not '{value}'.") from None
