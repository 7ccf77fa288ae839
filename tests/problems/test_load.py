import json
import math
from decimal import Decimal

import numpy
import pytest

from optimum_ssgr.errors import DataError
from optimum_ssgr.problems.load import load_problems
from optimum_ssgr.records import Problem


ROWS = [
    {"problem": "1 + 1?", "answer": "2"},
    {"problem": "2 + 2?", "answer": 4},
    {"problem": "1 + 1?", "answer": "2"},
    {"problem": "", "answer": "5"},
    {"problem": "3 + 3?", "answer": None},
    {"problem": "4 + 4?", "answer": "It is 8.\n#### 8"},
]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_files(tmp_path, suffix):
    path = tmp_path / f"problems.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
    else:
        import pandas

        getattr(pandas.DataFrame(ROWS).astype({"answer": "string"}), f"to_{suffix}")(path, index=False)
    problems = load_problems(path)
    assert [(problem.question, problem.answer) for problem in problems] == [("1 + 1?", "2"), ("2 + 2?", "4"), ("4 + 4?", "8")]
    assert len({problem.id for problem in problems}) == 3


def test_an_id_depends_on_the_question_alone():
    first = load_problems([ROWS[0], ROWS[1]])
    second = load_problems([ROWS[1], ROWS[0]])
    assert first == second[::-1]


def test_limit_and_named_columns():
    rows = [{"task": f"{n} + 1?", "gold": str(n + 1)} for n in range(5)]
    problems = load_problems(rows, limit=2, question_column="task", answer_column="gold")
    assert [problem.answer for problem in problems] == ["1", "2"]


def test_an_answer_in_a_box_or_behind_a_mark_is_taken_out():
    written = {"q1": r"$\boxed{\frac{1}{2}}$", "q2": "so\n#### 7", "q3": "plain", "q4": r"\boxed{1} or \boxed{2}"}
    problems = load_problems([{"problem": question, "answer": answer} for question, answer in written.items()])
    assert [problem.answer for problem in problems] == [r"\frac{1}{2}", "7", "plain", "1, 2"]


def test_texts_and_numbers_are_taken_out_of_what_holds_one(tmp_path):
    """As rows in Python, and as a Parquet file gives them back."""
    import pyarrow.parquet

    chats = [[{"role": "user", "content": f"{n} + 1?"}] for n in range(3)]
    rows = [{"prompt": chat, "answer": [answer]} for chat, answer in zip(chats, ("1", None, "3"), strict=True)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "chats.parquet")
    for source in (rows, tmp_path / "chats.parquet"):
        problems = load_problems(source)
        assert [(problem.question, problem.answer) for problem in problems] == [("0 + 1?", "1"), ("2 + 1?", "3")]
    values = [7, 1.5, True, [8], ["9"], math.nan, [math.nan], Decimal("2.50"), numpy.int64(4)]
    problems = load_problems([{"problem": f"{n}?", "answer": value} for n, value in enumerate(values)])
    assert [problem.answer for problem in problems] == ["7", "1.5", "True", "8", "9", "2.50", "4"]


@pytest.mark.parametrize(
    "row, message",
    [
        (
            {"problem": "1 + 1?", "answer": {"ground_truth": "34"}},
            r"the column answer holds \{'ground_truth': '34'\}, which is",
        ),
        ({"problem": "1 + 1?", "answer": ["1", "2"]}, r"the column answer holds \['1', '2'\]"),
        ({"problem": "1 + 1?", "answer": [["2"]]}, r"the column answer holds \[\['2'\]\]"),
        (
            {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}], "answer": "2"},
            "the column prompt holds .*name another one with question_column",
        ),
        ({"prompt": [{"role": "assistant", "content": "1 + 1?"}], "answer": "2"}, "the column prompt holds"),
    ],
)
def test_what_is_neither_text_nor_number_is_refused(row, message):
    with pytest.raises(DataError, match=message) as caught:
        load_problems([ROWS[0], row])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_columns_that_are_not_read_do_not_matter(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"problem": "q", "answer": "a", "traces": ["long"] * 9}) + "\n")
    assert load_problems(path)[0].question == "q"


def test_single_letters_are_choices():
    answers = ["B", "(C)", r"\text{(D)}", "K", "b", "AB", "5", "x"]
    problems = load_problems([{"problem": f"{n}?", "answer": answer} for n, answer in enumerate(answers)])
    assert [problem.answer_kind for problem in problems] == ["choice"] * 3 + ["math"] * 5


def test_problems_pass_through():
    problem = Problem("mine", "q", "a")
    assert load_problems([problem]) == [problem]


def test_embedded_problems_for_evaluation_are_held_out():
    assert load_problems("tiny-reasoner", evaluation=True) == load_problems("tiny-reasoner", split="test")
    assert load_problems("tiny-reasoner", evaluation=True, split="dev") == load_problems("tiny-reasoner", split="dev")


def test_embedded_problems_are_graded_and_repeatable():
    problems = load_problems("tiny-reasoner", split="test", limit=50)
    assert problems == load_problems("tiny-reasoner", split="test", limit=50)
    assert problems != load_problems("tiny-reasoner", split="test", limit=50, seed=1)
    assert {problem.difficulty for problem in problems} == set(range(1, 11))
    assert {problem.answer_kind for problem in problems} == {"exact"}


@pytest.mark.parametrize(
    "content, message",
    [
        (
            '{"text": "a", "answer": "b"}',
            "has no question column named problem or question or prompt; its columns are text, answer",
        ),
        ('{"problem": "a", "solution": "b"}', "has no answer column .* Name it with answer_column"),
        ('{"problem": "", "answer": ""}', "no problems with a question and an answer"),
        ("", "is empty"),
        ("not json", "cannot read problems"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "problems.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load_problems(path)


def test_missing_file_and_bad_split(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        load_problems(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="has the splits train, dev, test, not 'validation'"):
        load_problems("tiny-reasoner", split="validation")
    with pytest.raises(DataError, match="at least 1, not 0"):
        load_problems("tiny-reasoner", limit=0)
