"""Is the answer right?"""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from transformers import PreTrainedTokenizerBase

from ..problems.boxed import last_boxed
from ..records import GradedRollout, Problem, Rollout, Verdict
from .answer import split_thinking


def _as_number(text: str) -> Decimal | None:
    try:
        number = Decimal(text.replace(",", "").strip("$ "))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def is_equal(answer: str, expected: str) -> bool:
    """Compare two final answers: the same text apart from white space, or the same decimal number."""
    if "".join(answer.split()) == "".join(expected.split()):
        return True
    number, wanted = _as_number(answer), _as_number(expected)
    return number is not None and number == wanted


def grade(problem: Problem, rollout: Rollout, tokenizer: PreTrainedTokenizerBase) -> GradedRollout:
    """Verify one rollout; a truncated response is never correct.

    Args:
        problem: The problem that was asked.
        rollout: The response.
        tokenizer: Decodes the token ids, special tokens included.
    """
    prompt = tokenizer.decode(rollout.prompt_ids, skip_special_tokens=False)
    text = tokenizer.decode(rollout.response_ids, skip_special_tokens=False)
    final, thought = split_thinking(prompt, text)
    answer = last_boxed(final) if final is not None else None
    correct = rollout.finished and answer is not None and is_equal(answer, problem.answer)
    return GradedRollout(problem, rollout, Verdict(answer, correct, thought), text)


def grade_all(
    problems: Mapping[str, Problem], rollouts: list[Rollout], tokenizer: PreTrainedTokenizerBase
) -> list[GradedRollout]:
    """Verify rollouts, ordered by problem and sample whatever order they finished in."""
    ordered = sorted(rollouts, key=lambda rollout: (rollout.problem_id, rollout.sample))
    return [grade(problems[rollout.problem_id], rollout, tokenizer) for rollout in ordered]
