"""Gather rollouts: generate and verify them, all at once or where they matter."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from transformers import PreTrainedTokenizerBase

from ..config import CalibrationConfig
from ..errors import DataError
from ..records import GradedRollout, Problem
from ..rollouts.engine import Engine
from ..rollouts.sample import make_requests, rollout_progress, sample_rollouts
from ..rollouts.store import RolloutStore
from ..verification.verify import grade_all
from .adaptive import is_decided, is_enough, rounds, waves


def gather_rollouts(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    prompts: Mapping[str, tuple[int, ...]],
    config: CalibrationConfig,
    journal: AbstractContextManager[RolloutStore | None],
) -> list[GradedRollout]:
    """Let the model answer every problem several times, and verify the answers.

    With `config.adaptive`, problems are left alone once they are decided, and further problems are not asked once the budget
    is met. What is asked depends on verdicts alone, never on the order in which rollouts finish.

    Args:
        engine: Generates the responses.
        tokenizer: Decodes them.
        problems: Problems to ask.
        prompts: Prompt token ids by problem id.
        config: Samples per problem, windows and budget.
        journal: Opens what keeps finished rollouts, if anything, once all requests have passed the engine's check.

    Returns:
        Graded rollouts, ordered by problem and sample.

    Raises:
        DataError: There are no problems.
        NothingUsable: Servers lost every response.
        ConfigError: A prompt and the longest response exceed the model's context.
        OutputError: The journal cannot be written or holds other prompts.
    """
    by_id = {problem.id: problem for problem in problems}
    everything = make_requests(problems, prompts, range(config.samples_per_problem), config.seed)
    if not everything:
        raise DataError("there are no problems to generate for.")
    engine.check(everything)
    with journal as kept, rollout_progress(len(everything)) as progress:
        if not config.adaptive:
            return grade_all(by_id, sample_rollouts(engine, everything, progress, kept), tokenizer)
        graded: list[GradedRollout] = []
        for wave in waves(problems, config.seed):
            outcomes: dict[str, list[bool]] = {problem.id: [] for problem in wave}
            for samples in rounds(config):
                open_problems = [by_id[name] for name, found in outcomes.items() if not found or not _decided(found, config)]
                requests = make_requests(open_problems, prompts, samples, config.seed)
                fresh = grade_all(by_id, sample_rollouts(engine, requests, progress, kept, more=bool(graded)), tokenizer)
                for item in fresh:
                    outcomes[item.problem.id].append(item.verdict.correct)
                graded += fresh
            if is_enough(graded, config):
                break
    return sorted(graded, key=lambda item: (item.problem.id, item.rollout.sample))


def _decided(outcomes: Sequence[bool], config: CalibrationConfig) -> bool:
    return is_decided(sum(outcomes), len(outcomes) - sum(outcomes), config)
