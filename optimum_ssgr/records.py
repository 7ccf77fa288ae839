"""What flows between the stages: problems, rollouts and verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass

from .stored import StoredText, TokenIds


UNKNOWN_KIND = "unknown"
"""What problems whose kind nobody has said are counted as, where others have one."""


@dataclass(frozen=True)
class Problem:
    """A question with a known final answer.

    Args:
        id: Unique name of the problem in its set.
        question: What the model is asked.
        answer: The final answer, as a LaTeX box would hold it.
        difficulty: Difficulty given by the problem's author, if any; selection measures its own.
        source: Where the problem comes from.
        answer_kind: How answers are compared: `math` (as mathematics), `choice` (as a letter), `exact` (as text, apart from
            white space), or `reasoning-gym:GENERATOR@SEED#INDEX` (by the scorer of the generator that made the problem).
        kind: What sort of problem it is, such as its subject; None where nobody has said.
        instruction: Text appended to the question when it is asked, instead of the one for all problems; None takes that.
    """

    id: str
    question: str
    answer: str
    difficulty: float | None = None
    source: str | None = None
    answer_kind: str = "math"
    kind: str | None = None
    instruction: str | None = None


@dataclass(frozen=True)
class Rollout:
    """One sampled response, as token ids exactly as the model produced them.

    Args:
        problem_id: `Problem.id` of the question.
        sample: Number of the sample among those of this problem, from 0.
        prompt_ids: Token ids the model was given.
        response_ids: Token ids the model wrote, the end-of-sequence token included when it came; kept as `TokenIds`, since
            those of all rollouts are too many to be Python numbers.
        finished: Whether the model ended by itself; False when it was cut at the token limit.
    """

    problem_id: str
    sample: int
    prompt_ids: tuple[int, ...]
    response_ids: Sequence[int]
    finished: bool

    def __post_init__(self) -> None:
        if not isinstance(self.response_ids, TokenIds):
            object.__setattr__(self, "response_ids", TokenIds.hold(self.response_ids))


@dataclass(frozen=True)
class Verdict:
    """What verification made of a rollout.

    Args:
        answer: The answer found after the thinking, or None.
        correct: Whether it equals the problem's answer; always False for a truncated response.
        thought: Whether the thinking was closed; None when it was never opened.
        timed_out: Whether it could not be found out, in the time and memory set aside, if the answer is right; it is then
            neither right nor wrong, and `correct` is False.
    """

    answer: str | None
    correct: bool
    thought: bool | None
    timed_out: bool = False


@dataclass(frozen=True)
class GradedRollout:
    """A rollout with its problem and what is known of it.

    Args:
        problem: The problem.
        rollout: The response, as token ids.
        verdict: What verification made of it.
        response: The response as text, or what reads it; `text` is it in either case.
        damage: How much pruning hurts the model's grasp of it: the rise of its negative log-likelihood, in nats, summed over
            the response's tokens; None where that was not measured.
    """

    problem: Problem
    rollout: Rollout
    verdict: Verdict
    response: str | StoredText
    damage: float | None = None

    @property
    def text(self) -> str:
        """The response, as text."""
        return str(self.response)

    @property
    def is_unreadable(self) -> bool:
        """Whether the model finished, but stated no answer that can be read."""
        return self.rollout.finished and self.verdict.answer is None


@dataclass(frozen=True)
class CalibrationSequence:
    """One sequence to calibrate on, as token ids exactly as the model saw or wrote them.

    Args:
        prompt_ids: Token ids of the prompt; empty for general text.
        response_ids: Token ids of the response or of the text; empty when only the prompt is used.
        selected_by: The strategy, and the rule when the first one did not give enough.
        problem_id: Problem the sequence belongs to; None for general text.
        sample: Number of the rollout; None when there is none.
        token_weights: How much each token of prompt and response counts, 0 or more; None when all count once.
    """

    prompt_ids: tuple[int, ...]
    response_ids: Sequence[int]
    selected_by: str
    problem_id: str | None = None
    sample: int | None = None
    token_weights: tuple[float, ...] | None = None

    @property
    def input_ids(self) -> tuple[int, ...]:
        """Prompt and response together."""
        return (*self.prompt_ids, *self.response_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens in prompt and response together; counts them without reading them."""
        return len(self.prompt_ids) + len(self.response_ids)
