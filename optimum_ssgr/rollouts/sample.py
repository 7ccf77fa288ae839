"""Sample responses to problems: requests, an engine, a journal and a progress bar."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

from tqdm.auto import tqdm
from transformers.utils import logging

from ..records import Problem, Rollout
from .engine import Engine, NothingUsable, Request, request_seed
from .store import RolloutStore


logger = logging.get_logger(__name__)


def make_requests(
    problems: Sequence[Problem], prompts: Mapping[str, tuple[int, ...]], samples: Sequence[int], seed: int
) -> list[Request]:
    """Ask for the samples of the given numbers from every problem."""
    return [
        Request(problem.id, sample, prompts[problem.id], request_seed(seed, problem.id, sample))
        for problem in problems
        for sample in samples
    ]


def rollout_progress(total: int, description: str = "generate") -> tqdm:
    """Return a progress bar for so many rollouts."""
    return tqdm(total=total, desc=description, unit="rollout", smoothing=0)


def sample_rollouts(
    engine: Engine,
    requests: Sequence[Request],
    progress: tqdm,
    journal: RolloutStore | None = None,
    more: bool = False,
    look: Callable[[Rollout], None] | None = None,
) -> list[Rollout]:
    """Run all requests and return the rollouts, those that the journal has first.

    Args:
        engine: Generates what is missing.
        requests: What to sample.
        progress: Progress bar of `rollout_progress`, moved on by every rollout.
        journal: Finished rollouts of an earlier run; new ones are appended. None keeps nothing.
        more: Whether these only add to rollouts that are there, so that all of them may be lost.
        look: Called with every rollout, such as what `watch.watch_thinking` returns.

    Raises:
        NothingUsable: There is no rollout.
        OutputError: The journal cannot be written or holds other prompts.
    """
    earlier = [(request, journal.find(request) if journal else None) for request in requests]
    rollouts = [rollout for _, rollout in earlier if rollout]
    for rollout in rollouts if look else ():
        look(rollout)
    progress.update(len(rollouts))
    try:
        with closing(engine.generate([request for request, rollout in earlier if not rollout])) as fresh:
            started, tokens = time.monotonic(), 0
            for rollout in fresh:
                rollouts.append(journal.append(rollout) if journal else rollout)
                if look:
                    look(rollout)
                tokens += len(rollout.response_ids)
                progress.set_postfix({"tokens/s": round(tokens / (time.monotonic() - started))}, refresh=False)
                progress.update()
    except NothingUsable as error:
        if not (rollouts or more):
            raise
        logger.warning(str(error))
    return rollouts
