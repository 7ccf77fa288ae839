"""Is the answer right?"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial

from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..problems.sources import BOXED
from ..records import GradedRollout, Problem, Rollout, Verdict
from ..stored import StoredText
from ..thinking import ThinkingStyle, choose_style, split_thinking
from .answer import find_answer
from .compare import compare_quickly, is_scored
from .workers import SECONDS, compare_all


logger = logging.get_logger(__name__)

MOST_UNREADABLE = 0.05
"""Share of the finished responses without an answer from which on it is said."""


def grade(
    problem: Problem, rollout: Rollout, tokenizer: PreTrainedTokenizerBase, style: ThinkingStyle | None = None
) -> GradedRollout:
    """Verify one rollout; a truncated response is never correct.

    Args:
        problem: The problem that was asked.
        rollout: The response.
        tokenizer: Decodes the token ids, special tokens included.
        style: See `grade_all`.
    """
    return grade_all({problem.id: problem}, [rollout], tokenizer, style)[0]


def grade_all(
    problems: Mapping[str, Problem],
    rollouts: list[Rollout],
    tokenizer: PreTrainedTokenizerBase,
    style: ThinkingStyle | None = None,
) -> list[GradedRollout]:
    """Verify rollouts; a truncated response is never correct.

    Args:
        problems: Problems by their ids.
        rollouts: The responses, in any order.
        tokenizer: Decodes the token ids, special tokens included.
        style: How the model delimits its thinking; found out from the tokenizer when None.

    Returns:
        The rollouts with their verdicts, ordered by problem and sample; their texts are decoded again when they are asked for.
    """
    style = style or choose_style(tokenizer)
    ordered = sorted(rollouts, key=lambda rollout: (rollout.problem_id, rollout.sample))
    read = [_read(problems[rollout.problem_id], rollout, tokenizer, style) for rollout in ordered]
    compared = _compare_answers(
        (answer, problems[rollout.problem_id])
        for rollout, (answer, _) in zip(ordered, read, strict=True)
        if rollout.finished and answer is not None
    )
    graded = []
    for rollout, (answer, thought) in zip(ordered, read, strict=True):
        problem = problems[rollout.problem_id]
        equal = compared.get((answer, problem.answer, problem.answer_kind), False) if rollout.finished else False
        text = StoredText(partial(_decode, rollout.response_ids, tokenizer))
        graded.append(GradedRollout(problem, rollout, Verdict(answer, bool(equal), thought, timed_out=equal is None), text))
    return graded


def warn_of_unreadable(graded: Sequence[GradedRollout], model: str) -> None:
    """Say when many responses that a model finished state no answer: it is then asked in the wrong way, and not measured.

    Args:
        graded: Responses.
        model: Name of the model.
    """
    finished = sum(item.rollout.finished for item in graded)
    unreadable = sum(item.is_unreadable for item in graded)
    if unreadable > MOST_UNREADABLE * finished:
        logger.warning(
            f"{unreadable} of {finished} finished responses of {model} state no answer that can be read, and count as wrong; "
            rf"ask for it in a box, for example with --instruction '{BOXED}' (instruction= in Python)."
        )


def _read(
    problem: Problem, rollout: Rollout, tokenizer: PreTrainedTokenizerBase, style: ThinkingStyle
) -> tuple[str | None, bool | None]:
    """The answer in a response, and whether the thinking was closed."""
    prompt, response = (_decode(ids, tokenizer) for ids in (rollout.prompt_ids, rollout.response_ids))
    final, thought = split_thinking(prompt, response, style)
    return find_answer(final, problem.answer_kind) if final is not None else None, thought


def _decode(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False)


def _compare_answers(answers: Iterable[tuple[str, Problem]]) -> dict[tuple[str, str, str], bool | None]:
    """Compare triples of an answer, the expected answer and its kind, each once; None is for what could not be found out."""
    triples = dict.fromkeys((answer, problem.answer, problem.answer_kind) for answer, problem in answers)
    verdicts = {triple: compare_quickly(*triple) for triple in triples}
    # What was not found out among others, which share caches and memory with it, is tried again alone.
    for processes in (None, 1):
        hard = [triple for triple, verdict in verdicts.items() if verdict is None]
        with closing(compare_all([_without_math(triple) for triple in hard], processes=processes)) as compared:
            verdicts.update(zip(hard, tqdm(compared, total=len(hard), desc="verify", delay=5), strict=True))
    undecided = sum(verdict is None for verdict in verdicts.values())
    if undecided:
        logger.warning(
            f"{undecided} of {len(verdicts)} different answers could not be compared within {SECONDS:g} seconds of processor "
            "time and the memory set aside; they are counted as timed out."
        )
    return verdicts


def _without_math(triple: tuple[str, str, str]) -> tuple[str, ...]:
    """What `compare_all` takes, which compares as mathematics what has no kind."""
    return triple if is_scored(triple[2]) else triple[:2]
