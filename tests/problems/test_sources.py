"""Known sources, read from local copies that are laid out as on the Hub."""

import json

import pytest

from optimum_ssgr.errors import DataError
from optimum_ssgr.problems.load import load_problems
from optimum_ssgr.problems.sources import SOURCES, find_source


GPQA = {
    "Question": "Which one is heaviest?",
    "Correct Answer": "lead",
    "Incorrect Answer 1": "iron",
    "Incorrect Answer 2": "tin ",
    "Incorrect Answer 3": "zinc",
}
MATH = {"problem": "Half of one?", "level": "Level 1", "type": "Algebra"}
ROWS = {
    "open-r1/OpenR1-Math-220k": (
        {"problem": "One half?", "solution": r"\boxed{1}", "answer": r"\frac{1}{2}", "generations": ["x"]},
        r"\frac{1}{2}",
    ),
    "openai/gsm8k": ({"question": "Two and two?", "answer": "It is <<2+2=4>>4.\n#### 1,004"}, "1,004"),
    "DigitalLearningGmbH/MATH-lighteval": (MATH | {"solution": r"Not \boxed{2} but \boxed{\frac{1}{2}}."}, r"\frac{1}{2}"),
    "agentica-org/DeepScaleR-Preview-Dataset": ({"problem": "One?", "solution": "", "answer": "1"}, "1"),
    "HuggingFaceH4/MATH-500": ({"problem": "One?", "solution": r"\boxed{2}", "answer": "1", "level": 1}, "1"),
    "HuggingFaceH4/aime_2024": ({"id": 1, "problem": "One?", "solution": "x", "answer": "033"}, "033"),
    "yentinglin/aime_2025": ({"problem": "One?", "answer": 70, "solution": "x"}, "70"),
    "Idavidrein/gpqa": (GPQA, None),
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder to work in, where `hub(id, files)` lays out a data set: configurations and splits of rows."""
    monkeypatch.chdir(tmp_path)

    def lay_out(name, files):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        card = ["---", "configs:"]
        for configuration, splits in files.items():
            card += [f"- config_name: {configuration}", "  data_files:"]
            for split, rows in splits.items():
                path = folder / f"{configuration}-{split}.jsonl"
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
                card += [f"  - split: {split}", f"    path: {path.name}"]
        (folder / "README.md").write_text("\n".join([*card, "---", ""]))

    return lay_out


def test_every_source_has_a_row_here():
    assert set(ROWS) == {source.id for source in SOURCES}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.id)
def test_a_known_source_needs_no_flags(hub, source):
    row, answer = ROWS[source.id]
    other = {key: f"other {value}" if isinstance(value, str) else value for key, value in row.items()}
    hub(source.id, {source.configuration or "default": {source.split: [row]}, "elsewhere": {source.split: [other]}})
    (problem,) = load_problems(source.id)
    assert problem.question.startswith(row[source.question])
    assert problem.answer_kind == ("choice" if source.wrong_options else "math")
    assert problem.answer == answer if answer else problem.answer in "ABCD"
    assert r"\boxed{}" in source.instruction


@pytest.mark.parametrize(
    ("name", "column", "kind"),
    [
        ("open-r1/OpenR1-Math-220k", "problem_type", "Number Theory"),
        ("DigitalLearningGmbH/MATH-lighteval", "type", "Algebra"),
        ("HuggingFaceH4/MATH-500", "subject", "Geometry"),
        ("Idavidrein/gpqa", "High-level domain", "Physics"),
    ],
)
def test_known_sources_name_their_kinds(hub, name, column, kind):
    source, row = find_source(name), ROWS[name][0]
    hub(source.id, {source.configuration or "default": {source.split: [row | {column: kind, "category": "other"}]}})
    assert load_problems(name)[0].kind == kind


def test_ids_are_known_in_any_case():
    assert find_source("OPENAI/gsm8K") == find_source("openai/gsm8k")
    assert find_source("openai/gsm8k").configuration == "main"
    assert find_source("openai/GSM8K:socratic").configuration == "socratic"
    assert find_source("nobody/gsm8k").configuration is None
    assert find_source("nobody/data:part").configuration == "part"


def test_the_split_is_the_one_meant(hub):
    rows = {"train": [{"question": "to train", "answer": "#### 1"}], "test": [{"question": "to test", "answer": "#### 2"}]}
    hub("openai/gsm8k", {"main": rows, "socratic": {"train": [{"question": "why", "answer": "#### 3"}]}})
    assert load_problems("openai/gsm8k")[0].question == "to train"
    assert load_problems("openai/gsm8k", evaluation=True)[0].question == "to test"
    assert load_problems("openai/gsm8k", evaluation=True, split="train")[0].question == "to train"
    assert load_problems("openai/gsm8k:socratic")[0].question == "why"


def test_named_columns_win(hub):
    hub("openai/gsm8k", {"main": {"train": [{"question": "q", "answer": "#### 1", "task": "t", "gold": "plain"}]}})
    (problem,) = load_problems("openai/gsm8k", question_column="task", answer_column="gold")
    assert (problem.question, problem.answer) == ("t", "plain")


def test_an_unknown_data_set_may_have_configurations(hub):
    hub("me/mine", {"a": {"train": [{"problem": "in a", "answer": "1"}]}, "b": {"train": [{"problem": "in b", "answer": "1"}]}})
    assert load_problems("me/mine:b")[0].question == "in b"
    with pytest.raises(DataError, match=r"several configurations; name one behind a colon. .*'a', 'b'"):
        load_problems("me/mine")


def test_a_changed_local_copy_is_read_again(hub, tmp_path):
    hub("me/mine", {"default": {"train": [{"problem": "before", "answer": "1"}]}})
    assert load_problems("me/mine")[0].question == "before"
    (tmp_path / "me" / "mine" / "default-train.jsonl").write_text('{"problem": "after", "answer": "1"}')
    assert load_problems("me/mine")[0].question == "after"


def test_a_part_of_a_split_and_a_split_that_is_not_there(hub):
    rows = [{"problem": f"{n}?", "answer": "007"} for n in range(4)]
    hub("me/mine", {"default": {"train": rows, "dev": rows[:1]}})
    assert [problem.question for problem in load_problems("me/mine", split="train[1:3]")] == ["1?", "2?"]
    with pytest.raises(DataError, match="'me/mine' has no split 'test'; it has train, dev"):
        load_problems("me/mine", evaluation=True, split="test")


def test_answers_of_a_data_set_are_texts_exactly(hub, tmp_path):
    hub("me/mine", {"default": {"train": []}})
    big = "123456789012345678901234567890"
    (tmp_path / "me" / "mine" / "default-train.jsonl").write_text(f'{{"problem": "a", "answer": {big}}}\n')
    assert load_problems("me/mine")[0].answer == big
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "train.csv").write_text("problem,answer\na,None\nb,007\n")
    assert [problem.answer for problem in load_problems("tables")] == ["None", "007"]


def test_a_solution_without_a_marked_answer_is_left_out(hub):
    rows = [MATH | {"solution": "It is plain to see."}, MATH | {"problem": "One?", "solution": r"$\boxed{1}$"}]
    hub("DigitalLearningGmbH/MATH-lighteval", {"default": {"train": rows}})
    assert [problem.answer for problem in load_problems("DigitalLearningGmbH/MATH-lighteval")] == ["1"]


def test_options_are_lettered_below_the_question_in_the_order_of_the_seed(hub):
    rows = [GPQA | {"Question": f"Question {n}?"} for n in range(40)]
    hub("Idavidrein/gpqa", {"gpqa_diamond": {"train": rows}})
    problems = load_problems("Idavidrein/gpqa")
    for problem in problems:
        lines = problem.question.splitlines()
        options = dict(line.split(") ") for line in lines[2:])
        assert lines[1] == ""
        assert list(options) == ["A", "B", "C", "D"]
        assert sorted(options.values()) == ["iron", "lead", "tin", "zinc"]
        assert options[problem.answer] == "lead"
    assert {problem.answer for problem in problems} == set("ABCD")
    assert problems == load_problems("Idavidrein/gpqa")
    assert set(load_problems("Idavidrein/gpqa", limit=7)) < set(problems)
    other = load_problems("Idavidrein/gpqa", seed=1)
    assert {problem.id for problem in problems} != {problem.id for problem in other}
    assert [problem.answer for problem in problems] != [problem.answer for problem in other]


def test_a_missing_option_column_is_named(hub):
    hub("Idavidrein/gpqa", {"gpqa_diamond": {"train": [{k: v for k, v in GPQA.items() if k != "Incorrect Answer 2"}]}})
    with pytest.raises(DataError, match="has no column Incorrect Answer 2; its columns are Question"):
        load_problems("Idavidrein/gpqa")
