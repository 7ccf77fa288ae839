"""Sample responses to problems: requests, an engine and a progress bar."""

from collections.abc import Sequence

from tqdm.auto import tqdm

from ..errors import DataError
from ..records import Problem, Rollout
from .engine import Engine, Request, request_seed


def make_requests(problems: Sequence[Problem], prompts: dict[str, tuple[int, ...]], samples: int, seed: int) -> list[Request]:
    """Ask for `samples` responses to every problem."""
    return [
        Request(problem.id, sample, prompts[problem.id], request_seed(seed, problem.id, sample))
        for problem in problems
        for sample in range(samples)
    ]


def sample_rollouts(engine: Engine, requests: Sequence[Request], description: str = "generate") -> list[Rollout]:
    """Run all requests and return the rollouts in the order they finish.

    Raises:
        DataError: There is nothing to generate.
    """
    if not requests:
        raise DataError("there are no problems to generate for.")
    rollouts: list[Rollout] = []
    tokens = 0
    with tqdm(total=len(requests), desc=description, unit="rollout") as progress:
        for rollout in engine.generate(requests):
            rollouts.append(rollout)
            tokens += len(rollout.response_ids)
            progress.set_postfix({"tokens": tokens}, refresh=False)
            progress.update()
    return rollouts
