"""Evaluate a model on problems with the same sampling and verification that calibration uses."""

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..config import SamplingConfig
from ..errors import DataError
from ..records import GradedRollout, Problem
from ..rollouts.local import LocalEngine
from ..rollouts.prompts import encode_prompts
from ..rollouts.sample import make_requests, rollout_progress, sample_rollouts
from ..verification.verify import grade_all


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    sampling: SamplingConfig,
    samples: int = 1,
    batch_size: int = 64,
    instruction: str = "",
) -> list[GradedRollout]:
    """Let a model answer problems, and verify the answers.

    Args:
        model: Causal language model.
        tokenizer: Its tokenizer, with a chat template.
        problems: Problems to ask.
        sampling: How to sample; temperature 0 is greedy.
        samples: Responses per problem.
        batch_size: Most responses in the making at a time.
        instruction: Text appended to every question.

    Returns:
        Graded responses, ordered by problem and sample.

    Raises:
        ModelError: There is no chat template, or the model cannot be batched.
        ConfigError: A prompt and the longest response exceed the model's context.
        DataError: There are no problems.
    """
    requests = make_requests(problems, encode_prompts(tokenizer, problems, instruction), range(samples), sampling.seed)
    if not requests:
        raise DataError("there are no problems to evaluate on.")
    with rollout_progress(len(requests), "evaluate") as progress:
        rollouts = sample_rollouts(LocalEngine(model, sampling, batch_size), requests, progress)
    return grade_all({problem.id: problem for problem in problems}, rollouts, tokenizer)
