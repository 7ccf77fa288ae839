import json
import math
from decimal import Decimal
from pathlib import Path

import numpy
import pytest

from optimum_ssgr.errors import ConfigError, DataError
from optimum_ssgr.problems.load import draw_problems, load_problems, usual_instruction
from optimum_ssgr.problems.options import ProblemOptions
from optimum_ssgr.problems.sources import BOXED, LETTER
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


def test_named_columns():
    rows = [{"task": f"{n} + 1?", "gold": str(n + 1)} for n in range(2)]
    problems = load_problems(rows, question_column="task", answer_column="gold")
    assert [problem.answer for problem in problems] == ["1", "2"]


def test_a_limit_draws_by_the_seed_alone():
    rows = [{"problem": f"{n} + 1?", "answer": n + 1} for n in range(400)]
    everything = load_problems(rows)
    assert load_problems(rows, limit=400) == load_problems(rows, limit=1000) == everything
    drawn = {seed: load_problems(rows, limit=100, seed=seed) for seed in range(3)}
    assert all(len(set(problems)) == 100 and set(problems) < set(everything) for problems in drawn.values())
    places = [everything.index(problem) for problem in drawn[0]]
    assert 150 < sum(places) / 100 < 250  # of 0 to 399: from all of it, not its head
    common = len(set(drawn[0]) & set(drawn[1]))
    assert 10 < common < 40  # of 100, by chance 25
    # Neither the order of the rows nor a larger limit changes what is drawn first.
    assert load_problems(rows[::-1], limit=100, seed=1) == drawn[1] == load_problems(rows, limit=250, seed=1)[:100]
    assert drawn[1] == draw_problems(everything, 100, seed=1)


EXACT = {
    "big": "123456789012345678901234567890",
    "none": "None",
    "not available": "NA",
    "null": "null",
    "zeros": "007",
    "decimal": "1.50",
    "one": "1.0",
    "truth": "true",
    "text nan": "nan",
}


def test_answers_in_csv_are_texts_exactly(tmp_path):
    lines = [f"{question},{answer}" for question, answer in EXACT.items()]
    (tmp_path / "p.csv").write_text("\ufeffproblem,answer\n" + "\n".join([*lines, "missing,", "spaced, 7 "]) + "\n")
    problems = load_problems(tmp_path / "p.csv")
    assert {problem.question: problem.answer for problem in problems} == EXACT | {"spaced": "7"}


@pytest.mark.parametrize("layout", ["lines", "list", "indented", "one object"])
def test_numbers_in_json_are_kept_as_they_are_written(tmp_path, layout):
    numbers = {
        "big": "123456789012345678901234567890",
        "int": "7",
        "real": "0.10",
        "power": "1e400",
        "text": '"007"',
        "no": "null",
    }
    rows = [f'{{"problem": "{question}", "answer": {answer}}}' for question, answer in numbers.items()]
    path = tmp_path / f"p.{'jsonl' if layout == 'lines' else 'json'}"
    text = {
        "lines": "\n\n".join(rows) + "\n",
        "list": f"[{', '.join(rows)}]",
        "indented": "[\n  " + ",\n  ".join(rows) + "\n]\n",
        "one object": rows[0].replace(",", ",\n"),
    }
    path.write_text(text[layout])
    kept = {question: answer.strip('"') for question, answer in numbers.items() if answer != "null"}
    expected = {"big": kept["big"]} if layout == "one object" else kept
    assert {problem.question: problem.answer for problem in load_problems(path)} == expected


def test_numbers_in_parquet_are_kept(tmp_path):
    import pyarrow.parquet

    columns = {"problem": ["a", "b"], "answer": [Decimal("123456789012345678901234567890"), None]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "p.parquet")
    assert [problem.answer for problem in load_problems(tmp_path / "p.parquet")] == ["123456789012345678901234567890"]


def test_fields_within_columns_are_reached(tmp_path):
    """Laid out as problem sets for reinforcement learning are."""
    import pyarrow.parquet

    rows = [
        {
            "prompt": [{"role": "user", "content": f"{n} + 1?"}],
            "reward_model": {"style": "rule", "ground_truth": str(n + 1)},
            "extra_info": {"question": f"What is {n} + 1?"},
        }
        for n in range(3)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"prompt": rows[0]["prompt"], "reward_model": None}])))
    for source in (rows, tmp_path / "p.parquet", tmp_path / "p.jsonl"):
        problems = load_problems(source, answer_column="reward_model.ground_truth")
        assert [(problem.question, problem.answer) for problem in problems] == [(f"{n} + 1?", str(n + 1)) for n in range(3)]
    columns = {"question_column": "extra_info.question", "answer_column": "reward_model.ground_truth"}
    assert load_problems(tmp_path / "p.parquet", **columns)[0].question == "What is 0 + 1?"
    literal = [{"problem": "a", "reward_model.ground_truth": "7"}]
    assert load_problems(literal, answer_column="reward_model.ground_truth")[0].answer == "7"
    with pytest.raises(
        DataError, match=r"has no answer column named reward\.ground_truth; its columns are prompt, reward_model"
    ):
        load_problems(tmp_path / "p.parquet", answer_column="reward.ground_truth")
    with pytest.raises(DataError, match=r"prompt.truth cannot be read: there is \[.*where fields such as truth should be"):
        load_problems(tmp_path / "p.parquet", answer_column="prompt.truth")


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


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"problem": "a", "answer": "1"}\n{"problem": ', "line 2 is not JSON"),
        ('{"problem": "a", "answer": "1"}\n7\n', "line 2 holds something else than objects"),
        ('{"problem": "a"\n{"problem": "b"}\n', "cannot read problems from .*: Expecting"),
    ],
)
def test_damaged_json_is_told_by_its_line(tmp_path, content, message):
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        load_problems(tmp_path / "p.jsonl")


