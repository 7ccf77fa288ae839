"""The tables in `cases/`: which answers are equal, and which answer a response gives."""

from pathlib import Path

import pytest

from optimum_ssgr.verification.answer import find_answer
from optimum_ssgr.verification.compare import is_equal


CASES = Path(__file__).parent / "cases"


def rows(name):
    lines = (CASES / name).read_text(encoding="utf-8").splitlines()[1:]
    return [line.split("\t") for line in lines]


@pytest.mark.parametrize("gold, prediction, equal, kind", rows("answers.tsv"))
def test_answers(gold, prediction, equal, kind):
    assert is_equal(prediction, gold) is (equal == "yes"), kind
    assert is_equal(gold, prediction) is (equal == "yes"), kind


@pytest.mark.parametrize("response, kind, answer", rows("responses.tsv"))
def test_responses(response, kind, answer):
    assert (find_answer(response.replace("⏎", "\n"), kind) or "") == answer
