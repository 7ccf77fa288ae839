"""Is the answer right?"""

from collections.abc import Iterable, Mapping
from contextlib import closing

from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..records import GradedRollout, Problem, Rollout, Verdict
from .answer import find_answer, split_thinking
from .compare import compare_quickly
from .workers import SECONDS, compare_all


logger = logging.get_logger(__name__)


def grade(problem: Problem, rollout: Rollout, tokenizer: PreTrainedTokenizerBase) -> GradedRollout:
    """Verify one rollout; a truncated response is never correct.

    Args:
        problem: The problem that was asked.
        rollout: The response.
        tokenizer: Decodes the token ids, special tokens included.
    """
    return grade_all({problem.id: problem}, [rollout], tokenizer)[0]


def grade_all(
    problems: Mapping[str, Problem], rollouts: list[Rollout], tokenizer: PreTrainedTokenizerBase
) -> list[GradedRollout]:
    """Verify rollouts; a truncated response is never correct.

    Args:
        problems: Problems by their ids.
        rollouts: The responses, in any order.
        tokenizer: Decodes the token ids, special tokens included.

    Returns:
        The rollouts with their verdicts, ordered by problem and sample.
    """
    ordered = sorted(rollouts, key=lambda rollout: (rollout.problem_id, rollout.sample))
    read = [_read(problems[rollout.problem_id], rollout, tokenizer) for rollout in ordered]
    right = _right_answers(
        (answer, problems[rollout.problem_id])
        for rollout, (_, answer, _) in zip(ordered, read, strict=True)
        if rollout.finished and answer is not None
    )
    graded = []
    for rollout, (text, answer, thought) in zip(ordered, read, strict=True):
        problem = problems[rollout.problem_id]
        correct = rollout.finished and (answer, problem.answer, problem.answer_kind) in right
        graded.append(GradedRollout(problem, rollout, Verdict(answer, correct, thought), text))
    return graded


def _read(problem: Problem, rollout: Rollout, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str | None, bool | None]:
    """The text of a response, the answer in it, and whether the thinking was closed."""
    prompt = tokenizer.decode(rollout.prompt_ids, skip_special_tokens=False)
    text = tokenizer.decode(rollout.response_ids, skip_special_tokens=False)
    final, thought = split_thinking(prompt, text)
    return text, find_answer(final, problem.answer_kind) if final is not None else None, thought


def _right_answers(answers: Iterable[tuple[str, Problem]]) -> set[tuple[str, str, str]]:
    """Those triples of an answer, the expected answer and its kind that are equal; each is compared once."""
    triples = dict.fromkeys((answer, problem.answer, problem.answer_kind) for answer, problem in answers)
    verdicts = {triple: compare_quickly(*triple) for triple in triples}
    hard = [triple for triple, verdict in verdicts.items() if verdict is None]
    with closing(compare_all([triple[:2] for triple in hard])) as compared:
        verdicts.update(zip(hard, tqdm(compared, total=len(hard), desc="verify", delay=5), strict=True))
    undecided = sum(verdict is None for verdict in verdicts.values())
    if undecided:
        logger.warning(
            f"{undecided} of {len(verdicts)} different answers could not be compared within {SECONDS:g} seconds and the memory "
            "set aside, and count as wrong."
        )
    return {triple for triple, verdict in verdicts.items() if verdict}
