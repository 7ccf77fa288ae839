"""Problems of reasoning-gym, and whether answers to them are right, as its own scorers and a reader would say."""

import re
from importlib.metadata import version

import pytest

from optimum_ssgr.errors import ConfigError, DataError
from optimum_ssgr.problems import procedural
from optimum_ssgr.problems.load import load_problems
from optimum_ssgr.problems.options import ProblemOptions
from optimum_ssgr.problems.procedural import read_generators
from optimum_ssgr.verification.answer import find_answer
from optimum_ssgr.verification.compare import compare_quickly
from optimum_ssgr.verification.workers import compare_all


NUMBERS = ("gsm_symbolic", "simple_equations", "chain_sum", "leg_counting", "gcd", "letter_counting", "basic_arithmetic")
TEXTS = ("fraction_simplification", "time_intervals", "spell_backward", "word_sorting", "countdown", "binary_matrix")
EACH = 3


@pytest.fixture(scope="module")
def problems():
    return load_problems(f"reasoning-gym:{','.join(NUMBERS + TEXTS)}", limit=EACH * len(NUMBERS + TEXTS))


def judge(answers):
    """Verdicts on pairs of a response and a problem, on the way that verification takes."""
    found = [(find_answer(response, problem.answer_kind), problem.answer, problem.answer_kind) for response, problem in answers]
    quick = [compare_quickly(*triple) for triple in found]
    slow = compare_all([triple for triple, verdict in zip(found, quick, strict=True) if verdict is None], processes=1)
    return [next(slow) if verdict is None else verdict for verdict in quick]


@pytest.mark.slow
def test_generators_take_turns_and_name_the_kind(problems):
    assert [problem.kind for problem in problems] == [*NUMBERS, *TEXTS] * EACH
    assert len({problem.id for problem in problems}) == len(problems)
    for problem in problems:
        assert problem.source == f"reasoning-gym:{problem.kind}@{version('reasoning-gym')}"
        is_number = problem.kind in NUMBERS
        assert problem.answer_kind == "math" if is_number else problem.answer_kind.startswith(f"reasoning-gym:{problem.kind}@")
    sums = [problem for problem in problems if problem.kind == "chain_sum"]
    for problem in sums:
        assert int(problem.answer) == eval(re.search(r"[\d+\- ]+\d(?= =|$|\.)", problem.question)[0].split("\n")[-1])


@pytest.mark.slow
def test_the_official_answer_in_a_box_is_right_and_another_is_wrong(problems):
    others = {problem.kind: problem for problem in problems}
    cases = [(rf"So \boxed{{{problem.answer}}}.", problem, True) for problem in problems]
    for problem in problems:
        another = next(p for p in problems if p.kind == problem.kind and p.answer.casefold() != problem.answer.casefold())
        cases.append((rf"So \boxed{{{another.answer}}}.", problem, False))
        if problem.kind == "spell_backward":  # other scorers read what comes first
            cases.append((rf"So \boxed{{{problem.answer}, or 1}}.", problem, False))
    fraction, letters = others["fraction_simplification"], others["spell_backward"]
    numerator, denominator = map(int, re.findall(r"\d+", fraction.answer))
    cases += [
        (rf"\boxed{{\frac{{{numerator}}}{{{denominator}}}}}", fraction, True),
        (rf"\boxed{{\frac{{{2 * numerator}}}{{{2 * denominator}}}}}", fraction, False),  # equal, but not simplified
        (rf"\boxed{{\text{{{letters.answer}}}}}", letters, True),
        (rf"\boxed{{{letters.answer[::-1]}}}", letters, False),
        (rf"<answer>{letters.answer}</answer>", letters, True),
    ]
    verdicts = judge([(response, problem) for response, problem, _ in cases])
    mistaken = [(r, p.kind, v) for (r, p, right), v in zip(cases, verdicts, strict=True) if v is not right]
    assert mistaken == []


