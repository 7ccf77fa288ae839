"""Generate rollouts and verify them, all at once or where they matter."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from math import ceil, exp, floor, lgamma

from transformers import PreTrainedTokenizerBase

from ..config import CalibrationConfig, PromptConfig
from ..errors import DataError
from ..records import GradedRollout, Problem
from ..rollouts.engine import Engine
from ..rollouts.sample import make_requests, rollout_progress, sample_rollouts
from ..rollouts.store import RolloutStore
from ..rollouts.watch import watch_thinking
from ..thinking import choose_style
from ..verification.verify import grade_all
from .strategies import WIDENED, Sources, select
from .windows import meets_budget


ROUNDS = 4
"""The samples of a problem are asked for in so many rounds, each after the verdicts of the one before."""
WAVES = 8
"""The problems are asked in so many waves; after each it is seen whether the budget is met."""
DOUBT = 0.05
"""A problem is decided when the chance that more samples change what it is falls below this."""


def generate_rollouts(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    prompts: Mapping[str, tuple[int, ...]],
    config: CalibrationConfig,
    store: AbstractContextManager[RolloutStore | None],
    prompting: PromptConfig | None = None,
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
        store: Opens what keeps finished rollouts, if anything, once all requests have passed the engine's check.
        prompting: How the prompts were made, which says how the model delimits its thinking; found out when None.

    Returns:
        Graded rollouts, ordered by problem and sample.

    Raises:
        DataError: There are no problems.
        NothingUsable: Servers lost every response.
        ConfigError: A prompt and the longest response exceed the model's context.
        OutputError: The store cannot be written or holds other prompts.
    """
    by_id = {problem.id: problem for problem in problems}
    everything = make_requests(problems, prompts, range(config.samples_per_problem), config.seed)
    if not everything:
        raise DataError("there are no problems to generate for.")
    engine.check(everything)
    prompting = prompting or PromptConfig()
    style, look = choose_style(tokenizer, prompting.thinking, prompting.system), watch_thinking(tokenizer, prompting)
    with store as kept, rollout_progress(len(everything)) as progress:
        if not config.adaptive:
            return grade_all(by_id, sample_rollouts(engine, everything, progress, kept, look=look), tokenizer, style)
        graded: list[GradedRollout] = []
        for wave in split_into_waves(problems, config.seed):
            outcomes: dict[str, list[bool]] = {problem.id: [] for problem in wave}
            for samples in split_into_rounds(config):
                open_problems = [by_id[name] for name, found in outcomes.items() if not found or not _decided(found, config)]
                requests = make_requests(open_problems, prompts, samples, config.seed)
                # servers may lose all of what only adds to rollouts that are there, but not all of the first
                rollouts = sample_rollouts(engine, requests, progress, kept, more=bool(graded), look=look)
                fresh = grade_all(by_id, rollouts, tokenizer, style)
                for item in fresh:
                    if not item.verdict.timed_out:
                        outcomes[item.problem.id].append(item.verdict.correct)
                graded += fresh
            if windows_meet_budget(graded, config):
                break
    return sorted(graded, key=lambda item: (item.problem.id, item.rollout.sample))


def chance_in_window(correct: int, wrong: int, samples: int, window: tuple[float, float]) -> float:
    """Return the probability that a problem's pass rate will lie in a window once all samples are drawn.

    The pass rate is given Jeffreys' prior, Beta(1/2, 1/2), so that the samples to come are beta-binomial.

    Args:
        correct: Correct samples so far.
        wrong: Wrong samples so far.
        samples: Samples in all.
        window: Lowest and highest pass rate.
    """
    left = samples - correct - wrong
    # the ends of the window are included, also where their product with the samples is a hair off a whole number
    fewest, most = ceil(window[0] * samples - 1e-9), floor(window[1] * samples + 1e-9)
    a, b = correct + 0.5, wrong + 0.5
    return sum(
        exp(_log_choose(left, more) + _log_beta(a + more, b + left - more) - _log_beta(a, b))
        for more in range(left + 1)
        if fewest <= correct + more <= most
    )


def is_decided(correct: int, wrong: int, config: CalibrationConfig) -> bool:
    """Tell whether more samples of a problem are not worth drawing.

    Either it is challenging and has given as many correct traces as may be selected from it, or it is not; and the share of
    correct samples so far already says the same as the chance that more of them would change it.
    """
    inside = config.pass_rate[0] <= correct / (correct + wrong) <= config.pass_rate[1]
    chance = chance_in_window(correct, wrong, config.samples_per_problem, config.pass_rate)
    if inside:
        return chance > 1 - DOUBT and correct >= config.max_per_problem
    return chance < DOUBT


def split_into_rounds(config: CalibrationConfig) -> list[range]:
    """Divide the numbers of a problem's samples into rounds."""
    size = ceil(config.samples_per_problem / ROUNDS)
    return [range(start, min(start + size, config.samples_per_problem)) for start in range(0, config.samples_per_problem, size)]


def split_into_waves(problems: Sequence[Problem], seed: int) -> Iterator[list[Problem]]:
    """Divide the problems into waves, in a seeded order."""
    ordered = sorted(problems, key=lambda problem: problem.id)
    random.Random(seed).shuffle(ordered)
    size = ceil(len(ordered) / WAVES)
    yield from (ordered[start : start + size] for start in range(0, len(ordered), size))


def windows_meet_budget(graded: Sequence[GradedRollout], config: CalibrationConfig) -> bool:
    """Tell whether the strategy's own windows, without widening them, meet the budget."""
    if not any(item.verdict.correct for item in graded):
        return False
    chosen = select(Sources(graded), config)
    lengths = [sequence.num_tokens for sequence in chosen]
    return meets_budget(lengths, config) and not any(WIDENED in sequence.selected_by for sequence in chosen)


def _decided(outcomes: Sequence[bool], config: CalibrationConfig) -> bool:
    return is_decided(sum(outcomes), len(outcomes) - sum(outcomes), config)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
