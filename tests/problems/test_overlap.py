import random
import string

from optimum_ssgr.problems.overlap import remove_overlap
from optimum_ssgr.records import Problem


LONG = "a train leaves the station at noon and drives east for three hours at sixty miles an hour"  # 18 words


def problems_of(*questions):
    return [Problem(str(number), question, "1") for number, question in enumerate(questions)]


def removed_by_definition(question, evaluation):
    """The rule word for word, one pair of questions at a time."""

    def words(text):
        kept = "".join(letter for letter in text.lower() if letter.isalnum() or letter.isspace())
        return kept.split()

    mine = words(question)
    if any(mine and mine == words(other.question) for other in evaluation):
        return "exact"
    for other in evaluation:
        theirs = words(other.question)
        for i in range(len(mine) - 12):
            for j in range(len(theirs) - 12):
                if mine[i : i + 13] == theirs[j : j + 13]:
                    return "ngram"
    return None


def test_the_rule_by_definition():
    rng = random.Random(0)
    letters = [*"abc", "A", "b,", "(c)", "-"]  # few words, so that 13 in a row are often shared
    passages = [[rng.choice(letters) for _ in range(40)] for _ in range(5)]

    def question():
        passage, start = rng.choice(passages), rng.randrange(20)
        shared = passage[start : start + rng.choice([0, 5, 12, 13, 14, 20])]
        around = [[rng.choice(letters) for _ in range(rng.randrange(6))] for _ in range(2)]
        return rng.choice([" ", "  ", "\n"]).join([*around[0], *shared, *around[1]])

    evaluation = problems_of(*(question() for _ in range(40)))
    problems = problems_of(*(question() for _ in range(400)), *(problem.question.upper() for problem in evaluation))
    verdicts = [removed_by_definition(problem.question, evaluation) for problem in problems]
    assert min(verdicts.count(verdict) for verdict in (None, "exact", "ngram")) >= 40
    kept, removed = remove_overlap(problems, evaluation)
    assert kept == [problem for problem, verdict in zip(problems, verdicts, strict=True) if verdict is None]
    assert removed == {"exact": verdicts.count("exact"), "ngram": verdicts.count("ngram")}


def test_thirteen_words_in_a_row_are_too_many():
    words = LONG.split()
    twelve, thirteen = (f"before {' '.join(words[2 : 2 + count])} after" for count in (12, 13))
    kept, removed = remove_overlap(problems_of(twelve, thirteen), problems_of(LONG))
    assert [problem.question for problem in kept] == [twelve]
    assert removed == {"exact": 0, "ngram": 1}


def test_case_space_and_punctuation_do_not_matter():
    written = ["  what IS\n 2x?", "What is “2x”…", "What is $2x$."]
    kept, removed = remove_overlap(problems_of(*written, "What is 3x?"), problems_of("What is 2x?"))
    assert [problem.question for problem in kept] == ["What is 3x?"]
    assert removed == {"exact": 3, "ngram": 0}


def test_short_questions_count_in_whole_only():
    kept, removed = remove_overlap(problems_of("What is 2x? Explain.", "What is 2x?"), problems_of("What is 2x?"))
    assert [problem.question for problem in kept] == ["What is 2x? Explain."]
    assert removed == {"exact": 1, "ngram": 0}


def test_questions_without_words_are_equal_to_nothing():
    problems = problems_of("?", string.punctuation)
    assert remove_overlap(problems, problems_of("!")) == (problems, {"exact": 0, "ngram": 0})