@pytest.mark.slow
def test_another_solution_is_right_and_one_that_does_things_is_not_run(problems, tmp_path):
    problem = next(problem for problem in problems if problem.kind == "countdown")
    matrix = next(problem for problem in problems if problem.kind == "binary_matrix")
    touched = tmp_path / "touched"
    hostile = f"open({str(touched)!r}, 'w')"
    integral = load_problems("reasoning-gym:simple_integration", limit=1)[0]
    cases = [
        (f"0 + {problem.answer}", problem, False),  # a number too many
        (f"({problem.answer})", problem, True),
        (hostile, problem, False),
        (f"sin({hostile!r})", problem, False),
        (f"({problem.answer}) if {hostile} else 0", problem, False),
        (f"[{hostile} for _ in [0]]", matrix, False),
        (f"().__class__.__base__.__subclasses__() or {hostile}", matrix, False),
        (integral.answer.replace("C", "C + 3"), integral, True),
        (integral.answer.replace("C", "C + X"), integral, False),
        (integral.answer.replace("C", f"sin({hostile!r})"), integral, False),
    ]
    triples = [(answer, problem.answer, problem.answer_kind) for answer, problem, _ in cases]
    assert list(compare_all(triples, processes=1)) == [right for *_, right in cases]
    assert not touched.exists()


def test_a_problem_that_cannot_be_made_again_gets_no_verdict():
    assert procedural.is_right("x", "y", "reasoning-gym:no_such_generator@0#0") is None


@pytest.mark.slow
def test_problems_hang_on_split_and_seed_alone(monkeypatch):
    name = "reasoning-gym:leg_counting,isomorphic_strings"  # the second goes through sets
    found = load_problems(name, limit=24)
    others = [load_problems(name, seed=1, limit=24), load_problems(name, evaluation=True, limit=24)]
    questions = [{problem.question for problem in of} for of in (found, *others)]
    assert [len(of) for of in questions] == [24] * 3
    assert not questions[0] & questions[1] and not questions[0] & questions[2]
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    assert ProblemOptions(split="train", limit=12).load_all(name, seed=0) == found[:12]


@pytest.mark.slow
def test_options_set_the_difficulty_and_few_questions_end_the_stream():
    name = "reasoning-gym:gcd(min_numbers=2,max_numbers=2,min_value=1,max_value=4)"
    name += ",chain_sum(min_terms=2,max_terms=2,min_digits=1,max_digits=1)"
    few, others = (load_problems(name, split=split, limit=500) for split in ("train", "dev"))
    assert not {problem.question for problem in few} & {problem.question for problem in others}
    for kind, most in (("gcd", 16), ("chain_sum", 200)):  # so many questions can be asked
        assert sum(problem.kind == kind for problem in few + others) <= most
    assert {problem.kind for problem in few} == {"gcd", "chain_sum"}
    assert all(len(re.findall(r"\d", problem.question)) == 2 for problem in few)


def test_names_of_generators():
    read = read_generators("gcd,chain_sum(min_terms=2, max_terms=4),word_sorting(transformations=['lowercase'])")
    assert [(generator.name, generator.options) for generator in read] == [
        ("gcd", {}),
        ("chain_sum", {"min_terms": 2, "max_terms": 4}),
        ("word_sorting", {"transformations": ["lowercase"]}),
    ]


@pytest.mark.parametrize(
    "names", ["", "gcd)", "gcd(2)", "gcd(seed=3)", "gcd(size=3)", "os.system('x')", "gcd(n=f(2))", "g c d"]
)
def test_what_is_no_list_of_generators(names):
    with pytest.raises(DataError, match=r"^name generators of reasoning-gym as in reasoning-gym:gcd,leg_counting or"):
        load_problems(f"reasoning-gym:{names}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "reason"),
    [("gdc", "there is no generator gdc; is it gcd"), ("gcd(min_value=0)", "gcd.min_value=0. is refused .min_value must be")],
)
def test_what_the_package_refuses_is_said(names, reason):
    with pytest.raises(DataError, match=f"^reasoning-gym cannot make problems of .*: {reason}"):
        load_problems(f"reasoning-gym:{names}")


def test_unknown_splits_and_a_missing_package(monkeypatch):
    with pytest.raises(DataError, match="has the splits train, dev, test, not 'validation'"):
        load_problems("reasoning-gym:gcd", split="validation")
    monkeypatch.setattr("optimum_ssgr.extras.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"need reasoning_gym; install it with `pip install 'optimum-ssgr\[problems\]'`\.$"):
        load_problems("reasoning-gym:gcd")
    with pytest.raises(ConfigError, match="need reasoning_gym"):
        list(compare_all([("a", "b", "reasoning-gym:spell_backward@0#0")]))


def test_they_have_a_split_for_evaluation_and_ask_for_a_box():
    assert ProblemOptions().evaluation_split("reasoning-gym:gcd") == "test"
    assert r"\boxed{}" in ProblemOptions().instruction_for("reasoning-gym:gcd")
