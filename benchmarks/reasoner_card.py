"""Evaluate the embedded reasoner and write its card: `python benchmarks/reasoner_card.py`."""

import json
from collections.abc import Callable

from optimum_ssgr.checkpoints.load import load_model
from optimum_ssgr.config import SamplingConfig
from optimum_ssgr.evaluation.evaluate import evaluate
from optimum_ssgr.evaluation.intervals import format_share
from optimum_ssgr.evaluation.metrics import summarize
from optimum_ssgr.evaluation.perplexity import perplexity
from optimum_ssgr.problems.load import load_problems
from optimum_ssgr.reasoner import NAME, WEIGHTS
from optimum_ssgr.reasoner.tasks import FAMILIES
from optimum_ssgr.reasoner.train import text_windows
from optimum_ssgr.records import GradedRollout, Problem


LEVELS = {"1-3": (1, 3), "4-7": (4, 7), "8-10": (8, 10)}
GREEDY = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=400)
SAMPLED = SamplingConfig(temperature=0.8, top_p=1.0, max_new_tokens=400)


def accuracy(graded: list[GradedRollout], keep: Callable[[Problem], bool]) -> str:
    """Accuracy with its error on the problems that `keep` accepts."""
    found = summarize([item for item in graded if keep(item.problem)])
    return format_share(found["accuracy"], found["accuracy_se"], found["accuracy_ci95"])


def main() -> None:
    """Evaluate on 2,000 test problems, sample 8 responses to 500 others, and write the card."""
    model, tokenizer = load_model(NAME)
    record = json.loads((WEIGHTS / "training.json").read_text())
    graded = evaluate(model, tokenizer, load_problems(NAME, split="test", limit=2000), GREEDY, batch_size=128)
    total = summarize(graded)
    problems = load_problems(NAME, split="test", limit=500, seed=1)
    sampled = evaluate(model, tokenizer, problems, SAMPLED, samples=8, batch_size=128)
    solved: dict[str, int] = {}
    for item in sampled:
        solved[item.problem.id] = solved.get(item.problem.id, 0) + item.verdict.correct
    rows = "\n".join(
        f"| {family} | "
        + " | ".join(
            accuracy(graded, lambda p, f=family, b=bounds: p.source == f and b[0] <= p.difficulty <= b[1])
            for bounds in LEVELS.values()
        )
        + f" | {accuracy(graded, lambda p, f=family: p.source == f)} |"
        for family in FAMILIES
    )
    levels = " | ".join(accuracy(graded, lambda p, b=b: b[0] <= p.difficulty <= b[1]) for b in LEVELS.values())
    spread = " | ".join(str(sum(count == n for count in solved.values())) for n in range(9))
    text = perplexity(model, text_windows(tokenizer, "test"))
    card = f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [reasoning, test-model]
---

# tiny-reasoner

A llama of {record["parameters"]:,} parameters (4 layers, hidden size 192, 648 tokens) that solves graded problems step by step,
thinking aloud. It exists so that calibration, pruning and evaluation can be shown and tested for real, offline, in minutes.
It knows nothing about the world.

## Training

`{record["command"]}`: {record["steps"]:,} steps, {record["tokens"] / 1e6:.1f} million tokens,
{record["seconds"] / 60:.0f} minutes on {record["threads"]} processor cores (Python {record["versions"]["python"]},
torch {record["versions"]["torch"]}, transformers {record["versions"]["transformers"]}).

Seven tenths of the batches are endless problems of five families, difficulty 1 to 10, with written solutions; some steps
are checked again, and some go wrong at first and are put right ("Wait, ..."). The rest is general text: the documentation
strings and help topics of Python's standard library. A hash of their own text splits problems into train, dev and test,
and documents into train and test.

## Evaluation

Accuracy: {100 * total["accuracy"]:.1f} % +- {100 * total["accuracy_se"]:.1f} % (standard error), greedy decoding,
{total["problems"]:,} problems of the test split, {total["mean_tokens"]:.0f} tokens on average, {total["truncated"]:.2%}
truncated at 400 tokens. Perplexity on all held-out text: {text:.1f}.

| family | difficulty 1-3 | 4-7 | 8-10 | all |
|---|---|---|---|---|
{rows}
| all | {levels} | {accuracy(graded, lambda problem: True)} |

Of {len(problems)} other test problems, sampled 8 times each at temperature 0.8, so many are solved so many times:

| 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 |
|---|---|---|---|---|---|---|---|---|
| {spread} |

This card is written by `python benchmarks/reasoner_card.py`.
"""
    (WEIGHTS / "README.md").write_text(card)
    print(card)


if __name__ == "__main__":
    main()