@pytest.mark.parametrize("name", ["mine.jsonl", "folder/mine.csv", "me/unknown", "me/unknown:part", Path("mine.parquet")])
def test_problems_of_ones_own_are_asked_for_a_box(name):
    assert usual_instruction(name) == ProblemOptions().instruction_for(str(name)) == BOXED
    assert ProblemOptions(instruction="").instruction_for(str(name)) == ""
    assert ProblemOptions(instruction="Think.").instruction_for(str(name)) == "Think."


def test_other_problems_are_asked_as_is_usual_for_them():
    assert usual_instruction("Idavidrein/gpqa") == LETTER
    for name in ("tiny-reasoner", "tiny-reasoner:chain,sum"):  # it was trained on them as they are
        assert usual_instruction(name) == ProblemOptions().instruction_for(name) == ""
    for given in (None, [{"problem": "q", "answer": "a"}], [Problem("p", "q", "a")]):
        assert usual_instruction(given) == ""


def test_a_limit_of_nothing_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        ProblemOptions(limit=0)


def test_missing_file_and_bad_split(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        load_problems(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="has the splits train, dev, test, not 'validation'"):
        load_problems("tiny-reasoner", split="validation")
    with pytest.raises(DataError, match="at least 1, not 0"):
        load_problems("tiny-reasoner", limit=0)


def kinds(rows, **options):
    return [problem.kind for problem in load_problems(rows, **options)]


def rows_with(**columns):
    return [
        {"problem": f"{n} + 1?", "answer": str(n + 1)} | {name: value(n) for name, value in columns.items()} for n in range(6)
    ]


@pytest.mark.parametrize("name", ["problem_type", "subject", "source", "kind", "category"])
def test_the_kind_is_read_from_its_usual_columns(tmp_path, name):
    rows = rows_with(**{name: lambda n: ("even", "odd")[n % 2]})
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert kinds(rows) == kinds(path) == ["even", "odd"] * 3


def test_the_first_column_that_sorts_the_problems_gives_the_kind():
    topics = {"source": lambda n: "book", "category": lambda n: "sums"}
    assert kinds(rows_with(**topics)) == ["book"] * 6
    assert kinds(rows_with(problem_type=lambda n: n, **topics)) == ["book"] * 6  # numbers are no names of kinds
    assert kinds(rows_with(problem_type=lambda n: None, **topics)) == ["book"] * 6
    assert kinds(rows_with(kind=lambda n: "sum" if n else None)) == [None] + ["sum"] * 5
    links = [{"problem": f"{n}?", "answer": "1", "source": f"https://host/{n}"} for n in range(101)]
    assert set(kinds(links)) == {None}
    assert set(kinds(links[:100])) == {f"https://host/{n}" for n in range(100)}
    assert kinds(rows_with()) == [None] * 6


def test_a_named_column_of_kinds_wins_and_must_be_there(tmp_path):
    rows = rows_with(kind=lambda n: "sum", level=lambda n: n % 2, info=lambda n: {"topic": "adding"})
    assert kinds(rows, kind_column="level") == ["0", "1"] * 3
    assert kinds(rows, kind_column="info.topic") == ["adding"] * 6
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert kinds(path, kind_column="level") == ["0", "1"] * 3
    assert [p.kind for p in ProblemOptions(kind_column="info.topic").load(str(path), evaluation=False, seed=0)] == [
        "adding"
    ] * 6
    with pytest.raises(DataError, match="no kind column named topic"):
        load_problems(path, kind_column="topic")
    with pytest.raises(DataError, match="the column info holds"):
        load_problems(rows, kind_column="info")


def test_kinds_of_parquet_are_read_though_other_columns_are_not(tmp_path):
    import pandas

    path = tmp_path / "problems.parquet"
    pandas.DataFrame(rows_with(category=lambda n: f"kind {n % 3}", trace=lambda n: "long")).to_parquet(path)
    assert kinds(path) == [f"kind {n % 3}" for n in range(6)]
