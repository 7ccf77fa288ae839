"""What every engine does: take requests, give rollouts back in the order they finish."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from ..errors import ModelError
from ..records import Rollout


@dataclass(frozen=True)
class Request:
    """One response to sample.

    Args:
        problem_id: Problem the response belongs to.
        sample: Number of the sample among those of the problem, from 0.
        prompt_ids: Token ids to continue.
        seed: Seed of the request's own random generator.
    """

    problem_id: str
    sample: int
    prompt_ids: tuple[int, ...]
    seed: int


class NothingUsable(ModelError):
    """Not one of the responses that were asked for can be used."""


class Engine(Protocol):
    """Samples responses."""

    def check(self, requests: Iterable[Request]) -> None:
        """Refuse requests that cannot be answered, before any of them runs."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Rollout]:
        """Yield one rollout per request, in the order they finish; without those that are lost, unless all are."""
        ...


def request_seed(seed: int, problem_id: str, sample: int) -> int:
    """Derive a request's own seed, so that its randomness does not depend on which other requests run at the same time."""
    digest = hashlib.sha256(f"{seed}/{problem_id}/{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
