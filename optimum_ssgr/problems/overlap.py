"""No evaluation problem in the calibration set."""

import re
from collections.abc import Iterable, Iterator, Sequence

from tqdm.auto import tqdm

from ..records import Problem


WORDS_IN_COMMON = 13
_PUNCTUATION = re.compile(r"[^\w\s]|_")


def remove_overlap(problems: Sequence[Problem], evaluation: Iterable[Problem]) -> tuple[list[Problem], dict[str, int]]:
    """Remove problems that are also in an evaluation set, whole or in part.

    Questions are compared by their words: in lower case and without punctuation, which operators such as `-` belong to. A
    problem goes when its words are those of an evaluation question, or when 13 words in a row are also in one (the rule of
    GPT-3, arXiv 2005.14165, appendix C). Time and memory grow linearly with the text.

    Args:
        problems: Problems to calibrate on.
        evaluation: Problems that must not be among them.

    Returns:
        The problems that stay, in their order, and the numbers removed: `exact` for the same words, `ngram` for 13 in a row.
    """
    questions = [words_of(problem.question) for problem in evaluation]
    whole = {tuple(words) for words in questions if words}
    parts = {part for words in questions for part in _parts(words)}
    kept: list[Problem] = []
    removed = {"exact": 0, "ngram": 0}
    for problem in tqdm(problems, "compare with evaluation", unit="problem", delay=2):
        words = words_of(problem.question)
        if tuple(words) in whole:
            removed["exact"] += 1
        elif not parts.isdisjoint(_parts(words)):
            removed["ngram"] += 1
        else:
            kept.append(problem)
    return kept, removed


def words_of(question: str) -> list[str]:
    """Return the words of a question, in lower case and without punctuation."""
    return _PUNCTUATION.sub("", question.lower()).split()


def _parts(words: list[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(WORDS_IN_COMMON)), strict=False)
