"""Known problem sets: where they are on the Hub and how their rows are read."""

from dataclasses import dataclass, replace

from ..reasoner import NAME as EMBEDDED


REASONING_GYM = "reasoning-gym"
BOXED = r"Please reason step by step, and put your final answer within \boxed{}."
LETTER = r"Please reason step by step, and put the letter of the right option within \boxed{}."


@dataclass(frozen=True)
class Source:
    r"""How to read the problems of a data set.

    Args:
        id: Data set id on the Hub; None for a file or rows.
        configuration: Configuration to read; None for the only one or the default one.
        split: Split to read.
        evaluation_split: Split that models are evaluated on; None when it is `split`.
        question: Column of the question; None for the usual names.
        answer: Column of the final answer; None for the usual names.
        solved: Whether the answer column holds worked solutions, with the final answer behind `####` or in a box.
        kind: Column of what sort of problem it is; None for the usual names.
        wrong_options: Columns of the wrong options of a multiple choice.
        answer_kind: `Problem.answer_kind` of its problems.
        instruction: What is usually appended to the question; of a data set that is not known, that for a boxed answer.
        licence: Licence that its card states; None when it states none.
        note: What a user should know.
    """

    id: str | None = None
    configuration: str | None = None
    split: str = "train"
    evaluation_split: str | None = None
    question: str | None = None
    answer: str | None = None
    kind: str | None = None
    solved: bool = False
    wrong_options: tuple[str, ...] = ()
    answer_kind: str = "math"
    instruction: str = BOXED
    licence: str | None = None
    note: str = ""


# Ids, configurations, splits and columns as in lighteval's tasks and on the cards; licences as the cards state them.
SOURCES = (
    Source(
        "open-r1/OpenR1-Math-220k",
        configuration="default",
        question="problem",
        answer="answer",
        kind="problem_type",
        instruction=BOXED,
        licence="apache-2.0",
        note="94k problems of NuminaMath 1.5 with traces of DeepSeek-R1; the configuration extended holds 131k easier ones",
    ),
    Source(
        "openai/gsm8k",
        configuration="main",
        evaluation_split="test",
        question="question",
        answer="answer",
        solved=True,
        instruction=BOXED,
        licence="mit",
        note="7,473 word problems to calibrate on, 1,319 to evaluate on",
    ),
    Source(
        "DigitalLearningGmbH/MATH-lighteval",
        configuration="default",
        evaluation_split="test",
        question="problem",
        answer="solution",
        kind="type",
        solved=True,
        instruction=BOXED,
        licence="mit",
        note="MATH: 7,500 competition problems to calibrate on, 5,000 to evaluate on",
    ),
    Source(
        "agentica-org/DeepScaleR-Preview-Dataset",
        question="problem",
        answer="answer",
        instruction=BOXED,
        licence="mit",
        note="40k competition problems",
    ),
    Source(
        "HuggingFaceH4/MATH-500",
        split="test",
        question="problem",
        answer="answer",
        kind="subject",
        instruction=BOXED,
        note="500 problems of MATH, for evaluation",
    ),
    Source(
        "HuggingFaceH4/aime_2024",
        question="problem",
        answer="answer",
        instruction=BOXED,
        note="AIME 2024, 30 problems, for evaluation",
    ),
    Source(
        "yentinglin/aime_2025",
        configuration="default",
        question="problem",
        answer="answer",
        instruction=BOXED,
        note="AIME 2025, 30 problems, for evaluation",
    ),
    Source(
        "Idavidrein/gpqa",
        configuration="gpqa_diamond",
        question="Question",
        answer="Correct Answer",
        kind="High-level domain",
        wrong_options=("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
        answer_kind="choice",
        instruction=LETTER,
        licence="cc-by-4.0",
        note="GPQA-Diamond, 198 multiple-choice questions, for evaluation; gated: accept its terms on the Hub and log in",
    ),
)


def is_endless(name: str) -> bool:
    """Tell whether problems are made as many as are asked for, with splits that share none, as the embedded reasoner's are."""
    return name.partition(":")[0] in (EMBEDDED, REASONING_GYM)


def find_source(name: str) -> Source:
    """Return how to read a data set on the Hub, known or not, or how to ask the problems of a file.

    Args:
        name: Its id, in upper or lower case if it is known, with the name of a configuration after a colon if another one
            than the known set's is wanted; or a path. The embedded reasoner's own problems take no instruction, since it was
            trained on them as they are.
    """
    id, _, configuration = name.partition(":")
    unknown = Source(id, instruction="" if id == EMBEDDED else BOXED)
    known = next((source for source in SOURCES if source.id.lower() == id.lower()), unknown)
    return replace(known, configuration=configuration or known.configuration)
