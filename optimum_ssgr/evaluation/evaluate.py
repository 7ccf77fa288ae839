"""Evaluate a model on problems with the same sampling and verification that calibration uses."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..config import EngineConfig, PromptConfig, SamplingConfig
from ..errors import DataError
from ..records import GradedRollout, Problem, Rollout
from ..rollouts.choose import open_engine
from ..rollouts.engine import Engine, Request
from ..rollouts.prompts import encode_prompts
from ..rollouts.sample import make_requests, rollout_progress, sample_rollouts
from ..rollouts.store import RolloutStore
from ..rollouts.watch import watch_thinking
from ..thinking import choose_style
from ..verification.verify import grade_all


class MeteredEngine:
    """An engine that counts what it generates.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.tokens = 0
        self.seconds = 0.0

    def check(self, requests: Iterable[Request]) -> None:
        """Refuse requests that cannot be answered."""
        self.engine.check(requests)

    def generate(self, requests: Iterable[Request]) -> Iterator[Rollout]:
        """Return one rollout per request, in the order they finish; what starting a server takes is not counted."""
        return self._count(self.engine.generate(requests))

    def _count(self, rollouts: Iterator[Rollout]) -> Iterator[Rollout]:
        started = time.monotonic()
        before = self.seconds
        for rollout in rollouts:
            self.tokens += len(rollout.response_ids)
            self.seconds = before + time.monotonic() - started
            yield rollout


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    sampling: SamplingConfig,
    samples: int = 1,
    batch_size: int = 64,
    instruction: str = "",
    prompting: PromptConfig | None = None,
) -> list[GradedRollout]:
    """Let a model in this process answer problems, and verify the answers.

    Args:
        model: Causal language model.
        tokenizer: Its tokenizer, with a chat template.
        problems: Problems to ask.
        sampling: How to sample; temperature 0 is greedy.
        samples: Responses per problem.
        batch_size: Most responses in the making at a time.
        instruction: Text appended to every question.
        prompting: System message, variables of the template, and how thinking is delimited.

    Returns:
        Graded responses, ordered by problem and sample.

    Raises:
        ModelError: There is no chat template, or the model cannot be batched.
        ConfigError: A prompt and the longest response exceed the model's context.
        DataError: There are no problems.
    """
    with open_engine(EngineConfig(), model, tokenizer, sampling, batch_size) as engine:
        return answer(engine, tokenizer, problems, sampling.seed, samples, instruction, prompting=prompting)


def answer(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    seed: int,
    samples: int = 1,
    instruction: str = "",
    journal: AbstractContextManager[RolloutStore | None] | None = None,
    prompting: PromptConfig | None = None,
) -> list[GradedRollout]:
    """Let an engine answer problems, and verify the answers.

    Args:
        engine: Generates the responses.
        tokenizer: The model's tokenizer, with a chat template.
        problems: Problems to ask.
        seed: Seed of the sampling.
        samples: Responses per problem.
        instruction: Text appended to every question.
        journal: Opens what keeps finished responses, once all requests have passed the engine's check; None keeps none.
        prompting: System message, variables of the template, and how thinking is delimited.

    Returns:
        Graded responses, ordered by problem and sample; those that a server lost are not among them.

    Raises:
        SSGRError: There are no problems, no chat template, a prompt does not fit, or the engine cannot answer.
    """
    prompting = prompting or PromptConfig()
    prompts = encode_prompts(tokenizer, problems, instruction, prompting)
    requests = make_requests(problems, prompts, range(samples), seed)
    if not requests:
        raise DataError("there are no problems to evaluate on.")
    engine.check(requests)
    with journal or nullcontext() as kept, rollout_progress(len(requests), "evaluate") as progress:
        rollouts = sample_rollouts(engine, requests, progress, kept, look=watch_thinking(tokenizer, prompting))
    style = choose_style(tokenizer, prompting.thinking, prompting.system)
    return grade_all({problem.id: problem for problem in problems}, rollouts, tokenizer, style)
