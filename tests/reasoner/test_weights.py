"""The shipped weights are what their card says: an evaluation of their own, not of a copy of the card's numbers."""

import json
import re

import pytest

from optimum_ssgr.config import SamplingConfig
from optimum_ssgr.evaluation.evaluate import evaluate
from optimum_ssgr.evaluation.metrics import summarize
from optimum_ssgr.problems.load import load_problems
from optimum_ssgr.reasoner import WEIGHTS


@pytest.fixture(scope="module")
def graded(reasoner):
    problems = load_problems("tiny-reasoner", split="test", limit=1000, seed=77)
    sampling = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=400)
    return evaluate(*reasoner, problems, sampling, batch_size=128)


@pytest.mark.slow
def test_the_weights_are_as_accurate_as_their_card_says(graded):
    card = (WEIGHTS / "README.md").read_text()
    claimed, claimed_error = (float(n) / 100 for n in re.search(r"Accuracy: ([\d.]+) % \+- ([\d.]+) %", card).groups())
    summary = summarize(graded)
    assert summary["accuracy"] >= 0.85
    assert abs(summary["accuracy"] - claimed) < 4 * (summary["accuracy_se"] ** 2 + claimed_error**2) ** 0.5
    assert summary["truncated"] < 0.02
    assert summary["missing_think_end"] < 0.02


@pytest.mark.slow
def test_accuracy_falls_from_easy_to_hard(graded):
    def accuracy(lowest, highest):
        chosen = [item for item in graded if lowest <= item.problem.difficulty <= highest]
        summary = summarize(chosen)
        return summary["accuracy"], summary["accuracy_se"]

    (easy, easy_error), (hard, hard_error) = accuracy(1, 3), accuracy(8, 10)
    assert easy - hard > 3 * (easy_error**2 + hard_error**2) ** 0.5


def test_weights_are_small_and_complete():
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 8_000_000
    assert {path.suffix for path in WEIGHTS.iterdir()} <= {".safetensors", ".json", ".jinja", ".md"}
    record = json.loads((WEIGHTS / "training.json").read_text())
    assert record["seconds"] <= 3600


def test_the_tokenizer_survives_a_round_trip(reasoner, tmp_path):
    from transformers import AutoTokenizer

    _, tokenizer = reasoner
    tokenizer.save_pretrained(tmp_path)
    text = "<think>\na times 3 on 7 is 1\nWait, 12 + 30 carry 1\n</think>\nThe answer is \\boxed{42}. Text, too.<|end|>"
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.decode(tokenizer(text).input_ids) == text
