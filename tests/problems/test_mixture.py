"""Several problem sets at once: how they are named, mixed, asked and recorded."""

import json

import pytest

from optimum_ssgr.errors import ConfigError
from optimum_ssgr.problems.mixture import (
    ProblemSet,
    instruction_of,
    is_mixture,
    kind_shares,
    kinds_of,
    load_mixture,
    read_problem_sets,
)
from optimum_ssgr.problems.options import ProblemOptions
from optimum_ssgr.problems.sources import BOXED
from optimum_ssgr.records import Problem
from optimum_ssgr.rollouts.prompts import encode_prompts


def test_options_stand_behind_the_name():
    text = "openai/gsm8k:main:share=.3,split=test,num_problems=7,question_column=q,kind_column=k,instruction=Think, then x=1."
    (gsm8k, families, generators) = read_problem_sets(
        [text, "tiny-reasoner:chain,sum", "reasoning-gym:chain_sum(min_terms=2,max_terms=4),gcd:instruction=''"],
        ProblemOptions(split="train", limit=9, answer_column="a"),
    )
    own = {"limit": 7, "question_column": "q", "answer_column": "a", "kind_column": "k"}
    reading = ProblemOptions(split="test", instruction="Think, then x=1.", **own)
    assert gsm8k == ProblemSet("openai/gsm8k:main", reading, 0.3)
    assert families == ProblemSet("tiny-reasoner:chain,sum", ProblemOptions(split="train", limit=9, answer_column="a"))
    assert generators.name == "reasoning-gym:chain_sum(min_terms=2,max_terms=4),gcd"
    assert (gsm8k.instruction, families.instruction, generators.instruction) == ("Think, then x=1.", "", "")
    assert kind_shares([gsm8k, families]) == (("gsm8k:main", 0.3),)


@pytest.mark.parametrize(
    ("names", "mistake"),
    [
        (["a:shre=.3", "b"], "unknown option shre of a; a problem set takes share, split, revision, num_problems"),
        (["a:share=half", "b"], "the option share of a must be a number, not 'half'"),
        (["a:num_problems=1.5", "b"], "the option num_problems of a must be a number"),
        (["a:num_problems=0", "b"], "the number of problems must be at least 1"),
        (["a:share=0", "b"], "the share of a must be above 0 and at most 1, not 0"),
        (["a:share=nan", "b"], "the share of a must be above 0"),
        (["a:share=.7", "b:share=.7", "c"], "the shares of the problem sets are 1.4 together, more than 1"),
        (["a:share=.3", "b:share=.3"], "are 0.6 together, not 1, and no other set takes the rest"),
        (["a:share=.5", "b:share=.5", "c"], "are 1 together, which leaves nothing for c"),
        (["a:share=.5"], "a share divides the tokens among several problem sets, and a is the only one"),
        (["a", "b", "a:split=test"], "the problem set a is named twice"),
    ],
)
def test_mistakes(names, mistake):
    with pytest.raises(ConfigError, match=mistake):
        read_problem_sets(names)


def test_kinds_are_the_ends_of_names_that_tell_sets_apart():
    names = ["openai/gsm8k", "folder/a.jsonl", "other/a.jsonl", "tiny-reasoner:sum", "reasoning-gym:gcd(max_value=4)"]
    assert list(kinds_of(read_problem_sets(names)).values()) == ["gsm8k", *names[1:]]
    assert read_problem_sets(["a:share=.1", "b:share=.2", "c:share=.7"])[2].share == 0.7  # sum to 1 but for rounding


@pytest.fixture
def files(tmp_path):
    """Two files of problems with kinds of their own, which share one question."""
    for name in ("sums", "products"):
        rows = [{"problem": f"{n} and 1 by {name}?", "answer": str(n), "kind": f"kind {n % 2}"} for n in range(5)]
        rows.append({"problem": "The same?", "answer": "yes", "kind": "other"})
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(tmp_path / f"{name}.jsonl") for name in ("sums", "products")]


def test_each_set_is_a_kind_with_its_own_instruction(files, reasoner):
    sums, products = files
    sets = read_problem_sets([sums, f"{products}:num_problems=2,instruction=Be brief.", "tiny-reasoner:num_problems=3"])
    mixed = load_mixture(sets)
    kinds = [problem.kind for problem in mixed]
    assert kinds.count("sums.jsonl") == 6 and kinds.count("tiny-reasoner") == 3 and kinds.count("products.jsonl") in (1, 2)
    assert len({problem.id for problem in mixed}) == len(mixed)
    expected = {"sums.jsonl": BOXED, "products.jsonl": "Be brief.", "tiny-reasoner": ""}
    assert all(problem.instruction == expected[problem.kind] for problem in mixed)
    prompts = encode_prompts(reasoner[1], mixed, "Not asked for.")
    for problem in mixed:
        asked = f"{problem.question}\n\n{problem.instruction}" if problem.instruction else problem.question
        plain = encode_prompts(reasoner[1], [Problem("p", asked, "")])
        assert prompts[problem.id] == plain["p"]


def test_a_single_set_keeps_its_kinds(files):
    sets = read_problem_sets(files[:1])
    assert {problem.kind for problem in load_mixture(sets)} == {"kind 0", "kind 1", "other"}
    assert {problem.instruction for problem in load_mixture(sets)} == {None}
    assert instruction_of(sets) == BOXED


def test_a_list_is_a_mixture_only_of_names():
    assert is_mixture(["a", ProblemSet("b")]) and not is_mixture("a") and not is_mixture([]) and not is_mixture(None)
    assert not is_mixture([Problem("p", "q", "a")]) and not is_mixture([{"problem": "q", "answer": "a"}])


def test_defaults_hold_for_sets_that_do_not_say_otherwise():
    given = [ProblemSet("a", ProblemOptions(split="dev"), 0.5), ProblemSet("b", ProblemOptions(instruction=""))]
    a, b = read_problem_sets(given, ProblemOptions(split="test", instruction="Go."))
    assert a == ProblemSet("a", ProblemOptions(split="dev", instruction="Go."), 0.5)
    assert b == ProblemSet("b", ProblemOptions(split="test", instruction=""))
